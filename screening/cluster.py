"""Where Ray runs: on the cluster that was named, on that of the Ray job, or started here and ended afterwards.

A Ray that is started here serves this process alone: all of it listens on the loopback address, asks for a token, and keeps
its sockets, logs and spilled objects in a folder that is closed to other users of the machine.
"""

from __future__ import annotations

import atexit
import logging
import os
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any
from unittest.mock import patch

import ray
import ray.data
from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader
from ray._private.node import Node
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution.interfaces import ExecutionResources

from screening.errors import Interrupted, UserError
from screening.storage import forbid_pickled_columns, private_folder
from screening.telemetry import send_nothing
from screening.watch import answers, is_listening, watched

forbid_pickled_columns()

OBJECT_STORE_BYTES = 2**30
"""Of a Ray started here: decoded shards on their way to the scorers, 12 MB each, and little more."""
GONE_LOOKS, GONE_LOOKS_ELSEWHERE = 3, 40
"""Seconds for which Ray's processes must be gone: a cluster's may come back; without them Ray ends us after 60, wordlessly."""


@contextmanager
def cluster(address: str | None) -> Iterator[None]:
    """Join a Ray cluster, or start Ray on this machine and end it afterwards.

    Parameters
    ----------
    address
        As ``ray.init`` takes it; None means the cluster of the Ray job, where this is one, or this machine.

    Raises
    ------
    UserError
        The cluster cannot be reached.
    Interrupted
        Ray's own processes ended while the block ran.
    """
    if ray.is_initialized():
        yield
        return
    send_nothing()
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its errors come to us as exceptions
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")  # those of Ray's own helpers, which are printed otherwise
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    named = address or os.environ.get("RAY_ADDRESS")
    try:
        with _native_stderr_closed(), _our_sigterm():
            if named:
                ray.init(address=named, **quiet)
            else:
                _start_here(quiet)
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        # Of a Ray that starts here a wrong setting is a ValueError; what waits in vain for a process that ended is not, and is
        # sometimes a bare Exception.
        if not isinstance(error, (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError)):
            raise Interrupted(f"the processes of {_where(named)} ended while they started") from error
        if not named and not isinstance(error, ValueError):
            raise Interrupted(f"the processes of {_where(named)} did not start, or ended meanwhile: {said}") from error
        raise UserError(
            f"cannot reach {_where(named)}: {said}; "
            "check the address, and export RAY_AUTH_MODE=token where the cluster asks for a token"
        ) from error
    ray._private.worker._worker_logs_enabled = False  # it prints a worker's death on standard output, where JSON may go
    with _watched(named) as lost, nullcontext() if named else _without_helpers_of_ray_data():
        try:
            yield
        except KeyboardInterrupt:
            if lost.is_set():
                raise Interrupted(f"the processes of {_where(named)} ended while they were at work") from None
            raise
        finally:
            _end(lost)


def _where(named: str | None) -> str:
    return f"a Ray cluster at {named}" if named else "Ray on this machine"


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM that stands: Ray, where it starts, puts in one that exits without a word."""
    ours = signal.getsignal(signal.SIGTERM)
    in_main = threading.current_thread() is threading.main_thread()
    try:
        yield
    except SystemExit:  # Ray's handler, called in its short reign
        if in_main and callable(ours):
            ours(signal.SIGTERM, None)
        raise
    finally:
        if in_main and signal.getsignal(signal.SIGTERM) is not signal.SIG_IGN:
            signal.signal(signal.SIGTERM, ours)


def _watched(named: str | None) -> AbstractContextManager[threading.Event]:
    """Watch the node's raylet and the cluster's control service: without either nothing goes on."""
    raylet = ray._private.worker._global_node.raylet_socket_name
    control = ray.get_runtime_context().gcs_address
    return watched(
        lambda: not (is_listening(raylet) and answers(control)), looks=GONE_LOOKS_ELSEWHERE if named else GONE_LOOKS
    )


class _Alone(ClusterAutoscaler):
    """What Ray Data is told of a Ray that is this machine: it has what it has."""

    def try_trigger_scaling(self) -> None:
        """Do nothing."""

    def on_executor_shutdown(self) -> None:
        """Do nothing."""

    def get_total_resources(self) -> ExecutionResources:
        """Return all there is."""
        return ExecutionResources.from_resource_dict(ray.cluster_resources())


class _Nobody:
    """Takes Ray Data's statistics, which have no reader here, in the place of an actor."""

    def __getattr__(self, name: str) -> _Nobody:
        return self

    def remote(self, *_: object) -> None:
        """Do nothing."""


@contextmanager
def _without_helpers_of_ray_data() -> Iterator[None]:
    """Keep Ray Data from starting actors for statistics and for more machines: seconds, for which the first shard waits."""
    with (
        patch("ray.data._internal.stats.get_or_create_stats_actor", _Nobody),
        patch("ray.data.dataset._StatsManager.gen_dataset_id_from_stats_actor", lambda: secrets.token_hex(16)),
        patch("ray.data._internal.execution.streaming_executor.create_cluster_autoscaler", lambda *_, **__: _Alone()),
    ):
        yield


def _end(lost: threading.Event) -> None:
    """Leave Ray; what is left of one that died under us is not asked, because nobody would answer."""
    if not lost.is_set():
        ray.shutdown()
        AuthenticationTokenLoader.instance().reset_cache()  # another cluster has another token
        return
    atexit.unregister(ray._private.worker.shutdown)
    ray._private.worker._global_node.kill_all_processes(check_alive=False)


def _start_here(quiet: dict[str, Any]) -> None:
    """Start Ray on this machine, for this process and its token only."""
    # Ray opens its session to everybody (mode 0777), and spills recordings into it: so it lies in a folder of ours.
    sessions = private_folder(get_default_system_temp_dir())
    # Ray 2.60 turns the address 127.0.0.1, where it is asked for, into that of the network card. On systems on which it
    # supports no clusters it stays on the loopback address, and so it does here for as long as it starts.
    meanwhile = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
    if sys.platform == "linux":
        meanwhile["GLOO_SOCKET_IFNAME"] = "lo"  # of the workers of a training, among themselves
    if not {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ):
        # Ray asks for a token by default, but keeps its own for good in a file that other users can read.
        meanwhile["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    with (
        _set(meanwhile),
        patch.object(ray_constants, "ENABLE_RAY_CLUSTER", False),
        # Without a dashboard its process is there for telemetry alone; with that switched off it still asks the metadata
        # services of three clouds, over the network, in which of them it is.
        patch.object(Node, "start_api_server", lambda _node, **_options: None),
        # Nobody reads the logs of workers in the driver's output, no node is added to this one, and nobody asks its agent:
        # three processes less to start, and one that opens no HTTP server.
        patch.object(Node, "start_log_monitor", lambda _node: None),
        patch.object(Node, "start_monitor", lambda _node: None),
        patch.object(ray._private.utils, "get_dashboard_dependency_error", lambda: ImportError("not wanted")),
    ):
        AuthenticationTokenLoader.instance().reset_cache()
        ray.init(
            address="local",
            include_dashboard=False,
            object_store_memory=OBJECT_STORE_BYTES,
            _temp_dir=f"{sessions}/ray",
            **quiet,
        )


@contextmanager
def _set(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for a while; unlike a copy that is restored, it leaves what Ray sets itself."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Keep Ray's C++ core from greeting on standard error that it took the log level above."""
    kept = os.dup(2)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
