"""The WFDB decoder against the wfdb package on real records, and against broken ones."""

from __future__ import annotations

import hashlib
import re
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.archive import wfdb, wfdb_formats
from screening.archive.wfdb import decode, signal_file_names
from screening.contract import LEADS, N_LEADS, Reason, lead_of, mV_per_unit
from screening.recording import Recording, Rejected
from tests import corpus, wfdb_files
from tests.archive import reference

VALID = corpus.valid_cases()
BROKEN = [
    case
    for case in corpus.broken_cases()
    if case.header.endswith(".hea") and case.name not in ("header_xml", "header_dicom")
]


def by_name(files: dict[str, bytes], header: str) -> tuple[bytes, dict[str, bytes]]:
    """Return a case's header, and its files by their names beside it."""
    folder = header.rpartition("/")[0]
    return files[header], {path.removeprefix(f"{folder}/"): data for path, data in files.items()}


def decoded(case: corpus.Case) -> Recording | Rejected:
    return decode(case.name, *by_name(case.files, case.header))


def read_file(header: Path) -> Recording:
    data = header.read_bytes()
    files = {name: (header.parent / name).read_bytes() for name in signal_file_names(data)}
    recording = decode(header.stem, data, files)
    assert isinstance(recording, Recording), recording
    return recording


def expected_of(record: object) -> dict[str, np.ndarray]:
    """Return lead -> float32 mV of what wfdb read, the first where it is there twice."""
    found: dict[str, np.ndarray] = {}
    for name, unit, signal in zip(record.sig_name, record.units, record.p_signal.T, strict=True):  # type: ignore[attr-defined]
        lead = lead_of(name)
        if lead is not None and lead not in found:
            found[lead] = (signal * mV_per_unit(unit)).astype(np.float32)
    return found


# --- Real records ----------------------------------------------------------------------------------------------------


def compare(header: Path) -> None:
    ours, theirs = read_file(header), reference.read(header, physical=False)
    gains, baselines = np.array(theirs.adc_gain), np.array(theirs.baseline)
    rows = [LEADS.index(lead) if (lead := lead_of(name)) else None for name in theirs.sig_name]
    columns = [i for i, row in enumerate(rows) if row is not None]
    assert sorted(r for r in rows if r is not None) == list(range(N_LEADS))
    digital = theirs.d_signal.T[columns]
    mine = ours.signal_mV[[r for r in rows if r is not None]]
    back = np.rint(mine.astype(np.float64) * gains[columns, None] + baselines[columns, None])
    np.testing.assert_array_equal(back, digital)
    physical = (digital - baselines[columns, None]) / gains[columns, None]
    np.testing.assert_array_equal(mine, physical.astype(np.float32))
    assert ours.rate_hz == theirs.fs


@pytest.mark.parametrize("step", [20, pytest.param(1, marks=pytest.mark.long)])
def test_ptbxl_is_read_as_wfdb_reads_it(step: int, whole_ptbxl: Path) -> None:
    headers = sorted(whole_ptbxl.rglob("*.hea"))
    assert len(headers) == 2663
    for header in headers[::step]:
        compare(header)


def test_other_archives_are_read_as_wfdb_reads_them(shared_data: Path) -> None:
    headers = sorted((shared_data / "wfdb_variants").rglob("*.hea"))
    assert len(headers) == 28
    for header in headers:
        compare(header)


def test_facts_of_a_matlab_record(shared_data: Path) -> None:
    recording = read_file(shared_data / "wfdb_variants/cinc2021/E07500.hea")
    assert (recording.source_format, recording.unit_source) == ("wfdb-16-mat", "header gain/units")
    # The initial values in its header, in steps of 1/1000 mV.
    initial = [-68, -58, 9, 63, -39, -24, 156, 97, -146, -68, -48, -156]
    np.testing.assert_array_equal(recording.signal_mV[:, 0], np.float32(initial) / np.float32(1000))
    assert (recording.signal_mV.shape, recording.rate_hz, recording.flags) == ((12, 5000), 500.0, ())


