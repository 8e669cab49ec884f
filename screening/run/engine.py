"""Shards on Ray Data: one read task a shard, an actor pool that scores, and a small row a shard that comes back.

Apart from the pipeline, because Ray Data takes most of a second to import, which a driver spends better while Ray starts.
"""

from __future__ import annotations

import json
import logging
import re
import secrets
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from unittest.mock import patch

import ray
import ray.data
from ray.data import ActorPoolStrategy, DataContext, Datasource, ReadTask
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.data.block import BlockMetadata

from screening.cluster import is_ours
from screening.errors import Unexpected, UserError
from screening.run.ledger import ShardSummary
from screening.run.scorers import DECODER_CPUS, SCORER_CPUS, gpus_for
from screening.run.worker import ScoringActor, Source, decode_block
from screening.storage import Folder, forbid_pickled_columns

forbid_pickled_columns()


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


def execute(
    source: Source, runs: Folder, pending: list[int], workers: int, tally: Counter[str]
) -> Iterator[tuple[int | None, ShardSummary | str, dict[str, float]]]:
    """Yield a summary for each shard as it is finished, or a sentence for one that storage errors left unfinished.

    Before it stands the shard, after it the seconds of each stage in the worker. ``tally`` counts what came from the pack.
    """
    plan = source.plan
    gpu = plan.fingerprint["device"] == "cuda"

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
        compute=ActorPoolStrategy(size=workers),
        num_cpus=0.0 if gpu else SCORER_CPUS,
        num_gpus=gpus_for(workers, int(ray.cluster_resources()["GPU"])) if gpu else 0,
        fn_constructor_kwargs={"run": source.run, "runs": runs, "plan": plan, "attempts": source.attempts},
    )
    try:
        with _without_helpers() if is_ours() else nullcontext():
            for batch in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                for row in batch.to_pylist():
                    if row["fatal"]:
                        raise UserError(row["error"])
                    tally.update(packed=row["packed"], damaged=row["damaged"])
                    result = row["error"] or ShardSummary(**json.loads(row["summary"]))
                    yield row["shard"], result, row["seconds"] or {}
    except ray.exceptions.RayError as error:
        # What a worker raised is a fault of ours or of the machine. The first line names it; the whole is in Ray's log.
        fault = re.search(rf"{Unexpected.__name__}: (.*)", str(error))
        yield None, f"Ray ended the run: {fault[1] if fault else type(error).__name__}", {}


class _Alone(ClusterAutoscaler):
    """What Ray Data is told of a Ray that is this machine: it has what it has."""

    def try_trigger_scaling(self) -> None:
        """Do nothing."""

    def on_executor_shutdown(self) -> None:
        """Do nothing."""

    def get_total_resources(self) -> ExecutionResources:
        """Return all there is."""
        return ExecutionResources.from_resource_dict(ray.cluster_resources())


class _Nobody:
    """Takes what Ray Data tells its helpers, which nobody asks here, in the place of an actor."""

    def __getattr__(self, name: str) -> _Nobody:
        if name.startswith("__"):  # pickle asks for its own
            raise AttributeError(name)
        return self

    def remote(self, *_: object) -> None:
        """Do nothing."""


@contextmanager
def _without_helpers() -> Iterator[None]:
    """Keep Ray Data from starting actors for statistics, for more machines, and for telling on which one an actor is."""
    actors = "ray.data._internal.execution.operators.actor_pool_map_operator"
    with (
        patch(f"{actors}.get_or_create_actor_location_tracker", _Nobody),
        patch(f"{actors}.get_actor_locations", dict.fromkeys),
        patch("ray.data._internal.stats.get_or_create_stats_actor", _Nobody),
        patch("ray.data.dataset._StatsManager.gen_dataset_id_from_stats_actor", lambda: secrets.token_hex(16)),
        patch("ray.data._internal.execution.streaming_executor.create_cluster_autoscaler", lambda *_, **__: _Alone()),
    ):
        yield
