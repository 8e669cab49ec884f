"""Who is simulated: patients, their hearts, infarctions and electrodes, each drawn from (seed, index) alone.

Draws come from the raw words of a counter-based generator (Philox4x64-10: Salmon et al., SC '11) with the seed and the index
as its key, so a record is the same alone, in any chunk and under any version of numpy's distributions.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from scipy.special import ndtri

from screening.signal import heart
from screening.signal.heart import ANTERIOR, APICAL, BASAL, HIGH_LATERAL, INFERIOR, LATERAL, RV, SEPTAL

# --- Settings ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SimulationSettings:
    """What to simulate. Two archives of equal settings are byte-identical.

    Raises
    ------
    ValueError
        A setting is out of its range; the message names it.
    """

    records: int
    prevalence: float  # share of patients with an infarction
    seed: int
    rate_hz: int = 100
    seconds: float = 10.0
    noise: float = 1.0  # times the usual noise, baseline wander and mains of the electrodes
    mains_hz: int = 50  # appears only where the rate allows it

    def __post_init__(self) -> None:
        ranges = (
            ("records", self.records, 1, 10**8),
            ("prevalence", self.prevalence, 0.0, 1.0),
            ("seed", self.seed, 0, 2**63 - 1),
            ("rate_hz", self.rate_hz, 50, 2000),
            ("seconds", self.seconds, 1.0, 600.0),
            ("noise", self.noise, 0.0, 100.0),
            ("mains_hz", self.mains_hz, 16, 60),
        )
        for name, value, low, high in ranges:
            if not low <= value <= high:
                raise ValueError(f"{name} must lie between {low} and {high}, not be {value}")

    @property
    def samples(self) -> int:
        """Samples a lead."""
        return round(self.rate_hz * self.seconds)

    @property
    def beats(self) -> int:
        """Heart beats drawn a record: enough at 150 a minute."""
        return int(self.seconds * 3) + 4


# --- Who there is ----------------------------------------------------------------------------------------------------

CONDITIONS = ("NORM", "LVH", "CLBBB", "CRBBB", "LAFB", "NDT", "AFIB")
"""What a record without infarction shows, in SCP-ECG codes."""
CONDITION_SHARES = np.array((0.58, 0.11, 0.04, 0.04, 0.07, 0.10, 0.06))
NORM, LVH, CLBBB, CRBBB, LAFB, NDT, AFIB = range(7)

TERRITORIES: dict[str, dict[int, float]] = {
    "ASMI": {SEPTAL: 1.0, ANTERIOR: 1.0, APICAL: 0.85},
    "AMI": {SEPTAL: 0.35, ANTERIOR: 1.0, APICAL: 1.0},
    "ALMI": {SEPTAL: 0.6, ANTERIOR: 1.0, APICAL: 1.0, LATERAL: 0.8, HIGH_LATERAL: 0.9},
    "IMI": {INFERIOR: 1.0, BASAL: 0.2},
    "ILMI": {INFERIOR: 1.0, LATERAL: 0.7, BASAL: 0.4},
    "LMI": {LATERAL: 0.9, HIGH_LATERAL: 1.0, APICAL: 0.2},
}
"""SCP-ECG code of an infarction -> share of each segment that it can take."""
TERRITORY_CODES = tuple(TERRITORIES)
TERRITORY_SHARES = np.array((0.37, 0.07, 0.035, 0.425, 0.07, 0.03))  # about PTB-XL's
_INVOLVED = np.array([[part.get(segment, 0.0) for segment in range(8)] for part in TERRITORIES.values()])

STAGES = ("Stadium I", "Stadium II", "Stadium III")
"""PTB-XL's ``infarction_stadium1``: acute, subacute, old."""
STAGE_SHARES = np.array((0.12, 0.18, 0.70))

# Of fifteen consecutive records, eleven patients have one and two patients have two: PTB-XL has 1.16 a patient.
_RECORDS_A_GROUP, _PATIENTS_A_GROUP = 15, 13
_PATIENT_OF = np.array((*range(11), 11, 11, 12, 12))
_VISIT_OF = np.array((*(0,) * 11, 0, 1, 0, 1))


