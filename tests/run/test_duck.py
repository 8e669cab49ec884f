"""DuckDB over storage that fails now and then, and for good."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from screening import storage
from screening.errors import StorageError
from screening.run.duck import database, literal, name_of

ROWS = 300_000


class Failing(MemoryFileSystem):
    """Fails at every question of a thread but each ``every``-th; 0 means always."""

    protocol = "memory"
    cachable = False

    def __init__(self, every: int) -> None:
        super().__init__()
        self.every, self.failed, self._of_thread = every, 0, threading.local()

    def _question(self) -> None:
        self._of_thread.asked = asked = getattr(self._of_thread, "asked", 0) + 1
        if not self.every or asked % self.every:
            self.failed += 1
            raise ConnectionResetError("while reading /a/people/Anna Sample.parquet")

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        self._question()
        file = super().open(path, mode, **options)
        read = file.read

        def asked(length: int = -1) -> bytes:
            found: bytes = read(length)  # it fails after it moved on
            self._question()
            return found

        return _File(file, asked)

    def glob(self, path: str, **options: Any) -> Any:
        self._question()
        return super().glob(path, **options)


class _File:
    def __init__(self, file: Any, read: Any) -> None:
        self._file, self.read = file, read

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(storage, "RETRY_FIRST_S", 0.001)
    fs = fsspec.filesystem("memory")
    with fs.open("/duck/rows [1].parquet", "wb") as file:
        pq.write_table(pa.table({"a": range(ROWS)}), file, row_group_size=50_000)
    yield "/duck/rows [1].parquet"
    fs.rm("/duck", recursive=True)


def total(fs: MemoryFileSystem, path: str) -> Any:
    with database() as db:
        files = literal(name_of(db, fs, path))
        return db.execute("SELECT count(*), sum(a) FROM read_parquet($files)", {"files": files}).fetchone()


def test_what_fails_now_and_then_is_asked_again(path: str) -> None:
    fs = Failing(every=3)
    assert total(fs, path) == (ROWS, ROWS * (ROWS - 1) // 2)
    assert fs.failed > 10


def test_what_fails_for_good_ends_in_words_that_name_no_path(path: str) -> None:
    with pytest.raises(StorageError, match=r"^ConnectionResetError from storage, 5 times$"):
        total(Failing(every=0), path)
