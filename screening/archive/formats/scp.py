"""SCP-ECG (EN 1064:2005+A1, ISO 11073-91064): sections with checksums, rhythm data as Huffman codes of differences.

Clause numbers are those of EN 1064. Reference beats that were subtracted are added again. Bimodal compression, which keeps only
every few samples between the beats, is refused.
"""

from __future__ import annotations

import binascii
import struct
from contextlib import suppress
from datetime import datetime
from functools import cache
from typing import NamedTuple

import numpy as np

from screening.archive.container import Refused
from screening.archive.facts import Facts, age_at, as_id, parse_age
from screening.archive.leads import Channel, Leads, assemble
from screening.contract import MAX_SAMPLES, MAX_SIGNALS, Reason

NAME = "scp-ecg"
_LEADS = {1: "I", 2: "II", 61: "III", 62: "aVR", 63: "aVL", 64: "aVF"} | {
    n + 2: f"V{n}" for n in range(1, 7)
}  # table 5
_DEFAULT_TABLE = 19_999
_HEADER = 16
_NOT_MEASURED = 29_999
_MAX_PREFIX = 16
"""Bits; those of the default table have ten at most."""
_YEARS = {1: 1.0, 2: 1 / 12, 3: 7 / 365.25, 4: 1 / 365.25, 5: 0.0}
Sections = dict[int, bytes]


def looks_like(head: bytes) -> bool:
    """Whether a file begins as SCP-ECG: by the name in its section of pointers (5.3.3), or by that section's form."""
    if head[16:22] == b"SCPECG":
        return True
    if len(head) < 32:
        return False
    number, length = struct.unpack_from("<HI", head, 8)
    first, first_length, first_index = struct.unpack_from("<HII", head, 22)
    return number == 0 and (first, first_length, first_index) == (0, length, 7)


def _sections(data: bytes) -> Sections:
    """Return the sections' contents, without their headers; checksums hold (5.2.7)."""
    if len(data) < 6 + _HEADER:
        raise Refused(Reason.TRUNCATED, f"the record has {len(data)} bytes")
    crc, size = struct.unpack_from("<HI", data)
    if size > len(data):
        raise Refused(Reason.TRUNCATED, f"{len(data)} of the {size} bytes claimed are there")
    if crc != binascii.crc_hqx(data[2:size], 0xFFFF):
        raise Refused(Reason.CHECKSUM_MISMATCH, "the record does not give its checksum")
    (length,) = struct.unpack_from("<I", data, 10)
    found: Sections = {}
    for at in range(6 + _HEADER, min(6 + length, len(data) - 9), 10):
        number, section, index = struct.unpack_from("<HII", data, at)
        if not number or not section:
            continue
        start = index - 1
        if start < 6 or start + section > len(data) or section < _HEADER:
            raise Refused(Reason.TRUNCATED, f"section {number} leads out of the record")
        if struct.unpack_from("<H", data, start)[0] != binascii.crc_hqx(data[start + 2 : start + section], 0xFFFF):
            raise Refused(Reason.CHECKSUM_MISMATCH, f"section {number} does not give its checksum")
        found[number] = data[start + _HEADER : start + section]
    return found


def read(data: bytes) -> Leads:
    """Return the leads of the rhythm data."""
    sections = _sections(data)
    if 6 not in sections or 3 not in sections:
        raise Refused(Reason.TOO_SHORT, "there is no rhythm data, only reference beats or nothing")
    names, starts, subtracted = _definition(sections[3])
    rhythm = _stored(sections[6], len(names))
    if rhythm.bimodal:
        raise Refused(Reason.UNKNOWN_FORMAT, "samples are left out between beats (bimodal), which is not read here")
    if not rhythm.microseconds:
        raise Refused(Reason.MISSING_RATE, "no interval of samples is stated")
    if not rhythm.nanovolts:
        raise Refused(Reason.MISSING_UNITS, "no amplitude of a step is stated")
    if len({(first, last) for _, (first, last) in zip(names, starts, strict=True)}) > 1:
        raise Refused(Reason.CONFLICTING_RATES, "the leads were not recorded at the same time")
    first, last = starts[0]
    samples = last - first + 1
    if samples * len(names) > MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"the record claims {samples * len(names)} samples, the limit is {MAX_SAMPLES}")
    codes = _table(sections.get(2))
    subtraction = _subtraction(sections, rhythm, samples) if subtracted else None
    channels = []
    for i, name in enumerate(names):
        if name is None:
            continue
        signal_nV = _values(rhythm, i, samples, codes) * rhythm.nanovolts
        # Samples are numbered from 1 (5.6.3). Who numbers from 0 may state their count as the last.
        if len(signal_nV) < samples - (first == 0):
            raise Refused(Reason.TRUNCATED, f"lead {name} holds {len(signal_nV)} of {samples} samples")
        if subtraction is not None:
            subtraction.undo(signal_nV, i, first, codes)
        channels.append(Channel(name, signal_nV, 1e-6))
    return assemble(channels, 1e6 / rhythm.microseconds, source_format=NAME, unit_source="nanovolts a step")


