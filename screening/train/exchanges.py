"""Logits of records with parts exchanged, donor by donor, as a run computes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from screening.attribution.operators import falls
from screening.attribution.swaps import Laid, swap_scorer
from screening.model.classifier import Classifier

if TYPE_CHECKING:
    from screening.attribution.beats import Beats
    from screening.attribution.retiming import Lender

_RECORDS_AT_ONCE, _BATCH = 16, 64
_LENDERS = 256  # that are kept prepared


class Delineated:
    """Beats of records, found when they are asked for, and donors laid on them.

    Parameters
    ----------
    signals_mV
        float32 (n, 12, samples), filtered.
    rate_hz
        Of the signals.
    """

    def __init__(self, signals_mV: np.ndarray, rate_hz: float) -> None:
        self.signals_mV, self.rate_hz = signals_mV, rate_hz
        self._beats: dict[int, Beats] = {}
        self._lender = lru_cache(_LENDERS)(self._prepared)

    def _prepared(self, donor: int) -> Lender:
        from screening.attribution.retiming import Lender

        return Lender(self.signals_mV[donor], self.of(donor), self.rate_hz)

    def of(self, place: int) -> Beats:
        """Return the beats of a record."""
        from screening.attribution.beats import delineate

        if place not in self._beats:
            self._beats[place] = delineate(self.signals_mV[place], self.rate_hz)
        return self._beats[place]

    def usable(self, places: np.ndarray) -> np.ndarray:
        """Return which records have beats that others can be laid on, and that can be laid, bool (n,)."""
        return np.array([self.laid(int(place), int(place)) is not None for place in places], dtype=bool)

    def laid(self, donor: int, place: int) -> np.ndarray | None:
        """Return the donor's beats laid on the record's, float32 (12, samples); None where it cannot be."""
        return self._lender(donor).laid_on(self.signals_mV[place], self.of(place))

    def masks(self, place: int) -> np.ndarray:
        """Return when each of ``contract.WAVES`` lasts in a record, float32 (4, samples)."""
        from screening.attribution.beats import wave_masks

        return wave_masks(self.of(place), self.rate_hz, self.signals_mV.shape[2])


def exchanged_logits(
    network: Classifier,
    delineated: Delineated,
    places: np.ndarray,
    donors: np.ndarray,
    operators: Sequence[str],
    *,
    laid: bool,
    device: str = "cpu",
) -> dict[str, np.ndarray]:
    """Return operator -> logits with everything exchanged that it exchanges, float64 (n, k, exchanges).

    Parameters
    ----------
    network
        In evaluation mode, on ``device``.
    delineated
        All records, those that lend too.
    places, donors
        int (n,) and (n, k): which records, and the donors of each; all usable where they are to be laid.
    operators
        Of ``contract.OPERATORS``.
    laid
        Whether donors' beats are laid on the records'.
    """
    signals = delineated.signals_mV
    pool, lend = np.unique(donors, return_inverse=True)
    lend = lend.reshape(donors.shape)
    if not len(places):
        return {}
    scorer = swap_scorer(network, signals[pool], device=device, batch_size=_BATCH)
    found: dict[str, list[np.ndarray]] = {operator: [] for operator in operators}
    for start in range(0, len(places), _RECORDS_AT_ONCE):
        some = slice(start, start + _RECORDS_AT_ONCE)
        pairs = [(at, int(donor)) for at, row in enumerate(lend[some]) for donor in row]
        lay = _laid(delineated, places[some], pool) if laid else None
        logits = scorer.logits(scorer.take(signals[places[some]]), pairs, operators, laid=lay)
        for operator, of_operator in logits.items():
            found[operator].append(of_operator.reshape(-1, donors.shape[1], of_operator.shape[1]))
    return {operator: np.concatenate(parts) for operator, parts in found.items()}


def _laid(delineated: Delineated, places: np.ndarray, pool: np.ndarray) -> Laid:
    def lay(record: int, donor: int) -> tuple[np.ndarray, np.ndarray]:
        place = int(places[record])
        over = delineated.laid(int(pool[donor]), place)
        if over is None:
            raise ValueError("a record or a donor with beats could not be laid on the other")
        return over, delineated.masks(place)

    return lay


def falls_of(operator: str, logit: np.ndarray, exchanged: np.ndarray) -> np.ndarray:
    """Return what each part makes the logit (n,) fall by with each donor, float64 (n, k, parts), of `exchanged_logits`."""
    return np.stack([falls(operator, float(own), of) for own, of in zip(logit, exchanged, strict=True)])
