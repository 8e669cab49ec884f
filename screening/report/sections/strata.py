"""In whom, and since when: prevalence by group, standardised, and over calendar time."""

from __future__ import annotations

from collections.abc import Sequence

from screening.report.document import HIDDEN, Block, Cell, Column, Estimate, Paragraph, Remark, Section, Table
from screening.report.figures import interval_figure, trend_figure
from screening.report.findings import Findings, Group, estimate_of

_TITLES = {"sex": "Sex", "age": "Age", "site": "Site", "device": "Device", "conduction": "Conduction"}


def strata(findings: Findings) -> Section:
    """Prevalence by sex, age, site and device, and directly standardised."""
    blocks: list[Block] = [
        Paragraph(
            "Each group is corrected by itself. Sensitivity and specificity differ between groups and were measured "
            "on few patients of each, so the group's own figures are drawn towards those of all, the more the fewer "
            "there are (partial pooling); for groups in which they were never measured they are as uncertain as "
            "groups differ. The last column uses one sensitivity and one specificity for all, for comparison."
        )
    ]
    total = estimate_of(findings.headline.cell)
    for dimension, title in _TITLES.items():
        groups = findings.groups.get(dimension, ())
        if len(groups) < 2:
            continue
        rows = [(group.name, [group.apparent, group.adjusted]) for group in groups]
        blocks += [
            interval_figure(
                f"prevalence_by_{dimension}",
                f"Prevalence by {dimension}",
                rows,
                series=("Flagged", "Prevalence"),
                reference=("All patients", total) if total else None,
                ordered=dimension == "age",
                table=f"by_{dimension}",
            ),
            _table(f"by_{dimension}", f"Patients by {dimension}", title, groups),
        ]
        if dimension == "conduction":
            blocks.append(
                Paragraph(
                    "A paced rhythm, left bundle branch block, pre-excitation or another wide QRS complex hides an old "
                    "infarction, or looks like one: the network's accuracy there is not that of other patients. 'None of "
                    "these' is the prevalence without them, 'All patients' that with them. They are what the archive's "
                    "statements and the machine's QRS duration say."
                )
            )
    return Section("strata", "In whom", [*blocks, *_standardised(findings), *_apart(findings)])


def _table(key: str, title: str, first: str, groups: Sequence[Group]) -> Table:
    compared = any(isinstance(group.difference, Estimate) for group in groups)
    columns = [
        Column(first.lower(), first),
        Column("patients", "Patients", "count"),
        Column("flagged", "Flagged", "count"),
        Column("apparent", "Share flagged (95%)", "share_interval"),
        Column("prevalence", "Prevalence (95%)", "share_interval"),
        Column("prevalence_shared", "… with one sensitivity and specificity for all", "share_interval"),
    ]
    if compared:
        columns.append(Column("difference", "Prevalence minus that of all others", "share_interval", signed=True))
    rows = [
        (
            group.name,
            HIDDEN if group.patients is None else group.patients,
            HIDDEN if group.flagged is None else group.flagged,
            group.apparent,
            group.adjusted,
            group.shared,
            *([group.difference] if compared else []),
        )
        for group in groups
    ]
    notes = ["The intervals of the differences hold for all rows at once with 95%."] if compared else []
    return Table(key, title, columns, rows, notes)


def _standardised(findings: Findings) -> list[Block]:
    of = findings.standardised
    rows: list[tuple[Cell, ...]] = [
        ("Share flagged", findings.total.apparent, of.apparent),
        ("Prevalence", findings.headline.cell, of.adjusted),
    ]
    blocks: list[Block] = [
        Table(
            "standardised",
            f"Standardised by age: {of.population}",
            [
                Column("what", "What"),
                Column("crude", "As observed (95%)", "share_interval"),
                Column("standardised", "Standardised (95%)", "share_interval"),
            ],
            rows,
            [
                f"Directly standardised over the age bands {', '.join(of.bands)}; estimates of bands are not cut off "
                f"at zero before they are weighted, the sum is. Weights: {of.source}.",
                "The bands are those in which enough patients are flagged to be shown; patients of unknown age are "
                "left out.",
            ],
        )
    ]
    return blocks


def _apart(findings: Findings) -> list[Block]:
    """Say which sites differ from all others, beyond what chance gives among so many."""
    known = [(group.name, of) for group in findings.groups.get("site", ()) if (of := estimate_of(group.difference))]
    if len(known) < 2:
        return []
    apart = [name for name, of in known if of.low > 0 or of.high < 0]
    if not apart:
        return [
            Paragraph("No site's prevalence differs from that of all others by more than chance and accuracy explain.")
        ]
    return [
        Remark(
            f"{len(apart)} of {len(known)} sites differ from all others together, by more than chance among so many would "
            f"explain: {', '.join(apart)}. Look at case mix, rejection rates and devices before anything else.",
            "info",
        )
    ]


def trend(findings: Findings) -> Section:
    """Prevalence by year and month."""
    of = findings.trend
    blocks: list[Block] = [
        Paragraph(
            "A patient counts once in every year and once in every month in which an ECG was scored, by the index "
            "rule within it. The trend is of those who were examined: who is sent for an ECG changes over the years "
            "too."
        )
    ]
    years, months = list(of.years), list(of.months)
    if not years:
        return Section("trend", "Since when", [*blocks, Paragraph("The archive states no dates that could be used.")])
    for key, title, groups in (("by_year", "Prevalence by year", years), ("by_month", "Prevalence by month", months)):
        if len([group for group in groups if isinstance(group.apparent, Estimate)]) < 2:
            continue
        blocks.append(
            trend_figure(
                f"trend_{key}",
                title,
                [group.name for group in groups],
                {"Flagged": [group.apparent for group in groups], "Prevalence": [group.adjusted for group in groups]},
                table=key,
            )
        )
    change = estimate_of(of.per_year)
    if change is not None:
        direction = (
            "no clear change" if change.low <= 0 <= change.high else ("a rise" if change.value > 0 else "a fall")
        )
        blocks.append(
            Paragraph(
                f"Fitted over the years shown: {direction}, {100 * change.value:+.2f} percentage points a year "
                f"({100 * change.low:+.2f} to {100 * change.high:+.2f})."
            )
        )
    blocks.append(_table("by_year", "Patients by year", "Year", years))
    if months:
        blocks.append(_table("by_month", "Patients by month", "Month", months))
    if of.left_out:
        blocks.append(Paragraph(of.left_out))
    return Section("trend", "Since when", blocks)
