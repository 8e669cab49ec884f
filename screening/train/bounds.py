"""The bounds of the gate, and how predictions of a candidate and a champion stand to them.

Where a loss would miss infarctions (AUROC, sensitivity) the unfavourable end of the 95% interval decides, so that a set
too small to show a loss cannot let it pass. Specificity, calibration and subgroups are judged by their values: false
alarms cost a look, and a subgroup's interval spans more than any loss that could be accepted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from pydantic import Field, field_validator
from scipy.special import expit
from scipy.special import logit as log_odds

from screening.model.calibration import count_flags, reliability
from screening.settings import Settings
from screening.train.data import TrainingSet
from screening.train.evaluate import Scored, compare, evaluate, one_a_patient
from screening.train.subgroups import AGE_BANDS, rates

TASK = "MI vs all other"
_ROUNDING = 1e-9


class GateSettings(Settings):
    """Bounds of the gate. The floors hold for every candidate, so that many small losses cannot add up unnoticed.

    The margins are for evaluation sets of some 500 positive patients. On far fewer even an equal candidate is mostly
    refused, because so few cannot show that it is no worse; with thousands the margins can be drawn closer.
    """

    auroc_margin: float = Field(
        0.02, ge=0, le=0.5, description="AUROC (MI vs all other) that may be lost, at the lower end of the interval"
    )
    auroc_floor: float = Field(0.80, ge=0, le=1, description="least AUROC, at the lower end of its interval")
    sensitivity_margin: float = Field(
        0.08,
        ge=0,
        le=1,
        description="sensitivity at the own threshold that may be lost, at the lower end of the interval",
    )
    sensitivity_floor: float = Field(
        0.40, ge=0, le=1, description="least sensitivity at the own threshold, at the lower end of its interval"
    )
    specificity_floor: float = Field(0.90, ge=0, le=1, description="least specificity at the own threshold")
    calibration_slope: tuple[float, float] = Field(
        (0.8, 1.25), description="range of the calibration slope; 1 is perfect"
    )
    calibration_error: float = Field(0.05, gt=0, le=1, description="largest expected calibration error")
    subgroup_margin: float = Field(
        0.15, ge=0, le=1, description="sensitivity at the own threshold that may be lost in any subgroup"
    )
    least_positives: int = Field(
        30, ge=2, description="positive patients below which a set or a subgroup is not judged"
    )
    resamples: int = Field(1000, ge=100, le=100_000, description="of the bootstrap over patients")
    seed: int = Field(0, ge=0, description="of the bootstrap")

    @field_validator("calibration_slope")
    @classmethod
    def _rising(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] < value[1]:
            raise ValueError("two rising numbers are wanted, the first 0 or more")
        return value


@dataclass(frozen=True)
class Predictions:
    """What a model says of the records of the evaluation set, in their order."""

    probability: np.ndarray  # float64 (n,)
    flagged: np.ndarray  # bool (n,), at the threshold
    part: np.ndarray | None = None  # int (n,), the outer fold of out-of-fold predictions: ranks are compared within


@dataclass(frozen=True)
class Bound:
    """One bound and how the candidate stands to it."""

    name: str  # the setting that declares it
    measured: str
    value: float  # NaN where it could not be measured
    low: float  # 95% interval, NaN where there is none
    high: float
    limit: str
    passed: bool
    sentence: str


def weigh(
    candidate: Predictions, champion: Predictions | None, records: TrainingSet, settings: GateSettings
) -> tuple[tuple[Bound, ...], dict[str, dict[str, dict[str, float]]]]:
    """Hold predictions of the same records against the bounds.

    Sensitivity, specificity, calibration and subgroups are of patients (one ECG each); AUROC is of all ECGs, with
    intervals from resamples of patients.

    Returns
    -------
    tuple of Bound, dict
        The bounds, and for each kind and group with enough positive patients their number and the sensitivities.
    """
    people = one_a_patient(records.patient_key, records.record_sha256)
    positive = records.target[people] == 1
    flagged = candidate.flagged[people]
    own = rates(count_flags(flagged, positive))
    found = [_auroc_floor(candidate, records, settings)]
    if champion is not None:
        found.append(_auroc_margin(candidate, champion, records, settings))
    found.append(
        _at_least("sensitivity_floor", "sensitivity", own["sensitivity"], settings.sensitivity_floor, end="low")
    )
    if champion is not None:
        lost = _paired(flagged[positive], champion.flagged[people][positive], settings)
        found.append(_margin("sensitivity_margin", "sensitivity", lost, settings.sensitivity_margin, end="low"))
    found.append(
        _at_least("specificity_floor", "specificity", own["specificity"], settings.specificity_floor, end="value")
    )
    found += _calibration(candidate.probability[people], positive, settings)
    groups = _subgroups(records.where(people), settings.least_positives)
    sensitivities: dict[str, dict[str, dict[str, float]]] = {}
    worst: tuple[dict[str, float], str, int] | None = None
    for kind, members in groups.items():
        for group, mask in members.items():
            chosen = mask & positive
            positives = int(chosen.sum())
            row = {"positives": positives, "candidate": float(flagged[chosen].mean())}
            if champion is not None:
                other = champion.flagged[people][chosen]
                row["champion"] = float(other.mean())
                lost = _paired(flagged[chosen], other, settings)
                if worst is None or lost["value"] < worst[0]["value"]:
                    worst = lost, f"{kind} {group}", positives
            sensitivities.setdefault(kind, {})[group] = row
    if champion is not None:
        found.append(_worst_subgroup(worst, settings))
    return tuple(found), sensitivities


def _auroc_floor(candidate: Predictions, records: TrainingSet, settings: GateSettings) -> Bound:
    figures = evaluate(
        Scored(candidate.probability, candidate.flagged, candidate.part),
        records.target,
        records.label,
        records.patient_key,
        resamples=settings.resamples,
        seed=settings.seed,
    )[TASK]
    return _at_least("auroc_floor", f"AUROC ({TASK})", figures["auroc"], settings.auroc_floor, end="low")


def _auroc_margin(candidate: Predictions, champion: Predictions, records: TrainingSet, settings: GateSettings) -> Bound:
    # Ranks within outer folds and ranks over all are not the same figure; a model of one network can be ranked within any.
    parts = (
        champion.part if candidate.part is None else candidate.part,
        candidate.part if champion.part is None else champion.part,
    )
    first, second = (
        Scored(model.probability, model.flagged, part) for model, part in zip((candidate, champion), parts, strict=True)
    )
    lost = compare(
        first,
        second,
        records.target,
        records.label,
        records.patient_key,
        resamples=settings.resamples,
        seed=settings.seed,
    )[TASK]["auroc"]
    return _margin("auroc_margin", f"AUROC ({TASK})", lost, settings.auroc_margin, end="low")


def _paired(first: np.ndarray, second: np.ndarray, settings: GateSettings) -> dict[str, float]:
    """Return the share flagged by ``first`` minus that by ``second``, of the same patients, with a bootstrap interval."""
    difference = first.astype(np.float64) - second.astype(np.float64)
    # Resamples of patients differ only in how many of each of three outcomes they hold.
    shares = [float((difference == outcome).mean()) for outcome in (-1, 0, 1)]
    drawn = np.random.default_rng(settings.seed).multinomial(len(difference), shares, size=settings.resamples)
    low, high = np.quantile((drawn[:, 2] - drawn[:, 0]) / len(difference), [0.025, 0.975])
    return {"value": float(difference.mean()), "low": float(low), "high": float(high)}


def _calibration(probability: np.ndarray, positive: np.ndarray, settings: GateSettings) -> list[Bound]:
    found = reliability(probability, positive.astype(np.int8))
    low, high = settings.calibration_slope
    slope = math.nan if found["slope"] is None else float(found["slope"])
    ends = _slope_interval(probability, slope, found["intercept"])
    told = (
        f"it is {slope:.2f} (95% interval {ends[0]:.2f} to {ends[1]:.2f})"
        if math.isfinite(slope)
        else "it cannot be fitted, because the probabilities do not rise with the outcome or part it without overlap"
    )
    error = float(found["expected_calibration_error"])
    return [
        Bound(
            name="calibration_slope",
            measured="calibration slope",
            value=slope,
            low=ends[0],
            high=ends[1],
            limit=f"{low:g} to {high:g}",
            passed=low <= slope <= high,
            sentence=f"The calibration slope must lie between {low:g} and {high:g}; {told}.",
        ),
        Bound(
            name="calibration_error",
            measured="calibration error",
            value=error,
            low=math.nan,
            high=math.nan,
            limit=f"at most {settings.calibration_error:g}",
            passed=error <= settings.calibration_error,
            sentence=f"The expected calibration error must be at most {settings.calibration_error:g}; it is {error:.3f}.",
        ),
    ]


def _slope_interval(probability: np.ndarray, slope: float, intercept: float | None) -> tuple[float, float]:
    """Return the slope's 95% interval by the Fisher information of the logistic regression (Wald)."""
    if intercept is None:
        return math.nan, math.nan
    x = log_odds(np.clip(probability, 1e-12, 1 - 1e-12))
    fitted = expit(slope * x + intercept)
    weight = fitted * (1 - fitted)
    information = np.array([[(weight * x * x).sum(), (weight * x).sum()], [(weight * x).sum(), weight.sum()]])
    if np.linalg.cond(information) > 1e12:
        return math.nan, math.nan
    error = 1.96 * math.sqrt(np.linalg.inv(information)[0, 0])
    return slope - error, slope + error


