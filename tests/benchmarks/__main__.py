"""All benchmarks, one table, ratios first: ``make bench``.

    python -m tests.benchmarks [--archive DIR] [--model BUNDLE] [--memory] [--scale] [--only NAMES] [--json OUT]

Without --archive it unpacks the shared PTB-XL records (SCREENING_TEST_DATA, default ../shared/data); where those are
not, it simulates an archive and says so. Needs a quiet machine; takes some twenty minutes on two cores, --memory as much
again, and --scale (planning, cataloguing, the engine with scoring stubbed by a sleep, the capacity model) forty.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.benchmarks import (
    bench_capacity,
    bench_catalog,
    bench_formats,
    bench_memory,
    bench_pack,
    bench_plan,
    bench_remote,
    bench_run,
    bench_scaling,
    bench_scoring,
    bench_stages,
    bench_train,
)
from tests.benchmarks.contenders import PROJECT, Failed, environment
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

SIMULATED = 20_000


def real_archive(folder: Path) -> Path | None:
    """Unpack the shared PTB-XL records below ``folder``; None where there are none."""
    shared = PROJECT / os.environ.get("SCREENING_TEST_DATA", "../shared/data")
    unpack = shared / "ptbxl" / "unpack.py"
    if not unpack.is_file():
        return None
    archive = folder / "ptbxl"
    subprocess.run([sys.executable, unpack, archive], check=True, stdout=subprocess.DEVNULL)
    return archive


def simulated_archive(folder: Path, records: int) -> Path:
    """Simulate an archive below ``folder``."""
    from screening.signal.simulate import SimulationSettings, write_archive

    archive = folder / "simulated"
    write_archive(str(archive), SimulationSettings(records=records, prevalence=0.1, seed=0))
    return archive


def by_itself(module: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """Run a benchmark that prints its own table, on standard error, and return its figures."""
    out = folder / f"{module}.json"
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments, "--json", str(out)]
    done = subprocess.run(command, env=environment(), cwd=PROJECT, stdout=sys.stderr, check=False)
    if done.returncode:
        raise Failed(f"{module} ended with exit code {done.returncode}")
    found: dict[str, Any] = json.loads(out.read_text())
    return found


def reader(archive: Path, folder: Path, rate: str) -> Report:
    """Time our WFDB reader against wfdb's and against the bare samples."""
    figures = by_itself("bench_reader", ["--archive", str(archive)], folder)
    seconds = figures["seconds_a_record"]
    aims = {"wfdb.rdrecord": ">= 50", "numpy.fromfile": ">= 0.5"}
    rows = tuple(
        Row(
            f"{name} / ArchiveReader.read, seconds a record{rate}",
            spread(ratios),
            f"{spread(1e3 * s for s in seconds['screening'])} ms",
            f"{spread(1e3 * s for s in seconds[name])} ms",
            "hashing and checking the samples, opening two files, parsing the header, in one thread",
            aims.get(name, ""),
        )
        for name, ratios in figures["ratio_to_screening"].items()
    )
    return Report(f"reader{rate}", rows, figures)


def simulate(folder: Path) -> Report:
    """Time the simulator on all cores, at 100 Hz, files written; the aim is a rate, so the ratio is to that."""
    from screening.signal.simulate import SimulationSettings, write_archive

    rates = []
    for turn in range(3):
        begun = time.perf_counter()
        write_archive(str(folder / f"rate-{turn}"), SimulationSettings(records=SIMULATED, prevalence=0.1, seed=turn))
        rates.append(SIMULATED / (time.perf_counter() - begun))
    row = Row(
        "simulated records a second at 100 Hz / 2,000",
        spread(rate / 2000 for rate in rates),
        f"{spread(rates)} records/s written",
        "the aim of 2,000",
        "synthesis on all cores, then creating two files a record",
        ">= 1",
    )
    return Report("simulate", (row,), {"records": SIMULATED, "records_a_second": rates})


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, help="folder of WFDB records; default: the shared PTB-XL, or simulated")
    parser.add_argument("--model", type=Path, help="bundle; default: the one that ships")
    parser.add_argument("--rounds", type=int, default=bench_run.ROUNDS, help="of the runs and trainings [%(default)s]")
    parser.add_argument("--sizes", default=",".join(map(str, bench_run.SIZES)), help="records of runs [%(default)s]")
    parser.add_argument("--memory", action="store_true", help="the driver's memory, too")
    parser.add_argument("--memory-sizes", default=",".join(map(str, bench_memory.SIZES)), help="[%(default)s]")
    parser.add_argument("--scale", action="store_true", help="planning, cataloguing and the engine at scale, too")
    parser.add_argument("--only", help="names of benchmarks, separated by commas [all]")
    parser.add_argument("--json", type=Path, help="write everything measured here, too")
    options = parser.parse_args()
    where = machine()
    if where["load"] and where["load"][0] > 0.5:
        print(f"The machine is not quiet (load {where['load'][0]:.1f}): the figures will say little.", file=sys.stderr)
    small, large = sorted(int(size) for size in options.sizes.split(","))
    reports: list[Report] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as place:
        folder = Path(place)
        archive = options.archive or real_archive(folder)
        if archive is None:
            print("No real recordings: simulated ones at 100 Hz are measured, which read faster.", file=sys.stderr)
            archive = simulated_archive(folder, 2000)
        benchmarks: dict[str, Callable[[], Report]] = {
            "reader": lambda: reader(archive, folder, ""),
            "simulate": lambda: simulate(folder),
            "reader-100-hz": lambda: reader(simulated_archive(folder / "slow", 200), folder, " at 100 Hz"),
            "formats": lambda: bench_formats.measure(archive, folder),
            "run": lambda: bench_run.measure(
                archive, folder, model=options.model, sizes=(small, large), rounds=options.rounds
            ),
            "train": lambda: bench_train.measure(rounds=options.rounds),
            "remote": lambda: bench_remote.measure(archive, folder / "remote", rounds=options.rounds),
            "pack": lambda: bench_pack.measure(
                archive, folder / "pack", records=1024, rounds=options.rounds, latency_ms=30
            ),
        }
        if options.memory:
            memory = [int(size) for size in options.memory_sizes.split(",")]
            benchmarks["memory"] = lambda: bench_memory.measure(None, folder, model=options.model, sizes=memory)
        if options.scale:
            benchmarks |= {
                "plan": lambda: bench_plan.measure(folder / "plan", rounds=options.rounds),
                "catalog": lambda: bench_catalog.measure(folder / "catalogs"),
                "stubbed": lambda: bench_memory.measure_stubbed(folder / "stubbed"),
                "scaling": lambda: bench_scaling.measure(folder / "scaling"),
                "capacity": lambda: bench_capacity.measure(archive, folder / "capacity", rounds=options.rounds),
            }
        # Last, because they hold this process to one thread.
        benchmarks |= {"stages": lambda: bench_stages.measure(archive), "scoring": bench_scoring.measure}
        only = options.only.split(",") if options.only else list(benchmarks)
        if unknown := sorted(set(only) - set(benchmarks)):
            sys.exit(f"Error: no benchmark {', '.join(unknown)}; there are {', '.join(benchmarks)}")
        for name in only:
            try:
                reports.append(benchmarks[name]())
            except Failed as error:  # the others are still worth their time
                failures.append(str(error))
    print(show([row for report in reports for row in report.rows]))
    if options.json:
        write_json(options.json, reports, where=where)
    for failure in failures:
        print(f"Error: {failure}", file=sys.stderr)
    if failures:
        sys.exit(1)


if __name__ == "__main__":
    main()
