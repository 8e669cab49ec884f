"""Importance for a whole cohort with labels: what AUROC and AUPRC lose when a part is permuted over its records.

Breiman's permutation importance (Random Forests, 2001, section 10), which for leads is that of arXiv 2606.06718: a part of
every record is taken from another, each part by itself, and the network's ranking gets worse by what it had read there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from screening.attribution.operators import matrices
from screening.train.evaluate import Scored, evaluate_together

Score = Callable[[np.ndarray], np.ndarray]
"""Filtered ECGs, float32 (b, 12, samples), to logits, float (b,)."""
Laid = Callable[[int, int], np.ndarray | None]
"""The places of a donor and of a record to the donor's beats laid on the record's, (12, samples); None where it cannot be."""

_AT_ONCE = 16  # records whose changed ECGs are held at once


def donors_for_all(patient_key: Sequence[str | None] | np.ndarray, *, repeats: int, seed: int = 0) -> np.ndarray:
    """Return for every record a donor of another patient, int (repeats, n); nearly every record lends once a repeat.

    A record without a patient key is of a patient of its own.

    Raises
    ------
    ValueError
        All records are of one patient.
    """
    keys = list(patient_key)
    numbers: dict[Any, int] = {}
    person = np.array(
        [numbers.setdefault(("", at) if key is None else key, len(numbers)) for at, key in enumerate(keys)]
    )
    if len(numbers) < 2:
        raise ValueError("records of two patients and more are needed, so that one can lend to another")
    rng = np.random.default_rng(seed)
    drawn = np.empty((repeats, len(keys)), np.int64)
    for repeat in range(repeats):
        donor = rng.permutation(len(keys))
        for at in np.flatnonzero(person[donor] == person):
            # Exchanged with a record for which both stay of another patient; else whoever is of another lends twice.
            for other in rng.permutation(len(keys)):
                if person[donor[other]] != person[at] and person[donor[at]] != person[other]:
                    donor[at], donor[other] = donor[other], donor[at]
                    break
            else:
                donor[at] = rng.choice(np.flatnonzero(person != person[at]))
        drawn[repeat] = donor
    return drawn


def permuted_logits(
    score: Score, signals_mV: np.ndarray, donors: np.ndarray, operator: str, *, laid: Laid | None = None
) -> np.ndarray:
    """Return the logits of every record with each part of an operator taken from its donor.

    Parameters
    ----------
    score
        The network.
    signals_mV
        float32 (n, 12, samples), filtered.
    donors
        int (repeats, n), as `donors_for_all` gives them.
    operator
        One of ``contract.OPERATORS`` but ``wave``.
    laid
        Lays donors on records; where it gives None, and without it, donors are as they are.

    Returns
    -------
    numpy.ndarray
        float32 (repeats, n, parts).
    """
    matrix = matrices(operator)
    pairs = [(int(donor), at) for row in donors for at, donor in enumerate(row)]
    found = np.empty((len(pairs), len(matrix)), np.float32)
    for start in range(0, len(pairs), _AT_ONCE):
        changed = []
        for donor, at in pairs[start : start + _AT_ONCE]:
            over = laid(donor, at) if laid else None
            change = (signals_mV[donor] if over is None else over) - signals_mV[at]
            changed.append(signals_mV[at] + matrix @ change)  # (g, 12, samples)
        block = np.stack(changed)  # (b, g, 12, samples)
        found[start : start + len(block)] = score(block.reshape(-1, *block.shape[2:])).reshape(block.shape[:2])
    return found.reshape(*donors.shape, len(matrix))


def losses(
    logit: np.ndarray,
    permuted: np.ndarray,
    parts: Sequence[str],
    target: np.ndarray,
    label: np.ndarray,
    patient: np.ndarray,
    *,
    network: np.ndarray | None = None,
    resamples: int = 500,
    seed: int = 0,
) -> dict[str, dict[str, dict[str, dict[str, float]]]]:
    """Return task -> part -> ``auroc`` and ``auprc`` -> ``value``, ``low``, ``high``: what is lost when the part is permuted.

    Ranks are compared within one network and one repeat, and averaged; intervals are 95% bootstraps over patients, paired
    with the ranking of the records as they are.

    Parameters
    ----------
    logit, permuted
        float (n,) and (repeats, n, parts).
    parts
        Their names.
    target, label, patient
        (n,), as of `train.evaluate.evaluate`.
    network
        (n,), which network scored a record, where there are several.
    """
    repeats, n = permuted.shape[:2]
    if (len(logit), len(parts)) != (n, permuted.shape[2]):
        raise ValueError("there must be a logit a record, and a name a part")
    of = np.zeros(n, np.int64) if network is None else np.unique(network, return_inverse=True)[1]
    group = (np.arange(repeats)[:, None] * (of.max() + 1) + of).ravel()
    models = {"": Scored(np.tile(logit, repeats), part=group)}
    models |= {part: Scored(permuted[:, :, at].ravel(), part=group) for at, part in enumerate(parts)}
    people = np.array([f"record {at}" if key is None else key for at, key in enumerate(patient.tolist())], dtype=object)
    columns = np.tile(target, repeats), np.tile(label, repeats), np.tile(people, repeats)
    figures = evaluate_together(models, *columns, reference="", resamples=resamples, seed=seed)
    lost: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for part in parts:
        for task, of_task in (figures[part].differences or {}).items():
            lost.setdefault(task, {})[part] = {
                measure: {
                    "value": -of_task[measure]["value"],
                    "low": -of_task[measure]["high"],
                    "high": -of_task[measure]["low"],
                }
                for measure in ("auroc", "auprc")
            }
    return lost
