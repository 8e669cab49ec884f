"""Who the ECGs of tests are of: everything about a person that formats hold, none of which may come out again."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True)
class Person:
    """A patient, and what is written of one beside an ECG. Sites and devices are carried on purpose, and stand elsewhere."""

    id: str = "4711-P"
    surname: str = "Sentinel"
    given_name: str = "Person"
    born: date = date(1944, 1, 2)
    physician: str = "Sentinel-Doctor"
    operator: str = "Sentinel-Nurse"
    institution: str = "Sentinel-Ward"  # ward, department, address: where no column is filled from it
    remark: str = "a Sentinel remark"
    statement: str = ""  # a sentence of the interpretation, beside that of the machine

    @property
    def born_in_words(self) -> str:
        """The birth date as EDF+ writes it."""
        return self.born.strftime("%d-%b-%Y").upper()


PERSON = Person()
