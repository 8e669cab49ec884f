from __future__ import annotations

import errno
import os
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from screening.errors import StorageError, UserError
from screening.storage import Folder, again, private_folder


@pytest.fixture(params=["local", "memory", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "s3":
        options: dict[str, Any] = request.getfixturevalue("s3")
        return Folder("s3://screening/folder", options)
    return Folder(str(tmp_path / "folder") if request.param == "local" else f"memory://{tmp_path.name}/folder")


def test_a_file_is_written_whole_or_not_at_all(folder: Folder) -> None:
    folder.write("a/b.txt", b"one")
    folder.write("a/b.txt", b"two")
    assert folder.read("a/b.txt") == b"two"
    assert folder.names("a") == ["b.txt"]

    def fail() -> None:
        with folder.writer("a/c.txt") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not folder.exists("a/c.txt")
    assert folder.names("a") == ["b.txt"]


def test_what_is_not_there_is_said(folder: Folder) -> None:
    assert folder.names("nothing") == []
    assert not folder.exists("nothing")
    with pytest.raises(FileNotFoundError):
        folder.read("nothing")


def test_of_many_who_create_one_file_one_does(folder: Folder) -> None:
    wins: list[int] = []
    together = threading.Barrier(8)

    def attempt(number: int) -> None:
        together.wait()
        if folder.create("lease/one", str(number).encode()):
            wins.append(number)

    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert folder.read("lease/one") == str(wins[0]).encode()
    assert folder.names("lease") == ["one"]


def test_a_folder_travels_without_its_connection(folder: Folder) -> None:
    folder.write("x", b"1")
    assert pickle.loads(pickle.dumps(folder)).read("x") == b"1"


def test_an_unknown_scheme_is_the_users_error() -> None:
    with pytest.raises(UserError, match="cannot use 'nosuch://x' as a folder"):
        Folder("nosuch://x").exists()


def test_a_store_that_fails_for_a_moment_is_asked_again() -> None:
    answers: list[Any] = [ConnectionResetError(), OSError(5, "/archive/MUELLER"), b"data"]

    def ask() -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert again(ask, 3) == b"data"
    answers[:] = [ConnectionResetError(), OSError(5, "/archive/MUELLER")]
    with pytest.raises(StorageError, match=r"^OSError \(Input/output error\) from storage, 2 times$"):
        again(ask, 2)


@pytest.mark.parametrize(
    ("answer", "raised", "message"),
    [
        (FileNotFoundError("x"), FileNotFoundError, "x"),
        (OSError(errno.ENOSPC, "full"), StorageError, r"^OSError \(No space left on device\) from storage$"),
        (PermissionError("Access Denied"), StorageError, r"^PermissionError from storage$"),
        (OSError(errno.EROFS, "closed"), StorageError, r"^OSError \(Read-only file system\) from storage$"),
        (MemoryError("4 GB"), MemoryError, "4 GB"),
    ],
)
def test_an_answer_and_a_full_disk_are_not_asked_again(answer: Exception, raised: type, message: str) -> None:
    asked: list[int] = []

    def ask() -> None:
        asked.append(1)
        raise answer

    with pytest.raises(raised, match=message):
        again(ask)
    assert asked == [1]


@pytest.mark.parametrize("folder", ["memory", "s3"], indirect=True)
def test_a_creation_whose_answer_was_lost_is_still_ours(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store made the file, the answer did not come through, and asked again it says that the file exists."""
    fs = folder.filesystem
    pipe_file, lost = type(fs).pipe_file, [True]

    def losing(self: Any, path: str, value: bytes, **options: Any) -> None:
        pipe_file(self, path, value, **options)
        if lost:
            lost.clear()
            raise ConnectionResetError

    monkeypatch.setattr(type(fs), "pipe_file", losing)
    assert folder.create("lease/one", b"mine")
    assert not folder.create("lease/one", b"another's")


def test_files_and_folders_are_their_owners_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        folder = Folder(str(tmp_path / "runs" / "one"))
        folder.write("results/part", b"rows")
        folder.create("lease/epoch", b"me")
        Folder(str(tmp_path / "public")).write("tables/report.csv", b"shares", mode=0o644)
    finally:
        os.umask(before)
    modes = {path.relative_to(tmp_path).as_posix(): path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {
        "runs": 0o700,
        "runs/one": 0o700,
        "runs/one/results": 0o700,
        "runs/one/results/part": 0o600,
        "runs/one/lease": 0o700,
        "runs/one/lease/epoch": 0o600,
        "public": 0o755,
        "public/tables": 0o755,
        "public/tables/report.csv": 0o644,
    }


@pytest.mark.parametrize("what", ["a link", "open to others"])
def test_a_folder_that_somebody_else_prepared_is_not_used(tmp_path: Path, what: str) -> None:
    place = tmp_path / f"screening-{os.getuid()}"
    if what == "a link":
        (tmp_path / "theirs").mkdir(0o700)
        place.symlink_to(tmp_path / "theirs")
    else:
        place.mkdir(0o755)
    with pytest.raises(UserError, match=r"must be a folder of yours that is closed to others \(chmod 700\); remove it"):
        private_folder(str(tmp_path))
