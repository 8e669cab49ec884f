"""HDF5 files of many ECGs in one dataset, as CODE-15% has them (doi.org/10.5281/zenodo.4916206): one row is one record.

Neither unit nor rate is stated, so a sidecar says them. Only the rows that are asked for are read, by a process of its own
within limits of time and memory (`screening.archive.hdf5_child`), to which this one gives the file's bytes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import select
import subprocess
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from typing import IO, Any

from screening.archive import child
from screening.archive.child import OutOfTime
from screening.archive.container import Refused
from screening.archive.formats.missing import Missing
from screening.archive.formats.sidecar import MEMBER, Sidecar
from screening.contract import Reason

SECONDS, MEMORY_MB = 30.0, 2048
"""What one question may take, waiting for storage apart."""
MOST_READ = 2**30
"""Bytes of the file that one question may ask for: damaged indices lead in circles."""
_MOST_ANSWERED = 2**30
"""Bytes of an answer: a record, or all ids."""
_SENTENCE = re.compile(r"(?:[A-Za-z0-9 ,;]|ecg\.yaml){1,300}")
"""What the child says of a file: words and numbers, and no path."""
"""Characters of why a record is refused."""
_LEAST_READ = 2**16
_OPEN = 4
"""Files held open at once, the last used."""


_CRASHED = "the HDF5 library crashed on this file"


class _StorageFailed(Exception):
    """What storage raised, apart from what goes wrong with the child."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Opened:
    """A file at hand: its bytes, and what was found wrong with the whole of it."""

    def __init__(self, number: int, stream: Any, sidecar: Sidecar) -> None:
        self.number, self.stream, self.sidecar = number, stream, sidecar
        self.size = int(stream.seek(0, os.SEEK_END))
        self.refused: Refused | None = None

    def read(self, at: int, length: int) -> bytes:
        """Return ``length`` bytes from ``at``, fewer at the end."""
        self.stream.seek(at)
        return bytes(self.stream.read(length))

    def close(self) -> None:
        with suppress(Exception):
            self.stream.close()


