from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import pytest

from screening.errors import UserError
from screening.storage import Folder


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


def test_locations_are_private_on_a_local_disk(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    folder.write("secret", b"path", mode=0o600)
    assert (tmp_path / "secret").stat().st_mode & 0o777 == 0o600


def test_an_unknown_scheme_is_the_users_error() -> None:
    with pytest.raises(UserError, match="cannot use 'nosuch://x' as a folder"):
        Folder("nosuch://x").exists()
