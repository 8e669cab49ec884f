"""What widens or imitates the QRS complex and so hides, or looks like, an infarction: pacing, LBBB, pre-excitation.

Told from what an archive states: codes of SCP-ECG (PTB-XL) and SNOMED CT (CinC 2020/2021), and a machine's own sentences.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any

from screening.archive.facts import Facts

# SCP-ECG statement codes (EN 1064, table of diagnostic and rhythm statements), and the SNOMED CT codes of
# dx_mapping_scored.csv and dx_mapping_unscored.csv (github.com/physionetchallenges/evaluation-2021).
_CODES: dict[str, frozenset[str]] = {
    "paced": frozenset({"PACE", "10370003", "251266004", "251268003", "11157007"}),
    "lbbb": frozenset({"CLBBB", "LBBB", "164909002", "733534002"}),
    "wpw": frozenset({"WPW", "74390002", "195060002"}),
}
# The words of GE's 12SL, Philips' DXL, Schiller's, Mortara's and MIMIC-IV-ECG's statements, in English, and what cardiologists
# write in German, French, Italian, Spanish and Portuguese; without accents.
_LEFT = r"(?:gauche|sinistr[ao]|izquierd[ao]|esquerd[ao])"
_WORDS: dict[str, re.Pattern[str]] = {
    "paced": re.compile(
        r"\b(?:(?:electronic )?pacemaker|[av-]*[ -]?(?:sequential(?:ly)?[ -])?paced|pacing|(?:herz)?schrittmacher\w*"
        r"|(?:vorhof|kammer|ventrikel)-?stimul\w+|electro-?(?:entraine\w*|stimul\w+|systolique)|stimulateur|segnapassi"
        r"|elettro(?:stimol|indott)\w+|marca-?pass?os?|estimulac\w+ (?:auricular|atrial|ventricular|artificial)"
        r"|stimol\w+ (?:atrial|ventricolar|bicameral)e|stimulation (?:auriculaire|atriale|(?:bi)?ventriculaire))\b"
    ),
    "lbbb": re.compile(
        r"\b(?:left bundle[ -]branch block|lbbb|linksschenkelblock\w*|linksseitiger schenkelblock|lsb|bbg|bcre|bcri"
        r"|bloc\w*(?: complet\w*)?(?: d\w+)?(?: la)? branc(?:he|a)(?: complet\w*)? " + _LEFT + r""
        r"|bloqu?ei?o(?: complet\w*)?(?: d\w+)?(?: la)? ram[ao](?: complet\w*)? " + _LEFT + r")\b"
    ),
    "wpw": re.compile(
        r"\b(?:wolff?[ -]parkinson[ -]white|w-?p-?w|pr[ae]{1,2}-?(?:excitation|exzitation|ec+itazione|excita[ck]\w+))\b"
    ),
}
_NOT = re.compile(
    r"\b(?:no|not|wandering|without|possible|consider|rule out|cannot exclude|probable|resolved|absent|absence"
    r"|history of|denie[sd]|unlikely|questionable|or artifacts?|incomplet\w*|partiel\w*|par[ct]ial\w*|parzial\w*"
    r"|unvollstandig\w*|inkomplett\w*|kein\w*|nicht"
    r"|ohne|moglich\w*|fraglich\w*|verdacht|wahrscheinlich\w*|wandernd\w*|verschwunden|zustand nach"
    r"|pas|sans|disparu\w*|migrant\w*|antecedent\w*|a exclure|non(?!-)|senza|possibile|probabile|assen[tz]\w*|scompars\w*"
    r"|escludere|migrator\w*|errante|mutavel|sin|posible|ausen\w+|desapareci\w+|descartar|nao|sem|possivel|provavel"
    r"|excluir)\b"
)
"""Before or after the words, in the same sentence: what is not so, no more so, or not sure."""
_REPLACED = re.compile(
    r"\b(?:ha(?:s|ve) replaced|a remplace|ha (?:sostituito|reemplazado|sustituido)|substituiu|hat\b(?=.*\bersetzt))\b.*"
)
_REPLACED_BY = re.compile(
    r"^.*\b(?:replaced by|remplace par|sostituito da|reemplazado por|sustituido por|substituido por|ersetzt durch)\b"
)
"""Comparisons with an earlier ECG: before the one stands what is now, and after the other."""
_CODE = re.compile(r"(?=(?:.*[A-Z0-9]){2})[A-Za-z0-9_+/()-]{2,6}|\d{6,18}")
_KNOWN = re.compile(
    r"(?:rhythmus|schenkelblock)\b|\b(?:rhythm|bundle|beats?|waves?|axis|left|right|bradycardia|tachycardia|abnormal|normal ecg"
    r"|hypertrophy|ischa?emia|low voltage|premature|junctional|degree|cannot|consider|otherwise|undetermined"
    r"|(?:links|rechts|steil|indifferenz)typ|vorhof\w*|normales ekg|unauffallig\w*|erregungs\w+"
    r"|rythme|branche|gauche|droite?|avec|axe|infarctus"
    r"|ritmo|sinusale|ecg normale|blocco|sinistr[ao]|destr[ao]|tachicardia|bradicardia"
    r"|bloqueo|bloqueio|rama|ramo|izquierd[ao]|derech[ao]|esquerd[ao]|direit[ao]|taquicardia|eixo)\b"
)
"""Words of which each belongs to one of the six languages, or to several of them, and hardly to another."""

COLUMNS = ("qrs_ms", *_CODES)
QRS_LIMITS_MS = (20.0, 400.0)
"""Outside of these no QRS duration was measured."""


def conduction(facts: Facts) -> dict[str, Any]:
    """Return `COLUMNS`: the machine's QRS duration, and what statements say.

    None where the archive is silent, or says nothing that is understood: no code, and no word of a language known here.

    >>> conduction(Facts(statements={"CLBBB": 100.0}, qrs_ms=152))
    {'qrs_ms': 152, 'paced': False, 'lbbb': True, 'wpw': False}
    >>> conduction(Facts(paced=True, statements={"Venstresidigt grenblok": None}))
    {'qrs_ms': None, 'paced': True, 'lbbb': None, 'wpw': None}
    """
    found: dict[str, Any] = {"qrs_ms": facts.qrs_ms}
    if facts.qrs_ms is not None and not QRS_LIMITS_MS[0] <= facts.qrs_ms <= QRS_LIMITS_MS[1]:
        found["qrs_ms"] = None
    told = [_told(statement) for statement in facts.statements or ()]
    is_understood = any(understood for _, understood in told)
    for name in _CODES:
        found[name] = any(name in says for says, _ in told) if is_understood else None
    if facts.paced is not None:
        found["paced"] = facts.paced or bool(found["paced"])
    return found


@lru_cache(maxsize=4096)  # a machine has few sentences
def _told(statement: str) -> tuple[frozenset[str], bool]:
    """Return what of `_CODES` a statement says, and whether it is of a code or language that is understood."""
    text = _plain(statement)
    named = {name for name, words in _WORDS.items() if statement in _CODES[name] or words.search(text)}
    says = frozenset(name for name in named if statement in _CODES[name] or _says(name, text))
    return says, bool(named or _CODE.fullmatch(statement) or _KNOWN.search(text))


def _says(name: str, text: str) -> bool:
    parts = (_REPLACED_BY.sub("", _REPLACED.sub("", part)) for part in re.split(r"[.,;()]", text))
    return any(_WORDS[name].search(part) and not _NOT.search(part) for part in parts)


def _plain(statement: str) -> str:
    """Return a statement in small letters without accents."""
    letters = unicodedata.normalize("NFKD", statement.casefold())
    return letters if letters.isascii() else "".join(letter for letter in letters if not unicodedata.combining(letter))
