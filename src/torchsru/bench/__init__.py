"""`torchsru bench`: named cases, checked before they are timed, and rows of data.

suites.py    what is measured on a CPU and on a GPU, and the targets; cases.py: what a case is
variants.py  what a case puts beside each other; networks.py: layers, peers.py: other packages
check.py     correctness, before any clock starts
clock.py     a CPU's clock, a GPU's events, CUDA graphs
measure.py   interleaved samples, medians, paired ratios
floor.py     what no implementation can go below on this machine
worker.py    a case in a process of its own, within its limit
process.py   what needs more processes: peak memory, import time, instruction sets
command.py   the command's options
rows.py      a JSON object per line; history.py: those of an earlier run
report.py    tables; figures.py draws, page.py writes docs/performance.md

Needs torch alone; tables are nicer with rich, and figures want matplotlib (torchsru[bench]).
"""

from torchsru.bench.command import main

__all__ = ["main"]
