import gc
import json
import math
import shutil
import signal
from dataclasses import asdict, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from tests.autocast import skip_unless_it_runs

from torchsru.data import DataError, TextData, byte_corpus
from torchsru.models import LanguageModel, LanguageModelConfig
from torchsru.train import RunError, Training
from torchsru.train import loop as module
from torchsru.train.checkpoint import checkpoints, load_checkpoint, load_weights
from torchsru.train.language_model import LanguageModelling
from torchsru.train.log import read_log
from torchsru.train.loop import Interrupted, NotFinite, Position, fit, read_position
from torchsru.train.optimizer import parameter_groups

DATA = TextData(unroll=8, batch=4, eval_tokens=256, eval_batch=2)
TEXT = torch.frombuffer(
    bytearray(b"to be or not to be, that is the question: " * 30), dtype=torch.uint8
)
TRAINING = Training(steps=12, lr=1e-2, evaluations=2, checkpoints=2, log_every=5, device="cpu")
MODELS = {
    "sru": LanguageModelConfig(rnn="sru", width=16, layers=2, dropout=0.1, state_dropout=0.1),
    "lstm": LanguageModelConfig(rnn="lstm", width=16, layers=2, dropout=0.1),
    "undropped": LanguageModelConfig(rnn="sru", width=16, layers=2),
}
ABOUT = {"name": "test"}
TIMES = {"seconds", "eval_seconds", "bytes_per_second"}


class Stopping(LanguageModelling):
    """Asks to stop, as Ctrl-C does, while a given step or evaluation (1, 2, ...) runs."""

    stop_at = -1
    stop_in = -1
    evaluations = 0

    def batch(self, step):
        if step == self.stop_at:
            signal.raise_signal(signal.SIGINT)
        return super().batch(step)

    def evaluate(self, model):
        self.evaluations, self.segments = self.evaluations + 1, 0

        def count(*_):
            self.segments += 1
            if (self.evaluations, self.segments) == (self.stop_in, 3):
                signal.raise_signal(signal.SIGINT)

        hook = model.register_forward_hook(count)
        try:
            return super().evaluate(model)
        finally:
            hook.remove()


def make_task(data=DATA, seed=0, text=TEXT, kind=Stopping):
    content = text.numpy().tobytes()
    return kind(byte_corpus(content, content[:600]), data, seed)


def go(folder, training=TRAINING, model="sru", task=None, resume=False):
    make_model = partial(LanguageModel, MODELS[model])
    return fit(folder, task or make_task(), make_model, training, about=ABOUT, resume=resume)


def files_of(folder):
    saved = load_checkpoint(folder / "checkpoints")
    facts = {**saved.facts, "position": {**saved.facts["position"]}}
    for time in ("seconds", "row_seconds"):
        facts["position"].pop(time)
    rows = [{k: v for k, v in row.items() if k not in TIMES} for row in read_log(folder)]
    return saved.model, saved.optimizer, saved.state, saved.random, facts, rows


@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("model", ["sru", "lstm"])
@pytest.mark.parametrize("stop_at", [0, 4, 5, 6, 10])
def test_stopped_and_resumed_ends_bit_for_bit_as_uninterrupted(tmp_path, model, precision, stop_at):
    if model == "lstm" and precision != "float32":
        skip_unless_it_runs(torch.nn.LSTM, getattr(torch, precision))
    training = replace(TRAINING, precision=precision)
    go(tmp_path / "whole", training, model)
    task = make_task()
    task.stop_at = stop_at
    with pytest.raises(Interrupted, match=f"stopped at step {stop_at + 1} and saved"):
        go(tmp_path / "parts", training, model, task)
    result = go(tmp_path / "parts", training, model, resume=True)
    assert result["steps"] == 12
    whole, parts = files_of(tmp_path / "whole"), files_of(tmp_path / "parts")
    torch.testing.assert_close(parts[:4], whole[:4], rtol=0, atol=0)
    assert parts[4:] == whole[4:]


