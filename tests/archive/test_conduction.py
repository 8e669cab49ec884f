"""Pacing, left bundle branch block and pre-excitation, from what archives state."""

from __future__ import annotations

import pytest

from screening.archive.conduction import conduction
from screening.archive.facts import Facts

# Statements as machines write them: GE Marquette 12SL Statement of Validation and Accuracy (2008), Philips DXL ECG Algorithm
# Physician's Guide (2009), and the texts of MIMIC-IV-ECG's machine_measurements.csv (doi.org/10.13026/4nqg-sb35).
STATEMENTS = [
    ("Left bundle branch block", {"lbbb"}),
    ("LEFT BUNDLE-BRANCH BLOCK", {"lbbb"}),
    ("Sinus rhythm. LBBB with secondary ST-T changes", {"lbbb"}),
    ("Incomplete left bundle branch block", set()),
    ("Right bundle branch block", set()),
    ("Left anterior fascicular block", set()),
    ("Electronic ventricular pacemaker", {"paced"}),
    ("Atrial-sensed ventricular-paced rhythm", {"paced"}),
    ("AV dual-paced rhythm", {"paced"}),
    ("A-V sequential pacemaker", {"paced"}),
    ("Wandering atrial pacemaker", set()),
    ("No pacemaker spikes seen", set()),
    ("Wolff-Parkinson-White", {"wpw"}),
    ("Ventricular pre-excitation, WPW pattern type B", {"wpw"}),
    ("Possible ventricular preexcitation", set()),
    ("Anterior infarct, age undetermined", set()),
    ("The patient was spaced out", set()),
    # Comparisons with an earlier ECG, by 12SL.
    ("Sinus rhythm has replaced Electronic ventricular pacemaker", set()),
    ("Electronic ventricular pacemaker has replaced Sinus rhythm", {"paced"}),
    ("Right bundle branch block has replaced Left bundle branch block", set()),
    ("Left bundle branch block has replaced Right bundle branch block", {"lbbb"}),
    ("Left bundle branch block has been replaced by Electronic ventricular pacemaker", {"paced"}),
    ("Vent. rate has increased BY 20 BPM Left bundle branch block has resolved", set()),
    ("When compared with ECG of that day, left bundle branch block is no longer present", set()),
    ("Left bundle branch block is now present", {"lbbb"}),
    ("Since last ECG left bundle branch block absent", set()),
    ("Normal sinus rhythm, rate 60; history of pacemaker", set()),
    ("Patient has pacemaker: denied", set()),
    ("LBBB with non-specific T wave changes", {"lbbb"}),
    # Other languages.
    ("Kompletter Linksschenkelblock", {"lbbb"}),
    ("Inkompletter Linksschenkelblock", set()),
    ("Kein Linksschenkelblock", set()),
    ("Schrittmacherrhythmus", {"paced"}),
    ("Wandernder Schrittmacher", set()),
    ("Sinusrhythmus hat Schrittmacherrhythmus ersetzt", set()),
    ("Präexzitation", {"wpw"}),
    ("Bloc de branche gauche", {"lbbb"}),
    ("BLOC COMPLET DE BRANCHE GAUCHE", {"lbbb"}),
    ("Bloc de branche droit", set()),
    ("Bloc incomplet de branche gauche", set()),
    ("Rythme électro-entraîné", {"paced"}),
    ("Préexcitation ventriculaire", {"wpw"}),
    ("BLOCCO DI BRANCA SINISTRA", {"lbbb"}),
    ("BLOCCO INCOMPLETO DI BRANCA SINISTRA", set()),
    ("Ritmo da pacemaker", {"paced"}),
    ("Stimolazione ventricolare", {"paced"}),
    ("Bloqueo completo de rama izquierda", {"lbbb"}),
    ("Bloqueo de rama derecha", set()),
    ("Ritmo de marcapasos", {"paced"}),
    ("Bloqueio do ramo esquerdo", {"lbbb"}),
    ("Ritmo de marca-passo", {"paced"}),
    ("Pré-excitação ventricular", {"wpw"}),
]


@pytest.mark.parametrize(("statement", "says"), STATEMENTS)
def test_sentences(statement: str, says: set[str]) -> None:
    found = conduction(Facts(statements={statement: None}))
    assert {name for name in ("paced", "lbbb", "wpw") if found[name]} == says


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ("PACE", "paced"),
        ("CLBBB", "lbbb"),
        ("WPW", "wpw"),
        ("164909002", "lbbb"),
        ("10370003", "paced"),
        ("74390002", "wpw"),
    ],
)
def test_codes(code: str, name: str) -> None:
    found = conduction(Facts(statements={"NORM": 100.0, code: 0.0}))
    assert [found[each] for each in ("paced", "lbbb", "wpw")] == [each == name for each in ("paced", "lbbb", "wpw")]


def test_what_is_not_stated_is_not_known() -> None:
    assert conduction(Facts()) == {"qrs_ms": None, "paced": None, "lbbb": None, "wpw": None}
    assert conduction(Facts(paced=False))["paced"] is False
    assert conduction(Facts(paced=False, statements={"Electronic atrial pacemaker": None}))["paced"] is True


@pytest.mark.parametrize(
    ("statement", "is_understood"),
    [
        *(
            (text, True)
            for text in ("NORM", "1dAVb", "164889003", "Sinus rhythm", "Otherwise normal ECG", "Sinusrhythmus")
        ),
        *((text, True) for text in ("RITMO SINUSALE", "ECG NORMALE", "Rythme sinusal avec ESA", "Ritmo sinusal")),
        *(
            (text, False)
            for text in ("Venstresidigt grenblok", "Normal sinusrytme", "Linkerbundeltakblok", "Normalt EKG")
        ),
        *(
            (text, False)
            for text in ("Bloc de ramură stângă", "Blok lewej odnogi pęczka Hisa", "左脚ブロック", "--- ---")
        ),
        *((text, False) for text in ("Bloqueig de branca esquerra", "Normale forhold", "???")),
    ],
)
def test_what_is_said_in_a_language_that_is_not_known_here_is_not_known(statement: str, is_understood: bool) -> None:
    found = conduction(Facts(statements={statement: None}))
    assert [found[each] for each in ("paced", "lbbb", "wpw")] == [False if is_understood else None] * 3


@pytest.mark.parametrize(("stated", "kept"), [(96, 96), (0, None), (19, None), (400, 400), (29_999, None)])
def test_a_qrs_duration_that_no_heart_has_is_none(stated: float, kept: float | None) -> None:
    assert conduction(Facts(qrs_ms=stated))["qrs_ms"] == kept
