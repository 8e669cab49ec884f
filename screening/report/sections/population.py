"""Of whom the report speaks, and what became of every catalogued record."""

from __future__ import annotations

from collections.abc import Sequence

from screening.contract import REASONS, Reason
from screening.report.disclosure import Protected, Released
from screening.report.document import HIDDEN, Block, Cell, Column, Estimate, Paragraph, Remark, Section, Table
from screening.report.findings import Findings
from screening.report.flowchart import flow_figure
from screening.report.prevalence import wilson
from screening.signal.quality import FLAGS

INDEX_RULES = {
    "latest": "the latest scored ECG of each patient",
    "first": "the first scored ECG of each patient",
    "all": "every scored ECG, with intervals widened for patients who have several",
}
_STRATA = ("sex", "age", "site", "device", "year")
_UNLIKE = 0.05
"""Rejection rates of two sites that differ by more than this, with intervals apart, get a warning."""

_OUTCOMES = {
    "outside_period": "outside the period",
    "not_screened": "not screened yet",
    "changed": "changed in the archive since they were screened",
    "rejected": "rejected",
    "duplicates": "the same recording as another record",
    "repeats": "further ECGs of a patient",
}
"""What leaves the flow on its way, as in the figure."""


def population(findings: Findings) -> Section:
    """Frame, unit, condition and dates, as TRIPOD+AI and STARD-AI ask for."""
    frame = findings.frame
    asked = "all that is catalogued"
    if frame.since or frame.until:
        asked = f"{frame.since or 'the beginning'} to {frame.until or 'the end'}"
    dates = f"{frame.first_acquired} to {frame.last_acquired}" if frame.first_acquired else "not stated by the archive"
    rows: list[tuple[Cell, ...]] = [
        ("Archive", frame.archive),
        ("Catalog", frame.catalog_id[:12]),
        ("Period asked for", asked),
        ("ECGs recorded", dates),
        ("Unit", f"patients, by {INDEX_RULES[frame.index_rule]}"),
        ("Condition", "infarction or scar, as a reader of ECGs would state it from this ECG"),
        ("Index of results", f"version {frame.index_version}"),
        ("Report made", frame.made),
    ]
    return Section(
        "population",
        "Population",
        [
            Table("population", "What this report covers", [Column("item", "Item"), Column("value", "Value")], rows),
            Paragraph(
                "These are people of whom an ECG was recorded and kept. They are not a sample of a population at "
                "large: whoever was never examined is not among them, and who is examined often is sicker. The "
                "condition is a statement on an ECG; scar on magnetic resonance imaging is another one, and many "
                "scars leave no trace on an ECG."
            ),
        ],
    )


def flow(released: Released) -> Section:
    """Every catalogued record by what became of it, overall and by stratum, with quality flags."""
    return Section(
        "flow",
        "Flow of records and patients",
        [*_overall(released), *_reasons(released), *_strata(released), *_quality(released)],
    )


def _shown(count: int | None) -> Cell:
    return HIDDEN if count is None else count


def _total(name: str, released: Released) -> Cell:
    """Return a total, coarse where the count would give its hidden parts away."""
    if released.flow[name] is None and name in released.about:
        return f"about {released.about[name]:,}"
    return _shown(released.flow[name])


def _overall(released: Released) -> list[Block]:
    counts = released.flow
    rows: list[tuple[Cell, ...]] = [("Records in the catalog", "all", _total("catalogued", released))]
    rows += [
        (f"… {words}", "left out", _shown(counts[key])) for key, words in _OUTCOMES.items() if counts.get(key, 0) != 0
    ]
    rows += [
        ("Index ECGs, one a patient" if "repeats" in counts else "Index ECGs", "analysed", _shown(counts["index"])),
        ("Patients in the period", "all", _total("patients_catalogued", released)),
        ("… without a scored ECG", "left out", _shown(counts["patients_without_score"])),
    ]
    beside = [
        ("without_patient_key", "index ECGs whose patient the archive does not name; each counts as a patient"),
        ("undated", "records without a date"),
        ("future_dated", "records dated after this report was made: some archives shift dates; they are in no trend"),
        ("gone", "screened records that the catalog no longer has; they are not in this report"),
    ]
    notes = [
        f"{'Few' if counts[key] is None else f'{counts[key]:,}'} {words}."
        for key, words in beside
        if counts.get(key, 0) != 0
    ]
    return [
        flow_figure(counts, released.reasons["all"], about=released.about, round_to=released.settings.round_to),
        Table(
            "flow",
            "Records and patients",
            [Column("step", "Step"), Column("kind", "Kind"), Column("count", "Count", "count")],
            rows,
            notes,
        ),
    ]


