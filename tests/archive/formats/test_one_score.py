"""One tracing has one score, whatever it is kept in: real ECGs written in every format that we can write."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.convert import convert_archive
from screening.contract import LEADS
from screening.model.bundle import PRETRAINED, load_bundle
from screening.run.read import iter_results
from screening.settings import RunSettings
from screening.storage import Folder
from tests import hospital_files as made
from tests.archive import reference
from tests.people import PERSON
from tests.run.by_hand import run_by_hand

RECORDS = 6
FINE, COARSE = 1.0, 5.0
"""Microvolts a step: PTB-XL's own, and that of many machines."""


@pytest.fixture(scope="module")
def originals(ptbxl: Path) -> list[Path]:
    return sorted(ptbxl.glob("records500/**/*.hea"))[:RECORDS]


@pytest.fixture(scope="module")
def rows(originals: list[Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Return the result rows, by record id, of an archive that holds the records in every format."""
    folder = tmp_path_factory.mktemp("mixed")
    root = folder / "archive"
    in_hdf5 = {}
    for number, header in enumerate(originals):
        shutil.copytree(
            header.parent,
            root / "wfdb" / str(number),
            ignore=lambda at, names, stem=header.stem: [n for n in names if Path(n).stem != stem],
        )
        signal_mV = reference.read(header).p_signal.T
        fine, coarse = (np.rint(signal_mV * 1000 / step).astype(np.int64) for step in (FINE, COARSE))
        for form, (suffix, writer) in made.WRITERS.items():
            (root / form).mkdir(parents=True, exist_ok=True)
            (root / form / f"{number}{suffix}").write_bytes(writer(fine, step_uV=FINE))  # type: ignore[call-arg]
        (root / "coarse").mkdir(exist_ok=True)
        (root / "coarse" / f"{number}.xml.gz").write_bytes(gzip.compress(made.cardiosoft(coarse, step_uV=COARSE)))
        for form, data in {"csv": made.csv(fine), "npy": made.npy(fine)}.items():
            (root / form).mkdir(exist_ok=True)
            (root / form / f"{number}.{form}").write_bytes(data)
        in_hdf5[number] = fine
    (root / "hdf5").mkdir()
    (root / "hdf5/all.h5").write_bytes(made.hdf5(in_hdf5, samples=5500))
    (root / "ecg.yaml").write_bytes(made.sidecar(leads=list(LEADS), units_per_step=FINE, layout="samples_by_leads"))
    build_catalog(str(root), str(folder / "catalog"), deidentified=True)
    settings = RunSettings(attribution="none", donor_set=4, shard_records=32)  # type: ignore[call-arg]
    run = run_by_hand(folder / "catalog", folder / "runs", load_bundle(PRETRAINED), settings)
    return {row["record_id"]: row for table in iter_results(run) for row in table.to_pylist()}


def logits(rows: dict[str, dict[str, Any]], folder: str) -> np.ndarray:
    ids = sorted(record_id for record_id in rows if record_id.startswith(f"{folder}/"))
    assert len(ids) == RECORDS, ids
    assert {rows[record_id]["status"] for record_id in ids} == {"scored"}, [rows[i]["reason"] for i in ids]
    return np.array([rows[record_id]["logit"] for record_id in ids])


@pytest.mark.parametrize("form", ["cardiosoft-xml", "hl7-aecg", "dicom", "edf", "csv", "npy", "hdf5"])
def test_what_keeps_every_bit_has_the_very_same_score(form: str, rows: dict[str, dict[str, Any]]) -> None:
    np.testing.assert_allclose(logits(rows, form), logits(rows, "wfdb"), atol=2e-5, rtol=0)


@pytest.mark.parametrize("form", ["muse-xml", "scp-ecg", "sierra-xml"])
def test_derived_leads_are_a_step_apart_and_so_is_the_score(form: str, rows: dict[str, dict[str, Any]]) -> None:
    """MUSE and SCP-ECG keep eight leads: III, aVR, aVL and aVF are those of PTB-XL but for its rounding to 1 uV."""
    np.testing.assert_allclose(logits(rows, form), logits(rows, "wfdb"), atol=0.02, rtol=0)


def test_a_coarse_converter_moves_a_score_by_little(rows: dict[str, dict[str, Any]]) -> None:
    difference = logits(rows, "coarse") - logits(rows, "wfdb")
    assert np.abs(difference).max() < 0.1
    assert np.abs(difference).max() > 0


def test_one_tracing_in_many_formats_is_told_as_one(rows: dict[str, dict[str, Any]]) -> None:
    from screening.signal.tracing import SAME_BITS, bits_apart

    for number in range(RECORDS):
        mine = rows[f"wfdb/{number}/{next(i for i in rows if i.startswith(f'wfdb/{number}/')).rpartition('/')[2]}"]
        for form in made.WRITERS:
            (other,) = [row for i, row in rows.items() if i.startswith(f"{form}/{number}.")]
            assert bits_apart(mine["tracing_hash"], other["tracing_hash"]) <= SAME_BITS


# --- Copies ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def hospital(originals: list[Path], tmp_path: Path) -> Path:
    """Return a small archive with a broken file in it."""
    root = tmp_path / "hospital"
    root.mkdir()
    signal_mV = reference.read(originals[0]).p_signal.T
    for form, (suffix, writer) in made.WRITERS.items():
        (root / f"{PERSON.id}-{form}{suffix}").write_bytes(writer(np.rint(signal_mV * 200).astype(np.int64)))
    (root / "cut.xml").write_bytes(made.muse(np.rint(signal_mV * 200).astype(np.int64))[:9_000])
    return root


def test_convert_copies_every_format_and_nobody(hospital: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "screening",
            "convert",
            str(hospital),
            str(tmp_path / "copy"),
            "--key-file",
            str(tmp_path / "key"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "7 of 8 records copied and compared: at most" in done.stdout
    assert "refused        1  bad_header" in done.stdout
    for path in (tmp_path / "copy").rglob("*"):
        assert PERSON.id not in path.name
        if path.is_file():
            data = path.read_bytes()
            assert not any(secret.encode() in data for secret in (PERSON.id, PERSON.surname, "Sankt", "2011"))
    build_catalog(str(tmp_path / "copy"), str(tmp_path / "again"), deidentified=True)
    found = [row for batch in open_catalog(str(tmp_path / "again")).iter_batches() for row in batch.to_pylist()]
    assert len(found) == 7
    assert {(row["age"], row["sex"]) for row in found} == {(67, "male")}
    assert sum(bool(row["lbbb"]) for row in found) == 4
    assert len({row["patient_key"] for row in found}) == 1
    for row in found:  # as another reader reads them
        theirs = reference.read(tmp_path / "copy" / f"{row['record_id']}.hea")
        assert (theirs.fs, theirs.sig_len, theirs.sig_name) == (500, 5000, list(LEADS))


def test_a_copy_that_does_not_come_back_is_an_error(
    hospital: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from screening.archive import convert
    from screening.errors import StorageError

    build_catalog(str(hospital), str(tmp_path / "catalog"), deidentified=True)
    whole = convert.record_files

    def off(name: str, signal_mV: np.ndarray, *rest: Any) -> Any:
        return whole(name, signal_mV + np.float32(0.01), *rest)

    monkeypatch.setattr(convert, "record_files", off)
    job = convert._Job(
        str(hospital),
        Folder(str(tmp_path / "copy")),
        {},
        convert.Limits(30, 2048),
        [
            row
            for batch in open_catalog(str(tmp_path / "catalog")).iter_batches(with_location=True)
            for row in batch.to_pylist()
            if row["format"] == "edf"
        ],
        True,
    )
    with pytest.raises(StorageError, match=r"the copy records/.* does not come back as it was read \(10 uV apart\)"):
        convert._convert(job)


def test_samples_finer_than_sixteen_bits_hold_are_rounded_and_said(tmp_path: Path) -> None:
    root = tmp_path / "numbers"
    root.mkdir()
    values = np.random.default_rng(4).standard_normal((12, 5000)) * 300
    (root / "a.npy").write_bytes(made.npy(values, "<f8"))
    (root / "ecg.yaml").write_bytes(made.sidecar(leads=list(LEADS), units_per_step=1.0))
    build_catalog(str(root), str(tmp_path / "catalog"), deidentified=True)
    summary = convert_archive(open_catalog(str(tmp_path / "catalog")), Folder(str(tmp_path / "copy")), workers=1)
    assert summary.converted == 1
    assert 0 < summary.max_difference_uV <= 0.05 + 1e-3  # 10,000 steps a millivolt


# --- Archives in one file --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "./", "export/"])
def test_a_tar_file_is_an_archive(hospital: Path, tmp_path: Path, prefix: str) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(hospital.iterdir()):
            tar.add(path, f"{prefix}{path.name}")
        tar.addfile(tarfile.TarInfo("../outside.xml"))
        link = tarfile.TarInfo("link.xml")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    url = f"tar::file://{tmp_path}/a.tar"
    summary = build_catalog(url, str(tmp_path / "catalog"), deidentified=True)
    assert summary.records == 9
    here = convert_archive(open_catalog(str(tmp_path / "catalog")), Folder(str(tmp_path / "copy")), workers=1)
    assert (here.converted, here.refused) == (7, {"bad_header": 1, "unsafe_path": 1})


def test_a_packed_or_broken_tar_is_told(tmp_path: Path) -> None:
    from screening.errors import UserError

    with tarfile.open(tmp_path / "a.tar.gz", "w:gz") as tar:
        tar.add(__file__, "x.xml")
    (tmp_path / "none.tar").write_bytes(b"no tar at all" * 100)
    for name in ("a.tar.gz", "none.tar"):
        with pytest.raises(
            UserError, match="it is no tar file, a packed one, or cut off: .*; unpack it, or give a zip file"
        ):
            build_catalog(f"tar::file://{tmp_path}/{name}", str(tmp_path / "catalog"), deidentified=True)