def test_frank_leads_are_left_alone(shared_data: Path) -> None:
    (header,) = (shared_data / "wfdb_variants").rglob("s0010_re.hea")
    assert signal_file_names(header.read_bytes()) == ("s0010_re.dat",)
    recording = read_file(header)
    assert (recording.source_format, recording.unit_source) == ("wfdb-16", "wfdb default mV")
    assert recording.signal_mV.shape == (12, 38400)
    assert recording.signal_mV[0, 0] == np.float32(-489 / 2000)


def test_hash_is_that_of_the_files_one_after_the_other() -> None:
    files = wfdb_files.record()
    recording = decode("x", files["r.hea"], files)
    assert isinstance(recording, Recording)
    assert recording.sha256 == hashlib.sha256(files["r.hea"] + files["r.dat"]).hexdigest()


# --- Built records ---------------------------------------------------------------------------------------------------

# What wfdb cannot read, or reads otherwise, of records that are valid by header(5) or plain in meaning.
BEYOND_WFDB = {
    "matlab_without_offset": "it would read the MATLAB header as samples",
    "extra_signals": "it opens files that hold no lead",
    "file_in_subfolder": "it refuses slashes",
    "units_micro_sign": "its pattern of units has no such letter",
    "zero_length": "it finds no samples there",
    "byte_order_mark": "it takes the mark for a part of the name",
    "numbers_written_oddly": "its pattern of numbers has no sign",
    "rate_with_a_point": "its pattern of numbers wants digits after the point",
    "counter_infinite": "its pattern of numbers has no exponent there",
    "format_written_oddly": "its table of formats knows no zeros before them",
    "matlab_claims_the_world": "it believes what MATLAB's header says",
    "matlab_claims_no_rows": "it believes what MATLAB's header says",
}


@pytest.mark.parametrize("case", VALID, ids=lambda case: case.name)
def test_valid_records_are_read(case: corpus.Case, tmp_path: Path) -> None:
    recording = decoded(case)
    assert isinstance(recording, Recording), recording
    assert recording.signal_mV.flags.c_contiguous
    assert recording.signal_mV.flags.writeable
    assert recording.rate_hz == wfdb_files.RATE
    if case.name in BEYOND_WFDB:
        np.testing.assert_allclose(recording.signal_mV, wfdb_files.ecg() / 1000, atol=1e-6)
        return
    corpus.write([case], tmp_path)
    read = expanded if case.name == "two_samples_a_frame" else reference.read
    theirs = expected_of(read(tmp_path / case.header))
    for lead, signal in theirs.items():
        ours = recording.signal_mV[LEADS.index(lead)]
        np.testing.assert_allclose(ours, signal[: len(ours)], rtol=2e-7, atol=0, equal_nan=True)
    assert set(theirs) == set(LEADS) - ({"III", "aVR", "aVL", "aVF"} if "derived_leads" in recording.flags else set())


def expanded(header: Path) -> object:
    record = reference.read(header, smooth_frames=False)
    record.p_signal = np.stack(record.e_p_signal, axis=1)
    return record


def test_flags_say_what_was_done() -> None:
    flags = {case.name: getattr(decoded(case), "flags", None) for case in VALID}
    assert {name: f for name, f in flags.items() if f} == {
        "eight_leads": ("derived_leads",),
        "duplicate_identical": ("duplicate_lead",),
        "matlab_without_offset": ("matlab_offset",),
        "trailing_bytes": ("trailing_bytes",),
    }


def test_what_is_added_at_the_ends_is_taken_off_but_from_a_copy() -> None:
    """As from every other format; `screening convert` compares what it wrote as it is stored."""
    digital = wfdb_files.ecg() + np.arange(10, 130, 10)[:, None]  # ends apart from zero
    pulse = np.tile(np.repeat([0, 1000, 0], 100), (12, 1))
    for added, flag in ((np.zeros((12, 1500), np.int64), "padding_removed"), (pulse, "calibration_removed")):
        files = wfdb_files.record(digital=np.c_[digital, added])
        got = decode("x", files["r.hea"], files)
        assert isinstance(got, Recording), got
        assert flag in got.flags
        assert got.signal_mV.shape == digital.shape
        stored = decode("x", files["r.hea"], files, as_stored=True)
        assert isinstance(stored, Recording), stored
        assert stored.signal_mV.shape[1] == digital.shape[1] + added.shape[1]


