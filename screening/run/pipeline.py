"""A run on Ray: one read task a shard, an actor pool that scores, one atomic file a shard, the manifest at the end.

Of the files of ``run/`` this one, `engine.py` and `metrics.py`, which hands counts to Ray's metrics agent, know Ray. The driver
holds a few numbers a shard and nothing a record.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import ray

import screening
from screening.archive.catalog import Catalog, open_catalog
from screening.archive.pack import open_pack
from screening.archive.reader import ArchiveReader
from screening.cluster import cluster
from screening.contract import result_schema
from screening.errors import StorageError, UserError
from screening.model.bundle import load_bundle
from screening.run.bundles import fetch_bundle, store_bundle
from screening.run.current import open_current
from screening.run.donors import donor_set_for, donor_sets_with, forget_donors, has_donor_set
from screening.run.fingerprint import choose_device, numerics_fingerprint
from screening.run.lease import Holder, Lease
from screening.run.ledger import counts, finished_shards, publish, read_manifest
from screening.run.plan import BEGUN, Plan, load_plan, make_plan, plan_before_erasure, results_name, store_plan
from screening.run.scorers import workers_for
from screening.run.worker import Source, results_file
from screening.settings import SHARD_RECORDS, RunSettings
from screening.signal.quality import quality_settings
from screening.storage import Folder, again

IMPORTED_BY_WORKERS = ("screening.run.worker", "torch", "ray.data", "scipy.fft", "scipy.signal")
FEWEST_SHARD_RECORDS, SHARDS_A_CORE = 16, 16
"""In a small archive shards are smaller, so that no core waits long for the last one."""


@dataclass(frozen=True)
class Progress:
    """What a progress bar shows."""

    records: int
    done: int
    scored: int
    rejected: int
    flagged: int
    at_start: int  # records done before this process


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run."""

    url: str
    run_id: str
    records: int
    counts: dict[str, Any]
    published: bool
    already: bool = False  # it was published before and nothing was done
    unfinished: tuple[str, ...] = ()  # why shards were left, one sentence a shard
    undone: int = 0  # shards that storage or a fault left; those for which the hours had no time are none of these
    packed: int = 0  # records read from the pack, this time
    damaged: int = 0  # records that the pack should have given, and the archive gave
    this_time: int = 0  # records done by this process
    seconds: float = 0.0
    seconds_to_first_shard: float = 0.0

    @property
    def reject_share(self) -> float:
        """Share of the records that were rejected."""
        return float(self.counts["rejected"]) / max(1, self.records)


class CannotResume(UserError):
    """A run that was begun cannot be gone on with here: as it was planned, it would not come out."""


