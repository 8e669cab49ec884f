"""Review sheets: drawn ECGs on paper for readers who see nothing else, and the key that stays with the study's owner.

::

    DIR/key.json                  sheet -> record, stratum, inclusion probability; mode 0600, not for readers
    DIR/for_readers/
        instructions.txt          the question, in words
        sheets.html               a page a sheet, to look at or to print
        sheets/0001.png ...       12 leads on a clinical grid, without score, flag or identifier
        readings-1.csv ...        one to fill in for each reader
"""

from __future__ import annotations

import csv
import html
import io
import json
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from screening.contract import NOTICE
from screening.errors import UserError
from screening.recording import Recording, Rejected
from screening.report.readings import COLUMNS, WORDS
from screening.report.sampling import Sample, Stratum

KEY, FOR_READERS = "key.json", "for_readers"
KEY_SCHEMA_VERSION = 1

QUESTION = "Does this ECG show a myocardial infarction of any age: acute, recent or old?"
CRITERIA = (
    "infarct     You would report an infarction, definite or probable: for an old one pathological Q waves or QS complexes\n"
    "            in two leads of a group (I and aVL; V1-V6; II, III and aVF), a tall broad R in V1-V2 with an upright T in\n"
    "            posterior infarction; for an acute or recent one ST elevation and T waves that mean injury in such a group\n"
    "            (Fourth Universal Definition of Myocardial Infarction, 2018).\n"
    "none        Anything else, normal or not. Bundle branch block, hypertrophy, pre-excitation and pacing may imitate an\n"
    "            infarction: decide as you would in a report.\n"
    "unreadable  The recording is too poor to decide, or is not there."
)


@dataclass(frozen=True)
class Key:
    """What ties sheets to records, and the design that they were drawn by."""

    bundle_sha256: str
    model: str  # name and version
    threshold: float  # on the calibrated probability
    catalog_id: str
    index_rule: str
    seed: int
    question: str
    strata: tuple[Stratum, ...]
    record_id: tuple[str, ...]  # of sheet i + 1
    stratum: tuple[int, ...]  # of sheet i + 1


def key_of(sample: Sample, record_id: Sequence[str], **facts: Any) -> Key:
    """Return the key of a sample; ``record_id`` is of the drawn ones in order, ``facts`` are the key's other fields."""
    return Key(strata=sample.strata, record_id=tuple(record_id), stratum=tuple(sample.stratum.tolist()), **facts)


def write_sheets(
    folder: Path,
    key: Key,
    recordings: Iterable[Recording | Rejected],
    *,
    readers: int,
    lines: Sequence[str] | None = None,
    progress: Callable[[int], object] | None = None,
) -> int:
    """Write the key and everything that readers need; return how many sheets have no ECG because it cannot be read.

    Parameters
    ----------
    folder
        Absent or empty; it is made for its owner alone (mode 0700, files 0600).
    recordings
        Of each sheet, in order; consumed one at a time.
    readers
        Forms to fill in.
    lines
        A line below each sheet's number, e.g. age and sex; left out, nothing.
    progress
        Called after every sheet, with 1.

    Raises
    ------
    UserError
        The folder holds something.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} exists and is not an empty folder; name another one with --out.")
    place = folder / FOR_READERS
    for made in (folder, place, place / "sheets"):
        made.mkdir(parents=True, exist_ok=True)
        made.chmod(0o700)
    _write(folder / KEY, key_json(key))
    lost = []
    width_mm = 0.0
    for number, recording in enumerate(recordings, start=1):
        if isinstance(recording, Recording):
            picture = _drawn(recording, number, lines[number - 1] if lines else "")
            width_mm = _width_mm(picture)
            _write(place / _picture(number), picture)
        else:
            lost.append(number)
        if progress:
            progress(1)
    _write(place / "sheets.html", _page(len(key.record_id), set(lost), key.question, width_mm).encode())
    _write(place / "instructions.txt", _instructions(len(key.record_id), key.question).encode())
    for reader in range(1, readers + 1):
        _write(place / f"readings-{reader}.csv", form(range(1, len(key.record_id) + 1)))
    return len(lost)


def form(sheets: Iterable[int], columns: Sequence[str] = COLUMNS, cells: Sequence[Sequence[str]] = ()) -> bytes:
    """Return a CSV to be filled in: a row a sheet, with what is known already in ``cells`` beside its number."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for i, sheet in enumerate(sheets):
        known = list(cells[i]) if cells else []
        writer.writerow([sheet, *known, *[""] * (len(columns) - 1 - len(known))])
    return text.getvalue().encode()


# --- The key ---------------------------------------------------------------------------------------------------------


