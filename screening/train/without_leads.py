"""Drop and retrain: what AUROC is lost when a network never had a group of leads (Hooker et al. 2019, arXiv 1806.10758).

A group is a part of the operators ``territory`` or ``plane``, exchanged for a flat line in every record, so that limb leads
keep obeying Einthoven's law. What is trained again are networks without a third of the folds, so that every record is tested
once, at the learning rate that was chosen with all leads. Results are kept, so that a second audit trains nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from screening.attribution.operators import matrices
from screening.contract import OPERATORS, sha256_of
from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.storage import Folder
from screening.train.data import TrainingSet
from screening.train.fit import predict
from screening.train.procedure import train_network
from screening.train.trials import Trial, TrialStore
from screening.train.unseen import kept_or_trained, name_of, seen_by, trials_of

GROUPS: dict[str, str] = {part: operator for operator in ("territory", "plane") for part in OPERATORS[operator]}
"""Group -> the operator whose part it is."""
MAIN_TASK = "MI vs all other"
FEWEST = 3  # groups below which there is no rank correlation


def flattened(signals_mV: np.ndarray, group: str) -> np.ndarray:
    """Return ECGs (n, 12, samples) in which a group of leads is a flat line, and derived leads follow."""
    operator = GROUPS[group]
    kept = np.eye(signals_mV.shape[1], dtype=np.float32) - matrices(operator)[OPERATORS[operator].index(group)]
    return np.asarray(kept @ signals_mV)


def retrained(
    bundle: Bundle,
    records: TrainingSet,
    *,
    groups: Sequence[str],
    catalog_id: str,
    store: TrialStore,
    device: str = "cpu",
    on_stage: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Return group -> ``auroc`` without it and ``lost``, means over the networks.

    Those named in ``groups`` are trained where they are not kept; of the others what is kept is returned.

    Parameters
    ----------
    bundle
        Whose procedure is repeated, on the records that it has seen.
    records
        All records.
    groups
        Of ``GROUPS``.
    catalog_id, store, device, on_stage
        As of `unseen.unseen_networks`.

    Raises
    ------
    UserError
        A group is unknown, or the bundle has seen none of the records, or does not say how it was trained.
    """
    if unknown := [group for group in groups if group not in GROUPS]:
        raise UserError(f"--retrain: unknown {', '.join(unknown)}; known are {', '.join(GROUPS)}")
    seen = seen_by(bundle, records)
    if not seen.any():
        if groups:
            raise UserError(
                "--retrain compares with networks trained on this catalog, and the model has seen none of its records."
            )
        return {}
    known = records.where(np.flatnonzero(seen))
    found = {}
    for group in GROUPS:
        rows = []
        trials = trials_of(bundle, records)
        for trial in trials:
            what = {"trial": trial.key(catalog_id), "without": group}
            path = store.folder / f"{sha256_of(what)[:20]}.json"
            if not path.exists() and group in groups:
                whole = kept_or_trained(trial, known, catalog_id, store, device, on_stage)
                on_stage(f"training a network {name_of(trial)}, and without the {group} leads")
                auroc = _auroc_without(trial, known, group, float(whole.facts["learning_rate"]), device)
                test = trial.split.records(known)[2]
                with_all = float(roc_auc_score(test.target, whole.logit))
                Folder(str(path.parent)).write(
                    path.name, json.dumps({**what, "auroc": auroc, "with_all": with_all}).encode()
                )
            if path.exists():
                kept = json.loads(path.read_text(encoding="utf-8"))
                rows.append((kept["auroc"], kept["with_all"] - kept["auroc"]))
        if len(rows) == len(trials):
            auroc, lost = np.mean(rows, axis=0)
            found[group] = {"auroc": float(auroc), "lost": float(lost)}
    return found


def _auroc_without(trial: Trial, records: TrainingSet, group: str, learning_rate: float, device: str) -> float:
    without = replace(records, signals_mV=flattened(records.signals_mV, group))
    train, tune, test = trial.split.records(without)
    procedure = replace(
        trial.procedure, fit=replace(trial.procedure.fit, learning_rate=learning_rate), learning_rates=()
    )
    network = train_network(train, tune, procedure, device=device)[0].to(device)
    return float(roc_auc_score(test.target, predict(network, test.signals_mV, device=device)))


def agreement(trained: Mapping[str, Mapping[str, float]], cohort: Mapping[str, Any]) -> dict[str, Any]:
    """Return what retraining lost beside what permuting loses, by ``groups``, and their rank correlation."""
    groups = {
        group: {**of, "permuted": cohort[GROUPS[group]][MAIN_TASK][group]["auroc"]} for group, of in trained.items()
    }
    lost = [of["lost"] for of in groups.values()]
    permuted = [of["permuted"]["value"] for of in groups.values()]
    correlation = float(spearmanr(lost, permuted).statistic) if len(groups) >= FEWEST else None
    return {"groups": groups, "rank_correlation": correlation}
