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
from screening.run.donors import donor_sets_with, forget_donors
from screening.run.lease import Lease
from screening.run.ledger import (
    counts,
    finished_shards,
    footer,
    is_sealed,
    plan_files,
    read_manifest,
    write_manifest,
)
from screening.run.plan import (
    FORGETTING,
    Plan,
    iter_shards,
    load_plan,
    plan_bytes,
    results_name,
    rewrite_slices,
    slice_names,
)
from screening.run.sealed import footer_of, results_bytes
from screening.run.worker import summary_of
from screening.storage import Folder


@dataclass(frozen=True)
class Held:
    """Where patients or records stand."""

    rows: dict[str, int]  # run -> rows of its plan; runs without any are left out
    patient_keys: frozenset[str]  # whose rows those are
    donor_sets: tuple[str, ...]
    interrupted: tuple[str, ...]  # runs in which an earlier erasure was not completed


def held_by_runs(runs: Folder, *, record_ids: Collection[str] = (), patient_keys: Collection[str] = ()) -> Held:
    """Return which runs, and which donor sets, hold these records and patients.

    Raises
    ------
    UserError
        There is no such folder, or files in it are damaged.
    """
    if not runs.exists():
        raise UserError(f"there is no folder {runs.url}; name the one that was --out of `screening run`")
    rows: dict[str, int] = {}
    keys: set[str] = set()
    interrupted: list[str] = []
    for name in _run_names(runs):
        run = runs.folder(name)
        concerned = _concerned(run, load_plan(run), record_ids, patient_keys)
        if concerned:
            rows[name] = sum(map(len, concerned.values()))
            keys.update(key for found in concerned.values() for key in found if key is not None)
        if run.exists(FORGETTING):
            interrupted.append(name)
    return Held(rows, frozenset(keys), tuple(donor_sets_with(runs, record_ids, patient_keys)), tuple(interrupted))


def forget_in_runs(
    runs: Folder,
    *,
    record_ids: Collection[str] = (),
    patient_keys: Collection[str] = (),
    at: str,
    on_run: Callable[[str], None] = lambda _: None,
) -> Held:
    """Erase records, and all records of patients, from a folder of runs; return where they stood.

    So are those that were forgotten before, wherever an interrupted erasure or a restored backup has left any.

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
    rewritten: list[str] = []
    if (before := current.open_current(runs)) is not None:
        rewritten = [name for name in _run_names(runs) if runs.exists(f"{name}/{FORGETTING}")]
        for name in rewritten:  # first of all: what is half erased cannot be indexed anew
            _forget_in_run(runs.folder(name), before.forgotten_records, before.forgotten_patients, at, on_run)
    noted = current.forget(runs, record_ids=record_ids, patient_keys=patient_keys)
    gone, patients = noted.forgotten_records, noted.forgotten_patients
    _remove_unfinished_plans(runs)
    held = held_by_runs(runs, record_ids=gone, patient_keys=patients)
    for name in held.donor_sets:
        forget_donors(runs, name)
    for name in sorted(held.rows):
        _forget_in_run(runs.folder(name), gone, patients, at, on_run)
    if any(read_manifest(runs.folder(name)) for name in (*rewritten, *held.rows)):
        current.refresh(runs)  # rows stand in other places now
    return held


def _run_names(runs: Folder) -> Iterator[str]:
    for name in runs.names():
        if runs.exists(f"{name}/plan.json"):
            yield name


def _remove_unfinished_plans(runs: Folder) -> None:
    """Remove the records of plans that were never finished: nothing else says what is in them, and nobody goes on with them."""
    for name in runs.names():
        if runs.exists(f"{name}/plan") and not runs.exists(f"{name}/plan.json"):
            with Lease(runs.folder(name)) as lease:
                if not lease.folder.exists("plan.json"):
                    lease.folder.remove("plan")


def _concerned(
    run: Folder, plan: Plan, record_ids: Collection[str], patient_keys: Collection[str]
) -> dict[int, list[str | None]]:
    """Return shard -> patients of the rows of it that are named."""
    found: dict[int, list[str | None]] = {}
    try:
        for shard, table in iter_shards(run, plan, columns=["record_id", "patient_key"]):
            for batch in table.combine_chunks().to_batches():
                if keys := batch.filter(named(batch, record_ids, patient_keys))["patient_key"].to_pylist():
                    found[shard] = keys
    except (OSError, pa.ArrowException) as error:
        raise UserError(
            f"the plan of {run.url} cannot be read ({type(error).__name__}), so nothing can be erased from it; `screening "
            "repair` the run, or remove it, and start again"
        ) from error
    return found


def _forget_in_run(
    run: Folder, record_ids: Collection[str], patient_keys: Collection[str], at: str, on_run: Callable[[str], None]
) -> None:
    on_run(run.url.rsplit("/", 1)[-1])
    with Lease(run) as lease:
        _rewrite(lease.folder, record_ids, patient_keys, at)


def _rewrite(run: Folder, record_ids: Collection[str], patient_keys: Collection[str], at: str) -> None:
    for name in ("", "plan", "results"):
        run.remove_unfinished(name)
    plan = load_plan(run)
    if not run.exists(FORGETTING) and run.exists("manifest.json") and not is_sealed(run.read("manifest.json")):
        raise UserError(f"the manifest of {run.url} is damaged; `screening repair {run.url}` makes it again")
    earlier: list[int] = json.loads(run.read(FORGETTING))["shards"] if run.exists(FORGETTING) else []
    shards = sorted({*earlier, *_concerned(run, plan, record_ids, patient_keys)})
    run.write(FORGETTING, json.dumps({"shards": shards}).encode())

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
        _rewrite_manifest(run, plan, manifest, shards, at)
    run.sync_names("", "plan", "results")  # before anybody is told that it is done
    run.remove(FORGETTING)


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


def _rewrite_manifest(run: Folder, plan: Plan, manifest: dict[str, Any], shards: list[int], at: str) -> None:
    rows = manifest["counts"]["planned"] - plan.records
    if not rows:
        return  # an erasure that was interrupted after this
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
            "plan": _plan_entries(run, manifest, shards),
            "files": files,
            "removed": {str(shard): count for shard, count in plan.removed.items()},
            "forgotten": [*manifest.get("forgotten", []), {"at": at, "rows": rows}],
        },
    )


def _plan_entries(run: Folder, manifest: dict[str, Any], shards: list[int]) -> list[dict[str, Any]]:
    """Return what a manifest says of the plan after shards were rewritten; of other files what it said before."""
    rewritten = {"plan.json", *slice_names(shards)}
    now = {file["name"]: file for file in plan_files(run, sorted(rewritten))}
    return [now.get(file["name"], file) for file in manifest["plan"]]
