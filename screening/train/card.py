"""The model card (Mitchell et al. 2019, arXiv 1810.03993), written from facts alone: nothing in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from screening.contract import NOTICE
from screening.model.bundle import Counts, OperatingCharacteristics


def render_card(
    *,
    name: str,
    version: str,
    data: str,
    citation: str,
    label_rule: str,
    counts: Mapping[str, Mapping[str, int]],
    calibration_prevalence: float,
    threshold: float,
    threshold_rule: str,
    measured: OperatingCharacteristics,
    preprocessing: Mapping[str, Any],
    architecture: Mapping[str, Any],
) -> str:
    """Return the card as Markdown.

    Parameters
    ----------
    citation
        Whose the data are and under which licence.
    counts
        Use of the records (trained, tuned, calibrated) -> ``records``, ``patients``, ``positives``.
    measured
        Figures carry ``value``, ``low`` and ``high`` (95% patient bootstrap); counts are at the threshold.
    """
    uses = "\n".join(
        f"| {use} | {of['records']:,} | {of['patients']:,} | {of['positives']:,} |" for use, of in counts.items()
    )
    figures = "\n".join(f"| {what} | {_figure(value)} |" for what, value in sorted(measured.figures.items()))
    groups = "\n".join(
        f"| {kind} | {group} | {_rates(counts_)} |"
        for kind, of in sorted(measured.subgroups.items())
        for group, counts_ in sorted(of.items())
    )
    return f"""# {name} {version}

{NOTICE}

MSAIC-Net (after arXiv 2606.06718): parallel dilated convolutions with channel attention on 12-lead ECGs, trained with a
focal and a supervised contrastive loss. It gives the calibrated probability that readers would state a myocardial
infarction, acute or old.

## Intended use

Retrospective screening of stored, resting 12-lead ECGs of adults: estimating how common infarction and scar are in an
archive (after correction for sensitivity and specificity), and finding records for review in research.

## Not for

- Diagnosis, triage, or any decision about a patient; live monitoring; acute chest pain.
- Children, exercise or ambulatory recordings, paced rhythm: hardly any of them were seen.
- Scar as seen on magnetic resonance imaging: the reference here is what readers of ECGs wrote.

## Data

{data}. {citation}

Labels, as readers or databases state them: {label_rule}

| use | records | patients | positive |
|---|---:|---:|---:|
{uses}

The SHA-256 of every record used is in `seen.parquet`; evaluation refuses records that are in it.

## Calibration and threshold

Platt scaling at a prevalence of {calibration_prevalence:.3f}; `probability` holds at that prevalence only. A record is
flagged at a probability of {threshold:.4f} or more. {threshold_rule}

## Figures

Measured on {measured.data}, against {measured.reference}. Intervals are 95% bootstraps over patients. Where this is
also the data of calibration and choice, the figures flatter the model.

| figure | value (95% interval) |
|---|---|
{figures}

| group | | TP | FN | TN | FP | sensitivity | specificity |
|---|---|---:|---:|---:|---:|---:|---:|
| all | | {_rates(measured.overall)} |
{groups}

## Limits

- Learnt and measured in one archive: sensitivity and specificity elsewhere, in another mix of diseases, will differ.
- Readers agree with each other only in part, and small, non-Q-wave and posterior infarctions leave little on an ECG.
- Groups with few records have wide intervals; none of the differences between groups above has been tested.
- Limb-lead reversal, left bundle branch block, pre-excitation, hypertrophy and early repolarisation imitate infarction.

## Ethics

A flag is no diagnosis and must not reach a record or an insurer as one. Estimates for small groups can identify people;
reports suppress small counts. This bundle holds weights, counts and hashes, and its stored ECGs are simulated.

## Technical

Input: `{json.dumps(preprocessing)}`

Network: `{json.dumps(architecture)}`
"""


def _figure(value: Any) -> str:
    if isinstance(value, Mapping):
        return f"{value['value']:.4f} ({value['low']:.4f} to {value['high']:.4f})"
    return f"{value:.4f}"


def _rates(counts: Counts) -> str:
    return (
        f"{counts.TP} | {counts.FN} | {counts.TN} | {counts.FP} | {_share(counts.sensitivity)} | "
        f"{_share(counts.specificity)}"
    )


def _share(value: float) -> str:
    return "-" if value != value else f"{value:.3f}"
