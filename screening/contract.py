"""The contract between archive, network and results: leads, units, reasons, columns. One place.

What changes a score (lead order, units, the preprocessing settings of a bundle) is hashed into every row as
``input_contract_sha256``; reasons and columns carry ``RESULT_SCHEMA_VERSION`` instead.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

RESULT_SCHEMA_VERSION = 2
NOTICE = "Retrospective research software. Not a medical device; no result is a diagnosis."

# --- Leads -----------------------------------------------------------------------------------------------------------

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
N_LEADS = len(LEADS)
INDEPENDENT_LEADS = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
"""The eight leads an electrocardiograph measures; the other four follow from I and II (Einthoven, Goldberger)."""
INDEPENDENT_ROWS = tuple(LEADS.index(lead) for lead in INDEPENDENT_LEADS)

DERIVED_LEADS: dict[str, tuple[float, float]] = {
    "III": (-1.0, 1.0),
    "aVR": (-0.5, -0.5),
    "aVL": (1.0, -0.5),
    "aVF": (-0.5, 1.0),
}
"""Lead -> its weights on (I, II)."""

# --- Explanations ----------------------------------------------------------------------------------------------------

TERRITORIES = ("septal", "anterior", "lateral", "inferior")
"""Walls of the left ventricle; which leads look at them stands in attribution/territories.py."""
WAVES = ("P", "QRS", "ST", "T")

OPERATORS: dict[str, tuple[str, ...]] = {
    "lead": LEADS,
    "independent": INDEPENDENT_LEADS,
    "territory": TERRITORIES,
    "plane": ("limb", "precordial"),
    "wave": tuple(f"{wave}_{wall}" for wave in WAVES for wall in TERRITORIES),
}
"""How a part of an ECG is exchanged for a donor's -> the parts. What each does stands in attribution/operators.py."""

PREFIX_OF = {operator: "importance" if operator == "lead" else operator for operator in OPERATORS}
"""Operator -> what the names of its result columns begin with."""


def importance_column(operator: str, part: str) -> str:
    """Return the name of the result column that holds the importance of a part.

    >>> importance_column("lead", "V2"), importance_column("wave", "QRS_inferior")
    ('importance_V2', 'wave_QRS_inferior')
    """
    return f"{PREFIX_OF[operator]}_{part}"


_LEAD_BY_NAME = {lead.lower(): lead for lead in LEADS}
# MDC_ECG_* is ISO/IEEE 11073-10102, and MINDRAY_ECG_* a maker's like it; ML* are the Mason-Likar (torso electrode) names of
# the limb leads, D* (derivação, derivación, dérivation) those of Romance languages, as in CODE-15%.
_LEAD_PREFIX = re.compile(
    r"^(?:(?:mdc|mindray)_ecg_(?:lead_|elec_potl_)?|(?:e[ck]g[\s_:-]*)?lead|e[ck]g|ml(?=i)|d(?=i+$))[\s_:-]*",
    re.IGNORECASE,
)
_LEAD_SUFFIX = re.compile(
    r"(?:[\s_-]+ref|\s*[(\[]\s*[mun\N{MICRO SIGN}\N{GREEK SMALL LETTER MU}]?v\s*[)\]])$", re.IGNORECASE
)
"""What a lead is measured against, or its unit, which stands elsewhere."""
_IEC = {f"c{at}": f"V{at}" for at in range(1, 7)}


