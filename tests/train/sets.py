"""A small training set, and settings that train on it in a second."""

from __future__ import annotations

import numpy as np

from screening.train.assemble import TrainSettings
from screening.train.augment import Augmentation
from screening.train.data import QUALITY, TrainingSet
from screening.train.fit import FitSettings
from tests.bundles import TINY

FIT = FitSettings(epochs=3, score_every=1, batch_size=16, augmentation=Augmentation(crop_samples=200))
SETTINGS = TrainSettings(
    name="tiny",
    data="Noise",
    citation="Made up by a generator. Licence: none.",
    train_folds=(1, 2),
    tune_folds=(3,),
    resamples=20,
    network=TINY,
    fit=FIT,
    learning_rates=(),
    workers=0,
)


def training_set(records: int = 96, seed: int = 0, samples: int = 200) -> TrainingSet:
    """Return noise whose positives are a little higher in V2, in folds 1 to 3, one ECG a patient."""
    rng = np.random.default_rng(seed)
    target = (np.arange(records) % 4 == 0).astype(np.int8)
    signals = rng.normal(0, 0.2, (records, 12, samples)).astype(np.float32)
    signals[:, 7] += 0.1 * target[:, None]
    return TrainingSet(
        signals_mV=signals,
        target=target,
        label=np.where(target == 1, "MI", np.where(np.arange(records) % 4 == 1, "other", "NORM")),
        patient_key=np.array([f"p{at}" for at in range(records)], dtype=object),
        fold=(1 + np.arange(records) // 4 % 3).astype(np.int16),
        record_id=np.array([f"r{at}" for at in range(records)], dtype=object),
        record_sha256=np.array([f"{at:064x}" for at in range(records)], dtype=object),
        age=(30 + np.arange(records) % 60).astype(np.float32),
        sex=np.array(["female", "male", None] * (records // 3), dtype=object),
        site=np.array([("here", "there")[at % 2] for at in range(records)], dtype=object),
        device=np.full(records, None, dtype=object),
        statements=_tuples([("AMI",) if positive else () for positive in target]),
        acquired_at=np.full(records, "NaT", dtype="datetime64[us]"),
        quality=_quality(signals),
        quality_flags=np.array(["mains" if at % 10 == 0 else "" for at in range(records)], dtype=object),
        left_out={"flat_lead": 2},
    )


def _quality(signals: np.ndarray) -> np.ndarray:
    out = np.zeros(len(signals), QUALITY)
    out["duration_s"], out["source_rate_hz"] = 10, 500
    out["amplitude_mV"] = np.ptp(signals, axis=2).max(axis=1)
    return out


def _tuples(values: list[tuple[str, ...]]) -> np.ndarray:
    out = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):
        out[at] = value
    return out
