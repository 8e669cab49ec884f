"""Nothing leaves the machine at run time, and a Ray that is started here listens to this machine and its token alone."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

from tests.conftest import PROJECT
from tests.privacy.conftest import HERE, OUTSIDE

_START = """
import ray, sys, time
from screening.cluster import cluster
with cluster(None):
    @ray.remote
    def environment():
        import os
        return dict(os.environ)
    found = ray.get(environment.remote())
    names = ("RAY_USAGE_STATS_ENABLED", "MLFLOW_DISABLE_TELEMETRY", "DO_NOT_TRACK", "MLFLOW_ALLOW_PICKLE_DESERIALIZATION")
    print(ray.get_runtime_context().gcs_address, *(f"{name}={found[name]}" for name in names), flush=True)
    sys.stdin.read()
"""
_JOIN = "import ray; ray.init(address={address!r}, log_to_driver=False); print('joined', len(ray.nodes()))"


def test_the_watch_sees_who_tries(tmp_path: Path) -> None:
    """What `test_chain` rests on."""
    environment = {**os.environ, "PYTHONPATH": str(HERE / "watched"), "WATCHED": str(tmp_path)}
    tries = f"""
import socket
for ask in (lambda s: s.connect(("{OUTSIDE}", 9)), lambda s: socket.getaddrinfo("example.org", 80)):
    with socket.socket() as s:
        try:
            ask(s)
        except PermissionError:
            print("refused")
"""
    done = subprocess.run([sys.executable, "-c", tries], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["refused", "refused"]
    log = (tmp_path / "network.log").read_text().splitlines()
    assert log[0].startswith(f"socket.connect '{OUTSIDE}'")
    assert log[1].startswith("socket.getaddrinfo 'example.org'")


def test_a_ray_of_our_own_is_for_this_machine_and_its_token_alone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "MLFLOW_"))}
    clean |= {"HOME": str(home), "PYTHONPATH": str(PROJECT), "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", _START], env=clean, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as started:
        assert started.stdin
        assert started.stdout
        address, *set_for_workers = started.stdout.readline().split()
        assert set_for_workers == [
            "RAY_USAGE_STATS_ENABLED=0",
            "MLFLOW_DISABLE_TELEMETRY=true",
            "DO_NOT_TRACK=true",
            "MLFLOW_ALLOW_PICKLE_DESERIALIZATION=false",
        ]
        processes = [psutil.Process(started.pid), *psutil.Process(started.pid).children(recursive=True)]
        names = {process.name() for process in processes}
        assert {"gcs_server", "raylet"} <= names
        listening = [
            (process.name(), found.laddr.ip)
            for process in processes
            for found in process.net_connections("inet")
            if found.status == psutil.CONN_LISTEN or (found.type == 2 and not found.raddr)
        ]
        assert len(listening) > 6
        assert {ip for _, ip in listening} <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, listening

        (token,) = {
            process.environ()["RAY_AUTH_TOKEN"] for process in processes[1:] if "RAY_AUTH_TOKEN" in process.environ()
        }
        assert all(token not in " ".join(process.cmdline()) for process in processes)
        assert list(home.rglob("auth_token")) == []  # Ray's own would be there, readable by everybody
        quick = {"RAY_gcs_rpc_server_connect_timeout_s": "1", "RAY_NUM_REDIS_GET_RETRIES": "1"}
        clients = {
            what: subprocess.Popen(
                [sys.executable, "-c", _JOIN.format(address=address)],
                env={**clean, **quick, **way},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for what, way in {
                "right": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token},
                "wrong": {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0" * 64},
                "none": {"RAY_AUTH_MODE": "disabled"},
            }.items()
        }
        begun = time.monotonic()
        said = {what: client.communicate(timeout=120)[0] for what, client in clients.items()}
        print(time.monotonic() - begun)
        assert "joined 1" in said["right"]
        for what in ("wrong", "none"):
            assert clients[what].returncode != 0
            assert "joined" not in said[what]
            assert "token" in said[what].lower()
        started.stdin.close()
    assert started.returncode == 0
