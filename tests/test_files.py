"""Files are whole or absent, and carry what they are."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from hwnas.errors import FaultError, HwnasError, InputError, MismatchError
from hwnas.files import check_target, digest, exclusive, read_json, write_atomic, write_bytes, write_json


class Stop(BaseException):
    """As Ctrl-C: no Exception."""


@pytest.mark.parametrize("error", [ValueError, Stop])
def test_a_writer_that_fails_leaves_the_old_content_and_nothing_else(
    tmp_path: Path, error: type[BaseException]
) -> None:
    path = tmp_path / "a.json"
    write_bytes(path, b"old")

    def write(file: IO[bytes]) -> None:
        file.write(b"half")
        raise error

    with pytest.raises(error):
        write_atomic(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_a_fault_that_names_the_file(tmp_path: Path) -> None:
    def write(_: IO[bytes]) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(FaultError, match=r"cannot write .*a.json: No space left on device") as error:
        write_atomic(tmp_path / "a.json", write)
    assert error.value.exit_status == 1
    assert list(tmp_path.iterdir()) == []


def test_writing_makes_folders_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "some" / "where" / "a.bin"
    write_bytes(path, b"first")
    write_bytes(path, b"second")
    assert path.read_bytes() == b"second"
    assert list(path.parent.iterdir()) == [path]


def test_a_written_file_has_the_rights_of_any_new_file(tmp_path: Path) -> None:
    """A temporary file is readable by its owner only; what it becomes is not."""
    write_bytes(tmp_path / "ours", b"")
    (tmp_path / "plain").touch()
    ours, plain = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "plain"))
    assert ours == plain


def test_a_place_that_can_not_be_written_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FaultError, match="cannot write"):
        write_bytes(tmp_path / "file" / "a.json", b"")
    with pytest.raises(FaultError, match="cannot write"):
        write_bytes(tmp_path, b"")


def test_json_comes_back(tmp_path: Path) -> None:
    data = {"a": [1, 2.5], "b": {"c": None}, "d": "é"}
    write_json(tmp_path / "a.json", "thing", 3, data)
    assert read_json(tmp_path / "a.json", "thing", 3) == {"format": "hwnas.thing", "version": 3, **data}


def test_json_has_no_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", "thing", 1, {"a": math.nan})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("content", "kind", "words"),
    [
        (None, InputError, "there is no file"),
        (b"", InputError, "not readable as a hwnas thing file"),
        (b'{"format": "hwnas.th', InputError, "not readable as a hwnas thing file"),
        (b"\xff\xfe\x00", InputError, "not readable as a hwnas thing file"),
        (b"[1, 2]", InputError, "not a hwnas thing file"),
        (b"{}", InputError, "not a hwnas thing file"),
        (b'{"format": "hwnas.other", "version": 1}', InputError, "'hwnas.other'"),
        (b'{"format": "hwnas.thing"}', MismatchError, "version None, this hwnas reads 1"),
        (b'{"format": "hwnas.thing", "version": 2}', MismatchError, "version 2, this hwnas reads 1"),
    ],
)
def test_a_file_that_is_not_ours_is_named(
    tmp_path: Path, content: bytes | None, kind: type[HwnasError], words: str
) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind) as error:
        read_json(path, "thing", 1)
    assert words in str(error.value)
    assert str(path) in str(error.value)


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder"):
        read_json(tmp_path, "thing", 1)


def test_targets(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check_target(tmp_path / "file")
    check_target(tmp_path / "new" / "deeper" / "file")
    with pytest.raises(InputError, match="is a folder: name a file"):
        check_target(tmp_path)
    with pytest.raises(InputError, match="file is not a folder"):
        check_target(tmp_path / "file" / "deeper" / "file")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_relative_target_is_meant_from_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    check_target(Path("file"))
    check_target(Path("new/file"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_no_target(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InputError, match="no right to write"):
        check_target(tmp_path / "file")


@pytest.mark.parametrize("other", [("a", "bc"), ("ab", ""), ("abc",), (b"ab", "c"), ("ab", "c", None)])
def test_a_digest_tells_parts_apart(other: tuple[Any, ...]) -> None:
    assert digest(*other) != digest("ab", "c")
    assert digest(*other) == digest(*json.loads(json.dumps(other))) if b"ab" not in other else True


def test_a_folder_belongs_to_one_process_at_a_time(tmp_path: Path) -> None:
    program = (
        f"from pathlib import Path; from hwnas.files import exclusive\nwith exclusive(Path({str(tmp_path)!r})): pass"
    )
    with exclusive(tmp_path):
        other = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "another process is at work in" in other.stderr
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0
