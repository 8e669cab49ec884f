"""Networks that have not seen the records they are to explain.

A bundle's own network explains what it was not made from. For the rest of an archive there are the networks of its nested
cross-validation, where their weights are at hand; else its procedure is repeated without a third of the folds at a time.
All of them are trials, kept in a `TrialStore` under a hash of all that decides them, so that they are trained once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.model.calibration import PlattCalibrator
from screening.model.classifier import Classifier
from screening.study.parts import thirds
from screening.train.assemble import TrainSettings
from screening.train.data import TrainingSet
from screening.train.fit import predict
from screening.train.procedure import Procedure
from screening.train.trials import Split, Trial, TrialResult, TrialStore, outer_folds, run_trial

_THIRDS_NEED = 5  # folds


@dataclass(frozen=True)
class Unseen:
    """A network, and which records it has not seen."""

    name: str
    network: Classifier  # in evaluation mode
    calibrator: PlattCalibrator
    threshold: float  # on the calibrated probability
    places: np.ndarray  # int (n,), of the records
    trial: Trial | None = None  # how it came to be; None: it is the bundle's own
    device: str = "cpu"  # where it runs

    @property
    def threshold_logit(self) -> float:
        """Return the logit at which a record is flagged."""
        odds = self.threshold / (1 - self.threshold)
        return float((np.log(odds) - self.calibrator.intercept) / self.calibrator.slope)

    def logits(self, signals_mV: np.ndarray) -> np.ndarray:
        """Return the logits, float32 (n,), of filtered ECGs (n, 12, samples)."""
        return predict(self.network, signals_mV, device=self.device)


def procedure_of(bundle: Bundle) -> Procedure:
    """Return how a bundle was made.

    Raises
    ------
    UserError
        The bundle does not say.
    """
    try:
        return TrainSettings(**bundle.training["settings"]).procedure()
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"model {bundle.name} {bundle.version} does not say how it was trained, so that its training cannot be repeated "
            "for records it has seen; give a catalog of records it has not seen."
        ) from None


def unseen_networks(
    bundle: Bundle,
    records: TrainingSet,
    *,
    catalog_id: str,
    store: TrialStore,
    device: str = "cpu",
    on_stage: Callable[[str], None] = lambda _: None,
) -> list[Unseen]:
    """Return networks which together have every record unseen by one of them.

    Parameters
    ----------
    bundle
        The model.
    records
        All labelled records of the catalog.
    catalog_id
        Names the catalog.
    store
        Where networks are kept.
    device
        Where they are trained, and run later.
    on_stage
        Told of each training.

    Raises
    ------
    UserError
        Records were seen, and the bundle does not say how it was trained or they lie in fewer than three folds.
    """
    seen = seen_by(bundle, records)
    found = []
    if not seen.all():
        places = np.flatnonzero(~seen)
        own = bundle.network(device)
        found.append(Unseen("the bundle's own", own, bundle.calibrator, bundle.threshold, places, device=device))
    if not seen.any():
        return found
    trials = trials_of(bundle, records)
    nested = [replace(trials[0], split=split) for split in outer_folds(_folds(records, seen))]
    if all(store.has_network(trial.key(catalog_id)) for trial in nested):
        trials = nested
    for trial in trials:
        result = kept_or_trained(trial, records.where(np.flatnonzero(seen)), catalog_id, store, device, on_stage)
        network = store.network(trial.key(catalog_id))
        assert network is not None
        calibrator, threshold = PlattCalibrator(**result.facts["calibrator"]), float(result.facts["threshold"])
        places = np.flatnonzero(seen & np.isin(records.fold, trial.split.test))
        found.append(Unseen(name_of(trial), network.to(device), calibrator, threshold, places, trial, device))
    return found


def seen_by(bundle: Bundle, records: TrainingSet) -> np.ndarray:
    """Return which records a bundle has seen, bool (n,)."""
    return np.isin(records.record_sha256.astype(str), sorted(set().union(*bundle.seen().values())))


def trials_of(bundle: Bundle, records: TrainingSet) -> list[Trial]:
    """Return trials of a bundle's procedure that together test every record it has seen, a third of the folds each.

    Raises
    ------
    UserError
        The bundle does not say how it was trained, or those records lie in fewer than three folds.
    """
    procedure = procedure_of(bundle)
    splits = splits_of(_folds(records, seen_by(bundle, records)))
    return [Trial(procedure, split, bundle.preprocessing) for split in splits]


def kept_or_trained(
    trial: Trial,
    records: TrainingSet,
    catalog_id: str,
    store: TrialStore,
    device: str,
    on_stage: Callable[[str], None],
) -> TrialResult:
    """Return a trial's result, running it on ``records`` where its network is not kept."""
    key = trial.key(catalog_id)
    if not store.has_network(key):
        on_stage(f"training a network {name_of(trial)}")
        store.write(key, run_trial(trial, records, device=device))
    result = store.read(key)
    assert result is not None
    return result


def name_of(trial: Trial) -> str:
    """Return what a trial's network is called: by the folds it has not seen."""
    folds = trial.split.test
    return "without fold" + ("s " if len(folds) > 1 else " ") + ", ".join(map(str, folds))


def _folds(records: TrainingSet, chosen: np.ndarray) -> tuple[int, ...]:
    return tuple(sorted(set(records.fold[chosen].tolist())))


def splits_of(folds: tuple[int, ...]) -> tuple[Split, ...]:
    """Return splits whose test folds are all of these: thirds of them, or one by one where they are few."""
    if len(folds) < 3:
        raise UserError(
            f"the records that the model has seen lie in {len(folds)} fold{'s' if len(folds) != 1 else ''}, and three are "
            "needed to train, tune and test without them; give the whole catalog."
        )
    return thirds(folds) if len(folds) >= _THIRDS_NEED else tuple(outer_folds(folds))