def test_derived_leads_obey_einthoven_and_goldberger() -> None:
    recording = decoded(next(case for case in VALID if case.name == "eight_leads"))
    assert isinstance(recording, Recording)
    i, ii, iii, avr, avl, avf = recording.signal_mV[:6]
    np.testing.assert_allclose(iii, ii - i, atol=1e-6)
    np.testing.assert_allclose(avr + avl + avf, 0, atol=1e-6)
    np.testing.assert_allclose(recording.signal_mV[:6], wfdb_files.ecg()[:6] / 1000, atol=1.1e-3)


def test_missing_samples_are_nan_and_nothing_else_is() -> None:
    recording = decoded(next(case for case in VALID if case.name == "missing_samples"))
    assert isinstance(recording, Recording)
    expected = np.zeros((12, wfdb_files.SAMPLES), bool)
    expected[2, 100:120] = True
    np.testing.assert_array_equal(np.isnan(recording.signal_mV), expected)


def test_a_gap_and_an_absent_lead_of_a_segment_are_nan() -> None:
    recording = decoded(next(case for case in VALID if case.name == "segments_variable"))
    assert isinstance(recording, Recording)
    assert recording.signal_mV.shape == (12, 5100)
    assert np.isnan(recording.signal_mV[:, 3000:3100]).all()
    assert np.isnan(recording.signal_mV[11, :3000]).all()
    assert np.isfinite(recording.signal_mV[:11, :3000]).all()
    assert np.isfinite(recording.signal_mV[:, 3100:]).all()


@pytest.mark.parametrize("gain", [1000.0, 200.0, 4.88e-3, 204.8, 1 / 3])
@pytest.mark.parametrize("baseline", [0, -17, 2**22, 2**31])
def test_millivolts_are_those_of_float64_rounded_once(gain: float, baseline: int) -> None:
    digital = np.random.default_rng(1).integers(-32768, 32767, (12, 500))
    files = wfdb_files.record(digital=digital, gain=f"{gain!r}({baseline})/mV")
    recording = decode("x", files["r.hea"], files)
    assert isinstance(recording, Recording)
    np.testing.assert_array_equal(
        np.where(digital == -32768, np.nan, (digital - baseline) / gain).astype(np.float32), recording.signal_mV
    )


# --- Broken records --------------------------------------------------------------------------------------------------


def test_there_are_enough_broken_records() -> None:
    assert len(BROKEN) >= 35
    assert len({case.name for case in corpus.all_cases()}) == len(corpus.all_cases())


@pytest.mark.parametrize("case", BROKEN, ids=lambda case: case.name)
def test_broken_records_are_refused(case: corpus.Case) -> None:
    got = decoded(case)
    assert isinstance(got, Rejected), case.name
    assert got.record_id == case.name
    if not case.name.startswith("header_") and case.expected != Reason.MISSING_FILE:  # those are told by the reader
        assert got.reason == case.expected, got
        assert re.search(case.message, got.detail), got
    # Only words, numbers and names of leads: never a path, a file's name or whatever else the header holds.
    assert re.fullmatch(r"[\w ,.:'%+-]+", got.detail), got
    assert not re.search(r"\.(hea|dat|mat)|r_[012]|secret|passwd", got.detail), got


def test_names_of_patients_stay_in_the_header() -> None:
    secret = b"Hans_Mustermann_1950"
    for case in BROKEN:
        header, files = by_name(case.files, case.header)
        renamed = {name.replace("r.", "Hans_Mustermann_1950."): data for name, data in files.items()}
        header = re.sub(rb"\br(?=[./ ])", secret, header.replace(b"mmHg", secret))
        got = decode("x", header + b"#" + secret, renamed)
        assert "Mustermann" not in getattr(got, "detail", ""), case.name


