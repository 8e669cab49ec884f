"""A run on Ray: one read task a shard, an actor pool that scores, one atomic file a shard, the manifest at the end.

Of the files of ``run/`` this one alone knows Ray. The driver holds a few numbers a shard and nothing a record.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import ray
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data.block import BlockMetadata

import screening
from screening.archive.catalog import open_catalog
from screening.archive.pack import open_pack
from screening.archive.reader import ArchiveReader
from screening.cluster import cluster
from screening.contract import result_schema
from screening.errors import Fault, StorageError, UserError
from screening.model.bundle import load_bundle
from screening.run.bundles import store_bundle
from screening.run.current import open_current
from screening.run.donors import donor_set_for, donor_sets_with, forget_donors
from screening.run.fingerprint import choose_device, numerics_fingerprint
from screening.run.ledger import Holder, Lease, ShardSummary, counts, finished_shards, publish, read_manifest
from screening.run.plan import BEGUN, make_plan, plan_before_erasure, results_name, store_plan
from screening.run.worker import ScoringActor, Source, decode_block, results_file
from screening.settings import SHARD_RECORDS, RunSettings
from screening.signal.quality import quality_settings
from screening.storage import Folder, again

# Shares of a core. On CPUs, where both are the same, Ray Data fuses the stages: each scorer reads and decodes its own shards,
# and no block goes through the object store. With a GPU decoders are tasks of their own. They always have CPUs left, so that
# actors cannot starve them (a pool that takes every CPU hangs Ray Data).
SCORER_CPUS = DECODER_CPUS = 0.5
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
    packed: int = 0  # records read from the pack, this time
    damaged: int = 0  # records that the pack should have given, and the archive gave
    seconds: float = 0.0
    seconds_to_first_shard: float = 0.0

    @property
    def reject_share(self) -> float:
        """Share of the records that were rejected."""
        return float(self.counts["rejected"]) / max(1, self.records)


def screen(
    catalog_path: str,
    runs_url: str,
    *,
    model_path: str,
    settings: RunSettings | None = None,
    address: str | None = None,
    storage_options: dict[str, Any] | None = None,
    packed: str | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> RunOutcome:
    """Screen every record of a catalog; resume where an earlier run of the same plan stopped.

    Parameters
    ----------
    catalog_path, runs_url
        The catalog folder, and the folder in which runs live (any fsspec URL).
    model_path
        A bundle's folder.
    address
        A Ray cluster; None starts Ray on this machine, or joins the one a Ray job runs on.
    storage_options
        For fsspec, for archive, runs and pack alike.
    packed
        A pack of the archive, which is read in place of it and changes no result.
    on_stage, on_progress
        Called with a sentence, and with counts after every shard.

    Raises
    ------
    UserError
        A setting, the catalog, the model or the place of the runs is wrong, or somebody else runs the same plan.
    """
    settings = settings or RunSettings()  # type: ignore[call-arg]
    options = storage_options or {}
    runs = Folder(runs_url, options).absolute()
    bundle = load_bundle(model_path)
    catalog = open_catalog(catalog_path, storage_options=options)
    forgotten = _forgotten(runs)
    catalog = catalog.without(*forgotten)
    pack = packed and open_pack(Folder(packed, options).absolute(), root_url=catalog.root_url, key_id=catalog.key_id)
    reader = ArchiveReader(catalog.root_url, options)
    started = datetime.now(UTC)

    on_stage("starting Ray")
    with cluster(address):
        fingerprint = _fingerprint(settings)
        donor_set = None
        if settings.attribution != "none":
            on_stage("choosing donors")
            try:
                donor_set = donor_set_for(
                    runs,
                    catalog,
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

        def waiting(holder: Holder) -> None:
            on_stage(f"waiting to see whether process {holder.pid} on {holder.host}, which holds this run, is alive")

        with Lease(run, on_wait=waiting) as lease:
            if (manifest := read_manifest(run)) is not None:  # by whoever held the lease before
                return RunOutcome(run.url, plan.run_id, plan.records, manifest["counts"], published=True, already=True)
            fresh = not run.exists("plan.json")
            plan = store_plan(run, catalog, plan)
            if _forgotten(runs) != forgotten:
                _withdraw(runs, run if fresh else None)
                raise UserError("patients were forgotten while this run was being prepared; start it again")
            try:
                source = Source(run, plan, bundle.preprocessing, options, settings.storage_attempts, pack or None)
                return _finish(source, runs, settings, lease, started, on_stage, on_progress)
            except KeyboardInterrupt:
                run.remove(BEGUN)  # what was being decoded is not suspicious
                raise


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


def _finish(
    source: Source,
    runs: Folder,
    settings: RunSettings,
    lease: Lease,
    started: datetime,
    on_stage: Callable[[str], None],
    on_progress: Callable[[Progress], None],
) -> RunOutcome:
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
    if pending:
        on_stage("scoring" if not done else f"resuming: {len(done)} of {plan.shards} shards are done")
        for result in _execute(source, runs, settings, pending, tally):
            if isinstance(result, str):
                unfinished.append(result)
                if len(unfinished) >= settings.unfinished_limit:
                    break
                continue
            first = first or time.monotonic() - begun
            done[result.shard] = result
            tally.update(done=result.rows, scored=result.scored, flagged=result.flagged)
            on_progress(
                Progress(
                    plan.records,
                    tally["done"],
                    tally["scored"],
                    tally["done"] - tally["scored"],
                    tally["flagged"],
                    at_start,
                )
            )
            _require(lease, run)
    _require(lease, run)
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
    return RunOutcome(
        run.url,
        plan.run_id,
        plan.records,
        counts(done.values()),
        published=published,
        unfinished=tuple(unfinished),
        packed=tally["packed"],
        damaged=tally["damaged"],
        seconds=seconds,
        seconds_to_first_shard=first,
    )


def _require(lease: Lease, run: Folder) -> None:
    if lease.lost.is_set():
        raise UserError(f"{run.url} was taken over by another runner; nothing is lost, and that one goes on")


# --- Ray -------------------------------------------------------------------------------------------------------------


def _shard_records(records: int) -> int:
    shards = int(ray.cluster_resources().get("CPU", 1)) * SHARDS_A_CORE
    return max(FEWEST_SHARD_RECORDS, min(SHARD_RECORDS, -(-records // shards)))


def _fingerprint(settings: RunSettings) -> dict[str, Any]:
    """Ask where the scoring will be done, which on a cluster is not here."""
    gpus = 1 if settings.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1 else 0
    if settings.device == "cuda" and not gpus:
        raise UserError("device is cuda, but Ray sees no GPU; choose device auto or cpu, or a cluster with GPUs")

    def ask() -> dict[str, Any]:
        return numerics_fingerprint(choose_device(settings.device), batch_size=settings.batch_size)

    if len(ray.nodes()) == 1:
        return ask()
    found: dict[str, Any] = ray.get(ray.remote(num_gpus=gpus, num_cpus=SCORER_CPUS)(ask).remote())
    return found


class _Shards(Datasource):
    """One read task a pending shard: its records read, decoded, checked and filtered."""

    def __init__(self, tasks: list[ReadTask]) -> None:
        super().__init__()
        self._tasks = tasks

    def get_name(self) -> str:
        return "Decode"

    def estimate_inmemory_data_size(self) -> int | None:
        return None

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: DataContext | None = None
    ) -> list[ReadTask]:
        return self._tasks


def _execute(
    source: Source, runs: Folder, settings: RunSettings, pending: list[int], tally: Counter[str]
) -> Iterator[ShardSummary | str]:
    """Yield a summary for each shard as it is finished, or a sentence for one that storage errors left unfinished.

    ``tally`` counts what came from the pack.
    """
    plan = source.plan
    cluster = ray.cluster_resources()
    gpu = plan.fingerprint["device"] == "cuda"
    cpus = cluster.get("CPU", 1.0)
    workers = settings.workers or int(cluster["GPU"] if gpu else cpus)
    scorer_cpus = 0.0 if gpu else SCORER_CPUS
    if gpu and workers > cluster["GPU"]:
        raise UserError(f"--workers {workers} is more than the {cluster['GPU']:g} GPUs of this Ray; lower it")
    if workers * scorer_cpus + DECODER_CPUS > cpus:
        most = int((cpus - DECODER_CPUS) / SCORER_CPUS)
        raise UserError(f"--workers {workers} leaves no CPU for reading: this Ray has {cpus:g} CPUs, so at most {most}")

    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.target_max_block_size = 2**31  # a block is a shard, and must not be cut
    context.verbose_stats_logs = False
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # what fails is said once, by us

    sample_bytes = 12 * source.preprocessing.samples * 4
    # Ray keeps every task, 4 kB, in its object store; what was erased would be one number a shard in each of them.
    source = replace(source, plan=replace(plan, removed={}))
    tasks = [
        ReadTask(
            partial(decode_block, source, shard),
            BlockMetadata(plan.shard_rows(shard), plan.shard_rows(shard) * sample_bytes, None, None),
        )
        for shard in pending
    ]
    dataset = ray.data.read_datasource(_Shards(tasks), num_cpus=DECODER_CPUS, override_num_blocks=len(tasks))
    dataset = dataset.map_batches(
        ScoringActor,
        batch_size=None,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=min(workers, len(pending))),
        num_cpus=scorer_cpus,
        num_gpus=1 if gpu else 0,
        fn_constructor_kwargs={"run": source.run, "runs": runs, "plan": plan, "attempts": source.attempts},
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            for row in batch.to_pylist():
                if row["fatal"]:
                    raise UserError(row["error"])
                tally.update(packed=row["packed"], damaged=row["damaged"])
                yield row["error"] if row["error"] else ShardSummary(**json.loads(row["summary"]))
    except ray.exceptions.RayError as error:
        # What a worker raised is a fault of ours or of the machine. The first line names it; the whole is in Ray's log.
        fault = re.search(rf"{Fault.__name__}: (.*)", str(error))
        yield f"Ray ended the run: {fault[1] if fault else type(error).__name__}"
