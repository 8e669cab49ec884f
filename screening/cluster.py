"""Where Ray runs: on the cluster that was named, on that of the Ray job, or started here and ended afterwards."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import ray

from screening.errors import UserError

OBJECT_STORE_BYTES = 2**30
"""Of a Ray started here: decoded shards on their way to the scorers, 12 MB each, and little more."""


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
    """
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # its errors come to us as exceptions
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    named = address or os.environ.get("RAY_ADDRESS")
    try:
        with _native_stderr_closed():
            if named:
                ray.init(address=named, **quiet)
            else:
                ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **quiet)
    except (ConnectionError, ValueError, RuntimeError, ray.exceptions.RayError) as error:
        where = f"a Ray cluster at {named}" if named else "Ray on this machine"
        raise UserError(
            f"cannot reach {where}: {(str(error).splitlines() or [type(error).__name__])[0]}; "
            "check the address, and export RAY_AUTH_MODE=token where the cluster asks for a token"
        ) from error
    ray._private.worker._worker_logs_enabled = False  # it prints a worker's death on standard output, where JSON may go
    try:
        yield
    finally:
        ray.shutdown()


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
