"""All benchmarks, one table, ratios first: ``make bench``.

    python -m tests.benchmarks [--archive DIR] [--model BUNDLE] [--memory] [--json OUT]

Without --archive it unpacks the shared PTB-XL records (SCREENING_TEST_DATA, default ../shared/data); where those are not,
it simulates an archive and says so. Needs a quiet machine; takes some twenty minutes on two cores, --memory as much again.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.benchmarks import bench_memory, bench_run
from tests.benchmarks.contenders import PROJECT, Failed, environment
from tests.benchmarks.table import Report, machine, show, write_json


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


def by_itself(module: str, arguments: list[str], folder: Path) -> dict[str, object]:
    """Run a benchmark that prints its own table, let it be seen, and return its figures."""
    out = folder / f"{module}.json"
    command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments, "--json", str(out)]
    done = subprocess.run(command, env=environment(), cwd=PROJECT, check=False)
    if done.returncode:
        raise Failed(f"{module} ended with exit code {done.returncode}")
    found: dict[str, object] = json.loads(out.read_text())
    return found
