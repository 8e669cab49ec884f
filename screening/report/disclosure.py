"""Disclosure control: from exact counts to counts that may be shared, so that no small group can be recognised in them.

What is protected
    Every count from 1 to the threshold, of records or patients, in every table: cells, totals and the flow. The default, 10,
    is the small-number rule of United States health data (CMS cell size suppression policy: no cell of 1-10, and none from
    which one follows). Small counts are hidden (primary suppression) and so many others that none follows by subtraction
    (complementary suppression); the two look alike. A 0 is shown, except as part of a small count or in a sparse table.
How
    All tables of a report are one system of sums (`sums.py`): totals of every dimension are the cells of table "all", months
    are parts of years, age by sex is part of both, rejected records are the sum of reasons. An intruder is granted every
    shown count *exactly*, more than rounding leaves, and that a hidden count is at least 1 where zeros are shown. For every
    small count there must be possible tables, in whole numbers, in which it is 1 and in which it is the threshold, so that
    no part of that range is ruled out (`suppression.py` finds these tables, and so audits what it hides). Where hiding cells
    does not reach this, or most cells are small, the table is given up and has no rows. What is shown is then rounded, never
    to a number from 1 to the threshold, each count by itself: shown parts need not add up to shown totals exactly.
Two nights
    A night's report is held against what was released before (`Released.private`, true counts: a file of mode 0600). While not
    more than `threshold` patients are new, or while protecting the differences would hide figures of all patients or more
    than a tenth of what was shown, the last release is given again. Otherwise a count that has changed by 1 to `threshold`
    since the last release, or since it was last shown, is protected like a small count: the change must be possible as 1 and
    as the threshold, as far as can be had also for one who knows that counts only grew. What was hidden stays hidden until
    its count has changed by more. Flags of another model are other counts.
Sources
    Hundepool et al. 2012, Statistical Disclosure Control (Wiley), chapters 4 and 5; Cox 1980, J Am Stat Assoc 75:377
    (complementary suppression); CMS, Cell Size Suppression Policy (2020).
What it does not protect against
    Another report on overlapping records made with other settings (period, index rule, threshold, rounding) or without this
    one's ledger; two catalogs that share patients; comparing a night with one before the last release, where counts fell in
    between; what the intruder knows from elsewhere about single patients, or of how this program chooses what to hide; that
    a group of records may be one patient's, as records are counted, not their patients; differences between counts of
    different things (records less patients), beyond rounding; that a category exists.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from screening.contract import PREFIX_OF
from screening.report.histograms import Merged, merge
from screening.report.protected import (
    DisclosureSettings,
    Private,
    Protected,
    ProtectedHistogram,
    ProtectedImportance,
    Released,
)
from screening.report.sums import FAMILIES, IMPORTANCES, System
from screening.report.suppression import Figures, Suppression, complete_lines, suppress
from screening.report.tallies import LEADING, CountTable, Importance, Tallies

__all__ = [
    "DisclosureSettings",
    "Private",
    "Protected",
    "ProtectedHistogram",
    "ProtectedImportance",
    "Released",
    "protect",
    "protect_all",
]

KEPT_SHARE = 0.9
"""A release waits while it would show less than this share of the figures that the last one showed ..."""
GROWTH = 0.2
"""... unless this share of patients is new: then waiting longer would not help."""

SPARSE = 2 / 3
"""A table of whose cells more than this share are small is given up at once: little of it would be left."""


def protect_all(tallies: Tallies, settings: DisclosureSettings, *, previous: Released | None = None) -> Released:
    """Return what of ``tallies`` may be shared, beside what was shared last.

    Parameters
    ----------
    previous
        The last release of the same catalog, period and index rule, from the private ledger; None: there was none. What is
        returned takes its place in the ledger, unless ``waits``: then it is ``previous`` again.

    Raises
    ------
    ValueError
        A row tells more than it may: an age above 90 or a date finer than the month.
    """
    _check_labels(tallies)
    if not settings.threshold:
        previous = None
    if previous is not None:
        new = _new_patients(tallies, previous)
        if new <= settings.threshold and (new or tuple(one.bundle_sha256 for one in tallies.models) == previous.models):
            return replace(
                previous,
                waits=True,
                why="Too few patients are new since the last release, so its figures are shown again.",
            )
    system = System(tallies)
    figures = system.figures()
    state = Suppression(~figures.published, np.where(figures.published, 1, 0), set())
    slow = "Too little has changed in some groups since the last release, so its figures are shown again."
    if settings.threshold:
        asked = _ask(system, figures, state, settings.threshold, previous)
        if previous is not None and _loses(system, state, previous):
            return replace(previous, waits=True, why=slow)
        _complete(figures, state, asked)
        if previous is not None and _loses(system, state, previous):
            return replace(previous, waits=True, why=slow)
    return _released(tallies, settings, system, state, previous)


def protect(table: CountTable, settings: DisclosureSettings) -> Protected:
    """Return one table that hangs together with no other, protected by itself."""
    empty = CountTable("", (), ("with", "without"), np.zeros((0, 2), dtype=np.int64))
    alone = Tallies((), {}, {"alone": table}, {}, {}, empty, (), {}, ())
    return protect_all(alone, settings).records["alone"]


def _new_patients(tallies: Tallies, previous: Released) -> int:
    was = previous.private.values
    return max(
        (
            abs(int(tallies.flow.get(name, 0)) - was.get(("flow", "", name, ""), 0))
            for name in ("patients_with_score", "patients_catalogued")
        ),
        default=0,
    )


def _loses(system: System, state: Suppression, previous: Released) -> bool:
    """Say whether so much that was shown would be hidden that it is better to wait."""
    was = previous.private
    patients = ("flow", "", "patients_with_score", "")
    if patients in system.index:
        before = was.values.get(patients, 0)
        if abs(system.values[system.index[patients]] - before) > GROWTH * before:
            return False
    both = [key for key in was.values if key in system.index]
    lost = [key for key in both if key not in was.hidden and state.hidden[system.index[key]]]
    gained = sum(1 for key in both if key in was.hidden and not state.hidden[system.index[key]])
    everybody = any(key[:2] == ("patients", "all") for key in lost)
    return everybody or len(lost) - gained > (1 - KEPT_SHARE) * (len(both) - len(was.hidden))


# --- What is hidden --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """Which values every figure must be able to have, as far as an intruder knows."""

    low: np.ndarray  # int64 (n,), of this night's small counts
    high: np.ndarray
    was_low: np.ndarray  # int64 (n,), of small changes
    was_high: np.ndarray
    grown: np.ndarray  # int64 (n,), the least value if nothing has fallen


def _ask(system: System, figures: Figures, state: Suppression, threshold: int, previous: Released | None) -> _Asked:
    """Hide what is small or has changed by little, and say what must stay possible."""
    values = figures.values
    small = (values >= 1) & (values <= threshold) & np.array(system.sensitive, dtype=bool)
    asked = _Asked(
        low=np.where(small, 1, values),
        high=np.where(small, threshold, values),
        was_low=values.copy(),
        was_high=values.copy(),
        grown=np.zeros_like(values),
    )
    state.hidden |= small & figures.published
    cells = (
        np.array([key[3] != "*" and key[0] not in IMPORTANCES for key in system.names], dtype=bool) & ~figures.margins
    )
    for table in np.unique(figures.tables[small & figures.published]):
        there = (figures.tables == table) & (values > 0) & cells
        if there.sum() > 2 and (small & there).sum() > SPARSE * there.sum():
            state.give_up(figures, int(table))
    _hide_parts(system, state, [int(i) for i in np.flatnonzero((values >= 1) & (values <= threshold))])
    if previous is None:
        return asked
    was = previous.private
    for key, i in system.index.items():
        value, before = int(values[i]), was.values.get(key, 0)
        if not value or not figures.published[i]:
            continue
        if before <= value:
            asked.grown[i] = before
        if key in was.hidden and abs(value - before) <= threshold:
            state.hidden[i] = True
        for old in {before, was.last_shown.get(key, 0)}:
            if old and 1 <= abs(value - old) <= threshold:
                state.hidden[i] = True
                sign = 1 if value > old else -1
                low, high = sorted((old + sign, old + sign * threshold))
                asked.was_low[i] = max(1, min(int(asked.was_low[i]), low))
                asked.was_high[i] = max(int(asked.was_high[i]), high)
    return asked


def _complete(figures: Figures, state: Suppression, asked: _Asked) -> None:
    """Hide so much more that all that was asked stays possible."""
    complete_lines(figures, state, np.maximum(asked.high, asked.was_high))
    suppress(figures, state, asked.low, asked.high)
    changed = (asked.was_low < figures.values) | (asked.was_high > figures.values)
    if changed.any():
        least = np.maximum(asked.was_low, np.minimum(asked.grown + 1, figures.values))
        missed = suppress(figures, state, least, asked.was_high, floor=asked.grown)
        missed |= changed & (least > asked.was_low)
        low, high = (np.where(missed, end, figures.values) for end in (asked.was_low, asked.was_high))
        suppress(figures, state, low, high)


def _hide_parts(system: System, state: Suppression, small: list[int]) -> None:
    """Hide all parts of small figures, zeros too: else the number of hidden parts, each at least 1, would tell their size."""
    parts_of: dict[int, list[int]] = {}
    for whole, parts in system.sums:
        parts_of.setdefault(whole, []).extend(parts)
    waiting = list(small)
    while waiting:
        for part in parts_of.pop(waiting.pop(), []):
            state.hidden[part] = True
            state.floor[part] = 0
            waiting.append(part)


# --- What is shown ---------------------------------------------------------------------------------------------------


def _released(
    tallies: Tallies, settings: DisclosureSettings, system: System, state: Suppression, previous: Released | None
) -> Released:
    def show(*key: str) -> int | None:
        i = system.index.get((key[0], key[1], key[2], key[3]))
        return None if i is None or state.hidden[i] else settings.show(system.values[i])

    def table(family: str, dimension: str, source: CountTable, everything: CountTable | None) -> Protected:
        columns = [system.column(name) for name in source.columns]
        everybody = (
            ("all", everything.rows[0]) if everything is not None and len(everything.rows) == 1 else (dimension, "*")
        )
        if dimension == "all" and len(source.rows) == 1:
            everybody = ("all", source.rows[0])
        adds_up = source.partition and not (family == "patients" and dimension in ("year", "month"))
        totals = tuple(show(family, *everybody, name) if adds_up else None for name in (*columns, "*"))
        given_up = system.tables.get((family, dimension), -1) in state.given_up
        rows = () if given_up else source.rows
        return Protected(
            key=source.key,
            rows=rows,
            columns=source.columns,
            counts=tuple(tuple(show(family, dimension, row, name) for name in columns) for row in rows),
            row_totals=tuple(show(family, dimension, row, "*") for row in rows),
            column_totals=totals[:-1],
            total=totals[-1],
            parents=None if given_up else source.parents,
            given_up=given_up,
        )

    families = {
        family: {
            dimension: table(family, dimension, source, getattr(tallies, family).get("all"))
            for dimension, source in getattr(tallies, family).items()
        }
        for family in FAMILIES
    }
    merged = _histograms(tallies, settings, system, state, previous)
    past = previous.private if previous is not None else None
    last_shown = dict(past.last_shown) if past is not None else {}
    seen = {key: system.values[i] for key, i in system.index.items() if system.published[i]}
    last_shown |= {key: value for key, value in seen.items() if not state.hidden[system.index[key]]}
    flow = {name: show("flow", "", name, "") for name in tallies.flow}
    return Released(
        settings=settings,
        flow=flow,
        about=_about(flow, tallies.flow, settings.threshold),
        first_acquired=tallies.first_acquired,
        last_acquired=tallies.last_acquired,
        design_effect=max(1.0, tallies.clustering.get("all", 1.0)),
        records=families["records"],
        reasons=families["reasons"],
        patients=families["patients"],
        quality_flags=table("quality", "all flags", tallies.quality_flags, None),
        scores=tuple(_shown(merged.get(f"scores {sha}"), settings) for sha in system.models[: len(tallies.scores)]),
        features={
            name: {run: shown for run in by_run if (shown := _shown(merged.get(f"{name} {run}"), settings)) is not None}
            for name, by_run in tallies.features.items()
        },
        importance=_importance(tallies, show, settings.threshold),
        models=system.models,
        private=Private(
            values=seen,
            last_shown=last_shown,
            hidden=frozenset(key for key in seen if state.hidden[system.index[key]]),
            models=system.models,
            histograms={**(past.histograms if past is not None else {}), **merged},
        ),
    )


COARSE = (50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_WHOLES = {
    "catalogued": ("outside_period", "not_screened", "changed", "rejected", "scored"),
    "patients_catalogued": ("patients_without_score", "patients_with_score"),
}


def _about(shown: Mapping[str, int | None], flow: Mapping[str, int], threshold: int) -> dict[str, int]:
    """Return hidden totals to the nearest multiple of the smallest step that leaves their hidden parts protected.

    What is left for the hidden parts when the shown ones, exactly, are taken from the coarse total must be possible as 1 and
    as so much that each of them may be the threshold.
    """
    found = {}
    for whole, parts in _WHOLES.items():
        if whole not in shown or shown[whole] is not None:
            continue
        hidden = sum(1 for part in parts if shown.get(part) is None)
        known = sum(flow[part] for part in parts if shown.get(part) is not None)
        for step in COARSE:
            value = (flow[whole] + step // 2) // step * step
            least, most = value - step // 2 - known, value + step - step // 2 - 1 - known
            if value and hidden and least <= 1 and most >= threshold + hidden:
                found[whole] = value
                break
    return found


def _importance(tallies: Tallies, show: Any, threshold: int) -> tuple[ProtectedImportance, ...]:
    """Return importances of the categories whose explained patients are shown, and of enough patients.

    In how many of them waves could be exchanged is not told: shown with the wave map is how many were explained.
    """
    shown = []
    for one in tallies.importance:
        of = next((by for by in _COUNTED[one.operator] if _holds(tallies, by, one)), one.operator)
        patients = show(PREFIX_OF[of], one.dimension, one.category, "*")
        there = bool(patients) and one.patients > threshold
        parts = LEADING[one.operator]
        shown.append(
            ProtectedImportance(
                dimension=one.dimension,
                category=one.category,
                patients=patients,
                mean=tuple(round(float(value), 2) for value in one.mean) if there else None,
                sd=tuple(round(float(value), 2) for value in one.sd) if there and parts else None,
                leading=tuple(show(PREFIX_OF[of], one.dimension, one.category, part) for part in parts)
                if there and parts
                else None,
                operator=one.operator,
            )
        )
    return tuple(shown)


_COUNTED = {"lead": ("lead",), "territory": ("territory",), "wave": ("territory", "lead")}
"""Operator -> the operators whose explained patients stand for its own, the first that there is."""


def _holds(tallies: Tallies, operator: str, like: Importance) -> bool:
    return any(
        (one.operator, one.dimension, one.category) == (operator, like.dimension, like.category)
        for one in tallies.importance
    )


def _histograms(
    tallies: Tallies, settings: DisclosureSettings, system: System, state: Suppression, previous: Released | None
) -> dict[str, Merged]:
    """Return the merged histograms that may be shown, by name."""
    before = previous.private.histograms if previous is not None else {}

    def shown(*key: str) -> bool:
        i = system.index.get((key[0], key[1], key[2], key[3]))
        return i is not None and not state.hidden[i]

    found: dict[str, Merged] = {}
    table = tallies.patients.get("all")
    for number, (sha, one) in enumerate(zip(system.models, tallies.scores, strict=False)):
        name, row = f"scores {sha}", table.rows[0] if table is not None and len(table.rows) == 1 else ""
        if shown("patients", "all", row, "*" if len(system.models) == 1 else f"model {sha}"):
            marks = []
            if table is not None and shown("patients", "all", row, f"flagged {sha}"):
                marks = [int(table.counts[0, table.columns.index(f"flagged {number}")])]
            found[name] = merge(one, settings.threshold, marks=marks, before=before.get(name))
        elif name in before:
            found[name] = before[name]
    ages = _age_edges(tallies, shown) if settings.threshold else None
    for feature, by_run in tallies.features.items():
        for run, one in by_run.items():
            name = f"{feature} {run}"
            only = None
            if feature == "age" and settings.threshold:
                if ages is None or len(by_run) > 1:
                    continue
                only = ages
            if shown("runs", "runs", run, "*"):
                found[name] = merge(one, settings.threshold, only=only, before=before.get(name))
            elif name in before:
                found[name] = before[name]
    return found


def _age_edges(tallies: Tallies, shown: Any) -> list[float] | None:
    """Return where age bands begin, if all their counts are shown: a histogram of ages may tell no more than these."""
    table = tallies.records.get("age")
    if table is None or not all(shown("records", "age", row, "scored") for row in table.rows):
        return None
    return [float(found.group()) for row in table.rows if (found := re.match(r"\d+", row))]


def _shown(merged: Merged | None, settings: DisclosureSettings) -> ProtectedHistogram | None:
    if merged is None:
        return None
    edges, counts, missing = merged.shown()
    return ProtectedHistogram(edges, tuple(settings.show(count) for count in counts), settings.show(missing))


def _check_labels(tallies: Tallies) -> None:
    dated = {"year": re.compile(r"\d{4}"), "month": re.compile(r"\d{4}-(0[1-9]|1[0-2])")}
    for family in FAMILIES:
        for dimension, table in getattr(tallies, family).items():
            for row in table.rows:
                if row.startswith("("):
                    continue
                ages = [int(number) for number in re.findall(r"\d+", row.rpartition("|")[0] or row)]
                if dimension in ("age", "age and sex") and (
                    not ages or max(ages) > 90 or (90 in ages and len(ages) > 1)
                ):
                    raise ValueError(f"{table.key}: the row {row!r} is not an age band of which 90 and over is one")
                if dimension in dated and not dated[dimension].fullmatch(row):
                    raise ValueError(f"{table.key}: the row {row!r} is not a {dimension}")
