"""The gate: may this candidate take the champion's place? Bounds are declared beforehand; a refusal names those that failed.

Both models are judged on the same labelled records, which neither has seen. A model that has seen any of them is judged
by its nested out-of-fold predictions instead: they are of networks that did not see the record, hence they judge the
procedure that made the model and not its very weights, and the verdict says so. Records are told apart by their bytes: that
two different records are of one patient is for the folds to rule out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from screening.contract import sha256_of
from screening.errors import UserError
from screening.model.bundle import Bundle, check_golden
from screening.train.bounds import Bound, GateSettings, Predictions, weigh
from screening.train.data import TrainingSet
from screening.train.evaluate import one_a_patient
from screening.train.fit import predict

OWN_WEIGHTS, OUT_OF_FOLD = "its own weights", "nested out-of-fold predictions"


@dataclass(frozen=True)
class Verdict:
    """What the gate says, with all that it rests on."""

    passed: bool
    bounds: tuple[Bound, ...]
    candidate: Mapping[str, Any]  # name, bundle_version, bundle_sha256, judged_by, records_seen
    champion: Mapping[str, Any] | None
    evaluation_set: Mapping[str, Any]  # sha256, records, patients, positives, and whence
    subgroups: Mapping[str, Mapping[str, Mapping[str, float]]]  # kind -> group -> positives, sensitivity of each
    settings: GateSettings

    @property
    def refusals(self) -> tuple[str, ...]:
        """One sentence for each bound that failed."""
        return tuple(bound.sentence for bound in self.bounds if not bound.passed)

    def to_json(self) -> dict[str, Any]:
        """Return the verdict as plain JSON values; what could not be measured is null."""
        plain: dict[str, Any] = _finite(asdict(self) | {"settings": self.settings.model_dump(mode="json")})
        return plain


def judge(
    candidate: Bundle,
    champion: Bundle | None,
    records: TrainingSet,
    settings: GateSettings,
    *,
    champion_records: TrainingSet | None = None,
    whence: Mapping[str, Any] | None = None,
    device: str = "cpu",
) -> Verdict:
    """Judge a candidate against the champion, or against the floors alone where there is no champion yet.

    Parameters
    ----------
    candidate, champion : Bundle
        The models.
    records : TrainingSet
        The evaluation set, preprocessed as the candidate wants it.
    champion_records : TrainingSet, optional
        The same records as the champion wants them; default: the candidate's preprocessing serves both. Records that
        only one model can read are left out for both and counted.
    whence : mapping, optional
        Where the records come from, for the verdict.
    device : str
        Where the networks run.

    Raises
    ------
    UserError
        A model has seen records of the set and cannot be judged out of fold, or the set is too small to judge anyone.
    """
    given = len(records)
    champion_records = records if champion_records is None else champion_records
    records, champion_records = _common(records, champion_records)
    whence = dict(whence or {}) | ({"read_by_one_model_only": given - len(records)} if given > len(records) else {})
    people = one_a_patient(records.patient_key, records.record_sha256)
    positives = int(records.target[people].sum())
    if min(positives, len(people) - positives) < settings.least_positives:
        raise UserError(
            f"the evaluation set has {positives} patients with and {len(people) - positives} without infarction, and the "
            f"gate judges from {settings.least_positives} of each (least_positives); choose more folds or a larger archive."
        )
    models = {"candidate": candidate} | ({"champion": champion} if champion else {})
    seen = {role: _seen(bundle, records) for role, bundle in models.items()}
    judged_by = _judged_by(models, seen, records)
    found = {
        role: _predictions(bundle, champion_records if role == "champion" else records, judged_by[role], device)
        for role, bundle in models.items()
    }
    decided, subgroups = weigh(found["candidate"], found.get("champion"), records, settings)
    described = {
        role: {
            "name": bundle.name,
            "bundle_version": bundle.version,
            "bundle_sha256": bundle.sha256,
            "threshold": bundle.threshold,
            "judged_by": judged_by[role],
            "records_seen": seen[role],
        }
        for role, bundle in models.items()
    }
    return Verdict(
        passed=all(bound.passed for bound in decided),
        bounds=decided,
        candidate=described["candidate"],
        champion=described.get("champion"),
        evaluation_set={
            "sha256": evaluation_set_sha256(records),
            **whence,
            "records": len(records),
            "patients": len(people),
            "positive_patients": positives,
            "labels": records.counts(),
            "left_out": dict(records.left_out),
        },
        subgroups=subgroups,
        settings=settings,
    )


def evaluation_set_sha256(records: TrainingSet) -> str:
    """Return the hash of which records are judged and what they are said to be; their order does not matter."""
    return sha256_of(sorted(zip(records.record_sha256.tolist(), records.label.tolist(), strict=True)))


def _common(first: TrainingSet, second: TrainingSet) -> tuple[TrainingSet, TrainingSet]:
    """Return the records that are in both, in the order of their hashes, so that the verdict does not hang on any other."""
    shared = set(first.record_sha256.tolist()) & set(second.record_sha256.tolist())
    chosen = []
    for records in (first, second):
        order = np.argsort(records.record_sha256.astype(str), kind="stable")
        chosen.append(records.where(order[[records.record_sha256[at] in shared for at in order]]))
    return chosen[0], chosen[1]


def _seen(bundle: Bundle, records: TrainingSet) -> int:
    seen = frozenset().union(*bundle.seen().values())
    return sum(sha256 in seen for sha256 in records.record_sha256.tolist())


def _judged_by(models: Mapping[str, Bundle], seen: Mapping[str, int], records: TrainingSet) -> dict[str, str]:
    """Return by what each model is judged, or refuse in a sentence that speaks of both."""
    judged_by, told = {}, []
    for role, bundle in models.items():
        judged_by[role] = OUT_OF_FOLD if seen[role] else OWN_WEIGHTS
        if not seen[role]:
            continue
        stored = bundle.out_of_fold()
        covered = 0 if stored is None else len(set(stored.record_sha256.tolist()) & set(records.record_sha256.tolist()))
        if covered < len(records):
            has = f"out-of-fold predictions of {covered:,} of them" if covered else "no out-of-fold predictions of them"
            told.append(
                f"the {role} {bundle.name} {bundle.version} was made from {seen[role]:,} of these {len(records):,} records "
                f"and holds {has}"
            )
    if told:
        raise UserError(
            f"{' and '.join(told)}, so {'they' if len(told) > 1 else 'it'} cannot be judged on them; choose other --folds "
            "or another catalog that no model has seen, or train with nested cross-validation over all these folds."
        )
    return judged_by


def _predictions(bundle: Bundle, records: TrainingSet, judged_by: str, device: str) -> Predictions:
    stored = bundle.out_of_fold() if judged_by == OUT_OF_FOLD else None
    if stored is not None:
        _, chosen = stored.match(records.record_sha256)
        return Predictions(chosen.probability, chosen.flagged, chosen.fold)
    network = bundle.network(device)
    check_golden(bundle, network, device)
    logit = predict(network, records.signals_mV, device=device)
    probability = bundle.calibrator.probability(logit.astype(np.float64))
    return Predictions(probability, probability >= bundle.threshold)


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
