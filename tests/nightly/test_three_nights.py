"""Three nights on one Ray, told to a real MLflow server: all, what is new and changed, nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from screening.archive.catalog import open_catalog
from screening.model.bundle import Bundle, load_bundle
from screening.nightly.record import Night, Outcome
from screening.run.current import open_current
from screening.train.registry import move_champion, resolve
from screening.train.tracking import connected
from tests.nightly.conftest import World

pytestmark = pytest.mark.usefixtures("ray_here")


def champion(uri: str, folder: Path) -> Bundle:
    return load_bundle(resolve("models:/three@champion", tracking_uri=uri, cache_folder=folder / "cache"))


def rogan_gladen(share: float, sensitivity: float, specificity: float) -> float:
    return (share + specificity - 1) / (sensitivity + specificity - 1)


def report(world: World) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.folder / "report" / "report.json").read_text())
    return found


def table(world: World, key: str) -> list[dict[str, Any]]:
    blocks = [block for section in report(world)["sections"] for block in section["blocks"]]
    return next(block for block in blocks if block.get("key") == key)["records"]  # type: ignore[no-any-return]


def test_three_nights(registered: Callable[[str], tuple[str, Bundle, Bundle]], ptbxl: Path, tmp_path: Path) -> None:
    uri, first, second = registered("three")
    move_champion("three", 1, expected=None, tracking_uri=uri)
    world = World(tmp_path, ptbxl, champion(uri, tmp_path), tracking_uri=uri)
    assert world.bundle.sha256 == first.sha256

    # Night 1: all of it.
    world.grow(48)
    one = world.night("2026-11-21")
    assert (one.night.outcome, one.night.planned, one.night.new, one.night.kind) == (
        Outcome.PUBLISHED,
        48,
        48,
        "nightly",
    )
    assert one.night_id == "2026-11-21-three-1-1"
    (run_one,) = one.night.run_ids
    assert set(world.standing()["model_version"]) == {"1"}
    before = {path: path.read_bytes() for path in (tmp_path / "runs" / run_one).rglob("*") if path.is_file()}

    # Between the nights a champion is promoted, records come in, and two change: night 2 is for these alone.
    move_champion("three", 2, expected=1, tracking_uri=uri)
    world.bundle = champion(uri, tmp_path)
    world.grow(64)
    changed = {world.exchange(3, 20), world.exchange(11, 30)}
    two = world.night("2026-11-22")
    assert (two.night.planned, two.night.new, two.night.changed, two.night.older) == (18, 16, 2, 0)
    (run_two,) = two.night.run_ids
    rows = world.rows(run_two)
    assert len(rows) == 18
    assert changed < set(rows.index)
    assert {path: path.read_bytes() for path in before} == before  # the first night's run is untouched

    standing = world.standing()
    catalogued = pd.concat(
        batch.to_pandas() for batch in open_catalog(str(tmp_path / "catalog")).iter_batches(["record_id"])
    )
    assert standing.index.is_unique
    assert sorted(standing.index) == sorted(catalogued["record_id"])  # every record, once
    assert standing["model_version"].value_counts().to_dict() == {"1": 46, "2": 18}
    assert set(standing.index[standing["run_id"] == run_two]) == set(rows.index)
    assert set(standing.loc[sorted(changed), "model_version"]) == {"2"}
    assert standing["bundle_sha256"].map({first.sha256: "1", second.sha256: "2"}).equals(standing["model_version"])

    # The report corrects each bundle's patients with that bundle's own counts.
    scored = standing[standing["status"] == "scored"].sort_values("acquired_at")
    patients = scored[~scored.index.duplicated()].groupby("patient_key").tail(1)
    expected = 0.0
    for version, se, sp in (("1", 0.9, 0.95), ("2", 0.75, 0.99)):
        of = patients[patients["model_version"] == version]
        expected += len(of) / len(patients) * rogan_gladen(of["flagged"].astype(float).mean(), se, sp)
    found = report(world)
    assert [model["version"] for model in found["facts"]["models"]] == ["1", "2"]
    assert two.night.figures["patients"] == len(patients)
    assert 0.05 < expected < 0.95
    assert two.night.figures["prevalence"] == pytest.approx(min(1.0, max(0.0, expected)), abs=1e-9)
    assert len(table(world, "by_model")) == 2
    years = {row["year"]: row["patients"] for row in table(world, "by_year")}
    assert (
        years
        == standing[standing["status"] == "scored"]
        .groupby(standing["acquired_at"].dt.year.astype(str))["patient_key"]
        .nunique()
        .to_dict()
    )

    # Night 3: nothing is new. No run, the same report to the byte, and that is success.
    pages = {path: path.stat().st_mtime_ns for path in (tmp_path / "report").rglob("*") if path.is_file()}
    index = open_current(world.runs)
    three = world.night("2026-11-23")
    assert (three.night.outcome, three.night.run_ids, three.night.planned) == (Outcome.NOTHING_NEW, (), 0)
    assert not three.night.report_made
    assert three.night.figures == two.night.figures
    assert {path: path.stat().st_mtime_ns for path in pages} == pages
    assert open_current(world.runs) == index
    assert len(world.events("run.started")) == len(world.events("run.published")) == 2
    assert len(world.events("report.made")) == 2

    _summaries(world, two.summary, three.summary)
    _in_mlflow(uri, run_one, run_two, two.night)


def _summaries(world: World, two: str, three: str) -> None:
    assert "18 records (16 new, 2 changed)" in two
    assert "the night before" in two
    assert "Prevalence" in two
    assert "nothing was new, and no run was made" in three
    folder = world.folder / "runs" / "nights" / "2026-11-22-three-2-1"
    assert (folder / "summary.txt").read_text() == two
    assert Night.from_json(json.loads((folder / "night.json").read_text())).planned == 18
    ids = set(world.standing().index) | set(world.standing()["patient_key"])
    kept = "".join(path.read_text() for path in (world.folder / "runs" / "nights").rglob("*.*") if path.is_file())
    assert not [one for one in ids if one in kept or one in two]


def _in_mlflow(uri: str, run_one: str, run_two: str, night: Night) -> None:
    with connected(uri) as client:
        experiment = client.get_experiment_by_name("screening")
        for run_id, version, planned in ((run_one, "1", 48), (run_two, "2", 18)):
            (run,) = client.search_runs([experiment.experiment_id], f"tags.screening_run_id = '{run_id}'")
            assert run.info.status == "FINISHED"
            assert (run.data.tags["model"], run.data.tags["model_version"]) == ("three", version)
            assert run.data.metrics["planned"] == planned
            assert run.data.metrics["scored"] + run.data.metrics["rejected"] == planned
            assert run.data.metrics["flag_rate"] == run.data.metrics["flagged"] / run.data.metrics["scored"]
            assert run.data.metrics["records_per_second"] > 0
            (linked,) = client.get_run(run.info.run_id).inputs.model_inputs
            model = client.get_logged_model(linked.model_id)
            assert model.tags["model_version"] == version
            registered = client.get_model_version("three", version)
            assert model.tags["bundle_sha256"] == registered.tags["bundle_sha256"] == run.data.tags["bundle_sha256"]
            assert model.source_run_id == registered.run_id
            assert run.data.metrics["prevalence"] > 0
            files = {file.path for file in client.list_artifacts(run.info.run_id, "report")}
            assert files == {"report/report.html", "report/report.json", "report/tables"}  # nothing private
        assert run.data.metrics["prevalence"] == pytest.approx(night.figures["prevalence"])
    assert night.untold == 0
