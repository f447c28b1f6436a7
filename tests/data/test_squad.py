"""Files in SQuAD's form, made here."""

import json
import sys
from types import ModuleType, SimpleNamespace

import pytest

from torchsru.data import DataError
from torchsru.data.squad import (
    ENTITIES,
    PARTS,
    ReadingData,
    count_unanswerable,
    cut_texts,
    dealt,
    load_reading,
    load_squad,
)

CONTEXT = "Ada wrote it in 1843.\nThe Analytical Engine wasn't built; it’d cost £7,000 or more."


def question(text="When?", answer="1843", name="q1", context=CONTEXT, **more):
    answers = [{"text": answer, "answer_start": context.index(answer)}]
    return {"id": name, "question": text, "answers": answers, **more}


def document(*questions, context=CONTEXT, title="Ada"):
    return {"title": title, "paragraphs": [{"context": context, "qas": list(questions)}]}


def write(folder, *articles, name="set.json"):
    file = folder / name
    whole = {"version": "1.1", "data": articles or [document(question())]}
    file.write_text(json.dumps(whole), encoding="utf-8")
    return file


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("It's a so-so film, isn't it?", "It 's a so - so film , is n't it ?"),
        ("In the U.S. (50 states) £7,000.50 is 24-yard…", "In the U.S. ( 50 states ) £ 7,000.50 is "
         "24 - yard …"),
        ("to Os\u0301lo. cafe\u0301’s", "to Os\u0301lo . cafe\u0301 ’s"),
        ("naïve 日本 “it’s” 6½.", "naïve 日本 “ it ’s ” 6½ ."),
        (" \n\t", ""),
    ],
)  # fmt: skip
def test_words_stand_where_they_say(text, expected):
    (cut,) = cut_texts([text])
    assert cut.words == expected.split()
    gaps = [*zip([0, *cut.ends], [*cut.starts, len(text)], strict=True)]
    assert not "".join(text[s:e] for s, e in gaps).strip()  # only blanks are in no word


@pytest.mark.parametrize(
    ("whole", "told"),
    [
        (
            document(question("Wh\ud800en?")),
            "article 'Ada' question 'q1': question must be Unicode",
        ),
        (document(question(name="\udc00")), r"'Ada' paragraph 0: id .*'\\udc00', at 0"),
        (document(context=f"{CONTEXT}\ud83d"), "'Ada' paragraph 0: context must be Unicode text"),
        (document(question(), title="A\ud800"), r"article 0: title .* '\\ud800', at 1"),
        (document(question(answer="\ud800", context="\ud800"), context="a"), "'q1': text must be"),
    ],
)
def test_half_of_a_surrogate_pair_is_named(tmp_path, whole, told):
    with pytest.raises(DataError, match=told):
        load_squad(write(tmp_path, whole))
    smile = document(question("\U0001f600?"))  # both halves in JSON
    assert (
        load_squad(write(tmp_path, smile)).paragraphs[0].questions[0].words.words[0] == "\U0001f600"
    )


def test_an_answer_is_a_slice_of_the_text(tmp_path):
    whole = "wasn't built; it’d cost £7,000"
    asked = [question(), question("What?", whole, "q2"), question("?", "84", "q3")]
    squad = load_squad(write(tmp_path, document(*asked)))
    (paragraph,) = squad.paragraphs
    assert paragraph.context.text == CONTEXT and paragraph.article == "Ada"
    found = [paragraph.context.slice(q.first, q.last) for q in paragraph.questions]
    assert found == ["1843", whole, "1843"]  # the last one's words overlap it
    assert (squad.inexact, count_unanswerable(squad.paragraphs)) == (1, 0)
    assert [q.answers for q in paragraph.questions] == [("1843",), (whole,), ("84",)]


def test_questions_without_an_answer_are_counted_and_left_out(tmp_path):
    none = {"id": "q2", "question": "Why?", "answers": [], "is_impossible": True}
    plausible = {**none, "id": "q3", "plausible_answers": [{"text": "it", "answer_start": 10}]}
    squad = load_squad(write(tmp_path, document(question(is_impossible=False), none, plausible)))
    assert squad.paragraphs[0].unanswerable == 2 and len(squad.paragraphs[0].questions) == 1
    with pytest.raises(DataError, match="holds no question with an answer"):
        load_squad(write(tmp_path, document(none)))
    del none["is_impossible"]
    with pytest.raises(DataError, match=r"article 'Ada' question 'q2': answers must hold one"):
        load_squad(write(tmp_path, document(none)))


