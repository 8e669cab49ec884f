"""Making and renewing a pack: every record is read once, proven to come back to the last bit, and written into large files.

What is finished is put into the index every `COMMIT_S`, so that an interrupted packing goes on where it stopped. Rows that the
catalog does not name any more, or in another version, are taken out.
"""

from __future__ import annotations

import json
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from screening.archive.catalog import Catalog
from screening.archive.isolated import Limits
from screening.archive.pack import (
    FACTS,
    SCHEMA_VERSION,
    Part,
    archive_id,
    index_bytes,
    index_name,
    keys_of,
    read_facts,
    read_index,
    require_archive,
)
from screening.archive.packed import READING
from screening.archive.version import ABSENT
from screening.contract import NOTICE
from screening.run.lease import Lease
from screening.run.packers import Job, Workers, Written
from screening.storage import Folder

COMMIT_S = 30.0
SMALLEST_PART = 8 * 2**20


@dataclass(frozen=True)
class PackSummary:
    """What a packing did."""

    url: str
    catalogued: int
    packed: int  # rows that the pack holds now
    added: int
    dropped: int  # rows of what the catalog does not name any more
    left: int  # records that the archive goes on giving
    parts: int
    bytes: int


def pack_archive(
    catalog: Catalog,
    folder: Folder,
    *,
    part_bytes: int = 256 * 2**20,
    workers: int = 0,
    storage_options: dict[str, Any] | None = None,
    limits: Limits | None = None,
    only_drop: bool = False,
    check: bool = False,
    on_progress: Callable[[int], None] = lambda _: None,
) -> PackSummary:
    """Make the pack of a catalog's archive, or renew it: new and changed records are read, what left the catalog is taken out.

    Parameters
    ----------
    part_bytes
        Bytes of the archive's files that go into one part; fewer where there are not enough for all workers.
    workers
        Processes; 0: this one.
    only_drop
        Read nothing from the archive.
    check
        Read the whole pack first, and pack again what is damaged.
    on_progress
        Called with the number of records that were read, now and then.

    Raises
    ------
    UserError
        The pack is of another archive, damaged, or being written by somebody else.
    StorageError
        The archive did not give a record; what was finished before is kept, and the next packing goes on.
    """
    facts = read_facts(folder)
    if facts is not None:
        require_archive(folder, facts, catalog.root_url, catalog.key_id)
    with Lease(folder, doing="packed") as lease:
        making = _Making(catalog, lease.folder)
        part_bytes = _part_bytes(catalog, part_bytes, workers)
        job = Job(folder, "", catalog.root_url, storage_options or {}, limits=limits or Limits(30, 2048))
        with Workers(workers) as pool:
            try:
                for written in pool.run(making.suspects() if check else ()):
                    making.take(written)
                making.compare()
                for written in pool.run(_jobs(making, job, part_bytes, only_drop=only_drop)):
                    making.take(written)
                    on_progress(making.count["read"])
                for written in pool.run(making.stale()):
                    making.take(written)
            finally:
                making.commit()
        return making.summary()