@pytest.mark.parametrize("stop_at", [4, 7, 8])  # step 9 would be saved in any case
def test_a_mean_of_weights_does_not_depend_on_where_the_run_was_stopped(tmp_path, stop_at):
    training = replace(TRAINING, checkpoints=4, average=3, precision="float32")
    expected = go(tmp_path / "whole", training)
    task = make_task()
    task.stop_at = stop_at
    with pytest.raises(Interrupted):
        go(tmp_path / "parts", training, task=task)
    result = go(tmp_path / "parts", training, resume=True)
    names = ["step-000000006", "step-000000009", "step-000000012"]
    assert kept(tmp_path / "whole") == kept(tmp_path / "parts") == names
    found = []
    for name in ("whole", "parts"):
        model = LanguageModel(MODELS["sru"])
        load_weights(tmp_path / name / "checkpoints", model, 3)
        found.append(model)
    torch.testing.assert_close(found[1].state_dict(), found[0].state_dict(), rtol=0, atol=0)
    of_mean = make_task().evaluate(found[0].eval())
    assert {name: result[name] for name in of_mean} == of_mean
    assert {name: expected[name] for name in of_mean} == of_mean
    last = read_log(tmp_path / "whole")[-1]
    assert last["bits_per_byte"] != of_mean["bits_per_byte"]  # of the last weights


def test_judging_a_mean_is_left_at_once_and_done_when_the_run_goes_on(tmp_path):
    data, training = replace(DATA, eval_unroll=16), replace(TRAINING, average=2)
    expected = go(tmp_path / "whole", training, task=make_task(data))
    task = make_task(data)
    task.stop_in = 3  # after two of the log
    with pytest.raises(Interrupted, match="stopped at step 12 and saved"):
        go(tmp_path / "parts", training, task=task)
    result = go(tmp_path / "parts", training, task=make_task(data), resume=True)
    assert result["bits_per_byte"] == expected["bits_per_byte"]
    whole, parts = files_of(tmp_path / "whole"), files_of(tmp_path / "parts")
    torch.testing.assert_close(parts[:4], whole[:4], rtol=0, atol=0)
    assert parts[5] == whole[5]


@pytest.mark.parametrize("step", [6, 12])
def test_an_evaluation_is_left_at_once_and_done_when_the_run_goes_on(tmp_path, step):
    data, training = replace(DATA, eval_unroll=16), replace(TRAINING, keep="best")
    go(tmp_path / "whole", training, task=make_task(data))  # eight segments an evaluation
    folder = tmp_path / "parts"
    for resume in (False, True):
        task = make_task(data)
        task.stop_in = 1 if resume else step // 6
        told = f"^stopped at step {step} and saved; step-{step:09d} is the newest checkpoint$"
        with pytest.raises(Interrupted, match=told):
            go(folder, training, task=task, resume=resume)
        assert task.segments == 3
        assert kept(folder) == [f"step-{n:09d}" for n in (6, 12) if n <= step]
        assert ("eval", step) not in {(row["kind"], row["step"]) for row in read_log(folder)}
    go(folder, training, task=make_task(data), resume=True)
    whole, parts = files_of(tmp_path / "whole"), files_of(folder)
    assert parts[4].pop("to_evaluate") == (step == 12) and not whole[4].pop("to_evaluate")
    torch.testing.assert_close(parts[:4], whole[:4], rtol=0, atol=0)
    assert parts[4:] == whole[4:]
    weights = [(tmp_path / name / "best").rglob("model.safetensors") for name in ("whole", "parts")]
    whole, parts = ([file.read_bytes() for file in sorted(files)] for files in weights)
    assert parts == whole and len(whole) == 2


def test_an_evaluation_that_is_in_the_log_is_not_done_again(tmp_path):
    """Killed after an evaluation that had been put off; and between the last one and the result."""
    data = replace(DATA, eval_unroll=16)
    task = make_task(data)
    task.stop_in = 1
    with pytest.raises(Interrupted):
        go(tmp_path, task=task)
    result, rows = go(tmp_path, task=make_task(data), resume=True), read_log(tmp_path)
    (tmp_path / "result.json").unlink()
    task = make_task(data)
    again = go(tmp_path, task=task, resume=True)
    assert task.evaluations == 0 and read_log(tmp_path) == rows
    assert {**again, "environment": None} == {**result, "environment": None}
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "step-000000012")
    go(tmp_path, task=task, resume=True)
    assert task.evaluations == 1
    assert [row["step"] for row in read_log(tmp_path) if row["kind"] == "eval"] == [6, 12]


