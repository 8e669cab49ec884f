"""The files of a catalog: written whole or not at all, found by the id in their footers."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

from screening.archive.root import join, without_credentials
from screening.contract import CATALOG_COLUMNS, sha256_of
from screening.errors import UserError
from screening.storage import make_folders, open_filesystem, sync_folder

ROW_GROUP = 16_384
NAMES = ("catalog", "locations")
_ID_KEY = b"screening_catalog_id"
_UNFINISHED = re.compile(
    r"\.pending-[0-9a-f]{8}-\w+\.parquet|(catalog|locations)\.[0-9a-f]{12}\.parquet|catalog\.json\.pending-[0-9a-f]{8}"
)

CATALOG_SCHEMA = pa.schema(
    [
        pa.field(name, pa.list_(pa.string()) if kind == "list<string>" else pa.type_for_alias(kind))
        for name, kind, _ in CATALOG_COLUMNS
    ]
)
LOCATION_SCHEMA = pa.schema([pa.field("record_id", pa.string()), pa.field("location", pa.string())])


def open_folder(path: str, storage_options: dict[str, Any] | None = None) -> tuple[AbstractFileSystem, str]:
    """Return the file system and path of a catalog's folder; it need not exist yet."""
    try:
        fs, folder = open_filesystem(str(path), storage_options)
    except Exception as error:  # every file system raises its own
        shown = without_credentials(str(path))
        raise UserError(
            f"The catalog {shown!r} cannot be reached ({type(error).__name__}: {error}); give a folder or its URL."
        ) from error
    return fs, folder.rstrip("/")


def id_hashes(ids: list[str]) -> np.ndarray:
    """Return 64 bits for each id: at 10^7 records two share them with probability 3e-6."""
    return np.frombuffer(
        b"".join(hashlib.blake2b(i.encode("utf-8", "surrogateescape"), digest_size=8).digest() for i in ids), np.uint64
    )


@contextmanager
def locate(fs: AbstractFileSystem, folder: str, name: str, catalog_id: str) -> Iterator[IO[bytes]]:
    """Open the data file ``name`` that belongs to ``catalog_id``, whether or not it has its plain name yet."""
    for candidate in (f"{name}.parquet", _named(name, catalog_id)):
        try:
            stream = fs.open(join(folder, candidate), "rb")
        except FileNotFoundError:
            continue
        except PermissionError:
            raise UserError(
                f"{candidate} in the catalog {folder} is not readable for you; ask its owner (mode 0600 is on purpose)."
            ) from None
        with stream:
            try:
                metadata = pq.read_metadata(stream).metadata or {}
            except (pa.ArrowException, ValueError, OSError) as error:
                if getattr(error, "errno", None):
                    raise  # storage's; Arrow's own have no number
                raise UserError(
                    f"{candidate} in the catalog {folder} is damaged; make it again with `screening catalog`."
                ) from error
            if metadata.get(_ID_KEY) == catalog_id.encode():
                stream.seek(0)
                yield stream
                return
    raise UserError(
        f"{name}.parquet in the catalog {folder} is missing or belongs to another scan; make it again with "
        "`screening catalog`."
    )


def is_as_written(fs: AbstractFileSystem, folder: str, name: str, catalog_id: str, stated: dict[str, Any]) -> bool:
    """Whether a data file is what ``stated``, of catalog.json, says; what cannot be opened is told when it is read.

    Of object stores, which hash what they hold by themselves, only the size is asked.
    """
    with suppress(UserError), locate(fs, folder, name, catalog_id) as stream:
        if isinstance(fs, LocalFileSystem):
            return hashlib.file_digest(stream, "sha256").hexdigest() == stated["sha256"]  # type: ignore[arg-type]
        return bool(stream.seek(0, os.SEEK_END) == stated["bytes"])
    return True


def _named(name: str, catalog_id: str) -> str:
    return f"{name}.{catalog_id[:12]}.parquet"


