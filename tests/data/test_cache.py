import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

from torchsru.data import DataError, TextData, load_corpus
from torchsru.data import cache as module
from torchsru.data.cache import cache_folder, prepared


def build(folder):
    (folder / "a.bin").write_bytes(b"content")


def folders(cache):
    return [path for path in cache.iterdir() if path.is_dir()]


def test_what_is_there_is_not_built_again(cache):
    folder = prepared("key", "a set", build)
    assert folder == cache / "key" and (folder / "a.bin").read_bytes() == b"content"
    assert prepared("key", "a set", None) == folder


def test_the_variable_or_the_platform_says_where(monkeypatch, tmp_path):
    assert cache_folder() == tmp_path / "cache" / "text"
    monkeypatch.delenv("TORCHSRU_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "own"))
    if sys.platform == "linux":
        assert cache_folder() == tmp_path / "own" / "torchsru" / "text"
    assert cache_folder().parent.name == "torchsru" or os.name == "nt"


@pytest.mark.parametrize("error", [KeyboardInterrupt, DataError, OSError])
def test_a_build_that_is_cut_off_leaves_nothing(cache, error):
    def cut_off(folder):
        build(folder)
        raise error("no more")

    with pytest.raises(DataError if error is OSError else error, match="no more"):
        prepared("key", "a set", cut_off)
    assert folders(cache) == []
    assert prepared("key", "a set", build).exists()


@pytest.mark.parametrize("damage", ["cut short", "a byte", "gone", "facts", "format"])
def test_what_is_damaged_is_found_and_built_again(cache, capsys, damage):
    folder = prepared("key", "a set", build)
    match damage:
        case "cut short":
            (folder / "a.bin").write_bytes(b"conten")
        case "a byte":
            (folder / "a.bin").write_bytes(b"cOntent")
        case "gone":
            (folder / "a.bin").unlink()
        case "facts":
            (folder / "facts.json").write_bytes(b"")
        case "format":
            (folder / "facts.json").write_text('{"format": 0}')
    prepared("key", "a set", build)
    told = capsys.readouterr().err
    assert "is damaged: " in told and str(folder) in told and "built again" in told
    assert module.damage_of(folder) is None and (folder / "a.bin").read_bytes() == b"content"


def test_a_folder_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TORCHSRU_CACHE", str(tmp_path / "file"))
    told = r"a set can't be kept in .*file/text: Not a directory; name another.*TORCHSRU_CACHE"
    with pytest.raises(DataError, match=told):
        prepared("key", "a set", build)


def slow_build(folder):
    (folder / "a.bin").write_bytes(b"content")
    (folder.parent / f"built-{os.getpid()}").touch()
    time.sleep(0.5)


def test_two_processes_build_once(cache):
    spawning = multiprocessing.get_context("fork" if os.name == "posix" else "spawn")
    both = [spawning.Process(target=prepared, args=("key", "a set", slow_build)) for _ in "ab"]
    for process in both:
        process.start()
    for process in both:
        process.join(30)
    assert [process.exitcode for process in both] == [0, 0]
    assert len(list(cache.glob("built-*"))) == 1 and module.damage_of(cache / "key") is None


KILLED = """
import sys, time
from torchsru.data.cache import prepared

def build(folder):
    (folder / "a.bin").write_bytes(b"half")
    print("building", flush=True)
    time.sleep(60)

prepared("key", "a set", build)
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL is POSIX's")
def test_a_process_that_is_killed_holds_no_lock_and_leaves_no_half(cache):
    command = [sys.executable, "-c", KILLED]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "building\n"
        process.send_signal(signal.SIGKILL)
    assert not (cache / "key").exists()
    assert (prepared("key", "a set", build) / "a.bin").read_bytes() == b"content"
    assert [path.name for path in folders(cache)] == ["key"]


def test_a_corpus_is_prepared_once_and_again_when_anything_changes(tmp_path, cache):
    text = tmp_path / "text"
    text.write_text("to be or not to be\n" * 20)
    data = TextData(paths=(str(text),), vocabulary="words")
    first = load_corpus(data)
    stamp = (first.folder / "train.bin").stat().st_mtime_ns
    again = load_corpus(TextData(paths=(str(text),), vocabulary="words", batch=7))
    assert again.content == first.content and again.folder == first.folder
    assert (first.folder / "train.bin").stat().st_mtime_ns == stamp
    others = [TextData(paths=(str(text),), vocabulary="words", vocabulary_size=4)]
    others += [TextData(paths=(str(text),), vocabulary="words", heldout=0.2)]
    found = {first.content, *(load_corpus(other).content for other in others)}
    text.write_text("to be or not to do\n" * 20)
    found.add(load_corpus(data).content)
    assert len(found) == 4 == len(folders(cache))


def test_a_damaged_corpus_is_built_again_as_it_was(tmp_path, capsys):
    (tmp_path / "text").write_text("to be or not to be\n" * 20)
    data = TextData(paths=(str(tmp_path / "text"),), vocabulary="words")
    first = load_corpus(data)
    before, content = first.train.ids.tolist(), first.content
    file = first.folder / "train.bin"
    file.write_bytes(file.read_bytes()[:-1])
    again = load_corpus(data)
    assert again.train.ids.tolist() == before and again.content == content
    assert "train.bin is damaged" in capsys.readouterr().err
    shutil.rmtree(again.folder)
    assert load_corpus(data).content == content
