"""Whole runs through Ray Data on real recordings."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from screening.archive.build import build_catalog
from screening.archive.labels import load_rule
from screening.contract import LEADS, OPERATORS, Reason
from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.run.lease import Lease
from screening.run.ledger import read_manifest
from screening.run.pipeline import screen
from screening.run.read import iter_results
from screening.run.verify import faults
from screening.settings import RunSettings
from screening.storage import Folder
from tests import corpus
from tests.bundles import make_bundle
from tests.run.by_hand import run_by_hand

pytestmark = pytest.mark.usefixtures("ray_here")
TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("bundle") / "tiny", threshold=0.35)


@pytest.fixture(scope="module")
def catalog(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("catalog") / "catalog"
    build_catalog(str(ptbxl), str(out), labels=load_rule("ptbxl-mi"), deidentified=True)
    return out


@pytest.fixture(scope="module")
def undisturbed(catalog: Path, bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Folder:
    runs = tmp_path_factory.mktemp("undisturbed")
    outcome = screen(str(catalog), str(runs), model_path=str(bundle.path), settings=SETTINGS)
    assert outcome.published
    return Folder(outcome.url)


SETTINGS = RunSettings(attribution="all", operators=tuple(OPERATORS), donors=4, donor_set=16, shard_records=8)
LAST_BITS = 2e-6
"""Of an importance of some logits, where the same batch shape holds other records beside it."""


def test_a_run_has_one_row_for_every_record_and_is_whole(undisturbed: Folder, catalog: Path) -> None:
    table = pd.concat([t.to_pandas() for t in iter_results(undisturbed)])
    planned = pq.read_table(catalog / "catalog.parquet")["record_id"].to_pylist()
    assert table["record_id"].tolist() == planned
    assert len(planned) == 64
    manifest = read_manifest(undisturbed)
    assert manifest is not None
    counts = manifest["counts"]
    assert counts["scored"] + counts["rejected"] == counts["planned"] == 64
    assert counts["flagged"] == int(table["flagged"].sum())
    assert len(manifest["files"]) == 8
    assert list(faults(undisturbed)) == []
    scored = table[table["status"] == "scored"]
    assert scored[[f"importance_{lead}" for lead in LEADS]].notna().all().all()
    assert (scored["importance_donors"] == 4).all()
    assert scored["patient_key"].str.fullmatch("[0-9a-f]{32}").all()


def test_readers_see_plain_columns(undisturbed: Folder) -> None:
    files = [undisturbed.path(file["name"]) for file in (read_manifest(undisturbed) or {})["files"]]
    count, mean = duckdb.sql(f"select count(*), avg(probability) from read_parquet({files})").fetchall()[0]
    frame = pd.concat([pd.read_parquet(file) for file in files])
    assert count == len(frame)
    assert mean == pytest.approx(frame["probability"].astype(float).mean())


def test_the_same_run_again_does_nothing(undisturbed: Folder, catalog: Path, bundle: Bundle) -> None:
    runs = Path(undisturbed.url).parent
    before = {path: path.stat().st_mtime_ns for path in Path(undisturbed.url).rglob("*") if path.is_file()}
    outcome = screen(
        str(catalog), str(runs), model_path=str(bundle.path), settings=SETTINGS.model_copy(update={"shard_records": 5})
    )
    assert (outcome.already, outcome.url) == (True, undisturbed.url)
    assert before == {path: path.stat().st_mtime_ns for path in Path(undisturbed.url).rglob("*") if path.is_file()}


def test_shard_size_workers_and_batch_do_not_change_a_row(
    undisturbed: Folder, catalog: Path, bundle: Bundle, tmp_path: Path
) -> None:
    def rows(folder: Folder) -> pd.DataFrame:
        return pd.concat([t.to_pandas() for t in iter_results(folder)]).set_index("record_id").drop(columns="run_id")

    expected = rows(undisturbed)
    same = screen(
        str(catalog),
        str(tmp_path / "same"),
        model_path=str(bundle.path),
        settings=SETTINGS.model_copy(update={"shard_records": 19, "workers": 1}),
    )
    pd.testing.assert_frame_equal(rows(Folder(same.url)), expected, check_exact=False, rtol=0, atol=LAST_BITS)
    other = screen(
        str(catalog),
        str(tmp_path / "other"),
        model_path=str(bundle.path),
        settings=SETTINGS.model_copy(update={"batch_size": 5, "operators": ("lead",)}),
    )
    assert other.run_id != same.run_id  # another numerics fingerprint
    found = rows(Folder(other.url))
    explained = [f"importance_{lead}" for lead in LEADS]
    assert found[explained].notna().any().all()
    for column in ("logit", "probability", *explained):
        np.testing.assert_allclose(found[column], expected[column], atol=TOLERANCE, rtol=0)


def test_every_kind_of_broken_record_is_a_row_with_its_reason(bundle: Bundle, tmp_path: Path, ptbxl: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(ptbxl / "records500", archive / "good")
    cases = corpus.broken_cases()
    corpus.write(cases, archive / "broken")
    build_catalog(str(archive), str(tmp_path / "catalog"), deidentified=True)
    settings = RunSettings(attribution="none", donor_set=4, shard_records=32)
    run = run_by_hand(tmp_path / "catalog", tmp_path / "runs", bundle, settings)
    counts = (read_manifest(run) or {})["counts"]
    rows = {row["record_id"]: row for table in iter_results(run) for row in table.to_pylist()}
    assert len(rows) == counts["planned"] == counts["scored"] + counts["rejected"]
    assert sum(name.startswith("good/") for name in rows) == 64
    alone = {case.name for case in cases if case.name in ("csv_alone", "npy_alone")}  # nothing says that these are ECGs
    assert not any(record_id.split("/")[1] in alone for record_id in rows)
    for case in (case for case in cases if case.name not in alone):
        row = rows[f"broken/{case.header.removesuffix('.hea')}"]
        assert row["reason"] == case.expected, case.name
        assert "broken" not in row["detail"]
        assert row["detail"].strip()
    reasons = Counter(row["reason"] for row in rows.values() if row["reason"])
    assert reasons == counts["reasons"]
    assert set(reasons) <= set(Reason)


def test_a_second_runner_is_refused(undisturbed: Folder, catalog: Path, bundle: Bundle, tmp_path: Path) -> None:
    run = Folder(str(tmp_path / "runs" / undisturbed.url.rsplit("/", 1)[1]))
    with Lease(run), pytest.raises(UserError, match="is being run by process"):
        screen(str(catalog), str(tmp_path / "runs"), model_path=str(bundle.path), settings=SETTINGS)


def test_a_damaged_file_is_found_and_written_again(
    undisturbed: Folder, catalog: Path, bundle: Bundle, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    shutil.copytree(Path(undisturbed.url).parent, runs)
    run = Folder(str(runs / undisturbed.url.rsplit("/", 1)[1]))
    part = Path(run.url) / "results" / "part-00003.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:100] + bytes([whole[100] ^ 1]) + whole[101:])
    assert [str(fault) for fault in faults(run)] == [
        "results/part-00003.parquet: its SHA-256 differs from the manifest's"
    ]
    part.unlink()
    assert str(next(faults(run))) == "results/part-00003.parquet: is gone"
    (Path(run.url) / "manifest.json").unlink()
    outcome = screen(str(catalog), str(runs), model_path=str(bundle.path), settings=SETTINGS)
    assert outcome.published
    assert part.read_bytes() == whole
    assert list(faults(run)) == []


def test_more_workers_than_the_machine_has_are_refused_before_anything_is_written(
    catalog: Path, bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"--workers 9 leaves no CPU for reading: this Ray has 2 CPUs, so at most 3"):
        screen(
            str(catalog),
            str(tmp_path / "runs"),
            model_path=str(bundle.path),
            settings=RunSettings(workers=9, attribution="all", device="cpu"),
        )
    assert not (tmp_path / "runs").exists()


def test_the_variants_of_wfdb_screen_too(bundle: Bundle, shared_data: Path, tmp_path: Path) -> None:
    """CinC 2021 (MATLAB files) and the PTB diagnostic database (15 signals, 1000 Hz, 38 s), found by listing."""
    build_catalog(str(shared_data / "wfdb_variants"), str(tmp_path / "catalog"), deidentified=True)
    settings = RunSettings(attribution="none", donor_set=4)
    run = run_by_hand(tmp_path / "catalog", tmp_path / "runs", bundle, settings)
    rows = {row["record_id"]: row for table in iter_results(run) for row in table.to_pylist()}
    assert len(rows) == 28
    rejected = {name: row["reason"] for name, row in rows.items() if row["status"] == "rejected"}
    # V2, V4 and V6 of these two are zeros throughout.
    assert rejected == {"cinc2021/JS20004": "flat_lead", "cinc2021/JS20008": "flat_lead"}
    assert rows["ptbdb/s0010_re"]["unit_source"] == "wfdb default mV"
    assert rows["ptbdb/s0010_re"]["duration_s"] == pytest.approx(38.4)


def test_a_corrected_table_or_a_moved_archive_is_another_run(bundle: Bundle, ptbxl: Path, tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    shutil.copytree(ptbxl, archive)
    ages: list[float] = []

    def run_id(place: Path) -> str:
        build_catalog(str(place), str(tmp_path / "catalog" / place.name / str(len(ages))), deidentified=True)
        catalog = str(tmp_path / "catalog" / place.name / str(len(ages)))
        settings = RunSettings(attribution="none", donor_set=4, shard_records=64)
        run = run_by_hand(Path(catalog), tmp_path / "runs", bundle, settings)
        (table,) = iter_results(run, columns=["age"])
        ages.append(table["age"][0].as_py())
        return run.url.rsplit("/", 1)[-1]

    first = run_id(archive)
    table = archive / "ptbxl_database.csv"
    table.write_text(table.read_text().replace("1,15709.0,56.0,", "1,15709.0,57.0,", 1))
    second = run_id(archive)
    shutil.move(archive, tmp_path / "elsewhere")
    third = run_id(tmp_path / "elsewhere")
    assert len({first, second, third}) == 3
    assert ages == [56.0, 57.0, 57.0]
