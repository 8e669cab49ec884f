"""The private list of flagged patients: who is to be looked at, in the order of probability, with ECGs.

::

    DIR/worklist.csv            every flagged patient, a row each
    DIR/worklist.html           the first of them with their ECGs, and where to find the others
    DIR/worklist-002.html ...   further pages

It holds rows about single patients and so has no place beside shareable outputs: the folder has mode 0700, files 0600. Rows
are streamed; of the ECGs one is in memory at a time.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from markupsafe import Markup

from screening.archive.reader import ArchiveReader
from screening.contract import LEADS, NOTICE, RESULT_COLUMNS, TERRITORIES, Status
from screening.errors import in_words
from screening.recording import Recording
from screening.report.amplitudes import measured
from screening.report.explained import MOST_LEADING, explanation_of, how_to_read
from screening.report.facts import Joined, told
from screening.report.patient import (
    ModelBehind,
    catalogued,
    describe,
    draw,
    inline,
    model_behind,
    pages,
    person,
    probability_words,
    read_as_scored,
)
from screening.report.render import harmless
from screening.storage import Folder

PATIENTS_A_PAGE, ROWS_A_PAGE = 25, 500
MOST_LISTED = 10_000
"""Patients on HTML pages without an ECG; beyond, they are in the CSV only."""
BATCH_ROWS = 10_000
MOST_FAILURES = 3
"""Of storage; then no further ECG is asked for, because each may take minutes to fail."""

_COLUMNS = [
    name
    for name, *_ in RESULT_COLUMNS
    if name not in ("status", "reason", "detail", "flagged", "input_contract_sha256")
]
CSV_COLUMNS = (
    "rank",
    *("record_id", "patient_key", "acquired_at", "age", "sex", "site", "device", "probability", "logit"),
    *("threshold", "leading_territory", "findings", "leading_leads"),
    *(f"territory_{wall}" for wall in TERRITORIES),
    *(f"territory_se_{wall}" for wall in TERRITORIES),
    "territory_donors",
    *(f"importance_{lead}" for lead in LEADS),
    *("importance_se", "importance_donors", "quality_flags", "duration_s", "record_sha256"),
    *("model_name", "model_version", "bundle_sha256", "run_id", "ecg"),
)
"""Of worklist.csv. ``ecg`` is where the ECG stands, or why it does not."""


@dataclass(frozen=True)
class Worklist:
    """What was written."""

    patients: int  # flagged
    listed: int  # of them, in the CSV
    drawn: int
    lost: int  # ECGs that were to be drawn and could not be read
    csv: str  # paths
    html: str


@dataclass(frozen=True)
class Entry:
    """A patient on a page."""

    rank: int
    record_id: str
    probability: str
    acquired: str
    person: str
    territory: str
    findings: str
    leads: str
    said: list[tuple[str, str]] = field(default_factory=list)
    svg: Markup | None = None
    lost: str = ""

    @property
    def anchor(self) -> str:
        """Id of the patient's section or row."""
        return f"r{self.rank}"


