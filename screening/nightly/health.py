"""Is last night what nights here are like? Findings in sentences, from counts alone; no clock, no storage.

A share (flagged, or rejected for a reason) is judged against the nights before by what they let expect: tonight's count is held
against a beta-binomial distribution whose mean is their pooled share and whose spread is what they showed from night to night
beyond chance (the intra-night correlation of Williams, Appl Stat 1982;31:144, shrunk towards a prior while they are few). A
finding needs both a tail probability below `Rules.chance` and an effect that matters, in Cohen's h; so a small night needs a
large difference, and a large night does not cry over a small one. `tests/nightly/simulation.py` states how often quiet years
cry, and which jumps are seen.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from statistics import median

import numpy as np
from pydantic import Field
from scipy.stats import betabinom, chi2, kstwobign

from screening.nightly.record import LAST_RUN, MODEL, DriftFigure, Night, Outcome
from screening.settings import Settings

FLAGS_ALIKE, REJECTS_ALIKE, PRIOR_NIGHTS = 0.002, 0.01, 14.0
"""How alike records of one night are taken to be before there is experience (rejects come in bursts, from one device), and
how many nights that counts for."""
LEFT_OUT = 12
"""Of so many nights the one furthest from the rest is left out, so that one bad night does not hide the next."""
PSI_BINS = 10


class Level(StrEnum):
    """How urgent a finding is."""

    ALARM = "alarm"
    WARNING = "warning"


@dataclass(frozen=True)
class Finding:
    """One thing to look at."""

    kind: str
    level: Level
    sentence: str  # what, how much, and what to look at

    def to_json(self) -> dict[str, str]:
        """Return JSON values."""
        return {"kind": self.kind, "level": str(self.level), "sentence": self.sentence}


class Rules(Settings):
    """From where on a night is told of."""

    window: int = Field(default=28, ge=3, le=366, description="nights that tonight is compared with, at most")
    least_nights: int = Field(default=3, ge=1, description="nights there must be before a share is judged")
    chance: float = Field(default=1e-4, gt=0, lt=0.1, description="tail probability below which a share is not chance")
    flag_effect: float = Field(
        default=0.2, gt=0, description="least difference of the flag rate, Cohen's h (10% to 17% is 0.2)"
    )
    reject_effect: float = Field(default=0.2, gt=0, description="the same of rejects (0.1% to 1.7%, or 5% to 10.3%)")
    slowdown: float = Field(
        default=0.5, gt=0, lt=1, description="share of the usual records a second below which a night is slow"
    )
    slow_records: int = Field(default=500, ge=1, description="records a night must screen for its speed to be judged")
    overdue_hours: float = Field(
        default=26.0, gt=0, description="hours since the last success after which a night is overdue"
    )
    empty_nights: int = Field(
        default=3, ge=1, description="nights in a row without a new record, where there always were some"
    )


def judge(tonight: Night, before: Sequence[Night], rules: Rules | None = None) -> list[Finding]:
    """Return what is to be looked at after a night, the gravest first.

    Parameters
    ----------
    tonight
        The night that just ended.
    before
        Earlier nights and attempts, oldest first; failed ones too.
    """
    rules = rules or Rules()
    # Backfills bring older patients and other devices: they are held against each other only.
    alike = [night for night in before if night.kind == tonight.kind]
    found = [*_ended(tonight), *_overdue(tonight, before, rules)]
    if tonight.scored + tonight.rejected:
        usual = [n for n in alike if n.outcome is Outcome.PUBLISHED and n.scored + n.rejected][-rules.window :]
        found += [*_flags(tonight, usual, rules), *_rejects(tonight, usual, rules), *_slow(tonight, usual, rules)]
        found += _drift(tonight, usual, rules)
    found += _empty(tonight, alike, rules)
    return sorted(found, key=lambda finding: finding.level is not Level.ALARM)


def overdue(nights: Sequence[Night], now: datetime, rules: Rules | None = None) -> Finding | None:
    """Return a finding where the last success is too long ago: for a look from outside, when no night was started at all."""
    rules = rules or Rules()
    successes = [datetime.fromisoformat(night.finished_at) for night in nights if night.outcome.success]
    if not successes:
        return None
    hours = (now - max(successes)).total_seconds() / 3600
    if hours <= rules.overdue_hours:
        return None
    return Finding(
        "overdue",
        Level.ALARM,
        f"No night has succeeded for {hours:.0f} hours (since {max(successes):%Y-%m-%d %H:%M} UTC): see whether the clock that "
        "starts it runs, and what the last attempts said.",
    )


# --- How it ended ----------------------------------------------------------------------------------------------------


def _ended(night: Night) -> Iterator[Finding]:
    why = f": {night.error.rstrip('.')}" if night.error else ""
    if night.outcome is Outcome.FAILED:
        yield Finding("failed", Level.ALARM, f"The night failed{why}. Mend that and start it again; nothing is lost.")
    elif night.outcome is Outcome.UNFINISHED or night.unfinished_shards:
        shards = (
            f"{night.unfinished_shards} of {night.shards} shards are" if night.unfinished_shards else "The night is"
        )
        yield Finding(
            "unfinished",
            Level.ALARM,
            f"{shards} unfinished{why}. Start it again to go on where it stopped; if it stops at the same shards, look at the "
            "storage that they name.",
        )


def _overdue(tonight: Night, before: Sequence[Night], rules: Rules) -> Iterator[Finding]:
    if not tonight.outcome.success:
        finding = overdue(before, datetime.fromisoformat(tonight.finished_at), rules)
        if finding is not None:
            yield finding


def _empty(tonight: Night, alike: Sequence[Night], rules: Rules) -> Iterator[Finding]:
    """Tell of an archive that grew every night and does so no more: mostly a feed that stopped."""
    succeeded = [night for night in alike if night.outcome.success]
    row = rules.empty_nights
    earlier, last = succeeded[: len(succeeded) - row + 1][-rules.window :], succeeded[len(succeeded) - row + 1 :]
    if len(earlier) < max(rules.least_nights, row) or any(night.planned for night in [*last, tonight]):
        return
    if tonight.outcome is Outcome.NOTHING_NEW and all(night.planned for night in earlier[-rules.window :]):
        yield Finding(
            "nothing_new",
            Level.WARNING,
            f"Nothing new for {row} nights, after {len(earlier)} nights that all had new records: see whether the archive is "
            "still fed, and whether its mount shows what is in it.",
        )


# --- Shares ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Jump:
    """Tonight's share against that of the nights before."""

    tonight: float
    usual: float
    effect: float  # Cohen's h, signed
    tail: float  # probability of a count at least as far out on its side


