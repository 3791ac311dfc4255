"""A killed writer leaves the old file, never half of the new one."""

import errno
import os
import re
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from avatar_core.errors import UserError
from avatar_core.io.atomic import (
    atomic_directory,
    atomic_file,
    check_replaceable,
    check_writable,
    clean_leftovers,
    write_json,
    write_text,
)


def test_file_replaced_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "a.txt"
    write_text(target, "old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]
    write_text(target, "new")
    assert target.read_text() == "new"


def test_two_threads_write_one_file_at_once(tmp_path):
    path, both = tmp_path / "a.txt", threading.Barrier(2, timeout=20)

    def write(text: str) -> None:
        with atomic_file(path) as temporary:
            temporary.write_text(text)
            both.wait()  # both hold their temporaries now

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(write, "one"), pool.submit(write, "two")]:
            done.result()
    assert path.read_text() in ("one", "two") and list(tmp_path.iterdir()) == [path]


def test_directory_replaced_whole(tmp_path):
    target = tmp_path / "d"
    with atomic_directory(target) as folder:
        (folder / "one").write_text("1")
    with pytest.raises(RuntimeError), atomic_directory(target) as folder:
        (folder / "two").write_text("2")
        raise RuntimeError
    assert os.listdir(target) == ["one"]
    with atomic_directory(target) as folder:
        (folder / "two").write_text("2")
    assert os.listdir(target) == ["two"] and os.listdir(tmp_path) == ["d"]


def test_a_folder_of_something_else_is_not_replaceable(tmp_path):
    target = tmp_path / "d"
    check_replaceable(target, r"a\.txt", "notes of ours")
    target.mkdir()
    check_replaceable(target, r"a\.txt", "notes of ours")
    (target / "a.txt").write_text("ours")
    check_replaceable(target, r"a\.txt", "notes of ours")
    for other in ("a.txt.bak", "thesis.doc", ".hidden"):
        (target / other).write_text("theirs")
        with pytest.raises(
            UserError, match="expected a new or empty folder or notes of ours, found .*nothing was changed"
        ):
            check_replaceable(target, r"a\.txt", "notes of ours")
        (target / other).unlink()
    (target / "a.txt").unlink()
    (target / "a.txt").mkdir()
    with pytest.raises(UserError, match="found a.txt"):
        check_replaceable(target, r"a\.txt", "notes of ours")


def test_json_is_stable_and_refuses_nan(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": [1.5]})
    write_json(tmp_path / "b.json", {"a": [1.5], "b": 1})
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "b.json").read_bytes()
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"a": float("nan")})
    assert '"b": 1' in (tmp_path / "a.json").read_text()


def test_kill_while_writing_keeps_the_old_file_and_leaves_a_recognisable_rest(tmp_path):
    target = tmp_path / "big.bin"
    target.write_bytes(b"old")
    code = (
        "import sys, time; from avatar_core.io.atomic import atomic_file\n"
        f"with atomic_file({str(target)!r}) as t:\n"
        "    t.write_bytes(b'half'); print('written', flush=True); time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline().strip() == "written"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    time.sleep(0.05)
    assert target.read_bytes() == b"old"
    left = clean_leftovers(tmp_path)
    assert len(left) == 1 and os.listdir(tmp_path) == ["big.bin"]


def test_a_full_disk_is_one_line(tmp_path):
    target = tmp_path / "a.bin"
    target.write_bytes(b"old")
    with pytest.raises(
        UserError, match=r"a\.bin: expected a place to write to, found: No space left on device"
    ):
        with atomic_file(target):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    with pytest.raises(UserError, match=r"d: expected a place to write to, found: No space left"):
        with atomic_directory(tmp_path / "d") as folder:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(folder / "inside"))
    with pytest.raises(FileNotFoundError), atomic_file(target):  # another file's trouble is not ours
        open(tmp_path / "absent")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a.bin"]


def test_a_name_of_255_bytes_can_be_written(tmp_path):
    name = "\u4e2d" * 84 + ".md"
    write_text(tmp_path / name, "text")
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("note.txt/a.mp4", "note.txt"),
        ("note.txt/deeper/a.mp4", "note.txt"),
        ("x" * 300 + ".mp4", "File name too long"),
        ("new/" + "x" * 300 + ".mp4", "File name too long"),
        ("me.png", "me.png"),
        (".", "me.png"),
        ("/proc/a.mp4", "No such file"),
    ],
)
def test_a_place_that_cannot_be_written_is_found_out_before(tmp_path, path, found):
    (tmp_path / "note.txt").write_text("mine")
    (tmp_path / "me.png").write_bytes(b"portrait")
    with pytest.raises(UserError, match=rf"expected .*found.*{re.escape(found)}"):
        check_writable(tmp_path / path, [tmp_path / "me.png"])
    assert sorted(os.listdir(tmp_path)) == ["me.png", "note.txt"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(UserError, match="Permission denied"):
        check_writable(tmp_path / "a.mp4", [])


def test_trying_leaves_nothing(tmp_path):
    (tmp_path / "old.mp4").write_bytes(b"old")
    for path in ("a.mp4", "new/deeper/a.mp4", "old.mp4"):
        check_writable(tmp_path / path, [tmp_path / "absent.wav"])
    assert os.listdir(tmp_path) == ["old.mp4"] and (tmp_path / "old.mp4").read_bytes() == b"old"
