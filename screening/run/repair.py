"""Making damaged files of a published run again, so that they are, byte for byte, what was published."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from screening.archive.catalog import Catalog
from screening.archive.reader import ArchiveReader
from screening.archive.store import id_hashes
from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.run.bundles import fetch_bundle, store_bundle
from screening.run.donors import donor_set_for, is_forgotten
from screening.run.lease import Lease
from screening.run.ledger import finished_shards, publish, read_manifest
from screening.run.plan import (
    FORGETTING,
    Plan,
    damaged_files,
    load_plan,
    plan_bytes,
    read_locations,
    read_shard,
    results_name,
    write_slices,
)
from screening.run.read import iter_results
from screening.run.verify import Fault, faults, runs_of
from screening.run.worker import Source, decode_rows, results_file, scorer_of
from screening.settings import RESULT_KEYS
from screening.storage import Folder, again


@dataclass(frozen=True)
class Repaired:
    """What was made again, and what is still wrong."""

    files: tuple[str, ...]
    left: tuple[Fault, ...]


def repair(
    run: Folder,
    *,
    options: dict[str, Any] | None = None,
    catalog: Catalog | None = None,
    bundles: Iterable[Bundle] = (),
    on_file: Callable[[str], None] = lambda _: None,
) -> Repaired:
    """Write what is damaged or gone of a published run again, from the archive; files that are whole are not touched.

    A results file is made by scoring its records again, and kept only where it comes out as it was published: the archive's
    records and the machine's numerics must still be the same. What a damaged manifest said of times is lost.

    Parameters
    ----------
    options
        fsspec's, for the archive.
    catalog
        The one that the run was planned with; needed only for damaged files of the plan and for donors.
    bundles
        Where a damaged model may be had from.
    on_file
        Called with the name of each file as it is about to be made.

    Raises
    ------
    UserError
        The folder is not a run, is not published, or somebody else holds it.
    """
    if not run.exists("manifest.json"):
        raise UserError(f"{run.url} is not published; `screening run` finishes it, and writes anew what is damaged")
    made: list[str] = []
    with Lease(run) as lease:
        run = lease.folder
        if run.exists(FORGETTING):
            raise UserError(
                f"an erasure in {run.url} was interrupted; complete it with `screening forget`, then repair"
            )
        for mend in (_manifest, _plan, _model, _donors, _results):
            found = list(faults(run))
            if not found or (mend is not _manifest and any(fault.name == "manifest.json" for fault in found)):
                break  # without a manifest nobody knows what the other files were
            for name, write in mend(run, found, dict(options or {}), catalog, list(bundles)):
                on_file(name)
                with suppress(
                    FileNotFoundError, pa.ArrowException
                ):  # of the plan: it is among the faults that are left
                    if write():
                        made.append(name)
        return Repaired(tuple(made), tuple(faults(run)))


_Work = Sequence[tuple[str, Callable[[], bool]]]
"""(name of a file, what makes it again and says whether it could)."""


def _manifest(run: Folder, found: Sequence[Fault], options: dict[str, Any], *_: object) -> _Work:
    """Make the manifest again from the plan and the results files that are whole; results that are not, first.

    What the plan was before it was damaged, only the manifest could say: where both are damaged, neither is made again.
    """
    names = [fault.name for fault in found]
    if "manifest.json" not in names or any(name == "plan.json" or name.startswith("plan/") for name in names):
        return []

    def write() -> bool:
        plan = load_plan(run)
        if damaged_files(run, plan, unsealed_too=True):
            return False
        if damaged := set(range(plan.shards)) - set(finished_shards(run, plan)):
            make = _maker(run, plan, options)
            for shard in sorted(damaged):
                run.write(results_name(shard), make(shard))
        facts: dict[str, Any] = {
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "repaired": "made again from the plan and the results files; when it was finished first is not known",
            "archive_url": plan.archive_url,
            "catalog_id": plan.catalog_id,
            "key_id": plan.key_id,
            "donor_set": plan.donor_set,
            "quality_limits": plan.quality,
            "settings": plan.settings | {"shard_records": plan.shard_records},
            "fingerprint": plan.fingerprint,
        }
        if plan.removed:
            facts["removed"] = {str(shard): rows for shard, rows in plan.removed.items()}
            facts["forgotten"] = [{"at": "not known", "rows": sum(plan.removed.values())}]
        publish(run, plan, finished_shards(run, plan).values(), facts=facts)
        return True

    return [("manifest.json", write)]


def _plan(
    run: Folder, found: Sequence[Fault], options: dict[str, Any], catalog: Catalog | None, _: Sequence[Bundle]
) -> _Work:
    """Make plan.json from what the manifest says, and the plan's records from the catalog."""
    manifest = read_manifest(run) or {}
    sha256 = {file["name"]: file["sha256"] for file in manifest["plan"]}
    names = [fault.name for fault in found if fault.name in sha256]
    work: list[tuple[str, Callable[[], bool]]] = []
    if "plan.json" in names:
        settings = manifest["settings"]
        plan = Plan(
            **{key: manifest[key] for key in ("run_id", "archive_url", "catalog_id", "key_id", "model", "donor_set")},
            records=manifest["counts"]["planned"],
            shards=len(manifest["files"]),
            shard_records=settings["shard_records"],
            settings={key: settings[key] for key in RESULT_KEYS},
            quality=manifest["quality_limits"],
            fingerprint=manifest["fingerprint"],
            removed={int(shard): rows for shard, rows in manifest.get("removed", {}).items()},
        )
        work.append(("plan.json", partial(_keep, run, "plan.json", plan_bytes(plan), sha256)))
    slices = [name for name in names if name.startswith("plan/")]
    if slices and catalog is not None:
        with tempfile.TemporaryDirectory() as scratch:
            planned = _planned(run, manifest, catalog)
            write_slices(Folder(scratch), planned, manifest["settings"]["shard_records"])
            work += [(name, partial(_keep, run, name, Folder(scratch).read(name), sha256)) for name in slices]
    return work


