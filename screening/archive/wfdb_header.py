"""WFDB headers: text in, what it says out; nothing is believed before it is checked.

Written after the WFDB applications guide, header(5) and signal(5) (G. B. Moody, https://physionet.org/physiotools/wag/).
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import NamedTuple

from screening.archive.container import Refused
from screening.contract import MAX_HEADER_BYTES, MAX_SAMPLES, MAX_SIGNALS, RATE_LIMITS_HZ, Reason, lead_of

MAX_SEGMENTS = 4096
"""Most segments a record may have: ten times what an intensive-care record of days needs."""

_NUMBER = r"[-+]?(?:\d{1,30}\.?\d{0,30}|\.\d{1,30})(?:[eE][-+]?\d{1,4})?"
_INT = r"[-+]?\d{1,18}"
_RECORD_LINE = re.compile(
    rf"""(?P<name>[^\s/]+)(?:/(?P<segments>\d{{1,18}}))?
    \s+(?P<signals>\d{{1,18}})
    (?:\s+(?P<rate>{_NUMBER})(?:/{_NUMBER}(?:\({_NUMBER}\))?)?
    (?:\s+(?P<frames>\d{{1,18}})
    (?:\s+\S.*)?)?)?
    \s*""",  # the last group is the time and date of recording, which nothing here needs
    re.VERBOSE | re.ASCII,
)
# Each field may be absent only if all after it are; but many writers leave out numbers and still give a one-word name.
_SIGNAL_LINE = re.compile(
    rf"""\s*(?P<file>\S+)
    \s+(?P<format>\d{{1,6}})(?:x(?P<per_frame>\d{{1,9}}))?(?::(?P<skew>\d{{1,9}}))?(?:\+(?P<offset>\d{{1,18}}))?
    (?:\s+(?P<gain>{_NUMBER})(?:\((?P<baseline>{_INT})\))?(?:/(?P<units>\S{{1,64}}))?
    (?:\s+{_INT}
    (?:\s+(?P<zero>{_INT})
    (?:\s+(?P<initial>{_INT})
    (?:\s+(?P<checksum>{_INT})
    (?:\s+{_INT}
    (?:\s+(?P<name>\S.*))?)?)?)?)?)?)?
    (?:\s+(?P<early>[A-Za-z][^\s/()]*))?
    \s*""",  # unnamed: the ADC resolution and the block size, which matter to no ordinary file
    re.VERBOSE | re.ASCII,
)
_SEGMENT_LINE = re.compile(r"\s*(?P<name>\S+)\s+(?P<frames>\d{1,18})\s*", re.ASCII)

_UNSAFE_PATH = re.compile(r"^[/~]|\\|^[A-Za-z]:|^[A-Za-z][\w+.-]*://|::|[\x00-\x1f\x7f]|^-$")


class Signal(NamedTuple):
    """One signal line."""

    file: str  # relative to the header's folder, safe; "~" where the signal has no file
    format: int
    per_frame: int
    skew: int  # frames that this signal lags behind the others
    offset: int  # bytes (samples in FLAC files) before the first sample
    gain: float  # ADC units per unit; 0 where uncalibrated
    baseline: int
    units: str | None
    initial: int
    checksum: int | None
    lead: str | None  # of the twelve; None for any other signal, and for one without samples


class Segment(NamedTuple):
    """One segment of a multi-segment record."""

    header: str  # file name relative to the header's folder, safe; "~" for a gap
    frames: int


class Header(NamedTuple):
    """What a header says; ``signals`` is empty where ``segments`` is not."""

    rate_hz: float  # frames per second
    frames: int | None  # None where the files' lengths say how many
    signals: tuple[Signal, ...]
    segments: tuple[Segment, ...]

    @property
    def leads(self) -> list[Signal]:
        """The signals that are one of the twelve leads and have samples."""
        return [signal for signal in self.signals if signal.lead is not None]


@lru_cache(maxsize=16)  # all signals of a record name the same file
def is_safe_path(name: str) -> bool:
    """Whether a relative path stays in its folder on every file system that may read it.

    >>> is_safe_path("a/b.dat"), is_safe_path("../b.dat"), is_safe_path("s3://b/c"), is_safe_path("C:b")
    (True, False, False, False)
    """
    if not name or len(name) > 1024 or _UNSAFE_PATH.search(name):
        return False
    # Percent-encoded dots climb too, once a web server has decoded them.
    parts = name.lower().replace("%2e", ".").replace("%2f", "/").replace("%5c", "/").split("/")
    return ".." not in parts and "" not in parts and parts[-1] != "." and max(map(len, parts)) <= 255


def comments(header: bytes) -> list[str]:
    """Return the comment lines of a header without their ``#``, stripped; what is not UTF-8 is read as Latin-1."""
    lines = (line.strip() for line in header.splitlines())
    return [_text(line[1:]).strip() for line in lines if line.startswith(b"#")]


def looks_like_header(data: bytes) -> bool:
    """Whether the first line that is no comment could be the record line of a WFDB header."""
    lines = _spec_lines(data[:65536])
    return bool(lines) and _RECORD_LINE.fullmatch(lines[0]) is not None


