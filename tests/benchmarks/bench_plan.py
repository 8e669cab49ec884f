"""Seconds and highest memory of planning a run: the digest of the rows, and the plan's files.

    python -m tests.benchmarks.bench_plan [--sizes 1000000,10000000] [--rounds R] [--keep DIR] [--json OUT]

The catalog is made up (`synthetic_runs`). Planning is a process of its own, whose highest resident memory the kernel
tells when it ends; it makes the plan as `screening run` does, in shards of 256 records, and stores it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_report import Used, used
from tests.benchmarks.contenders import Failed
from tests.benchmarks.synthetic_runs import make_catalog
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

SIZES = (1_000_000, 10_000_000)
AIM_S, AIM_MB = 60, 1000
"""For 10^7 records on two cores."""


def plan_one(catalog_path: str, runs_path: str) -> dict[str, float]:
    """Plan a run of a catalog in this process; return the seconds of its parts."""
    from screening.archive.catalog import open_catalog
    from screening.model.bundle import PRETRAINED, load_bundle
    from screening.run.fingerprint import CPU_BATCH
    from screening.run.plan import make_plan, plan_before_erasure, plan_bytes, store_plan
    from screening.settings import SHARD_RECORDS, RunSettings
    from screening.signal.quality import quality_settings
    from screening.storage import Folder

    catalog, bundle = open_catalog(catalog_path), load_bundle(PRETRAINED)
    times = [time.perf_counter()]
    plan = make_plan(
        catalog,
        model={
            "name": bundle.name,
            "version": bundle.version,
            "bundle_sha256": bundle.sha256,
            "input_contract_sha256": bundle.input_contract_sha256,
        },
        donor_set=None,
        settings=RunSettings(),  # type: ignore[call-arg]
        quality=quality_settings(),
        shard_records=SHARD_RECORDS,
        fingerprint={"batch_size": CPU_BATCH},
    )
    times.append(time.perf_counter())
    runs = Folder(runs_path)
    run = runs.folder(plan.run_id)
    store_plan(run, catalog, plan)
    times.append(time.perf_counter())
    run.write("plan.json", plan_bytes(replace(plan, removed={0: 0})))  # as after an erasure, but of nobody
    if plan_before_erasure(runs, catalog, plan) is None:
        raise AssertionError("the stored plan has another digest than its catalog")
    times.append(time.perf_counter())
    names = ("digest_s", "store_s", "found_again_s")
    return {name: after - before for name, before, after in zip(names, times, times[1:], strict=False)}


def measure(folder: Path, *, sizes: Sequence[int] = SIZES, rounds: int = 3) -> Report:
    """Measure in ``folder``, which may hold made-up catalogs of an earlier call."""
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    for n in sizes:
        place = folder / str(n)
        catalog, runs, said = place / "catalog", place / "planned", place / "planned.json"
        if not catalog.exists():
            print(f"  making a catalog of {n:,} records", file=sys.stderr)
            make_catalog(catalog, n)
        found: list[Used] = []
        parts: list[dict[str, float]] = []
        for turn in range(rounds):
            shutil.rmtree(runs, ignore_errors=True)
            found.append(used(["-m", "tests.benchmarks.bench_plan", "--one", catalog, runs, "--json", said]))
            parts.append(json.loads(said.read_text()))
            print(
                f"  round {turn + 1}: {n:,} records planned: {found[-1].seconds:.1f} s, digest "
                f"{parts[-1]['digest_s']:.1f} s, files {parts[-1]['store_s']:.1f} s, {found[-1].highest_MB:.0f} MB",
                file=sys.stderr,
            )
        written = sum(file.stat().st_size for file in runs.rglob("*") if file.is_file())
        shutil.rmtree(runs)
        planning = [p["digest_s"] + p["store_s"] for p in parts]
        memory = spread(u.highest_MB for u in found)
        busy = spread(u.cpu_seconds / u.seconds for u in found)
        aim = "<= 1" if n == max(SIZES) else ""
        rows += [
            Row(
                f"planning {n:,} records, seconds / {AIM_S}",
                spread(seconds / AIM_S for seconds in planning),
                f"{spread(planning)} s, of it the digest {spread(p['digest_s'] for p in parts)} s",
                f"{AIM_S} s for {max(SIZES):,}",
                f"core: {busy} busy, packing {written / 1e6:,.0f} MB of Parquet in row groups of one shard; finding the "
                f"run again after an erasure takes {spread(p['found_again_s'] for p in parts)} s more",
                aim,
            ),
            Row(
                f"planning {n:,} records, MB / {AIM_MB:,}",
                spread(u.highest_MB / AIM_MB for u in found),
                f"{memory} MB at the highest, imports included",
                f"{AIM_MB:,} MB",
                "memory: one slice of shards a thread, and imported libraries",
                aim,
            ),
        ]
        figures[str(n)] = {"processes": [vars(u) for u in found], "parts": parts, "plan_bytes": written}
    return Report("plan", tuple(rows), figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of records [%(default)s]")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="make the catalogs here, or use those that are here, and keep them")
    parser.add_argument("--one", nargs=2, metavar=("CATALOG", "RUNS"), help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, help="write everything measured here, too")
    options = parser.parse_args()
    if options.one:
        options.json.write_text(json.dumps(plan_one(*options.one)))
        return
    where = machine()
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as scratch:
        try:
            sizes = [int(size) for size in options.sizes.split(",")]
            report = measure(options.keep or Path(scratch), sizes=sizes, rounds=options.rounds)
        except Failed as error:
            sys.exit(f"Error: {error}")
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
