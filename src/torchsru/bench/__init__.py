"""`torchsru bench`: named cases, checked before they are timed, and rows of data.

cases.py     what is measured, and the targets
variants.py  what a case puts beside each other
check.py     correctness, before any clock starts
measure.py   interleaved samples, medians, paired ratios
process.py   what needs fresh processes: peak memory, import time, instruction sets
networks.py  the layers and steps that are timed
command.py   the command's options
rows.py      a JSON object per line
report.py    tables; figures.py draws

Needs torch alone; tables are nicer with rich, and figures want matplotlib (torchsru[bench]).
"""

from torchsru.bench.command import main

__all__ = ["main"]
