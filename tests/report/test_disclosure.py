"""Disclosure control, attacked: what is hidden must not follow from all that is shown, of one night or of two."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.report import disclosure
from screening.report.disclosure import DisclosureSettings, Protected, Released, protect, protect_all
from screening.report.tallies import CountTable, Histogram, Tallies
from tests.report.attack import attack, attack_two
from tests.report.microdata import Record, records_of, tallies_of

USUAL = DisclosureSettings()
EXACT = DisclosureSettings(threshold=0, round_to=1)
UNROUNDED = DisclosureSettings(round_to=1)


def table_of(counts: np.ndarray) -> CountTable:
    rows, columns = counts.shape
    return CountTable("t", tuple("abcd"[:rows]), tuple("xyz"[:columns]), counts)


# --- One small table, every possible table enumerated ----------------------------------------------------------------


def possible_values(shown: Protected, cell: tuple[int, int], most: int) -> set[int]:
    """Return the values of a cell in all whole-numbered tables up to ``most`` that agree with what is shown."""
    rows, columns = len(shown.rows), len(shown.columns)
    at = [cell, *(other for other in product(range(rows), range(columns)) if other != cell)]
    found: set[int] = set()

    def fits(table: dict[tuple[int, int], int]) -> bool:
        lines = [([(r, c) for c in range(columns)], shown.row_totals[r]) for r in range(rows)]
        lines += [([(r, c) for r in range(rows)], shown.column_totals[c]) for c in range(columns)]
        lines.append((at, shown.total))
        for cells, total in lines:
            if total is not None:
                there = [table[one] for one in cells if one in table]
                if sum(there) > total or (len(there) == len(cells) and sum(there) < total):
                    return False
        return True

    def extend(table: dict[tuple[int, int], int]) -> bool:
        if len(table) == len(at):
            return True
        one = at[len(table)]
        fixed = shown.counts[one[0]][one[1]]
        return any(
            fits(wider) and extend(wider)
            for value in (range(most + 1) if fixed is None else (fixed,))
            for wider in ({**table, one: value},)
        )

    for value in range(most + 1):
        if fits({cell: value}) and extend({cell: value}):
            found.add(value)
    return found


@settings(max_examples=10, deadline=None)
@given(st.data())
def test_every_small_count_of_a_table_could_be_anything_from_1_to_the_threshold(data: st.DataObject) -> None:
    rows, columns = data.draw(st.integers(2, 3)), data.draw(st.integers(2, 3))
    counts = np.array(data.draw(st.lists(st.integers(0, 8), min_size=rows * columns, max_size=rows * columns)))
    table = table_of(counts.reshape(rows, columns).astype(np.int64))
    shown = protect(table, DisclosureSettings(threshold=3, round_to=1))
    if shown.given_up:
        assert shown.counts == ()
        assert shown.row_totals == ()
        return
    for r, c in product(range(rows), range(columns)):
        count, there = int(table.counts[r, c]), shown.counts[r][c]
        assert there is None or there == count
        if 1 <= count <= 3:
            assert there is None
            values = possible_values(shown, (r, c), 12)
            assert min(values) <= 1
            assert max(values) >= 3
    for total, there in zip(table.counts.sum(axis=1), shown.row_totals, strict=True):
        assert there is None or there == total
        assert there is None or not 1 <= there <= 3


def test_a_small_cell_takes_others_with_it() -> None:
    counts = np.array([[100, 4], [200, 30], [300, 60]])
    shown = protect(table_of(counts), UNROUNDED)
    assert shown.shown("a", "y") is None
    assert shown.total == 694
    assert shown.column_totals == (600, 94)
    hidden = {(r, c) for r in range(3) for c in range(2) if shown.counts[r][c] is None}
    assert len({r for r, c in hidden if c == 1}) >= 2
    assert (0, 0) in hidden or shown.row_total("a") is None


def test_nothing_is_hidden_where_nothing_is_small() -> None:
    counts = np.array([[100, 14, 0], [200, 30, 11]])
    shown = protect(table_of(counts), UNROUNDED)
    assert np.array_equal(np.array(shown.counts), counts)
    assert shown.row_totals == (114, 241)
    assert shown.column_totals == (300, 44, 11)
    assert shown.total == 355


def test_a_table_of_small_counts_is_given_up_and_says_so() -> None:
    shown = protect(table_of(np.array([[3, 3, 3], [4, 2, 1]])), USUAL)
    assert shown.given_up
    assert shown.rows == ()
    assert shown.shown("a", "x") is None
    assert shown.row_total("a") is None


# --- Rounding --------------------------------------------------------------------------------------------------------


@given(st.integers(0, 30), st.integers(1, 50), st.integers(0, 10_000), st.integers(0, 10_000))
def test_rounding_is_to_multiples_and_keeps_the_order(threshold: int, to: int, one: int, other: int) -> None:
    rule = DisclosureSettings(threshold=threshold, round_to=to)
    less, more = sorted((one, other))
    assert rule.show(less) <= rule.show(more)
    for count in (less, more):
        assert rule.show(count) % to == 0
        if count > threshold:
            assert rule.show(count) > threshold or not threshold
            assert abs(rule.show(count) - count) <= max(to / 2, to if count <= threshold + to else 0)
    assert rule.show(0) == 0


def test_exact_leaves_everything() -> None:
    tallies = tallies_of(records_of(150, seed=3))
    released = protect_all(tallies, EXACT)
    assert dict(released.flow) == dict(tallies.flow)
    for family in ("records", "reasons", "patients"):
        for dimension, table in getattr(tallies, family).items():
            shown = getattr(released, family)[dimension]
            assert np.array_equal(np.array(shown.counts), table.counts)
            assert list(shown.row_totals) == table.counts.sum(axis=1).tolist()
    assert [histogram and histogram.counts for histogram in released.scores] == [
        tuple(one.counts.tolist()) for one in tallies.scores
    ]
    pairs = list(zip(tallies.importance, released.importance, strict=True))
    counted = [(a, b) for a, b in pairs if a.operator != "wave"]
    assert [b.patients for _, b in counted] == [a.patients for a, _ in counted]
    assert [list(b.leading or ()) for _, b in counted if b.mean] == [a.leading.tolist() for a, b in counted if b.mean]


# --- A whole report, attacked with all its tables at once ------------------------------------------------------------


@pytest.mark.parametrize(
    ("patients", "models", "growing"),
    [(700, 1, True), (3000, 2, False), pytest.param(200, 1, False, marks=pytest.mark.long)],
)
def test_no_small_count_follows_from_a_whole_report(patients: int, models: int, growing: bool) -> None:
    tallies = tallies_of(records_of(patients, seed=patients, growing=growing), models=models)
    released = protect_all(tallies, USUAL)
    assert attack(tallies, released, 10, most=30, seed=patients) == {}


def test_the_attack_finds_what_primary_suppression_alone_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disclosure, "_complete", lambda *_: None)
    tallies = tallies_of(records_of(700, seed=1))
    assert len(attack(tallies, protect_all(tallies, USUAL), 10, most=40)) > 3


def test_a_report_keeps_what_is_large() -> None:
    tallies = tallies_of(records_of(3000, seed=8, sites=8))
    released = protect_all(tallies, USUAL)
    assert None not in released.patients["all"].counts[0]
    assert None not in (released.flow[name] for name in ("catalogued", "scored", "rejected", "index"))
    for dimension in ("sex", "age", "site", "device", "year"):
        truth, shown = tallies.patients[dimension], released.patients[dimension]
        large = [row for row, n in zip(truth.rows, truth.counts.sum(axis=1), strict=True) if n > 100]
        kept = [row for row in large if shown.row_total(row) is not None]
        assert len(kept) >= 0.8 * len(large)


def test_shown_counts_are_rounded_and_never_small() -> None:
    released = protect_all(tallies_of(records_of(800, seed=2)), USUAL)
    tables = [
        *released.records.values(),
        *released.reasons.values(),
        *released.patients.values(),
        released.quality_flags,
    ]
    counts = [
        count for table in tables for row in (*table.counts, table.row_totals, table.column_totals) for count in row
    ]
    counts += [*released.flow.values(), *(n for one in released.scores if one for n in one.counts)]
    counts += [n for by_run in released.features.values() for one in by_run.values() for n in one.counts]
    counts += [n for one in released.importance for n in (one.patients, *(one.leading or ()))]
    shown = [count for count in counts if count is not None]
    assert len(shown) > 100
    assert all(count % 5 == 0 and (count == 0 or count > 10) for count in shown)


def test_the_total_of_a_dimension_is_that_of_everybody() -> None:
    released = protect_all(tallies_of(records_of(900, seed=4)), USUAL)
    for family in (released.records, released.reasons, released.patients):
        everybody = family["all"]
        for dimension, table in family.items():
            if family is released.patients and dimension in ("year", "month"):
                assert table.total is None
            else:
                assert table.column_totals == everybody.counts[0]
                assert table.total == everybody.row_totals[0]


@pytest.mark.parametrize("operator", ["lead", "territory"])
def test_importance_is_shown_with_its_patients_only(operator: str) -> None:
    tallies = tallies_of(records_of(2000, seed=6))
    released = protect_all(tallies, USUAL)
    both = [(a, b) for a, b in zip(tallies.importance, released.importance, strict=True) if a.operator == operator]
    for truth, shown in both:
        assert (shown.mean is None) == (shown.sd is None) == (not shown.patients)
        assert truth.patients > 10 or not shown.patients
    for dimension in ("sex", "site"):
        pairs = [(a, b) for a, b in both if a.dimension == dimension]
        hidden = [a.patients for a, b in pairs if b.patients is None]
        assert not sum(hidden) or (len(hidden) > 1 and sum(hidden) > 10)


def test_how_many_had_no_beats_is_not_told() -> None:
    """Waves are shown beside the patients whom the territories explained, and not where few had beats."""
    tallies = tallies_of(records_of(2000, seed=6))
    few = [
        replace(one, patients=10) if one.operator == "wave" and one.category == "male" else one
        for one in tallies.importance
    ]
    assert any(a is not b for a, b in zip(few, tallies.importance, strict=True))
    released = protect_all(replace(tallies, importance=tuple(few)), USUAL)
    of = {(one.operator, one.category): one for one in released.importance if one.dimension in ("all", "sex")}
    truth = {(one.operator, one.category): one.patients for one in tallies.importance if one.dimension == "all"}
    assert 1 <= truth["territory", "all"] - truth["wave", "all"] <= 10
    assert of["wave", "all"].patients == of["territory", "all"].patients
    assert of["wave", "all"].mean == (0.12,) * 16
    assert of["territory", "male"].mean is not None
    assert of["wave", "male"].mean is None
    assert {one.leading for one in released.importance if one.operator == "wave"} == {None}


def test_the_few_whom_one_operator_explained_and_another_did_not_are_protected() -> None:
    tallies = tallies_of(records_of(1500, seed=21, few_without_territory=0.02))
    more, less = (
        next(one for one in tallies.importance if one.operator == operator) for operator in ("lead", "territory")
    )
    assert 1 <= more.patients - less.patients <= 10
    released = protect_all(tallies, USUAL)
    shown = [one for one in released.importance if one.dimension == "all" and one.operator != "wave"]
    assert sum(one.patients is None for one in shown) == 1
    assert attack(tallies, released, 10, most=30, seed=1) == {}


# --- Two nights ------------------------------------------------------------------------------------------------------


def nights(first: int, second: int, *, growing: bool = False, seed: int = 5) -> tuple[Tallies, Tallies]:
    records = records_of(second, seed=seed, growing=growing, sites=6, years=2)
    return tallies_of([one for one in records if one.patient < first]), tallies_of(records)


@pytest.mark.parametrize("new", [0, 1, 5])
def test_a_release_waits_for_enough_new_patients(new: int) -> None:
    before, after = nights(600, 600 + new)
    first = protect_all(before, USUAL)
    second = protect_all(after, USUAL, previous=first)
    assert second.waits
    assert "since the last release" in second.why
    assert replace(second, waits=False, why="") == first


@pytest.mark.parametrize(
    ("new", "growing", "only_grew"),
    [
        (25, False, False),
        (60, True, True),
        pytest.param(25, False, True, marks=pytest.mark.long),
        pytest.param(60, True, False, marks=pytest.mark.long),
    ],
)
def test_two_nights_together_give_away_nothing(
    new: int, growing: bool, only_grew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Release although much has to be hidden, so that the differences are attacked.
    monkeypatch.setattr(disclosure, "GROWTH", 0)
    before, after = nights(500, 500 + new, growing=growing, seed=new)
    first = protect_all(before, USUAL)
    second = protect_all(after, USUAL, previous=first)
    if second.waits:
        assert after.flow["patients_with_score"] - before.flow["patients_with_score"] <= 10
        return
    assert attack_two([(before, first), (after, second)], 10, only_grew=only_grew, most=15, seed=new) == {}


def test_two_nights_each_by_itself_would_give_differences_away() -> None:
    before, after = nights(500, 540)
    independent = [(before, protect_all(before, USUAL)), (after, protect_all(after, USUAL))]
    assert attack_two(independent, 10, most=30)


def test_a_release_waits_rather_than_hide_everybody() -> None:
    before, after = nights(600, 630)
    first = protect_all(before, USUAL)
    second = protect_all(after, USUAL, previous=first)
    changes = np.abs(after.patients["all"].counts - before.patients["all"].counts)
    assert ((changes >= 1) & (changes <= 10)).any()
    assert second.waits


def test_a_count_that_came_back_is_held_against_when_it_was_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disclosure, "GROWTH", 0)
    records = records_of(560, seed=9, sites=4, years=2)
    first = protect_all(tallies_of([one for one in records if one.patient < 500]), USUAL)
    second = protect_all(tallies_of([one for one in records if one.patient < 530]), USUAL, previous=first)
    third = protect_all(tallies_of(records), USUAL, previous=second)
    assert not second.waits
    assert not third.waits
    for key, count in third.private.values.items():
        if key not in third.private.hidden and key in first.private.values and key not in first.private.hidden:
            change = abs(count - first.private.values[key])
            assert change == 0 or change > 10 or count == 0, key


def test_flags_of_another_model_are_other_counts() -> None:
    before = tallies_of(records_of(800, seed=11, sites=4, years=2))
    first = protect_all(before, USUAL)
    after = replace(before, models=(replace(before.models[0], bundle_sha256="f" * 64),))
    second = protect_all(after, USUAL, previous=first)
    assert not second.waits
    assert None not in second.patients["all"].counts[0]


def test_the_ledger_gives_back_what_was_released() -> None:
    before, after = nights(500, 900)
    first = protect_all(before, USUAL)
    read = Released.from_json(json.loads(json.dumps(first.to_json())))
    assert read == first
    assert protect_all(after, USUAL, previous=read) == protect_all(after, USUAL, previous=first)


@pytest.mark.parametrize(
    ("spoil", "message"), [({"ledger_version": 99}, "ledger version 99"), ({"private": {}}, "not a ledger: 'values'")]
)
def test_a_spoilt_ledger_is_refused(spoil: dict[str, object], message: str) -> None:
    written = protect_all(tallies_of(records_of(60, seed=1)), USUAL).to_json()
    with pytest.raises(ValueError, match=message):
        Released.from_json({**written, **spoil})


# --- Histograms ------------------------------------------------------------------------------------------------------


def score_tallies(records: list[Record], counts: list[int], missing: int = 0) -> Tallies:
    tallies = tallies_of(records)
    empty = {"all": tallies.records["all"]}
    return replace(
        tallies,
        records=empty,
        reasons={},
        patients={"all": tallies.patients["all"]},
        importance=(),
        scores=(Histogram(np.arange(len(counts) + 1.0), np.array(counts), missing),),
    )


def test_bins_are_merged_until_none_is_small() -> None:
    records = records_of(400, seed=1)
    counts = [3, 4, 5, 40, 0, 0, 12, 2, 0, 100]
    shown = protect_all(score_tallies(records, counts, missing=4), UNROUNDED).scores[0]
    assert shown is not None
    assert all(count == 0 or count > 10 for count in shown.counts)
    assert sum(shown.counts) == sum(counts) + 4
    assert shown.missing == 0
    assert shown.edges[0] == 0
    assert shown.edges[-1] == len(counts)


def test_a_cut_beside_the_threshold_is_not_shown() -> None:
    records = records_of(400, seed=1)
    flagged = int(tallies_of(records).patients["all"].counts[0, 0])
    assert flagged > 20
    for near, kept in ((3, False), (0, True), (-10, False), (11, True)):
        counts = [200, 100, flagged + near]
        shown = protect_all(score_tallies(records, counts), UNROUNDED).scores[0]
        assert shown is not None
        assert (2.0 in shown.edges) == kept


def test_two_nights_of_a_histogram_differ_by_nothing_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disclosure, "GROWTH", 0)
    records = records_of(800, seed=1)
    few = [one for one in records if one.patient < 400]
    first = protect_all(score_tallies(few, [50, 60, 70, 80, 90]), UNROUNDED)
    second = protect_all(score_tallies(records, [53, 90, 70, 100, 94]), UNROUNDED, previous=first)
    before, after = first.scores[0], second.scores[0]
    assert before is not None
    assert after is not None
    common = [edge for edge in after.edges if edge in before.edges]
    for low, high in zip(common, common[1:], strict=False):
        change = sum(
            sign * count
            for sign, one in ((1, after), (-1, before))
            for count, left in zip(one.counts, one.edges, strict=False)
            if low <= left < high
        )
        assert change == 0 or change > 10


# --- Labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dimension", "row", "message"),
    [
        ("age", "90-94", "not an age band"),
        ("age", "95", "not an age band"),
        ("age", "old", "not an age band"),
        ("year", "2019-05", "not a year"),
        ("month", "2019-05-03", "not a month"),
        ("month", "2019-13", "not a month"),
    ],
)
def test_a_row_that_tells_too_much_is_refused(dimension: str, row: str, message: str) -> None:
    tallies = tallies_of(records_of(50, seed=1))
    table = tallies.records[dimension]
    spoilt = replace(table, rows=(row, *table.rows[1:]), parents=None)
    with pytest.raises(ValueError, match=message):
        protect_all(replace(tallies, records={**tallies.records, dimension: spoilt}), USUAL)


def test_an_empty_archive_has_a_report() -> None:
    released = protect_all(tallies_of([]), USUAL)
    assert released.flow["scored"] == 0
