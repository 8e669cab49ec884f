"""HL7 annotated ECG (AnnotatedECG): the rhythm series, samples as text, each lead with origin and scale.

HL7 Version 3 Implementation Guide: Regulated Studies; Annotated ECG, Release 1 (2005).
"""

from __future__ import annotations

import re
from typing import NamedTuple
from xml.etree.ElementTree import Element

from screening.archive.container import Refused
from screening.archive.facts import SEXES, Facts, age_at, as_id, parse_age
from screening.archive.formats.xml import moment, parse, root_of, samples_in, text_of
from screening.archive.leads import Channel, Leads, assemble
from screening.contract import MAX_SAMPLES, Reason, lead_of, mV_per_unit

NAME = "hl7-aecg"
_TIMES = ("TIME_ABSOLUTE", "TIME_RELATIVE")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "\N{MICRO SIGN}s": 1e-6, "\N{GREEK SMALL LETTER MU}s": 1e-6}
_NO_RHYTHM = re.compile(r"beat|median|average|derived|template", re.IGNORECASE)
_QRS = ("MDC_ECG_TIME_PD_QRS", "MDC_ECG_TIME_PD_QRS_GL", "MDC_ECG_TIME_PD_QRS_GLOBAL")


def looks_like(head: bytes) -> bool:
    """Whether a file begins as an annotated ECG."""
    return root_of(head) == "AnnotatedECG"


def read(data: bytes) -> Leads:
    """Return the leads of the rhythm series."""
    rhythm = _rhythm(parse(data))
    if rhythm is None:
        raise Refused(Reason.TOO_SHORT, "there is no rhythm series, only representative beats or nothing")
    sequences = rhythm.sequences
    rates = {_rate(one) for one in sequences if _code(one) in _TIMES}
    if not rates:
        raise Refused(Reason.MISSING_RATE, "the rhythm series states no increment of time")
    if len(rates) > 1:
        raise Refused(
            Reason.CONFLICTING_RATES, "sequences at " + " and ".join(f"{rate:g}" for rate in sorted(rates)) + " Hz"
        )
    channels = [_channel(one) for one in sequences if lead_of(_code(one)) is not None]
    return assemble(channels, rates.pop(), source_format=NAME, unit_source="SLIST_PQ scale")


class _Rhythm(NamedTuple):
    """One set of sequences, which were recorded together."""

    series: Element
    sequences: list[Element]

    @property
    def worth(self) -> tuple[int, int]:
        """How many of the twelve leads there are, and how many samples the first of them has."""
        leads = [one for one in self.sequences if lead_of(_code(one))]
        digits = text_of(leads[0], "value/digits") or "" if leads else ""
        return len({lead_of(_code(one)) for one in leads}), len(digits.split())


def _rhythm(root: Element) -> _Rhythm | None:
    """Return the longest of the sets with the most leads: some files hold a strip, or a lead of it, beside the whole."""
    found = [
        _Rhythm(series, one.findall("component/sequence"))
        for series in root.findall("component/series")
        if not _NO_RHYTHM.search(_code(series))
        for one in series.findall("component/sequenceSet")
    ]
    return found[0] if len(found) == 1 else max(found, key=lambda one: one.worth, default=None)


def _code(element: Element) -> str:
    code = element.find("code")
    return (code.get("code") or "") if code is not None else ""


def _value(element: Element | None, of: str) -> tuple[float, str] | None:
    """Return the number and the unit of a physical quantity, None where there is none."""
    found = element.find(of) if element is not None else None
    try:
        return (float(found.get("value") or ""), found.get("unit") or "") if found is not None else None
    except ValueError:
        return None


def _rate(sequence: Element) -> float:
    increment = _value(sequence.find("value"), "increment")
    if increment is None or increment[1] not in _SECONDS or not increment[0] > 0:
        raise Refused(Reason.MISSING_RATE, "the increment of time is no time")
    return 1 / (increment[0] * _SECONDS[increment[1]])


def _channel(sequence: Element) -> Channel:
    lead, value = lead_of(_code(sequence)), sequence.find("value")
    scale, origin = _value(value, "scale"), _value(value, "origin") or (0.0, "mV")
    mV = mV_per_unit(scale[1]) if scale else None
    origin_mV = mV_per_unit(origin[1]) if origin[0] else 0.0
    if scale is None or mV is None or origin_mV is None:
        raise Refused(Reason.MISSING_UNITS, f"lead {lead} has no scale, or its unit is not one of voltage")
    text = text_of(value, "digits") or ""
    if len(text) > 16 * MAX_SAMPLES:
        raise Refused(Reason.TOO_LARGE, f"lead {lead} has {len(text)} characters of samples")
    try:
        samples = samples_in(text)
    except ValueError:
        raise Refused(Reason.UNDECODABLE, f"a sample of lead {lead} is no number") from None
    return Channel(str(lead), samples, scale[0] * mV, origin[0] * origin_mV)


def facts(data: bytes) -> Facts:
    """Return what the file states."""
    root = parse(data)
    person = next(root.iter("subjectDemographicPerson"), None)
    subject = next(root.iter("trialSubject"), None)
    identity = subject.find("id") if subject is not None else None
    rhythm = _rhythm(root)
    low = rhythm.series.find("effectiveTime/low") if rhythm is not None else None
    stated = (low.get("value") or "")[:14] if low is not None else ""
    acquired_at = moment(stated[:8], stated[8:].ljust(6, "0"), "%Y%m%d %H%M%S")
    sex = person.find("administrativeGenderCode") if person is not None else None
    rate = count = None
    if rhythm is not None:
        rate = next((_rate(one) for one in rhythm.sequences if _code(one) in _TIMES), None)
        count = rhythm.worth[1]
    qrs = next(
        (measured for one in root.iter("annotation") if _code(one) in _QRS and (measured := _value(one, "value"))),
        None,
    )
    said = [
        text_of(one, "value") for one in root.iter("annotation") if _code(one) == "MDC_ECG_INTERPRETATION_STATEMENT"
    ]
    paced = (text_of(person, "Paced") or "").lower()
    born = person.find("birthTime") if person is not None else None
    try:
        age = parse_age(text) if (text := text_of(person, "Age")) else None
    except ValueError:
        age = None
    if age is None and born is not None:
        age = age_at(acquired_at, moment((born.get("value") or "")[:8], None, "%Y%m%d %H:%M:%S"))
    return Facts(
        patient_id=as_id(text_of(person, "PatientID") or (identity.get("extension") if identity is not None else None)),
        acquired_at=acquired_at,
        age=age,
        sex=SEXES.get(((sex.get("code") or "") if sex is not None else "").lower()),
        device=text_of(next(root.iter("manufacturedSeriesDevice"), None), "manufacturerModelName"),
        statements={text: None for text in said if text} or None,
        rate_hz=rate,
        duration_s=count / rate if count and rate else None,
        qrs_ms=qrs[0] * _SECONDS[qrs[1]] * 1000 if qrs and qrs[1] in _SECONDS else None,
        paced={"true": True, "false": False}.get(paced),
    )
