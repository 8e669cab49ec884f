"""The model card (Mitchell et al. 2019, arXiv 1810.03993), written from facts alone: no figure in it is typed by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from screening.contract import NOTICE
from screening.model.bundle import Counts, OperatingCharacteristics
from screening.train.evaluate import TASKS
from screening.train.reversal import Changes
from screening.train.subgroups import KNOWN_FAILURES, SMALLEST_GROUP, SMALLEST_PLACE, rates, wilson

CALIBRATION_PLOT = "calibration.png"
"""Name of the picture that the card shows; it stands beside the card in the bundle."""

_MEASURES = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1 at the threshold", "best_f1": "highest F1 over thresholds"}


@dataclass(frozen=True)
class Results:
    """How one set of predictions compares with the labels."""

    characteristics: OperatingCharacteristics  # counts at the threshold, one ECG a patient
    tasks: Mapping[str, Any]  # what evaluate.evaluate returned
    calibration: Mapping[str, Any] | None  # what calibration.reliability returned; None where a class was absent


@dataclass(frozen=True)
class Cost:
    """What scoring takes."""

    parameters: int
    mflop: float  # a record; a multiply and an add are two
    records_per_s_a_core: float | None = None  # None: not measured
    measured_on: str = ""  # the machine of the last


@dataclass(frozen=True)
class CardFacts:
    """Everything that the card says of one model."""

    name: str
    version: str
    data: str  # name of the archive
    citation: str  # whose the data are and under which licence
    label_rule: Mapping[str, Any]  # its settings, with ``name``
    counts: Mapping[str, Mapping[str, int]]  # use (trained, tuned, calibrated) -> records, patients, positives
    left_out: Mapping[str, int]  # reason -> records of the archive that were not used
    how_chosen: str  # sentences: folds, what was tried, what decided
    settings: Mapping[str, Any]  # of the training, JSON values
    calibration_prevalence: float
    threshold: float
    threshold_rule: str
    tuned: Results  # on the very records that chose, calibrated and cut
    preprocessing: Mapping[str, Any]
    architecture: Mapping[str, Any]
    cost: Cost
    nested: Results | None = None  # out-of-fold predictions of nested cross-validation
    reversal: Mapping[str, Changes] = field(default_factory=dict)  # what reversal.flags_under_exchange returned
    reversal_data: str = ""  # on which records
    comparisons: str = ""  # Markdown tables against other models


def choice_in_words(
    *,
    train_folds: Sequence[int],
    tune_folds: Sequence[int],
    rates_tried: Mapping[float, float],
    learning_rate: float,
    keep: str,
    best_epoch: int,
    epochs_run: int,
    epochs: int,
) -> str:
    """Return in sentences how the network came to be; ``rates_tried`` maps a learning rate to its tuning AUROC."""
    tuning = _folds(tune_folds)
    tried = f"The learning rate was {learning_rate:g}."
    if rates_tried:
        scores = ", ".join(f"{rate:g} ({score:.4f})" for rate, score in sorted(rates_tried.items()))
        tried = (
            f"Of the learning rates {scores}, {learning_rate:g} gave the best AUROC on {tuning} (in brackets) after a "
            "short training."
        )
    kept = f"The network at the end of {epochs} epochs was taken."
    if keep == "best":
        kept = (
            f"Of {epochs_run} epochs run (at most {epochs}), that with the best AUROC of infarction against everything "
            f"else on {tuning} was taken, the {_ordinal(best_epoch + 1)}."
        )
    return f"Trained on {_folds(train_folds)}. {tried} {kept} Patients are never in both sets."


def _folds(folds: Sequence[int]) -> str:
    if len(folds) == 1:
        return f"fold {folds[0]}"
    ordered = sorted(folds)
    if len(folds) > 2 and ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"folds {ordered[0]} to {ordered[-1]}"
    return "folds " + ", ".join(map(str, ordered))


def _ordinal(number: int) -> str:
    ending = "th" if number % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
    return f"{number}{ending}"


def render_card(facts: CardFacts) -> str:
    """Return the card as Markdown; it shows the picture ``CALIBRATION_PLOT`` where there is a calibration."""
    best = facts.nested or facts.tuned
    parts = [
        f"# {facts.name} {facts.version}\n\n{NOTICE}\n\n{_what(facts.architecture)} It gives the calibrated probability "
        "that readers of the ECG would state a myocardial infarction, acute or old.",
        _USE,
        _data(facts),
        _training(facts),
        _figures(facts),
        _calibration(facts, best),
        _subgroups(best),
        _failures(facts, best),
        f"## Compared with other models\n\n{facts.comparisons.strip()}" if facts.comparisons.strip() else "",
        _cost(facts.cost),
        _LIMITS,
        _ETHICS,
        f"## Technical\n\nInput: `{json.dumps(dict(facts.preprocessing))}`\n\n"
        f"Network: `{json.dumps(dict(facts.architecture))}`\n\nTraining: `{json.dumps(dict(facts.settings))}`",
    ]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


_USE = """## Intended use

Retrospective screening of stored, resting 12-lead ECGs of adults: estimating how common infarction and scar are in an
archive (after correction for sensitivity and specificity), and finding records for review in research.

