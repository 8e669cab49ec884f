"""HDF5 files that claim, hang or crash: each costs rows with a reason, and neither the process nor the run."""

from __future__ import annotations

import io
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screening.archive import child
from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.container import Refused
from screening.archive.formats import hdf5, sidecar
from screening.archive.hdf5_child import File, _dataset
from screening.archive.reader import ArchiveReader
from screening.contract import LEADS, Reason
from screening.errors import StorageError
from screening.recording import Recording, Rejected
from tests import hospital_files as made
from tests.fuzz.hdf5 import Saying
from tests.fuzz.hdf5 import hdf5_seeds as seeds
from tests.wfdb_files import ecg

SIDECAR = {sidecar.SIDECAR: made.sidecar(leads=list(LEADS))}


def rows_of(catalog: Path) -> list[dict[str, Any]]:
    return [row for batch in open_catalog(str(catalog)).iter_batches() for row in batch.to_pylist()]


def _bombs(folder: Path) -> dict[str, tuple[Reason, str]]:
    """Write HDF5 files of a few kB that claim, or unpack to, very much; return what must be said of each."""
    import zlib

    import h5py

    late = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    late.set_alloc_time(h5py.h5d.ALLOC_TIME_LATE)  # claimed, and not there

    def claim(file: Any, name: bytes, kind: Any, shape: tuple[int, ...]) -> None:
        h5py.h5d.create(file.id, name, kind, h5py.h5s.create_simple(shape), late)

    def text(width: int) -> Any:
        kind = h5py.h5t.C_S1.copy()
        kind.set_size(width)
        return kind

    with h5py.File(folder / "nothing.h5", "w") as file:
        claim(file, b"tracings", h5py.h5t.NATIVE_FLOAT, (1_000_000, 4096, 12))
        claim(file, b"ids", text(4_000), (1_000_000,))
    with h5py.File(folder / "ids.h5", "w") as file:
        file["tracings"] = np.zeros((100, 50, 12), np.float32)
        claim(file, b"ids", text(2**25), (100,))
    with h5py.File(folder / "shape.h5", "w") as file:
        claim(file, b"tracings", h5py.h5t.NATIVE_INT8, (1, 2**32, 2**30))
    with h5py.File(folder / "chunk.h5", "w") as file:  # one of 24 kB, which holds 335 MB
        data = file.create_dataset("tracings", (1, 500, 12), "f4", chunks=(1, 500, 12), compression="gzip")
        packer = zlib.compressobj(1)
        packed = b"".join(packer.compress(bytes(2**24)) for _ in range(20)) + packer.flush()
        data.id.write_direct_chunk((0, 0, 0), packed)
        file["ids"] = np.array([0])
    return {
        "nothing.h5": (Reason.TRUNCATED, "holds 0 bytes of 1000000 records"),
        "ids.h5": (Reason.TOO_LARGE, "take 3355443200 bytes"),
        "shape.h5": (Reason.TOO_LARGE, "a record of the HDF5 file has 4611686018427387904 samples"),
        "chunk.h5": (Reason.UNDECODABLE, "damaged, or cut off"),  # in the library's words: it got no memory
    }


def test_hdf5_bombs_cost_a_row_each_and_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "MEMORY_MB", 256)
    root = tmp_path / "archive"
    root.mkdir()
    (root / "ecg.yaml").write_bytes(made.sidecar(leads=list(LEADS), ids="ids"))
    (root / "good.h5").write_bytes(made.hdf5({1: ecg()}, samples=5000).replace(b"exam_id", b"ids\0\0\0\0"))
    expected = _bombs(root)
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    summary = build_catalog(str(root), str(tmp_path / "catalog"), deidentified=True)
    assert summary.records == 1 + len(expected)
    reader = ArchiveReader(str(root))
    for row in rows_of(tmp_path / "catalog"):
        got = reader.read(row["record_id"], "x", version=row["version"])
        file = row["record_id"].partition("#")[0]
        if file == "good.h5":
            assert isinstance(got, Recording), got
        else:
            asked = got if "#" in row["record_id"] else reader.read(f"{file}#0", "x")
            assert isinstance(asked, Rejected)
            assert (asked.reason, expected[file][1] in asked.detail) == (expected[file][0], True), asked
    largest = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert largest == before or largest < 2**20, "no child took a gigabyte, if none had before"