def frozen_embedding():
    model = LanguageModel(MODELS["sru"])
    model.embedding.requires_grad_(False)
    return model


class Rated(Stopping):
    """Its evaluations find what `scores` says, by the steps done."""

    higher_is_better = True
    scores: ClassVar = {2: 0.25, 4: 0.5, 6: math.nan, 8: 0.5, 10: 0.375, 12: 0.125}

    def batch(self, step):
        self.step = step
        return super().batch(step)

    def evaluate(self, model):
        return {"accuracy": self.scores[self.step + 1], "nats": 0.0}


def rated(stop_at=-1, **scores):
    task = make_task(kind=Rated)
    task.stop_at = stop_at
    task.scores = Rated.scores | {int(step[1:]): score for step, score in scores.items()}
    return task


KEEPING = replace(TRAINING, evaluations=6, keep="best")


def test_the_weights_of_the_best_evaluation_are_kept(tmp_path):
    result = go(tmp_path / "run", KEEPING, task=rated())
    assert (result["accuracy"], result["best_step"], result["steps"]) == (0.5, 8, 12)
    # of two equal ones the last; the first is the best up to the checkpoint of step 6
    found = [p.name for p in checkpoints(tmp_path / "run" / "best")]
    assert found == ["step-000000004", "step-000000008"]
    with pytest.raises(Interrupted, match="step 8"):
        go(tmp_path / "stopped", KEEPING, task=rated(stop_at=7))
    there = load_checkpoint(tmp_path / "stopped" / "checkpoints").model
    best, last = LanguageModel(MODELS["sru"]), LanguageModel(MODELS["sru"])
    facts = load_weights(tmp_path / "run" / "best", best)
    assert (facts["step"], facts["numbers"]) == (8, {"accuracy": 0.5, "nats": 0.0})
    torch.testing.assert_close(best.state_dict(), there, rtol=0, atol=0)
    load_weights(tmp_path / "run" / "checkpoints", last)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(last.state_dict(), there, rtol=0, atol=0)


def test_the_best_is_kept_over_a_resumption(tmp_path):
    with pytest.raises(Interrupted, match="step 9"):
        go(tmp_path, KEEPING, task=rated(stop_at=8))
    result = go(tmp_path, KEEPING, task=rated(), resume=True)
    assert (result["accuracy"], result["best_step"]) == (0.5, 8)


def test_a_best_from_which_the_run_does_not_go_on_is_forgotten(tmp_path):
    """A run was killed after the evaluation of step 10; its checkpoint is of step 6."""
    go(tmp_path, KEEPING, task=rated(_10=0.75))
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "step-000000012")
    result = go(tmp_path, KEEPING, task=rated(), resume=True)
    assert (result["accuracy"], result["best_step"]) == (0.5, 8)


def test_the_best_up_to_a_checkpoint_outlives_better_ones_after_it(tmp_path):
    """Killed after step 12, the run goes on from step 6; what follows turns out worse."""
    go(tmp_path, KEEPING, task=rated(_8=0.75, _10=0.8, _12=0.9))
    found = [p.name for p in checkpoints(tmp_path / "best")]
    assert found == ["step-000000004", "step-000000012"]
    (tmp_path / "result.json").unlink()
    shutil.rmtree(tmp_path / "checkpoints" / "step-000000012")
    result = go(tmp_path, KEEPING, task=rated(_8=0.375), resume=True)
    assert (result["accuracy"], result["best_step"]) == (0.5, 4)


def test_parts_that_a_batch_can_not_be_cut_into_are_refused(tmp_path):
    with pytest.raises(RunError, match=r"data\.batch must be a multiple of processes"):
        go(tmp_path, replace(TRAINING, accumulate=3))


