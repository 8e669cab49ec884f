"""Zip files that attack, or that other programs wrote: each member has one outcome, and none takes more than its limits."""

from __future__ import annotations

import io
import resource
import struct
import zipfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import pytest

from screening.archive.build import build_catalog
from screening.archive.reader import ArchiveReader
from screening.contract import LEADS, Reason
from screening.errors import UserError
from screening.recording import Recording, Rejected
from screening.zip import ZipArchive
from tests import hospital_files as made
from tests.hostile_archives import outcomes
from tests.wfdb_files import ecg, record

FAT, UNIX = 0, 3


def zipped(files: Mapping[str, bytes], method: int = zipfile.ZIP_STORED, system: int = UNIX) -> bytearray:
    """Return a zip file whose names stand as they are given."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, data in files.items():
            entry = zipfile.ZipInfo(name)
            entry.create_system, entry.compress_type = system, method
            packed.writestr(entry, data)
    return bytearray(out.getvalue())


def found_in(data: bytes, folder: Path) -> tuple[dict[str, Reason | None], str]:
    """Return what became of each record, and what the scan told."""
    (folder / "a.zip").write_bytes(data)
    summary = build_catalog(f"zip::file://{folder}/a.zip", str(folder / "c"), deidentified=True)
    return outcomes(folder / "c"), " ".join(summary.warnings)


def in_directory(data: bytes, name: bytes) -> int:
    """Return where a member's entry in the directory begins."""
    return data.rfind(name) - 46


def test_a_zip_file_that_attacks(tmp_path: Path) -> None:
    good, header = record(), record()["r.hea"]
    names = ("good", "damaged", "../climbs", "encrypted", "overstated", "claims", "far")
    files = {f"{name}/{file}": content for name in names for file, content in good.items()}
    files |= {"bomb/r.hea": header, "bomb/r.dat": bytes(80_000_000), "header_bomb/r.hea": bytes(8_000_000)}
    data = zipped(files, zipfile.ZIP_DEFLATED)
    entry = {name: in_directory(data, f"{name}/r.dat".encode()) for name in names}
    (at,) = struct.unpack_from("<I", data, entry["damaged"] + 42)
    data[at + 200] ^= 0xFF
    data[entry["encrypted"] + 8] |= 1
    struct.pack_into("<I", data, entry["overstated"] + 24, len(good["r.dat"]) + 1000)
    struct.pack_into("<I", data, entry["claims"] + 24, 2**32 - 2)
    struct.pack_into("<I", data, entry["far"] + 42, 2**32 - 2)
    found, _ = found_in(data, tmp_path)
    assert found == {
        "good/r": None,
        "damaged/r": Reason.UNDECODABLE,
        "../climbs/r": Reason.UNSAFE_PATH,
        "encrypted/r": Reason.UNDECODABLE,
        "overstated/r": Reason.TRUNCATED,
        "claims/r": Reason.UNDECODABLE,
        "far/r": Reason.UNDECODABLE,
        "bomb/r": Reason.TOO_LARGE,
        "header_bomb/r": Reason.UNKNOWN_FORMAT,
    }
    reader = ArchiveReader(f"zip::file://{tmp_path}/a.zip")
    for name, why in {
        "damaged": "it is damaged",
        "encrypted": "it is encrypted",
        "claims": "it claims more bytes than it can hold",
        "far": "it lies over another, or outside the file",
    }.items():
        got = reader.read(f"{name}/r.hea", "x")
        assert isinstance(got, Rejected)
        assert got.detail == f"a file of the record cannot be unpacked from the archive: {why}"


