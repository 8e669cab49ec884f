"""The book of nights, ``RUNS/nights/``: what each became, what was begun and is not settled, what is yet to be told.

::

    nights/2026-11-23-msaic-mi-3-1/started.json   date, model and attempt; made when an attempt begins
                                   night.json     the record of it, once it has ended
                                   summary.txt    the same for people
    nights/open/<run_id>.json     this run is being screened, or removed, by a night: noted before, struck out after
    nights/report.json            what the report that stands was made from
    nights/untold/<run_id>.json   what MLflow is to be told of this run; report.json there, of the report
    nights/lease/                 who is at work

An attempt without a record is one whose process ended without a word. Nothing here names records or patients.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

from screening.errors import UserError
from screening.nightly.record import Night, Outcome
from screening.storage import REMOTE_READS, Folder, ahead

FOLDER = "nights"
LOOKED_AT = 90
"""Attempts, newest first, that are looked at to know how the last nights went; retention looks at all."""
UNKNOWN_MODEL = "unknown-model"
"""In the place of the label, in the id of an attempt that failed before it knew which model was to score."""
_NAME = re.compile(r"(\d{4}-\d{2}-\d{2})-.+-(\d+)")
SCREEN, REMOVE = "screen", "remove"


@dataclass(frozen=True)
class Entry:
    """An attempt in the book."""

    night_id: str
    date: str
    label: str  # of the model
    attempt: int
    started_at: str
    night: Night | None  # None while it is at work, or where its process ended without a word


def evening_of(at: datetime) -> date:
    """Return the day that names the night of a moment: that of the evening, for whatever lies between noon and noon, UTC.

    So a night that is made up for, tried again or ended in the morning does not take the name of the one to come.

    >>> [str(evening_of(datetime(2026, 11, 23, hour, 30, tzinfo=UTC))) for hour in (4, 22)]
    ['2026-11-22', '2026-11-23']
    """
    return (at.astimezone(UTC) - timedelta(hours=12)).date()


def model_label(name: str, version: str) -> str:
    """Return a model as it stands in a night's id: letters, digits, points and dashes.

    >>> model_label("msaic-mi", "3 (new)")
    'msaic-mi-3-new'
    """
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{name}-{version}").strip("-")[:60]


def night_id(day: date | str, label: str, attempt: int) -> str:
    """Return the id of an attempt: date, model and attempt."""
    return f"{day}-{label}-{attempt}"


@dataclass(frozen=True)
class Book:
    """The book of the nights of a folder of runs."""

    runs: Folder
    folder: Folder  # RUNS/nights

    @classmethod
    def of(cls, runs: Folder) -> Book:
        """Return the book that is kept in a folder of runs."""
        return cls(runs, runs.folder(FOLDER))

    # --- Attempts ------------------------------------------------------------------------------------------------

    def _names(self) -> list[str]:
        return [name for name in self.folder.names() if _NAME.fullmatch(name)]

    def entries(self, day: date) -> list[Entry]:
        """Return the last attempts, and all of ``day``, oldest first.

        Raises
        ------
        UserError
            One of them cannot be read.
        """
        names = self._names()
        looked_at = {name for name in names if name.startswith(f"{day}-")} | set(names[-LOOKED_AT:])
        with ThreadPoolExecutor(16) as pool:
            found = [entry for entry in pool.map(self._entry, sorted(looked_at)) if entry is not None]
        return sorted(found, key=lambda entry: (entry.started_at, entry.date, entry.attempt))

    def _entry(self, name: str) -> Entry | None:
        try:
            started = json.loads(self.folder.read(f"{name}/started.json"))
            facts = {key: started[key] for key in ("date", "label", "attempt", "started_at")}
            return Entry(name, **facts, night=self._night(name))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(
                f"{name} in {self.folder.url} is damaged ({type(error).__name__}); restore it from a copy, or remove it"
            ) from error

    def _night(self, name: str) -> Night | None:
        try:
            return Night.from_json(json.loads(self.folder.read(f"{name}/night.json")))
        except FileNotFoundError:
            return None

    def all_nights(self, known: Iterable[Entry]) -> Iterator[Night]:
        """Yield the record of every attempt there ever was, of the newest day first, read as they are asked for.

        One that cannot be read is passed over: of what it made nothing is known.

        Parameters
        ----------
        known
            Attempts that were read already.
        """
        read = {entry.night_id: entry.night for entry in known}

        def look(name: str) -> Night | None:
            with suppress(ValueError, UserError):
                return read[name] if name in read else self._night(name)
            return None

        with ThreadPoolExecutor(REMOTE_READS) as pool:
            yield from (night for night in ahead(pool, look, reversed(self._names())) if night is not None)

    def next_attempt(self, day: date) -> int:
        """Return the number of the attempt at a night that would begin now, whatever models its attempts had."""
        found = [_NAME.fullmatch(name) for name in self._names()]
        return max((int(one[2]) for one in found if one and one[1] == str(day)), default=0) + 1

    def begin(self, day: date, label: str, attempt: int, *, started_at: str) -> str:
        """Note that an attempt begins, and return its id."""
        name = night_id(day, label, attempt)
        facts = {"date": str(day), "label": label, "attempt": attempt, "started_at": started_at}
        self.folder.write(f"{name}/started.json", json.dumps(facts, indent=1).encode())
        return name

    def end(self, name: str, night: Night, summary: str) -> None:
        """Write down what became of an attempt; the record last, as it says that the attempt has ended."""
        self.folder.write(f"{name}/summary.txt", summary.encode())
        self.folder.write(f"{name}/night.json", json.dumps(night.to_json(), indent=1).encode())

    def end_dead(self, entries: list[Entry], *, at: str) -> list[Entry]:
        """Write down for every attempt without a record that its process ended; only whoever holds the lease may say so."""
        found = []
        for entry in entries:
            if entry.night is None:
                dead = Night(
                    date=entry.date,
                    attempt=entry.attempt,
                    outcome=Outcome.UNFINISHED,
                    started_at=entry.started_at,
                    finished_at=at,
                    error="its process ended without a word",
                )
                self.end(entry.night_id, dead, f"{entry.night_id}: its process ended without a word\n")
                entry = replace(entry, night=dead)
            found.append(entry)
        return found

    # --- What was begun and is not settled -----------------------------------------------------------------------

    def open_run(self, run_id: str, doing: str) -> None:
        """Note what is about to be done with a run."""
        self.folder.write(f"open/{run_id}.json", json.dumps({"doing": doing}).encode())

    def settle_run(self, run_id: str) -> None:
        """Strike out what was noted of a run."""
        self.folder.remove(f"open/{run_id}.json")

    def open_runs(self) -> Iterator[tuple[str, str]]:
        """Yield run_id and what was about to be done with it."""
        for name in self.folder.names("open"):
            yield name.removesuffix(".json"), json.loads(self.folder.read(f"open/{name}"))["doing"]

    # --- The report that stands ----------------------------------------------------------------------------------

    def note_report(self, facts: dict[str, Any]) -> None:
        """Note of the report that was written what it was made from and says."""
        self.folder.write("report.json", json.dumps(facts).encode())

    def last_report(self) -> dict[str, Any] | None:
        """Return what was noted of the last report, None where there is none."""
        try:
            found: dict[str, Any] = json.loads(self.folder.read("report.json"))
            return found if found.keys() >= {"key", "waits", "figures"} else None
        except (FileNotFoundError, ValueError):
            return None  # then it is made again

    # --- What is yet to be told ----------------------------------------------------------------------------------

    def note_untold(self, name: str, facts: dict[str, Any]) -> None:
        """Note what is to be told of a run, or, as ``report``, of the report."""
        self.folder.write(f"untold/{name}.json", json.dumps(facts).encode())

    def untold(self) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield what is to be told: runs, and the report last."""
        names = [name.removesuffix(".json") for name in self.folder.names("untold")]
        for name in sorted(names, key=lambda one: (one == "report", one)):
            yield name, json.loads(self.folder.read(f"untold/{name}.json"))

    def told(self, name: str) -> None:
        """Strike out what was told."""
        self.folder.remove(f"untold/{name}.json")


def ended_well(entries: list[Entry], day: date, label: str, bundle_sha256: str) -> Entry | None:
    """Return the last attempt at a night with this model if it ended well: then the night's work is done."""
    of_it = [entry for entry in entries if (entry.date, entry.label) == (str(day), label)]
    night = of_it[-1].night if of_it else None
    if night is not None and night.outcome.success and night.bundle_sha256 == bundle_sha256:
        return of_it[-1]
    return None
