"""Reports of what is left when patients were erased: as if they had never been there."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path

from screening.archive.catalog import Catalog, open_catalog
from screening.archive.forget import forget_in_catalog
from screening.report.assemble import Report, figures_for_machines, keep_release
from screening.run.bundles import store_bundle
from screening.run.current import refresh
from screening.run.forget import forget_in_runs
from screening.storage import Folder
from tests.published import publish_run, write_catalog
from tests.report.test_report import GOOD, bundle_with, identity, people, report


def screened(place: Path, *, without: Collection[str] = ()) -> tuple[Folder, Catalog]:
    """Return two runs, the second of everybody and the first of some, with shards of other sizes, and the catalog."""
    rows, results, _ = people(300)
    rows = [row for row in rows if row["patient_key"] not in without]
    runs, bundle = Folder(str(place / "runs")), bundle_with(place / "bundle", GOOD)
    store_bundle(runs, bundle)
    some = {"model": identity(bundle), "shard_records": 64}
    publish_run(runs, write_catalog(place / "catalog", rows[:200]), "run1", results, **some)
    refresh(runs)
    catalog = write_catalog(place / "catalog", rows)
    later = {name: row for name, row in results.items() if name >= "r00150"}
    publish_run(runs, catalog, "run2", results | later, **(some | {"shard_records": 100}))
    return runs, catalog


def erase(runs: Folder, catalog: Catalog, patients: Collection[str]) -> Catalog:
    forget_in_runs(runs, patient_keys=patients, at="now")
    forget_in_catalog(catalog, patient_keys=patients)
    return open_catalog(catalog.path)


def figures(of: Report) -> str:
    told = [block for block in of.document.blocks(object) if "Catalog" not in repr(block)]
    return json.dumps(figures_for_machines(of.findings), default=str) + "".join(map(repr, told))


def test_a_report_after_an_erasure_is_that_of_an_archive_without_those_patients(tmp_path: Path) -> None:
    gone = ["p0", "p3", "p100", "p101", "p150", "p299"]
    runs, catalog = screened(tmp_path / "with")
    catalog = erase(runs, catalog, gone)
    never = screened(tmp_path / "without", without=gone)
    assert figures(report(runs, catalog, exact=True, draws=500)) == figures(report(*never, exact=True, draws=500))


def test_what_was_released_before_stands_until_enough_has_changed(tmp_path: Path) -> None:
    """Two releases that differ by one patient would tell of that patient: the figures wait, and say so."""
    runs, catalog = screened(tmp_path)
    first = report(runs, catalog, draws=500)
    keep_release(runs, first)
    catalog = erase(runs, catalog, ["p3"])
    waiting = report(runs, catalog, draws=500)
    assert waiting.released.waits
    assert "Too few patients are new since the last release" in waiting.released.why
    keep_release(runs, waiting)
    assert all('"p3"' not in path.read_text() for path in Path(runs.url, "reports").iterdir())
