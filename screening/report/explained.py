"""Why a record scores as it does, as its row of results says: importances by operator, in numbers and in words."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from screening.contract import LEADS, OPERATORS, PREFIX_OF, TERRITORIES, WAVES, importance_column
from screening.report.notation import figure

Z = 1.96
"""Standard errors on either side of an interval of 95%."""
MOST_LEADING = 3

TITLES = {
    "territory": "Territories",
    "wave": "Waves by territory",
    "lead": "Leads, each alone",
    "independent": "Independent leads",
    "plane": "Limb and precordial leads",
}
"""Operator -> what its importances are called, in the order in which they are shown."""

_IMPORTANCE = (
    "Importance is how far the logit falls, in the mean over donors, when a part of the ECG is taken from other patients' "
    "ECGs, whose beats are laid on the record's. Above zero the part speaks for infarction, below zero against it."
)
_EXCHANGES = {
    "territory": "Operator 'territory' takes the signals that look at a wall: septal V1 and V2, anterior V3 and V4, lateral "
    "I, V5 and V6 (aVF stays), inferior aVF (I stays). The other limb leads follow, so that the ECG stays one that a heart "
    "can give. The figure is the territory's share (Shapley value): the four add up to the record's logit less that of the "
    "donors, in the mean. The leading territory is the one of greatest importance, if that is above zero.",
    "wave": "Operator 'wave' takes a territory within the P, QRS, ST or T windows only. aVR looks at none of the territories.",
    "lead": "Operator 'lead' takes one lead alone. The six limb leads carry two signals between them, so that a limb lead "
    "exchanged alone makes an ECG that no heart gives: read limb leads together. A network that reads I, II and V1-V6, as "
    "the one that ships does, gives the derived leads III, aVR, aVL and aVF no importance of their own.",
    "independent": "Operator 'independent' takes one of I, II and V1-V6, and the derived leads follow.",
    "plane": "Operator 'plane' takes all limb leads, or all precordial leads; the two add up as territories do.",
}
"""Operator -> what it exchanges. The words of attribution/operators.py, for readers of an ECG."""
_INTERVALS = (
    "Intervals are ±1.96 standard errors over donors; leads and waves have one standard error, the mean over them. They say "
    "how far other donors would change the figure, not how far the network can be trusted."
)
_LIMITS = (
    "All this says what the network used. It is a hint where to look: not the place of an infarct, and no diagnosis. "
    "The command screening audit-explanations measures how often the leading territory is the infarct's."
)


@dataclass(frozen=True)
class Parts:
    """Importance of an operator's parts for one record, in logits, in the order of ``contract.OPERATORS``."""

    operator: str
    mean: np.ndarray  # float64 (parts,)
    se: np.ndarray  # float64 (parts,): standard error over donors, of each part or, where `shared`, their mean
    donors: int

    @property
    def names(self) -> tuple[str, ...]:
        """The parts."""
        return OPERATORS[self.operator]

    @property
    def shared(self) -> bool:
        """Whether the standard error is the mean over the parts, because a row holds no more."""
        return self.operator != "territory"

    @property
    def half(self) -> np.ndarray:
        """Half the width of the 95% intervals, float64 (parts,)."""
        return Z * self.se

    @property
    def beyond(self) -> np.ndarray:
        """Which parts are further from zero than chance takes them, bool (parts,)."""
        return np.abs(self.mean) > self.half

    def words(self, at: int, digits: int = 2) -> str:
        """Return a part's importance with its interval.

        >>> Parts("plane", np.array([1.0, -0.5]), np.array([0.1, 0.1]), 8).words(0)
        '+1.00 (+0.80 to +1.20)'
        """
        value, half = float(self.mean[at]), float(self.half[at])
        low, high = (figure(one, digits, signed=True) for one in (value - half, value + half))
        return f"{figure(value, digits, signed=True)} ({low} to {high})"


@dataclass(frozen=True)
class Explanation:
    """All that a row says of why, and where the waves lie in its ECG."""

    parts: Mapping[str, Parts] = field(default_factory=dict)  # by operator, those that the row holds
    leading_territory: str = ""
    findings: str | None = None  # None: nobody looked; empty: nothing that the measurements support
    windows: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Of contract.WAVES -> (beats, 2), start and end in seconds from the recording's first sample."""

    @property
    def leading_words(self) -> str:
        """The leading territory with its interval; empty where none leads."""
        territories = self.parts.get("territory")
        if not self.leading_territory or territories is None:
            return self.leading_territory
        return f"{self.leading_territory} {territories.words(TERRITORIES.index(self.leading_territory))}"

    @property
    def leading_leads(self) -> list[str]:
        """The leads that speak most for infarction, the greatest first; only those above zero."""
        leads = self.parts.get("lead")
        return [] if leads is None else leading_leads(leads.mean)


def explanation_of(row: Mapping[str, Any], windows: Mapping[str, np.ndarray] | None = None) -> Explanation:
    """Return what a row of results says of why it scores as it does.

    Parameters
    ----------
    row
        Column -> value; any explanation may be None.
    windows
        Where the waves lie in its ECG, where that is known.
    """
    parts = {operator: found for operator in TITLES if (found := parts_of(row, operator)) is not None}
    return Explanation(parts, row["leading_territory"] or "", row["findings"], windows or {})


def parts_of(row: Mapping[str, Any], operator: str) -> Parts | None:
    """Return the importances of one operator; None where they were not computed."""
    prefix, names = PREFIX_OF[operator], OPERATORS[operator]
    mean = [row[importance_column(operator, name)] for name in names]
    errors = (
        [row[f"{prefix}_se_{name}"] for name in names]
        if operator == "territory"
        else [row[f"{prefix}_se"]] * len(names)
    )
    if any(value is None for value in mean):
        return None
    se = np.array([np.nan if value is None else value for value in errors], np.float64)
    return Parts(operator, np.array(mean, np.float64), np.nan_to_num(se), int(row[f"{prefix}_donors"] or 0))


def leading_leads(importance: np.ndarray, most: int = MOST_LEADING) -> list[str]:
    """Return the leads of greatest importance (12,), the greatest first; only those above zero."""
    order = np.argsort(-importance, kind="stable")[:most].tolist()
    return [LEADS[at] for at in order if importance[at] > 0]


def leads_words(leads: Parts) -> str:
    """Return the leading leads with their importances; empty where none is above zero."""
    return ", ".join(
        f"{lead} {figure(float(leads.mean[LEADS.index(lead)]), 2, signed=True)}" for lead in leading_leads(leads.mean)
    )


def wave_map(waves: Parts | np.ndarray) -> np.ndarray:
    """Return importances of operator 'wave' by wave and territory, (4, 4)."""
    mean = waves.mean if isinstance(waves, Parts) else waves
    return mean.reshape(len(WAVES), len(TERRITORIES))


def findings_words(findings: str | None) -> str:
    """Return the sentence of findings, or that there is none."""
    return findings or "no sign of infarction that the measured amplitudes support and the network uses"


def how_to_read(operators: Collection[str]) -> tuple[str, ...]:
    """Return the sentences that belong beside importances of these operators."""
    return (
        _IMPORTANCE,
        *(words for operator, words in _EXCHANGES.items() if operator in operators),
        _INTERVALS,
        _LIMITS,
    )
