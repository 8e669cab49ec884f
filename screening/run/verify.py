"""Whether a published run is, to the last byte, what was published, and still comes out when it is done again."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screening.archive.store import id_hashes
from screening.contract import EXPLANATION_COLUMNS, GAINED_COLUMNS, RESULT_COLUMNS, Reason, Status, result_schema
from screening.errors import UserError
from screening.run.bundles import fetch_bundle
from screening.run.donors import is_forgotten, load_donor_set
from screening.run.ledger import is_sealed, read_manifest
from screening.run.plan import (
    BEGUN,
    FORGETTING,
    Plan,
    damaged_files,
    load_plan,
    read_locations,
    read_shard,
    results_name,
)
from screening.run.sealed import footer_of
from screening.run.worker import Source, decode_rows, scorer_of
from screening.storage import Folder

TOLERANCE = 1e-4
"""Largest difference of a number that is scored again, beside other records in the batch or on another machine."""
_THREADS, _AHEAD = 4, 64
_OF_RUNNERS = {"lease", BEGUN}
"""Who may write a run, and what a runner leaves that was killed."""


@dataclass(frozen=True)
class Fault:
    """What is wrong with one file of a run."""

    name: str
    what: str

    def __str__(self) -> str:
        return f"{self.name}: {self.what}"


def runs_of(run: Folder) -> Folder:
    """Return the folder of runs that a run lies in, where its model and donors lie too."""
    run = run.absolute()
    return Folder(run.url.rstrip("/").rsplit("/", 1)[0], run.storage_options)


def faults(run: Folder) -> Iterator[Fault]:
    """Yield everything in which a published run is not what its manifest and its plan say; no file is changed.

    Raises
    ------
    UserError
        The folder is not a run.
    """
    if not run.exists("manifest.json"):
        load_plan(run)  # says where there is no run at all
        yield Fault("manifest.json", "is not there, so the run is not published; `screening run` finishes it")
        return
    if run.exists(FORGETTING):
        yield Fault(FORGETTING, "an erasure was interrupted; `screening forget` of anybody completes it")
        return
    if not is_sealed(run.read("manifest.json")):
        yield Fault("manifest.json", "is not as it was written")
        for name in _damaged_plan(run):
            yield Fault(
                name, "is not as it was written, and only the manifest knew what it was; restore both from a copy"
            )
        return
    manifest = read_manifest(run) or {}
    wrong = list(_hashed(run, manifest["plan"]))
    yield from wrong
    if any(fault.name == "plan.json" for fault in wrong):
        return
    plan = load_plan(run)
    if manifest["run_id"] != plan.run_id:
        yield Fault("manifest.json", f"is of run {manifest['run_id']}, the plan of run {plan.run_id}")
        return
    if [file["name"] for file in manifest["files"]] != [results_name(shard) for shard in range(plan.shards)]:
        yield Fault("manifest.json", f"names other files than the {plan.shards} shards of the plan")
        return
    yield from _results(run, plan, manifest, readable=not wrong)
    yield from _strays(run, manifest)
    yield from _held(runs_of(run), plan)


def _damaged_plan(run: Folder) -> list[str]:
    try:
        return damaged_files(run, load_plan(run))
    except UserError:
        return ["plan.json"]


def _hashed(run: Folder, files: Sequence[dict[str, Any]]) -> Iterator[Fault]:
    for file in files:
        try:
            if hashlib.sha256(run.read(file["name"])).hexdigest() != file["sha256"]:
                yield Fault(file["name"], "its SHA-256 differs from the manifest's")
        except FileNotFoundError:
            yield Fault(file["name"], "is gone")


@dataclass(frozen=True)
class _Shard:
    """What was found in one results file."""

    fault: Fault | None
    ids: np.ndarray
    counts: Counter[str]
    reasons: Counter[str]


def _results(run: Folder, plan: Plan, manifest: dict[str, Any], *, readable: bool) -> Iterator[Fault]:
    """Check the results files; against the plan's records only where the plan's files are whole (``readable``)."""
    ids: list[np.ndarray] = []
    counts: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    whole = True
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, plan.shards, _AHEAD):
            shards = range(start, min(start + _AHEAD, plan.shards))
            for found in pool.map(lambda shard: _shard(run, plan, manifest, shard, readable), shards):
                if found.fault:
                    whole = False
                    yield found.fault
                ids.append(found.ids)
                counts += found.counts
                reasons += found.reasons
    together = np.concatenate(ids)
    if (twice := len(together) - len(np.unique(together))) > 0:
        yield Fault("results", f"{twice} rows are of records that have another row")
    stated = {key: value for key, value in manifest["counts"].items() if value or key in ("scored", "planned")}
    seen = {**counts, "planned": plan.records, "reasons": dict(reasons)}
    if whole and {key: value for key, value in seen.items() if value or key == "planned"} != stated:
        yield Fault("manifest.json", "its counts are not the sums of its files")


def _shard(run: Folder, plan: Plan, manifest: dict[str, Any], shard: int, readable: bool) -> _Shard:
    file = manifest["files"][shard]

    def bad(what: str) -> _Shard:
        return _Shard(Fault(file["name"], what), np.zeros(0, np.uint64), Counter(), Counter())

    try:
        data = run.read(file["name"])
    except FileNotFoundError:
        return bad("is gone")
    if hashlib.sha256(data).hexdigest() != file["sha256"]:
        return bad("its SHA-256 differs from the manifest's")
    # From here on it is as it was written; what follows finds what was written wrongly.
    found = pq.read_schema(pa.BufferReader(data)).remove_metadata()
    if found != pa.schema([f for f in result_schema() if f.name in found.names or f.name not in GAINED_COLUMNS]):
        return bad("its columns are not those of the contract")
    columns = ["record_id", "status", "reason", "flagged", "run_id"]
    table = pq.read_table(pa.BufferReader(data), columns=columns)
    ids = table["record_id"].to_pylist()
    if readable and ids != read_shard(run, shard, columns=["record_id"])["record_id"].to_pylist():
        return bad(f"its records are not those of shard {shard} of the plan")
    if pc.any(pc.not_equal(table["run_id"], plan.run_id)).as_py():
        return bad("rows of it are of another run")
    status = Counter(table["status"].to_pylist())
    footer = footer_of(data)
    if footer is None:
        return bad("its footer does not seal it")
    counts = Counter(
        scored=status[Status.SCORED],
        rejected=status[Status.REJECTED],
        flagged=pc.sum(table["flagged"], min_count=0).as_py(),
        explained=footer["explained"],
    )
    return _Shard(None, id_hashes(ids), counts, Counter(table["reason"].drop_null().to_pylist()))


def _strays(run: Folder, manifest: dict[str, Any]) -> Iterator[Fault]:
    named = {file["name"] for file in (*manifest["plan"], *manifest["files"])}
    for name in run.names():
        if name in ("plan", "results"):
            for below in run.names(name):
                if f"{name}/{below}" not in named:
                    yield Fault(f"{name}/{below}", "is no part of the run")
        elif name not in named | {"manifest.json"} | _OF_RUNNERS:
            yield Fault(name, "is no part of the run")


def _held(runs: Folder, plan: Plan) -> Iterator[Fault]:
    """Check what the run rests on: its model and its donors."""
    sha256 = plan.model["bundle_sha256"]
    if runs.exists(f"models/{sha256}"):
        try:
            fetch_bundle(runs, sha256)
        except UserError as error:
            yield Fault(f"../models/{sha256[:12]}", str(error))
    else:
        yield Fault(f"../models/{sha256[:12]}", "is gone")
    if plan.donor_set is not None and not is_forgotten(runs, plan.donor_set):
        try:
            load_donor_set(runs, plan.donor_set)
        except UserError as error:
            yield Fault(f"../donors/{plan.donor_set[:12]}", str(error))


# --- Doing it again --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rescored:
    """What came of scoring a sample of a run's records again."""

    same: int
    gone: int  # whose bytes are no longer in the archive as they were
    faults: tuple[Fault, ...]


