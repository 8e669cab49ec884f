"""From a parsed WFDB header and its files to twelve leads in millivolts; claims are checked before samples are read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate, groupby
from typing import NamedTuple

import numpy as np

from screening.archive.container import Refused, container_of, matlab4_matrix
from screening.archive.leads import MIN_STEPS_PER_MV, ROW, Leads, derive, place
from screening.archive.wfdb_formats import BITS, FLAC, bytes_of, flac_claims, missing_value, samples, samples_in
from screening.archive.wfdb_header import Header, Signal
from screening.contract import MAX_SAMPLES, N_LEADS, RATE_LIMITS_HZ, Reason, mV_per_unit

_IN_ORDER = list(range(N_LEADS))

_mV_per_unit = lru_cache(maxsize=64)(mV_per_unit)

_CACHE_BYTES = 2**19
"""So much of a record is turned into millivolts at once: half of what a core's second cache holds."""


class _Group(NamedTuple):
    """The signals of one file."""

    signals: list[Signal]
    data: bytes
    offset: int  # of the first sample, in bytes (in samples for FLAC)
    capacity: int  # samples that the file holds
    is_matlab: bool
    disguise: str | None  # container that the file begins as, though it should be bare samples

    @property
    def format(self) -> int:
        return self.signals[0].format

    @property
    def width(self) -> int:
        return sum(signal.per_frame for signal in self.signals)


def decode_leads(header: Header, files: Mapping[str, bytes], folder: str = "") -> Leads:
    """Decode the leads of a record or segment.

    Parameters
    ----------
    header
        Without segments.
    files
        Bytes of the files that hold a lead.
    folder
        Goes before the header's file names to give the keys of ``files``.

    Raises
    ------
    Refused
        With whatever reason keeps these leads from being known; absent leads are left to the caller.
    """
    used = header.leads
    if not used:
        return Leads(np.empty((N_LEADS, 0), np.float32), header.rate_hz, set())
    per_frame = used[0].per_frame
    if any(signal.per_frame != per_frame for signal in used):
        rates = sorted({signal.per_frame * header.rate_hz for signal in used})
        raise Refused(Reason.CONFLICTING_RATES, "leads at " + " and ".join(f"{rate:g}" for rate in rates) + " Hz")
    rate_hz = header.rate_hz * per_frame
    if not RATE_LIMITS_HZ[0] <= rate_hz <= RATE_LIMITS_HZ[1]:
        raise Refused(Reason.MISSING_RATE, f"{rate_hz:g} Hz is no rate of a diagnostic ECG")
    for signal in used:
        _steps_per_mV(signal)  # raises what it has to before any file is looked into

    by_file = [list(signals) for _, signals in groupby(header.signals, key=lambda signal: signal.file)]
    by_file = [signals for signals in by_file if any(signal.lead for signal in signals)]
    if len({signals[0].file for signals in by_file}) < len(by_file):
        raise Refused(Reason.BAD_HEADER, "the signals of one file do not stand together in the header")
    groups = [_group(signals, files[folder + signals[0].file]) for signals in by_file]
    frames = header.frames if header.frames is not None else _frames_of(groups)
    for group in groups:
        _check_size(group, frames, is_claimed=header.frames is not None)

    leads = Leads(np.empty((N_LEADS, 0), np.float32), rate_hz, set())
    for group in groups:
        leads.formats.add(f"{group.format}-mat" if group.is_matlab else f"{group.format}")
        if group.is_matlab and not group.signals[0].offset:
            leads.flags.add("matlab_offset")
        if header.frames is not None and group.capacity >= (frames + 1) * group.width:
            leads.flags.add("trailing_bytes")
        block, rows = _decode_group(group, frames, header)
        if rows == _IN_ORDER:
            leads.signal_mV, leads.rows = block, set(rows)
        else:
            place(leads, block, rows)
    for signal in used:
        leads.unit_sources.add("header gain/units" if signal.units else "wfdb default mV")
    if len(leads.rows) < N_LEADS:
        derive(leads)
    return leads


