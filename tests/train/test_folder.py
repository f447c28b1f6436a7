import errno
import os

import pytest

from torchsru.train import RunError
from torchsru.train import folder as module
from torchsru.train.folder import check_free, hold, naming, read_json, write_file, write_folder


def test_a_file_is_replaced_whole(tmp_path):
    write_file(tmp_path / "a", "first")
    write_file(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"second"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("call", ["os.fsync", "Path.replace", "open"])
def test_a_file_that_cannot_be_replaced_stays(tmp_path, monkeypatch, call):
    write_file(tmp_path / "a", "first")

    def fail(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(f"torchsru.train.folder.{call}", fail, raising=False)
        with pytest.raises(RunError, match=r"/a can't be written: No space left on device"):
            write_file(tmp_path / "a", "second")
    assert (tmp_path / "a").read_text() == "first"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.skipif(not os.path.exists("/proc/self/fd"), reason="names open files by /proc")
def test_files_reach_the_disk_before_the_name_does(tmp_path, monkeypatch):
    """A crash of the machine, not of the process: what is not flushed may be gone."""
    calls = []
    for call in ("os.fsync", "Path.rename", "Path.replace"):
        place, _, name = call.partition(".")
        honest = getattr(getattr(module, place), name)

        def noted(*arguments, honest=honest, name=name):
            what = arguments[0]
            if name == "fsync":
                what = os.readlink(f"/proc/self/fd/{what}")
            calls.append((name, os.path.basename(what)))
            return honest(*arguments)

        monkeypatch.setattr(f"torchsru.train.folder.{call}", noted)
    write_folder(tmp_path / "sub" / "x", {"a": b"1", "b": b"2"})
    write_file(tmp_path / "y", "3")
    assert calls == [
        ("fsync", tmp_path.name),  # that "sub" is there
        *(("fsync", name) for name in ("a", "b", ".x.new")),
        ("rename", ".x.new"),
        ("fsync", "sub"),
        ("fsync", ".y.new"),
        ("replace", ".y.new"),
        ("fsync", tmp_path.name),
    ]


def test_a_lock_names_its_holder_and_can_be_had_again(tmp_path):
    with hold(tmp_path / "run"):
        with (
            pytest.raises(RunError, match=f"run is in use by process {os.getpid()} on "),
            hold(tmp_path / "run"),
        ):
            raise AssertionError("two hold one folder")
        (tmp_path / "run" / ".lock").write_bytes(b"\xff, not ours")
        with pytest.raises(RunError, match="in use by another process"), hold(tmp_path / "run"):
            raise AssertionError("two hold one folder")
    with hold(tmp_path / "run"):
        check_free(tmp_path / "run")


def test_a_lock_is_given_back_after_an_error(tmp_path):
    with pytest.raises(ZeroDivisionError), hold(tmp_path):
        _ = 1 / 0
    with hold(tmp_path):
        pass


def test_free_is_what_nobody_put_anything_in(tmp_path):
    check_free(tmp_path / "new")
    check_free(tmp_path)
    for cut_short in (".lock", ".recipe.json.new"):  # a start that was killed
        (tmp_path / cut_short).touch()
    check_free(tmp_path)
    (tmp_path / ".hidden").touch()
    with pytest.raises(RunError, match="is not an empty folder"):
        check_free(tmp_path)
    with pytest.raises(RunError, match="is not an empty folder"):
        check_free(tmp_path / ".hidden")


def test_other_errors_pass_unnamed(tmp_path):
    with pytest.raises(KeyError), naming(tmp_path):
        raise KeyError
    with pytest.raises(RunError, match="mine"), naming(tmp_path):
        raise RunError("mine")
    with pytest.raises(RunError, match="can't be read: No such file"):
        read_json(tmp_path / "none")
