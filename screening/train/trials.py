"""Trials: one procedure, trained and tested on one split of a catalog; and the store that keeps their results.

A trial's file is named by a hash of all that decides it, so a study that is stopped goes on where it was, a trial that
two studies share is run once, and several processes (on one machine or on a shared mount) can work off one list.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import SafetensorError
from safetensors.numpy import save_file
from safetensors.torch import load_file

from screening.contract import sha256_of
from screening.errors import UserError
from screening.model.classifier import Classifier
from screening.model.out_of_fold import OutOfFold
from screening.signal.preprocess import Preprocessing
from screening.storage import forbid_pickled_columns, make_folders
from screening.train.data import TrainingSet, check_disjoint
from screening.train.evaluate import one_a_patient
from screening.train.fit import predict
from screening.train.procedure import Procedure, run_procedure

TRIAL_SCHEMA = 1  # a change of what a trial does with the same settings, so that it gets a new name
SAMPLE_TUNE_SHARE = 0.2  # of a sample of few records, what chooses, calibrates and cuts
_FACTS = b"screening"


@dataclass(frozen=True)
class Split:
    """Which folds train, tune and test; ``sample`` takes that many records of the first two in place of all."""

    train: tuple[int, ...]
    tune: tuple[int, ...]
    test: tuple[int, ...]
    sample: int | None = None
    draw: int = 0  # which random sample

    def records(self, data: TrainingSet) -> tuple[TrainingSet, TrainingSet, TrainingSet]:
        """Return the training, tuning and test records, which share no patient; without test folds the last are none.

        Raises
        ------
        UserError
            A part lacks one of the classes, or parts share a patient or a record.
        """
        test = data.of_folds(self.test)
        if self.sample is None:
            train, tune = data.of_folds(self.train), data.of_folds(self.tune)
        else:
            train, tune = _sample(data.of_folds((*self.train, *self.tune)), self.sample, self.draw)
        parts = {"training": (train, self.train), "tuning": (tune, self.tune), "test": (test, self.test)}
        for what, (part, folds) in parts.items():
            positives = int(part.target.sum())
            if min(positives, len(part) - positives) < 2 and (what != "test" or folds):
                raise UserError(
                    f"the {what} folds {', '.join(map(str, folds))} hold {positives} positive and "
                    f"{len(part) - positives} negative records, and two of each are needed; choose other folds or a "
                    "larger archive"
                )
        for first, second in combinations(parts, 2):
            check_disjoint(parts[first][0], parts[second][0], names=(first, second))
        return train, tune, test


def outer_folds(folds: tuple[int, ...]) -> list[Split]:
    """Return the splits of a nested cross-validation: each fold tests once, and the next one in turn tunes."""
    splits = []
    for at, test in enumerate(folds):
        tune = folds[(at + 1) % len(folds)]
        splits.append(Split(tuple(f for f in folds if f not in (test, tune)), (tune,), (test,)))
    return splits


@dataclass(frozen=True)
class Trial:
    """A procedure on a split, at one preprocessing."""

    procedure: Procedure
    split: Split
    preprocessing: Preprocessing

    def key(self, catalog_id: str) -> str:
        """Return the trial's name."""
        what = {
            "schema": TRIAL_SCHEMA,
            "catalog": catalog_id,
            "procedure": self.procedure.to_json(),
            "split": asdict(self.split),
            "preprocessing": asdict(self.preprocessing),
        }
        return sha256_of(json.loads(json.dumps(what)))[:20]


@dataclass(frozen=True)
class TrialResult:
    """What a trial gave: a score for each test record, and ``facts`` of how it was trained (JSON values)."""

    record_sha256: np.ndarray  # object: str
    logit: np.ndarray  # float32
    probability: np.ndarray  # float64
    flagged: np.ndarray  # bool
    facts: Mapping[str, Any]
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)  # of the network, by name


def run_trial(trial: Trial, data: TrainingSet, *, device: str = "cpu") -> TrialResult:
    """Train and test; deterministic but for the rounding of the device."""
    train, tune, test = trial.split.records(data)
    fitted = run_procedure(train, tune, trial.procedure, device=device)
    logit = predict(fitted.network.to(device), test.signals_mV, device=device)
    probability = fitted.calibrator.probability(logit.astype(np.float64))
    facts = {
        "procedure": trial.procedure.to_json(),
        "split": json.loads(json.dumps(asdict(trial.split))),
        "preprocessing": asdict(trial.preprocessing),
        "records": {"train": len(train), "tune": len(tune), "test": len(test)},
        "learning_rate": fitted.learning_rate,
        "rates_tried": [[rate, score] for rate, score in fitted.rates_tried.items()],
        "best_epoch": fitted.result.best_epoch,
        "tune_auroc": fitted.result.best_score,
        "calibrator": asdict(fitted.calibrator),
        "threshold": fitted.threshold,
    }
    weights = {name: value.cpu().numpy() for name, value in fitted.network.state_dict().items()}
    return TrialResult(test.record_sha256, logit, probability, probability >= fitted.threshold, facts, weights)


