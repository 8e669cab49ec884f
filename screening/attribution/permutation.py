"""Permutation importance: how much a record's logit falls when a part of it is taken from other patients.

After Breiman (Random Forests, 2001, section 10) and, for leads, arXiv 2606.06718; what can be exchanged stands in
`operators.py`. Swaps happen in filtered millivolts, on the network's own input. Donors are added at fixed checkpoints until
the standard error of every part is small enough, so that records whose donors agree cost little.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screening.attribution.operators import falls
from screening.attribution.swaps import Laid, Records, SwapScorer

CHECKPOINTS = (4, 8, 16, 32, 64, 128, 256)
"""Numbers of donors at which a record's standard errors are looked at. Always the same, so that a record's donors depend on
nothing but itself."""


@dataclass(frozen=True)
class Importance:
    """Importance of an operator's parts for one record, in logits, in the order of ``contract.OPERATORS``."""

    mean: (
        np.ndarray
    )  # float32 (parts,): mean over donors of what the part makes the logit fall by, see `operators.falls`
    se: np.ndarray  # float32 (parts,): its standard error over donors
    donors: int


def importances(
    scorer: SwapScorer,
    operators: Sequence[str],
    records: Records,
    logits: Sequence[float] | np.ndarray,
    donors: Sequence[np.ndarray],
    *,
    most: int,
    target_se: float,
    laid: Laid | None = None,
) -> list[dict[str, Importance]]:
    """Return for each record the importance of the operators' parts; none for a record with fewer than two donors.

    Parameters
    ----------
    scorer
        The network with the donors.
    operators
        Of ``contract.OPERATORS``.
    records
        As ``scorer.take`` gave them.
    logits
        The records' own.
    donors
        For each record the places of its donors, in the order in which it takes them.
    most
        Donors a record at most, for each operator.
    target_se
        In logits: a record takes no more donors for an operator once the standard error of each part is not above it. It is
        looked at when 4, 8, 16, ... donors were taken.
    laid
        Lays a donor's beats on a record's; None takes donors as they are, which waves cannot.
    """
    found: list[dict[str, np.ndarray]] = [{} for _ in donors]  # operator -> falls (donors so far, parts)
    limits = [min(most, len(chosen)) for chosen in donors]
    unsure = {i: tuple(operators) for i, limit in enumerate(limits) if limit >= 2}
    taken = 0
    for checkpoint in (*(k for k in CHECKPOINTS if k < most), most):
        for asked in dict.fromkeys(unsure.values()):  # records that ask for the same operators go together
            members = [i for i, of_record in unsure.items() if of_record == asked]
            pairs = [(i, int(donor)) for i in members for donor in donors[i][taken : min(checkpoint, limits[i])]]
            scored = scorer.logits(records, pairs, asked, laid=laid)
            whose = np.array([i for i, _ in pairs])
            for i in members:
                for operator, exchanged in scored.items():
                    fresh = falls(operator, float(logits[i]), exchanged[whose == i])
                    before = found[i].get(operator)
                    found[i][operator] = fresh if before is None else np.concatenate([before, fresh])
        taken = checkpoint
        unsure = {
            i: still
            for i, asked in unsure.items()
            if limits[i] > taken
            and (still := tuple(name for name in asked if _standard_error(found[i][name]).max() > target_se))
        }
        if not unsure:
            break
    return [
        {
            operator: Importance(
                fall.mean(axis=0).astype(np.float32), _standard_error(fall).astype(np.float32), len(fall)
            )
            for operator, fall in of_record.items()
        }
        for of_record in found
    ]


def _standard_error(fall: np.ndarray) -> np.ndarray:
    return np.asarray(fall.std(axis=0, ddof=1) / np.sqrt(len(fall)))
