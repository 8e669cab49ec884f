"""What a night leaves behind when it does not end well, and what the next makes of it; no Ray is needed to tell."""

from __future__ import annotations

import json
import re
from contextlib import nullcontext
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pytest

from screening.errors import StorageError, UserError
from screening.model.bundle import Bundle
from screening.nightly import screening
from screening.nightly.book import Book, evening_of
from screening.nightly.night import tonights_id
from screening.nightly.record import Outcome
from screening.nightly.settings import NightlySettings
from screening.run import pipeline
from screening.run.lease import Lease
from screening.run.plan import load_plan, plan_bytes, store_plan
from screening.storage import Folder
from tests.nightly.conftest import World, bundles_of

pytestmark = pytest.mark.usefixtures("without_ray")


def record_of(world: World, night_id: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((world.folder / "runs" / "nights" / night_id / "night.json").read_text())
    return found


def begun(world: World, day: str) -> str:
    """Leave a run behind whose plan is made, and return its id."""
    published = screening.screen

    def begins(catalog: Any, runs_url: str, *, on_plan: Any, **how: Any) -> Any:
        def planned(plan: Any) -> None:
            on_plan(plan)
            store_plan(world.runs.folder(plan.run_id), catalog, plan)
            raise KeyboardInterrupt

        return published(catalog, runs_url, on_plan=planned, **how)

    with pytest.MonkeyPatch.context() as meanwhile:
        meanwhile.setattr(screening, "screen", begins)
        with pytest.raises(KeyboardInterrupt):
            world.night(day)
    ended = record_of(world, f"{day}-tiny-1-1")
    assert (ended["outcome"], ended["error"]) == ("unfinished", "it was interrupted")
    run_id: str = world.events("run.started")[-1]["run_id"]
    assert (world.folder / "runs" / run_id / "plan.json").exists()
    return run_id


def test_what_an_earlier_champion_began_is_left_to_tonights(world: World, tmp_path: Path) -> None:
    world.grow(24)
    run_id = begun(world, "2026-11-21")
    world.bundle = bundles_of(tmp_path / "later", "tiny")[1]
    night = world.night("2026-11-22")
    assert night.night.abandoned == (run_id,)
    assert not (world.folder / "runs" / run_id).exists()
    (why,) = [what["why"] for what in world.events("run.abandoned")]
    assert why == "it is of version 1 of tiny, which does not score any more"
    assert f"Abandoned    {run_id}" in night.summary
    assert set(world.standing()["model_version"]) == {"2"}
    assert len(world.standing()) == 24


def test_numbers_that_would_come_out_otherwise_are_not_mixed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.grow(16)
    run_id = begun(world, "2026-11-21")
    run = world.runs.folder(run_id)
    plan = replace(load_plan(run), fingerprint={"device": "cpu", "hardware": "one", "batch_size": 8})
    run.write("plan.json", plan_bytes(plan))
    monkeypatch.setattr(pipeline, "cluster", lambda *_args, **_options: nullcontext())
    monkeypatch.setattr(pipeline, "_fingerprint", lambda _: {"device": "cpu", "hardware": "two", "batch_size": 8})
    night = world.night("2026-11-22")
    assert night.night.abandoned == (run_id,)
    (why,) = [what["why"] for what in world.events("run.abandoned")]
    assert why == (
        f"run {run_id} cannot be gone on with here: its numbers are of another hardware (one, here two); start a new run"
    )
    assert (night.night.planned, night.night.new) == (16, 16)


@pytest.mark.parametrize("name", ["plan.json", "plan/locations-00000.parquet"])
def test_a_run_whose_plan_was_damaged_is_abandoned(world: World, name: str) -> None:
    world.grow(16)
    run_id = begun(world, "2026-11-21")
    data = bytearray(world.runs.folder(run_id).read(name))
    data[len(data) // 2] ^= 1
    world.runs.folder(run_id).write(name, bytes(data))
    night = world.night("2026-11-22")
    assert night.night.abandoned == (run_id,)
    assert [what["why"] for what in world.events("run.abandoned")] == ["its plan is damaged"]
    assert (night.night.planned, night.night.new) == (16, 16)


def test_a_run_that_somebody_else_goes_on_with_is_left_to_them(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.grow(16)
    run_id = begun(world, "2026-11-21")
    world.bundle = bundles_of(world.folder / "later", "tiny")[1]
    with Lease(world.runs.folder(run_id)), pytest.raises(UserError, match=rf"{run_id} is being run by process"):
        world.night("2026-11-22")
    assert (world.folder / "runs" / run_id / "plan.json").exists()
    assert record_of(world, "2026-11-22-tiny-2-1")["outcome"] == "failed"


def test_a_night_at_work_refuses_another_and_says_who_it_is(world: World) -> None:
    world.grow(16)
    with Lease(Book.of(world.runs).folder), pytest.raises(UserError) as refused:
        world.night("2026-11-21")
    assert re.fullmatch(
        r"\S+/runs/nights is being worked on by process \d+ on \S+; wait for it to end, or end it, and start again",
        str(refused.value),
    )
    assert not list((world.folder / "runs" / "nights").glob("2026*"))
    assert not (world.folder / "catalog").exists()
    assert world.ends == []  # the one at work will tell


def test_a_failed_night_says_why_and_the_next_attempt_has_a_number_of_its_own(world: World) -> None:
    world.grow(16)
    with pytest.raises(UserError, match="There are no records"):
        world.night("2026-11-21", archive=str(world.folder / "bundles"), labels=None)
    failed = record_of(world, "2026-11-21-tiny-1-1")
    assert (failed["outcome"], failed["attempt"]) == ("failed", 1)
    page = (world.folder / "runs/nights/2026-11-21-tiny-1-1/summary.txt").read_text()
    assert "There are no records" in page
    assert "alarm: The night failed" in page
    assert not (world.folder / "catalog").exists()
    night = world.night("2026-11-21")
    assert night.night_id == "2026-11-21-tiny-1-2"
    assert night.night.outcome is Outcome.PUBLISHED
    again = world.night("2026-11-21")
    assert (again.already, again.night_id) == (True, "2026-11-21-tiny-1-2")
    assert [(heard.night_id[-1], heard.already) for heard in world.ends] == [("1", False), ("2", False), ("2", True)]
    assert world.night("2026-11-22").night_id == "2026-11-22-tiny-1-1"


def test_storage_that_fails_leaves_the_night_unfinished(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.grow(16)

    def fails(*_: object, **__: object) -> None:
        raise StorageError("the store did not answer, 4 times")

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(screening, "screen", fails)
        with pytest.raises(StorageError):
            world.night("2026-11-21")
    ended = record_of(world, "2026-11-21-tiny-1-1")
    assert (ended["outcome"], ended["error"]) == ("unfinished", "the store did not answer, 4 times")
    assert world.night("2026-11-21").night.outcome is Outcome.PUBLISHED


@pytest.mark.parametrize(
    ("moment", "day"),
    [
        ("2026-11-23T22:30:00+00:00", "2026-11-23"),
        ("2026-11-24T04:00:00+00:00", "2026-11-23"),  # made up for, or tried again, before noon
        ("2026-11-24T11:59:59+00:00", "2026-11-23"),
        ("2026-11-24T12:00:00+00:00", "2026-11-24"),
        ("2026-11-24T13:30:00+02:00", "2026-11-23"),  # 11:30 UTC
        ("2026-01-01T00:10:00+00:00", "2025-12-31"),
    ],
)
def test_a_night_is_named_by_its_evening(moment: str, day: str) -> None:
    assert str(evening_of(datetime.fromisoformat(moment))) == day


def test_a_night_that_ended_well_is_attempted_again_where_that_is_asked_for(world: World) -> None:
    world.grow(24)
    first = world.night("2026-11-21", max_records=10)
    assert world.night("2026-11-21", max_records=100).already  # nobody asked
    more = world.night("2026-11-21", max_records=14, again=True)
    assert (more.night_id, more.night.planned, more.night.waiting) == ("2026-11-21-tiny-1-2", 14, 0)
    assert first.night.waiting == 14
    # One that does not end well leaves the night undone, and is gone on with without being asked for.
    with pytest.raises(UserError, match="holds the catalog of another archive"):
        world.night("2026-11-21", archive=str(world.folder / "bundles"), labels=None, again=True)
    last = world.night("2026-11-21")
    assert (last.already, last.night_id, last.night.outcome) == (False, "2026-11-21-tiny-1-4", Outcome.NOTHING_NEW)


def no_registry() -> Bundle:
    raise UserError("the registry is down; start it.")


def test_what_fails_before_the_model_is_known_is_in_the_book_and_is_told(world: World) -> None:
    world.model = no_registry
    with pytest.raises(UserError, match="the registry is down"):
        world.night("2026-11-21")
    failed = record_of(world, "2026-11-21-unknown-model-1")
    assert (failed["outcome"], failed["error"]) == ("failed", "the registry is down; start it.")
    (heard,) = world.ends
    assert heard.night_id == "2026-11-21-unknown-model-1"
    assert [one.kind for one in heard.findings] == ["failed"]
    assert "model None" not in heard.summary
    world.model = None
    assert id_of(world) == "2026-11-21-tiny-1-2"  # a job of the id ...-1 is there already
    world.grow(16)
    assert world.night("2026-11-21").night_id == "2026-11-21-tiny-1-2"


def test_a_damaged_book_a_key_and_a_lease_that_fail_are_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def last(kind: type[Exception], day: str) -> tuple[str, str, str | None]:
        with pytest.raises(kind):
            world.night(day)
        heard = world.ends[-1]
        return heard.night_id, heard.night.outcome, heard.night.error

    world.grow(16)
    world.night("2026-11-21")
    started = world.folder / "runs/nights/2026-11-21-tiny-1-1/started.json"
    whole = started.read_bytes()
    started.write_bytes(b"{")
    name, outcome, error = last(UserError, "2026-11-22")
    assert (name, outcome) == ("2026-11-22-unknown-model-1", "failed")
    assert "2026-11-21-tiny-1-1 in" in str(error)
    assert record_of(world, name)["error"] == error
    started.write_bytes(whole)

    def open_to_all() -> None:
        raise UserError("The pseudonym key k can be read by everybody on this machine; run: chmod 600 k")

    world.key = open_to_all
    name, outcome, error = last(UserError, "2026-11-22")
    assert (name, outcome) == ("2026-11-22-tiny-1-2", "failed")
    assert "chmod 600" in str(error)
    assert record_of(world, name)["error"] == error
    world.key = lambda: None

    with monkeypatch.context() as meanwhile:  # the folder of runs is full, or closed
        meanwhile.setattr(Folder, "create", refuses)
        name, outcome, error = last(StorageError, "2026-11-22")
    assert (name, outcome, error) == ("2026-11-22", "unfinished", "no space is left")
    with monkeypatch.context() as meanwhile:  # it is from some moment of the night on
        meanwhile.setattr(Book, "end", refuses)
        meanwhile.setattr(screening, "screen", refuses)
        world.exchange(3, 5)
        name, outcome, error = last(StorageError, "2026-11-22")
    assert (name, outcome, error) == ("2026-11-22-tiny-1-3", "unfinished", "no space is left")
    assert len(world.ends) == 5  # each once


def refuses(*_: object, **__: object) -> Any:
    raise StorageError("no space is left")


def id_of(world: World, day: str = "2026-11-21", *, again: bool = False) -> str:
    settings = NightlySettings(catalog="c", runs=str(world.folder / "runs"), report="r")  # type: ignore[call-arg]
    return tonights_id(settings, world.bundle, date.fromisoformat(day), {}, again=again)


def test_the_id_is_that_of_the_attempt_that_counts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.grow(16)
    with monkeypatch.context() as meanwhile:  # whoever submits may read the book alone
        meanwhile.setattr(Folder, "write", refuses)
        meanwhile.setattr(Folder, "create", refuses)
        assert id_of(world) == "2026-11-21-tiny-1-1"
    book = Book.of(world.runs)
    with Lease(book.folder, beat_s=0.1):
        book.begin(date(2026, 11, 21), "tiny-1", 1, started_at="2026-11-21T00:00:00+00:00")
        assert id_of(world) == "2026-11-21-tiny-1-1"  # it is at work
    assert id_of(world) == "2026-11-21-tiny-1-2"  # its process ended
    assert world.night("2026-11-21").night_id == "2026-11-21-tiny-1-2"
    assert id_of(world) == "2026-11-21-tiny-1-2"  # done
    assert id_of(world, again=True) == "2026-11-21-tiny-1-3"
    assert id_of(world, "2026-11-22") == "2026-11-22-tiny-1-1"