def screen(
    catalog: str | Catalog,
    runs_url: str,
    *,
    model_path: str,
    settings: RunSettings | None = None,
    address: str | None = None,
    storage_options: dict[str, Any] | None = None,
    packed: str | None = None,
    until: float | None = None,
    on_plan: Callable[[Plan], None] = lambda _: None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_event: Callable[[str, dict[str, Any]], None] = lambda _name, _facts: None,
) -> RunOutcome:
    """Screen every record of a catalog; resume where an earlier run of the same plan stopped.

    Parameters
    ----------
    catalog
        The catalog's folder, or an opened catalog, perhaps with some of its rows only: donors come from all of them.
    runs_url
        The folder in which runs live (any fsspec URL).
    model_path
        A bundle's folder.
    address
        A Ray cluster; None starts Ray on this machine, or joins the one a Ray job runs on.
    storage_options
        For fsspec, for archive, runs and pack alike.
    packed
        A pack of the archive, which is read in place of it and changes no result.
    until
        Time of ``time.monotonic`` at which no shard is begun any more; the run is then left unfinished.
    on_plan, on_stage, on_progress
        Called with the plan, before anything of the run is written; with a sentence; with counts after every shard.
    on_event
        Called, while Ray is joined, with what a log or a metric is to tell: ``run.planned``, ``shard.finished``,
        ``shard.unfinished``, ``run.published`` or ``run.unfinished``, and facts as JSON values, none about a record.

    Raises
    ------
    UserError
        A setting, the catalog, the model or the place of the runs is wrong, or somebody else runs the same plan.
    """
    settings = settings or RunSettings()  # type: ignore[call-arg]
    options = storage_options or {}
    runs = Folder(runs_url, options).absolute()
    bundle = load_bundle(model_path)
    if isinstance(catalog, str):
        catalog = open_catalog(catalog, storage_options=options)
    forgotten = _forgotten(runs)
    catalog = catalog.without(*forgotten)
    pack = packed and open_pack(Folder(packed, options).absolute(), root_url=catalog.root_url, key_id=catalog.key_id)
    reader = ArchiveReader(catalog.root_url, options)
    started = datetime.now(UTC)

    on_stage("starting Ray")
    with ExitStack() as after_ray, cluster(address, ready_with=IMPORTED_BY_WORKERS):
        fingerprint = _fingerprint(settings)
        workers = workers_for(settings, fingerprint["device"], ray.cluster_resources())  # before anything is written
        donor_set = None
        if settings.attribution != "none":
            on_stage("choosing donors")
            try:
                donor_set = donor_set_for(
                    runs,
                    catalog.whole(),
                    lambda place, record_id, version: again(
                        lambda: reader.read(place, record_id, version=version), settings.storage_attempts
                    ),
                    preprocessing=bundle.preprocessing,
                    input_contract=bundle.input_contract_sha256,
                    size=settings.donor_set,
                )
            except StorageError as error:
                raise StorageError(
                    f"the archive {catalog.root_url} cannot be read: {error} (is it mounted?)"
                ) from error
            if donor_set is None:
                on_stage("fewer than two patients can lend leads, so nothing is explained;")
        on_stage("planning")
        plan = make_plan(
            catalog,
            model={
                "name": bundle.name,
                "version": bundle.version,
                "bundle_sha256": bundle.sha256,
                "input_contract_sha256": bundle.input_contract_sha256,
            },
            donor_set=donor_set,
            settings=settings,
            quality=quality_settings(),
            shard_records=settings.shard_records or _shard_records(catalog.records),
            fingerprint=fingerprint,
        )
        store_bundle(runs, bundle)
        run = runs.folder(plan.run_id)
        if not run.exists("plan.json") and (before := plan_before_erasure(runs, catalog, plan)) is not None:
            plan, run = before, runs.folder(before.run_id)
        if (manifest := read_manifest(run)) is not None:
            return RunOutcome(run.url, plan.run_id, plan.records, manifest["counts"], published=True, already=True)
        on_plan(plan)
        with Lease(run, on_wait=_waiting(on_stage)) as lease:
            if (manifest := read_manifest(run)) is not None:  # by whoever held the lease before
                return RunOutcome(run.url, plan.run_id, plan.records, manifest["counts"], published=True, already=True)
            fresh = not run.exists("plan.json")
            plan = store_plan(lease.folder, catalog, plan)
            if _forgotten(runs) != forgotten:
                _withdraw(runs, lease.folder if fresh else None)
                raise UserError("patients were forgotten while this run was being prepared; start it again")
            source = Source(lease.folder, plan, bundle.preprocessing, options, settings.storage_attempts, pack or None)
            after_ray.push(_not_suspicious(run))
            return _finish(
                source, runs, settings, workers, lease, started, until, _Told(on_stage, on_progress, on_event)
            )


