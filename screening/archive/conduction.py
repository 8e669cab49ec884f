"""What widens or imitates the QRS complex and so hides, or looks like, an infarction: pacing, LBBB, pre-excitation.

Told from what an archive states: codes of SCP-ECG (PTB-XL) and SNOMED CT (CinC 2020/2021), and a machine's own sentences.
"""

from __future__ import annotations

import re
from typing import Any

from screening.archive.metadata import Facts

# SCP-ECG statement codes (EN 1064, table of diagnostic and rhythm statements), and the SNOMED CT codes of
# dx_mapping_scored.csv and dx_mapping_unscored.csv (github.com/physionetchallenges/evaluation-2021).
_CODES: dict[str, frozenset[str]] = {
    "paced": frozenset({"PACE", "10370003", "251266004", "251268003", "11157007"}),
    "lbbb": frozenset({"CLBBB", "LBBB", "164909002", "733534002"}),
    "wpw": frozenset({"WPW", "74390002", "195060002"}),
}
# The words of GE's 12SL, Philips' DXL, Schiller's, Mortara's and MIMIC-IV-ECG's statements, in English.
_WORDS: dict[str, re.Pattern[str]] = {
    "paced": re.compile(r"\b(?:(?:electronic )?pacemaker|[av-]*[ -]?(?:sequential(?:ly)?[ -])?paced|pacing)\b", re.I),
    "lbbb": re.compile(r"\b(?:left bundle[ -]branch block|lbbb)\b", re.I),
    "wpw": re.compile(r"\b(?:wolff?[ -]parkinson[ -]white|w-?p-?w|(?:ventricular )?pre-?excitation)\b", re.I),
}
_NOT = re.compile(
    r"\b(?:no|not|wandering|without|incomplete|possible|consider|rule out|cannot exclude|probable|partial)\b", re.I
)
"""Before or after the words, in the same sentence: what is not so, or not sure."""

COLUMNS = ("qrs_ms", *_CODES)
QRS_LIMITS_MS = (20.0, 400.0)
"""Outside of these no QRS duration was measured."""


def conduction(facts: Facts) -> dict[str, Any]:
    """Return `COLUMNS`: the machine's QRS duration, and what statements say; None where the archive is silent.

    >>> conduction(Facts(statements={"CLBBB": 100.0}, qrs_ms=152))
    {'qrs_ms': 152, 'paced': False, 'lbbb': True, 'wpw': False}
    >>> conduction(Facts(paced=True))
    {'qrs_ms': None, 'paced': True, 'lbbb': None, 'wpw': None}
    """
    found: dict[str, Any] = {"qrs_ms": facts.qrs_ms}
    if facts.qrs_ms is not None and not QRS_LIMITS_MS[0] <= facts.qrs_ms <= QRS_LIMITS_MS[1]:
        found["qrs_ms"] = None
    for name in _CODES:
        found[name] = any(_says(name, text) for text in facts.statements) if facts.statements else None
    if facts.paced is not None:
        found["paced"] = facts.paced or bool(found["paced"])
    return found


def _says(name: str, statement: str) -> bool:
    if statement in _CODES[name]:
        return True
    return any(_WORDS[name].search(part) and not _NOT.search(part) for part in re.split(r"[.,;()]", statement))
