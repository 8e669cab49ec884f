"""Checks of explanations that can fail.

Pure statistics of the numbers in `explained.py`. Where the infarct is comes from the archive's statements, which
are readers' words and no anatomy. Intervals are over records, of which there is one a patient.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from scipy.stats import rankdata

from screening.attribution.territories import LEADS_OF
from screening.contract import INDEPENDENT_LEADS, LEADS, TERRITORIES, WAVES
from screening.train.subgroups import wilson

INFARCT_WALLS: Mapping[str, tuple[str, ...]] = {
    "AMI": ("septal", "anterior"),
    "ASMI": ("septal", "anterior"),
    "ALMI": ("anterior", "lateral"),
    "IMI": ("inferior",),
    "ILMI": ("inferior", "lateral"),
    "IPMI": ("inferior",),
    "IPLMI": ("inferior", "lateral"),
    "LMI": ("lateral",),
}
"""PTB-XL's statements of infarction (scp_statements.csv) -> walls that they name. PMI, posterior, names none of the four."""
INJURY_WALLS: Mapping[str, tuple[str, ...]] = {
    "INJAS": ("septal", "anterior"),
    "INJAL": ("anterior", "lateral"),
    "INJIN": ("inferior",),
    "INJIL": ("inferior", "lateral"),
    "INJLA": ("lateral",),
}
"""Its statements of subendocardial injury, which are reported apart."""

SHUFFLES, RESAMPLES = 2000, 2000
FEWEST = 5  # records with a wall, and without it, below which it has no AUROC
ALL_FROM_DONOR = 2 ** len(TERRITORIES) - 1


def walls_of(statements: Sequence[str], places: Mapping[str, tuple[str, ...]] = INFARCT_WALLS) -> np.ndarray:
    """Return which of ``contract.TERRITORIES`` the statements of a record name, bool (4,).

    >>> walls_of(["ILMI", "SR"]).tolist()
    [False, False, True, True]
    """
    named = {wall for code in statements for wall in places.get(code, ())}
    return np.array([wall in named for wall in TERRITORIES])


def of_walls(
    operator: str, importance: np.ndarray, *, read: Sequence[str] = LEADS, largest: bool = False
) -> np.ndarray:
    """Return importances of an operator's parts (..., parts) as importances of the four walls (..., 4).

    The leads that are ``read`` count for their wall by their mean, or with ``largest`` by the largest; waves by their sum.
    A lead that a network does not read at all says nothing against its wall.
    """
    if operator == "territory":
        return importance
    if operator == "wave":
        return np.asarray(importance.reshape(*importance.shape[:-1], len(WAVES), len(TERRITORIES)).sum(axis=-2))
    order = {"lead": LEADS, "independent": INDEPENDENT_LEADS}[operator]
    reduce = np.max if largest else np.mean
    places = [[order.index(lead) for lead in LEADS_OF[wall] if lead in order and lead in read] for wall in TERRITORIES]
    return np.stack([reduce(importance[..., of_wall], axis=-1) for of_wall in places], axis=-1)


@dataclass(frozen=True)
class Resampled:
    """A figure with its 95% interval over records."""

    value: float
    low: float
    high: float

    @classmethod
    def mean(cls, values: np.ndarray, *, seed: int = 0) -> Resampled:
        """Return the mean of one value a record, with a bootstrap interval; NaN ones are left out."""
        values = np.asarray(values, np.float64)
        values = values[np.isfinite(values)]
        if not len(values):
            return cls(float("nan"), float("nan"), float("nan"))
        rng = np.random.default_rng(seed)
        means = values[rng.integers(0, len(values), (RESAMPLES, len(values)))].mean(axis=1)
        low, high = np.quantile(means, [0.025, 0.975])
        return cls(float(values.mean()), float(low), float(high))

    def to_json(self) -> dict[str, float | None]:
        """Return ``value``, ``low`` and ``high``; None where there was no record."""
        found = {"value": self.value, "low": self.low, "high": self.high}
        return {name: None if np.isnan(value) else value for name, value in found.items()}


def hits(importance: np.ndarray, walls: np.ndarray) -> np.ndarray:
    """Return whether the leading wall, of (n, 4), is one that is named, bool (n, 4): bool (n,)."""
    return np.asarray(walls[np.arange(len(walls)), importance.argmax(axis=1)])


