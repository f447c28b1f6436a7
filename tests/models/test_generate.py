import pytest
import torch
from tests.models.test_language_model import CONFIGS, V, make_model
from torch.utils._pytree import tree_leaves

from torchsru.data.vocabulary import ByteVocabulary, learn_words
from torchsru.models import Generation, LanguageModel, LanguageModelConfig, Sampling, generate_text
from torchsru.models import generate as module
from torchsru.models.generate import UntilStop, draw, penalise

LIKELIEST = Sampling(temperature=0)
PROMPTS = [[5, 1, 7, 7, 2], [3], [9, 8, 7, 6, 5, 4, 3, 2, 1, 0, 11, 12], [40, 41]]


def rows_of(drawn, n):
    found = [[] for _ in range(n)]
    for row, symbol in drawn:
        found[row].append(symbol)
    return found


def take(model, prompts, count, **options):
    return rows_of(Generation(model, prompts, count, sampling=Sampling(**options)), len(prompts))


# ---- symbols -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*(n for n in CONFIGS if "," not in n), "adaptive, tied"])
def test_scores_are_those_of_teacher_forcing(name, monkeypatch):
    """Token by token, for a batch of prompts of different lengths, longer than a memory and than
    what is read at once; `draw` sees what one pass over prompt and text gives."""
    model, seen = make_model(name), []
    monkeypatch.setattr(module, "READ_AT_ONCE", 5)
    monkeypatch.setattr(
        module, "draw", lambda scores, *_: seen.append(scores) or int(scores.argmax())
    )
    drawn = rows_of(Generation(model, PROMPTS, 8), 4)
    for row, (prompt, text) in enumerate(zip(PROMPTS, drawn, strict=True)):
        forced = model(torch.tensor([*prompt, *text])[:, None])[0][len(prompt) - 1 : -1, 0]
        torch.testing.assert_close(torch.stack(seen[row::4]), forced, rtol=1e-5, atol=1e-5)


def test_a_row_is_what_it_is_alone():
    """Whatever else is in the batch, and when others leave it."""
    model = make_model("sru")
    together = Generation(model, PROMPTS, 9, sampling=Sampling(seed=3, repetition_penalty=1.3))
    found = [[] for _ in PROMPTS]
    for row, symbol in together:
        found[row].append(symbol)
        if row == 1 and len(found[1]) == 2:
            together.stop(1)
    for row, prompt in enumerate(PROMPTS):
        (alone,) = take(model, [prompt], 9, seed=3 + row, repetition_penalty=1.3)
        assert found[row] == (alone[:2] if row == 1 else alone)


@pytest.mark.parametrize("name", ["sru", "lstm", "srupp", "transformer-xl"])
def test_a_symbol_costs_the_same_however_long_the_text(name):
    model, lengths, sizes = make_model(name), [], []
    model.rnn.register_forward_pre_hook(lambda _, args: lengths.append(len(args[0])))
    model.rnn.register_forward_hook(
        lambda _, args, out: sizes.append(sum(leaf.numel() for leaf in tree_leaves(out[1])))
    )
    stream = iter(Generation(model, [[1, 2, 3]], 40))
    assert lengths == []
    next(stream), next(stream), next(stream)
    assert lengths == [3, 1, 1]
    assert len(list(stream)) == 37
    assert len(set(sizes[4:])) == 1 and set(lengths[1:]) == {1}


def test_seeds_count_and_mode():
    model = make_model("lstm").train()
    assert take(model, [[1]], 20, seed=1) == take(model, [[1]], 20, seed=1)
    assert take(model, [[1]], 20, seed=1) != take(model, [[1]], 20, seed=2)
    greedy = take(model, [[1]], 20, temperature=0)
    for options in ({"top_k": 1}, {"temperature": 1e-30}, {"top_p": 1e-9}):
        assert take(model, [[1]], 20, seed=5, **options) == greedy
    assert take(model, [[1]], 0) == [[]] and take(model, [], 3) == []
    last = 2**63 - 1  # the second row's seed is one more
    assert take(model, [[1], [1]], 20, seed=last)[0] == take(model, [[1]], 20, seed=last)[0]
    with pytest.raises(ValueError, match=r"seed must be less than 2\^63, got 9223372036854775808"):
        Sampling(seed=last + 1)
    assert model.training


def modes(model):
    return [module.training for module in model.modules()]