def jump(count: int, total: int, before: Sequence[tuple[int, int]], *, alike: float = FLAGS_ALIKE) -> Jump:
    """Hold a count against those of the nights before, each given as (count, total).

    Examples
    --------
    >>> seen = jump(60, 200, [(20, 200)] * 10)
    >>> seen.usual, round(seen.effect, 2), seen.tail < 1e-6
    (0.1, 0.52, True)
    """
    counts, totals = (np.array(column, np.float64) for column in zip(*before, strict=True))
    if len(totals) >= LEFT_OUT:
        share = counts.sum() / totals.sum()
        spread = np.sqrt(np.maximum(share * (1 - share), 1 / totals.sum()) / totals)
        kept = np.argsort(np.abs(counts / totals - share) / spread, kind="stable")[:-1]
        counts, totals = counts[kept], totals[kept]
    mean = (counts.sum() + 0.5) / (totals.sum() + 1.0)
    correlation = _correlation(counts, totals, mean, alike)
    known = float((totals / (1 + (totals - 1) * correlation)).sum())  # records that would tell as much, were none alike
    spread_of = correlation + 1 / (known + 1)
    strength = max(1 / spread_of - 1, 1e-6)
    expected = betabinom(total, mean * strength, (1 - mean) * strength)
    usual, share = float(counts.sum() / totals.sum()), count / total
    tail = float(expected.sf(count - 1) if share > mean else expected.cdf(count))
    return Jump(share, usual, 2 * math.asin(math.sqrt(share)) - 2 * math.asin(math.sqrt(usual)), tail)


def _correlation(counts: np.ndarray, totals: np.ndarray, mean: float, prior: float) -> float:
    """Return how alike records of one night are: the moment estimate, shrunk towards what is taken without experience."""
    nights = len(totals)
    pearson = float(((counts - totals * mean) ** 2 / (totals * mean * (1 - mean))).sum())
    room = float(((totals - 1) * (1 - totals / totals.sum())).sum())
    estimate = min(max((pearson - (nights - 1)) / room, 0.0), 0.5) if room > 0 else 0.0
    return (nights * estimate + PRIOR_NIGHTS * prior) / (nights + PRIOR_NIGHTS)


def _flags(tonight: Night, usual: Sequence[Night], rules: Rules) -> Iterator[Finding]:
    same = [(n.flagged, n.scored) for n in usual if n.scored and n.bundle_sha256 == tonight.bundle_sha256]
    if not tonight.scored or len(same) < rules.least_nights:
        return
    seen = jump(tonight.flagged, tonight.scored, same)
    if abs(seen.effect) >= rules.flag_effect and seen.tail < rules.chance / 2:  # two sides
        yield Finding(
            "flag_rate",
            Level.ALARM,
            f"{tonight.flagged:,} of {tonight.scored:,} records were flagged, {seen.tonight:.1%} against {seen.usual:.1%} in "
            f"{len(same)} nights before with the same model: see in the report whether patients, devices or amplitudes "
            "changed, and have some of these ECGs read.",
        )