@pytest.mark.parametrize(
    ("form", "system", "expected"),
    [
        ("./a/{}", UNIX, {"a/r": None}),
        ("/a/{}", UNIX, {"a/r": None}),
        ("//a//./{}", UNIX, {"a/r": None}),
        ("b/../a/{}", UNIX, {"a/r": None}),
        ("a\\{}", FAT, {"a/r": None}),  # as programs of Windows wrote it, and unzip reads it
        ("a\\{}", UNIX, {"a\\r": Reason.UNSAFE_PATH}),
        ("b/a\\{}", FAT, {"b/a\\r": Reason.UNSAFE_PATH}),
        ("..\\{}", FAT, {"../r": Reason.UNSAFE_PATH}),
        ("C:\\{}", FAT, {"C:/r": Reason.UNSAFE_PATH}),
        ("b/../../a/{}", UNIX, {"../a/r": Reason.UNSAFE_PATH}),
    ],
)
def test_names_of_members(form: str, system: int, expected: dict[str, Reason | None], tmp_path: Path) -> None:
    files = {form.format(name): data for name, data in record().items()}
    found, _ = found_in(
        zipped(files | {f"good/{name}": data for name, data in record().items()}, system=system), tmp_path
    )
    assert found == expected | {"good/r": None}


def test_members_without_a_place_are_told_and_take_no_memory(tmp_path: Path) -> None:
    good = {f"good/{name}": data for name, data in record().items()}
    odd = {
        "good": b"lies where a folder is",
        "d/" * 30_000 + "r.hea": b"deep",
        "n" * 60_000: b"long",
        "e/" * 101 + "r": b"",
    }
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    found, told = found_in(zipped(good | odd), tmp_path)
    assert found == {"good/r": None}
    assert "4 members of the zip or tar file were left out: they are links or devices, lie where a folder is" in told
    assert (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024
    )  # a name for each folder would be 900 MB


@pytest.mark.parametrize(("method", "number"), [(zipfile.ZIP_BZIP2, 12), (zipfile.ZIP_LZMA, 14)])
def test_methods_that_unpack_without_a_bound_are_not_read(method: int, number: int, tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"r.hea": record()["r.hea"], "r.dat": bytes(5_000_000)}, method))
    got = ArchiveReader(f"zip::file://{tmp_path}/a.zip").read("r.hea", "x")
    assert isinstance(got, Rejected)
    assert got.reason == Reason.UNDECODABLE
    assert f"it is packed by method {number}, and only 0 and 8 are read; zip it anew" in got.detail


def test_members_that_overlap_cost_a_row_each(tmp_path: Path) -> None:
    """One kernel of data that hundreds of members share would be unpacked for each."""
    files = {f"{at:03}/{name}": content for at in range(3) for name, content in record().items()}
    data = zipped(files)
    at = in_directory(data, b"000/r.dat")
    size, _, first = struct.unpack_from("<IIxxxxxxxxxxxxxxI", data, at + 20)
    struct.pack_into("<II", data, at + 20, size + 10, size + 10)
    struct.pack_into("<I", data, in_directory(data, b"001/r.dat") + 42, first)
    found, _ = found_in(data, tmp_path)
    assert Counter(found.values()) == {None: 1, Reason.UNDECODABLE: 2}


def test_lists_in_a_zip_file_that_cannot_be_unpacked(tmp_path: Path) -> None:
    files = {f"a/{name}": content for name, content in record().items()} | {"RECORDS": b"a/r\n" * 500}
    data = zipped(files, zipfile.ZIP_DEFLATED)
    (at,) = struct.unpack_from("<I", data, in_directory(data, b"RECORDS") + 42)
    data[at + 40] ^= 0xFF
    with pytest.raises(
        UserError, match=r"^RECORDS in the archive cannot be unpacked: it is damaged; make the archive anew\.$"
    ):
        found_in(data, tmp_path)
    data[in_directory(data, b"RECORDS") + 8] |= 1
    with pytest.raises(UserError, match=r"^'?RECORDS'? in the archive cannot be unpacked: it is encrypted\.$"):
        found_in(data, tmp_path)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "File is not a zip file"),
        (b"PK\x03\x04 no", "File is not a zip file"),
        (
            b"PK\x05\x06" + b"\xff" * 18,
            "Bad offset for central directory|points to a place",
        ),  # by the version of Python
    ],
)
def test_a_zip_file_that_is_none(data: bytes, why: str, tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=rf"it is no zip file, or a damaged one: .*({why}).*; make it anew, or unpack it"
    ):
        found_in(data, tmp_path)


