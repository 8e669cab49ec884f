"""Strong and weak scaling of the engine over several raylets on one machine, reading and scoring stubbed by a sleep.

    python -m tests.benchmarks.bench_scaling [--nodes 1,2,4,8] [--record-ms 4] [--shards 32] [--rounds R] [--json OUT]

This measures Ray, our graph, the plan and the files, and not the cores: each of the raylets has one CPU that it does not need,
because its worker sleeps for as long as a core would take to read, filter and score a shard (`stubbed` says what is real).
Strong: the same records for every number of raylets. Weak: as many records more as there are raylets. The steady rate is a
line fitted through the shards as they were finished, from the first tenth to the last; start-up is told apart.

Sleeps do not need cores, but the rest does: its core seconds a shard say up to how many raylets this machine can tell.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.contenders import Failed, timed
from tests.benchmarks.synthetic_runs import make_catalog
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

NODES = (1, 2, 4, 8)
RECORD_MS = 4.0
DECODE_SHARE = 0.2
SHARDS = 32
"""A raylet, at the largest number of raylets; few would make the last round of shards weigh."""
SHARD_RECORDS = 256
AIM = ">= 0.9"


def steady(done: Sequence[tuple[float, int, float]]) -> float:
    """Return records a second between the first and the last tenth of the shards."""
    inner = np.array(done[len(done) // 10 : len(done) - len(done) // 10])
    return float(np.polyfit(inner[:, 0], inner[:, 1], 1)[0])


def once(catalog: Path, folder: Path, *, nodes: int, record_ms: float) -> dict[str, Any]:
    """Run the stubbed engine on so many raylets; return what it took."""
    runs, said = folder / "runs", folder / "said.json"
    sleeps = ["--decode-ms", str(DECODE_SHARE * record_ms), "--score-ms", str((1 - DECODE_SHARE) * record_ms)]
    shape = ["--nodes", str(nodes), "--cpus", "1", "--shard-records", str(SHARD_RECORDS), "--json", said]
    try:
        took = timed("tests.benchmarks.stubbed", [catalog, runs, *sleeps, *shape], threads=1)
        found: dict[str, Any] = json.loads(said.read_text())
    finally:
        shutil.rmtree(runs, ignore_errors=True)
    if not found["published"]:
        raise Failed(f"the stubbed run was not published: {found['unfinished']}")
    started = found["seconds_until_stage"][-1][0]  # "scoring"
    return {
        "nodes": nodes,
        "records": found["records"],
        "seconds": found["seconds"],
        "rate": steady(found["done"]),
        "scoring_s": found["seconds"] - started,
        "first_shard_s": found["done"][0][0] - started - SHARD_RECORDS * record_ms / 1e3,
        "after_the_last_shard_s": found["seconds"] - found["done"][-1][0],
        "driver_core_ms_a_shard": 1e3 * (found["done"][-1][2] - found["done"][0][2]) / (len(found["done"]) - 1),
        "busy_cores": None if took.cpu_seconds is None else took.cpu_seconds / took.seconds,  # whoever keeps them busy
        "store_MB": max((look["used_MB"] for look in found["object_store"]), default=float("nan")),
    }


def measure(
    folder: Path,
    *,
    nodes: Sequence[int] = NODES,
    record_ms: float = RECORD_MS,
    shards: int = SHARDS,
    rounds: int = 1,
) -> Report:
    """Measure in ``folder``."""
    most = max(nodes)
    sizes = {n: {"strong": most * shards * SHARD_RECORDS, "weak": n * shards * SHARD_RECORDS} for n in nodes}
    catalogs = {size: folder / f"catalog-{size}" for by_kind in sizes.values() for size in by_kind.values()}
    for size, catalog in catalogs.items():
        make_catalog(catalog, size)
    found: dict[str, dict[int, list[dict[str, Any]]]] = {kind: {n: [] for n in nodes} for kind in ("strong", "weak")}
    for turn in range(rounds):
        for n in nodes:
            for kind in ("strong", "weak"):
                if kind == "weak" and n == most:  # the same run
                    found[kind][n].append(found["strong"][n][-1])
                    continue
                found[kind][n].append(once(catalogs[sizes[n][kind]], folder, nodes=n, record_ms=record_ms))
                last = found[kind][n][-1]
                print(
                    f"  round {turn + 1}: {kind}, {n} raylets, {last['records']:,} records: {last['scoring_s']:.1f} s, "
                    f"{last['rate']:.0f} records/s steady, {last['rate'] * record_ms / n / 10:.0f}% of the sleep's",
                    file=sys.stderr,
                )
    rows = [_row(kind, n, found[kind], record_ms) for kind in found for n in nodes if n > min(nodes)]
    figures = {"record_ms": record_ms, "shard_records": SHARD_RECORDS, "shards_a_raylet": shards, "runs": found}
    return Report("scaling", tuple(rows), figures)


def _row(kind: str, n: int, found: dict[int, list[dict[str, Any]]], record_ms: float) -> Row:
    """Return the row of a number of raylets against one."""
    least = min(found)
    ones, many = found[least], found[n]
    whole = [
        (b["records"] / b["seconds"] / n) / (a["records"] / a["seconds"] / least)
        for a, b in zip(ones, many, strict=True)
    ]
    busy = spread(float("nan") if b["busy_cores"] is None else b["busy_cores"] for b in many)
    return Row(
        f"{kind} scaling, {n} raylets / {least}: steady records/s a raylet (the engine; scoring is a sleep)",
        spread(b["rate"] / n / (a["rate"] / least) for a, b in zip(ones, many, strict=True)),
        f"{spread(b['rate'] for b in many)} records/s of {n * 1e3 / record_ms:,.0f}; start-up and end included "
        f"{spread(whole)}; first shard after {spread(b['first_shard_s'] for b in many)} s",
        f"{spread(a['rate'] for a in ones)} records/s of {least * 1e3 / record_ms:,.0f}",
        f"core: {busy} of this machine's {os.cpu_count()} busy; driver "
        f"{spread(b['driver_core_ms_a_shard'] for b in many)} core ms a shard; object store "
        f"{spread(b['store_MB'] for b in many)} MB at the most",
        AIM,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--nodes", default=",".join(map(str, NODES)), help="numbers of raylets [%(default)s]")
    parser.add_argument("--record-ms", type=float, default=RECORD_MS, help="sleep a record [%(default)s]")
    parser.add_argument("--shards", type=int, default=SHARDS, help="a raylet, with the most raylets [%(default)s]")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write everything measured here, too")
    options = parser.parse_args()
    where = machine()
    nodes = [int(n) for n in options.nodes.split(",")]
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as folder:
        try:
            report = measure(
                Path(folder), nodes=nodes, record_ms=options.record_ms, shards=options.shards, rounds=options.rounds
            )
        except Failed as error:
            sys.exit(f"Error: {error}")
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