def rescore(run: Folder, rows: Sequence[int], *, options: dict[str, Any] | None = None) -> Rescored:
    """Read, decode, score and explain some records of a run again, and compare them with what was published.

    Parameters
    ----------
    rows
        Places of the records in the plan.
    options
        fsspec's, for the archive.

    Raises
    ------
    UserError
        The model or the donors of the run are gone or damaged.
    StorageError
        The archive cannot be read.
    """
    plan, runs = load_plan(run), runs_of(run)
    scorer = scorer_of(runs, plan, anywhere=True)
    source = Source(run, plan, scorer.bundle.preprocessing, dict(options or {}))
    unexplained = {name for name, _, _ in EXPLANATION_COLUMNS} if scorer.explainer is None else set()
    compared = [name for name, _, _ in RESULT_COLUMNS if name not in unexplained]
    same = gone = 0
    wrong: list[Fault] = []
    for shard, places in _by_shard(plan, sorted(rows)).items():
        with run.open(results_name(shard)) as file:
            published = pq.read_table(file, pre_buffer=False).take(places).to_pylist()
        planned = read_shard(run, shard).take(places)
        locations = read_locations(run, shard)
        found = scorer.score(decode_rows(source, planned, [locations[at] for at in places])).to_pylist()
        for at, before, after in zip(places, published, found, strict=True):
            if after["reason"] in (Reason.CHANGED, Reason.MISSING_FILE) and after["reason"] != before["reason"]:
                gone += 1
            elif different := [name for name in compared if name in before and not _alike(before[name], after[name])]:
                wrong.append(Fault(results_name(shard), f"row {at} comes out otherwise: {', '.join(different)}"))
            else:
                same += 1
    return Rescored(same, gone, tuple(wrong))


def _by_shard(plan: Plan, rows: Sequence[int]) -> dict[int, list[int]]:
    """Return shard -> rows within it, of rows counted through the plan in ascending order."""
    found: dict[int, list[int]] = {}
    first = 0
    waiting = list(rows)
    for shard in range(plan.shards):
        past = first + plan.shard_rows(shard)
        while waiting and waiting[0] < past:
            found.setdefault(shard, []).append(waiting.pop(0) - first)
        first = past
    return found


def _alike(before: Any, after: Any) -> bool:
    if isinstance(before, float) and isinstance(after, float):
        return bool(np.isclose(before, after, rtol=TOLERANCE, atol=TOLERANCE, equal_nan=True))
    return bool(before == after)
