"""Builds the files of WFDB records, of every kind that can be read; deterministic, no tests.

Encoders are written from the definitions in signal(5), apart from the decoders that they test.
"""

from __future__ import annotations

import io
import struct

import numpy as np

from screening.contract import LEADS

RATE = 500
SAMPLES = 5000


# --- Samples ---------------------------------------------------------------------------------------------------------


def ecg(samples: int = SAMPLES, *, gain: float = 1000.0, seed: int = 0) -> np.ndarray:
    """Return a plain sinus rhythm as integers (12, samples), ``gain`` steps a millivolt; limb leads obey Einthoven."""
    rng = np.random.default_rng(seed)
    time = np.arange(samples) / RATE
    phase = (time - 0.3) % 0.85

    def wave(centre: float, width: float) -> np.ndarray:
        return np.exp(-0.5 * ((phase - centre) / width) ** 2)

    p, q, r, s, t = (wave(c, w) for c, w in ((0.1, 0.02), (0.235, 0.008), (0.26, 0.012), (0.29, 0.012), (0.52, 0.045)))
    heights = {  # of P, Q, R, S, T in mV
        "I": (0.08, -0.05, 0.7, -0.1, 0.2),
        "II": (0.14, -0.06, 1.1, -0.15, 0.3),
        "V1": (0.04, 0.0, 0.2, -0.9, -0.05),
        "V2": (0.05, 0.0, 0.4, -1.3, 0.35),
        "V3": (0.06, 0.0, 0.7, -0.9, 0.4),
        "V4": (0.07, -0.04, 1.3, -0.5, 0.4),
        "V5": (0.07, -0.06, 1.2, -0.2, 0.3),
        "V6": (0.07, -0.06, 0.9, -0.1, 0.25),
    }
    mV = {lead: sum(h * w for h, w in zip(hs, (p, q, r, s, t), strict=True)) for lead, hs in heights.items()}
    mV = {lead: signal + 0.01 * rng.standard_normal(samples) for lead, signal in mV.items()}
    i, ii = mV["I"], mV["II"]
    mV |= {"III": ii - i, "aVR": -(i + ii) / 2, "aVL": i - ii / 2, "aVF": ii - i / 2}
    return np.rint(np.stack([mV[lead] for lead in LEADS]) * gain).astype(np.int64)


# --- Storage formats -------------------------------------------------------------------------------------------------

GAIN_OF_FORMAT = {80: 60.0, 8: 100.0, 310: 150.0, 311: 150.0, 212: 500.0}
"""Steps a millivolt that suit formats of few bits; 1000 for all others."""


