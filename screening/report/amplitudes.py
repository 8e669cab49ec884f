"""Beats and amplitudes of a recording, measured on what the network read of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from screening.contract import LEADS, WAVES
from screening.recording import Recording
from screening.report.notation import figure

if TYPE_CHECKING:
    from screening.attribution.measurements import Measurements
    from screening.signal.preprocess import Preprocessing

COLUMNS = ("Q, ms", "Q, mV", "R, ms", "R, mV", "S, mV", "J, mV", "J + 60 ms, mV", "T, mV")
"""Of the table of amplitudes, after the lead."""


@dataclass(frozen=True)
class Measured:
    """Where the waves lie in a recording, and how large they are."""

    windows: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Of contract.WAVES -> (beats, 2), start and end in seconds from the recording's first sample."""
    amplitudes: Measurements | None = None


def measured(recording: Recording, settings: Preprocessing) -> Measured:
    """Return beats and amplitudes of a recording as the bundle's network reads it; empty where no beats are found."""
    from screening.attribution.beats import delineate
    from screening.attribution.measurements import measure
    from screening.signal.preprocess import preprocess

    duration_s = recording.signal_mV.shape[1] / recording.rate_hz
    try:
        signal_mV = preprocess(recording.signal_mV[None], recording.rate_hz, settings)[0]
    except ValueError:  # too short, or a lead without samples: what the quality check rejects
        return Measured()
    beats = delineate(signal_mV, settings.rate_hz)
    if not len(beats):
        return Measured()
    # The network's window is the middle of a longer recording; a shorter one is repeated from its start, or lies in its middle.
    repeated = duration_s < settings.window_s and settings.short_record == "repeat"
    start_s = 0.0 if repeated else (duration_s - settings.window_s) / 2
    windows = {}
    for wave in WAVES:
        window = beats.window(wave) + start_s
        inside = np.isfinite(window).all(axis=1) & (window[:, 0] >= 0) & (window[:, 1] <= duration_s)
        windows[wave] = window[inside]
    return Measured(windows, measure(signal_mV, settings.rate_hz, beats))


def amplitude_rows(of: Measurements) -> Iterator[tuple[str, ...]]:
    """Yield for each lead its name and what stands under `COLUMNS`."""
    for at, lead in enumerate(LEADS):
        q = ("QS", figure(float(of.q_mV[at]), 2)) if of.qs[at] else (_ms(of.q_ms[at]), figure(float(of.q_mV[at]), 2))
        st = (figure(float(value), 2, signed=True) for value in of.st_mV[at])
        r_and_s = (_ms(of.r_ms[at]), figure(float(of.r_mV[at]), 2), figure(float(of.s_mV[at]), 2))
        yield (lead, *q, *r_and_s, *st, figure(float(of.t_mV[at]), 2, signed=True))


def amplitude_words(of: Measurements) -> str:
    """Return what the table rests on."""
    return (
        f"Amplitudes of the median of {of.beats} beats, as the network reads them (filtered): {of.rate_bpm:.0f} beats a "
        f"minute, QRS {of.qrs_ms:.0f} ms. Q and S are depths."
    )


def _ms(value: float) -> str:
    return f"{value:.0f}" if value > 0 else "0"
