"""DICOM waveforms (12-lead, general and ambulatory ECG): the rhythm group, by pydicom.

DICOM PS3.3, C.10.9 Waveform Module, and PS3.16, CID 3001 ECG Lead. A sample in its unit is
(stored x sensitivity x correction factor) + baseline (C.10.9.1.4.2).
"""

from __future__ import annotations

import io
import logging
import math
import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np

from screening.archive.container import Refused
from screening.archive.facts import SEXES, Facts, age_at, as_id, parse_age
from screening.archive.formats.missing import Missing
from screening.archive.leads import Channel, Leads, assemble
from screening.contract import (
    INDEPENDENT_LEADS,
    LEADS,
    MAX_RECORD_BYTES,
    MAX_SAMPLES,
    MAX_SIGNALS,
    Reason,
    lead_of,
    mV_per_unit,
)

NAME = "dicom"
# SCP-ECG's numbers of leads, as DICOM quotes them (PS3.16, CID 3001): 5.6.3-9-N.
_SCP_LEADS = {"1": "I", "2": "II", "61": "III", "62": "aVR", "63": "aVL", "64": "aVF"}
_SCP_LEADS |= {str(number + 2): f"V{number}" for number in range(1, 7)}
_SCP_CODE = re.compile(r"5\.6\.3-9-(\d{1,3})")
_MDC_NUMBERS = {
    f"2:{number}": lead for number, lead in zip((1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), LEADS, strict=True)
}
_TYPES = {
    ("SS", 16): "i2",
    ("US", 16): "u2",
    ("SB", 8): "i1",
    ("UB", 8): "u1",
    ("SL", 32): "i4",
    ("UL", 32): "u4",
}
_EXPLICIT, _DEFLATED = b"1.2.840.10008.1.2.1", b"1.2.840.10008.1.2.1.99"
"""Transfer syntaxes (PS3.5, annex A)."""
_LONG = (b"OB", b"OW", b"UN", b"SQ", b"UT")
"""Value representations whose length takes four bytes, of those that file meta information may hold."""
_WORDS = re.compile(r"\((.*)\)")
_OF_BEATS = re.compile("median|average|template|represent", re.IGNORECASE)
_SHORTEST_STRIP_S = 5.0
_QRS_CODES = frozenset(("2:16156", "MDC_ECG_TIME_PD_QRS", "5.13.5-9"))  # the last is of SCP-ECG
_QRS_WORDS = re.compile(r"QRS (?:global )?(?:duration|interval)(?: global)?", re.IGNORECASE)
_MS = {"ms": 1.0, "msec": 1.0, "s": 1000.0, "sec": 1000.0}
_AGE = re.compile(r"(\d{3})([DWMY])")
_AGE_UNITS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}


def looks_like(head: bytes) -> bool:
    """Whether a file begins as DICOM: with a preamble, or without one by a first element of group 2 or 8 that can be."""
    if head[128:132] == b"DICM":
        return True
    if head[:4] == b"\x02\0\0\0" and head[4:6] == b"UL":  # file meta information, its preamble lost
        return True
    first = head[2:4] in (b"\0\0", b"\x05\0", b"\x08\0", b"\x12\0", b"\x16\0")
    return head[:2] == b"\x08\0" and first and b"1.2.840.10008." in head  # the root of DICOM's own identifiers


def read(data: bytes) -> Leads:
    """Return the leads of the rhythm group."""
    with _in_words():
        dataset = _dataset(data)
        return _leads_of(_rhythm(dataset), "<" if dataset.original_encoding[1] else ">")


@contextmanager
def _in_words() -> Iterator[None]:
    """Turn whatever pydicom raises into Refused; it may quote values, and so a patient's."""
    try:
        yield
    except (Refused, ImportError, MemoryError):
        raise
    except Exception:  # elements are converted when they are asked for, and pydicom raises what it meets
        raise Refused(Reason.UNDECODABLE, "the DICOM elements cannot be read, or are cut off") from None


