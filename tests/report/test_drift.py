"""What a reader is told of drift: what is compared, and for each kind of difference what to do."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from screening.contract import QUALITY_COLUMNS
from screening.model.bundle import PRETRAINED, load_bundle
from screening.model.reference import (
    NUMERIC_QUALITY,
    Reference,
    distribution,
    log_odds,
    make_reference,
    score_distribution,
)
from screening.report.distances import Verdict
from screening.report.drift import (
    AGE,
    LOG_ODDS,
    TITLES,
    Drift,
    against_reference,
    between_runs,
    feature_edges,
    over_runs,
)
from screening.report.facts import FEATURES
from screening.report.standardise import load_reference_population
from screening.report.tallies import Histogram
from tests.bundles import reference as other_reference
from tests.report.test_distances import protected

N = 3000


class Archive:
    """A made-up archive of N records, one ECG a patient, before disclosure control."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.quality = {name: rng.lognormal(0.5, 0.3, N) for name in NUMERIC_QUALITY}
        self.quality |= {"duration_s": np.full(N, 10.0), "source_rate_hz": np.full(N, 500.0)}
        self.quality |= {name: np.zeros(N) for name in ("missing_fraction", "clipped_fraction", "flat_fraction")}
        self.age = np.round(np.clip(rng.normal(60, 12, N), 18, 90))
        self.sex = np.where(np.arange(N) % 2, "female", "male").astype(object)
        self.log_odds = rng.normal(-2.5, 2, N)
        self.flags = [",".join(["noise"] * (at % 20 == 0)) for at in range(N)]

    @property
    def flagged(self) -> np.ndarray:
        return np.asarray(self.log_odds > 0)

    def reference(self) -> Reference:
        probability = 1 / (1 + np.exp(-self.log_odds))
        target = np.random.default_rng(9).random(N) < probability
        return make_reference(
            "there",
            patients=N,
            quality=self.quality,
            quality_flags=self.flags,
            age=self.age,
            sex=self.sex.tolist(),
            scored="there",
            probability=probability,
            scores=score_distribution("there", probability, target, self.flagged),
        )

    def features(self, edges: Mapping[str, np.ndarray]) -> dict[str, Any]:
        values = {**self.quality, AGE: self.age, LOG_ODDS: self.log_odds}
        found = {name: distribution(values[name], tuple(edges[name].tolist())) for name in edges}
        return {
            name: protected(Histogram(np.array(one.edges), np.array(one.counts), one.missing))
            for name, one in found.items()
        }

    def against(self, reference: Reference) -> Drift:
        features = self.features(feature_edges([reference]))
        some = sum("noise" in flags for flags in self.flags)
        return against_reference(
            reference,
            features,
            scores=features[LOG_ODDS],
            sex={name: int((self.sex == name).sum()) for name in ("female", "male")},
            flagged=(int(self.flagged.sum()), N),
            quality_flags={"noise": (some, N)},
        )


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Archive(0).reference()


def verdicts(drift: Drift) -> dict[str, Verdict]:
    named = {one.feature: one.verdict for one in drift.features}
    named |= {one.name: one.verdict for one in (*drift.shares, *drift.categories)}
    return {name: verdict for name, verdict in named.items() if verdict}


def test_a_like_archive_shows_none_and_is_promised_nothing(reference: Reference) -> None:
    drift = Archive(1).against(reference)
    assert (verdicts(drift), drift.verdict, drift.left_out) == ({}, Verdict.NONE, {})
    assert {one.feature for one in drift.features} == {LOG_ODDS, AGE, *NUMERIC_QUALITY}
    [advice] = drift.advice
    assert advice.startswith("Nothing that was compared differs from there")
    assert "does not show, an accuracy that holds here" in advice


def test_other_scores_on_like_signals_ask_for_a_local_sample(reference: Reference) -> None:
    archive = Archive(1)
    archive.log_odds = archive.log_odds + 1.5
    drift = archive.against(reference)
    assert verdicts(drift) == {LOG_ODDS: Verdict.MARKED, "flagged": Verdict.SLIGHT}
    [advice] = drift.advice
    assert "while signals and patients are alike: there are more or fewer cases, or the model errs more" in advice
    assert "Draw a local validation sample (`screening validate sample`)." in advice
    assert "of patients are flagged, against " in advice