AT = {"text": "1843", "answer_start": 3}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"answers": [AT]}, r"article 'Ada' question 'q1': answer '1843' must stand at 3 of its "
         r"context, got ' wro' there; it is at 16"),
        ({"answers": [{**AT, "text": "1844"}]}, "it is nowhere in the context"),
        ({"answers": [{**AT, "answer_start": -68}]}, "must stand at -68"),
        ({"answers": [{**AT, "answer_start": 16.0}]}, "answer_start must be an integer, got 16.0"),
        ({"answers": [{**AT, "answer_start": True}]}, "answer_start must be an integer, got True"),
        ({"answers": [{"text": " ", "answer_start": 3}]}, "answer must hold a word, got ' '"),
        ({"answers": ["1843"]}, "question 'q1': text must be a string, got none"),
        ({"answers": None}, "question 'q1': answers must be a list, got None"),
        ({"question": 3}, "question 'q1': question must be a string, got 3"),
        ({"question": " "}, "question 'q1': question must hold a word, got ' '"),
        ({"id": None}, "article 'Ada' paragraph 0: id must be a string, got None"),
    ],
)  # fmt: skip
def test_a_bad_question_is_named(tmp_path, cache, change, told):
    file = write(tmp_path, document({**question(), **change}))
    with pytest.raises(DataError, match=rf"set\.json' .*{told}"):
        load_squad(file)
    assert not [path for path in cache.iterdir() if path.is_dir()] if cache.exists() else True


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b'{"data": [', r"set\.json' is no JSON: Expecting value: line 1 column 11"),
        (b"", r"set\.json' is no JSON"),
        (b"[" * 100_000, r"set\.json' is no JSON"),
        (b'{"data": "\xff"}', r"set\.json' is not UTF-8: byte 0xff at 10"),
        (b"[]", "data must be a list, got none"),
        (b'{"data": [{"paragraphs": []}]}', "article 0: title must be a string, got none"),
        (b'{"data": [{"title": "A"}]}', "article 'A': paragraphs must be a list, got none"),
        (b'{"data": []}', "holds no question with an answer"),
    ],
)
def test_a_bad_file_is_named(tmp_path, content, told):
    file = tmp_path / "set.json"
    file.write_bytes(content)
    with pytest.raises(DataError, match=told):
        load_squad(file)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"cannot read data file '.*nowhere'"):
        load_squad(tmp_path / "nowhere")


def test_a_context_without_words_and_a_question_that_stands_twice_are_named(tmp_path):
    empty = {"title": "E", "paragraphs": [{"context": "\n", "qas": []}]}
    with pytest.raises(DataError, match="article 'E': context must hold a word, got"):
        load_squad(write(tmp_path, document(question()), empty))
    with pytest.raises(DataError, match="question 'q1': id must stand once in the file"):
        load_squad(write(tmp_path, document(question(), question())))
    file = str(write(tmp_path))
    with pytest.raises(DataError, match=r"question 'q1' must stand once in .*, got it 2 times"):
        load_reading(ReadingData(paths=(file,), test_paths=(file,)))


def test_a_file_is_cut_once(tmp_path, cache, monkeypatch):
    file = write(tmp_path)
    first = load_squad(file)
    monkeypatch.setattr("torchsru.data.squad.parse", None)
    assert load_squad(file) == first
    file.write_text(file.read_text().replace("When", "Whence"))
    with pytest.raises(TypeError):  # another content is cut anew
        load_squad(file)


def test_several_processes_cut_as_one_does(tmp_path, monkeypatch):
    monkeypatch.setattr("torchsru.data.squad.BLOCK", 2)
    articles = [
        document(question(name=f"q{i}"), context=f"{i} {CONTEXT}", title=str(i)) for i in range(5)
    ]
    for article in articles:
        article["paragraphs"][0]["qas"][0]["answers"][0]["answer_start"] += 2
    one = load_squad(write(tmp_path, *articles), processes=1)
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "other"))
    assert load_squad(write(tmp_path, *articles), processes=2) == one
    assert len(one.paragraphs) == 5


def articles(count=12):
    return [
        document(question(name=f"{i}a"), question(name=f"{i}b"), title=f"T{i}")
        for i in range(count)
    ]


def names(paragraphs):
    return {p.article for p in paragraphs}


def test_articles_are_dealt_into_folds_whole(tmp_path):
    file = write(tmp_path, *articles())
    tested = []
    for fold in range(4):
        found = load_reading(ReadingData(paths=(str(file),), folds=4, fold=fold))
        parts = [names(found.sides[side]) for side in ("train", "valid", "test")]
        assert [len(part) for part in parts] == [6, 3, 3]
        assert len(set.union(*parts)) == 12
        tested += parts[2]
    assert len(set(tested)) == 12
    again = load_reading(ReadingData(paths=(str(file),), folds=4, fold=3))
    assert again.content == found.content and again.sides == found.sides
    other = load_reading(ReadingData(paths=(str(file),), folds=4, fold=2))
    assert other.content != found.content