def _planned(run: Folder, manifest: dict[str, Any], catalog: Catalog) -> Catalog:
    """Return of a catalog what the run was planned with: of the night's catalog it may be the new records only."""
    if manifest["counts"]["planned"] == catalog.records:
        return catalog
    held = [np.empty(0, np.uint64)]
    with suppress(FileNotFoundError, pa.ArrowException):  # of results: they are among the faults
        held += [id_hashes(table["record_id"].to_pylist()) for table in iter_results(run, columns=["record_id"])]
    wanted = [
        np.isin(id_hashes(batch["record_id"].to_pylist()), np.concatenate(held))
        for batch in catalog.iter_batches(["record_id"])
    ]
    return catalog.only(np.flatnonzero(np.concatenate(wanted)))


def _keep(run: Folder, name: str, data: bytes, sha256: dict[str, str]) -> bool:
    if hashlib.sha256(data).hexdigest() != sha256[name]:
        return False
    run.write(name, data)
    return True


def _model(run: Folder, found: Sequence[Fault], _: object, __: object, bundles: Sequence[Bundle]) -> _Work:
    sha256, runs = load_plan(run).model["bundle_sha256"], runs_of(run)
    if not any(fault.name == f"../models/{sha256[:12]}" for fault in found):
        return []

    def write(bundle: Bundle) -> bool:
        runs.remove(f"models/{sha256}")
        store_bundle(runs, bundle)
        return True

    return [(f"../models/{sha256[:12]}", partial(write, bundle)) for bundle in bundles if bundle.sha256 == sha256][:1]


def _donors(
    run: Folder, found: Sequence[Fault], options: dict[str, Any], catalog: Catalog | None, _: Sequence[Bundle]
) -> _Work:
    plan, runs = load_plan(run), runs_of(run)
    name = f"../donors/{(plan.donor_set or '')[:12]}"
    if catalog is None or not any(fault.name == name for fault in found):
        return []
    given = catalog

    def write() -> bool:
        reader = ArchiveReader(given.root_url, options)
        bundle = fetch_bundle(runs, plan.model["bundle_sha256"])
        with tempfile.TemporaryDirectory() as scratch:
            chosen = donor_set_for(
                Folder(scratch),
                given,
                lambda place, record_id, version: again(lambda: reader.read(place, record_id, version=version)),
                preprocessing=bundle.preprocessing,
                input_contract=bundle.input_contract_sha256,
                size=plan.settings["donor_set"],
            )
            if chosen is None or chosen != plan.donor_set or is_forgotten(runs, chosen):
                return False
            run.before_writing()
            runs.write(f"donors/{chosen}.safetensors", Folder(scratch).read(f"donors/{chosen}.safetensors"))
        return True

    return [(name, write)]


def _results(run: Folder, found: Sequence[Fault], options: dict[str, Any], *_: object) -> _Work:
    manifest, plan = read_manifest(run) or {}, load_plan(run)
    named = {file["name"]: (shard, file["sha256"]) for shard, file in enumerate(manifest["files"])}
    broken = [fault.name for fault in found if fault.name in named]
    if not broken or any(fault.name not in named for fault in found):
        return []  # what results are made from must be whole
    make = _maker(run, plan, options)

    def write(name: str) -> bool:
        shard, sha256 = named[name]
        return _keep(run, name, make(shard), {name: sha256})

    return [(name, partial(write, name)) for name in broken]


def _maker(run: Folder, plan: Plan, options: dict[str, Any]) -> Callable[[int], bytes]:
    """Return a function that makes the results file of a shard, as the workers of a run do."""
    scorer = scorer_of(runs_of(run), plan)
    source = Source(run, plan, scorer.bundle.preprocessing, options)

    def make(shard: int) -> bytes:
        decoded = decode_rows(source, read_shard(run, shard), read_locations(run, shard))
        return results_file(plan, shard, scorer.score(decoded))[1]

    return make
