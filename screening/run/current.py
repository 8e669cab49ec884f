"""What holds now: for every record of all published runs the one row that counts. ``RUNS/current/`` is its index.

::

    current/version-000007.json         which runs are in it, tombstones, counts, and the files that belong to it
    current/000007-5f0c1e/index.parquet the winning row of every record, sorted by record_id
                          left_out.parquet rows of results that do not count: superseded, or of forgotten records
                          duplicates.parquet scored records with the same bytes: record_id -> same_as

The highest number counts. A version is made by exclusive creation of its JSON, after its files: whoever loses a race
builds again on top of the winner, and a reader sees a whole version or the one before it. Everything but the tombstones
can be made again from the runs, and is when a file is damaged or a run was removed.

A run that entered later wins over an earlier one; runs that enter together do so by the time they were finished, then by
run_id. A row is named by (run, shard, row): the run's place in the version's list, and the row within the shard's file.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from screening.contract import NOTICE, RESULT_SCHEMA_VERSION
from screening.errors import StorageError, UserError
from screening.run.duck import MEMORY_MB
from screening.run.plan import load_plan
from screening.run.rows import iter_rows
from screening.run.winners import FILES, INDEX, write_files
from screening.storage import Folder

SCHEMA_VERSION = 1
KEPT = 3
"""Versions whose files stay, so that whoever reads one while others are made can end."""
ATTEMPTS = 20

FOLDER = "current"


class NothingPublished(UserError):
    """A folder of runs holds no published run, so that there is nothing to index."""


@dataclass(frozen=True)
class IndexedRun:
    """A published run that is in the index."""

    run_id: str
    manifest_sha256: str
    finished_at: str
    records: int
    shard_records: int
    model: Mapping[str, str]  # name, version, bundle_sha256, input_contract_sha256


@dataclass(frozen=True)
class Place:
    """Where a row of results lies."""

    run_id: str
    shard: int
    row: int


@dataclass(frozen=True)
class Current:
    """One version of the index. Only its JSON is in memory."""

    runs: Folder
    version: int
    indexed: tuple[IndexedRun, ...]  # in the order in which they entered
    dropped: tuple[str, ...]  # run ids that were in an earlier version and are no longer among the runs
    forgotten_records: tuple[str, ...]
    forgotten_patients: tuple[str, ...]
    counts: Mapping[str, int]  # records, scored, rejected, superseded, forgotten, duplicates
    files: Mapping[str, Mapping[str, Any]]  # name -> path below current/, bytes, sha256

    @property
    def folder(self) -> Folder:
        """``RUNS/current``."""
        return self.runs.folder(FOLDER)

    def locate(self, record_id: str) -> Place | None:
        """Return where the row that counts of a record lies; None if no published run has it, or it is forgotten."""
        with _told(self), self.folder.open(self.files[INDEX]["path"]) as file:
            columns = ["run", "shard", "row"]
            found = pq.read_table(
                file, columns=columns, filters=[("record_id", "=", record_id)], pre_buffer=False
            ).to_pylist()
        if not found:
            return None
        return Place(self.indexed[found[0]["run"]].run_id, found[0]["shard"], found[0]["row"])

    def manifest(self, run_id: str) -> dict[str, Any]:
        """Return the manifest of an indexed run; UserError if it is not the one that was indexed."""
        entry = next(run for run in self.indexed if run.run_id == run_id)
        published = _published(self.runs, run_id)
        if published is None or published[0] != entry.manifest_sha256:
            raise UserError(f"run {run_id} in {self.runs.url} was removed or published anew meanwhile; start again")
        return published[1]


def read_row(runs: Folder, place: Place) -> dict[str, Any]:
    """Return a row of results as column -> value; UserError if it cannot be read."""
    name = f"{place.run_id}/results/part-{place.shard:05d}.parquet"
    try:
        table = pq.read_table(pa.BufferReader(runs.read(name)))
        return dict(table.slice(place.row, 1).to_pylist()[0])
    except StorageError:
        raise
    except (OSError, pa.ArrowException, IndexError) as error:
        raise UserError(
            f"{name} in {runs.url} cannot be read ({type(error).__name__}); `screening verify` names what is damaged"
        ) from error


def open_current(runs: Folder) -> Current | None:
    """Return the newest version of the index, None where there is none; its data files are not looked at.

    Raises
    ------
    UserError
        The JSON of the newest version cannot be read.
    """
    numbers = _numbers(runs)
    return _open(runs, numbers[-1]) if numbers else None


def refresh(runs: Folder, *, memory_mb: int = MEMORY_MB) -> Current:
    """Bring every published run into the index and return it; where nothing is new, no version is made.

    A run that was removed from ``runs`` leaves the index, and rows that it had superseded count again; its id stands in
    ``dropped``.

    Raises
    ------
    UserError
        No run is published, one cannot be read, or the index cannot be written.
    """
    for _ in range(ATTEMPTS):
        before, published = open_current(runs), _all_published(runs)
        if not published:
            raise NothingPublished(
                f"{runs.url} holds no published run; finish one with `screening run --catalog CATALOG --out {runs.url}`, "
                "or name the folder that was its --out"
            )
        order, kept = _order(before, published)
        whole = before is not None and not _damaged(before)
        if before is not None and whole and kept == len(order) == len(before.indexed):
            return before
        base = before if whole and before is not None and kept == len(before.indexed) else None
        after = _add_version(
            runs,
            before,
            order,
            published,
            base=base,
            forgotten=(before.forgotten_records, before.forgotten_patients) if before else ((), ()),
            memory_mb=memory_mb,
        )
        if after is not None:
            _prune(after, KEPT)
            return after
    raise UserError(f"{runs.url}/{FOLDER} is being changed by others all the time; try again later")


def forget(
    runs: Folder,
    *,
    record_ids: Collection[str] = (),
    patient_keys: Collection[str] = (),
    memory_mb: int = MEMORY_MB,
) -> Current:
    """Leave records, and all records of patients, out of the index and of reports from now on.

    They need not be known yet. The rows stay in the runs' results; data files of earlier versions, which name the
    records, are removed at once.
    """
    for _ in range(ATTEMPTS):
        before, published = open_current(runs), _all_published(runs)
        held = (set(before.forgotten_records), set(before.forgotten_patients)) if before else (set(), set())
        if before is not None and set(record_ids) <= held[0] and set(patient_keys) <= held[1] and not _damaged(before):
            _prune(before, 1)  # whoever noted them may have been killed before this
            return before
        forgotten = (tuple(sorted(held[0] | set(record_ids))), tuple(sorted(held[1] | set(patient_keys))))
        order, _ = _order(before, published)
        after = _add_version(runs, before, order, published, base=None, forgotten=forgotten, memory_mb=memory_mb)
        if after is not None:
            _prune(after, 1)
            return after
    raise UserError(f"{runs.url}/{FOLDER} is being changed by others all the time; try again later")


def enter_last(runs: Folder, run_id: str, *, memory_mb: int = MEMORY_MB) -> Current:
    """Let the rows of a run win over those of all others, as if it had only just been published.

    A model that is champion again finds its runs published before, and others on top of them.

    Raises
    ------
    UserError
        The run is not published, or the index cannot be written.
    """
    for _ in range(ATTEMPTS):
        before = refresh(runs, memory_mb=memory_mb)
        if before.indexed[-1].run_id == run_id:
            return before
        published = _all_published(runs)
        if run_id not in published:
            raise UserError(f"run {run_id} in {runs.url} was removed meanwhile; start again")
        order = [*(name for name in _order(before, published)[0] if name != run_id), run_id]
        forgotten = (before.forgotten_records, before.forgotten_patients)
        after = _add_version(runs, before, order, published, base=None, forgotten=forgotten, memory_mb=memory_mb)
        if after is not None:
            _prune(after, KEPT)
            return after
    raise UserError(f"{runs.url}/{FOLDER} is being changed by others all the time; try again later")


# --- Published runs --------------------------------------------------------------------------------------------------

_Published = Mapping[str, tuple[str, dict[str, Any]]]


def _all_published(runs: Folder) -> dict[str, tuple[str, dict[str, Any]]]:
    """Return run_id -> SHA-256 of the manifest, and the manifest, of every published run."""
    names = [name for name in runs.names() if name != FOLDER]
    with ThreadPoolExecutor(16) as pool:
        found = zip(names, pool.map(lambda name: _published(runs, name), names), strict=True)
    return {name: published for name, published in found if published is not None}


def _published(runs: Folder, name: str) -> tuple[str, dict[str, Any]] | None:
    try:
        data = runs.read(f"{name}/manifest.json")
    except (FileNotFoundError, NotADirectoryError):
        return None
    where = f"{name}/manifest.json in {runs.url}"
    try:
        manifest = json.loads(data)
        run_id, schema_version = manifest["run_id"], manifest["schema_version"]
        sum(file["rows"] for file in manifest["files"])
        manifest["model"]["bundle_sha256"]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{where} is damaged ({error}); `screening run` writes it again once it is removed") from error
    if run_id != name:
        raise UserError(f"{where} is of run {run_id}: a run's folder bears its id; move the copy out of there")
    if schema_version != RESULT_SCHEMA_VERSION:
        raise UserError(
            f"{where} has results of version {schema_version}, and this program reads {RESULT_SCHEMA_VERSION}; "
            "move that run out of there"
        )
    return hashlib.sha256(data).hexdigest(), manifest


def _order(before: Current | None, published: _Published) -> tuple[list[str], int]:
    """Return all runs in the order in which they entered, new ones last, and how many of them stand as they were."""
    old = [run for run in before.indexed if run.run_id in published] if before else []
    new = set(published) - {run.run_id for run in old}
    entering = sorted(new, key=lambda run_id: (str(published[run_id][1].get("finished_at", "")), run_id))
    same = sum(published[run.run_id][0] == run.manifest_sha256 for run in old)
    return [*(run.run_id for run in old), *entering], same


def _indexed(runs: Folder, run_id: str, published: _Published) -> IndexedRun:
    sha256, manifest = published[run_id]
    return IndexedRun(
        run_id=run_id,
        manifest_sha256=sha256,
        finished_at=str(manifest.get("finished_at", "")),
        records=sum(file["rows"] for file in manifest["files"]),
        shard_records=load_plan(runs.folder(run_id)).shard_records,
        model=manifest["model"],
    )


def _incoming(
    runs: Folder, indexed: Sequence[IndexedRun], published: _Published, *, skip: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of the runs after the first ``skip``."""
    for at in range(skip, len(indexed)):
        run_id = indexed[at].run_id
        for table in iter_rows(runs.folder(run_id), published[run_id][1]["files"], indexed[at].shard_records, run=at):
            yield from table.to_batches()


