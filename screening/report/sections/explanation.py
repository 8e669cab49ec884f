"""Which leads and territories the flags rest on."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from screening.attribution.territories import LEADS_OF
from screening.contract import LEADS
from screening.report.disclosure import ProtectedImportance, Released
from screening.report.document import HIDDEN, Block, Cell, Column, Estimate, Paragraph, Section, Table
from screening.report.lead_figures import importance_figure, importance_map


def explanation(released: Released) -> Section:
    """Mean lead importance over flagged patients, and by sex and site."""
    shown = [one for one in released.importance if one.mean is not None]
    if not shown:
        return Section(
            "leads",
            "Which leads",
            [
                Paragraph(
                    "Too few flagged patients were explained to be shown, or the runs explained none "
                    "(`--attribution none`)."
                )
            ],
        )
    everybody = next((one for one in shown if one.dimension == "all"), None)
    blocks: list[Block] = [
        Paragraph(
            "The importance of a lead is how far the network's logit falls, on average, when that lead is replaced "
            "by the same lead of other patients. It says what the network looked at, not where an infarct is. The "
            "six limb leads carry two signals between them, so that a single one can be replaced only by something "
            "that no heart would give: read limb leads together. A territory's figure is the mean over its leads."
        )
    ]
    if everybody is not None:
        cells = _cells(everybody)
        blocks += [
            importance_figure("importance", "Lead importance over flagged patients", cells, table="importance"),
            _leads(everybody, cells),
            _territories(shown),
        ]
    for dimension in ("sex", "site"):
        of = [one for one in shown if one.dimension == dimension]
        if len(of) >= 2:
            rows = [(one.category, _numbers(one)) for one in of]
            blocks += [
                importance_map(
                    f"importance_by_{dimension}_map",
                    f"Lead importance by {dimension}",
                    rows,
                    table=f"importance_by_{dimension}",
                ),
                Table(
                    f"importance_by_{dimension}",
                    f"Lead importance by {dimension}",
                    [
                        Column(dimension, dimension.capitalize()),
                        Column("patients", "Flagged patients", "count"),
                        *(Column(lead, lead, "number", digits=2) for lead in LEADS),
                    ],
                    [(one.category, HIDDEN if one.patients is None else one.patients, *_numbers(one)) for one in of],
                ),
            ]
    return Section("leads", "Which leads", blocks)


def _numbers(of: ProtectedImportance) -> list[Cell]:
    return [HIDDEN] * len(LEADS) if of.mean is None else list(of.mean)


def _cells(of: ProtectedImportance) -> list[Cell]:
    if of.mean is None or of.sd is None or not of.patients:
        return [HIDDEN] * len(LEADS)
    half = [1.96 * sd / math.sqrt(of.patients) if math.isfinite(sd) else 0.0 for sd in of.sd]
    return [Estimate(mean, mean - h, mean + h) for mean, h in zip(of.mean, half, strict=True)]


def _leads(of: ProtectedImportance, cells: Sequence[Cell]) -> Table:
    leading = of.leading or (None,) * len(LEADS)
    return Table(
        "importance",
        "Lead importance over flagged patients",
        [
            Column("lead", "Lead"),
            Column("importance", "Mean fall of the logit (95%)", "number_interval", digits=2),
            Column("leading", "Patients in whom it leads", "count"),
        ],
        [
            (lead, cell, HIDDEN if first is None else first)
            for lead, cell, first in zip(LEADS, cells, leading, strict=True)
        ],
    )


def _territories(shown: Sequence[ProtectedImportance]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for one in shown:
        if one.mean is None:
            continue
        mean = np.asarray(one.mean)
        of = [float(mean[[LEADS.index(lead) for lead in leads]].mean()) for leads in LEADS_OF.values()]
        rows.append((one.dimension, one.category, HIDDEN if one.patients is None else one.patients, *of))
    return Table(
        "territories",
        "Mean importance by territory",
        [
            Column("by", "By"),
            Column("group", "Group"),
            Column("patients", "Flagged patients", "count"),
            *(
                Column(name, f"{name.capitalize()} ({', '.join(leads)})", "number", digits=2)
                for name, leads in LEADS_OF.items()
            ),
        ],
        rows,
    )
