"""GE CardioSoft XML (CardiologyXML), as the UK Biobank's resting ECGs are kept: the strip, samples as decimal numbers.

GE publishes no specification; written from what UK Biobank's field 20205 and readers of it show.
"""

from __future__ import annotations

from datetime import datetime
from xml.etree.ElementTree import Element

import numpy as np

from screening.archive.container import Refused
from screening.archive.facts import SEXES, Facts, age_at, as_id, parse_age
from screening.archive.formats.xml import need, number_of, parse, root_of, samples_in, text_of
from screening.archive.leads import Channel, Leads, assemble
from screening.contract import MAX_SAMPLES, Reason, mV_per_unit

NAME = "cardiosoft-xml"
_OF_A_STEP = "perlsb"
_MAX_TEXT = 12  # characters a sample, at most


def looks_like(head: bytes) -> bool:
    """Whether a file begins as a CardioSoft export."""
    return root_of(head) == "CardiologyXML"


def _strip(root: Element) -> Element | None:
    found = root.findall("StripData") + root.findall("Strip/StripData")
    if len(found) > 1:
        raise Refused(Reason.BAD_HEADER, f"there are {len(found)} strips")
    return found[0] if found else None


def read(data: bytes) -> Leads:
    """Return the leads of the strip; medians and full disclosure are other elements."""
    strip = _strip(parse(data))
    if strip is None:
        raise Refused(Reason.TOO_SHORT, "there is no strip, only medians or nothing")
    rate = need(strip, "SampleRate", Reason.MISSING_RATE, "the strip states no SampleRate")
    steps = need(strip, "Resolution", Reason.MISSING_UNITS, "the strip states no Resolution")
    of = strip.find("Resolution")
    stated = (of.get("units") or "").strip().lower() if of is not None else ""
    unit = mV_per_unit(stated.removesuffix(_OF_A_STEP))
    if unit is None or not stated.endswith(_OF_A_STEP):
        raise Refused(Reason.MISSING_UNITS, "the Resolution's units are missing, or not those of a step")
    leads = strip.findall("WaveformData")
    count, claimed = number_of(strip, "ChannelSampleCountTotal"), number_of(strip, "NumberOfLeads")
    if claimed is not None and claimed != len(leads):
        raise Refused(Reason.BAD_HEADER, f"{claimed:.0f} leads are claimed, and {len(leads)} there")
    channels = [Channel(lead.get("lead", ""), _samples(lead, count), steps * unit) for lead in leads]
    if not channels or not len(channels[0].samples):
        raise Refused(Reason.TOO_SHORT, "the strip holds no samples")
    return assemble(channels, rate, source_format=NAME, unit_source="Resolution")


def _samples(lead: Element, claimed: float | None) -> np.ndarray:
    if len(lead.text or "") > _MAX_TEXT * MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"a lead has {len(lead.text or '')} characters of samples")
    try:
        samples = samples_in(lead.text, ",")
    except ValueError:
        raise Refused(Reason.UNDECODABLE, "a sample of a lead is no number") from None
    if claimed is not None and len(samples) != claimed:
        raise Refused(Reason.TRUNCATED, f"a lead holds {len(samples)} of the {claimed:.0f} samples claimed")
    return samples


def facts(data: bytes) -> Facts:
    """Return what the export states."""
    root = parse(data)
    patient, strip = root.find("PatientInfo"), _strip(root)
    rate, count = number_of(strip, "SampleRate"), number_of(strip, "ChannelSampleCountTotal")
    texts = (text_of(one, ".") for one in root.findall("Interpretation/Diagnosis/DiagnosisText"))
    acquired_at = _moment(root.find("ObservationDateTime"))
    return Facts(
        patient_id=as_id(text_of(patient, "PID")),
        acquired_at=acquired_at,
        age=_age(patient, acquired_at),
        sex=SEXES.get((text_of(patient, "Gender") or "").lower()),
        site=text_of(root, "ClinicalInfo/DeviceInfo/Location"),
        device=text_of(root, "ClinicalInfo/DeviceInfo/Desc"),
        statements={text: None for text in texts if text and not set(text) <= set("-* ")} or None,
        rate_hz=rate,
        duration_s=count / rate if rate and count else None,
        qrs_ms=number_of(root, "RestingECGMeasurements/QRSDuration"),
    )


def _moment(stated: Element | None) -> datetime | None:
    parts = [number_of(stated, part) for part in ("Year", "Month", "Day", "Hour", "Minute", "Second")]
    if None in parts[:3]:
        return None
    try:
        return datetime(*(int(part or 0) for part in parts))  # type: ignore[arg-type]
    except ValueError:
        return None


def _age(patient: Element | None, acquired_at: datetime | None) -> float | None:
    age = patient.find("Age") if patient is not None else None
    born = _moment(patient.find("BirthDateTime") if patient is not None else None)
    try:
        if age is not None and age.text and age.get("units", "years") == "years":
            return parse_age(age.text.strip())
    except ValueError:
        return None
    return age_at(acquired_at, born)
