"""From protected counts to findings: every estimate of the report, in one place and in one order.

Nothing here sees an exact count. All groups are corrected with the same joint draws of sensitivity and specificity, so
that what they have in common is in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from screening.report import quantify
from screening.report.accuracy import pooled, sample
from screening.report.disclosure import Protected, Released
from screening.report.document import HIDDEN, Cell, Estimate, NotEstimable
from screening.report.findings import (
    Correction,
    Estimator,
    Findings,
    Frame,
    Group,
    ModelFacts,
    Standardised,
    Trend,
    estimate_of,
)
from screening.report.prevalence import (
    PRIORS,
    Corrected,
    Drawn,
    bayes,
    differences,
    draw,
    lang_reiczigel,
    no_better_than_chance,
    probability_of_so_few,
    rogan_gladen,
    tipping_specificity,
    wilson,
)
from screening.report.standardise import ReferencePopulation, Weighted, direct, trend
from screening.report.tallies import UNKNOWN
from screening.report.validation import estimate as validation_estimate

SPECIFICITY_STEPS = (-0.04, -0.02, -0.01, 0.0, 0.01, 0.02)
"""What is added to the specificity, to show how the estimate hangs on it."""

Parts = list[tuple[int, int, int]]
"""Number of the model, flagged, patients."""


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


def find(inputs: Inputs) -> Findings:
    """Estimate everything."""
    return _Estimation(inputs).findings()


class _Estimation:
    def __init__(self, inputs: Inputs) -> None:
        self.inputs, self.released, self.models = inputs, inputs.released, inputs.models
        self.rng = np.random.default_rng(inputs.seed)
        self.errors = [
            sample(model.used, inputs.draws, self.rng) if model.used is not None else None for model in self.models
        ]
        self.why_not = self._why_not()

    def findings(self) -> Findings:
        """Return all findings."""
        total, parts = self._total()
        headline, estimators, correction = self._overall(total, parts)
        groups = {
            dimension: self._groups(dimension, kind)
            for dimension, kind in (
                ("sex", "sex"),
                ("age", "age"),
                ("site", None),
                ("device", "device"),
                ("conduction", None),
            )
        }
        return Findings(
            frame=self.inputs.frame,
            models=self.models,
            total=replace(total, adjusted=headline.cell, shared=headline.cell),
            headline=headline,
            estimators=estimators,
            correction=correction,
            groups=groups,
            standardised=self._standardised(),
            trend=self._trend(),
        )

    # --- All patients ------------------------------------------------------------------------------------------------

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

    def _total(self) -> tuple[Group, Parts | None]:
        table = self.released.patients["all"]
        parts = _parts(table, table.rows[0], len(self.models)) if table.rows else None
        return _group("all", parts, self.inputs.design_effect), parts

    def _overall(self, total: Group, parts: Parts | None) -> tuple[Estimator, list[Estimator], Correction]:
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
        local = all(self.models[i].local is not None for i, _, _ in parts)
        name = "Rogan-Gladen, local" if local else "Rogan-Gladen"
        if self.why_not is not None:
            return Estimator("prevalence", name, self.why_not, ""), None
        basis = _basis(self.models, parts)
        direct_ = self._direct(parts)
        if direct_ is not None:
            return Estimator("prevalence", "Local readings", direct_.estimate, basis), direct_
        if len(parts) == 1 and not local:
            used = self.models[parts[0][0]].used
            assert used is not None
            found = lang_reiczigel(*self._effective(parts[0]), used)
            if isinstance(found, NotEstimable):
                return Estimator("prevalence", name, found, basis), None
            return Estimator("prevalence", name, found.estimate, basis), found
        corrected = replace(self._draw(parts, self.errors), raw=self._raw(parts)).estimate
        return Estimator("prevalence", name, corrected.estimate, basis), corrected

    def _direct(self, parts: Parts) -> Corrected | None:
        """Return the stratified estimate of a local sample, where it was drawn from these very patients.

        It is Rogan-Gladen with the share flagged held at its own value, and so much narrower than with a share that
        varies apart from sensitivity and specificity (`validation`).
        """
        validation, frame = self.models[parts[0][0]].validation, self.inputs.frame
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
            used = self.models[i].used
            assert used is not None
            found += n / total * rogan_gladen(flagged / n, used)
        return found

    def _by_accuracy(self, parts: Parts, main: tuple[Estimator, Corrected | None]) -> list[Estimator]:
        """Return the corrections that were not taken, where there are both local readings and the model's own counts."""
        if len(parts) != 1 or main[1] is None:
            return []
        model = self.models[parts[0][0]]
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
                cell = lang_reiczigel(*self._effective(parts[0]), of)
                found.append(Estimator(key, name, cell if isinstance(cell, NotEstimable) else cell.estimate, basis))
        return found

    def _bayesian(self, parts: Parts) -> list[Estimator]:
        if self.why_not is not None or len(parts) != 1:
            return []
        prior = next(iter(PRIORS))
        cell = self._bayes(parts[0], PRIORS[prior])
        return [Estimator("bayes", "Bayesian", cell, f"the same figures, prior {prior}")]

    def _bayes(self, part: tuple[int, int, int], prior: tuple[float, float]) -> Cell:
        used = self.models[part[0]].used
        assert used is not None
        return bayes(*self._effective(part), used, prior=prior, rng=np.random.default_rng(self.inputs.seed))

    def _by_scores(self, parts: Parts) -> list[Estimator]:
        """Return expectation maximisation and PACC on the score distributions, over all models by their patients."""
        found: dict[str, list[tuple[int, Cell]]] = {"em": [], "pacc": []}
        for i, _, n in parts:
            scores, model = self.released.scores[i], self.models[i]
            if scores is None:
                return []
            found["em"].append((n, quantify.em(scores.edges, scores.counts, model.calibration_prevalence, self.rng)))
            if model.reference is not None:
                measured = model.reference.scores
                pos, neg = (
                    quantify.rebinned(measured.edges, row, scores.edges)
                    for row in (measured.positive, measured.negative)
                )
                found["pacc"].append((n, quantify.pacc(scores.edges, scores.counts, pos, neg, self.rng)))
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
        used = self.models[parts[0][0]].used
        if self.why_not is None and used is not None and len(parts) == 1:
            if main is not None and main.truncated:
                few, of = map(round, self._effective(parts[0]))
                so_few = probability_of_so_few(few, of, used)
            for step in SPECIFICITY_STEPS:
                sp = used.specificity + step
                if 0 < sp <= 1 and used.sensitivity + sp > 1:
                    at = lang_reiczigel(*self._effective(parts[0]), replace(used, specificity=sp, draws=None))
                    by_specificity.append((sp, at if isinstance(at, NotEstimable) else at.estimate))
            priors = [(name, self._bayes(parts[0], prior)) for name, prior in PRIORS.items()]
        by_model = []
        for part in parts:
            errors = self.errors[part[0]]
            if errors is not None:
                by_model.append((self.models[part[0]].label, self._draw([part], self.errors).estimate.estimate))
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

    def _effective(self, part: tuple[int, int, int]) -> tuple[float, float]:
        return part[1] / self.inputs.design_effect, part[2] / self.inputs.design_effect

    def _draw(self, parts: Parts, errors: Sequence[np.ndarray | None]) -> Drawn:
        given = []
        for part in parts:
            of = errors[part[0]]
            assert of is not None
            given.append((*self._effective(part), of))
        return draw(given, self.rng)

    # --- Groups ------------------------------------------------------------------------------------------------------

    def _groups(self, dimension: str, kind: str | None) -> list[Group]:
        """Correct the categories of a dimension; ``kind`` names the bundle's counts by group, None where there can be none."""
        table = self.released.patients.get(dimension)
        if table is None:
            return []
        errors = self._errors_of(kind, table.rows)
        groups = [self._corrected(row, _parts(table, row, len(self.models)), errors[row]) for row in table.rows]
        return self._compared(table, groups, errors) if dimension in ("site", "device") else groups

    def _compared(
        self, table: Protected, groups: Sequence[Group], errors: Mapping[str, Sequence[np.ndarray | None]]
    ) -> list[Group]:
        """Say of each place how far it is from all others together, with intervals that hold for all places at once."""
        parts = {group.name: _parts(table, group.name, len(self.models)) for group in groups}
        drawn = {name: self._draw(of, errors[name]) for name, of in parts.items() if of and self.why_not is None}
        if len(drawn) < 2:
            return list(groups)
        found = dict(zip(drawn, differences(list(drawn.values())), strict=True))
        return [replace(group, difference=found.get(group.name, HIDDEN)) for group in groups]

    def _errors_of(self, kind: str | None, rows: Sequence[str]) -> Mapping[str, list[np.ndarray | None]]:
        """Return for each category each model's draws of sensitivity and specificity, partially pooled.

        Sites carry the names of their archive: the same name elsewhere is another site, so that sites are drawn as new
        ones.
        """
        of_model = []
        for model in self.models:
            if model.used is None:
                of_model.append(dict.fromkeys(rows, None))
            elif kind is None:
                named = pooled(model.used, "site", [f"here: {row}" for row in rows], self.inputs.draws, self.rng)
                of_model.append(dict(zip(rows, named.values(), strict=True)))
            else:
                of_model.append(dict(pooled(model.used, kind, rows, self.inputs.draws, self.rng)))
        return {row: [of.get(row) for of in of_model] for row in rows}

    def _corrected(self, row: str, parts: Parts | None, errors: Sequence[np.ndarray | None]) -> Group:
        group = _group(row, parts, self.inputs.design_effect)
        if not parts:
            return group
        if self.why_not is not None:
            return replace(group, adjusted=self.why_not, shared=self.why_not)
        return replace(
            group,
            adjusted=self._draw(parts, errors).estimate.estimate,
            shared=self._draw(parts, self.errors).estimate.estimate,
        )

    def _standardised(self) -> Standardised:
        reference = self.inputs.population
        sexed = reference.sexes is not None and "age and sex" in self.released.patients
        table = self.released.patients.get("age and sex" if sexed else "age")
        cells: tuple[Cell, Cell] = (HIDDEN, self.why_not or HIDDEN)
        bands: tuple[str, ...] = ()
        if table is not None and table.rows and self.why_not is None:
            found = direct(self._strata(table, sexed=sexed))
            if isinstance(found, NotEstimable):
                cells = (found, found)
            else:
                cells, bands = (found.apparent, found.prevalence.estimate), found.strata
        return Standardised(reference.name, reference.source, *cells, bands)

    def _strata(self, table: Protected, *, sexed: bool) -> list[Weighted]:
        """Return the strata that are shown; those hidden or empty are one together, made of what is left of the total."""
        reference, edges = self.inputs.population, list(self.inputs.age_edges)
        errors = self._errors_of("age", [row.partition("|")[0] for row in table.rows])
        shown: list[Weighted] = []
        hidden: list[tuple[str, str, float]] = []
        left = _parts(self.released.patients["all"], "all", len(self.models)) or []
        rest = {i: [flagged, n] for i, flagged, n in left}
        for row in table.rows:
            band, _, sex = row.partition("|")
            parts = _parts(table, row, len(self.models))
            for i, flagged, n in parts or []:
                rest[i][0] -= flagged
                rest[i][1] -= n
            if band == UNKNOWN or sex == UNKNOWN:
                continue
            low = int("".join(c for c in band.split("-")[0] if c.isdigit()))
            higher = [edge for edge in edges if edge > low]
            weight = reference.weight(low, higher[0] if higher else np.inf, sex if sexed else None)
            if parts:
                shown.append(Weighted(row.replace("|", ", "), weight, self._draw(parts, errors[band])))
            else:
                hidden.append((row.replace("|", ", "), band, weight))
        together = [(i, min(max(f, 0), n), n) for i, (f, n) in rest.items() if n > 0]
        if together and any(weight for _, _, weight in hidden):
            name = " and ".join(name for name, _, _ in hidden)
            weights = [weight for _, _, weight in hidden]
            mixed = [
                None if of is None else np.average([errors[band][i] for _, band, _ in hidden], axis=0, weights=weights)
                for i, of in enumerate(self.errors)
            ]
            shown.append(Weighted(name, sum(weights), self._draw(together, mixed)))
        return shown

    def _trend(self) -> Trend:
        years, months = self._groups("year", "year"), self._groups("month", "month")
        dated = [group for group in years if group.name != UNKNOWN]
        table = self.released.patients.get("year")
        fitted = []
        for group in dated:
            parts = _parts(table, group.name, len(self.models)) if table is not None else None
            if parts and self.why_not is None:
                fitted.append((int(group.name), sum(n for _, _, n in parts), self._draw(parts, self.errors).corrected))
        change = trend(*(list(column) for column in zip(*fitted, strict=True))) if len(fitted) > 2 else None
        unknown = next((group for group in years if group.name == UNKNOWN), None)
        left_out = None
        if unknown is not None and unknown.patients != 0:
            many = "Some" if unknown.patients is None else f"{unknown.patients:,}"
            left_out = f"{many} patients are in no year, because their index ECG has no date that could be used."
        return Trend(
            dated,
            [group for group in months if group.name != UNKNOWN],
            change if change is not None else NotEstimable("fewer than three years are shown"),
            left_out,
        )


def _parts(table: Protected, row: str, models: int) -> Parts | None:
    """Return each model's flagged patients and patients in a row; None where a count of them is hidden."""
    parts: Parts = []
    for i in range(models):
        flagged, unflagged = table.shown(row, f"flagged {i}"), table.shown(row, f"unflagged {i}")
        if flagged is None or unflagged is None:
            return None
        if flagged + unflagged:
            parts.append((i, flagged, flagged + unflagged))
    return parts


def _group(name: str, parts: Parts | None, design_effect: float) -> Group:
    if parts is None:
        return Group(name, None, None)
    flagged, patients = sum(f for _, f, _ in parts), sum(n for _, _, n in parts)
    if not patients:
        nobody = NotEstimable("nobody")
        return Group(name, 0, 0, nobody, nobody, nobody)
    return Group(name, patients, flagged, wilson(flagged / design_effect, patients / design_effect))


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
