"""What decides a flag, how often it is wrong, and where that was measured."""

from __future__ import annotations

from collections.abc import Sequence

from screening.report.document import HIDDEN, Block, Cell, Column, Paragraph, Remark, Section, Table
from screening.report.findings import Findings, ModelFacts
from screening.report.prevalence import wilson


def model(findings: Findings) -> Section:
    """Model, threshold and its errors, with the reference standard by name."""
    blocks: list[Block] = []
    for one in findings.models:
        blocks += _one(one, alone=len(findings.models) == 1)
    blocks.append(
        Paragraph(
            "Sensitivity and specificity belong to a threshold, a reference standard and a mix of patients. Carried to other "
            "patients they are an assumption, and prevalence depends on it more than on the number of patients screened: "
            "with few cases, a specificity that is lower by one point moves the estimate by more than one point."
        )
    )
    return Section("model", "The classifier and its errors", blocks)


SHOWN_RUNS = 8


def _runs(run_ids: Sequence[str]) -> str:
    """Return the runs, of many the last: a model scores every night for years, and report.json names them all."""
    if len(run_ids) <= SHOWN_RUNS:
        return ", ".join(run_ids)
    return f"{len(run_ids):,}, the last of them {', '.join(run_ids[-SHOWN_RUNS:])}"


def _one(of: ModelFacts, *, alone: bool) -> list[Block]:
    suffix = "" if alone else f"_{of.bundle_sha256[:8]}"
    rows: list[tuple[Cell, ...]] = [
        ("Model", of.label),
        ("Bundle (SHA-256)", of.bundle_sha256),
        ("Runs", _runs(of.run_ids)),
        ("Patients whose index ECG it scored", HIDDEN if of.patients is None else f"{of.patients:,}"),
        ("Flagged at a probability of", f"{of.threshold:.4f} or more"),
        ("How the threshold was fixed", of.threshold_rule),
        ("Probabilities hold at a prevalence of", f"{of.calibration_prevalence:.1%}"),
    ]
    blocks: list[Block] = [
        Table(
            f"model{suffix}",
            "Which model" if alone else f"Model {of.label}",
            [Column("item", "Item"), Column("value", "Value")],
            rows,
        ),
        _accuracies(of, suffix),
    ]
    if of.own is None:
        blocks.append(
            Remark(
                f"Model {of.label} carries no counts of true and false flags, so without local readings its flags cannot be "
                "corrected: draw a sample with `screening validate sample`, or train with nested cross-validation."
            )
        )
    elif of.own.source.startswith("tuning"):
        blocks.append(
            Remark(
                f"The counts of model {of.label} are of the records that fixed its threshold and calibration, which flatters "
                "them; train with nested cross-validation, or draw a local sample."
            )
        )
    return blocks


def _accuracies(of: ModelFacts, suffix: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    notes = []
    for accuracy in (of.local, of.own):
        if accuracy is not None:
            rows.append(
                (
                    accuracy.source[0].upper() + accuracy.source[1:],
                    "yes" if accuracy is of.used else "no",
                    _rate(accuracy.sensitivity, accuracy.n_sensitivity),
                    round(accuracy.n_sensitivity),
                    _rate(accuracy.specificity, accuracy.n_specificity),
                    round(accuracy.n_specificity),
                )
            )
            effective = (
                " Numbers of patients are effective ones, which have the variances." if accuracy is of.local else ""
            )
            notes.append(
                f"{accuracy.source[0].upper() + accuracy.source[1:]}: {accuracy.data}. Reference standard: "
                f"{accuracy.reference}.{effective}"
            )
    return Table(
        f"accuracy{suffix}",
        "Sensitivity and specificity at the threshold",
        [
            Column("source", "From"),
            Column("used", "Used"),
            Column("sensitivity", "Sensitivity (95%)", "share_interval"),
            Column("n_sensitivity", "Patients with", "count"),
            Column("specificity", "Specificity (95%)", "share_interval"),
            Column("n_specificity", "Patients without", "count"),
        ],
        rows,
        notes,
    )


def _rate(value: float, n: float) -> Cell:
    return wilson(value * n, n)