def _steps_per_mV(signal: Signal) -> float:
    """Return how many steps of the converter are 1 mV."""
    if not signal.gain:
        raise Refused(Reason.MISSING_UNITS, f"lead {signal.lead} is uncalibrated: its gain is missing or 0")
    # header(5) defines an absent unit as millivolts: no guess.
    unit_mV = _mV_per_unit(signal.units) if signal.units else 1.0
    if unit_mV is None:
        raise Refused(Reason.MISSING_UNITS, f"the unit of lead {signal.lead} is not one of voltage")
    steps = signal.gain / unit_mV
    if abs(steps) < MIN_STEPS_PER_MV:
        raise Refused(Reason.IMPLAUSIBLE_AMPLITUDE, f"one step of lead {signal.lead} would be more than 1 V")
    return steps


def _group(signals: list[Signal], data: bytes) -> _Group:
    first = signals[0]
    fmt, width = first.format, sum(signal.per_frame for signal in signals)
    if fmt not in BITS:
        raise Refused(Reason.UNKNOWN_FORMAT, f"storage format {fmt} is not known")
    if any(signal.format != fmt for signal in signals):
        raise Refused(Reason.BAD_HEADER, "the signals of one file have different storage formats")
    if any(signal.offset not in (0, first.offset) for signal in signals):
        raise Refused(Reason.BAD_HEADER, "the signals of one file begin at different bytes")
    if not data:
        raise Refused(Reason.EMPTY_FILE, "a signal file is empty")
    if width > MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"the header claims {width} samples a frame")
    if fmt in FLAC:
        return _flac_group(signals, data)
    offset = first.offset
    matrix = matlab4_matrix(data)
    if matrix is not None:
        if matrix.rows != width or matrix.bytes_per_value * 8 != BITS[fmt] or offset not in (0, matrix.offset):
            raise Refused(Reason.BAD_HEADER, "the header contradicts the MATLAB file about its samples")
        offset = matrix.offset
    capacity = samples_in(fmt, max(len(data) - offset, 0))
    disguise = None if matrix else container_of(data)
    return _Group(signals, data, offset, capacity, matrix is not None, disguise)


def _flac_group(signals: list[Signal], data: bytes) -> _Group:
    claims = flac_claims(data)
    if claims is None:
        raise Refused(Reason.UNDECODABLE, "the signal file is no FLAC stream")
    if claims.channels != len(signals) or any(signal.per_frame != signals[0].per_frame for signal in signals):
        raise Refused(Reason.BAD_HEADER, f"the FLAC file has {claims.channels} channels, the header {len(signals)}")
    if claims.bits != BITS[signals[0].format]:
        raise Refused(
            Reason.BAD_HEADER, f"the FLAC file has {claims.bits} bits a sample, the header {BITS[signals[0].format]}"
        )
    offset = signals[0].offset
    return _Group(signals, data, offset, max(claims.samples - offset, 0) * len(signals), False, None)


