"""HDF5 as targets: files, read by the one process that may crash of them; and what such a process may say.

One child reads file after file, as it does for a run; where the library crashes, hangs or runs out of memory, the refusal says
so and the next file gets a new one. Nothing that it does or says may reach the process that asks.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import subprocess
from functools import cache
from typing import Any

import numpy as np

from screening.archive.container import Refused
from screening.archive.formats import hdf5 as reading
from screening.archive.formats import sidecar
from screening.contract import LEADS
from tests import hospital_files
from tests.fuzz.judge import CUT, judged, tell
from tests.wfdb_files import ecg

_SECONDS, _MEMORY_MB = 2.0, 512
_SAMPLES = 40
_RECORDS = 2
_numbers = itertools.count()


@cache
def _stated(ids: str | None) -> bytes:
    return hospital_files.sidecar(leads=list(LEADS), **({} if ids is None else {"ids": ids}))


@cache
def _files() -> reading.Hdf5Files:
    reading.SECONDS, reading.MEMORY_MB = _SECONDS, _MEMORY_MB
    return reading.Hdf5Files()


def _asked(files: reading.Hdf5Files, data: bytes) -> str:
    """Ask for what a scan and a run ask for."""
    stated = _stated("exam_id" if b"exam_id" in data else None)
    key, found = (str(next(_numbers)), ""), sidecar.parse(stated)
    try:
        members = files.members(key, lambda: io.BytesIO(data), found)
        outcomes = set()
        for member in members[:_RECORDS]:
            row = files.row(key, lambda: io.BytesIO(data), found, member)
            outcomes.add(judged(sidecar.decode("id", row, {sidecar.SIDECAR: stated})))
    except Refused as refused:
        tell(refused.detail)
        library = ("crashed", "takes more than")
        return next((f"library {word}" for word in library if word in refused.detail), str(refused.reason))
    return "read" if "read" in outcomes else min(outcomes, default="empty")


def hdf5(data: bytes) -> str:
    """Return what became of an HDF5 file."""
    return _asked(_files(), data)


@cache
def hdf5_seeds() -> tuple[bytes, ...]:
    """Return small files of every layout and kind of id, and some that lead elsewhere."""
    import h5py

    records = np.stack([ecg(_SAMPLES).T, ecg(_SAMPLES).T]).astype(np.int16)
    found = [hospital_files.hdf5({7: ecg(_SAMPLES), 9: ecg(_SAMPLES)}, samples=_SAMPLES)]

    def made(fill: Any, **options: Any) -> None:
        stream = io.BytesIO()
        with h5py.File(stream, "w", **options) as file:
            fill(file)
        found.append(stream.getvalue())

    def plain(file: Any) -> None:
        file.create_dataset("tracings", data=records, track_times=False)

    def chunked(file: Any) -> None:
        packed = {"compression": "gzip", "shuffle": True, "fletcher32": True, "track_times": False}
        file.create_dataset("tracings", data=records, chunks=(1, _SAMPLES, 12), maxshape=(None, None, 12), **packed)
        file.create_dataset("exam_id", data=["one", "two"], track_times=False)  # of variable length

    def scaled(file: Any) -> None:
        file.create_dataset("tracings", data=records, scaleoffset=0, chunks=(2, 20, 12), track_times=False)
        file["exam_id"] = np.array([b"a", b"b"])

    def elsewhere(file: Any) -> None:
        file["tracings"] = h5py.ExternalLink("/etc/passwd", "/tracings")

    def kept_elsewhere(file: Any) -> None:
        file.create_dataset("tracings", (2, 10, 12), "i2", external=[("/etc/passwd", 0, 480)])

    def virtual(file: Any) -> None:
        layout = h5py.VirtualLayout((1, _SAMPLES, 12), "i2")
        layout[0] = h5py.VirtualSource("/etc/passwd", "x", (_SAMPLES, 12))
        file.create_virtual_dataset("tracings", layout)

    for libver in ("earliest", "latest"):
        for fill in (plain, chunked):
            made(fill, libver=libver)
    for fill in (scaled, elsewhere, kept_elsewhere, virtual):
        made(fill)
    return tuple(found)


# --- What the child may say ------------------------------------------------------------------------------------------


class Saying(subprocess.Popen):  # type: ignore[type-arg]
    """A child that has said everything, and hears nothing."""

    def __init__(self, said: bytes) -> None:
        self.stdin, self.stdout = open(os.devnull, "wb"), os.fdopen(os.memfd_create("said"), "w+b")  # noqa: SIM115
        self.stdout.write(said)
        self.stdout.seek(0)
        self.returncode = 0

    def kill(self) -> None:
        """It is not alive."""

    def wait(self, timeout: float | None = None) -> int:
        """It has ended."""
        return 0

    def __del__(self, *_: Any) -> None:
        """Nothing is left of it."""


def hdf5_said(data: bytes) -> str:
    """Return what becomes of a record when each child answers with the next of these bytes, the last with the same again."""
    files, (*first, last) = reading.Hdf5Files(), data.split(CUT)
    said = itertools.chain(first, itertools.repeat(last))
    start, reading.child.start = reading.child.start, lambda *_: Saying(next(said))
    try:
        return _asked(files, b"exam_id" + bytes(1000))
    finally:
        reading.child.start = start


def _npy() -> bytes:
    stream = io.BytesIO()
    np.save(stream, ecg(_SAMPLES).T.astype(np.float32))
    return stream.getvalue()


def _line(**said: Any) -> bytes:
    return json.dumps(said).encode() + b"\n"


_MEMBERS = _line(read=[0, 500]) + _line(opened=1) + _line(bytes=10) + b'["7", "9"]'
SAID = (
    CUT.join([_MEMBERS, _line(opened=1) + _line(bytes=len(_npy())) + _npy()]),
    CUT.join([_MEMBERS, _line(read=[-5, -1]), _line(reason="truncated", detail="some are missing")]),
    _line(opened=1) + _line(bytes=2) + b"12" + _line(bytes=2**60) + b"x",
    _line(reason="no such reason", detail=["a", {}]) + _line(read=["a", None]) + b"[" * 3000,
)
"""What a child says, and what it never should."""