def write_worklist(
    folder: Folder,
    of: Joined,
    *,
    plots: int = 50,
    patients: int = 100_000,
    storage_options: dict[str, Any] | None = None,
    progress: Callable[[int], object] | None = None,
) -> Worklist:
    """Write the flagged index ECGs of a population, one a patient, by the same rules as the report.

    Parameters
    ----------
    folder
        Of the worklist alone; what an earlier worklist left there is replaced. Modes hold on local disks: elsewhere the
        store decides who reads it.
    of
        The population.
    plots
        ECGs drawn, the highest probabilities first.
    patients
        Listed at most, the highest probabilities first; what is left out is said.
    storage_options
        Of the archive.
    progress
        Called after every ECG, with 1.

    Raises
    ------
    UserError
        Results cannot be read.
    """
    current, catalog, frame = of.current, of.catalog, of.frame
    if folder.is_local:
        os.makedirs(folder.path(""), mode=0o700, exist_ok=True)
        os.chmod(folder.path(""), 0o700)
    with told(current):
        db = of.db
        flagged = int(db.execute("SELECT count(*) FROM picked WHERE once AND flagged").fetchall()[0][0])
        _list_flagged(db, patients)
        total = min(flagged, patients)
        detailed = min(plots, total)
        models = _models(db)
        behind = {sha256: model_behind(current.runs, sha256) for sha256 in models}
        for sha256, model in models.items():
            model["threshold"] = behind[sha256].threshold
        first = db.execute("SELECT record_id FROM worklist ORDER BY rank LIMIT ?", [detailed]).fetchall()
        held = catalogued(catalog, [record_id for (record_id,) in first], with_location=True)
        places = {record_id: str(row["location"]) for record_id, row in held.items()}
        artist = _Artist(ArchiveReader(catalog.root_url, storage_options), places, behind, progress)
        facts: dict[str, Any] = {"models": models, "rule": frame.index_rule, "since": frame.since, "until": frame.until}
        facts["flagged"] = flagged
        book = _Book(folder, total, detailed, facts)
        with folder.writer("worklist.csv") as file:
            text = io.TextIOWrapper(file, encoding="utf-8", newline="", write_through=True)
            writer = csv.writer(text, lineterminator="\r\n")
            writer.writerow(CSV_COLUMNS)
            for batch in _batches(db):
                start = batch["rank"][0].as_py()
                ecg = [""] * batch.num_rows
                for at, row in enumerate(batch.slice(0, max(0, book.shown - start + 1)).to_pylist()):
                    entry = artist.entry(start + at, {**row, "status": Status.SCORED, "flagged": True}, detailed)
                    ecg[at] = f"{page_name(book.page)}#{entry.anchor}" if entry.svg else entry.lost
                    book.add(entry)
                writer.writerows(_csv_rows(batch, models, ecg))
            text.flush()
            text.detach()
        book.close()
    return Worklist(flagged, total, artist.drawn, artist.lost, folder.path("worklist.csv"), folder.path(page_name(1)))


def page_name(number: int) -> str:
    """Return the name of a page: the first is worklist.html."""
    return "worklist.html" if number == 1 else f"worklist-{number:03d}.html"


# --- Rows ------------------------------------------------------------------------------------------------------------


def _list_flagged(db: Any, most: int) -> None:
    """Make ``worklist``: the rows of the highest flagged index ECGs with their rank."""
    columns = ", ".join(_COLUMNS)
    db.execute(f"""
        CREATE OR REPLACE TABLE worklist AS
        SELECT row_number() OVER (ORDER BY probability DESC, record_id) AS rank, {columns}
        FROM results WHERE flagged AND pos IN (SELECT pos FROM picked WHERE once)
        ORDER BY rank LIMIT {int(most)}""")


def _batches(db: Any) -> Iterator[pa.RecordBatch]:
    columns = ", ".join(_COLUMNS)
    reader = db.sql(f"SELECT rank, {columns} FROM worklist ORDER BY rank").to_arrow_reader(BATCH_ROWS)
    return (batch for batch in reader if batch.num_rows)


def _models(db: Any) -> dict[str, dict[str, Any]]:
    """Return bundle_sha256 -> name, version and patients, of the bundles behind the rows."""
    found = db.execute("""
        SELECT bundle_sha256, any_value(model_name), any_value(model_version), count(*) FROM worklist
        GROUP BY 1 ORDER BY 4 DESC, 1""").fetchall()
    return {sha256: {"name": name, "version": version, "patients": n} for sha256, name, version, n in found}


def _csv_rows(
    batch: pa.RecordBatch, models: Mapping[str, Mapping[str, Any]], ecg: list[str]
) -> Iterator[tuple[Any, ...]]:
    """Return the rows of a batch, made by column: there may be a million."""
    importance = np.column_stack([batch[f"importance_{lead}"].to_numpy(zero_copy_only=False) for lead in LEADS])
    order = np.argsort(-importance, axis=1, kind="stable")[:, :MOST_LEADING]
    above = np.take_along_axis(importance, order, axis=1) > 0
    columns: dict[str, list[Any]] = {
        name: _cells(values.to_pylist()) for name, values in zip(batch.schema.names, batch.columns, strict=True)
    }
    columns["threshold"] = _cells([models[sha256]["threshold"] for sha256 in columns["bundle_sha256"]])
    columns["acquired_at"] = ["" if at is None else at.isoformat(sep=" ") for at in batch["acquired_at"].to_pylist()]
    columns["leading_leads"] = [
        " ".join([LEADS[lead] for lead, speaks in zip(*both, strict=True) if speaks])
        for both in zip(order.tolist(), above.tolist(), strict=True)
    ]
    columns["ecg"] = _cells(ecg)
    return zip(*(columns[name] for name in CSV_COLUMNS), strict=True)


