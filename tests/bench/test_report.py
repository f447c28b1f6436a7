"""Tables and figures are drawn from rows."""

from dataclasses import replace

import pytest

from torchsru.bench import cases, command, report
from torchsru.bench.cases import BenchError
from torchsru.bench.figures import draw


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
    for L, B, d in cases.TABLE:
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
        assert widths == {len(report.columns(of_case[0].kind))}


@pytest.mark.parametrize(
    ("value", "text"),
    [(2.0, "2 s"), (0.0123, "12.3 ms"), (5.02e-6, "5.02 us"), (0.5, "500 ms"), (0.0, "0 us")],
)
def test_seconds(value, text):
    assert report.seconds(value) == text


def test_the_page_keeps_what_is_outside_the_markers(file, tmp_path):
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n")
    for _ in range(2):
        assert command.main(["report", str(file), "--page", str(page)]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "stale" not in text
    assert text.count("1024, 1, 512") == 1


def test_the_page_shows_the_figures(file, tmp_path):
    pytest.importorskip("matplotlib")
    page = tmp_path / "page.md"
    page.write_text(f"{report.BEGIN}{report.END}")
    arguments = ["--page", str(page), "--figures", str(tmp_path / "figures")]
    assert command.main(["report", str(file), *arguments]) == 0
    assert "![bench-overhead](figures/bench-overhead.png)" in page.read_text()
    assert (tmp_path / "figures" / "bench-overhead.png").exists()


def test_a_page_without_markers_is_refused(file, tmp_path, capsys):
    page = tmp_path / "page.md"
    page.write_text("nothing here\n")
    assert command.main(["report", str(file), "--page", str(page)]) == 2
    assert "page.md" in capsys.readouterr().err
    assert page.read_text() == "nothing here\n"


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_figures_are_drawn_and_repeatable(rows, tmp_path, suffix):
    pytest.importorskip("matplotlib")
    first = draw(rows, tmp_path / "a", [suffix])
    again = draw(rows, tmp_path / "b", [suffix])
    assert [p.name for p in first] == [f"bench-training.{suffix}", f"bench-overhead.{suffix}"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in again]
    assert all(p.stat().st_size > 5000 for p in first)


def test_labels_do_not_overlap(rows):
    pytest.importorskip("matplotlib")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from torchsru.bench import figures

    table = [row for row in rows if row.table_size in cases.TABLE]
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


def test_nothing_to_draw_is_said(rows, tmp_path):
    pytest.importorskip("matplotlib")
    with pytest.raises(BenchError, match="no inference or training"):
        draw([replace(rows[0], kind="call")], tmp_path, ["png"])


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
    other = tmp_path / "new.jsonl"
    other.write_text("".join(row.to_json() + "\n" for row in faster))
    assert command.main(["compare", str(file), str(other)]) == 0
    assert "0.500" in capsys.readouterr().out


def test_compare_names_another_machine(rows):
    other = replace(rows[0], machine={**rows[0].machine, "cpu": "Other CPU"})
    assert "machine differs: cpu Test CPU -> Other CPU" in report.differences(rows[0], other)


def test_runs_that_share_nothing_are_refused(rows):
    with pytest.raises(BenchError, match="share no case"):
        report.compare(rows, [replace(row, threads=7) for row in rows])
