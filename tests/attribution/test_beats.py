from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from screening.archive.reader import ArchiveReader
from screening.attribution.beats import NO_BEATS, Beats, delineate, wave_masks
from screening.contract import INDEPENDENT_LEADS, LEADS, WAVES
from screening.recording import Recording
from screening.signal.preprocess import Preprocessing, preprocess
from screening.signal.simulate import SimulationSettings, Truth, simulate
from tests.attribution.hearts import RATE_HZ, beat_times, ecg

FIELDS = tuple(Beats.__dataclass_fields__)


def matched(found: np.ndarray, truth: np.ndarray, within_s: float) -> int:
    return int((np.abs(found[:, None] - truth[None, :]).min(axis=0) <= within_s).sum()) if len(found) else 0


@pytest.mark.parametrize("rate_bpm", [40, 60, 80, 105])
def test_every_written_beat_is_found_where_it_is(rate_bpm: float) -> None:
    r = beat_times(rate_bpm)
    beats = delineate(ecg(r_s=r), RATE_HZ)
    assert len(beats) == len(r)
    # Where the loop is widest: at R or, where S is as large in other leads, at S, 40 ms later, in all beats alike.
    assert np.ptp(beats.r - r) < 0.006
    assert min(abs(beats.r[0] - r[0]), abs(beats.r[0] - r[0] - 0.04)) < 0.012
    assert (
        (beats.qrs_on - r > -0.062) & (beats.qrs_on - r < -0.018)
    ).all()  # Q of 0.06 mV at most begins 58 ms before R
    np.testing.assert_allclose(beats.qrs_off - r, 0.058, atol=0.016)
    assert ((beats.t_on < r + 0.28) & (r + 0.28 < beats.t_off))[:-1].all()
    assert ((beats.p_on < r - 0.16) & (r - 0.16 < beats.p_off))[1:].all()


def test_times_come_in_order_and_beats_do_not_overlap() -> None:
    for seed, rate in enumerate((45, 80, 130, 170)):
        beats = delineate(ecg(r_s=beat_times(rate), seed=seed, noise_mV=0.02), RATE_HZ)
        times = np.column_stack([getattr(beats, name) for name in FIELDS])
        for row in times:
            there = row[np.isfinite(row)]
            assert (np.diff(there) > 0).all()
        starts = np.where(np.isfinite(beats.p_on), beats.p_on, beats.qrs_on)
        ends = np.where(np.isfinite(beats.t_off), beats.t_off, beats.qrs_off)
        assert (ends[:-1] <= starts[1:] + 1e-9).all()


def test_no_p_is_found_where_none_is() -> None:
    r = np.cumsum(np.random.default_rng(1).uniform(0.5, 1.1, 11)) - 0.1  # irregular, as in fibrillation
    beats = delineate(ecg(r_s=r[r < 9.5], with_p=False), RATE_HZ)
    assert len(beats) == (r < 9.5).sum()
    assert np.isnan(beats.p_on).all()
    assert np.isfinite(beats.t_on).mean() > 0.8


@pytest.mark.parametrize(
    "signal",
    [
        np.zeros((12, 1000)),
        np.full((12, 1000), 3.0),
        np.random.default_rng(0).normal(0, 1e-4, (12, 1000)),
        np.zeros((12, 20)),
        np.zeros((12, 0)),
        ecg(r_s=np.array([5.0]), noise_mV=0)[:, ::5],  # one beat
    ],
)
def test_where_there_are_no_two_beats_none_are_found(signal: np.ndarray) -> None:
    beats = delineate(signal.astype(np.float32), 100)
    assert len(beats) == len(NO_BEATS) == 0
    assert (wave_masks(beats, 100, 1000) == 0).all()
    assert beats.window("T").shape == (0, 2)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_nothing_is_raised(seed: int) -> None:
    rng = np.random.default_rng(seed)
    for signal in (
        rng.normal(0, 1, (12, 1000)),
        np.cumsum(rng.normal(0, 0.3, (12, 1000)), axis=1),
        rng.normal(0, 0.01, (12, 1000)) + (rng.random(1000) < 0.01) * 20,
        np.sin(np.arange(1000) / 3)[None] * rng.normal(size=(12, 1)),
    ):
        beats = delineate(signal.astype(np.float32), 100)
        masks = wave_masks(beats, 100, 1000)
        assert np.isfinite(masks).all()
        assert np.isfinite(beats.r).all()
        assert np.isfinite(beats.qrs_on).all()


def test_the_rate_of_sampling_changes_little() -> None:
    signal = ecg(noise_mV=0.01)
    low = preprocess(signal[None], RATE_HZ, Preprocessing())[0]
    fine, coarse = delineate(signal, RATE_HZ), delineate(low, 100)
    assert len(fine) == len(coarse)
    np.testing.assert_allclose(coarse.r, fine.r, atol=0.012)
    for name in ("qrs_on", "qrs_off"):
        np.testing.assert_allclose(getattr(coarse, name), getattr(fine, name), atol=0.02)


