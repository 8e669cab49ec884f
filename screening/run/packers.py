"""The processes of a packing: each job writes one part, from the archive or from an earlier part."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import IO, Any

import numpy as np
import pyarrow.parquet as pq

from screening.archive.formats.sidecar import SIDECAR
from screening.archive.isolated import Decoder, Limits
from screening.archive.pack import GROUP, GROUP_BYTES, GROUP_ROWS, Part, keys_of
from screening.archive.packed import PACK_SCHEMA, row_of, steps_of, table_of
from screening.archive.reader import ArchiveReader, Fetched, nbytes_of
from screening.archive.version import is_covered, sidecar_version
from screening.archive.wfdb_header import looks_like_header
from screening.contract import Reason
from screening.errors import StorageError
from screening.recording import Rejected
from screening.storage import ATTEMPTS, REMOTE_READS, Folder, again, ahead

_ELSEWHERE = (Reason.CHANGED, Reason.MISSING_FILE)
"""What another reading may find otherwise, though the catalog stays as it is."""


@dataclass(frozen=True)
class Job:
    """One part to be written: from the archive, or from ``source``, of which it takes what is undamaged and to be kept."""

    pack: Folder
    name: str
    archive_url: str = ""
    options: dict[str, Any] = field(default_factory=dict, repr=False)
    record_ids: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    places: tuple[str, ...] = field(default=(), repr=False)
    limits: Limits = Limits(30, 2048)
    attempts: int = ATTEMPTS
    isolated: bool = False
    source: Part | None = None
    keep: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Written:
    """What came of a job."""

    part: Part | None  # None where nothing is in it
    left: np.ndarray  # keys of records that are not packed, and will not be while they are as they are
    records: int
    replaces: str | None = None


def write_part(job: Job) -> Written:
    """Write one part."""
    left: list[np.ndarray] = []
    if job.source is None:
        rows: Iterator[tuple[dict[str, Any], np.uint64]] = _read_rows(job, left)
    elif job.keep is None and all(_undamaged(job.pack, job.source)):
        return Written(None, _joined(left), 0)
    else:
        rows = _kept_rows(job.pack, job.source, job.keep)
    records = len(job.record_ids)
    replaces = job.source.name if job.source else None
    first = next(rows, None)
    if first is None:
        return Written(None, _joined(left), records, replaces)
    with job.pack.writer(job.name) as stream:
        part = _PartWriter(stream)
        for row, key in chain([first], rows):
            part.add(row, key)
        groups = part.finish()
    return Written(Part(job.name, np.array(part.keys, np.uint64), groups), _joined(left), records, replaces)


def _joined(left: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.empty(0, np.uint64), *left])


def _read_rows(job: Job, left: list[np.ndarray]) -> Iterator[tuple[dict[str, Any], np.uint64]]:
    """Yield the rows of records of the archive, and note in ``left`` the keys of those that can have none."""
    reader = ArchiveReader(job.archive_url, job.options)

    def fetch(i: int) -> Fetched | Rejected:
        return again(lambda: reader.fetch(job.places[i], job.record_ids[i], version=job.versions[i]), job.attempts)

    keys = keys_of(job.record_ids, job.versions)
    with ThreadPoolExecutor(REMOTE_READS) as pool, Decoder(job.limits, isolated=job.isolated) as decoder:
        local, numbers = Folder(job.archive_url, job.options).is_local, range(len(keys))
        fetched = map(fetch, numbers) if local else ahead(pool, fetch, numbers, size=nbytes_of)
        for i, found in zip(numbers, fetched, strict=True):
            row = None
            if not isinstance(found, Rejected) and _is_covered(job, i, found):
                outcome = decoder.decode(job.record_ids[i], *found)
                if outcome.sha256 is not None:  # without it, time or memory ran out, not the record
                    steps = steps_of(found.first) if looks_like_header(found.first) else None
                    row = row_of(outcome, job.versions[i], steps)
            if row is not None:
                yield row, keys[i]
            elif not (isinstance(found, Rejected) and found.reason in _ELSEWHERE):
                left.append(keys[i : i + 1])


def _is_covered(job: Job, i: int, found: Fetched) -> bool:
    """Whether the record's version would tell if any of its files changed."""
    place, version = job.places[i], job.versions[i]
    folder = place[: place.rfind("/") + 1]
    if SIDECAR in found.files:
        return is_covered(version, place, place) and sidecar_version(version, SIDECAR) is not None
    return all(is_covered(version, place, path) for path in (place, *(folder + name for name in found.files)))


