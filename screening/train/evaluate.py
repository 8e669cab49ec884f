"""How well logits tell infarction: named tasks, with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

TASKS = {
    "MI vs NORM": "infarction against normal ECGs: the easier task, on which networks are usually compared",
    "MI vs all other": "infarction against every other ECG of the archive: what screening meets",
}


@dataclass(frozen=True)
class Scored:
    """One model's scores of some records. All arrays have one entry a record.

    Attributes
    ----------
    score : array, float (n,)
        Any number that rises with the likelihood of infarction.
    flagged : array, bool (n,), optional
        At the model's threshold, for F1; without it F1 is its highest over thresholds, which is optimistic and said so
        by its name.
    part : array (n,), optional
        Which network gave the score, where there were several (outer folds): ranks are compared within a part alone,
        and a figure is the mean of the parts', weighed by their positives.
    """

    score: np.ndarray
    flagged: np.ndarray | None = None
    part: np.ndarray | None = None


def evaluate(
    scored: Scored,
    target: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    *,
    specificity: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of each task with patient-bootstrap 95% intervals.

    Whole patients are drawn with replacement, because ECGs of one patient are not independent; a drawn patient counts
    each of their ECGs as often as they were drawn.

    Parameters
    ----------
    scored : Scored
        The model's scores.
    target : array (n,)
        1 for infarction, 0 for none.
    label : array of str (n,)
        ``NORM`` picks the negative records of "MI vs NORM".
    patient : array (n,)
        Whose ECG it is. A null (None or an empty string) is a patient of its own.
    specificity : float
        At which the sensitivity is stated; the cut is made anew in each resample.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Task name -> ``n``, ``patients``, ``positives``, ``prevalence``, and for ``auroc``, ``auprc``,
        ``sensitivity_at_specificity_0.95`` and ``f1`` or ``best_f1`` a dict ``value``, ``low``, ``high``. A task that
        lacks one of the classes holds its counts alone.
    """
    options: dict[str, Any] = {"specificity": specificity, "resamples": resamples, "seed": seed}
    return evaluate_together({"": scored}, target, label, patient, **options)[""].tasks


def compare(
    first: Scored,
    second: Scored,
    target: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    *,
    specificity: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, float]]]:
    """Return, by task and measure, ``first`` minus ``second`` on the same records: ``value``, ``low``, ``high``.

    Both models are measured in the same resamples of patients, so what a hard patient costs both does not widen the
    interval. ``p_lower`` is the share of resamples in which ``first`` is below ``second``. Parameters are those of
    ``evaluate``; a task that lacks one of the classes is absent.
    """
    options: dict[str, Any] = {"specificity": specificity, "resamples": resamples, "seed": seed}
    both = {"first": first, "second": second}
    differences = evaluate_together(both, target, label, patient, reference="second", **options)["first"].differences
    assert differences is not None
    return differences


@dataclass(frozen=True)
class Figures:
    """What ``evaluate`` and ``compare`` return of one of several models."""

    tasks: dict[str, Any]
    differences: dict[str, dict[str, dict[str, float]]] | None  # from the reference; None for itself, or without one


def evaluate_together(
    models: Mapping[str, Scored],
    target: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    *,
    reference: str | None = None,
    specificity: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Figures]:
    """Return ``evaluate`` of each model and, with a ``reference``, its ``compare`` with that, all in the same resamples."""
    found = {name: Figures({}, {} if reference is not None and name != reference else None) for name in models}
    names, scored = list(models), list(models.values())
    for task, (chosen, counts) in _tasks(scored, target, label, patient).items():
        for figures in found.values():
            figures.tasks[task] = dict(counts)
        if not 0 < counts["positives"] < counts["n"]:
            continue
        drawn = _bootstrap(scored, target, patient, chosen, specificity=specificity, resamples=resamples, seed=seed)
        for at, name in enumerate(names):
            found[name].tasks[task].update({measure: _interval(values[at]) for measure, values in drawn.items()})
            of = found[name].differences
            if of is not None and reference is not None:
                other = names.index(reference)
                of[task] = {measure: _difference(values[at] - values[other]) for measure, values in drawn.items()}
    return found


def _difference(values: np.ndarray) -> dict[str, float]:
    below = values[1:][np.isfinite(values[1:])] < 0
    return _interval(values) | {"p_lower": float(below.mean()) if len(below) else float("nan")}


