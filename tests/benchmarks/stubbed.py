"""`screening run` with reading and scoring replaced by sleeps: what is left is the engine's own time and memory.

    python -m tests.benchmarks.stubbed CATALOG RUNS --decode-ms MS --score-ms MS [--nodes N] [--cpus C] [--json OUT]

Real: the command's function `screen`, its plan, lease, Ray Data graph, one block of the real size a shard, one results
file a shard, the ledger, the manifest. Stubbed by a stated sleep a record: reading, decoding, filters
(a sleep in the read task, which gives a block of zeros) and the network (a sleep in the actor, which writes made-up rows).

On CPUs Ray Data fuses reading into the scorer's process, and no block goes through the object store; for a GPU it cannot.
--apart keeps the two apart as there. With --nodes N, Ray is N raylets with C CPUs each on this machine, beside a head without
any.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow as pa
import ray

from screening.contract import N_LEADS
from screening.model.bundle import PRETRAINED
from screening.run import engine, pipeline
from screening.run.plan import Plan, begun_name, read_locations, read_shard, results_name
from screening.run.worker import Source, _row, results_file
from screening.settings import RunSettings
from screening.storage import Folder
from tests.benchmarks.synthetic_runs import drawn_results

LOOK_EVERY_S = 0.25
STORE_BYTES = 2**28
"""Of the object store of each of several raylets; a Ray started by `screening` takes its own choice."""


def sleeping_decode(seconds_a_record: float, source: Source, shard: int) -> list[pa.Table]:
    """Do what `worker.decode_block` does of a shard, with a sleep in place of the archive and the filters."""
    begun = time.monotonic()
    source.run.write(begun_name(shard), b"")
    planned = read_shard(source.run, shard)
    read_locations(source.run, shard)
    n, width = planned.num_rows, N_LEADS * source.preprocessing.samples
    planned = planned.append_column(
        "signal", pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(n * width, np.float32)), width)
    )
    source.run.remove(begun_name(shard))
    time.sleep(max(0.0, n * seconds_a_record - (time.monotonic() - begun)))
    return [planned.append_column("shard", pa.array([shard] * n, pa.int32()))]


def sleeper(seconds_a_record: float) -> type:
    """Return an actor that does what `worker.ScoringActor` does of a shard, with a sleep in place of the network."""

    class Sleeper:
        def __init__(self, run: Folder, runs: Folder, plan: Plan, attempts: int) -> None:
            self.run, self.plan = run, plan

        def __call__(self, decoded: pa.Table) -> pa.Table:
            begun = time.monotonic()
            shard = decoded["shard"][0].as_py()
            summary, data = results_file(self.plan, shard, drawn_results(decoded, self.plan, shard))
            self.run.write(results_name(shard), data)
            time.sleep(max(0.0, decoded.num_rows * seconds_a_record - (time.monotonic() - begun)))
            return _row(shard, summary=json.dumps(asdict(summary)))

    return Sleeper


def own_memory_MB() -> float:
    """Return the anonymous resident memory of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


class Watch:
    """Looks at Ray's object stores, all nodes together, and at this process's own memory, while a block runs."""

    def __init__(self) -> None:
        self.samples: list[dict[str, float]] = []
        self._stop = threading.Event()

    def __enter__(self) -> Watch:
        self._begun = time.monotonic()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _look(self) -> None:
        from ray._private.internal_api import get_memory_info_reply
        from ray._private.state import state
        from ray._private.worker import global_worker

        while not self._stop.wait(LOOK_EVERY_S):
            if not ray.is_initialized() or not global_worker.connected:
                continue
            try:
                stats = get_memory_info_reply(state).store_stats
            except Exception:  # Ray is starting or ending
                continue
            self.samples.append(
                {
                    "seconds": time.monotonic() - self._begun,
                    "used_MB": stats.object_store_bytes_used / 1e6,
                    "size_MB": stats.object_store_bytes_avail / 1e6,
                    "spilled_MB": stats.spilled_bytes_total / 1e6,
                    "objects": stats.num_local_objects,
                    "driver_MB": own_memory_MB(),
                }
            )


@contextmanager
def raylets(nodes: int, cpus: int) -> Iterator[None]:
    """Be the driver of a Ray of so many raylets on this machine."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "object_store_memory": STORE_BYTES, "include_dashboard": False},
    )
    try:
        for _ in range(nodes):
            cluster.add_node(num_cpus=cpus, object_store_memory=STORE_BYTES, wait=False)
        cluster.wait_for_nodes()
        ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        yield
    finally:
        ray.shutdown()
        cluster.shutdown()


APART = 0.4
"""CPUs of a scorer that differ from a decoder's 0.5: Ray Data fuses stages that ask for the same."""


def run(
    catalog: str,
    runs: str,
    *,
    decode_s: float,
    score_s: float,
    nodes: int = 0,
    cpus: int = 1,
    apart: bool = False,
    shard_records: int | None = None,
) -> dict[str, Any]:
    """Run the engine with sleeps of so many seconds a record; return what it took."""
    settings = RunSettings(attribution="none", device="cpu", shard_records=shard_records)  # type: ignore[call-arg]
    done: list[tuple[float, int, float]] = []  # seconds, records, core seconds of the driver
    stages: list[tuple[float, str]] = []
    with (
        raylets(nodes, cpus) if nodes else nullcontext(),  # else `screening` starts Ray
        patch.object(engine, "SCORER_CPUS", APART if apart else engine.SCORER_CPUS),
        patch.object(engine, "decode_block", partial(sleeping_decode, decode_s)),
        patch.object(engine, "ScoringActor", sleeper(score_s)),
        Watch() as watch,
    ):
        begun, cpu = time.monotonic(), time.process_time()
        outcome = pipeline.screen(
            catalog,
            runs,
            model_path=str(PRETRAINED),
            settings=settings,
            on_stage=lambda text: stages.append((time.monotonic() - begun, text)),
            on_progress=lambda now: done.append((time.monotonic() - begun, now.done, time.process_time() - cpu)),
        )
        seconds = time.monotonic() - begun
    return {
        "published": outcome.published,
        "records": outcome.records,
        "seconds": seconds,
        "unfinished": outcome.unfinished,
        "driver_core_seconds": time.process_time() - cpu,
        "driver_highest_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "seconds_until_stage": stages,
        "done": done,
        "object_store": watch.samples,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("catalog")
    parser.add_argument("runs")
    parser.add_argument("--decode-ms", type=float, required=True, help="sleep a record in place of reading")
    parser.add_argument("--score-ms", type=float, required=True, help="sleep a record in place of the network")
    parser.add_argument("--nodes", type=int, default=0, help="raylets [0: Ray is started as `screening run` does]")
    parser.add_argument("--cpus", type=int, default=1, help="of each raylet")
    parser.add_argument("--apart", action="store_true", help="decoders and scorers in processes of their own")
    parser.add_argument("--shard-records", type=int)
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    found = run(
        options.catalog,
        options.runs,
        decode_s=options.decode_ms / 1e3,
        score_s=options.score_ms / 1e3,
        nodes=options.nodes,
        cpus=options.cpus,
        apart=options.apart,
        shard_records=options.shard_records,
    )
    options.json.write_text(json.dumps(found))


if __name__ == "__main__":
    main()
