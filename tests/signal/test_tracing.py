"""Copies of a tracing have like hashes, whatever the format; other tracings have not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.signal import resample_poly

from screening.archive.reader import ArchiveReader
from screening.recording import Recording
from screening.signal.tracing import SAME_BITS, bits_apart, tracing_hashes


@pytest.fixture(scope="module")
def signals(ptbxl: Path) -> np.ndarray:
    """Return float32 (records, 12, 5000) of PTB-XL."""
    reader = ArchiveReader(str(ptbxl))
    read = [reader.read(f"{name}.hea", name) for name in (ptbxl / "RECORDS").read_text().split()]
    return np.stack([one.signal_mV for one in read if isinstance(one, Recording) and one.signal_mV.shape[1] == 5000])


def farthest(signals: np.ndarray, copies: np.ndarray, rate_hz: float = 500.0) -> int:
    pairs = zip(tracing_hashes(signals, 500.0), tracing_hashes(copies.astype(np.float32), rate_hz), strict=True)
    return max(bits_apart(one, other) for one, other in pairs)


@pytest.mark.parametrize("step_uV", [1.0, 2.5, 4.88, 5.0])
def test_rounding_of_other_formats_changes_few_bits(signals: np.ndarray, step_uV: float) -> None:
    step = step_uV / 1000
    assert farthest(signals, np.round(signals / step) * step) <= SAME_BITS / 4


@pytest.mark.parametrize(("up", "down"), [(2, 1), (1, 2), (1, 5)])
def test_other_rates_change_few_bits(signals: np.ndarray, up: int, down: int) -> None:
    assert farthest(signals, resample_poly(signals, up, down, axis=2), 500.0 * up / down) <= SAME_BITS


def test_an_offset_and_missing_samples_change_few_bits(signals: np.ndarray) -> None:
    changed = signals + np.arange(12, dtype=np.float32)[:, None]
    changed[:, 3, 100:120] = np.nan
    assert farthest(signals, changed) <= SAME_BITS


def test_other_tracings_differ_in_many_bits(signals: np.ndarray) -> None:
    hashes = tracing_hashes(signals, 500.0)
    apart = [bits_apart(one, other) for i, one in enumerate(hashes) for other in hashes[:i]]
    assert len(apart) > 1500
    assert min(apart) > 2 * SAME_BITS
    assert 120 < np.median(apart) < 136
    halves = (
        tracing_hashes(signals[:, :, :2500], 500.0),
        tracing_hashes(np.ascontiguousarray(signals[:, :, 2500:]), 500.0),
    )
    assert min(bits_apart(*pair) for pair in zip(*halves, strict=True)) > SAME_BITS, "moments of one heart"


def test_the_batch_changes_nothing(signals: np.ndarray) -> None:
    assert [tracing_hashes(one[None], 500.0)[0] for one in signals[:20]] == tracing_hashes(signals[:20], 500.0)


@pytest.mark.parametrize("samples", [1, 2, 9, 10, 11, 30, 499])
def test_short_and_empty_recordings_have_a_hash(samples: int) -> None:
    (found,) = tracing_hashes(np.zeros((1, 12, samples), np.float32), 500.0)
    assert len(found) == 64


def test_the_hash_stays_as_it_is() -> None:
    """Rows of earlier runs hold it: what changes it needs another name of the column."""
    ramp = (np.arange(12 * 5000, dtype=np.float32).reshape(1, 12, 5000) * 7919 % 1013 - 506) / 500
    assert tracing_hashes(ramp, 500.0)[0][:16] == "7ce23ba4b2a19463"
