"""From finished trials to tables: figures with intervals, and each model's difference from the reference."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from screening.errors import UserError
from screening.model.calibration import reliability
from screening.model.classifier import NetworkConfig, count_flop, count_parameters
from screening.study.parts import Part
from screening.train.data import TrainingSet
from screening.train.evaluate import TASKS, Scored, evaluate_together
from screening.train.fit import predict
from screening.train.trials import TrialResult, TrialStore

MEASURES = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "sensitivity_at_specificity_0.95": "Se at Sp 0.95"}


@dataclass(frozen=True)
class Row:
    """One model of a part."""

    model: str
    tasks: Mapping[str, Any]  # see train.evaluate.evaluate
    differences: Mapping[str, Any] | None  # from the reference, see train.evaluate.compare; None for the reference
    calibration: Mapping[str, Any]
    chosen_rates: tuple[float, ...]  # one a split
    seconds: float  # of training and testing, all splits
    parameters: int
    mflop: float  # a record


def finished(part: Part, store: TrialStore, catalog_id: str) -> dict[str, list[TrialResult]]:
    """Return the results of each model that has all of them."""
    found = {}
    for model, trials in part.trials().items():
        results = [store.read(trial.key(catalog_id)) for trial in trials]
        if all(result is not None for result in results):
            found[model] = [result for result in results if result is not None]
    return found


def make_rows(
    part: Part, results: Mapping[str, Sequence[TrialResult]], data: TrainingSet, *, resamples: int = 1000
) -> list[Row]:
    """Return a row for each model.

    Records stand once for each split that tests them; networks of different splits are ranked apart, and a figure is the
    mean over splits, with a bootstrap over patients. The interval covers the choice of patients and not that of seeds.

    Raises
    ------
    UserError
        The reference has no result, or a result is of other records than the data.
    """
    if part.reference not in results:
        raise UserError(f"the part {part.title!r} has no finished {part.reference}, which the others are compared with")
    place = {sha256: at for at, sha256 in enumerate(data.record_sha256.tolist())}
    results = {**results, **_ensembles(part, results)}
    scored, rows = {}, None
    for model, of in results.items():
        try:
            index = np.concatenate([[place[sha256] for sha256 in r.record_sha256.tolist()] for r in of])
        except KeyError:
            raise UserError(f"the results of {model} are of records that the catalog does not hold any more") from None
        if rows is not None and not np.array_equal(index, rows):
            raise UserError(f"the results of {model} are of other records than those of {part.reference}")
        rows = index
        scored[model] = Scored(
            np.concatenate([r.probability for r in of]),
            np.concatenate([r.flagged for r in of]),
            np.concatenate([np.full(len(r.logit), number) for number, r in enumerate(of)]),
        )
    columns = data.target[rows], data.label[rows], data.patient_key[rows]
    figures = evaluate_together(scored, *columns, reference=part.reference, resamples=resamples)
    out = []
    for model, of in results.items():
        members = part.ensembles.get(model, (model,))
        configs = [(part.models[member].network.build(), part.preprocessing_of(member).samples) for member in members]
        out.append(
            Row(
                model=model,
                tasks=figures[model].tasks,
                differences=figures[model].differences,
                calibration=reliability(scored[model].score, columns[0]),
                chosen_rates=tuple(float(r.facts["learning_rate"]) for r in of),
                seconds=sum(float(r.facts["seconds"]) for r in of),
                parameters=sum(count_parameters(network) for network, _ in configs),
                mflop=sum(count_flop(network, samples) for network, samples in configs) / 1e6,
            )
        )
    return out


def _ensembles(part: Part, results: Mapping[str, Sequence[TrialResult]]) -> dict[str, list[TrialResult]]:
    """Return what the mean of several models' probabilities gives, cut at the mean of their thresholds."""
    found = {}
    for name, members in part.ensembles.items():
        if not all(member in results for member in members):
            continue
        found[name] = [_mean(of) for of in zip(*(results[member] for member in members), strict=True)]
    return found


def _mean(of: Sequence[TrialResult]) -> TrialResult:
    probability = np.mean([one.probability for one in of], axis=0)
    threshold = np.mean([float(one.facts["threshold"]) for one in of])
    facts = {**of[0].facts, "seconds": sum(float(one.facts["seconds"]) for one in of)}
    logit = np.log(probability / (1 - probability)).astype(np.float32)
    return TrialResult(of[0].record_sha256, logit, probability, probability >= threshold, facts)


