"""What readers of results and reports rely on stays: the stored form of every version is held against what is written now.

A version may gain columns, keys and reasons. What is gone, renamed, of another type or no longer sure to be there needs a new
version: raise the number in the code, store the new form beside the old one, and say in docs/upgrading.md what readers do.
The present form is stored by ``python -m tests.schemas``; forms of earlier versions are never changed.
"""

from __future__ import annotations

import json
import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow.parquet as pq
import pytest

from screening.contract import RESULT_SCHEMA_VERSION
from screening.report.document import SCHEMA_VERSION as REPORT_VERSION
from screening.run.current import refresh
from screening.run.ledger import read_manifest
from screening.run.verify import faults
from screening.storage import Folder
from tests.conftest import PROJECT
from tests.schemas.forms import FOLDER, breaks, report_form, results_breaks, results_form

RESULTS = FOLDER / f"results-{RESULT_SCHEMA_VERSION}.json"
REPORT = FOLDER / f"report-{REPORT_VERSION}.schema.json"
RUN = FOLDER / f"run-{RESULT_SCHEMA_VERSION}"
STORE = "store the present form: python -m tests.schemas"


def stored(path: Path) -> dict[str, Any]:
    assert path.exists(), f"version {path.stem} is new; {STORE}, and describe it in docs/upgrading.md"
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def test_nothing_that_readers_of_results_use_has_changed() -> None:
    assert results_breaks(stored(RESULTS), results_form()) == []
    assert stored(RESULTS) == results_form(), f"something was added; {STORE}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda form: form["columns"].pop("probability"), "column probability is gone"),
        (lambda form: form["columns"].update(logit="double"), "column logit is double, and was float"),
        (lambda form: form["reasons"].remove("flat_lead"), "reason flat_lead is gone"),
        (lambda form: form["manifest"].remove("files"), "key files of the manifest is gone"),
    ],
)
def test_a_change_that_breaks_readers_of_results_is_found(change: Any, said: str) -> None:
    now = deepcopy(results_form())
    change(now)
    assert results_breaks(stored(RESULTS), now) == [said]


def test_nothing_that_readers_of_reports_use_has_changed() -> None:
    assert breaks(stored(REPORT), report_form()) == []
    assert stored(REPORT) == report_form(), f"something was added; {STORE}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s["properties"].pop("facts"), "facts is gone"),
        (lambda s: s["required"].remove("sections"), "sections may be missing"),
        (lambda s: s["$defs"]["interval"]["properties"]["low"].update(type="string"), "$defs/interval/low: type"),
        (lambda s: s["$defs"]["kind"]["enum"].append("ratio"), "$defs/kind: enum"),
        (lambda s: s["$defs"]["cell"]["anyOf"].append({"type": "boolean"}), "$defs/cell: anyOf"),
        (lambda s: s["$defs"].pop("table"), "$defs/table is gone"),
    ],
)
def test_a_change_that_breaks_readers_of_reports_is_found(change: Any, said: str) -> None:
    now = deepcopy(report_form())
    change(now)
    assert [fault for fault in breaks(stored(REPORT), now) if said in fault]


def test_what_is_added_or_explained_breaks_nobody() -> None:
    now = deepcopy(report_form())
    now["properties"]["language"] = {"type": "string"}
    now["$defs"]["interval"]["description"] = "Other words."
    assert breaks(report_form(), now) == []


def test_a_run_that_was_stored_is_read(tmp_path: Path) -> None:
    """A published run of this version, as it lay on a disk once: verified, indexed and read as a new one."""
    assert RUN.exists(), STORE
    runs = Folder(str(tmp_path))
    (stored_run,) = RUN.iterdir()
    shutil.copytree(stored_run, tmp_path / stored_run.name)
    run = runs.folder(stored_run.name)
    assert [fault.name for fault in faults(run)] == ["../models/bbbbbbbbbbbb"]  # of a bundle that never was
    assert [each.run_id for each in refresh(runs, memory_mb=256).indexed] == [stored_run.name]
    manifest = read_manifest(run) or {}
    assert manifest["schema_version"] == RESULT_SCHEMA_VERSION
    rows = [
        row
        for file in manifest["files"]
        for row in pq.read_table(tmp_path / stored_run.name / file["name"]).to_pylist()
    ]
    assert [(row["record_id"], row["status"], row["reason"], row["flagged"]) for row in rows] == [
        ("a", "scored", None, True),
        ("b", "rejected", "flat_lead", None),
        ("c", "scored", None, False),
    ]


def test_the_schema_that_ships_is_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(report_form())


def test_every_version_is_described() -> None:
    text = (PROJECT / "docs" / "upgrading.md").read_text()
    for path in (RESULTS, REPORT):
        kind, _, version = path.name.split(".")[0].partition("-")
        assert f"| {kind} | {version} |" in text
