"""Small catalogs and published runs with stated rows, made by the code that makes real ones; nothing is screened."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from screening.archive.catalog import SCHEMA_VERSION, Catalog, open_catalog
from screening.archive.labels import PRESETS
from screening.archive.store import CATALOG_SCHEMA, LOCATION_SCHEMA, CatalogFiles, open_folder
from screening.contract import CARRIED_COLUMNS, NOTICE, result_schema
from screening.run.ledger import finished_shards, footer, publish
from screening.run.plan import Plan, read_shard, results_name, store_plan
from screening.run.sealed import results_bytes
from screening.storage import Folder


def sha256(text: str) -> str:
    """Return the SHA-256 that stands for a record's bytes."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_catalog(
    path: str | Path, rows: Sequence[Mapping[str, Any]], *, storage_options: dict[str, Any] | None = None
) -> Catalog:
    """Write a catalog of ``rows`` (record_id and whatever else is to be stated) over the one that is there."""
    full = [{"format": "wfdb", "bytes": 1, "version": "1", **row} for row in rows]
    table = pa.Table.from_pylist(
        [{name: row.get(name) for name in CATALOG_SCHEMA.names} for row in full], CATALOG_SCHEMA
    )
    ids = table["record_id"].combine_chunks()
    settings = {
        "deidentified": True,
        "key_id": None,
        "patient_key_id": "public",
        "found_by": "listing",
        "table": None,
        "mapping": None,
        "label_rule": PRESETS["none"].model_dump(mode="json"),
        "schema_version": SCHEMA_VERSION,
    }
    with CatalogFiles(*open_folder(str(path), storage_options)) as files:
        locations = pa.RecordBatch.from_arrays([ids, ids], schema=LOCATION_SCHEMA)
        files.write(table.combine_chunks().to_batches()[0], locations)
        files.commit(
            settings,
            lambda catalog_id, hashes: {
                "notice": NOTICE,
                "catalog_id": catalog_id,
                "root_url": "file:///archive",
                **settings,
                "counts": {
                    "records": len(rows),
                    "absent": 0,
                    "duplicates": 0,
                    "without_metadata": 0,
                    "bytes": len(rows),
                },
                "files": hashes,
            },
        )
    return open_catalog(str(path), storage_options=storage_options)


def publish_run(
    runs: Folder,
    catalog: Catalog,
    run_id: str,
    results: Mapping[str, Mapping[str, Any]] | None = None,
    *,
    bundle: str = "b",
    model: Mapping[str, str] | None = None,
    finished_at: str = "2026-01-01T00:00:00+00:00",
    shard_records: int = 3,
) -> Folder:
    """Publish a run of the whole catalog and return its folder.

    Parameters
    ----------
    results
        record_id -> columns of its row; without any it is scored at probability 0.1, with bytes of its own.
    """
    made_up = {"name": "m", "version": bundle, "bundle_sha256": bundle * 64, "input_contract_sha256": "i" * 64}
    plan = Plan(
        run_id=run_id,
        archive_url=catalog.root_url,
        catalog_id=catalog.catalog_id,
        key_id=None,
        records=catalog.records,
        shards=-(-catalog.records // shard_records),
        shard_records=shard_records,
        model=dict(model or made_up),
        donor_set=None,
        settings={},
        quality={},
        fingerprint={},
    )
    run = runs.folder(run_id)
    store_plan(run, catalog, plan)
    schema = result_schema()
    for shard in range(plan.shards):
        rows = []
        for carried in read_shard(run, shard, columns=list(CARRIED_COLUMNS)).to_pylist():
            row = {**carried, **plan.results_identity, "record_sha256": sha256(carried["record_id"])}
            row |= {"status": "scored", "probability": 0.1, "logit": -2.0, "quality_flags": ""}
            row |= (results or {}).get(carried["record_id"], {})
            if row["status"] == "scored":
                row.setdefault("flagged", row["probability"] >= 0.5)
            else:
                row |= {"probability": None, "logit": None, "flagged": None}
            rows.append({name: row.get(name) for name in schema.names})
        scored, flagged = (
            sum(bool(row[name] == value) for row in rows) for name, value in (("status", "scored"), ("flagged", True))
        )
        reasons = dict(Counter(row["reason"] for row in rows if row["reason"]))
        facts = {
            "shard": shard,
            "rows": len(rows),
            "scored": scored,
            "flagged": flagged,
            "explained": 0,
            "reasons": reasons,
        }
        run.write(results_name(shard), results_bytes(pa.Table.from_pylist(rows, schema), footer=footer(plan, facts)))
    publish(run, plan, finished_shards(run, plan).values(), facts={"finished_at": finished_at})
    return run