def _frames_of(groups: list[_Group]) -> int:
    """Return how many frames the files hold, for a header that does not say."""
    found = {group.capacity // group.width for group in groups}
    if len(found) > 1:
        raise Refused(Reason.TRUNCATED, "no length is stated, and the signal files end at different samples")
    for group in groups:
        # A packed last sample may be followed by padding; more than that is a frame that was cut.
        whole = bytes_of(group.format, group.capacity // group.width * group.width)
        if group.format not in FLAC and len(group.data) - group.offset - whole > (2 if BITS[group.format] % 8 else 0):
            raise Refused(Reason.TRUNCATED, "no length is stated, and a signal file ends within a frame")
    return found.pop()


def _check_size(group: _Group, frames: int, *, is_claimed: bool) -> None:
    count = frames * group.width
    if count > MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"the record claims {count} samples, the limit is {MAX_SAMPLES}")
    if count > group.capacity or (is_claimed and group.offset > len(group.data) and group.format not in FLAC):
        if group.disguise:
            raise Refused(Reason.UNKNOWN_FORMAT, f"a signal file is a {group.disguise} file, not samples")
        raise Refused(Reason.TRUNCATED, f"a signal file holds {group.capacity} of the {count} samples claimed")


def _decode_group(group: _Group, frames: int, header: Header) -> tuple[np.ndarray, list[int]]:
    """Return the leads of one file in millivolts, float32 (leads, samples), and their rows."""
    stored = samples(group.format, group.data, group.offset, frames, group.signals, header.rate_hz)
    starts = list(accumulate((signal.per_frame for signal in group.signals), initial=0))
    used = [(start, signal) for start, signal in zip(starts, group.signals, strict=False) if signal.lead is not None]
    is_summed = header.frames is not None  # header(5): without a stated length, checksums mean nothing
    if group.disguise and not (is_summed and all(signal.checksum is not None for _, signal in used)):
        # Only checksums can tell samples that happen to begin like another container from that container.
        raise Refused(Reason.UNKNOWN_FORMAT, f"a signal file is a {group.disguise} file, not samples")
    lowest = missing_value(group.format)
    block = np.empty((len(used), frames * used[0][1].per_frame), np.float32)
    wrong: list[str | None] = []
    # What stays in the processor's cache: all leads of an ECG, few of a long recording.
    at_once = max(1, _CACHE_BYTES // max(1, block.shape[1] * (stored.itemsize + block.itemsize)))
    for first in range(0, len(used), at_once):
        some = used[first : first + at_once]
        part = block[first : first + at_once]
        digital = _columns(stored, some)
        signals = [signal for _, signal in some]
        if is_summed:
            wrong += _wrong_sums(digital, signals)
        _scale(digital, signals, part)
        if lowest is not None and digital.size and digital.min() == lowest:
            part[digital == lowest] = np.nan
        for row, signal in zip(part, signals, strict=True):
            if signal.skew:
                lag = min(signal.skew * signal.per_frame, len(row))
                row[: len(row) - lag] = row[lag:].copy()
                row[len(row) - lag :] = np.nan
    if wrong and group.disguise:
        raise Refused(Reason.UNKNOWN_FORMAT, f"a signal file is a {group.disguise} file, not samples")
    if wrong:
        leads = ", ".join(str(lead) for lead in wrong)
        raise Refused(Reason.CHECKSUM_MISMATCH, f"samples of {leads} do not add up to the header's checksum")
    return block, [ROW[str(signal.lead)] for _, signal in used]


def _columns(stored: np.ndarray, some: list[tuple[int, Signal]]) -> np.ndarray:
    """Return the samples (leads, samples), contiguous, of the signals that begin at the given columns."""
    start, per_frame = some[0][0], some[0][1].per_frame
    if per_frame == 1 and some[-1][0] - start == len(some) - 1:
        return np.ascontiguousarray(stored[:, start : start + len(some)].T)
    return np.stack([stored[:, column : column + per_frame].reshape(-1) for column, _ in some])


def _wrong_sums(digital: np.ndarray, signals: list[Signal]) -> list[str | None]:
    """Return the leads whose sum modulo 65536 is not the header's; unsigned arithmetic wraps as the checksum does."""
    unsigned = digital.view(np.uint16 if digital.dtype.itemsize == 2 else np.uint32)
    sums = zip(signals, unsigned.sum(axis=1, dtype=unsigned.dtype).tolist(), strict=True)
    return [s.lead for s, total in sums if s.checksum is not None and (total - s.checksum) & 0xFFFF]


def _scale(digital: np.ndarray, signals: list[Signal], out: np.ndarray) -> None:
    """Write (digital - baseline) / gain as float32 millivolts, rounded once."""
    steps = [_steps_per_mV(signal) for signal in signals]
    baselines = [signal.baseline for signal in signals]
    gains = np.array(steps)[:, None]
    if digital.itemsize == 2 and max(map(abs, baselines)) < 1 << 23 and max(map(abs, steps)) < 1e30:
        narrow = gains.astype(np.float32)
        if (narrow == gains).all():
            # Differences below 2**24 are exact in float32 and division rounds correctly: float64's result, faster.
            out[...] = digital
            if any(baselines):
                out -= np.array(baselines, np.float32)[:, None]
            out /= narrow
            return
    out[...] = (digital - np.array(baselines, np.float64)[:, None]) / gains