def lead_of(name: str) -> str | None:
    """Return the lead a signal's name means, or None if it is not one of the twelve.

    IEC 60601-2-25 calls the chest leads C1 to C6. Alone these are also sites of an EEG, which polysomnograms hold beside an
    ECG: they count where the name itself says that it is of an ECG, or where a file has all six (see `iec_chest_leads`).

    >>> lead_of("AVR"), lead_of("ECG Lead I"), lead_of("MDC_ECG_LEAD_V3"), lead_of("EKG I (mV)"), lead_of("vx")
    ('aVR', 'I', 'V3', 'I', None)
    >>> lead_of("ECG C2"), lead_of("C2")
    ('V2', None)
    """
    if (lead := _LEAD_BY_NAME.get(name.lower())) is not None:
        return lead
    whole = name.strip()
    key = _LEAD_SUFFIX.sub("", whole)
    bare = _LEAD_PREFIX.sub("", key).strip().lower()
    return _LEAD_BY_NAME.get(bare) or (_IEC.get(bare) if len(bare) < len(key) else None)


def iec_chest_leads(names: Sequence[str]) -> dict[str, str]:
    """Return name -> lead of C1 to C6 where all six are there and no chest lead by another name; nothing otherwise.

    >>> iec_chest_leads(["I", "II", "C1", "C2", "C3", "C4", "C5", "C6"])["C2"], iec_chest_leads(["C3", "C4", "V3"])
    ('V2', {})
    """
    found = {name: _IEC[name.strip().lower()] for name in names if name.strip().lower() in _IEC}
    others = any((lead_of(name) or "").startswith("V") for name in names)
    return found if len(set(found.values())) == len(_IEC) and not others else {}


# --- Units -----------------------------------------------------------------------------------------------------------

_VOLTAGE = re.compile(r"(milli|micro|nano|[mun\N{MICRO SIGN}\N{GREEK SMALL LETTER MU}]?)v(?:olts?)?")
_MV_PER_PREFIX = {"": 1e3, "m": 1.0, "n": 1e-6}  # all others are micro


def mV_per_unit(unit: str) -> float | None:
    """Return how many millivolts one ``unit`` is, or None where the unit is not one of voltage.

    >>> mV_per_unit("mV"), mV_per_unit("Micro Volts"), mV_per_unit("mmHg")
    (1.0, 0.001, None)
    """
    found = _VOLTAGE.fullmatch("".join(unit.lower().split()))
    if found is None:
        return None
    prefix = found[1].removesuffix("illi").removesuffix("ano")
    return _MV_PER_PREFIX.get(prefix, 1e-3)


# --- Limits that hold before anything is allocated -------------------------------------------------------------------

MAX_RECORD_BYTES = 64 * 2**20
"""Largest record read (all its files together): a 12-lead Holter hour at 500 Hz and 16 bit is 43 MB."""
MAX_SAMPLES = MAX_RECORD_BYTES // 2
"""Most samples a record may claim, all signals together: one of the largest size at 16 bits."""
MAX_HEADER_BYTES = 2**20
MAX_SIGNALS = 256
RATE_LIMITS_HZ = (50.0, 20_000.0)
"""Below 50 Hz nothing of a QRS is left; 20 kHz is above any electrocardiograph."""

# --- Outcomes --------------------------------------------------------------------------------------------------------


class Status(StrEnum):
    """What became of a planned record."""

    SCORED = "scored"
    REJECTED = "rejected"


class Reason(StrEnum):
    """Why a record was not scored. Closed: each is a property of the record's bytes, never of the machine."""

    MISSING_FILE = "missing_file"
    EMPTY_FILE = "empty_file"
    UNSAFE_PATH = "unsafe_path"
    CHANGED = "changed"
    TOO_LARGE = "too_large"
    UNKNOWN_FORMAT = "unknown_format"
    BAD_HEADER = "bad_header"
    TRUNCATED = "truncated"
    CHECKSUM_MISMATCH = "checksum_mismatch"
    UNDECODABLE = "undecodable"
    MISSING_RATE = "missing_rate"
    CONFLICTING_RATES = "conflicting_rates"
    MISSING_UNITS = "missing_units"
    MISSING_LEADS = "missing_leads"
    DUPLICATE_LEAD = "duplicate_lead"
    TOO_SHORT = "too_short"
    MISSING_SAMPLES = "missing_samples"
    FLAT_LEAD = "flat_lead"
    CLIPPED = "clipped"
    IMPLAUSIBLE_AMPLITUDE = "implausible_amplitude"
    INCONSISTENT_LIMB_LEADS = "inconsistent_limb_leads"
    NOISE = "noise"


