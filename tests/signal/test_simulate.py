"""The simulator: exact identities, bytes that depend on (seed, index) alone, known infarctions, declared realism."""

from __future__ import annotations

import ast
import csv
import json
import warnings
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from screening.archive.build import build_catalog
from screening.archive.labels import PTBXL_MI
from screening.contract import DERIVED_LEADS, LEADS
from screening.errors import UserError
from screening.signal import heart
from screening.signal.population import TERRITORY_CODES
from screening.signal.simulate import SimulatedBatch, SimulationSettings, record_path, simulate, write_archive
from tests.studies import realism

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of wfdb's own, raised while it is imported
    import wfdb

SETTINGS = SimulationSettings(records=1500, prevalence=0.4, seed=11)


@pytest.fixture(scope="module")
def batch() -> SimulatedBatch:
    return simulate(range(400), SETTINGS)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("simulated") / "archive"
    write_archive(folder, replace(SETTINGS, records=120))
    return folder


def units(batch: SimulatedBatch) -> dict[str, np.ndarray]:
    whole = np.rint(batch.signal_mV.astype(float) * 1000).astype(int)
    assert np.abs(whole - batch.signal_mV.astype(float) * 1000).max() < 1e-3
    return {lead: whole[:, row] for row, lead in enumerate(LEADS)}


# --- Physics ---------------------------------------------------------------------------------------------------------


def test_limb_lead_identities_hold_exactly_in_whole_microvolts(batch: SimulatedBatch) -> None:
    x = units(batch)
    for lead, (one, two) in DERIVED_LEADS.items():
        assert np.array_equal(2 * x[lead], round(2 * one) * x["I"] + round(2 * two) * x["II"]), lead
    assert not (x["aVR"] + x["aVL"] + x["aVF"]).any()


def test_potential_of_a_dipole_is_that_of_two_opposite_charges() -> None:
    rng = np.random.default_rng(0)
    electrode, place, moment = rng.normal(0, 10, (1, 9, 3)), rng.normal(0, 2, (1, 4, 3)), rng.normal(0, 5, (1, 4, 3))
    half = 1e-4 * moment / 2
    away, near = (np.linalg.norm(electrode[0, :, None] - (place + sign * half)[0], axis=-1) for sign in (-1, 1))
    assert heart.potentials(electrode, place, moment)[0] == pytest.approx((1 / near - 1 / away) / 1e-4, rel=1e-5)


def test_rotations_keep_lengths_and_turn_the_axis_as_said() -> None:
    turn = heart.rotations(np.array([[0.0, 0.0, 30.0], [10.0, -20.0, 40.0]]))
    assert turn @ turn.transpose(0, 2, 1) == pytest.approx(np.broadcast_to(np.eye(3), (2, 3, 3)))
    # x points left and y down: a turn about z by 30 degrees moves a leftward force 30 degrees clockwise, to axis +30
    assert heart.turned(np.array([[1.0, 0.0, 0.0]]), turn)[0, 0] == pytest.approx((np.cos(np.pi / 6), 0.5, 0.0))


def test_signals_have_more_than_the_rank_of_one_dipole() -> None:
    quiet = simulate(range(20), replace(SETTINGS, noise=0.0))
    independent = quiet.signal_mV[:, [0, 1, 6, 7, 8, 9, 10, 11]]
    singular = np.linalg.svd(independent, compute_uv=False)
    assert (singular[:, 3] > 0.02 * singular[:, 0]).mean() > 0.9
    assert (singular[:, 4] > 50 * 0.001).all()  # far above rounding


# --- Determinism -----------------------------------------------------------------------------------------------------


def test_a_record_is_the_same_alone_in_any_chunk_and_any_order(batch: SimulatedBatch) -> None:
    for index in (range(100, 201), range(7, 8), np.array([399, 3, 250])):
        part = simulate(index, SETTINGS)
        assert part.signal_mV.tobytes() == batch.signal_mV[np.asarray(index)].tobytes()
        assert part.truth == [batch.truth[i] for i in index]


def test_a_record_depends_on_the_seed_and_not_on_how_many_there_are(batch: SimulatedBatch) -> None:
    same = simulate(range(5), replace(SETTINGS, records=5))
    other = simulate(range(5), replace(SETTINGS, seed=12))
    assert same.signal_mV.tobytes() == batch.signal_mV[:5].tobytes()
    assert all((a != b).any() for a, b in zip(other.signal_mV, batch.signal_mV[:5], strict=True))


def test_archive_is_byte_identical_with_more_processes_and_after_a_crash(tmp_path: Path) -> None:
    settings = SimulationSettings(records=1010, prevalence=0.2, seed=3, seconds=2)
    write_archive(tmp_path / "one", settings, processes=1)
    write_archive(tmp_path / "two", settings, processes=2)
    crashed = tmp_path / "crashed"
    with pytest.raises(KeyboardInterrupt):
        write_archive(crashed, settings, progress=interrupt)
    assert not (crashed / "ptbxl_database.csv").exists()
    next(crashed.rglob("*.dat")).write_bytes(b"half")
    write_archive(crashed, settings)
    one, two, again = (contents(tmp_path / name) for name in ("one", "two", "crashed"))
    assert len(one) == 2 * 1010 + 5
    assert one == two == again