def _definition(section: bytes) -> tuple[list[str | None], list[tuple[int, int]], bool]:
    """Return names, first and last samples of the leads, and whether reference beats are subtracted (5.6)."""
    if len(section) < 2:
        raise Refused(Reason.BAD_HEADER, "the leads' definition is cut off")
    count, flags = section[0], section[1]
    if not 0 < count <= MAX_SIGNALS or len(section) < 2 + 9 * count:
        raise Refused(Reason.BAD_HEADER, f"{count} leads are claimed in {len(section)} bytes")
    found = [struct.unpack_from("<IIB", section, 2 + 9 * i) for i in range(count)]
    if any(not first <= last for first, last, _ in found):
        raise Refused(Reason.BAD_HEADER, "a lead ends before it begins")
    return [_LEADS.get(lead) for _, _, lead in found], [(first, last) for first, last, _ in found], bool(flags & 1)


class _Stored(NamedTuple):
    """What a section of samples holds: the rhythm (5.9) or the reference beat (5.8)."""

    nanovolts: int  # a step
    microseconds: int  # a sample
    differences: int  # how often they were taken
    bimodal: bool
    packed: list[bytes]  # a lead each


def _stored(section: bytes, leads: int) -> _Stored:
    if len(section) < 6 + 2 * leads:
        raise Refused(Reason.TRUNCATED, "the rhythm data or the reference beats are cut off")
    nanovolts, microseconds, differences, bimodal = struct.unpack_from("<HHBB", section)
    if differences > 2:
        raise Refused(Reason.UNKNOWN_FORMAT, f"differences of order {differences} are not known")
    sizes = struct.unpack_from(f"<{leads}H", section, 6)
    at, packed = 6 + 2 * leads, []
    for size in sizes:
        packed.append(section[at : at + size])
        at += size
    if at > len(section):
        raise Refused(Reason.TRUNCATED, f"the leads claim {at} bytes of {len(section)}")
    return _Stored(nanovolts, microseconds, differences, bool(bimodal), packed)


