"""Records of every supported kind, and broken and hostile ones; archives and tables that attack; deterministic, no tests.

``valid_cases()`` must be read, ``broken_cases()`` be refused by the reader with the reason each case names, and
``poor_cases()`` pass the reader and be refused by the quality check. ``write(cases, folder)`` makes an archive of them.
What is more than one record stands in `tests.hostile_archives`.
"""

from __future__ import annotations

from tests.corpus.broken import broken_files
from tests.corpus.case import Case, write
from tests.corpus.good import poor_cases, valid_cases
from tests.corpus.hospital import hospital_cases
from tests.corpus.hostile import hostile_files

__all__ = ["Case", "all_cases", "broken_cases", "poor_cases", "valid_cases", "write"]


def broken_cases() -> list[Case]:
    """Return records that the reader must refuse, each with its reason and a pattern of its message."""
    return [*broken_files(), *hostile_files(), *hospital_cases()]


def all_cases() -> list[Case]:
    """Return every case; their names are unique."""
    return [*valid_cases(), *broken_cases(), *poor_cases()]