def test_an_article_of_two_files_is_on_one_side():
    class P(SimpleNamespace):
        questions = (1,)

    sides = dealt([P(article=t) for t in "abcabc"], {"test": 0, "valid": 1}, 3)
    assert sorted(len(side) for side in sides.values()) == [2, 2, 2]
    assert all(len(names(side)) == 1 for side in sides.values())


def test_files_may_name_the_sides(tmp_path):
    train = str(write(tmp_path, *articles(6)))
    other = str(write(tmp_path, document(question(name="z")), name="dev.json"))
    found = load_reading(ReadingData(paths=(train,), valid_paths=(other,)))
    assert {side: len(names(part)) for side, part in found.sides.items()} == {
        "train": 6,
        "valid": 1,
    }
    found = load_reading(ReadingData(paths=(train,), test_paths=(other,), folds=6))
    assert {side: len(names(part)) for side, part in found.sides.items()} == {
        "train": 5,
        "valid": 1,
        "test": 1,
    }
    assert names(found.sides["test"]) == {"Ada"}


def test_too_few_articles_are_refused(tmp_path):
    file = str(write(tmp_path, *articles(2)))
    with pytest.raises(DataError, match="too few articles: no question is left for train"):
        load_reading(ReadingData(paths=(file,), folds=3))
    with pytest.raises(DataError, match="name it with --data"):
        load_reading(ReadingData())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"folds": 2}, "folds must be at least 3, got 2"),
        ({"fold": 8}, "fold must be below folds = 8, got 8"),
        ({"batch": 0}, "batch must be at least 1, got 0"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        ReadingData(**fields)


class Pipeline:
    """Stands in for a spaCy pipeline: numbers are dates, all else is a noun."""

    meta = {"name": "stand_in", "version": "1"}  # noqa: RUF012
    vocab = "vocabulary"

    def pipe(self, docs):
        return docs


def make_doc(vocab, words, spaces):
    assert vocab == Pipeline.vocab and len(words) == len(spaces)
    return [
        SimpleNamespace(
            text=word,
            lemma_=word.upper().removesuffix("S") if word != "The" else "",
            pos_="NUM" if word.isdigit() else "SPACE" if word == "." else "NOUN",
            ent_type_="DATE" if word.isdigit() else "",
        )
        for word in words
    ]


@pytest.fixture
def spacy(monkeypatch):
    package, part = ModuleType("spacy"), ModuleType("spacy.tokens")
    package.__version__, part.Doc = "3", make_doc

    def load(name):
        if name != "stand_in":
            raise OSError(f"[E050] Can't find model {name!r}.\nMore.")
        return Pipeline()

    package.load = load
    monkeypatch.setitem(sys.modules, "spacy", package)
    monkeypatch.setitem(sys.modules, "spacy.tokens", part)


def test_a_tagger_adds_lemmas_parts_and_entities(tmp_path, spacy):
    file = write(tmp_path)
    context = load_squad(file, "stand_in").paragraphs[0].context
    at = context.words.index("1843")
    assert context.lemmas[at : at + 4] == ["1843", ".", "the", "analytical"]
    assert (PARTS[context.parts[at]], ENTITIES[context.entities[at]]) == ("NUM", "DATE")
    assert (PARTS[context.parts[0]], context.entities[0]) == ("NOUN", -1)
    assert context.parts[at + 1] == -1
    assert load_squad(file).paragraphs[0].context.lemmas == []  # kept apart in the cache
    with pytest.raises(DataError, match=r"tagger 'xx' can't be loaded: \[E050\] Can't find"):
        load_squad(file, "xx")


def test_a_pipeline_of_spacy_itself(tmp_path):
    """Where it is installed: rules in the place of a trained pipeline, saved as one is."""
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    rules = pipeline.add_pipe("attribute_ruler")
    rules.add([[{"IS_DIGIT": True}]], {"POS": "NUM", "LEMMA": "0"})
    rules.add([[{"LOWER": "the"}]], {"POS": "DET"})
    pipeline.add_pipe("entity_ruler").add_patterns([{"label": "DATE", "pattern": "1843"}])
    pipeline.to_disk(tmp_path / "pipeline")
    context = load_squad(write(tmp_path), str(tmp_path / "pipeline")).paragraphs[0].context
    at = context.words.index("1843")
    assert context.lemmas[at : at + 4] == ["0", ".", "the", "analytical"]
    assert [PARTS[context.parts[i]] for i in (at, at + 2)] == ["NUM", "DET"]
    assert ENTITIES[context.entities[at]] == "DATE" and context.entities[at + 1] == -1
    with pytest.raises(DataError, match=r"can't be loaded: \[E050\] Can't find model 'none'"):
        load_squad(write(tmp_path), "none")


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(DataError, match=r"needs spacy: pip install 'torchsru\[tags\]'"):
        load_squad(write(tmp_path), "en_core_web_sm")
