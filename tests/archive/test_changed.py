"""A file that is another than when it was catalogued is told from the one that was, on every kind of storage."""

from __future__ import annotations

import os
import re
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.reader import ArchiveReader
from screening.contract import LEADS, Reason
from screening.recording import Recording, Rejected
from screening.storage import Folder
from tests import wfdb_files
from tests.corpus.case import until_adc_zero


@pytest.fixture(params=["local", "memory", "s3"])
def archive(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    options: dict[str, Any] = request.getfixturevalue("s3") if request.param == "s3" else {}
    place = {"local": str(tmp_path / "archive"), "memory": f"memory://{uuid.uuid4().hex}", "s3": "s3://screening/ecg"}
    folder = Folder(place[request.param], options)
    for name, data in wfdb_files.record().items():
        folder.write(f"a/{name}", data)
    return folder


def version_in_catalog(archive: Folder, out: Path) -> str:
    build_catalog(archive.url, str(out), deidentified=True, storage_options=archive.storage_options)
    (batch,) = open_catalog(str(out)).iter_batches(["version"])
    return str(batch["version"][0].as_py())


def test_a_replaced_file_is_said_and_a_new_catalog_takes_it_up(archive: Folder, tmp_path: Path) -> None:
    version = version_in_catalog(archive, tmp_path / "catalog")
    reader = ArchiveReader(archive.url, archive.storage_options)
    before = reader.read("a/r.hea", "id", version=version)
    assert isinstance(before, Recording)

    samples = wfdb_files.ecg()[:, ::-1].copy()  # as many bytes as before, other ones
    for name, data in wfdb_files.record(digital=samples).items():
        archive.write(f"a/{name}", data)
    changed = reader.read("a/r.hea", "id", version=version)
    assert changed == Rejected("id", Reason.CHANGED, "a file of the record is not the one that was catalogued")
    assert isinstance(reader.read("a/r.hea", "id"), Recording)
    renewed = version_in_catalog(archive, tmp_path / "catalog")
    after = reader.read("a/r.hea", "id", version=renewed)
    assert isinstance(after, Recording)
    assert after.sha256 != before.sha256


def test_other_files_beside_a_record_do_not_matter(archive: Folder, tmp_path: Path) -> None:
    archive.write("a/r.atr", b"annotations")
    version = version_in_catalog(archive, tmp_path / "catalog")
    archive.write("a/r.atr", b"other annotations")
    archive.write("a/r.qrs", b"more")
    assert isinstance(
        ArchiveReader(archive.url, archive.storage_options).read("a/r.hea", "id", version=version), Recording
    )


def _one_other(samples: np.ndarray) -> dict[str, bytes]:
    files = wfdb_files.record(digital=samples)
    return {"r.hea": until_adc_zero(files["r.hea"]).replace(b"r.dat", b"s.dat"), "s.dat": files["r.dat"]}


def _own_and_other(samples: np.ndarray) -> dict[str, bytes]:
    lines = [f"r 12 500 {samples.shape[1]}"]
    names = zip(("r.dat",) * 6 + ("s.dat",) * 6, samples, LEADS, strict=True)
    lines += [wfdb_files.signal_line(file, "16", lead, name) for file, lead, name in names]
    parts = {
        name: wfdb_files.encode(16, samples[rows]) for name, rows in (("r.dat", slice(6)), ("s.dat", slice(6, 12)))
    }
    return {"r.hea": until_adc_zero("\n".join(lines).encode()), **parts}


def _segments(samples: np.ndarray) -> dict[str, bytes]:
    files = wfdb_files.record("r_1", digital=samples)
    head = f"r/1 12 500 {samples.shape[1]}\nr_1 {samples.shape[1]}\n".encode()
    return {"r.hea": head, "r_1.hea": until_adc_zero(files["r_1.hea"]), "r_1.dat": files["r_1.dat"]}


@pytest.mark.parametrize("kind", [_one_other, _own_and_other, _segments])
def test_a_replaced_file_of_another_stem_is_said(archive: Folder, tmp_path: Path, kind: Any) -> None:
    first = {name: data for name, data in kind(wfdb_files.ecg()).items()}
    other = kind(wfdb_files.ecg()[:, ::-1].copy())
    for name in ("r.hea", "r.dat"):
        archive.remove(f"a/{name}")
    for name, data in first.items():
        archive.write(f"b/{name}", data)
    archive.write("RECORDS", b"b/r\n")
    version = version_in_catalog(archive, tmp_path / "catalog")
    reader = ArchiveReader(archive.url, archive.storage_options)
    before = reader.read("b/r.hea", "id", version=version)
    assert isinstance(before, Recording), before
    assert version_in_catalog(archive, tmp_path / "catalog") == version
    (changed,) = [name for name in other if name in ("s.dat", "r_1.dat")]
    archive.write(f"b/{changed}", other[changed])
    assert reader.read("b/r.hea", "id", version=version) == Rejected(
        "id", Reason.CHANGED, "a file of the record is not the one that was catalogued"
    )
    summary = build_catalog(
        archive.url, str(tmp_path / "catalog"), deidentified=True, storage_options=archive.storage_options
    )
    assert (summary.changed, summary.unchanged) == (1, 0)
    after = reader.read("b/r.hea", "id", version=version_in_catalog(archive, tmp_path / "catalog"))
    assert isinstance(after, Recording)
    assert after.sha256 != before.sha256


def test_ordinary_records_keep_their_versions_and_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise AssertionError("a header was read to see what it names")

    archive = Folder(str(tmp_path / "archive"))
    for number in range(70):
        for name, data in wfdb_files.record(f"r{number}", digital=wfdb_files.ecg(100)).items():
            archive.write(f"a/{name}", data)
    for name in ("a/stray.dat", "a/r1.atr", "a/notes.txt", "a/table.csv"):
        archive.write(name, b"of nobody's")
    monkeypatch.setattr(ArchiveReader, "elsewhere", fail)
    version = version_in_catalog(archive, tmp_path / "catalog")
    assert re.fullmatch(r"\.dat:\w{10}/\.hea:\w{10}", version)


def test_a_file_that_came_after_the_catalog(tmp_path: Path) -> None:
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / "RECORDS").write_text("a/r\n")
    archive = Folder(str(tmp_path / "archive"))
    version = version_in_catalog(archive, tmp_path / "catalog")
    reader = ArchiveReader(archive.url)
    absent = reader.read("a/r.hea", "id", version=version)
    assert isinstance(absent, Rejected)
    assert absent.reason == Reason.MISSING_FILE
    for name, data in wfdb_files.record().items():
        archive.write(f"a/{name}", data)
    come = reader.read("a/r.hea", "id", version=version)
    assert isinstance(come, Rejected)
    assert come.reason == Reason.CHANGED


