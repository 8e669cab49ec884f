"""How many have it: the share of flagged patients, corrected in several ways, and how firm that is."""

from __future__ import annotations

from collections.abc import Sequence

from screening.report.document import (
    HIDDEN,
    Block,
    Cell,
    Column,
    Headline,
    Kind,
    NotEstimable,
    Paragraph,
    Remark,
    Section,
    Table,
)
from screening.report.figures import interval_figure
from screening.report.findings import Findings, ModelFacts
from screening.report.validation import transport


def summary(findings: Findings, waits: Sequence[str] = ()) -> Section:
    """Put first the figures that matter most, and what must be known with them."""
    standardised = findings.standardised
    items: list[tuple[str, Cell, Kind, str]] = [
        (
            "Estimated prevalence",
            findings.headline.cell,
            "share_interval",
            f"of infarction or scar on the ECG; {findings.headline.basis}",
        ),
        ("Patients", _count(findings.total.patients), "count", "with a scored ECG"),
        ("Flagged", findings.total.apparent, "share_interval", "of them, before any correction"),
        (
            "Age-standardised prevalence",
            standardised.adjusted,
            "share_interval",
            f"with the ages of: {standardised.population}",
        ),
    ]
    return Section(
        "summary", "Summary", [Headline(tuple(items)), *(Remark(one, "info") for one in waits), *_remarks(findings)]
    )


def _count(count: int | None) -> Cell:
    return HIDDEN if count is None else count


def _remarks(findings: Findings) -> list[Block]:
    remarks: list[Block] = []
    correction = findings.correction
    cell = findings.headline.cell
    if isinstance(cell, NotEstimable):
        remarks.append(Remark(f"The prevalence cannot be estimated: {cell.why}"))
    if correction.truncated and correction.raw is not None and correction.raw > 1:
        remarks.append(
            Remark(
                f"The correction gives {correction.raw:.1%}, which is above all, and 100% is shown: sensitivity is higher or "
                "specificity lower here than was measured."
            )
        )
    elif correction.truncated and correction.raw is not None:
        said = (
            f"The correction gives {correction.raw:.1%}, which is below nothing, and 0% is shown: either few or none "
            "have the condition and chance did the rest, or the specificity is higher here than was measured."
        )
        if correction.probability_of_so_few is not None:
            so_few = correction.probability_of_so_few
            said += f" With nobody affected, so few flags would be seen with a probability of {so_few:.2g}."
        remarks.append(Remark(said))
    if correction.disagreement:
        remarks.append(Remark(correction.disagreement))
    if not any(model.local for model in findings.models):
        remarks.append(
            Remark(
                "Sensitivity and specificity were measured elsewhere and are assumed to hold here. Nobody has read "
                "a sample of these ECGs: `screening validate sample` draws one, and this report then uses it."
            )
        )
    for model in findings.models:
        if (verdict := _verdict(model)) is not None:
            remarks.append(Remark(verdict))
    seen = findings.frame.seen_in_training
    if seen is None or seen:
        many = "Some" if seen is None else f"{seen:,}"
        remarks.append(
            Remark(
                f"{many} of the index ECGs were used to make the model (trained, tuned or calibrated it). On them it "
                "errs less than its counts say: read every estimate from them as an illustration."
            )
        )
    if findings.frame.exact:
        remarks.append(
            Remark("This report shows exact counts. It must not be shared: small groups can be recognised in it.")
        )
    remarks.append(
        Remark(
            "No flag is a diagnosis. These are estimates of a share of patients, not statements on any of them.", "info"
        )
    )
    return remarks


def _verdict(model: ModelFacts) -> str | None:
    """Return that the bundle's counts do not hold here, where local readings show it."""
    found = transport(model.validation, model.counts) if model.validation is not None else None
    if found is None or all(one.low <= 0 <= one.high for one in (found.sensitivity, found.specificity)):
        return None
    return found.verdict


def prevalence(findings: Findings) -> Section:
    """Every estimator side by side, and what moves the estimate."""
    correction = findings.correction
    columns = [
        Column("estimator", "Estimator"),
        Column("prevalence", "Prevalence (95%)", "share_interval"),
        Column("basis", "Rests on"),
    ]
    blocks: list[Block] = [
        interval_figure(
            "estimators_figure",
            "Prevalence among the patients, by estimator",
            [(one.name, [one.cell]) for one in findings.estimators],
            table="estimators",
        ),
        Table(
            "estimators",
            "Prevalence among the patients, by estimator",
            columns,
            [(e.name, e.cell, e.basis) for e in findings.estimators],
        ),
        Paragraph(
            "The share flagged counts false flags and misses true cases. Rogan and Gladen's estimator removes both "
            "by sensitivity and specificity; its interval (Lang and Reiczigel) carries their uncertainty too. The "
            "estimates from score distributions use no threshold: they find the share of cases at which the "
            "distribution of calibrated probabilities is explained best, and assume that cases look here as they "
            "did where the model was calibrated. Estimators that rest on different assumptions and disagree say "
            "that one of these does not hold."
        ),
    ]
    if correction.by_specificity:
        blocks.append(
            Table(
                "by_specificity",
                "What the estimate would be if the specificity were another",
                [Column("specificity", "Specificity", "share"), Column("prevalence", "Prevalence", "share_interval")],
                list(correction.by_specificity),
                [
                    f"At a specificity of {correction.tipping_specificity:.1%} all flags would be false ones (the "
                    "tipping point)."
                ]
                if correction.tipping_specificity is not None
                else [],
            )
        )
    if correction.priors:
        blocks.append(
            Table(
                "priors",
                "The Bayesian estimate under other priors",
                [
                    Column("prior", "Prior of the prevalence"),
                    Column("prevalence", "Prevalence (95% credible)", "share_interval"),
                ],
                list(correction.priors),
            )
        )
    if len(correction.by_model) > 1:
        blocks.append(
            Table(
                "by_model",
                "By the model that scored, each corrected with its own errors",
                [Column("model", "Model"), Column("prevalence", "Prevalence (95%)", "share_interval")],
                list(correction.by_model),
            )
        )
    return Section("prevalence", "How many", blocks)
