"""How right are the beats, the waves, the amplitudes and the signs that explanations rest on?

    python -m tests.studies.delineation ARCHIVE [--folds 1-9] [--simulated 600] [--every 5]

Four tables. Simulated hearts, whose times are known beat by beat: what is found, and how far from the truth. ARCHIVE, laid
out as PTB-XL, against XQRS of wfdb, another detector, on lead II of every fifth record. The archive measured on the network's
input and on the recordings at their own rate: what the filter does to amplitudes and durations. And how often each sign is
found in records of each statement: signs of a territory ought to be frequent in its infarcts and rare in normal ECGs.
A difference is given as its median and its 5th and 95th percentiles.
"""

from __future__ import annotations

import argparse
import ast
import csv
import time
import warnings
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from screening.archive.reader import ArchiveReader
from screening.attribution.beats import Beats, delineate
from screening.attribution.findings import WIDE_QRS_MS, find
from screening.attribution.measurements import Measurements, measure
from screening.contract import LEADS
from screening.recording import Recording
from screening.signal.population import SimulationSettings, draw
from screening.signal.preprocess import Preprocessing, preprocess
from screening.signal.simulate import simulate
from screening.signal.synthesis import _onsets

RATE_HZ = Preprocessing().rate_hz
SAME_BEAT_S = 0.10
EDGE_S = 0.4  # detectors differ on beats cut off by the recording's ends
INFARCTS = ("IMI", "ILMI", "ASMI", "AMI", "ALMI", "LMI")
OTHERS = ("LVH", "CLBBB", "CRBBB", "AFIB", "PACE", "WPW", "PVC", "LVOLT")
SURE = 50.0
"""Likelihood in percent from which a statement counts; form and rhythm have none (0) and count as they stand."""


@dataclass(frozen=True)
class Measured:
    """A record of the archive."""

    beats: Beats
    low: Measurements | None  # on the network's input
    high: Measurements | None  # on the recording, with the same beats
    high_qrs_ms: float  # of the recording, with beats found on it
    statements: frozenset[str]
    sex: str
    age: float | None


def row(what: str, differences: list[float] | np.ndarray, unit: str) -> None:
    """Print the count, the median, the 5th and 95th percentile, and the 95th percentile of the absolute value."""
    values = np.asarray(differences, float)
    values = values[np.isfinite(values)]
    if not len(values):
        print(f"  {what:40s}       0")
        return
    low, middle, high = np.percentile(values, (5, 50, 95))
    print(
        f"  {what:40s}{len(values):8d}{middle:+10.3g}{low:+10.3g}{high:+10.3g}"
        f"{np.percentile(np.abs(values), 95):10.3g}  {unit}"
    )


def heading(title: str) -> None:
    """Print a table's title and what its columns are."""
    print(f"\n{title}\n  {'':40s}{'n':>8s}{'median':>10s}{'5%':>10s}{'95%':>10s}{'|.| 95%':>10s}")


