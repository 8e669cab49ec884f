"""What is exchanged for a donor's: every operator as a set of matrices on the twelve leads.

All operators have one form: of a record x and a donor d, both float (12, T) in filtered mV,

    x' = x + m(t) A (d - x)

where A, (12, 12), says which leads take how much of the donor's, and m(t), between 0 and 1, where in time (all of it, or one
wave of every beat). The donor's beats are laid on the record's before (`retiming.py`): parts that beat out of step with the
rest are an ECG of no heart either.

The **importance** of a part is how far the logit falls when the part is the donor's, averaged over donors: above zero the part
speaks for infarction, below zero against it.

- ``lead``, ``independent``, ``wave``: logit(x) - logit(x'), one part exchanged by itself. These do not add up to anything,
  because the network is not linear: of two parts that say the same, neither makes the logit fall by itself.
- ``territory``, ``plane``: the Shapley value (Shapley 1953; for networks Lundberg & Lee 2017, arXiv 1705.07874), that is, the
  mean of the fall over all orders in which the parts can be exchanged one after the other. So these add up: their sum is
  logit(x) - logit(donor). With four territories all 15 ways to exchange some of them are computed; nothing is sampled.

The limb leads carry two signals (III = II - I, aVR = -(I + II) / 2, aVL = I - II / 2, aVF = II - I / 2), so that a limb lead
exchanged alone (``lead``, the operator of arXiv 2606.06718) makes an ECG that no heart can give, and its importance measures
extrapolation too (Hooker, Mentch & Zhou 2021, arXiv 1905.03151). The others obey the law:

- ``independent``: one of I, II, V1-V6; the four derived leads follow from I and II.
- ``plane``: all limb leads, or all precordial leads.
- ``territory``: septal V1-V2; anterior V3-V4; in the frontal plane the basis (I, aVF), because {I, aVL} and {II, III, aVF} each
  span the whole plane: inferior exchanges aVF and keeps I, lateral exchanges I, V5 and V6 and keeps aVF.
- ``wave``: a territory, within the P, QRS, ST or T windows only.

The matrices of ``independent``, of ``territory`` and of ``plane`` each add up to the identity on ECGs that obey the law:
exchanging all parts gives the donor.

A worked example. Two planes; the logit is 2.0 as recorded, 1.5 with the limb leads from the donor, 0.2 with the precordial
leads, and the donor's is -1.0. Limb first: limb falls by 2.0 - 1.5 = 0.5, precordial then by 1.5 + 1.0 = 2.5. Precordial
first: it falls by 1.8, limb then by 1.2. Importance of limb (0.5 + 1.2) / 2 = 0.85, of precordial (2.5 + 1.8) / 2 = 2.15;
their sum is 3.0 = 2.0 + 1.0.

And of the matrices, lateral: let I of the donor be 0.4 mV above the record's at some sample. Then x' has there I + 0.4,
aVF + 0, II = aVF + I / 2: + 0.2, III = aVF - I / 2: - 0.2, aVL = (I - III) / 2: + 0.3, aVR = -(I + II) / 2: - 0.3; V5 and V6
are the donor's, V1-V4 the record's.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np

from screening.contract import INDEPENDENT_LEADS, LEADS, N_LEADS, OPERATORS, TERRITORIES, WAVES

_LIMB = LEADS[:6]
_I = {"I": 1.0, "II": 0.5, "III": -0.5, "aVR": -0.75, "aVL": 0.75, "aVF": 0.0}
_AVF = {"I": 0.0, "II": 1.0, "III": 1.0, "aVR": -0.5, "aVL": -0.5, "aVF": 1.0}
"""Limb lead -> its weight on I and on aVF, which span the frontal plane."""
_OF_I = {"I": 1.0, "II": 0.0, "III": -1.0, "aVR": -0.5, "aVL": 1.0, "aVF": -0.5}
_OF_II = {"I": 0.0, "II": 1.0, "III": 1.0, "aVR": -0.5, "aVL": -0.5, "aVF": 1.0}
"""Limb lead -> its weight on I and on II (Einthoven, Goldberger)."""


def _at(lead: str) -> int:
    return LEADS.index(lead)


def _only(*leads: str) -> np.ndarray:
    matrix = np.zeros((N_LEADS, N_LEADS), np.float32)
    for lead in leads:
        matrix[_at(lead), _at(lead)] = 1.0
    return matrix


def _frontal(source: str, weights: dict[str, float]) -> np.ndarray:
    """Return what the limb leads become when ``source`` is the donor's and the other basis lead stays."""
    matrix = np.zeros((N_LEADS, N_LEADS), np.float32)
    for lead, weight in weights.items():
        matrix[_at(lead), _at(source)] = weight
    return matrix