class _HashingFile(io.RawIOBase):
    """Hashes what is written through it, so that nothing has to be read again."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.sha256, self.size = stream, hashlib.sha256(), 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.sha256.update(view)
        self._stream.write(view)
        self.size += len(view)
        return len(view)

    def tell(self) -> int:
        return self.size

    def close(self) -> None:
        if not self.closed:
            if hasattr(self._stream, "fileno") and not self._stream.closed:
                self._stream.flush()
                with suppress(OSError, io.UnsupportedOperation):
                    os.fsync(self._stream.fileno())
            self._stream.close()
        super().close()


class _DataFile:
    """One Parquet file in the making, in row groups of fixed size, so that equal rows make equal bytes."""

    def __init__(self, fs: AbstractFileSystem, path: str, schema: pa.Schema) -> None:
        self._sink = _HashingFile(_create(fs, path))
        self._writer = pq.ParquetWriter(self._sink, schema, compression="zstd")
        self._waiting: list[pa.RecordBatch] = []
        self._rows = 0

    def write(self, batch: pa.RecordBatch) -> None:
        self._waiting.append(batch)
        self._rows += batch.num_rows
        while self._rows >= ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        table = pa.Table.from_batches(self._waiting).combine_chunks()
        self._writer.write_table(table.slice(0, ROW_GROUP), row_group_size=ROW_GROUP)
        rest = table.slice(ROW_GROUP)
        self._waiting, self._rows = rest.to_batches(), rest.num_rows

    def rows_digest(self) -> str:
        """Write what waits and return the hash of everything but the footer."""
        if self._rows:
            self._flush()
        return self._sink.sha256.hexdigest()

    def finish(self, catalog_id: str) -> dict[str, Any]:
        self._writer.add_key_value_metadata({_ID_KEY.decode(): catalog_id})
        self._writer.close()
        self._sink.close()
        return {"bytes": self._sink.size, "sha256": self._sink.sha256.hexdigest()}

    def abandon(self) -> None:
        with suppress(Exception):
            self._writer.close()
        with suppress(Exception):
            self._sink.close()


def _create(fs: AbstractFileSystem, path: str) -> IO[bytes]:
    if isinstance(fs, LocalFileSystem):
        return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb")
    stream: IO[bytes] = fs.open(path, "wb")
    return stream


class CatalogFiles:
    """Writes a catalog's files; until ``commit`` returns, the catalog that stood there stays as it was.

    One scan at a time may write to a folder: a second one removes the first one's unfinished files, which then fails.
    """

    def __init__(self, fs: AbstractFileSystem, folder: str) -> None:
        self._fs, self._folder = fs, folder
        self._mark = secrets.token_hex(4)
        self._files: dict[str, _DataFile] = {}
        self._made_folder = False

    def __enter__(self) -> CatalogFiles:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            return
        for file in self._files.values():
            file.abandon()
        for name in self._files:
            with suppress(Exception):
                self._fs.rm(self._pending(name))
        if self._made_folder:
            with suppress(Exception):
                self._fs.rmdir(self._folder)

    def write(self, rows: pa.RecordBatch, locations: pa.RecordBatch) -> None:
        """Append records; UserError where the folder cannot be written."""
        with self._told():
            if not self._files:
                self._start()
            self._files["catalog"].write(rows)
            self._files["locations"].write(locations)

    def commit(self, identity: dict[str, Any], describe: Callable[[str, dict[str, Any]], dict[str, Any]]) -> str:
        """Make what was written the catalog and return its id.

        Parameters
        ----------
        identity
            Settings that are part of the catalog's id, besides its rows.
        describe
            Gives ``catalog.json`` from the id and the files' hashes.
        """
        with self._told():
            digests = {name: self._files[name].rows_digest() for name in NAMES}
            catalog_id = sha256_of({"rows": digests, **identity})
            hashes = {f"{name}.parquet": self._files[name].finish(catalog_id) for name in NAMES}
            for name in NAMES:
                self._move(self._pending(name), join(self._folder, _named(name, catalog_id)))
            self._replace_json(describe(catalog_id, hashes))  # from here on, the new catalog stands
            for name in NAMES:
                self._move(join(self._folder, _named(name, catalog_id)), join(self._folder, f"{name}.parquet"))
        return catalog_id

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"The catalog cannot be written to {self._folder!r} ({error}); mend that, or choose another --out."
            ) from error

    def _start(self) -> None:
        if not self._fs.exists(self._folder):
            if isinstance(self._fs, LocalFileSystem):
                make_folders(self._folder)  # it lists patients: its owner's alone
            else:
                self._fs.makedirs(self._folder, exist_ok=True)
            self._made_folder = True
        self._remove_strays()
        schemas = {"catalog": CATALOG_SCHEMA, "locations": LOCATION_SCHEMA}
        for name in NAMES:
            self._files[name] = _DataFile(self._fs, self._pending(name), schemas[name])

    def _remove_strays(self) -> None:
        """Remove what a crashed scan left, but not a committed file that still waits for its plain name."""
        keep = set()
        with suppress(FileNotFoundError, ValueError, KeyError):
            current = json.loads(self._fs.cat_file(join(self._folder, "catalog.json")))["catalog_id"]
            keep = {_named(name, current) for name in NAMES}
        for path in self._fs.ls(self._folder, detail=False) if self._fs.exists(self._folder) else []:
            file = path.rstrip("/").rsplit("/", 1)[-1]
            if _UNFINISHED.fullmatch(file) and file not in keep:
                self._fs.rm(path)

    def _pending(self, name: str) -> str:
        return join(self._folder, f".pending-{self._mark}-{name}.parquet")

    def _move(self, old: str, new: str) -> None:
        if isinstance(self._fs, LocalFileSystem):
            os.replace(old, new)
            sync_folder(self._folder)
        else:
            self._fs.mv(old, new)

    def _replace_json(self, value: dict[str, Any]) -> None:
        value = {**value, "sha256": sha256_of(json.loads(json.dumps(value)))}
        text, path = (
            (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode(),
            join(self._folder, "catalog.json"),
        )
        if not isinstance(self._fs, LocalFileSystem):
            self._fs.pipe_file(path, text)  # object stores replace an object in one step
            return
        pending = f"{path}.pending-{self._mark}"
        with _create(self._fs, pending) as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        self._move(pending, path)
