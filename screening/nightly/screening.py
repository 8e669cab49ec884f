"""The screening of a night: first what an earlier night left, then what is new, in one run or in slices within a budget."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from screening.archive.catalog import Catalog
from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.nightly.book import REMOVE, SCREEN, Book
from screening.nightly.choose import CHANGED, NEW, OLDER, to_screen
from screening.nightly.settings import NightlySettings
from screening.run.current import Current, NothingPublished, enter_last, open_current, refresh
from screening.run.lease import Lease
from screening.run.ledger import read_manifest
from screening.run.pipeline import CannotResume, Progress, RunOutcome, resume, screen
from screening.run.plan import Plan, damaged_files, load_plan
from screening.storage import Folder

FIRST_SLICE = 2048
"""Records of the first run where hours are limited and nothing is known of the rate."""
LARGEST_SLICE = 250_000
"""Records a run where hours are limited: what is finished is published, and a slice that was begun is soon gone on with."""
FILLED, WORTH_IT = 0.8, 0.1
"""Share of the time left that a slice is to take, and share of the hours below which none is begun."""


@dataclass
class Screened:
    """What was screened in a night."""

    run_ids: list[str] = field(default_factory=list)
    resumed: list[str] = field(default_factory=list)
    abandoned: list[str] = field(default_factory=list)
    unfinished: list[str] = field(default_factory=list)  # sentences of shards that storage left undone
    stopped: str | None = None  # the run that was at work when the night's hours were over
    hours_over: bool = False  # and records were left, of that run or of none yet
    count: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    waiting: int = 0
    seconds: float = 0.0
    device: str | None = None

    @property
    def rate(self) -> float | None:
        """Records a second, without start-up; None where nothing was screened."""
        return self.count["this_time"] / self.seconds if self.seconds > 0 and self.count["this_time"] else None


@dataclass(frozen=True)
class Work:
    """What a night works with."""

    night_id: str
    runs: Folder
    book: Book
    bundle: Bundle
    settings: NightlySettings
    storage_options: dict[str, Any]
    record: Callable[[str, dict[str, Any]], None]  # into the audit log
    on_stage: Callable[[str], None]
    on_progress: Callable[[Progress], None]
    on_event: Callable[[str, dict[str, Any]], None]

    @property
    def how(self) -> dict[str, Any]:
        """How runs are made, as `pipeline.screen` takes it."""
        return {
            "settings": self.settings.run,
            "address": self.settings.address,
            "storage_options": self.storage_options,
            "packed": self.settings.packed,
            "on_stage": self.on_stage,
            "on_progress": self.on_progress,
            "on_event": self.on_event,
        }


def newest(runs: Folder) -> Current | None:
    """Bring what is published into the index and return it; None where there is neither."""
    try:
        return refresh(runs)
    except NothingPublished:
        return open_current(runs)


def finish_earlier(
    work: Work, catalog: Catalog, done: Screened, *, until: float | None, started: Callable[[], Any]
) -> None:
    """Settle what earlier nights began: runs are gone on with, removals completed.

    A run is gone on with if it is of this archive and this model, and would come out here as it was planned. Otherwise it is
    abandoned: none of its rows was published, and its records are planned anew.
    """
    for run_id, doing in list(work.book.open_runs()):
        run = work.runs.folder(run_id)
        if doing == REMOVE:
            remove_run(work, run_id)
        elif (manifest := read_manifest(run)) is not None:
            _count(work, load_plan(run), _as_published(run, manifest), done)
            done.resumed.append(run_id)
        elif done.stopped is not None:
            return
        elif (why := _foreign(work, run, catalog)) is not None:
            _abandon(work, run_id, why, done)
        else:
            plan = load_plan(run)
            work.on_stage(f"going on with run {run_id} of an earlier night, {plan.records:,} records")
            what = {"run_id": run_id, "records": plan.records, "resumed": True}
            work.record("run.started", what)
            started()
            try:
                outcome = resume(work.runs.url, run_id, until=until, **work.how)
            except CannotResume as error:
                _abandon(work, run_id, str(error), done)
                continue
            done.resumed.append(run_id)
            _count(work, plan, outcome, done)


def _as_published(run: Folder, manifest: Mapping[str, Any]) -> RunOutcome:
    """Return the outcome of a run that was published just before its night ended without a word."""
    return RunOutcome(
        run.url,
        manifest["run_id"],
        manifest["counts"]["planned"],
        manifest["counts"],
        published=True,
        already=True,
        this_time=manifest.get("records_this_time", 0),
        seconds=manifest.get("seconds", 0.0),
    )


def _foreign(work: Work, run: Folder, catalog: Catalog) -> str | None:
    """Return why a run cannot be gone on with, None where it can."""
    if not run.exists("plan.json"):
        return "its plan was never finished"
    try:
        plan = load_plan(run)
    except UserError:
        return "its plan is damaged"
    if damaged_files(run, plan):
        return "its plan is damaged"
    if (plan.archive_url, plan.key_id) != (catalog.root_url, catalog.key_id):
        return "it is of another archive, or of another key"
    if plan.model["bundle_sha256"] != work.bundle.sha256:
        return f"it is of version {plan.model['version']} of {plan.model['name']}, which does not score any more"
    return None


def _abandon(work: Work, run_id: str, why: str, done: Screened) -> None:
    run = work.runs.folder(run_id)
    if run.exists():
        work.record("run.abandoned", {"run_id": run_id, "why": why})
        work.on_stage(f"run {run_id} of an earlier night is abandoned: {why}; its records are planned anew")
        with Lease(run) as lease:
            lease.folder.remove("plan.json")  # first: without it nobody takes the rest for a run
            for name in run.names():
                if name != "lease":
                    lease.folder.remove(name)
        run.remove("")
        done.abandoned.append(run_id)
    work.book.settle_run(run_id)


def remove_run(work: Work, run_id: str) -> None:
    """Remove a published run; noted before, so that a removal that was interrupted is completed."""
    work.book.open_run(run_id, REMOVE)
    run = work.runs.folder(run_id)
    run.remove("manifest.json")
    run.remove("plan.json")
    run.remove("")
    work.book.settle_run(run_id)


def screen_new(
    work: Work,
    catalog: Catalog,
    done: Screened,
    *,
    until: float | None,
    rate: float | None,
    started: Callable[[], Any],
) -> None:
    """Screen what the model has not scored, newest first, as far as the budget of the night goes.

    Parameters
    ----------
    until
        Time of ``time.monotonic`` at which the night's hours are over; None: never.
    rate
        Records a second of the last night, None where it is not known.
    started
        Called before a run is begun: it starts Ray, the first time.
    """
    older = work.settings.rescore == "older"
    chosen = to_screen(catalog, newest(work.runs), bundle_sha256=work.bundle.sha256, older=older)
    left = chosen.first(work.settings.max_records)
    done.waiting = len(chosen)
    hours = (work.settings.max_hours or 0) * 3600
    while len(left) and not done.unfinished and done.stopped is None:
        take = len(left)
        if until is not None:
            seconds = until - time.monotonic()
            if seconds < WORTH_IT * hours:
                done.hours_over = True
                break
            take = int(FILLED * max(0.0, seconds) * rate) if (rate := done.rate or rate) else FIRST_SLICE
            take = max(1, min(take, len(left), LARGEST_SLICE))
        started()
        now, left = left.first(take), left.after(take)
        plans: list[Plan] = []

        def noted(plan: Plan, plans: list[Plan] = plans, records: int = len(now)) -> None:
            plans.append(plan)
            work.book.open_run(plan.run_id, SCREEN)
            work.record("run.started", {"run_id": plan.run_id, "records": records, "resumed": False})

        outcome = screen(
            catalog.only(now.in_order()),
            work.runs.url,
            model_path=str(work.bundle.path),
            until=until,
            on_plan=noted,
            **work.how,
        )
        if outcome.already:  # by a model that is champion again, and superseded since
            enter_last(work.runs, outcome.run_id)
        if outcome.published:
            done.waiting -= len(now)
            done.count.update(new=now.count(NEW), changed=now.count(CHANGED), older=now.count(OLDER))
        _count(work, plans[0] if plans else load_plan(work.runs.folder(outcome.run_id)), outcome, done)


def _count(work: Work, plan: Plan, outcome: RunOutcome, done: Screened) -> None:
    run_id, counts = outcome.run_id, outcome.counts
    done.device = plan.fingerprint.get("device")
    done.seconds += outcome.seconds
    done.count.update(shards=plan.shards, this_time=outcome.this_time)
    ended = "run.published" if outcome.published else "run.unfinished"
    work.record(ended, {"run_id": run_id, "records": outcome.records, "counts": counts})
    if not outcome.published:
        done.count["unfinished_shards"] += outcome.undone
        done.unfinished += [f"run {run_id}: {why}" for why in outcome.unfinished]
        if not outcome.unfinished:
            done.stopped, done.hours_over = done.stopped or run_id, True
        return
    done.run_ids.append(run_id)
    done.count.update({key: counts[key] for key in ("scored", "rejected", "flagged", "explained")})
    done.count.update(planned=outcome.records)
    done.reasons.update(counts["reasons"])
    if work.settings.mlflow:
        work.book.note_untold(run_id, _facts(work, plan, outcome))
    work.book.settle_run(run_id)


def _facts(work: Work, plan: Plan, outcome: RunOutcome) -> dict[str, Any]:
    """Return what MLflow is told of a run: counts as a report would show them, rates from these, nothing of a patient."""
    manifest: Mapping[str, Any] = read_manifest(work.runs.folder(outcome.run_id)) or {}
    reporting = work.settings.reporting
    threshold, step = (0, 1) if reporting.exact else (reporting.smallest_count, reporting.round_to)

    def shown(count: int) -> int | None:
        return None if 0 < count <= threshold else step * round(count / step)

    counts = {key: outcome.counts[key] for key in ("scored", "rejected", "flagged", "explained")}
    counts |= {f"rejected.{reason}": count for reason, count in outcome.counts["reasons"].items()}
    figures: dict[str, float] = {}
    figures |= {key: number for key, count in counts.items() if (number := shown(count)) is not None}
    figures["planned"] = shown(outcome.records) or 0
    if figures.get("scored") and "flagged" in figures:
        figures["flag_rate"] = min(1.0, figures["flagged"] / figures["scored"])
    if figures["planned"] and "rejected" in figures:
        figures["reject_rate"] = min(1.0, figures["rejected"] / figures["planned"])
    if outcome.seconds > 0 and outcome.this_time:
        figures["records_per_second"] = round(outcome.this_time / outcome.seconds, 1)
        figures["seconds"] = round(outcome.seconds, 1)
    return {
        "run_id": outcome.run_id,
        "model_name": plan.model["name"],
        "bundle_sha256": plan.model["bundle_sha256"],
        "parameters": {f"run.{key}": value for key, value in plan.settings.items()},
        "figures": figures,
        "tags": {"catalog_id": plan.catalog_id, "bundle_version": plan.model["version"], "kind": "screening"},
        "started_at": manifest.get("started_at", manifest["finished_at"]),  # a repaired manifest knows no more
        "finished_at": manifest["finished_at"],
    }
