"""Archives of a wanted size, and the processes that are timed on them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from screening.archive.build import build_catalog

PROJECT = Path(__file__).resolve().parents[2]
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


@dataclass(frozen=True)
class Timed:
    """One finished process."""

    seconds: float
    cpu_seconds: float | None  # of the whole machine, so of all children too; None where /proc/stat is not
    begun: float  # wall clock, to compare with times of files
    stdout: str


class Failed(Exception):
    """A contender did not do its work."""


def environment(threads: int | None = None) -> dict[str, str]:
    """Return the environment of a contender: this project's code, and its own choice of threads unless one is given."""
    env = {key: value for key, value in os.environ.items() if key not in _THREADS}
    env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(PROJECT), env.get("PYTHONPATH")]))
    return env if threads is None else {**env, **dict.fromkeys(_THREADS, str(threads))}


def timed(module: str, arguments: Sequence[str | Path], *, threads: int | None = None) -> Timed:
    """Run ``python -m module`` to its end and time it.

    Raises
    ------
    Failed
        It did not end with exit code 0, or 2, by which `screening run` says that it finished with many rejects.
    """
    command = [sys.executable, "-m", module, *map(str, arguments)]
    begun, start, cpu = time.time(), time.perf_counter(), _cpu_seconds()
    done = subprocess.run(command, env=environment(threads), cwd=PROJECT, capture_output=True, text=True, check=False)
    seconds, cpu_after = time.perf_counter() - start, _cpu_seconds()
    if done.returncode not in (0, 2):
        last = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Failed(f"{module} ended with exit code {done.returncode}: {last}")
    used = None if cpu is None or cpu_after is None else cpu_after - cpu
    return Timed(seconds, used, begun, done.stdout)


def _cpu_seconds() -> float | None:
    """Seconds of all cores in user and system mode since the machine started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    except OSError:
        return None
    user, nice, system = (int(field) for field in fields[1:4])
    return (user + nice + system) / os.sysconf("SC_CLK_TCK")


def archive_of(source: Path, dest: Path, records: int) -> Path:
    """Lay out ``records`` records from those of ``source`` and catalog them by listing; return the archive.

    Folders repeat ``source`` by hard links, or by copies where those cannot be.

    Raises
    ------
    Failed
        There is no WFDB record in ``source``.
    """
    files: dict[Path, list[Path]] = defaultdict(list)
    for file in sorted(source.rglob("*")):
        if file.is_file():
            files[file.with_suffix("")].append(file)
    headers = [file for group in files.values() for file in group if file.suffix == ".hea"]
    if not headers:
        raise Failed(f"there is no WFDB header (*.hea) in {source}; name an archive of WFDB records with --archive")
    archive = dest / f"archive-{records}"
    for index in range(records):
        repeat, which = divmod(index, len(headers))
        header = headers[which]
        folder = archive / f"copy-{repeat:04d}" / header.parent.relative_to(source)
        folder.mkdir(parents=True, exist_ok=True)
        for file in files[header.with_suffix("")]:
            _link(file, folder / file.name)
    build_catalog(str(archive), str(catalog_of(archive)), deidentified=True)
    return archive


def catalog_of(archive: Path) -> Path:
    """Return the folder of the catalog of an archive that `archive_of` made."""
    return archive.with_name(archive.name.replace("archive", "catalog"))


def _link(file: Path, target: Path) -> None:
    try:
        os.link(file, target)
    except OSError:  # another disk, or a file of somebody else
        target.write_bytes(file.read_bytes())