def out_of_fold(results: Mapping[int, TrialResult]) -> OutOfFold:
    """Return the results of outer folds (fold -> result) as one set of predictions."""
    return OutOfFold(
        record_sha256=np.concatenate([r.record_sha256 for r in results.values()]),
        fold=np.concatenate([np.full(len(r.logit), fold, np.int16) for fold, r in results.items()]),
        logit=np.concatenate([r.logit for r in results.values()]),
        probability=np.concatenate([r.probability for r in results.values()]),
        flagged=np.concatenate([r.flagged for r in results.values()]),
    )


class TrialStore:
    """A folder of results: of each trial the scores in one Parquet file, and the network's weights beside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def read(self, key: str) -> TrialResult | None:
        """Return a finished trial's result, None where it is not finished."""
        path = self.folder / f"{key}.parquet"
        if not path.exists():
            return None
        forbid_pickled_columns()
        try:
            table = pq.read_table(path)
            facts = json.loads(table.schema.metadata[_FACTS])
            sha256 = np.empty(table.num_rows, dtype=object)
            sha256[:] = table["record_sha256"].to_pylist()
            columns = {name: table[name].to_numpy() for name in ("logit", "probability", "flagged")}
        except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{path} is no result of a trial ({type(error).__name__}); remove it to run it again"
            ) from error
        return TrialResult(sha256, **columns, facts=facts)

    def has_network(self, key: str) -> bool:
        """Return whether a trial is finished and its weights were kept."""
        return all((self.folder / f"{key}{suffix}").exists() for suffix in (".parquet", ".safetensors"))

    def network(self, key: str) -> Classifier | None:
        """Return a finished trial's network, in evaluation mode on the CPU; None where its weights were not kept."""
        result, path = self.read(key), self.folder / f"{key}.safetensors"
        if result is None or not self.has_network(key):
            return None
        network = Procedure.from_json(dict(result.facts["procedure"])).network.build()
        try:
            network.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError, OSError) as error:
            raise UserError(
                f"{path} does not hold the weights of its trial ({type(error).__name__}); remove it and the .parquet "
                "beside it to run the trial again"
            ) from error
        return network.eval()

    def write(self, key: str, result: TrialResult) -> None:
        """Keep a result, whole or not at all."""
        table = pa.table(
            {
                "record_sha256": pa.array(result.record_sha256, pa.string()),
                "logit": pa.array(result.logit, pa.float32()),
                "probability": pa.array(result.probability, pa.float64()),
                "flagged": pa.array(result.flagged, pa.bool_()),
            }
        ).replace_schema_metadata({_FACTS: json.dumps(dict(result.facts))})
        # The scores last: they say that the trial is finished.
        if result.weights:
            weights = {name: np.ascontiguousarray(value) for name, value in result.weights.items()}
            self._keep(f"{key}.safetensors", lambda name: save_file(weights, name))
        self._keep(f"{key}.parquet", lambda name: pq.write_table(table, name, compression="zstd"))

    def _keep(self, name: str, write: Callable[[str], None]) -> None:
        """Let ``write`` make a file, which appears whole."""
        make_folders(str(self.folder))
        handle, path = tempfile.mkstemp(prefix=f".{name}.", dir=self.folder)
        os.close(handle)
        try:
            write(path)
            os.replace(path, self.folder / name)
        except BaseException:
            Path(path).unlink(missing_ok=True)
            raise

    @contextmanager
    def claimed(self, key: str) -> Iterator[bool]:
        """Hold a trial while it runs; False where another process holds it. The system lets go of a dead one's."""
        make_folders(str(self.folder))
        lock = self.folder / f".{key}.lock"
        with lock.open("w") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                lock.unlink(missing_ok=True)


def _sample(data: TrainingSet, size: int, draw: int) -> tuple[TrainingSet, TrainingSet]:
    """Return ``size`` records, one a patient, at the archive's own prevalence, cut in a training and a tuning part."""
    index = one_a_patient_at_random(data, draw)
    if len(index) < size:
        raise UserError(f"a sample of {size} records needs as many patients, and the folds hold {len(index)}")
    rng = np.random.default_rng([draw, size])
    train, tune = [], []
    for value in (1, 0):
        members = rng.permutation(index[data.target[index] == value])
        wanted = round(size * len(members) / len(index))
        held = round(wanted * SAMPLE_TUNE_SHARE)
        tune.append(members[:held])
        train.append(members[held:wanted])
    return data.where(np.sort(np.concatenate(train))), data.where(np.sort(np.concatenate(tune)))


def one_a_patient_at_random(data: TrainingSet, draw: int) -> np.ndarray:
    """Return the indices of one record a patient, chosen by a seeded shuffle."""
    order = np.random.default_rng(draw).permutation(len(data))
    return one_a_patient(data.patient_key, order)
