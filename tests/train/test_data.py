from __future__ import annotations

import ast
import csv
import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest

from screening.archive.build import build_catalog
from screening.archive.labels import PRESETS
from screening.errors import UserError
from screening.signal.preprocess import Preprocessing, preprocess
from screening.signal.quality import assess
from screening.train.data import TrainingSet, check_disjoint, load_training_set

RECORDS, INFARCTS = 14, 3


@pytest.fixture(scope="module")
def archive(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small PTB-XL: one record damaged, one twice, one without a statement, one without a fold."""
    folder = tmp_path_factory.mktemp("small") / "archive"
    folder.mkdir()
    shutil.copy(ptbxl / "scp_statements.csv", folder)
    with (ptbxl / "ptbxl_database.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    infarcts = [row for row in rows if "MI'" in row["scp_codes"]][:INFARCTS]
    rows = infarcts + [row for row in rows if row not in infarcts][: RECORDS - INFARCTS]
    for row in rows:
        target = folder / row["filename_hr"]
        target.parent.mkdir(parents=True, exist_ok=True)
        for suffix in (".hea", ".dat"):
            shutil.copy(ptbxl / (row["filename_hr"] + suffix), target.with_name(target.name + suffix))
    damaged, copied = rows[1], rows[2]
    with (folder / (damaged["filename_hr"] + ".dat")).open("r+b") as stream:
        stream.truncate(5000)
    twin = {**copied, "ecg_id": "99999", "filename_hr": copied["filename_hr"].replace("records500/", "records500/9")}
    (folder / twin["filename_hr"]).parent.mkdir(parents=True)
    for suffix in (".hea", ".dat"):
        shutil.copy(folder / (copied["filename_hr"] + suffix), folder / (twin["filename_hr"] + suffix))
    rows[6] = {**rows[6], "scp_codes": "{}"}
    rows[7] = {**rows[7], "strat_fold": ""}
    with (folder / "ptbxl_database.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows([*rows, twin])
    return folder


@pytest.fixture(scope="module")
def catalog(archive: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("catalog") / "catalog"
    build_catalog(str(archive), str(out), labels=PRESETS["ptbxl-mi"], deidentified=True)
    return str(out)


@pytest.fixture(scope="module")
def loaded(catalog: str) -> TrainingSet:
    return load_training_set(catalog, Preprocessing())


def test_every_record_is_here_or_counted(loaded: TrainingSet) -> None:
    assert loaded.left_out == {"duplicate": 1, "truncated": 1, "unlabelled": 1}
    assert len(loaded) == RECORDS + 1 - 3
    assert sum(loaded.counts().values()) == len(loaded)
    assert loaded.counts()["MI"] == INFARCTS - 1 == loaded.target.sum()
    for field in dataclasses.fields(loaded):
        if field.name != "left_out":
            assert len(getattr(loaded, field.name)) == len(loaded), field.name


def test_signals_are_what_screening_sees(loaded: TrainingSet, archive: Path) -> None:
    """PTB-XL's own format by hand (int16, 1000 units a mV), filtered by the bundle's preprocessing."""
    assert loaded.signals_mV.dtype == np.float32
    assert loaded.signals_mV.shape[1:] == (12, 1000)
    for record_id, signal in zip(loaded.record_id, loaded.signals_mV, strict=True):
        physical = np.fromfile(archive / f"{record_id}.dat", "<i2").reshape(-1, 12).T.astype(np.float32) / 1000
        np.testing.assert_allclose(signal, preprocess(physical[None], 500.0, Preprocessing())[0], atol=1e-4)


def test_quality_is_what_screening_measures(loaded: TrainingSet, archive: Path) -> None:
    for record_id, row, flags in zip(loaded.record_id, loaded.quality, loaded.quality_flags, strict=True):
        physical = np.fromfile(archive / f"{record_id}.dat", "<i2").reshape(-1, 12).T.astype(np.float32) / 1000
        measured = assess(physical[None], 500.0)
        for name in loaded.quality.dtype.names:
            assert row[name] == pytest.approx(measured[name][0], rel=1e-3, abs=1e-6), name
        assert flags == measured["quality_flags"][0]


def test_labels_and_folds_are_the_table_s(loaded: TrainingSet, archive: Path) -> None:
    with (archive / "ptbxl_database.csv").open(newline="") as stream:
        rows = {row["filename_hr"]: row for row in csv.DictReader(stream)}
    for record_id, label, fold, target in zip(loaded.record_id, loaded.label, loaded.fold, loaded.target, strict=True):
        row = rows[record_id]
        assert target == (label == "MI")
        if label == "NORM":
            assert "'NORM'" in row["scp_codes"]
        if row["strat_fold"]:
            assert fold == int(row["strat_fold"].split(".")[0])
        else:
            assert 1 <= fold <= 10


def test_what_groups_are_made_from_is_the_table_s(loaded: TrainingSet, archive: Path) -> None:
    with (archive / "ptbxl_database.csv").open(newline="") as stream:
        rows = {row["filename_hr"]: row for row in csv.DictReader(stream)}
    for record_id, statements, site, device in zip(
        loaded.record_id, loaded.statements, loaded.site, loaded.device, strict=True
    ):
        row = rows[record_id]
        assert isinstance(statements, tuple)
        assert sorted(statements) == sorted(ast.literal_eval(row["scp_codes"]))
        assert (site or "") == row["site"].removesuffix(".0")
        assert " ".join((device or "").split()) == " ".join(row["device"].split())
    assert len({len(codes) for codes in loaded.statements}) > 1  # tuples of several lengths stay tuples
    assert loaded.where(np.arange(2)).statements.tolist() == loaded.statements.tolist()[:2]


def test_only_the_wanted_folds_are_read(catalog: str, loaded: TrainingSet) -> None:
    fold = int(loaded.fold[0])
    some = load_training_set(catalog, Preprocessing(), folds=[fold])
    assert set(some.fold.tolist()) == {fold}
    assert some.record_id.tolist() == loaded.of_folds([fold]).record_id.tolist()
    np.testing.assert_array_equal(some.signals_mV, loaded.of_folds([fold]).signals_mV)
    assert some.left_out["other_fold"] + len(some) <= RECORDS + 1


def test_disjoint_sets_pass_and_shared_patients_or_records_do_not(loaded: TrainingSet) -> None:
    half = np.arange(len(loaded)) < len(loaded) // 2
    first, second = loaded.where(half), loaded.where(~half)
    if not set(first.patient_key) & set(second.patient_key):
        check_disjoint(first, second)
    with pytest.raises(UserError, match=r"The training and the tuning set share \d+ patient"):
        check_disjoint(loaded, second)
    nameless = dataclasses.replace(second, patient_key=np.full(len(second), None, dtype=object))
    with pytest.raises(UserError, match=r"share \d+ record"):
        check_disjoint(loaded, nameless)
    check_disjoint(first, nameless)


def test_a_catalog_without_labels_is_refused_in_one_sentence(archive: Path, tmp_path: Path) -> None:
    build_catalog(str(archive), str(tmp_path / "catalog"), deidentified=True)
    with pytest.raises(UserError, match=r"no labelled record to train on \(15 unlabelled\); make it with a label rule"):
        load_training_set(str(tmp_path / "catalog"), Preprocessing())