def _undamaged(folder: Folder, part: Part) -> Iterator[bool]:
    """Yield for each group of a part, and for its footer, whether it is as it was written."""
    try:
        with folder.open(part.name) as stream:
            for place in part.groups:
                stream.seek(int(place["offset"]))
                yield zlib.crc32(stream.read(int(place["length"]))) == place["crc32"]
    except FileNotFoundError:
        yield from [False] * len(part.groups)


def _kept_rows(folder: Folder, part: Part, keep: np.ndarray | None) -> Iterator[tuple[dict[str, Any], np.uint64]]:
    """Yield rows of a part, all or those to keep; damaged ones are left out, so that their records are packed again."""
    whole = list(_undamaged(folder, part))
    if not whole[-1]:
        return
    starts = [0, *np.cumsum(part.groups["rows"]).tolist()]
    with folder.open(part.name) as stream:
        file = pq.ParquetFile(stream)
        for number in np.flatnonzero(whole[:-1]).tolist():
            rows = file.read_row_group(number, use_threads=False).to_pylist()
            for at, row in enumerate(rows, start=starts[number]):
                if keep is None or keep[at]:
                    yield row, part.keys[at]


class _PartWriter:
    """One part in the making."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._sink = _SummedFile(stream)
        # Of the compressions, lz4 is the fastest to undo: zstd takes a core twice as long for a quarter fewer bytes.
        self._writer = pq.ParquetWriter(
            self._sink, PACK_SCHEMA, compression="lz4", use_dictionary=False, write_statistics=False
        )
        self._rows: list[dict[str, Any]] = []
        self._bytes = 0
        self._groups: list[tuple[int, int, int, int]] = []
        self.keys: list[np.uint64] = []

    def add(self, row: dict[str, Any], key: np.uint64) -> None:
        self.keys.append(key)
        self._rows.append(row)
        self._bytes += len(row.get("digital") or b"") + len(row.get("signal_mV") or b"")
        if len(self._rows) == GROUP_ROWS or self._bytes >= GROUP_BYTES:
            self._flush()

    def _flush(self) -> None:
        begin = self._sink.begin()
        self._writer.write_table(table_of(self._rows))
        self._groups.append((len(self._rows), begin, self._sink.size - begin, self._sink.crc32))
        self._rows, self._bytes = [], 0

    def finish(self) -> np.ndarray:
        """Write what waits and the footer; return the place of each group, and of the footer."""
        if self._rows:
            self._flush()
        begin = self._sink.begin()
        self._writer.close()
        return np.array([*self._groups, (0, begin, self._sink.size - begin, self._sink.crc32)], GROUP)


class _SummedFile(io.RawIOBase):
    """Sums up what is written through it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.size, self.crc32 = stream, 0, 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._stream.write(view)
        self.size += len(view)
        self.crc32 = zlib.crc32(view, self.crc32)
        return len(view)

    def tell(self) -> int:
        return self.size

    def begin(self) -> int:
        """Begin a new sum, and return where."""
        self.crc32 = 0
        return self.size


class Workers:
    """Runs jobs in processes, or in this one; a few wait, so that memory does not grow with the archive."""

    def __init__(self, workers: int) -> None:
        self._workers = workers
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            if kind is not None:
                self._end()
            self._pool.shutdown(cancel_futures=True)

    def run(self, jobs: Iterable[Job]) -> Iterator[Written]:
        """Yield what comes of the jobs, as it comes."""
        if not self._workers:
            yield from map(write_part, jobs)
            return
        todo = iter(jobs)
        running: dict[Future[Written], Job] = {}
        while True:
            for job in todo:
                running[self._submit(job)] = job
                if len(running) == 2 * self._workers:
                    break
            if not running:
                return
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            broken = []
            for future in done:
                job = running.pop(future)
                try:
                    yield future.result()
                except BrokenProcessPool:
                    broken.append(job)
            if broken:
                # A record ended its process. All that were at work are tried again, with every record in a process of its own.
                broken += running.values()
                running = {}
                self._pool = None
                if any(job.isolated for job in broken):
                    raise StorageError("a process that packs was killed, twice (is there enough memory?)")
                running = {self._submit(replace(job, isolated=True)): replace(job, isolated=True) for job in broken}

    def _submit(self, job: Job) -> Future[Written]:
        if self._pool is None:
            self._others = {*multiprocessing.active_children()}
            self._pool = ProcessPoolExecutor(
                self._workers, multiprocessing.get_context("spawn"), initializer=_begin, initargs=(os.getpid(),)
            )
        return self._pool.submit(write_part, job)

    def _end(self) -> None:
        for process in multiprocessing.active_children():
            if process not in self._others:
                process.terminate()


def _begin(parent: int) -> None:
    """Set up a worker: what interrupts the command is the command's to heed, and none outlives it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
