"""SCP-ECG: however it is coded, with reference beats, and with any of its sections cut off behind right checksums."""

from __future__ import annotations

import struct
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from screening.archive.container import Refused
from screening.archive.facts import Facts
from screening.archive.formats import scp
from screening.archive.leads import Leads
from screening.archive.reader import decode
from tests import hospital_files as made
from tests.archive.formats.expected import STEP_MV, good, wanted
from tests.corpus.hospital_files import digital
from tests.people import PERSON
from tests.scp_files import scp_mended


@pytest.mark.parametrize("differences", [0, 1, 2])
@pytest.mark.parametrize("coded", [True, False])
def test_scp_however_it_is_coded(coded: bool, differences: int) -> None:
    got = good(decode("x", made.scp(digital(), coded=coded, differences=differences), {}))
    np.testing.assert_allclose(got.signal_mV, wanted("scp-ecg"), atol=1e-6, rtol=0)


@pytest.mark.parametrize("coded", [True, False])
def test_scp_reference_beats_are_added_where_they_were_subtracted(coded: bool) -> None:
    # The last one reaches over the end of the strip, the first stands at its beginning.
    data = made.scp(digital(), coded=coded, beats=(150, 700, 1400, 2222, 4850))
    assert data != made.scp(digital(), coded=coded)
    np.testing.assert_allclose(good(decode("x", data, {})).signal_mV, wanted("scp-ecg"), atol=1e-6, rtol=0)


@given(st.lists(st.integers(-30_000, 30_000), min_size=8, max_size=40), st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_every_number_comes_out_of_its_huffman_code(values: list[int], differences: int) -> None:
    steps = np.clip(np.tile(values, (12, 1)) // (4 if differences else 1), -8_000, 8_000)
    leads = scp.read(made.scp(steps, differences=differences, coded=True))
    np.testing.assert_array_equal(np.rint(leads.signal_mV[[0, 1, 6]] / STEP_MV), steps[[0, 1, 6]])


def cut(data: bytes, number: int, length: int) -> bytes:
    """Return a record that says of a section that it holds so many bytes, and whose checksums say so, too."""
    changed = bytearray(data)
    struct.pack_into("<I", changed, 6 + 16 + 10 * number + 2, 16 + length)
    return scp_mended(bytes(changed))


@pytest.mark.parametrize("length", [*range(24), 40, 90])
@pytest.mark.parametrize("number", range(1, 9))
def test_a_section_that_is_cut_off_is_a_reason_or_does_no_harm(number: int, length: int) -> None:
    """The fuzzer found a definition of leads without a byte, which was caught by the last line of defence only."""
    data = cut(made.scp(digital()[:, :1000], beats=(200, 700)), number, length)
    for reads in (scp.read, scp.facts):
        with suppress(Refused):
            assert isinstance(reads(data), Leads | Facts)
    if number in (3, 4, 5, 6):
        assert scp.facts(data).patient_id == PERSON.id