def test_an_evaluation_that_is_not_a_number_is_never_the_best(tmp_path):
    result = go(tmp_path, KEEPING, task=rated(_2=math.nan, _4=0.0, _8=-1.0, _10=-1.0, _12=-1.0))
    assert (result["accuracy"], result["best_step"]) == (0.0, 4)


def test_keeping_the_best_needs_evaluations():
    with pytest.raises(ValueError, match="evaluations must be positive with keep 'best', got 0"):
        replace(KEEPING, evaluations=0)


def test_a_run_with_frozen_parameters_resumes_bit_for_bit(tmp_path):
    def go_on(folder, task=None, resume=False):
        task = task or make_task()
        fit(folder, task, frozen_embedding, TRAINING, about=ABOUT, resume=resume)

    go_on(tmp_path / "whole")
    task = make_task()
    task.stop_at = 7
    with pytest.raises(Interrupted):
        go_on(tmp_path / "parts", task)
    go_on(tmp_path / "parts", resume=True)
    whole, parts = files_of(tmp_path / "whole"), files_of(tmp_path / "parts")
    torch.testing.assert_close(parts[:4], whole[:4], rtol=0, atol=0)
    assert parts[4:] == whole[4:]


def test_the_comparison_can_fail(tmp_path):
    go(tmp_path / "a")
    go(tmp_path / "b", replace(TRAINING, seed=1))
    with pytest.raises(AssertionError):
        torch.testing.assert_close(files_of(tmp_path / "a")[0], files_of(tmp_path / "b")[0])


def test_rows_after_the_checkpoint_are_written_again_once(tmp_path):
    task = make_task()
    task.stop_at = 6
    with pytest.raises(Interrupted):
        go(tmp_path, task=task)
    with open(tmp_path / "log.jsonl", "a") as log:  # as if killed later, in the middle of a row
        log.write('{"kind": "train", "step": 10, "seconds": 1, "lr": 1}\n{"kind": "tr')
    go(tmp_path, resume=True)
    rows = [(row["kind"], row["step"]) for row in read_log(tmp_path)]
    assert rows == [("train", 5), ("eval", 6), ("train", 10), ("train", 12), ("eval", 12)]


def test_result_and_log_hold_what_they_should(tmp_path):
    result = go(tmp_path)
    assert result == json.loads((tmp_path / "result.json").read_text())
    assert result["bytes"] == 12 * 8 * 4 and result["steps"] == 12
    assert result["environment"]["versions"]["torch"] == torch.__version__
    last = read_log(tmp_path)[-1]
    assert last["kind"] == "eval" and last["bits_per_byte"] == result["bits_per_byte"]
    assert list((tmp_path / "tensorboard").iterdir())


@pytest.mark.parametrize("model", ["sru", "lstm"])
def test_the_loss_falls_on_a_text_that_repeats(tmp_path, model):
    result = go(tmp_path, replace(TRAINING, steps=150, evaluations=1, checkpoints=1), model)
    first = read_log(tmp_path)[0]["bits_per_byte"]
    assert first > 6 and result["bits_per_byte"] < 0.6 * first


def test_wall_clock_budget_ends_the_run(tmp_path, monkeypatch):
    clock = iter(range(10**6))
    monkeypatch.setattr(module.time, "perf_counter", lambda: float(next(clock)))
    result = go(tmp_path, replace(TRAINING, steps=None, seconds=7.0))
    assert result["steps"] == 7 and result["seconds"] == 7.0  # a step: two looks at the clock


def test_parts_of_a_batch_add_up_to_its_gradient(tmp_path):
    training = replace(TRAINING, steps=4, precision="float32", accumulate=1)
    model = replace(MODELS["lstm"], dropout=0.0)
    weights = []
    for parts in (1, 2, 4):
        folder = tmp_path / str(parts)
        run = replace(training, accumulate=parts)
        fit(folder, make_task(), lambda: LanguageModel(model), run, about=ABOUT)
        weights.append(load_checkpoint(folder / "checkpoints").model)
    for other in weights[1:]:
        torch.testing.assert_close(other, weights[0], rtol=1e-4, atol=1e-5)