def _rejects(tonight: Night, usual: Sequence[Night], rules: Rules) -> Iterator[Finding]:
    total = tonight.scored + tonight.rejected
    if len(usual) < rules.least_nights:
        return
    reasons = [*sorted(tonight.reasons, key=lambda reason: -tonight.reasons[reason]), None]
    told = False
    for reason in reasons:  # their sum last, and only where no single one is to blame
        if reason is None and told:
            return
        count = tonight.rejected if reason is None else tonight.reasons[reason]
        before = [(n.rejected if reason is None else n.reasons.get(reason, 0), n.scored + n.rejected) for n in usual]
        seen = jump(count, total, before, alike=REJECTS_ALIKE)
        if seen.effect >= rules.reject_effect and seen.tail < rules.chance:
            told = True
            as_what = "" if reason is None else f" as {reason}"
            look = "`screening failures` lists them" if reason is None else _LOOK.get(reason, _LOOK_ELSEWHERE)
            yield Finding(
                "reject_rate",
                Level.ALARM,
                f"{count:,} of {total:,} records were rejected{as_what}, {seen.tonight:.1%} against {seen.usual:.1%} in "
                f"{len(usual)} nights before: {look}.",
            )


_LOOK_ELSEWHERE = "`screening failures` lists them; compare the devices and the export that they come from"
_STORAGE = "see whether the archive was mounted and copied whole"
_LOOK = {
    **dict.fromkeys(("missing_file", "empty_file", "truncated", "checksum_mismatch"), _STORAGE),
    "changed": "files were changed after they were catalogued; see who writes to the archive",
    **dict.fromkeys(
        ("too_large", "undecodable"), "`screening failures` lists them; see whether workers lack memory or time"
    ),
    "missing_units": "an export no longer says what a millivolt is; ask who changed it",
    **dict.fromkeys(
        ("flat_lead", "clipped"), "look at electrodes, cables and gains of the devices that they come from"
    ),
}


# --- Speed -----------------------------------------------------------------------------------------------------------


def _slow(tonight: Night, usual: Sequence[Night], rules: Rules) -> Iterator[Finding]:
    like = (tonight.device, tonight.workers)
    rates = [
        n.records_this_time / n.seconds
        for n in usual
        if n.records_this_time >= rules.slow_records and n.seconds > 0 and (n.device, n.workers) == like
    ]
    if len(rates) < rules.least_nights or tonight.records_this_time < rules.slow_records or tonight.seconds <= 0:
        return
    rate, typical = tonight.records_this_time / tonight.seconds, median(rates)
    if rate < rules.slowdown * typical and rate < min(rates):
        yield Finding(
            "throughput",
            Level.WARNING,
            f"{rate:.1f} records a second, against {typical:.1f} in {len(rates)} nights before on as many workers: see what "
            "else ran on the machines, and which stage took the time (screening_stage_seconds_total; fetch is storage).",
        )


# --- Drift -----------------------------------------------------------------------------------------------------------


def _drift(tonight: Night, usual: Sequence[Night], rules: Rules) -> Iterator[Finding]:
    """Tell of marked differences that are new: an archive may well be unlike the model's reference every night."""
    last = next((night for night in reversed(usual) if night.drift), None)
    known = set()
    if last is not None and last.bundle_sha256 == tonight.bundle_sha256:
        known = {figure.feature for figure in last.drift if figure.against == MODEL and figure.verdict == "marked"}
    marked = [figure for figure in tonight.drift if figure.verdict == "marked"]
    fresh = [figure for figure in marked if figure.against == MODEL and figure.feature not in known]
    if last is not None and fresh:
        yield _drifted("the model's reference", fresh, "sensitivity and specificity may hold less than they did")
    sizes = (usual[-1].scored, tonight.scored) if usual else (0, 0)
    since = [figure for figure in marked if figure.against == LAST_RUN and _beyond_chance(figure, *sizes, rules.chance)]
    if since:
        yield _drifted("the run before", since, "other patients, devices or an export that changed")


def _drifted(than: str, figures: Sequence[DriftFigure], meaning: str) -> Finding:
    what = ", ".join(figure.feature + (f" (KS {figure.ks:.2f})" if figure.ks is not None else "") for figure in figures)
    return Finding(
        "drift",
        Level.WARNING,
        f"Markedly other than {than}: {what}: {meaning}; the report's section on drift says what to do.",
    )


def _beyond_chance(figure: DriftFigure, before: int, tonight: int, chance: float) -> bool:
    """Whether two runs of so many records hardly differ so by chance."""
    if not before or not tonight:
        return False
    each = 1 / before + 1 / tonight
    if figure.ks is None:
        return abs(figure.effect or 0.0) > math.sqrt(float(chi2.isf(chance, 1)) * each)
    by_ks = float(kstwobign.sf(figure.ks / math.sqrt(each))) < chance
    return by_ks or (figure.psi or 0.0) > float(chi2.isf(chance, PSI_BINS - 1)) * each
