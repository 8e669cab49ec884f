"""Estimates by group, by place, standardised and over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from screening.report.accuracy import pooled
from screening.report.disclosure import Protected
from screening.report.document import HIDDEN, Cell, NotEstimable
from screening.report.findings import Group, Standardised, Trend
from screening.report.joint import Joint, Parts, group_of, parts_in
from screening.report.prevalence import differences
from screening.report.standardise import Weighted, direct, trend
from screening.report.tallies import UNKNOWN

DIMENSIONS = (("sex", "sex"), ("age", "age"), ("site", None), ("device", "device"), ("conduction", None))
"""Each with the name of the bundle's counts by group; None where there can be none."""


class Groups:
    """Estimates of the prevalence among the patients of each group."""

    def __init__(self, joint: Joint) -> None:
        self.joint = joint

    def by_dimension(self) -> dict[str, list[Group]]:
        """Return the groups of every dimension."""
        return {dimension: self._groups(dimension, kind) for dimension, kind in DIMENSIONS}

    def _groups(self, dimension: str, kind: str | None) -> list[Group]:
        """Correct the categories of a dimension; ``kind`` names the bundle's counts by group, None where there can be none."""
        table = self.joint.released.patients.get(dimension)
        if table is None:
            return []
        errors = self._errors_of(kind, table.rows)
        groups = [self._corrected(row, parts_in(table, row, len(self.joint.models)), errors[row]) for row in table.rows]
        return self._compared(table, groups, errors) if dimension in ("site", "device") else groups

    def _compared(
        self, table: Protected, groups: Sequence[Group], errors: Mapping[str, Sequence[np.ndarray | None]]
    ) -> list[Group]:
        """Say of each place how far it is from all others together, with intervals that hold for all places at once."""
        parts = {group.name: parts_in(table, group.name, len(self.joint.models)) for group in groups}
        drawn = {
            name: self.joint.draw(of, errors[name]) for name, of in parts.items() if of and self.joint.why_not is None
        }
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
        for model in self.joint.models:
            if model.used is None:
                of_model.append(dict.fromkeys(rows, None))
            elif kind is None:
                named = pooled(
                    model.used, "site", [f"here: {row}" for row in rows], self.joint.inputs.draws, self.joint.rng
                )
                of_model.append(dict(zip(rows, named.values(), strict=True)))
            else:
                of_model.append(dict(pooled(model.used, kind, rows, self.joint.inputs.draws, self.joint.rng)))
        return {row: [of.get(row) for of in of_model] for row in rows}

    def _corrected(self, row: str, parts: Parts | None, errors: Sequence[np.ndarray | None]) -> Group:
        group = group_of(row, parts, self.joint.inputs.design_effect)
        if not parts:
            return group
        if self.joint.why_not is not None:
            return replace(group, adjusted=self.joint.why_not, shared=self.joint.why_not)
        return replace(
            group,
            adjusted=self.joint.draw(parts, errors).estimate.estimate,
            shared=self.joint.draw(parts, self.joint.errors).estimate.estimate,
        )

    def standardised(self) -> Standardised:
        """Return the estimate standardised to the reference population."""
        reference = self.joint.inputs.population
        sexed = reference.sexes is not None and "age and sex" in self.joint.released.patients
        table = self.joint.released.patients.get("age and sex" if sexed else "age")
        cells: tuple[Cell, Cell] = (HIDDEN, self.joint.why_not or HIDDEN)
        bands: tuple[str, ...] = ()
        if table is not None and table.rows and self.joint.why_not is None:
            found = direct(self._strata(table, sexed=sexed))
            if isinstance(found, NotEstimable):
                cells = (found, found)
            else:
                cells, bands = (found.apparent, found.prevalence.estimate), found.strata
        return Standardised(reference.name, reference.source, *cells, bands)

    def _strata(self, table: Protected, *, sexed: bool) -> list[Weighted]:
        """Return the strata that are shown; those hidden or empty are one together, made of what is left of the total."""
        reference, edges = self.joint.inputs.population, list(self.joint.inputs.age_edges)
        errors = self._errors_of("age", [row.partition("|")[0] for row in table.rows])
        shown: list[Weighted] = []
        hidden: list[tuple[str, str, float]] = []
        left = parts_in(self.joint.released.patients["all"], "all", len(self.joint.models)) or []
        rest = {i: [flagged, n] for i, flagged, n in left}
        for row in table.rows:
            band, _, sex = row.partition("|")
            parts = parts_in(table, row, len(self.joint.models))
            for i, flagged, n in parts or []:
                rest[i][0] -= flagged
                rest[i][1] -= n
            if band == UNKNOWN or sex == UNKNOWN:
                continue
            low = int("".join(c for c in band.split("-")[0] if c.isdigit()))
            higher = [edge for edge in edges if edge > low]
            weight = reference.weight(low, higher[0] if higher else np.inf, sex if sexed else None)
            if parts:
                shown.append(Weighted(row.replace("|", ", "), weight, self.joint.draw(parts, errors[band])))
            else:
                hidden.append((row.replace("|", ", "), band, weight))
        together = [(i, min(max(f, 0), n), n) for i, (f, n) in rest.items() if n > 0]
        if together and any(weight for _, _, weight in hidden):
            name = " and ".join(name for name, _, _ in hidden)
            weights = [weight for _, _, weight in hidden]
            mixed = [
                None if of is None else np.average([errors[band][i] for _, band, _ in hidden], axis=0, weights=weights)
                for i, of in enumerate(self.joint.errors)
            ]
            shown.append(Weighted(name, sum(weights), self.joint.draw(together, mixed)))
        return shown

    def trend(self) -> Trend:
        """Return the estimates by year and month, and the change a year."""
        years, months = self._groups("year", "year"), self._groups("month", "month")
        dated = [group for group in years if group.name != UNKNOWN]
        table = self.joint.released.patients.get("year")
        fitted = []
        for group in dated:
            parts = parts_in(table, group.name, len(self.joint.models)) if table is not None else None
            if parts and self.joint.why_not is None:
                fitted.append(
                    (int(group.name), sum(n for _, _, n in parts), self.joint.draw(parts, self.joint.errors).corrected)
                )
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
