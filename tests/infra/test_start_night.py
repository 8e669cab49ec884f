"""The starter of nights on Kubernetes, against a server that answers over TLS as Kubernetes' API does."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from ssl import PROTOCOL_TLS_SERVER, SSLContext
from threading import Thread
from types import ModuleType
from typing import Any
from urllib.error import HTTPError, URLError

import jsonschema
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from screening.nightly.book import evening_of
from tests.conftest import PROJECT
from tests.infra.kuberay import SCHEMAS
from tests.infra.kustomize import build

FOLDER = PROJECT / "infra" / "kubernetes"
TOKEN = "t0ken"


class Kubernetes(ThreadingHTTPServer):
    """Keeps RayJobs, and lets those that run come to an end as told."""

    jobs: dict[str, dict[str, Any]]
    ends: list[dict[str, str]]  # how the next ones end
    broken: int = 0

    def seen(self, name: str) -> dict[str, Any]:
        """Return a RayJob, and let it go a step further."""
        job = self.jobs[name]
        if not job["spec"]["suspend"]:
            steps = ["New", "Initializing", "Running", "Running"]
            job["looks"] = job.get("looks", -1) + 1
            if job["looks"] < len(steps):
                job["status"] = {"jobDeploymentStatus": steps[job["looks"]], "jobStatus": "RUNNING"}
            elif job["looks"] == len(steps):
                job["status"] = self.ends.pop(0)
        return job


class Handler(BaseHTTPRequestHandler):
    server: Kubernetes

    def _answer(self, code: int, body: Any = None) -> None:
        self.send_response(code)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def do_GET(self) -> None:
        name = self.path.removeprefix("/apis/ray.io/v1/namespaces/screening/rayjobs/")
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            return self._answer(401)
        if self.server.broken:
            return self._answer(500)
        return self._answer(200, self.server.seen(name)) if name in self.server.jobs else self._answer(404)

    def do_POST(self) -> None:
        assert self.path == "/apis/ray.io/v1/namespaces/screening/rayjobs"
        job = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        jsonschema.validate(job, SCHEMAS["RayJob"])
        if job["metadata"]["name"] in self.server.jobs:
            return self._answer(409)
        self.server.jobs[job["metadata"]["name"]] = job
        return self._answer(201, job)

    def log_message(self, *_: object) -> None:
        pass


def certificate(folder: Path) -> Path:
    """Write a key and its certificate for 127.0.0.1 into one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / "ca.crt"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    return path


@pytest.fixture
def kubernetes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Kubernetes]:
    server = Kubernetes(("127.0.0.1", 0), Handler)
    context = SSLContext(PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(tmp_path))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    (tmp_path / "token").write_text(TOKEN + "\n")
    (pattern,) = [doc for doc in build(FOLDER / "cpu") if doc["kind"] == "RayJob"]
    server.jobs, server.ends = {"nightly": pattern}, []
    for name, value in {
        "KUBERNETES_SERVICE_HOST": "127.0.0.1",
        "KUBERNETES_SERVICE_PORT_HTTPS": str(server.server_port),
        "NAMESPACE": "screening",
        "JOB_NAME": "night-29401234",
        "JOB_UID": "8f1c",
    }.items():
        monkeypatch.setenv(name, value)
    thread = Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("start_night", FOLDER / "base" / "start_night.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.ACCOUNT, module.LOOK_EVERY_S = tmp_path, 0.01
    monkeypatch.setattr(sys, "argv", ["start_night.py", "nightly"])
    return module


DONE = {"jobDeploymentStatus": "Complete", "jobStatus": "SUCCEEDED"}


def failed(code: int) -> dict[str, str]:
    message = f"Job entrypoint command failed with exit code {code}, last available logs (truncated):\npatient"
    return {"jobDeploymentStatus": "Failed", "jobStatus": "FAILED", "reason": "AppFailed", "message": message}


LOST = {"jobDeploymentStatus": "Failed", "jobStatus": "", "reason": "SubmissionFailed"}


@pytest.mark.parametrize(
    ("ends", "code", "attempts"),
    [
        ([DONE], 0, 1),
        ([failed(3), DONE], 0, 2),  # interrupted: goes on where it stopped
        ([LOST, DONE], 0, 2),  # no job at all: the cluster did not come up
        ([failed(2)], 2, 1),  # done, with something to look at
        ([failed(1)], 2, 1),
        ([failed(3), failed(3), failed(3)], 2, 3),
    ],
)
def test_a_night(
    ends: list[dict[str, str]],
    code: int,
    attempts: int,
    kubernetes: Kubernetes,
    start: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kubernetes.ends = list(ends)
    assert start.main() == code
    assert list(kubernetes.jobs) == ["nightly", *(f"night-29401234-{n + 1}" for n in range(attempts))]
    first = kubernetes.jobs["night-29401234-1"]
    pattern = kubernetes.jobs["nightly"]["spec"]
    entrypoint = "screening nightly --settings /etc/screening/nightly.yaml --date 2025-11-25"
    assert first["spec"] == {**pattern, "suspend": False, "entrypoint": entrypoint}
    assert {job["spec"]["entrypoint"] for name, job in kubernetes.jobs.items() if name != "nightly"} == {entrypoint}
    assert first["metadata"]["ownerReferences"][0]["uid"] == "8f1c"
    said = capsys.readouterr().out
    assert "night-29401234-1: started" in said
    assert "patient" not in said  # what a job's log says stays there


@pytest.mark.parametrize("hour", range(0, 48, 3))
def test_a_night_has_the_name_that_the_command_gives_it(hour: int, start: ModuleType) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC) + timedelta(hours=hour)
    scheduled = int(datetime(2026, 11, 22, 22, 30, tzinfo=UTC).timestamp()) // 60
    assert start.evening_of("first-night", now) == evening_of(now)
    assert start.evening_of(f"night-{scheduled}", now) == date(2026, 11, 22)  # however late an attempt begins


def test_a_pod_that_takes_over_waits_for_the_night_that_runs(kubernetes: Kubernetes, start: ModuleType) -> None:
    pattern = kubernetes.jobs["nightly"]
    running = {**pattern, "metadata": {"name": "night-29401234-1"}, "spec": {**pattern["spec"], "suspend": False}}
    kubernetes.jobs["night-29401234-1"] = running
    kubernetes.ends = [DONE]
    assert start.main() == 0
    assert len(kubernetes.jobs) == 2


def test_no_pattern(kubernetes: Kubernetes, start: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    kubernetes.jobs.clear()
    assert start.main() == 2
    assert "there is no RayJob nightly to go by; apply infra/kubernetes again" in capsys.readouterr().out


def test_what_is_the_starters_own_trouble_is_not_the_nights(
    kubernetes: Kubernetes, start: ModuleType, tmp_path: Path
) -> None:
    """It ends with a traceback, whose exit code is 1, and the Job starts another pod."""
    kubernetes.broken = 1
    with pytest.raises(HTTPError, match="500"):
        start.main()
    kubernetes.broken = 0
    (tmp_path / "token").write_text("another")
    with pytest.raises(HTTPError, match="401"):
        start.main()
    (tmp_path / "other").mkdir()
    (tmp_path / "ca.crt").write_bytes(certificate(tmp_path / "other").read_bytes())
    with pytest.raises(URLError, match="CERTIFICATE_VERIFY_FAILED"):
        start.main()