def interleave(digital: np.ndarray, per_frame: int = 1) -> np.ndarray:
    """Return samples (leads, n) in the order of a signal file: frame by frame, lead by lead."""
    leads, n = digital.shape
    return digital.reshape(leads, n // per_frame, per_frame).swapaxes(0, 1).ravel()


def encode(fmt: int, digital: np.ndarray, per_frame: int = 1) -> bytes:
    """Return samples (leads, n) as the bytes of a signal file, by the definitions in signal(5)."""
    flat = interleave(digital, per_frame)
    if fmt == 16:
        return flat.astype("<i2").tobytes()
    if fmt == 61:
        return flat.astype(">i2").tobytes()
    if fmt == 160:
        return (flat + 32768).astype("<u2").tobytes()
    if fmt == 80:
        return (flat + 128).astype(np.uint8).tobytes()
    if fmt == 32:
        return flat.astype("<i4").tobytes()
    if fmt == 24:
        return flat.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    if fmt == 8:
        steps = np.diff(digital, axis=1, prepend=digital[:, :1])
        return interleave(steps, per_frame).astype(np.int8).tobytes()
    if fmt == 212:
        out = bytearray()
        padded = [*(int(v) & 0xFFF for v in flat), 0]
        for a, b in zip(padded[0::2], padded[1::2], strict=False):
            out += bytes((a & 0xFF, a >> 8 | b >> 8 << 4, b & 0xFF))
        return bytes(out[: len(flat) // 2 * 3 + len(flat) % 2 * 2])
    if fmt in (310, 311):
        padded = np.append(flat, [0, 0])[: -(-len(flat) // 3) * 3].reshape(-1, 3) & 0x3FF
        a, b, c = padded.astype(np.int64).T
        if fmt == 311:
            return (a | b << 10 | c << 20).astype("<u4").tobytes()
        words = np.stack([a << 1 | (c & 0x1F) << 11, b << 1 | (c >> 5) << 11], axis=1)
        return words.astype("<u2").tobytes()
    if fmt in (508, 516, 524):
        import soundfile

        stream = io.BytesIO()
        shift = {508: 24, 516: 16, 524: 8}[fmt]
        subtype = {508: "PCM_S8", 516: "PCM_16", 524: "PCM_24"}[fmt]
        soundfile.write(stream, (digital.T << shift).astype(np.int32), 96000, subtype, format="FLAC")
        return stream.getvalue()
    raise ValueError(f"no encoder for format {fmt}")


def matlab(digital: np.ndarray, *, kind: int = 30, dtype: str = "<i2", name: bytes = b"val\0") -> bytes:
    """Return samples (leads, n) as a MATLAB level 4 file."""
    rows, columns = digital.shape
    return struct.pack("<5I", kind, rows, columns, 0, len(name)) + name + digital.T.astype(dtype).tobytes()


# --- Records ---------------------------------------------------------------------------------------------------------


def signal_line(
    file: str,
    storage: str,
    digital: np.ndarray,
    lead: str,
    *,
    gain: str = "1000.0(0)/mV",
    checksum: int | None = None,
) -> str:
    """Return the line of one signal, with the checksum of its samples unless another is given."""
    total = int(digital.sum()) & 0xFFFF if checksum is None else checksum
    total -= 65536 if total > 32767 else 0
    return f"{file} {storage} {gain} 16 0 {digital[0]} {total} 0 {lead}"


def record(
    name: str = "r",
    *,
    fmt: int = 16,
    digital: np.ndarray | None = None,
    leads: tuple[str, ...] = LEADS,
    gain: str | None = None,
    storage: str | None = None,
    per_frame: int = 1,
    seed: int = 0,
) -> dict[str, bytes]:
    """Return the two files of an ordinary record: ``name.hea`` and ``name.dat``."""
    steps = GAIN_OF_FORMAT.get(fmt, 1000.0)
    if digital is None:
        digital = ecg(gain=steps, seed=seed)
    storage = storage or (f"{fmt}x{per_frame}" if per_frame > 1 else str(fmt))
    lines = [f"{name} {len(leads)} {RATE / per_frame:g} {digital.shape[1] // per_frame}"]
    lines += [
        signal_line(f"{name}.dat", storage, samples, lead, gain=gain or f"{steps:g}/mV")
        for lead, samples in zip(leads, digital, strict=True)
    ]
    return {f"{name}.hea": "\n".join([*lines, ""]).encode(), f"{name}.dat": encode(fmt, digital, per_frame)}


def matlab_record(name: str = "r", *, offset: str = "+24") -> dict[str, bytes]:
    """Return a record as the CinC challenges publish them."""
    files = record(name)
    header = files[f"{name}.hea"].replace(f"{name}.dat 16 ".encode(), f"{name}.mat 16x1{offset} ".encode())
    return {f"{name}.hea": header, f"{name}.mat": matlab(ecg())}


def flac_record(
    digital: np.ndarray | None = None,
    *,
    fmt: int = 516,
    stored: int | None = None,
    frames: int | None = None,
    claim: int | None = None,
) -> dict[str, bytes]:
    """Return a record in two FLAC files, which hold eight channels at most.

    Parameters
    ----------
    digital
        Samples (12, n); the plain rhythm if left out.
    fmt, stored
        What the header says, and what the streams are if that is something else.
    frames
        What the header claims; 0 for nothing, and what there is if left out.
    claim
        Samples a channel that the streams claim (RFC 9639 section 8.2, 36 bits).
    """
    digital = ecg() if digital is None else digital
    length = digital.shape[1] if frames is None else frames
    lines = [f"r 12 500 {length}"]
    for at, lead in enumerate(LEADS):
        lines.append(signal_line("r.flac" if at < 6 else "s.flac", str(fmt), digital[at], lead, gain="1000/mV"))
    files = {"r.hea": "\n".join([*lines, ""]).encode()}
    for name, half in (("r.flac", digital[:6]), ("s.flac", digital[6:])):
        stream = bytearray(encode(stored or fmt, half))
        if claim is not None:
            stream[18:26] = (int.from_bytes(stream[18:26]) >> 36 << 36 | claim).to_bytes(8)
        files[name] = bytes(stream)
    return files


def segmented(name: str = "r", *, variable: bool = False) -> dict[str, bytes]:
    """Return a record of two segments; with ``variable``, with a layout, a gap, and V6 in the second segment only."""
    digital = ecg()
    first = digital[:, :3000]
    files = record(f"{name}_1", digital=first[:-1] if variable else first, leads=LEADS[:-1] if variable else LEADS)
    files |= record(f"{name}_2", digital=digital[:, 3000:])
    if not variable:
        files[f"{name}.hea"] = f"{name}/2 12 500 5000\n{name}_1 3000\n{name}_2 2000\n".encode()
        return files
    layout = [f"{name}_0 12 500 0"] + [f"~ 0 1000/mV 16 0 0 0 0 {lead}" for lead in LEADS]
    files[f"{name}_0.hea"] = "\n".join([*layout, ""]).encode()
    files[f"{name}.hea"] = f"{name}/4 12 500 5100\n{name}_0 0\n{name}_1 3000\n~ 100\n{name}_2 2000\n".encode()
    return files