class Hdf5Files:
    """The HDF5 files of an archive, a few of them open; safe to use from several threads, which take turns."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], _Opened] = OrderedDict()
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._ending: Any = None
        self._held: set[int] = set()  # numbers of the files that the child has opened
        self._closed: list[int] = []  # and those that it need not hold any more
        self._numbers = 0

    def row(self, key: tuple[str, str], opener: Any, sidecar: Sidecar, member: str) -> bytes:
        """Return one record in NPY form behind `MEMBER`; Refused says why there is none.

        Parameters
        ----------
        key
            Location and version of the file; of another version it is opened anew.
        opener
            Opens it, where it is not open yet.
        member
            Id of the record, as `members` gives it.
        """
        with self._lock:
            return MEMBER + self._answer(self._file(key, opener, sidecar), {"member": member})

    def members(self, key: tuple[str, str], opener: Any, sidecar: Sidecar) -> Sequence[str]:
        """Return the ids of a file's records, in their order."""
        with self._lock:
            answer = self._answer(self._file(key, opener, sidecar), {})
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError):
            found = None
        if type(found) is int and 0 <= found < 2**31:
            return _Numbered(found)
        if isinstance(found, list) and all(isinstance(member, str) for member in found):
            return found
        raise Refused(Reason.UNDECODABLE, _CRASHED)

    def _file(self, key: tuple[str, str], opener: Any, sidecar: Sidecar) -> _Opened:
        if importlib.util.find_spec("h5py") is None:
            raise Missing("h5py")
        file = self._open.pop(key, None)
        if file is not None and file.sidecar != sidecar:
            self._drop(file)
            file = None
        if file is None:
            self._numbers += 1
            file = _Opened(self._numbers, opener(), sidecar)
        self._open[key] = file
        while len(self._open) > _OPEN:
            self._drop(self._open.popitem(last=False)[1])
        return file

    def _drop(self, file: _Opened) -> None:
        file.close()
        self._closed.append(file.number)

    def _answer(self, file: _Opened, question: dict[str, Any]) -> bytes:
        """Return the bytes of an answer; what fails in a child that has answered before is asked once more of a new one."""
        if file.refused is not None:
            raise file.refused
        question |= {"file": file.number, "size": file.size, "dataset": file.sidecar.dataset, "ids": file.sidecar.ids}
        while True:
            is_new = self._child is None
            try:
                found = self._ask(file, question)
            except _StorageFailed as failed:
                self._end()  # it waits in the middle of its question
                raise failed.error from None
            except (BrokenPipeError, EOFError, ValueError, KeyError, TypeError):
                found = self._why()
            except OutOfTime:
                found = Refused(Reason.TOO_LARGE, f"reading the HDF5 file takes more than {SECONDS:g} s")
                self._end()
            except BaseException:  # of somebody who wants to end
                self._end()
                raise
            if isinstance(found, bytes):
                return found
            if self._child is None and not is_new:
                continue
            if file.number not in self._held:
                file.refused = found  # asked again for every record, it might take as long every time
            raise found

    def _ask(self, file: _Opened, question: dict[str, Any]) -> bytes | Refused:
        process = self._child or self._start()
        assert process.stdin is not None
        assert process.stdout is not None
        pipe = child.Pipe(process.stdout, time.monotonic() + SECONDS)
        _send(process.stdin, json.dumps(question | {"close": self._closed}).encode() + b"\n", pipe.until)
        self._held.difference_update(self._closed)
        self._closed.clear()
        left = MOST_READ
        while True:
            answer = _plain(pipe.line())
            if "read" in answer:
                at, length = answer["read"]
                if not 0 <= at <= file.size or not 0 < length <= MOST_READ:
                    raise ValueError("what it asks for is not in the file")
                left -= max(length, _LEAST_READ)
                if left < 0:
                    self._end()
                    return Refused(Reason.TOO_LARGE, f"reading the HDF5 file takes more than {MOST_READ} bytes of it")
                begun = time.monotonic()
                try:
                    data = file.read(at, length)
                except Exception as error:
                    raise _StorageFailed(error) from error
                pipe.until += time.monotonic() - begun
                _send(process.stdin, json.dumps({"bytes": len(data)}).encode() + b"\n" + data, pipe.until)
            elif "opened" in answer:
                if answer["opened"] != file.number:
                    raise ValueError("it opened another file")
                self._held.add(file.number)
            elif "reason" in answer:
                return Refused(Reason(answer["reason"]), answer["detail"])
            elif answer["bytes"] > _MOST_ANSWERED:
                raise ValueError("an answer without end")
            else:
                return pipe.take(answer["bytes"])

    def _start(self) -> subprocess.Popen[bytes]:
        process = self._child = child.start("screening.archive.hdf5_child", MEMORY_MB)
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._ending = weakref.finalize(self, child.end, process)
        return process

    def _why(self) -> Refused:
        """Return why the child ended by itself."""
        assert self._child is not None
        with suppress(subprocess.TimeoutExpired):
            self._child.wait(1)
        ran_out = self._child.returncode == child.NO_MEMORY
        self._end()
        if ran_out:
            return Refused(Reason.TOO_LARGE, f"reading the HDF5 file takes more than {MEMORY_MB} MB of memory")
        return Refused(Reason.UNDECODABLE, _CRASHED)

    def _end(self) -> None:
        self._held.clear()
        if self._child is not None:  # it may not have come to life
            self._child = None
            self._ending()


class _Numbered(Sequence[str]):
    """The ids of records that have none: their numbers."""

    def __init__(self, count: int) -> None:
        self._count = count

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, at: Any) -> Any:
        found = range(self._count)[at]
        return list(map(str, found)) if isinstance(at, slice) else str(found)


def _plain(line: bytes) -> dict[str, Any]:
    """Return one of the child's lines, whose values are whole numbers, texts or lists of two numbers; else ValueError.

    What the HDF5 library makes of a file that attacks it, may speak in the child's place.
    """
    try:
        found = json.loads(line)
    except RecursionError:
        raise ValueError("no line of the child") from None
    kinds = {"read": list, "opened": int, "reason": str, "detail": str, "bytes": int}
    if not isinstance(found, dict) or any(type(value) is not kinds.get(key) for key, value in found.items()):
        raise ValueError("no line of the child")
    if any(type(number) is not int for number in found.get("read", [])):
        raise ValueError("no line of the child")
    if found.get("bytes", 0) < 0 or "detail" in found and not _SENTENCE.fullmatch(found["detail"].strip()):
        raise ValueError("no line of the child")
    return found


def _send(pipe: IO[bytes], data: bytes, until: float) -> None:
    """Write to a child that may not read."""
    left = memoryview(data)
    while left:
        _, ready, _ = select.select([], [pipe.fileno()], [], max(0.0, until - time.monotonic()))
        if not ready:
            raise OutOfTime
        left = left[os.write(pipe.fileno(), left) :]