_TERRITORY = {
    "septal": _only("V1", "V2"),
    "anterior": _only("V3", "V4"),
    "lateral": _only("V5", "V6") + _frontal("I", _I),
    "inferior": _frontal("aVF", _AVF),
}
_INDEPENDENT = {lead: _only(lead) for lead in INDEPENDENT_LEADS} | {
    "I": _frontal("I", _OF_I),
    "II": _frontal("II", _OF_II),
}


SHARED = ("territory", "plane")
"""Operators whose parts share logit(x) - logit(donor) between them."""


@lru_cache(maxsize=len(OPERATORS))
def matrices(operator: str) -> np.ndarray:
    """Return A of each part of an operator by itself, float32 (parts, 12, 12), in the order of ``contract.OPERATORS``.

    Raises
    ------
    KeyError
        There is no such operator.
    """
    made = {
        "lead": [_only(lead) for lead in LEADS],
        "independent": [_INDEPENDENT[lead] for lead in INDEPENDENT_LEADS],
        "territory": [_TERRITORY[wall] for wall in TERRITORIES],
        "plane": [_only(*_LIMB), _only(*LEADS[6:])],
        "wave": [_TERRITORY[wall] for _ in WAVES for wall in TERRITORIES],
    }[operator]
    stacked = np.stack(made)
    stacked.flags.writeable = False
    return stacked


@lru_cache(maxsize=len(OPERATORS))
def coalitions(operator: str) -> np.ndarray:
    """Return what is exchanged together, bool (exchanges, parts): each part by itself or, of `SHARED`, every set of parts."""
    parts = len(OPERATORS[operator])
    if operator not in SHARED:
        return np.eye(parts, dtype=bool)
    return np.array([[bool(number >> part & 1) for part in range(parts)] for number in range(1, 2**parts)])


@lru_cache(maxsize=len(OPERATORS))
def exchanges(operator: str) -> np.ndarray:
    """Return A of everything that is exchanged, float32 (exchanges, 12, 12)."""
    return np.tensordot(coalitions(operator).astype(np.float32), matrices(operator), axes=1)


def waves_of(operator: str) -> np.ndarray | None:
    """Return which of ``contract.WAVES`` each exchange is limited to, int (exchanges,); None where it lasts all the time."""
    if operator != "wave":
        return None
    return np.repeat(np.arange(len(WAVES)), len(TERRITORIES))


def falls(operator: str, logit: float, exchanged: np.ndarray) -> np.ndarray:
    """Return what each part makes the logit fall by, for each donor.

    Parameters
    ----------
    operator
        One of ``contract.OPERATORS``.
    logit
        The record's own.
    exchanged
        float64 (donors, exchanges): the logits with `exchanges` of the operator.

    Returns
    -------
    numpy.ndarray
        float64 (donors, parts).
    """
    own = np.full((len(exchanged), 1), logit, np.float64)
    return np.asarray(np.concatenate([own, exchanged], axis=1) @ _weights(operator).T)


@lru_cache(maxsize=len(OPERATORS))
def _weights(operator: str) -> np.ndarray:
    """Return the weight (parts, 1 + exchanges) of the record's own logit, and of each exchange's, in each part's fall."""
    sets = [frozenset[int](), *(frozenset(np.flatnonzero(row).tolist()) for row in coalitions(operator))]
    parts = len(OPERATORS[operator])
    weights = np.zeros((parts, len(sets)))
    for part in range(parts):
        for at, members in enumerate(sets):
            if operator not in SHARED:
                weights[part, at] = 1.0 if not members else -1.0 * (members == {part})
                continue
            # The share of the orders in which exactly the other members come before the part.
            others = len(members - {part})
            share = math.factorial(others) * math.factorial(parts - 1 - others) / math.factorial(parts)
            weights[part, at] = -share if part in members else share
    return weights