REASONS: dict[Reason, str] = {
    Reason.MISSING_FILE: "a file of the record is not in the archive, or may not be read by this account",
    Reason.EMPTY_FILE: "a file of the record holds no bytes",
    Reason.UNSAFE_PATH: "the header names a file outside the record's own folder",
    Reason.CHANGED: "a file of the record is another than when it was catalogued; `screening catalog` takes up the new one",
    Reason.TOO_LARGE: "the record is larger, or claims to be larger, or takes more time or memory than the limits allow",
    Reason.UNKNOWN_FORMAT: "no reader knows this file or its storage format",
    Reason.BAD_HEADER: "the header cannot be understood or contradicts itself",
    Reason.TRUNCATED: "the file holds fewer samples than its header claims",
    Reason.CHECKSUM_MISMATCH: "the samples do not add up to the checksum in the header",
    Reason.UNDECODABLE: "the decoder failed on these bytes",
    Reason.MISSING_RATE: "no usable sampling rate is stated",
    Reason.CONFLICTING_RATES: "the leads are sampled at different rates",
    Reason.MISSING_UNITS: "no calibration to millivolts is stated, or its unit is not one of voltage",
    Reason.MISSING_LEADS: "fewer than the eight independent leads I, II, V1-V6 are present",
    Reason.DUPLICATE_LEAD: "one lead is present twice with different samples",
    Reason.TOO_SHORT: "the recording is shorter than the model's shortest window",
    Reason.MISSING_SAMPLES: "too many samples are missing or not a number",
    Reason.FLAT_LEAD: "a lead shows no signal",
    Reason.CLIPPED: "a lead stands at the limits of its range for too long",
    Reason.IMPLAUSIBLE_AMPLITUDE: "the amplitude cannot be that of a surface ECG; the unit is probably wrong",
    Reason.INCONSISTENT_LIMB_LEADS: "the limb leads contradict Einthoven's law, so leads are mislabelled or damaged",
    Reason.NOISE: "noise hides the ECG",
}
"""One-line meaning of every reason, as shown by ``screening failures``."""

# --- Signal quality --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class QualityLimits:
    """Beyond these a record is rejected (``max_``, ``min_``) or flagged (``flag_``).

    In brackets what PTB-XL folds 1-8 show: the 99.9th percentile and the most extreme record.
    """

    max_missing_fraction: float = 0.05  # (0, 0) half a second may hide one beat, not more
    max_flat_fraction: float = 0.5  # (0.04, 0.72: an electrode off)
    min_lead_amplitude_mV: float = 0.03  # (0.13 at the 0.1st percentile, 0.10)
    max_clipped_fraction: float = 0.1  # (0.01, 0.01)
    min_amplitude_mV: float = 0.15  # (0.93 at the 0.1st percentile, 0.83) read 1000 times too small: below 0.02
    max_amplitude_mV: float = 15.0  # (7.4, 12.4) read 1000 times too large: above 800
    # IEC 60601-2-25 allows an amplitude error of 5% or 40 uV, so that half the limb leads' size is no amplifier's fault.
    max_einthoven_mV: float = 0.05  # (0.0003, 0.0003) and, together with it,
    max_einthoven_share: float = 0.5  # of the limb leads' root mean square
    max_noise_mV: float = 0.3  # (0.066, 0.11)

    flag_flat_fraction: float = 0.1  # (0.04, 0.72)
    flag_clipped_fraction: float = 0.02  # (0.013, 0.014)
    flag_einthoven_mV: float = 0.04  # (0.0003, 0.0003) the error that IEC 60601-2-25 allows
    flag_mains_mV: float = 0.03  # (0.025, 0.034)
    flag_baseline_mV: float = 0.9  # (2.4, 3.2) its 99th percentile
    flag_noise_mV: float = 0.05  # (0.066, 0.11) its 99.5th percentile
    flag_amplitude_mV: float = 8.0  # (7.4, 12.4)
    # (-0.35 at the 0.1st percentile) with arms swapped 98% of PTB-XL are below it, of folds 1-8 as of fold 9
    flag_reversal: float = -0.4
    flag_identical: float = 0.9999  # correlation of two chest leads