def test_polarity_and_gain_do_not_matter() -> None:
    signal = ecg()
    one, other = delineate(signal, RATE_HZ), delineate(-2 * signal, RATE_HZ)
    for name in FIELDS:
        np.testing.assert_allclose(getattr(one, name), getattr(other, name), atol=0.005)


@pytest.fixture(scope="module")
def simulated() -> list[tuple[Truth, Beats]]:
    settings = SimulationSettings(records=150, prevalence=0.3, seed=4)
    batch = simulate(range(150), settings)
    filtered = preprocess(batch.signal_mV, settings.rate_hz, Preprocessing())
    return [(truth, delineate(signal, 100)) for truth, signal in zip(batch.truth, filtered, strict=True)]


def test_rate_and_intervals_are_those_of_simulated_hearts(simulated: list[tuple[Truth, Beats]]) -> None:
    rate, qrs, pr, qt = [], [], [], []
    for truth, beats in simulated:
        rate.append(60 / np.median(np.diff(beats.r)) / truth.heart_rate_bpm - 1 if len(beats) > 1 else np.nan)
        qrs.append(1000 * np.median(beats.qrs_off - beats.qrs_on) - truth.qrs_ms)
        qt.append(
            1000 * np.nanmedian(beats.t_off - beats.qrs_on) - truth.qt_ms if np.isfinite(beats.t_off).any() else np.nan
        )
        if truth.pr_ms is not None and np.isfinite(beats.p_on).any():
            pr.append(1000 * np.nanmedian(beats.qrs_on - beats.p_on) - truth.pr_ms)
    assert np.isfinite(rate).all()
    assert np.mean(np.abs(rate) < 0.15) >= 0.97  # irregular rhythms have no one rate
    assert abs(np.median(qrs)) < 15
    assert np.quantile(np.abs(qrs), 0.9) < 35
    assert np.isfinite(qt).mean() > 0.95
    assert abs(np.nanmedian(qt)) < 40
    assert len(pr) > 100
    assert abs(np.median(pr)) < 35


def test_fibrillation_has_no_p_and_sinus_rhythm_has(simulated: list[tuple[Truth, Beats]]) -> None:
    def share(wanted: list[Beats]) -> float:
        return float(np.mean([np.isfinite(beats.p_on).any() for beats in wanted]))

    fibrillating = [beats for truth, beats in simulated if truth.pr_ms is None]
    assert len(fibrillating) >= 3
    assert share(fibrillating) < 0.5
    assert share([beats for truth, beats in simulated if truth.pr_ms is not None]) > 0.9


def test_r_peaks_are_those_that_another_detector_finds(ptbxl: Path) -> None:
    """XQRS of wfdb, a detector on one lead: nearly all beats of real ECGs are found by both."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, when it is imported
        from wfdb.processing import XQRS

    reader, names = ArchiveReader(str(ptbxl)), (ptbxl / "RECORDS").read_text().split()[:40]
    ours_found = theirs_found = ours = theirs = 0
    for name in names:
        recording = reader.read(f"{name}.hea", name)
        assert isinstance(recording, Recording)
        beats = delineate(preprocess(recording.signal_mV[None], recording.rate_hz, Preprocessing())[0], 100)
        detector = XQRS(recording.signal_mV[LEADS.index("II")].astype(np.float64), fs=int(recording.rate_hz))
        detector.detect(verbose=False)
        other = np.asarray(detector.qrs_inds) / recording.rate_hz
        other = other[(other > 0.4) & (other < 9.6)]
        mine = beats.r[(beats.r > 0.4) & (beats.r < 9.6)]
        theirs, ours = theirs + len(other), ours + len(mine)
        theirs_found += matched(beats.r, other, 0.1)
        ours_found += matched(np.asarray(detector.qrs_inds) / recording.rate_hz, mine, 0.1)
    assert theirs > 300
    assert theirs_found / theirs > 0.97
    assert ours_found / ours > 0.95


def test_masks_lie_between_nothing_and_all_and_only_where_waves_are() -> None:
    beats = delineate(ecg(), RATE_HZ)
    masks = wave_masks(beats, 100, 1000)
    assert masks.shape == (4, 1000)
    assert masks.dtype == np.float32
    assert masks.min() >= 0
    assert masks.sum(axis=0).max() <= 1 + 1e-6
    time = np.arange(1000) / 100
    for mask, wave in zip(masks, WAVES, strict=True):
        windows = beats.window(wave)
        windows = windows[np.isfinite(windows).all(axis=1)]
        assert len(windows) >= len(beats) - 1
        near = ((time[:, None] > windows[:, 0] - 0.021) & (time[:, None] < windows[:, 1] + 0.021)).any(axis=1)
        assert (mask[~near] == 0).all()
        middle = [int(round(100 * at)) for at in windows.mean(axis=1)]
        assert mask[middle].min() > 0.8


def test_the_leads_that_are_looked_at_are_the_independent_ones() -> None:
    signal = ecg()
    for lead in LEADS:
        if lead not in INDEPENDENT_LEADS:
            signal[LEADS.index(lead)] = np.random.default_rng(0).normal(0, 5, signal.shape[1])
    np.testing.assert_array_equal(delineate(signal, RATE_HZ).r, delineate(ecg(), RATE_HZ).r)
