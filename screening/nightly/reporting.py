"""The report of a night, made only where something has changed since it was made last."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import screening
from screening.archive.catalog import Catalog
from screening.archive.root import without_credentials
from screening.contract import sha256_of
from screening.nightly.record import DriftFigure, drift_figures
from screening.nightly.screening import Work
from screening.report.assemble import release_made_from
from screening.report.standardise import ReferencePopulation, load_reference_population
from screening.report.write import Written, facts_of, write_all
from screening.run.current import Current
from screening.storage import Folder


@dataclass(frozen=True)
class Reported:
    """The report that stands at the end of a night."""

    made: bool  # tonight
    waits: bool = False
    figures: dict[str, float] = field(default_factory=dict)
    drift: tuple[DriftFigure, ...] = ()


def report(work: Work, catalog: Catalog, current: Current, *, today: date) -> Reported:
    """Make the report of all that stands, unless it would be the one that was made last."""
    settings = work.settings
    place = Folder(settings.report, work.storage_options).absolute()
    population = load_reference_population(
        Path(settings.reference_population) if settings.reference_population else None
    )
    key = _key(work, catalog, current, population, place)
    last = work.book.last_report()
    if last is not None and last["key"] == key and place.exists("report.html"):
        # A night may have ended without a word when its report was written, but what it released was not yet noted.
        noted = release_made_from(work.runs, catalog, settings=settings.reporting, population=population)
        if noted == key or last["waits"] or settings.reporting.exact:
            by_now = last.get("night") == work.night_id
            return Reported(by_now, last["waits"], last["figures"], _drift(place) if by_now else ())
    where = {"out": without_credentials(place.url), "catalog_id": catalog.catalog_id}
    work.record("report.started", where | {"worklist": settings.worklist})  # before patients are listed anywhere

    def note(written: Written) -> None:
        if settings.mlflow:
            work.book.note_untold("report", {**facts_of(written), "place": place.url})
        waits = written.report.released.waits
        work.book.note_report({"key": key, "waits": waits, "figures": dict(written.figures), "night": work.night_id})

    written = write_all(
        current,
        catalog,
        place,
        settings=settings.reporting,
        population=population,
        today=today,
        worklist=settings.worklist,
        made_from=key,
        storage_options=work.storage_options,
        on_stage=work.on_stage,
        on_written=note,
    )
    work.record("report.made", where | {"run_ids": [run.run_id for run in current.indexed]})
    if written.worklist is not None:
        work.record("worklist.exported", where | {"patients_at_most": settings.reporting.worklist_patients})
    return Reported(True, written.report.released.waits, dict(written.figures), _drift(place))


def _key(work: Work, catalog: Catalog, current: Current, population: ReferencePopulation, place: Folder) -> str:
    """Return the hash of all that the report is made from, but the day."""
    readings = {
        name: hashlib.sha256(work.runs.read(f"validations/{name}")).hexdigest()
        for name in work.runs.names("validations")
    }
    made_from: list[Any] = [
        screening.__version__,
        catalog.catalog_id,
        [(run.run_id, run.manifest_sha256) for run in current.indexed],
        [current.forgotten_records, current.forgotten_patients],
        work.settings.reporting.model_dump(mode="json"),
        asdict(population),
        [place.url, work.settings.worklist],
        readings,
    ]
    return sha256_of(made_from)


def _drift(place: Folder) -> tuple[DriftFigure, ...]:
    return drift_figures(json.loads(place.read("report.json")))
