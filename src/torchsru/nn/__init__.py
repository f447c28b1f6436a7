"""Modules that own parameters."""

from torchsru.nn.sru import SRU, SRUCell

__all__ = ["SRU", "SRUCell"]
