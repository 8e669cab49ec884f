"""Where Ray runs: on the cluster that was named, on that of the Ray job, or started here and ended afterwards.

A Ray that is started here serves this process alone: all of it listens on the loopback address, asks for a token, and keeps
its sockets, logs and spilled objects in a folder that is closed to other users of the machine.
"""

from __future__ import annotations

import atexit
import ctypes
import logging
import os
import re
import secrets
import signal
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any
from unittest.mock import patch

import ray
from ray._common.utils import get_default_system_temp_dir
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import AuthenticationTokenLoader
from ray._private.node import Node

from screening.errors import Interrupted, UserError
from screening.storage import private_folder
from screening.telemetry import send_nothing
from screening.watch import answers, is_listening, watched

OBJECT_STORE_BYTES = 2**30
"""Of a Ray started here: decoded shards on their way to the scorers, 12 MB each, and little more."""
GONE_LOOKS, GONE_LOOKS_ELSEWHERE = 3, 40
"""Seconds for which Ray's processes must be gone: a cluster's may come back; without them Ray ends us after 60, wordlessly."""


_STARTED_HERE = threading.Event()


def is_ours() -> bool:
    """Whether Ray was started here, for this process alone."""
    return _STARTED_HERE.is_set()


@contextmanager
def cluster(address: str | None, *, ready_with: Sequence[str] = ()) -> Iterator[None]:
    """Join a Ray cluster, or start Ray on this machine and end it afterwards.

    Parameters
    ----------
    address
        As ``ray.init`` takes it; None means the cluster of the Ray job, where this is one, or this machine.
    ready_with
        Modules that the processes of a Ray on this machine import while they wait for work.

    Raises
    ------
    UserError
        The cluster cannot be reached, does not let us in, is of other versions, or has no CPU.
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
    if named:
        _require_somebody(named)
    try:
        with _native_stderr_closed(), _our_sigterm():
            if named:
                ray.init(address=named, **quiet)
            else:
                _start_here(quiet, ready_with)
    except Exception as error:
        said = (str(error).splitlines() or [type(error).__name__])[0]
        # Of a Ray that starts here a wrong setting is a ValueError; what waits in vain for a process that ended is not, and is
        # sometimes a bare Exception.
        if not isinstance(error, (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError)):
            raise Interrupted(f"the processes of {_where(named)} ended while they started") from error
        if not named and not isinstance(error, ValueError):
            raise Interrupted(f"the processes of {_where(named)} did not start, or ended meanwhile: {said}") from error
        raise UserError(_refused(named, error, said)) from error
    ray._private.worker._worker_logs_enabled = False  # it prints a worker's death on standard output, where JSON may go
    with _watched(named) as lost:
        try:
            if not named:
                _STARTED_HERE.set()
            if ray.cluster_resources().get("CPU", 0) < 1:  # a task would wait for ever
                raise UserError(
                    f"{_where(named)} has no CPU to work with; wait until `ray status` shows its workers, or add machines"
                )
            yield
        except KeyboardInterrupt:
            if lost.is_set():
                raise Interrupted(f"the processes of {_where(named)} ended while they were at work") from None
            raise
        finally:
            _STARTED_HERE.clear()
            _end(lost)


def _where(named: str | None) -> str:
    return f"a Ray cluster at {named}" if named else "Ray on this machine"


def _require_somebody(named: str) -> None:
    """Look whether anything answers at all: Ray itself would ask for minutes."""
    if named in ("auto", "local"):
        return
    if "://" in named:
        raise UserError(
            f"{named} is not the address of a Ray cluster as its own machines use it, HOST:6379; from elsewhere submit a job "
            "(`ray job submit --address http://HOST:8265 ... -- python jobs/screen.py`)"
        )
    host, _, port = named.rpartition(":")
    if not host or not port.isdecimal():
        raise UserError(f"the address {named} of a Ray cluster must be HOST:PORT, for example 10.0.0.5:6379")
    if not answers(named):
        raise UserError(
            f"nobody answers at {named}; start the Ray cluster, or mend --address (or RAY_ADDRESS): "
            "the head's host and port, 6379 by default"
        )


def _refused(named: str | None, error: Exception, said: str) -> str:
    """Return a sentence on a Ray that answers and cannot be joined."""
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
    if len(versions) == 2:
        (theirs, their_python), (ours, our_python) = versions
        return (
            f"{_where(named)} runs Ray {theirs} on Python {their_python}, and here is Ray {ours} on Python {our_python}; "
            "both must be the same: install the versions of constraints.txt on every machine"
        )
    if named and isinstance(error, ConnectionError) and str(error).startswith("Failed to connect"):
        return (
            f"{named} answers, and lets nobody in with the token that is (or is not) given here; export RAY_AUTH_MODE=token "
            "and the cluster's token as RAY_AUTH_TOKEN, or its file as RAY_AUTH_TOKEN_PATH, and check that the port is that "
            "of Ray's head"
        )
    mend = (
        "check the address, and start this on a machine of the cluster" if named else "check the variables RAY_... here"
    )
    return f"cannot reach {_where(named)}: {said}; {mend}"


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """Keep the handler of SIGTERM that stands, while Ray starts and for as long as it is there.

    Ray puts in two that end the process without a word: one in Python, and one in its C++ core, which takes its own away when
    it goes, so that SIGTERM kills. The core puts none in that it has in, and takes none away that it has not: so it is made to
    do both before it is due (ray/util/logging.cc). A Ray without these functions only does as it would.
    """
    ours = signal.getsignal(signal.SIGTERM)
    in_main = threading.current_thread() is threading.main_thread()

    def of_core(name: str, *arguments: Any) -> None:
        with suppress(AttributeError):
            getattr(ctypes.CDLL(ray._raylet.__file__), name)(*arguments)
        is_ignored = signal.getsignal(signal.SIGTERM) is signal.SIG_IGN  # the command was interrupted meanwhile
        signal.signal(signal.SIGTERM, signal.SIG_IGN if is_ignored else ours)

    try:
        if in_main:
            of_core("_ZN3ray6RayLog27InstallFailureSignalHandlerEPKcb", None, False)
        yield
    except SystemExit:  # Ray's handler in Python, called in its short reign
        if in_main and callable(ours):
            ours(signal.SIGTERM, None)
        raise
    finally:
        if in_main:
            of_core("_ZN3ray6RayLog21UninstallSignalActionEv")


def _watched(named: str | None) -> AbstractContextManager[threading.Event]:
    """Watch the node's raylet and the cluster's control service: without either nothing goes on."""
    raylet = ray._private.worker._global_node.raylet_socket_name
    control = ray.get_runtime_context().gcs_address
    return watched(
        lambda: not (is_listening(raylet) and answers(control)), looks=GONE_LOOKS_ELSEWHERE if named else GONE_LOOKS
    )


def _end(lost: threading.Event) -> None:
    """Leave Ray; what is left of one that died under us is not asked, because nobody would answer."""
    if not lost.is_set():
        ray.shutdown()
        AuthenticationTokenLoader.instance().reset_cache()  # another cluster has another token
        return
    atexit.unregister(ray._private.worker.shutdown)
    ray._private.worker._global_node.kill_all_processes(check_alive=False)


def _start_here(quiet: dict[str, Any], ready_with: Sequence[str]) -> None:
    """Start Ray on this machine, for this process and its token only."""
    # Ray opens its session to everybody (mode 0777), and spills recordings into it: so it lies in a folder of ours.
    sessions = private_folder(get_default_system_temp_dir())
    # Ray 2.60 turns the address 127.0.0.1, where it is asked for, into that of the network card. On systems on which it
    # supports no clusters it stays on the loopback address, and so it does here for as long as it starts.
    meanwhile = {ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR: "0"}
    if ready_with:
        meanwhile["RAY_preload_python_modules"] = ",".join(ready_with)
        # Ray sets it for a worker's task, which is after what is imported here has counted the machine's cores.
        meanwhile["OMP_NUM_THREADS"] = os.environ.get("OMP_NUM_THREADS", "1")
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
