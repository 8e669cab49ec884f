"""The reference distributions of a bundle: counts that add up, edges that cut evenly, and no record's values."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.contract import QUALITY_COLUMNS
from screening.model.reference import (
    AGE_EDGES,
    BINS,
    NUMERIC_QUALITY,
    SCORE_EDGES,
    Distribution,
    distribution,
    log_odds,
    quantile_edges,
    read_reference,
    score_distribution,
    write_reference,
)
from tests.bundles import reference


def test_numeric_columns_are_all_but_the_flags() -> None:
    assert {name for name, _, _ in QUALITY_COLUMNS} - set(NUMERIC_QUALITY) == {"quality_flags"}


def test_quantiles_cut_into_equal_parts_with_narrower_tails() -> None:
    x = np.random.default_rng(0).lognormal(size=10_000)
    edges = quantile_edges(x)
    counts, _ = np.histogram(x, [-np.inf, *edges[1:-1], np.inf])
    assert distribution(x, edges).counts == tuple(counts)
    assert len(counts) == BINS + 2
    assert counts[2:-2] == pytest.approx(250, abs=15)  # rounded edges shift a few
    assert counts[[0, -1]] == pytest.approx(50, abs=10)
    assert all(float(f"{edge:.3e}") == edge for edge in edges)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.floats(-1e6, 1e6),
            st.sampled_from([0.0, 500.0, 0.02, float("nan"), float("inf")]),
        ),
        max_size=400,
    )
)
def test_edges_always_ascend_and_every_value_is_counted(values: list[float]) -> None:
    x = np.array(values, np.float32)
    edges = quantile_edges(x)
    assert np.all(np.diff(edges) > 0)
    found = distribution(x, edges)
    assert sum(found.counts) == np.isfinite(x).sum()
    assert found.missing == (~np.isfinite(x)).sum()


@pytest.mark.parametrize("value", [500.0, 10.0, 1.0016, 0.12345678, -3.0])
def test_a_constant_stands_in_a_bin_of_its_own(value: float) -> None:
    edges = quantile_edges(np.full(1000, value))
    found = distribution(np.array([0.99 * value, value, 1.01 * value] * 5), edges)
    assert found.counts == (5, 5, 5)


def test_zeros_of_a_share_stand_apart_from_the_rest() -> None:
    rng = np.random.default_rng(1)
    x = np.where(np.arange(2000) < 1500, 0, rng.uniform(0.1, 0.4, 2000))
    edges = quantile_edges(x)
    assert edges[:2] == (0.0, 1e-6)
    assert distribution(x, edges).counts[0] == 1500


def test_outer_edges_are_no_record_s_values() -> None:
    x = np.random.default_rng(2).normal(50, 5, 5000)
    edges = quantile_edges(x)
    assert edges[1] > x.min()
    assert edges[-2] < x.max()
    assert edges[-1] - edges[-2] == pytest.approx(edges[-2] - edges[-3], rel=1e-2)


def test_nothing_known_is_no_error() -> None:
    found = distribution(np.full(7, np.nan), quantile_edges(np.full(7, np.nan)))
    assert (found.counts, found.missing) == ((0,), 7)


def test_scores_are_counted_by_class_on_the_fixed_grid() -> None:
    probability = np.array([0.5, 0.5621, 1e-9, 1.0, 0.2])
    scores = score_distribution("x", probability, np.array([1, 0, 0, 1, 0]), probability >= 0.5)
    assert len(SCORE_EDGES) == 65
    assert (scores.edges[0], scores.edges[1], scores.edges[-1]) == (-8.0, -7.75, 8.0)
    at = {edge: (p, n) for edge, p, n in zip(scores.edges, scores.positive, scores.negative, strict=False) if p or n}
    # log-odds 0, 0.2497, below -8, above 8, -1.386
    assert at == {0.0: (1, 1), -8.0: (0, 1), 7.75: (1, 0), -1.5: (0, 1)}
    assert (scores.patients, scores.flagged) == (5, 3)
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()


def test_a_reference_adds_up() -> None:
    one = reference(400)
    for name, found in one.features.items():
        assert sum(found.counts) + found.missing == 400, name
    assert sum(one.sex.values()) == one.records == 400
    assert one.sex == {"female": 200, "male": 200, "unknown": 0}
    assert one.quality_flags == {"noise": 20}
    assert one.features["age"].edges == AGE_EDGES
    assert sum(one.scores.positive) == 100


def test_it_is_written_in_one_spelling_and_read_back(tmp_path: Path) -> None:
    write_reference(reference(), tmp_path / "a")
    write_reference(read_reference(tmp_path / "a"), tmp_path / "b")
    assert read_reference(tmp_path / "a") == reference()
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert len((tmp_path / "a").read_bytes()) < 20_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 9}, "version 9, not 1"),
        ({"features": None}, "not a reference"),
        ({"features": {"age": {"edges": [0, 1, 2], "counts": [1], "missing": 0}}}, "ascending edges and a count"),
        ({"features": {"age": {"edges": [0, 2, 1], "counts": [1, 1], "missing": 0}}}, "ascending edges and a count"),
        ({"features": {"age": {"edges": [0, 1], "counts": [-1], "missing": 0}}}, "ascending edges and a count"),
        ({"features": {"age": {"edges": [0, 1], "counts": [1], "more": 0}}}, "not a reference"),
    ],
)
def test_what_is_no_reference_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    write_reference(reference(), tmp_path / "a")
    (tmp_path / "a").write_text(json.dumps(json.loads((tmp_path / "a").read_bytes()) | change))
    with pytest.raises(ValueError, match=message):
        read_reference(tmp_path / "a")


def test_no_record_can_be_told_from_it() -> None:
    """Of anything per record, a reference of twice the records would be twice as long."""
    one, two = (json.dumps(dataclasses.asdict(reference(n))) for n in (2_000, 20_000))
    assert len(two) < 1.2 * len(one)


def test_a_distribution_of_other_lengths_is_refused() -> None:
    with pytest.raises(ValueError, match="ascending edges"):
        Distribution((0.0, 1.0), (1, 2))
