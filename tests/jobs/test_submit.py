"""The entry points, started for real by ``ray job submit`` on a head node that the test starts and ends."""

from __future__ import annotations

import json
import os
import re
import secrets
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import ray

from screening.archive.build import build_catalog
from screening.archive.labels import load_rule
from screening.model.bundle import load_bundle
from screening.run.ledger import read_manifest
from screening.run.verify import faults
from screening.signal.simulate import SimulationSettings, write_archive
from screening.storage import Folder
from tests.bundles import make_bundle
from tests.conftest import PROJECT
from tests.privacy import planted_formats
from tests.privacy.left import named, open_to_others
from tests.privacy.planted import SENTINELS
from tests.privacy.search import search

RAY = str(Path(sys.executable).with_name("ray"))
WATCHED = PROJECT / "tests" / "privacy" / "watched"
pytestmark = pytest.mark.timeout(900)


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


@dataclass
class Head:
    url: str
    control: str  # HOST:PORT, as its own machines use it
    environment: dict[str, str]
    sessions: Path
    token: str

    def get(self, path: str) -> bytes:
        """Return what the dashboard answers."""
        request = urllib.request.Request(f"{self.url}/{path}", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as response:
            return bytes(response.read())

    def nodes(self) -> list[dict[str, Any]]:
        """Return what the dashboard knows of the cluster's machines."""
        return list(json.loads(self.get("api/v0/nodes"))["data"]["result"]["result"])

    def submit(
        self, submission_id: str, *entry: str | Path, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        command = [RAY, "job", "submit", "--address", self.url, "--submission-id", submission_id]
        command += ["--runtime-env-json", json.dumps({"env_vars": variables or {}})]
        command += ["--working-dir", str(PROJECT / "jobs"), "--", sys.executable, *map(str, entry)]
        return self._until_an_agent_is_there(command, PROJECT)

    def submit_as_in_the_readme(
        self, folder: Path, *, variables: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Submit the night whose settings lie in ``folder``: the README's command, with address and interpreter put in."""
        (block,) = re.findall(
            r"```\n(ray job submit [^`]*jobs/nightly\.py[^`]*)```", (PROJECT / "README.md").read_text()
        )
        environment = f"ray job submit --runtime-env-json {shlex.quote(json.dumps({'env_vars': variables or {}}))}"
        put_in = {
            "http://HEAD:8265": self.url,
            "python jobs": f"{sys.executable} jobs",
            "ray job submit": environment,
        }
        for said, here in put_in.items():
            assert block.count(said) == 1
            block = block.replace(said, here)
        if not (folder / "jobs").exists():
            shutil.copytree(PROJECT / "jobs", folder / "jobs")
        return self._until_an_agent_is_there(["bash", "-c", block], folder)

    def _until_an_agent_is_there(self, command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
        environment = {**self.environment, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        deadline = time.monotonic() + 60
        while True:
            done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
            # The dashboard answers some time before the agent that starts jobs is there.
            if "No available agent" not in done.stdout + done.stderr or time.monotonic() > deadline:
                return done
            time.sleep(1)

    def listed(self, submission_id: str) -> str:
        """Return what ``ray job list`` shows of a job."""
        command = [RAY, "job", "list", "--address", self.url]
        shown = subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout
        (entry,) = [each for each in shown.split("JobDetails(") if f"'{submission_id}'" in each]
        return entry

    @contextmanager
    def other_versions(self, **versions: str) -> Iterator[None]:
        """Let the cluster say that it is of other versions than it is."""
        change = (
            "import sys; from ray._raylet import GcsClient; from ray._private.ray_constants import KV_NAMESPACE_CLUSTER as n\n"
            "c = GcsClient(address=sys.argv[1]); k = b'CLUSTER_METADATA'; print(c.internal_kv_get(k, n).decode())\n"
            "c.internal_kv_put(k, sys.argv[2].encode(), True, n)"
        )

        def say(metadata: str) -> str:
            command = [sys.executable, "-c", change, self.control, metadata]
            return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout

        before = say("{}")
        say(json.dumps(json.loads(before) | versions))
        try:
            yield
        finally:
            say(before)

    def screening(self, *arguments: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the head, as somebody who is logged in on its machine."""
        command = [sys.executable, "-m", "screening", *map(str, arguments)]
        environment = {**self.environment, **variables}
        return subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)


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
    port, dashboard, sessions = free_port(), free_port(), Path(f"/tmp/sr{os.getpid()}")
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
        str(sessions),
        "--node-ip-address",
        "127.0.0.1",
    ]
    command += ["--dashboard-agent-listen-port", str(free_port()), "--dashboard-agent-grpc-port", str(free_port())]
    log = (home / "head.log").open("w")
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    found = Head(f"http://127.0.0.1:{dashboard}", f"127.0.0.1:{port}", environment, sessions, token.read_text())
    try:
        deadline = time.monotonic() + 120
        while not answers(found):
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


def answers(head: Head) -> bool:
    try:
        return bool(head.get("api/jobs/")) and bool(head.nodes())
    except OSError:
        return False


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated")
    write_archive(str(folder / "archive"), SimulationSettings(records=150, prevalence=0.4, seed=5))
    build_catalog(str(folder / "archive"), str(folder / "catalog"), labels=load_rule("ptbxl-mi"), deidentified=True)
    return folder / "catalog"


@pytest.mark.long  # tests/jobs/test_scrape.py has a shorter one
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
    of_it = head.listed("screen-2026-11-22")
    for name, value in {"run_id": run.url.rpartition("/")[2], "records": "150", "published": "True"}.items():
        assert f"'{name}': '{value}'" in of_it

    again = head.submit("screen-2026-11-22", *entry)
    assert again.returncode != 0  # the id guards against a night that is started twice
    assert "already exists" in again.stdout + again.stderr


def night_settings(folder: Path, catalog: Path, *, report: str = "report") -> Path:
    """Write the settings of a night that keeps all it makes in ``folder``."""
    bundle = make_bundle(folder / "bundle")
    path = folder / "nightly.yaml"
    path.write_text(
        f"archive: {catalog.parent / 'archive'}\ndeidentified: true\nlabels: ptbxl-mi\nmodel: {bundle.path}\n"
        f"catalog: {folder / 'catalog'}\nruns: {folder / 'runs'}\nreport: {folder / report}\n"
        "mlflow: false\nworklist: false\nreporting: {draws: 500}\n"
        "run: {attribution: none, shard_records: 32, workers: 2}\n"
    )
    return path


@pytest.mark.long
def test_a_night_as_a_job_is_the_same_as_at_home_and_a_report_is_made_of_it(
    head: Head, catalog: Path, tmp_path: Path
) -> None:
    """By the README's command, again refused while its id stands."""

    def results(place: str) -> dict[str, bytes]:
        runs = tmp_path / place / "runs"
        return {str(path.relative_to(runs)): path.read_bytes() for path in runs.glob("*/results/*.parquet")}

    asked = head.screening("nightly", "--settings", night_settings(tmp_path / "cluster", catalog), "--id")
    night = asked.stdout.strip()
    assert re.fullmatch(r"\d{4}-\d\d-\d\d-.*-1", night), asked.stderr
    done = head.submit_as_in_the_readme(tmp_path / "cluster")
    assert done.returncode == 0, done.stdout + done.stderr
    shown = head.listed(night)
    assert f"'night': '{night}'" in shown
    assert "'outcome': 'published', 'planned': '150'" in shown
    again = head.submit_as_in_the_readme(tmp_path / "cluster")
    assert "already exists" in again.stdout + again.stderr
    assert again.returncode != 0

    at_home = head.screening("nightly", "--settings", night_settings(tmp_path / "home", catalog), "--date", night[:10])
    assert at_home.returncode == 0, at_home.stderr
    assert len(results("home")) == 5
    assert results("home") == results("cluster")

    # And a report of it, whose environment the one who submits it adds to.
    entry = ("report.py", "--runs", tmp_path / "cluster/runs", "--catalog", tmp_path / "cluster/catalog")
    entry += ("--out", tmp_path / "report")
    reported = head.submit("report-2026-11-22", *entry, variables={"SCREENING_STATE": str(tmp_path / "state")})
    assert reported.returncode == 0, reported.stdout + reported.stderr
    assert "Kept in MLflow: run " in reported.stdout
    assert (tmp_path / "state" / "mlflow").is_dir()  # the runtime environment reached the job
    assert "'records': '150'" in head.listed("report-2026-11-22")
    assert "<svg" in (tmp_path / "report" / "report.html").read_text()
    assert (tmp_path / "report" / "private").stat().st_mode & 0o077 == 0


@pytest.mark.long
def test_a_night_that_fails_makes_way_for_the_next_attempt(head: Head, catalog: Path, tmp_path: Path) -> None:
    """And shows what it had published."""
    settings = night_settings(tmp_path / "fails", catalog, report="nightly.yaml/report")
    fails = ("--settings", settings, "--date", "2026-11-23")
    first = head.screening("nightly", *fails, "--id").stdout.strip()
    assert first.endswith("-1")
    failed = head.submit(first, "nightly.py", *fails, variables={"SCREENING_STATE": str(tmp_path / "state")})
    assert failed.returncode != 0
    shown = head.listed(first)
    assert f"'night': '{first}'" in shown
    assert "'outcome': 'failed', 'planned': '150'" in shown
    assert re.search(r"'run_ids': '[0-9a-f]{16}'", shown)
    second = head.screening("nightly", *fails, "--id").stdout.strip()
    assert second == f"{first.removesuffix('-1')}-2"


SERVED = {
    **{of: f"api/v0/{of}?detail=true&limit=10000" for of in ("tasks", "actors", "workers", "nodes", "objects")},
    **{of: f"api/v0/{of}?detail=true" for of in ("jobs", "placement_groups", "runtime_envs")},
    "summary of tasks": "api/v0/tasks/summarize",
    "summary of actors": "api/v0/actors/summarize",
    "submitted jobs": "api/jobs/",
    "actors shown": "logical/actors",
    "processes": "nodes?view=summary",
    "state": "api/cluster_status",
    "timeline": "api/v0/tasks/timeline",
}
"""What Ray's dashboard shows, and whoever asks the API behind it; logs are files of the session, and searched as such."""


def test_a_night_over_people_leaves_nobody_to_be_found(head: Head, tmp_path: Path, mlflow_uri: str) -> None:
    """Every format but WFDB: catalog, pack, run, report and MLflow on a cluster; then a worker fails, and people ask."""
    archive, left, disturbed = (tmp_path / name for name in ("archive", "left", "disturbed"))
    planted_formats.plant(archive)
    disturbed.mkdir()
    key, settings = tmp_path / "key", tmp_path / "submitted" / "nightly.yaml"
    settings.parent.mkdir()
    key.write_text("the key of these tests, by which nobody is found again")
    key.chmod(0o600)
    bundle = make_bundle(left / "bundle", threshold=0.367)
    settings.write_text(
        f"archive: {archive}\nkey_file: {key}\nmodel: {bundle.path}\ncatalog: {left / 'catalog'}\npacked: {left / 'pack'}\n"
        f"runs: {left / 'runs'}\nreport: {left / 'report'}\nmetrics_file: {left / 'watch' / 'night.prom'}\n"
        f"notify: {{command: [cp, /dev/stdin, {left / 'watch' / 'told.json'}], when: always}}\nreporting: {{draws: 500}}\n"
        "run: {attribution: all, operators: [lead], donors: 2, donor_set: 8, shard_records: 64, workers: 1}\n"
    )
    for name in ("said", "served", "watch"):
        (left / name).mkdir()
    (node,) = head.nodes()
    variables = {"SCREENING_STATE": str(left / "state"), "MLFLOW_TRACKING_URI": mlflow_uri, "WATCHED": str(disturbed)}
    variables |= {"WATCHED_RECORD": planted_formats.UNREADABLE, "WATCHED_HERE": node["node_ip"]}
    variables |= {"PYTHONPATH": f"{WATCHED}:{PROJECT}"}

    def said(name: str, done: subprocess.CompletedProcess[str], code: int) -> str:
        (left / "said" / name).write_text(done.stdout + done.stderr)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    night = head.submit_as_in_the_readme(settings.parent, variables=variables)
    assert re.search(r"rejected +[1-9]\d+ \(", said("night", night, 1))
    for flag in ("fail", "fail-altogether"):
        (disturbed / flag).touch()
    run = ("--catalog", left / "catalog", "--out", left / "runs-disturbed", "--model", bundle.path)
    screened = head.submit("disturbed", "screen.py", *run, "--attribution", "none", variables=variables)
    unfinished = said("disturbed", screened, 1)
    assert re.search(r"unfinished: Ray ended the run: ValueError at storage\.py:\d+ in ", unfinished)
    for name, path in SERVED.items():
        (left / "served" / name).write_bytes(head.get(path))
    tasks = json.loads((left / "served" / "tasks").read_bytes())["data"]["result"]["result"]
    assert any("ValueError at storage.py" in (task["error_message"] or "") for task in tasks)

    (manifest,) = (left / "runs").glob("*/manifest.json")
    rejects = said("failures", head.screening("failures", manifest.parent, "--limit", "1000"), 0)
    for reason in ("bad_header", "checksum_mismatch", "missing_leads", "missing_rate", "missing_units", "undecodable"):
        assert reason in rejects
    rows = pq.read_table(manifest.parent / "results", columns=["record_id", "flagged", "source_format"]).to_pylist()
    flagged = next(row["record_id"] for row in rows if row["flagged"] and row["source_format"] == "dicom")
    of = ("--runs", left / "runs", "--catalog", left / "catalog")
    said("explain", head.screening("explain", flagged, *of, "--out", left / "explained.html"), 0)

    leaks, located = named(left)
    assert leaks == {}
    assert len(located) == 3
    assert search(head.sessions, SENTINELS) == {}
    assert search(tmp_path / "mlflow", SENTINELS) == {}
    wrong, seen = open_to_others(
        left, ("catalog", "pack", "runs", "runs-disturbed", "report", "explained.html", "state")
    )
    assert wrong == {}
    assert seen > 80


def test_what_a_cluster_refuses(head: Head, catalog: Path, tmp_path: Path) -> None:
    """Each is one sentence that says what to do, and leaves nothing behind."""
    bundle = make_bundle(tmp_path / "bundle")
    run = ("run", "--catalog", catalog, "--out", tmp_path / "runs", "--model", bundle.path)
    run += ("--address", head.control, "--attribution", "none")
    for options, said in (
        (("--workers", "4"), "--workers 4 leaves no CPU for reading: this Ray has 2 CPUs, so at most 3"),
        (
            ("--device", "cuda"),
            "device is cuda, but Ray sees no GPU; choose device auto or cpu, or a cluster with GPUs",
        ),
    ):
        refused = head.screening(*run, *options)
        assert (refused.returncode, said in refused.stderr) == (1, True), refused.stderr

    with head.other_versions(ray_version="2.48.0", python_version="3.12.1"):
        refused = head.screening(*run)
    said = (
        f"Error: a Ray cluster at {head.control} runs Ray 2.48.0 on Python 3.12.1, and here is Ray {ray.__version__} on"
    )
    assert (refused.returncode, said in refused.stderr) == (1, True), refused.stderr

    refused = head.screening(*run, RAY_AUTH_TOKEN="0" * 64, RAY_NUM_REDIS_GET_RETRIES="3")
    said = f"Error: {head.control} answers, and lets nobody in with the token that is (or is not) given here; export RAY_AUTH"
    assert (refused.returncode, said in refused.stderr) == (1, True), refused.stderr
    assert refused.stderr.count("Error") == 1
    assert not (tmp_path / "runs").exists()

    stranger = replace(head, environment={**head.environment, "RAY_AUTH_TOKEN": "0" * 64})
    refused = stranger.submit("screen-by-a-stranger", "screen.py", "--help")
    assert refused.returncode != 0
    assert "401" in refused.stdout + refused.stderr or "token" in refused.stdout + refused.stderr


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
    assert "'model': 'tiny', 'version': '1'" in head.listed("retrain-2026-11")
    listed = subprocess.run(
        [sys.executable, "-m", "screening", "models", "--state", str(tmp_path / "state"), "--json"],
        env=head.environment,
        capture_output=True,
        text=True,
        check=True,
    )
    (version,) = json.loads(listed.stdout)
    assert (version["name"], version["version"]) == ("tiny", 1)
