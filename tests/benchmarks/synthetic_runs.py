"""A catalog and a published run with millions of made-up rows, for measuring what reads them.

Plan, results and manifest are written by the code that writes real ones; only the rows are drawn, so nothing is screened.
Patients have about 1.5 records, 30 sites of different size, 12 devices; some values are missing, 3% are rejected, some
records are copies of others, one ECG in eight is flagged and, as by default, only those are explained.
"""

from __future__ import annotations

import binascii
import hashlib
import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from screening.archive.catalog import SCHEMA_VERSION, Catalog, open_catalog
from screening.archive.labels import PRESETS
from screening.archive.store import CATALOG_SCHEMA, LOCATION_SCHEMA, CatalogFiles, open_folder
from screening.contract import (
    NOTICE,
    OPERATORS,
    PREFIX_OF,
    TERRITORIES,
    Reason,
    Status,
    importance_column,
    result_schema,
)
from screening.model.bundle import PRETRAINED, load_bundle
from screening.run.bundles import store_bundle
from screening.run.ledger import ShardSummary, footer, publish
from screening.run.plan import Plan, read_shard, results_name, store_plan
from screening.run.sealed import results_bytes
from screening.storage import Folder

SHARD_RECORDS = 8192
BATCH = 131_072
RECORDS_A_PATIENT = 1.5
SITES, DEVICES = 30, 12
THRESHOLD = 0.3
REASONS = [Reason.NOISE, Reason.FLAT_LEAD, Reason.MISSING_LEADS, Reason.TOO_SHORT, Reason.CLIPPED]
FINDINGS = [
    "",
    "Pathological Q in the inferior leads (Q: III 45 ms 0.32 mV).",
    "Inverted T in the lateral leads (T: V6 -0.21 mV).",
]
FLAG_SETS = ["", "noise", "mains", "baseline", "noise,mains", "baseline,amplitude"]


