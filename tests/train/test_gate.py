"""The gate: each bound by itself, who may be judged on what, and what a verdict says."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.special import expit
from scipy.special import logit as log_odds
from scipy.stats import bootstrap
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.model.out_of_fold import OutOfFold
from screening.settings import load_settings
from screening.signal.preprocess import Preprocessing
from screening.train.bounds import Bound, GateSettings, Predictions, _paired, _slope_interval, weigh
from screening.train.data import TrainingSet
from screening.train.gate import OUT_OF_FOLD, OWN_WEIGHTS, evaluation_set_sha256, judge
from tests.bundles import make_bundle
from tests.train.sets import training_set

PATIENTS = 2400
SETTINGS = GateSettings(resamples=200, sensitivity_margin=0.05, subgroup_margin=0.1)
LENIENT = GateSettings(
    auroc_floor=0,
    sensitivity_floor=0,
    specificity_floor=0,
    calibration_slope=(0, 1e6),
    calibration_error=1,
    least_positives=10,
    resamples=100,
)


@pytest.fixture(scope="module")
def logit() -> np.ndarray:
    return np.random.default_rng(0).normal(-2.0, 2.4, PATIENTS)


@pytest.fixture(scope="module")
def people(logit: np.ndarray) -> TrainingSet:
    """Return patients whose outcomes are drawn from the very probabilities of a model, which so is well calibrated."""
    rng = np.random.default_rng(1)
    target = (rng.random(PATIENTS) < expit(logit)).astype(np.int8)
    site = rng.choice(["east", "north", "small"], PATIENTS, p=[0.45, 0.45, 0.1]).astype(object)
    label = np.where(target == 1, "MI", np.where(rng.random(PATIENTS) < 0.5, "NORM", "other"))
    return dataclasses.replace(training_set(PATIENTS, samples=1), target=target, label=label, site=site)


@pytest.fixture(scope="module")
def good(logit: np.ndarray) -> Predictions:
    probability = expit(logit)
    return Predictions(probability, probability >= 0.45)


def failed(bounds: tuple[Bound, ...]) -> dict[str, str]:
    return {bound.name: bound.sentence for bound in bounds if not bound.passed}


def some(mask: np.ndarray, share: float) -> np.ndarray:
    """Return a mask of a share of those in ``mask``."""
    chosen = np.flatnonzero(mask)
    out = np.zeros(len(mask), bool)
    out[np.random.default_rng(2).choice(chosen, round(share * len(chosen)), replace=False)] = True
    return out


def flags(of: Predictions, flagged: np.ndarray) -> Predictions:
    return dataclasses.replace(of, flagged=flagged)


# --- the bounds ------------------------------------------------------------------------------------------------------


def test_a_model_passes_against_itself_with_no_difference_at_all(people: TrainingSet, good: Predictions) -> None:
    bounds, groups = weigh(good, good, people, SETTINGS)
    assert failed(bounds) == {}
    assert [bound.name for bound in bounds] == [
        "auroc_floor",
        "auroc_margin",
        "sensitivity_floor",
        "sensitivity_margin",
        "specificity_floor",
        "calibration_slope",
        "calibration_error",
        "subgroup_margin",
    ]
    for bound in bounds:
        if bound.name.endswith("_margin"):
            assert (bound.value, bound.low, bound.high) == (0, 0, 0)
    assert set(groups) == {"age", "sex", "site"}
    assert set(groups["site"]) == {"east", "north", "small"}
    assert groups["site"]["east"]["positives"] == (people.target[people.site == "east"] == 1).sum()


def test_without_a_champion_the_floors_alone_count(people: TrainingSet, good: Predictions) -> None:
    bounds, _ = weigh(good, None, people, SETTINGS)
    assert [bound.name for bound in bounds] == [
        "auroc_floor",
        "sensitivity_floor",
        "specificity_floor",
        "calibration_slope",
        "calibration_error",
    ]
    assert failed(bounds) == {}


@pytest.mark.parametrize("seed", range(4))
def test_any_model_passes_the_margins_against_itself(people: TrainingSet, seed: int) -> None:
    rng = np.random.default_rng(seed)
    probability = rng.random(PATIENTS)
    anything = Predictions(probability, rng.random(PATIENTS) < rng.random(), rng.integers(0, 5, PATIENTS))
    bounds, _ = weigh(anything, anything, people, SETTINGS.model_copy(update={"auroc_margin": 0.0}))
    assert not [name for name in failed(bounds) if name.endswith("_margin")]


def worse(name: str, good: Predictions, people: TrainingSet) -> tuple[Predictions, Predictions, dict[str, object]]:
    """Return a candidate that breaks one bound and no other, its champion, and settings that tell the bounds apart."""
    positive = people.target == 1
    logit = log_odds(good.probability)
    if name == "auroc_floor":
        return good, good, {"auroc_floor": 0.95}
    if name == "auroc_margin":  # one probability for all that are not flagged: calibrated, and no ranks among them
        low = ~good.flagged
        return (
            dataclasses.replace(good, probability=np.where(low, positive[low].mean(), good.probability)),
            good,
            {"auroc_floor": 0.5, "calibration_slope": (0.5, 2.0), "calibration_error": 0.2},
        )
    if name == "sensitivity_floor":
        few = flags(good, good.flagged & ~some(good.flagged & positive, 0.5))
        return few, few, {}
    if name == "sensitivity_margin":
        return flags(good, good.flagged & ~some(good.flagged & positive, 0.08)), good, {}
    if name == "specificity_floor":
        return flags(good, good.flagged | some(~good.flagged & ~positive, 0.1)), good, {}
    if name == "calibration_slope":
        return dataclasses.replace(good, probability=expit(1.5 * logit)), good, {"calibration_error": 0.3}
    if name == "calibration_error":
        return dataclasses.replace(good, probability=expit(logit + 0.8)), good, {}
    small = people.site == "small"  # misses a few more there, and makes up for them elsewhere
    lost, won = some(good.flagged & positive & small, 0.4), some(~good.flagged & positive & ~small, 0.2)
    return flags(good, (good.flagged & ~lost) | won), good, {}


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("auroc_floor", r"AUROC \(MI vs all other\) is 0\.\d{3} \(95% interval .*must be at least 0\.95\."),
        (
            "auroc_margin",
            r"AUROC \(MI vs all other\), candidate minus champion, is -0\.\d{3} \(95% interval -.* to -.*\); the lower end "
            r"must be at least -0\.02\.",
        ),
        ("sensitivity_floor", r"Sensitivity is 0\.\d{3} .*at the lower end of its interval it must be at least 0\.4\."),
        ("sensitivity_margin", r"Sensitivity, candidate minus champion, is -0\.0.*least -0\.05\."),
        ("specificity_floor", r"Specificity is 0\.8\d\d .*; it must be at least 0\.9\."),
        (
            "calibration_slope",
            r"slope must lie between 0\.8 and 1\.25; it is 0\.\d\d \(95% interval 0\.\d\d to 0\.\d\d\)",
        ),
        ("calibration_error", r"expected calibration error must be at most 0\.05; it is 0\.\d{3}\."),
        (
            "subgroup_margin",
            r"worst subgroup \(site small, \d+ positive\), candidate minus champion, is -0\.2.*-0\.1\.",
        ),
    ],
)
def test_each_bound_fails_by_itself(name: str, sentence: str, good: Predictions, people: TrainingSet) -> None:
    candidate, champion, changes = worse(name, good, people)
    bounds, _ = weigh(candidate, champion, people, SETTINGS.model_copy(update=changes))
    found = failed(bounds)
    assert list(found) == [name], found
    assert re.search(sentence, found[name]), found[name]


def test_a_candidate_made_worse_is_refused_and_a_better_one_passes(people: TrainingSet, logit: np.ndarray) -> None:
    noise = np.random.default_rng(3).normal(0, 1.5, PATIENTS)

    def model(logit: np.ndarray) -> Predictions:
        fit = LogisticRegression(C=1e6).fit(logit[:, None], people.target)
        probability = fit.predict_proba(logit[:, None])[:, 1]
        return Predictions(probability, probability >= np.quantile(probability[people.target == 0], 0.95))

    better, bad = model(logit), model(logit + noise)
    refused = failed(weigh(bad, better, people, SETTINGS)[0])
    assert {"auroc_margin", "sensitivity_margin"} <= set(refused)
    assert "calibration_slope" not in refused
    assert failed(weigh(better, bad, people, SETTINGS)[0]) == {}


def test_a_set_too_small_to_show_a_loss_does_not_let_it_pass(people: TrainingSet, good: Predictions) -> None:
    """Two models that find equally many, but not the same: the difference is 0, and only many patients can show it."""
    found, missed = (np.flatnonzero((good.flagged == flagged) & (people.target == 1)) for flagged in (True, False))
    number = len(missed) // 5
    swapped = np.concatenate([found[: 5 * number : 5], missed[: 5 * number : 5]])
    candidate = flags(good, good.flagged ^ np.isin(np.arange(PATIENTS), swapped))
    assert failed(weigh(candidate, good, people, SETTINGS)[0]) == {}
    sixth = np.flatnonzero(people.target == 1)[::6]  # a sixth of the positives, of swapped ones too
    few = np.sort(np.concatenate([sixth, np.flatnonzero(people.target == 0)]))
    bounds, _ = weigh(
        Predictions(good.probability[few], candidate.flagged[few]),
        Predictions(good.probability[few], good.flagged[few]),
        people.where(few),
        SETTINGS.model_copy(update={"calibration_error": 1.0}),
    )
    [margin] = [bound for bound in bounds if bound.name == "sensitivity_margin"]
    assert abs(margin.value) < 0.04
    assert margin.low < -0.05
    assert not margin.passed


def test_several_ecgs_of_a_patient_count_once_at_the_threshold(people: TrainingSet, good: Predictions) -> None:
    twice = np.repeat(np.arange(PATIENTS), 2)
    doubled = dataclasses.replace(
        people.where(twice), record_sha256=np.array([f"{at:064x}" for at in range(2 * PATIENTS)], dtype=object)
    )
    same = Predictions(good.probability[twice], good.flagged[twice])
    one, two = weigh(good, good, people, SETTINGS)[0], weigh(same, same, doubled, SETTINGS)[0]
    for first, second in zip(one, two, strict=True):
        assert second.value == pytest.approx(first.value)
        assert (second.high - second.low) == pytest.approx(first.high - first.low, abs=0.02, nan_ok=True)


def test_out_of_fold_ranks_are_compared_within_folds_for_both_models(people: TrainingSet, good: Predictions) -> None:
    part = np.arange(PATIENTS) % 3
    shifted = expit(log_odds(good.probability) + 2.0 * part)  # as if each fold's network had a scale of its own
    candidate = Predictions(shifted, good.flagged, part)
    [floor] = [b for b in weigh(candidate, None, people, SETTINGS)[0] if b.name == "auroc_floor"]
    within = [roc_auc_score(people.target[part == fold], good.probability[part == fold]) for fold in range(3)]
    positives = [people.target[part == fold].sum() for fold in range(3)]
    assert floor.value == pytest.approx(np.average(within, weights=positives))
    [margin] = [b for b in weigh(candidate, good, people, SETTINGS)[0] if b.name == "auroc_margin"]
    assert margin.value == pytest.approx(0, abs=1e-12)


def test_intervals_agree_with_resampling(people: TrainingSet, good: Predictions) -> None:
    positive = people.target == 1
    other = good.flagged ^ some(positive, 0.1)
    ours = _paired(good.flagged[positive], other[positive], SETTINGS.model_copy(update={"resamples": 5000}))
    difference = good.flagged[positive].astype(float) - other[positive]
    theirs = bootstrap((difference,), np.mean, method="percentile", n_resamples=5000, rng=1).confidence_interval
    assert (ours["low"], ours["high"]) == pytest.approx((theirs.low, theirs.high), abs=0.004)

    x = log_odds(good.probability)
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(150):
        rows = rng.integers(0, PATIENTS, PATIENTS)
        slopes.append(LogisticRegression(C=1e9).fit(x[rows, None], people.target[rows]).coef_[0, 0])
    fit = LogisticRegression(C=1e9).fit(x[:, None], people.target)
    low, high = _slope_interval(good.probability, fit.coef_[0, 0], fit.intercept_[0])
    assert (high - low) / 3.92 == pytest.approx(np.std(slopes), rel=0.25)


def test_a_slope_that_cannot_be_fitted_is_a_refusal(people: TrainingSet, good: Predictions) -> None:
    backwards = dataclasses.replace(good, probability=1 - good.probability)
    refused = failed(weigh(backwards, None, people, SETTINGS)[0])
    assert "it cannot be fitted, because the probabilities do not rise with the outcome" in refused["calibration_slope"]


# --- who is judged on what -------------------------------------------------------------------------------------------


def out_of_fold(records: TrainingSet, seed: int = 0) -> OutOfFold:
    rng = np.random.default_rng(seed)
    logit = (2.0 * records.target - 2 + rng.normal(0, 1, len(records))).astype(np.float32)
    probability = expit(logit.astype(np.float64))
    order = np.argsort(records.record_sha256.astype(str))
    return OutOfFold(records.record_sha256, records.fold, logit, probability, probability >= 0.4).where(order)


def bundle(folder: Path, name: str, *, seen: object = (), seed: int = 0, **changes: object) -> Bundle:
    uses = {"trained": list(seen), "tuned": [], "calibrated": []}  # type: ignore[call-overload]
    return make_bundle(folder / name, version=name, seen=uses, **changes)


def test_two_models_that_have_not_seen_the_records_are_judged_by_their_weights(tmp_path: Path) -> None:
    records = training_set()
    first, second = bundle(tmp_path, "first"), bundle(tmp_path, "second", threshold=0.5)
    verdict = judge(first, second, records, LENIENT, whence={"catalog_id": "c" * 64, "folds": [9]})
    assert (verdict.candidate["judged_by"], verdict.champion["judged_by"]) == (OWN_WEIGHTS, OWN_WEIGHTS)  # type: ignore[index]
    assert {bound.name: bound.value for bound in verdict.bounds}["auroc_margin"] == 0  # they differ in threshold only
    assert verdict.candidate["bundle_sha256"] == first.sha256
    assert verdict.evaluation_set["sha256"] == evaluation_set_sha256(records)
    assert verdict.evaluation_set["catalog_id"] == "c" * 64
    assert (verdict.evaluation_set["records"], verdict.evaluation_set["positive_patients"]) == (96, 24)
    assert verdict.evaluation_set["left_out"] == {"flat_lead": 2}
    plain = json.loads(json.dumps(verdict.to_json(), allow_nan=False))
    assert plain["settings"]["auroc_margin"] == 0.02
    assert [row["name"] for row in plain["bounds"]] == [bound.name for bound in verdict.bounds]


def test_what_was_seen_is_told_of_both(tmp_path: Path) -> None:
    records = training_set()
    first = bundle(tmp_path, "first", seen=records.record_sha256[:12])
    second = bundle(tmp_path, "second", seen=records.record_sha256[:30], out_of_fold=out_of_fold(records.of_folds([1])))
    with pytest.raises(UserError) as caught:
        judge(first, second, records, LENIENT)
    assert str(caught.value) == (
        "the candidate tiny first was made from 12 of these 96 records and holds no out-of-fold predictions of them and "
        "the champion tiny second was made from 30 of these 96 records and holds out-of-fold predictions of 32 of them, "
        "so they cannot be judged on them; choose other --folds or another catalog that no model has seen, or train with "
        "nested cross-validation over all these folds."
    )
    with pytest.raises(UserError, match="^the champion tiny first was made from 12 "):
        judge(bundle(tmp_path, "third"), first, records, LENIENT)


def test_a_model_that_has_seen_them_is_judged_out_of_fold(tmp_path: Path) -> None:
    records = training_set()
    stored = out_of_fold(training_set(192))  # more than is asked for
    seen = bundle(tmp_path, "seen", seen=records.record_sha256[:1], out_of_fold=stored)
    fresh = bundle(tmp_path, "fresh", out_of_fold=stored)
    verdict = judge(seen, fresh, records, LENIENT)
    assert (verdict.candidate["judged_by"], verdict.candidate["records_seen"]) == (OUT_OF_FOLD, 1)
    assert verdict.champion is not None
    assert (verdict.champion["judged_by"], verdict.champion["records_seen"]) == (OWN_WEIGHTS, 0)
    flagged = dict(zip(stored.record_sha256, stored.flagged, strict=True))
    of_records = np.array([flagged[sha256] for sha256 in records.record_sha256])
    specificity = 1 - of_records[records.target == 0].mean()
    assert {bound.name: bound.value for bound in verdict.bounds}["specificity_floor"] == pytest.approx(specificity)
    both = judge(seen, seen, records, LENIENT)
    assert both.passed
    assert both.champion is not None
    assert both.champion["judged_by"] == OUT_OF_FOLD


def test_a_verdict_does_not_hang_on_the_order_of_the_records(tmp_path: Path) -> None:
    records = training_set()
    seen = bundle(tmp_path, "seen", seen=records.record_sha256, out_of_fold=out_of_fold(records))
    fresh = bundle(tmp_path, "fresh")
    shuffled = records.where(np.random.default_rng(0).permutation(len(records)))
    one, other = judge(seen, fresh, records, LENIENT), judge(seen, fresh, shuffled, LENIENT)
    assert one.to_json() == other.to_json()
    relabelled = dataclasses.replace(records, label=np.where(records.label == "other", "NORM", records.label))
    assert evaluation_set_sha256(relabelled) != evaluation_set_sha256(records)


def test_both_are_judged_on_what_both_can_read(tmp_path: Path) -> None:
    records = training_set()
    short = bundle(tmp_path, "short")
    other = bundle(tmp_path, "other")
    assert short.preprocessing == Preprocessing()
    verdict = judge(short, other, records, LENIENT, champion_records=records.where(np.arange(96) != 5))
    assert (verdict.evaluation_set["records"], verdict.evaluation_set["read_by_one_model_only"]) == (95, 1)


def test_too_few_patients_judge_nobody(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"has 24 patients with and 72 without infarction, and the gate judges from 30 of each"
    ):
        judge(bundle(tmp_path, "first"), None, training_set(), GateSettings())
    bounds, groups = weigh(
        Predictions(np.linspace(0, 1, 96), np.arange(96) > 90),
        Predictions(np.linspace(0, 1, 96), np.arange(96) > 90),
        training_set(),
        GateSettings(least_positives=30),
    )
    assert groups == {}
    assert bounds[-1].sentence == "No subgroup has 30 positive patients, so none was judged."


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auroc_margin: -1\n", r"gate\.yaml, line 1: auroc_margin: input should be greater than or equal to 0"),
        ("seed: 3\ncalibration_slope: [1.2, 0.8]\n", r"line 2: calibration_slope: .*two rising numbers are wanted"),
        ("auroc: 0.9\n", r"line 1: auroc: .*known keys are auroc_margin, auroc_floor"),
    ],
)
def test_bounds_come_from_a_file_and_are_checked(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "gate.yaml"
    file.write_text("auroc_margin: 0.01\ncalibration_slope: [0.9, 1.1]\n")
    settings = load_settings(GateSettings, file)
    assert (settings.auroc_margin, settings.calibration_slope) == (0.01, (0.9, 1.1))
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        load_settings(GateSettings, file)
