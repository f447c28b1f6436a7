"""Tables and figures are drawn from rows."""

from dataclasses import replace

import pytest

from torchsru.bench import command, report
from torchsru.bench.cases import BenchError
from torchsru.bench.figures import draw
from torchsru.bench.suites import TABLE


@pytest.fixture
def file(rows, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(row.to_json() + "\n" for row in rows))
    return path


def test_a_miss_is_shown_as_a_miss(rows):
    text = report.markdown(rows)
    assert "**1.33** (<= 1.2)" in text  # three GEMMs at d = 256
    assert "1.33 (<= 1.5)" in text
    assert "MISSED" in text
    missed = "missed: training: L=32 B=32 d=128: nn.GRU over SRU 3.75, >= 4"
    assert f"{missed} (over the three GEMMs alone 5.00)" in text


def test_the_overview_has_a_line_per_shape(rows):
    text = report.markdown(rows)
    for L, B, d in TABLE:
        assert text.count(f"| {L}, {B}, {d} |") == 1


def test_noise_is_visible(rows):
    noisy = [replace(row, noisy=True) for row in rows]
    assert "~1.33" in report.markdown(noisy)
    assert any("noisy" in cell for line in report.cells(noisy) for cell in line)
    assert "~" not in report.markdown(rows).split("###")[0].replace("`~`", "")


def test_tables_are_rectangles(rows):
    for name in {row.case for row in rows}:
        of_case = [row for row in rows if row.case == name]
        widths = {len(line) for line in report.cells(of_case)}
        assert widths == {len(report.columns(of_case))}


def test_floors_and_rates_have_their_place(rows):
    some = [replace(row, floor_s=row.median / 2) for row in rows if row.case == rows[0].case]
    assert report.columns(some)[-1] == "times its floor"
    assert report.cells(some)[0][-1] == "2.00"
    assert "times its floor" not in report.columns([replace(r, floor_s=None) for r in some])
    assert report.amount(4.3e12, "bytes_per_s") == "4.3 TB/s"
    assert report.amount(2.1e10, "operations_per_s") == "21 GFLOP/s"


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.0, "2 s"), (0.0123, "12.3 ms"), (5.02e-6, "5.02 us"), (0.5, "500 ms"), (0.0, "0 us")],
)
def test_seconds(value, text):
    assert report.seconds(value) == text


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_figures_are_drawn_and_repeatable(rows, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    first = draw(rows, tmp_path / "a", [suffix], "cpu")
    again = draw(rows, tmp_path / "b", [suffix], "cpu")
    assert [p.name for p in first] == [
        f"bench-cpu-{name}.{suffix}" for name in ("training", "overhead")
    ]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert all(p.stat().st_size > 5000 for p in first)


def test_labels_do_not_overlap(rows):
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from torchsru.bench import figures

    table = [row for row in rows if row.table_size in TABLE]
    for figure in (figures._training(table, Figure), figures._overhead(table, Figure)):
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        boxes = [
            text.get_window_extent(canvas.get_renderer())
            for axis in figure.axes
            for text in [*axis.texts, *axis.get_xticklabels(), *axis.get_yticklabels(), axis.title]
            if text.get_text()
        ]
        assert len(boxes) > 20
        overlaps = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
        assert overlaps == []


def test_nothing_to_draw_is_said(rows, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    file = tmp_path / "rows.jsonl"
    file.write_text(replace(rows[0], kind="call").to_json() + "\n")
    assert command.main(["report", str(file), "--figures", str(tmp_path)]) == 2
    assert "no inference, training or length" in capsys.readouterr().err


def test_figures_of_two_files_of_one_name_are_refused(rows, file, tmp_path, capsys):
    pytest.importorskip("matplotlib")
    other = tmp_path / "other" / file.name
    other.parent.mkdir()
    other.write_text(rows[0].to_json() + "\n")
    figures = tmp_path / "figures"
    assert command.main(["report", str(file), str(other), "--figures", str(figures)]) == 2
    assert "share a name" in capsys.readouterr().err
    assert not figures.exists()


def test_compare(rows, file, tmp_path, capsys):
    faster = [
        replace(
            row,
            ratio=row.ratio and row.ratio / 2,
            ratio_q1=row.ratio_q1 and row.ratio_q1 / 2,
            ratio_q3=row.ratio_q3 and row.ratio_q3 / 2,
            commit="f" * 40,
        )
        for row in rows
    ]
    lines = report.compare(rows, faster)
    verdicts = {(line[2] != "", line[-1]) for line in lines}
    assert verdicts == {(True, "lower"), (False, "same")}
    lower = sum(row.over is not None for row in rows)
    assert report.verdicts(lines) == f"{lower} lower, {len(rows) - lower} same"
    other = tmp_path / "new.jsonl"
    other.write_text("".join(row.to_json() + "\n" for row in faster))
    assert command.main(["compare", str(file), str(other)]) == 0
    assert "0.500" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("factor", "spread", "verdict"),
    [(1.5, 0.01, "higher"), (0.7, 0.01, "lower"), (1.5, 0.3, "same"), (1.01, 0.01, "same")],
)
def test_a_change_counts_where_it_is_larger_than_the_noise(rows, factor, spread, verdict):
    def row(median, noisy=False):
        low, high = median * (1 - spread), median * (1 + spread)
        return replace(rows[0], over=None, ratio=None, median=median, q1=low, q3=high, noisy=noisy)

    old, new = row(1.0), row(factor)
    ((*_, change, between, found),) = report.compare([old], [new])
    assert (change, found) == (f"{factor:.3f}", verdict)
    low, high = map(float, between.split(" - "))
    assert low < factor < high
    ((*_, found),) = report.compare([replace(old, noisy=True)], [new])
    assert found == f"{verdict}, noisy"


def test_compare_names_another_machine(rows):
    other = replace(rows[0], machine={**rows[0].machine, "cpu": "Other CPU"})
    assert "machine differs: cpu Test CPU -> Other CPU" in report.differences(rows[0], other)


def test_a_gpus_heading_names_it_and_says_whether_tiles_were_tuned(rows):
    about = report.about(rows[0])
    machine = {**about["machine"], "gpu": "Test GPU", "gpu_memory_gib": 1.0}
    text = report.heading({**about, "device": "cuda", "machine": machine})
    assert text.startswith("Test GPU, 1.0 GiB; on Test CPU\n")
    assert "MKL" not in text
    tuned = report.heading({**about, "device": "cuda", "machine": {**machine, "tuned": True}})
    assert "tiles tuned" in tuned


def test_runs_that_share_nothing_are_refused(rows):
    with pytest.raises(BenchError, match="share no case"):
        report.compare(rows, [replace(row, threads=7) for row in rows])
