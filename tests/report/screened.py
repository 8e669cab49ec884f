"""A small run over real records with stated scores: planned, stored and published by the code that makes real runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from screening.archive.build import build_catalog
from screening.archive.catalog import Catalog, open_catalog
from screening.archive.identity import PseudonymKey
from screening.archive.reader import ArchiveReader
from screening.contract import LEADS, OPERATORS, TERRITORIES, Reason, Status, importance_column, result_schema
from screening.recording import Recording
from screening.run.bundles import store_bundle
from screening.run.ledger import finished_shards, footer, publish
from screening.run.plan import make_plan, read_locations, read_shard, results_name, store_plan
from screening.run.sealed import results_bytes
from screening.settings import RunSettings
from screening.storage import Folder
from tests.bundles import make_bundle

THRESHOLD = 0.3


@dataclass(frozen=True)
class Screened:
    """Where everything lies."""

    archive: Path
    catalog: Path
    runs: Folder
    bundle_sha256: str
    run_id: str

    def opened(self) -> Catalog:
        return open_catalog(str(self.catalog))


def importance(**leads: float) -> dict[str, Any]:
    """Return the columns of a record whose leads alone were explained; leads that are not named have none."""
    columns = {f"importance_{lead}": float(leads.get(lead, 0.0)) for lead in LEADS}
    return {**columns, "importance_se": 0.05, "importance_donors": 8}


def territories(**walls: float) -> dict[str, Any]:
    """Return the columns of operator 'territory'; walls that are not named have none. Standard errors are 0.1, 0.2 ..."""
    columns: dict[str, Any] = {f"territory_{wall}": float(walls.get(wall, 0.0)) for wall in TERRITORIES}
    columns |= {f"territory_se_{wall}": 0.1 * at for at, wall in enumerate(TERRITORIES, start=1)}
    leading = max(walls, key=lambda wall: walls[wall])
    return {**columns, "territory_donors": 16, "leading_territory": leading if walls[leading] > 0 else None}


def waves(findings: str, **parts: float) -> dict[str, Any]:
    """Return the columns of operator 'wave', e.g. QRS_septal=0.5; parts that are not named have none."""
    columns = {importance_column("wave", part): float(parts.get(part, 0.0)) for part in OPERATORS["wave"]}
    return {**columns, "wave_se": 0.1, "wave_donors": 4, "findings": findings}


def screen(
    folder: Path,
    archive: Path,
    result: Callable[[int, str], Mapping[str, Any]],
    *,
    attribution: str = "flagged",
    operators: str = "lead,territory,wave",
    key: PseudonymKey | None = None,
    shard_records: int = 20,
) -> Screened:
    """Catalog an archive and publish a run of it.

    Parameters
    ----------
    result
        Place in the catalog and record_id -> columns that differ: probability (0.1), importance, or status and reason.
    """
    build_catalog(str(archive), str(folder / "catalog"), deidentified=key is None, key=key)
    catalog = open_catalog(str(folder / "catalog"))
    bundle = make_bundle(folder / "bundle", threshold=THRESHOLD)
    runs = Folder(str(folder / "runs"))
    store_bundle(runs, bundle)
    plan = make_plan(
        catalog,
        model={
            "name": bundle.name,
            "version": bundle.version,
            "bundle_sha256": bundle.sha256,
            "input_contract_sha256": bundle.input_contract_sha256,
        },
        donor_set=None,
        settings=RunSettings(attribution=attribution, operators=operators),
        quality={},
        shard_records=shard_records,
        fingerprint={},
    )
    run = runs.folder(plan.run_id)
    store_plan(run, catalog, plan)
    reader, schema, at = ArchiveReader(catalog.root_url), result_schema(), 0
    for shard in range(plan.shards):
        rows = []
        for planned, place in zip(read_shard(run, shard).to_pylist(), read_locations(run, shard), strict=True):
            row = {name: planned[name] for name in planned if name in schema.names} | plan.results_identity
            recording = reader.read(place, planned["record_id"])
            row |= {"record_sha256": recording.sha256, "source_format": recording.source_format}
            if isinstance(recording, Recording):
                row |= {"unit_source": recording.unit_source, "source_rate_hz": recording.rate_hz, "duration_s": 10.0}
                row |= {"status": Status.SCORED, "probability": 0.1, "quality_flags": ""}
            else:
                row |= {"status": Status.REJECTED, "reason": recording.reason, "detail": recording.detail}
            row |= result(at, planned["record_id"])
            if row["status"] == Status.SCORED:
                p = row["probability"]
                row |= {"flagged": p >= THRESHOLD, "logit": float(np.log(p / (1 - p)))}
            else:
                row |= {"probability": None}
            rows.append(row)
            at += 1
        table = pa.Table.from_pylist(rows, schema=schema)
        done = {"shard": shard, "rows": len(rows), "scored": sum(r["status"] == Status.SCORED for r in rows)}
        done |= {"flagged": 0, "explained": 0, "reasons": {}}
        run.write(results_name(shard), results_bytes(table, footer=footer(plan, done)))
    publish(run, plan, finished_shards(run, plan).values(), facts={"finished_at": "2026-01-01T00:00:00Z"})
    return Screened(archive, folder / "catalog", runs, bundle.sha256, plan.run_id)


REJECTED = {"status": Status.REJECTED, "reason": Reason.NOISE, "detail": "0.9 mV above 40 Hz (limit 0.3 mV)"}
