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
from screening.archive.leads import Channel, Leads, assemble
from screening.archive.metadata import SEXES, Facts, age_at, as_id
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
_REST = (("filters", 80), ("samples", 8), ("reserved", 32))


class _Signal(NamedTuple):
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
        _Signal(lead_of(label), unit, low, high, digital_low, digital_high, of)
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
    if data[192:236].startswith(b"EDF+D"):
        raise Refused(Reason.MISSING_SAMPLES, "the recording is interrupted (EDF+D)")
    used = [signal for signal in header.signals if signal.lead is not None]
    if len({signal.samples for signal in used}) > 1:
        rates = sorted({signal.samples / header.record_s for signal in used})
        raise Refused(Reason.CONFLICTING_RATES, "leads at " + " and ".join(f"{rate:g}" for rate in rates) + " Hz")
    width = sum(signal.samples for signal in header.signals)
    held = (len(data) - header.bytes) // 2
    if held < header.records * width:
        raise Refused(Reason.TRUNCATED, f"{held} of the {header.records * width} samples claimed are there")
    stored = np.frombuffer(data, "<i2", header.records * width, header.bytes).reshape(header.records, width)
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


_PATIENT = re.compile(r"(\S+) ([MFX]) (\d{2}-[A-Z]{3}-\d{4}|X) ")
_MONTHS = ("JAN", "FEB", "MAR", "APR", "MAY", "JUN", "JUL", "AUG", "SEP", "OCT", "NOV", "DEC")


def facts(data: bytes) -> Facts:
    """Return what the header states; the parts of the patient field are those of EDF+."""
    header = _header(data)
    used = next((signal for signal in header.signals if signal.lead is not None), None)
    rate = used.samples / header.record_s if used else None
    acquired_at = _started(data[168:184].decode("latin-1"))
    found = _PATIENT.match(data[8:88].decode("latin-1"))
    age = None
    if found and found[3] != "X" and acquired_at:
        day, month, year = found[3].split("-")
        born = datetime(int(year), _MONTHS.index(month) + 1, min(int(day), 28))
        age = age_at(acquired_at, born)
    return Facts(
        patient_id=as_id(found[1]) if found and found[1] != "X" else None,
        acquired_at=acquired_at,
        age=age,
        sex=SEXES.get(found[2].lower()) if found else None,
        rate_hz=rate,
        duration_s=header.records * header.record_s,
    )


def _started(stated: str) -> datetime | None:
    try:
        found = datetime.strptime(stated, "%d.%m.%y%H.%M.%S")
    except ValueError:
        return None
    return found.replace(year=found.year + 100) if found.year < 1985 else found  # EDF+: 85 to 99 are 1985 to 1999