def one_a_patient(patient: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Return the indices of one record a patient, the first by ``order`` (say, date, or a hash of the record).

    Sensitivity, specificity and calibration are stated for patients; a null patient counts as a patient of its own.
    """
    person = _patient_numbers(np.asarray(patient, dtype=object))
    ordered = np.argsort(np.asarray(order), kind="stable")
    _, first = np.unique(person[ordered], return_index=True)
    return np.sort(ordered[first])


def _patient_numbers(patient: np.ndarray) -> np.ndarray:
    """Return an integer for each record, the same for the same patient; null is nobody else."""
    numbers: dict[Any, int] = {}
    return np.array(
        [
            numbers.setdefault(("record", at) if key is None or key == "" or key != key else key, len(numbers))
            for at, key in enumerate(patient.tolist())
        ],
        dtype=np.int64,
    )


def _tasks(
    models: Sequence[Scored], target: np.ndarray, label: np.ndarray, patient: np.ndarray
) -> dict[str, tuple[np.ndarray, dict[str, Any]]]:
    """Return each task's records (a mask) and how many they are."""
    shapes = {np.shape(column) for column in (target, label, patient, *(model.score for model in models))}
    if len(shapes) != 1 or len(shapes.pop()) != 1:
        raise ValueError("score, target, label and patient must be equally long rows")
    if not all(np.isfinite(model.score).all() for model in models):
        raise ValueError("a score is not finite")
    target, label = np.asarray(target), np.asarray(label)
    person = _patient_numbers(np.asarray(patient, dtype=object))
    use = {"MI vs NORM": (target == 1) | (label == "NORM"), "MI vs all other": np.ones(len(target), bool)}
    return {
        name: (
            use[name],
            {
                "n": int(use[name].sum()),
                "patients": len(np.unique(person[use[name]])),
                "positives": int((target[use[name]] == 1).sum()),
                "prevalence": float((target[use[name]] == 1).mean()) if use[name].any() else None,
            },
        )
        for name in TASKS
    }


def _bootstrap(
    models: Sequence[Scored],
    target: np.ndarray,
    patient: np.ndarray,
    chosen: np.ndarray,
    *,
    specificity: float,
    resamples: int,
    seed: int,
) -> dict[str, list[np.ndarray]]:
    """Return measure -> for each model (1 + resamples,): the figure of the records as they are, then of each resample."""
    positive = np.asarray(target)[chosen] == 1
    _, person = np.unique(_patient_numbers(np.asarray(patient, dtype=object)[chosen]), return_inverse=True)
    patients = int(person.max()) + 1
    flags = all(model.flagged is not None for model in models)
    measures: dict[str, Callable[[_Curve, np.ndarray], np.ndarray]] = {
        "auroc": lambda curve, _: curve.auroc(),
        "auprc": lambda curve, _: curve.auprc(),
        f"sensitivity_at_specificity_{specificity:g}": lambda curve, _: curve.sensitivity_at(specificity),
        "f1" if flags else "best_f1": (lambda curve, f1: f1) if flags else (lambda curve, _: curve.best_f1()),
    }
    parts = [
        _parts(
            np.asarray(model.score, np.float64)[chosen],
            positive,
            None if model.part is None else np.asarray(model.part)[chosen],
        )
        for model in models
    ]
    flagged = [np.asarray(model.flagged)[chosen] if flags else None for model in models]
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[list[np.ndarray]]] = {name: [[] for _ in models] for name in measures}
    block = max(1, 2_000_000 // len(positive))  # resamples at once: bounded memory
    sizes = [1] + [min(block, resamples - at) for at in range(0, resamples, block)]
    for at, size in enumerate(sizes):
        times: np.ndarray = np.ones((1, patients))
        if at:
            times = rng.multinomial(patients, np.full(patients, 1 / patients), size=size)
        weight = times[:, person].astype(np.float64)  # (size, patients) -> (size, n)
        for number, (rankings, flag) in enumerate(zip(parts, flagged, strict=True)):
            f1 = np.empty(0) if flag is None else _f1(weight, positive, flag)
            curves = [ranking.curve(weight[:, index]) for index, ranking in rankings]
            shares = np.array([curve.positives[:, 0] for curve in curves])
            for name, measure in measures.items():
                values = np.array([measure(curve, f1) for curve in curves])
                drawn[name][number].append(_weighed_mean(values, shares))
    return {name: [np.concatenate(blocks) for blocks in by_model] for name, by_model in drawn.items()}


def _parts(score: np.ndarray, positive: np.ndarray, part: np.ndarray | None) -> list[tuple[np.ndarray, _Ranking]]:
    """Return the records of each part and their ranking; a part without both classes ranks nothing and is left out."""
    part = np.zeros(len(score), np.int8) if part is None else part
    indices = [np.flatnonzero(part == value) for value in np.unique(part)]
    return [
        (index, _Ranking(score[index], positive[index])) for index in indices if 0 < positive[index].sum() < len(index)
    ]


def _weighed_mean(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Return the mean over parts (p, r) -> (r,); a part that a resample emptied counts nothing."""
    shares = np.where(np.isfinite(values), shares, 0.0)
    return _ratio((np.nan_to_num(values) * shares).sum(axis=0), shares.sum(axis=0))


def _f1(weight: np.ndarray, positive: np.ndarray, flagged: np.ndarray) -> np.ndarray:
    tp = (weight * (positive & flagged)).sum(axis=1)
    return _ratio(2 * tp, (weight * flagged).sum(axis=1) + (weight * positive).sum(axis=1))


def _interval(values: np.ndarray) -> dict[str, float]:
    """Return a figure and its 95% interval of (1 + resamples,): the figure itself, then those of the resamples."""
    resampled = values[1:][np.isfinite(values[1:])]  # a resample may hold one class only
    low, high = np.quantile(resampled, [0.025, 0.975]) if len(resampled) else (np.nan, np.nan)
    return {"value": float(values[0]), "low": float(low), "high": float(high)}


class _Ranking:
    """Records in falling order of score, tied scores together: sorted once for all resamples."""

    def __init__(self, score: np.ndarray, positive: np.ndarray) -> None:
        self.order = np.argsort(-score, kind="stable")
        ordered = score[self.order]
        self.ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)  # last record of each tie
        self.cuts = ordered[self.ends]  # (k,) flagging score >= cut
        self.positive = positive[self.order]

    def curve(self, weight: np.ndarray) -> _Curve:
        """Return what is flagged at each cut, for each row of record weights (r, n)."""
        weight = weight[:, self.order]
        tp = np.cumsum(weight * self.positive, axis=1)[:, self.ends]  # (r, n) -> (r, k)
        fp = np.cumsum(weight * ~self.positive, axis=1)[:, self.ends]
        return _Curve(self.cuts, tp, fp)


class _Curve:
    """True and false positives (r, k) at k falling cuts, for r resamples. Each measure gives (r,)."""

    def __init__(self, cuts: np.ndarray, tp: np.ndarray, fp: np.ndarray) -> None:
        self.cuts, self.tp, self.fp = cuts, tp, fp
        self.positives, self.negatives = tp[:, -1:], fp[:, -1:]
        self.gained_tp = np.diff(tp, axis=1, prepend=0)
        self.gained_fp = np.diff(fp, axis=1, prepend=0)

    def auroc(self) -> np.ndarray:
        """Mann-Whitney: a positive above a negative counts 1, a tie a half."""
        pairs = ((self.tp - self.gained_tp / 2) * self.gained_fp).sum(axis=1)
        return _ratio(pairs, (self.positives * self.negatives)[:, 0])

    def auprc(self) -> np.ndarray:
        """Average precision: precision at each cut, weighed by the recall gained there."""
        precision = _ratio(self.tp, self.tp + self.fp)
        return _ratio((np.nan_to_num(precision) * self.gained_tp).sum(axis=1), self.positives[:, 0])

    def sensitivity_at(self, specificity: float) -> np.ndarray:
        """Highest sensitivity of the cuts that keep the specificity; 0 where none does."""
        allowed = self.fp <= (1 - specificity) * self.negatives + 1e-9
        best = np.where(allowed, self.tp, 0).max(axis=1)
        return np.where(self.negatives[:, 0] > 0, _ratio(best, self.positives[:, 0]), np.nan)

    def best_f1(self) -> np.ndarray:
        """Highest F1 over cuts."""
        best = (2 * self.tp / (self.tp + self.fp + self.positives).clip(1)).max(axis=1)
        return np.where(self.positives[:, 0] > 0, best, np.nan)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return ratio
