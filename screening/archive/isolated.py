"""Decoding within limits of time and memory: in this process, or in a child process.

A decoder that hangs or eats memory must cost one record and not the worker. In the process itself a decoding that takes too
long is interrupted; one that cannot be (it loops in C code) ends the process, whose shard is then read again with every record
in a child process. The child lives from record to record, and is made anew when it had to be ended.

The child is ``python -m screening.archive.isolated``. It reads JSON lines with the bytes of files behind them, and answers with
JSON lines with the bytes of samples behind them: nothing is pickled.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import IO, Any, NoReturn

import numpy as np

from screening.archive import child
from screening.archive.child import OutOfTime
from screening.archive.reader import decode
from screening.contract import N_LEADS, Reason
from screening.recording import Recording, Rejected

_CPU_SHARE = 2
"""A process that has used this many times the limit, in processor time, did not hear the alarm, and ends."""


@dataclass(frozen=True)
class Limits:
    """What decoding one record may take."""

    seconds: float
    memory_mb: int


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime in the block after ``seconds``; without effect outside of a process's main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGALRM, _out_of_time)
    signal.setitimer(signal.ITIMER_PROF, _CPU_SHARE * seconds)  # SIGPROF ends the process, whatever it is in
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGALRM, before)


@contextmanager
def memory_limit(megabytes: int) -> Iterator[None]:
    """Raise MemoryError in the block beyond so much more memory; without effect outside of a process's main thread."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    in_use = child.address_space()
    if in_use is None or threading.current_thread() is not threading.main_thread():
        yield
        return
    wanted = in_use + megabytes * 2**20
    lower = [wanted, *(limit for limit in before if limit != resource.RLIM_INFINITY)]
    resource.setrlimit(resource.RLIMIT_AS, (min(lower), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def _out_of_time(*_: object) -> NoReturn:
    raise OutOfTime


class Decoder:
    """Decodes records within limits; a context manager, because it may have a child process.

    Parameters
    ----------
    limits
        Of every single record.
    isolated
        Decode everything in the child; otherwise only what failed here for time or memory.
    """

    def __init__(self, limits: Limits, *, isolated: bool) -> None:
        self._limits, self._isolated = limits, isolated
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Decoder:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def decode(self, record_id: str, header: bytes, files: Mapping[str, bytes]) -> Recording | Rejected:
        """Return what `reader.decode` does, or that the record takes too much time or memory.

        What fails here, or in a child that has decoded other records, is tried once more in a new child before it counts.
        """
        if not self._isolated:
            try:
                with time_limit(self._limits.seconds), memory_limit(self._limits.memory_mb):
                    return decode(record_id, header, files)
            except (OutOfTime, MemoryError):
                pass
        elif self._child is not None:
            found = self._ask(record_id, header, files)
            if not isinstance(found, str):
                return found
        self._end()
        found = self._ask(record_id, header, files)
        if not isinstance(found, str):
            return found
        reason = Reason.UNDECODABLE if found == _CRASHED else Reason.TOO_LARGE
        return Rejected(record_id, reason, found)

    def _ask(self, record_id: str, header: bytes, files: Mapping[str, bytes]) -> Recording | Rejected | str:
        """Return the child's answer, or a sentence for why it had to be ended."""
        process = self._child = self._child or child.start("screening.archive.isolated", self._limits.memory_mb)
        assert process.stdin is not None
        assert process.stdout is not None
        pipe = child.Pipe(process.stdout, time.monotonic() + self._limits.seconds)
        # Written beside reading, so that a child that does not read cannot hold us.
        writing = threading.Thread(target=_send, args=(process.stdin, record_id, header, files), daemon=True)
        writing.start()
        try:
            answer = json.loads(pipe.line())
            if "reason" in answer:
                return Rejected(**answer | {"reason": Reason(answer["reason"])})
            shape = answer.pop("samples")
            signal_mV = np.frombuffer(pipe.take(4 * N_LEADS * shape), np.float32).reshape(N_LEADS, shape)
            return Recording(signal_mV=signal_mV, **answer | {"flags": tuple(answer["flags"])})
        except OutOfTime:
            self._end()
            return f"decoding takes more than {self._limits.seconds:g} s"
        except EOFError:
            self._end()
            if process.returncode == child.NO_MEMORY:
                return f"decoding takes more than {self._limits.memory_mb} MB of memory"
            return _CRASHED
        finally:
            writing.join()

    def _end(self) -> None:
        if self._child is not None:
            child.end(self._child)
            self._child = None


_CRASHED = "the decoder crashed"


def _send(pipe: IO[bytes], record_id: str, header: bytes, files: Mapping[str, bytes]) -> None:
    sizes = {"record_id": record_id, "header": len(header), "files": {name: len(data) for name, data in files.items()}}
    with suppress(OSError, ValueError):  # the child died, or was ended: its silence tells
        for data in (json.dumps(sizes).encode() + b"\n", header, *files.values()):
            pipe.write(data)
        pipe.flush()


# --- In the child ----------------------------------------------------------------------------------------------------


def serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """Decode what is asked until there is no more."""
    while line := asked.readline():
        question = json.loads(line)
        header = asked.read(question["header"])
        files = {name: asked.read(size) for name, size in question["files"].items()}
        found = decode(question["record_id"], header, files)
        if isinstance(found, Rejected):
            answers.write(json.dumps(asdict(found)).encode() + b"\n")
        else:
            answers.write(json.dumps(_facts(found)).encode() + b"\n")
            answers.write(np.ascontiguousarray(found.signal_mV).data)
        answers.flush()


def _facts(recording: Recording) -> dict[str, Any]:
    names = ("record_id", "rate_hz", "sha256", "source_format", "unit_source", "flags")
    return {"samples": recording.signal_mV.shape[1], **{name: getattr(recording, name) for name in names}}


if __name__ == "__main__":
    child.run(serve)
