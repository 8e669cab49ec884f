"""Simulated 12-lead ECGs with known infarctions, and archives of them.

They test the whole chain from archive to report against a known truth. No network is ever trained on them.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import multiprocessing
import os
import posixpath
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import numpy as np
from fsspec.implementations.local import LocalFileSystem

from screening.archive.wfdb_writer import header_of
from screening.contract import LEADS
from screening.errors import UserError
from screening.signal import heart
from screening.signal.population import CONDITIONS, STAGES, TERRITORY_CODES, SimulationSettings, Traits, draw
from screening.signal.synthesis import UNITS_PER_MV, digitised
from screening.storage import Folder, open_filesystem

__all__ = ["ArchiveSummary", "SimulatedBatch", "SimulationSettings", "Truth", "simulate", "write_archive"]

RECORDS_A_FOLDER = 1000
_RECORDS_A_BATCH = 50  # more do not run faster, and fewer stay in the processor's cache
_WORTH_PROCESSES = 4000  # records below which a second process costs more than it brings
SETTINGS_FILE = "simulation.json"
METADATA_FILE = "ptbxl_database.csv"


@dataclass(frozen=True, slots=True)
class Truth:
    """What is known of one simulated ECG."""

    index: int
    patient_id: int
    age: int
    sex: str  # female or male
    acquired_at: datetime
    territory: str | None  # SCP-ECG code of the infarction, e.g. IMI; None without one
    stage: str | None  # in PTB-XL's words, e.g. Stadium III
    extent: float  # share of the territory's electrical forces that is lost
    condition: str  # SCP-ECG code of what a record without infarction shows, NORM if nothing
    heart_rate_bpm: float
    axis_deg: float  # of the mean QRS vector in the frontal plane
    pr_ms: float | None  # None where the atria fibrillate
    qrs_ms: float
    qt_ms: float


@dataclass(frozen=True)
class SimulatedBatch:
    """ECGs and their truth."""

    signal_mV: np.ndarray
    truth: list[Truth]


@dataclass(frozen=True)
class ArchiveSummary:
    """What was written, as counts of records."""

    url: str
    records: int
    patients: int
    infarctions: dict[str, int]  # by territory
    conditions: dict[str, int]  # of the others


def simulate(index: np.ndarray | range, settings: SimulationSettings) -> SimulatedBatch:
    """Simulate records ``index`` of the archive that ``settings`` describe; each depends only on the seed and its index.

    The samples are what the archive's files hold: whole microvolts, so that the limb-lead identities are exact.

    >>> batch = simulate(range(2), SimulationSettings(records=2, prevalence=0.5, seed=1))
    >>> batch.signal_mV.shape, batch.signal_mV.dtype.name, len(batch.truth)
    ((2, 12, 1000), 'float32', 2)
    """
    traits = draw(np.asarray(index, np.int64), settings)
    signal = np.empty((len(traits.index), len(LEADS), settings.samples), np.float32)
    for first in range(0, len(signal), _RECORDS_A_BATCH):
        part = slice(first, first + _RECORDS_A_BATCH)
        np.divide(digitised(traits[part], settings), np.float32(UNITS_PER_MV), out=signal[part])
    return SimulatedBatch(signal, truths(traits))


def truths(traits: Traits) -> list[Truth]:
    """Return what is known of each record."""
    onset = (traits.qrs_centre_s - 2 * traits.qrs_sigma_s).min(axis=1)
    end = (traits.qrs_centre_s + 2 * traits.qrs_sigma_s).max(axis=1)
    areas = heart.leads_of(heart.potentials(traits.electrode_cm, traits.segment_cm, traits.qrs_moment))[:, :2]
    one, two = (areas * traits.qrs_sigma_s[:, None, :]).sum(axis=2).T
    axis = np.rad2deg(np.arctan2((2 * two - one) / np.sqrt(3), one))
    return [
        Truth(
            index=int(traits.index[i]),
            patient_id=int(traits.patient[i]) + 1,
            age=int(traits.age[i]),
            sex="female" if traits.female[i] else "male",
            acquired_at=datetime(2000, 1, 1) + timedelta(seconds=int(traits.days[i] * 86_400)),
            territory=TERRITORY_CODES[traits.territory[i]] if traits.territory[i] >= 0 else None,
            stage=STAGES[traits.stage[i]] if traits.territory[i] >= 0 else None,
            extent=float(traits.extent[i]),
            condition=CONDITIONS[traits.condition[i]],
            heart_rate_bpm=float(60 / traits.rr_s[i]),
            axis_deg=float(axis[i]),
            pr_ms=None if traits.fibrillation_mV[i] else float(1000 * (traits.pr_s[i] + onset[i])),
            qrs_ms=float(1000 * (end[i] - onset[i])),
            qt_ms=float(1000 * (traits.qt_s[i] - onset[i])),
        )
        for i in range(len(traits.index))
    ]


# --- Archives --------------------------------------------------------------------------------------------------------


def write_archive(
    dest: Path | str,
    settings: SimulationSettings,
    progress: Callable[[int], None] | None = None,
    *,
    processes: int | None = None,
) -> ArchiveSummary:
    """Write a WFDB archive (format 16, 1000 units a millivolt) with a metadata table laid out as PTB-XL's.

    The table comes last: an archive without it is unfinished, and is written anew by the same settings.

    Parameters
    ----------
    dest
        Folder or fsspec URL; absent, empty, or an unfinished simulation of the same settings.
    settings
        What to simulate.
    progress
        Called with the number of records written since it was last called.
    processes
        Processes that write; left out, one a usable core, and this one alone for few records.

    Raises
    ------
    UserError
        ``dest`` cannot be used, or holds something else.
    """
    folder = Folder(str(dest)).absolute()
    _claim(folder, settings)
    if processes is None:
        processes = min(len(os.sched_getaffinity(0)), 8) if settings.records >= _WORTH_PROCESSES else 1
    for written in _write_signals(folder.url, settings, processes):
        if progress is not None:
            progress(written)
    return _write_tables(folder, settings)


def _claim(folder: Folder, settings: SimulationSettings) -> None:
    """Make sure that nothing but an unfinished simulation of these settings stands in ``folder``."""
    stated = json.dumps(dataclasses.asdict(settings), indent=1).encode()
    try:
        if folder.names():
            if not folder.exists(SETTINGS_FILE):
                raise UserError(f"{folder.url} is not empty; name a new or an empty folder to simulate into.")
            if folder.read(SETTINGS_FILE) != stated:
                raise UserError(f"{folder.url} holds a simulation of other settings; name another folder or delete it.")
            if folder.exists(METADATA_FILE):
                raise UserError(f"{folder.url} holds this simulation, finished; use it, or name another folder.")
        folder.write(SETTINGS_FILE, stated)
    except OSError as error:
        raise UserError(
            f"Nothing can be written to {folder.url} ({error}); name a folder that you may write to."
        ) from error


def record_path(index: int) -> str:
    """Return where the record stands in its archive, without suffix.

    >>> record_path(0), record_path(12_345)
    ('records/00000/00000001', 'records/00012/00012346')
    """
    return f"records/{index // RECORDS_A_FOLDER:05d}/{index + 1:08d}"


def _write_signals(url: str, settings: SimulationSettings, processes: int) -> Iterator[int]:
    """Write all records, a folder of a thousand a task, and yield how many each step wrote."""
    folders = range(-(-settings.records // RECORDS_A_FOLDER))
    if processes == 1:
        for number in folders:
            yield from _write_folder(url, settings, number)
        return
    # Spawned, because a forked copy of a process with threads (torch, Ray) can hang.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = iter(folders)
        running: set[Future[int]] = set()
        try:
            while True:
                # Few at a time, so that a million records queue no more than ten do.
                running |= {
                    pool.submit(_write_whole_folder, url, settings, n)
                    for n in islice(waiting, 2 * processes - len(running))
                }
                if not running:
                    return
                done, running = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def _write_whole_folder(url: str, settings: SimulationSettings, number: int) -> int:
    return sum(_write_folder(url, settings, number))


def _write_folder(url: str, settings: SimulationSettings, number: int) -> Iterator[int]:
    """Write a folder of up to a thousand records; yield how many each batch wrote."""
    fs, root = open_filesystem(url)
    root = root.rstrip("/")
    local = isinstance(fs, LocalFileSystem)
    indices = np.arange(number * RECORDS_A_FOLDER, min((number + 1) * RECORDS_A_FOLDER, settings.records))
    if local:
        os.makedirs(posixpath.dirname(f"{root}/{record_path(int(indices[0]))}"), exist_ok=True)
    traits = draw(indices, settings)
    for first in range(0, len(indices), _RECORDS_A_BATCH):
        part = slice(first, first + _RECORDS_A_BATCH)
        files = {
            f"{root}/{path}": data for path, data in _files(indices[part], digitised(traits[part], settings), settings)
        }
        if local:
            for path, data in files.items():
                with open(path, "wb", buffering=0) as file:
                    file.write(data)
        else:
            fs.pipe(files)
        yield len(indices[part])


def _files(indices: np.ndarray, whole: np.ndarray, settings: SimulationSettings) -> Iterator[tuple[str, bytes]]:
    """Yield (path, bytes) of the header and the signal file of each record; ``whole`` is int16 (b, 12, n)."""
    frames = np.ascontiguousarray(whole.transpose(0, 2, 1)).astype("<i2", copy=False)
    checksums = (whole.sum(axis=2, dtype=np.int64) & 0xFFFF).tolist()
    starts = whole[:, :, 0].tolist()
    for index, frame, sums, initial in zip(indices.tolist(), frames, checksums, starts, strict=True):
        path = record_path(index)
        name = posixpath.basename(path)
        yield f"{path}.hea", header_of(name, settings.rate_hz, settings.samples, UNITS_PER_MV, initial, sums)
        yield f"{path}.dat", frame.tobytes()


# --- Tables ----------------------------------------------------------------------------------------------------------

_PTBXL_COLUMNS = (
    *("ecg_id", "patient_id", "age", "sex", "site", "device", "recording_date", "report", "scp_codes", "heart_axis"),
    *("infarction_stadium1", "strat_fold", "filename_lr", "filename_hr"),
)
_TRUTH_COLUMNS = (
    "truth_territory",
    "truth_extent",
    "truth_heart_rate_bpm",
    "truth_axis_deg",
    "truth_pr_ms",
    "truth_qrs_ms",
    "truth_qt_ms",
)

_STATEMENTS = {
    # code: description, diagnostic, form, rhythm, diagnostic_class, diagnostic_subclass
    "NORM": ("normal ECG", "1.0", "", "", "NORM", "NORM"),
    "ASMI": ("anteroseptal myocardial infarction", "1.0", "", "", "MI", "AMI"),
    "AMI": ("anterior myocardial infarction", "1.0", "", "", "MI", "AMI"),
    "ALMI": ("anterolateral myocardial infarction", "1.0", "", "", "MI", "AMI"),
    "IMI": ("inferior myocardial infarction", "1.0", "", "", "MI", "IMI"),
    "ILMI": ("inferolateral myocardial infarction", "1.0", "", "", "MI", "IMI"),
    "LMI": ("lateral myocardial infarction", "1.0", "", "", "MI", "LMI"),
    "LVH": ("left ventricular hypertrophy", "1.0", "", "", "HYP", "LVH"),
    "CLBBB": ("complete left bundle branch block", "1.0", "", "", "CD", "CLBBB"),
    "CRBBB": ("complete right bundle branch block", "1.0", "", "", "CD", "CRBBB"),
    "LAFB": ("left anterior fascicular block", "1.0", "", "", "CD", "LAFB/LPFB"),
    "NDT": ("non-diagnostic T abnormalities", "1.0", "1.0", "", "STTC", "STTC"),
    "SR": ("sinus rhythm", "", "", "1.0", "", ""),
    "SBRAD": ("sinus bradycardia", "", "", "1.0", "", ""),
    "STACH": ("sinus tachycardia", "", "", "1.0", "", ""),
    "AFIB": ("atrial fibrillation", "", "", "1.0", "", ""),
}
"""The statements used, with PTB-XL's classes (scp_statements.csv of PTB-XL 1.0.3)."""

