"""Records that hang, crash or eat their decoder's memory cost one row each; the run ends as any other."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from screening.archive.build import build_catalog
from screening.run.ledger import read_manifest
from screening.run.read import iter_results
from screening.storage import Folder
from tests.bundles import make_bundle

HOSTILE = """
import os, signal, time
from screening.archive import wfdb

def decode(record_id, header, files, real=wfdb.decode):
    if b"# SLEEP" in header:
        time.sleep(3600)
    if b"# SPIN" in header:  # as a loop in C does, it hears no alarm
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGALRM})
        while True:
            pass
    if b"# EAT" in header:
        if not os.environ.get("RAY_JOB_ID") or "isolated" in " ".join(open("/proc/self/cmdline").read().split(chr(0))):
            held = [bytearray(2**24) for _ in range(2**16)]
        os.kill(os.getpid(), signal.SIGKILL)  # the kernel, where memory is short
    return real(record_id, header, files)

wfdb.decode = decode
"""


def test_hostile_records_are_rows_and_everything_else_is_scored(ptbxl: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(ptbxl, archive)
    headers = sorted(archive.rglob("*_hr.hea"))
    for at, comment in ((3, "# SLEEP\n"), (20, "# SPIN\n"), (41, "# EAT\n")):
        with headers[at].open("a") as header:
            header.write(comment)
    build_catalog(str(archive), str(tmp_path / "catalog"), deidentified=True)
    (tmp_path / "hostile").mkdir()
    (tmp_path / "hostile" / "sitecustomize.py").write_text(HOSTILE)
    settings = tmp_path / "settings.yaml"
    settings.write_text("record_seconds: 2\nrecord_memory_mb: 256\nshard_records: 8\nattribution: none\n")
    bundle = make_bundle(tmp_path / "bundle", threshold=0.35)
    command = [sys.executable, "-m", "screening", "run", "--catalog", tmp_path / "catalog", "--out", tmp_path / "runs"]
    path = os.pathsep.join([str(tmp_path / "hostile"), os.environ.get("PYTHONPATH", ""), os.getcwd()])
    done = subprocess.run(
        [*command, "--model", bundle.path, "--config", settings, "--json"],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    run = Folder(json.loads(done.stdout)["url"])
    rows = [row for table in iter_results(run, columns=["reason", "detail"]) for row in table.to_pylist()]
    assert {(row["reason"], row["detail"]) for row in rows if row["reason"]} == {
        ("too_large", "decoding takes more than 2 s"),
        ("too_large", "decoding takes more than 256 MB of memory"),
    }
    assert (len(rows), sum(row["reason"] is None for row in rows)) == (64, 61)
    assert not run.exists("begun")
    assert (read_manifest(run) or {})["counts"]["reasons"] == {"too_large": 3}
