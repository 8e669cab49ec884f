"""Which runs are removed, of however many nights there were; no Ray is needed to tell."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest

from screening.nightly import keep
from screening.nightly.book import LOOKED_AT, Book
from screening.nightly.record import Night, Outcome
from screening.run.current import open_current
from screening.storage import Folder
from tests.nightly.conftest import World, bundles_of

FIRST = date(2026, 3, 1)
TIMES = {"started_at": "2026-03-01T01:00:00+00:00", "finished_at": "2026-03-01T02:00:00+00:00"}


def note(
    book: Book, day: date, *runs: str, attempt: int = 1, outcome: Outcome = Outcome.PUBLISHED, sha256: str = ""
) -> None:
    """Let the book hold an attempt that made these runs."""
    at = {key: value.replace("2026-03-01", str(day)) for key, value in TIMES.items()}
    night = Night(date=str(day), attempt=attempt, outcome=outcome, run_ids=runs, bundle_sha256=sha256, **at)
    book.end(book.begin(day, "tiny-1", attempt, started_at=at["started_at"]), night, "")


@pytest.fixture
def book(tmp_path: Path) -> Book:
    """Return a book of 120 nights, of which each made a run."""
    made = Book.of(Folder(str(tmp_path / "runs")))
    for number in range(120):
        note(made, FIRST + timedelta(number), f"run{number:03d}")
    return made


def removed(book: Book, monkeypatch: pytest.MonkeyPatch, free: set[str], *, keep_nights: int) -> list[str]:
    """Return what the night after the 120 removes, where ``free`` are the runs of which no row counts."""
    monkeypatch.setattr(keep, "superseded", lambda _current: frozenset(free))
    day = FIRST + timedelta(120)
    before = book.all_nights(book.entries(day))
    return keep.to_remove(None, before, day=str(day), tonight=["tonight"], keep_nights=keep_nights)  # type: ignore[arg-type]


@pytest.mark.parametrize(("keep_nights", "gone"), [(30, 91), (100, 21), (120, 1), (121, 0), (1, 120)])
def test_all_nights_there_ever_were_are_looked_at(
    keep_nights: int, gone: int, book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LOOKED_AT < 120
    free = {f"run{number:03d}" for number in range(120)} | {"by hand", "tonight"}
    assert removed(book, monkeypatch, free, keep_nights=keep_nights) == [f"run{number:03d}" for number in range(gone)]
    assert removed(book, monkeypatch, {"run003", "run119"}, keep_nights=30) == ["run003"]


def test_no_more_is_read_than_matters(book: Book, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    whole = Folder.read

    def noted(folder: Folder, name: str, *args: int) -> bytes:
        read.append(name)
        return whole(folder, name, *args)

    def of_before(day: date) -> Iterator[str]:
        return (name for name in read if name < str(day))

    monkeypatch.setattr(Folder, "read", noted)
    assert removed(book, monkeypatch, set(), keep_nights=30) == []
    assert not list(of_before(FIRST + timedelta(30)))
    assert removed(book, monkeypatch, {"run119"}, keep_nights=30) == []
    assert not list(of_before(FIRST + timedelta(1)))


def test_attempts_of_a_day_are_one_night_and_an_old_one_that_is_damaged_removes_nothing(
    book: Book, monkeypatch: pytest.MonkeyPatch
) -> None:
    last = FIRST + timedelta(119)
    note(book, last, "again", attempt=2)
    failed = FIRST + timedelta(5)
    note(book, failed, "of a failed attempt", attempt=2, outcome=Outcome.FAILED)
    free = {"run119", "again", "run118", "run005", "of a failed attempt", "run004"}
    (Path(book.folder.url) / f"{FIRST + timedelta(4)}-tiny-1-1" / "night.json").write_text("{")
    assert removed(book, monkeypatch, free, keep_nights=2) == ["of a failed attempt", "run005", "run118"]


@pytest.mark.usefixtures("without_ray")
def test_the_run_of_a_night_long_ago_goes_once_no_row_of_it_counts(world: World, tmp_path: Path) -> None:
    world.grow(16)
    (old,) = world.night(FIRST).night.run_ids
    book = Book.of(world.runs)
    for number in range(1, 120):
        note(book, FIRST + timedelta(number), outcome=Outcome.NOTHING_NEW)
    assert world.night(FIRST + timedelta(120), keep_nights=100).night.removed == ()  # its rows count
    world.bundle = bundles_of(tmp_path / "later", "tiny")[1]
    night = world.night(FIRST + timedelta(121), keep_nights=100, rescore="older").night
    assert night.removed == (old,)
    assert not (tmp_path / "runs" / old).exists()
    current = open_current(world.runs)
    assert current is not None
    assert [run.run_id for run in current.indexed] == list(night.run_ids)
