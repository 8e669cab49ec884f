"""One literal case a sign, with the criterion's limit just met and just missed (Fourth Universal Definition of MI, 2018)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from screening.attribution.findings import SIGNS, find, sentence
from screening.attribution.measurements import Measurements
from screening.contract import LEADS, OPERATORS, WAVES

NORMAL = Measurements(
    q_ms=np.zeros(12),
    q_mV=np.zeros(12),
    r_ms=np.full(12, 36.0),
    r_mV=np.array([0.7, 1.0, 0.4, 0.1, 0.3, 0.7, 0.2, 0.4, 0.8, 1.3, 1.2, 0.9]),
    s_mV=np.array([0.1, 0.1, 0.1, 0.9, 0.1, 0.1, 0.9, 1.1, 0.8, 0.5, 0.2, 0.1]),
    qs=np.zeros(12, bool),
    st_mV=np.zeros((12, 2)),
    t_mV=np.full(12, 0.25),
    qrs_ms=92.0,
    rate_bpm=70.0,
    beats=10,
)


def having(**leads: dict[str, Any]) -> Measurements:
    """Return a normal ECG in which leads differ: V2={"q_ms": 40, ...}; st is that of the J point and 60 ms later."""
    arrays = {name: np.array(getattr(NORMAL, name)) for name in ("q_ms", "q_mV", "r_ms", "r_mV", "s_mV", "qs", "t_mV")}
    st = np.array(NORMAL.st_mV)
    for lead, values in leads.items():
        for name, value in values.items():
            if name == "st":
                st[LEADS.index(lead)] = value
            else:
                arrays[name][LEADS.index(lead)] = value
    return replace(NORMAL, **arrays, st_mV=st)


def signs(of: Measurements, sex: str | None = "male", age: float | None = 60.0) -> set[tuple[str, str]]:
    return {(one.sign, one.territory) for one in find(of, sex=sex, age=age)}


Q = {"q_ms": 32.0, "q_mV": 0.2}


def test_a_normal_ecg_has_no_sign() -> None:
    assert find(NORMAL, sex=None, age=None) == ()
    assert sentence(()) == ""


@pytest.mark.parametrize(
    ("leads", "expected"),
    [
        (("III", "aVF"), {("pathological_q", "inferior")}),
        (("II", "aVF"), {("pathological_q", "inferior")}),
        (("I", "aVL"), {("pathological_q", "lateral")}),
        (("V5", "V6"), {("pathological_q", "lateral")}),
        (("V3", "V4"), {("pathological_q", "anterior")}),
        (("V2", "V3"), {("pathological_q", "septal"), ("pathological_q", "anterior")}),
        (("III",), set()),  # one lead alone
        (("III", "V6"), set()),  # two that are no neighbours
        (("II", "III"), set()),  # nor these: aVF lies between them
    ],
)
def test_q_counts_in_two_neighbouring_leads(leads: tuple[str, ...], expected: set[tuple[str, str]]) -> None:
    assert signs(having(**{lead: Q for lead in leads})) == expected


@pytest.mark.parametrize(
    ("leads", "q", "counts"),
    [
        (("III", "aVF"), {"q_ms": 30, "q_mV": 0.1}, True),
        (("III", "aVF"), {"q_ms": 28, "q_mV": 0.4}, False),
        (("III", "aVF"), {"q_ms": 44, "q_mV": 0.09}, False),
        (("V2", "V3"), {"q_ms": 20, "q_mV": 0.1}, True),
        (("V2", "V3"), {"q_ms": 18, "q_mV": 0.3}, False),
        (("III", "aVF"), {"q_ms": 60, "q_mV": 0.5, "qs": True, "r_mV": 0.0}, True),
        (("V1", "V2"), {"q_ms": 60, "q_mV": 0.5, "qs": True, "r_mV": 0.0}, True),
        (("V1",), {"q_ms": 60, "q_mV": 0.5, "qs": True, "r_mV": 0.0}, False),
    ],
)
def test_the_limits_of_q(leads: tuple[str, ...], q: dict[str, Any], counts: bool) -> None:
    found = {sign for sign, _ in signs(having(**{lead: q for lead in leads}))}
    assert ("pathological_q" in found) == counts


@pytest.mark.parametrize(
    ("leads", "level", "sex", "age", "counts"),
    [
        (("II", "aVF"), 0.10, "male", 60, True),
        (("II", "aVF"), 0.09, "male", 60, False),
        (("V2", "V3"), 0.20, "male", 40, True),
        (("V2", "V3"), 0.20, "male", 39, False),
        (("V2", "V3"), 0.25, "male", 39, True),
        (("V2", "V3"), 0.15, "female", 30, True),
        (("V2", "V3"), 0.14, "female", 30, False),
        (("V2", "V3"), 0.20, None, None, False),  # unknown: the limit that is hardest to reach
        (("V2", "V3"), 0.25, None, None, True),
        (("aVF",), 0.30, "male", 60, False),
    ],
)
def test_the_limits_of_st_elevation(
    leads: tuple[str, ...], level: float, sex: str | None, age: float | None, counts: bool
) -> None:
    found = signs(having(**{lead: {"st": level} for lead in leads}), sex, age)
    assert any(sign == "st_elevation" for sign, _ in found) == counts


@pytest.mark.parametrize(
    ("at_j", "later", "counts"),
    [
        (-0.05, -0.05, True),
        (-0.04, -0.20, False),  # not at the J point
        (-0.06, -0.20, True),  # downsloping
        (-0.10, -0.085, True),  # horizontal, within what is measured
        (-0.10, -0.06, False),  # upsloping, as in many normal ECGs
        (-0.20, 0.10, False),
        (-0.06, -0.045, False),
    ],
)
def test_st_is_depressed_where_it_does_not_rise(at_j: float, later: float, counts: bool) -> None:
    level = {"st": np.array([at_j, later])}
    assert signs(having(V5=level, V6=level)) == ({("st_depression", "lateral")} if counts else set())
    assert signs(having(V6=level)) == set()


def test_t_is_inverted_where_r_is_prominent() -> None:
    inverted = {"t_mV": -0.1}
    assert signs(having(II=inverted, aVF=inverted)) == {("t_inversion", "inferior")}
    assert signs(having(II={"t_mV": -0.09}, aVF=inverted)) == set()
    assert signs(having(V1=inverted, V2=inverted)) == set()  # S is deeper than R there: normal
    tall = {**inverted, "r_mV": 1.2, "s_mV": 0.1}
    assert signs(having(V1=tall, V2=tall)) == {("t_inversion", "septal")}


def test_r_that_does_not_grow_and_r_that_is_tall() -> None:
    assert signs(having(V3={"r_mV": 0.3}, V2={"r_mV": 0.3})) == {("poor_r_progression", "anterior")}
    assert signs(having(V3={"r_mV": 0.31})) == set()
    tall = {"r_mV": 1.3, "r_ms": 44.0, "s_mV": 0.4}
    assert signs(having(V1=tall, V2=tall)) == {("tall_r", "septal")}
    assert signs(having(V2=tall)) == signs(having(V1=tall)) == set()  # V2 alone is so in many normal ECGs
    assert signs(having(V1=tall, V2={**tall, "r_ms": 38.0})) == set()
    assert signs(having(V1=tall, V2={**tall, "s_mV": 1.4})) == set()
    assert signs(having(V1=tall, V2={**tall, "t_mV": -0.05})) == set()


def test_a_wide_qrs_says_nothing_of_q_and_st() -> None:
    infarct = having(III={**Q, "st": 0.2}, aVF={**Q, "st": 0.2, "t_mV": -0.3}, II={"t_mV": -0.3})
    assert {sign for sign, _ in signs(infarct)} == {"pathological_q", "st_elevation", "t_inversion"}
    assert {sign for sign, _ in signs(replace(infarct, qrs_ms=150.0))} <= {"t_inversion"}


INFARCT = having(
    III={"q_ms": 44.0, "q_mV": 0.53, "t_mV": -0.21},
    aVF={"q_ms": 40.0, "q_mV": 0.25, "t_mV": -0.12},
    V5={"st": -0.06},
    V6={"st": -0.08},
)
WORDS = (
    "Pathological Q and inverted T in the inferior leads (III Q 44 ms 0.53 mV, aVF Q 40 ms 0.25 mV; III T -0.21 mV, "
    "aVF T -0.12 mV)."
)
ST_WORDS = "ST depression in the lateral leads (V5 ST -0.06 mV, V6 ST -0.08 mV)."


def importance(**parts: float) -> np.ndarray:
    return np.array([parts.get(part, 0.0) for part in OPERATORS["wave"]])


def test_signs_in_words() -> None:
    found = find(INFARCT, sex="male", age=70)
    assert sentence(found) == f"{ST_WORDS} {WORDS}"
    se = np.full(16, 0.1)
    both = importance(QRS_inferior=2.0, T_inferior=0.5, ST_lateral=0.4)
    assert sentence(found, both, se) == f"{WORDS} {ST_WORDS}"  # what speaks most comes first


def test_words_need_a_wave_that_speaks_for_infarction() -> None:
    found = find(INFARCT, sex="male", age=70)
    se = np.full(16, 0.1)
    assert sentence(found, importance(QRS_inferior=0.21), se) == (
        "Pathological Q in the inferior leads (III Q 44 ms 0.53 mV, aVF Q 40 ms 0.25 mV)."
    )
    assert sentence(found, importance(QRS_inferior=0.19), se) == ""
    assert sentence(found, importance(QRS_septal=3.0), se) == ""
    assert sentence(found, importance(ST_lateral=-2.0), se) == ""
    assert sentence((), importance(QRS_inferior=3.0), se) == ""


def test_every_sign_is_of_a_wave() -> None:
    assert {wave for wave, _ in SIGNS.values()} <= set(WAVES)
    assert {one.wave for one in find(INFARCT, sex=None, age=None)} == {"QRS", "ST", "T"}
