"""What headers say, in every form that header(5) allows."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from screening.archive.container import Refused
from screening.archive.wfdb_header import Header, Segment, comments, is_safe_path, looks_like_header, parse
from screening.contract import Reason


def one(line: str, first: str = "r 1 500 10") -> tuple:
    return parse(f"{first}\n{line}\n".encode()).signals[0]


@pytest.mark.parametrize(
    ("line", "rate_hz", "frames"),
    [
        ("r 1 500 5000", 500.0, 5000),
        ("r 1 500", 500.0, None),
        ("r 1 500 0", 500.0, None),
        ("r 1 257.5 100 12:00:00 01/02/2003", 257.5, 100),
        ("r 1 360/250 10", 360.0, 10),
        ("r 1 360/250.5(-3.5) 10 1:2:3.456", 360.0, 10),
        ("r 1 5e2 10", 500.0, 10),
        ("r 1 .5e3 10", 500.0, 10),
        ("a-b.c_d\t1\t500\t10", 500.0, 10),
    ],
)
def test_record_line(line: str, rate_hz: float, frames: int | None) -> None:
    header = parse(f"{line}\nr.dat 16\n".encode())
    assert (header.rate_hz, header.frames) == (rate_hz, frames)


@pytest.mark.parametrize(
    ("gain", "expected"),
    [  # gain, baseline, units
        ("200", (200.0, 7, None)),
        ("200/mV", (200.0, 7, "mV")),
        ("200(5)", (200.0, 5, None)),
        ("200(-5)/uV", (200.0, -5, "uV")),
        ("2.5e+02(0)/mV", (250.0, 0, "mV")),
        ("-200/mV", (-200.0, 7, "mV")),
        (".5/uV", (0.5, 7, "uV")),
        ("0", (0.0, 7, None)),
    ],
)
def test_gain_baseline_and_units(gain: str, expected: tuple[float, int, str | None]) -> None:
    signal = one(f"r.dat 16 {gain} 12 7 3 -4 0 V1")
    assert (signal.gain, signal.baseline, signal.units) == expected
    assert (signal.initial, signal.checksum, signal.lead) == (3, -4, "V1")


def test_storage_field() -> None:
    signal = one("r.dat 212x4:3+512 200 12 0 0 0 0 ii")
    assert (signal.format, signal.per_frame, signal.skew, signal.offset, signal.lead) == (212, 4, 3, 512, "II")


def test_defaults() -> None:
    signal = one("r.dat 16 200 12 9")
    assert (signal.per_frame, signal.skew, signal.offset, signal.baseline) == (1, 0, 0, 9)
    assert (signal.initial, signal.checksum, signal.lead) == (9, None, None)


def test_description_may_hold_spaces_and_numbers() -> None:
    assert one("r.dat 16 200 12 0 0 0 0 Lead II").lead == "II"
    assert one("r.dat 16 200 12 0 0 0 0 12 V1").lead is None
    assert one("r.dat 16 V1").lead == "V1"
    assert one("r.dat 16 200/mV 12 V1").lead == "V1"


def test_units_are_read_beside_comments_in_another_encoding() -> None:
    header = "r 1 500 10\nr.dat 16 200/\N{MICRO SIGN}V 12 0 0 0 0 I\n".encode() + b"# M\xfcller\n"
    assert parse(header).signals[0].units == "\N{MICRO SIGN}V"
    assert parse(header.replace(b"\xc2\xb5", b"\xb5")).signals[0].units == "\N{MICRO SIGN}V"


def test_comments() -> None:
    header = b"#before\r\nr 0 500\r\n  # Age: 63 \r\n#\r\n# M\xfcller\r\n# M\xc3\xbcller\r\n"
    assert comments(header) == ["before", "Age: 63", "", "M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller"] + [
        "M\N{LATIN SMALL LETTER U WITH DIAERESIS}ller"
    ]
    assert comments(b"") == []


def test_segments() -> None:
    header = parse(b"r/3 12 500 30\nr_1 10\n~ 5\nsub/r_2 15\n")
    assert header.segments == (Segment("r_1.hea", 10), Segment("~", 5), Segment("sub/r_2.hea", 15))


@pytest.mark.parametrize("name", ["a.dat", "sub/a.dat", "a..b", "...", "a b"])
def test_safe_paths(name: str) -> None:
    assert is_safe_path(name)


@pytest.mark.parametrize(
    "name",
    ["", "/a", "../a", "a/..", "a/../b", "a\\b", "C:a", "s3://a/b", "file::zip", "~/a", "~root/a", "-", "a\0b", "a\nb"]
    + ["a//b", "%2E%2e/a", "..%2fa", "..%5Ca", "x" * 256, "/".join(["x"] * 1000)],
)
def test_unsafe_paths(name: str) -> None:
    assert not is_safe_path(name)


@pytest.mark.parametrize("line", ["../x 16", "../x 16 nonsense(/ 1 2 3", "../x"])
def test_a_path_is_judged_before_the_rest_of_its_line(line: str) -> None:
    with pytest.raises(Refused) as refused:
        one(line)
    assert refused.value.reason == Reason.UNSAFE_PATH


@pytest.mark.parametrize("digits", ["1_0", "\N{ARABIC-INDIC DIGIT ONE}", "0x10", "1e3"])
def test_only_plain_digits_are_counts(digits: str) -> None:
    with pytest.raises(Refused, match="record line"):
        parse(f"r 0 500 {digits}\n".encode())


@given(st.binary(max_size=400))
def test_any_bytes_are_parsed_or_refused(data: bytes) -> None:
    comments(data)
    try:
        parse(data)
        detail = "fine" if looks_like_header(data) else "?"
    except Refused as refused:
        detail = refused.detail
    assert re.fullmatch(r"[\w ,.:'+-]+", detail)


LINE = st.tuples(
    st.sampled_from(["r.dat", "~", "../a", "a b"]),
    st.text("0123456789x:+-", max_size=12),
    st.text("0123456789.()/eE+-mVu", max_size=16),
    st.lists(st.integers(-(10**20), 10**20).map(str), max_size=6).map(" ".join),
    st.text(max_size=10),
).map(" ".join)


@given(st.text("0123456789/.( )e", max_size=30), st.lists(LINE, max_size=4))
def test_any_header_like_text_is_parsed_or_refused(first: str, lines: list[str]) -> None:
    data = "\n".join([f"r {first}", *lines]).encode(errors="replace")
    try:
        found: object = parse(data)
    except Refused as refused:
        found = refused.reason
    assert isinstance(found, Header | Reason)