def test_an_unexpected_failure_is_told_by_its_type_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RecursionError("/home/hans")

    monkeypatch.setattr(wfdb, "decode_leads", fail)
    files = wfdb_files.record()
    got = decode("x", files["r.hea"], files)
    assert isinstance(got, Rejected)
    assert (got.reason, got.detail) == (Reason.UNDECODABLE, "the decoder failed: RecursionError")


def test_a_lack_of_memory_is_not_blamed_on_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(wfdb, "decode_leads", fail)
    files = wfdb_files.record()
    with pytest.raises(MemoryError):
        decode("x", files["r.hea"], files)


def test_a_full_disk_is_not_blamed_on_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(wfdb_formats.tempfile, "TemporaryDirectory", fail)
    files = wfdb_files.record(fmt=310)
    with pytest.raises(OSError, match="No space left"):
        decode("x", files["r.hea"], files)


# --- Hostile bytes ---------------------------------------------------------------------------------------------------

SMALL = (
    wfdb_files.record(digital=wfdb_files.ecg(60)),
    wfdb_files.record(fmt=212, digital=wfdb_files.ecg(60, gain=500.0)),
)


@settings(max_examples=250, deadline=None)
@given(
    which=st.sampled_from([0, 1]),
    edits=st.lists(st.tuples(st.booleans(), st.integers(0, 5000), st.integers(0, 255)), max_size=6),
    cuts=st.tuples(st.integers(0, 400), st.integers(0, 400)),
)
def test_flipped_and_cut_bytes_give_a_recording_or_a_reason(
    which: int, edits: list[tuple[bool, int, int]], cuts: tuple[int, int]
) -> None:
    header, data = bytearray(SMALL[which]["r.hea"]), bytearray(SMALL[which]["r.dat"])
    for is_header, place, value in edits:
        target = header if is_header else data
        target[place % len(target)] = value
    if cuts[0] < len(header) // 2:
        del header[len(header) - cuts[0] :]
    del data[max(0, len(data) - max(0, cuts[1] - 200)) :]
    tracemalloc.start()
    try:
        got = decode("x", bytes(header), {"r.dat": bytes(data)})
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(got, Recording | Rejected)
    if not isinstance(got, Recording):
        assert re.fullmatch(r"[\w ,.:'%+-]+", got.detail), got
    assert peak < 2_000_000  # 40 times what the record takes


@pytest.mark.parametrize(
    "first", ["r 12 500 2700000", "r 256 500 130000", "r/2 12 500 2700000", "r 12 500 99999999999999"]
)
def test_a_small_file_with_large_claims_allocates_nothing(first: str) -> None:
    lines = ["r_1 50", "~ 2699950"] if "/" in first else [f"r.dat 16 200 16 0 0 0 0 {lead}" for lead in LEADS]
    lines += ["r.dat 16 200 16 0 0 0 0 x"] * (int(first.split()[1]) - len(lines)) if "256" in first else []
    header = "\n".join([first, *lines]).encode()
    small = {"r.dat": bytes(1000), "r_1.hea": header}
    decode("x", header, small)
    tracemalloc.start()
    try:
        got = decode("x", header, small)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(got, Rejected)
    assert peak < 1_000_000


@pytest.mark.timeout(30)
@pytest.mark.parametrize(
    "header",
    [
        b"r 1 500 10\nr.dat 16" + b" " * 1_000_000 + b"(",
        b"r 1 500 10\nr.dat 16 " + b"1" * 1_000_000,
        b"r 1 500 10\nr.dat 16 " + b"1 " * 500_000 + b"(",
        b"r 1 500 10\nr.dat 16 " + b"a" * 1_000_000 + b" /",
        b"r 1 500 10\n" + b"a/" * 500_000 + b" 16",
        b"r" + b" " * 1_000_000 + b"x",
        b"\n" * 1_000_000,
        b"r/4096 12 500 4096\n" + b"r_1 1\n" * 4096,
    ],
    ids=range(8),
)
def test_long_lines_take_no_long_time(header: bytes) -> None:
    segment = wfdb_files.record("r_1", digital=wfdb_files.ecg(1))
    start = time.process_time()
    got = decode("x", header, segment)
    assert time.process_time() - start < 10
    assert isinstance(got, Rejected) or got.signal_mV.shape == (12, 4096)
