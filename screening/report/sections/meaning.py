"""What a flag means here: predictive values, work, and the choice of a threshold."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.special import expit

from screening.report.accuracy import sample
from screening.report.curves import Curve, curves_figure
from screening.report.disclosure import Released
from screening.report.document import Block, Cell, Column, Estimate, Paragraph, Section, Table
from screening.report.findings import Findings, ModelFacts, estimate_of
from screening.report.prevalence import draw
from screening.report.quantify import rebinned
from screening.report.usefulness import PREVALENCES, Operating, decision_curve, workload, worth
from screening.report.validation import estimate

_DRAWS = 2000
_FLAGS_PER_1000 = (10, 20, 30, 50, 75, 100, 150, 200, 300, 400, 500)


def meaning(findings: Findings, released: Released) -> Section:
    """Predictive values over a range of prevalences, the workload of thresholds, and a decision curve, by model."""
    blocks: list[Block] = [
        Paragraph(
            "A flag is worth what its setting makes of it. Where few have the condition, most flags are false, "
            "however good the classifier. Every case found costs so many confirmations (a cardiologist's reading, "
            "an echocardiogram); those not flagged stay missed."
        )
    ]
    found = estimate_of(findings.headline.cell)
    for i, model in enumerate(findings.models):
        blocks += _worth(model, found, alone=len(findings.models) == 1)
        blocks += _thresholds(model, released, i, found, alone=len(findings.models) == 1)
    return Section("meaning", "What a flag means", blocks)


def _worth(model: ModelFacts, found: Estimate | None, *, alone: bool) -> list[Block]:
    used = model.used
    if used is None or used.sensitivity + used.specificity <= 1:
        return []
    key, of = ("", "") if alone else (f"_{model.bundle_sha256[:8]}", f", model {model.label}")
    rng = np.random.default_rng(0)
    errors = sample(used, _DRAWS, rng)
    rows: list[tuple[Cell, ...]] = []
    known = [("estimated here", found)] if found is not None and found.value > 0 else []
    for words, p in [*known, *(("elsewhere", Estimate(at, at, at)) for at in PREVALENCES)]:
        spread, with_errors, centre = np.array([p.value]), errors, p.value
        if words == "estimated here" and model.validation is not None:
            read = estimate(model.validation).draws  # prevalence row by row with the errors
            spread, with_errors = read[:, 2], read[:, :2]
        elif words == "estimated here" and model.flagged is not None and model.patients:
            here = draw([(model.flagged, model.patients, errors)], rng)
            spread = here.corrected
            centre = p.value if alone else min(1.0, max(0.0, here.raw))
        of_p = worth(spread, with_errors, (centre, used.sensitivity, used.specificity))
        rows.append((words, centre, of_p.ppv, of_p.npv, of_p.flags_per_case, of_p.flags_per_1000, of_p.missed_per_1000))
    table = Table(
        f"predictive_values{key}",
        f"What flags are worth{of}",
        [
            Column("where", "Setting"),
            Column("prevalence", "Prevalence", "share"),
            Column("ppv", "PPV: flagged who have it (95%)", "share_interval"),
            Column("npv", "NPV: unflagged who have it not (95%)", "share_interval"),
            Column("confirmations_per_case", "Confirmations for each case (95%)", "number_interval"),
            Column("flags_per_1000", "Flags per 1,000 (95%)", "number_interval", digits=0),
            Column("missed_per_1000", "Missed cases per 1,000 (95%)", "number_interval"),
        ],
        rows,
        [f"With sensitivity and specificity from: {used.source}."],
    )
    grid = np.geomspace(0.002, 0.4, 40)
    se, sp = used.sensitivity, used.specificity
    ppv = grid * se / (grid * se + (1 - grid) * (1 - sp))
    npv = (1 - grid) * sp / ((1 - grid) * sp + grid * (1 - se))
    figure = curves_figure(
        f"predictive_values_curve{key}",
        f"Predictive values over prevalence{of}",
        [Curve("PPV", grid.tolist(), ppv.tolist()), Curve("NPV", grid.tolist(), npv.tolist())],
        x_title="Prevalence",
        y_title="Predictive value",
        log_x=True,
        y_limits=(0.0, 1.0),
        marks=[("estimated here", found.value)] if found is not None and 0.002 <= found.value <= 0.4 else [],
        table=f"predictive_values{key}",
    )
    return [figure, table]


def _thresholds(
    model: ModelFacts, released: Released, number: int, found: Estimate | None, *, alone: bool
) -> list[Block]:
    scores = released.scores[number] if number < len(released.scores) else None
    if scores is None or len(scores.edges) < 3:
        return []
    key, of = ("", "") if alone else (f"_{model.bundle_sha256[:8]}", f", model {model.label}")
    measured = model.reference.scores if model.reference is not None else None
    pos, neg = (
        (rebinned(measured.edges, row, scores.edges) for row in (measured.positive, measured.negative))
        if measured is not None
        else (None, None)
    )
    rows = workload(scores.edges, scores.counts, pos, neg, None if found is None else found.value)
    blocks: list[Block] = [
        curves_figure(
            f"workload_curve{key}",
            f"Flags per 1,000 patients by threshold{of}",
            [
                Curve(
                    "flags per 1,000",
                    [float(expit(row.log_odds)) for row in rows],
                    [row.flags_per_1000 for row in rows],
                )
            ],
            x_title="Threshold on the probability",
            y_title="Flags per 1,000",
            y_kind="number",
            marks=[("in use", model.threshold)],
            table=f"workload{key}",
        ),
        Table(
            f"workload{key}",
            f"What another threshold would flag{of}",
            [
                Column("threshold", "Probability at or above", "share"),
                Column("flags_per_1000", "Flags per 1,000 here", "number", digits=0),
                Column("sensitivity", "Sensitivity", "share"),
                Column("specificity", "Specificity", "share"),
                Column("ppv", "PPV at the estimated prevalence", "share"),
            ],
            [
                (float(expit(row.log_odds)), row.flags_per_1000, row.sensitivity, row.specificity, row.ppv)
                for row in _chosen(rows, model.threshold)
            ],
            [
                f"In use: {model.threshold:.1%}. Sensitivity and specificity at other thresholds are those measured "
                f"with the model ({measured.data if measured is not None else 'it carries none'}), not of local "
                "readings."
            ],
        ),
    ]
    if measured is not None and found is not None and found.value > 0 and model.used is not None:
        blocks += _decisions(model, found.value, key, of)
    return blocks


def _chosen(rows: Sequence[Operating], threshold: float) -> list[Operating]:
    """Return the thresholds nearest to round numbers of flags, and to the one in use."""
    used = min(range(len(rows)), key=lambda at: abs(expit(rows[at].log_odds) - threshold))
    near = {min(range(len(rows)), key=lambda at: abs(rows[at].flags_per_1000 - flags)) for flags in _FLAGS_PER_1000}
    return [rows[at] for at in sorted(near | {used})]


def _decisions(model: ModelFacts, prevalence: float, key: str, of: str) -> list[Block]:
    assert model.reference is not None
    assert model.used is not None
    measured = model.reference.scores
    rows = decision_curve(
        measured.edges,
        measured.positive,
        measured.negative,
        prevalence=prevalence,
        calibration_prevalence=model.calibration_prevalence,
        used=(model.used.sensitivity, model.used.specificity),
    )
    x = [row.threshold for row in rows]
    top = max(max(row.flagging for row in rows), prevalence)
    return [
        curves_figure(
            f"decision_curve{key}",
            f"Decision curve at the estimated prevalence{of}",
            [
                Curve("best threshold for each", x, [row.flagging for row in rows]),
                Curve("flags as they are", x, [row.as_used for row in rows]),
                Curve("confirm everybody", x, [row.everybody for row in rows]),
                Curve("confirm nobody", x, [0.0] * len(x)),
            ],
            x_title="Probability at which confirming is just worth its trouble",
            y_title="Net benefit, cases per patient",
            y_kind="number",
            y_limits=(-0.2 * top, 1.1 * top),
            table=f"decisions{key}",
        ),
        Table(
            f"decisions{key}",
            f"Net benefit per 1,000 patients{of}",
            [
                Column("threshold", "Worth confirming at", "share", digits=0),
                Column("flagging", "Best threshold for it", "number"),
                Column("as_used", "Flags as they are", "number"),
                Column("everybody", "Confirm everybody", "number"),
            ],
            [
                (row.threshold, 1000 * row.flagging, 1000 * row.as_used, 1000 * row.everybody)
                for row in rows
                if round(100 * row.threshold) in (1, 2, 5, 10, 15, 20, 30, 40, 50)
            ],
            [
                "Net benefit is true flags minus false flags, the latter weighted by the odds at which confirming "
                "is just worth it (Vickers and Elkin 2006). A strategy is useful where it lies above confirming "
                "everybody and above zero."
            ],
        ),
    ]