def _say_nothing(_: logging.LogRecord) -> bool:
    return False


_IGNORED = ("ignore", None, Warning, re.compile(r"pydicom\b"), 0)


def _keep_silent() -> None:
    """Keep in for good what pydicom logs and warns of values: what is undone while other threads read would let it out."""
    logging.getLogger("pydicom").addFilter(_say_nothing)
    if _IGNORED not in warnings.filters:
        warnings.filterwarnings("ignore", module=_IGNORED[3].pattern)


def _dataset(data: bytes) -> Any:
    try:
        import pydicom
    except ImportError:
        raise Missing("pydicom") from None
    _keep_silent()
    return pydicom.dcmread(io.BytesIO(_inflated(data) if _DEFLATED in data else data), force=True)


def _inflated(data: bytes) -> bytes:
    """Return a deflated object as one of explicit VR little endian: pydicom would inflate it whatever its size."""
    start = at = 132 if data[128:132] == b"DICM" else 0
    while data[at : at + 2] == b"\2\0":
        head, form = (12, "<I") if data[at + 4 : at + 6] in _LONG else (8, "<H")
        at += head + int(struct.unpack_from(form, data, at + head - struct.calcsize(form))[0])
    meta = data[start:at].replace(_DEFLATED, _EXPLICIT.ljust(len(_DEFLATED), b"\0"))
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    rest = inflater.decompress(memoryview(data)[at:], MAX_RECORD_BYTES + 1)
    if len(rest) > MAX_RECORD_BYTES:
        raise Refused(Reason.TOO_LARGE, f"the record inflates to more than {MAX_RECORD_BYTES} bytes")
    if _DEFLATED in rest:  # pydicom could find it there, and inflate once more
        raise Refused(Reason.UNDECODABLE, "the DICOM elements are deflated twice")
    return data[:start] + meta + rest


class _Group(NamedTuple):
    """Channels that were sampled together."""

    item: Any
    leads: list[str | None]  # of each channel


def _rhythm(dataset: Any) -> list[_Group]:
    """Return the groups that are the rhythm strip: the longest with all eight leads, else the longest."""
    found = (
        _Group(item, [_lead(channel) for channel in item.get("ChannelDefinitionSequence") or ()])
        for item in dataset.get("WaveformSequence") or ()
    )
    groups = [group for group in found if any(group.leads)]
    if not groups:
        raise Refused(Reason.TOO_SHORT, "the DICOM object holds no ECG waveform")
    others = [group for group in groups if not _OF_BEATS.search(str(group.item.get("MultiplexGroupLabel", "")))]
    original = [
        group for group in others if str(group.item.get("WaveformOriginality", "ORIGINAL")).upper() == "ORIGINAL"
    ]
    # What the cart has filtered is "derived" for some; no median beat is so long.
    strips = _strips(original or [group for group in others if _seconds(group.item) >= _SHORTEST_STRIP_S])
    if not strips:
        raise Refused(Reason.TOO_SHORT, "the DICOM object holds derived beats only, and no rhythm")
    return max(strips, key=lambda strip: (_is_whole(strip), _seconds(strip[0].item)))


def _strips(groups: list[_Group]) -> list[list[_Group]]:
    """Return groups by what was recorded at one time: leads may be spread over groups of one rate, length and beginning."""
    strips = [[group] for group in groups if _is_whole([group])]
    parts: dict[tuple[Any, ...], list[_Group]] = {}
    for group in groups:
        if not _is_whole([group]):
            begins = _number(group.item.get("MultiplexGroupTimeOffset"))
            # Three leads for 2.5 s, and then the next three, are no strip.
            is_strip = begins is not None or _seconds(group.item) >= _SHORTEST_STRIP_S
            key = (_number(group.item.get("SamplingFrequency")), group.item.get("NumberOfWaveformSamples"), begins)
            parts.setdefault(key if is_strip else (len(parts),), []).append(group)
    return [*strips, *parts.values()]


