"""What tests of the formats expect, and how they look at it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from screening.archive.catalog import open_catalog
from screening.archive.formats import sidecar as tables
from screening.contract import LEADS
from screening.recording import Recording, Rejected
from tests import hospital_files as made
from tests.corpus.hospital_files import digital

STEP_MV = made.STEP_UV / 1000
SIDECAR = {tables.SIDECAR: made.sidecar(leads=list(LEADS))}


def good(got: Recording | Rejected) -> Recording:
    assert isinstance(got, Recording), got
    return got


def rows_of(folder: Path) -> list[dict[str, Any]]:
    return [row for batch in open_catalog(str(folder / "catalog")).iter_batches() for row in batch.to_pylist()]


def wanted(form: str) -> np.ndarray:
    """Return the ECG in millivolts as a format that stores eight or twelve leads gives it."""
    mV = digital() * STEP_MV
    if form in ("muse-xml", "scp-ecg"):
        i, ii = mV[:2]
        mV = np.stack([i, ii, ii - i, -(i + ii) / 2, i - ii / 2, ii - i / 2, *mV[6:]])
    return mV