# --- Versions --------------------------------------------------------------------------------------------------------


def _name(number: int) -> str:
    return f"version-{number:06d}.json"


def _numbers(runs: Folder) -> list[int]:
    names = runs.names(FOLDER)
    return sorted(
        int(name[8:-5])
        for name in names
        if name.startswith("version-") and name.endswith(".json") and name[8:-5].isdigit()
    )


def _open(runs: Folder, number: int) -> Current:
    name = f"{FOLDER}/{_name(number)}"
    try:
        stored = json.loads(runs.read(name))
        if stored["schema_version"] != SCHEMA_VERSION:
            raise UserError(
                f"{name} in {runs.url} is of version {stored['schema_version']}, and this program reads "
                f"{SCHEMA_VERSION}; use the version of screening that wrote it"
            )
        return Current(
            runs=runs,
            version=number,
            indexed=tuple(IndexedRun(**run) for run in stored["runs"]),
            dropped=tuple(stored["dropped"]),
            forgotten_records=tuple(stored["forgotten"]["record_ids"]),
            forgotten_patients=tuple(stored["forgotten"]["patient_keys"]),
            counts=stored["counts"],
            files={name: stored["files"][name] for name in FILES},
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{name} in {runs.url} cannot be read ({type(error).__name__}); it holds what was forgotten: restore it from "
            "a copy, or remove it and forget again what was forgotten since the version before"
        ) from error