def patient_and_visit(index: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the number of each record's patient, and which of the patient's visits it is (0 or 1)."""
    group, within = np.divmod(index, _RECORDS_A_GROUP)
    return group * _PATIENTS_A_GROUP + _PATIENT_OF[within], _VISIT_OF[within]


SEGMENT_SPREAD = np.array((1.7, 1.4, 1.0, 1.0, 0.8, 1.6, 0.8, 1.2))
"""How much more than others the force of a segment varies from patient to patient."""

# --- Draws -----------------------------------------------------------------------------------------------------------

PATIENT_STREAM, RECORD_STREAM, NOISE_STREAM = 1, 2, 3


def raw_words(seed: int, keys: np.ndarray, stream: int, count: int) -> np.ndarray:
    """Return ``count`` random 64-bit words (b, count) for each key; they depend on nothing but seed, key and stream."""
    generator = np.random.Philox(0)
    state: Any = generator.state
    words = np.empty((len(keys), count), np.uint64)
    for row, key in zip(words, keys.tolist(), strict=True):
        # Setting the state costs a thirtieth of making a generator.
        state["state"]["key"][:] = seed, key
        state["state"]["counter"][:] = 0, 0, 0, stream
        state["buffer_pos"] = 4
        generator.state = state
        row[:] = generator.random_raw(count)
    return words


class _Draws:
    """Hands out columns of uniform numbers in the order they are asked for."""

    def __init__(self, seed: int, keys: np.ndarray, stream: int, count: int) -> None:
        self._uniform = ((raw_words(seed, keys, stream, count) >> np.uint64(11)) + 0.5) * 2.0**-53
        self._next = 0

    def uniform(self, low: float = 0.0, high: float = 1.0, width: int | None = None) -> np.ndarray:
        """Return (b,) or (b, width) uniform numbers."""
        first, self._next = self._next, self._next + (width or 1)
        values = self._uniform[:, first : self._next]
        if values.shape[1] != (width or 1):
            raise IndexError("more draws than words")
        return low + (high - low) * (values[:, 0] if width is None else values)

    def normal(self, mean: float = 0.0, sd: float | np.ndarray = 1.0, width: int | None = None) -> np.ndarray:
        """Return (b,) or (b, width) normal numbers, none further than 3 standard deviations out."""
        return mean + sd * np.clip(ndtri(self.uniform(width=width)), -3.0, 3.0)

    def choice(self, shares: np.ndarray) -> np.ndarray:
        """Return (b,) numbers of the classes with these shares."""
        return np.minimum(np.searchsorted(np.cumsum(shares), self.uniform(), side="right"), len(shares) - 1)


# --- What is drawn ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Traits:
    """All that is drawn of b records, as arrays (b, ...); times in s, lengths in cm, potentials in mV."""

    index: np.ndarray
    patient: np.ndarray
    female: np.ndarray  # bool
    age: np.ndarray  # whole years
    days: np.ndarray  # of the recording, after the year 2000 began; with a fraction
    condition: np.ndarray  # number in CONDITIONS
    territory: np.ndarray  # number in TERRITORY_CODES, -1 without infarction
    stage: np.ndarray  # number in STAGES, -1 without infarction
    extent: np.ndarray  # share of the territory's electrical forces that is lost, 0 without infarction
    lost: np.ndarray  # (b, 8) the same for each segment
    rr_s: np.ndarray
    rr_sd: np.ndarray  # relative
    sinus_arrhythmia: np.ndarray  # relative
    pr_s: np.ndarray
    qt_s: np.ndarray
    qrs_centre_s: np.ndarray  # (b, 8) after QRS onset
    qrs_sigma_s: np.ndarray  # (b, 8)
    qrs_moment: np.ndarray  # (b, 8, 3)
    t_moment: np.ndarray  # (b, 8, 3)
    st_moment: np.ndarray  # (b, 8, 3)
    p_moment: np.ndarray  # (b, 2, 3)
    electrode_cm: np.ndarray  # (b, 9, 3) from the centre of the ventricles
    segment_cm: np.ndarray  # (b, 8, 3)
    atria_cm: np.ndarray  # (b, 2, 3)
    fibrillation_mV: np.ndarray
    breath_hz: np.ndarray
    emg_mV: np.ndarray
    wander_mV: np.ndarray
    wander_hz: np.ndarray  # (b, 4)
    mains_mV: np.ndarray
    start: np.ndarray  # where in its cycle the first beat stands, 0 to 1
    beats: np.ndarray  # (b, beats) standard normal, for the RR intervals

    def __getitem__(self, rows: slice) -> Traits:
        """Return the traits of some of the records."""
        return Traits(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def draw(index: np.ndarray, settings: SimulationSettings) -> Traits:
    """Draw the traits of records ``index`` (b,) of the population that ``settings`` describe."""
    seed, beats = settings.seed, settings.beats
    patient, visit = patient_and_visit(index)
    of_patient = _Draws(seed, patient, PATIENT_STREAM, 96)
    of_record = _Draws(seed, index, RECORD_STREAM, 192 + beats)

    infarct = of_patient.uniform() < settings.prevalence
    condition = np.where(infarct, NORM, of_patient.choice(CONDITION_SHARES))
    territory = np.where(infarct, of_patient.choice(TERRITORY_SHARES), -1)
    stage = of_patient.choice(STAGE_SHARES)
    stage = np.where(infarct, np.minimum(stage + visit, len(STAGES) - 1), -1)  # a later ECG shows an older infarction
    female = of_patient.uniform() < np.where(infarct, 0.34, 0.52)
    age = of_patient.normal()
    age = np.where(infarct, 68 + 11 * age, np.where(condition == NORM, 53 + 16 * age, 66 + 12 * age))
    days_between = of_patient.uniform(20.0, 1200.0) * visit
    days = of_patient.uniform(0.0, 365.25 * 19) + days_between
    age = np.clip(age + days_between / 365.25, 18, 95)

    # Anatomy and position: of the patient, and a little of the day
    turn = of_patient.normal(width=3) * (9.0, 11.0, 28.0)
    turn[:, 2] += np.clip((50.0 - age) * 0.45, -16.0, 14.0)  # the axis turns left with age
    turn[:, 2] -= np.where(infarct, 12.0, 0.0)
    turn[:, 2] = np.where(condition == LAFB, turn[:, 2] * 0.5 - 38.0, turn[:, 2])
    turn = turn + of_record.normal(sd=3.0, width=3)
    rotation = heart.rotations(turn)
    shift = of_patient.normal(sd=0.6, width=3) + of_record.normal(sd=0.2, width=3)
    size = np.exp(of_patient.normal(sd=0.06)) * np.where(female, 0.97, 1.0)
    misplaced = of_record.normal(sd=0.5, width=27).reshape(-1, 9, 3)
    electrode = heart.ELECTRODE_CM * size[:, None, None] + misplaced - shift[:, None, :]

    # Activation
    width = np.exp(of_patient.normal(sd=np.where(infarct, 0.12, 0.07))) * np.where(female, 0.97, 1.02)
    width = width * np.where(infarct, 1.05, 1.0)
    gain = np.exp(of_patient.normal(0.06, 0.17))[:, None] * np.exp(of_patient.normal(sd=0.25, width=8) * SEGMENT_SPREAD)
    centre = heart.QRS_CENTRE_S * width[:, None] + of_patient.normal(sd=0.0035, width=8)
    sigma = heart.QRS_SIGMA_S * width[:, None] * np.exp(of_patient.normal(sd=0.10, width=8))
    direction = heart.QRS_MOMENT + 0.20 * np.linalg.norm(heart.QRS_MOMENT, axis=1)[:, None] * of_patient.normal(
        width=24
    ).reshape(-1, 8, 3)

    # The bundle's fascicles excite both sides of the septum: a horizontal heart begins downwards, a vertical one upwards,
    # which gives rS and not QS where the axis turns away from a limb lead.
    direction[:, SEPTAL, 1] -= 0.30 * turn[:, 2]
    direction[:, SEPTAL, 0] -= 0.10 * turn[:, 2]

    # Repolarisation
    t_gain = np.exp(of_patient.normal(sd=0.28) + of_record.normal(sd=0.10))[:, None] * np.exp(
        of_patient.normal(sd=0.25, width=8)
    )
    t_gain = t_gain * np.where(female, 0.9, 1.05)[:, None]
    t_moment = heart.T_MOMENT * t_gain[:, :, None]
    st_moment = heart.ST_MOMENT * np.exp(of_patient.normal(sd=0.4))[:, None, None]
    st_moment = st_moment + 0.9 * of_record.normal(width=24).reshape(-1, 8, 3)

    def among(which: int) -> np.ndarray:
        return condition == which

    some = of_patient.uniform(width=4)
    # LVH: the left ventricle's forces grow, its repolarisation turns over (strain)
    left = np.array([0.0, 0.0, 0.5, 0.6, 1.0, 1.0, 0.7, 1.0])
    strong = np.where(infarct, np.maximum(some[:, 3] - 0.6, 0.0) * 2, 0.0)  # many with an infarction have hypertension
    grown = np.where(among(LVH), 0.35 + 0.7 * some[:, 0], strong)
    gain = gain * (1 + grown[:, None] * left)
    strain = np.where(among(LVH), 1.1 * some[:, 1] + 0.2, 0.0)[:, None] * left
    t_moment = t_moment * (1 - strain)[:, :, None]
    st_moment = st_moment - 0.10 * strain[:, :, None] * heart.T_MOMENT
    width_late = np.where(among(LVH), 1.08, 1.0)
    # Left bundle branch block: the septum fires from the right, the left ventricle late and slowly, T discordant
    lbbb, rbbb = among(CLBBB)[:, None], among(CRBBB)[:, None]
    direction[:, SEPTAL] *= np.where(lbbb, -1.3, 1.0)
    late = np.array([0.012, -0.020, 0.022, 0.035, 0.055, 0.055, 0.040, 0.050])
    centre = centre * width_late[:, None] + np.where(lbbb, late, 0.0)
    sigma = sigma * np.where(lbbb, np.array([1.6, 1.2, 1.5, 1.7, 1.7, 1.7, 1.7, 1.5]), 1.0)
    gain = gain * np.where(lbbb, np.array([1.0, 0.7, 0.35, 0.65, 1.0, 1.0, 0.8, 1.2]), 1.0)
    t_moment = t_moment * np.where(lbbb, np.array([1.2, 1.0, 0.7, -0.3, -1.2, -1.2, -0.3, -1.5]), 1.0)[:, :, None]
    st_moment = st_moment - np.where(lbbb, 0.06, 0.0)[:, :, None] * direction * gain[:, :, None] / 3
    # Right bundle branch block: the right ventricle fires last, unopposed and to the front
    rv = np.zeros(8)
    rv[RV] = 1.0
    centre = centre + np.where(rbbb, 0.062 * rv, 0.0)
    sigma = sigma * np.where(rbbb, 1 + 0.6 * rv, 1.0)
    direction[:, RV] = np.where(rbbb, 42.0 * heart.OUTWARD[RV], direction[:, RV])
    t_moment = t_moment - np.where(rbbb, 20.0, 0.0)[:, :, None] * rv[:, None] * heart.OUTWARD
    # Left anterior fascicular block: inferior first, high lateral last
    lafb = among(LAFB)[:, None]
    fascicle = np.zeros(8)
    fascicle[INFERIOR], fascicle[HIGH_LATERAL], fascicle[ANTERIOR] = -0.016, 0.016, 0.008
    centre = centre + np.where(lafb, fascicle, 0.0)
    # Non-diagnostic T abnormalities: flat or slightly inverted everywhere
    t_moment = t_moment * np.where(among(NDT), -0.2 + 0.65 * some[:, 2], 1.0)[:, None, None]
    t_moment = t_moment * np.where(among(AFIB), 0.6, 1.0)[:, None, None]

    # Infarction: segments fall silent (Q, lost R), leak current (ST) and recover late (T)
    extent = np.where(infarct, of_patient.uniform(0.40, 1.25), 0.0)
    lost = np.where(infarct[:, None], _INVOLVED[territory], 0.0) * extent[:, None]
    lost = np.clip(lost * np.where(infarct[:, None], np.exp(of_patient.normal(sd=0.15, width=8)), 1.0), 0.0, 1.3)
    acute, subacute = stage == 0, stage == 1
    lost_now = lost * np.where(acute, 0.65, 1.0)[:, None]
    qrs_moment = direction * (gain * (1 - lost_now))[:, :, None]
    turned_t = np.select([acute, subacute], [0.2, 1.6], 0.9) * np.exp(of_record.normal(sd=0.25))
    t_moment = t_moment * (1 - turned_t[:, None] * np.minimum(lost, 1.0))[:, :, None]
    # and the rest of the myocardium is often ischaemic: ST sinks, T is flat or inverted
    ischaemia = np.where(infarct, np.maximum(of_record.normal(0.22, 0.5), 0.0), 0.0)[:, None, None]
    t_moment = t_moment * (1 - ischaemia)
    st_moment = st_moment - (0.14 * ischaemia + np.where(infarct, 0.05, 0.0)[:, None, None]) * heart.T_MOMENT
    leak = np.select([acute, subacute, infarct], [13.0, 4.0, 1.5], 0.0) * np.exp(of_record.normal(sd=0.35))
    st_moment = st_moment + (leak[:, None] * lost)[:, :, None] * heart.OUTWARD

    # Rhythm
    rate = np.exp(of_record.normal(np.log(70.0), 0.17)) * np.select([among(AFIB), infarct], [1.22, 1.04], 1.0)
    rr = 60.0 / np.clip(rate, 42.0, 150.0)
    rr_sd = np.where(among(AFIB), of_record.uniform(0.14, 0.24), of_record.uniform(0.004, 0.02))
    arrhythmia = np.where(among(AFIB), 0.0, np.abs(of_record.normal(sd=0.045)) * np.clip((85 - age) / 40, 0.15, 1.4))
    pr = np.clip(of_record.normal(0.0, 0.019) + 0.160 + 0.0004 * (age - 50) + 0.02 * (rr - 0.85), 0.10, 0.30)
    fibrillation = np.where(among(AFIB), of_record.uniform(0.02, 0.09), 0.0)
    qt = 0.374 * rr ** (1 / 3) / 0.95 * np.exp(of_record.normal(sd=0.035)) + np.where(female, 0.006, -0.004)
    qt = qt + np.select([among(CLBBB), among(CRBBB), subacute], [0.045, 0.025, 0.02], 0.0)
    p_gain = np.exp(of_patient.normal(sd=0.22) + of_record.normal(sd=0.1)) * np.where(among(AFIB), 0.0, 1.0)
    p_moment = heart.P_MOMENT * p_gain[:, None, None] * (1 + of_patient.normal(sd=0.2, width=2))[:, :, None]

    # Electrodes
    emg = np.exp(of_record.normal(np.log(0.0115), 0.60))[:, None] * np.exp(of_record.normal(sd=0.35, width=9))
    wander_hz = np.concatenate([of_record.uniform(0.03, 0.45, width=3), of_record.uniform(0.18, 0.36, width=1)], axis=1)
    drift = np.exp(of_record.normal(np.log(0.021), 0.75))[:, None, None] * of_record.normal(width=72).reshape(-1, 9, 8)
    drift = drift * np.repeat(np.minimum(0.12 / wander_hz, 1.6), 2, axis=1)[:, None, :]
    mains = np.exp(of_record.normal(np.log(0.0015), 0.8))[:, None, None] * of_record.normal(width=18).reshape(-1, 9, 2)

    return Traits(
        index=index,
        patient=patient,
        female=female,
        age=np.floor(age),
        days=days,
        condition=condition,
        territory=territory,
        stage=stage,
        extent=extent,
        lost=lost,
        rr_s=rr,
        rr_sd=rr_sd,
        sinus_arrhythmia=arrhythmia,
        pr_s=pr,
        qt_s=qt,
        qrs_centre_s=centre,
        qrs_sigma_s=sigma,
        qrs_moment=heart.turned(qrs_moment, rotation),
        t_moment=heart.turned(t_moment, rotation),
        st_moment=heart.turned(st_moment, rotation),
        p_moment=heart.turned(p_moment, rotation),
        electrode_cm=electrode,
        segment_cm=heart.turned(heart.SEGMENT_CM, rotation),
        atria_cm=heart.turned(heart.ATRIA_CM, rotation),
        fibrillation_mV=fibrillation,
        breath_hz=wander_hz[:, 3],
        emg_mV=emg,
        wander_mV=drift,
        wander_hz=wander_hz,
        mains_mV=mains,
        start=of_record.uniform(),
        beats=of_record.normal(width=beats),
    )
