"""Modules that own parameters; all are called as `out, state = rnn(x, state)`."""

from torchsru.nn.kernel_nn import KernelNN
from torchsru.nn.min_gru import MinGRU
from torchsru.nn.qrnn import QRNN
from torchsru.nn.recurrent import Recurrent
from torchsru.nn.sru import SRU, SRUCell
from torchsru.nn.ssru import SSRU

__all__ = ["QRNN", "SRU", "SSRU", "KernelNN", "MinGRU", "Recurrent", "SRUCell"]
