"""Seconds and highest memory of `screening catalog` at several sizes of an archive, scanned for the first time and again.

    python -m tests.benchmarks.bench_catalog [--sizes 10000,100000,1000000] [--rounds R] [--json OUT]

The archive is a tree of real folders, a thousand records each: headers that state age, sex and statements, as those of the
CinC archives do, and signal files, which a catalog does not open, of one byte. Both are hard links to a few dozen files, so
that a million records take minutes to lay out. The scan is the real command, in a process of its own, whose highest
resident memory the kernel tells when it ends. The second scan finds nothing changed and reads no header.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.bench_report import Used, used
from tests.benchmarks.contenders import Failed
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

SIZES = (10_000, 100_000, 1_000_000)
A_FOLDER = 1_000
DISTINCT = 40
"""Links to one file: file systems take some ten thousand."""
LINKS = 30_000

HEADER = """\
r 12 500 5000
{signals}
# Age: {age}
# Sex: {sex}
# Dx: {codes}
"""


def header(number: int) -> str:
    """Return a header of twelve leads and 5,000 samples; ``number`` chooses what it states."""
    signals = "\n".join(f"r.dat 16+24 1000/mV 16 0 {17 * i} {i - 100} 0 {i}" for i in range(12))
    codes = ("426783006", "164889003", "164865005,164873001", "426177001")[number % 4]
    return HEADER.format(signals=signals, age=20 + number % 70, sex=("Male", "Female")[number % 2], codes=codes)


def lay_out(folder: Path, records: int) -> Path:
    """Make an archive of ``records`` records below ``folder``."""
    archive, kept = folder / f"archive-{records}", folder / f"files-{records}"
    kept.mkdir(parents=True)
    for first in range(0, records, A_FOLDER):
        place = archive / f"p{first // A_FOLDER // 100:03d}" / f"g{first // A_FOLDER:05d}"
        place.mkdir(parents=True)
        for i in range(first, min(first + A_FOLDER, records)):
            turn = i // (DISTINCT * LINKS)
            opening, signal = kept / f"{turn}-{i % DISTINCT}.hea", kept / f"{turn}-{i % DISTINCT}.dat"
            if not opening.exists():
                opening.write_text(header(i % DISTINCT))
                signal.write_bytes(b"\0")
            os.link(opening, place / f"r{i:07d}.hea")
            os.link(signal, place / f"r{i:07d}.dat")
    return archive


def measure(folder: Path, *, sizes: Sequence[int] = SIZES, rounds: int = 1) -> Report:
    """Measure in ``folder``."""
    first: dict[int, list[Used]] = {}
    again: dict[int, list[Used]] = {}
    for n in sorted(sizes):
        archive = folder / f"archive-{n}"
        if not archive.exists():
            print(f"  laying out {n:,} records", file=sys.stderr)
            lay_out(folder, n)
        first[n], again[n] = [], []
        for turn in range(rounds):
            catalog = folder / f"catalog-{n}-{turn}"
            command: list[str | Path] = ["-m", "screening", "catalog", archive, "--out", catalog, "--json"]
            command += ["--key-file", folder / "key", "--labels", "snomed-mi"]
            for scans in (first, again):
                scans[n].append(used(command))
                last = scans[n][-1]
                print(
                    f"  round {turn + 1}: {n:,} records {'again' if scans is again else 'first'}: {last.seconds:.1f} s, "
                    f"{last.cpu_seconds:.1f} core seconds, {last.highest_MB:.0f} MB",
                    file=sys.stderr,
                )
            found = json.loads((catalog / "catalog.json").read_text())
            if found["counts"]["records"] != n:
                raise Failed(f"the catalog has {found['counts']['records']:,} of {n:,} records")
    small, large = min(sizes), max(sizes)
    rows = []
    for name, scans in (("first scan", first), ("second scan, nothing changed", again)):
        rates = {n: [n / u.seconds for u in scans[n]] for n in scans}
        memory = {n: [u.highest_MB for u in scans[n]] for n in scans}
        busy = spread(u.cpu_seconds / u.seconds for u in scans[large])
        rows += [
            Row(
                f"catalog, {name}: records/s, {large:,} / {small:,} records",
                spread(b / a for a, b in zip(rates[small], rates[large], strict=True)),
                f"{spread(rates[large])} records/s, {spread(u.seconds for u in scans[large])} s",
                f"{spread(rates[small])} records/s, start-up included",
                f"core: {busy} busy, naming, listing and reading headers in Python",
                ">= 1",
            ),
            Row(
                f"catalog, {name}: highest memory, {large:,} / {small:,} records",
                spread(b / a for a, b in zip(memory[small], memory[large], strict=True)),
                f"{spread(memory[large])} MB",
                f"{spread(memory[small])} MB",
                "memory: 8 bytes a record to know it again (24 in the second scan), folders in use, imports",
            ),
        ]
    figures: dict[str, Any] = {
        str(n): {"first": [vars(u) for u in first[n]], "again": [vars(u) for u in again[n]]} for n in first
    }
    return Report("catalog", tuple(rows), figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="numbers of records [%(default)s]")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="lay the archives out here, or use those that are here")
    parser.add_argument("--json", type=Path, help="write everything measured here, too")
    options = parser.parse_args()
    where = machine()
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as scratch:
        try:
            folder = options.keep or Path(scratch)
            report = measure(folder, sizes=[int(size) for size in options.sizes.split(",")], rounds=options.rounds)
        except Failed as error:
            sys.exit(f"Error: {error}")
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
