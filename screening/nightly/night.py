"""A night from end to end: catalog, what an earlier night left, what is new, report, comparison, and what is told of it.

Everything that a night does can be interrupted at any moment. What is published stays, what was begun is noted in the book, and
the next attempt, tonight or tomorrow, ends with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from screening.archive.catalog import Catalog, build_catalog, open_catalog
from screening.archive.identity import PseudonymKey
from screening.archive.labels import load_rule
from screening.archive.metadata import load_mapping
from screening.cluster import cluster
from screening.errors import Interrupted, StorageError, UserError, kind_and_place
from screening.model.bundle import Bundle
from screening.nightly.book import Book, Entry, ended_well, model_label, next_attempt, night_id
from screening.nightly.health import Finding, judge
from screening.nightly.keep import to_remove
from screening.nightly.record import Night, Outcome
from screening.nightly.reporting import Reported, report
from screening.nightly.screening import Screened, Work, finish_earlier, newest, remove_run, screen_new
from screening.nightly.settings import NightlySettings
from screening.nightly.summary import summary
from screening.nightly.tell import tell
from screening.run.current import Current
from screening.run.lease import Lease
from screening.run.packing import pack_archive
from screening.run.pipeline import IMPORTED_BY_WORKERS, Progress
from screening.storage import Folder


@dataclass(frozen=True)
class Ended:
    """What became of a night."""

    night: Night
    night_id: str
    url: str  # of its folder
    summary: str
    findings: tuple[Finding, ...] = ()
    already: bool = False  # an earlier attempt had done the day's work, and nothing was done


@dataclass(frozen=True)
class Around:
    """What a night needs of the world around it."""

    clock: Callable[[], datetime]  # UTC
    record: Callable[[str, dict[str, Any]], None]  # into the audit log
    key: PseudonymKey | None = None
    tracking_uri: str = ""
    storage_options: dict[str, Any] = field(default_factory=dict)
    on_stage: Callable[[str], None] = lambda _: None
    on_progress: Callable[[Progress], None] = lambda _: None
    on_event: Callable[[str, dict[str, Any]], None] = lambda _name, _facts: None  # as `pipeline.screen` tells them
    on_end: Callable[[Night, Sequence[Finding]], None] = lambda _night, _findings: None
    """Called when a night is written down, however it ended."""


def tonights_id(settings: NightlySettings, bundle: Bundle, day: date, storage_options: dict[str, Any]) -> str:
    """Return the id of the attempt that would begin now, of the one at work, or of the one that has done the day's work."""
    book = Book.of(Folder(settings.runs, storage_options).absolute())
    entries, label = book.entries(), model_label(bundle.name, bundle.version)
    if (done := ended_well(entries, day, bundle.sha256)) is not None:
        return done.night_id
    return night_id(day, label, next_attempt(entries, day, label, at_work=Lease(book.folder).holder() is not None))


def run_night(settings: NightlySettings, bundle: Bundle, day: date, around: Around) -> Ended:
    """Do a night's work, unless an attempt at it has succeeded already.

    Parameters
    ----------
    bundle
        Of the model that scores tonight.
    day
        That names the night.

    Raises
    ------
    UserError
        Another attempt is at work, or something is wrong that the user can mend. What was finished stays.
    StorageError, Interrupted, KeyboardInterrupt
        The night was interrupted; started again, it goes on.
    """
    runs = Folder(settings.runs, around.storage_options).absolute()
    book = Book.of(runs)
    label = model_label(bundle.name, bundle.version)

    def waiting(holder: Any) -> None:
        around.on_stage(f"waiting to see whether process {holder.pid} on {holder.host}, which has the night, is alive")

    with Lease(book.folder, doing="worked on", on_wait=waiting):
        entries = book.end_dead(book.entries(), at=_said(around.clock()))
        if (done := ended_well(entries, day, bundle.sha256)) is not None and done.night is not None:
            return Ended(done.night, done.night_id, f"{book.folder.url}/{done.night_id}", "", already=True)
        started = around.clock()
        name = book.begin(day, label, next_attempt(entries, day, label), started_at=_said(started))
        around.record("night.started", {"night": name})
        work = Work(
            name,
            runs,
            book,
            bundle,
            settings,
            around.storage_options,
            around.record,
            around.on_stage,
            around.on_progress,
            around.on_event,
        )
        attempt = _Attempt(work, around, entries, day, started)
        try:
            attempt.work_through()
        except BaseException as error:
            with suppress(Exception):  # what ended the night is the news
                attempt.write_down(error)
            raise
        return attempt.write_down(None)


