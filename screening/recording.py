"""What flows: a Recording, or the reason why there is none."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from screening.contract import N_LEADS, Reason


@dataclass(frozen=True, slots=True)
class Recording:
    """One 12-lead ECG in millivolts, and where its facts come from."""

    record_id: str
    signal_mV: np.ndarray
    rate_hz: float
    sha256: str  # of the source bytes
    source_format: str  # e.g. "wfdb-16"
    unit_source: str  # what in the file said millivolts, e.g. "header gain/units"
    flags: tuple[str, ...] = ()  # e.g. "derived_leads"

    def __post_init__(self) -> None:
        if self.signal_mV.ndim != 2 or self.signal_mV.shape[0] != N_LEADS or self.signal_mV.dtype != np.float32:
            raise ValueError(
                f"signal_mV must be float32 (12, samples), not {self.signal_mV.dtype} {self.signal_mV.shape}"
            )


@dataclass(frozen=True, slots=True)
class Rejected:
    """Why a record gives no Recording. ``detail`` never holds a path, a name or a date of the archive."""

    record_id: str
    reason: Reason
    detail: str
    sha256: str | None = None  # of the source bytes, where they could be read
    source_format: str | None = None