def test_state_is_carried_from_segment_to_segment(tmp_path):
    """Two segments of 8 bytes, evaluated with the state carried, are one of 16."""
    model = LanguageModel(MODELS["sru"]).eval()
    task = make_task()
    with torch.no_grad():
        first, second = task.batch(0), task.batch(1)
        loss_1, state = task.loss(model, first, None)
        loss_2, _ = task.loss(model, second, state)
        both = make_task(replace(DATA, unroll=16)).batch(0)
        whole, _ = task.loss(model, both, None)
    torch.testing.assert_close((loss_1 + loss_2) / 2, whole)
    assert not torch.allclose(task.loss(model, second, None)[0], loss_2)


def breaking(broken, steps):
    """A task whose loss, or its gradient, is not finite at these steps (counted from 0)."""
    task = make_task()
    honest = task.loss

    def loss(model, batch, state):
        value, state = honest(model, batch, state)
        rows = batch.x.shape[1]
        if model.training and any(
            torch.equal(batch.x, task.batch(step).x[:, :rows]) for step in steps
        ):
            value = value * math.nan if broken == "loss" else (value - value).sqrt() + 1
        return value, state

    task.loss = loss
    return task


def kept(folder):
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_that_is_not_finite_stops_after_saving(tmp_path, broken):
    with pytest.raises(NotFinite) as stopped:
        go(tmp_path, task=breaking(broken, [7]))
    told = str(stopped.value)
    assert told.startswith("step 8: loss ") and "nan" in told and "learning rate 0.00" in told
    for option in ("--resume", "--training.lr", "--training.clip", "--training.skip_nonfinite"):
        assert option in told
    saved = load_checkpoint(tmp_path / "checkpoints")
    assert saved.facts["step"] == 7
    assert all(value.isfinite().all() for value in saved.model.values())
    names = kept(tmp_path)
    assert names == ["step-000000006", "step-000000007"]  # the state may be bad before the loss is
    assert "there is step-000000006 and step-000000007. " in told
    with pytest.raises(NotFinite):
        go(tmp_path, task=breaking(broken, [7]), resume=True)
    assert kept(tmp_path) == names
    assert go(tmp_path, resume=True)["steps"] == 12
    assert kept(tmp_path) == ["step-000000006", "step-000000012"]


@pytest.mark.parametrize(
    ("step", "names"),
    [
        (7, ["step-000000006", "step-000000007"]),  # saved on the step before, as planned
        (1, ["step-000000001"]),
        (0, ["step-000000000"]),
    ],
)
def test_a_stop_right_after_a_checkpoint_keeps_the_one_before_it(tmp_path, step, names):
    with pytest.raises(NotFinite, match=f"there is {' and '.join(names)}. Try "):
        go(tmp_path, replace(TRAINING, checkpoints=12), task=breaking("loss", [step]))
    assert kept(tmp_path) == names


def test_data_that_can_not_be_read_any_more_leave_what_is_saved_and_say_so(tmp_path):
    task = make_task()

    def gone(step):
        if step == 8:
            raise DataError("a file is gone")
        return honest(step)

    honest, task.batch = task.batch, gone
    with pytest.raises(DataError, match="a file is gone; step-000000006 is the newest checkpoint"):
        go(tmp_path, task=task)
    assert go(tmp_path, resume=True)["steps"] == 12


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_steps_that_are_not_finite_can_be_skipped(tmp_path, broken):
    training = replace(TRAINING, skip_nonfinite=2, log_every=1, accumulate=2)
    seen = []
    task = breaking(broken, [4, 5, 8])
    honest = task.loss

    def loss(model, batch, state):
        if model.training:
            seen.append((state is None, {k: v.clone() for k, v in model.state_dict().items()}))
        return honest(model, batch, state)

    task.loss = loss
    result = go(tmp_path, training, task=task)
    assert result["steps"] == 12 and result["skipped_steps"] == 3
    rows = [row for row in read_log(tmp_path) if row["kind"] == "train"]
    assert [row["skipped"] for row in rows] == [0, 0, 0, 0, 1, 1, 0, 0, 1, 0, 0, 0]
    assert [row["step"] for row in rows if "bits_per_byte" not in row] == [5, 6, 9]
    assert all(math.isfinite(value) for row in rows for value in list(row.values())[1:])
    states, weights = zip(*seen[::2], strict=True)  # of the first of two parts
    assert [step for step, fresh in enumerate(states) if fresh] == [0, 5, 6, 9]
    same = [all(torch.equal(a[k], b[k]) for k in a) for a, b in pairwise(weights)]
    assert [step for step, unmoved in enumerate(same) if unmoved] == [4, 5, 8]


