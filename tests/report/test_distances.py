"""How far populations are apart: against scipy and statsmodels on the raw values, by hand, and by what must always hold."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ks_2samp, norm
from statsmodels.stats.proportion import confint_proportions_2indep, proportion_effectsize

from screening.model.reference import distribution, quantile_edges
from screening.report.distances import (
    SMOOTHING,
    Comparison,
    Verdict,
    combined,
    compare,
    compare_bands,
    compare_categories,
    compare_share,
    population_stability_index,
    quantile,
)
from screening.report.histograms import merge
from screening.report.protected import DisclosureSettings, ProtectedHistogram
from screening.report.tallies import Histogram


def binned(values: np.ndarray, edges: np.ndarray | tuple[float, ...]) -> Histogram:
    found = distribution(values, tuple(edges))
    return Histogram(np.asarray(edges, np.float64), np.array(found.counts), found.missing)


def protected(histogram: Histogram, settings: DisclosureSettings | None = None) -> ProtectedHistogram:
    """Return what disclosure control leaves of a histogram."""
    rules = settings or DisclosureSettings()
    edges, counts, missing = merge(histogram, rules.threshold).shown()
    return ProtectedHistogram(edges, tuple(rules.show(count) for count in counts), rules.show(missing))


def compared(before: object, here: object) -> Comparison:
    found = compare("x", before, here)  # type: ignore[arg-type]
    assert isinstance(found, Comparison), found
    return found


def draws(seed: int, n: int, *, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, n)


# --- KS --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shift", "scale"), [(0.0, 1.0), (0.1, 1.0), (0.5, 1.0), (0.0, 2.0), (3.0, 0.5)])
def test_the_distance_is_that_of_the_raw_values_but_for_the_width_of_a_bin(shift: float, scale: float) -> None:
    before, here = draws(0, 3000), draws(1, 2000, shift=shift, scale=scale)
    edges = quantile_edges(before)
    found, true = compared(binned(before, edges), binned(here, edges)), ks_2samp(before, here)
    widest = max(binned(x, edges).counts.max() / len(x) for x in (before, here))
    assert found.ks <= true.statistic + 1e-12
    assert found.ks >= true.statistic - widest


def test_at_fine_edges_distance_and_p_value_are_scipy_s() -> None:
    before, here = draws(0, 500), draws(1, 400, shift=0.15)
    edges = np.unique(np.concatenate([before, here, [-9.0, 9.0]]))
    found, true = compared(binned(before, edges), binned(here, edges)), ks_2samp(before, here, method="asymp")
    assert found.ks == pytest.approx(true.statistic, abs=1e-12)
    assert found.p_value == pytest.approx(true.pvalue, rel=0.15)


@pytest.mark.parametrize(("shift", "verdict"), [(0.15, Verdict.NONE), (0.35, Verdict.SLIGHT), (0.6, Verdict.MARKED)])
def test_limits_are_shifts_of_a_quarter_and_half_a_standard_deviation(shift: float, verdict: Verdict) -> None:
    assert 2 * norm.cdf(0.25 / 2) - 1 == pytest.approx(0.1, abs=0.002)
    assert 2 * norm.cdf(0.5 / 2) - 1 == pytest.approx(0.2, abs=0.004)
    edges = quantile_edges(draws(0, 20_000))
    assert compared(binned(draws(0, 20_000), edges), binned(draws(1, 20_000, shift=shift), edges)).verdict is verdict


# --- PSI -------------------------------------------------------------------------------------------------------------


def test_the_index_is_that_of_a_worked_example() -> None:
    """Shares .2 .3 .5 become .1 .3 .6: .1 ln 2 + 0 + .1 ln 1.2 = .0693 + .0182."""
    before, here = np.array([2e6, 3e6, 5e6]), np.array([1e6, 3e6, 6e6])  # so many that smoothing does not show
    assert population_stability_index(before, here) == pytest.approx(0.1 * math.log(2) + 0.1 * math.log(1.2), abs=1e-6)


def test_an_empty_bin_counts_as_half_a_record() -> None:
    p, q = np.array([0.5, 100.5]) / 101, np.array([10.5, 90.5]) / 101
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, q, strict=True))
    assert SMOOTHING == 0.5
    assert population_stability_index(np.array([0, 100]), np.array([10, 90])) == pytest.approx(by_hand)


def test_it_is_taken_over_ten_bins_of_equal_share() -> None:
    before, here = draws(0, 20_000), draws(1, 20_000, shift=1.0)
    edges = quantile_edges(before)
    found = compared(binned(before, edges), binned(here, edges))
    assert len(found.shares_before) == 10
    assert found.shares_before == pytest.approx([0.1] * 10, abs=0.015)
    assert sum(found.shares_here) == pytest.approx(1)
    # For a normal shifted by one standard deviation the divergence without bins is 1.
    assert 0.75 < found.psi < 1


def test_a_rare_category_alone_makes_no_marked_difference() -> None:
    before, here = np.zeros(2000), np.zeros(2000)
    before[:110] = 0.02
    found = compared(binned(before, quantile_edges(before)), binned(here, quantile_edges(before)))
    assert found.psi > 0.25
    assert found.ks == pytest.approx(0.055)
    assert found.verdict is Verdict.SLIGHT


# --- Both ------------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 500), min_size=2, max_size=40).filter(any))
def test_identical_histograms_do_not_differ(counts: list[int]) -> None:
    one = Histogram(np.arange(len(counts) + 1.0), np.array(counts))
    found = compared(one, one)
    assert (found.psi, found.ks, found.verdict) == (0, 0, Verdict.NONE)
    assert found.p_value == pytest.approx(1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 500), st.integers(0, 500)), min_size=2, max_size=40).filter(
        lambda rows: any(a for a, _ in rows) and any(b for _, b in rows)
    )
)
def test_distances_stay_within_their_ranges_and_the_ks_distance_is_symmetric(rows: list[tuple[int, int]]) -> None:
    edges = np.arange(len(rows) + 1.0)
    before, here = (Histogram(edges, np.array(column)) for column in zip(*rows, strict=True))
    found, back = compared(before, here), compared(here, before)
    assert 0 <= found.ks <= 1
    assert found.psi >= 0
    assert 0 <= found.p_value <= 1
    assert found.ks == pytest.approx(back.ks)


def test_distances_grow_with_the_shift() -> None:
    edges = quantile_edges(draws(0, 5000))
    before = binned(draws(0, 5000), edges)
    found = [compared(before, binned(draws(0, 5000, shift=shift), edges)) for shift in (0, 0.1, 0.3, 0.6, 1.2, 2.4)]
    for distance in ("ks", "psi", "shift", "verdict"):
        values = [getattr(one, distance) for one in found]
        assert values == sorted(values), distance
    assert found[-1].verdict is Verdict.MARKED


def test_like_populations_differ_rarely_however_few_there_are() -> None:
    """Without the rule about chance, a PSI over ten bins of 60 records is above 0.1 more often than not."""
    edges = quantile_edges(draws(0, 3000))
    before = binned(draws(0, 3000), edges)
    for n in (20, 60, 300):
        found = [compared(before, binned(draws(seed, n), edges)) for seed in range(1, 101)]
        assert sum(one.verdict > Verdict.NONE for one in found) <= 6, n
    assert np.mean([compared(before, binned(draws(seed, 60), edges)).psi > 0.1 for seed in range(1, 101)]) > 0.5


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.8])
@pytest.mark.parametrize("n", [400, 5000])
def test_merging_and_rounding_change_little(shift: float, n: int) -> None:
    before, here = draws(0, 3000), draws(1, n, shift=shift)
    edges = quantile_edges(before)
    reference, exact = binned(before, edges), binned(here, edges)
    found, rounded = compared(reference, exact), compared(reference, protected(exact))
    assert len(protected(exact).counts) <= len(exact.counts)
    assert rounded.ks == pytest.approx(found.ks, abs=0.02 + 15 / n)
    assert rounded.psi == pytest.approx(found.psi, rel=0.25, abs=0.03)
    assert rounded.median_here == pytest.approx(found.median_here, abs=0.1)


def test_a_constant_that_changes_is_noticed_on_either_side() -> None:
    before = np.full(1000, 500.0)
    edges = quantile_edges(before)
    for rate in (100.0, 499.0, 1000.0):
        found = compared(binned(before, edges), binned(np.full(200, rate), edges))
        assert (found.ks, found.verdict) == (1.0, Verdict.MARKED)
        assert found.median_here is None  # beyond the edges
        assert (found.median_before, found.shift) == (pytest.approx(500), None)
    assert compared(binned(before, edges), binned(np.full(200, 500.0), edges)).verdict is Verdict.NONE


def test_a_constant_far_from_the_ends_of_fixed_edges_stays_apart() -> None:
    edges = np.array([0.0, 99.5, 100.5, 249.5, 250.5, 499.5, 500.5, 999.5, 1000.5, 2000.0])
    found = compared(binned(np.full(500, 500.0), edges), binned(np.full(500, 250.0), edges))
    assert found.psi > 5
    assert found.ks == 1


def test_the_median_shift_is_in_interquartile_ranges() -> None:
    edges = quantile_edges(draws(0, 20_000))
    found = compared(binned(draws(0, 20_000), edges), binned(draws(1, 20_000, shift=0.7), edges))
    assert found.shift == pytest.approx(0.7 / (2 * norm.ppf(0.75)), abs=0.03)


# --- Histograms ------------------------------------------------------------------------------------------------------


def test_what_cannot_be_compared_says_why() -> None:
    some, none = Histogram(np.array([0.0, 1, 2]), np.array([5, 5])), Histogram(np.array([0.0, 1, 2]), np.array([0, 0]))
    assert compare("x", none, some) == "no record has a value before"
    assert compare("x", some, none) == "no record has a value here"
    assert compare("x", some, Histogram(np.array([0.0, 2]), np.array([9]))) == "too few of its bins can be shown"
    assert (
        compare("x", some, Histogram(np.array([0.0, 1.5, 2]), np.array([9, 9]))) == "too few of its bins can be shown"
    )


def test_histograms_are_added_at_the_edges_they_share() -> None:
    one = Histogram(np.array([0.0, 1, 2, 3, 4]), np.array([1, 2, 3, 4]), missing=1)
    two = Histogram(np.array([0.0, 2, 3, 4]), np.array([10, 20, 30]), missing=2)
    both = combined([one, two])
    assert both is not None
    assert (both.edges.tolist(), both.counts.tolist(), both.missing) == ([0, 2, 3, 4], [13, 23, 34], 3)
    assert combined([]) is None
    alone = combined([one])
    assert alone is not None
    assert alone.counts.tolist() == [1, 2, 3, 4]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-50, 50), min_size=1, max_size=300), st.floats(0.01, 0.99))
def test_quantiles_lie_in_the_bin_of_the_raw_quantile(values: list[float], share: float) -> None:
    edges = np.arange(-51.0, 52.0)
    found = quantile(binned(np.array(values), edges), share)
    raw = np.quantile(values, share, method="inverted_cdf")
    assert math.floor(raw) - 1e-9 <= found <= math.floor(raw) + 1 + 1e-9
    assert math.isnan(quantile(Histogram(edges, np.zeros(len(edges) - 1)), share))


def test_age_bands_are_compared_where_they_are_shown() -> None:
    ages = np.round(draws(0, 5000, shift=60, scale=15))
    before = binned(ages, np.arange(0.0, 100, 5))
    starts, older = list(range(0, 95, 10)), ages + 6
    rows = {
        f"{start}-{start + 9}" if start < 90 else "90 and over": int(((older >= start) & (older < start + 10)).sum())
        for start in starts
    }
    found = compare_bands("age", before, rows | {"0-9": None, "(unknown)": 30})
    assert isinstance(found, Comparison)
    within = [x[(x >= 10) & (x < 100)] for x in (ages, older)]
    assert found.ks == pytest.approx(ks_2samp(*within).statistic, abs=0.02)
    assert found.verdict is Verdict.SLIGHT
    same = compare_bands("age", before, dict.fromkeys(rows) | {"50-59": 1000, "60-69": 1030})
    assert isinstance(same, Comparison)
    assert same.verdict is Verdict.NONE
    assert compare_bands("age", before, dict.fromkeys(rows)) == "too few of its bands can be shown"
    assert compare_bands("age", before, {"0-17": 5, "18 and over": 9}) == "its bands begin at other ages"


# --- Shares and categories -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("before", "here"), [((56, 70), (48, 80)), ((474, 3057), (312, 2000)), ((0, 100), (20, 400))])
def test_a_difference_of_shares_is_newcombe_s(before: tuple[int, int], here: tuple[int, int]) -> None:
    found = compare_share("x", before, here)
    assert not isinstance(found, str)
    low, high = confint_proportions_2indep(*here, *before, method="newcomb", compare="diff")
    assert (found.difference.low, found.difference.high) == (pytest.approx(low), pytest.approx(high))
    assert found.difference.value == pytest.approx(here[0] / here[1] - before[0] / before[1])
    assert found.effect == pytest.approx(proportion_effectsize(here[0] / here[1], before[0] / before[1]))


def test_shares_differ_by_effect_and_beyond_chance() -> None:
    def verdict(*pairs: tuple[int, int]) -> Verdict:
        found = compare_share("x", *pairs)
        assert not isinstance(found, str)
        return found.verdict

    assert verdict((500, 1000), (510, 1000)) is Verdict.NONE
    assert verdict((500_000, 1_000_000), (510_000, 1_000_000)) is Verdict.NONE  # significant, and small
    assert verdict((500, 1000), (620, 1000)) is Verdict.SLIGHT
    assert verdict((5, 10), (7, 10)) is Verdict.NONE  # large, and chance
    assert verdict((0, 1000), (100, 1000)) is Verdict.MARKED
    assert compare_share("x", (0, 0), (1, 2)) == "there is nobody to compare"


def test_categories_differ_by_their_total_variation() -> None:
    found = compare_categories("sex", {"female": 500, "male": 500, "unknown": 7}, {"female": 700, "male": 300})
    assert not isinstance(found, str)
    assert (found.categories, found.total_variation) == (("female", "male"), pytest.approx(0.2))
    assert found.verdict is Verdict.MARKED
    like = compare_categories("sex", {"female": 50, "male": 50}, {"female": 55, "male": 45, "(unknown)": 9})
    assert not isinstance(like, str)
    assert like.verdict is Verdict.NONE
    assert compare_categories("x", {"a": 5, "b": None}, {"a": 5}) == "too few of its categories can be shown"
    assert compare_categories("x", {"a": 5}, {"(unknown)": 5}) == "it is known of nobody"
    one = compare_categories("x", {"a": 5}, {"a": 9})
    assert not isinstance(one, str)
    assert (one.total_variation, one.p_value) == (0, 1)
