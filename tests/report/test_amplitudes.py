"""Beats lie where the recording has them, whatever part of it the network reads; amplitudes stand under their heads."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from screening.archive.reader import ArchiveReader
from screening.contract import LEADS, WAVES
from screening.recording import Recording
from screening.report.amplitudes import COLUMNS, amplitude_rows, amplitude_words, measured
from screening.signal.preprocess import Preprocessing

USUAL = Preprocessing()


@pytest.fixture(scope="module")
def recording(ptbxl: Path) -> Recording:
    found = ArchiveReader(str(ptbxl)).read("records500/00000/00008_hr.hea", "00008")
    assert isinstance(found, Recording)
    return found


def of(signal_mV: np.ndarray) -> Recording:
    return Recording("r", np.ascontiguousarray(signal_mV, np.float32), 500.0, "", "", "")


def middles(windows: np.ndarray, low: float, high: float) -> np.ndarray:
    middle = windows.mean(axis=1)
    return np.asarray(middle[(middle > low) & (middle < high)])


def test_windows_lie_on_the_waves_of_the_recording(recording: Recording) -> None:
    """The steepest 20 ms of every beat lie in its QRS window, and windows follow each other."""
    found = measured(recording, USUAL)
    assert tuple(found.windows) == WAVES
    steep = np.abs(np.gradient(recording.signal_mV, axis=1)).sum(axis=0)
    assert len(found.windows["QRS"]) >= 8
    for start, end in found.windows["QRS"][1:-1]:
        around = steep[int((start - 0.3) * 500) : int((end + 0.3) * 500)]
        at = (start - 0.3) + around.argmax() / 500
        assert start - 0.02 <= at <= end + 0.02
    assert found.amplitudes is not None
    assert 40 < found.amplitudes.rate_bpm < 120


def test_of_a_long_recording_the_windows_are_in_its_middle(recording: Recording) -> None:
    alone = measured(recording, USUAL).windows["QRS"]
    thrice = measured(of(np.tile(recording.signal_mV, (1, 3))), USUAL).windows["QRS"]
    assert thrice.min() >= 10
    assert thrice.max() <= 20
    inner, outer = middles(alone, 2, 8), middles(thrice, 12, 18)
    assert len(inner) >= 5
    assert outer - 10 == pytest.approx(inner, abs=0.03)


@pytest.mark.parametrize("short_record", ["repeat", "zero"])
def test_of_a_short_recording_no_window_is_beyond_its_end(recording: Recording, short_record: str) -> None:
    whole = measured(recording, USUAL).windows["QRS"]
    cut = measured(of(recording.signal_mV[:, :3000]), Preprocessing(short_record=short_record)).windows["QRS"]
    assert cut.min() >= 0
    assert cut.max() <= 6
    assert middles(cut, 1, 5) == pytest.approx(middles(whole, 1, 5), abs=0.05)


def test_what_holds_no_beats_is_not_measured(recording: Recording) -> None:
    for signal in (recording.signal_mV[:, :1000], np.full((12, 5000), np.nan), np.zeros((12, 5000))):
        found = measured(of(signal), USUAL)
        assert (found.windows, found.amplitudes) == ({}, None)


def test_amplitudes_stand_under_their_heads() -> None:
    flat = np.zeros(12)
    found = SimpleNamespace(
        q_ms=flat + 45, q_mV=flat + 0.32, r_ms=flat + 50, r_mV=flat + 1.25, s_mV=flat + 0.4, qs=np.arange(12) == 6
    )
    found.st_mV, found.t_mV = np.tile([0.11, -0.07], (12, 1)), flat - 0.2
    found.beats, found.rate_bpm, found.qrs_ms = 11, 71.6, 96.0
    rows = {lead: dict(zip(COLUMNS, cells, strict=True)) for lead, *cells in amplitude_rows(found)}  # type: ignore[arg-type]
    assert tuple(rows) == LEADS
    assert rows["I"] == {
        "Q, ms": "45",
        "Q, mV": "0.32",
        "R, ms": "50",
        "R, mV": "1.25",
        "S, mV": "0.40",
        "J, mV": "+0.11",
        "J + 60 ms, mV": "−0.07",
        "T, mV": "−0.20",
    }
    assert (rows["V1"]["Q, ms"], rows["V1"]["Q, mV"]) == ("QS", "0.32")
    words = amplitude_words(found)  # type: ignore[arg-type]
    assert "the median of 11 beats" in words
    assert "72 beats a minute, QRS 96 ms" in words