_README = """\
These electrocardiograms are SIMULATED: they belong to nobody, and no network may be trained on them.
Ages, dates, sites and devices are made up. The settings stand in simulation.json; ptbxl_database.csv has PTB-XL's columns
and the truth of each record. The files are in the public domain (CC0 1.0).
"""


def scp_codes(truth: Truth) -> dict[str, float]:
    """Return a record's statements with likelihoods in percent, as PTB-XL writes them (0 for a rhythm)."""
    if truth.condition == "AFIB":
        return {"AFIB": 0.0}
    rate = truth.heart_rate_bpm
    rhythm = "SBRAD" if rate < 55 else "STACH" if rate > 100 else "SR"
    return {truth.territory or truth.condition: 100.0, rhythm: 0.0}


def _row(truth: Truth) -> tuple[object, ...]:
    axis = truth.axis_deg
    site = truth.patient_id % 7
    path = record_path(truth.index)
    return (
        truth.index + 1,
        truth.patient_id,
        300 if truth.age > 89 else truth.age,  # as PTB-XL de-identifies
        int(truth.sex == "female"),
        site,
        f"SIM-{1 + site % 3}",
        truth.acquired_at.isoformat(sep=" "),
        "simulated",
        str(scp_codes(truth)),
        "LAD" if axis < -30 else "RAD" if axis > 90 else "MID",
        truth.stage or "",
        1 + (truth.patient_id - 1) % 10,
        path,
        path,
        truth.territory or "",
        f"{truth.extent:.3f}",
        f"{truth.heart_rate_bpm:.1f}",
        f"{axis:.0f}",
        "" if truth.pr_ms is None else f"{truth.pr_ms:.0f}",
        f"{truth.qrs_ms:.0f}",
        f"{truth.qt_ms:.0f}",
    )