def test_one_more_than_may_be_skipped_stops_and_a_resume_counts_on(tmp_path):
    training = replace(TRAINING, skip_nonfinite=2, checkpoints=12)
    with pytest.raises(NotFinite, match=r"step 7: .* after 2 skipped in a row"):
        go(tmp_path / "a", training, task=breaking("loss", [4, 5, 6]))
    task = breaking("loss", [4, 5, 6])
    task.stop_at = 5
    with pytest.raises(Interrupted):
        go(tmp_path / "b", training, task=task)
    with pytest.raises(NotFinite, match=r"step 7: .* after 2 skipped in a row"):
        go(tmp_path / "b", training, task=breaking("loss", [4, 5, 6]), resume=True)


def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path):
    """A step whose gradient is finite can still throw the weights out of range."""
    task = make_task()
    honest = task.batch

    def batch(step):
        if step == 8:
            model_of(task).output.bias.data[0] = math.inf
        return honest(step)

    models = []
    task.batch = batch

    def model_of(_):
        return models[0]

    def make_model():
        models.append(LanguageModel(MODELS["lstm"]))
        return models[0]

    with pytest.raises(NotFinite, match=r"weights are not finite.*step-000000006 is the newest"):
        fit(tmp_path, task, make_model, TRAINING, about=ABOUT)
    assert kept(tmp_path) == ["step-000000006"]
    assert go(tmp_path, model="lstm", resume=True)["steps"] == 12


def test_the_gradient_norm_is_that_before_clipping(tmp_path):
    norms = []
    for clip in (None, 1e-3):
        go(tmp_path / str(clip), replace(TRAINING, steps=1, clip=clip, log_every=1))
        norms.append(read_log(tmp_path / str(clip))[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1]) and norms[0] > 1e-2


def test_the_record_keeps_the_start_and_lists_each_resumption(tmp_path):
    def extend(steps, tag, resume):
        training = replace(TRAINING, steps=steps)
        make_model = partial(LanguageModel, MODELS["sru"])
        fit(tmp_path, make_task(), make_model, training, about={**ABOUT, "t": tag}, resume=resume)
        return json.loads((tmp_path / "recipe.json").read_text())

    assert extend(4, "a", False) == {"name": "test", "t": "a"}
    first = json.loads((tmp_path / "result.json").read_text())
    record = extend(6, "b", True)
    assert (record["name"], record["t"]) == ("test", "a")
    assert [(entry["step"], entry["t"]) for entry in record["resumed"]] == [(4, "b")]
    assert record["resumed"][0]["result_before"] == first
    assert extend(6, "c", True) == record  # finished: nothing to go on with
    record = extend(7, "d", True)
    assert [(entry["step"], entry["t"]) for entry in record["resumed"]] == [(4, "b"), (6, "d")]


def test_a_result_does_not_outlive_the_run_that_is_extended(tmp_path):
    go(tmp_path)
    task = make_task()
    task.stop_at = 15
    with pytest.raises(Interrupted):
        go(tmp_path, replace(TRAINING, steps=20), task=task, resume=True)
    assert not (tmp_path / "result.json").exists()