def test_between_symbols_every_module_has_its_own_mode():
    """Frozen ones too, for an iterator that nobody ends too, and after an error too; and what the
    caller sets between two symbols is kept, but not computed in."""
    model = make_model("srupp").train()
    expected = take(model, [[1, 2, 3]], 4, temperature=0)[0]
    model.embedding_dropout.eval()
    before, computed = modes(model), []
    assert len(set(before)) == 2
    hook = model.rnn.register_forward_hook(lambda *_: computed.extend(modes(model)))
    stream = iter(Generation(model, [[1, 2, 3]], 4, sampling=LIKELIEST))
    drawn = [next(stream)[1], next(stream)[1]]
    assert modes(model) == before
    model.eval()
    drawn.append(next(stream)[1])
    assert not any(modes(model))
    model.train()
    assert [*drawn, next(stream)[1]] == expected
    assert all(modes(model))
    assert computed and not any(computed)
    hook.remove()

    def fail(*_):
        raise OSError

    model.rnn.register_forward_hook(fail)
    with pytest.raises(OSError):
        take(model, [[1]], 1)
    assert all(modes(model))


def shares(n=4000, **options):
    """How often each of five symbols is drawn, with probabilities .4, .3, .15, .1, .05."""
    scores = torch.tensor([0.3, 0.05, 0.4, 0.1, 0.15]).log() + 7
    random = torch.Generator().manual_seed(0)
    drawn = [draw(scores, Sampling(**options), random) for _ in range(n)]
    return torch.tensor(drawn).bincount(minlength=5) / n


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [0.3, 0.05, 0.4, 0.1, 0.15]),
        ({"top_k": 2}, [3 / 7, 0, 4 / 7, 0, 0]),
        ({"top_k": 9}, [0.3, 0.05, 0.4, 0.1, 0.15]),
        ({"top_p": 0.69}, [3 / 7, 0, 4 / 7, 0, 0]),
        ({"top_p": 0.71}, [6 / 17, 0, 8 / 17, 0, 3 / 17]),
        ({"top_p": 0.1}, [0.0, 0, 1, 0, 0]),
        ({"top_k": 3, "top_p": 0.6}, [3 / 7, 0, 4 / 7, 0, 0]),
        ({"temperature": 0.5}, [0.3158, 0.0088, 0.5614, 0.0351, 0.0789]),
    ],
)
def test_shares_of_drawn_symbols(options, expected):
    torch.testing.assert_close(shares(**options), torch.tensor(expected), rtol=0, atol=0.03)


def test_of_equal_scores_exactly_k_are_drawn():
    random = torch.Generator().manual_seed(0)
    for k in (1, 3, 10):
        equal = {draw(torch.zeros(10), Sampling(top_k=k), random) for _ in range(200)}
        assert len(equal) == k
    scores = torch.tensor([0.0, 1.0, 0.0, 1.0, 0.0])
    assert {draw(scores, Sampling(top_k=2), random) for _ in range(50)} == {1, 3}


@pytest.mark.parametrize("options", [{}, {"top_k": 2}, {"top_p": 0.9}, {"repetition_penalty": 2.0}])
@pytest.mark.parametrize("tiny", [1e-50, 5e-324])
def test_the_smallest_temperature_takes_the_likeliest(tiny, options):
    random, seen = torch.Generator().manual_seed(0), torch.tensor([True, False, False])
    scores = torch.tensor([3.0, 2.25, -2.0])
    for dtype in (torch.float16, torch.float32, torch.float64):
        got = draw(scores.to(dtype), Sampling(temperature=tiny, **options), random, seen)
        assert got == (1 if "repetition_penalty" in options else 0)


@pytest.mark.parametrize("penalty", [1e-50, 5e-324, 1e308])
def test_the_strongest_penalties_leave_something_to_draw(penalty):
    random, all_seen = torch.Generator().manual_seed(0), torch.ones(3, dtype=torch.bool)
    for scores in ([1.0, 3.0, -1.0], [-2.0, -1.0, -5.0], [0.0, 0.0, 0.0]):
        for temperature in (0, 1, 1e-50):
            hard = Sampling(temperature=temperature, repetition_penalty=penalty)
            assert draw(torch.tensor(scores), hard, random, all_seen) in range(3)
    one = Sampling(repetition_penalty=1e-50)
    assert draw(torch.tensor([1.0, 3.0, -9.0]), one, random, torch.arange(3) == 0) == 0


