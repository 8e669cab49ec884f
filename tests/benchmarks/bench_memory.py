"""Memory of the driver of `screening run` at several sizes of an archive: it should not grow with the records.

    python -m tests.benchmarks.bench_memory [--sizes 10000,100000] [--archive DIR] [--model BUNDLE] [--json OUT]
    python -m tests.benchmarks.bench_memory --stub-ms 0.1 [--sizes 10000,100000,1000000] [--json OUT]

The records are hard links to a few hundred simulated ECGs of ten seconds at 100 Hz (or those of --archive), so that a
hundred thousand are scored in minutes. The driver, the process of the command itself, is looked at twice a second by
Linux' /proc: its resident memory, of that its own (anonymous) and the shared object store's; and, as a check, the
anonymous memory of all processes it started. The samples are in the JSON, to be plotted.

With --stub-ms reading and scoring are sleeps of so many milliseconds a record (`stubbed` says what is real), so that a million
records take minutes; and Ray is asked for the use of its object store, also with decoders and scorers in processes of their
own, as with a GPU, where every decoded shard goes through it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import PROJECT, Failed, archive_of, catalog_of, environment, timed
from tests.benchmarks.synthetic_runs import make_catalog
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

SIZES = (10_000, 100_000)
STUBBED_SIZES, APART_SIZES = (10_000, 100_000, 1_000_000), (10_000, 100_000)
STUB_MS = 0.1
DISTINCT = 200
EVERY_S = 0.5
SETTLED = 0.2
"""Growth is counted from when this share of the records is done: by then everything is loaded."""


def memory_MB(pid: int) -> dict[str, float] | None:
    """Return resident, anonymous, shared and highest resident memory of a process, None when it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (OSError, ValueError):
        return None
    facts = {key: value.split()[0] for key, _, value in (line.partition(":") for line in lines) if value.split()}
    names = {"resident": "VmRSS", "anonymous": "RssAnon", "shared": "RssShmem", "highest": "VmHWM"}
    return {name: int(facts[key]) / 1024 for name, key in names.items()} if "VmRSS" in facts else None


