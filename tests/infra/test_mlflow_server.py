"""The command by which infra/kubernetes starts MLflow's server, started here: who is let in, and by which name."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from http.client import HTTPConnection
from pathlib import Path

import psutil

from tests.conftest import PROJECT
from tests.infra.kustomize import build
from tests.jobs.test_submit import free_port


def test_the_server_starts_and_answers_to_its_names_only(tmp_path: Path) -> None:
    (server,) = [doc for doc in build(PROJECT / "infra" / "kubernetes" / "cpu") if doc["kind"] == "Deployment"]
    (container,) = server["spec"]["template"]["spec"]["containers"]
    (header,) = container["readinessProbe"]["httpGet"]["httpHeaders"]
    port = free_port()
    changed = {"--host=0.0.0.0": "--host=127.0.0.1", "--port=5000": f"--port={port}"}
    command = [changed.get(each, each).replace("/var/lib/mlflow", str(tmp_path)) for each in container["command"]]
    assert command[0] == "mlflow"
    assert set(changed) <= set(container["command"])
    (tmp_path / "tmp").mkdir()
    environment = {**os.environ, "HOME": str(tmp_path / "tmp"), "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    log = (tmp_path / "log").open("w")
    process = subprocess.Popen(command, env=environment, cwd=tmp_path / "tmp", stdout=log, stderr=log)

    def status(path: str, host: str) -> int:
        try:
            connection = HTTPConnection("127.0.0.1", port, timeout=10)
            connection.request("GET", path, headers={"Host": host})
            code = connection.getresponse().status
            connection.close()
            return code
        except OSError:
            return 0

    try:
        probe = container["readinessProbe"]["httpGet"]
        deadline = time.monotonic() + 120
        while status(probe["path"], header["value"]) != 200:
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.5)
        search = "/api/2.0/mlflow/registered-models/search"
        assert [status(search, host) for host in ("mlflow:5000", "mlflow.screening:5000", "evil.example")] == [
            200,
            200,
            403,
        ]
        assert (tmp_path / "mlflow.db").exists()
    finally:
        for each in [*psutil.Process(process.pid).children(recursive=True), process]:
            each.kill()
        process.wait(60)
        log.close()
