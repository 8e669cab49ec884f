"""Tables of numbers (CSV, NPY, HDF5), which a sidecar explains."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from screening.archive.build import build_catalog
from screening.archive.formats import sidecar as tables
from screening.archive.reader import ArchiveReader, decode
from screening.contract import LEADS, Reason
from screening.recording import Rejected
from tests import hospital_files as made
from tests.archive.formats.expected import SIDECAR, STEP_MV, good, rows_of
from tests.corpus.hospital_files import digital


@pytest.mark.parametrize(
    ("data", "form"),
    [
        (made.csv(digital()), "csv"),
        (made.csv(digital()).replace(b",", b";").replace(b"\n", b"\r\n"), "csv"),
        (b"\xef\xbb\xbf" + made.csv(digital()).replace(b",", b"\t"), "csv"),
        (made.csv(digital(), header=False), "csv"),
        (made.npy(digital()), "npy"),
        (made.npy(digital(), ">i4"), "npy"),
        (made.npy(digital(), "<f8"), "npy"),
        (made.npy(digital().T), "npy"),
        (made.npy(digital()).replace(b"(5000, 12), }  ", b"(5000L, 12L), }"), "npy"),  # of Python 2, on Windows
        (gzip.compress(made.csv(digital()), mtime=0), "csv"),
        (gzip.compress(made.npy(digital()), mtime=0), "npy"),
        (b"# exported, by a cart\n\n% 500 Hz\r\n" + made.csv(digital()), "csv"),
        (b"# " + made.csv(digital()), "csv"),
        (made.csv(digital()).replace(b"time,I,", b"'Elapsed time','I',", 1), "csv"),
        (made.csv(digital().T, header=False), "csv"),
    ],
)
def test_tables_are_read_by_their_sidecar(data: bytes, form: str) -> None:
    got = good(decode("x", data, SIDECAR))
    assert (got.source_format, got.unit_source, got.rate_hz) == (form, "ecg.yaml", 500)
    np.testing.assert_allclose(got.signal_mV, digital() * STEP_MV, atol=1e-6, rtol=0)


@pytest.mark.parametrize("key", ["Quackenbush", "unit.Quackenbush", "leads.0", "../unit"])
def test_a_key_that_a_sidecar_does_not_know_is_not_quoted(key: str) -> None:
    got = decode("x", made.npy(digital()), {tables.SIDECAR: made.sidecar(leads=list(LEADS)) + f"{key}: 1\n".encode()})
    assert isinstance(got, Rejected)
    assert got.detail == "ecg.yaml has a bad setting of a name that is not known: Extra inputs are not permitted"


MV = {tables.SIDECAR: made.sidecar(unit="mV", units_per_step=1.0)}


@pytest.mark.parametrize(
    ("header", "sidecar", "is_right"),
    [
        ("time (s),{} (mV)", MV, True),
        ("time,{} [mV]", MV, True),
        ("time;{} (µV)", MV, False),
        ("time,{} (raw)", MV, True),
        ("time,{} (mV)", {tables.SIDECAR: made.sidecar(unit="V", units_per_step=1e-3)}, True),
        ("time,{} (mV)", SIDECAR, False),
        ("time,{}\ns,mV", MV, True),
        ("time,{}\n(s),(mV)", MV, True),
        ("time,{}\ns,uV", MV, False),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_units_in_a_table_have_to_be_those_of_its_sidecar(
    header: str, sidecar: dict[str, bytes], is_right: bool, encoding: str
) -> None:
    delimiter = ";" if ";" in header else ","
    lines = []
    for line in header.split("\n"):
        first, each = line.split(delimiter)
        lines.append(delimiter.join([first, *(each.replace("{}", lead) for lead in LEADS)]))
    lines += [
        delimiter.join([f"{at / 500:g}", *map(str, row)]) for at, row in enumerate((digital() * STEP_MV).T.tolist())
    ]
    got = decode("x", "\n".join(lines).encode(encoding), sidecar)
    if is_right:
        np.testing.assert_allclose(good(got).signal_mV, digital() * STEP_MV, atol=1e-6, rtol=0)
    else:
        assert isinstance(got, Rejected)
        assert (got.reason, got.detail) == (
            Reason.MISSING_UNITS,
            "the header says another unit of lead I than ecg.yaml does with units_per_step",
        )


def test_tables_packed_by_gzip_are_found_and_read(tmp_path: Path) -> None:
    root = tmp_path / "archive"
    root.mkdir()
    for name, data in {"a.csv.gz": made.csv(digital()), "b.NPY.gz": made.npy(digital())}.items():
        (root / name).write_bytes(gzip.compress(data))
    (root / "ecg.yaml").write_bytes(SIDECAR["ecg.yaml"])
    build_catalog(str(root), str(tmp_path / "catalog"), deidentified=True)
    reader = ArchiveReader(str(root))
    rows = rows_of(tmp_path)
    assert {row["record_id"] for row in rows} == {"a.csv.gz", "b.NPY.gz"}
    for row in rows:
        got = good(reader.read(row["record_id"], "x", version=row["version"]))
        np.testing.assert_allclose(got.signal_mV, digital() * STEP_MV, atol=1e-6, rtol=0)


def test_the_nearest_sidecar_holds_and_a_change_of_it_changes_the_records(tmp_path: Path) -> None:
    root, catalog = tmp_path / "archive", tmp_path / "catalog"
    (root / "a/b").mkdir(parents=True)
    for name in ("a/one.npy", "a/b/two.npy"):
        (root / name).write_bytes(made.npy(digital()))
    (root / "ecg.yaml").write_bytes(SIDECAR["ecg.yaml"])
    (root / "a/b/ecg.yaml").write_bytes(made.sidecar(leads=list(LEADS), rate_hz=250))
    build_catalog(str(root), str(catalog), deidentified=True)
    versions = {row["record_id"]: row["version"] for row in rows_of(tmp_path)}
    reader = ArchiveReader(str(root))
    rates = {name: good(reader.read(name, "x", version=version)).rate_hz for name, version in versions.items()}
    assert rates == {"a/one.npy": 500, "a/b/two.npy": 250}
    (root / "ecg.yaml").write_bytes(made.sidecar(leads=list(LEADS), rate_hz=1000))
    got = reader.read("a/one.npy", "x", version=versions["a/one.npy"])
    assert isinstance(got, Rejected)
    assert got.reason == Reason.CHANGED
    summary = build_catalog(str(root), str(catalog), deidentified=True)
    assert (summary.changed, summary.unchanged) == (1, 1)


def test_code_15_is_found_by_its_table(tmp_path: Path) -> None:
    root, catalog = tmp_path / "archive", tmp_path / "catalog"
    root.mkdir()
    ecgs = {1169160: digital(), 77: np.roll(digital(), 100, axis=1)[:, :2934]}
    (root / "exams_part0.hdf5").write_bytes(made.hdf5(ecgs, samples=5096))
    (root / "ecg.yaml").write_bytes(
        made.sidecar(leads=["DI", "DII", "DIII", "AVR", *LEADS[4:]], ids="exam_id", rate_hz=400)
    )
    (root / "exams.csv").write_text(
        "exam_id,age,is_male,nn_predicted_age,1dAVb,RBBB,LBBB,SB,ST,AF,patient_id,death,timey,normal_ecg,trace_file\n"
        "1169160,38,True,40.1,False,False,True,False,False,False,523632,False,2.0,False,exams_part0.hdf5\n"
        "77,73,False,67.0,False,False,False,False,False,False,1724173,False,0.9,False,exams_part0.hdf5\n"
        "78,73,False,67.0,False,False,False,False,False,False,1724173,False,0.9,False,exams_part0.hdf5\n"
    )
    build_catalog(str(root), str(catalog), deidentified=True)
    rows = {row["record_id"]: row for row in rows_of(tmp_path)}
    assert {key: (row["age"], row["sex"], row["lbbb"]) for key, row in rows.items()} == {
        "exams_part0.hdf5#1169160": (38, "male", True),
        "exams_part0.hdf5#77": (73, "female", None),
        "exams_part0.hdf5#78": (73, "female", None),
    }
    reader = ArchiveReader(str(root))
    for key, samples in ecgs.items():
        got = good(reader.read(f"exams_part0.hdf5#{key}", "x", version=rows[f"exams_part0.hdf5#{key}"]["version"]))
        assert (got.flags, got.rate_hz, got.source_format) == (("padding_removed",), 400, "hdf5")
        np.testing.assert_allclose(got.signal_mV, samples * STEP_MV, atol=1e-6, rtol=0)
    absent = reader.read("exams_part0.hdf5#78", "x")
    assert isinstance(absent, Rejected)
    assert (absent.reason, absent.detail) == (Reason.MISSING_FILE, "the HDF5 file holds no record of this id")


def test_records_of_an_hdf5_file_are_listed_where_no_table_names_them(tmp_path: Path) -> None:
    root, catalog = tmp_path / "archive", tmp_path / "catalog"
    root.mkdir()
    (root / "many.h5").write_bytes(made.hdf5({5: digital(), 6: digital()[:, :4000]}, samples=5000))
    (root / "ecg.yaml").write_bytes(SIDECAR["ecg.yaml"])
    build_catalog(str(root), str(catalog), deidentified=True)
    assert sorted(row["record_id"] for row in rows_of(tmp_path)) == ["many.h5#0", "many.h5#1"]
    assert good(ArchiveReader(str(root)).read("many.h5#1", "x")).signal_mV.shape == (12, 4000)


def test_of_two_records_with_one_id_in_an_hdf5_file_neither_is_taken_for_the_other(tmp_path: Path) -> None:
    import h5py

    (tmp_path / "ecg.yaml").write_bytes(made.sidecar(leads=list(LEADS), ids="exam_id"))
    (tmp_path / "twice.h5").write_bytes(made.hdf5({5: digital(), 6: digital()}, samples=5000))
    with h5py.File(tmp_path / "twice.h5", "r+") as file:
        file["exam_id"][:] = 5
    got = ArchiveReader(str(tmp_path)).read("twice.h5#5", "x")
    assert isinstance(got, Rejected)
    assert (got.reason, got.detail) == (Reason.BAD_HEADER, "two records have one id")


def test_hdf5_that_leads_elsewhere_or_is_damaged_is_refused(tmp_path: Path) -> None:
    import h5py

    (tmp_path / "ecg.yaml").write_bytes(SIDECAR["ecg.yaml"])
    (tmp_path / "good.h5").write_bytes(made.hdf5({1: digital()}, samples=5000))
    whole = (tmp_path / "good.h5").read_bytes()
    with h5py.File(tmp_path / "link.h5", "w") as file:
        file["tracings"] = h5py.ExternalLink(str(tmp_path / "good.h5"), "/tracings")
    with h5py.File(tmp_path / "raw.h5", "w") as file:
        file.create_dataset("tracings", (1, 10, 12), "i2", external=[("/etc/passwd", 0, 240)])
    with h5py.File(tmp_path / "flat.h5", "w") as file:
        file["tracings"] = np.zeros((10, 12))
    with h5py.File(tmp_path / "bomb.h5", "w") as file:  # 96 MB of zeros in some kB, for one record of them
        file.create_dataset("tracings", (4000, 500, 12), "f4", chunks=(4000, 500, 12), compression="gzip")[:] = 0
    (tmp_path / "cut.h5").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "none.h5").write_bytes(b"no HDF5 at all" * 99)
    reader = ArchiveReader(str(tmp_path))
    expected = {
        "link.h5#0": (Reason.BAD_HEADER, "no dataset of 3 dimensions"),
        "raw.h5#0": (Reason.UNSAFE_PATH, "in another file"),
        "bomb.h5#0": (Reason.TOO_LARGE, "in chunks of 96000000 bytes; h5repack makes smaller ones"),
        "flat.h5#0": (Reason.BAD_HEADER, "no dataset of 3 dimensions"),
        "cut.h5#0": (Reason.UNDECODABLE, "damaged, or cut off"),
        "none.h5#0": (Reason.UNDECODABLE, "damaged, or cut off"),
        "good.h5#1": (Reason.MISSING_FILE, "no record of this id"),
        "good.h5": (Reason.MISSING_FILE, "none of them is named"),
    }
    for location, (reason, why) in expected.items():
        got = reader.read(location, "x")
        assert isinstance(got, Rejected), location
        assert got.reason == reason, got
        assert why in got.detail
