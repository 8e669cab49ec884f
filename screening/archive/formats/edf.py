"""EDF and EDF+: signals in records of some time each, scaled between stated digital and physical limits.

Kemp et al. 1992, A simple format for exchange of digitized polygraphic recordings (doi.org/10.1016/0013-4694(92)90009-7), and
EDF+, Kemp & Olivan 2003 (doi.org/10.1016/S1388-2457(03)00123-8). Read here, because it is simple; tests hold it against edfio.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import NamedTuple

import numpy as np

from screening.archive.container import Refused
from screening.archive.facts import SEXES, Facts, age_at, as_id
from screening.archive.leads import Channel, Leads, assemble
from screening.contract import MAX_SAMPLES, MAX_SIGNALS, Reason, lead_of, mV_per_unit

NAME = "edf"
_WIDTHS = (
    ("label", 16),
    ("transducer", 80),
    ("unit", 8),
    ("low", 8),
    ("high", 8),
    ("digital_low", 8),
    ("digital_high", 8),
)
_ANNOTATIONS = "EDF Annotations"
_REST = (("filters", 80), ("samples", 8), ("reserved", 32))


class _Signal(NamedTuple):
    name: str
    lead: str | None
    unit: str
    low: str
    high: str
    digital_low: str
    digital_high: str
    samples: int  # a record


class _Header(NamedTuple):
    bytes: int
    records: int
    record_s: float
    signals: list[_Signal]


def looks_like(head: bytes) -> bool:
    """Whether a file begins as EDF: its version, and a count of signals and bytes that fit each other."""
    if not head.startswith(b"0       ") or len(head) < 256:
        return False
    size, signals = head[184:192].strip(), head[252:256].strip()
    return size.isdigit() and signals.isdigit() and int(size) == 256 * (1 + int(signals))


def _header(data: bytes) -> _Header:
    count = int(data[252:256])
    if not 0 < count <= MAX_SIGNALS:
        raise Refused(Reason.BAD_HEADER, f"the header claims {count} signals")
    if len(data) < 256 * (1 + count):
        raise Refused(Reason.TRUNCATED, f"the header is cut off after {len(data)} bytes")
    fields: dict[str, list[str]] = {}
    at = 256
    for name, width in (*_WIDTHS, *_REST):
        cells = [data[at + i * width : at + (i + 1) * width] for i in range(count)]
        fields[name] = [cell.decode("latin-1").strip() for cell in cells]
        at += width * count
    try:
        records, record_s = int(data[236:244]), float(data[244:252])
        samples = [int(stated) for stated in fields["samples"]]
    except ValueError:
        raise Refused(Reason.BAD_HEADER, "a count in the header is no number") from None
    if not record_s > 0:
        raise Refused(Reason.MISSING_RATE, "the records are of no length in time")
    if min(samples) < 0 or max(samples) > MAX_SAMPLES or records < -1 or records * sum(samples) > MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"the record claims more samples than the limit, {MAX_SAMPLES}")
    signals = [
        _Signal(label, lead_of(label), unit, low, high, digital_low, digital_high, of)
        for label, unit, low, high, digital_low, digital_high, of in zip(
            *(fields[name] for name in ("label", "unit", "low", "high", "digital_low", "digital_high")),
            samples,
            strict=True,
        )
    ]
    a_record = 2 * sum(samples)
    if records == -1:  # never closed: as many as there are
        records = (len(data) - at) // a_record if a_record else 0
    return _Header(at, records, record_s, signals)


def read(data: bytes) -> Leads:
    """Return the leads, from every signal that bears the name of one."""
    header = _header(data)
    used = [signal for signal in header.signals if signal.lead is not None]
    if len({signal.samples for signal in used}) > 1:
        rates = sorted({signal.samples / header.record_s for signal in used})
        raise Refused(Reason.CONFLICTING_RATES, "leads at " + " and ".join(f"{rate:g}" for rate in rates) + " Hz")
    width = sum(signal.samples for signal in header.signals)
    held = (len(data) - header.bytes) // 2
    if held < header.records * width:
        raise Refused(Reason.TRUNCATED, f"{held} of the {header.records * width} samples claimed are there")
    stored = np.frombuffer(data, "<i2", header.records * width, header.bytes).reshape(header.records, width)
    if data[192:236].startswith(b"EDF+D") and not _is_contiguous(header, stored):
        raise Refused(
            Reason.MISSING_SAMPLES, "the recording is interrupted (EDF+D), or does not say when records begin"
        )
    channels: list[Channel] = []
    at = 0
    for signal in header.signals:
        if signal.lead is not None:
            channels.append(_channel(signal, stored[:, at : at + signal.samples].reshape(-1)))
        at += signal.samples
    rate = used[0].samples / header.record_s if used else 0.0
    if not used:
        raise Refused(Reason.MISSING_LEADS, "no signal bears the name of a lead")
    return assemble(channels, rate, source_format=NAME, unit_source="physical dimension")


_BEGINS = re.compile(rb"([+-]\d{1,12}(?:\.\d{1,12})?)(?:\x15[\d.]*)?\x14\x14")
"""The first annotation of a record of EDF+ says when it begins, in seconds."""
_SAME_S = 1e-4
"""Fractions of a second are rounded where they are written."""


def _is_contiguous(header: _Header, stored: np.ndarray) -> bool:
    """Whether each record begins where the one before ends."""
    names = [signal.name for signal in header.signals]
    if _ANNOTATIONS not in names:
        return False
    place = names.index(_ANNOTATIONS)
    start = sum(signal.samples for signal in header.signals[:place])
    texts = np.ascontiguousarray(stored[:, start : start + header.signals[place].samples])
    begins = [_BEGINS.match(text.tobytes()) for text in texts]
    if not all(begins):
        return False
    seconds = np.array([float(found[1]) for found in begins if found])
    return bool((np.abs(np.diff(seconds) - header.record_s) <= _SAME_S).all())


def _channel(signal: _Signal, samples: np.ndarray) -> Channel:
    mV = mV_per_unit(signal.unit)
    if mV is None:
        raise Refused(Reason.MISSING_UNITS, f"the unit of lead {signal.lead} is missing, or not one of voltage")
    try:
        low, high, first, last = (
            float(of) for of in (signal.low, signal.high, signal.digital_low, signal.digital_high)
        )
    except ValueError:
        raise Refused(Reason.MISSING_UNITS, f"the limits of lead {signal.lead} are no numbers") from None
    if last == first or high == low:
        raise Refused(Reason.MISSING_UNITS, f"the limits of lead {signal.lead} are the same, so that it has no scale")
    step = (high - low) / (last - first)
    return Channel(str(signal.lead), samples, step * mV, (low - first * step) * mV)


_PATIENT = re.compile(r"(\S+) ([MFX]) (\d{2}-[A-Z]{3}-\d{4}|X) ", re.IGNORECASE)
_CODE = re.compile(r"\s*(\S*\d\S*)(?:\s|$)")
"""Of EDF before EDF+: the first word, where it is no name; words like "anonymous" would make one patient of many."""
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def facts(data: bytes) -> Facts:
    """Return what the header states; the parts of the patient field are those of EDF+, or it is a code."""
    header = _header(data)
    used = next((signal for signal in header.signals if signal.lead is not None), None)
    rate = used.samples / header.record_s if used else None
    acquired_at = _started(data[168:184].decode("latin-1"))
    found = _PATIENT.match(data[8:88].decode("latin-1"))
    code = found or _CODE.match(data[8:88].decode("latin-1"))
    return Facts(
        patient_id=as_id(code[1]) if code and code[1].upper() != "X" else None,
        acquired_at=acquired_at,
        age=age_at(acquired_at, _born(found[3])) if found else None,
        sex=SEXES.get(found[2].lower()) if found else None,
        rate_hz=rate,
        duration_s=header.records * header.record_s,
    )


def _born(stated: str) -> datetime | None:
    day, _, rest = stated.upper().partition("-")
    month, _, year = rest.partition("-")
    if month not in _MONTHS or not int(year):
        return None
    return datetime(int(year), _MONTHS.index(month) + 1, min(max(int(day), 1), 28))


def _started(stated: str) -> datetime | None:
    try:
        found = datetime.strptime(stated, "%d.%m.%y%H.%M.%S")
    except ValueError:
        return None
    return found.replace(year=found.year + 100) if found.year < 1985 else found  # EDF+: 85 to 99 are 1985 to 1999
