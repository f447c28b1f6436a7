"""Modules that own parameters; all are called as `out, state = rnn(x, state)`."""

from torchsru.nn.gated import GRU, LSTM
from torchsru.nn.kernel_nn import KernelNN
from torchsru.nn.min_gru import MinGRU
from torchsru.nn.qrnn import QRNN
from torchsru.nn.recurrent import Recurrent
from torchsru.nn.sru import SRU, SRUCell
from torchsru.nn.srupp import SRUpp, SRUppCell
from torchsru.nn.ssru import SSRU
from torchsru.nn.transformer_xl import TransformerXL

#: The stacks by name, as models take them: `RNNS[name](input_size, hidden_size, num_layers, ...)`.
RNNS: dict[str, type[Recurrent]] = {
    "sru": SRU,
    "lstm": LSTM,
    "gru": GRU,
    "qrnn": QRNN,
    "ssru": SSRU,
    "mingru": MinGRU,
    "kernelnn": KernelNN,
}

__all__ = [
    "GRU",
    "LSTM",
    "QRNN",
    "RNNS",
    "SRU",
    "SSRU",
    "KernelNN",
    "MinGRU",
    "Recurrent",
    "SRUCell",
    "SRUpp",
    "SRUppCell",
    "TransformerXL",
]
