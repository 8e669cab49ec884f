"""What an ECG shows of infarction, in words of a fixed vocabulary, each with the amplitudes that support it.

Criteria: Fourth Universal Definition of Myocardial Infarction (Thygesen et al., Circulation 138:e618, 2018), tables 2 and 3: Q
and QS, R in V1-V2, ST and T by lead, age and sex; ST depression only where it is horizontal or downsloping, tall R only in V1
and V2 together. Poor R progression: R of V3 not above 0.3 mV, not above that of V2 (after DePace et al., J Am Coll Cardiol
2:1073, 1983, and Zema & Kligfield 1979). In left bundle branch block, pre-excitation or pacing QRS and ST say nothing of an
infarct by these criteria, so that with a QRS of 120 ms and more they are left out. Signs are not diagnoses: all of them have
other causes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from screening.attribution.measurements import Measurements
from screening.attribution.territories import LEADS_OF
from screening.contract import LEADS, OPERATORS, TERRITORIES

WIDE_QRS_MS = 130.0
"""120 ms, and the 10 ms by which the delineator gives a QRS longer than it is (`tests/studies/delineation.py`)."""

SIGNS: dict[str, tuple[str, str]] = {
    "pathological_q": ("QRS", "pathological Q"),
    "poor_r_progression": ("QRS", "poor R progression"),
    "tall_r": ("QRS", "tall R"),
    "st_elevation": ("ST", "ST elevation"),
    "st_depression": ("ST", "ST depression"),
    "t_inversion": ("T", "inverted T"),
}
"""Sign -> the wave it is of, and its words."""

_NEIGHBOURS = (
    ("V1", "V2"),
    ("V2", "V3"),
    ("V3", "V4"),
    ("V4", "V5"),
    ("V5", "V6"),
    ("aVL", "I"),
    ("II", "aVF"),
    ("aVF", "III"),
)
"""A sign must stand in two neighbouring leads; it is named by the territory's own."""
_LEVEL_MV = 0.02
"""By which an ST segment may rise within 60 ms and is still horizontal: what the filter leaves uncertain of it
(``tests/studies/delineation.py``)."""
_CLEAR = 2.0
"""A wave speaks for infarction where its importance is so many standard errors above zero."""


@dataclass(frozen=True)
class Finding:
    """A sign in a territory."""

    sign: str  # of SIGNS
    territory: str
    values: tuple[tuple[str, str], ...]  # lead, and what was measured in it

    @property
    def wave(self) -> str:
        """The wave it is of, one of ``contract.WAVES``."""
        return SIGNS[self.sign][0]


def find(measured: Measurements, *, sex: str | None, age: float | None) -> tuple[Finding, ...]:
    """Return the signs of infarction in the order of territories and `SIGNS`.

    Parameters
    ----------
    measured
        Of the median beat.
    sex, age
        ``female`` or ``male``, and years; unknown ones take the limit that is hardest to reach.
    """
    of = {lead: at for at, lead in enumerate(LEADS)}
    narrow = measured.qrs_ms < WIDE_QRS_MS
    there: dict[str, dict[str, str]] = {sign: {} for sign in SIGNS}
    for lead in LEADS:
        at = of[lead]
        q_ms, q, r, s = (float(getattr(measured, name)[at]) for name in ("q_ms", "q_mV", "r_mV", "s_mV"))
        j, later = (float(level) for level in measured.st_mV[at])
        t, qs = float(measured.t_mV[at]), bool(measured.qs[at])
        depth = f"{'QS' if qs else 'Q'} {q_ms:.0f} ms {q:.2f} mV"
        long = q_ms >= (20 if lead in ("V2", "V3") else 30)
        deep = q >= 0.1
        if narrow and lead != "V1" and deep and (qs or long):
            there["pathological_q"][lead] = depth
        if narrow and lead == "V1" and qs and deep:  # alone it is normal, beside V2 it is not
            there["pathological_q"][lead] = depth
        if narrow and j >= _elevation(lead, sex, age):
            there["st_elevation"][lead] = f"ST {j:+.2f} mV"
        if narrow and max(j, later) <= -0.05 and later <= j + _LEVEL_MV:  # horizontal or downsloping
            there["st_depression"][lead] = f"ST {j:+.2f} mV"
        if t <= -0.1 and (r > s) and r >= 0.1:  # a prominent R, or R above S
            there["t_inversion"][lead] = f"T {t:+.2f} mV"
        if narrow and lead in ("V1", "V2") and measured.r_ms[at] > 40 and r > max(s, q) and t > 0:
            there["tall_r"][lead] = f"R {measured.r_ms[at]:.0f} ms {r:.2f} mV"
    r2, r3 = (float(measured.r_mV[of[lead]]) for lead in ("V2", "V3"))
    if narrow and r3 <= 0.3 and r3 <= r2 + 0.05:
        there["poor_r_progression"]["V3"] = f"R {r3:.2f} mV"
    found = []
    for territory, own in LEADS_OF.items():
        for sign, values in there.items():
            alone = sign == "poor_r_progression"
            kept = (
                {lead for pair in _NEIGHBOURS if set(pair) <= set(values) for lead in pair}
                if not alone
                else set(values)
            )
            named = [(lead, values[lead]) for lead in own if lead in kept]
            if named:
                found.append(Finding(sign, territory, tuple(named)))
    return tuple(found)


def _elevation(lead: str, sex: str | None, age: float | None) -> float:
    """Return the ST elevation at the J point that counts, mV."""
    if lead not in ("V2", "V3"):
        return 0.1
    if sex == "female":
        return 0.15
    return 0.2 if age is not None and age >= 40 else 0.25


def sentence(
    findings: Sequence[Finding], wave_importance: np.ndarray | None = None, wave_se: np.ndarray | None = None
) -> str:
    """Return the signs in words, by territory, with what supports them; empty where there are none.

    Parameters
    ----------
    findings
        As `find` gave them.
    wave_importance, wave_se
        float (16,) of ``OPERATORS["wave"]``, in logits. Where given, a sign is told only where its wave, in its territory,
        speaks for infarction: the importance is two standard errors and more above zero.
    """
    speaks = dict.fromkeys(OPERATORS["wave"], True)
    weight = dict.fromkeys(OPERATORS["wave"], 0.0)
    if wave_importance is not None:
        error = np.zeros(len(wave_importance)) if wave_se is None else wave_se
        for part, value, se in zip(OPERATORS["wave"], wave_importance.tolist(), error.tolist(), strict=True):
            speaks[part], weight[part] = value > max(_CLEAR * se, 0.0), value
    told = [one for one in findings if speaks[f"{one.wave}_{one.territory}"]]
    by_territory = {wall: [one for one in told if one.territory == wall] for wall in TERRITORIES}
    first = sorted(
        (wall for wall, signs in by_territory.items() if signs),
        key=lambda wall: -sum(weight[f"{wave}_{wall}"] for wave in {one.wave for one in by_territory[wall]}),
    )
    sentences = []
    for wall in first:
        signs = by_territory[wall]
        words = [SIGNS[one.sign][1] for one in signs]
        named = words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
        values = "; ".join(", ".join(f"{lead} {value}" for lead, value in one.values) for one in signs)
        sentences.append(f"{named[0].upper()}{named[1:]} in the {wall} leads ({values}).")
    return " ".join(sentences)
