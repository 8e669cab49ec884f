"""What readers found in a sample of these ECGs, and what more readings would bring."""

from __future__ import annotations

from screening.report.document import Block, Bullets, Cell, Column, Paragraph, Section, Table
from screening.report.findings import Findings, ModelFacts
from screening.report.validation import estimate, more_readings, transport

EXTRA = (50, 100, 200, 400, 800)


def validation(findings: Findings) -> Section:
    """Local sensitivity and specificity, whether the model's own hold here, and the worth of more readings."""
    read = [one for one in findings.models if one.validation is not None]
    blocks: list[Block] = []
    for one in read:
        blocks += _read(one)
    if len(read) < len(findings.models):
        blocks += [
            Paragraph(
                "No sample of these ECGs was read for every model, so its sensitivity and specificity are taken "
                "from elsewhere. What would settle it, in two commands:"
            ),
            Bullets(
                (
                    "screening validate sample --runs RUNS --catalog CATALOG --out sample --readings 300: draws "
                    "flagged and unflagged patients with known probabilities and writes blinded sheets with 12-lead "
                    "ECGs for a cardiologist;",
                    "screening validate import sample --readings readings.csv --reader NAME --runs RUNS: takes the "
                    "readings. The next report uses them.",
                )
            ),
        ]
    return Section("validation", "Local validation", blocks)


def _read(model: ModelFacts) -> list[Block]:
    of = model.validation
    assert of is not None
    found = estimate(of)
    readings = sum(one.read for one in of.strata)
    rows: list[tuple[Cell, ...]] = [
        ("Sensitivity", found.sensitivity),
        ("Specificity", found.specificity),
        ("Prevalence, by these readings alone", found.prevalence),
    ]
    compared = transport(of, model.counts)
    if compared is not None:
        rows += [
            ("Sensitivity minus the model's own", compared.sensitivity),
            ("Specificity minus the model's own", compared.specificity),
        ]
    blocks: list[Block] = [
        Paragraph(
            f"{len(of.readers)} reader{'s' if len(of.readers) != 1 else ''} judged about {_rounded(readings)} ECGs "
            f"of flagged and unflagged patients of this archive, blinded to flag and score (imported {of.date}). "
            f"Reference standard: {of.reference}. Each reading counts for the patients that it was drawn to stand "
            "for."
        ),
        Table(
            f"local_{model.bundle_sha256[:8]}",
            f"What the readings say of {model.label}",
            [Column("what", "What"), Column("value", "Estimate (95%)", "share_interval")],
            rows,
        ),
    ]
    if compared is not None:
        blocks.append(Paragraph(compared.verdict))
    now = found.prevalence.high - found.prevalence.low
    more: list[tuple[Cell, ...]] = [
        (one.extra, one.flagged, one.unflagged, one.width, one.width - now)
        for one in more_readings(of, EXTRA)
        if one.extra
    ]
    if more:
        blocks.append(
            Table(
                f"more_readings_{model.bundle_sha256[:8]}",
                "What more readings would bring",
                [
                    Column("extra", "More readings", "count"),
                    Column("flagged", "of flagged patients", "count"),
                    Column("unflagged", "of unflagged patients", "count"),
                    Column("width", "Expected width of the interval", "share"),
                    Column("change", "Change from now", "share", signed=True),
                ],
                more,
                [f"Now the 95% interval of the prevalence is {100 * now:.1f} percentage points wide."],
            )
        )
    return blocks


def _rounded(count: int) -> str:
    return f"{10 * round(count / 10):,}" if count >= 10 else "few"