def _cells(values: list[Any]) -> list[Any]:
    """Return values of one kind as they stand in the CSV: no formula, six digits, nothing for what is not known."""
    kind = next((type(value) for value in values if value is not None), None)
    if kind is str:
        return [value if not value or value.isalnum() else _harmless(value) for value in values]
    if kind is float:
        return ["" if value is None or value != value else f"{value:.6g}" for value in values]
    return values


_harmless = lru_cache(4096)(harmless)  # names of sites, devices and models come again and again


# --- ECGs ------------------------------------------------------------------------------------------------------------


class _Artist:
    """Makes entries, with the ECG where it is asked for and can be read."""

    def __init__(
        self,
        reader: ArchiveReader,
        places: Mapping[str, str],
        models: Mapping[str, ModelBehind],
        progress: Callable[[int], object] | None,
    ) -> None:
        self._reader, self._places, self._models, self._progress = reader, places, models, progress
        self._failures = self.drawn = self.lost = 0

    def entry(self, rank: int, row: Mapping[str, Any], most_detailed: int) -> Entry:
        explanation = explanation_of(row)
        model = self._models[row["bundle_sha256"]]
        more: dict[str, Any] = {}
        detailed = rank <= most_detailed
        if detailed:
            found = self._read(row)
            if isinstance(found, Recording):
                self.drawn += 1
                windows = measured(found, model.preprocessing).windows if "wave" in explanation.parts else {}
                more["svg"] = inline(draw(row, found, model.threshold, windows=windows, form="svg", rank=rank))
            else:
                self.lost += 1
                more["lost"] = found
            if self._progress:
                self._progress(1)
        return Entry(
            rank=rank,
            record_id=row["record_id"],
            probability=probability_words(row["probability"]),
            acquired="" if row["acquired_at"] is None else f"{row['acquired_at']:%Y-%m-%d}",
            person=person(row),
            territory=explanation.leading_words,
            findings=explanation.findings or "",
            leads=", ".join(explanation.leading_leads),
            said=describe(row, model.threshold) if detailed else [],
            **more,
        )

    def _read(self, row: Mapping[str, Any]) -> Recording | str:
        if self._failures >= MOST_FAILURES:
            return "the archive cannot be reached"
        try:
            return read_as_scored(self._reader, self._places.get(row["record_id"]), row)
        except Exception as error:  # of storage: the list is of use without this ECG
            self._failures += 1
            return f"the archive could not be read ({in_words(error)})"


# --- Pages -----------------------------------------------------------------------------------------------------------


class _Book:
    """Writes the pages as their entries come; no more than one page is in memory."""

    def __init__(self, folder: Folder, total: int, detailed: int, facts: Mapping[str, Any]) -> None:
        self._folder, self._facts = folder, facts
        self.total = total
        self.shown = min(total, detailed + MOST_LISTED)
        self._ends = [min(end + PATIENTS_A_PAGE, detailed) for end in range(0, detailed, PATIENTS_A_PAGE)]
        self._ends += [min(end + ROWS_A_PAGE, self.shown) for end in range(detailed, self.shown, ROWS_A_PAGE)]
        self._ends = self._ends or [0]
        self._page, self._held, self._written = 1, list[Entry](), set[str]()

    @property
    def page(self) -> int:
        """Number of the page on which the next entry stands."""
        return self._page

    def add(self, entry: Entry) -> None:
        self._held.append(entry)
        if entry.rank == self._ends[self._page - 1] and entry.rank < self.shown:
            self._write()
            self._page += 1

    def close(self) -> None:
        """Write the last page, and remove those of an earlier, longer list."""
        self._write()
        for name in self._folder.names():
            if re.fullmatch(r"worklist-\d{3,}\.html", name) and name not in self._written:
                self._folder.remove(name)

    def _write(self) -> None:
        starts = [1, *(end + 1 for end in self._ends[:-1])]
        page = (
            pages()
            .get_template("worklist.html")
            .render(
                notice=NOTICE,
                how_to_read=how_to_read(("territory", "wave", "lead")),
                number=self._page,
                pages=[
                    (page_name(at), a, b) for at, (a, b) in enumerate(zip(starts, self._ends, strict=True), start=1)
                ],
                entries=self._held,
                detailed=bool(self._held and self._held[0].said),
                total=self.total,
                shown=self.shown,
                **self._facts,
            )
        )
        self._folder.write(page_name(self._page), page.encode())
        self._written.add(page_name(self._page))
        self._held = []
