"""What files that are records by themselves state, read within limits of time and memory.

A small file cannot take long, and is read where it is asked for. A larger one, or one that gzip packed, could keep a scan for
hours (two million empty items of a DICOM sequence), so it is read by a child process, one for each core at most. The child is
``python -m screening.archive.stated``: it reads lengths and the bytes of files, and answers in the same way, in JSON.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from typing import IO, Any

from screening.archive import child, formats
from screening.archive.child import OutOfTime
from screening.archive.facts import Facts
from screening.archive.formats import GZIP

_Stated = tuple[Facts, dict[str, int]]
"""What a file states, and what of it was left out."""
_SIZE = 8
"""Bytes in which the length of what follows is said."""
_MOST_SAID = 2**26
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

    def of(self, data: bytes, unreadable: Counter[str]) -> Facts | None:
        """Return what a file states, None where it cannot be understood, or only with more time or memory than it may take.

        What of it is too long to be what it is said to be is left out, and counted in ``unreadable``.
        """
        if len(data) <= self._small and not data.startswith(GZIP):
            found = formats.facts(data)
            return None if found is None else found.bounded(unreadable)
        facts, counts = self._by_child(data) or (None, {})
        unreadable.update(counts)
        return facts

    def _by_child(self, data: bytes) -> _Stated | None:
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
    ) -> tuple[subprocess.Popen[bytes] | None, _Stated | None]:
        """Return the child, None where it had to be ended, and its answer."""
        process = process or child.start("screening.archive.stated", MEMORY_MB)
        assert process.stdin is not None
        assert process.stdout is not None
        pipe = child.Pipe(process.stdout, time.monotonic() + self._seconds)
        # Written beside reading, so that a child that does not read cannot hold us.
        writing = threading.Thread(target=_send, args=(process.stdin, data), daemon=True)
        writing.start()
        try:
            size = int.from_bytes(pipe.take(_SIZE), "little")
            return process, _read(json.loads(pipe.take(min(size, _MOST_SAID))))
        except (OutOfTime, EOFError, ValueError, TypeError, KeyError):
            child.end(process)
            return None, None
        except BaseException:
            child.end(process)
            raise
        finally:
            writing.join()


def _send(pipe: IO[bytes], data: bytes) -> None:
    with suppress(OSError, ValueError):  # the child died, or was ended: its silence tells
        pipe.write(len(data).to_bytes(_SIZE, "little"))
        pipe.write(data)
        pipe.flush()


def _read(answer: dict[str, Any]) -> _Stated | None:
    facts = answer["facts"]
    if facts is None:
        return None
    at = facts.pop("acquired_at")
    return Facts(acquired_at=None if at is None else datetime.fromisoformat(at), **facts), answer["unreadable"]


# --- In the child ----------------------------------------------------------------------------------------------------


def serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """Read what files state until there are no more."""
    while size := asked.read(_SIZE):
        found, unreadable = formats.facts(asked.read(int.from_bytes(size, "little"))), Counter[str]()
        stated = None if found is None else asdict(found.bounded(unreadable))
        answer = json.dumps({"facts": stated, "unreadable": unreadable}, default=datetime.isoformat).encode()
        answers.write(len(answer).to_bytes(_SIZE, "little"))
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    child.run(serve)
