"""Estimates for all patients together: the headline, its second opinions, and what it hangs on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from screening.report import quantify
from screening.report.document import HIDDEN, Cell, Estimate, NotEstimable
from screening.report.findings import Correction, Estimator, Group, ModelFacts, estimate_of
from screening.report.joint import Joint, Part, Parts, group_of, parts_in
from screening.report.prevalence import (
    PRIORS,
    Corrected,
    bayes,
    lang_reiczigel,
    probability_of_so_few,
    rogan_gladen,
    tipping_specificity,
)
from screening.report.validation import estimate as validation_estimate

SPECIFICITY_STEPS = (-0.04, -0.02, -0.01, 0.0, 0.01, 0.02)
"""What is added to the specificity, to show how the estimate hangs on it."""


class Overall:
    """Estimates of the prevalence among all patients."""

    def __init__(self, joint: Joint) -> None:
        self.joint = joint

    def total(self) -> tuple[Group, Parts | None]:
        """Return all patients as a group, and by model; None where their counts are hidden."""
        table = self.joint.released.patients["all"]
        parts = parts_in(table, table.rows[0], len(self.joint.models)) if table.rows else None
        return group_of("all", parts, self.joint.inputs.design_effect), parts

    def estimators(self, total: Group, parts: Parts | None) -> tuple[Estimator, list[Estimator], Correction]:
        """Return the headline, all estimators in their order, and how the correction came out."""
        flags = Estimator("apparent", "Share flagged", total.apparent, "counting, without correction")
        if not parts:
            nothing = HIDDEN if parts is None else NotEstimable("no patient has a scored ECG")
            found = Estimator("prevalence", "Prevalence", nothing, "too few patients to be shown")
            return found, [flags], Correction(None, False, None, None, (), (), (), None)
        main = self._headline(parts)
        others = [*self._by_accuracy(parts, main), *self._bayesian(parts), *self._by_scores(parts)]
        known = [(e.name, of) for e in others if (of := estimate_of(e.cell)) is not None and e.key in ("em", "pacc")]
        first = estimate_of(main[0].cell)
        disagreement = quantify.disagreement(("corrected flags give", first), known) if first else None
        return main[0], [flags, main[0], *others], self._correction(parts, main[1], disagreement)

    def _headline(self, parts: Parts) -> tuple[Estimator, Corrected | None]:
        local = all(self.joint.models[i].local is not None for i, _, _ in parts)
        name = "Rogan-Gladen, local" if local else "Rogan-Gladen"
        if self.joint.why_not is not None:
            return Estimator("prevalence", name, self.joint.why_not, ""), None
        basis = _basis(self.joint.models, parts)
        direct_ = self._direct(parts)
        if direct_ is not None:
            return Estimator("prevalence", "Local readings", direct_.estimate, basis), direct_
        if len(parts) == 1 and not local:
            used = self.joint.models[parts[0][0]].used
            assert used is not None
            found = lang_reiczigel(*self.joint.effective(parts[0]), used)
            if isinstance(found, NotEstimable):
                return Estimator("prevalence", name, found, basis), None
            return Estimator("prevalence", name, found.estimate, basis), found
        corrected = replace(self.joint.draw(parts, self.joint.errors), raw=self._raw(parts)).estimate
        return Estimator("prevalence", name, corrected.estimate, basis), corrected

    def _direct(self, parts: Parts) -> Corrected | None:
        """Return the stratified estimate of a local sample, where it was drawn from these very patients.

        It is Rogan-Gladen with the share flagged held at its own value, and so much narrower than with a share that
        varies apart from sensitivity and specificity (`validation`).
        """
        validation, frame = self.joint.models[parts[0][0]].validation, self.joint.inputs.frame
        if (
            len(parts) != 1
            or validation is None
            or validation.catalog_id != frame.catalog_id
            or frame.since
            or frame.until
        ):
            return None
        found = validation_estimate(validation).prevalence
        return Corrected(found, found.value)

    def _raw(self, parts: Parts) -> float:
        total = sum(n for _, _, n in parts)
        found = 0.0
        for i, flagged, n in parts:
            used = self.joint.models[i].used
            assert used is not None
            found += n / total * rogan_gladen(flagged / n, used)
        return found

    def _by_accuracy(self, parts: Parts, main: tuple[Estimator, Corrected | None]) -> list[Estimator]:
        """Return the corrections that were not taken, where there are both local readings and the model's own counts."""
        if len(parts) != 1 or main[1] is None:
            return []
        model = self.joint.models[parts[0][0]]
        if model.local is None:
            return []
        found = []
        for key, name, of, basis in (
            (
                "local",
                "Rogan-Gladen, local",
                model.local,
                "the readings, and a share flagged that varies",
            ),
            (
                "own",
                "Rogan-Gladen, not local",
                model.own,
                "what was measured with the model, for comparison",
            ),
        ):
            if of is not None:
                cell = lang_reiczigel(*self.joint.effective(parts[0]), of)
                found.append(Estimator(key, name, cell if isinstance(cell, NotEstimable) else cell.estimate, basis))
        return found

    def _bayesian(self, parts: Parts) -> list[Estimator]:
        if self.joint.why_not is not None or len(parts) != 1:
            return []
        prior = next(iter(PRIORS))
        cell = self._bayes(parts[0], PRIORS[prior])
        return [Estimator("bayes", "Bayesian", cell, f"the same figures, prior {prior}")]

    def _bayes(self, part: Part, prior: tuple[float, float]) -> Cell:
        used = self.joint.models[part[0]].used
        assert used is not None
        return bayes(*self.joint.effective(part), used, prior=prior, rng=np.random.default_rng(self.joint.inputs.seed))

    def _by_scores(self, parts: Parts) -> list[Estimator]:
        """Return expectation maximisation and PACC on the score distributions, over all models by their patients."""
        found: dict[str, list[tuple[int, Cell]]] = {"em": [], "pacc": []}
        for i, _, n in parts:
            scores, model = self.joint.released.scores[i], self.joint.models[i]
            if scores is None:
                return []
            found["em"].append(
                (n, quantify.em(scores.edges, scores.counts, model.calibration_prevalence, self.joint.rng))
            )
            if model.reference is not None:
                measured = model.reference.scores
                pos, neg = (
                    quantify.rebinned(measured.edges, row, scores.edges)
                    for row in (measured.positive, measured.negative)
                )
                found["pacc"].append((n, quantify.pacc(scores.edges, scores.counts, pos, neg, self.joint.rng)))
        named = {
            "em": ("EM on scores", "calibrated probabilities and prior shift (expectation maximisation)"),
            "pacc": ("PACC on scores", "calibrated probabilities, and those of measured cases and others"),
        }
        total = sum(n for _, _, n in parts)
        return [
            Estimator(key, named[key][0], _combined(cells, total), named[key][1])
            for key, cells in found.items()
            if len(cells) == len(parts)
        ]

    def _correction(self, parts: Parts, main: Corrected | None, disagreement: str | None) -> Correction:
        flagged, n = sum(f for _, f, _ in parts), sum(m for _, _, m in parts)
        so_few: float | None = None
        by_specificity: list[tuple[float, Cell]] = []
        priors: list[tuple[str, Cell]] = []
        used = self.joint.models[parts[0][0]].used
        if self.joint.why_not is None and used is not None and len(parts) == 1:
            if main is not None and main.truncated:
                few, of = map(round, self.joint.effective(parts[0]))
                so_few = probability_of_so_few(few, of, used)
            for step in SPECIFICITY_STEPS:
                sp = used.specificity + step
                if 0 < sp <= 1 and used.sensitivity + sp > 1:
                    at = lang_reiczigel(*self.joint.effective(parts[0]), replace(used, specificity=sp, draws=None))
                    by_specificity.append((sp, at if isinstance(at, NotEstimable) else at.estimate))
            priors = [(name, self._bayes(parts[0], prior)) for name, prior in PRIORS.items()]
        by_model = []
        for part in parts:
            errors = self.joint.errors[part[0]]
            if errors is not None:
                by_model.append(
                    (self.joint.models[part[0]].label, self.joint.draw([part], self.joint.errors).estimate.estimate)
                )
        return Correction(
            raw=None if main is None else main.raw,
            truncated=main is not None and main.truncated,
            probability_of_so_few=so_few,
            tipping_specificity=tipping_specificity(flagged / n),
            by_specificity=tuple(by_specificity),
            priors=tuple(priors),
            by_model=tuple(by_model),
            disagreement=disagreement,
        )


def _basis(models: Sequence[ModelFacts], parts: Parts) -> str:
    said = []
    for i, _, _ in parts:
        used = models[i].used
        if used is not None:
            said.append(f"{used.source}: {used.data}")
    return "; ".join(dict.fromkeys(said))


def _combined(cells: Sequence[tuple[int, Cell]], total: int) -> Cell:
    """Return the mean over models, by patients; intervals are added as of independent estimates."""
    known = [(n, of) for n, cell in cells if (of := estimate_of(cell)) is not None]
    if len(known) < len(cells):
        return next(cell for _, cell in cells if not isinstance(cell, Estimate))
    value = sum(n / total * of.value for n, of in known)
    low = float(np.sqrt(sum((n / total * (of.value - of.low)) ** 2 for n, of in known)))
    high = float(np.sqrt(sum((n / total * (of.high - of.value)) ** 2 for n, of in known)))
    return Estimate(value, max(0.0, value - low), min(1.0, value + high))