@pytest.mark.parametrize(("factor", "told"), [(2.0, "about 2 times"), (0.5, "about 0.5 times"), (10, "differ from")])
def test_amplitudes_off_by_a_factor_point_to_unit_and_gain(factor: float, told: str, reference: Reference) -> None:
    archive = Archive(1)
    archive.quality["amplitude_mV"] = archive.quality["amplitude_mV"] * factor
    drift = archive.against(reference)
    assert verdicts(drift) == {"amplitude_mV": Verdict.MARKED}
    [advice] = drift.advice
    assert told in advice
    assert "`unit_source`" in advice
    if factor == 10:  # beyond all edges, so that the factor is not known
        assert "median beyond the limits against 1.6 mV" in advice


def test_more_noise_points_to_devices(reference: Reference) -> None:
    archive = Archive(1)
    for name in ("mains_mV", "noise_mV"):
        archive.quality[name] = archive.quality[name] * 1.5
    archive.log_odds = archive.log_odds + 1
    noise, scores = archive.against(reference).advice
    assert noise.startswith("Mains interference and noise above 40 Hz differ from there: other devices, filters")
    assert "by device and site" in noise
    assert "the signals differ too. Settle these first" in scores


def test_another_rate_points_to_the_export(reference: Reference) -> None:
    archive = Archive(1)
    archive.quality["source_rate_hz"][:] = 250
    [advice] = archive.against(reference).advice
    assert advice.startswith("Sampling rate differs from there: another device or export.")