def test_a_finished_run_without_its_checkpoint_is_not_started_again(tmp_path):
    go(tmp_path)
    rows = read_log(tmp_path)
    shutil.rmtree(tmp_path / "checkpoints")
    with pytest.raises(RunError, match=r"holds a result\.json but no checkpoint"):
        go(tmp_path, resume=True)
    assert read_log(tmp_path) == rows


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"kind": "train"}\n', "line 1: expected a row, found 17 bytes"),
        (b'{"kind": "train", "step": 1}\nrow 2\n{"step": 3}\n', "line 2: expected a row"),
        (b'[1]\n{"kind', "line 1"),
        (b"\x89PNG", "line 1: expected a row, found 4 bytes, b'.x89PNG' first"),
    ],
)
def test_a_damaged_or_foreign_log_is_named_and_kept(tmp_path, content, told):
    (tmp_path / "log.jsonl").write_bytes(content)
    with pytest.raises(RunError, match=rf"log\.jsonl is damaged: {told}"):
        go(tmp_path, resume=True)
    assert (tmp_path / "log.jsonl").read_bytes() == content


@pytest.mark.parametrize("rest", [b'{"k', b'{"kind": "train", "st', b"", b'{"kind\0\0\0', b"\0\0"])
def test_a_last_row_cut_short_is_left_out(tmp_path, rest):
    (tmp_path / "log.jsonl").write_bytes(b'{"kind": "train", "step": 5}\n' + rest)
    assert read_log(tmp_path) == [{"kind": "train", "step": 5}]


@pytest.mark.parametrize(
    "position",
    [None, {"step": 3}, {**asdict(Position()), "step": "3"}, {**asdict(Position()), "x": 1}],
)
def test_a_position_of_another_version_is_named(tmp_path, position):
    with pytest.raises(RunError, match=r"found position .*, expected the fields of {'step': 0"):
        read_position(position, tmp_path)


def test_other_data_models_and_optimisers_are_refused_on_resume(tmp_path):
    task = make_task()
    task.stop_at = 3
    with pytest.raises(Interrupted):
        go(tmp_path, task=task)
    before = files_of(tmp_path)
    with pytest.raises(RunError, match="other data"):
        go(tmp_path, task=make_task(text=TEXT[1:]), resume=True)
    with pytest.raises(RunError, match=r"optimizer was 'adamw' in .*, got 'sgd'"):
        go(tmp_path, replace(TRAINING, optimizer="sgd"), resume=True)
    with pytest.raises(RunError, match=r"do not fit the recipe: rnn.weight_ih_l0: found nothing"):
        go(tmp_path, model="lstm", resume=True)
    assert files_of(tmp_path)[4:] == before[4:]
    go(tmp_path, resume=True)


def test_other_parts_go_on_with_the_states_of_the_same_rows(tmp_path):
    plain = replace(TRAINING, precision="float32")
    for name in ("a", "b"):
        task = make_task()
        task.stop_at = 5
        with pytest.raises(Interrupted):
            go(tmp_path / name, plain, "undropped", task=task)
    go(tmp_path / "a", plain, "undropped", resume=True)
    go(tmp_path / "b", replace(plain, accumulate=4), "undropped", resume=True)
    a, b = (load_checkpoint(tmp_path / name / "checkpoints") for name in "ab")
    assert len(b.state) == 4
    torch.testing.assert_close(b.model, a.model, rtol=1e-4, atol=1e-5)
    rows = torch.cat([part for part in b.state], dim=1)
    torch.testing.assert_close(rows, a.state[0], rtol=1e-3, atol=1e-4)


def test_a_checkpoint_of_0_1_goes_on(tmp_path):
    """It names neither optimiser nor ranks."""
    task = make_task()
    task.stop_at = 5
    with pytest.raises(Interrupted):
        go(tmp_path, task=task)
    file = max((tmp_path / "checkpoints").iterdir()) / "training.json"
    facts = json.loads(file.read_text())
    assert (facts.pop("optimizer"), facts.pop("ranks")) == ("adamw", 1)
    file.write_text(json.dumps(facts))
    assert go(tmp_path, resume=True)["steps"] == 12


@pytest.mark.parametrize("kind", ["adam", "radam", "sgd"])
def test_every_optimiser_resumes_bit_for_bit(tmp_path, kind):
    training = replace(TRAINING, optimizer=kind, weight_decay=0.01)
    go(tmp_path / "whole", training)
    task = make_task()
    task.stop_at = 7
    with pytest.raises(Interrupted):
        go(tmp_path / "parts", training, task=task)
    go(tmp_path / "parts", training, resume=True)
    whole, parts = files_of(tmp_path / "whole"), files_of(tmp_path / "parts")
    torch.testing.assert_close(parts[:4], whole[:4], rtol=0, atol=0)