def render(part: Part, rows: Sequence[Row], speed: Mapping[str, float] | None = None) -> str:
    """Return a part as Markdown tables, one a task."""
    lines = [f"### {part.title}", "", describe(part), ""]
    first = rows[0].tasks
    for task in TASKS:
        counts = first[task]
        lines += [
            f"**{task}** ({counts['n']:,} ECGs of {counts['patients']:,} patients, {counts['positives']:,} positive)",
            "",
            "| model | " + " | ".join(MEASURES.values()) + f" | AUROC against {part.reference} | AUPRC |",
            "|---|" + "---|" * (len(MEASURES) + 2),
        ]
        for row in rows:
            cells = [_value(row.tasks[task][measure]) for measure in MEASURES]
            against = ["-", "-"]
            if row.differences is not None:
                against = [_difference(row.differences[task][measure]) for measure in ("auroc", "auprc")]
            lines.append(f"| {row.model} | " + " | ".join([*cells, *against]) + " |")
        lines.append("")
    lines += [
        "| model | parameters | MFLOP a record |"
        + (" records/s a core |" if speed else "")
        + " ECE | slope | learning rates chosen |",
        "|---|---:|---:|" + ("---:|" if speed else "") + "---:|---:|---|",
    ]
    for row in rows:
        rates = ", ".join(f"{rate:g}" for rate in row.chosen_rates[:3]) + ("" if len(row.chosen_rates) < 4 else ", ...")
        fast = ""
        if speed:
            fast = f" {speed[row.model]:,.0f} |" if row.model in speed else " - |"
        calibration = row.calibration
        slope = "-" if calibration["slope"] is None else f"{calibration['slope']:.2f}"
        lines.append(
            f"| {row.model} | {row.parameters:,} | {row.mflop:,.0f} |{fast} {calibration['expected_calibration_error']:.3f} | "
            f"{slope} | {rates} |"
        )
    return "\n".join(lines) + "\n"


def describe(part: Part) -> str:
    """Return in sentences how the models of a part were trained and tested."""
    models = list(part.models.values())
    tested = sorted({fold for split in part.splits for fold in split.test})
    rates = {len(of.learning_rates) for of in models}
    epochs = "-".join(map(str, sorted({of.fit.epochs for of in models})))
    sample = part.splits[0].sample
    chosen = (
        f"of {rates.pop()} learning rates, each tried for {models[0].trial_epochs} epochs, the best on the tuning records is "
        f"trained for {epochs}"
        if rates != {0}
        else f"trained for {epochs} epochs at one learning rate"
    )
    trained = (
        "the other folds train and tune"
        if sample is None
        else f"a random {sample} ECGs of the others train and tune (8:2)"
    )
    return (
        f"{len(part.splits)} networks a model: folds {tested[0]} to {tested[-1]} are tested by networks that saw neither them "
        f"nor their patients; {trained}. Every model has the same records, augmentation and budget: {chosen}; calibration and "
        "threshold (specificity 0.95) come from the tuning records too. Figures are means over the networks, with 95% "
        "bootstraps over patients; differences are paired. The intervals do not cover the luck of a seed."
        + (f"\n\n{part.note}" if part.note else "")
    )


def measure_speed(networks: Mapping[str, tuple[NetworkConfig, int]], *, records: int = 128) -> dict[str, float]:
    """Return records a second on one CPU core, float32, of networks and their samples a record.

    The median of rounds in which the networks take turns.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        rng = np.random.default_rng(0)
        built = {
            name: (config.build(), rng.normal(0, 0.2, (records, 12, samples)).astype(np.float32))
            for name, (config, samples) in networks.items()
        }
        taken: dict[str, list[float]] = {name: [] for name in built}
        for turn in range(6):
            for name, (network, x) in built.items():
                started = time.perf_counter()
                predict(network, x)
                if turn:  # the first warms up
                    taken[name].append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    return {name: records / statistics.median(times) for name, times in taken.items()}


def _value(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f}-{figure['high']:.3f})"


def _difference(figure: Mapping[str, float]) -> str:
    return f"{figure['value']:+.3f} ({figure['low']:+.3f} to {figure['high']:+.3f})"
