"""Erasing patients from all that was published: results, plans, donors, and the index that reports read.

Tombstones in ``RUNS/current`` come first, so that reports leave the patients out at once. Then their rows are taken out of
every run, published or not, under its lease: results, plan, manifest. A file in the run notes which shards are concerned until
all of that is done, so that an erasure that was interrupted is completed when it is started again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from screening.archive.catalog import named
from screening.errors import UserError
from screening.run import current
from screening.run.donors import donor_sets, forget_donors
from screening.run.ledger import Lease, counts, finished_shards, footer, plan_files, read_manifest, write_manifest
from screening.run.plan import Plan, load_plan, plan_bytes, read_shard, results_name, rewrite_slices
from screening.run.sealed import footer_of, results_bytes
from screening.run.worker import summary_of
from screening.storage import Folder

_PENDING = "forgetting.json"


@dataclass(frozen=True)
class Held:
    """Where patients or records stand."""

    rows: dict[str, int]  # run -> rows of its plan; runs without any are left out
    donor_sets: tuple[str, ...]
    interrupted: tuple[str, ...]  # runs in which an earlier erasure was not completed


def held_by_runs(runs: Folder, *, record_ids: Collection[str] = (), patient_keys: Collection[str] = ()) -> Held:
    """Return which runs, and which donor sets, hold these records and patients."""
    rows: dict[str, int] = {}
    interrupted: list[str] = []
    for name in _run_names(runs):
        run = runs.folder(name)
        concerned = _concerned(run, load_plan(run), record_ids, patient_keys)
        if concerned:
            rows[name] = sum(concerned.values())
        if run.exists(_PENDING):
            interrupted.append(name)
    sets = [
        name
        for name, donors in donor_sets(runs)
        if set(donors.record_ids) & set(record_ids) or set(donors.patient_keys) & set(patient_keys)
    ]
    return Held(rows, tuple(sets), tuple(interrupted))


def forget_in_runs(
    runs: Folder,
    *,
    record_ids: Collection[str] = (),
    patient_keys: Collection[str] = (),
    at: str,
    on_run: Callable[[str], None] = lambda _: None,
) -> Held:
    """Erase records, and all records of patients, from a folder of runs; return where they stood.

    Parameters
    ----------
    record_ids, patient_keys
        As they stand in the catalog: pseudonyms, unless record ids are plain there.
    at
        When, for the manifests.
    on_run
        Called with the id of each run before its files are rewritten.

    Raises
    ------
    UserError
        A run is being written by somebody else, or files of it are damaged. Started again, the erasure goes on.
    """
    current.forget(runs, record_ids=record_ids, patient_keys=patient_keys)
    held = held_by_runs(runs, record_ids=record_ids, patient_keys=patient_keys)
    for name in held.donor_sets:
        forget_donors(runs, name)
    for name in sorted({*held.rows, *held.interrupted}):
        on_run(name)
        run = runs.folder(name)
        with Lease(run):
            _forget_in_run(run, record_ids, patient_keys, at)
    if held.rows and any(read_manifest(runs.folder(name)) for name in held.rows):
        current.refresh(runs)  # rows stand in other places now
    return held


def _run_names(runs: Folder) -> Iterator[str]:
    for name in runs.names():
        if runs.exists(f"{name}/plan.json"):
            yield name


def _concerned(run: Folder, plan: Plan, record_ids: Collection[str], patient_keys: Collection[str]) -> dict[int, int]:
    """Return shard -> rows of it that are named."""
    found: dict[int, int] = {}
    for shard in range(plan.shards):
        table = read_shard(run, shard, columns=["record_id", "patient_key"]).combine_chunks()
        for batch in table.to_batches():
            if count := pc.sum(named(batch, record_ids, patient_keys), min_count=0).as_py():
                found[shard] = found.get(shard, 0) + count
    return found


def _forget_in_run(run: Folder, record_ids: Collection[str], patient_keys: Collection[str], at: str) -> None:
    plan = load_plan(run)
    earlier: dict[str, Any] = json.loads(run.read(_PENDING)) if run.exists(_PENDING) else {"shards": [], "rows": 0}
    concerned = _concerned(run, plan, record_ids, patient_keys)
    shards = sorted({*earlier["shards"], *concerned})
    rows = earlier["rows"] + sum(concerned.values())
    run.write(_PENDING, json.dumps({"shards": shards, "rows": rows}).encode())

    def keep(table: pa.Table) -> pa.Table:
        table = table.combine_chunks()
        if not table.num_rows:
            return table
        return table.filter(pc.invert(named(table.to_batches()[0], record_ids, patient_keys)))

    for shard in shards:
        _rewrite_results(run, plan, shard, keep)
    removed = rewrite_slices(run, plan, shards, keep)
    plan = replace(plan, removed=removed, records=plan.records + sum(plan.removed.values()) - sum(removed.values()))
    run.write("plan.json", plan_bytes(plan))
    manifest = read_manifest(run)
    if manifest is not None:
        _rewrite_manifest(run, plan, manifest, shards, {"at": at, "rows": rows})
    run.remove(_PENDING)


def _rewrite_results(run: Folder, plan: Plan, shard: int, keep: Callable[[pa.Table], pa.Table]) -> None:
    name = results_name(shard)
    try:
        data = run.read(name)
    except FileNotFoundError:
        return  # not yet scored
    if footer_of(data) is None:
        if read_manifest(run) is None:
            run.remove(name)  # it would be scored again in any case
            return
        raise UserError(
            f"{name} of {run.url} is damaged, so nothing can be erased from it; `screening repair` it first"
        )
    table = keep(pq.read_table(pa.BufferReader(data)).replace_schema_metadata(None))
    facts = summary_of(shard, table)
    run.write(name, results_bytes(table, footer=footer(plan, facts)))


def _rewrite_manifest(
    run: Folder, plan: Plan, manifest: dict[str, Any], shards: list[int], entry: dict[str, Any]
) -> None:
    finished = finished_shards(run, plan)
    if lost := [results_name(shard) for shard in range(plan.shards) if shard not in finished]:
        raise UserError(f"{lost[0]} of {run.url} is damaged; `screening repair` the run, and start again")
    files = list(manifest["files"])
    for shard in shards:
        data = run.read(results_name(shard))
        sha256 = hashlib.sha256(data).hexdigest()
        files[shard] = {**files[shard], "rows": finished[shard].rows, "bytes": len(data), "sha256": sha256}
    write_manifest(
        run,
        {
            **manifest,
            "counts": counts(finished.values()) | {"planned": plan.records},
            "plan": plan_files(run),
            "files": files,
            "removed": {str(shard): count for shard, count in plan.removed.items()},
            "forgotten": [*manifest.get("forgotten", []), entry],
        },
    )