def test_other_patients_point_to_standardised_figures(reference: Reference) -> None:
    archive = Archive(1)
    archive.age = archive.age + 8
    archive.sex[: N // 2] = "male"
    archive.log_odds = archive.log_odds + 1
    patients, scores = archive.against(reference).advice
    assert patients.startswith("Other patients than in there (age and sex): prevalence differs for that reason alone.")
    assert "standardised" in patients
    assert "age and sex differ too. Part of it may be case mix" in scores


def test_missing_ages_point_to_the_metadata(reference: Reference) -> None:
    archive = Archive(1)
    archive.age[::10] = np.nan
    drift = archive.against(reference)
    assert verdicts(drift) == {"age unknown": Verdict.MARKED}
    [advice] = drift.advice
    assert "look into the feed of metadata" in advice


def test_unknown_sex_is_compared_apart_from_the_categories(reference: Reference) -> None:
    drift = against_reference(
        reference,
        {},
        scores=None,
        sex={"female": 900, "male": 900, "(unknown)": 200},
        flagged=None,
        quality_flags={},
    )
    assert verdicts(drift) == {"sex unknown": Verdict.MARKED}
    assert set(drift.left_out.values()) == {"it can be shown of too few records"}
    hidden = {"female": 900, "male": None}
    drift = against_reference(reference, {}, scores=None, sex=hidden, flagged=None, quality_flags={})
    assert drift.left_out["sex"] == "too few of its categories can be shown"


def test_ages_come_from_the_bands_where_there_is_no_histogram(reference: Reference) -> None:
    starts = list(range(0, 95, 10))
    age = Archive(1).age + 8
    rows = {f"{at}-{at + 9}": int(((age >= at) & (age < at + 10)).sum()) for at in starts}
    rows |= {"(unknown)": 400}
    drift = against_reference(reference, {}, scores=None, sex={}, flagged=None, quality_flags={}, ages=rows)
    assert verdicts(drift) == {AGE: Verdict.MARKED, "age unknown": Verdict.MARKED}
    assert AGE not in drift.left_out
    other = Archive(1).features(feature_edges([reference]))
    drift = against_reference(reference, other, scores=None, sex={}, flagged=None, quality_flags={}, ages=rows)
    assert AGE not in verdicts(drift)


def test_flags_at_another_rate_are_told(reference: Reference) -> None:
    archive = Archive(1)
    archive.flags = ["noise"] * N
    [advice] = archive.against(reference).advice
    assert advice.startswith("Quality flags are raised at another rate than in there (noise)")


def test_runs_are_compared_without_scores_where_models_differ() -> None:
    edges = feature_edges([])
    first, second = Archive(0).features(edges), Archive(1).features(edges)
    drift = between_runs(first, second, same_model=True)
    assert (drift.verdict, drift.against) == (Verdict.NONE, "the previous run")
    assert LOG_ODDS in {one.feature for one in drift.features}
    drift = between_runs(first, second, same_model=False)
    assert LOG_ODDS not in {one.feature for one in drift.features} | set(drift.left_out)
    drift = between_runs(first, {}, same_model=True)
    assert not drift.features
    assert set(drift.left_out) == set(first)


def test_runs_together_are_compared_as_their_union(reference: Reference) -> None:
    edges = feature_edges([reference])
    parts = {"a": Archive(1).features(edges), "b": Archive(2).features(edges)}
    by_run = {name: {run: features[name] for run, features in parts.items()} for name in edges}
    both = over_runs(by_run, ["a", "b", "gone"])
    assert both["noise_mV"].counts.sum() == pytest.approx(2 * N, rel=0.01)
    assert set(both["noise_mV"].edges) <= set(edges["noise_mV"])
    drift = against_reference(reference, both, scores=None, sex={}, flagged=None, quality_flags={})
    assert verdicts(drift) == {}
    assert over_runs(by_run, ["gone"]) == {}


def test_every_feature_has_edges_a_title_and_can_be_counted() -> None:
    reference = other_reference()
    for edges in (feature_edges([]), feature_edges([reference]), feature_edges([reference, Archive(0).reference()])):
        assert set(edges) == set(FEATURES) == set(TITLES) - {"sex", "flagged"}
        for name, found in edges.items():
            assert found.dtype == np.float64
            assert np.all(np.diff(found) > 0), name
    assert {name for name, _, _ in QUALITY_COLUMNS} - set(TITLES) == {"quality_flags"}


def test_edges_of_several_references_allow_an_exact_comparison_with_each() -> None:
    one, two = other_reference(), Archive(0).reference()
    edges = feature_edges([one, two])
    for reference in (one, two):
        for name, found in reference.features.items():
            assert set(found.edges) <= set(edges[name].tolist()), name


def test_age_bands_begin_at_edges_of_the_reference() -> None:
    """So that the ages that disclosure control leaves, at the bands' edges, can be compared with it."""
    edges = set(feature_edges([other_reference()])[AGE].tolist())
    assert set(load_reference_population().bands()) <= edges | {0}


# --- Real ECGs -------------------------------------------------------------------------------------------------------


def test_real_ecgs_read_with_half_the_gain_are_found_against_the_shipped_reference(ptbxl: Path, tmp_path: Path) -> None:
    """The first 64 of PTB-XL, its earliest: other patients and an older device, but amplitudes as in the rest."""
    from screening.archive.build import build_catalog
    from screening.archive.labels import PRESETS
    from screening.train.data import load_training_set
    from screening.train.fit import predict

    bundle = load_bundle(PRETRAINED)
    reference = bundle.reference()
    assert reference is not None
    build_catalog(str(ptbxl), str(tmp_path / "catalog"), deidentified=True, labels=PRESETS["ptbxl-mi"])
    records = load_training_set(str(tmp_path / "catalog"), bundle.preprocessing)
    logit = predict(bundle.network(), records.signals_mV)
    scored = log_odds(bundle.calibrator.probability(logit.astype(np.float64)))
    edges = feature_edges([reference])

    def against(scale: float) -> Drift:
        values = {name: records.quality[name] for name in NUMERIC_QUALITY} | {AGE: records.age, LOG_ODDS: scored}
        values["amplitude_mV"] = values["amplitude_mV"] * scale
        features = {name: distribution(values[name], tuple(edges[name].tolist())) for name in edges}
        sex = {name: int((records.sex == name).sum()) for name in ("female", "male")}
        scores = features[LOG_ODDS]
        return against_reference(reference, features, scores=scores, sex=sex, flagged=None, quality_flags={})

    genuine, doubled = against(1.0), against(2.0)
    assert verdicts(doubled) == verdicts(genuine) | {"amplitude_mV": Verdict.MARKED}
    assert "amplitude_mV" not in verdicts(genuine)
    assert "about 2 times those of PTB-XL 1.0.3, folds 1-8" in doubled.advice[0]