def localisation(importance: np.ndarray, walls: np.ndarray, *, seed: int = 0) -> dict[str, Any]:
    """Return how often the leading wall is a named one, and how often it would be by chance.

    Parameters
    ----------
    importance
        float (n, 4), finite.
    walls
        bool (n, 4); each record names one wall or more.

    Returns
    -------
    dict
        ``n``; ``hits`` with ``value``, ``low``, ``high`` (Wilson); ``chance`` with the mean and the central 95% of the hit rate
        when the named walls are shuffled among the records; ``p`` of a shuffle that hits as often; ``kappa``, the share of what
        chance leaves that is won; ``single``, the hit rate where one wall is named; ``auroc`` by wall, of its importance above
        the mean of the four, and their mean; ``leading``, how often each wall leads.
    """
    leading = importance.argmax(axis=1)
    hit = hits(importance, walls)
    rng = np.random.default_rng(seed)
    shuffled = np.array([walls[rng.permutation(len(walls)), leading].mean() for _ in range(SHUFFLES)])
    alone = walls.sum(axis=1) == 1
    relative = importance - importance.mean(axis=1, keepdims=True)
    of_wall = {
        wall: _auroc(relative[:, at], walls[:, at])
        for at, wall in enumerate(TERRITORIES)
        if FEWEST <= walls[:, at].sum() <= len(walls) - FEWEST
    }
    chance = float(shuffled.mean())
    return {
        "n": len(hit),
        "hits": _share(hit),
        "chance": {
            "value": chance,
            "low": float(np.quantile(shuffled, 0.025)),
            "high": float(np.quantile(shuffled, 0.975)),
        },
        "p": float((1 + (shuffled >= hit.mean()).sum()) / (1 + SHUFFLES)),
        "kappa": float((hit.mean() - chance) / (1 - chance)) if chance < 1 else None,
        "single": {"n": int(alone.sum()), **_share(hit[alone])},
        "auroc": {**of_wall, "mean": float(np.mean(list(of_wall.values()))) if of_wall else None},
        "leading": {wall: int((leading == at).sum()) for at, wall in enumerate(TERRITORIES)},
    }


def confusion(importance: np.ndarray, statements: Sequence[Sequence[str]]) -> dict[str, dict[str, int]]:
    """Return code -> wall -> how often it leads, of the records (n, 4) that state one place of infarction alone."""
    leading = importance.argmax(axis=1)
    table: dict[str, dict[str, int]] = {}
    for at, codes in enumerate(statements):
        of_place = [code for code in codes if code in INFARCT_WALLS or code == "PMI"]
        if len(of_place) == 1:
            row = table.setdefault(of_place[0], dict.fromkeys(TERRITORIES, 0))
            row[TERRITORIES[leading[at]]] += 1
    return dict(sorted(table.items(), key=lambda item: -sum(item[1].values())))


