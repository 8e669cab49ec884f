"""What a WFDB header's comments say about its record, as the CinC 2020/2021 and PTB diagnostic archives write them."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Container
from datetime import datetime
from typing import Any

from screening.archive.facts import SEXES, Facts, as_id, parse_age, parse_codes, parse_time
from screening.archive.labels import CODE
from screening.archive.metadata import NULLS
from screening.archive.wfdb import comments

_PATIENT_KEYS = ("subject_id", "patient_id", "patient id")
# Record line: name, signals, rate, samples, base time, base date (WFDB applications guide, header(5)).
_BASE_TIME = re.compile(
    rb"^\S+ +\d+ +\S+ +\d+ +(\d{1,2}:\d{2}(?::\d{2})?)(?:\.\d+)? +(\d{1,2}/\d{1,2}/\d{4})", re.MULTILINE
)
_RATE_AND_LENGTH = re.compile(rb"^\S+ +\d+ +(\d{1,5}(?:\.\d{1,9})?)\S* +(\d{1,12})(?= |\r?$)", re.MULTILINE)


def header_facts(header: bytes, unreadable: Counter[str], *, statement_texts: Container[str] = ()) -> Facts:
    """Return what a header's comments, and its base time, state.

    Parameters
    ----------
    header
        Bytes of the header file.
    unreadable
        Counts values that could not be understood.
    statement_texts
        Free texts that count as statements. Others are dropped: free text of a hospital may name people.
    """
    stated: dict[str, str] = {}
    for comment in comments(header):
        key, colon, value = comment.strip().lstrip("#").partition(":")
        if colon and value.strip():
            stated.setdefault(key.strip(" <>").lower(), value.strip(" <>\t"))

    def take(what: str, key: str, parse: Any) -> Any:
        value = stated.get(key)
        if value is None or value in NULLS or value.lower() in ("unknown", "n/a", "nan"):
            return None
        try:
            return parse(value)
        except (ValueError, KeyError):
            unreadable[what] += 1
            return None

    reason = stated.get("reason for admission")
    rate_hz = duration_s = None
    if found := _RATE_AND_LENGTH.search(header[:4096]):
        rate_hz = float(found[1]) or None
        duration_s = int(found[2]) / rate_hz if rate_hz else None
    statements = take(
        "labels", "dx", lambda text: parse_codes(code for code in text.split(",") if CODE.match(code.strip()))
    )
    if reason is not None and reason in statement_texts:
        statements = {**(statements or {}), reason: None}
    return Facts(
        patient_id=next((as_id(stated[key]) for key in _PATIENT_KEYS if key in stated), None),
        acquired_at=_base_time(header) or take("acquired_at", "ecg date", lambda text: parse_time(text, "%d/%m/%Y")),
        age=take("age", "age", parse_age),
        sex=take("sex", "sex", lambda text: SEXES[text.lower()]),
        statements=statements or None,
        rate_hz=rate_hz,
        duration_s=duration_s,
    )


def _base_time(header: bytes) -> datetime | None:
    found = _BASE_TIME.search(header[:4096])
    if not found:
        return None
    time, date = (part.decode() for part in found.groups())
    try:
        return datetime.strptime(f"{date} {time}", "%d/%m/%Y %H:%M:%S" if time.count(":") == 2 else "%d/%m/%Y %H:%M")
    except ValueError:
        return None