## Not for

- Diagnosis, triage, or any decision about a patient; live monitoring; acute chest pain.
- Children, and exercise or ambulatory recordings: none or hardly any were seen.
- Scar as seen on magnetic resonance imaging: the reference here is what readers of ECGs wrote."""

_LIMITS = """## Limits

- Learnt and measured in one archive: sensitivity and specificity elsewhere, in another mix of diseases, will differ.
- Readers agree with each other only in part, and small, non-Q-wave and posterior infarctions leave little on an ECG.
- Groups with few patients have wide intervals; no difference between groups above has been tested.
- Bundle branch block, pacing, pre-excitation, hypertrophy, early repolarisation and exchanged electrodes imitate
  infarction and can be flagged for it: see the known failures, where few ECGs stand behind many rows."""

_ETHICS = """## Ethics

A flag is no diagnosis and must not reach a record or an insurer as one. Estimates for small groups can identify people;
reports suppress small counts, this card does not: share it as freely as the archive's owner allows, and no further. This
bundle holds weights, counts, hashes of records and, where nested cross-validation
was run, scores by hash; its stored ECGs are simulated."""


def _what(architecture: Mapping[str, Any]) -> str:
    kind = architecture.get("kind", "msaic")
    if kind == "msaic":
        return (
            "MSAIC-Net (after arXiv 2606.06718): parallel dilated convolutions with channel attention on 12-lead ECGs, "
            "trained with a focal and a contrastive loss."
        )
    return f"A network of kind `{kind}` on 12-lead ECGs."


def _data(facts: CardFacts) -> str:
    uses = [
        f"| {use} | {of['records']:,} | {of['patients']:,} | {of['positives']:,} |" for use, of in facts.counts.items()
    ]
    left = [f"| {reason} | {count:,} |" for reason, count in sorted(facts.left_out.items())]
    excluded = _table(["left out", "records"], left) if left else "No record of the archive was left out."
    return f"""## Data

{facts.data}. {facts.citation}

{_table(["use", "records", "patients", "positive"], uses)}

{excluded}

The SHA-256 of every record used is in `seen.parquet`; evaluation and gate refuse records that are in it.

**What a label means.** Rule `{facts.label_rule.get("name", "custom")}`: a record is positive where a reader, or a
database, states an infarction. That is not scar on magnetic resonance imaging, and no other test confirmed it.

Settings of the rule: `{json.dumps(dict(facts.label_rule))}`"""


def _training(facts: CardFacts) -> str:
    return f"""## Training and choice

{facts.how_chosen}

Platt scaling on one ECG a patient, at a prevalence of {facts.calibration_prevalence:.3f}; `probability` holds at that
prevalence only. A record is flagged at a probability of {facts.threshold:.4f} or more. {facts.threshold_rule}"""


def _figures(facts: CardFacts) -> str:
    parts = ["## Figures", "Intervals are 95% bootstraps over patients."]
    if facts.nested:
        parts += [
            "### By nested cross-validation",
            "The whole procedure (training, choice, calibration, threshold) was repeated without each outer fold and "
            "judged on it. These are the figures to use: no record was judged by a network, a calibration or a "
            "threshold that it had a part in.",
            _measured(facts.nested),
            "### On the tuning fold",
            "The network that ships, on the records that chose its learning rate, calibrated it and fixed its threshold: "
            "these figures flatter it, and show only that it is of the same kind as those above.",
            _measured(facts.tuned),
        ]
    else:
        parts += [
            "Nested cross-validation was not run. The figures below are of the records that chose the epoch, "
            "calibrated the network and fixed its threshold: they flatter it.",
            _measured(facts.tuned),
        ]
    return "\n\n".join(parts)


def _measured(measured: Results) -> str:
    tasks = [task for task in TASKS if task in measured.tasks]
    names = list(dict.fromkeys(name for task in tasks for name, v in measured.tasks[task].items() if _is_figure(v)))
    rows = [
        f"| {what} | " + " | ".join(f"{measured.tasks[task].get(key, 0):,}" for task in tasks) + " |"
        for key, what in (("n", "ECGs"), ("patients", "patients"), ("positives", "positive ECGs"))
    ]
    rows += [
        f"| {_named(name)} | " + " | ".join(_value(measured.tasks[task].get(name)) for task in tasks) + " |"
        for name in names
    ]
    overall = measured.characteristics.overall
    return f"""Measured on {measured.characteristics.data}, against {measured.characteristics.reference}.

{_table(["", *tasks], rows)}

At the threshold, one ECG a patient, infarction against everything else:

{_table(["TP", "FN", "TN", "FP", "sensitivity", "specificity"], [f"| {_counts(overall)} |"])}"""


def _calibration(facts: CardFacts, best: Results) -> str:
    of = best.calibration
    if of is None:
        return "## Calibration\n\nNot measured: one of the two classes is absent."
    slope = (
        f"slope {of['slope']:.2f} and intercept {round(of['intercept'], 2) + 0.0:.2f} of the log-odds (1 and 0 are perfect)"
        if of.get("slope") is not None
        else "slope and intercept could not be fitted"
    )
    which = (
        "out-of-fold predictions of nested cross-validation"
        if facts.nested
        else "the very records it was calibrated on, which flatters it"
    )
    rows = [
        f"| {row['n']:,} | {row['mean_probability']:.3f} | {_share(round(row['frequency'] * row['n']), row['n'])} |"
        for row in of["bins"]
    ]
    return f"""## Calibration

