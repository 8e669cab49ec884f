"""When a night is told of, and in which words; and that quiet nights are quiet."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest

from screening.nightly.health import Finding, Level, Rules, judge, jump, overdue
from screening.nightly.record import LAST_RUN, MODEL, DriftFigure, Night, Outcome
from tests.nightly.simulation import Hospital, false_alarms, of_shares, power

NIGHT = Night(
    date="2026-11-22",
    outcome=Outcome.PUBLISHED,
    started_at="2026-11-22T01:00:00+00:00",
    finished_at="2026-11-22T02:00:00+00:00",
    bundle_sha256="a" * 64,
    device="cuda",
    workers=2,
    planned=1000,
    scored=990,
    rejected=10,
    flagged=99,
    reasons={"flat_lead": 10},
    records_this_time=1000,
    seconds=10.0,
    shards=4,
)
BEFORE = [NIGHT] * 10


def told(tonight: Night, before: list[Night] = BEFORE, **rules: Any) -> list[Finding]:
    return judge(tonight, before, Rules(**rules))


def only(tonight: Night, before: list[Night] = BEFORE, **rules: Any) -> Finding:
    (found,) = told(tonight, before, **rules)
    return found


def test_a_night_like_the_others_is_not_told_of() -> None:
    assert told(NIGHT) == []
    assert told(NIGHT, []) == []
    assert told(replace(NIGHT, flagged=500), BEFORE[:2]) == []  # too few to know what is usual


@pytest.mark.parametrize(("flagged", "percent"), [(198, "20.0%"), (20, "2.0%")])
def test_a_jump_of_the_flag_rate_either_way(flagged: int, percent: str) -> None:
    found = only(replace(NIGHT, flagged=flagged))
    assert (found.kind, found.level) == ("flag_rate", Level.ALARM)
    assert found.sentence == (
        f"{flagged} of 990 records were flagged, {percent} against 10.0% in 10 nights before with the same model: see in the "
        "report whether patients, devices or amplitudes changed, and have some of these ECGs read."
    )


def test_small_nights_do_not_cry_and_large_ones_not_over_little() -> None:
    assert told(replace(NIGHT, scored=10, rejected=0, flagged=4, reasons={}, planned=10, records_this_time=10)) == []
    large = {
        "scored": 10**6,
        "rejected": 0,
        "reasons": {},
        "planned": 10**6,
        "seconds": 10**4,
        "records_this_time": 10**6,
    }
    before = [replace(NIGHT, **large, flagged=100_000)] * 28
    assert told(replace(NIGHT, **large, flagged=150_000), before) == []
    assert only(replace(NIGHT, **large, flagged=200_000), before).kind == "flag_rate"


def test_what_another_model_flags_is_no_measure() -> None:
    assert told(replace(NIGHT, flagged=400, bundle_sha256="b" * 64)) == []
    assert told(replace(NIGHT, flagged=400, kind="backfill")) == []


def test_one_bad_night_does_not_hide_the_next() -> None:
    bad = replace(NIGHT, scored=0, rejected=1000, flagged=0, reasons={"missing_file": 1000})
    before = [*([NIGHT] * 14), bad, *([NIGHT] * 5)]
    found = only(replace(NIGHT, scored=800, rejected=200, flagged=80, reasons={"missing_file": 200}), before)
    assert found.sentence == (
        "200 of 1,000 records were rejected as missing_file, 20.0% against 0.0% in 20 nights before: see whether the archive "
        "was mounted and copied whole."
    )


def test_rejects_of_many_reasons_are_told_of_once_and_fewer_rejects_never() -> None:
    many = {f"reason_{i}": 9 for i in range(12)}
    found = only(replace(NIGHT, scored=892, rejected=108, flagged=89, reasons=many))
    assert found.sentence.startswith(
        "108 of 1,000 records were rejected, 10.8% against 1.0% in 10 nights before: `screening f"
    )
    assert told(replace(NIGHT, scored=1000, rejected=0, flagged=100, reasons={})) == []


def test_how_a_night_ended() -> None:
    failed = replace(NIGHT, outcome=Outcome.FAILED, scored=0, rejected=0, error="the registry does not answer.")
    assert only(failed).sentence == (
        "The night failed: the registry does not answer. Mend that and start it again; nothing is lost."
    )
    unfinished = replace(NIGHT, outcome=Outcome.UNFINISHED, unfinished_shards=1, error="shard 3: no answer, 4 times")
    assert only(unfinished).sentence.startswith(
        "1 of 4 shards are unfinished: shard 3: no answer, 4 times. Start it again"
    )
    assert told(replace(NIGHT, hours_over=True, waiting=5)) == []  # it stopped as planned
    late = replace(failed, finished_at="2026-11-24T02:00:00+00:00")
    assert [found.kind for found in told(late)] == ["failed", "overdue"]


def test_no_successful_night_for_a_day() -> None:
    last = [NIGHT, replace(NIGHT, outcome=Outcome.FAILED, finished_at="2026-11-23T02:00:00+00:00")]
    assert overdue(last, datetime(2026, 11, 23, 3, tzinfo=UTC)) is None
    found = overdue(last, datetime(2026, 11, 23, 5, tzinfo=UTC))
    assert found is not None
    assert found.sentence.startswith(
        "No night has succeeded for 27 hours (since 2026-11-22 02:00 UTC): see whether the clock"
    )
    assert overdue([], datetime(2026, 11, 23, 5, tzinfo=UTC)) is None


def test_a_slow_night() -> None:
    found = only(replace(NIGHT, seconds=30.0))
    assert (found.kind, found.level) == ("throughput", Level.WARNING)
    assert found.sentence.startswith(
        "33.3 records a second, against 100.0 in 10 nights before on as many workers: see what"
    )
    assert told(replace(NIGHT, seconds=30.0, workers=1)) == []
    assert told(replace(NIGHT, seconds=300.0, records_this_time=400)) == []  # the rest was done by an attempt before
    assert told(replace(NIGHT, seconds=18.0)) == []


def test_an_archive_that_is_fed_no_more() -> None:
    nothing = replace(
        NIGHT, outcome=Outcome.NOTHING_NEW, planned=0, scored=0, rejected=0, flagged=0, reasons={}, seconds=0.0
    )
    assert told(nothing) == []
    assert told(nothing, [*BEFORE, nothing]) == []
    found = only(nothing, [*BEFORE, nothing, nothing])
    assert found.sentence.startswith("Nothing new for 3 nights, after 10 nights that all had new records: see whether")
    assert told(nothing, [*BEFORE, nothing, nothing, nothing]) == []  # said once
    assert told(nothing, [nothing, *BEFORE, nothing, nothing]) == []  # here nights without a record are usual


def test_drift_is_told_of_when_it_is_new() -> None:
    marked, slight = (DriftFigure(MODEL, "Age (years)", 0.5, 0.31, verdict) for verdict in ("marked", "slight"))
    before = [replace(NIGHT, drift=(slight,))] * 3
    found = only(replace(NIGHT, drift=(marked,)), before)
    assert found.sentence == (
        "Markedly other than the model's reference: Age (years) (KS 0.31): sensitivity and specificity may hold less than they "
        "did; the report's section on drift says what to do."
    )
    assert told(replace(NIGHT, drift=(marked,)), [replace(NIGHT, drift=(marked,))] * 3) == []
    since = (
        DriftFigure(LAST_RUN, "Sex unknown", None, None, "marked", 0.9),
        DriftFigure(LAST_RUN, "x", 0.1, 0.25, "slight"),
    )
    assert only(replace(NIGHT, drift=since)).sentence.startswith(
        "Markedly other than the run before: Sex unknown: other"
    )
    small = replace(NIGHT, scored=40, rejected=0, reasons={}, flagged=4)
    by_chance = replace(small, drift=(DriftFigure(LAST_RUN, "Age (years)", 0.2, 0.27, "marked"),))
    assert told(by_chance) == []  # 40 records


def test_expectations_are_those_of_the_beta_binomial() -> None:
    """Against draws: nights of a known mean and correlation, of which the tail holds its share."""
    rng = np.random.default_rng(1)
    strength = 1 / 0.002 - 1
    tails = []
    for _ in range(400):
        rates = rng.beta(0.1 * strength, 0.9 * strength, 29)
        counts = rng.binomial(500, rates)
        tails.append(jump(int(counts[-1]), 500, [(int(count), 500) for count in counts[:-1]]).tail)
    assert 0.05 < np.mean(np.array(tails) < 0.05) < 0.15  # of both sides


def test_quiet_years_are_quiet_and_jumps_are_seen() -> None:
    """The short form of ``python -m tests.nightly.simulation``."""
    rng = np.random.default_rng(8)
    for size in (20, 300):
        assert false_alarms(Hospital(size), 365, rng).total() <= 2
    assert power(Hospital(1000), 20, rng, flagged=2) > 0.7
    assert power(Hospital(100), 20, rng, rejected={"flat_lead": 0.2}) > 0.8
    assert of_shares([]) == []