def resume(
    runs_url: str,
    run_id: str,
    *,
    settings: RunSettings,
    address: str | None = None,
    storage_options: dict[str, Any] | None = None,
    packed: str | None = None,
    until: float | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
    on_event: Callable[[str, dict[str, Any]], None] = lambda _name, _facts: None,
) -> RunOutcome:
    """Go on with a run as it was planned, whatever catalog and settings say by now; parameters as in `screen`.

    Raises
    ------
    CannotResume
        Numbers would come out otherwise here, or what the run was planned with is gone.
    UserError
        Somebody else is at work on it, or its files are damaged.
    """
    options = storage_options or {}
    runs = Folder(runs_url, options).absolute()
    run, started = runs.folder(run_id), datetime.now(UTC)
    plan = load_plan(run)
    if plan.donor_set is not None and not has_donor_set(runs, plan.donor_set):
        raise CannotResume(f"run {run_id} cannot be gone on with: its donor set was erased; start a new run")
    bundle = fetch_bundle(runs, plan.model["bundle_sha256"])
    pack = packed and open_pack(Folder(packed, options).absolute(), root_url=plan.archive_url, key_id=plan.key_id)
    on_stage("starting Ray")
    with ExitStack() as after_ray, cluster(address, ready_with=IMPORTED_BY_WORKERS):
        here = _fingerprint(settings.model_copy(update={"batch_size": plan.fingerprint["batch_size"]}))
        if here != plan.fingerprint:
            other = next(key for key in (*here, *plan.fingerprint) if here.get(key) != plan.fingerprint.get(key))
            raise CannotResume(
                f"run {run_id} cannot be gone on with here: its numbers are of another {other} "
                f"({plan.fingerprint.get(other)}, here {here.get(other)}); start a new run"
            )
        workers = workers_for(settings, here["device"], ray.cluster_resources())
        with Lease(run, on_wait=_waiting(on_stage)) as lease:
            if (manifest := read_manifest(run)) is not None:
                return RunOutcome(run.url, plan.run_id, plan.records, manifest["counts"], published=True, already=True)
            plan = load_plan(run)  # an erasure may have come before the lease
            source = Source(lease.folder, plan, bundle.preprocessing, options, settings.storage_attempts, pack or None)
            after_ray.push(_not_suspicious(run))
            return _finish(
                source, runs, settings, workers, lease, started, until, _Told(on_stage, on_progress, on_event)
            )


def _waiting(on_stage: Callable[[str], None]) -> Callable[[Holder], None]:
    def waiting(holder: Holder) -> None:
        on_stage(f"waiting to see whether process {holder.pid} on {holder.host}, which holds this run, is alive")

    return waiting


def _fingerprint(settings: RunSettings) -> dict[str, Any]:
    """Ask where the scoring will be done, which on a cluster is not here."""
    gpus = 1 if settings.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1 else 0
    if settings.device == "cuda" and not gpus:
        raise UserError("device is cuda, but Ray sees no GPU; choose device auto or cpu, or a cluster with GPUs")

    def ask() -> dict[str, Any]:
        device = choose_device(settings.device) if gpus else "cpu"
        return numerics_fingerprint(device, batch_size=settings.batch_size)

    if len(ray.nodes()) == 1 and not gpus:
        return ask()
    found: dict[str, Any] = ray.get(ray.remote(num_gpus=gpus, num_cpus=0.5)(ask).remote())
    return found


