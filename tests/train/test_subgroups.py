from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.model.bundle import Counts
from screening.train.data import TrainingSet
from screening.train.subgroups import (
    KNOWN_FAILURES,
    PLACE_OF_INFARCT,
    SMALLEST_GROUP,
    SMALLEST_PLACE,
    counts_by_group,
    rates,
    wilson,
)
from tests.train.sets import training_set


def objects(values: list[object]) -> np.ndarray:
    out = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):
        out[at] = value
    return out


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    return training_set()


def n(counts: Counts) -> int:
    return counts.TP + counts.FN + counts.TN + counts.FP


def test_every_record_is_in_one_group_of_its_kind(data: TrainingSet) -> None:
    flagged = np.arange(len(data)) % 3 == 0
    groups = counts_by_group(data, flagged)
    for kind in ("age", "site"):
        assert sum(n(of) for of in groups[kind].values()) == len(data)
        assert sum(of.TP + of.FP for of in groups[kind].values()) == flagged.sum()
        assert sum(of.TP + of.FN for of in groups[kind].values()) == data.target.sum()
    assert sum(n(of) for of in groups["sex"].values()) == len(data) * 2 // 3  # a third is of unknown sex
    assert "device" not in groups  # unknown throughout


def test_groups_by_statement_are_told_from_each_other(data: TrainingSet) -> None:
    positive = data.target == 1
    stated = [("IMI", "SR") if is_positive else () for is_positive in positive]
    for at in np.flatnonzero(positive)[:6]:
        stated[at] = ("ASMI", "ILMI", "CLBBB")
    for at in np.flatnonzero(~positive)[:7]:
        stated[at] = ("733534002", "AMI")  # an infarct that the rule does not let count
    for at in np.flatnonzero(~positive)[7 : 7 + SMALLEST_GROUP - 1]:
        stated[at] = ("WPW",)
    groups = counts_by_group(dataclasses.replace(data, statements=objects(stated)), positive)
    assert groups[PLACE_OF_INFARCT]["anterior"] == Counts(TP=6, FN=0, TN=0, FP=0)  # positives alone
    assert groups[PLACE_OF_INFARCT]["lateral"] == Counts(TP=6, FN=0, TN=0, FP=0)
    assert positive.sum() == groups[PLACE_OF_INFARCT]["inferior"].TP  # ILMI too
    assert groups[KNOWN_FAILURES] == {"left bundle branch block": Counts(TP=6, FN=0, TN=7, FP=0)}  # WPW: too few


def test_small_sites_are_pooled(data: TrainingSet) -> None:
    names = ["big"] * (SMALLEST_PLACE + 1) + ["a"] * (SMALLEST_PLACE - 1) + ["b"] * 3 + [None, ""]
    names += ["edge"] * (len(data) - len(names))
    groups = counts_by_group(dataclasses.replace(data, site=objects(list(names))), data.target == 1)["site"]
    assert {name: n(of) for name, of in groups.items()} == {
        "big": SMALLEST_PLACE + 1,
        "edge": names.count("edge"),
        "other": SMALLEST_PLACE - 1 + 3,
    }


def test_flags_must_match_the_records(data: TrainingSet) -> None:
    with pytest.raises(ValueError, match=r"flagged must be a row of 96, not \(95,\)"):
        counts_by_group(data, np.zeros(95, bool))


def test_wilson_is_the_published_interval() -> None:
    # Newcombe, Stat Med 1998; 17:857, table I, method 3: 81 of 263, 15 of 148, 0 of 20, 1 of 29.
    for successes, of, low, high in (
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ):
        assert wilson(successes, of) == pytest.approx((low, high), abs=6e-5)
    assert wilson(0, 0) == (0.0, 1.0)


@given(st.integers(0, 500), st.integers(1, 500))
def test_wilson_holds_the_share_and_mirrors(successes: int, misses: int) -> None:
    low, high = wilson(successes, successes + misses)
    assert 0 <= low <= successes / (successes + misses) <= high <= 1
    mirrored = wilson(misses, successes + misses)
    assert (1 - mirrored[1], 1 - mirrored[0]) == pytest.approx((low, high), abs=1e-9)


def test_rates_leave_out_what_nobody_can_have() -> None:
    assert set(rates(Counts(TP=3, FN=1, TN=0, FP=0))) == {"sensitivity"}
    found = rates(Counts(TP=3, FN=1, TN=8, FP=2))
    assert found["sensitivity"]["value"] == 0.75
    assert found["specificity"]["low"] < 0.8 < found["specificity"]["high"]
