"""What every estimate of the report shares: the protected counts, and joint draws of each model's errors.

All groups are corrected with the same joint draws of sensitivity and specificity: what they have in common is in common.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screening.report.accuracy import sample
from screening.report.disclosure import Protected, Released
from screening.report.document import NotEstimable
from screening.report.findings import Frame, Group, ModelFacts
from screening.report.prevalence import Drawn, draw, no_better_than_chance, wilson
from screening.report.standardise import ReferencePopulation

Part = tuple[int, int, int]
"""Number of the model, flagged, patients."""
Parts = list[Part]


@dataclass(frozen=True)
class Inputs:
    """What estimates are made from."""

    released: Released
    models: Sequence[ModelFacts]
    frame: Frame
    population: ReferencePopulation
    age_edges: Sequence[int]
    design_effect: float
    draws: int
    seed: int


class Joint:
    """Draws of sensitivity and specificity of each model, None where it has no counts, and of prevalence from them."""

    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.released, self.models = inputs, inputs.released, inputs.models
        self.rng = np.random.default_rng(inputs.seed)
        self.errors = [
            sample(model.used, inputs.draws, self.rng) if model.used is not None else None for model in self.models
        ]
        self.why_not = self._why_not()

    def _why_not(self) -> NotEstimable | None:
        """Return why the flags of some patients cannot be corrected."""
        if not self.models:
            return NotEstimable("no record was scored")
        for model in self.models:
            if model.used is None:
                return NotEstimable(
                    f"model {model.label} carries no counts of true and false flags, and no sample of these ECGs was "
                    "read"
                )
            if (chance := no_better_than_chance(model.used)) is not None:
                return chance
        return None

    def effective(self, part: Part) -> tuple[float, float]:
        """Return flagged patients and patients as if these had been drawn independently."""
        return part[1] / self.inputs.design_effect, part[2] / self.inputs.design_effect

    def draw(self, parts: Parts, errors: Sequence[np.ndarray | None]) -> Drawn:
        """Return draws of the prevalence among the patients of all parts, each corrected with its model's errors."""
        given = []
        for part in parts:
            of = errors[part[0]]
            assert of is not None
            given.append((*self.effective(part), of))
        return draw(given, self.rng)


def parts_in(table: Protected, row: str, models: int) -> Parts | None:
    """Return each model's flagged patients and patients in a row; None where a count of them is hidden."""
    parts: Parts = []
    for i in range(models):
        flagged, unflagged = table.shown(row, f"flagged {i}"), table.shown(row, f"unflagged {i}")
        if flagged is None or unflagged is None:
            return None
        if flagged + unflagged:
            parts.append((i, flagged, flagged + unflagged))
    return parts


def group_of(name: str, parts: Parts | None, design_effect: float) -> Group:
    """Return a group with the share flagged, to be corrected."""
    if parts is None:
        return Group(name, None, None)
    flagged, patients = sum(f for _, f, _ in parts), sum(n for _, _, n in parts)
    if not patients:
        nobody = NotEstimable("nobody")
        return Group(name, 0, 0, nobody, nobody, nobody)
    return Group(name, patients, flagged, wilson(flagged / design_effect, patients / design_effect))