def descendants(pid: int) -> list[int]:
    """Return the processes that ``pid`` started, and those that they started."""
    children: dict[int, list[int]] = defaultdict(list)
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            except OSError:
                continue
            children[int(parent)].append(int(folder.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        todo += (new := children[todo.pop()])
        found += new
    return found


def watch(archive: Path, out: Path, model: Path | None) -> dict[str, Any]:
    """Run the command on ``archive`` and return its samples and what it says of itself.

    Raises
    ------
    Failed
        The run was not published.
    """
    command = [sys.executable, "-m", "screening", "run", "--catalog", str(catalog_of(archive)), "--out", str(out)]
    command += ["--attribution", "none", "--json", *(["--model", str(model)] if model else [])]
    samples: list[dict[str, float]] = []
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complaints:
        begun = time.monotonic()
        driver = subprocess.Popen(command, env=environment(), cwd=PROJECT, stdout=said, stderr=complaints)
        while driver.poll() is None:
            now = memory_MB(driver.pid)
            if now is not None:
                others = (memory_MB(pid) for pid in descendants(driver.pid))
                files = sum(1 for _ in out.glob("*/results/part-*.parquet"))
                now |= {"seconds": time.monotonic() - begun, "files": files}
                now["others_anonymous"] = sum(other["anonymous"] for other in others if other)
                samples.append(now)
            time.sleep(EVERY_S)
        said.seek(0), complaints.seek(0)
        if driver.returncode not in (0, 2):
            last = (complaints.read().strip() or "no message").splitlines()[-1]
            raise Failed(f"screening run ended with exit code {driver.returncode}: {last}")
        outcome = json.load(said)
    if not outcome["published"] or not samples:
        raise Failed(f"screening run did not publish: {outcome['unfinished']}")
    settled = [s for s in samples if s["files"] >= SETTLED * max(s["files"] for s in samples)]
    return {
        "outcome": outcome,
        "highest_MB": max(s["highest"] for s in samples),
        "grown_MB": settled[-1]["anonymous"] - settled[0]["anonymous"],
        "samples_MB": samples,
    }


def measure(
    source: Path | None, folder: Path, *, model: Path | None, sizes: Sequence[int] = SIZES, rounds: int = 1
) -> Report:
    """Measure in ``folder``.

    Raises
    ------
    Failed
        This is not Linux, or a run did not finish.
    """
    if not Path("/proc/self/status").exists():
        raise Failed("memory is measured by /proc, which is on Linux alone; leave --memory out")
    if source is None:
        from screening.signal.simulate import SimulationSettings, write_archive

        source = folder / "simulated"
        write_archive(str(source), SimulationSettings(records=DISTINCT, prevalence=0.1, seed=0))
    found: dict[int, list[dict[str, Any]]] = defaultdict(list)
    archives = {n: archive_of(source, folder, n) for n in sorted(sizes)}
    for turn in range(rounds):
        for n, archive in archives.items():
            out = folder / "runs"
            try:
                found[n].append(watch(archive, out, model))
            finally:
                shutil.rmtree(out, ignore_errors=True)
            last = found[n][-1]
            print(
                f"  round {turn + 1}: {n:,} records: {last['highest_MB']:.0f} MB, "
                f"{last['samples_MB'][-1]['seconds']:.0f} s",
                file=sys.stderr,
            )
    small, large = min(archives), max(archives)
    peaks = {n: [run["highest_MB"] for run in runs] for n, runs in found.items()}
    growth = 1e3 * (spread(peaks[large]).median - spread(peaks[small]).median) / max(1, large - small)
    row = Row(
        f"driver's highest memory, {large:,} / {small:,} records",
        spread(b / a for a, b in zip(peaks[small], peaks[large], strict=True)),
        f"{spread(peaks[large])} MB",
        f"{spread(peaks[small])} MB",
        f"imported libraries; {growth:.2f} MB for each 1,000 more records, "
        f"{found[large][-1]['grown_MB']:+.0f} MB between {SETTLED:.0%} and the end of the larger",
        "flat",
    )
    return Report("memory", (row,), {"runs": {str(n): runs for n, runs in found.items()}})


def measure_stubbed(
    folder: Path,
    *,
    sizes: Sequence[int] = STUBBED_SIZES,
    apart_sizes: Sequence[int] = APART_SIZES,
    record_ms: float = STUB_MS,
    rounds: int = 1,
) -> Report:
    """Measure in ``folder`` with sleeps in place of reading and scoring; see the head of this file."""
    catalogs = {n: folder / f"catalog-{n}" for n in {*sizes, *apart_sizes}}
    for n, catalog in catalogs.items():
        make_catalog(catalog, n)
    found: dict[str, dict[int, list[dict[str, Any]]]] = {"fused": {}, "apart": {}}
    for turn in range(rounds):
        for mode, of_mode in (("fused", sizes), ("apart", apart_sizes)):
            for n in sorted(of_mode):
                runs, said = folder / "runs", folder / "said.json"
                arguments = ["--decode-ms", str(0.2 * record_ms), "--score-ms", str(0.8 * record_ms)]
                arguments += ["--json", str(said), *(["--apart"] if mode == "apart" else [])]
                timed("tests.benchmarks.stubbed", [catalogs[n], runs, *arguments, "--shard-records", "256"], threads=1)
                shutil.rmtree(runs)
                last = json.loads(said.read_text())
                if not last["published"]:
                    raise Failed(f"the stubbed run was not published: {last['unfinished']}")
                found[mode].setdefault(n, []).append(last)
                print(
                    f"  round {turn + 1}: {mode}, {n:,} records: {last['seconds']:.0f} s, driver "
                    f"{last['driver_highest_MB']:.0f} MB, object store {_store(last, 'used_MB'):.0f} MB at the most",
                    file=sys.stderr,
                )
    small, large = min(sizes), max(sizes)
    pairs = list(zip(found["fused"][small], found["fused"][large], strict=True))
    growth = spread(1e3 * _grown(b) / (large * (1 - SETTLED)) for _, b in pairs)
    rows = [
        Row(
            f"driver's highest memory, {large:,} / {small:,} records, a sleep of {record_ms:g} ms a record for scoring",
            spread(b["driver_highest_MB"] / a["driver_highest_MB"] for a, b in pairs),
            f"{spread(b['driver_highest_MB'] for _, b in pairs)} MB",
            f"{spread(a['driver_highest_MB'] for a, _ in pairs)} MB",
            f"memory: imported libraries and planning; {growth} MB of its own for each 1,000 records while they are scored",
            "flat",
        )
    ]
    for mode, of_mode in found.items():
        few, many = of_mode[min(of_mode)], of_mode[max(of_mode)]
        rows.append(
            Row(
                f"object store at its fullest / its size, {max(of_mode):,} records, decoders and scorers {mode}",
                spread(_store(run, "used_MB") / _store(run, "size_MB") for run in many),
                f"{spread(_store(run, 'used_MB') for run in many)} MB, {spread(_store(run, 'spilled_MB') for run in many)} "
                f"MB spilled; with {min(of_mode):,} records {spread(_store(run, 'used_MB') for run in few)} MB",
                f"{spread(_store(run, 'size_MB') for run in many)} MB",
                "memory: 4.4 kB a shard that waits" + (", and decoded shards of 12 MB" if mode == "apart" else ""),
                "<= 0.5",
            )
        )
    return Report("memory of the engine", tuple(rows), {"record_ms": record_ms, "runs": found})


def _store(run: dict[str, Any], what: str) -> float:
    return max(look[what] for look in run["object_store"])


def _grown(run: dict[str, Any]) -> float:
    """Return by how many MB the driver's own memory grew after the first fifth of the records."""
    settled = next(seconds for seconds, done, _ in run["done"] if done >= SETTLED * run["records"])
    looks = [look["driver_MB"] for look in run["object_store"] if look["seconds"] >= settled]
    return float(looks[-1] - looks[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", help=f"numbers of records [{SIZES}, with --stub-ms {STUBBED_SIZES}]")
    parser.add_argument("--stub-ms", type=float, help="sleep so long a record in place of reading and scoring")
    parser.add_argument("--archive", type=Path, help="folder of WFDB records; default: simulated ones")
    parser.add_argument("--model", type=Path, help="bundle; default: the one that ships")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", type=Path, help="write everything measured, with the samples, here, too")
    options = parser.parse_args()
    where = machine()
    stubbed = options.stub_ms is not None
    sizes = [int(size) for size in options.sizes.split(",")] if options.sizes else STUBBED_SIZES if stubbed else SIZES
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as folder:
        try:
            place = Path(folder)
            if stubbed:
                report = measure_stubbed(place, sizes=sizes, record_ms=options.stub_ms, rounds=options.rounds)
            else:
                report = measure(options.archive, place, model=options.model, sizes=sizes, rounds=options.rounds)
        except Failed as error:
            sys.exit(f"Error: {error}")
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
