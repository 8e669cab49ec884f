"""HDF5 files of many ECGs in one dataset, as CODE-15% has them (doi.org/10.5281/zenodo.4916206): one row is one record.

Neither unit nor rate is stated, so a sidecar says them. Only the rows that are asked for are read.
"""

from __future__ import annotations

import io
import math
import threading
from collections import OrderedDict
from contextlib import suppress
from typing import IO, Any

import numpy as np

from screening.archive.container import Refused
from screening.archive.formats.missing import Missing
from screening.archive.formats.sidecar import MEMBER, Sidecar
from screening.contract import MAX_RECORD_BYTES, MAX_SAMPLES, Reason

MAX_RECORDS = 50_000_000
_OPEN = 4
"""Files held open at once, the last used."""


class _Told:
    """A stream that remembers what went wrong in it: HDF5 says only that it could not read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.error: BaseException | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def readinto(self, buffer: Any) -> int:
        try:
            return int(self._stream.readinto(buffer))  # type: ignore[attr-defined]
        except BaseException as error:
            self.error = error
            raise


class _File:
    def __init__(self, stream: IO[bytes], sidecar: Sidecar) -> None:
        try:
            import h5py
        except ImportError:
            raise Missing("h5py") from None
        self.sidecar, self.told = sidecar, _Told(stream)
        self.lock = threading.Lock()
        try:
            # With room for the largest chunk that is read, so that one is unpacked once for all its rows.
            self._file = h5py.File(self.told, "r", rdcc_nbytes=MAX_RECORD_BYTES)
            self.data = _dataset(h5py, self._file, sidecar.dataset, 3)
            self.rows = self._ids(h5py)
        except Exception as error:
            self.close()
            raise self.why(error) from None

    def _ids(self, h5py: Any) -> dict[str, int] | None:
        """Return the row of each id; None where rows are numbered."""
        if not 0 < len(self.data) <= MAX_RECORDS:
            raise Refused(Reason.TOO_SHORT if not len(self.data) else Reason.TOO_LARGE, f"{len(self.data)} records")
        if self.sidecar.ids is None:
            return None
        stated = _dataset(h5py, self._file, self.sidecar.ids, 1)
        if len(stated) != len(self.data):
            raise Refused(Reason.BAD_HEADER, f"there are {len(stated)} ids of {len(self.data)} records")
        texts = [value.decode() if isinstance(value, bytes) else str(value) for value in stated[:].tolist()]
        found = {text: row for row, text in reversed(list(enumerate(texts)))}
        if len(found) < len(texts):
            raise Refused(Reason.BAD_HEADER, "two records have one id")
        return dict(sorted(found.items(), key=lambda item: item[1]))

    def why(self, error: BaseException) -> BaseException:
        """Return what to raise for what HDF5 raised: the storage's own error, or a refusal."""
        if isinstance(error, (Refused, ImportError, MemoryError)):
            return error
        return self.told.error or Refused(Reason.UNDECODABLE, "the HDF5 file is damaged, or cut off")

    def close(self) -> None:
        with suppress(Exception):
            self._file.close()
        with suppress(Exception):
            self.told.close()


def _dataset(h5py: Any, file: Any, name: str, dimensions: int) -> Any:
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


class Hdf5Files:
    """The HDF5 files of an archive, a few of them open; safe to use from several threads, which take turns."""

    def __init__(self) -> None:
        self._open: OrderedDict[tuple[str, str], _File] = OrderedDict()
        self._lock = threading.Lock()

    def row(self, key: tuple[str, str], opener: Any, sidecar: Sidecar, member: str) -> bytes:
        """Return one record in NPY form behind `MEMBER`.

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
            file = self._file(key, opener, sidecar)
            try:
                at = file.rows.get(member, -1) if file.rows is not None else _number(member)
                if not 0 <= at < len(file.data):
                    raise Refused(Reason.MISSING_FILE, "the HDF5 file holds no record of this id")
                size = int(np.prod(file.data.shape[1:]))
                if size > MAX_SAMPLES or file.data.dtype.kind not in "iuf":
                    raise Refused(
                        Reason.TOO_LARGE, f"a record of the HDF5 file has {size} samples, or no plain numbers"
                    )
                values = file.data[at]
            except Exception as error:
                raise file.why(error) from None
        stream = io.BytesIO()
        np.lib.format.write_array(stream, np.ascontiguousarray(values), allow_pickle=False)
        return MEMBER + stream.getvalue()

    def members(self, key: tuple[str, str], opener: Any, sidecar: Sidecar) -> list[str]:
        """Return the ids of a file's records, in their order."""
        with self._lock:
            file = self._file(key, opener, sidecar)
            return list(file.rows) if file.rows is not None else list(map(str, range(len(file.data))))

    def _file(self, key: tuple[str, str], opener: Any, sidecar: Sidecar) -> _File:
        file = self._open.pop(key, None)
        if file is not None and file.sidecar != sidecar:
            file.close()
            file = None
        file = file or _File(opener(), sidecar)
        self._open[key] = file
        while len(self._open) > _OPEN:
            self._open.popitem(last=False)[1].close()
        return file


def _number(member: str) -> int:
    return int(member) if member.isascii() and member.isdigit() and len(member) < 12 else -1
