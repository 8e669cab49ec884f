"""The report's statistics against published fixtures, other implementations, and simulation."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit, logit
from scipy.stats import beta, binom

from screening.errors import UserError
from screening.model.bundle import Counts
from screening.report.accuracy import Accuracy, band_of, of_counts, pooled, sample
from screening.report.document import Estimate, NotEstimable
from screening.report.prevalence import (
    Corrected,
    bayes,
    differences,
    draw,
    lang_reiczigel,
    probability_of_so_few,
    rogan_gladen,
    tipping_specificity,
    wilson,
)
from screening.report.quantify import bin_log_odds, disagreement, em, pacc, rebinned
from screening.report.standardise import Weighted, direct, load_reference_population, trend
from screening.report.usefulness import decision_curve, workload, worth
from tests.studies.coverage import bayes_coverage, coverage


def accuracy(se: float, n_se: float, sp: float, n_sp: float, covariance: float = 0.0) -> Accuracy:
    return Accuracy(se, sp, n_se, n_sp, covariance, "made up", "made up", "made up")


def of(found: Corrected | NotEstimable) -> Corrected:
    assert isinstance(found, Corrected)
    return found


# --- Apparent and corrected ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("x", "n"), [(0, 20), (1, 20), (20, 120), (7, 7), (4321, 10_000)])
def test_wilson_is_that_of_statsmodels(x: int, n: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from statsmodels.stats.proportion import proportion_confint

    found = wilson(x, n)
    assert (found.low, found.high) == pytest.approx(proportion_confint(x, n, method="wilson"), abs=1e-12)
    assert found.value == x / n


@pytest.mark.parametrize(
    ("ap", "n", "errors", "expected"),
    [  # percent; the first two are the published example (Lang & Reiczigel 2014), to its digits
        (0.12, 5000, (0.85, 584, 0.93, 1898), (6.41, 4.57, 8.21)),
        (0.09, 5000, (0.85, 584, 0.93, 1898), (2.56, 0.76, 4.30)),
        (0.10, 20000, (0.80, 200, 0.92, 800), (2.8, 0.0, 5.25)),
        (0.10, 20000, (0.80, 1e12, 0.92, 1e12), (2.8, 2.2, 3.4)),  # as if both were known
    ],
)
def test_lang_reiczigel_gives_the_published_intervals(
    ap: float, n: int, errors: tuple[float, float, float, float], expected: tuple[float, ...]
) -> None:
    found = of(lang_reiczigel(ap * n, n, accuracy(*errors))).estimate
    digits = 0.005 if expected[0] != 2.8 else 0.05
    assert (100 * found.value, 100 * found.low, 100 * found.high) == pytest.approx(expected, abs=digits)


def test_known_errors_give_the_figures_of_r() -> None:
    # 20 of 120, Se .9, Sp .99 known: 0.17603, and from Wilson's limits (0.1129887, 0.2623065) (R, epiR::epi.prev).
    known = accuracy(0.9, 1e15, 0.99, 1e15)
    share = wilson(20, 120)
    assert rogan_gladen(share.value, known) == pytest.approx(0.17603, abs=5e-6)
    assert rogan_gladen(share.low, known) == pytest.approx(0.1129887, abs=5e-8)
    assert rogan_gladen(share.high, known) == pytest.approx(0.2623065, abs=5e-8)
    exact = beta.ppf([0.025, 0.975], [20, 21], [101, 100])  # Clopper-Pearson
    assert [rogan_gladen(limit, known) for limit in exact] == pytest.approx([0.1066051, 0.2647191], abs=5e-8)


def test_a_share_below_the_false_flags_is_truncated_and_says_so() -> None:
    errors = accuracy(0.8, 200, 0.9, 800)
    found = of(lang_reiczigel(80, 1000, errors))
    assert found.truncated
    assert found.raw == pytest.approx((0.08 - 0.1) / 0.7)
    assert (found.estimate.value, found.estimate.low) == (0.0, 0.0)
    assert probability_of_so_few(80, 1000, errors) == pytest.approx(sum(binom.pmf(range(81), 1000, 0.1)))
    assert rogan_gladen(0.08, accuracy(0.8, 200, tipping_specificity(0.08), 800)) == pytest.approx(0)


@pytest.mark.parametrize(("se", "sp"), [(0.5, 0.5), (0.3, 0.6)])
def test_a_flag_that_tells_nothing_cannot_be_corrected(se: float, sp: float) -> None:
    found = lang_reiczigel(100, 1000, accuracy(se, 100, sp, 100))
    assert isinstance(found, NotEstimable)
    assert f"add up to {se + sp:.2f}, so a flag tells no more than chance" in found.why
    assert isinstance(bayes(1, 2, accuracy(se, 9, sp, 9), prior=(1, 1), rng=np.random.default_rng(0)), NotEstimable)


def test_a_covariance_moves_the_variance_as_the_delta_method_says() -> None:
    plain = of(lang_reiczigel(1500, 10_000, accuracy(0.7, 400, 0.95, 900))).estimate
    tied = of(lang_reiczigel(1500, 10_000, accuracy(0.7, 400, 0.95, 900, covariance=1e-4))).estimate
    z, j = 1.959964, 0.7 + 0.95 - 1
    p = (0.15 + 0.95 - 1) / j
    before, after = ((e.high - e.low) / 2 / z for e in (plain, tied))
    assert before**2 - after**2 == pytest.approx(2 * p * (1 - p) * 1e-4 / j**2, rel=0.03)


def test_the_intervals_cover_what_they_say() -> None:
    found = coverage(replicates=1000, cells=6, seed=3)
    for row in found:
        assert row["lang_reiczigel"] >= 0.94 - 0.014, row  # two Monte Carlo standard errors
        assert row["draws"] >= 0.93 - 0.014, row


def test_bayes_is_the_grid_posterior_when_errors_are_known() -> None:
    found = bayes(30, 200, accuracy(0.9, 1e13, 0.95, 1e13), prior=(1, 1), rng=np.random.default_rng(0))
    p = np.linspace(0, 1, 200_001)
    density = binom.pmf(30, 200, p * 0.9 + (1 - p) * 0.05)
    below = np.cumsum(density) / density.sum()
    expected = ((p * density).sum() / density.sum(), *np.interp([0.025, 0.975], below, p))
    assert isinstance(found, Estimate)
    assert (found.value, found.low, found.high) == pytest.approx(expected, abs=5e-4)


def test_a_bayesian_estimate_obeys_its_prior_when_there_is_nobody() -> None:
    found = bayes(0, 0, accuracy(0.9, 100, 0.9, 100), prior=(1, 19), rng=np.random.default_rng(0))
    assert isinstance(found, Estimate)
    assert (found.low, found.high) == pytest.approx(beta.ppf([0.025, 0.975], 1, 19), abs=2e-3)


def test_parts_are_corrected_each_with_its_own_errors() -> None:
    rng = np.random.default_rng(1)
    good, poor = (sample(accuracy(se, 1e6, sp, 1e6), 4000, rng) for se, sp in ((0.9, 0.98), (0.6, 0.80)))
    # 10% of both have it: 3,000 patients by one model, 1,000 by another
    flags = [3000 * (0.1 * 0.9 + 0.9 * 0.02), 1000 * (0.1 * 0.6 + 0.9 * 0.2)]
    found = draw([(flags[0], 3000, good), (flags[1], 1000, poor)], rng)
    assert found.raw == pytest.approx(0.1, abs=1e-3)
    assert found.observed == pytest.approx(sum(flags) / 4000)
    assert found.estimate.estimate.low < 0.1 < found.estimate.estimate.high
    alone = draw([(flags[0], 3000, good)], rng)
    assert found.corrected.std() != pytest.approx(alone.corrected.std(), rel=0.05)


def test_bayes_is_the_posterior_that_weighted_draws_give() -> None:
    # AP ~ Beta(x + 1, n - x + 1) with weight 1 / J is the same posterior under a uniform prior: dP = dAP / J.
    errors, rng = accuracy(0.8, 50, 0.95, 200), np.random.default_rng(1)
    found = bayes(30, 300, errors, prior=(1, 1), rng=np.random.default_rng(0))
    drawn = sample(errors, 400_000, rng)
    j = drawn.sum(axis=1) - 1
    p = (rng.beta(31, 271, len(drawn)) + drawn[:, 1] - 1) / j
    weight = np.where((p > 0) & (p < 1), 1 / j, 0)
    order = np.argsort(p)
    expected = np.interp([0.025, 0.975], np.cumsum(weight[order]) / weight.sum(), p[order])
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx((p * weight).sum() / weight.sum(), abs=2e-3)
    assert (found.low, found.high) == pytest.approx(expected, abs=3e-3)


def test_the_bayesian_interval_covers_what_it_says() -> None:
    assert bayes_coverage(0.8, 0.95, 50, 200, n=300, prevalence=0.05, replicates=1000, seed=0) >= 0.94 - 0.014


def test_nobody_has_no_corrected_share() -> None:
    assert lang_reiczigel(0, 0, accuracy(0.8, 50, 0.95, 200)) == NotEstimable("nobody")


def test_groups_that_do_not_differ_seldom_seem_to() -> None:
    # Ten sites of one prevalence, corrected with the same errors: one in twenty studies names any site at all.
    rng = np.random.default_rng(0)
    errors = sample(accuracy(0.8, 300, 0.95, 900), 2000, rng)
    wrong = apart_alone = 0
    for _ in range(200):
        groups = [draw([(int(flagged), 400, errors)], rng) for flagged in rng.binomial(400, 0.125, 10)]
        found = differences(groups)
        wrong += any(not one.low <= 0 <= one.high for one in found)
        spread = [
            np.quantile(one.corrected - np.mean([o.corrected for o in groups], axis=0), [0.025, 0.975])
            for one in groups
        ]
        apart_alone += any(not low <= 0 <= high for low, high in spread)
    assert wrong <= 21  # 5% of 200, and three standard errors
    assert apart_alone > 50  # what looking at ten sites one by one would do


def test_a_group_that_differs_is_named_with_by_how_much() -> None:
    rng = np.random.default_rng(0)
    errors = sample(accuracy(0.8, 300, 0.95, 900), 4000, rng)
    flags = [1000 * (p * 0.8 + (1 - p) * 0.05) for p in (0.1, 0.1, 0.2)]
    found = differences([draw([(flagged, 1000, errors)], rng) for flagged in flags])
    assert [one.value for one in found] == pytest.approx([-0.05, -0.05, 0.1], abs=2e-3)
    assert found[2].low > 0
    own = draw([(flags[2], 1000, errors)], rng).corrected - draw([(flags[0], 1000, errors)], rng).corrected
    alone = draw([(flags[2], 1000, errors)], rng).corrected - draw([(flags[0], 1000, errors[::-1])], rng).corrected
    assert own.std() < alone.std()  # what they have in common cancels


# --- Sensitivity and specificity -------------------------------------------------------------------------------------


def test_counts_become_an_accuracy_or_none() -> None:
    said = {"source": "s", "data": "d", "reference": "r"}
    found = of_counts(Counts(TP=8, FN=2, TN=27, FP=3), **said)
    assert found is not None
    assert (found.sensitivity, found.specificity, found.n_sensitivity, found.n_specificity) == (0.8, 0.9, 10, 30)
    assert of_counts(Counts(TP=0, FN=0, TN=27, FP=3), **said) is None
    assert of_counts(Counts(TP=8, FN=2, TN=0, FP=0), **said) is None
    drawn = sample(found, 200_000, np.random.default_rng(0))
    assert np.quantile(drawn[:, 0], [0.025, 0.975]) == pytest.approx(beta.ppf([0.025, 0.975], 9, 3), abs=3e-3)


def test_a_covariance_without_draws_is_drawn() -> None:
    rng = np.random.default_rng(0)
    drawn = sample(accuracy(0.7, 400, 0.95, 900, covariance=1e-4), 200_000, rng)
    apart = sample(accuracy(0.7, 400, 0.95, 900), 200_000, rng)
    assert np.cov(drawn, rowvar=False)[0, 1] == pytest.approx(1e-4, rel=0.03)
    assert drawn.mean(axis=0) == pytest.approx(apart.mean(axis=0), abs=1e-3)
    assert drawn.std(axis=0) == pytest.approx(apart.std(axis=0), rel=0.03)
    known = accuracy(1.0, 20, 0.99, 30, covariance=-0.5)  # more than the two variances allow
    assert np.isfinite(sample(known, 1000, rng)).all()


@pytest.mark.parametrize(
    ("band", "group"),
    [("20-29", "0-39"), ("60-69", "60-69"), ("90 and over", "80 and over"), ("30-49", None), ("(unknown)", None)],
)
def test_a_band_belongs_to_the_group_that_holds_it(band: str, group: str | None) -> None:
    assert band_of(band, ["0-39", "40-49", "50-59", "60-69", "70-79", "80 and over"]) == group


def test_groups_are_drawn_towards_all_and_unknown_ones_are_as_wide_as_groups_differ() -> None:
    def of_groups(rates: list[int]) -> Accuracy:
        groups = {f"g{i}": Counts(TP=rate, FN=100 - rate, TN=950, FP=50) for i, rate in enumerate(rates)}
        whole = Counts(TP=sum(rates), FN=100 * len(rates) - sum(rates), TN=950 * len(rates), FP=50 * len(rates))
        found = of_counts(whole, source="s", data="d", reference="r", subgroups={"site": groups})
        assert found is not None
        return found

    rng = np.random.default_rng(0)
    alike, unlike = of_groups([60, 62, 58, 61, 59, 60]), of_groups([20, 90, 60, 75, 35, 80])
    near, far = (pooled(one, "site", ["g0", "g1", "new"], 4000, rng) for one in (alike, unlike))
    assert near["g0"][:, 0].mean() == pytest.approx(0.60, abs=0.015)
    assert near["new"][:, 0].std() < 0.08 < 0.15 < far["new"][:, 0].std()
    assert 0.20 < far["g0"][:, 0].mean() < 0.27  # its own figure, a little towards 0.60
    assert far["g1"][:, 0].mean() < 0.90
    one = pooled(alike, "sex", ["female", "male"], 100, rng)
    assert one["female"] is one["male"]  # never counted by sex: the figures of all


# --- From scores -----------------------------------------------------------------------------------------------------

EDGES = np.arange(-8.0, 8.01, 0.25)


def scores(prevalence: float, n: int, seed: int, *, calibrated_at: float = 0.2) -> tuple[np.ndarray, np.ndarray]:
    """Log-odds that are calibrated at one prevalence, of a population with another."""
    rng = np.random.default_rng(seed)
    target = rng.random(n) < prevalence
    x = rng.normal(np.where(target, 1.5, -1.5), np.sqrt(3.0))  # equal variances: the log-odds are 3 x / 3
    return x + logit(calibrated_at), target


def histogram(x: np.ndarray) -> np.ndarray:
    return np.bincount(
        np.clip(np.searchsorted(EDGES, x, side="right") - 1, 0, len(EDGES) - 2), minlength=len(EDGES) - 1
    )


@pytest.mark.parametrize("prevalence", [0.02, 0.1, 0.5])
def test_em_finds_the_prevalence_as_quapy_does(prevalence: float) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from quapy.method.aggregative import EMQ

    x, _ = scores(prevalence, 20_000, seed=5)
    found = em(EDGES.tolist(), histogram(x).tolist(), 0.2, np.random.default_rng(0))
    posterior = np.stack([1 - expit(x), expit(x)], axis=1)
    theirs = EMQ.EM(np.array([0.8, 0.2]), posterior, epsilon=1e-7)[0][1]
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx(theirs, abs=0.002)
    assert found.low < prevalence < found.high


def test_pacc_is_rogan_gladen_with_probabilities() -> None:
    x, _ = scores(0.1, 50_000, seed=6)
    reference, target = scores(0.3, 50_000, seed=7)
    pos, neg = histogram(reference[target]), histogram(reference[~target])
    found = pacc(EDGES.tolist(), histogram(x).tolist(), pos.tolist(), neg.tolist(), np.random.default_rng(0))
    p = expit(x).mean(), expit(reference[target]).mean(), expit(reference[~target]).mean()
    assert isinstance(found, Estimate)
    assert found.value == pytest.approx((p[0] - p[2]) / (p[1] - p[2]), abs=0.003)
    assert found.low < 0.1 < found.high
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from quapy.method.aggregative import ACC, PACC

    both = np.stack([1 - expit(reference), expit(reference)], axis=1)
    rates = PACC.getPteCondEstim([0, 1], target.astype(int), both)
    means = np.array([1 - p[0], p[0]])
    theirs = ACC.solve_adjustment(rates, means, method="inversion", solver="minimize")[1]
    assert found.value == pytest.approx(theirs, abs=0.003)


def test_scores_of_nobody_give_no_estimate() -> None:
    nothing = [0] * (len(EDGES) - 1)
    assert isinstance(em(EDGES.tolist(), nothing, 0.2, np.random.default_rng(0)), NotEstimable)
    assert isinstance(pacc(EDGES.tolist(), [1] * 64, nothing, nothing, np.random.default_rng(0)), NotEstimable)


def test_bins_are_coarsened_at_shared_edges_only() -> None:
    assert rebinned([0, 1, 2, 3, 4], [5, 6, 7, 8], [0, 2, 4]) == [11, 15]
    with pytest.raises(ValueError, match="not among the finer ones"):
        rebinned([0, 1, 2, 3, 4], [5, 6, 7, 8], [0, 2.5, 4])
    assert bin_log_odds([-8, -1, 0, 1, 8]).tolist() == [-1.5, -0.5, 0.5, 1.5]


def test_estimates_disagree_when_intervals_are_apart() -> None:
    one = ("flags give", Estimate(0.10, 0.08, 0.12))
    assert disagreement(one, [("EM", Estimate(0.13, 0.11, 0.15))]) is None
    said = disagreement(one, [("EM", Estimate(0.20, 0.18, 0.22))])
    assert said is not None
    assert "flags give 10.0% (8.0% to 12.0%), but EM 20.0% (18.0% to 22.0%)" in said


# --- Standardised and over time --------------------------------------------------------------------------------------


def test_the_default_population_is_the_european_one_of_2013() -> None:
    found = load_reference_population()
    assert found.name == "European Standard Population 2013"
    assert "Eurostat" in found.source
    assert found.weight(0, np.inf) == 100_000
    assert [found.weight(low, high) for low, high in ((0, 20), (50, 60), (80, 90), (90, np.inf))] == [
        21_500,
        13_500,
        4_000,
        1_000,
    ]
    assert found.bands() == (0, 40, 50, 60, 70, 80)


def test_a_population_may_have_sexes_and_other_ages(tmp_path: Path) -> None:
    path = tmp_path / "town.csv"
    path.write_text(
        "# source: census of a town\nage_from,weight,sex\n0,10,female\n50,20,female\n0,30,male\n50,40,male\n"
    )
    found = load_reference_population(path)
    assert (found.name, found.bands()) == ("town", (0, 50))
    assert found.weight(50, np.inf, "female") == 20
    assert found.weight(50, np.inf) == 60


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("age_from,weight\n0,1\n", "does not say where it is from; add a line '# source: ...'"),
        ("# source: x\nage,weight\n0,1\n", "needs a first line with the columns age_from and weight"),
        ("# source: x\nage_from,weight\n0,1\n5,-2\n", "line 4: age_from and weight must not be negative"),
        ("# source: x\nage_from,weight\n0,1\n5,many\n", "line 4: age_from must be a whole number and weight a number"),
        ("# source: x\nage_from,weight\n0,1\n9,1\n5,1\n", "line 5: ages must ascend, and 5 comes after 9"),
        ("# source: x\nage_from,weight\n5,1\n", "must begin at age_from 0"),
        ("# source: x\nage_from,weight,sex\n0,1,f\n", "line 3: sex is 'f'; write female or male"),
        ("# source: x\nage_from,weight\n0,0\n", "add up to nothing"),
        ("# source: x\nage_from,weight\n0,nan\n", "line 3: age_from and weight must not be negative"),
        ("# source: x\nage_from,weight\n0,1,5\n", "line 3: there are more cells than columns; write decimals with a"),
        ('# source: x\nage_from,weight\n0,1\n5,"2\n', "line 4: a quotation mark is not closed"),
        ("# source: x\nage_from,weight,sex\n0,1,female\n5,1,female\n", "has one sex only; give both"),
        ("", "does not say where it is from"),
    ],
)
def test_a_wrong_population_file_is_one_sentence(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace("...", r"\.\.\.")):
        load_reference_population(path)


def test_direct_standardisation_by_hand() -> None:
    # Two bands with perfect errors: 10 of 100 and 40 of 80; weights 3 and 1: (3 * .1 + 1 * .5) / 4 = .2
    perfect = np.ones((20_000, 2))
    rng = np.random.default_rng(0)
    parts = [Weighted("young", 3, draw([(10, 100, perfect)], rng)), Weighted("old", 1, draw([(40, 80, perfect)], rng))]
    found = direct(parts)
    assert not isinstance(found, NotEstimable)
    assert found.apparent.value == pytest.approx(0.2)
    assert found.prevalence.raw == pytest.approx(0.2)
    variance = (0.75**2 * 0.1 * 0.9 / 100) + (0.25**2 * 0.5 * 0.5 / 80)  # of independent binomial shares
    half = 1.96 * np.sqrt(variance)
    assert (found.apparent.high - found.apparent.low) / 2 == pytest.approx(half, rel=0.05)


def test_strata_are_not_truncated_before_they_are_added() -> None:
    rng = np.random.default_rng(0)
    errors = np.tile([0.8, 0.9], (4000, 1))
    low, high = draw([(2, 100, errors)], rng), draw([(30, 100, errors)], rng)  # -11% and 29%
    found = direct([Weighted("a", 1, low), Weighted("b", 1, high)])
    assert not isinstance(found, NotEstimable)
    assert found.prevalence.raw == pytest.approx((-0.08 + 0.2) / 2 / 0.7)
    assert isinstance(direct([]), NotEstimable)


def test_a_trend_is_found_and_none_is_not() -> None:
    rng = np.random.default_rng(0)
    errors = sample(accuracy(0.8, 300, 0.95, 900), 4000, rng)

    def drawn(shares: list[float]) -> list[np.ndarray]:
        flags = [p * 0.8 + (1 - p) * 0.05 for p in shares]
        return [draw([(2000 * ap, 2000, errors)], rng).corrected for ap in flags]

    years = [2001, 2002, 2003, 2004, 2005]
    rising = trend(years, [2000] * 5, drawn([0.10, 0.12, 0.14, 0.16, 0.18]))
    flat = trend(years, [2000] * 5, drawn([0.1] * 5))
    assert rising is not None
    assert flat is not None
    assert rising.value == pytest.approx(0.02, abs=0.002)
    assert rising.low > 0
    assert flat.low < 0 < flat.high
    assert trend([2001, 2002], [10, 10], drawn([0.1, 0.2])) is None


# --- What a flag is worth --------------------------------------------------------------------------------------------


def test_predictive_values_follow_bayes_rule() -> None:
    errors = sample(accuracy(0.9, 500, 0.95, 500), 4000, np.random.default_rng(0))
    found = worth(np.array([0.02]), errors, (0.02, 0.9, 0.95))
    assert isinstance(found.flags_per_case, Estimate)
    assert found.ppv.value == pytest.approx(0.018 / (0.018 + 0.049))
    assert found.npv.value == pytest.approx(0.931 / (0.931 + 0.002))
    assert found.flags_per_case.value == pytest.approx(1 / found.ppv.value)
    assert (found.flags_per_1000.value, found.missed_per_1000.value) == pytest.approx((67, 2))
    assert found.ppv.low < found.ppv.value < found.ppv.high


def test_workload_counts_what_lies_above_each_threshold() -> None:
    rows = workload([-8, -1, 1, 8], [70, 20, 10], [10, 10, 80], [80, 15, 5], 0.1)
    assert [row.log_odds for row in rows] == [-1, 1]
    assert [row.flags_per_1000 for row in rows] == pytest.approx([300, 100])
    assert [row.sensitivity for row in rows] == pytest.approx([0.9, 0.8])
    assert [row.specificity for row in rows] == pytest.approx([0.8, 0.95])
    assert rows[1].ppv == pytest.approx(0.08 / (0.08 + 0.045))
    assert workload([-8, 0, 8], [1, 1], None, None, None)[0].sensitivity is None


def test_flags_and_predictive_values_hang_together_with_the_estimate() -> None:
    # PPV = P Se / AP: drawn jointly, flags per 1,000 are as certain as their own count, whatever Se and Sp are
    rng = np.random.default_rng(0)
    errors = sample(accuracy(0.85, 584, 0.93, 1898), 20_000, rng)
    here = draw([(6000, 50_000, errors)], rng)
    found = worth(here.corrected, errors, (here.raw, 0.85, 0.93))
    count = wilson(6000, 50_000)
    assert found.flags_per_1000.low == pytest.approx(1000 * count.low, abs=0.3)
    assert found.flags_per_1000.high == pytest.approx(1000 * count.high, abs=0.3)
    apart = worth(rng.permutation(here.corrected), errors, (here.raw, 0.85, 0.93))
    assert apart.flags_per_1000.high - apart.flags_per_1000.low > 4 * 1000 * (count.high - count.low)
    assert found.ppv.high - found.ppv.low > 1.3 * (apart.ppv.high - apart.ppv.low)
    assert isinstance(found.flags_per_case, Estimate)
    assert found.flags_per_case.high == pytest.approx(1 / found.ppv.low)


def test_no_number_of_confirmations_finds_a_case_where_there_may_be_none() -> None:
    rng = np.random.default_rng(0)
    errors = sample(accuracy(0.85, 584, 0.93, 1898), 4000, rng)
    found = worth(draw([(70, 1000, errors)], rng).corrected, errors, (0.0, 0.85, 0.93))
    assert (found.ppv.low, found.ppv.value) == (0, 0)
    assert isinstance(found.flags_per_case, NotEstimable)


def test_a_decision_curve_is_net_benefit() -> None:
    x, target = scores(0.2, 200_000, seed=8)
    pos, neg = histogram(x[target]), histogram(x[~target])
    rows = decision_curve(
        EDGES.tolist(), pos.tolist(), neg.tolist(), prevalence=0.2, calibration_prevalence=0.2, used=(0.7, 0.9)
    )
    for row in rows:
        flagged = x >= EDGES[1:-1][np.argmin(np.abs(EDGES[1:-1] - logit(row.threshold)))]
        odds = row.threshold / (1 - row.threshold)
        expected = (flagged & target).mean() - (flagged & ~target).mean() * odds  # with the sample's own prevalence
        assert row.flagging == pytest.approx(expected, abs=0.003)
        assert row.flagging >= max(0.0, row.everybody) - 0.003  # the best threshold loses to nothing simpler
        assert row.as_used == pytest.approx(0.2 * 0.7 - 0.8 * 0.1 * odds)
