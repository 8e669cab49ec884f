"""How well logits tell infarction: named tasks, with intervals over patients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

TASKS = {
    "MI vs NORM": "infarction against normal ECGs: the easier task, on which networks are usually compared",
    "MI vs all other": "infarction against every other ECG of the archive: what screening meets",
}


def evaluate(
    logit: np.ndarray,
    target: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    *,
    specificity: float = 0.95,
    threshold: float | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Return the figures of each task with patient-bootstrap 95% intervals.

    Whole patients are drawn with replacement, because ECGs of one patient are not independent; a drawn patient counts
    each of their ECGs as often as they were drawn.

    Parameters
    ----------
    logit : array, float (n,)
        Any score that rises with the likelihood of infarction.
    target : array (n,)
        1 for infarction, 0 for none.
    label : array of str (n,)
        ``NORM`` picks the negative records of "MI vs NORM".
    patient : array (n,)
        Whose ECG it is. A null (None or an empty string) is a patient of its own.
    specificity : float
        At which the sensitivity is stated; the cut is made anew in each resample.
    threshold : float, optional
        On ``logit``'s scale; F1 is then that of records at or above it. Without it, F1 is its highest over thresholds,
        which is optimistic and said so by its name.
    resamples, seed : int
        Of the bootstrap.

    Returns
    -------
    dict
        Task name -> ``n``, ``patients``, ``positives``, ``prevalence``, and for ``auroc``, ``auprc``,
        ``sensitivity_at_specificity_0.95`` and ``f1`` or ``best_f1`` a dict ``value``, ``low``, ``high``. A task that
        lacks one of the classes holds its counts alone.
    """
    logit, target, label = np.asarray(logit, np.float64), np.asarray(target), np.asarray(label)
    if not (logit.shape == target.shape == label.shape == np.shape(patient)) or logit.ndim != 1:
        raise ValueError("logit, target, label and patient must be equally long rows")
    if not np.isfinite(logit).all():
        raise ValueError("a logit is not finite")
    person = _patient_numbers(np.asarray(patient, dtype=object))
    use = {"MI vs NORM": (target == 1) | (label == "NORM"), "MI vs all other": np.ones(len(target), bool)}
    return {
        name: _task(
            logit[use[name]],
            target[use[name]] == 1,
            person[use[name]],
            specificity=specificity,
            threshold=threshold,
            resamples=resamples,
            seed=seed,
        )
        for name in TASKS
    }


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


def _task(
    logit: np.ndarray,
    positive: np.ndarray,
    person: np.ndarray,
    *,
    specificity: float,
    threshold: float | None,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    _, person = np.unique(person, return_inverse=True)
    patients = int(person.max()) + 1 if len(person) else 0
    found: dict[str, Any] = {
        "n": len(logit),
        "patients": patients,
        "positives": int(positive.sum()),
        "prevalence": float(positive.mean()) if len(positive) else None,
    }
    if not 0 < found["positives"] < len(logit):
        return found
    measures: dict[str, Callable[[_Curve], np.ndarray]] = {
        "auroc": _Curve.auroc,
        "auprc": _Curve.auprc,
        f"sensitivity_at_specificity_{specificity:g}": lambda curve: curve.sensitivity_at(specificity),
    }
    if threshold is None:
        measures["best_f1"] = _Curve.best_f1
    else:
        measures["f1"] = lambda curve: curve.f1_at(threshold)
    ranked = _Ranking(logit, positive)
    whole = ranked.curve(np.ones((1, len(logit))))
    rng = np.random.default_rng(seed)
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in measures}
    block = max(1, 2_000_000 // len(logit))  # resamples at once: bounded memory
    for at in range(0, resamples, block):
        size = min(block, resamples - at)
        times = rng.multinomial(patients, np.full(patients, 1 / patients), size=size)  # (size, patients)
        curve = ranked.curve(times[:, person].astype(np.float64))
        for name, measure in measures.items():
            drawn[name].append(measure(curve))
    for name, measure in measures.items():
        values = np.concatenate(drawn[name])
        values = values[np.isfinite(values)]  # a resample may hold one class only
        low, high = np.quantile(values, [0.025, 0.975]) if len(values) else (np.nan, np.nan)
        found[name] = {"value": float(measure(whole)[0]), "low": float(low), "high": float(high)}
    return found


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
        return np.where(
            self.positives[:, 0] > 0, (2 * self.tp / (self.tp + self.fp + self.positives).clip(1)).max(1), np.nan
        )

    def f1_at(self, threshold: float) -> np.ndarray:
        """F1 of records at or above the threshold."""
        flagged = int((self.cuts >= threshold).sum())
        if flagged == 0:
            return np.where(self.positives[:, 0] > 0, 0.0, np.nan)
        tp, fp = self.tp[:, flagged - 1], self.fp[:, flagged - 1]
        return _ratio(2 * tp, tp + fp + self.positives[:, 0])


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    ratio: np.ndarray = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below > 0)
    return ratio
