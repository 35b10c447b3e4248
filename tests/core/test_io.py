"""Atomic files with digests, and locks of folders."""

import errno
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from pr2l.core import digest
from pr2l.core.errors import UserError
from pr2l.core.io import DamagedFile, read_json, write_json
from pr2l.core.lock import locked

VALUES = {"rate": 0.5, "seeds": (0, 1), "names": {"1": None}, "text": "grün\n"}


@pytest.mark.parametrize("lines", [False, True])
def test_json_is_read_as_it_was_written(lines, tmp_path):
    write_json(tmp_path / "values.json", VALUES, lines=lines)
    assert read_json(tmp_path / "values.json") == VALUES | {"seeds": [0, 1]}
    assert [path.name for path in tmp_path.iterdir()] == ["values.json"]


def test_any_changed_byte_of_a_json_file_is_detected_or_harmless(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, VALUES)
    content, expected = path.read_bytes(), read_json(path)
    refused = 0
    for index in range(len(content)):
        for bit in (0, 2, 5):
            path.write_bytes(content[:index] + bytes([content[index] ^ (1 << bit)]) + content[index + 1 :])
            try:
                values = read_json(path)
            except DamagedFile:
                refused += 1
            else:  # white space, or the key of the digest itself
                assert {key: values[key] for key in expected} == expected
    assert refused > 2 * len(content)


def test_any_truncation_of_a_json_file_is_detected(tmp_path):
    path = tmp_path / "values.json"
    write_json(path, VALUES)
    content = path.read_bytes().rstrip()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(DamagedFile, match="not JSON"):
            read_json(path)


@pytest.mark.parametrize("text", ["[1]", "[" * 100_000, '{"a": ' + "1" * 5_000 + "}", '{"a": NaN, "a"}', "\xff"])
def test_text_that_is_not_a_json_object_is_refused(text, tmp_path):
    (tmp_path / "values.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DamagedFile, match=r"values\.json is damaged.*Delete it\."):
        read_json(tmp_path / "values.json", "Delete it.")


def test_json_with_a_damaged_name_of_the_digest_is_refused(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"step": 1, "digest of": "b"})
    path.write_text(path.read_text().replace('"digest":', '"dihest":'))
    with pytest.raises(DamagedFile, match="name 'digest'"):
        read_json(path)


def test_json_without_a_digest_is_accepted(tmp_path):
    (tmp_path / "old.json").write_text('{"steps": 5}')
    assert read_json(tmp_path / "old.json") == {"steps": 5}


def test_crc32_is_that_of_all_bytes_in_order():
    rows = np.arange(12, dtype=np.float16).reshape(3, 4)
    assert digest.crc32([rows]) == digest.crc32([rows[:1], rows[1:]]) == digest.crc32([rows[:, ::-1][:, ::-1]])
    assert digest.crc32([rows]) != digest.crc32([rows[::-1]]) and digest.crc32([]) == 0


OTHER_PROCESS = """
import sys
from pathlib import Path
from pr2l.core.lock import locked
with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def other_process(tmp_path):
    """A process that holds the lock of tmp_path until it is killed or gets a line."""
    command = [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_locked_folder_is_refused_with_its_owner(other_process, tmp_path):
    with pytest.raises(UserError, match=rf"{tmp_path} is in use by process {other_process.pid} on "), locked(tmp_path):
        pass


def test_lock_of_a_killed_process_is_taken_over(other_process, tmp_path, capsys):
    other_process.kill()
    other_process.wait()
    with locked(tmp_path):
        assert f"was in use by process {other_process.pid} on" in capsys.readouterr().out
        assert json.loads((tmp_path / ".lock").read_text())["process"] == os.getpid()


def test_released_lock_is_silent(other_process, tmp_path, capsys):
    other_process.communicate("\n")
    for _ in range(2):
        with locked(tmp_path):
            pass
    assert capsys.readouterr().out == "" and (tmp_path / ".lock").read_text() == ""


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_file_system_without_locks_is_said(number, tmp_path, monkeypatch, capsys):
    def flock(file, operation):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", flock)
    with locked(tmp_path):
        assert f"{tmp_path} has no lock ({os.strerror(number)}); nothing prevents" in capsys.readouterr().out
