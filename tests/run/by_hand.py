"""A published run made by the code that workers and driver use, without Ray."""

from __future__ import annotations

from pathlib import Path

from screening.archive.catalog import open_catalog
from screening.archive.pack import open_pack
from screening.archive.reader import ArchiveReader
from screening.model.bundle import Bundle
from screening.run.bundles import store_bundle
from screening.run.donors import donor_set_for
from screening.run.fingerprint import numerics_fingerprint
from screening.run.ledger import finished_shards, publish
from screening.run.plan import make_plan, read_locations, read_shard, results_name, store_plan
from screening.run.worker import Source, decode_rows, results_file, scorer_of
from screening.settings import RunSettings
from screening.signal.quality import quality_settings
from screening.storage import Folder


def run_by_hand(
    catalog_path: Path, runs_path: Path, bundle: Bundle, settings: RunSettings, *, packed: Folder | None = None
) -> Folder:
    """Screen a whole catalog in this process and return the folder of the published run."""
    runs, catalog = Folder(str(runs_path)), open_catalog(str(catalog_path))
    store_bundle(runs, bundle)
    reader = ArchiveReader(catalog.root_url)
    donors = donor_set_for(
        runs,
        catalog,
        lambda place, record_id, version: reader.read(place, record_id, version=version),
        preprocessing=bundle.preprocessing,
        input_contract=bundle.input_contract_sha256,
        size=settings.donor_set,
    )
    model = {"name": bundle.name, "version": bundle.version, "bundle_sha256": bundle.sha256}
    model["input_contract_sha256"] = bundle.input_contract_sha256
    scored = {"model": model, "donor_set": donors, "settings": settings, "quality": quality_settings()}
    fingerprint = numerics_fingerprint("cpu", batch_size=8)
    plan = make_plan(catalog, **scored, shard_records=settings.shard_records or 8, fingerprint=fingerprint)  # type: ignore[arg-type]
    run = runs.folder(plan.run_id)
    plan = store_plan(run, catalog, plan)
    scorer = scorer_of(runs, plan)
    pack = open_pack(packed, root_url=catalog.root_url, key_id=catalog.key_id) if packed is not None else None
    source = Source(run, plan, bundle.preprocessing, {}, packed=pack)
    for shard in range(plan.shards):
        decoded = decode_rows(source, read_shard(run, shard), read_locations(run, shard))
        run.write(results_name(shard), results_file(plan, shard, scorer.score(decoded))[1])
    facts = {
        "finished_at": "2026-01-01T00:00:00+00:00",
        "archive_url": plan.archive_url,
        "catalog_id": plan.catalog_id,
        "key_id": plan.key_id,
        "donor_set": plan.donor_set,
        "quality_limits": plan.quality,
        "settings": plan.settings | {"shard_records": plan.shard_records},
        "fingerprint": plan.fingerprint,
    }
    publish(run, plan, finished_shards(run, plan).values(), facts=facts)
    return run
