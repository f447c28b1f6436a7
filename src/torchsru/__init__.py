"""Simple Recurrent Units for PyTorch: fast recurrent layers on any CPU."""

from torchsru.nn import SRU, SRUCell, SRUpp, SRUppCell

__all__ = ["SRU", "SRUCell", "SRUpp", "SRUppCell", "__version__"]


def __getattr__(name: str) -> str:
    if name == "__version__":  # looked up only when asked for: importlib.metadata costs time
        from torchsru._version import version

        return version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
