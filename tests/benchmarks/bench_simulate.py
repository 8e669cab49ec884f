"""How many simulated ECGs a second does ``screening simulate`` write?

    python -m tests.benchmarks.bench_simulate [RECORDS]

Writes to a temporary folder with one process and with two; 100 Hz, 10 s, 12 leads, header and signal file a record.
"""

from __future__ import annotations

import sys
import tempfile
import time

from screening.signal.simulate import SimulationSettings, simulate, write_archive


def main(records: int) -> None:
    """Print records a second: synthesis alone, then archives written by one and by two processes."""
    settings = SimulationSettings(records=records, prevalence=0.1, seed=0)
    simulate(range(100), settings)
    begun = time.perf_counter()
    simulate(range(2000), settings)
    print(f"synthesis alone, one core   {2000 / (time.perf_counter() - begun):8,.0f} records/s")
    for processes in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            begun = time.perf_counter()
            write_archive(folder, settings, processes=processes)
            print(f"archive, {processes} process(es)      {records / (time.perf_counter() - begun):8,.0f} records/s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000)