def _values(stored: _Stored, lead: int, samples: int, codes: Codes | None) -> np.ndarray:
    """Return the steps of a lead, int64, as many as there are of ``samples``."""
    packed = stored.packed[lead]
    found = _uncoded(packed, samples, codes) if codes else np.frombuffer(packed, "<i2", min(samples, len(packed) // 2))
    return _summed(found.astype(np.int64), stored.differences)


class _Subtraction(NamedTuple):
    """The reference beat that was taken away, and where (5.7, 5.8). Samples are numbered from 1."""

    beat: _Stored
    samples: int  # of the beat
    fiducial: int  # the sample of the beat that falls on a QRS complex's own
    zones: list[tuple[int, int, int]]  # of each QRS complex: first sample, fiducial and last one, in the rhythm

    def undo(self, signal_nV: np.ndarray, lead: int, first: int, codes: Codes | None) -> None:
        """Add the beat of a lead to its rhythm, which begins with sample ``first``, in place."""
        beat_nV = _values(self.beat, lead, self.samples, codes) * self.beat.nanovolts
        for zone_first, fiducial, zone_last in self.zones:
            before = fiducial - self.fiducial  # the rhythm's sample before the beat's first
            start = max(zone_first, first, before + 1)
            stop = min(zone_last, first + len(signal_nV) - 1, before + len(beat_nV)) + 1
            if start < stop:
                signal_nV[start - first : stop - first] += beat_nV[start - before - 1 : stop - before - 1]


def _subtraction(sections: Sections, rhythm: _Stored, samples: int) -> _Subtraction:
    places, beats = sections.get(4, b""), sections.get(5, b"")
    if not places or not beats:
        raise Refused(
            Reason.TRUNCATED, "reference beats are subtracted, and sections 4 and 5, which tell them, are absent"
        )
    if len(places) < 6:
        raise Refused(Reason.TRUNCATED, "the places of the QRS complexes are cut off")
    milliseconds, fiducial, count = struct.unpack_from("<HHH", places)
    if len(places) < 6 + 14 * count:
        raise Refused(Reason.TRUNCATED, f"places of {count} QRS complexes are claimed in {len(places)} bytes")
    beat = _stored(beats, len(rhythm.packed))
    if beat.microseconds != rhythm.microseconds:
        raise Refused(Reason.UNKNOWN_FORMAT, "reference beats at another rate than the rhythm are not read here")
    if not beat.nanovolts:
        raise Refused(Reason.MISSING_UNITS, "no amplitude of a step of the reference beat is stated")
    complexes = [struct.unpack_from("<HIII", places, 6 + 14 * i) for i in range(count)]
    zones = [(first, at, last) for kind, first, at, last in complexes if kind == 0]  # of others nothing is subtracted
    if sum(max(0, last - first + 1) for first, _, last in zones) > samples:
        raise Refused(Reason.BAD_HEADER, "the subtracted reference beats overlap")
    return _Subtraction(beat, round(milliseconds * 1000 / beat.microseconds), fiducial, zones)


# --- Huffman codes (5.5) ---------------------------------------------------------------------------------------------


class Codes(NamedTuple):
    """A table of codes: each is told by its prefix, behind which the value may follow as it is."""

    longest: int  # bits of a prefix
    known: np.ndarray  # (codes + 1, 3): bits of the prefix, of it and what follows, and the value; the last is none
    of_prefix: np.ndarray  # which of them begins with each pattern of ``longest`` bits; -1 for none


def _codes(rows: list[tuple[int, int, int, int]]) -> Codes:
    """Return the table of (bits of the prefix, the prefix, bits of it and what follows, value)."""
    longest = max(length for length, *_ in rows)
    of_prefix = np.full(1 << longest, -1, np.int64)
    for kind, (length, prefix, _, _) in reversed(list(enumerate(rows))):
        start = prefix << (longest - length)
        of_prefix[start : start + (1 << (longest - length))] = kind
    known = np.array([*((length, bits, value) for length, _, bits, value in rows), (0, 0, 0)], np.int64)
    return Codes(longest, known, of_prefix)


@cache
def _default() -> Codes:
    """Return the default table (annex C.3.7.6): 0; 1 and -1 ... 8 and -8; eight and sixteen bits as they are."""
    rows = [(1, 0, 1, 0)]
    for value in range(1, 9):
        ones = (1 << (value + 1)) - 2
        rows.append((value + 2, ones << 1, value + 2, value))
        rows.append((value + 2, ones << 1 | 1, value + 2, -value))
    return _codes([*rows, (10, 0b1111111110, 18, 0), (10, 0b1111111111, 26, 0)])


def _table(section: bytes | None) -> Codes | None:
    """Return the codes, None where samples are not coded."""
    if section is None:
        return None
    if len(section) < 2:
        raise Refused(Reason.TRUNCATED, "the table of Huffman codes is cut off")
    (tables,) = struct.unpack_from("<H", section)
    if tables == _DEFAULT_TABLE:
        return _default()
    if tables != 1:
        raise Refused(Reason.UNKNOWN_FORMAT, f"{tables} tables of Huffman codes, which take turns, are not read here")
    count = int.from_bytes(section[2:4], "little")
    if len(section) < 4 + 9 * count or not count:
        raise Refused(Reason.TRUNCATED, "the table of Huffman codes is cut off")
    rows = []
    for i in range(count):
        prefix, bits, mode, value, code = struct.unpack_from("<BBBhI", section, 4 + 9 * i)
        if not mode or not 0 < prefix <= _MAX_PREFIX or not prefix <= bits <= prefix + 16:
            raise Refused(
                Reason.UNKNOWN_FORMAT,
                "a Huffman code changes the table, or is too long or of no length, which is not read here",
            )
        rows.append((prefix, int(f"{code:032b}"[::-1][:prefix], 2), bits, value))  # the first bit is the lowest
    return _codes(rows)


def _uncoded(packed: bytes, samples: int, codes: Codes) -> np.ndarray:
    """Return the numbers, as many as there are of ``samples``, that bits, the most significant first, are codes of."""
    bits = np.unpackbits(np.frombuffer(packed, np.uint8)).astype(np.int32)
    longest, known, of_prefix = codes
    window = np.zeros(len(bits), np.int32)
    ahead = np.concatenate([bits, np.zeros(longest, np.int32)])
    for k in range(longest):
        window = window << 1 | ahead[k : k + len(bits)]
    # What would be read at each bit, if a code began there; then from code to code, up to one that there is not.
    kinds, nowhere = of_prefix[window], len(bits) + 1
    end = np.arange(len(bits)) + known[kinds, 1]
    end[(kinds < 0) | (end > len(bits))] = nowhere
    count = min(samples, len(bits))  # a code has a bit at least
    following, places, at = [*end.tolist(), nowhere, nowhere], [0] * count, 0
    for i in range(count):
        places[i] = at
        at = following[at]
    found = np.array(places, np.int64)
    found = found[np.append(end, nowhere)[np.minimum(found, len(bits))] < nowhere]
    chosen = kinds[found]
    out = known[chosen, 2].astype(np.int64)
    for kind in np.unique(chosen):
        prefix, size, _ = known[kind].tolist()
        if size > prefix:
            which = np.flatnonzero(chosen == kind)
            raw = np.zeros(len(which), np.int64)
            for k in range(prefix, size):
                raw = raw << 1 | bits[found[which] + k]
            half = 1 << (size - prefix - 1)
            out[which] = (raw ^ half) - half
    return out


def _summed(stored: np.ndarray, differences: int) -> np.ndarray:
    """Undo first or second differences (5.9.4): of these the first one or two samples are as they were."""
    if differences == 1:
        return np.cumsum(stored)
    if differences == 2 and len(stored) > 1:
        slopes = np.concatenate(([stored[1] - stored[0]], stored[2:]))
        return np.concatenate(([stored[0]], stored[0] + np.cumsum(np.cumsum(slopes))))
    return stored


# --- What is stated --------------------------------------------------------------------------------------------------


def facts(data: bytes) -> Facts:
    """Return what sections 1, 7 and 8 state (5.4, 5.10, 5.11)."""
    sections = _sections(data)
    tags = _tags(sections.get(1, b""))
    time = tags.get(26, b"")
    acquired_at = _date(tags.get(25, b""), struct.unpack_from("<BBB", time) if len(time) >= 3 else ())
    age = None
    if len(stated := tags.get(4, b"")) >= 3:
        number, unit = struct.unpack_from("<HB", stated)
        try:
            age = parse_age(str(number * _YEARS[unit])) if number and unit in _YEARS else None
        except ValueError:
            age = None
    if age is None:
        age = age_at(acquired_at, _date(tags.get(5, b"")))
    rate = duration = None
    if 6 in sections and 3 in sections:
        microseconds = int.from_bytes(sections[6][2:4], "little")
        rate = 1e6 / microseconds if microseconds else None
        with suppress(Refused):  # whose record it is does not depend on its leads
            _, starts, _ = _definition(sections[3])
            duration = (starts[0][1] - starts[0][0] + 1) / rate if rate else None
    qrs_ms = None
    if len(measured := sections.get(7, b"")) >= 14:
        onset, offset = struct.unpack_from("<HH", measured, 10)
        qrs_ms = float(offset - onset) if onset < offset < _NOT_MEASURED else None
    model = tags.get(14, b"")[8:14].split(b"\0")[0].decode("latin-1").strip()
    return Facts(
        patient_id=as_id(tags.get(2, b"").split(b"\0")[0].decode("latin-1")),
        acquired_at=acquired_at,
        age=age,
        sex={b"\1": "male", b"\2": "female"}.get(tags.get(8, b"")[:1]),
        device=model or None,
        statements=_statements(sections.get(8, b"")),
        rate_hz=rate,
        duration_s=duration,
        qrs_ms=qrs_ms,
        paced=True if measured[1:2] > b"\0" else None,
    )


def _date(stated: bytes, clock: tuple[int, ...] = ()) -> datetime | None:
    """Return year, month and day as section 1 holds them (5.4.3), with a time of day; None where they are no date."""
    try:
        return datetime(*struct.unpack_from("<HBB", stated), *clock)
    except (ValueError, struct.error):
        return None


def _statements(section: bytes) -> dict[str, float | None] | None:
    """Return the texts of section 8 (5.11): one byte of status, date and time, how many there are, and each with its size."""
    found: dict[str, float | None] = {}
    at = 9
    for _ in range(section[8] if len(section) > 8 else 0):
        if at + 3 > len(section):
            break
        (size,) = struct.unpack_from("<H", section, at + 1)
        text = section[at + 3 : at + 3 + size].split(b"\0")[0].decode("latin-1").strip()
        if text:
            found[text] = None
        at += 3 + size
    return found or None


def _tags(section: bytes) -> dict[int, bytes]:
    """Return each field of the header section by its number; of one that is there twice, the first."""
    found: dict[int, bytes] = {}
    at = 0
    while at + 3 <= len(section) and section[at] != 255:
        tag, size = struct.unpack_from("<BH", section, at)
        found.setdefault(tag, section[at + 3 : at + 3 + size])
        at += 3 + size
    return found
