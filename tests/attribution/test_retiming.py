from __future__ import annotations

import numpy as np
import pytest

from screening.attribution.beats import Beats, delineate, wave_masks
from screening.attribution.retiming import Lender, level_line
from screening.contract import DERIVED_LEADS, LEADS
from screening.signal.preprocess import Preprocessing, preprocess
from tests.attribution.hearts import RATE_HZ, beat_times, ecg


def retimed(
    donor_mV: np.ndarray, donor_beats: Beats, signal_mV: np.ndarray, beats: Beats, rate_hz: float
) -> np.ndarray | None:
    return Lender(donor_mV, donor_beats, rate_hz).laid_on(signal_mV, beats)


def filtered(signal_mV: np.ndarray) -> np.ndarray:
    return preprocess(signal_mV[None], RATE_HZ, Preprocessing())[0]


RECORD = filtered(ecg(r_s=beat_times(62)))
DONOR = filtered(ecg(r_s=beat_times(85, first=0.7), leads={"V2": (0.05, 0.0, 1.6, 0.2, -0.3)}, seed=3))
RECORD_BEATS, DONOR_BEATS = delineate(RECORD, 100), delineate(DONOR, 100)
FIELDS = tuple(Beats.__dataclass_fields__)


def laid(donor: np.ndarray = DONOR, beats: Beats = DONOR_BEATS) -> np.ndarray:
    found = retimed(donor, beats, RECORD, RECORD_BEATS, 100)
    assert found is not None
    return found


def test_the_donors_beats_stand_where_the_records_do() -> None:
    beats = delineate(laid(), 100)
    assert len(RECORD_BEATS) <= len(beats) <= len(RECORD_BEATS) + 1  # a part of one may follow the last
    np.testing.assert_allclose(beats.r[: len(RECORD_BEATS)], RECORD_BEATS.r, atol=0.02)
    np.testing.assert_allclose(
        np.nanmedian(beats.t_off - beats.r), np.nanmedian(RECORD_BEATS.t_off - RECORD_BEATS.r), atol=0.05
    )


def test_they_look_like_the_donors() -> None:
    """R of V2, which is 1.6 mV in the donor and 0.45 mV in the record; T, which is upright in the record alone."""
    lead, at = LEADS.index("V2"), np.round(RECORD_BEATS.r * 100).astype(int)
    line = level_line(RECORD, RECORD_BEATS, 100)
    found = (laid() - line)[lead]
    donors = (DONOR - level_line(DONOR, DONOR_BEATS, 100))[lead][np.round(DONOR_BEATS.r * 100).astype(int)]
    assert np.median([found[i - 2 : i + 3].max() for i in at]) == pytest.approx(np.median(donors), abs=0.15)
    t = np.round((RECORD_BEATS.r + 0.28) * 100).astype(int)
    assert np.median(found[t]) < -0.15
    assert np.median((RECORD - line)[lead][t]) > 0.3


def test_a_donor_like_the_record_gives_it_back_within_its_waves() -> None:
    same = retimed(RECORD, RECORD_BEATS, RECORD, RECORD_BEATS, 100)
    assert same is not None
    inside = wave_masks(RECORD_BEATS, 100, RECORD.shape[1]).sum(axis=0) > 0.99
    assert inside.mean() > 0.4
    difference = (same - RECORD)[:, inside]
    assert np.sqrt(np.square(difference).mean()) < 0.02
    assert np.abs(difference).max() < 0.15  # a beat stands for its neighbour where the record begins or ends


def test_einthovens_law_is_kept() -> None:
    found = dict(zip(LEADS, laid().astype(np.float64), strict=True))
    for lead, (a, b) in DERIVED_LEADS.items():
        np.testing.assert_allclose(found[lead], a * found["I"] + b * found["II"], atol=1e-5)


def test_it_is_linear_in_the_donor() -> None:
    other = filtered(ecg(r_s=beat_times(85, first=0.7), seed=9))
    line = level_line(RECORD, RECORD_BEATS, 100)
    one, two = laid() - line, laid(other) - line
    both = laid((2 * DONOR - 0.5 * other).astype(np.float32)) - line
    np.testing.assert_allclose(both, 2 * one - 0.5 * two, atol=1e-4)


def test_the_level_before_the_qrs_is_the_records() -> None:
    wandering = (DONOR + 0.8 * np.sin(np.arange(1000) / 160)[None]).astype(np.float32)
    found = laid(wandering)
    before = np.round((RECORD_BEATS.qrs_on - 0.01) * 100).astype(int)
    line = level_line(RECORD, RECORD_BEATS, 100)
    assert np.abs((found - line)[:, before]).max() < 0.08
    assert np.abs(found - laid()).max() < 0.6  # and the wander is gone but for its slope within a beat
    assert np.median(np.abs(found - laid())) < 0.1


def test_one_lender_serves_many_records() -> None:
    lender = Lender(DONOR, DONOR_BEATS, 100)
    np.testing.assert_array_equal(lender.laid_on(RECORD, RECORD_BEATS), laid())
    line = level_line(RECORD, RECORD_BEATS, 100)
    np.testing.assert_array_equal(lender.laid_on(RECORD, RECORD_BEATS, line=line), laid())
    other = filtered(ecg(r_s=beat_times(130)))
    found = lender.laid_on(other, delineate(other, 100))
    assert found is not None
    assert found.shape == (12, 1000)
    assert np.isfinite(found).all()


def test_p_or_t_that_one_side_lacks_keep_their_distance() -> None:
    r = np.cumsum(np.random.default_rng(1).uniform(0.5, 1.1, 11)) - 0.1  # irregular, as in fibrillation
    without = filtered(ecg(r_s=r[r < 9.5], with_p=False))
    beats = delineate(without, 100)
    assert np.isnan(beats.p_on).all()
    for pair in ((without, beats, RECORD, RECORD_BEATS), (DONOR, DONOR_BEATS, without, beats)):
        found = retimed(*pair, 100)
        assert found is not None
        assert np.isfinite(found).all()


def test_two_beats_are_needed_on_both_sides() -> None:
    one = Beats(*(getattr(RECORD_BEATS, name)[:1] for name in FIELDS))
    assert retimed(DONOR, DONOR_BEATS, RECORD, one, 100) is None
    assert retimed(DONOR, one, RECORD, RECORD_BEATS, 100) is None
