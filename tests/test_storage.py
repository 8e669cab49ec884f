from __future__ import annotations

import errno
import io
import itertools
import os
import pickle
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from screening.errors import StorageError, UserError
from screening.storage import (
    ANSWER_S,
    CONNECT_S,
    LONGEST_S,
    RETRY_LONGEST_S,
    Folder,
    again,
    open_filesystem,
    private_folder,
)
from tests.faults.proxy import FaultyProxy


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


def test_bytes_are_on_the_disk_before_a_file_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a power failure a results file must not be empty. Names are made sure of where that is asked for."""
    done: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        real = getattr(os, name)

        def note(*arguments: Any) -> None:
            is_folder = isinstance(arguments[0], int) and stat.S_ISDIR(os.fstat(arguments[0]).st_mode)
            done.append(f"{name} of the folder" if is_folder else name)
            real(*arguments)

        return note

    for name in ("fsync", "replace", "link"):
        monkeypatch.setattr(os, name, noting(name))
    folder = Folder(str(tmp_path))
    folder.write("a", b"one")
    assert done == ["fsync", "replace"]
    folder.sync_names("", "no such folder")
    assert done[2:] == ["fsync of the folder"]
    done.clear()
    assert folder.create("b", b"one")
    assert done == ["fsync", "link", "fsync of the folder"]


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


def ask_in_vain() -> None:
    raise ConnectionResetError


def test_pauses_between_tries_double_up_to_a_limit_and_differ_by_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is short of breath gets air, and not all workers come back together."""
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    for _ in range(2):
        with pytest.raises(StorageError, match=r"^ConnectionResetError from storage, 8 times$"):
            again(ask_in_vain, 8)
    for pause, longest in zip(
        pauses, [0.5, 1, 2, 4, RETRY_LONGEST_S, RETRY_LONGEST_S, RETRY_LONGEST_S] * 2, strict=True
    ):
        assert longest / 2 <= pause <= longest
    assert pauses[:7] != pauses[7:]


def test_a_store_that_takes_minutes_for_each_answer_is_given_up_before_the_tries_are_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seconds = itertools.count(0.0, LONGEST_S / 2 - 1)
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(time, "monotonic", lambda: next(seconds))
    with pytest.raises(StorageError, match=r"^ConnectionResetError from storage, 3 times$"):
        again(ask_in_vain, 20)


def test_an_object_store_is_not_waited_for_without_end_and_is_asked_again_in_one_place() -> None:
    """The library below would ask again by itself, so that tries multiply, and waits a minute each time."""
    fs, _ = open_filesystem("s3://bucket/a", {"key": "k", "secret": "s"})
    waits = {"connect_timeout": CONNECT_S, "read_timeout": ANSWER_S, "retries": {"max_attempts": 0}}
    assert fs.config_kwargs == waits
    assert not fs.dircache.use_listings_cache
    own = {"key": "k", "secret": "s", "config_kwargs": {"read_timeout": 2}, "use_listings_cache": True}
    fs, _ = open_filesystem("s3://bucket/a", own)
    assert fs.config_kwargs == waits | {"read_timeout": 2}
    assert fs.dircache.use_listings_cache


@pytest.mark.parametrize("kind", ["500", "short"])
def test_where_nobody_else_asks_again_the_file_system_does(s3: dict[str, Any], kind: str) -> None:
    """Of s3fs' own accord it takes neither for a fault that passes; catalogs list and read through it alone."""
    with FaultyProxy(s3["endpoint_url"], seed=1, kinds=(kind,)) as proxy:
        fs, path = open_filesystem("s3://screening/a", s3 | {"endpoint_url": proxy.url})
        fs.pipe_file(path, bytes(1000))
        proxy.share = 0.4
        assert [fs.cat_file(path) for _ in range(6)] == [bytes(1000)] * 6
        assert proxy.done[kind] > 1


def test_an_open_file_of_an_object_store_is_read_again_where_an_answer_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    folder = Folder("memory://asked")
    folder.write("a", b"0123456789")
    fs, failing = folder.filesystem, [True, False, True]
    opened = fs.open

    class Failing(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            data = super().read(size)
            if failing and failing.pop(0):
                raise ConnectionResetError  # when some of it has come
            return data

    def open_later(path: str, mode: str) -> Any:
        if failing.pop(0):
            raise ConnectionResetError
        return Failing(opened(path, mode).read())

    monkeypatch.setattr(fs, "open", open_later)
    with folder.open("a") as file:
        assert file.read(4) == b"0123"
        assert file.read() == b"456789"
    assert failing == []
    folder.remove("a")


def test_a_store_that_fails_is_not_taken_for_one_that_holds_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a run that is published would be made again, and a lease that is held be taken."""

    def fail(*_: object, **__: object) -> None:
        raise ConnectionResetError

    folder = Folder("memory://asked")
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(folder.filesystem, "info", fail)
    monkeypatch.setattr(folder.filesystem, "ls", fail)
    for ask in (folder.exists, folder.names):
        with pytest.raises(StorageError, match="^ConnectionResetError from storage, 5 times$"):
            ask("manifest.json")


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
