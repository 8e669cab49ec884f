"""How many simulated ECGs a second does ``screening simulate`` write?

    python -m tests.benchmarks.bench_simulate [--records N] [--folder DIR]

Writes to a new folder below DIR (default: the place for temporary files) with one process and with two: 100 Hz, 10 s, 12
leads, a header and a signal file a record. Files of the same sizes with nothing in them tell how much of it is the disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from screening.signal.simulate import SimulationSettings, simulate, write_archive

HEADER_BYTES, SIGNAL_BYTES = 570, 24_000


def bare_files(folder: Path, records: int) -> None:
    """Create as many files as an archive has, of the same sizes, with zeros in them."""
    for first in range(0, records, 1000):
        part = folder / f"{first:08d}"
        part.mkdir()
        for index in range(first, min(first + 1000, records)):
            for suffix, size in (("hea", HEADER_BYTES), ("dat", SIGNAL_BYTES)):
                with open(part / f"{index:08d}.{suffix}", "wb", buffering=0) as file:
                    file.write(bytes(size))


def main() -> None:
    """Print records a second: synthesis alone, bare files, then archives written by one and by two processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--records", type=int, default=20_000)
    parser.add_argument("--folder", type=Path)
    options = parser.parse_args()
    records = options.records
    settings = SimulationSettings(records=records, prevalence=0.1, seed=0)
    simulate(range(100), settings)

    def one() -> None:
        for first in range(0, records, 1000):
            simulate(range(first, min(first + 1000, records)), settings)

    def show(what: str, work: Callable[[], object]) -> None:
        begun = time.perf_counter()
        work()
        print(f"{what:34} {records / (time.perf_counter() - begun):8,.0f} records/s", flush=True)

    show("synthesis alone, 1 process", one)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        show("bare files, 1 process", lambda: bare_files(Path(folder), records))
    for processes in (1, 2):
        with tempfile.TemporaryDirectory(dir=options.folder) as folder:
            show(f"archive, {processes} process(es)", lambda: write_archive(folder, settings, processes=processes))  # noqa: B023


if __name__ == "__main__":
    main()
