"""What EDF allows: zero stored as another number, files never closed, EDF+D without a gap, and patients in its fields."""

from __future__ import annotations

import numpy as np
import pytest

from screening.archive import formats
from screening.archive.reader import decode
from screening.recording import Recording
from tests import hospital_files as made
from tests.corpus.hospital_files import digital, file_of

STEP_MV = made.STEP_UV / 1000
GOOD, ANNOTATED = file_of("edf"), made.edf(digital(), is_annotated=True)


@pytest.mark.parametrize(
    "data",
    [
        made.edf(digital(), zero_at=300),
        GOOD[:236] + b"-1      " + GOOD[244:],
        ANNOTATED,
        ANNOTATED.replace(b"EDF+C", b"EDF+D", 1),
    ],
    ids=["zero", "never closed", "annotated", "contiguous"],
)
def test_a_tracing_comes_out_however_it_is_stored(data: bytes) -> None:
    got = decode("x", data, {})
    assert isinstance(got, Recording), got
    np.testing.assert_allclose(got.signal_mV, digital() * STEP_MV, atol=1e-5, rtol=0)
    facts = formats.facts(data)
    assert facts is not None
    assert facts.duration_s == 10


@pytest.mark.parametrize(
    ("field", "patient_id", "sex", "age"),
    [
        ("4711-P M 02-JAN-1944 Sentinel_Person", "4711-P", "male", 67),
        ("4711-P F 02-Jan-1944 Sentinel", "4711-P", "female", 67),
        ("4711-P M 02-FOO-1944 Sentinel", "4711-P", "male", None),
        ("X M X Sentinel", None, "male", None),
        ("4711-P", "4711-P", None, None),
        ("4711-P Sentinel Person 02.01.1944", "4711-P", None, None),
        ("Sentinel Person", None, None, None),
        ("anonymous", None, None, None),
        ("", None, None, None),
    ],
)
def test_who_the_patient_is(field: str, patient_id: str | None, sex: str | None, age: float | None) -> None:
    facts = formats.facts(GOOD[:8] + field.encode().ljust(80) + GOOD[88:])
    assert facts is not None
    assert (facts.patient_id, facts.sex, facts.age) == (patient_id, sex, age)