def interrupt(_: int) -> None:
    raise KeyboardInterrupt


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- Truth -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prevalence", [0.0, 0.1, 1.0])
def test_prevalence_is_as_asked(prevalence: float) -> None:
    truth = simulate(range(1500), replace(SETTINGS, prevalence=prevalence, seconds=1, noise=0.0)).truth
    first = {t.patient_id: t.territory is not None for t in reversed(truth)}
    error = np.sqrt(prevalence * (1 - prevalence) / len(first))
    assert abs(np.mean(list(first.values())) - prevalence) <= 3 * error


def test_patients_keep_sex_infarction_and_order_of_their_ecgs(batch: SimulatedBatch) -> None:
    of_patient = defaultdict(list)
    for truth in batch.truth:
        of_patient[truth.patient_id].append(truth)
    several = [visits for visits in of_patient.values() if len(visits) > 1]
    assert 0.1 < len(several) / len(of_patient) < 0.2
    for first, second in several:
        assert (first.sex, first.territory, first.condition) == (second.sex, second.territory, second.condition)
        assert first.acquired_at < second.acquired_at
        assert first.age <= second.age


def beats_of(batch: SimulatedBatch) -> list[dict[str, float]]:
    return [realism.measure(signal.astype(float)) for signal in batch.signal_mV]


@pytest.fixture(scope="module")
def measured() -> dict[str, dict[str, np.ndarray]]:
    """Return the measures of each territory and of NORM, without noise."""
    batch = simulate(range(500), replace(SETTINGS, prevalence=0.8, rate_hz=realism.RATE_HZ, noise=0.0))
    groups = defaultdict(list)
    for truth, row in zip(batch.truth, beats_of(batch), strict=True):
        groups[truth.territory or truth.condition].append(row)
    return {
        group: {name: np.array([row.get(name, np.nan) for row in rows]) for name in rows[0]}
        for group, rows in groups.items()
    }


@pytest.mark.parametrize(
    ("territory", "leads"),
    [
        ("ASMI", ("V1", "V2", "V3")),
        ("AMI", ("V2", "V3")),
        ("ALMI", ("V3", "V4")),
        ("IMI", ("III", "aVF")),
        ("ILMI", ("III", "aVF")),
        ("LMI", ("aVL",)),
    ],
)
def test_infarction_takes_r_and_brings_q_in_its_leads(measured: dict, territory: str, leads: tuple[str, ...]) -> None:
    mi, norm = measured[territory], measured["NORM"]
    for lead in leads:
        share = [np.mean(group[f"q_{lead}_mV"] > group[f"r_{lead}_mV"] / 3) for group in (mi, norm)]
        assert share[0] > share[1] + 0.2, f"Q in {lead}: {share}"
        assert np.median(mi[f"r_{lead}_mV"]) < 0.75 * np.median(norm[f"r_{lead}_mV"])


def test_acute_infarction_lifts_st_over_itself_only() -> None:
    settings = replace(SETTINGS, prevalence=1.0, rate_hz=realism.RATE_HZ, noise=0.0)
    batch = simulate(range(600), settings)
    st = defaultdict(list)
    for truth, signal in zip(batch.truth, batch.signal_mV, strict=True):
        if truth.stage != "Stadium II" and truth.territory in ("ASMI", "IMI"):
            row = realism.measure(signal.astype(float))
            st[truth.territory, truth.stage].append([row["st_V2_mV"], row["st_aVF_mV"]])
    median = {key: np.median(rows, axis=0) for key, rows in st.items()}
    assert median["ASMI", "Stadium I"][0] > median["ASMI", "Stadium III"][0] + 0.1
    assert median["IMI", "Stadium I"][1] > median["IMI", "Stadium III"][1] + 0.05
    assert median["IMI", "Stadium I"][0] < median["IMI", "Stadium III"][0]  # reciprocal depression


def test_truth_agrees_with_the_signal(batch: SimulatedBatch) -> None:
    quiet = simulate(range(150), replace(SETTINGS, rate_hz=realism.RATE_HZ, noise=0.0))
    rows = beats_of(quiet)
    regular = [(t, r) for t, r in zip(quiet.truth, rows, strict=True) if t.condition != "AFIB" and r]
    rate = [abs(r["heart_rate_bpm"] / t.heart_rate_bpm - 1) for t, r in regular]
    assert np.percentile(rate, 95) < 0.10
    for name in ("qt_ms", "qrs_ms"):
        assert np.corrcoef([getattr(t, name) for t, _ in regular], [r[name] for _, r in regular])[0, 1] > 0.6, name


# --- Archives --------------------------------------------------------------------------------------------------------


