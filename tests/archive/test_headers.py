"""Facts from the comments of real WFDB headers."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from pathlib import Path

from screening.archive.facts import Facts
from screening.archive.headers import header_facts


def test_header_of_cinc2021(shared_data: Path) -> None:
    header = (shared_data / "wfdb_variants" / "cinc2021" / "JS20018.hea").read_bytes()
    expected = Facts(
        age=86.0,
        sex="male",
        statements=dict.fromkeys(("284470004", "427084000", "698252002")),
        rate_hz=500.0,
        duration_s=10.0,
    )
    assert header_facts(header, Counter()) == expected


def test_header_of_ptbdb_keeps_free_text_only_where_a_rule_names_it(shared_data: Path) -> None:
    header = (shared_data / "wfdb_variants" / "ptbdb" / "s0010_re.hea").read_bytes()
    base = Facts(acquired_at=datetime(1990, 10, 1), age=81.0, sex="female", rate_hz=1000.0, duration_s=38.4)
    assert header_facts(header, Counter()) == base
    named = header_facts(header, Counter(), statement_texts={"Myocardial infarction"})
    assert named.statements == {"Myocardial infarction": None}


def test_header_with_base_time_and_odd_values() -> None:
    unreadable: Counter[str] = Counter()
    facts = header_facts(
        b"r 12 500 5000 08:44:00 23/07/2180\nr.dat 16 200/mV 16 0 0 0 0 I\n"
        b"# <subject_id>: 0010\n#Age: NaN\n# Sex: ?\n# Dx: 426783006, Jane Doe\n",
        unreadable,
    )
    assert facts == Facts(
        patient_id="0010",
        acquired_at=datetime(2180, 7, 23, 8, 44),
        statements={"426783006": None},
        rate_hz=500.0,
        duration_s=10.0,
    )
    assert unreadable == {"sex": 1}
    assert header_facts(b"\xff\xfe\x00", Counter()) == Facts()
