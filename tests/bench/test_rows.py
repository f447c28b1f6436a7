"""A row holds all that a reader of it asks."""

import json

import pytest

from torchsru.bench import cases
from torchsru.bench.cases import BenchError
from torchsru.bench.rows import Row, read_rows

FIELDS = {
    "case", "kind", "variant", "shape", "dtype", "device", "threads", "median_s", "q1_s", "q3_s",
    "n", "over", "ratio", "ratio_q1", "ratio_q3", "noisy", "busy_cores", "target", "bound", "met",
    "machine", "versions", "commit", "dirty", "date",
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
