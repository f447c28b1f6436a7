"""The PyPI package `sru` 2.6.0, by its names: `import torchsru.compat as sru`.

`SRU` and `SRUCell` have its constructors, return values and state dicts, and read the state dicts
of every version from 2.0 to 3.0-dev. `to_torchsru()` and `convert` lead on to `torchsru.SRU`.
"""

from torchsru.compat.convert import convert, from_state_dict, load
from torchsru.compat.sru import SRU, SRUCell

__all__ = ["SRU", "SRUCell", "convert", "from_state_dict", "load"]
