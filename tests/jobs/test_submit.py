"""The entry points, started for real by ``ray job submit`` on a head node that the test starts and ends."""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from screening.archive.catalog import build_catalog
from screening.archive.labels import load_rule
from screening.model.bundle import load_bundle
from screening.run.ledger import read_manifest
from screening.run.verify import faults
from screening.signal.simulate import SimulationSettings, write_archive
from screening.storage import Folder
from tests.bundles import make_bundle
from tests.conftest import PROJECT

RAY = str(Path(sys.executable).with_name("ray"))
pytestmark = pytest.mark.timeout(420)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Head:
    url: str
    environment: dict[str, str]

    def submit(self, submission_id: str, *entry: str | Path) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", "submit", "--address", self.url, "--submission-id", submission_id]
        command += ["--working-dir", str(PROJECT / "jobs"), "--", sys.executable, *map(str, entry)]
        deadline = time.monotonic() + 60
        while True:
            done = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=False)
            # The dashboard answers some time before the agent that starts jobs is there.
            if "No available agent" not in done.stdout + done.stderr or time.monotonic() > deadline:
                return done
            time.sleep(1)


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Head]:
    """Start a head node of two CPUs that wants a token, as clusters do."""
    home = tmp_path_factory.mktemp("home")
    token = home / "token"
    token.write_text(secrets.token_hex(32))
    environment = {
        **os.environ,
        "HOME": str(home),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(token),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(PROJECT),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    environment.pop("RAY_ADDRESS", None)
    port, dashboard = free_port(), free_port()
    command = [RAY, "start", "--head", "--port", str(port), "--num-cpus", "2", "--disable-usage-stats", "--block"]
    command += [
        "--dashboard-host",
        "127.0.0.1",
        "--dashboard-port",
        str(dashboard),
        "--ray-client-server-port",
        str(free_port()),
    ]
    command += [
        "--object-store-memory",
        str(2**29),
        "--temp-dir",
        f"/tmp/sr{os.getpid()}",
        "--node-ip-address",
        "127.0.0.1",
    ]
    command += ["--dashboard-agent-listen-port", str(free_port()), "--dashboard-agent-grpc-port", str(free_port())]
    log = (home / "head.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    found = Head(f"http://127.0.0.1:{dashboard}", environment)
    try:
        deadline = time.monotonic() + 120
        while not answers(found.url, token.read_text()):
            assert process.poll() is None, (home / "head.log").read_text()
            assert time.monotonic() < deadline, (home / "head.log").read_text()
            time.sleep(0.5)
        yield found
    finally:
        everything = [*psutil.Process(process.pid).children(recursive=True), process]
        for each in everything:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        process.wait(60)
        log.close()


def answers(url: str, token: str) -> bool:
    request = urllib.request.Request(f"{url}/api/jobs/", headers={"Authorization": f"Bearer {token}"})
    try:
        with urllib.request.urlopen(request, timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    write_archive(str(folder / "archive"), SimulationSettings(records=150, prevalence=0.4, seed=5))
    build_catalog(str(folder / "archive"), str(folder / "catalog"), labels=load_rule("ptbxl-mi"), deidentified=True)
    return folder / "catalog"


def test_screen_as_a_job(head: Head, catalog: Path, tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    entry = (
        "screen.py",
        "--catalog",
        catalog,
        "--out",
        tmp_path / "runs",
        "--model",
        bundle.path,
        "--shard-records",
        "32",
    )
    done = head.submit("screen-2026-11-22", *entry)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "150 records: " in done.stdout
    assert "records/s" in done.stdout  # progress, as plain lines in the job's log
    (run,) = [Folder(str(path.parent)) for path in (tmp_path / "runs").glob("*/manifest.json")]
    assert (read_manifest(run) or {})["counts"]["planned"] == 150
    assert list(faults(run)) == []

    entry_report = ("report.py", "--runs", tmp_path / "runs", "--catalog", catalog, "--out", tmp_path / "report")
    reported = head.submit("report-2026-11-22", *entry_report, "--state", tmp_path / "state")
    assert reported.returncode == 0, reported.stdout + reported.stderr
    assert "Kept in MLflow: run " in reported.stdout
    assert "<svg" in (tmp_path / "report" / "report.html").read_text()
    assert (tmp_path / "report" / "private").stat().st_mode & 0o077 == 0

    again = head.submit("screen-2026-11-22", *entry)
    assert again.returncode != 0  # the id guards against a night that is started twice
    assert "already exists" in again.stdout + again.stderr


@pytest.mark.long
def test_retrain_as_a_job(head: Head, catalog: Path, tmp_path: Path) -> None:
    config = tmp_path / "train.yaml"
    config.write_text(
        "name: tiny\nresamples: 20\nfit: {epochs: 8, batch_size: 16, learning_rate: 0.01}\n"
        "network: {channels: 4, dilations: [1, 2], blocks: 1, projection_channels: 8, embedding: 4}\n"
    )
    entry = ("retrain.py", "--catalog", catalog, "--config", config, "--workers", "1", "--state", tmp_path / "state")
    done = head.submit("retrain-2026-11", *entry, "--out", tmp_path / "bundle", "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    assert load_bundle(tmp_path / "bundle").name == "tiny"
    listed = subprocess.run(
        [sys.executable, "-m", "screening", "models", "--state", str(tmp_path / "state"), "--json"],
        env=head.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (version,) = json.loads(listed.stdout)
    assert (version["name"], version["version"]) == ("tiny", 1)