def _csv(rows: Iterable[Iterable[object]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _write_tables(folder: Folder, settings: SimulationSettings) -> ArchiveSummary:
    """Write what describes the archive, the metadata table last; drawing the truth again is cheaper than keeping it."""
    folder.write("LICENSE.txt", _README.encode())
    header = ("", "description", "diagnostic", "form", "rhythm", "diagnostic_class", "diagnostic_subclass")
    folder.write("scp_statements.csv", _csv([header, *((code, *facts) for code, facts in _STATEMENTS.items())]))
    parts = [
        range(first, min(first + RECORDS_A_FOLDER, settings.records))
        for first in range(0, settings.records, RECORDS_A_FOLDER)
    ]
    with folder.writer("RECORDS") as file:
        for part in parts:
            file.write("".join(record_path(index) + "\n" for index in part).encode())
    infarctions: Counter[str] = Counter()
    conditions: Counter[str] = Counter()
    patients = 0
    with folder.writer(METADATA_FILE) as file:
        file.write(_csv([(*_PTBXL_COLUMNS, *_TRUTH_COLUMNS)]))
        for part in parts:
            known = truths(draw(np.asarray(part), settings))
            file.write(_csv(_row(truth) for truth in known))
            infarctions.update(truth.territory for truth in known if truth.territory)
            conditions.update(truth.condition for truth in known if not truth.territory)
            patients = known[-1].patient_id  # they are numbered in order
    return ArchiveSummary(folder.url, settings.records, patients, dict(infarctions), dict(conditions))