@pytest.mark.parametrize("temperature", [0, 1])
def test_scores_that_are_not_finite_are_refused(temperature):
    random, how, nan, inf = (
        torch.Generator(),
        Sampling(temperature=temperature),
        torch.nan,
        torch.inf,
    )
    for scores, what in (
        ([0.0, nan, 1.0], "got NaN: did its training diverge"),
        ([nan, inf], "got NaN"),
        ([inf, 0.0], "got a highest of inf"),
        ([-inf, -inf], "got a highest of -inf"),
    ):
        with pytest.raises(ValueError, match=f"scores must be finite to draw from, {what}"):
            draw(torch.tensor(scores), how, random)
    for options in ({}, {"repetition_penalty": 2.0}, {"temperature": 1e308}, {"top_k": 2}):
        how, seen = Sampling(**{"temperature": temperature, **options}), torch.ones(3).bool()
        # -inf is never drawn
        assert {draw(torch.tensor([-inf, -9.0, -inf]), how, random, seen) for _ in range(9)} == {1}
    model = make_model("sru")
    torch.nn.init.constant_(model.output.bias, nan)
    with pytest.raises(ValueError, match="got NaN"):
        take(model, [[1]], 1, temperature=temperature)


def test_the_penalty_is_for_what_was_there():
    scores, seen = torch.tensor([2.0, 1.9, -1.0]), torch.tensor([True, False, True])
    random = torch.Generator()
    assert draw(scores, LIKELIEST, random) == 0
    hard = Sampling(temperature=0, repetition_penalty=1.2)
    assert draw(scores, hard, random, seen) == 1
    assert draw(torch.tensor([-1.0, -1.05, -4.0]), hard, random, seen) == 1
    for name in ("gru", "adaptive"):
        (text,) = take(make_model(name), [[4]], 15, temperature=0, repetition_penalty=1e6)
        assert len({4, *text}) == 16  # the prompt's symbol is not drawn either


@pytest.mark.parametrize("penalty", [0.5, 1.2, 3.0])
def test_the_penalty_is_the_same_for_logits_and_log_probabilities(penalty):
    """By hand for logits around 0; then of every constant more, log-probabilities among them."""
    logits = torch.tensor([4.0, 1.0, 0.5, -2.0, -3.5], dtype=torch.float64)
    seen = torch.tensor([True, False, True, True, False])
    want = torch.tensor([4 / penalty, 1, 0.5 / penalty, -2 * penalty, -3.5], dtype=torch.float64)
    for alike in (logits, logits + 7, logits.log_softmax(-1)):
        torch.testing.assert_close(penalise(alike, seen, penalty), want)
    impossible = torch.cat([logits - 30, torch.tensor([-torch.inf])])
    got = penalise(impossible, torch.cat([seen, torch.tensor([True])]), penalty)
    torch.testing.assert_close(got, torch.cat([want, torch.tensor([-torch.inf])]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -1.0}, "temperature must not be negative, got -1"),
        ({"temperature": float("nan")}, "temperature must be finite, got nan"),
        ({"top_k": -1}, "top_k must not be negative, got -1"),
        ({"top_p": 0.0}, r"top_p must lie in \(0, 1\], got 0"),
        ({"top_p": 1.5}, r"top_p must lie in \(0, 1\], got 1.5"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be positive and finite, got 0"),
    ],
)
def test_impossible_numbers_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        Sampling(**options)


@pytest.mark.parametrize("options", [{"seed": 1.5}, {"top_k": 2.5}, {"top_k": "2"}])
def test_what_counts_is_an_integer(options):
    ((name, value),) = options.items()
    with pytest.raises(TypeError, match=f"{name} must be an integer, got {value!r}"):
        Sampling(**options)


def test_impossible_calls_are_refused():
    model = make_model("sru")
    with pytest.raises(ValueError, match="count must not be negative, got -1"):
        Generation(model, [[1]], -1)
    with pytest.raises(TypeError, match=r"count must be an integer, got 1\.5"):
        Generation(model, [[1]], 1.5)
    with pytest.raises(ValueError, match=r"prompts\[1\] must hold at least one symbol"):
        Generation(model, [[1], []], 1)
    with pytest.raises(ValueError, match=rf"prompts\[0\] must hold symbols in \[0, {V}\), got {V}"):
        Generation(model, [[V]], 1)
    with pytest.raises(ValueError, match=f"vocabulary must have the model's {V} symbols, got 256"):
        generate_text(model, ByteVocabulary(), ["a"], 1)
    with pytest.raises(ValueError, match="stop strings must not be empty"):
        generate_text(byte_model(), ByteVocabulary(), ["a"], 1, stop=["x", ""])
    for given in ({"prompts": "ab"}, {"prompts": ["a"], "stop": "END"}):
        with pytest.raises(TypeError, match="must be a sequence of texts, got one text"):
            generate_text(byte_model(), ByteVocabulary(), **given, count=1)


