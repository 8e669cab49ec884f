"""What a night takes on: newest first, in slices by budget, night after night until all is done."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from screening.archive.catalog import open_catalog
from screening.nightly import screening
from screening.nightly.choose import CHANGED, NEW, OLDER, to_screen
from screening.run.current import forget, refresh
from screening.run.forget import forget_in_runs
from screening.run.ledger import read_manifest, write_manifest
from screening.run.repair import repair
from screening.storage import Folder
from tests.nightly.conftest import RATE, World, bundles_of
from tests.published import publish_run, write_catalog


def row(name: str, day: int | None, version: str = "1", patient: str | None = None) -> dict[str, object]:
    from datetime import datetime

    return {
        "record_id": name,
        "version": version,
        "acquired_at": None if day is None else datetime(2020, 1, day),
        "patient_key": patient,
    }


def ids(path: Path, positions: np.ndarray) -> list[str]:
    batches = open_catalog(str(path)).iter_batches(["record_id"])
    names = [name for batch in batches for name in batch["record_id"].to_pylist()]
    return [names[at] for at in positions]


def test_new_before_changed_rows_of_older_models_last_newest_first_and_undated_from_the_end(tmp_path: Path) -> None:
    runs, place = Folder(str(tmp_path / "runs")), tmp_path / "catalog"
    old, same = row("old", 1), row("same", 2)
    publish_run(
        runs, write_catalog(place, [old, row("changed", 5), row("gone", 3), row("secret", 7, patient="p")]), "r1"
    )
    publish_run(runs, write_catalog(place, [same]), "r2", bundle="c", finished_at="2026-01-02T00:00:00+00:00")
    catalog = write_catalog(
        place,
        [old, same, row("undated", None), row("changed", 5, "2"), row("new", 9), row("last", None)]
        + [row("secret", 7, patient="p"), row("unknown to runs", 8, patient="p")],
    )
    forget(runs, patient_keys=["p"])
    current = refresh(runs)
    found = to_screen(catalog, current, bundle_sha256="c" * 64, older=False)
    assert ids(place, found.positions) == ["new", "changed", "last", "undated"]
    assert found.kinds.tolist() == [NEW, CHANGED, NEW, NEW]
    found = to_screen(catalog, current, bundle_sha256="c" * 64, older=True)
    assert ids(place, found.positions) == ["new", "changed", "last", "undated", "old"]
    assert found.kinds.tolist()[-1] == OLDER
    assert ids(place, found.first(2).in_order()) == ["changed", "new"]  # as the catalog has them
    nothing = to_screen(catalog, None, bundle_sha256="c" * 64, older=True)
    assert (len(nothing), set(nothing.kinds.tolist())) == (8, {NEW})


def test_some_rows_of_a_catalog(tmp_path: Path) -> None:
    rows = [row(f"r{at:03d}", 1 + at % 28, patient=f"p{at}") for at in range(100)]
    catalog = write_catalog(tmp_path / "catalog", rows)
    some = catalog.only(np.array([3, 50, 99])).without(["r050"], [])
    (batch,) = [batch for batch in some.iter_batches(["record_id"], with_location=True) if batch.num_rows]
    assert batch.to_pylist() == [{"record_id": name, "location": name} for name in ("r003", "r099")]
    assert (catalog.only(np.array([3])).records, some.whole().records, catalog.records) == (1, 100, 100)


def newest_ids(world: World) -> list[str]:
    rows = [
        one
        for batch in open_catalog(str(world.folder / "catalog")).iter_batches(["record_id", "acquired_at"])
        for one in batch.to_pylist()
    ]
    order = sorted(range(len(rows)), key=lambda at: (rows[at]["acquired_at"], at), reverse=True)
    return [rows[at]["record_id"] for at in order]


def test_an_archive_is_worked_through_newest_first_night_by_night(world: World, without_ray: list[list[str]]) -> None:
    world.grow(64)
    nights = [world.night(f"2026-11-{day}", max_records=25).night for day in (21, 22, 23)]
    assert [(one.planned, one.waiting, one.kind) for one in nights] == [
        (25, 39, "backfill"),
        (25, 14, "backfill"),
        (14, 0, "backfill"),
    ]
    order = newest_ids(world)
    assert [set(run) for run in without_ray] == [set(order[:25]), set(order[25:50]), set(order[50:])]
    assert world.night("2026-11-24", max_records=25).night.kind == "nightly"
    # What comes in is before what waits.
    without_ray.clear()
    world.folder = world.folder / "other"
    world.folder.mkdir()
    world.grow(40)
    world.night("2026-11-21", max_records=30)
    world.grow(64)
    world.night("2026-11-22", max_records=30)
    order = newest_ids(world)
    left = [name for name in order if name not in without_ray[0]]
    assert set(without_ray[1]) == set(left[:30])
    assert {*without_ray[0], *without_ray[1]} != set(order)


def test_hours_are_filled_with_runs_that_fit_into_them(
    world: World, without_ray: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grow(64)
    now = [1000.0]
    published = screening.screen
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(screening, "FIRST_SLICE", 8)

    def slowly(*args: object, **how: object) -> object:
        outcome = published(*args, **how)  # type: ignore[arg-type]
        now[0] += outcome.seconds
        return outcome

    monkeypatch.setattr(screening, "screen", slowly)
    night = world.night("2026-11-21", max_hours=20 / 3600).night
    # 20 s at 2 records/s: 8 to see the rate (4 s), then 0.8 of the 16 s left, and of the 3.5 s left; the rest is too short.
    assert [len(run) for run in without_ray] == [8, 25, 5]
    assert (night.planned, night.waiting, len(night.run_ids)) == (38, 26, 3)
    assert night.seconds == pytest.approx(38 / RATE)
    without_ray.clear()
    assert world.night("2026-11-22", max_hours=1).night.waiting == 0
    assert [len(run) for run in without_ray] == [26]  # the rate is known from the night before


def test_rows_of_an_older_version_are_made_anew_when_asked_for_and_runs_that_do_not_count_go(
    world: World, without_ray: list[list[str]], tmp_path: Path
) -> None:
    world.grow(20)
    first = world.night("2026-11-21").night
    world.bundle = bundles_of(tmp_path / "later", "tiny")[1]
    world.grow(30)
    second = world.night("2026-11-22").night
    assert (second.new, second.older) == (10, 0)
    third = world.night("2026-11-23", rescore="older", max_records=12, keep_nights=1).night
    assert (third.planned, third.older, third.waiting, third.removed) == (
        12,
        12,
        8,
        (),
    )  # rows of the first night count
    fourth = world.night("2026-11-24", rescore="older", keep_nights=2).night
    assert (fourth.older, fourth.removed) == (8, first.run_ids)
    assert not (world.folder / "runs" / first.run_ids[0]).exists()
    assert [what["run_id"] for what in world.events("run.removed")] == list(first.run_ids)
    assert set(world.standing()["model_version"]) == {"2"}
    assert len(world.standing()) == 30
    fifth = world.night("2026-11-25", rescore="older", keep_nights=1)
    assert (fifth.night.outcome, fifth.night.removed, fifth.night.report_made) == ("nothing_new", (), False)


def test_a_removal_that_was_interrupted_is_completed(world: World, without_ray: list[list[str]]) -> None:
    world.grow(20)
    world.night("2026-11-21")
    world.grow(21)
    (second,) = world.night("2026-11-22").night.run_ids
    world.exchange(20, 3)  # all that the second run has
    with pytest.MonkeyPatch.context() as meanwhile:
        whole = Folder.remove

        def ends(folder: Folder, name: str) -> None:
            if name == "plan.json":
                raise KeyboardInterrupt
            whole(folder, name)

        meanwhile.setattr(Folder, "remove", ends)
        with pytest.raises(KeyboardInterrupt):
            world.night("2026-11-23", keep_nights=1)
    left = world.folder / "runs" / second
    assert (left / "plan.json").exists()  # it looks like a run that was begun, and must not be gone on with
    again = world.night("2026-11-23", keep_nights=1).night
    assert not left.exists()
    assert again.resumed == again.abandoned == ()
    assert len(world.standing()) == 21


def test_a_model_that_is_champion_again_serves_its_rows_again(
    world: World, without_ray: list[list[str]], tmp_path: Path
) -> None:
    world.grow(20)
    first_model, first = world.bundle, world.night("2026-11-21").night
    world.bundle = bundles_of(tmp_path / "later", "tiny")[1]
    world.night("2026-11-22", rescore="older")
    world.bundle = first_model
    back = world.night("2026-11-23", rescore="older").night
    assert back.run_ids == first.run_ids  # the same records by the same model: nothing is scored twice
    assert back.report_made
    assert set(world.standing()["model_version"]) == {"1"}
    assert world.night("2026-11-24", rescore="older").night.outcome == "nothing_new"


def test_who_was_forgotten_is_not_new_again(world: World, without_ray: list[list[str]]) -> None:
    world.grow(20)
    world.night("2026-11-21")
    patient = world.standing()["patient_key"].iloc[0]
    forget_in_runs(world.runs, patient_keys=[patient], at="2026-11-21")
    world.grow(24)
    night = world.night("2026-11-22").night
    assert night.planned == 4
    assert patient not in set(world.standing()["patient_key"])


def test_what_a_plan_lost_comes_back_from_the_catalog(world: World, without_ray: list[list[str]]) -> None:
    """The plan of a night has some of the catalog's records."""
    world.grow(20)
    world.night("2026-11-21")
    world.grow(30)
    (run_id,) = world.night("2026-11-22").night.run_ids
    run = world.runs.folder(run_id)
    write_manifest(run, {**(read_manifest(run) or {}), "settings": {"shard_records": 8}})
    lost = world.folder / "runs" / run_id / "plan" / "records-00000.parquet"
    before = lost.read_bytes()
    lost.unlink()
    done = repair(run, catalog=open_catalog(str(world.folder / "catalog")))
    assert "plan/records-00000.parquet" in done.files
    assert lost.read_bytes() == before
