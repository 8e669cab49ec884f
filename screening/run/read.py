"""Reading what a run wrote: the files its manifest names, or the finished shards of one that is not published yet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from screening.contract import result_schema
from screening.run.ledger import counts, finished_shards, read_manifest
from screening.run.plan import load_plan, read_shard, results_name
from screening.storage import Folder


def iter_results(run: Folder, *, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """Yield the results of a run, a table a shard, in the order of the plan."""
    manifest = read_manifest(run)
    if manifest is not None:
        names = [file["name"] for file in manifest["files"]]
    else:
        names = [results_name(shard) for shard in sorted(finished_shards(run, load_plan(run)))]
    for name in names:
        with run.open(name) as file:
            yield pq.read_table(file, columns=columns)


def faults(run: Folder) -> Iterator[str]:
    """Yield a sentence for everything in which a published run is not what its manifest and its plan say."""
    plan, manifest = load_plan(run), read_manifest(run)
    if manifest is None:
        yield "manifest.json: is not there, so the run is not published; `screening run` finishes it"
        return
    if manifest["run_id"] != plan.run_id:
        yield f"manifest.json: is of run {manifest['run_id']}, the plan of run {plan.run_id}"
    named = [file["name"] for file in manifest["files"]]
    if named != [results_name(shard) for shard in range(plan.shards)]:
        yield f"manifest.json: names {len(named)} files that are not the {plan.shards} shards of the plan"
        return
    for shard, file in enumerate(manifest["files"]):
        try:
            data = run.read(file["name"])
        except FileNotFoundError:
            yield f"{file['name']}: is gone"
            continue
        if hashlib.sha256(data).hexdigest() != file["sha256"]:
            yield f"{file['name']}: its SHA-256 differs from the manifest's"
            continue
        try:
            planned = read_shard(run, shard, columns=["record_id"])["record_id"].to_pylist()
        except (OSError, pa.ArrowException) as error:
            yield f"plan: the records of shard {shard} cannot be read ({type(error).__name__})"
            continue
        table = pq.read_table(pa.BufferReader(data))
        if table.schema.remove_metadata() != result_schema():
            yield f"{file['name']}: its columns are not those of the contract"
        elif table["record_id"].to_pylist() != planned:
            yield f"{file['name']}: its records are not those of shard {shard} of the plan"
    stored = {key: value for key, value in manifest["counts"].items() if key != "planned"}
    if stored != counts(finished_shards(run, plan).values()):
        yield "manifest.json: its counts are not the sums of its files"
