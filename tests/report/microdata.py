"""Made-up patients and records, and the exact tallies of them, counted with plain Python."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np

from screening.contract import LEADS, OPERATORS
from screening.report.tallies import LEADING, CountTable, Histogram, Importance, ScreenedBy, Tallies

SEXES = ("female", "male", "(unknown)")
AGES = ("18-29", "30-39", "40-49", "50-59", "60-69", "70-79", "80-89", "90 and over", "(unknown)")
REASONS = ("flat_lead", "noise", "clipped", "too_short", "missing_leads")
STATUSES = ("scored", "rejected", "not_screened", "changed")
EDGES = np.linspace(-6, 6, 25)


@dataclass(frozen=True)
class Record:
    patient: int
    sex: str
    age: str
    site: str
    device: str
    month: str
    status: str
    reason: str
    score: float
    mains: float
    flagged: bool
    leading: int  # of LEADS
    territory: int  # of LEADING["territory"]; -1: only leads were explained
    beats: bool
    flags: tuple[bool, bool]


def records_of(
    patients: int,
    *,
    seed: int,
    sites: int = 12,
    devices: int = 4,
    years: int = 5,
    prevalence: float = 0.12,
    growing: bool = False,
    few_without_territory: float = 0.0,
) -> list[Record]:
    """Return records of patients 0, 1, ...; a larger archive of the same seed begins with the same patients.

    ``growing``: patients come one after the other, so that the last ones are of the last months.
    """
    made: list[Record] = []
    share = 1 / np.arange(1, sites + 1) ** 1.3
    cumulative = np.cumsum(share / share.sum())
    for patient in range(patients):
        rng = np.random.default_rng([seed, patient])
        sex = SEXES[int(np.searchsorted([0.46, 0.99], rng.random()))]
        age = AGES[min(int(np.searchsorted([0.05, 0.12, 0.22, 0.4, 0.62, 0.85, 0.97, 0.995], rng.random())), 8)]
        site = f"site {int(np.searchsorted(cumulative, rng.random())):02d}"
        for _ in range(1 + rng.geometric(0.7) - 1):
            when = rng.random() if not growing else patient / 3000 + 0.02 * rng.random()
            month = int(min(when, 0.999) * years * 12)
            status = STATUSES[int(np.searchsorted([0.9, 0.97, 0.995], rng.random()))]
            score = float(rng.normal(-2.5, 1.5))
            flagged = bool(rng.random() < prevalence)
            made.append(
                Record(
                    patient,
                    sex,
                    age,
                    site if rng.random() < 0.95 else "site 00",
                    f"device {int(rng.integers(devices) * rng.random())}",
                    f"{2015 + month // 12}-{month % 12 + 1:02d}",
                    status,
                    REASONS[int(rng.geometric(0.5) - 1) % len(REASONS)],
                    abs(score) if flagged else -abs(score),
                    float(rng.exponential(0.02)),
                    flagged,
                    int(rng.geometric(0.3) - 1) % len(LEADS),
                    -1 if rng.random() < few_without_territory else int(rng.geometric(0.4) - 1) % 5,
                    bool(rng.random() < 0.97),
                    (bool(rng.random() < 0.1), bool(rng.random() < 0.01)),
                )
            )
    return made


def category(record: Record, dimension: str) -> str:
    if dimension == "all":
        return "all"
    if dimension == "year":
        return record.month[:4]
    if dimension == "age and sex":
        return f"{record.age}|{record.sex}"
    return str(getattr(record, dimension))


def table(
    key: str, dimension: str, cells: list[tuple[str, str]], columns: tuple[str, ...], rows: list[str]
) -> CountTable:
    count = Counter(cells)
    return CountTable(
        key,
        tuple(rows),
        columns,
        np.array([[count[row, column] for column in columns] for row in rows], dtype=np.int64).reshape(
            len(rows), len(columns)
        ),
        parents=tuple(row[:4] for row in rows) if dimension == "month" else None,
    )


def importance_of(operator: str, dimension: str, row: str, flagged: list[Record]) -> Importance:
    """Return what `distributions.importance` finds of flagged index ECGs."""
    there = [one for one in flagged if operator == "lead" or one.territory >= 0]
    there = [one for one in there if operator != "wave" or one.beats]
    first = [one.leading if operator == "lead" else one.territory for one in there]
    parts = len(OPERATORS[operator])
    leading = np.bincount(first if LEADING[operator] else [], minlength=len(LEADING[operator]))
    mean = np.full(parts, 0.123)
    return Importance(operator, dimension, row, len(there), mean, np.ones(parts), leading)


def tallies_of(records: list[Record], *, models: int = 1, patients_known: int | None = None) -> Tallies:
    """Count records as `population.py` does: the last scored record stands for its patient."""
    scored = [record for record in records if record.status == "scored"]
    index: dict[int, Record] = {}
    for record in scored:
        if record.patient not in index or record.month >= index[record.patient].month:
            index[record.patient] = record
    dimensions = ("all", "sex", "age", "site", "device", "year", "month")
    rows = {name: sorted({category(record, name) for record in records}) for name in (*dimensions, "age and sex")} | {
        "all": ["all"]
    }
    flags = tuple(f"{what} {i}" for i in range(models) for what in ("flagged", "unflagged"))

    def flag(record: Record) -> str:
        return f"{'flagged' if record.flagged else 'unflagged'} {record.patient % models}"

    patients: dict[str, CountTable] = {}
    for name in (*dimensions, "age and sex"):
        chosen = list(index.values())
        if name in ("year", "month"):
            within: dict[tuple[int, str], Record] = {}
            for record in scored:
                once = (record.patient, category(record, name))
                if once not in within or record.month >= within[once].month:
                    within[once] = record
            chosen = list(within.values())
        patients[name] = table(
            f"patients by {name}", name, [(category(one, name), flag(one)) for one in chosen], flags, rows[name]
        )
    states = Counter(record.status for record in records)
    scores = tuple(
        Histogram(EDGES, np.histogram([one.score for one in index.values() if one.patient % models == i], EDGES)[0])
        for i in range(models)
    )
    importance = []
    for name in ("all", "sex", "site"):
        for row in rows[name]:
            there = [one for one in index.values() if one.flagged and category(one, name) == row]
            importance += [importance_of(operator, name, row, there) for operator in LEADING]
    everyone = {record.patient for record in records}
    return Tallies(
        models=tuple(ScreenedBy("m", str(i), f"{i:064x}", (f"run{i}",)) for i in range(models)),
        flow={
            "catalogued": len(records) + 40,
            "outside_period": 40,
            **{name: states[name] for name in STATUSES},
            "duplicates": 0,
            "repeats": len(scored) - len(index),
            "index": len(index),
            "patients_catalogued": len(everyone),
            "patients_with_score": len(index),
            "patients_without_score": len(everyone) - len(index),
            "undated": 0,
            "future_dated": 0,
            "without_patient_key": 3,
            "forgotten": 0,
            "gone": 2,
            "seen_in_training": 0,
        },
        records={
            name: table(
                f"records by {name}", name, [(category(r, name), r.status) for r in records], STATUSES, rows[name]
            )
            for name in dimensions
        },
        reasons={
            name: table(
                f"reasons by {name}",
                name,
                [(category(r, name), r.reason) for r in records if r.status == "rejected"],
                REASONS,
                rows[name],
            )
            for name in dimensions
        },
        patients=patients,
        quality_flags=CountTable(
            "quality flags",
            ("mains", "baseline"),
            ("with", "without"),
            np.array([[sum(r.flags[i] for r in scored), sum(not r.flags[i] for r in scored)] for i in (0, 1)]),
            partition=False,
        ),
        scores=scores,
        features={
            "mains_mV": {
                f"run{i}": Histogram(
                    np.linspace(0, 0.3, 31),
                    np.histogram(
                        [min(r.mains, 0.29) for r in scored if r.patient % models == i], np.linspace(0, 0.3, 31)
                    )[0],
                )
                for i in range(models)
            }
        },
        importance=tuple(importance),
        first_acquired="2015-01",
        last_acquired="2019-12",
    )
