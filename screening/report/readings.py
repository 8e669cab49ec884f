"""Readings of the sheets: what a reader's file says, and how far readers agree."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from screening.errors import UserError
from screening.report.document import Estimate
from screening.report.sampling import Stratum
from screening.report.validation import StratumReadings

INFARCT, NONE, UNREADABLE = "infarct", "none", "unreadable"
WORDS = (INFARCT, NONE, UNREADABLE)
COLUMNS = ("sheet", "reading", "certainty", "comment")
_FAULTS_SHOWN = 5


def parse_readings(data: bytes, sheets: int, name: str) -> dict[int, str]:
    """Return sheet number -> reading of a file that a reader filled in; sheets left empty are absent.

    Parameters
    ----------
    data
        CSV as spreadsheets write it: UTF-8 with or without a mark, comma, semicolon or tab.
    sheets
        How many there are.
    name
        Of the file, for messages.

    Raises
    ------
    UserError
        Naming the lines: an unknown sheet, one twice, a word that is no reading; or nothing is filled in.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8 text; save it as CSV (UTF-8) and import it again.") from None
    head = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=head.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    columns = [c.strip().lower() for c in next(rows, [])]
    if "sheet" not in columns or "reading" not in columns:
        raise UserError(f"{name} has no columns 'sheet' and 'reading' in its first line; fill in the file that came.")
    readings: dict[int, str] = {}
    lines: dict[int, int] = {}
    faults: list[str] = []
    try:
        for row in rows:
            line = rows.line_num
            cells = dict(zip(columns, (cell.strip() for cell in row), strict=False))
            if not any(cells.values()):
                continue
            fault = _take(cells, line, sheets, readings, lines)
            if fault:
                faults.append(f"line {line}: {fault}")
    except csv.Error as error:
        raise UserError(
            f"{name}, line {rows.line_num}: not CSV ({error}); save it as CSV and import it again."
        ) from None
    if faults:
        more = f"; and {len(faults) - _FAULTS_SHOWN} more" if len(faults) > _FAULTS_SHOWN else ""
        raise UserError(f"{name} cannot be imported: {'; '.join(faults[:_FAULTS_SHOWN])}{more}.")
    if not readings:
        raise UserError(f"{name} holds no reading; write {', '.join(WORDS[:-1])} or {WORDS[-1]} beside the sheets.")
    return readings


def _take(cells: Mapping[str, str], line: int, sheets: int, readings: dict[int, str], lines: dict[int, int]) -> str:
    """Add one row's reading; return what is wrong with it, or nothing."""
    stated, word = cells["sheet"], cells.get("reading", "").lower()
    number = int(stated) if stated.isascii() and stated.isdigit() else 0
    if not 1 <= number <= sheets:
        return f"there is no sheet {stated[:20]!r}, they are 1 to {sheets}"
    if number in lines:
        return f"sheet {number} stands in line {lines[number]} too"
    lines[number] = line
    if not word:
        return ""
    if word not in WORDS:
        return f"{word[:20]!r} is no reading, write {', '.join(WORDS[:-1])} or {WORDS[-1]}"
    readings[number] = word
    return ""


# --- Several readers -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Agreement:
    """How far two readers agree on the sheets that both have read."""

    readers: tuple[str, str]
    sheets: int
    raw: float  # share of sheets read alike
    kappa: Estimate


def agreement(one: Mapping[int, str], other: Mapping[int, str], readers: tuple[str, str]) -> Agreement | None:
    """Return raw agreement and Cohen's kappa (Educ Psychol Meas 20:37, 1960) over the three readings; None without overlap.

    The interval uses the large-sample variance of Fleiss, Cohen & Everitt (Psychol Bull 72:323, 1969). Kappa is of the
    drawn sheets, which hold more doubtful ECGs than the archive does. Where chance alone would agree wholly (all sheets
    have one reading) it is 1 by convention.
    """
    both = sorted(set(one) & set(other))
    if not both:
        return None
    table = np.zeros((len(WORDS), len(WORDS)))
    for sheet in both:
        table[WORDS.index(one[sheet]), WORDS.index(other[sheet])] += 1
    n = len(both)
    p = table / n
    row, column = p.sum(axis=1), p.sum(axis=0)
    raw, chance = float(np.trace(p)), float(row @ column)
    if chance >= 1 - 1e-12:
        return Agreement(readers, n, raw, Estimate(1.0, 1.0, 1.0))
    kappa = (raw - chance) / (1 - chance)
    on = (np.diag(p) * (1 - (row + column) * (1 - kappa)) ** 2).sum()
    both_ways = (column[:, None] + row[None, :]) ** 2
    off = (1 - kappa) ** 2 * (p * both_ways)[~np.eye(len(WORDS), dtype=bool)].sum()
    variance = (on + off - (kappa - chance * (1 - kappa)) ** 2) / (n * (1 - chance) ** 2)
    half = 1.959964 * float(np.sqrt(max(variance, 0.0)))
    return Agreement(readers, n, raw, Estimate(kappa, max(-1.0, kappa - half), min(1.0, kappa + half)))


def settle(
    readings: Sequence[Mapping[int, str]], adjudicated: Mapping[int, str] | None = None
) -> tuple[dict[int, str], dict[int, tuple[str, ...]]]:
    """Return the reading of each sheet, and the sheets that readers read differently and nobody has settled.

    A sheet that only some have read has their reading. An adjudicated reading stands above all.
    """
    settled: dict[int, str] = {}
    open_: dict[int, tuple[str, ...]] = {}
    for sheet in sorted(set().union(*readings)):
        words = tuple(r.get(sheet, "") for r in readings)
        found = set(words) - {""}
        if len(found) == 1:
            settled[sheet] = found.pop()
        else:
            open_[sheet] = words
    for sheet, word in (adjudicated or {}).items():
        settled[sheet] = word
        open_.pop(sheet, None)
    return dict(sorted(settled.items())), open_


def by_stratum(
    strata: Sequence[Stratum], stratum_of_sheet: Sequence[int], readings: Mapping[int, str]
) -> tuple[StratumReadings, ...]:
    """Count readings by stratum; ``stratum_of_sheet[i]`` is the stratum of sheet i + 1."""
    counts = np.zeros((len(strata), len(WORDS)), np.int64)
    for sheet, word in readings.items():
        counts[stratum_of_sheet[sheet - 1], WORDS.index(word)] += 1
    return tuple(StratumReadings(s, *row) for s, row in zip(strata, counts.tolist(), strict=True))
