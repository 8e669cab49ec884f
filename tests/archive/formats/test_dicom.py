"""What DICOM allows: transfer syntaxes, kinds of samples, codes, groups; and that pydicom tells nobody what it reads."""

from __future__ import annotations

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

from screening.archive import formats
from screening.archive.formats import dicom
from screening.archive.reader import decode
from screening.recording import Recording
from tests import hospital_files as made
from tests.corpus.hospital import digital, file_of, hospital_cases

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