def _shard_records(records: int) -> int:
    shards = int(ray.cluster_resources().get("CPU", 1)) * SHARDS_A_CORE
    return max(FEWEST_SHARD_RECORDS, min(SHARD_RECORDS, -(-records // shards)))


def _forgotten(runs: Folder) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return record ids and patient keys that are not to be screened any more."""
    index = open_current(runs)
    return ((), ()) if index is None else (index.forgotten_records, index.forgotten_patients)


def _withdraw(runs: Folder, run: Folder | None) -> None:
    """Remove what was prepared of patients who were forgotten meanwhile: donors, and a run that was only just planned."""
    if run is not None:
        run.remove("plan.json")
        run.remove("plan")
    for name in donor_sets_with(runs, *_forgotten(runs)):
        forget_donors(runs, name)


def _not_suspicious(run: Folder) -> Callable[[type[BaseException] | None, object, object], None]:
    """Return what forgets, once no worker notes more, which shards were being decoded when somebody interrupted."""

    def forget(kind: type[BaseException] | None, _error: object, _traceback: object) -> None:
        if kind is KeyboardInterrupt:
            run.remove(BEGUN)

    return forget


@dataclass(frozen=True)
class _Told:
    """Who is told how a run goes on, as `screen` describes them."""

    stage: Callable[[str], None]
    progress: Callable[[Progress], None]
    event: Callable[[str, dict[str, Any]], None]


def _finish(
    source: Source,
    runs: Folder,
    settings: RunSettings,
    workers: int,
    lease: Lease,
    started: datetime,
    until: float | None,
    told: _Told,
) -> RunOutcome:
    from screening.run.engine import execute  # with Ray Data, after Ray's processes have begun to start

    run, plan = source.run, source.plan
    done = finished_shards(run, plan)
    tally: Counter[str] = Counter()
    for summary in done.values():
        tally.update(done=summary.rows, scored=summary.scored, flagged=summary.flagged)
    at_start = tally["done"]
    for shard in range(plan.shards):
        if shard not in done and not plan.shard_rows(shard):  # all of its patients were forgotten
            done[shard], data = results_file(plan, shard, result_schema().empty_table())
            run.write(results_name(shard), data)
    pending = [shard for shard in range(plan.shards) if shard not in done]
    begun = time.monotonic()
    first = 0.0
    unfinished: list[str] = []
    hours_over = False
    workers = min(workers, len(pending))
    told.event(
        "run.planned",
        {
            "run_id": plan.run_id,
            "records": plan.records,
            "shards": plan.shards,
            "left": len(pending),
            "model": plan.model["name"],
            "model_version": plan.model["version"],
            "device": plan.fingerprint["device"],
            "workers": workers,
        },
    )
    if pending:
        told.stage("scoring" if not done else f"resuming: {len(done)} of {plan.shards} shards are done")
        for of, result, spent in execute(source, runs, pending, workers, tally):
            if isinstance(result, str):
                unfinished.append(result)
                told.event("shard.unfinished", {"run_id": plan.run_id, "shard": of, "why": result})
                if len(unfinished) >= settings.unfinished_limit:
                    break
                continue
            first = first or time.monotonic() - begun
            done[result.shard] = result
            tally.update(done=result.rows, scored=result.scored, flagged=result.flagged)
            told.progress(
                Progress(
                    plan.records,
                    tally["done"],
                    tally["scored"],
                    tally["done"] - tally["scored"],
                    tally["flagged"],
                    at_start,
                )
            )
            facts = asdict(result) | {"rejected": result.rows - result.scored, "seconds": spent}
            told.event("shard.finished", {"run_id": plan.run_id, "left": plan.shards - len(done), **facts})
            if lease.lost.is_set():
                lease.require()
            if until is not None and time.monotonic() > until:
                hours_over = True
                break
    lease.require()
    seconds = time.monotonic() - begun
    published = len(done) == plan.shards
    if published:
        publish(
            run,
            plan,
            done.values(),
            facts={
                "started_at": started.isoformat(timespec="seconds"),
                "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
                "seconds": round(seconds, 3),
                "records_this_time": plan.records - at_start,
                "archive_url": plan.archive_url,
                "catalog_id": plan.catalog_id,
                "key_id": plan.key_id,
                "donor_set": plan.donor_set,
                "quality_limits": plan.quality,
                "settings": settings.model_dump() | plan.settings | {"shard_records": plan.shard_records},
                "fingerprint": plan.fingerprint,
                "versions": {"screening": screening.__version__, "ray": ray.__version__},
            },
        )
    total = counts(done.values())
    left = plan.shards - len(done)
    facts = {"run_id": plan.run_id, "left": left, **total, "seconds": round(seconds, 3)}
    told.event("run.published" if published else "run.unfinished", facts)
    return RunOutcome(
        run.url,
        plan.run_id,
        plan.records,
        total,
        published=published,
        unfinished=tuple(unfinished),
        undone=min(left, len(unfinished)) if hours_over else left,
        packed=tally["packed"],
        damaged=tally["damaged"],
        this_time=tally["done"] - at_start,
        seconds=seconds,
        seconds_to_first_shard=first,
    )
