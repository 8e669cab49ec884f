"""What files that are records by themselves state, read within limits of time and memory.

A small file cannot take long, and is read where it is asked for. A larger one, or one that gzip packed, could keep a scan for
hours (two million empty items of a DICOM sequence), so it is read by a child process, one for each core at most. The child is
``python -m screening.archive.stated``: it reads sizes and the bytes of files, and answers with JSON lines.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import IO, Any

from screening.archive import child, formats
from screening.archive.child import OutOfTime
from screening.archive.facts import Facts
from screening.archive.formats import GZIP

SMALL = 2**18
SECONDS, MEMORY_MB = 30.0, 1024
"""What one file may take. 16 MB of XML take 2 s and 0.8 GB."""


class StatedFacts:
    """Reads what files state; safe to use from several threads. A context manager, because it may have child processes."""

    def __init__(self, *, small: int = SMALL, seconds: float = SECONDS, children: int | None = None) -> None:
        self._small, self._seconds = small, seconds
        self._children: queue.SimpleQueue[subprocess.Popen[bytes] | None] = queue.SimpleQueue()
        self._most = children or os.cpu_count() or 1
        for _number in range(self._most):
            self._children.put(None)  # started when there is something to do

    def __enter__(self) -> StatedFacts:
        return self

    def __exit__(self, *_: object) -> None:
        for _number in range(self._most):
            if (process := self._children.get()) is not None:
                child.end(process)

    def of(self, data: bytes) -> Facts | None:
        """Return what a file states, None where it cannot be understood, or only with more time or memory than it may take."""
        if len(data) <= self._small and not data.startswith(GZIP):
            return formats.facts(data)
        process = self._children.get()
        is_new = process is None
        try:
            process, found = self._ask(process, data)
            if process is None and not is_new and found is None:  # it died of what it had read before, perhaps
                process, found = self._ask(None, data)
        finally:
            self._children.put(process)
        return found

    def _ask(
        self, process: subprocess.Popen[bytes] | None, data: bytes
    ) -> tuple[subprocess.Popen[bytes] | None, Facts | None]:
        """Return the child, None where it had to be ended, and its answer."""
        process = process or child.start("screening.archive.stated", MEMORY_MB)
        assert process.stdin is not None
        assert process.stdout is not None
        pipe = child.Pipe(process.stdout, time.monotonic() + self._seconds)
        # Written beside reading, so that a child that does not read cannot hold us.
        writing = threading.Thread(target=_send, args=(process.stdin, data), daemon=True)
        writing.start()
        try:
            return process, _facts(json.loads(pipe.line()))
        except (OutOfTime, EOFError):
            child.end(process)
            return None, None
        except BaseException:
            child.end(process)
            raise
        finally:
            writing.join()


def _send(pipe: IO[bytes], data: bytes) -> None:
    with suppress(OSError, ValueError):  # the child died, or was ended: its silence tells
        pipe.write(len(data).to_bytes(8, "little"))
        pipe.write(data)
        pipe.flush()


def _facts(answer: dict[str, Any] | None) -> Facts | None:
    if answer is None:
        return None
    at = answer.pop("acquired_at")
    return Facts(acquired_at=None if at is None else datetime.fromisoformat(at), **answer)


# --- In the child ----------------------------------------------------------------------------------------------------


def serve(memory_mb: int, asked: IO[bytes], answers: IO[bytes]) -> None:
    """Read what files state until there are no more."""
    child.begin(memory_mb, answers)
    while size := asked.read(8):
        found = formats.facts(asked.read(int.from_bytes(size, "little")))
        answer = None if found is None else asdict(found)
        answers.write(json.dumps(answer, default=datetime.isoformat).encode() + b"\n")
        answers.flush()


if __name__ == "__main__":
    try:
        serve(int(sys.argv[1]), sys.stdin.buffer, sys.stdout.buffer)
    except MemoryError:
        os._exit(child.NO_MEMORY)