def _started(program: str) -> subprocess.Popen[bytes]:
    pipes: dict[str, Any] = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", program], **pipes)


def test_hdf5_that_takes_too_long_or_crashes_costs_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ecg.yaml").write_bytes(SIDECAR["ecg.yaml"])
    (tmp_path / "a.h5").write_bytes(made.hdf5({1: ecg(), 2: ecg()}, samples=5000))
    reader = ArchiveReader(str(tmp_path))
    assert isinstance(reader.read("a.h5#0", "x"), Recording)
    child = reader._hdf5._child
    assert child is not None
    child.kill()  # whatever ended it may not have been this record
    assert isinstance(reader.read("a.h5#1", "x"), Recording)
    assert reader._hdf5._child not in (None, child)
    monkeypatch.setattr(hdf5, "SECONDS", 1e-4)
    slow = ArchiveReader(str(tmp_path)).read("a.h5#0", "x")
    assert isinstance(slow, Rejected)
    assert (slow.reason, slow.detail) == (Reason.TOO_LARGE, "reading the HDF5 file takes more than 0.0001 s")
    monkeypatch.undo()
    monkeypatch.setattr(hdf5.child, "start", lambda *_: _started("input()"))  # reads what it is asked, and ends
    crashed = ArchiveReader(str(tmp_path)).read("a.h5#0", "x")
    assert isinstance(crashed, Rejected)
    assert (crashed.reason, crashed.detail) == (Reason.UNDECODABLE, "the HDF5 library crashed on this file")


