"""GE MUSE XML (RestingECG): the rhythm strip, base64 of 16-bit samples in units that each lead states.

Written from exports of MUSE 7 to 9; GE publishes no specification. Eight leads are stored, four follow from I and II.
"""

from __future__ import annotations

import re
import zlib
from datetime import datetime
from xml.etree.ElementTree import Element

import numpy as np

from screening.archive.container import Refused
from screening.archive.facts import SEXES, Facts, age_at, as_id, parse_age
from screening.archive.formats.xml import decoded, moment, need, number_of, parse, root_of, text_of
from screening.archive.leads import Channel, Leads, assemble
from screening.contract import MAX_SAMPLES, Reason, mV_per_unit

NAME = "muse-xml"
_YEARS = {"years": 1.0, "year": 1.0, "months": 1 / 12, "weeks": 7 / 365.25, "days": 1 / 365.25, "hours": 0.0}
_MOMENTS = ("%m-%d-%Y %H:%M:%S", "%Y-%m-%d %H:%M:%S")
_SIGNED = re.compile(r"\b(?:confirmed by|unconfirmed|referred by|reviewed by|edited by|overread)", re.IGNORECASE)
"""What people add, with their names."""


def looks_like(head: bytes) -> bool:
    """Whether a file begins as a MUSE export."""
    return root_of(head) == "RestingECG"


def read(data: bytes) -> Leads:
    """Return the leads of the rhythm strip."""
    root = parse(data)
    strips = _strips(root)
    if not strips:
        raise Refused(Reason.TOO_SHORT, "there is no rhythm strip, only medians or nothing")
    # Further leads may stand in a strip of their own, and a strip may be there twice, which `assemble` compares.
    channels = [_channel(lead) for strip in strips for lead in strip.iter("LeadData")]
    if not channels or not len(channels[0].samples):
        raise Refused(Reason.TOO_SHORT, "the rhythm strip holds no samples")
    rates = {_rate_of(strip) for strip in strips}
    if len(strips) > 1 and (len(rates) > 1 or len({len(channel.samples) for channel in channels}) > 1):
        raise Refused(Reason.BAD_HEADER, f"there are {len(strips)} rhythm strips, of different rates or lengths")
    return assemble(channels, rates.pop(), source_format=NAME, unit_source="LeadAmplitudeUnits")


def _strips(root: Element) -> list[Element]:
    return [one for one in root.iter("Waveform") if (text_of(one, "WaveformType") or "").lower() == "rhythm"]


def _rate_of(strip: Element) -> float:
    base = need(strip, "SampleBase", Reason.MISSING_RATE, "the rhythm strip states no SampleBase")
    exponent = number_of(strip, "SampleExponent") or 0.0
    if not -9 <= exponent <= 9:
        raise Refused(Reason.MISSING_RATE, "the rhythm strip's SampleExponent is no exponent")
    return base * 10**exponent


def _channel(lead: Element) -> Channel:
    name = text_of(lead, "LeadID") or ""
    per_bit = need(lead, "LeadAmplitudeUnitsPerBit", Reason.MISSING_UNITS, "a lead states no LeadAmplitudeUnitsPerBit")
    unit = mV_per_unit(text_of(lead, "LeadAmplitudeUnits") or "")
    if unit is None:
        raise Refused(Reason.MISSING_UNITS, "a lead's LeadAmplitudeUnits is missing, or not one of voltage")
    if (number_of(lead, "LeadSampleSize") or 2) != 2:
        raise Refused(Reason.UNKNOWN_FORMAT, "samples of another size than two bytes are not known")
    count = number_of(lead, "LeadSampleCountTotal")
    if count is not None and count > MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"a lead claims {count:.0f} samples, the limit is {MAX_SAMPLES}")
    raw = decoded(lead.findtext("WaveFormData"))
    if len(raw) % 2 or (count is not None and len(raw) != 2 * count):
        raise Refused(Reason.TRUNCATED, f"a lead holds {len(raw)} bytes of the {2 * (count or 0):.0f} claimed")
    stated_crc = number_of(lead, "LeadDataCRC32")
    if stated_crc and stated_crc % 2**32 != zlib.crc32(raw):  # 0: none was computed; some write it as a signed number
        raise Refused(Reason.CHECKSUM_MISMATCH, "a lead's samples do not give its LeadDataCRC32")
    samples = np.frombuffer(raw, "<i2")
    # A lead may begin later, and stand above zero by its first sample.
    offset = int(number_of(lead, "LeadOffsetFirstSample") or 0)
    if offset:
        raise Refused(Reason.CONFLICTING_RATES, "a lead begins at another sample than the strip")
    off = (text_of(lead, "LeadOff") or "").lower() == "true"
    return Channel(name, np.full(len(samples), np.nan) if off else samples, per_bit * unit)


def facts(data: bytes) -> Facts:
    """Return what the export states."""
    root = parse(data)
    patient, test = root.find("PatientDemographics"), root.find("TestDemographics")
    rate = count = None
    for strip in _strips(root)[:1]:
        rate, count = _rate_of(strip), number_of(strip, "LeadData/LeadSampleCountTotal")
    statements = _statements(root)
    acquired_at = moment(text_of(test, "AcquisitionDate"), text_of(test, "AcquisitionTime"), *_MOMENTS)
    return Facts(
        patient_id=as_id(text_of(patient, "PatientID")),
        acquired_at=acquired_at,
        age=_age(patient, acquired_at),
        sex=SEXES.get((text_of(patient, "Gender") or "").lower()),
        site=text_of(test, "SiteName") or text_of(test, "Site"),
        device=text_of(test, "AcquisitionDevice"),
        statements=statements or None,
        rate_hz=rate,
        duration_s=count / rate if rate and count else None,
        qrs_ms=number_of(root.find("RestingECGMeasurements"), "QRSDuration"),
    )


def _statements(root: Element) -> dict[str, float | None]:
    """Return the sentences of the diagnosis as it stands: lines are pieces of one, which an ENDSLINE ends."""
    found: dict[str, float | None] = {}
    pieces: list[str] = []
    of = (
        root.find("Diagnosis")
        if root.find("Diagnosis/DiagnosisStatement") is not None
        else root.find("OriginalDiagnosis")
    )
    for statement in of.iter("DiagnosisStatement") if of is not None else ():
        text = text_of(statement, "StmtText")
        flags = {(flag.text or "").strip().upper() for flag in statement.iter("StmtFlag")}
        if text and not _SIGNED.search(text) and not ("USERINSERT" in flags and len(text) > 200):
            pieces.append(text)
        if "ENDSLINE" in flags and pieces:
            found[" ".join(pieces)] = None
            pieces = []
    if pieces:
        found[" ".join(pieces)] = None
    return found


def _age(patient: Element | None, acquired_at: datetime | None) -> float | None:
    age, unit = text_of(patient, "PatientAge"), (text_of(patient, "AgeUnits") or "years").lower()
    if age is None:
        return age_at(acquired_at, moment(text_of(patient, "DateofBirth"), None, *_MOMENTS))
    if unit not in _YEARS:
        return None
    try:
        return parse_age(str(float(age) * _YEARS[unit]))
    except ValueError:
        return None
