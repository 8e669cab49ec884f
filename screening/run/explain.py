"""What explains a shard's records, as result columns: importances by operator, leading territory, findings. No Ray here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from screening.attribution.beats import delineate, wave_masks
from screening.attribution.donors import DonorSet
from screening.attribution.findings import find, sentence
from screening.attribution.measurements import measure
from screening.attribution.permutation import Importance, importances
from screening.attribution.retiming import Lender, level_line
from screening.attribution.swaps import swap_scorer
from screening.contract import OPERATORS, PREFIX_OF, TERRITORIES, importance_column
from screening.model.bundle import Bundle

RECORDS_AT_ONCE = 64
"""So that what is kept of them stays small however many a shard holds."""
FEWEST_BEATS = 2
"""With fewer there is nothing to lay a donor's beats on."""

Person = tuple[str, str | None, str | None, float | None]
"""Record id, patient key, sex and age."""


class Explainer:
    """Explains scored records with one bundle and one donor set.

    Parameters
    ----------
    bundle, donors
        The model, and who lends.
    operators
        Which of ``contract.OPERATORS``.
    most, target_se
        See ``permutation.importances``.
    device, batch_size
        Where, and in what padded batch, the network runs.
    """

    def __init__(
        self,
        bundle: Bundle,
        donors: DonorSet,
        *,
        operators: Sequence[str],
        most: int,
        target_se: float,
        device: str,
        batch_size: int,
    ) -> None:
        self.donors, self.operators, self.most, self.target_se = donors, operators, most, target_se
        self.rate_hz = bundle.preprocessing.rate_hz
        self.scorer = swap_scorer(
            bundle.network(device).for_scoring(), donors.signals_mV, device=device, batch_size=batch_size
        )
        self.lenders = [Lender(signal, delineate(signal, self.rate_hz), self.rate_hz) for signal in donors.signals_mV]
        self.usable = np.array([len(lender.beats) >= FEWEST_BEATS for lender in self.lenders])

    def explain(self, signals_mV: np.ndarray, logits: np.ndarray, persons: Sequence[Person]) -> list[dict[str, Any]]:
        """Return the columns of each record that could be filled, by name.

        Parameters
        ----------
        signals_mV
            float32 (records, 12, samples), filtered.
        logits
            float (records,): the records' own.
        persons
            One a record.
        """
        columns: list[dict[str, Any]] = []
        for start in range(0, len(persons), RECORDS_AT_ONCE):
            some = slice(start, start + RECORDS_AT_ONCE)
            columns += self._explain(signals_mV[some], logits[some], persons[some])
        return columns

    def _explain(self, signals_mV: np.ndarray, logits: np.ndarray, persons: Sequence[Person]) -> list[dict[str, Any]]:
        beats = [delineate(signal, self.rate_hz) for signal in signals_mV]
        masks = [wave_masks(of_record, self.rate_hz, signals_mV.shape[2]) for of_record in beats]
        lines = [
            level_line(signal, of_record, self.rate_hz) if len(of_record) else None
            for signal, of_record in zip(signals_mV, beats, strict=True)
        ]
        orders = [
            self.donors.order(record_id, patient_key, usable=self.usable)
            if len(of_record) >= FEWEST_BEATS
            else np.empty(0, np.int64)
            for of_record, (record_id, patient_key, _, _) in zip(beats, persons, strict=True)
        ]

        def laid(record: int, donor: int) -> tuple[np.ndarray, np.ndarray]:
            over = self.lenders[donor].laid_on(signals_mV[record], beats[record], line=lines[record])
            if over is None:
                raise ValueError("a record or donor with beats could not be laid on the other")
            return over, masks[record]

        found = importances(
            self.scorer,
            self.operators,
            self.scorer.take(signals_mV),
            logits,
            orders,
            most=self.most,
            target_se=self.target_se,
            laid=laid,
        )
        columns: list[dict[str, Any]] = []
        for signal, of_beats, of_record, (_, _, sex, age) in zip(signals_mV, beats, found, persons, strict=True):
            columns.append({})
            for operator, importance in of_record.items():
                columns[-1] |= importance_columns(operator, importance)
            if "wave" in of_record:
                measured = measure(signal, self.rate_hz, of_beats)
                signs = () if measured is None else find(measured, sex=sex, age=age)
                columns[-1]["findings"] = sentence(signs, of_record["wave"].mean, of_record["wave"].se)
        return columns


def importance_columns(operator: str, importance: Importance) -> dict[str, Any]:
    """Return the result columns of an operator's importance, by name."""
    prefix = PREFIX_OF[operator]
    of_part = dict(zip(OPERATORS[operator], importance.mean.tolist(), strict=True))
    columns: dict[str, Any] = {importance_column(operator, part): mean for part, mean in of_part.items()}
    columns[f"{prefix}_donors"] = importance.donors
    if operator == "territory":
        columns |= {f"territory_se_{wall}": se for wall, se in zip(TERRITORIES, importance.se.tolist(), strict=True)}
        leading = max(of_part, key=lambda wall: of_part[wall])
        columns["leading_territory"] = leading if of_part[leading] > 0 else None
    else:
        columns[f"{prefix}_se"] = float(importance.se.mean())
    return columns
