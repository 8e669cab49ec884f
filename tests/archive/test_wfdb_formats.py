"""Every storage format against encoders written from signal(5), and against wfdb's writer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from screening.archive.container import container_of, matlab4_matrix
from screening.archive.wfdb import decode
from screening.archive.wfdb_formats import BITS, FLAC, bytes_of, flac_claims, missing_value, samples, samples_in
from screening.archive.wfdb_header import Signal
from screening.contract import LEADS, Reason
from screening.recording import Recording, Rejected
from tests import wfdb_files
from tests.archive import reference

BARE = [fmt for fmt in BITS if fmt not in FLAC]


def signals(leads: int, per_frame: int = 1, initial: tuple[int, ...] | None = None) -> list[Signal]:
    start = initial or (0,) * leads
    return [Signal("r.dat", 16, per_frame, 0, 0, 1.0, 0, "mV", start[i], None, LEADS[i]) for i in range(leads)]


@pytest.mark.parametrize("fmt", BARE)
@pytest.mark.parametrize("frames", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("leads", [1, 3])
def test_every_length_of_every_format_comes_back(fmt: int, frames: int, leads: int) -> None:
    top = 100 if fmt == 8 else (1 << BITS[fmt] - 1) - 1
    digital = np.random.default_rng(fmt).integers(-top // 2, top // 2, (leads, frames))
    digital[0, -1] = top // 2 if fmt == 8 else top
    stored = wfdb_files.encode(fmt, digital)
    assert bytes_of(fmt, frames * leads) <= len(stored)
    assert samples_in(fmt, bytes_of(fmt, frames * leads)) >= frames * leads
    got = samples(fmt, b"head" + stored, 4, frames, signals(leads, initial=tuple(digital[:, 0].tolist())), 500.0)
    np.testing.assert_array_equal(got, digital.T)


@pytest.mark.parametrize(
    ("fmt", "stored", "expected"),
    [  # by hand from the definitions in signal(5)
        (16, "0080ff7f", [-32768, 32767]),
        (61, "80007fff", [-32768, 32767]),
        (160, "0000ffff", [-32768, 32767]),
        (80, "0080ff", [-128, 0, 127]),
        (212, "01f802", [-2047, -254]),  # 0x801 and 0xf02 in 12 bits
        (24, "010080ffffff", [-8388607, -1]),
        (32, "00000080ffffff7f", [-(2**31), 2**31 - 1]),
    ],
)
def test_literal_bytes(fmt: int, stored: str, expected: list[int]) -> None:
    got = samples(fmt, bytes.fromhex(stored), 0, len(expected), signals(1), 500.0)
    assert got.ravel().tolist() == expected


def test_missing_is_the_lowest_value() -> None:
    assert [missing_value(fmt) for fmt in (16, 212, 80, 24, 32)] == [-32768, -2048, -128, -(2**23), -(2**31)]
    assert missing_value(8) is None


@pytest.mark.parametrize("fmt", ["80", "212", "16", "24", "32", "508", "516", "524"])
def test_what_wfdb_writes_is_read_with_the_same_samples(fmt: str, tmp_path: Path) -> None:
    gain = {"80": 50.0, "508": 50.0, "212": 300.0}.get(fmt, 1000.0)
    digital = wfdb_files.ecg(1001, gain=gain)
    if fmt != "508":
        digital[3, 17:20] = missing_value(int(fmt))
    reference.write(tmp_path, fmt, digital, gain, 3, list(LEADS))
    physical = reference.read(tmp_path / "r.hea").p_signal.T
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    recording = decode("x", files.pop("r.hea"), files)
    assert isinstance(recording, Recording), recording
    assert recording.source_format == f"wfdb-{fmt}"
    np.testing.assert_array_equal(recording.signal_mV, physical.astype(np.float32))
    assert np.isnan(recording.signal_mV[3, 17:20]).all() == (fmt != "508")


def test_flac_claims_are_checked_before_decoding() -> None:
    stream = wfdb_files.encode(516, wfdb_files.ecg(800)[:8])  # FLAC holds eight channels at most
    claims = flac_claims(stream)
    assert claims is not None
    assert claims == (8, 16, 800)
    lines = [f"r.dat 516 1000/mV 16 0 0 0 0 {lead}" for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")]

    def result(frames: int, n: int = 8) -> Recording | Rejected:
        return decode("x", "\n".join([f"r {n} 500 {frames}", *lines[:n]]).encode(), {"r.dat": stream})

    assert result(801) == Rejected("x", Reason.TRUNCATED, "a signal file holds 6400 of the 6408 samples claimed",
                                   result(801).sha256, "wfdb")  # fmt: skip
    seven = result(800, 7)
    assert isinstance(seven, Rejected)
    assert (seven.reason, seven.detail) == (Reason.BAD_HEADER, "the FLAC file has 8 channels, the header 7")


def test_flac_that_lies_about_its_length_is_refused() -> None:
    stream = bytearray(wfdb_files.encode(516, wfdb_files.ecg(800)[:8]))
    stream[22:26] = (5000).to_bytes(4)  # total samples in the stream's first block
    lines = [f"r.dat 516 1000/mV 16 0 0 0 0 {lead}" for lead in ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")]
    got = decode("x", "\n".join(["r 8 500 5000", *lines]).encode(), {"r.dat": bytes(stream)})
    assert isinstance(got, Rejected)
    assert got.reason == Reason.UNDECODABLE


def test_matlab_matrix_is_recognised_only_when_the_file_is_exactly_one() -> None:
    data = wfdb_files.matlab(wfdb_files.ecg(50))
    assert matlab4_matrix(data) == (12, 50, 2, 24)
    assert matlab4_matrix(data[:-1]) is None
    assert matlab4_matrix(wfdb_files.encode(16, wfdb_files.ecg(50))) is None
    assert matlab4_matrix(b"") is None


@pytest.mark.parametrize("data", [b"", b"r 12 500 5000\n", bytes(200), b"<3"])
def test_no_container_is_seen_where_there_is_none(data: bytes) -> None:
    assert container_of(data) is None
