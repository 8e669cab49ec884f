"""Makes small bundles for tests: an untrained network of one branch, deterministic."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from screening.model.bundle import Bundle, Counts, OperatingCharacteristics
from screening.model.bundle_writer import save_bundle
from screening.model.calibration import PlattCalibrator
from screening.model.msaic import MSAICConfig, MSAICNet
from screening.model.reference import NUMERIC_QUALITY, Reference, make_reference, score_distribution
from screening.signal.preprocess import Preprocessing, preprocess

# Pooled by the mean alone: a few steps of training on noise then learn what tests plant in it.
TINY = MSAICConfig(channels=4, dilations=(1, 2), blocks=1, projection_channels=8, embedding=4, pooling="mean")
RATE_HZ = 500.0


def tiny_network(seed: int = 0) -> MSAICNet:
    """Return an untrained network; the same weights for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return MSAICNet(TINY).eval()


def signals(records: int = 2, seed: int = 0) -> np.ndarray:
    """Return noise that looks enough like ECGs for arithmetic: float32 (b, 12, 5000) in mV."""
    rng = np.random.default_rng(seed)
    return rng.normal(0, 0.2, (records, 12, 5000)).astype(np.float32)


def reference(records: int = 400, seed: int = 0) -> Reference:
    """Return what a made-up population looks like, one ECG a patient; a quarter of them have the condition."""
    rng = np.random.default_rng(seed)
    target = np.arange(records) % 4 == 0
    probability = 1 / (1 + np.exp(-rng.normal(np.where(target, 1.0, -3.0), 1.5)))
    return make_reference(
        "made up",
        patients=records,
        quality={name: rng.lognormal(size=records) for name in NUMERIC_QUALITY},
        quality_flags=["noise" if at % 20 == 0 else "" for at in range(records)],
        age=np.round(rng.normal(60, 12, records)),
        sex=["female" if at % 2 else "male" for at in range(records)],
        scored="made up, fold 3",
        probability=probability,
        scores=score_distribution("made up, nested", probability, target, probability >= 0.3),
    )


def make_bundle(folder: Path, **changes: Any) -> Bundle:
    """Save a small bundle at ``folder``."""
    preprocessing = Preprocessing()
    recorded = signals()
    facts: dict[str, Any] = {
        "name": "tiny",
        "version": "1",
        "network": tiny_network(),
        "preprocessing": preprocessing,
        "calibrator": PlattCalibrator(slope=1.5, intercept=-0.5, prevalence=0.22),
        "threshold": 0.3,
        "threshold_rule": "Youden's J on the tuning folds.",
        "operating_characteristics": OperatingCharacteristics(
            data="made up",
            reference="made up",
            overall=Counts(TP=8, FN=2, TN=27, FP=3),
            subgroups={"sex": {"female": Counts(TP=4, FN=1, TN=13, FP=2)}},
            figures={"auroc": {"value": 0.9, "low": 0.85, "high": 0.95}},
        ),
        "training": {"label_rule": "made up", "folds": [1, 2]},
        "seen": {"trained": ["a" * 64, "b" * 64], "tuned": ["c" * 64], "calibrated": ["c" * 64]},
        "card": "# tiny\n",
        "golden_inputs": preprocess(recorded, RATE_HZ, preprocessing),
        "golden_signals": recorded,
        "golden_rate_hz": RATE_HZ,
    }
    return save_bundle(folder, **{**facts, **changes})
