"""A row holds all that a reader of it asks."""

import json

import pytest
from tests.bench.conftest import ABOUT

from torchsru.bench import cases
from torchsru.bench.cases import BenchError, Case
from torchsru.bench.measure import Variant
from torchsru.bench.rows import Row, make_rows, read_rows

FIELDS = {
    "case", "kind", "variant", "shape", "dtype", "device", "threads", "median_s", "q1_s", "q3_s",
    "n", "over", "ratio", "ratio_q1", "ratio_q3", "noisy", "busy_cores", "target", "bound", "met",
    "machine", "versions", "commit", "dirty", "date", "mode", "tf32", "floor_s",
}  # fmt: skip


def find(rows, case, variant, over):
    return next(r for r in rows if (r.case, r.variant, r.over) == (case, variant, over))


def test_every_field_is_written(rows):
    written = json.loads(rows[0].to_json())
    assert set(written) == FIELDS
    assert written["shape"] == {
        "L": 32, "B": 32, "d": 128, "input_size": 128, "layers": 1, "bidirectional": False,
    }  # fmt: skip


def test_a_row_survives_writing_and_reading(rows, tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text("".join(row.to_json() + "\n" for row in rows))
    assert read_rows(file) == rows


def test_rows_of_older_files_are_read(rows):
    old = json.loads(rows[0].to_json())
    for name in ("mode", "tf32", "floor_s"):
        del old[name]
    assert Row.from_json(json.dumps(old)) == rows[0]


def test_a_ratio_to_the_floor():
    target = cases.at_most(1.25, "a", cases.FLOOR)
    case = Case(kind="recurrence", targets=(target,), graph=True, tf32=True)
    variants = [
        Variant("a", lambda: 0.0, (cases.FLOOR,), floor_s=0.5),
        Variant("b", lambda: 0.0, unit="bytes_per_s"),
    ]
    a, b = make_rows(case, variants, {"a": [0.6, 0.6], "b": [1.0, 1.0]}, ABOUT, 0.0)
    assert (a.over, a.ratio, a.met, a.floor_s) == ("floor", 1.2, True, 0.5)
    assert (a.mode, a.tf32) == ("graph", True)
    assert '"median_bytes_per_s": 1.0' in b.to_json()
    assert Row.from_json(b.to_json()) == b


def test_other_processes_disturb_a_cpu_and_eager_calls(rows):
    def noisy(device, graph):
        about = {**ABOUT, "device": device}
        case = Case(kind="call", graph=graph)
        (row,) = make_rows(case, [Variant("a", lambda: 0.0)], {"a": [1.0]}, about, 1.5)
        return row.noisy

    assert noisy("cpu", False) and noisy("cuda", False)
    assert not noisy("cuda", True)


def test_ratios_and_targets(rows):
    case = "training: L=32 B=32 d=128"
    over_gemms = find(rows, case, cases.SRU, cases.GEMMS)
    assert over_gemms.ratio == pytest.approx(40 / 30)
    assert (over_gemms.bound, over_gemms.target, over_gemms.met) == ("at most", 1.5, True)
    lstm = find(rows, case, cases.LSTM, cases.SRU)
    assert lstm.ratio == pytest.approx(2.5)
    assert lstm.median == pytest.approx(0.1)
    gru = find(rows, case, cases.GRU, cases.SRU)
    assert (gru.bound, gru.target, gru.met) == ("at least", 4, False)
    assert find(rows, case, cases.CONV, cases.SRU).met is None


def test_a_variant_has_a_row_for_each_comparison(rows):
    of_case = [r for r in rows if r.case == "inference: L=32 B=32 d=128"]
    assert [(r.variant, r.over) for r in of_case] == [
        (cases.GEMM_REUSED, None),
        (cases.GEMM_FRESH, None),
        (cases.SRU, cases.GEMM_REUSED),
        (cases.SRU, cases.GEMM_FRESH),
    ]


@pytest.mark.parametrize(
    ("line", "message"),
    [("{", "line 2 is not a row"), ("[]", "not a JSON object"), ("{}", "median_s")],
)
def test_a_bad_line_is_named(rows, tmp_path, line, message):
    file = tmp_path / "rows.jsonl"
    file.write_text(rows[0].to_json() + "\n" + line + "\n")
    with pytest.raises(BenchError, match=message):
        read_rows(file)


def test_missing_and_unknown_fields_are_named(rows):
    row = json.loads(rows[0].to_json())
    row["colour"] = row.pop("commit")
    with pytest.raises(ValueError, match="commit"):
        Row.from_json(json.dumps(row))
    row["commit"] = None
    with pytest.raises(ValueError, match="colour"):
        Row.from_json(json.dumps(row))


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(BenchError, match=r"nowhere\.jsonl cannot be read"):
        read_rows(tmp_path / "nowhere.jsonl")
