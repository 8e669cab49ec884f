"""An archive to be screened again and again, the command that does it, and what must come of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from screening.archive.build import build_catalog
from screening.signal.simulate import SimulationSettings, write_archive
from tests import corpus
from tests.conftest import PROJECT

SHARD_RECORDS = 8
BROKEN = 24


@dataclass(frozen=True)
class Place:
    """Where a catalog and an archive lie, and how they are screened.

    Parameters
    ----------
    module
        What is run in place of ``screening``.
    """

    folder: Path
    records: int
    options: tuple[str, ...] = ()
    environment: dict[str, str] = field(default_factory=dict)
    module: str = "screening"

    @property
    def env(self) -> dict[str, str]:
        """The environment of every command; nothing of this user's own."""
        own = {"OMP_NUM_THREADS": "1", "SCREENING_STATE": str(self.folder / "state"), "PYTHONPATH": str(PROJECT)}
        return {**os.environ, **own, **self.environment}

    def command(self, runs: Path | str, *more: str) -> list[str]:
        """Return the command that screens the archive into ``runs``, and goes on where it stopped."""
        command = [
            sys.executable,
            "-m",
            self.module,
            "run",
            "--catalog",
            str(self.folder / "catalog"),
            "--out",
            str(runs),
        ]
        return [*command, "--shard-records", str(SHARD_RECORDS), "--reject-limit", "0.5", *self.options, *more]

    def screen(self, runs: Path, *more: str, timeout: float = 300) -> subprocess.CompletedProcess[str]:
        """Run that command to its end."""
        return subprocess.run(
            self.command(runs, *more), env=self.env, capture_output=True, text=True, check=False, timeout=timeout
        )


def make_place(folder: Path, records: int, *options: str) -> Place:
    """Make an archive of ``records`` records and its catalog in ``folder``.

    PTB-XL's recordings where they are at hand, simulated ones elsewhere, and broken ones of `tests.corpus` among them.
    """
    archive, good = folder / "archive", records - BROKEN
    shared = PROJECT / os.environ.get("SCREENING_TEST_DATA", "../shared/data") / "ptbxl" / "unpack.py"
    if shared.is_file():
        subprocess.run(
            [sys.executable, shared, folder / "whole", "--limit", str(good)], check=True, capture_output=True
        )
        shutil.copytree(folder / "whole" / "records500", archive / "good")
        shutil.rmtree(folder / "whole")
    else:
        write_archive(str(archive / "good"), SimulationSettings(records=good, prevalence=0.3, seed=4))
        for table in (archive / "good").glob("*.csv"):
            table.unlink()
        (archive / "good" / "RECORDS").unlink()
    cases = [case for case in corpus.broken_cases() if sum(name.endswith(".hea") for name in case.files) == 1]
    chosen = cases[:: len(cases) // BROKEN][:BROKEN]
    for at, case in enumerate(chosen):  # spread, so that they are among the good ones
        place = sorted((archive / "good").rglob("*.hea"))[at * good // BROKEN].parent / f"broken{at:02d}"
        for name, data in case.files.items():
            target = place / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(data)
    summary = build_catalog(str(archive), str(folder / "catalog"), deidentified=True)
    return Place(folder, summary.records, options)


# --- What must come of it ---------------------------------------------------------------------------------------------


def run_in(runs: Path) -> Path:
    """Return the folder of the one run in ``runs``."""
    (run,) = [path.parent for path in runs.glob("*/plan.json")]
    return run


def results_of(runs: Path) -> dict[str, str]:
    """Return the SHA-256 of every file that a run's results are made of, by name below ``runs``."""
    run = run_in(runs)
    files = [*(run / "results").rglob("*"), *(run / "plan").rglob("*"), run / "plan.json"]
    return {str(path.relative_to(runs)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@dataclass(frozen=True)
class Finding:
    """What is wrong with a run that faults befell."""

    lost: int  # records of the catalog without a row
    duplicates: int  # rows beyond a record's first
    wrong: tuple[str, ...]  # a sentence for everything else


def compare(place: Place, runs: Path, undisturbed: Path, *, sample: int = 4) -> Finding:
    """Compare a finished run with an undisturbed one, file by file, with its catalog, and by ``screening verify``."""
    run, wrong = run_in(runs), []
    expected, found = results_of(undisturbed), results_of(runs)
    for name in sorted(expected.keys() | found.keys()):
        if expected.get(name) != found.get(name):
            state = "is missing" if name not in found else "is too many" if name not in expected else "has other bytes"
            wrong.append(f"{name} {state}")
    wrong += [f"{path.relative_to(runs)} was left behind" for path in leftovers(runs)]
    manifest = json.loads((run / "manifest.json").read_text())
    published = json.loads((run_in(undisturbed) / "manifest.json").read_text())
    wrong += [
        f"manifest.json has other {key}" for key in ("counts", "files", "plan") if manifest[key] != published[key]
    ]
    planned = pq.read_table(place.folder / "catalog" / "catalog.parquet")["record_id"].to_pylist()
    rows: Counter[Any] = Counter()
    for file in sorted((run / "results").glob("*.parquet")):
        rows.update(pq.ParquetFile(file).read(columns=["record_id"])["record_id"].to_pylist())
    verified = subprocess.run(
        [sys.executable, "-m", "screening", "verify", str(run), "--sample", str(sample), "--json"],
        env=place.env,
        capture_output=True,
        text=True,
        check=False,
    )
    if verified.returncode:
        wrong.append(f"screening verify: {verified.stdout[-500:]}{verified.stderr[-500:]}")
    lost = sum(name not in rows for name in planned)
    return Finding(lost, rows.total() - (len(planned) - lost), tuple(wrong))


def leftovers(runs: Path) -> list[Path]:
    """Return what should not be there once a run has ended: temporary files, marks, a lease that was not given back."""
    left = list(runs.glob("*/begun"))
    for held in runs.glob("*/lease"):
        left += [path for path in sorted(held.glob("*.json"))[-1:] if not path.with_suffix(".released").exists()]
    return [*left, *(path for path in runs.rglob("*") if path.name.startswith(".") or path.name.endswith(".tmp"))]