def _damaged(current: Current) -> bool:
    """Whether a data file is gone or other than it was written; on remote file systems only the size is asked."""
    for entry in current.files.values():
        path = current.folder.path(entry["path"])
        try:
            if current.folder.is_local:
                with open(path, "rb") as file:
                    if hashlib.file_digest(file, "sha256").hexdigest() != entry["sha256"]:
                        return True
            elif current.folder.filesystem.info(path)["size"] != entry["bytes"]:
                return True
        except OSError:
            return True
    return False


def _add_version(
    runs: Folder,
    before: Current | None,
    order: Sequence[str],
    published: _Published,
    *,
    base: Current | None,
    forgotten: tuple[tuple[str, ...], tuple[str, ...]],
    memory_mb: int,
) -> Current | None:
    """Write the version after ``before``, on top of ``base``'s rows; None where somebody else made it first."""
    number = (before.version if before else 0) + 1
    folder = runs.folder(FOLDER)
    place = f"{number:06d}-{secrets.token_hex(3)}"
    indexed = tuple(
        base.indexed[at] if base and at < len(base.indexed) else _indexed(runs, run_id, published)
        for at, run_id in enumerate(order)
    )
    gone = sorted({run.run_id for run in before.indexed} - set(order)) if before else []
    dropped = tuple(dict.fromkeys([*(before.dropped if before else ()), *gone]))
    try:
        with tempfile.TemporaryDirectory(prefix="screening-index-") as scratch:
            counts = write_files(
                Path(scratch),
                _incoming(runs, indexed, published, skip=len(base.indexed) if base else 0),
                base=None if base is None else (base.folder, {name: base.files[name]["path"] for name in FILES}),
                alone=base is None and len(indexed) == 1,
                forgotten=forgotten,
                memory_mb=memory_mb,
            )
            files = {name: _keep(folder, Path(scratch) / name, f"{place}/{name}") for name in FILES}
        current = Current(runs, number, indexed, tuple(r for r in dropped if r not in order), *forgotten, counts, files)
        stored = {
            "notice": NOTICE,
            "schema_version": SCHEMA_VERSION,
            "version": number,
            "runs": [asdict(run) for run in indexed],
            "dropped": current.dropped,
            "forgotten": {"record_ids": forgotten[0], "patient_keys": forgotten[1]},
            "counts": counts,
            "files": files,
        }
        won = folder.create(_name(number), json.dumps(stored, indent=1).encode())
    except BaseException as error:
        folder.remove(place)
        if isinstance(error, (OSError, duckdb.IOException)):
            if before is not None and _numbers(runs)[-1] != before.version:
                return None  # what was built upon was removed meanwhile
            raise UserError(f"{folder.url} cannot be renewed ({error}); mend that and start again") from error
        raise
    if won and _numbers(runs)[-1] == number:
        return current
    folder.remove(place)
    if won:  # slept so long that this number had been pruned
        folder.remove(_name(number))
    return None


def _keep(folder: Folder, source: Path, name: str) -> dict[str, Any]:
    digest = hashlib.sha256()
    with source.open("rb") as made, folder.writer(name) as file:
        while block := made.read(2**22):
            digest.update(block)
            file.write(block)
    return {"path": name, "bytes": source.stat().st_size, "sha256": digest.hexdigest()}


def _prune(current: Current, kept: int) -> None:
    """Remove versions before the last ``kept``, and folders that writers left when they were killed."""
    oldest = current.version - kept + 1
    with suppress(OSError):  # the next version prunes again
        for name in current.folder.names():
            number = name[8:-5] if name.startswith("version-") else name[:6]
            if number.isdigit() and int(number) < oldest:
                current.folder.remove(name)


@contextmanager
def _told(current: Current) -> Iterator[None]:
    """Say in one sentence that a file of the index cannot be read."""
    try:
        yield
    except StorageError:
        raise
    except (OSError, pa.ArrowException, duckdb.IOException, duckdb.InvalidInputException) as error:
        raise UserError(
            f"the index {current.folder.url} cannot be read ({type(error).__name__}); `screening report` makes its files "
            "again from the runs"
        ) from error
