"""How fast is our WFDB reader beside wfdb.rdrecord and beside numpy reading the bare samples?

    python -m tests.benchmarks.bench_reader --archive DIR [--records N] [--rounds R] [--json OUT]

All read the same records from the same disk in one process, in turns, so that whatever else the machine does meets all
alike. Ours includes the header, checksums, SHA-256, path checks and millivolts; wfdb checks no checksums; numpy reads int16
and knows nothing, and is shown once more with the SHA-256 that every row of a result carries: faster than that no reader
can be. Ratios come first: times depend on the machine, ratios less.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from screening.archive.reader import ArchiveReader
from screening.recording import Recording

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import wfdb


def measure(readers: dict[str, Callable[[Path], object]], headers: list[Path], rounds: int) -> dict[str, list[float]]:
    """Return the median seconds a record of each round, by reader; which goes first changes with every record."""
    seconds: dict[str, list[float]] = {name: [] for name in readers}
    names = list(readers)
    for turn in range(rounds + 1):
        taken: dict[str, list[float]] = {name: [] for name in readers}
        for i, header in enumerate(headers):
            first = (turn + i) % len(names)
            for name in names[first:] + names[:first]:
                start = time.perf_counter()
                readers[name](header)
                taken[name].append(time.perf_counter() - start)
        if turn:  # the first round fills caches
            for name in names:
                seconds[name].append(statistics.median(taken[name]))
    return seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, required=True, help="folder of WFDB records, e.g. PTB-XL at 500 Hz")
    parser.add_argument("--records", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the figures here, too")
    options = parser.parse_args()
    headers = sorted(options.archive.rglob("*.hea"))[: options.records]
    if not headers:
        sys.exit(f"Error: no WFDB header (*.hea) in {options.archive}")
    archive = ArchiveReader(str(options.archive))
    places = {header: header.relative_to(options.archive).as_posix() for header in headers}
    for header in headers:
        recording = archive.read(places[header], "x")
        if not isinstance(recording, Recording):
            sys.exit(f"Error: {header} is rejected ({recording.reason}); give an archive of good records")

    readers: dict[str, Callable[[Path], object]] = {
        "screening": lambda header: archive.read(places[header], "x"),
        "wfdb.rdrecord": lambda header: wfdb.rdrecord(str(header.with_suffix(""))),
        "numpy.fromfile": lambda header: np.fromfile(header.with_suffix(".dat"), "<i2"),
        "numpy.fromfile and SHA-256": lambda header: hashlib.sha256(
            np.fromfile(header.with_suffix(".dat"), "<i2").data
        ).digest(),
    }
    seconds = measure(readers, headers, options.rounds)
    ours = seconds["screening"]
    ratios = {
        name: [s / o for s, o in zip(seconds[name], ours, strict=True)] for name in seconds if name != "screening"
    }
    print(f"{len(headers)} records, {options.rounds} rounds; median record, (lowest-highest) round\n")
    for name, values in ratios.items():
        print(f"{name:>26} / screening: {statistics.median(values):6.2f}  ({min(values):.2f}-{max(values):.2f})")
    print()
    for name, values in seconds.items():
        low, middle, high = (1e3 * f(values) for f in (min, statistics.median, max))
        print(f"{name:>26}: {middle:8.3f} ms a record  ({low:.3f}-{high:.3f})")
    if options.json:
        figures = {"records": len(headers), "seconds_a_record": seconds, "ratio_to_screening": ratios}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