def _worst_subgroup(worst: tuple[dict[str, float], str, int] | None, settings: GateSettings) -> Bound:
    if worst is None:
        return Bound(
            name="subgroup_margin",
            measured="sensitivity in the worst subgroup",
            value=math.nan,
            low=math.nan,
            high=math.nan,
            limit=_limit("value", -settings.subgroup_margin),
            passed=True,
            sentence=f"No subgroup has {settings.least_positives} positive patients, so none was judged.",
        )
    lost, group, positives = worst
    measured = f"sensitivity in the worst subgroup ({group}, {positives} positive)"
    return _margin("subgroup_margin", measured, lost, settings.subgroup_margin, end="value")


def _at_least(name: str, measured: str, figure: Mapping[str, float], floor: float, *, end: str) -> Bound:
    where = "at the lower end of its interval it" if end == "low" else "it"
    return Bound(
        name=name,
        measured=measured,
        value=figure["value"],
        low=figure["low"],
        high=figure["high"],
        limit=_limit(end, floor),
        passed=figure[end] >= floor - _ROUNDING,
        sentence=(
            f"{_capital(measured)} is {figure['value']:.3f} (95% interval {figure['low']:.3f} to {figure['high']:.3f}); "
            f"{where} must be at least {floor:g}."
        ),
    )


