"""Whether the archive looks like what the model was made from, and the latest run like the one before."""

from __future__ import annotations

from screening.report.disclosure import Released
from screening.report.distances import Comparison, Verdict
from screening.report.document import Block, Bullets, Cell, Column, Figure, Paragraph, Remark, Section, Table
from screening.report.drift import LOG_ODDS, TITLES, Drift, against_reference, between_runs, over_runs
from screening.report.figures import distributions_figure
from screening.report.findings import Findings, ModelFacts
from screening.report.protected import ProtectedHistogram

_WORDS = {Verdict.NONE: "none", Verdict.SLIGHT: "slight", Verdict.MARKED: "marked"}


def drift(findings: Findings, released: Released) -> Section:
    """Distributions against the model's reference, and of the latest run against the one before it."""
    blocks: list[Block] = [
        Paragraph(
            "Where the ECGs, the patients or the scores look unlike those that the model was measured on, its "
            "sensitivity and specificity are less likely to hold. PSI is the population stability index (0.1 and "
            "0.25 are customary limits for a slight and a marked difference), KS the largest distance between the "
            "two cumulative distributions (0.1 and 0.2); shifts of medians are in interquartile ranges of the "
            "reference. With many records everything is significant, so that sizes decide here, not p-values."
        )
    ]
    for i, model in enumerate(findings.models):
        suffix = "" if len(findings.models) == 1 else f"_{model.bundle_sha256[:8]}"
        blocks += _reference(i, model, released, suffix, alone=len(findings.models) == 1)
    blocks += _runs(findings, released)
    return Section("drift", "Drift", blocks)


def _reference(number: int, model: ModelFacts, released: Released, suffix: str, *, alone: bool) -> list[Block]:
    if model.reference is None:
        return [
            Paragraph(
                f"Model {model.label} carries no reference distributions, so that nothing can be compared with what "
                "it was made from; a model that is trained by this version does."
            )
        ]
    ages = released.records.get("age")
    scores = released.scores[number] if number < len(released.scores) else None
    sexes = released.records.get("sex")
    found = against_reference(
        model.reference,
        over_runs(released.features, model.run_ids),
        scores=scores,
        sex={} if sexes is None else {row: sexes.shown(row, "scored") for row in sexes.rows},
        flagged=None if model.flagged is None or model.patients is None else (model.flagged, model.patients),
        quality_flags=_flags(released),
        ages=None if ages is None else {row: ages.shown(row, "scored") for row in ages.rows},
    )
    blocks = _tables(found, f"drift{suffix}", f"Against what {model.label} was made from: {model.reference.data}")
    if scores is not None:
        before = model.reference.features[LOG_ODDS]
        blocks.insert(
            0,
            _distributions(
                f"scores{suffix}",
                "Scores here and where the model was measured" + ("" if alone else f", {model.label}"),
                scores,
                ProtectedHistogram(before.edges, before.counts, before.missing),
                f"drift{suffix}",
            ),
        )
    return blocks


def _flags(released: Released) -> dict[str, tuple[int, int]]:
    table = released.quality_flags
    pairs = {row: (table.shown(row, "with"), table.row_total(row)) for row in table.rows}
    return {row: (some, total) for row, (some, total) in pairs.items() if some is not None and total}


def _runs(findings: Findings, released: Released) -> list[Block]:
    """Compare the last two runs, whichever model scored."""
    order = list(dict.fromkeys(run for by_run in released.features.values() for run in by_run))
    if len(order) < 2:
        return [Paragraph("There is one run, so that there is none before it to compare with.")]
    before, here = order[-2:]
    of_run = {run: model.bundle_sha256 for model in findings.models for run in model.run_ids}
    pick = {
        run: {name: by_run[run] for name, by_run in released.features.items() if run in by_run}
        for run in (before, here)
    }
    found = between_runs(
        pick[before], pick[here], same_model=of_run.get(before) == of_run.get(here), against=f"run {before}"
    )
    blocks = _tables(found, "drift_runs", f"Run {here} against the one before it, {before}")
    scores = released.features.get(LOG_ODDS, {})
    if before in scores and here in scores and of_run.get(before) == of_run.get(here):
        blocks.insert(
            0,
            _distributions("scores_of_runs", "Scores of the last two runs", scores[here], scores[before], "drift_runs"),
        )
    return blocks


def _tables(found: Drift, key: str, title: str) -> list[Block]:
    rows: list[tuple[Cell, ...]] = [_row(one) for one in found.features]
    notes = [f"Not compared: {TITLES.get(name, name)}, as {why}." for name, why in found.left_out.items()]
    blocks: list[Block] = [
        Table(
            key,
            title,
            [
                Column("feature", "What"),
                Column("median_before", "Median there", "number", digits=4),
                Column("median_here", "Median here", "number", digits=4),
                Column("shift", "Shift in IQR", "number", digits=2, signed=True),
                Column("psi", "PSI", "number", digits=2),
                Column("ks", "KS distance", "number", digits=2),
                Column("difference", "Difference"),
            ],
            rows,
            notes,
        )
    ]
    others: list[tuple[Cell, ...]] = [
        (
            one.name.removeprefix("flag ").replace("_", " "),
            one.before.value,
            one.here,
            one.difference,
            _WORDS[one.verdict],
        )
        for one in found.shares
        if one.before.value or one.here.value
    ]
    if others:
        blocks.append(
            Table(
                f"{key}_shares",
                f"{title}: shares",
                [
                    Column("what", "What"),
                    Column("before", "There", "share"),
                    Column("here", "Here (95%)", "share_interval"),
                    Column("change", "Difference (95%)", "share_interval", signed=True),
                    Column("difference", "Difference"),
                ],
                others,
            )
        )
    if found.advice:
        grave = found.verdict is Verdict.MARKED
        blocks.append(
            Remark("The differences are marked where the table says so. What to do:")
            if grave
            else Paragraph("What to do:")
        )
        blocks.append(Bullets(tuple(found.advice)))
    return blocks


def _row(one: Comparison) -> tuple[Cell, ...]:
    return (
        TITLES.get(one.feature, one.feature),
        one.median_before,
        one.median_here,
        one.shift,
        one.psi,
        one.ks,
        _WORDS[one.verdict],
    )


def _distributions(key: str, title: str, here: ProtectedHistogram, before: ProtectedHistogram, table: str) -> Figure:
    return distributions_figure(
        key,
        title,
        [("there", before.edges, before.counts), ("here", here.edges, here.counts)],
        x_title="log-odds of the calibrated probability",
        table=table,
    )
