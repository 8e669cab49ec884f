"""A night from end to end: catalog, what an earlier night left, what is new, report, comparison, and what is told of it.

Everything that a night does can be interrupted at any moment. What is published stays, what was begun is noted in the book, and
the next attempt, tonight or tomorrow, ends with the same bytes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any

from screening.archive.build import build_catalog
from screening.archive.catalog import Catalog, open_catalog
from screening.archive.identity import PseudonymKey
from screening.archive.labels import load_rule
from screening.archive.mapping import load_mapping
from screening.cluster import cluster
from screening.errors import Interrupted, StorageError, UserError, kind_and_place
from screening.model.bundle import Bundle
from screening.nightly.book import UNKNOWN_MODEL, Book, Entry, ended_well, model_label, night_id
from screening.nightly.health import Finding, judge
from screening.nightly.keep import to_remove
from screening.nightly.record import Night, Outcome
from screening.nightly.reporting import Reported, report
from screening.nightly.screening import Screened, Work, finish_earlier, newest, remove_run, screen_new
from screening.nightly.settings import NightlySettings
from screening.nightly.summary import summary
from screening.nightly.tell import tell
from screening.run.current import Current
from screening.run.lease import HeldByAnother, Lease
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
    already: bool = False  # an earlier attempt had done the night's work, and nothing was done


@dataclass(frozen=True)
class Around:
    """What a night needs of the world around it."""

    clock: Callable[[], datetime]  # UTC
    record: Callable[[str, dict[str, Any]], None]  # into the audit log
    key: Callable[[], PseudonymKey | None] = lambda: None
    tracking_uri: str = ""
    storage_options: dict[str, Any] = field(default_factory=dict)
    on_stage: Callable[[str], None] = lambda _: None
    on_progress: Callable[[Progress], None] = lambda _: None
    on_event: Callable[[str, dict[str, Any]], None] = lambda _name, _facts: None  # as `pipeline.screen` tells them
    on_end: Callable[[Ended], None] = lambda _: None
    """Called once an attempt has ended, however it did, also where its record could not be written."""


def tonights_id(
    settings: NightlySettings, bundle: Bundle, day: date, storage_options: dict[str, Any], *, again: bool = False
) -> str:
    """Return the id of the attempt that would begin now, of the one at work, or of the one that has done the night's work.

    Nothing is written: whoever submits a night may not be able to write where its runs are.
    """
    book = Book.of(Folder(settings.runs, storage_options).absolute())
    entries, label = book.entries(day), model_label(bundle.name, bundle.version)
    if not again and (done := ended_well(entries, day, label, bundle.sha256)) is not None:
        return done.night_id
    last = next((entry for entry in reversed(entries) if entry.date == str(day)), None)
    if last is not None and last.night is None and Lease(book.folder).holder() is not None:
        return last.night_id
    return night_id(day, label, book.next_attempt(day))


def run_night(
    settings: NightlySettings, model: Callable[[], Bundle], day: date, around: Around, *, again: bool = False
) -> Ended:
    """Do a night's work, unless an attempt at it has succeeded already.

    However it ends, it stands in the book as far as that can be written, and `Around.on_end` hears of it. Only a start that is
    refused because another attempt is at work leaves no trace: that attempt will tell.

    Parameters
    ----------
    model
        Gives the model that scores tonight.
    day
        That names the night.
    again
        Begin another attempt although the last one ended well.

    Raises
    ------
    HeldByAnother
        Another attempt is at work.
    UserError
        Something is wrong that the user can mend. What was finished stays.
    StorageError, Interrupted, KeyboardInterrupt
        The night was interrupted; started again, it goes on.
    """
    attempt = _Attempt(settings, around, day, around.clock())

    def waiting(holder: Any) -> None:
        around.on_stage(f"waiting to see whether process {holder.pid} on {holder.host}, which has the night, is alive")

    try:
        book = Book.of(Folder(settings.runs, around.storage_options).absolute())
        with Lease(book.folder, doing="worked on", on_wait=waiting):
            attempt.book = book
            try:
                return attempt.do(book, model, again)
            except BaseException as error:
                attempt.fail(error)
                raise
    except HeldByAnother:
        raise
    except BaseException as error:
        attempt.fail(error)
        raise


def _said(at: datetime) -> str:
    return at.isoformat(timespec="seconds")


@dataclass
class _Attempt:
    """An attempt while it is at work."""

    settings: NightlySettings
    around: Around
    day: date
    started: datetime
    book: Book | None = None  # once the lease of it is held
    entries: list[Entry] = field(default_factory=list)
    bundle: Bundle | None = None
    name: str | None = None  # once it stands in the book
    told: bool = False
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

    def do(self, book: Book, model: Callable[[], Bundle], again: bool) -> Ended:
        """Do it, or find that it was done."""
        self.entries = book.end_dead(book.entries(self.day), at=_said(self.around.clock()))
        self.bundle = bundle = model()
        label = model_label(bundle.name, bundle.version)
        done = None if again else ended_well(self.entries, self.day, label, bundle.sha256)
        if done is not None and done.night is not None:
            return self._done_already(done, done.night)
        name = self._begin(book, label)
        how = (self.around.storage_options, self.around.record, self.around.on_stage, self.around.on_progress)
        work = Work(name, book.runs, book, bundle, self.settings, *how, self.around.on_event)
        self._work_through(work)
        return self._write_down(None)

    def fail(self, error: BaseException) -> None:
        """Write down and tell that it ended with an error; once."""
        if not self.told:
            with suppress(Exception):  # what ended the night is the news
                self._write_down(error)

    def _begin(self, book: Book, label: str) -> str:
        number = book.next_attempt(self.day)
        self.name = book.begin(self.day, label, number, started_at=_said(self.started))
        self.around.record("night.started", {"night": self.name})
        return self.name

    def _done_already(self, done: Entry, night: Night) -> Ended:
        before = [one for one in self.before if one is not night]
        findings = tuple(judge(night, before, self.settings.health))
        ended = Ended(night, done.night_id, self._url(done.night_id), "", findings, already=True)
        self.told = True
        self.around.on_end(ended)
        return ended

    def _url(self, name: str) -> str:
        return f"{self.book.folder.url}/{name}" if self.book is not None else ""

    def _work_through(self, work: Work) -> None:
        catalog = self._catalog(work)
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
        self._remove_superseded(work)
        if self.current is not None:
            self.reported = report(work, catalog, self.current, today=self.day)
        if work.settings.mlflow:
            self.untold, note = tell(work.book, self.around.tracking_uri, work.storage_options)
            self.notes += [note] if note else []

    def _catalog(self, work: Work) -> Catalog:
        settings, options = work.settings, work.storage_options
        if settings.archive is not None:
            work.on_stage("renewing the catalog")
            found = build_catalog(
                settings.archive,
                settings.catalog,
                metadata=settings.metadata,
                mapping=load_mapping(settings.mapping) if settings.mapping else None,
                labels=load_rule(settings.labels) if settings.labels else None,
                deidentified=settings.deidentified,
                key=self.around.key(),
                storage_options=options,
            )
            counted = ("records", "new", "changed", "unchanged", "gone")
            self.catalogued = {name: getattr(found, name) for name in counted}
            self.notes += found.warnings
        catalog = open_catalog(settings.catalog, storage_options=options)
        self.catalogued.setdefault("records", catalog.records)
        if settings.packed is not None:
            work.on_stage("renewing the pack")
            pack_archive(catalog, Folder(settings.packed, options).absolute(), storage_options=options)
        return catalog

    def _rate(self) -> float | None:
        """Return the records a second of the last night that tells."""
        for night in reversed(self.before):
            if night.records_this_time and night.seconds > 0:
                return night.records_this_time / night.seconds
        return None

    def _remove_superseded(self, work: Work) -> None:
        keep = work.settings.keep_nights
        if keep is None or self.current is None or self.done.unfinished:
            return
        before, tonight = work.book.all_nights(self.entries), self.done.run_ids
        for run_id in to_remove(self.current, before, day=str(self.day), tonight=tonight, keep_nights=keep):
            work.record("run.removed", {"run_id": run_id, "why": "superseded", "keep_nights": keep})
            remove_run(work, run_id)
            self.removed.append(run_id)
        if self.removed:
            self.current = newest(work.runs)

    def _write_down(self, error: BaseException | None) -> Ended:
        """Write the record of the night and its summary, tell of it, and return it."""
        if error is None:
            ended = self._into_the_book(None)
        else:
            try:
                ended = self._into_the_book(error)
            except Exception:  # the book cannot be written, which may be what ended the night: it is told all the same
                ended = self._ended(error)
        self.told = True
        self.around.on_end(ended)
        return ended

    def _into_the_book(self, error: BaseException | None) -> Ended:
        if self.name is None and self.book is not None:  # it failed before it knew its model
            self._begin(self.book, UNKNOWN_MODEL)
        ended = self._ended(error)
        if self.name is not None and self.book is not None:
            self.book.end(self.name, ended.night, ended.summary)
            what: Mapping[str, Any] = {"outcome": ended.night.outcome, "run_ids": ended.night.run_ids}
            self.around.record("night.ended", {"night": self.name, **what})
        return ended

    def _ended(self, error: BaseException | None) -> Ended:
        night, name = self._night(error), self.name or str(self.day)
        findings = judge(night, self.before, self.settings.health)
        text = summary(night, name, self.before, findings, self.notes)
        return Ended(night, name, self._url(name), text, tuple(findings))

    def _night(self, error: BaseException | None) -> Night:
        done, reported, last = self.done, self.reported, next(reversed(self.before), None)
        return Night(
            date=str(self.day),
            attempt=int(self.name.rsplit("-", 1)[1]) if self.name else 1,
            kind="backfill" if done.waiting or (last is not None and last.waiting) else "nightly",
            outcome=self._outcome(error),
            started_at=_said(self.started),
            finished_at=_said(self.around.clock()),
            model_name=self.bundle.name if self.bundle else None,
            model_version=self.bundle.version if self.bundle else None,
            bundle_sha256=self.bundle.sha256 if self.bundle else None,
            device=done.device,
            workers=self.settings.run.workers,
            run_ids=tuple(done.run_ids),
            reasons=dict(sorted(done.reasons.items())),
            records_this_time=done.count["this_time"],
            seconds=round(done.seconds, 3),
            waiting=done.waiting,
            hours_over=done.hours_over,
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
        return Outcome.PUBLISHED if self.done.run_ids or self.done.hours_over else Outcome.NOTHING_NEW


def _sentence(error: BaseException) -> str:
    """Return what may be said of what ended a night: our own words, of others' errors kind and place."""
    if isinstance(error, KeyboardInterrupt):
        return "it was interrupted"
    if isinstance(error, (UserError, StorageError, Interrupted)):
        return str(error)
    return kind_and_place(error)