def test_storage_that_fails_within_an_hdf5_file_says_nothing_of_it(tmp_path: Path) -> None:
    data = made.hdf5({1: ecg(), 2: ecg()}, samples=5000)
    failing = [OSError(5, "the disk")]

    class Disk(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            if failing and self.tell() > 10_000:
                raise failing.pop()
            return super().read(size)

    files, stated = hdf5.Hdf5Files(), sidecar.parse(SIDECAR["ecg.yaml"])
    with pytest.raises(OSError, match="the disk"):
        files.row(("a", ""), lambda: Disk(data), stated, "1")
    assert files.row(("a", ""), lambda: Disk(data), stated, "1")


def test_a_child_that_cannot_start_says_nothing_of_the_record() -> None:
    with pytest.raises(StorageError, match="could not be started"):
        child.start("screening.no_such_module", 400)


def test_a_child_that_cannot_start_says_nothing_of_an_hdf5_file_either(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*_: Any) -> None:
        raise StorageError("a process that reads within limits could not be started")

    monkeypatch.setattr(hdf5.child, "start", start)
    stated = sidecar.parse(SIDECAR["ecg.yaml"])
    with pytest.raises(StorageError, match="could not be started"):
        hdf5.Hdf5Files().row(("a", ""), lambda: io.BytesIO(b"x"), stated, "1")


def test_the_child_opens_nothing_and_leaves_nothing_behind() -> None:
    """Whatever was believed of links, external datasets and plugins."""
    program = """
import resource, sys
from screening.archive import child, hdf5_child

class Asked:
    def readline(self):
        try:
            open("/dev/null")
        except OSError as error:
            print(error.strerror, resource.getrlimit(resource.RLIMIT_CORE))
        return b""

child.run(lambda _, answers: hdf5_child.serve(Asked(), answers))
"""
    done = subprocess.run([sys.executable, "-c", program, "400"], capture_output=True, text=True, check=True)
    assert done.stdout == "ready\nToo many open files (0, 0)\n"


@pytest.mark.parametrize("seed", range(len(seeds())))
def test_the_child_needs_nothing_that_it_cannot_open(seed: int) -> None:
    """What is imported late would be missing, and the file be called damaged."""
    data = seeds()[seed]
    ids = "exam_id" if b"exam_id" in data else None
    stated = sidecar.parse(made.sidecar(leads=list(LEADS), **({"ids": ids} if ids else {})))
    files = hdf5.Hdf5Files()
    found: list[Any] = []
    for read in (_rows_here, _rows_there):
        try:
            found.append(read(files, data, stated))
        except Refused as refused:
            found.append((refused.reason, refused.detail))
    assert found[0] == found[1]


def _rows_here(_: hdf5.Hdf5Files, data: bytes, stated: sidecar.Sidecar) -> dict[str, bytes]:
    file = File(io.BytesIO(data), len(data), stated.dataset, stated.ids)
    return {member: sidecar.MEMBER + file.row(member) for member in file.rows or ("0", "1")}


def _rows_there(files: hdf5.Hdf5Files, data: bytes, stated: sidecar.Sidecar) -> dict[str, bytes]:
    members = files.members(("a", ""), lambda: io.BytesIO(data), stated)
    return {member: files.row(("a", ""), lambda: io.BytesIO(data), stated, member) for member in members[:]}


@pytest.mark.parametrize(
    "said",
    [
        b'{"read": [-5, 10]}\n',
        b'{"read": [0, -1]}\n',
        b'{"read": [0, 9999999999]}\n',
        b'{"read": [5000, 10]}\n',
        b'{"read": [0.5, 10]}\n',
        b'{"read": [0]}\n',
        b'{"opened": 2}\n',
        b'{"opened": [1]}\n',
        b'{"reason": "no such reason", "detail": "x"}\n',
        b'{"reason": "truncated", "detail": ["x"]}\n',
        b'{"reason": "truncated"}\n',
        b'{"reason": "truncated", "detail": " "}\n',
        b'{"reason": "truncated", "detail": "/some are missing"}\n',
        b'{"reason": "truncated", "detail": "<b>some</b>"}\n',
        b'{"reason": "truncated", "detail": "%s"}\n' % (b"x" * 301),
        b'{"bytes": -1}\n',
        b'{"bytes": 99999999999}\n' + b"x" * 1000,
        b'{"bytes": 7}\nx',
        b"[" * 60_000 + b"\n",
        b"1" * 200_000,
        b"5\n",
        b"",
    ],
)
def test_what_an_attacked_child_says_is_looked_at(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """The library may have been made to say anything: it costs the file, and no more of it is read than there is."""
    lengths = []

    class Stream(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            lengths.append(size)
            return super().read(size)

    monkeypatch.setattr(hdf5.child, "start", lambda *_: Saying(said))
    with pytest.raises(Refused) as told:
        hdf5.Hdf5Files().row(("a", ""), lambda: Stream(bytes(1000)), sidecar.parse(SIDECAR["ecg.yaml"]), "1")
    assert (told.value.reason, told.value.detail) == (Reason.UNDECODABLE, "the HDF5 library crashed on this file")
    assert lengths == []


@pytest.mark.parametrize("answer", [b"x", b"[[[[", b'{"a": 1}', b"[1, 2]", b"-1", b"1e400", b"[" * 60_000])
def test_lists_of_records_that_an_attacked_child_makes_up(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    said = b'{"opened": 1}\n{"bytes": %d}\n' % len(answer) + answer
    monkeypatch.setattr(hdf5.child, "start", lambda *_: Saying(said))
    with pytest.raises(Refused, match="crashed on this file"):
        hdf5.Hdf5Files().members(("a", ""), lambda: io.BytesIO(b"x"), sidecar.parse(SIDECAR["ecg.yaml"]))


def test_a_child_that_never_stops_talking_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "SECONDS", 0.5)
    monkeypatch.setattr(hdf5.child, "start", lambda *_: _started("while True: print('{\"opened\": 1}')"))
    with pytest.raises(Refused, match=r"takes more than 0\.5 s"):
        hdf5.Hdf5Files().row(("a", ""), lambda: io.BytesIO(b"x"), sidecar.parse(SIDECAR["ecg.yaml"]), "1")


@pytest.mark.parametrize("place", ["tracings", "group/tracings"])
def test_a_link_is_not_followed_even_where_it_could_be(place: str, tmp_path: Path) -> None:
    """In the child nothing else can be opened: so here, in a process that may open all."""
    import h5py

    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["tracings"] = np.zeros((1, 100, 12), np.float32)
    for link in (h5py.ExternalLink(str(tmp_path / "other.h5"), "/tracings"), h5py.SoftLink("/here")):
        with h5py.File(tmp_path / "file.h5", "w") as file:
            file["here"] = np.zeros((1, 100, 12), np.float32)
            file[place] = link
        with h5py.File(tmp_path / "file.h5") as file:
            assert file[place].shape == (1, 100, 12)  # h5py follows it
            with pytest.raises(Refused, match=r"the HDF5 file has no dataset of 3 dimensions as ecg\.yaml names it"):
                _dataset(file, place, 3)
            assert _dataset(file, "here", 3).shape == (1, 100, 12)
