"""A pack of an archive: which records it holds, and their rows in few large reads; whatever it does not give, the archive does.

``part-<mark>.parquet``
    rows of `packed.PACK_SCHEMA`, in row groups of at most `GROUP_ROWS`; written once and never changed
``index-<hash>.npz``
    where the rows of each record are, by 64 bits of a hash; the place and the checksum of every row group and footer
``pack.json``
    written last: which index holds, of which archive, read by which reader

Nothing of a part is parsed before its checksum was compared, and no row is used before its record id and version were. So a
damaged, incomplete or superseded pack costs time and changes nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from screening.archive.packed import PACK_SCHEMA, READING, Rows
from screening.archive.parquet_table import check_schema
from screening.archive.store import id_hashes
from screening.contract import sha256_of
from screening.errors import UserError
from screening.recording import Recording, Rejected
from screening.storage import Folder, ahead, forbid_pickled_columns

FACTS = "pack.json"
SCHEMA_VERSION = 1
GROUP_ROWS = 32
"""Rows read together: 2.3 MB of ten seconds at 500 Hz. Larger groups are no faster, and a shard ends within two of them."""
GROUP_BYTES = 32 * 2**20
"""A group ends when it holds so much."""
READ_BYTES = 8 * 2**20
"""Groups that follow each other are read together up to this."""
READS_AHEAD = 4
WORTH = 8
"""A group is read for one in so many of its rows; for fewer, the archive is faster."""

GROUP = np.dtype([("rows", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4")])
"""A row group of a part, or its footer, which has no rows and stands last."""


@dataclass(frozen=True)
class Part:
    """One file of a pack."""

    name: str
    keys: np.ndarray  # uint64 (rows,), of `keys_of`
    groups: np.ndarray  # of GROUP

    @property
    def bytes(self) -> int:
        """Size of the file."""
        return int(self.groups[-1]["offset"] + self.groups[-1]["length"])


@dataclass(frozen=True)
class PackRef:
    """What a worker needs to open a pack as its driver found it. Picklable."""

    folder: Folder
    index: str


def keys_of(record_ids: Sequence[str], versions: Sequence[str]) -> np.ndarray:
    """Return 64 bits, uint64, for each record in its version."""
    return id_hashes([f"{record_id}\n{version}" for record_id, version in zip(record_ids, versions, strict=True)])


def archive_id(root_url: str, key_id: str | None) -> str:
    """Return what a pack says of its archive: a hash, because the URL is a path."""
    return sha256_of([root_url, key_id])


def read_facts(folder: Folder) -> dict[str, Any] | None:
    """Return pack.json, None where there is none; UserError where it cannot be read."""
    try:
        facts: dict[str, Any] = json.loads(folder.read(FACTS))
        if {"schema_version", "reading", "archive", "index"} <= facts.keys():
            return facts
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, AttributeError):
        pass
    raise UserError(f"the pack {folder.url} is damaged; remove it, and make it again with `screening pack`")


def require_archive(folder: Folder, facts: dict[str, Any], root_url: str, key_id: str | None) -> None:
    """Raise UserError where a pack is of another archive, or of other record ids."""
    if facts["archive"] != archive_id(root_url, key_id):
        raise UserError(
            f"{folder.url} is the pack of another archive, or of one with another key or at another place; name the pack of "
            f"{root_url}"
        )


def require_pack(folder: Folder, *, root_url: str, key_id: str | None) -> dict[str, Any]:
    """Return what a pack of this archive says of itself; UserError where it is none."""
    facts = read_facts(folder)
    if facts is None:
        raise UserError(f"there is no pack at {folder.url}; make one with: screening pack --out {folder.url}")
    require_archive(folder, facts, root_url, key_id)
    return facts


def open_pack(folder: Folder, *, root_url: str, key_id: str | None) -> PackRef:
    """Return a pack of this archive for `pack_of`.

    Raises
    ------
    UserError
        There is none, it is damaged, of another archive, or was made by another version of the reader.
    """
    facts = require_pack(folder, root_url=root_url, key_id=key_id)
    if (facts["schema_version"], facts["reading"]) != (SCHEMA_VERSION, READING):
        raise UserError(
            f"the pack {folder.url} was made by another version of this program; renew it with `screening pack`, or run "
            "without --packed"
        )
    return PackRef(folder, str(facts["index"]))


# --- The index -------------------------------------------------------------------------------------------------------


def index_bytes(parts: Sequence[Part], left: np.ndarray) -> bytes:
    """Return the index of parts as it is stored; ``left`` are keys of records that are left to the archive for good."""
    keys = np.concatenate([np.empty(0, np.uint64), *(part.keys for part in parts)])
    order = np.argsort(keys, kind="stable").astype(np.uint32)
    stream = io.BytesIO()
    np.savez(
        stream,
        names=np.array([part.name for part in parts], "U"),
        parts=np.array([(len(part.keys), len(part.groups)) for part in parts], np.uint32).reshape(-1, 2),
        keys=keys[order],
        rows=order,
        groups=np.concatenate([np.empty(0, GROUP), *(part.groups for part in parts)]),
        left=np.sort(left),
    )
    return stream.getvalue()


def index_name(data: bytes) -> str:
    """Return what an index of these bytes is called."""
    return f"index-{hashlib.sha256(data).hexdigest()[:16]}.npz"


def read_index(folder: Folder, name: str) -> tuple[dict[str, np.ndarray], list[Part]]:
    """Return the arrays of an index, and its parts; OSError where it is gone, ValueError where it is damaged."""
    data = folder.read(name)
    if index_name(data) != name:
        raise ValueError("the index is not as it was written")
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            found = {name: stored[name] for name in ("names", "parts", "keys", "rows", "groups", "left")}
        keys = np.empty(len(found["keys"]), np.uint64)
        keys[found["rows"]] = found["keys"]
        sizes = found["parts"].astype(np.int64)
        row, group = (np.concatenate([[0], np.cumsum(sizes[:, i])]) for i in (0, 1))
        if found["groups"].dtype != GROUP or (row[-1], group[-1]) != (len(keys), len(found["groups"])):
            raise ValueError("its arrays do not fit together")
        slices = zip(found["names"].tolist(), pairwise(row), pairwise(group), strict=True)
        parts = [Part(name, keys[a:b], found["groups"][c:d]) for name, (a, b), (c, d) in slices]
        if any(not len(part.groups) or part.groups["rows"].sum() != len(part.keys) for part in parts):
            raise ValueError("its groups do not hold its rows")
        return found, parts
    except (zipfile.BadZipFile, EOFError, KeyError, IndexError, TypeError, RuntimeError) as error:
        raise ValueError(type(error).__name__) from error


# --- Reading ---------------------------------------------------------------------------------------------------------


_kept: dict[tuple[str, str], Pack] = {}


def pack_of(ref: PackRef) -> Pack | None:
    """Return a pack, the last of which a process keeps; None where it is gone or damaged since it was opened."""
    key = (ref.folder.url, ref.index)
    if key not in _kept:
        try:
            pack = Pack(ref.folder, ref.index)
        except (OSError, ValueError):
            return None
        _kept.clear()
        _kept[key] = pack
    return _kept[key]


class Pack:
    """The rows of a pack. It holds 12 bytes a record in memory, and thrice as many while it is opened.

    Parameters
    ----------
    folder
        Where its parts lie.
    index
        Name of its index; OSError where it is gone, ValueError where it is damaged.
    """

    def __init__(self, folder: Folder, index: str) -> None:
        forbid_pickled_columns()
        self._folder = folder
        arrays, parts = read_index(folder, index)
        self._keys, self._row = arrays["keys"], arrays["rows"]
        self._names = [part.name for part in parts]
        self._groups = arrays["groups"]
        self._part = np.repeat(np.arange(len(parts)), [len(part.groups) for part in parts])
        self._first_group = np.concatenate([[0], np.cumsum([len(part.groups) for part in parts])]).astype(int)
        self._first_row = np.concatenate([[0], np.cumsum(self._groups["rows"].astype(np.int64))])
        self._footers: dict[int, pq.FileMetaData] = {}

    def find(self, record_ids: Sequence[str], versions: Sequence[str]) -> np.ndarray:
        """Return the row of each record, int64; -1 where the archive is to be asked."""
        keys = keys_of(record_ids, versions)
        found = np.full(len(keys), -1, np.int64)
        if len(self._keys):
            at = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            held = (self._keys[at] == keys) & (self._row[at] < self._first_row[-1])
            found[held] = self._row[at[held]]
            group = self._group_of(found)
            wanted = np.bincount(group[held], minlength=len(self._groups))
            found[held & (wanted[group] * WORTH < self._groups["rows"][group])] = -1
        return found

    def _group_of(self, rows: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._first_row, rows, side="right") - 1

    def read(
        self, rows: np.ndarray, record_ids: Sequence[str], versions: Sequence[str], *, pool: Executor | None
    ) -> Iterator[Recording | Rejected | None]:
        """Yield what each row gives, in order; None where `find` found none, and where the pack is damaged.

        Parameters
        ----------
        rows
            Of `find` for these records in these versions.
        pool
            Reads ahead; None: in line.
        """
        groups = self._group_of(rows)
        reads = self._reads(list(dict.fromkeys(groups[rows >= 0].tolist())))
        read_of = {group: number for number, read in enumerate(reads) for group in read}
        last = {read_of[group]: at for at, group in enumerate(groups.tolist()) if rows[at] >= 0}
        loaded = map(self._load, reads) if pool is None else ahead(pool, self._load, reads, most=READS_AHEAD)
        held: dict[int, dict[int, Rows]] = {}
        for at, (row, group) in enumerate(zip(rows.tolist(), groups.tolist(), strict=True)):
            if row < 0:
                yield None
                continue
            number = read_of[group]
            if number not in held:  # reads are in the order in which they are needed first
                held[number] = next(loaded)
            yield _outcome(held[number].get(group), row - int(self._first_row[group]), record_ids[at], versions[at])
            if last[number] == at:
                held[number] = {}

    def _reads(self, groups: Sequence[int]) -> list[list[int]]:
        """Put groups together that follow each other in one part."""
        reads: list[list[int]] = []
        size = 0
        for group in groups:
            length = int(self._groups["length"][group])
            follows = reads and group == reads[-1][-1] + 1 and self._part[group] == self._part[group - 1]
            if follows and size + length <= READ_BYTES:
                reads[-1].append(group)
                size += length
            else:
                reads.append([group])
                size = length
        return reads

    def _load(self, groups: Sequence[int]) -> dict[int, Rows]:
        """Return the groups of one read that are undamaged."""
        part, begin = int(self._part[groups[0]]), int(self._groups["offset"][groups[0]])
        end = int(self._groups["offset"][groups[-1]]) + int(self._groups["length"][groups[-1]])
        found: dict[int, Rows] = {}
        try:
            if not 0 < end - begin <= max(READ_BYTES, 2 * GROUP_BYTES):
                return found
            footer = self._footer(part)
            data = memoryview(self._folder.read(self._names[part], begin, end))
            for group in groups:
                start = int(self._groups["offset"][group]) - begin
                piece = data[start : start + int(self._groups["length"][group])]
                if _is_whole(piece, self._groups[group]):
                    window = _Window(piece, begin + start)
                    file = pq.ParquetFile(pa.PythonFile(window, "r"), metadata=footer)
                    table = file.read_row_group(group - int(self._first_group[part]), use_threads=False)
                    if table.schema.equals(PACK_SCHEMA) and table.num_rows == self._groups["rows"][group]:
                        found[group] = Rows(table)
        except (OSError, ValueError, pa.ArrowException):
            pass  # whoever asked is told by the absence of the group
        return found

    def _footer(self, part: int) -> pq.FileMetaData:
        if part not in self._footers:
            place = self._groups[self._first_group[part + 1] - 1]
            begin, length = int(place["offset"]), int(place["length"])
            data = self._folder.read(self._names[part], begin, begin + length)
            if not _is_whole(data, place):
                raise ValueError("the footer is damaged")
            whole = b"PAR1" + data  # reads as a file of its own, of which the groups are elsewhere
            check_schema(io.BytesIO(whole))
            if len(self._footers) >= 64:
                self._footers.pop(next(iter(self._footers)), None)
            self._footers[part] = pq.read_metadata(pa.BufferReader(whole))
        return self._footers[part]


def _is_whole(data: bytes | memoryview, place: np.void) -> bool:
    return len(data) == place["length"] and zlib.crc32(data) == place["crc32"]


def _outcome(rows: Rows | None, row: int, record_id: str, version: str) -> Recording | Rejected | None:
    try:
        return rows.outcome(row) if rows is not None and rows.is_of(row, record_id, version) else None
    except (ValueError, TypeError, IndexError):  # it was not written by us
        return None


class _Window(io.RawIOBase):
    """A file of which only the bytes from ``begin`` on are here."""

    def __init__(self, data: memoryview, begin: int) -> None:
        self._data, self._begin, self._at = data, begin, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._begin + len(self._data))[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def read_buffer(self, size: int) -> pa.Buffer:
        """Return bytes without a copy, which is what Arrow asks for."""
        start = self._at - self._begin
        if start < 0:
            raise ValueError("these bytes are not here")
        piece = self._data[start : start + size]
        self._at += len(piece)
        return pa.py_buffer(piece)

    def read(self, size: int | None = -1) -> bytes:
        return self.read_buffer(len(self._data) if size is None or size < 0 else size).to_pybytes()