QUALITY_LIMITS = QualityLimits()

# --- Catalog columns -------------------------------------------------------------------------------------------------

CATALOG_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("record_id", "string", "keyed pseudonym of the path, or with --deidentified the path without suffix"),
    ("format", "string", "container found in the archive, e.g. wfdb"),
    ("bytes", "int64", "size of the record's files together"),
    ("version", "string", "changes when a file of the record changes: from etag, or size and mtime"),
    ("patient_key", "string", "keyed pseudonym of the patient, null where the archive names none"),
    ("acquired_at", "timestamp[us]", "when the ECG was recorded, as the archive states it"),
    ("age", "float32", "years; 90 stands for 90 and over"),
    ("sex", "string", "female, male or null"),
    ("site", "string", "as the archive states it"),
    ("device", "string", "as the archive states it"),
    ("rate_hz", "float32", "sampling rate that the file states, null where only a table was read"),
    ("duration_s", "float32", "length that the file states, null where only a table was read"),
    ("qrs_ms", "float32", "QRS duration that the machine measured"),
    ("paced", "bool", "a pacemaker is at work, by the machine or a statement; null where the archive is silent"),
    ("lbbb", "bool", "left bundle branch block by a statement; null where there is no statement"),
    ("wpw", "bool", "ventricular pre-excitation by a statement; null where there is no statement"),
    ("labels", "list<string>", "the archive's statement codes that the label rule lets count"),
    ("label", "string", "MI, NORM or other by the label rule; null where the archive says nothing"),
    ("fold", "int16", "the archive's own fold, null where it has none"),
)
"""(name, Arrow type, meaning) of every column of a catalog, in order."""

CARRIED_COLUMNS = (
    "record_id",
    "patient_key",
    "acquired_at",
    "age",
    "sex",
    "site",
    "device",
    "qrs_ms",
    "paced",
    "lbbb",
    "wpw",
)
"""Columns that go from the catalog into the results as they are."""

GAINED_COLUMNS = frozenset({"qrs_ms", "paced", "lbbb", "wpw", "tracing_hash"})
"""Columns that results of the present version have gained: runs of earlier releases do not have them."""

# --- Result columns --------------------------------------------------------------------------------------------------

QUALITY_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("duration_s", "float32", "length of the recording"),
    ("source_rate_hz", "float32", "sampling rate of the recording"),
    ("missing_fraction", "float32", "share of samples missing, in the worst lead"),
    ("flat_fraction", "float32", "share of time without change, in the worst lead"),
    ("clipped_fraction", "float32", "share of time at the limits of the range, in the worst lead"),
    ("amplitude_mV", "float32", "robust peak-to-peak amplitude of the largest lead"),
    ("einthoven_mV", "float32", "largest root mean square residual of the limb-lead identities"),
    ("mains_mV", "float32", "root mean square at 50 or 60 Hz, in the worst lead"),
    ("baseline_mV", "float32", "root mean square below 0.5 Hz, in the worst lead"),
    ("noise_mV", "float32", "root mean square above 40 Hz without mains, in the worst lead"),
    ("quality_flags", "string", "comma-separated names of what is doubtful, empty if nothing"),
)

_MEANING = {
    "lead": "mean fall of the logit when {} alone is taken from a donor",
    "independent": "mean fall of the logit when {} is taken from a donor and the derived leads follow",
    "territory": "share of the {} territory in the mean fall of the logit when all is taken from a donor (Shapley value)",
    "plane": "share of the {} leads in the mean fall of the logit when all is taken from a donor (Shapley value)",
    "wave": "mean fall of the logit when this wave, in this territory, is taken from a donor",
}


