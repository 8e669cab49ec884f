from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from screening.archive.reader import ArchiveReader
from screening.attribution.beats import Beats, delineate
from screening.attribution.measurements import Measurements, measure
from screening.contract import LEADS
from screening.recording import Recording
from screening.signal.preprocess import Preprocessing, preprocess
from tests.attribution.hearts import RATE_HZ, ecg


def measured(signal: np.ndarray, rate_hz: float = RATE_HZ) -> Measurements:
    found = measure(signal, rate_hz, delineate(signal, rate_hz))
    assert found is not None
    return found


def of(found: Measurements, name: str, lead: str) -> float:
    return float(getattr(found, name)[LEADS.index(lead)])


LEADS_WITH_INFARCT = {
    "V1": (0.05, 0.9, 0.0, 0.0, 0.1),  # QS
    "V4": (0.06, 0.4, 0.9, 0.5, -0.35),  # Q and inverted T
    "V6": (0.06, 0.0, 0.95, 0.0, 0.25),
}


def test_written_amplitudes_are_measured() -> None:
    found = measured(ecg(leads=LEADS_WITH_INFARCT, noise_mV=0.001))
    assert found.rate_bpm == pytest.approx(70, abs=0.5)
    assert found.beats >= 9
    assert found.qrs_ms == pytest.approx(116, abs=20)
    assert of(found, "r_mV", "V4") == pytest.approx(0.9, abs=0.05)
    assert of(found, "q_mV", "V4") == pytest.approx(0.4, abs=0.05)
    assert of(found, "s_mV", "V4") == pytest.approx(0.5, abs=0.05)
    assert of(found, "t_mV", "V4") == pytest.approx(-0.35, abs=0.03)
    assert of(found, "r_ms", "V4") == pytest.approx(40, abs=8)
    assert of(found, "q_ms", "V4") == pytest.approx(34, abs=8)
    assert not of(found, "qs", "V4")
    assert of(found, "q_mV", "V6") == of(found, "s_mV", "V6") == of(found, "q_ms", "V6") == 0


def test_a_qs_is_one() -> None:
    found = measured(ecg(leads={"V1": (0.05, 0.9, 0.0, 0.0, 0.1), "V2": (0.05, 0.5, 0.0, 1.2, 0.4)}))
    for lead, depth in (("V1", 0.9), ("V2", 1.2)):
        assert of(found, "qs", lead)
        assert of(found, "q_mV", lead) == pytest.approx(depth, abs=0.08)
        assert of(found, "r_mV", lead) == 0
    assert not of(found, "qs", "V5")


def test_st_is_measured_against_the_level_before_the_qrs() -> None:
    found = measured(ecg(st_mV={"V2": 0.3, "V5": -0.2}))
    j, later = found.st_mV[LEADS.index("V2")]
    assert later == pytest.approx(0.3, abs=0.06)
    assert 0.1 < j <= later + 0.05
    assert found.st_mV[LEADS.index("V5"), 1] == pytest.approx(-0.2, abs=0.06)
    assert np.abs(found.st_mV[LEADS.index("V6")]).max() < 0.07


def test_gain_and_polarity_go_through() -> None:
    one, two = measured(ecg()), measured(2 * ecg())
    for name in ("r_mV", "s_mV", "t_mV", "st_mV"):
        np.testing.assert_allclose(getattr(two, name), 2 * getattr(one, name), atol=0.06)
    mirrored = measured(-ecg())
    np.testing.assert_allclose(mirrored.t_mV, -one.t_mV, atol=0.01)


def test_without_t_there_is_no_t() -> None:
    signal = ecg()
    beats = delineate(signal, RATE_HZ)
    nothing = np.full(len(beats), np.nan)
    found = measure(signal, RATE_HZ, replace(beats, t_on=nothing, t_off=nothing))
    assert found is not None
    assert np.isnan(found.t_mV).all()
    assert np.isfinite(found.st_mV).all()


def test_two_beats_are_needed() -> None:
    signal = ecg()
    beats = delineate(signal, RATE_HZ)
    one = Beats(*(getattr(beats, name)[:1] for name in Beats.__dataclass_fields__))
    assert measure(signal, RATE_HZ, one) is None


def test_what_the_networks_filter_changes_on_real_ecgs(ptbxl: Path) -> None:
    """Measured on the input (100 Hz, 0.5-40 Hz) and on the recording, with the same beats: R is lower by some tenths."""
    reader, names = ArchiveReader(str(ptbxl)), (ptbxl / "RECORDS").read_text().split()[:40]
    differences: dict[str, list[np.ndarray]] = {"r_mV": [], "t_mV": [], "st_mV": []}
    for name in names:
        recording = reader.read(f"{name}.hea", name)
        assert isinstance(recording, Recording)
        low = preprocess(recording.signal_mV[None], recording.rate_hz, Preprocessing())[0]
        beats = delineate(low, 100)
        one, other = measure(low, 100, beats), measure(recording.signal_mV, recording.rate_hz, beats)
        if one is None or other is None:
            continue
        for what, of_record in differences.items():
            of_record.append((getattr(one, what) - getattr(other, what)).ravel())
    found = {what: np.concatenate(of_record) for what, of_record in differences.items()}
    assert len(found["r_mV"]) > 400
    assert -0.1 < np.median(found["r_mV"]) < 0.02
    assert abs(np.nanmedian(found["t_mV"])) < 0.03
    assert abs(np.median(found["st_mV"])) < 0.03
    assert np.nanquantile(np.abs(found["st_mV"]), 0.9) < 0.12
    assert np.nanquantile(np.abs(found["t_mV"]), 0.9) < 0.12
