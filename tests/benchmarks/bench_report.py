"""Seconds and highest memory of what a report reads: the index from nothing, the tally, and the whole command.

    python -m tests.benchmarks.bench_report [--sizes 1000000,10000000] [--rounds R] [--command] [--keep DIR] [--json OUT]

Catalog and results are made up (`synthetic_runs`), about 0.6 GB a million records with what is spilled. Each part is a
process of its own, whose highest resident memory the kernel tells when it ends. --command also times
``python -m screening report``, which does both parts and writes the report.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import PROJECT, Failed, environment
from tests.benchmarks.synthetic_runs import make_catalog, make_run
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

SIZES = (1_000_000, 10_000_000)
AIM_S, AIM_MB = 60, 2000
"""For 10^7 rows on two cores, the whole report."""

REFRESH = """
import sys
from screening.run.current import refresh
from screening.storage import Folder
print(dict(refresh(Folder(sys.argv[1])).counts), file=sys.stderr)
"""
TALLY = """
import sys
from datetime import date
import numpy as np
from screening.archive.catalog import open_catalog
from screening.report.facts import FEATURES, Frame, joined
from screening.report.population import tally
from screening.run.current import open_current
from screening.storage import Folder
edges = {name: np.linspace(0, 0.2, 21) for name in FEATURES} | {"age": np.arange(0, 105, 5.0)}
edges["log_odds"] = np.linspace(-8, 8, 65)
current = open_current(Folder(sys.argv[1]))
seen = {current.indexed[0].model["bundle_sha256"]: {f"{n:064x}" for n in range(20_000)}}
frame = Frame("latest", None, None, date(2026, 1, 1), (0, *range(20, 100, 10)), 20, 20)
with joined(current, open_catalog(sys.argv[2]), frame, features=FEATURES) as of:
    tallies = tally(of, log_odds_edges=edges["log_odds"], feature_edges=edges, seen=seen)
print(dict(tallies.flow), file=sys.stderr)
"""


@dataclass(frozen=True)
class Used:
    """What a finished process took."""

    seconds: float
    cpu_seconds: float
    highest_MB: float


def used(command: Sequence[str | Path]) -> Used:
    """Run a process to its end.

    Raises
    ------
    Failed
        It did not end with exit code 0.
    """
    with tempfile.TemporaryFile("w+") as said:
        start = time.perf_counter()
        process = subprocess.Popen(
            [sys.executable, *map(str, command)], env=environment(), cwd=PROJECT, stdout=said, stderr=said
        )
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        text = said.read().strip()
        if process.returncode:
            raise Failed(
                f"{command[0]} ended with exit code {process.returncode}: {(text or 'no message').splitlines()[-1]}"
            )
    return Used(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def measure(folder: Path, *, sizes: Sequence[int] = SIZES, rounds: int = 2, command: bool = False) -> Report:
    """Measure in ``folder``, which may hold made-up runs of an earlier call; see `main`."""
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    for n in sizes:
        place = folder / str(n)
        catalog, runs = place / "catalog", place / "runs"
        if not runs.exists():
            print(f"  making {n:,} records", file=sys.stderr)
            make_run(runs, make_catalog(catalog, n))
        parts: dict[str, list[str | Path]] = {
            "refresh": ["-c", REFRESH, runs],
            "tally": ["-c", TALLY, runs, catalog],
        }
        if command:
            parts["screening report"] = [
                *("-m", "screening", "report", "--runs", runs, "--catalog", catalog, "--out", place / "report"),
                *("--no-mlflow", "--no-worklist"),
            ]
        found: dict[str, list[Used]] = {part: [] for part in parts}
        for turn in range(rounds):
            for part, arguments in parts.items():
                if part != "tally":  # both start from nothing
                    shutil.rmtree(runs / "current", ignore_errors=True)
                    shutil.rmtree(runs / "reports", ignore_errors=True)  # what was released before
                found[part].append(used(arguments))
                last = found[part][-1]
                print(
                    f"  round {turn + 1}: {n:,} records, {part}: {last.seconds:.1f} s "
                    f"({last.cpu_seconds:.1f} s of a core), {last.highest_MB:.0f} MB",
                    file=sys.stderr,
                )
        for part, runs_of_it in found.items():
            rows.append(
                Row(
                    f"{part}, {n:,} records, seconds / {AIM_S}",
                    spread(u.seconds / AIM_S for u in runs_of_it),
                    f"{spread(u.seconds for u in runs_of_it)} s, {spread(u.highest_MB for u in runs_of_it)} MB",
                    f"{AIM_S} s and {AIM_MB} MB for the whole report",
                    f"{spread(u.cpu_seconds / u.seconds for u in runs_of_it)} cores busy",
                    "<= 1",
                )
            )
            figures[f"{part} {n}"] = [vars(u) for u in runs_of_it]
    return Report("report", tuple(rows), figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of records [%(default)s]")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--command", action="store_true", help="time the whole command, too")
    parser.add_argument("--keep", type=Path, help="make the runs here, or use those that are here, and keep them")
    parser.add_argument("--json", type=Path, help="write everything measured here, too")
    options = parser.parse_args()
    where = machine()
    sizes = [int(size) for size in options.sizes.split(",")]
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as scratch:
        try:
            folder = options.keep or Path(scratch)
            report = measure(folder, sizes=sizes, rounds=options.rounds, command=options.command)
        except Failed as error:
            sys.exit(f"Error: {error}")
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