def _margin(name: str, measured: str, lost: Mapping[str, float], margin: float, *, end: str) -> Bound:
    where = "the lower end" if end == "low" else "the difference"
    return Bound(
        name=name,
        measured=f"{measured}, minus champion's",
        value=lost["value"],
        low=lost["low"],
        high=lost["high"],
        limit=_limit(end, -margin),
        passed=lost[end] >= -margin - _ROUNDING,
        sentence=(
            f"{_capital(measured)}, candidate minus champion, is {lost['value']:+.3f} (95% interval {lost['low']:+.3f} to "
            f"{lost['high']:+.3f}); {where} must be at least {-margin:g}."
        ),
    )


def _subgroups(records: TrainingSet, least_positives: int) -> dict[str, dict[str, np.ndarray]]:
    """Return kind -> group -> mask, for groups with enough positives."""
    kinds: dict[str, dict[str, np.ndarray]] = {
        "age": {f"{low}-{high}": (records.age >= low) & (records.age < high + 1) for low, high in AGE_BANDS}
    }
    for kind in ("sex", "site", "device"):
        column = getattr(records, kind)
        kinds[kind] = {name: column == name for name in sorted({str(value) for value in column.tolist() if value})}
    enough = {
        kind: {group: mask for group, mask in groups.items() if (mask & (records.target == 1)).sum() >= least_positives}
        for kind, groups in sorted(kinds.items())
    }
    return {kind: groups for kind, groups in enough.items() if groups}


def _limit(end: str, least: float) -> str:
    return f"lower end at least {least:g}" if end == "low" else f"at least {least:g}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
