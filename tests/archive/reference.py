"""The wfdb package as the other implementation; its deprecation warnings under pandas 3 are not ours to mend."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import wfdb


def read(header: Path, **options: Any) -> Any:
    """Return ``wfdb.rdrecord`` of a header file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return wfdb.rdrecord(str(header.with_suffix("")), **options)


def write(folder: Path, fmt: str, digital: np.ndarray, gain: float, baseline: int, leads: list[str]) -> None:
    """Write samples (leads, n) as record ``r``."""
    n = len(leads)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        wfdb.wrsamp(
            "r",
            fs=500,
            units=["mV"] * n,
            sig_name=leads,
            d_signal=digital.T,
            fmt=[fmt] * n,
            adc_gain=[gain] * n,
            baseline=[baseline] * n,
            write_dir=str(folder),
        )
