"""An archive of any format as one of plain WFDB records, without what identifies people, each compared with what was read."""

from __future__ import annotations

import csv
import hashlib
import io
import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np

from screening.archive import wfdb
from screening.archive.catalog import Catalog
from screening.archive.isolated import Decoder, Limits
from screening.archive.reader import ArchiveReader
from screening.archive.wfdb_writer import record_files
from screening.errors import StorageError
from screening.recording import Recording, Rejected
from screening.settings import RunSettings
from screening.storage import Folder, again

TABLE, REFUSED = "converted.csv", "refused.csv"
_CHUNK = 128
_FACTS = ("patient_key", "age", "sex", "device", "qrs_ms")
_STATEMENTS = {"paced": "PACE", "lbbb": "LBBB", "wpw": "WPW"}
_FLOAT_MV = 1e-6


@dataclass(frozen=True)
class ConvertSummary:
    """What became of an archive's records."""

    url: str
    records: int
    converted: int
    refused: dict[str, int]  # by reason
    max_difference_uV: float  # between what was read from the archive and from the copy


@dataclass(frozen=True)
class _Job:
    archive_url: str
    dest: Folder
    options: dict[str, Any]
    limits: Limits
    rows: list[dict[str, Any]]  # of the catalog, with their locations
    named: bool  # the archive is public, so the table may say where a record comes from


def convert_archive(
    catalog: Catalog,
    dest: Folder,
    *,
    storage_options: dict[str, Any] | None = None,
    workers: int | None = None,
    on_progress: Callable[[int], None] = lambda _: None,
) -> ConvertSummary:
    """Write every record of a catalog that can be read into ``dest``, which is renewed where it exists.

    Beside the records stand RECORDS, ``converted.csv`` with what `screening catalog` reads of it, and ``refused.csv``.
    Names are hashes of the catalog's record ids; site, dates and statements stay behind.

    Raises
    ------
    StorageError
        Storage failed, or a copy does not come back as it was read.
    """
    columns = ["record_id", "version", *_FACTS, *_STATEMENTS]
    defaults = RunSettings()  # type: ignore[call-arg]
    limits = Limits(defaults.record_seconds, defaults.record_memory_mb)
    deidentified = bool(catalog.settings["deidentified"])

    def jobs() -> Iterator[_Job]:
        for batch in catalog.iter_batches(columns, with_location=True, batch_size=_CHUNK):
            yield _Job(catalog.root_url, dest, dict(storage_options or {}), limits, batch.to_pylist(), deidentified)

    header = ["path", *_FACTS, *_STATEMENTS.values(), "source_format", "rate_hz", "samples", "steps_a_mV", "flags"]
    header += ["max_difference_uV", *(["source"] if deidentified else [])]
    good, bad = io.StringIO(), io.StringIO()
    table, refused = csv.writer(good, lineterminator="\n"), csv.writer(bad, lineterminator="\n")
    table.writerow(header)
    refused.writerow(["record_id", "reason", "detail"])
    names, reasons, furthest, done = [], Counter[str](), 0.0, 0
    count = workers or len(os.sched_getaffinity(0))
    with ProcessPoolExecutor(count, multiprocessing.get_context("spawn")) as pool:
        for rows in _in_order(pool, jobs(), 2 * count):
            for row in rows:
                if "reason" in row:
                    reasons[row["reason"]] += 1
                    refused.writerow(row.values())
                else:
                    table.writerow([row[name] for name in header])
                    names.append(row["path"])
                    furthest = max(furthest, row["max_difference_uV"])
            done += len(rows)
            on_progress(done)
    dest.write(TABLE, good.getvalue().encode())
    dest.write(REFUSED, bad.getvalue().encode())
    dest.write("RECORDS", "".join(f"{name}\n" for name in names).encode())
    return ConvertSummary(dest.url, done, len(names), dict(reasons), furthest)


def _in_order(pool: ProcessPoolExecutor, jobs: Iterator[_Job], ahead: int) -> Iterator[list[dict[str, Any]]]:
    waiting: deque[Future[list[dict[str, Any]]]] = deque()
    for job in jobs:
        waiting.append(pool.submit(_convert, job))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _convert(job: _Job) -> list[dict[str, Any]]:
    """Write the records of a job, and return the row of each."""
    reader, copies = ArchiveReader(job.archive_url, job.options), ArchiveReader(job.dest.url, job.dest.storage_options)
    out = []
    with Decoder(job.limits, isolated=False) as decoder:
        for row in job.rows:
            found = again(lambda row=row: reader.fetch(row["location"], row["record_id"], version=row["version"]))  # type: ignore[misc]
            outcome = found if isinstance(found, Rejected) else decoder.decode(row["record_id"], *found)
            if isinstance(outcome, Rejected):
                out.append({"record_id": row["record_id"], "reason": str(outcome.reason), "detail": outcome.detail})
            else:
                out.append(_written(job, copies, row, outcome))
    return out


def _written(job: _Job, copies: ArchiveReader, row: dict[str, Any], recording: Recording) -> dict[str, Any]:
    name = hashlib.blake2b(row["record_id"].encode(), digest_size=10).hexdigest()
    path = f"records/{name[:2]}/{name}"
    stated = {"Age": row["age"], "Sex": row["sex"]}
    comments = [f"{key}: {value:g}" if key == "Age" else f"{key}: {value}" for key, value in stated.items() if value]
    header, samples, gain = record_files(name, recording.signal_mV, recording.rate_hz, comments)
    job.dest.write(f"{path}.dat", samples)
    job.dest.write(f"{path}.hea", header)
    fetched = copies.fetch(f"{path}.hea", name)
    # Rounded to the copy's steps, a lead that hardly moves at its end may look like padding.
    copy = fetched if isinstance(fetched, Rejected) else wfdb.decode(name, *fetched, as_stored=True)
    if isinstance(copy, Rejected):
        raise StorageError(f"the copy {path} cannot be read again ({copy.reason}: {copy.detail})")
    further = _difference_mV(recording.signal_mV, copy.signal_mV)
    if further > 0.5 / gain + _FLOAT_MV or abs(copy.rate_hz - recording.rate_hz) > 1e-6 * recording.rate_hz:
        raise StorageError(f"the copy {path} does not come back as it was read ({1000 * further:.3g} uV apart)")
    facts = {name: "" if row[name] is None else row[name] for name in _FACTS}
    statements = {code: "" if row[name] is None else int(row[name]) for name, code in _STATEMENTS.items()}
    found = {"source_format": recording.source_format, "rate_hz": recording.rate_hz, "steps_a_mV": gain}
    found |= {"samples": recording.signal_mV.shape[1], "flags": " ".join(recording.flags)}
    source = {"source": row["record_id"]} if job.named else {}
    return {"path": path, **facts, **statements, **found, "max_difference_uV": round(1000 * further, 4), **source}


def _difference_mV(one: np.ndarray, other: np.ndarray) -> float:
    """Return by how much two recordings differ at most; infinity where other samples are missing."""
    if one.shape != other.shape or not np.array_equal(np.isfinite(one), np.isfinite(other)):
        return float("inf")
    return float(np.nanmax(np.abs(one.astype(np.float64) - other), initial=0.0))
