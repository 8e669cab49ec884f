"""Good files of the formats of hospitals, and ways to change them into a case of the corpus."""

from __future__ import annotations

import re
from functools import cache

import numpy as np

from screening.contract import Reason
from tests import hospital_files as made
from tests.corpus.case import Case
from tests.wfdb_files import ecg


@cache
def digital() -> np.ndarray:
    """Return an ECG, 5 uV a step."""
    return np.rint(ecg(gain=1000 / made.STEP_UV)).astype(np.int64)


@cache
def file_of(form: str) -> bytes:
    """Return a good file of a format."""
    return made.WRITERS[form][1](digital())


def case(name: str, form: str, data: bytes, expected: Reason, message: str, **more: bytes) -> Case:
    """Return a record of one file, with files beside it whose names have "_" for "."."""
    suffix = made.WRITERS[form][0] if form in made.WRITERS else f".{form}"
    folder = name.replace("-", "_")
    files = {f"{folder}/r{suffix}": data, **{f"{folder}/{at.replace('_', '.')}": rest for at, rest in more.items()}}
    return Case(folder, files, f"{folder}/r{suffix}", expected, message)


def changed(form: str, *edits: tuple[str, str], count: int = -1, last: bool = False) -> bytes:
    """Return a file of text with each pattern replaced, everywhere, or ``count`` times, or in its last place."""
    encoding = "utf-16" if form == "sierra-xml" else "utf-8" if form == "hl7-aecg" else "latin-1"
    text = file_of(form).decode(encoding)
    for old, new in edits:
        places = list(re.finditer(old, text))
        if not places:
            raise ValueError(f"{form} has no {old!r}")
        for place in reversed(places[-1:] if last else places[: count if count > 0 else None]):
            text = text[: place.start()] + new + text[place.end() :]
    return text.encode(encoding)
