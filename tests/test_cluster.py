"""How a Ray that cannot be had is told: as something to mend, or as something that ended and may be started again."""

from __future__ import annotations

import os
import re
import socket
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import ray
from ray._private import ray_constants
from ray._private.node import Node

import screening.cluster
from screening.cluster import cluster
from screening.errors import Interrupted, UserError


@pytest.fixture(autouse=True)
def no_ray_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a new process: a Ray that other tests of this one have started would be taken as it is."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)


GONE = "Timed out waiting for file /x/gcs_server_port"


@pytest.mark.parametrize(
    ("address", "raised", "expected", "said"),
    [
        (None, RuntimeError(GONE), Interrupted, f"Ray on this machine did not start, or ended meanwhile: {GONE}"),
        (None, Exception("a bare one"), Interrupted, "the processes of Ray on this machine ended while they started"),
        (None, ValueError("a bad path\nand more"), UserError, "cannot reach Ray on this machine: a bad path; check"),
        (
            "h:1",
            ConnectionError("nobody there\nat all"),
            UserError,
            "cannot reach a Ray cluster at h:1: nobody there; check the address, and start this on a machine of the cluster",
        ),
        ("h:1", RuntimeError(), UserError, "cannot reach a Ray cluster at h:1: RuntimeError; check the address"),
        (
            "h:1",
            ConnectionError("Failed to connect to Ray cluster at h:1"),
            UserError,
            "h:1 answers, and lets nobody in with the token that is (or is not) given here; export RAY_AUTH_MODE=token and "
            "the cluster's token as RAY_AUTH_TOKEN",
        ),
    ],
)
def test_a_ray_that_cannot_be_had(
    address: str | None, raised: Exception, expected: type[Exception], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with (
        patch.object(screening.cluster, "answers", lambda _: True),
        patch.object(ray, "init", side_effect=raised),
        pytest.raises(expected, match=re.escape(said)),
        cluster(address),
    ):
        pass


@pytest.mark.parametrize("how", ["option", "environment"])
def test_nobody_at_the_address(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray itself asks for minutes, and for ever where the port lets nobody in."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and not listening: so nobody else does
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        if how == "environment":
            monkeypatch.setenv("RAY_ADDRESS", address)
        begun = time.monotonic()
        with (
            pytest.raises(UserError, match=f"nobody answers at {address}; start the Ray cluster, or mend --address"),
            cluster(address if how == "option" else None),
        ):
            pass
        assert time.monotonic() - begun < 10


@pytest.mark.parametrize(
    ("address", "said"),
    [
        (
            "http://head:8265",
            "not the address of a Ray cluster as its own machines use it, HOST:6379; from elsewhere submit",
        ),
        (
            "ray://head:10001",
            "not the address of a Ray cluster as its own machines use it, HOST:6379; from elsewhere submit",
        ),
        ("head", "the address head of a Ray cluster must be HOST:PORT, for example 10.0.0.5:6379"),
        ("head:port", "the address head:port of a Ray cluster must be HOST:PORT"),
        ("no-such-host.invalid:6379", "nobody answers at no-such-host.invalid:6379; start the Ray cluster, or mend"),
    ],
)
def test_an_address_that_is_none(address: str, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)), cluster(address):
        pass


def test_a_cluster_without_a_cpu() -> None:
    """As one has whose head leads and whose workers are not there yet: a task would wait for ever."""
    with (
        patch.object(ray, "is_initialized", lambda: False),
        patch.object(ray, "init"),
        patch.object(ray, "cluster_resources", lambda: {"memory": 1e9, "node:__internal_head__": 1.0}),
        patch.object(screening.cluster, "answers", lambda _: True),
        patch.object(screening.cluster, "_watched", lambda _: nullcontext(threading.Event())),
        patch.object(screening.cluster, "_end"),
        pytest.raises(UserError, match="a Ray cluster at h:1 has no CPU to work with; wait until `ray status` shows"),
        cluster("h:1"),
    ):
        pass


@pytest.mark.parametrize("is_lost", [True, False])
def test_a_ray_that_ends_under_the_work_is_told_apart_from_who_presses_ctrl_c(is_lost: bool) -> None:
    """Both interrupt the main thread; of the one it is said that the same command goes on, without anybody's doing."""
    lost = threading.Event()
    expected = (
        (Interrupted, "Ray cluster at h:1 ended while they were at work") if is_lost else (KeyboardInterrupt, "^$")
    )

    def work() -> None:
        if is_lost:
            lost.set()
        raise KeyboardInterrupt

    with (
        patch.object(ray, "init"),
        patch.object(ray, "cluster_resources", lambda: {"CPU": 1.0}),
        patch.object(screening.cluster, "answers", lambda _: True),
        patch.object(screening.cluster, "_watched", lambda _: nullcontext(lost)),
        patch.object(screening.cluster, "_end") as end,
        pytest.raises(expected[0], match=expected[1]),
        cluster("h:1"),
    ):
        work()
    end.assert_called_once_with(lost)


def started_here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> dict[str, Any]:
    """Return with what a Ray of our own would be started: options, environment, and what of Ray is put off meanwhile."""
    for name in [name for name in os.environ if name.startswith(("RAY_", "MLFLOW_", "DO_NOT_TRACK"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    seen: dict[str, Any] = {}

    def init(**options: Any) -> None:
        seen.update(options, environment=dict(os.environ), clusters=ray_constants.ENABLE_RAY_CLUSTER)
        seen["put off"] = [
            getattr(Node, name)(None) for name in ("start_api_server", "start_log_monitor", "start_monitor")
        ]

    with (
        patch.object(ray, "init", init),
        patch.object(ray, "cluster_resources", lambda: {"CPU": 1.0}),
        patch.object(screening.cluster, "AuthenticationTokenLoader"),
        patch.object(screening.cluster, "_watched", lambda _: nullcontext(threading.Event())),
        patch.object(screening.cluster, "_end"),
        cluster(None),
    ):
        pass
    return seen


def test_a_ray_of_our_own_is_started_for_this_process_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What really listens, and who is let in, `tests/privacy/test_network.py` looks at; this is quicker."""
    seen, again = (started_here(monkeypatch, tmp_path) for _ in range(2))
    assert (seen["address"], seen["include_dashboard"], seen["clusters"]) == ("local", False, False)
    assert seen["put off"] == [None, None, None]
    environment = seen["environment"]
    assert re.fullmatch("[0-9a-f]{64}", environment["RAY_AUTH_TOKEN"])
    assert environment["RAY_AUTH_TOKEN"] != again["environment"]["RAY_AUTH_TOKEN"]
    assert "RAY_AUTH_TOKEN" not in os.environ
    assert environment[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] == "0"
    assert (environment["RAY_USAGE_STATS_ENABLED"], environment["MLFLOW_DISABLE_TELEMETRY"]) == ("0", "true")
    assert environment["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] == "false"
    sessions = Path(seen["_temp_dir"]).parent
    assert sessions == tmp_path / f"screening-{os.getuid()}"
    assert sessions.stat().st_mode & 0o777 == 0o700