def key_json(key: Key) -> bytes:
    """Return the key as it is stored."""
    facts = {name: value for name, value in asdict(key).items() if name not in ("record_id", "stratum")}
    share = [s.sampled / s.patients for s in key.strata]
    sheets = [
        {"sheet": i, "record_id": record_id, "stratum": stratum, "inclusion_probability": share[stratum]}
        for i, (record_id, stratum) in enumerate(zip(key.record_id, key.stratum, strict=True), start=1)
    ]
    return json.dumps(
        {"notice": NOTICE, "schema_version": KEY_SCHEMA_VERSION, **facts, "sheets": sheets}, indent=1
    ).encode()


def read_key(folder: Path) -> Key:
    """Return the key of a folder of sheets.

    Raises
    ------
    UserError
        There is none, it is not readable for this user, or it is damaged.
    """
    path = folder / KEY
    try:
        facts = json.loads(path.read_bytes())
        if facts["schema_version"] != KEY_SCHEMA_VERSION:
            raise ValueError("another version")
        sheets = facts["sheets"]
        if [row["sheet"] for row in sheets] != list(range(1, len(sheets) + 1)):
            raise ValueError("sheets out of order")
        strata = tuple(Stratum(**row) for row in facts["strata"])
        stratum = tuple(int(row["stratum"]) for row in sheets)
        if [stratum.count(h) for h in range(len(strata))] != [s.sampled for s in strata]:
            raise ValueError("sheets that the design does not have")
        rest = {name: facts[name] for name in Key.__dataclass_fields__ if name in facts}
        return Key(
            **{**rest, "strata": strata, "record_id": tuple(row["record_id"] for row in sheets), "stratum": stratum}
        )
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(
            f"{folder} holds no {KEY}; name the folder that `screening validate sample --out` wrote."
        ) from None
    except (ValueError, KeyError, TypeError):
        raise UserError(f"{path} is damaged or of another version; restore it, or draw the sample again.") from None


# --- What readers see ------------------------------------------------------------------------------------------------


def _drawn(recording: Recording, number: int, line: str) -> bytes:
    from screening.report.ecg import ecg_plot

    return ecg_plot(recording.signal_mV, recording.rate_hz, head=[f"Sheet {number}", *([line] if line else [])])


def _width_mm(png: bytes) -> float:
    """Return how wide a PNG is on paper, by its pixels and its pixels a metre (PNG specification, IHDR and pHYs)."""
    at = png.index(b"pHYs") + 4
    return 1000 * int.from_bytes(png[16:20]) / int.from_bytes(png[at : at + 4])


def _picture(number: int) -> str:
    return f"sheets/{number:04d}.png"


def _write(path: Path, data: bytes) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(data)


def _instructions(sheets: int, question: str) -> str:
    return f"""{question}

There are {sheets} sheets in sheets.html, in random order: some of patients whom a program flagged, some of patients whom it
did not. Please read them alone, in order, and without looking for the patient elsewhere. The paper is 25 mm/s, 10 mm/mV.

Write one word a sheet into the column 'reading' of your own readings file:

{CRITERIA}

'certainty' and 'comment' are for your own notes and are not analysed. Leave a sheet empty that you have not read; part of
the sheets, read in order, is of use too. Save the file as CSV.

{NOTICE}
"""


_STYLE = """
body { font: 16px/1.4 system-ui, sans-serif; margin: 0 auto; max-width: 1150px; padding: 0 16px; color: #1a1a1a; }
section { border-top: 1px solid #bbb; padding: 12px 0; }
img { width: 100%%; height: auto; }
h2 { font-size: 1.1rem; margin: 0 0 4px; }
@media print {
  @page { size: A4 landscape; margin: 8mm; }
  body { max-width: none; padding: 0; }
  section { border: 0; break-before: page; break-inside: avoid; padding: 0; }
  img { width: %.1fmm; }  /* as drawn: 25 mm/s */
}
"""


def _page(sheets: int, lost: set[int], question: str, width_mm: float) -> str:
    words = ", ".join(WORDS[:-1]) + f" or {WORDS[-1]}"
    parts = []
    for number in range(1, sheets + 1):
        shown = (
            "<p>This recording cannot be drawn; write <b>unreadable</b>.</p>"
            if number in lost
            else f'<img src="{_picture(number)}" alt="12-lead ECG of sheet {number}" loading="lazy">'
        )
        parts.append(f'<section id="s{number}"><h2>Sheet {number} of {sheets}</h2>{shown}</section>')
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>Review sheets</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE % width_mm}</style></head><body><h1>Review sheets</h1>"
        f"<p><b>{html.escape(question)}</b> Write {words} into your readings file; instructions.txt says more. {NOTICE}</p>"
        + "\n".join(parts)
        + "</body></html>\n"
    )
