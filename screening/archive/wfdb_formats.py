"""Storage formats of WFDB signal files: bytes in, integer samples out.

Written after the WFDB applications guide, signal(5) (G. B. Moody, https://physionet.org/physiotools/wag/signal-5.htm).
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np

from screening.archive.container import Refused
from screening.archive.wfdb_header import Signal
from screening.contract import Reason

BITS = {8: 8, 16: 16, 24: 24, 32: 32, 61: 16, 80: 8, 160: 16, 212: 12, 310: 10, 311: 10, 508: 8, 516: 16, 524: 24}
"""Formats that are read -> bits of a sample."""

FLAC = (508, 516, 524)


def missing_value(fmt: int) -> int | None:
    """Return the sample that means "missing" in a format: its lowest, or None in format 8, which has none."""
    return None if fmt == 8 else -(1 << BITS[fmt] - 1)


def bytes_of(fmt: int, samples: int) -> int:
    """Return how many bytes ``samples`` samples take at least, all signals of the file together."""
    if fmt in FLAC:
        return 0  # compressed: flac_frames says what the file claims to hold
    if fmt == 212:
        return samples // 2 * 3 + samples % 2 * 2
    if fmt in (310, 311):
        return -(-samples * 4 // 3)
    return samples * BITS[fmt] // 8


def samples_in(fmt: int, size: int) -> int:
    """Return how many samples fit into ``size`` bytes."""
    if fmt == 212:
        return size // 3 * 2 + (size % 3 == 2)
    if fmt in (310, 311):
        return size * 3 // 4
    return size * 8 // BITS[fmt]


class Flac(NamedTuple):
    """What the stream of a FLAC file claims to hold."""

    channels: int
    bits: int
    samples: int  # of each channel; 0 where unknown


def flac_claims(data: bytes) -> Flac | None:
    """Return the claims of a FLAC file's first metadata block (RFC 9639 section 8.2), or None if it has none."""
    if len(data) < 42 or not data.startswith(b"fLaC") or data[4] & 0x7F:
        return None
    packed = int.from_bytes(data[18:26])
    return Flac((packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1, packed & (1 << 36) - 1)


def samples(fmt: int, data: bytes, offset: int, frames: int, signals: list[Signal], rate_hz: float) -> np.ndarray:
    """Return the samples of one signal file in the order in which they are stored.

    Parameters
    ----------
    fmt, data, offset
        Storage format, the file, and where in it the samples begin.
    frames
        Frames to read; the caller has checked that the file holds them.
    signals
        The signals of the file, in order.
    rate_hz
        Frames per second; matters to no value.

    Returns
    -------
    Integers (frames, samples of a frame): a signal of several samples a frame has as many columns. May be read-only.
    """
    width = sum(signal.per_frame for signal in signals)
    count = frames * width
    if fmt == 16:
        flat = np.frombuffer(data, "<i2", count, offset)
    elif fmt == 212:
        flat = _unpack_212(data, offset, count)
    elif fmt == 80:
        flat = np.frombuffer(data, np.uint8, count, offset).astype(np.int16) - np.int16(128)
    elif fmt == 160:
        flat = np.frombuffer(data, "<u2", count, offset) ^ np.uint16(0x8000)
        flat = flat.view(np.int16)
    elif fmt == 61:
        flat = np.frombuffer(data, ">i2", count, offset).astype(np.int16)
    elif fmt == 24:
        octets = np.frombuffer(data, np.uint8, count * 3, offset).reshape(-1, 3).astype(np.int32)
        flat = (octets[:, 0] | octets[:, 1] << 8 | octets[:, 2] << 16) << 8 >> 8  # the shifts extend the sign
    elif fmt == 32:
        flat = np.frombuffer(data, "<i4", count, offset)
    else:  # 8, 310, 311 and FLAC are too rare for code of our own
        flat = _by_wfdb(fmt, data, offset, frames, signals, rate_hz)
    return flat.reshape(frames, width)


def _unpack_212(data: bytes, offset: int, count: int) -> np.ndarray:
    pairs = np.zeros((count + 1) // 2 * 3, np.uint8)
    size = bytes_of(212, count)
    pairs[:size] = np.frombuffer(data, np.uint8, size, offset)
    octets = pairs.reshape(-1, 3).astype(np.int16)
    out = np.empty((len(octets), 2), np.int16)
    # Shifting left to the top of 16 bits and back again extends the sign of the 12.
    out[:, 0] = (octets[:, 0] | octets[:, 1] << 8) << 4 >> 4
    out[:, 1] = (octets[:, 2] << 4 | (octets[:, 1] & 0xF0) << 8) >> 4
    return out.reshape(-1)[:count]


def _by_wfdb(fmt: int, data: bytes, offset: int, frames: int, signals: list[Signal], rate_hz: float) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, under newer pandas
        import wfdb  # slow to import, and rarely needed

    lines = [f"r {len(signals)} {rate_hz:.6f} {frames}"]
    # Only what the samples rest on is handed over, under a name of ours: nothing hostile of the header reaches wfdb.
    lines += [f"r.dat {fmt}x{s.per_frame}+{offset} 1(0)/mV 16 0 {s.initial} 0 0 s{i}" for i, s in enumerate(signals)]
    with tempfile.TemporaryDirectory(prefix="screening-") as folder:
        Path(folder, "r.hea").write_text("\n".join(lines) + "\n")
        Path(folder, "r.dat").write_bytes(data)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                record = wfdb.rdrecord(f"{folder}/r", physical=False, smooth_frames=False)
        except (ImportError, MemoryError):
            raise
        except Exception as error:
            raise Refused(Reason.UNDECODABLE, f"wfdb failed on format {fmt}: {type(error).__name__}") from error
    columns = [np.asarray(s, np.int32).reshape(frames, -1) for s in record.e_d_signal]
    return np.concatenate(columns, axis=1)