def rank_correlations(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Spearman's correlation of each row of two (n, parts) arrays, (n,); NaN where a row is constant or lacks values."""
    finite = np.isfinite(first).all(axis=1) & np.isfinite(second).all(axis=1)
    found = np.full(len(first), np.nan)
    a, b = (rankdata(rows[finite], axis=1) for rows in (first, second))
    a, b = (ranks - ranks.mean(axis=1, keepdims=True) for ranks in (a, b))
    spread = np.sqrt((a**2).sum(axis=1) * (b**2).sum(axis=1))
    found[finite] = np.divide((a * b).sum(axis=1), spread, out=np.full(len(a), np.nan), where=spread > 0)
    return found


def stability(falls: np.ndarray) -> dict[str, Any]:
    """Compare the importances that two disjoint sets of donors give.

    Parameters
    ----------
    falls
        float (n, donors, parts): of the logit, with each donor; NaN where there was none.

    Returns
    -------
    dict
        ``donors`` a set; ``rank_correlation`` of a record's importances; ``same_leading``, share of records whose leading part
        stays; ``standard_error``, the median stated; ``spread``, the standard deviation of the difference over its stated
        standard error, which is near 1 where that is right (1.08 with 8 donors a set: Student's t); ``covered``, the share of
        differences inside their 95% interval.
    """
    from scipy.stats import t as student

    half = falls.shape[1] // 2
    sets = [falls[:, :half], falls[:, half : 2 * half]]
    whole = np.isfinite(falls[:, : 2 * half]).all(axis=(1, 2))
    sets = [of[whole].astype(np.float64) for of in sets]
    means = [of.mean(axis=1) for of in sets]
    errors = [of.std(axis=1, ddof=1) / np.sqrt(half) for of in sets]
    error = np.sqrt(errors[0] ** 2 + errors[1] ** 2)
    ratio = np.divide(means[0] - means[1], error, out=np.full_like(error, np.nan), where=error > 0)
    ratio = ratio[np.isfinite(ratio)]
    limit = float(student.ppf(0.975, 2 * half - 2))
    return {
        "n": int(whole.sum()),
        "donors": half,
        "rank_correlation": Resampled.mean(rank_correlations(*means)).to_json(),
        "same_leading": _share(means[0].argmax(axis=1) == means[1].argmax(axis=1)),
        "standard_error": float(np.median(errors[0])) if len(errors[0]) else None,
        "spread": float(np.sqrt((ratio**2).mean())) if len(ratio) else None,
        "spread_expected": float(np.sqrt((half - 1) / (half - 2))) if half > 2 else None,
        "covered": float((np.abs(ratio) <= limit).mean()) if len(ratio) else None,
    }


def curves(coalitions: np.ndarray, order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return logits while territories are taken from a donor one by one, and while they are put into a donor.

    Parameters
    ----------
    coalitions
        float (n, donors, 16): the logit with the territories whose bits are set taken from the donor.
    order
        int (n, 4): the territories, first to go first.

    Returns
    -------
    tuple of numpy.ndarray
        Deletion and insertion, each (n, donors, 5): after 0 to 4 territories.
    """
    gone = np.concatenate([np.zeros((len(order), 1), np.int64), np.cumsum(2**order, axis=1)], axis=1)  # (n, 5)

    def at(masks: np.ndarray) -> np.ndarray:
        return np.take_along_axis(coalitions, masks[:, None, :], axis=2)

    return at(gone), at(ALL_FROM_DONOR - gone)


def deletion(coalitions: np.ndarray, importance: np.ndarray, threshold: np.ndarray) -> dict[str, Any]:
    """Compare exchanging the most important territories first with exchanging them in any order, and least first.

    Parameters
    ----------
    coalitions
        See `curves`; with donors other than those that the importance comes from, or it would be judged by its own noise.
    importance
        float (n, 4).
    threshold
        float (n,): the logit at which a record is flagged.

    Returns
    -------
    dict
        ``deletion`` and ``insertion``, each: ``logit`` and ``flagged`` -> ``most``, ``any`` and ``least`` first -> five means;
        ``area``, the mean over the three steps between of what the importance is better by than any order, in logits.
    """
    most = np.argsort(-importance, axis=1, kind="stable")
    of_order = {"most": curves(coalitions, most), "least": curves(coalitions, most[:, ::-1])}
    every = [curves(coalitions, np.tile(of, (len(coalitions), 1))) for of in permutations(range(importance.shape[1]))]
    found: dict[str, Any] = {"n": len(importance), "donors_each": coalitions.shape[1]}
    for at, (what, sign) in enumerate((("deletion", 1), ("insertion", -1))):
        logit = {name: both[at] for name, both in of_order.items()}
        flagged = {name: of >= threshold[:, None, None] for name, of in logit.items()}
        logit["any"] = np.mean([both[at] for both in every], axis=0)
        any_flagged = np.mean([both[at] >= threshold[:, None, None] for both in every], axis=0)
        shares = {name: of.mean(axis=(0, 1)).tolist() for name, of in flagged.items()} | {
            "any": any_flagged.mean(axis=(0, 1)).tolist()
        }
        gain = sign * (logit["any"] - logit["most"])[:, :, 1:-1].mean(axis=(1, 2))
        found[what] = {
            "logit": {name: of.mean(axis=(0, 1)).tolist() for name, of in logit.items()},
            "flagged": shares,
            "area": Resampled.mean(gain).to_json(),
        }
    return found


def _share(of: np.ndarray) -> dict[str, float | None]:
    if not len(of):
        return {"value": None, "low": None, "high": None}
    low, high = wilson(int(of.sum()), len(of))
    return {"value": float(of.mean()), "low": low, "high": high}


def _auroc(score: np.ndarray, positive: np.ndarray) -> float:
    ranks = rankdata(score)
    n = int(positive.sum())
    return float((ranks[positive].sum() - n * (n + 1) / 2) / (n * (len(score) - n)))
