"""Child processes that do one thing within limits of time and memory: how they are started, spoken with and ended.

A child reads JSON lines with bytes behind them and answers in the same way: nothing is pickled, and what it says is only looked
at, never run.
"""

from __future__ import annotations

import fcntl
import os
import resource
import select
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import IO

from screening.errors import StorageError

NO_MEMORY = 77
"""Exit status of a child that ran out of memory."""
_PIPE_BYTES = 2**20
_LINE_BYTES = 2**16
_START_S = 60
"""A child may take this long to start on a busy machine."""


class OutOfTime(BaseException):
    """Something took too long. No Exception, so that no decoder takes it for a fault of the bytes."""


class Pipe:
    """Reads from a pipe until a moment of the monotonic clock."""

    def __init__(self, pipe: IO[bytes], until: float) -> None:
        self._descriptor, self.until, self._held = pipe.fileno(), until, bytearray()

    def line(self) -> bytes:
        """Return what comes up to the next end of a line; ValueError where none comes."""
        while b"\n" not in self._held:
            if len(self._held) > _LINE_BYTES:
                raise ValueError("a line without end")
            self._more()
        line, _, rest = bytes(self._held).partition(b"\n")
        self._held = bytearray(rest)
        return line

    def take(self, size: int) -> bytes:
        """Return the next ``size`` bytes."""
        while len(self._held) < size:
            self._more()
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def _more(self) -> None:
        left = self.until - time.monotonic()
        if left < 0 or not select.select([self._descriptor], [], [], left)[0]:
            raise OutOfTime
        data = os.read(self._descriptor, 2**20)
        if not data:
            raise EOFError
        self._held += data


def start(module: str, memory_mb: int) -> subprocess.Popen[bytes]:
    """Start ``python -m module memory_mb`` and wait until it says that it is ready; StorageError where it does not."""
    # One thread each: threads of linear algebra libraries take address space, which is limited, and are of no use here.
    threads = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}
    child = subprocess.Popen(
        [sys.executable, "-m", module, str(memory_mb)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    assert child.stdin is not None
    assert child.stdout is not None
    if sys.platform == "linux":  # so that a recording goes through at once, and not by sixteen changes of process
        with suppress(OSError):
            for pipe in (child.stdin, child.stdout):
                fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    try:
        Pipe(child.stdout, time.monotonic() + _START_S).line()
    except (EOFError, OutOfTime):
        end(child)
        raise StorageError("a process that reads within limits could not be started") from None
    except BaseException:
        end(child)
        raise
    return child


def end(child: subprocess.Popen[bytes]) -> None:
    """End a child, whatever it is in."""
    child.kill()
    child.wait()
    for pipe in (child.stdin, child.stdout):
        if pipe is not None:
            with suppress(OSError):
                pipe.close()


def address_space() -> int | None:
    """Return the bytes of address space in use; None where it is not known: only Linux says it, and heeds its limit."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except FileNotFoundError:
        return None


# --- In the child ----------------------------------------------------------------------------------------------------


def run(serve: Callable[[IO[bytes], IO[bytes]], None]) -> None:
    """Say that this process is ready, and serve what is asked; take no more than the memory named, and leave none behind."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what a crash leaves would hold a patient's ECG
    if (in_use := address_space()) is not None:
        resource.setrlimit(resource.RLIMIT_AS, (in_use + int(sys.argv[1]) * 2**20,) * 2)
    answers = sys.stdout.buffer
    answers.write(b"ready\n")
    answers.flush()
    try:
        serve(sys.stdin.buffer, answers)
    except MemoryError:
        os._exit(NO_MEMORY)