def test_a_scaled_gradient_out_of_range_lowers_the_scale_and_keeps_the_state(tmp_path):
    """The scale starts at 2^16 and a gradient of more than 2^112 is 2^16 too large."""
    training = replace(TRAINING, precision="float16", log_every=1)
    task, seen = make_task(), []
    honest = task.loss

    def loss(model, batch, state):
        value, after = honest(model, batch, state)
        if model.training:
            seen.append(state is None)
            if torch.equal(batch.x, task.batch(4).x):
                value = value + (value - value.detach()) * 2.0**113
        return value, after

    task.loss = loss
    result = go(tmp_path, training, task=task)
    assert result["skipped_steps"] == 1 and result["precision"] == "16-mixed"
    rows = [row for row in read_log(tmp_path) if row["kind"] == "train"]
    assert [row["step"] for row in rows if row["skipped"]] == [5]
    assert seen == [True] + [False] * 11
    scaler = load_checkpoint(tmp_path / "checkpoints").facts["scaler"]
    assert scaler["scale"] == 2.0**15
    assert scaler["_growth_tracker"] == 12 - 5  # steps since; it grows after so many without one


def test_a_gradient_that_is_not_finite_at_any_scale_stops_float16_too(tmp_path):
    training = replace(TRAINING, precision="float16", steps=40, checkpoints=0)
    with pytest.raises(NotFinite, match=r"step 17: loss .*, gradient norm (nan|inf)"):
        go(tmp_path, training, task=breaking("gradient", range(40)))  # 2^16 to 1: 16 halvings


def test_activation_checkpointing_changes_no_bit(tmp_path):
    """Dropout is drawn again as it was."""
    weights = []
    for keep in (False, True):
        folder = tmp_path / str(keep)
        go(folder, replace(TRAINING, activation_checkpointing=keep))
        weights.append(load_checkpoint(folder / "checkpoints").model)
    torch.testing.assert_close(*weights, rtol=0, atol=0)


def test_a_run_that_goes_on_does_not_hold_on_to_its_checkpoint(tmp_path):
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the system does not say what is mapped")
    task = make_task()
    task.stop_at = 5
    with pytest.raises(Interrupted):
        go(tmp_path, task=task)
    task, seen = make_task(), []
    honest = task.batch

    def batch(step):
        if not seen:
            gc.collect()
            seen.append(str(tmp_path) in maps.read_text())
        return honest(step)

    task.batch = batch
    go(tmp_path, task=task, resume=True)
    assert seen == [False]


def test_a_run_killed_before_its_first_checkpoint_starts_again(tmp_path):
    (tmp_path / "checkpoints" / ".step-000000006.123").mkdir(parents=True)  # half written
    (tmp_path / "log.jsonl").write_text('{"kind": "train", "step": 5, "seconds": 1, "lr": 1}\n')
    go(tmp_path, resume=True)
    assert [row["step"] for row in read_log(tmp_path)] == [5, 6, 10, 12, 12]
    assert kept(tmp_path) == ["step-000000006", "step-000000012"]


def test_a_finished_run_is_left_as_it_is(tmp_path):
    before = go(tmp_path)
    rows = read_log(tmp_path)
    after = go(tmp_path, resume=True)
    assert after["bits_per_byte"] == before["bits_per_byte"] and read_log(tmp_path) == rows


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    go(tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def test_embedding_tables_have_their_own_rate():
    model = LanguageModel(MODELS["sru"])
    others, tables = parameter_groups(model, 3.0)
    assert {id(p) for p in tables["params"]} == {id(p) for p in model.embedding.parameters()}
    assert len(others["params"]) + len(tables["params"]) == len(list(model.parameters()))
    assert (others["lr_scale"], tables["lr_scale"]) == (1.0, 3.0)
