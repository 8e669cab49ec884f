"""What DICOM allows: transfer syntaxes, kinds of samples, codes, groups; and that pydicom tells nobody what it reads."""

from __future__ import annotations

import copy
import io
import logging
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.sequence import Sequence

from screening.archive import formats
from screening.archive.formats import dicom
from screening.archive.reader import decode
from screening.contract import Reason
from screening.recording import Recording, Rejected
from tests import hospital_files as made
from tests.corpus.hospital import hospital_cases
from tests.corpus.hospital_files import digital, file_of

STEP_MV = made.STEP_UV / 1000


def edited(edit: Callable[[pydicom.Dataset, pydicom.Dataset], object], data: bytes | None = None) -> bytes:
    """Return a file after ``edit(dataset, its rhythm group)``."""
    dataset = pydicom.dcmread(io.BytesIO(data or file_of("dicom")))
    edit(dataset, dataset.WaveformSequence[1])
    stream = io.BytesIO()
    dataset.save_as(stream)
    return stream.getvalue()


def signal_of(data: bytes) -> np.ndarray:
    got = decode("x", data, {})
    assert isinstance(got, Recording), got
    return got.signal_mV


@pytest.mark.parametrize(
    "how",
    [
        {"syntax": "ImplicitVRLittleEndian"},
        {"syntax": "ExplicitVRBigEndian"},
        {"syntax": "DeflatedExplicitVRLittleEndian"},
        {"syntax": "DeflatedExplicitVRLittleEndian", "preamble": False},
        {"correction": 0.5},
        {"zero_at": 300},
        {"zero_at": 2**15, "is_unsigned": True},
        {"zero_at": 2**15, "is_unsigned": True, "syntax": "ExplicitVRBigEndian"},
        {"lead_code": "2:{number}", "lead_meaning": "?"},
        {"lead_code": "5.6.3-9-{number}", "lead_meaning": "?"},
        {"lead_meaning": "Ableitung"},
        {"lead_code": "?", "lead_meaning": "{lead}, of a limb or the chest"},
    ],
    ids=str,
)
def test_a_tracing_comes_out_however_it_is_stored(how: dict[str, Any]) -> None:
    np.testing.assert_allclose(signal_of(made.dicom(digital(), **how)), digital() * STEP_MV, atol=1e-5, rtol=0)


@pytest.mark.parametrize("syntax", ["ExplicitVRLittleEndian", "ExplicitVRBigEndian"])
@pytest.mark.parametrize("how", [{}, {"zero_at": 2**15, "is_unsigned": True}], ids=["signed", "unsigned"])
def test_padding_is_missing_samples(syntax: str, how: dict[str, Any]) -> None:
    steps = digital().copy()
    steps[3, 700:720] = -(2**15)
    mV = signal_of(made.dicom(steps, padding=-(2**15), syntax=syntax, **how))
    wanted = steps * STEP_MV
    wanted[3, 700:720] = np.nan
    np.testing.assert_allclose(mV, wanted, atol=1e-5, rtol=0)


