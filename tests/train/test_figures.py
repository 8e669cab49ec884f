from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest

from screening.model.calibration import reliability
from screening.train.figures import calibration_plot, evaluation_plot


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
