"""What an archive states about one record, and how what it writes is understood: as it stands, or not at all."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache

from screening.archive.labels import Statements

MAX_CELL_CHARACTERS = 8_192
MAX_CODES = 256
MAX_NAME_CHARACTERS = 256
MAX_AGE = 90.0  # ages over 89 identify people (45 CFR 164.514(b)(2)(i)(C)); PTB-XL writes 300 for them


@dataclass(slots=True)
class Facts:
    """What an archive states about one record; None where it is silent."""

    patient_id: str | None = None
    acquired_at: datetime | None = None
    age: float | None = None
    sex: str | None = None
    site: str | None = None
    device: str | None = None
    statements: Statements | None = None  # codes, and the machine's own sentences
    in_words: bool = False  # the statements are sentences: one of a single word is no code, and may be a name
    fold: int | None = None
    rate_hz: float | None = None  # of the rhythm strip
    duration_s: float | None = None
    qrs_ms: float | None = None  # what the machine measured
    paced: bool | None = None  # what the machine noticed, where it looks for it

    def bounded(self, unreadable: Counter[str]) -> Facts:
        """Return the same without texts that are too long to be what they are said to be, which are counted."""
        for what in ("patient_id", "site", "device"):
            if len(getattr(self, what) or "") > MAX_NAME_CHARACTERS:
                setattr(self, what, None)
                unreadable[what] += 1
        if self.statements and (
            len(self.statements) > MAX_CODES or any(len(text) > MAX_CELL_CHARACTERS for text in self.statements)
        ):
            self.statements = None
            unreadable["labels"] += 1
        return self


SEXES = {"f": "female", "female": "female", "m": "male", "male": "male"}
_WHOLE = re.compile(r"^(-?\d+)\.0+$")


def as_id(value: str | None) -> str | None:
    """Return an identifier without the '.0' that a numeric detour left on it; leading zeros stay.

    >>> as_id("15709.0"), as_id("00012"), as_id("  "), as_id("a.0")
    ('15709', '00012', None, 'a.0')
    """
    if value is None or not (value := value.strip()):
        return None
    whole = _WHOLE.match(value) if len(value) <= MAX_NAME_CHARACTERS else None
    return whole.group(1) if whole else value


_LIKELIHOOD = re.compile(
    r"""\s*(?:'([^'\\]*)'|"([^"\\]*)"|(\d+))\s*:\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)\s*(?:,|(?=\}))"""
)


def parse_likelihoods(text: str) -> dict[str, float | None]:
    """Return statement codes with likelihoods, as PTB-XL writes them: a Python dictionary. Nothing is evaluated.

    >>> parse_likelihoods("{'IMI': 80.0, 'SR': 0}")
    {'IMI': 80.0, 'SR': 0.0}

    Raises
    ------
    ValueError
        It is none, or one of too many codes.
    """
    text = text.strip()
    found: dict[str, float] = {}
    at = 1
    while len(found) < MAX_CODES and (match := _LIKELIHOOD.match(text, at)):
        found[match[1] or match[2] or match[3] or ""] = float(match[4])
        at = match.end()
    if not text.startswith("{") or text[at:].strip() != "}" or math.inf in map(abs, found.values()):
        raise ValueError("not statements with likelihoods")
    parse_codes(found)
    return dict(found)


def parse_codes(values: Iterable[str]) -> dict[str, float | None]:
    """Return statement codes without likelihood, each once; ValueError where they can be none."""
    codes: dict[str, float | None] = dict.fromkeys(code for value in values if (code := value.strip()))
    if len(codes) > MAX_CODES or any(len(code) > 64 for code in codes):
        raise ValueError("not codes")
    return codes


@lru_cache(maxsize=1024)
def parse_age(value: str) -> float:
    """Return an age in years, 90 for all above 89 (and for PTB-XL's 300); ValueError if it is none."""
    age = float(value)
    if math.isnan(age) or age < 0 or (age > 130 and age != 300):
        raise ValueError(f"{value} is no age")
    return MAX_AGE if age > 89 else age


def age_at(moment: datetime | None, born: datetime | None) -> float | None:
    """Return the age in whole years, as `parse_age` gives it; None where either is unknown, or they contradict each other."""
    try:
        return parse_age(str((moment - born).days // 365.25)) if moment and born else None
    except ValueError:
        return None


def parse_time(value: str, form: str | None = None) -> datetime:
    """Return a time as stated, without zone; one with a zone is turned into UTC."""
    time = datetime.strptime(value.strip(), form) if form else datetime.fromisoformat(value.strip())
    return time if time.tzinfo is None else time.astimezone(UTC).replace(tzinfo=None)
