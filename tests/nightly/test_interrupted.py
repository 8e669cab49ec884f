"""A night whose process ends without a word at some moment, and is started again, ends with the same bytes."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from screening.cli import EXIT_DONE
from screening.cli.nightly import exit_code
from screening.nightly import night as night_module
from screening.nightly import screening
from screening.nightly.book import Book
from screening.nightly.notify import payload
from screening.nightly.record import Outcome
from screening.report import write
from screening.run import lease as leases
from screening.run import pipeline, plan
from screening.run.lease import Lease
from tests.nightly.conftest import World, bundles_of

pytestmark = pytest.mark.usefixtures("ray_here")
RECORDS = 40
PROTECTED = {"exact": False, "smallest_count": 3, "draws": 500, "worklist_plots": 0}


class Killed(BaseException):
    """Stands for SIGKILL: nobody tidies up after it."""


def die_at(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[], Any], where: Any, name: str, *, after: bool = False, nth: int = 1
) -> None:
    """Let this process end, as far as a night can tell, before or after the nth call of something."""
    whole, calls = getattr(where, name), []

    def dies(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        if len(calls) > nth or (len(calls) == nth and not after):  # whoever is dead does not clear up either
            raise Killed
        found = whole(*args, **kwargs)
        if len(calls) == nth:
            raise Killed
        return found

    def ends(*_: object) -> None:
        raise Killed

    def leave(lease: Lease, *_: object) -> None:
        lease._stop.set()
        lease._thread.join()

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Lease, "__exit__", leave)
        meanwhile.setattr(Book, "end", ends)
        meanwhile.setattr(where, name, dies)
        with pytest.raises(Killed):
            act()
    monkeypatch.setattr(leases, "_alive", lambda _pid: False)


def bytes_of(world: World) -> dict[str, str]:
    """Return the hashes of all that a night makes and that knows no clock."""
    found = {}
    for path in sorted(world.folder.rglob("*")):
        name = re.sub(r"(current/\d{6})-[0-9a-f]{6}", r"\1", str(path.relative_to(world.folder)))
        keeps = re.match(r"runs/[0-9a-f]{16}/(results|plan)|runs/current/.*parquet|report/|runs/reports", name)
        if path.is_file() and keeps:
            data = path.read_bytes()
            if name.startswith("runs/reports"):  # names the manifests, which hold times
                data = json.dumps(
                    {key: value for key, value in json.loads(data).items() if key != "made_from"}
                ).encode()
            found[name] = hashlib.sha256(data).hexdigest()
    assert len(found) > 15
    return found


@pytest.fixture(scope="module")
def place(ptbxl: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[World, dict[str, str]]:
    """Return a place with an archive, and what an undisturbed night made there."""
    folder = tmp_path_factory.mktemp("place")
    world = World(folder, ptbxl, bundles_of(folder / "bundles", "tiny")[0], {"reporting": PROTECTED})
    world.grow(RECORDS)
    assert world.night("2026-11-21").night.outcome is Outcome.PUBLISHED
    return world, bytes_of(world)


@pytest.fixture
def world(place: tuple[World, dict[str, str]]) -> World:
    """Return the place as it was before any night."""
    for name in ("runs", "catalog", "report"):
        shutil.rmtree(place[0].folder / name, ignore_errors=True)
    place[0].log.clear()
    return place[0]


MOMENTS = {
    "when the catalog is made": (night_module, "open_catalog", False, 1),
    "before the plan is written": (pipeline, "store_plan", False, 1),
    "while the plan is written": (plan, "plan_bytes", False, 1),
    "after some shards": (pipeline, "asdict", True, 3),
    "before the run is published": (pipeline, "publish", False, 1),
    "after the run was published": (pipeline, "publish", True, 1),
    "before it is struck out": (Book, "settle_run", False, 1),
    "after it was indexed": (night_module, "newest", True, 1),
    "before the report is written": (write, "write_report", False, 1),
    "after the report was written": (write, "write_report", True, 1),
    "before its release is noted": (write, "keep_release", False, 1),
    "after its release was noted": (write, "keep_release", True, 1),
    "before the night is written down": (Book, "end", False, 1),
}
SHORT = ("after some shards", "after its release was noted")


@pytest.mark.parametrize(
    "moment", [name if name in SHORT else pytest.param(name, marks=pytest.mark.long) for name in MOMENTS]
)
def test_killed_and_started_again(
    moment: str, world: World, place: tuple[World, dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    where, name, after, nth = MOMENTS[moment]
    die_at(monkeypatch, lambda: world.night("2026-11-21"), where, name, after=after, nth=nth)
    ended = world.night("2026-11-21")
    assert (ended.night.outcome.success, ended.night.attempt) == (True, 2)
    assert bytes_of(world) == place[1]
    assert not list((world.folder / "runs" / "nights" / "open").glob("*"))
    first = json.loads((world.folder / "runs/nights/2026-11-21-tiny-1-1/night.json").read_text())
    assert (first["outcome"], first["error"]) == ("unfinished", "its process ended without a word")
    assert world.night("2026-11-21").already


def test_the_next_night_goes_on_where_the_hours_were_over_before_anything_new(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(screening, "WORTH_IT", -1e9)  # a run is begun however few milliseconds are left
    world.grow(56)
    first = world.night("2026-11-21", max_hours=1e-5)
    (begun,) = [what["run_id"] for what in world.events("run.started")]
    assert (first.night.outcome, first.night.run_ids, first.night.waiting) == (Outcome.PUBLISHED, (), 56)
    # It stopped as planned, and nobody is to be woken.
    assert (first.night.hours_over, first.night.unfinished_shards) == (True, 0)
    assert first.findings == ()
    assert exit_code(first, reject_limit=0.2) == EXIT_DONE
    assert first.summary.startswith(
        f"Night {first.night_id}: its hours were over, and 56 records wait for the nights to come\n"
    )
    assert "To be looked at" not in first.summary
    assert f"Note: the night's hours were over in run {begun}; the next night goes on with it" in first.summary
    parts = {path: path.stat().st_mtime_ns for path in (world.folder / "runs" / begun / "results").iterdir()}
    assert 1 <= len(parts) < 7
    assert "its hours were over, and 56 records wait" in payload(first.night, [])["text"]
    world.grow(64)
    night = world.night("2026-11-22")
    assert night.night.resumed == (begun,)
    assert night.night.run_ids[0] == begun
    assert (night.night.planned, night.night.new, len(night.night.run_ids)) == (64, 8, 2)
    assert {path: path.stat().st_mtime_ns for path in parts} == parts  # what was done is not done again
    assert len(world.standing()) == 64
    assert "Gone on with" in night.summary
