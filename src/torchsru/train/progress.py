"""The live line of a run: step, bytes a second, bits per byte, time left."""

from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

SMOOTH = 0.98  # weight of the past in the numbers shown; the log holds them as they are


class Live:
    """A progress line on a terminal; elsewhere a plain line at each evaluation; or, quiet, none."""

    def __init__(
        self, title: str, unit: str, console: Console | None = None, *, quiet: bool = False
    ):
        self.unit = unit
        self.console = console or Console(stderr=True, quiet=quiet)
        self._shown: dict[str, float] = {}
        self._progress = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[line]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=quiet or not self.console.is_terminal,
            refresh_per_second=4,
        )
        self._bar = self._progress.add_task(title, total=1.0, line="starting")
        self._title = title

    def update(
        self, step: int, used: float, seconds_left: float, rate: float, numbers: Mapping[str, float]
    ) -> None:
        """Show the state after a step; rate in units a second, numbers are smoothed."""
        for name, value in {"rate": rate, **numbers}.items():
            weight = min(SMOOTH, 1 - 1 / (step + 1))
            self._shown[name] = weight * self._shown.get(name, value) + (1 - weight) * value
        self._progress.update(
            self._bar, completed=used, line=self._line(step, seconds_left, self._shown)
        )

    def evaluated(self, step: int, seconds: float, numbers: Mapping[str, float]) -> None:
        """Print the result of an evaluation, above the live line where there is one."""
        found = ", ".join(f"{_words(name)} {value:.3f}" for name, value in numbers.items())
        self.console.print(
            f"{self._title}: step {step:,}, {seconds:.0f} s of training: held-out {found}",
            highlight=False,
            markup=False,
            soft_wrap=not self.console.is_terminal,  # a line of a file stays one
        )

    def _line(self, step: int, seconds_left: float, shown: Mapping[str, float]) -> str:
        minutes, seconds = divmod(round(seconds_left), 60)
        numbers = "  ".join(f"{v:.3f} {_words(k)}" for k, v in shown.items() if k != "rate")
        return (
            f"step {step:,}  {shown['rate']:,.0f} {self.unit}s/s  {numbers}  "
            f"{minutes}:{seconds:02d} left"
        )

    def __enter__(self) -> "Live":
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _words(name: str) -> str:
    return name.replace("_", " ")