def _is_whole(groups: list[_Group]) -> bool:
    return {lead for group in groups for lead in group.leads}.issuperset(INDEPENDENT_LEADS)


def _seconds(group: Any) -> float:
    rate = _number(group.get("SamplingFrequency"))
    return float(group.get("NumberOfWaveformSamples") or 0) / rate if rate else 0.0


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def _code(dataset: Any, sequence: str) -> Any:
    items = dataset.get(sequence)
    return items[0] if items else None


def _value(code: Any) -> str:
    """Return the value of a code; one of more than 16 characters stands elsewhere."""
    return str(code.get("CodeValue") or code.get("LongCodeValue") or "") if code is not None else ""


def _lead(channel: Any) -> str | None:
    source = _code(channel, "ChannelSourceSequence")
    value = _value(source)
    if found := _SCP_CODE.fullmatch(value):
        return _SCP_LEADS.get(found[1])
    if value in _MDC_NUMBERS:
        return _MDC_NUMBERS[value]
    stated = [value, str(source.get("CodeMeaning") or "")] if source is not None else []
    stated.append(str(channel.get("ChannelLabel") or ""))
    return next((lead for text in stated if (lead := lead_of(_WORDS.sub("", text).partition(",")[0]))), None)


def _leads_of(groups: list[_Group], order: str) -> Leads:
    rate = _number(groups[0].item.get("SamplingFrequency"))
    if rate is None:
        raise Refused(Reason.MISSING_RATE, "no SamplingFrequency is stated")
    found = [one for group in groups for one in _channels_of(group, order, rate)]
    skews = Counter(skew for _, skew in found)
    usual = skews.most_common(1)[0][0]
    for channel, skew in found:
        if skew != usual:
            raise Refused(Reason.CONFLICTING_RATES, f"lead {channel.name} is skewed in time against the others")
    channels = [channel for channel, _ in found]
    return assemble(channels, rate, source_format=NAME, unit_source="ChannelSensitivityUnits")


def _channels_of(of: _Group, order: str, rate: float) -> list[tuple[Channel, float]]:
    """Return the leads of a group, and by how many seconds each is late."""
    group = of.item
    channels = group.get("ChannelDefinitionSequence") or ()
    count, samples = int(group.get("NumberOfWaveformChannels") or 0), int(group.get("NumberOfWaveformSamples") or 0)
    if count != len(channels) or not 0 < count <= MAX_SIGNALS:
        raise Refused(Reason.BAD_HEADER, f"{len(channels)} channels are described, and {count} claimed")
    if count * samples > MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"the record claims {count * samples} samples, the limit is {MAX_SAMPLES}")
    kind = (str(group.get("WaveformSampleInterpretation")), int(group.get("WaveformBitsAllocated") or 0))
    if kind not in _TYPES:
        raise Refused(Reason.UNKNOWN_FORMAT, f"samples of {kind[1]} bits in this interpretation are not known")
    dtype = np.dtype(order + _TYPES[kind])
    raw = bytes(group.get("WaveformData") or b"")
    if len(raw) < count * samples * dtype.itemsize:
        raise Refused(Reason.TRUNCATED, f"{len(raw)} bytes of the {count * samples * dtype.itemsize} claimed are there")
    stored = np.frombuffer(raw, dtype, count * samples).reshape(samples, count)
    padding = group.get("WaveformPaddingValue")
    missing = (
        int.from_bytes(padding, "little" if order == "<" else "big", signed=kind[0][0] == "S")
        if isinstance(padding, bytes)
        else padding
    )
    return [
        (_channel(channel, lead, stored[:, at], missing), _late_s(channel, rate))
        for at, (channel, lead) in enumerate(zip(channels, of.leads, strict=True))
        if lead is not None
    ]


