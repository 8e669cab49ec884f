"""What devices add at the ends of a recording is taken off: padding and calibration pulses, and nothing of a heart."""

from __future__ import annotations

import numpy as np
import pytest

from screening.archive.leads import Channel, assemble, trim_ends
from screening.archive.reader import decode
from screening.contract import LEADS
from screening.recording import Recording
from tests import hospital_files as made
from tests.archive.formats.expected import STEP_MV, good
from tests.corpus.hospital_files import digital


def leads_of(signal_mV: np.ndarray, rate: float = 500) -> Recording:
    channels = [Channel(lead, row, 1.0) for lead, row in zip(LEADS, signal_mV, strict=True)]
    leads = trim_ends(assemble(channels, rate, source_format="x", unit_source="y"))
    return Recording("x", leads.signal_mV, rate, "", "x", "y", tuple(sorted(leads.flags)))


@pytest.mark.parametrize("before", [0, 10, 300])
@pytest.mark.parametrize("after", [0, 40, 600])
def test_zeros_at_the_ends_are_taken_off(before: int, after: int) -> None:
    mV = digital() * STEP_MV + 0.011  # no lead at zero
    got = leads_of(np.pad(mV, ((0, 0), (before, after))))
    assert got.signal_mV.shape[1] == mV.shape[1]
    assert (got.flags == ("padding_removed",)) == bool(before or after)
    np.testing.assert_allclose(got.signal_mV, mV, atol=1e-6)


def test_a_heart_is_left_alone() -> None:
    rests = digital() * STEP_MV
    rests[:, :150] = rests[:, 150:151]  # 0.3 s of rest, as simulators have it
    for mV in (rests, np.zeros((12, 3000)), np.tile(np.linspace(-1, 1, 3000), (12, 1))):
        got = leads_of(mV)
        assert got.signal_mV.shape == mV.shape
        assert got.flags == ()


def test_a_pulse_before_the_ecg_is_taken_off_too() -> None:
    pulse = np.zeros(200)
    pulse[50:150] = 1
    mV = digital() * STEP_MV + np.linspace(0.1, 0.4, 12)[:, None]
    got = leads_of(np.concatenate([np.tile(pulse, (12, 1)), mV], axis=1))
    assert got.flags == ("calibration_removed",)
    assert got.signal_mV.shape == mV.shape


# Steps of 5 uV at 500 Hz.
_FOOT, _TOP = np.zeros(60), np.full(100, 200.0)
PULSES = {
    "short": np.r_[np.zeros(50), np.full(50, 200.0), np.zeros(50)],
    "nothing before it": np.r_[_TOP, np.zeros(20)],
    "ends high": np.r_[_FOOT, _TOP],
    "edges of 30 ms": np.r_[_FOOT, np.linspace(0, 200, 15), _TOP, np.linspace(200, 0, 15), _FOOT],
    "through a high pass": np.r_[_FOOT, 200 * np.exp(-np.arange(100) / 800), -22 * np.exp(-np.arange(100) / 800)],
    "twice": np.tile(np.r_[_FOOT, _TOP, _FOOT], 2),
    "zeros behind it": np.r_[_FOOT, _TOP, np.zeros(560)],
    "downwards": np.r_[_FOOT, -_TOP, _FOOT],
}


@pytest.mark.parametrize("noise_steps", [0, 2])
@pytest.mark.parametrize("own_level", [False, True])
@pytest.mark.parametrize("kind", PULSES)
def test_a_pulse_is_known_by_its_plateaus(kind: str, own_level: bool, noise_steps: int) -> None:
    pulse = np.tile(PULSES[kind], (12, 1))
    if noise_steps:
        pulse = pulse + np.random.default_rng(len(kind)).integers(-noise_steps, noise_steps, pulse.shape, endpoint=True)
    if own_level:
        pulse = pulse + np.linspace(-80, 80, 12)[:, None]
    mV = digital() * STEP_MV
    for ecg, begins in ((np.c_[mV, pulse * STEP_MV], False), (np.c_[pulse[:, ::-1] * STEP_MV, mV], True)):
        got = leads_of(ecg)
        assert "calibration_removed" in got.flags
        left = got.signal_mV.shape[1]
        assert mV.shape[1] - 20 <= left <= mV.shape[1] + 1, "of the ECG at most what lies within the plateau's noise"
        most = slice(-4000, None) if begins else slice(4000)
        np.testing.assert_allclose(got.signal_mV[:, most], mV[:, most], atol=1e-6)


def test_what_is_no_pulse_stays() -> None:
    mV = digital() * STEP_MV + np.linspace(-0.2, 0.2, 12)[:, None]
    foot, top = np.zeros(60), np.ones(100)
    none = {
        "half a millivolt": np.tile(np.r_[foot, 0.5 * top, foot], (12, 1)),
        "two millivolts": np.tile(np.r_[foot, 2 * top, foot], (12, 1)),
        "a ramp": np.tile(np.linspace(0, 1, 300), (12, 1)),
        "a spike": np.tile(np.r_[foot, np.ones(4), foot], (12, 1)),
        "not in V6": np.r_[np.tile(np.r_[foot, top, foot], (11, 1)), np.zeros((1, 220))],
        "not in II": np.tile(np.r_[foot, top, foot], (12, 1)) * (np.arange(12) != 1)[:, None],
    }
    noise = np.random.default_rng(1).normal(0, 0.005, (12, 400))
    for name, end in none.items():
        ecg = np.c_[mV, end + noise[:, : end.shape[1]]]
        got = leads_of(ecg)
        assert (got.flags, got.signal_mV.shape) == ((), ecg.shape), name


@pytest.mark.parametrize("form", made.WRITERS)
def test_all_formats_lose_what_is_added_at_their_ends(form: str) -> None:
    write = made.WRITERS[form][1]
    pulse = np.zeros(500, np.int64)  # whole seconds, for EDF
    pulse[200:300] = 200
    ecg = digital() + np.arange(1, 13)[:, None]
    for added, flag in ((np.zeros(1500, np.int64), "padding_removed"), (pulse, "calibration_removed")):
        got = good(decode("x", write(np.c_[ecg, np.tile(added, (12, 1))]), {}))
        assert flag in got.flags
        assert got.signal_mV.shape == ecg.shape
        np.testing.assert_allclose(got.signal_mV[[0, 1, 6]], ecg[[0, 1, 6]] * STEP_MV, atol=1e-6)