def _explanation_columns() -> tuple[tuple[str, str, str], ...]:
    columns: list[tuple[str, str, str]] = []
    for operator, parts in OPERATORS.items():
        prefix = PREFIX_OF[operator]
        for part in parts:
            columns.append((importance_column(operator, part), "float32", _MEANING[operator].format(part)))
        if operator == "territory":
            columns += [(f"territory_se_{wall}", "float32", "standard error of it over donors") for wall in TERRITORIES]
        else:
            columns.append((f"{prefix}_se", "float32", "standard error of these over donors, mean over them"))
        columns.append((f"{prefix}_donors", "int16", "donors used for these"))
    columns += [
        ("leading_territory", "string", "territory of greatest importance; null where none is above zero"),
        ("findings", "string", "what of infarction the waves show, by territory, with the amplitudes that support it"),
    ]
    return tuple(columns)


EXPLANATION_COLUMNS = _explanation_columns()

RESULT_COLUMNS: tuple[tuple[str, str, str], ...] = (
    ("record_id", "string", "keyed pseudonym, or the path without suffix in a catalog made with --deidentified"),
    ("patient_key", "string", "keyed pseudonym of the patient"),
    ("acquired_at", "timestamp[us]", "when the ECG was recorded, as the archive states it"),
    ("age", "float32", "years; 90 stands for 90 and over"),
    ("sex", "string", "female, male or null"),
    ("site", "string", "as the archive states it"),
    ("device", "string", "as the archive states it"),
    ("qrs_ms", "float32", "QRS duration that the machine measured"),
    ("paced", "bool", "a pacemaker is at work, as the archive states it"),
    ("lbbb", "bool", "left bundle branch block, as the archive states it"),
    ("wpw", "bool", "ventricular pre-excitation, as the archive states it"),
    ("status", "string", "scored or rejected"),
    ("reason", "string", "why rejected; see `screening failures`"),
    ("detail", "string", "what exactly was wrong; never a path, a name or a date"),
    ("logit", "float32", "the network's output before calibration"),
    ("probability", "float32", "calibrated, at the bundle's calibration_prevalence"),
    ("flagged", "bool", "probability at or above the bundle's threshold"),
    *EXPLANATION_COLUMNS,
    *QUALITY_COLUMNS,
    ("record_sha256", "string", "of the record's source bytes"),
    ("tracing_hash", "string", "alike where the tracing is the same, whatever the format; see signal/tracing.py"),
    ("source_format", "string", "storage format read"),
    ("unit_source", "string", "what in the file gave millivolts"),
    ("model_name", "string", ""),
    ("model_version", "string", ""),
    ("bundle_sha256", "string", "the exact bundle that scored the row"),
    ("input_contract_sha256", "string", "leads, units and preprocessing that the score rests on"),
    ("run_id", "string", ""),
)
"""(name, Arrow type, meaning) of every column of a results file, in order."""


def result_schema() -> pa.Schema:
    """Return the Arrow schema of a results file: plain scalars only, so that every reader shows them bare."""
    import pyarrow as pa

    return pa.schema([pa.field(name, pa.type_for_alias(kind)) for name, kind, _ in RESULT_COLUMNS])


# --- Hashing ---------------------------------------------------------------------------------------------------------


def canonical_json(value: Any) -> bytes:
    """Return ``value`` as JSON with one possible spelling, for hashing."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False).encode()


def sha256_of(value: Any) -> str:
    """Return the SHA-256 of ``value``'s canonical JSON."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def input_contract(preprocessing: dict[str, Any]) -> dict[str, Any]:
    """Return everything that turns a recording's bytes into the network's input, to be stored in the bundle."""
    return {"leads": list(LEADS), "unit": "mV", "preprocessing": preprocessing}