On {which}, one ECG a patient: expected calibration error {of["expected_calibration_error"]:.3f}, Brier score
{of["brier"]:.3f}, {slope}.

![Reliability of the probabilities]({CALIBRATION_PLOT})

{_table(["patients", "mean probability", "share with infarction (95%)"], rows)}"""


def _subgroups(best: Results) -> str:
    groups = best.characteristics.subgroups
    rows = [f"| all | | {_group(best.characteristics.overall)} |"] + [
        f"| {kind} | {_cell(group)} | {_group(counts)} |"
        for kind in groups
        if kind != KNOWN_FAILURES
        for group, counts in groups[kind].items()
    ]
    return f"""## Subgroups

At the threshold, one ECG a patient; Wilson 95% intervals. Sites and devices with fewer than {SMALLEST_PLACE} patients
are pooled as "other"; other groups of fewer than {SMALLEST_GROUP} are left out.

{_table(_GROUP_HEAD, rows)}"""


_GROUP_HEAD = ["", "group", "patients", "TP", "FN", "TN", "FP", "sensitivity", "specificity"]


def _failures(facts: CardFacts, best: Results) -> str:
    known = best.characteristics.subgroups.get(KNOWN_FAILURES, {})
    parts = ["## Known failures"]
    if known:
        rows = [f"| all | {_group(best.characteristics.overall)} |"] + [
            f"| {_cell(what)} | {_group(counts)} |" for what, counts in known.items()
        ]
        parts += [
            "ECGs on which readers also state what imitates or hides an infarct; a patient may be in several rows.",
            _table(["stated on the ECG", *_GROUP_HEAD[2:]], rows),
        ]
    else:
        parts.append(
            f"No statement of what imitates or hides an infarct is on {SMALLEST_GROUP} or more of the ECGs measured."
        )
    if facts.reversal:
        rows = [
            f"| {_cell(what)} | {who} | {of['n']:,} | {_share(of['flagged'], of['n'])} | "
            f"{_share(of['flagged_exchanged'], of['n'])} | {of['gained']:,} | {of['lost']:,} | "
            + (f"{_share(of['noticed'], of['n'])} |" if "noticed" in of else "not checked |")
            for what, changes in facts.reversal.items()
            for who, of in changes.items()
        ]
        parts += [
            f"Exchanged electrodes, simulated on {facts.reversal_data or 'the tuning records'}: the share flagged as "
            "recorded and after the exchange, how many flags came and went, and the share in which the quality check "
            "notices the exchange.",
            _table(
                ["exchanged", "ECGs", "n", "flagged as recorded", "flagged exchanged", "came", "went", "noticed"], rows
            ),
        ]
    else:
        parts.append("Exchanged electrodes were not simulated.")
    return "\n\n".join(parts)


def _cost(cost: Cost) -> str:
    fast = ""
    if cost.records_per_s_a_core is not None:
        where = f" ({cost.measured_on})" if cost.measured_on else ""
        fast = f"; {cost.records_per_s_a_core:,.0f} records a second on one CPU core{where}, the network alone"
    return f"## Cost\n\n{cost.parameters:,} parameters, {cost.mflop:,.1f} million floating-point operations a record{fast}."


def _table(head: list[str], rows: list[str]) -> str:
    numbers = {"records", "patients", "positive", "n", "TP", "FN", "TN", "FP", "came", "went", "mean probability"}
    rule = "|".join("---:" if name in numbers else "---" for name in head)
    return "\n".join(["| " + " | ".join(head) + " |", f"|{rule}|", *rows])


def _group(counts: Counts) -> str:
    return f"{counts.TP + counts.FN + counts.TN + counts.FP:,} | {_counts(counts)}"


def _counts(counts: Counts) -> str:
    of = rates(counts)
    return (
        f"{counts.TP:,} | {counts.FN:,} | {counts.TN:,} | {counts.FP:,} | {_value(of.get('sensitivity'))} | "
        f"{_value(of.get('specificity'))}"
    )


def _share(successes: int, n: int) -> str:
    if not n:
        return "-"
    low, high = wilson(successes, n)
    return _value({"value": successes / n, "low": low, "high": high})


def _is_figure(value: Any) -> bool:
    return isinstance(value, Mapping) and {"value", "low", "high"} <= set(value)


def _value(figure: Mapping[str, float] | None) -> str:
    if figure is None:
        return "-"
    return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"


def _named(measure: str) -> str:
    stem = "sensitivity_at_specificity_"
    return (
        f"sensitivity at specificity {measure.removeprefix(stem)}" if measure.startswith(stem) else _MEASURES[measure]
    )


def _cell(text: str) -> str:
    """Return a name from an archive as a cell that cannot break its table."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")