def nearest(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return for each true time the number of the beat found at it, -1 where there is none."""
    if not len(found):
        return np.full(len(truth), -1)
    apart = np.abs(found[None, :] - truth[:, None])
    at = apart.argmin(axis=1)
    return np.where(apart[np.arange(len(truth)), at] <= SAME_BEAT_S, at, -1)


def against_simulated_hearts(records: int) -> None:
    """Print what is found of simulated beats, and how far off their limits are."""
    settings = SimulationSettings(records=records, prevalence=0.3, seed=11)
    index = np.arange(records)
    traits, batch = draw(index, settings), simulate(index, settings)
    starts = _onsets(traits).astype(float)
    filtered = preprocess(batch.signal_mV, settings.rate_hz, Preprocessing())
    begin = (traits.qrs_centre_s - 2 * traits.qrs_sigma_s).min(axis=1)
    end = (traits.qrs_centre_s + 2 * traits.qrs_sigma_s).max(axis=1)
    seconds = filtered.shape[2] / RATE_HZ
    errors: dict[str, list[float]] = defaultdict(list)
    tally = dict.fromkeys(
        ("there", "found", "given", "true", "sinus", "with P", "fibrillating", "P in fibrillation"), 0
    )
    clock = time.process_time()
    everyone = [delineate(signal, RATE_HZ) for signal in filtered]
    spent_ms = 1000 * (time.process_time() - clock) / records
    for at, (truth, beats) in enumerate(zip(batch.truth, everyone, strict=True)):
        on, off = starts[at] + begin[at], starts[at] + end[at]
        whole = (on > EDGE_S) & (off < seconds - EDGE_S)
        middle = (on + off) / 2
        places = nearest(beats.r, middle[whole])
        tally["there"] += int(whole.sum())
        tally["found"] += int((places >= 0).sum())
        inner = beats.r[(beats.r > EDGE_S) & (beats.r < seconds - EDGE_S)]
        tally["given"] += len(inner)
        tally["true"] += int((nearest(middle, inner) >= 0).sum())
        hit, place = np.flatnonzero(whole)[places >= 0], places[places >= 0]
        errors["QRS onset"] += list(1000 * (beats.qrs_on[place] - on[hit]))
        errors["QRS end"] += list(1000 * (beats.qrs_off[place] - off[hit]))
        errors["T end"] += list(1000 * (beats.t_off[place] - starts[at][hit] - traits.qt_s[at]))
        if truth.pr_ms is None:
            tally["fibrillating"] += len(place)
            tally["P in fibrillation"] += int(np.isfinite(beats.p_on[place]).sum())
        else:
            tally["sinus"] += len(place)
            tally["with P"] += int(np.isfinite(beats.p_on[place]).sum())
            errors["P onset"] += list(1000 * (beats.p_on[place] - starts[at][hit] + traits.pr_s[at]))
        if len(beats) < 2:
            continue
        errors["QRS duration, a record"].append(1000 * float(np.median(beats.qrs_off - beats.qrs_on)) - truth.qrs_ms)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # of records without T or P
            errors["QT, a record"].append(1000 * float(np.nanmedian(beats.t_off - beats.qrs_on)) - truth.qt_ms)
            if truth.pr_ms is not None:
                errors["PR, a record"].append(1000 * float(np.nanmedian(beats.qrs_on - beats.p_on)) - truth.pr_ms)
        errors["rate, a record"].append(60 / float(np.median(np.diff(beats.r))) / truth.heart_rate_bpm - 1)
    print(f"1. {records} simulated hearts, {spent_ms:.1f} ms a record")
    print(
        f"  beats found {share(tally['found'], tally['there'])}; of those given, true {share(tally['true'], tally['given'])}"
    )
    print(f"  P found in sinus rhythm {share(tally['with P'], tally['sinus'])}", end="")
    print(f"; given in fibrillation {share(tally['P in fibrillation'], tally['fibrillating'])}")
    heading("  found less true")
    for what, differences in errors.items():
        row(what, differences, "" if what.startswith("rate") else "ms")


def share(part: int, whole: int) -> str:
    """Return both numbers and their quotient."""
    return f"{part}/{whole} ({100 * part / max(whole, 1):.2f}%)"


def against_another_detector(recordings: dict[str, Recording], of: dict[str, Measured]) -> None:
    """Print how many beats both detectors find, by what the records show."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its own, when it is imported
        from wfdb.processing import XQRS

    counts: dict[str, list[int]] = defaultdict(lambda: [0] * 5)
    silent = 0
    for name, recording in recordings.items():
        detector = XQRS(recording.signal_mV[LEADS.index("II")].astype(np.float64), fs=round(recording.rate_hz))
        detector.detect(verbose=False)
        theirs = np.asarray(detector.qrs_inds, float) / recording.rate_hz
        ours = of[name].beats.r
        if not len(theirs) and len(ours):  # it could not learn what a QRS looks like here
            silent += 1
            continue
        last = recording.signal_mV.shape[1] / recording.rate_hz - EDGE_S
        inner, others = ours[(ours > EDGE_S) & (ours < last)], theirs[(theirs > EDGE_S) & (theirs < last)]
        figures = [
            1,
            len(others),
            int((nearest(ours, others) >= 0).sum()),
            len(inner),
            int((nearest(theirs, inner) >= 0).sum()),
        ]
        for group in ["all", *sorted(of[name].statements & {*OTHERS, "BIGU", "NORM"})]:
            counts[group] = [a + b for a, b in zip(counts[group], figures, strict=True)]
    print(
        f"\n2. R peaks, against XQRS on lead II ({len(recordings)} records; it finds nothing at all in {silent}, left out)"
    )
    for group, (records, of_xqrs, found, of_ours, confirmed) in sorted(counts.items()):
        print(f"  {group:8s}{records:6d} records; XQRS' beats found {share(found, of_xqrs)}", end="")
        print(f"; ours found by XQRS {share(confirmed, of_ours)}")


def through_the_filter(records: list[Measured]) -> None:
    """Print what amplitudes and durations of the network's input are, less those of the recording."""
    both = [(one.low, one.high) for one in records if one.low is not None and one.high is not None]
    low = {name: np.stack([getattr(a, name) for a, _ in both]) for name in Measurements.__dataclass_fields__}
    high = {name: np.stack([getattr(b, name) for _, b in both]) for name in Measurements.__dataclass_fields__}
    q = (low["q_mV"] > 0) & (high["q_mV"] > 0) & ~low["qs"] & ~high["qs"]
    deep = q & (high["q_mV"] >= 0.1)
    heading("3. The network's input less the recording, all leads, the same beats")
    row("Q depth, where both have Q", (low["q_mV"] - high["q_mV"])[q], "mV")
    row("... of 0.1 mV and more", (low["q_mV"] - high["q_mV"])[deep], "mV")
    row("Q duration, where both have Q", (low["q_ms"] - high["q_ms"])[q], "ms")
    row("... of 0.1 mV and more", (low["q_ms"] - high["q_ms"])[deep], "ms")
    tall = high["r_mV"] >= 0.3
    row("R height, share, of 0.3 mV and more", (low["r_mV"] / np.where(tall, high["r_mV"], 1) - 1)[tall], "")
    row("S depth", (low["s_mV"] - high["s_mV"])[high["s_mV"] > 0.1], "mV")
    row("ST at J", low["st_mV"][..., 0] - high["st_mV"][..., 0], "mV")
    row("ST at J + 60 ms", low["st_mV"][..., 1] - high["st_mV"][..., 1], "mV")
    row("T", low["t_mV"] - high["t_mV"], "mV")
    qrs = [one.low.qrs_ms - one.high_qrs_ms for one in records if one.low is not None]
    row("QRS, found on each", qrs, "ms")
    print(f"  QS in the recording and on the input {int((low['qs'] & high['qs']).sum())}", end="")
    print(f", on the input alone {int((low['qs'] & ~high['qs']).sum())}", end="")
    print(f", in the recording alone {int((~low['qs'] & high['qs']).sum())} leads")
    agree: dict[str, list[int]] = defaultdict(lambda: [0, 0, 0])
    for one in records:
        if one.low is None or one.high is None:
            continue
        ours, theirs = ({f.sign for f in find(m, sex=one.sex, age=one.age)} for m in (one.low, one.high))
        for sign in ours | theirs:
            agree[sign][(sign in ours) + 2 * (sign in theirs) - 1] += 1
    for sign, (input_alone, recording_alone, on_both) in sorted(agree.items()):
        print(f"  {sign}: records with it on both {on_both}, input {input_alone}, recording {recording_alone}")


def by_statement(records: list[Measured]) -> None:
    """Print how many percent of the records of each statement have each sign."""
    groups: dict[str, list[Measured]] = {"NORM": [one for one in records if "NORM" in one.statements]}
    for code in INFARCTS:
        groups[code] = [one for one in records if one.statements & set(INFARCTS) == {code}]
    for code in OTHERS:
        groups[code] = [one for one in records if code in one.statements and not one.statements & set(INFARCTS)]
    groups = {name: some for name, some in groups.items() if some}
    rates: dict[str, list[float]] = {}
    for at, some in enumerate(groups.values()):
        for one in some:
            found = () if one.low is None else find(one.low, sex=one.sex, age=one.age)
            length = one.beats.p_off - one.beats.p_on
            p_ms = 1000 * float(np.nanmedian(length)) if np.isfinite(length).any() else 0.0
            marks = {f"{f.sign} {f.territory}" for f in found} | ({"any sign"} if found else set())
            marks |= {"QRS too wide for Q and ST"} if one.low and one.low.qrs_ms >= WIDE_QRS_MS else set()
            marks |= {"P in half of the beats"} if np.isfinite(one.beats.p_on).mean() > 0.5 else set()
            marks |= {"P longer than 150 ms"} if p_ms > 150 else set()
            marks |= {"nothing measured"} if one.low is None else set()
            for mark in marks:
                rates.setdefault(mark, [0.0] * len(groups))[at] += 100 / len(some)
    print("\n4. Records with a sign, percent; infarcts of one statement alone, others without infarct")
    print(f"  {'':32s}" + "".join(f"{name:>7s}" for name in groups))
    print(f"  {'records':32s}" + "".join(f"{len(some):7d}" for some in groups.values()))
    for mark in sorted(rates):
        print(f"  {mark:32s}" + "".join(f"{value:7.1f}" for value in rates[mark]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--folds", default="1-9")
    parser.add_argument("--simulated", type=int, default=600)
    parser.add_argument("--every", type=int, default=5, help="of the archive's records, for the other detector")
    arguments = parser.parse_args()
    against_simulated_hearts(arguments.simulated)
    first, last = (int(part) for part in (arguments.folds.split("-") * 2)[:2])  # "9" is 9-9
    with (arguments.archive / "ptbxl_database.csv").open(newline="") as file:
        rows = [line for line in csv.DictReader(file) if first <= int(line["strat_fold"]) <= last]
    reader = ArchiveReader(str(arguments.archive))
    records: dict[str, Measured] = {}
    for_the_other: dict[str, Recording] = {}
    for number, line in enumerate(rows):
        recording = reader.read(line["filename_hr"] + ".hea", line["ecg_id"])
        assert isinstance(recording, Recording), recording
        low = preprocess(recording.signal_mV[None], recording.rate_hz, Preprocessing())[0]
        beats = delineate(low, RATE_HZ)
        on_recording = delineate(recording.signal_mV, recording.rate_hz)
        codes = ast.literal_eval(line["scp_codes"])
        records[line["ecg_id"]] = Measured(
            beats=beats,
            low=measure(low, RATE_HZ, beats),
            high=measure(recording.signal_mV, recording.rate_hz, beats),
            high_qrs_ms=1000 * float(np.median(on_recording.qrs_off - on_recording.qrs_on))
            if len(on_recording)
            else np.nan,
            statements=frozenset(code for code, sure in codes.items() if sure >= SURE or sure == 0),
            sex="female" if line["sex"] == "1" else "male",
            age=float(line["age"]) if line["age"] else None,
        )
        if number % arguments.every == 0:
            for_the_other[line["ecg_id"]] = recording
    against_another_detector(for_the_other, records)
    through_the_filter(list(records.values()))
    by_statement(list(records.values()))


if __name__ == "__main__":
    main()