@lru_cache(maxsize=4)  # naming a record's files and decoding it are two calls
def parse(header: bytes) -> Header:
    """Return what a WFDB header says.

    Raises
    ------
    Refused
        EMPTY_FILE, TOO_LARGE, BAD_HEADER, UNSAFE_PATH, MISSING_RATE or UNKNOWN_FORMAT.
    """
    if not header.strip():
        raise Refused(Reason.EMPTY_FILE, "the header file is empty")
    if len(header) > MAX_HEADER_BYTES:
        raise Refused(Reason.TOO_LARGE, f"the header has {len(header)} bytes, the limit is {MAX_HEADER_BYTES}")
    lines = _spec_lines(header)
    record = _RECORD_LINE.fullmatch(lines[0]) if lines else None
    if record is None:
        raise Refused(Reason.BAD_HEADER, "the record line of the header cannot be understood")
    n_signals, frames = int(record["signals"]), int(record["frames"] or 0)
    if n_signals > MAX_SIGNALS:
        raise Refused(Reason.TOO_LARGE, f"the header claims {n_signals} signals, the limit is {MAX_SIGNALS}")
    if n_signals * frames > MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"the header claims {n_signals * frames} samples, the limit is {MAX_SAMPLES}")
    is_multi = record["segments"] is not None
    n_lines = int(record["segments"]) if is_multi else n_signals
    if n_lines > MAX_SEGMENTS:
        raise Refused(Reason.TOO_LARGE, f"the header claims {n_lines} segments, the limit is {MAX_SEGMENTS}")
    if len(lines) - 1 != n_lines:
        what = "segments" if is_multi else "signals"
        raise Refused(Reason.BAD_HEADER, f"the header claims {n_lines} {what} and describes {len(lines) - 1}")
    signals = () if is_multi else tuple([_signal(line, i) for i, line in enumerate(lines[1:], 1)])
    segments = tuple([_segment(line, i) for i, line in enumerate(lines[1:], 1)]) if is_multi else ()
    if is_multi and sum(segment.frames for segment in segments) != frames:
        raise Refused(Reason.BAD_HEADER, "the lengths of the segments do not add up to the record's")
    # Paths and syntax were checked first: an unsafe header is called unsafe whatever else it lacks.
    return Header(_rate_hz(record["rate"]), frames or None, signals, segments)


def _spec_lines(header: bytes) -> list[str]:
    # Comments are dropped before decoding: their bytes must not decide how a unit's micro sign is read.
    lines = [line.strip() for line in header.removeprefix(b"\xef\xbb\xbf").splitlines()]
    text = _text(b"\n".join([line for line in lines if line and not line.startswith(b"#")]))
    return text.split("\n") if text else []


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _rate_hz(text: str | None) -> float:
    # header(5) has a default of 250 Hz. A header without a rate was written by somebody who did not think of it, and a
    # wrong rate stretches every interval of the ECG: better no score than a score of that.
    rate = float(text) if text else 0.0
    if not rate:
        raise Refused(Reason.MISSING_RATE, "the header states no sampling rate")
    if not math.isfinite(rate) or rate < 0 or rate > RATE_LIMITS_HZ[1]:
        raise Refused(Reason.MISSING_RATE, f"{rate:g} Hz is no rate of an electrocardiograph")
    return rate


def _safe(name: str) -> str:
    if not is_safe_path(name):
        raise Refused(Reason.UNSAFE_PATH, "the header names a file outside the record's own folder")
    return name


def _signal(line: str, number: int) -> Signal:
    match = _SIGNAL_LINE.fullmatch(line)
    if match is None:
        # A path is judged even in a line that makes no other sense.
        _safe(line.split(None, 1)[0] if line[:1] != "~" or line[1:2] not in (" ", "\t") else "gap")
        raise Refused(Reason.BAD_HEADER, f"line {number} of the signals cannot be understood")
    file, fmt, per_frame, skew, offset, gain, baseline, units, zero, initial, checksum, name, early = match.groups()
    facts = _facts(fmt, per_frame, skew, offset, gain, baseline, zero, name, early)
    format_, a_frame, lag, first, steps, base, adc_zero, lead = facts
    if not 1 <= a_frame <= MAX_SAMPLES:
        raise Refused(Reason.BAD_HEADER, f"signal {number} claims {a_frame} samples a frame")
    if not math.isfinite(steps):
        raise Refused(Reason.BAD_HEADER, f"the gain of signal {number} is not a finite number")
    return Signal(
        file if file == "~" else _safe(file),
        format_,
        a_frame,
        lag,
        first,
        steps,
        base,
        units,
        adc_zero if initial is None else int(initial),
        None if checksum is None else int(checksum),
        None if file == "~" else lead,
    )


@lru_cache(maxsize=512)  # the records of an archive say the same of their signals, but for files, samples and checksums
def _facts(
    fmt: str,
    per_frame: str | None,
    skew: str | None,
    offset: str | None,
    gain: str | None,
    baseline: str | None,
    zero: str | None,
    name: str | None,
    early: str | None,
) -> tuple[int, int, int, int, float, int, int, str | None]:
    """Return format, samples a frame, skew, offset, gain, baseline, ADC zero and lead from their texts."""
    adc_zero = int(zero or 0)
    return (
        int(fmt),
        1 if per_frame is None else int(per_frame),
        int(skew or 0),
        int(offset or 0),
        float(gain) if gain else 0.0,
        adc_zero if baseline is None else int(baseline),
        adc_zero,
        # Format 0 is a signal without samples, and no lead's name is as long as 64 letters.
        lead_of((name or early or "")[:64]) if int(fmt) else None,
    )


def _segment(line: str, number: int) -> Segment:
    match = _SEGMENT_LINE.fullmatch(line)
    if match is None:
        raise Refused(Reason.BAD_HEADER, f"line {number} of the segments cannot be understood")
    name = match["name"]
    return Segment(name if name == "~" else _safe(f"{_safe(name)}.hea"), int(match["frames"]))
