"""Write checkpoints.pt: what versions of `sru` saved, and what they computed from it.

    python make_checkpoints.py FOLDER ...

Each FOLDER is an unpacked release from PyPI (`pip download --no-deps sru==2.1.7`), with the name
sru-VERSION. A process per release: all of them are called `sru`.
"""

import subprocess
import sys
import warnings
from pathlib import Path

import torch

FILE = Path(__file__).with_name("checkpoints.pt")
SIZES = {"input_size": 4, "hidden_size": 3, "num_layers": 2}
CASES = {  # version: arguments of sru.SRU, besides the sizes
    "2.0.0": [{}, {"bidirectional": True, "n_proj": 2, "use_tanh": True, "highway_bias": -1}],
    "2.1.7": [
        {"layer_norm": True, "rescale": True},
        {"weight_norm": True, "rescale": True, "bidirectional": True, "input_size": 6},
        {"bidirectional": True, "n_proj": 3, "input_size": 6},
        {"v1": True, "use_tanh": True, "has_skip_term": False},
    ],
    "2.1.9": [{"layer_norm": True}, {"projection_size": 2, "rescale": True}],
    "2.5.1": [{"proj_input_to_hidden_first": True, "bidirectional": True, "rescale": True}],
    "3.0.0.dev6": [
        {"bidirectional": True},
        {"projection_size": 2, "layer_norm": True, "normalize_after": True},
        {"projection_size": [5, 2], "input_size": 3, "layer_norm": True, "rescale": True},
    ],
}


def run(version: str) -> list[dict]:
    """The cases of the release on sys.path: arguments, state dict, input, outputs."""
    import sru

    made = []
    for seed, options in enumerate(CASES[version]):
        arguments = SIZES | options
        torch.manual_seed(seed)
        rnn = sru.SRU(**arguments)
        for name, p in rnn.named_parameters():
            if p.requires_grad and ("bias" in name or "ln_lst" in name or "gain" in name):
                torch.nn.init.normal_(p, 1, 0.5)
        D = arguments["hidden_size"] * (2 if options.get("bidirectional") else 1)
        x, c0 = torch.randn(5, 2, arguments["input_size"]), torch.randn(2, 2, D)
        h, c = rnn.eval()(x, c0)  # with gradients: the path in plain Python
        tensors = {"x": x, "c0": c0, "h": h.detach(), "c": c.detach()}
        state = {name: t.detach().clone() for name, t in rnn.state_dict().items()}
        made.append({"arguments": arguments, "state_dict": state, **tensors})
    return made


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        warnings.simplefilter("ignore")
        _, _, folder, out = sys.argv
        sys.path.insert(0, folder)
        torch.save(run(Path(folder).name.removeprefix("sru-")), out)
    else:
        found = torch.load(FILE, weights_only=True) if FILE.exists() else {}
        for folder in sys.argv[1:]:
            out = FILE.with_suffix(".one")
            subprocess.run([sys.executable, __file__, "--one", folder, str(out)], check=True)
            found[Path(folder).name.removeprefix("sru-")] = torch.load(out, weights_only=True)
            out.unlink()
        torch.save(found, FILE)