def _part_bytes(catalog: Catalog, wanted: int, workers: int) -> int:
    total = int(catalog.settings["counts"]["bytes"])
    return max(min(wanted, total // (4 * max(1, workers))), min(wanted, SMALLEST_PART))


def _new_name() -> str:
    return f"part-{secrets.token_hex(6)}.parquet"


class _Making:
    """The state of a pack while it is made: what it holds, what the catalog names, what is not yet in the index."""

    def __init__(self, catalog: Catalog, folder: Folder) -> None:
        self._catalog, self._folder = catalog, folder
        self.count: Counter[str] = Counter()
        parts, left, self._index = _held(folder)
        self._parts = {part.name: part for part in parts}
        self._named = set(self._parts)  # by the index that holds
        self._left: list[np.ndarray] = [left]
        self._changed, self._committed = False, time.monotonic()
        self._remove_strays()

    def suspects(self) -> Iterator[Job]:
        """Yield jobs that write parts anew, without their damaged rows, where there are any."""
        for part in list(self._parts.values()):
            yield Job(self._folder, _new_name(), source=part)

    def compare(self) -> None:
        """From here on, `unknown` tells what the pack does not hold."""
        self._earlier = list(self._parts.values())
        self._known = np.sort(np.concatenate([*self._left, *(part.keys for part in self._earlier)]))
        self._seen = np.zeros(len(self._known), bool)

    def unknown(self, record_ids: Sequence[str], versions: Sequence[str]) -> np.ndarray:
        """Return which of these records of the catalog are to be packed, and note that the catalog names the others."""
        self.count["catalogued"] += len(record_ids)
        keys = keys_of(record_ids, versions)
        at = np.searchsorted(self._known, keys)
        known = np.zeros(len(keys), bool)
        inside = at < len(self._known)
        known[inside] = self._known[at[inside]] == keys[inside]
        self._seen[at[known]] = True
        return ~known & (np.asarray(versions, object) != ABSENT)

    def stale(self) -> Iterator[Job]:
        """Yield jobs that write parts anew without the rows that the catalog does not name; all of it has been `unknown`."""
        named = self._known[self._seen]
        left = np.concatenate(self._left)
        self._left = [left[np.isin(left, self._known[~self._seen], invert=True)]]
        for part in self._earlier:
            keep = np.isin(part.keys, named)
            if not keep.all():
                self.count["dropped"] += int((~keep).sum())
                yield Job(self._folder, _new_name(), source=part, keep=keep)

    def take(self, written: Written) -> None:
        """Add what was written; it is in the index after the next commit."""
        if not written.records and written.replaces is None:
            return
        self._changed = True
        self.count["read"] += written.records
        self._left.append(written.left)
        if written.replaces is not None:
            del self._parts[written.replaces]
        if written.part is not None:
            self._parts[written.part.name] = written.part
            self.count["added"] += 0 if written.replaces else len(written.part.keys)
        if time.monotonic() - self._committed > COMMIT_S:
            self.commit()

    def commit(self) -> None:
        """Write index and pack.json, and remove what they do not name any more."""
        if not self._changed and self._index is not None:
            return
        parts = list(self._parts.values())
        data = index_bytes(parts, np.concatenate(self._left))
        before, index = self._index, index_name(data)
        self._folder.write(index, data)
        facts = {
            "notice": NOTICE,
            "schema_version": SCHEMA_VERSION,
            "reading": READING,
            "archive": archive_id(self._catalog.root_url, self._catalog.key_id),
            "index": index,
            "rows": sum(len(part.keys) for part in parts),
            "parts": len(parts),
            "bytes": sum(part.bytes for part in parts),
        }
        self._folder.write(FACTS, (json.dumps(facts, indent=1) + "\n").encode())
        self._index, self._changed, self._committed = index, False, time.monotonic()
        superseded = self._named - self._parts.keys()
        if before is not None and before != index:
            superseded.add(before)
        for name in superseded:
            self._folder.remove(name)
        self._named = set(self._parts)

    def _remove_strays(self) -> None:
        """Remove what an interrupted packing left, and all of a pack that another version made."""
        self._folder.remove_unfinished()
        for name in self._folder.names():
            ours = name.startswith("part-") and name.endswith(".parquet")
            if (ours and name not in self._parts) or (name.startswith("index-") and name != self._index):
                self._folder.remove(name)

    def summary(self) -> PackSummary:
        """Return what was done."""
        parts = self._parts.values()
        return PackSummary(
            self._folder.url,
            self.count["catalogued"],
            packed=sum(len(part.keys) for part in parts),
            added=self.count["added"],
            dropped=self.count["dropped"],
            left=self.count["catalogued"] - sum(len(part.keys) for part in parts),
            parts=len(self._parts),
            bytes=sum(part.bytes for part in parts),
        )


def _held(folder: Folder) -> tuple[list[Part], np.ndarray, str | None]:
    """Return parts, keys left to the archive, and the name of the index; nothing where they are to be made anew."""
    facts = read_facts(folder)
    if facts is not None and (facts["schema_version"], facts["reading"]) == (SCHEMA_VERSION, READING):
        with suppress(FileNotFoundError, ValueError):
            arrays, parts = read_index(folder, str(facts["index"]))
            return parts, arrays["left"], str(facts["index"])
    return [], np.empty(0, np.uint64), None


def _jobs(making: _Making, job: Job, part_bytes: int, *, only_drop: bool) -> Iterator[Job]:
    """Yield what is to be packed, in the order of the catalog."""
    waiting: list[tuple[str, str, str]] = []
    size = 0
    for batch in making._catalog.iter_batches(["record_id", "version", "bytes"], with_location=True):
        columns = [batch[name].to_pylist() for name in ("record_id", "version", "location", "bytes")]
        wanted = making.unknown(columns[0], columns[1])
        for at in [] if only_drop else np.flatnonzero(wanted).tolist():
            waiting.append((columns[0][at], columns[1][at], columns[2][at]))
            size += columns[3][at]
            if size >= part_bytes:
                yield _of(job, waiting)
                waiting, size = [], 0
    if waiting:
        yield _of(job, waiting)


def _of(job: Job, records: list[tuple[str, str, str]]) -> Job:
    record_ids, versions, places = zip(*records, strict=True)
    return replace(job, name=_new_name(), record_ids=record_ids, versions=versions, places=places)
