"""Which labels the out-of-fold predictions contradict: confident learning.

After Northcutt, Jiang and Chuang, Confident Learning: Estimating Uncertainty in Dataset Labels, JAIR 70 (2021),
arXiv 1911.00068: a record counts as confidently of a class where the class's probability reaches the mean that records
labelled so have (their mean self-confidence). Records that are confidently of the class they are not labelled, and more
likely of it than of their own, are suspects. Probabilities must come from networks that did not see the record, or they
repeat its label.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class LabelAudit:
    """What the labels look like from outside. Class 0 is no infarction, class 1 infarction."""

    thresholds: tuple[float, float]  # mean self-confidence of class 0 and of class 1
    labelled: np.ndarray  # int64 (2,), records labelled so
    confident_joint: np.ndarray  # int64 (2, 2): labelled so (row), confidently of that class (column)
    suspects: np.ndarray  # int64 (k,), places of the records, the strongest contradiction first
    margin: np.ndarray  # float64 (k,), probability of the other class minus that of the label's

    @property
    def estimated_joint(self) -> np.ndarray:
        """Return the shares (2, 2) of labelled (row) and true (column) class, the rows scaled to the labels' numbers.

        The true class is what the confident joint suggests: an estimate of the labels' noise as the network sees it.
        """
        rows = self.confident_joint.sum(axis=1, keepdims=True)
        scaled = self.confident_joint / np.maximum(rows, 1) * self.labelled[:, None]
        return np.asarray(scaled / scaled.sum())


def audit_labels(probability: np.ndarray, target: np.ndarray) -> LabelAudit:
    """Find the records whose label the predictions confidently contradict.

    Parameters
    ----------
    probability : array, float (n,)
        Of infarction, out of fold, calibrated.
    target : array (n,)
        1 for infarction, 0 for none, as labelled.

    Raises
    ------
    ValueError
        Unequal lengths, a probability outside 0 to 1, or labels that are not 0 and 1, both present.
    """
    p, y = np.asarray(probability, np.float64), np.asarray(target)
    if p.ndim != 1 or p.shape != y.shape:
        raise ValueError(f"probabilities and labels must be two equally long rows, not {p.shape} and {y.shape}")
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError("a probability lies outside 0 to 1")
    if set(np.unique(y)) != {0, 1}:
        raise ValueError("labels must be 0 and 1, both present")
    y = y.astype(np.int64)
    of_class = np.stack([1 - p, p], axis=1)  # (n, 2)
    thresholds = np.array([of_class[y == k, k].mean() for k in (0, 1)])
    reached = of_class >= thresholds - 1e-12  # a class whose records all have one probability reaches its own mean
    # Where both are reached the likelier class counts (the paper's argmax); a tie leaves the label alone.
    confident = np.where(reached.all(axis=1) & (p == 0.5), y, np.where(reached, of_class, -1.0).argmax(axis=1))
    counted = reached.any(axis=1)
    joint = np.zeros((2, 2), np.int64)
    np.add.at(joint, (y[counted], confident[counted]), 1)
    margin = np.where(y == 1, 1 - 2 * p, 2 * p - 1)
    suspects = np.flatnonzero(counted & (confident != y) & (margin > 0))
    margin = margin[suspects]
    order = np.argsort(-margin, kind="stable")
    return LabelAudit(
        thresholds=(float(thresholds[0]), float(thresholds[1])),
        labelled=np.bincount(y, minlength=2),
        confident_joint=joint,
        suspects=suspects[order],
        margin=margin[order],
    )


def to_look_at(audit: LabelAudit, target: np.ndarray, limit: int) -> np.ndarray:
    """Return the ranks (from 0) of at most ``limit`` suspects, the strongest of both kinds in equal numbers if there are.

    Where infarction is the rarer class few probabilities are near 1 and many near 0, so the strongest contradictions
    overall would nearly all be of records labelled infarction.
    """
    infarction = np.asarray(target)[audit.suspects] == 1
    first, second = np.flatnonzero(infarction), np.flatnonzero(~infarction)
    of_first = min(len(first), max(limit - limit // 2, limit - len(second)))
    return np.sort(np.concatenate([first[:of_first], second[: limit - of_first]]))


def why(audit: LabelAudit, target: int, probability: float) -> str:
    """Return in a sentence why a suspect is one."""
    if target == 1:
        return (
            f"labelled infarction, but the probability of none, {1 - probability:.3f}, reaches {audit.thresholds[0]:.3f}, "
            "the mean of the records labelled without"
        )
    return (
        f"labelled without infarction, but the probability of one, {probability:.3f}, reaches {audit.thresholds[1]:.3f}, "
        "the mean of the records labelled with it"
    )