def test_wfdb_reads_the_samples_that_were_simulated(archive: Path) -> None:
    expected = simulate(range(120), SETTINGS).signal_mV
    for index in (0, 60, 119):
        record = wfdb.rdrecord(str(archive / record_path(index)), physical=False)
        assert record.sig_name == list(LEADS)
        assert (record.fs, record.fmt, record.units) == (100, ["16"] * 12, ["mV"] * 12)
        assert np.array_equal(record.d_signal.T, np.rint(expected[index] * 1000))
        assert record.checksum == [int(x) & 0xFFFF for x in record.d_signal.sum(axis=0, dtype=np.int64)]
        assert record.init_value == record.d_signal[0].tolist()


def test_metadata_table_has_the_truth_in_ptbxl_terms(archive: Path) -> None:
    with (archive / "ptbxl_database.csv").open() as file:
        rows = list(csv.DictReader(file))
    truth = simulate(range(120), replace(SETTINGS, seconds=1)).truth
    assert (archive / "RECORDS").read_text().split() == [row["filename_hr"] for row in rows]
    for row, known in zip(rows, truth, strict=True):
        codes = ast.literal_eval(row["scp_codes"])
        assert {code for code in codes if code in TERRITORY_CODES} == ({known.territory} - {None})
        assert (row["infarction_stadium1"] or None) == known.stage
        assert row["sex"] == {"male": "0", "female": "1"}[known.sex]
        assert (archive / f"{row['filename_hr']}.dat").stat().st_size == 24_000
    folds = defaultdict(set)
    for row in rows:
        folds[row["patient_id"]].add(row["strat_fold"])
    assert all(len(of_patient) == 1 for of_patient in folds.values())


def test_catalog_takes_the_archive_and_finds_its_labels(archive: Path, tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    build_catalog(str(archive), str(tmp_path / "catalog"), labels=PTBXL_MI, deidentified=True)
    rows = pq.read_table(tmp_path / "catalog" / "catalog.parquet").to_pylist()
    label = {record_path(t.index): t for t in simulate(range(120), replace(SETTINGS, seconds=1)).truth}
    assert len(rows) == 120
    for row in rows:
        known = label[row["record_id"]]
        expected = "MI" if known.territory else "NORM" if known.condition == "NORM" else "other"
        assert (row["label"], row["sex"], row["age"]) == (expected, known.sex, min(known.age, 90))
        assert row["acquired_at"] == known.acquired_at


def test_folder_with_something_else_is_refused(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"is not empty; name a new or an empty folder"):
        write_archive(tmp_path, SETTINGS)
    with pytest.raises(UserError, match="holds this simulation, finished"):
        write_archive(archive, replace(SETTINGS, records=120))
    with pytest.raises(UserError, match="holds a simulation of other settings"):
        write_archive(archive, SETTINGS)
    with pytest.raises(UserError, match="cannot use 'nowhere://x'"):
        write_archive("nowhere://x", SETTINGS)


def test_archive_goes_to_any_file_system() -> None:
    import fsspec

    write_archive("memory://simulated", replace(SETTINGS, records=3))
    fs = fsspec.filesystem("memory")
    assert fs.cat("/simulated/records/00000/00000003.hea").splitlines()[0] == b"00000003 12 100 1000"
    fs.rm("/simulated", recursive=True)


@pytest.mark.parametrize(("name", "value"), [("records", 0), ("prevalence", 1.5), ("rate_hz", 10), ("seed", -1)])
def test_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} must lie between"):
        replace(SETTINGS, **{name: value})


# --- Realism ---------------------------------------------------------------------------------------------------------

NOT_MET = {
    "MI q_V5_mV": "spread 0.34 of the real one",
    "MI s_aVL_mV": "spread 0.49 of the real one",
    "MI s_aVR_mV": "spread 0.10 of the real one",
    "MI t_aVF_mV": "median 0.0339 outside 0.0405 to 0.157",
    "NORM q_V2_mV": "spread 4.72 of the real one",
    "NORM q_V4_mV": "spread 0.40 of the real one",
    "NORM q_aVF_mV": "spread 2.69 of the real one",
    "NORM s_aVL_mV": "spread 0.43 of the real one",
}
"""Measures out of the bounds declared beforehand, with the figures when last tuned; the bounds are not widened.

Other seeds leave 9 to 11 of the 136 out: of 600 simulated ECGs a spread near a bound may fall on either side. What stays
out is how much small Q waves (V2, V4, V5, aVF) and S in aVL and aVR vary.
"""


def test_distributions_lie_within_the_bounds_declared_beforehand() -> None:
    real = json.loads(realism.BOUNDS.read_text())["groups"]
    wrong = realism.outside(realism.percentiles(realism.simulated_ecgs(600, seed=1)), real)
    assert sum(len(measures) - 1 for measures in real.values()) == 136
    assert wrong.keys() == NOT_MET.keys(), {
        name: wrong.get(name, "met now: strike it out") for name in wrong.keys() ^ NOT_MET.keys()
    }