def hex_strings(random: np.random.Generator, n: int, length: int) -> pa.Array:
    """Return ``n`` random strings of ``length`` hex characters."""
    return _hex(random.bytes(n * length // 2), n, length)


def _hex(data: bytes, n: int, length: int) -> pa.Array:
    offsets = np.arange(0, (n + 1) * length, length, dtype=np.int32)
    return pa.StringArray.from_buffers(n, pa.py_buffer(offsets), pa.py_buffer(binascii.hexlify(data)))


def _patient_keys(numbers: np.ndarray) -> pa.Array:
    """Return 32 hex characters a patient, by a mixing function instead of an HMAC."""
    mixed = np.stack(
        [numbers * np.uint64(0x9E3779B97F4A7C15), (numbers + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)]
    )
    mixed ^= mixed >> np.uint64(31)
    mixed *= np.uint64(0x94D049BB133111EB)
    return _hex(np.ascontiguousarray(mixed.T).tobytes(), len(numbers), 32)


def _with_nulls(values: pa.Array, random: np.random.Generator, share: float) -> pa.Array:
    return pc.if_else(pa.array(random.random(len(values)) >= share), values, pa.scalar(None, values.type))


def _chosen(names: list[str], random: np.random.Generator, n: int, sizes: np.ndarray) -> pa.Array:
    return pa.array(names).take(pa.array(random.choice(len(names), n, p=sizes / sizes.sum())))


def _catalog_batch(**columns: pa.Array) -> pa.RecordBatch:
    """Return rows of a catalog; columns that are not given are unknown."""
    n = len(columns["record_id"])
    arrays = [columns.get(field.name, pa.nulls(n, field.type)).cast(field.type) for field in CATALOG_SCHEMA]
    return pa.RecordBatch.from_arrays(arrays, schema=CATALOG_SCHEMA)


def catalog_batches(records: int, seed: int) -> Iterator[tuple[pa.RecordBatch, pa.RecordBatch]]:
    """Yield rows of a catalog and their locations."""
    random = np.random.default_rng(seed)
    patients = math.ceil(records / RECORDS_A_PATIENT)
    sites, devices = [f"Site {i:02d}" for i in range(SITES)], [f"Cardiograph {i}" for i in range(DEVICES)]
    start = np.datetime64("2012-01-01T00:00:00", "us")
    for first in range(0, records, BATCH):
        n = min(BATCH, records - first)
        patient = random.integers(0, patients, n).astype(np.uint64)
        acquired = start + random.integers(0, 14 * 365 * 86_400, n) * np.timedelta64(1_000_000, "us")
        age = np.clip(18 + (patient * np.uint64(2654435761) % np.uint64(80)).astype(np.float32), 0, 90)
        ids = hex_strings(random, n, 32)
        yield (
            _catalog_batch(
                record_id=ids,
                format=pa.array(["wfdb"]).take(pa.array(np.zeros(n, np.int8))),
                bytes=pa.array(random.integers(100_000, 140_000, n)),
                version=hex_strings(random, n, 16),
                patient_key=_with_nulls(_patient_keys(patient), random, 0.01),
                acquired_at=_with_nulls(pa.array(acquired, pa.timestamp("us")), random, 0.005),
                age=_with_nulls(pa.array(age), random, 0.01),
                sex=_with_nulls(
                    pa.array(["female", "male"]).take(pa.array((patient % np.uint64(2)).astype(np.int8))), random, 0.01
                ),
                site=_with_nulls(_chosen(sites, random, n, 1 / np.arange(1, SITES + 1)), random, 0.01),
                device=_with_nulls(_chosen(devices, random, n, 1 / np.arange(1, DEVICES + 1)), random, 0.02),
            ),
            pa.RecordBatch.from_arrays([ids, ids], schema=LOCATION_SCHEMA),
        )


def make_catalog(path: Path, records: int, *, seed: int = 0) -> Catalog:
    """Write a catalog of ``records`` made-up rows into the folder ``path``."""
    settings: dict[str, Any] = {
        "deidentified": False,
        "key_id": "synthetic",
        "patient_key_id": "synthetic",
        "label_rule": PRESETS["none"].model_dump(mode="json"),
        "schema_version": SCHEMA_VERSION,
    }
    with CatalogFiles(*open_folder(str(path))) as files:
        for rows, locations in catalog_batches(records, seed):
            files.write(rows, locations)
        files.commit(
            settings,
            lambda catalog_id, hashes: {
                "notice": NOTICE,
                "catalog_id": catalog_id,
                "root_url": "file:///made-up",
                **settings,
                "counts": {"records": records},
                "files": hashes,
            },
        )
    return open_catalog(str(path))


def drawn_results(carried: pa.Table, plan: Plan, shard: int) -> pa.Table:
    """Return made-up results of the records of a shard."""
    random = np.random.default_rng([int(plan.run_id, 16), shard])
    n = carried.num_rows
    rejected = random.random(n) < 0.03
    scored = pa.array(~rejected)
    logit = random.normal(-2.5, 1.6, n).astype(np.float32)
    probability = (1 / (1 + np.exp(-logit))).astype(np.float32)
    flagged = probability >= THRESHOLD
    explained = pa.array(flagged & ~rejected)
    sha256 = hex_strings(random, n, 64)
    copied = np.where(random.random(n) < 0.001, np.maximum(np.arange(n) - 1, 0), np.arange(n))
    columns: dict[str, pa.Array] = {
        **{name: carried[name] for name in ("record_id", "patient_key", "acquired_at", "age", "sex", "site", "device")},
        "status": pc.if_else(scored, Status.SCORED.value, Status.REJECTED.value),
        "reason": pc.if_else(scored, None, _chosen([str(r) for r in REASONS], random, n, np.ones(len(REASONS)))),
        "logit": pc.if_else(scored, pa.array(logit), None),
        "probability": pc.if_else(scored, pa.array(probability), None),
        "flagged": pc.if_else(scored, pa.array(flagged), None),
        "duration_s": pa.array(np.full(n, 10, np.float32)),
        "source_rate_hz": pa.array(np.full(n, 500, np.float32)),
        "quality_flags": _chosen(FLAG_SETS, random, n, np.array([80, 8, 5, 4, 2, 1])),
        "record_sha256": sha256.take(pa.array(copied)),
        "source_format": pa.array(["wfdb 16"]).take(pa.array(np.zeros(n, np.int8))),
        "unit_source": pa.array(["header"]).take(pa.array(np.zeros(n, np.int8))),
        **{
            name: pa.array([value]).take(pa.array(np.zeros(n, np.int8)))
            for name, value in plan.results_identity.items()
        },
    }
    columns |= drawn_explanations(random, explained)
    schema = result_schema()
    for name in schema.names:
        if name.endswith(("_fraction", "_mV")):
            columns[name] = pa.array(random.gamma(1.5, 0.02, n).astype(np.float32))
        columns.setdefault(name, pa.nulls(n, schema.field(name).type))
    return pa.table([columns[name] for name in schema.names], schema=schema)


def drawn_explanations(random: np.random.Generator, explained: pa.BooleanArray) -> dict[str, pa.Array]:
    """Return made-up columns of the operators that a run has by default."""
    n = len(explained)
    columns: dict[str, pa.Array] = {}
    for operator in ("lead", "territory", "wave"):
        prefix, parts = PREFIX_OF[operator], OPERATORS[operator]
        names = [importance_column(operator, part) for part in parts]
        values = random.normal(0.1, 0.4, (len(parts), n)).astype(np.float32)
        errors = [f"{prefix}_se_{part}" for part in parts] if operator == "territory" else [f"{prefix}_se"]
        columns |= {name: pc.if_else(explained, pa.array(row), None) for name, row in zip(names, values, strict=True)}
        columns |= {name: pc.if_else(explained, pa.scalar(0.05, pa.float32()), None) for name in errors}
        columns[f"{prefix}_donors"] = pc.if_else(explained, pa.scalar(8, pa.int16()), None)
        if operator == "territory":
            leading = pa.array(TERRITORIES).take(pa.array(values.argmax(axis=0)))
            above = pa.array(values.max(axis=0) > 0)
            columns["leading_territory"] = pc.if_else(pc.and_(explained, above), leading, None)
    columns["findings"] = pc.if_else(explained, pa.array(FINDINGS).take(pa.array(random.integers(0, 3, n))), None)
    return columns


def _write_shards(run: Folder, plan: Plan, shards: range) -> list[ShardSummary]:
    summaries = []
    for shard in shards:
        results = drawn_results(read_shard(run, shard), plan, shard)
        scored = pc.sum(pc.equal(results["status"], "scored")).as_py() or 0
        flagged = pc.sum(results["flagged"]).as_py() or 0
        facts = {
            "shard": shard,
            "rows": results.num_rows,
            "scored": scored,
            "flagged": flagged,
            "explained": flagged,
            "reasons": {
                row["values"]: row["counts"] for row in results["reason"].drop_null().value_counts().to_pylist()
            },
        }
        data = results_bytes(results, footer=footer(plan, facts))
        run.write(results_name(shard), data)
        summaries.append(ShardSummary(**facts, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data)))
    return summaries


def make_run(runs: Path, catalog: Catalog, *, shard_records: int = SHARD_RECORDS, workers: int = 2) -> Plan:
    """Write a published run of the whole catalog, as if by the bundle that ships, into the folder ``runs``."""
    bundle = load_bundle(PRETRAINED)
    store_bundle(Folder(str(runs)), bundle)
    plan = Plan(
        run_id=f"{catalog.records:016x}",
        archive_url=catalog.root_url,
        catalog_id=catalog.catalog_id,
        key_id=catalog.key_id,
        records=catalog.records,
        shards=-(-catalog.records // shard_records),
        shard_records=shard_records,
        model={
            "name": bundle.name,
            "version": bundle.version,
            "bundle_sha256": bundle.sha256,
            "input_contract_sha256": bundle.input_contract_sha256,
        },
        donor_set=None,
        settings={"attribution": "flagged", "operators": ["lead", "territory", "wave"]},
        quality={},
        fingerprint={},
    )
    run = Folder(str(runs / plan.run_id))
    store_plan(run, catalog, plan)
    parts = [range(first, min(first + 16, plan.shards)) for first in range(0, plan.shards, 16)]
    with ProcessPoolExecutor(workers) as pool:
        futures = [pool.submit(_write_shards, run, plan, part) for part in parts]
        shards = [summary for future in futures for summary in future.result()]
    publish(run, plan, shards, facts={"finished_at": "2026-01-01T00:00:00+00:00", "settings": asdict(plan)["settings"]})
    return plan
