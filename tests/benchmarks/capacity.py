"""How many nodes, hours and how much money an archive takes, computed from measured parts; docs/capacity.md says how.

    python -m tests.benchmarks.capacity PARTS.json [--hours 8]

Pure arithmetic: `bench_capacity` measures the parts here and holds the formula against a run.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RECORDS = (10**7, 10**8)


@dataclass(frozen=True)
class Parts:
    """What was measured; seconds of one core, all cores being busy, unless said otherwise."""

    read_s: float  # a record, from a local disk
    decode_s: float  # a record: quality and filters
    score_s: float  # a record, in the network
    write_s: float  # a record, into the results file
    attribute_s: float  # an explained record, by the operators of the default
    efficiency: float  # of the engine: share of the workers' time that is spent in the parts above
    start_s: float  # a run: from the command to the first worker's first shard
    plan_s: float  # a record, in the driver, before the first shard
    driver_s: float  # a shard, in the driver, while others work
    record_bytes: float
    gpu_score_s: float | None = None  # a record, of one GPU
    gpu_attribute_s: float | None = None  # an explained record, of one GPU


@dataclass(frozen=True)
class Node:
    """A kind of machine, and what it costs; the price is an assumption."""

    name: str
    cores: int
    gpus: int
    read_MB_s: float
    price: float  # an hour


@dataclass(frozen=True)
class Prediction:
    """What a run takes."""

    nodes: int
    hours: float
    price: float
    rate: float  # records a second, after the start
    limit: str  # "core", "GPU", "disk" or "driver"


def predict(parts: Parts, node: Node, *, nodes: int, records: int, explained: float, shard_records: int) -> Prediction:
    """Return what ``records`` take on ``nodes`` nodes where the share ``explained`` of them is explained.

    The slowest of four flows sets the rate: work of the cores, work of the GPUs, bytes from the archive, and the shards that
    the one driver can hand out. Before it comes what does not overlap with it: start-up, and planning in the driver.
    """
    on_cores = parts.read_s + parts.decode_s + parts.write_s
    flows = {
        "disk": nodes * node.read_MB_s * 1e6 / parts.record_bytes,
        "driver": shard_records / parts.driver_s,
    }
    if node.gpus:
        if parts.gpu_score_s is None or (explained and parts.gpu_attribute_s is None):
            raise ValueError("no GPU was measured")
        on_gpus = parts.gpu_score_s + explained * (parts.gpu_attribute_s or 0)
        flows["GPU"] = nodes * node.gpus * parts.efficiency / on_gpus
    else:
        on_cores += parts.score_s + explained * parts.attribute_s
    flows["core"] = nodes * node.cores * parts.efficiency / on_cores
    limit = min(flows, key=lambda name: flows[name])
    hours = (parts.start_s + records * parts.plan_s + records / flows[limit]) / 3600
    return Prediction(nodes, hours, nodes * hours * node.price, flows[limit], limit)


def fewest(parts: Parts, node: Node, *, hours: float, records: int, explained: float, shard_records: int) -> Prediction:
    """Return the prediction for the fewest nodes that are done within ``hours``.

    Raises
    ------
    ValueError
        No number of nodes is: what one driver does takes longer.
    """

    def on(nodes: int) -> Prediction:
        return predict(parts, node, nodes=nodes, records=records, explained=explained, shard_records=shard_records)

    one = on(1)
    first = max(
        1, math.floor(records / (one.rate * hours * 3600))
    )  # fewer cannot be enough: the rate is at most linear
    for nodes in range(first, 100 * first + 2):
        found = on(nodes)
        if found.hours <= hours:
            return found
        if found.limit == "driver":
            break
    raise ValueError(f"one driver cannot hand out {records:,} records within {hours:g} hours; use larger shards")


def table(parts: Parts, kinds: list[tuple[Node, int]], *, hours: float, flagged: float) -> Iterator[str]:
    """Yield the lines of a table for `RECORDS`, unexplained, with flagged records explained, and with all explained.

    Parameters
    ----------
    kinds
        Kinds of node, each with the records a shard to use on it.
    hours
        The night.
    flagged
        Share of the records that are flagged.
    """
    yield f"| records | explained | node | nodes for {hours:g} h | hours | price | one node alone | limited by |"
    yield "|---|---|---|---|---|---|---|---|"
    for records in RECORDS:
        for name, explained in (("none", 0.0), (f"flagged ({flagged:.0%})", flagged), ("all", 1.0)):
            for node, shard_records in kinds:
                size = {"records": records, "explained": explained, "shard_records": shard_records}
                alone = predict(parts, node, nodes=1, **size)  # type: ignore[arg-type]
                found = fewest(parts, node, hours=hours, **size)  # type: ignore[arg-type]
                yield (
                    f"| {records:,} | {name} | {node.name} | {found.nodes:,} | {found.hours:.1f} | {found.price:,.0f} "
                    f"| {alone.hours:,.1f} h | {found.limit} |"
                )


# Prices are round figures of the order that clouds ask on demand; put in your own.
CPU_NODE = Node("32 cores", 32, 0, 500, 1.5)
GPU_NODE = Node("16 cores, 1 GPU", 16, 1, 500, 4.0)
NIGHT_HOURS = 8
FLAGGED = 0.15
CPU_SHARD, GPU_SHARD = 256, 1024


def lines(parts: Parts, *, hours: float = NIGHT_HOURS) -> list[str]:
    """Return the table of docs/capacity.md; lines for GPUs only where one was measured."""
    kinds = [(CPU_NODE, CPU_SHARD)]
    if parts.gpu_score_s is not None:
        kinds.append((GPU_NODE, GPU_SHARD))
    return list(table(parts, kinds, hours=hours, flagged=FLAGGED))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("parts", type=Path, help="JSON with the fields of Parts, as bench_capacity --parts writes it")
    parser.add_argument("--hours", type=float, default=NIGHT_HOURS, help="the night [%(default)s]")
    options = parser.parse_args()
    print("\n".join(lines(Parts(**json.loads(options.parts.read_text())), hours=options.hours)))


if __name__ == "__main__":
    main()