def _late_s(channel: Any, rate: float) -> float:
    skew = (_number(channel.get("ChannelSampleSkew")) or 0.0) / rate if rate else 0.0
    return round(skew + (_number(channel.get("ChannelTimeSkew")) or 0.0), 9)


def _channel(channel: Any, lead: str, stored: np.ndarray, missing: int | None) -> Channel:
    sensitivity = _number(channel.get("ChannelSensitivity"))
    unit = _code(channel, "ChannelSensitivityUnitsSequence")
    mV = mV_per_unit(_value(unit))
    if sensitivity is None or mV is None:
        raise Refused(Reason.MISSING_UNITS, f"lead {lead} has no sensitivity, or its unit is not one of voltage")
    stated = channel.get("ChannelSensitivityCorrectionFactor")
    correction = 1.0 if stated is None else _number(stated)
    if correction is None:
        raise Refused(Reason.MISSING_UNITS, f"the sensitivity correction factor of lead {lead} is no number")
    samples = stored if missing is None else np.where(stored == missing, np.nan, stored)
    return Channel(lead, samples, sensitivity * correction * mV, (_number(channel.get("ChannelBaseline")) or 0.0) * mV)


def facts(data: bytes) -> Facts:
    """Return what the object states; its sentences are read for conduction, as are the QRS duration and pacing."""
    with _in_words():
        dataset = _dataset(data)
        group = _rhythm(dataset)[0].item
        acquired_at, age = _acquired_at(dataset), _age(str(dataset.get("PatientAge") or ""))
        notes = list(dataset.get("WaveformAnnotationSequence") or ())
        texts = [str(note.get("UnformattedTextValue")).strip() for note in notes if note.get("UnformattedTextValue")]
        return Facts(
            patient_id=as_id(str(dataset.get("PatientID") or "")),
            acquired_at=acquired_at,
            age=age_at(acquired_at, _born(dataset)) if age is None else age,
            sex=SEXES.get(str(dataset.get("PatientSex") or "").lower()),
            site=str(dataset.get("InstitutionName") or "") or None,
            device=str(dataset.get("ManufacturerModelName") or "") or None,
            statements=dict.fromkeys(filter(None, texts)) or None,
            rate_hz=_number(group.get("SamplingFrequency")),
            duration_s=_seconds(group) or None,
            qrs_ms=_qrs_ms(notes),
        )


def _qrs_ms(notes: list[Any]) -> float | None:
    for note in notes:
        concept, unit = _code(note, "ConceptNameCodeSequence"), _code(note, "MeasurementUnitsCodeSequence")
        if concept is None:
            continue
        meaning = str(concept.get("CodeMeaning") or "").strip()
        is_qrs = _value(concept) in _QRS_CODES or _QRS_WORDS.fullmatch(meaning)
        scale = _MS.get(_value(unit).lower())
        value = note.get("NumericValue")
        value = value[0] if isinstance(value, (list, tuple)) or hasattr(value, "__getitem__") else value
        if is_qrs and scale is not None and (found := _number(value)) is not None:
            return found * scale
    return None


def _acquired_at(dataset: Any) -> datetime | None:
    stated = str(dataset.get("AcquisitionDateTime") or "")[:14]
    if not stated:
        stated = f"{dataset.get('ContentDate') or dataset.get('StudyDate') or ''}{dataset.get('ContentTime') or ''}"[
            :14
        ]
    try:
        return datetime.strptime(stated.ljust(14, "0"), "%Y%m%d%H%M%S")
    except ValueError:
        return None


def _age(stated: str) -> float | None:
    found = _AGE.fullmatch(stated.strip())
    try:
        return parse_age(str(int(found[1]) * _AGE_UNITS[found[2]])) if found else None
    except ValueError:
        return None


def _born(dataset: Any) -> datetime | None:
    try:
        return datetime.strptime(str(dataset.get("PatientBirthDate") or ""), "%Y%m%d")
    except ValueError:
        return None