def test_a_deflated_object_takes_no_more_memory_than_a_record_may() -> None:
    """Facts are asked for without limits of memory, by many threads at once."""
    (bomb,) = [case for case in hospital_cases() if case.name == "dicom_bomb"]
    data = bomb.files[bomb.header]
    assert len(data) < 300_000
    code = (
        "import resource, sys; from screening.archive import formats; import pydicom; data = sys.stdin.buffer.read();"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; assert formats.facts(data) is None;"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    assert int(done.stdout) * 1024 < 2.5 * dicom.MAX_RECORD_BYTES


# --- Groups ----------------------------------------------------------------------------------------------------------


def part_of(group: pydicom.Dataset, rows: slice, times: int = 1) -> pydicom.Dataset:
    """Return a group with some of the leads, repeated in time."""
    part = copy.deepcopy(group)
    samples = np.frombuffer(group.WaveformData, "<i2").reshape(-1, 12)[:, rows]
    part.ChannelDefinitionSequence = Sequence(list(group.ChannelDefinitionSequence)[rows])
    part.NumberOfWaveformChannels, part.NumberOfWaveformSamples = samples.shape[1], times * len(samples)
    part.WaveformData = np.tile(samples, (times, 1)).tobytes()
    return part


def strip_of_one_lead(dataset: pydicom.Dataset, group: pydicom.Dataset) -> None:
    dataset.WaveformSequence.append(part_of(group, slice(1, 2), times=3))


def a_shorter_one_first(dataset: pydicom.Dataset, group: pydicom.Dataset) -> None:
    short = copy.deepcopy(group)
    short.NumberOfWaveformSamples, short.WaveformData = 2500, group.WaveformData[: 2500 * 24]
    dataset.WaveformSequence = Sequence([short, group])


def median_that_is_original_first(dataset: pydicom.Dataset, group: pydicom.Dataset) -> None:
    median = copy.deepcopy(group)
    median.MultiplexGroupLabel, median.SamplingFrequency = "Median Beat", "100"
    dataset.WaveformSequence = Sequence([median, group])


def four_groups_of_three(dataset: pydicom.Dataset, group: pydicom.Dataset) -> None:
    dataset.WaveformSequence = Sequence([part_of(group, slice(at, at + 3)) for at in (0, 3, 6, 9)])


def four_groups_at_one_time(dataset: pydicom.Dataset, group: pydicom.Dataset) -> None:
    four_groups_of_three(dataset, group)
    for each in dataset.WaveformSequence:
        each.MultiplexGroupTimeOffset = "40"


def rhythm_that_is_derived(_: object, group: pydicom.Dataset) -> None:
    group.WaveformOriginality = "DERIVED"


def all_skewed_alike(_: object, group: pydicom.Dataset) -> None:
    for channel in group.ChannelDefinitionSequence:
        channel.ChannelSampleSkew = None
        channel.ChannelTimeSkew = "0.00001"


@pytest.mark.parametrize(
    "edit",
    [
        strip_of_one_lead,
        a_shorter_one_first,
        median_that_is_original_first,
        four_groups_of_three,
        four_groups_at_one_time,
        rhythm_that_is_derived,
        all_skewed_alike,
    ],
)
def test_the_rhythm_strip_is_found(edit: Callable[[pydicom.Dataset, pydicom.Dataset], object]) -> None:
    data = edited(edit)
    np.testing.assert_allclose(signal_of(data), digital() * STEP_MV, atol=1e-5, rtol=0)
    facts = formats.facts(data)
    assert facts is not None
    assert (facts.rate_hz, facts.duration_s) == (500, 10)


def leads_in_turn(dataset: pydicom.Dataset, group: pydicom.Dataset) -> None:
    four_groups_of_three(dataset, group)
    for number, each in enumerate(dataset.WaveformSequence):
        each.MultiplexGroupTimeOffset = str(10_000 * number)


def short_leads_perhaps_in_turn(dataset: pydicom.Dataset, group: pydicom.Dataset) -> None:
    four_groups_of_three(dataset, group)
    for each in dataset.WaveformSequence:
        each.NumberOfWaveformSamples, each.WaveformData = 1250, each.WaveformData[: 1250 * 6]


@pytest.mark.parametrize("edit", [leads_in_turn, short_leads_perhaps_in_turn])
def test_leads_that_were_not_recorded_at_one_time_are_no_strip(
    edit: Callable[[pydicom.Dataset, pydicom.Dataset], object],
) -> None:
    got = decode("x", edited(edit), {})
    assert isinstance(got, Rejected)
    assert got.reason == Reason.MISSING_LEADS


# --- What is stated --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "code", "meaning", "qrs_ms"),
    [
        ("152", "ms", "5.13.5-9", "Durée QRS", 152),
        ("152", "ms", "2:16156", "", 152),
        ("152", "msec", "MDC_ECG_TIME_PD_QRS", "Ventricular depolarization duration", 152),
        ("0.152", "s", "x", "QRS Duration", 152),
        ("152", "ms", "x", "QRS Global Duration", 152),
        ("152", "ms", "5.10.2.5-5", "QTc Interval", None),
        ("152", "deg", "5.13.5-9", "QRS Duration", None),
        ("152", "ms", "5.10.3-13", "QRS Axis", None),
    ],
)
def test_the_qrs_duration_is_told_by_its_code_or_its_name(
    value: str, unit: str, code: str, meaning: str, qrs_ms: float | None
) -> None:
    def measured(dataset: pydicom.Dataset, _: object) -> None:
        note = dataset.WaveformAnnotationSequence[1]
        note.NumericValue, note.MeasurementUnitsCodeSequence[0].CodeValue = value, unit
        concept = note.ConceptNameCodeSequence[0]
        concept.CodeMeaning = meaning
        if len(code) <= 16:
            concept.CodeValue = code
        else:
            del concept.CodeValue
            concept.LongCodeValue = code

    facts = formats.facts(edited(measured))
    assert facts is not None
    assert facts.qrs_ms == (qrs_ms and pytest.approx(qrs_ms))


def test_an_age_that_is_not_stated_follows_from_the_birth_date() -> None:
    def no_age(dataset: pydicom.Dataset, _: object) -> None:
        del dataset.PatientAge
        dataset.PatientBirthDate = "19500204"  # of the day after

    facts = formats.facts(edited(no_age))
    assert facts is not None
    assert facts.age == 60


# --- What pydicom says -----------------------------------------------------------------------------------------------


def test_reading_at_once_changes_nothing_for_others_and_lets_nothing_out(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One thread begins while another reads, and ends after it."""
    data = file_of("dicom").replace(b"20110203080910", b"Sentinel 80910").replace(b"067Y", b"67 Y")
    began, done = threading.Event(), threading.Event()
    whole = pydicom.dcmread

    def read_by_turns(*arguments: Any, **more: Any) -> Any:
        if threading.current_thread() is later:
            began.set()
            done.wait(30)
        else:
            began.wait(30)
        return whole(*arguments, **more)

    def first() -> None:
        formats.facts(data)
        done.set()

    later = threading.Thread(target=formats.facts, args=[data])
    threads = [threading.Thread(target=first), later]
    before = logging.getLogger("pydicom").disabled
    monkeypatch.setattr(pydicom, "dcmread", read_by_turns)
    with caplog.at_level(logging.DEBUG), warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        warnings.warn("of somebody else", stacklevel=1)
    assert [str(one.message) for one in told] == ["of somebody else"]
    assert not [record for record in caplog.records if record.name.startswith("pydicom")]
    assert logging.getLogger("pydicom").disabled == before
