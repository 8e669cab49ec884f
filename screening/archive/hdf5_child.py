"""The inside of HDF5 files, in a process of its own: ``python -m screening.archive.hdf5_child``.

The HDF5 library believes what a file says of itself, and no check of ours comes before all of it. So it runs where it may
hang, crash or run out of memory, and where nothing is to be had but the bytes of the file at hand: it asks for them. Little is
imported here, so that this process starts at once.
"""

from __future__ import annotations

import encodings.ascii
import encodings.latin_1  # noqa: F401  # imported late otherwise, when no file can be opened any more
import io
import json
import math
import resource
from contextlib import suppress
from typing import IO, Any

import h5py
import numpy as np

from screening.archive import child
from screening.archive.container import Refused
from screening.contract import MAX_RECORD_BYTES, MAX_SAMPLES, Reason

MAX_RECORDS = 50_000_000
MAX_IDS_BYTES = 2**27
_LEAST_BYTES = 16
"""A record takes more in the file, however well it is packed: some kilobytes cannot claim a million of them."""
_READ_AHEAD = 2**16


class Asked(io.RawIOBase):
    """A file whose bytes the other process has."""

    def __init__(self, size: int, asked: IO[bytes], answers: IO[bytes]) -> None:
        self._size, self._asked, self._answers, self._at = size, asked, answers, 0

    def readable(self) -> bool:
        """Whether it may be read."""
        return True

    def seekable(self) -> bool:
        """Whether it may be read from anywhere."""
        return True

    def tell(self) -> int:
        """Return where the next bytes are read."""
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Read the next bytes from there."""
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer as far as there are bytes."""
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size - self._at))
        if not wanted:
            return 0
        self._answers.write(json.dumps({"read": [self._at, wanted]}).encode() + b"\n")
        self._answers.flush()
        got = json.loads(self._asked.readline())["bytes"]
        view[:got] = self._asked.read(got)
        self._at += got
        return int(got)


class File:
    """An open HDF5 file; Refused where it is not what its sidecar says."""

    def __init__(self, stream: Any, size: int, dataset: str, ids: str | None) -> None:
        # With room for the largest chunk that is read, so that one is unpacked once for all its rows.
        self._file = h5py.File(stream, "r", rdcc_nbytes=MAX_RECORD_BYTES)
        self._data = _dataset(self._file, dataset, 3)
        self._count, *record = self._data.shape
        if not 0 < self._count <= MAX_RECORDS:
            raise Refused(Reason.TOO_LARGE if self._count else Reason.TOO_SHORT, f"{self._count} records")
        samples = math.prod(record)
        if samples > MAX_SAMPLES or self._data.dtype.kind not in "iuf":
            raise Refused(Reason.TOO_LARGE, f"a record of the HDF5 file has {samples} samples, or no plain numbers")
        held = min(self._data.id.get_storage_size(), size)
        if held < _LEAST_BYTES * self._count:
            raise Refused(Reason.TRUNCATED, f"the HDF5 file holds {held} bytes of {self._count} records")
        self.rows = None if ids is None else self._ids(ids)

    def _ids(self, name: str) -> dict[str, int]:
        """Return the row of each id."""
        stated = _dataset(self._file, name, 1)
        if stated.shape[0] != self._count:
            raise Refused(Reason.BAD_HEADER, f"there are {stated.shape[0]} ids of {self._count} records")
        if stated.dtype.kind not in "iufS" and h5py.check_string_dtype(stated.dtype) is None:
            raise Refused(Reason.BAD_HEADER, "the ids of the HDF5 file are neither numbers nor texts")
        if (claimed := self._count * stated.dtype.itemsize) > MAX_IDS_BYTES:
            raise Refused(
                Reason.TOO_LARGE, f"the ids of the HDF5 file take {claimed} bytes, the limit is {MAX_IDS_BYTES}"
            )
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in stated[:].tolist()]
        found = {text: row for row, text in enumerate(texts)}
        if len(found) < len(texts):
            raise Refused(Reason.BAD_HEADER, "two records have one id")
        return found

    def members(self) -> list[str] | int:
        """Return the ids of the records in their order, or how many are numbered."""
        return self._count if self.rows is None else list(self.rows)

    def row(self, member: str) -> bytes:
        """Return one record in NPY form."""
        at = self.rows.get(member, -1) if self.rows is not None else _number(member)
        if not 0 <= at < self._count:
            raise Refused(Reason.MISSING_FILE, "the HDF5 file holds no record of this id")
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.ascontiguousarray(self._data[at]), allow_pickle=False)
        return stream.getvalue()

    def close(self) -> None:
        """Let go of what the library holds."""
        with suppress(Exception):
            self._file.close()


def _dataset(file: Any, name: str, dimensions: int) -> Any:
    # A link could lead to another file on this machine.
    parts = name.strip("/").split("/")
    paths = ["/".join(parts[: count + 1]) for count in range(len(parts))]
    within = all(isinstance(file.get(path, getlink=True), h5py.HardLink) for path in paths)
    found = file.get(name) if within else None
    if not isinstance(found, h5py.Dataset) or found.ndim != dimensions or getattr(found, "is_virtual", False):
        raise Refused(
            Reason.BAD_HEADER, f"the HDF5 file has no dataset of {dimensions} dimensions as ecg.yaml names it"
        )
    chunk = math.prod(found.chunks or (0,)) * found.dtype.itemsize  # unpacked whole for any row in it
    if chunk > MAX_RECORD_BYTES:
        raise Refused(
            Reason.TOO_LARGE, f"the HDF5 file is written in chunks of {chunk} bytes; h5repack makes smaller ones"
        )
    if found.external:
        raise Refused(Reason.UNSAFE_PATH, "the HDF5 file keeps its numbers in another file")
    return found


def _number(member: str) -> int:
    return int(member) if member.isascii() and member.isdigit() and len(member) < 12 else -1


def serve(asked: IO[bytes], answers: IO[bytes]) -> None:
    """Answer what is asked of files until there is no more."""
    # Whatever is believed of links, external datasets and the library's plugins: nothing is opened from here on.
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    files: dict[int, File] = {}
    while line := asked.readline():
        question = json.loads(line)
        for number in question["close"]:
            if number in files:
                files.pop(number).close()
        try:
            number = question["file"]
            if number not in files:
                stream = io.BufferedReader(Asked(question["size"], asked, answers), _READ_AHEAD)
                files[number] = File(stream, question["size"], question["dataset"], question["ids"])
                answers.write(json.dumps({"opened": number}).encode() + b"\n")
            file = files[number]
            data = file.row(question["member"]) if "member" in question else json.dumps(file.members()).encode()
            answer: dict[str, Any] = {"bytes": len(data)}
        except Refused as refused:
            answer, data = {"reason": refused.reason, "detail": refused.detail}, b""
        except MemoryError:
            raise
        except Exception:  # whatever the library says of it
            answer, data = {"reason": Reason.UNDECODABLE, "detail": "the HDF5 file is damaged, or cut off"}, b""
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.write(data)
        answers.flush()


if __name__ == "__main__":
    child.run(serve)
