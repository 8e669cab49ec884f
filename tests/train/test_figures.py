from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from screening.contract import LEADS
from screening.model.calibration import reliability
from screening.train.figures import calibration_plot, ecg_plot, evaluation_plot


def chunks(png: bytes) -> dict[bytes, bytes]:
    """Return a PNG's chunks by type, with their checksums verified."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    at, found = 8, {}
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        body = png[at + 8 : at + 8 + length]
        assert struct.unpack(">I", png[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        found[kind] = body
        at += 12 + length
    assert b"IEND" in found
    return found


def size(png: bytes) -> tuple[int, int]:
    return struct.unpack(">II", chunks(png)[b"IHDR"][:8])


@pytest.fixture(scope="module")
def scored() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    p = rng.uniform(0, 1, 300)
    return p, (rng.uniform(0, 1, 300) < p).astype(int)


def test_the_same_drawing_is_the_same_bytes(scored: tuple[np.ndarray, np.ndarray]) -> None:
    first, again = (calibration_plot(reliability(*scored)) for _ in range(2))
    assert first == again
    assert b"matplotlib" not in first.lower()
    assert b"tEXt" not in chunks(first)
    wide = evaluation_plot(reliability(*scored), *scored, title="Fold 9")
    assert size(wide)[0] > size(first)[0]


def test_a_calibration_without_a_slope_is_drawn(scored: tuple[np.ndarray, np.ndarray]) -> None:
    chunks(calibration_plot({**reliability(*scored), "slope": None, "intercept": None}))


def pixels(png: bytes) -> np.ndarray:
    from io import BytesIO

    from matplotlib.image import imread

    return np.asarray(imread(BytesIO(png)))[..., :3]


def test_an_ecg_is_to_scale() -> None:
    """A step of 1 mV in lead II at 5 s moves the rhythm strip by 10 mm, 125 mm into the trace."""
    signal = np.zeros((12, 5000), np.float32)
    signal[LEADS.index("II")] = np.where(np.arange(5000) < 2500, -0.5, 0.5)
    image = pixels(ecg_plot(signal, 500.0, head=("first", "$second_", "<third>")))
    mm = 130 / 25.4
    strip = image[round(image.shape[0] - (8 + 30) * mm) : round(image.shape[0] - 8 * mm)]
    ink = (strip < 0.35).all(axis=2)

    def height(column_mm: float) -> float:
        rows = np.flatnonzero(ink[:, round(column_mm * mm)])
        return float(rows.mean())

    left_mm = 5 + 10  # border, calibration pulse
    before, after = height(left_mm + 60), height(left_mm + 200)
    assert (before - after) / mm == pytest.approx(10, abs=0.25)
    step = np.flatnonzero(ink[:, round((left_mm + 120) * mm) : round((left_mm + 130) * mm)].sum(axis=0) > 20)
    assert 120 + step.mean() / mm == pytest.approx(125, abs=0.3)


@pytest.mark.parametrize("samples", [1, 700, 9000])
def test_any_length_and_any_gap_is_drawn(samples: int) -> None:
    signal = np.random.default_rng(0).normal(0, 0.2, (12, samples)).astype(np.float32)
    signal[3] = np.nan
    signal[5, : samples // 2] = np.nan
    width, height = size(ecg_plot(signal, 500.0))
    assert (width, height) == (1407, 788)
