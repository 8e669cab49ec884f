"""Which territories, waves and leads the flags rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence

from screening.attribution.territories import LEADS_OF
from screening.contract import LEADS, OPERATORS, TERRITORIES, WAVES
from screening.report.disclosure import ProtectedImportance, Released
from screening.report.document import HIDDEN, Block, Bullets, Cell, Column, Estimate, Paragraph, Section, Table
from screening.report.explained import Z
from screening.report.lead_figures import importance_figure, importance_map, wave_figure
from screening.report.tallies import NO_TERRITORY

TITLE = "Which territories, waves and leads"

_SAYS = (
    "The importance of a part of an ECG is how far the network's logit falls, on average, when that part is taken from "
    "other patients' ECGs. Above zero the part speaks for infarction, below zero against it. The figures are means over "
    "flagged patients; their intervals say how much the patients vary, not how sure each single figure is."
)
_SAYS_NOT = (
    "They say what the network used, not where an infarct is.",
    "A territory's figure is its share (Shapley value) of the fall when the whole ECG is exchanged, and the four add up to it. "
    "All that looks at a territory is exchanged together (septal V1 and V2, anterior V3 and V4, lateral I, V5 and V6, inferior "
    "aVF); the other limb leads follow, so that the ECG stays one that a heart can give.",
    "Figures of waves and of leads are single exchanges, which add up to nothing. A limb lead exchanged alone gives what no "
    "heart would; a network that reads I, II and V1-V6 gives the other four no importance of their own.",
    "Whether the leading territory is the infarct's is measured by `screening audit-explanations` where labels name the place, "
    "and stands in the model's card.",
)
_NOTHING = "Too few flagged patients were explained to be shown, or the runs explained none (`--attribution none`)."
_ONE_MISSING = "The runs did not exchange {}, or too few patients to be shown; `screening run --operators {}` does."


def explanation(released: Released) -> Section:
    """Mean importances over flagged patients, of all and by sex and site: territories, waves by territory, leads."""
    shown = [one for one in released.importance if one.mean is not None]
    if not shown:
        return Section("leads", TITLE, [Paragraph(_NOTHING)])
    of = {operator: [one for one in shown if one.operator == operator] for operator in OPERATORS}
    blocks: list[Block] = [
        Paragraph(_SAYS),
        Bullets(_SAYS_NOT),
        *_territories(of["territory"]),
        *_waves(of["wave"]),
        *_leads(of["lead"]),
    ]
    return Section("leads", TITLE, blocks)


def _everybody(shown: Sequence[ProtectedImportance]) -> ProtectedImportance | None:
    return next((one for one in shown if one.dimension == "all"), None)


# --- Territories -----------------------------------------------------------------------------------------------------


def _territories(shown: Sequence[ProtectedImportance]) -> list[Block]:
    if not shown:
        return [Paragraph(_ONE_MISSING.format("territories", "territory"))]
    everybody = _everybody(shown)
    leading = (*TERRITORIES, NO_TERRITORY)
    blocks: list[Block] = []
    if everybody is not None:
        title = "Importance of territories over flagged patients"
        cells = _cells(everybody)
        counts = [_count(n) for n in everybody.leading or (None,) * len(leading)]
        names = [f"{wall} ({', '.join(LEADS_OF[wall])})" for wall in TERRITORIES] + [NO_TERRITORY]
        columns = [
            Column("territory", "Territory"),
            Column("importance", "Mean fall of the logit (95%)", "number_interval", digits=2),
            Column("leading", "Patients in whom it leads", "count"),
        ]
        blocks += [
            importance_figure("territories", title, cells, parts=TERRITORIES, table="territories"),
            Table("territories", title, columns, list(zip(names, [*cells, None], counts, strict=True)), [_LEADS_ABOVE]),
        ]
    for dimension in ("sex", "site"):
        of = [one for one in shown if one.dimension == dimension]
        if len(of) >= 2:
            group = [Column(dimension, dimension.capitalize()), Column("patients", "Flagged patients", "count")]
            named: list[tuple[Cell, Cell]] = [(one.category, _count(one.patients)) for one in of]
            blocks += [
                Table(
                    f"territories_by_{dimension}",
                    f"Importance of territories by {dimension}",
                    [*group, *(Column(w, w.capitalize(), "number_interval", digits=2) for w in TERRITORIES)],
                    [(*name, *_cells(one)) for name, one in zip(named, of, strict=True)],
                ),
                Table(
                    f"leading_territories_by_{dimension}",
                    f"Patients by leading territory and {dimension}",
                    [*group, *(Column(wall, wall.capitalize(), "count") for wall in leading)],
                    [
                        (*name, *(_count(n) for n in one.leading or (None,) * len(leading)))
                        for name, one in zip(named, of, strict=True)
                    ],
                ),
            ]
    return blocks


_LEADS_ABOVE = (
    "All that looks at a territory is taken from other patients (operator `territory`). A patient's leading territory is the "
    "one of greatest importance, if that is above zero; otherwise none leads."
)


# --- Waves -----------------------------------------------------------------------------------------------------------


def _waves(shown: Sequence[ProtectedImportance]) -> list[Block]:
    everybody = _everybody(shown)
    if everybody is None:
        return [Paragraph(_ONE_MISSING.format("waves", "territory,wave"))]
    cells = _numbers(everybody)
    by_wave = [cells[at : at + len(TERRITORIES)] for at in range(0, len(cells), len(TERRITORIES))]
    columns = [Column(f"{wave.lower()}_wave", wave, "number", digits=2, signed=True) for wave in WAVES]
    return [
        wave_figure("waves", "Importance of waves by territory, over flagged patients", cells, table="waves"),
        Table(
            "waves",
            "Importance of waves by territory",
            [Column("territory", "Territory"), *columns],
            [(wall, *(of_wave[at] for of_wave in by_wave)) for at, wall in enumerate(TERRITORIES)],
            [
                "Mean fall of the logit when this wave, in this territory, is taken from a donor's beats laid on the record's "
                "(operator `wave`), over the explained patients in whom beats were found."
            ],
        ),
    ]


# --- Leads -----------------------------------------------------------------------------------------------------------


def _leads(shown: Sequence[ProtectedImportance]) -> list[Block]:
    if not shown:
        return [Paragraph(_ONE_MISSING.format("single leads", "lead,territory"))]
    everybody = _everybody(shown)
    blocks: list[Block] = []
    if everybody is not None:
        cells = _cells(everybody)
        blocks += [
            importance_figure("importance", "Lead importance over flagged patients", cells, table="importance"),
            Table(
                "importance",
                "Lead importance over flagged patients",
                [
                    Column("lead", "Lead"),
                    Column("importance", "Mean fall of the logit (95%)", "number_interval", digits=2),
                    Column("leading", "Patients in whom it leads", "count"),
                ],
                [
                    (lead, cell, _count(first))
                    for lead, cell, first in zip(LEADS, cells, everybody.leading or (None,) * len(LEADS), strict=True)
                ],
                ["Each lead by itself is taken from other patients (operator `lead`)."],
            ),
        ]
    for dimension in ("sex", "site"):
        of = [one for one in shown if one.dimension == dimension]
        if len(of) >= 2:
            key, title = f"importance_by_{dimension}", f"Lead importance by {dimension}"
            columns = [Column(dimension, dimension.capitalize()), Column("patients", "Flagged patients", "count")]
            blocks += [
                importance_map(f"{key}_map", title, [(one.category, _numbers(one)) for one in of], table=key),
                Table(
                    key,
                    title,
                    [*columns, *(Column(lead, lead, "number", digits=2) for lead in LEADS)],
                    [(one.category, _count(one.patients), *_numbers(one)) for one in of],
                ),
            ]
    return blocks


def _count(n: int | None) -> Cell:
    return HIDDEN if n is None else n


def _numbers(of: ProtectedImportance) -> list[Cell]:
    return [HIDDEN] * len(OPERATORS[of.operator]) if of.mean is None else list(of.mean)


def _cells(of: ProtectedImportance) -> list[Cell]:
    if of.mean is None or of.sd is None or not of.patients:
        return [HIDDEN] * len(OPERATORS[of.operator])
    half = [Z * sd / math.sqrt(of.patients) if math.isfinite(sd) else 0.0 for sd in of.sd]
    return [Estimate(mean, mean - h, mean + h) for mean, h in zip(of.mean, half, strict=True)]