def test_a_file_that_is_written_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = Folder(str(tmp_path / "archive"))
    for name, data in wfdb_files.record().items():
        archive.write(name, data)
    version = version_in_catalog(archive, tmp_path / "catalog")
    read = os.read

    def slowly(descriptor: int, size: int) -> bytes:
        data = read(descriptor, size)
        with (tmp_path / "archive" / "r.dat").open("r+b") as file:
            file.write(b"\0\0")
        return data

    monkeypatch.setattr(os, "read", slowly)
    got = ArchiveReader(archive.url).read("r.hea", "id", version=version)
    assert isinstance(got, Rejected)
    assert got.reason == Reason.CHANGED


def test_an_answer_that_was_cut_is_the_storages_fault(
    s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Folder("s3://screening/cut", s3)
    for name, data in wfdb_files.record().items():
        archive.write(name, data)
    version = version_in_catalog(archive, tmp_path / "catalog")
    cat_file = type(archive.filesystem).cat_file

    def cut(self: Any, path: str, **options: Any) -> bytes:
        return bytes(cat_file(self, path, **options))[:1000]

    monkeypatch.setattr(type(archive.filesystem), "cat_file", cut)
    monkeypatch.setattr("screening.archive.reader.objects_below", lambda *_: None)
    with pytest.raises(OSError, match="storage gave 1000 of 120000 bytes"):
        ArchiveReader(archive.url, s3).read("r.hea", "id", version=version)
