"""What readers filled in, and how far they agree."""

from __future__ import annotations

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa

from screening.errors import UserError
from screening.report.readings import (
    WORDS,
    agreement,
    by_stratum,
    parse_readings,
    settle,
)
from tests.report.test_validation import LIVER_SCANS

FILLED = b"sheet,reading,certainty,comment\n1,infarct,certain,\n2,none,,\n3,,,\n4,unreadable,,noise\n"


@pytest.mark.parametrize(
    "data",
    [
        FILLED,
        b"\xef\xbb\xbf" + FILLED,
        FILLED.replace(b",", b";"),
        FILLED.replace(b",", b"\t"),
        FILLED.replace(b"\n", b"\r\n"),
        FILLED.replace(b"infarct", b" Infarct "),
        b"comment,reading,sheet\n\n,infarct,1\n,none,2\nnoise,unreadable,0004\n,,\n",
        b'sheet,reading,comment\n1,infarct,"two\nlines, ""said"""\n2,none\n4,unreadable\n',
    ],
)
def test_a_file_is_read_as_spreadsheets_write_it(data: bytes) -> None:
    assert parse_readings(data, 5, "readings.csv") == {1: "infarct", 2: "none", 4: "unreadable"}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (
            FILLED.replace(b"4,unread", b"9,unread"),
            "readings.csv cannot be imported: line 5: there is no sheet '9', they",
        ),
        (FILLED.replace(b"4,unread", b"x,unread"), "line 5: there is no sheet 'x', they are 1 to 5"),
        (FILLED.replace(b"4,unread", b"-1,unread"), "line 5: there is no sheet '-1'"),
        (FILLED.replace(b"4,unread", b",unread"), "line 5: there is no sheet ''"),
        (FILLED.replace(b"4,unread", b"1,unread"), "line 5: sheet 1 stands in line 2 too"),
        (FILLED.replace(b"none", b"MI?"), "line 3: 'mi\\?' is no reading, write infarct, none or unreadable"),
        (FILLED.replace(b"none", b"x" * 500), f"line 3: '{'x' * 20}' is no reading"),
        (b"sheet,reading\n1,\n2,\n", "readings.csv holds no reading; write infarct, none or unreadable beside"),
        (b"", "readings.csv has no columns 'sheet' and 'reading' in its first line"),
        (b"number,word\n1,none\n", "has no columns 'sheet' and 'reading'"),
        (b"PK\x03\x04\xff\xfe", "readings.csv is not UTF-8 text; save it as CSV"),
        (b"sheet,reading\n" + b"7,none\n" * 8, "line 6: there is no sheet '7', they are 1 to 5; and 3 more"),
        (b'sheet,reading\n1,"' + b"a" * 200_000, "readings.csv, line .*: not CSV"),
    ],
)
def test_what_is_wrong_in_a_file_is_said_with_its_lines(data: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        parse_readings(data, 5, "readings.csv")


# --- Agreement -------------------------------------------------------------------------------------------------------


def test_kappa_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    one = {i: WORDS[rng.choice(3, p=(0.3, 0.6, 0.1))] for i in range(1, 151)}
    other = {i: word if rng.random() < 0.8 else WORDS[rng.integers(3)] for i, word in one.items() if i % 10}
    table = np.zeros((3, 3))
    for sheet, word in other.items():
        table[WORDS.index(one[sheet]), WORDS.index(word)] += 1
    expected = cohens_kappa(table)
    found = agreement(one, other, ("a", "b"))
    assert found is not None
    assert found.sheets == 135
    assert found.raw == np.trace(table) / 135
    assert found.kappa.value == pytest.approx(expected.kappa)
    assert (found.kappa.low, found.kappa.high) == pytest.approx((expected.kappa_low, expected.kappa_upp))


def test_kappa_where_all_agree_and_where_nobody_overlaps() -> None:
    alike = agreement({1: "none", 2: "none"}, {1: "none", 2: "none"}, ("a", "b"))
    assert alike is not None
    assert (alike.raw, alike.kappa.value) == (1.0, 1.0)
    assert agreement({1: "none"}, {2: "none"}, ("a", "b")) is None


def test_disagreements_wait_for_a_third_reading() -> None:
    one = {1: "infarct", 2: "none", 3: "none", 5: "unreadable"}
    two = {1: "infarct", 2: "infarct", 4: "none", 5: "none"}
    settled, still_open = settle([one, two])
    assert settled == {1: "infarct", 3: "none", 4: "none"}
    assert still_open == {2: ("none", "infarct"), 5: ("unreadable", "none")}
    settled, still_open = settle([one, two], {2: "infarct"})
    assert settled == {1: "infarct", 2: "infarct", 3: "none", 4: "none"}
    assert list(still_open) == [5]


def test_readings_are_counted_by_stratum() -> None:
    strata = [s.stratum for s in LIVER_SCANS.strata]
    counted = by_stratum(strata, [0, 1, 1, 0, 1], {1: "none", 2: "infarct", 3: "infarct", 5: "unreadable"})
    assert [(s.infarct, s.none, s.unreadable) for s in counted] == [(0, 1, 0), (2, 0, 1)]