def _said(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


@dataclass
class _Attempt:
    """An attempt while it is at work."""

    work: Work
    around: Around
    entries: list[Entry]
    day: date
    started: datetime
    done: Screened = field(default_factory=Screened)
    catalogued: dict[str, int] = field(default_factory=dict)
    current: Current | None = None
    reported: Reported | None = None
    removed: list[str] = field(default_factory=list)
    untold: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def before(self) -> list[Night]:
        """The nights before, oldest first."""
        return [entry.night for entry in self.entries if entry.night is not None]

    def work_through(self) -> None:
        """Do all of it."""
        work = self.work
        catalog = self._catalog()
        until = None
        if work.settings.max_hours is not None:
            until = time.monotonic() + work.settings.max_hours * 3600
        with ExitStack() as stack:
            begun: list[bool] = []

            def started() -> None:
                if not begun:
                    begun.append(True)
                    work.on_stage("starting Ray")
                    stack.enter_context(cluster(work.settings.address, ready_with=IMPORTED_BY_WORKERS))

            finish_earlier(work, catalog, self.done, until=until, started=started)
            if not self.done.unfinished:
                screen_new(work, catalog, self.done, until=until, rate=self._rate(), started=started)
        if self.done.stopped is not None:
            self.notes.append(f"the night's hours were over in run {self.done.stopped}; the next night goes on with it")
        self.current = newest(work.runs)
        self._remove_superseded()
        if self.current is not None:
            self.reported = report(work, catalog, self.current, today=self.day)
        if work.settings.mlflow:
            self.untold, note = tell(work.book, self.around.tracking_uri, work.storage_options)
            self.notes += [note] if note else []

    def _catalog(self) -> Catalog:
        settings, options = self.work.settings, self.work.storage_options
        if settings.archive is not None:
            self.work.on_stage("renewing the catalog")
            found = build_catalog(
                settings.archive,
                settings.catalog,
                metadata=settings.metadata,
                mapping=load_mapping(settings.mapping) if settings.mapping else None,
                labels=load_rule(settings.labels) if settings.labels else None,
                deidentified=settings.deidentified,
                key=self.around.key,
                storage_options=options,
            )
            counted = ("records", "new", "changed", "unchanged", "gone")
            self.catalogued = {name: getattr(found, name) for name in counted}
            self.notes += found.warnings
        catalog = open_catalog(settings.catalog, storage_options=options)
        self.catalogued.setdefault("records", catalog.records)
        if settings.packed is not None:
            self.work.on_stage("renewing the pack")
            pack_archive(catalog, Folder(settings.packed, options).absolute(), storage_options=options)
        return catalog

    def _rate(self) -> float | None:
        """Return the records a second of the last night that tells."""
        for night in reversed(self.before):
            if night.records_this_time and night.seconds > 0:
                return night.records_this_time / night.seconds
        return None

    def _remove_superseded(self) -> None:
        keep = self.work.settings.keep_nights
        if keep is None or self.current is None or self.done.unfinished:
            return
        for run_id in to_remove(self.current, self.entries, self.done.run_ids, keep_nights=keep):
            self.work.record("run.removed", {"run_id": run_id, "why": "superseded", "keep_nights": keep})
            remove_run(self.work, run_id)
            self.removed.append(run_id)
        if self.removed:
            self.current = newest(self.work.runs)

    def write_down(self, error: BaseException | None) -> Ended:
        """Write the record of the night and its summary, and return them."""
        night = self._night(error)
        findings = judge(night, self.before, self.work.settings.health)
        text = summary(night, self.work.night_id, self.before, findings, self.notes)
        self.work.book.end(self.work.night_id, night, text)
        what: Mapping[str, Any] = {"night": self.work.night_id, "outcome": night.outcome, "run_ids": night.run_ids}
        self.around.record("night.ended", dict(what))
        self.around.on_end(night, findings)
        return Ended(
            night, self.work.night_id, f"{self.work.book.folder.url}/{self.work.night_id}", text, tuple(findings)
        )

    def _night(self, error: BaseException | None) -> Night:
        done, reported, last = self.done, self.reported, next(reversed(self.before), None)
        plan_of = self.work.bundle
        return Night(
            date=str(self.day),
            attempt=int(self.work.night_id.rsplit("-", 1)[1]),
            kind="backfill" if done.waiting or (last is not None and last.waiting) else "nightly",
            outcome=self._outcome(error),
            started_at=_said(self.started),
            finished_at=_said(self.around.clock()),
            model_name=plan_of.name,
            model_version=plan_of.version,
            bundle_sha256=plan_of.sha256,
            device=done.device,
            workers=self.work.settings.run.workers,
            run_ids=tuple(done.run_ids),
            reasons=dict(sorted(done.reasons.items())),
            records_this_time=done.count["this_time"],
            seconds=round(done.seconds, 3),
            waiting=done.waiting,
            drift=reported.drift if reported else (),
            error=_sentence(error) if error is not None else "; ".join(done.unfinished) or None,
            catalog=self.catalogued,
            current=dict(self.current.counts) if self.current else {},
            resumed=tuple(done.resumed),
            abandoned=tuple(done.abandoned),
            removed=tuple(self.removed),
            report_made=reported is not None and reported.made,
            report_waits=reported is not None and reported.waits,
            figures=reported.figures if reported else {},
            untold=self.untold,
            **{
                key: done.count[key]
                for key in ("planned", "scored", "rejected", "flagged", "explained")
                + ("new", "changed", "older", "shards", "unfinished_shards")
            },
        )

    def _outcome(self, error: BaseException | None) -> Outcome:
        if isinstance(error, (KeyboardInterrupt, Interrupted, StorageError)):
            return Outcome.UNFINISHED
        if error is not None:
            return Outcome.FAILED
        if self.done.unfinished:
            return Outcome.UNFINISHED
        return Outcome.PUBLISHED if self.done.run_ids or self.done.stopped else Outcome.NOTHING_NEW


def _sentence(error: BaseException) -> str:
    """Return what may be said of what ended a night: our own words, of others' errors kind and place."""
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    if isinstance(error, (UserError, StorageError, Interrupted)):
        return str(error)
    return kind_and_place(error)