def _reasons(released: Released) -> list[Block]:
    table = released.reasons["all"]
    if not table.columns or not table.rows:
        return [Paragraph("No record was rejected.")] if released.flow.get("rejected") == 0 else []
    rows = [
        (REASONS[Reason(reason)], reason, _shown(table.shown(table.rows[0], reason)))
        for reason in sorted(table.columns, key=lambda name: -(table.shown(table.rows[0], name) or 0))
    ]
    columns = [Column("meaning", "Why"), Column("reason", "Reason"), Column("records", "Records", "count")]
    return [Table("rejected", "Rejected records by reason", columns, rows)]


def _strata(released: Released) -> list[Block]:
    blocks: list[Block] = []
    for dimension in _STRATA:
        table = released.records.get(dimension)
        if table is None or len(table.rows) < 2:
            continue
        reasons = released.reasons.get(dimension)
        blocks.append(_outcomes(dimension, table, reasons))
        if dimension in ("site", "device"):
            blocks += _unlike(dimension, table)
    return blocks


def _outcomes(dimension: str, table: Protected, reasons: Protected | None) -> Table:
    """Return a dimension's records by outcome, without columns of which nothing can be shown, or in which there is nothing."""
    named = list(reasons.columns) if reasons is not None and reasons.rows else []
    columns = [
        Column("records", "Records", "count"),
        *(Column(name, words, "count") for name, words in _COLUMNS.items()),
        Column("rejection_rate", "Rejection rate (95%)", "share_interval"),
        *(Column(f"reason_{name}", name.replace("_", " "), "count") for name in named),
    ]
    cells = [
        [
            _shown(table.row_total(row)),
            *(_shown(table.shown(row, name)) for name in _COLUMNS),
            _rejection(table, row),
            *(_shown(reasons.shown(row, name)) if reasons else HIDDEN for name in named),
        ]
        for row in table.rows
    ]
    kept, untold = [], []
    for at, column in enumerate(columns):
        of = [row[at] for row in cells]
        if column.key == "scored" or any(isinstance(cell, Estimate) or (isinstance(cell, int) and cell) for cell in of):
            kept.append(at)
        elif HIDDEN in of and column.key != "rejection_rate":
            untold.append(column.title.lower())
    rejected = any(isinstance(row[2], int) and row[2] for row in cells)
    kept = [at for at in kept if columns[at].key != "rejection_rate" or rejected]
    notes = [f"Not told by {dimension}, as too few are concerned: {', '.join(untold)}."] if untold else []
    return Table(
        f"records_by_{dimension}",
        f"Records by {dimension}",
        [Column(dimension, dimension.capitalize()), *(columns[at] for at in kept)],
        [(row, *(of[at] for at in kept)) for row, of in zip(table.rows, cells, strict=True)],
        notes,
    )


_COLUMNS = {"scored": "Scored", "rejected": "Rejected", "not_screened": "Not screened", "changed": "Changed"}


def _rejection(table: Protected, row: str) -> Cell:
    scored, rejected = table.shown(row, "scored"), table.shown(row, "rejected")
    if scored is None or rejected is None:
        return HIDDEN
    return wilson(rejected, scored + rejected) if scored + rejected else None


def _unlike(dimension: str, table: Protected) -> list[Block]:
    """Warn where records are rejected much oftener in one place than in another: the rest is then not alike either."""
    found = [(row, rate) for row in table.rows if isinstance(rate := _rejection(table, row), Estimate)]
    if len(found) < 2:
        return []
    least, most = min(found, key=lambda one: one[1].value), max(found, key=lambda one: one[1].value)
    apart = most[1].low > least[1].high and most[1].value - least[1].value > _UNLIKE
    if not apart:
        return []
    return [
        Remark(
            f"Rejection rates differ by {dimension}: {most[1].value:.1%} of {most[0]}, {least[1].value:.1%} of "
            f"{least[0]}. What was rejected may not be like the rest, so compare their prevalences with care, and "
            "see why above."
        )
    ]


def _quality(released: Released) -> list[Block]:
    table = released.quality_flags
    rows: list[tuple[Cell, ...]] = [
        (FLAGS.get(row, _READER_FLAGS.get(row, row.replace("_", " "))), row, _shown(table.shown(row, "with")))
        for row in table.rows
        if table.shown(row, "with") != 0
    ]
    if not rows:
        return []
    columns: Sequence[Column] = [
        Column("meaning", "What is doubtful"),
        Column("flag", "Flag"),
        Column("records", "Scored records", "count"),
    ]
    return [Table("quality", "Quality flags of scored records", columns, rows, ["A record may have several flags."])]


_READER_FLAGS = {"derived_leads": "leads that the file lacked were computed from I and II"}