def test_a_directory_that_claims_gigabytes_is_not_read(tmp_path: Path) -> None:
    end = 5 * 2**30
    with open(tmp_path / "a.zip", "wb") as file:
        file.truncate(end)  # they are there, and take no place on the disk
        file.seek(end)
        file.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, 4 * 2**30, 2**30))
        file.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
        file.write(b"PK\5\6" + b"\0\0\0\0" + b"\xff" * 12 + b"\0\0")
    with pytest.raises(UserError, match="its directory claims 4294967296 bytes"):
        build_catalog(f"zip::file://{tmp_path}/a.zip", str(tmp_path / "c"), deidentified=True)


def test_a_size_that_no_table_holds(tmp_path: Path) -> None:
    data = zipped({"a/r.hea": record()["r.hea"], "a/r.dat": record()["r.dat"]})
    at = in_directory(data, b"a/r.dat")
    struct.pack_into("<I", data, at + 24, 2**32 - 1)
    struct.pack_into("<H", data, at + 30, 12)
    data[at + 46 + 7 : at + 46 + 7] = struct.pack("<HHQ", 1, 8, 2**64 - 1)
    end = data.rfind(b"PK\5\6")
    struct.pack_into("<I", data, end + 12, struct.unpack_from("<I", data, end + 12)[0] + 12)
    found, _ = found_in(data, tmp_path)
    assert found == {"a/r": Reason.UNDECODABLE}


def test_hdf5_in_a_zip_file_is_read_in_its_place(tmp_path: Path) -> None:
    files = {"ecg.yaml": made.sidecar(leads=list(LEADS)), "a.h5": made.hdf5({1: ecg(), 2: ecg()}, samples=5000)}
    (tmp_path / "stored.zip").write_bytes(zipped(files))
    (tmp_path / "packed.zip").write_bytes(zipped(files, zipfile.ZIP_DEFLATED))
    assert isinstance(ArchiveReader(f"zip::file://{tmp_path}/stored.zip").read("a.h5#1", "x"), Recording)
    got = ArchiveReader(f"zip::file://{tmp_path}/packed.zip").read("a.h5#1", "x")
    assert isinstance(got, Rejected)
    assert (got.reason, got.detail.partition(": ")[2]) == (
        Reason.UNDECODABLE,
        "only the whole of it can be read, for it is packed; store it in the zip file as it is",
    )


def test_what_is_read_is_what_pythons_own_reader_gives() -> None:
    files = {**record(), "folder/": b"", "folder/RECORDS": b"r\n", "empty": b""}
    for method in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        data = b"before it" + zipped(files, method)
        with zipfile.ZipFile(io.BytesIO(data)) as own:
            wanted = {entry.filename: own.read(entry) for entry in own.infolist() if not entry.is_dir()}
        fs = ZipArchive(io.BytesIO(data))
        assert {name: fs.cat_file(name) for name in fs.find("")} == wanted
        assert fs.cat_file("r.dat", start=7, end=-5) == wanted["r.dat"][7:-5]
        with fs.open("r.dat") as stream:
            assert stream.read() == wanted["r.dat"]
        if method == zipfile.ZIP_STORED:
            window = fs.window("r.dat")
            window.seek(-9, io.SEEK_END)
            assert window.read() == wanted["r.dat"][-9:]
        assert fs.ls("", detail=False) == ["empty", "folder", "r.dat", "r.hea"]
        with pytest.raises(OSError, match="read only"):
            fs.open("r.dat", "wb")
