"""Nights of which everything lies on an object store: archive, catalog, runs and report."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import fsspec
import pytest

from screening.nightly.record import Outcome
from tests.nightly.conftest import World

pytestmark = pytest.mark.usefixtures("ray_here")

PLACES = ("archive", "catalog", "runs", "report")


NIGHTS = (("2026-11-21", 24, 24), ("2026-11-22", 40, 17), ("2026-11-23", 40, 0))
"""(day, records there are, records it is to screen)."""


@pytest.mark.parametrize("nights", [1, pytest.param(3, marks=pytest.mark.long)])
def test_nights_on_an_object_store_are_the_nights_on_a_disk(
    nights: int, world: World, s3: dict[str, Any], tmp_path: Path
) -> None:
    store = fsspec.filesystem("s3", **s3)
    there = dataclasses.replace(
        world, storage_options=s3, settings={name: f"s3://screening/night/{name}" for name in PLACES}
    )
    ran: dict[bool, list[str]] = {False: [], True: []}
    for day, records, asked in NIGHTS[:nights]:
        world.grow(records)
        if asked == 17:
            world.exchange(3, 5)
        if asked:  # what is put again has another date, and counts as changed
            for path in world.archive.rglob("*"):
                target = f"screening/night/archive/{path.relative_to(world.archive)}"
                if path.is_file() and not (store.exists(target) and store.cat(target) == path.read_bytes()):
                    store.put_file(str(path), target)
        one, other = world.night(day).night, there.night(day).night
        for night in (one, other):
            ran[night is other] += night.run_ids
            assert (night.planned, night.outcome) == (asked, Outcome.PUBLISHED if asked else Outcome.NOTHING_NEW)
        assert (other.scored, other.rejected, other.figures) == (one.scored, one.rejected, one.figures)
    store.get("screening/night/runs", str(tmp_path / "fetched" / "runs"), recursive=True)
    fetched = dataclasses.replace(world, folder=tmp_path / "fetched")
    columns = ["status", "reason", "record_sha256", "logit", "flagged", "model_version"]
    assert len(fetched.standing()) == records
    assert fetched.standing().sort_index()[columns].equals(world.standing().sort_index()[columns])
    told = sections_of(store.cat("screening/night/report/report.json").decode(), ran[True])
    expected = sections_of((world.folder / "report/report.json").read_text(), ran[False])
    assert told.keys() == expected.keys()
    assert {key for key in told if told[key] != expected[key]} == {"population"}  # it names the archive


def sections_of(report: str, run_ids: list[str]) -> dict[str, Any]:
    """Return the report's sections by key, with runs by number."""
    for number, run_id in enumerate(run_ids):
        report = report.replace(run_id, f"run {number}")
    return {section["key"]: section for section in json.loads(report)["sections"]}