# ---- text ----------------------------------------------------------------------------------------


def byte_model():
    return LanguageModel(LanguageModelConfig(width=8, layers=1))


@pytest.fixture
def says(monkeypatch):
    """Make the model say what it is told to, row by row, whatever its scores are."""

    drawing = Generation._draw

    def install(*texts):
        coming = [iter(text.encode() if isinstance(text, str) else text) for text in texts]

        def told(self, *arguments):
            for row, _ in drawing(self, *arguments):
                yield row, next(coming[row])

        monkeypatch.setattr(Generation, "_draw", told)

    return install


def pieces(prompts, count, **options):
    return [*generate_text(byte_model(), ByteVocabulary(), prompts, count, **options)]


def test_characters_are_whole_as_soon_as_they_can_be(says):
    says("aé€" + "x" * 9)
    assert pieces(["p"], 6) == [(0, "a", False), (0, "é", False), (0, "€", True)]


def test_bytes_that_are_no_text_are_marked(says):
    says(b"a\xffb\xc3")
    assert "".join(text for _, text, _ in pieces(["p"], 4)) == "a\ufffdb\ufffd"


def test_a_character_may_be_split_between_prompt_and_text(says):
    says(b"\xa9!")
    assert pieces([b"caf\xc3"], 2, echo=True) == [
        (0, "caf", False), (0, "é", False), (0, "!", True),
    ]  # fmt: skip
    assert pieces([b"caf\xc3"], 0, echo=True) == [(0, "caf\ufffd", True)]
    assert pieces(["x"], 0) == [(0, "", True)]


def test_stop_strings_split_over_symbols_are_not_shown(says):
    says("one END two")
    assert pieces(["p"], 11, stop=["END"]) == [
        (0, "o", False), (0, "n", False), (0, "e", False), (0, " ", False), (0, "", True),
    ]  # fmt: skip
    says("an Ex END")  # what was held back comes when it can't be one any more
    got = pieces(["p"], 9, stop=["END"])
    assert (0, "Ex", False) in got and "".join(text for _, text, _ in got) == "an Ex "
    says("an EN")  # or when nothing more comes
    assert pieces(["END"], 5, stop=["END"])[-1] == (0, "EN", True)


def test_a_row_that_stops_leaves_the_batch_and_the_others_go_on(says):
    says("ab.cdefgh", "uvwxyz.gh", "12345678!")
    found, lasts = ["", "", ""], []
    for row, text, last in pieces(["a", "bc", ""], 9, stop=["."]):
        found[row] += text
        lasts += [row] if last else []
    assert found == ["ab", "uvwxyz", "12345678!"] and lasts == [0, 1, 2]


@pytest.mark.parametrize("cut", [1, 2, 3, 5])
def test_until_stop_finds_the_first(cut):
    """The same text, however it is cut, and nothing given out that turns out to be a stop."""
    for text, stops, want in (
        ("aab.", ["ab"], "a"),
        ("aaab", ["aab", "b"], "a"),
        ("xyzw", ["zw", "yzw"], "x"),
        ("abcabd", ["abd"], "abc"),
        ("abab", ["abc"], "abab"),
        ("é€😀", ["€"], "é"),
        ("text", [], "text"),
    ):
        reader = UntilStop(stops)
        parts = [text[i : i + cut] for i in range(0, len(text), cut)]
        got = "".join(reader.feed(part) for part in parts) + reader.feed("", True)
        assert got == want, (text, stops)
        assert reader.found == (want != text)


def test_other_vocabularies(monkeypatch):
    words = learn_words([b"to be or not to be"])
    assert words.words == ["<eos>", "<unk>", "to", "be", "or", "not"]
    model = LanguageModel(LanguageModelConfig(width=8, layers=1), words.size)
    symbols = iter([4, 5, 2, 3, 0, 4])
    monkeypatch.setattr(module, "draw", lambda *_: next(symbols))
    got = generate_text(model, words, ["to be", ""], 3, stop=["not to"], echo=True)
    assert [tuple(piece) for piece in got] == [
        (0, "to be ", False),
        (1, "", False),
        (0, "or ", False),
        (0, "to ", False),
        (1, "not be ", False),
        (0, "\n", True),
        (1, "or ", True),
    ]
