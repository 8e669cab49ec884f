"""DuckDB over the files of a run: out of core, within a stated memory, on any fsspec file system."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from screening.errors import StorageError
from screening.storage import AskedFile, Folder, again

MEMORY_MB = 1024
_MB_A_THREAD = 256  # below, a thread's own buffers leave no room for the tables


@contextmanager
def database(*, memory_mb: int = MEMORY_MB) -> Iterator[duckdb.DuckDBPyConnection]:
    """Open an empty database in a folder of its own under TMPDIR, which is removed with it.

    It lies on disk, so that tables beyond ``memory_mb`` are spilled there: some 3 GB at 10^7 records.

    Raises
    ------
    StorageError
        Storage, which a statement of the block reads from, did not answer, however often it was asked.
    """
    with tempfile.TemporaryDirectory(prefix="screening-") as scratch:
        config: dict[str, str | bool | int | float | list[str]] = {
            "memory_limit": f"{memory_mb}MB",
            "temp_directory": f"{scratch}/spill",
            "threads": str(max(1, min(os.cpu_count() or 1, memory_mb // _MB_A_THREAD))),
            "autoinstall_known_extensions": "false",  # nothing is fetched from elsewhere
            "autoload_known_extensions": "false",
        }
        connection = duckdb.connect(f"{scratch}/tables.duckdb", config=config)
        try:
            connection.execute("SET enable_progress_bar = false")
            connection.execute("SET force_compression = 'uncompressed'")  # it would cost more than it saves
            connection.execute("SET checkpoint_threshold = '16GB'")  # it is thrown away: no journal to fold in
            yield connection
        except duckdb.Error as error:
            # What Python raises under DuckDB comes back as text: a traceback, which names paths, and what DuckDB adds.
            if found := re.search(rf"^{StorageError.__name__}: (.*)$", str(error), re.MULTILINE):
                raise StorageError(found[1]) from None
            raise
        finally:
            connection.close()


@contextmanager
def streamed(
    connection: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]
) -> Iterator[None]:
    """Let ``name`` stand for ``batches`` in one statement; what they raise comes out as it is."""
    raised: list[Exception] = []

    def noted() -> Iterator[pa.RecordBatch]:
        try:
            yield from batches
        except Exception as error:
            raised.append(error)
            raise

    connection.register(name, pa.RecordBatchReader.from_batches(schema, noted()))
    try:
        yield
    except duckdb.Error:
        if raised:
            raise raised[0] from None
        raise
    finally:
        connection.unregister(name)


def literal(path: str) -> str:
    """Return the pattern that only ``path`` fits: what DuckDB reads by name may hold wildcards."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in path)


def path_namer(connection: duckdb.DuckDBPyConnection, folder: Folder) -> Callable[[str], str]:
    """Return how DuckDB names a file in ``folder``; on remote file systems it reads through fsspec from now on."""
    return lambda name: name_of(connection, folder.filesystem, folder.path(name))


def name_of(connection: duckdb.DuckDBPyConnection, fs: AbstractFileSystem, path: str) -> str:
    """Return how DuckDB names the file that ``fs`` has at ``path``."""
    if isinstance(fs, LocalFileSystem):
        return os.path.abspath(path)
    protocol = fs.protocol if isinstance(fs.protocol, str) else fs.protocol[0]
    if not connection.filesystem_is_registered(protocol):
        connection.register_filesystem(_Asked(fs, protocol))
    return f"{protocol}://{path}"


class _Asked(AbstractFileSystem):
    """A remote file system that is asked again where it fails, as `Folder` asks it; what DuckDB wants of one."""

    cachable = False

    def __init__(self, fs: AbstractFileSystem, protocol: str) -> None:
        super().__init__()
        self._fs = fs
        self.protocol = protocol

    def open(self, path: str, mode: str = "rb", **options: Any) -> Any:
        return AskedFile(again(lambda: self._fs.open(path, mode, **options)))

    def glob(self, path: str, **options: Any) -> Any:
        return again(lambda: self._fs.glob(path, **options))

    def size(self, path: str) -> Any:
        return again(lambda: self._fs.size(path))

    def modified(self, path: str) -> Any:
        return again(lambda: self._fs.modified(path))

    def exists(self, path: str, **options: Any) -> bool:
        return bool(again(lambda: self._fs.exists(path, **options)))
