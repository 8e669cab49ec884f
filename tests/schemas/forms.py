"""The form of results and reports as written now, and what of an older form a newer one breaks."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from screening.contract import Reason, Status, result_schema
from screening.storage import Folder
from tests.published import publish_run, write_catalog

FOLDER = Path(__file__).parent
Form = dict[str, Any]


@cache
def results_form() -> Form:
    """Return names and types of the columns, the words that stand in some, and the keys of a manifest and its files."""
    with TemporaryDirectory() as folder:
        store_run(Path(folder))
        manifest = json.loads(next(Path(folder).glob("*/manifest.json")).read_text())
    return {
        "columns": {field.name: str(field.type) for field in result_schema()},
        "statuses": sorted(Status),
        "reasons": sorted(Reason),
        "manifest": sorted({*manifest, *(f"files.{key}" for key in manifest["files"][0])}),
    }


def results_breaks(old: Form, new: Form) -> list[str]:
    """Return what a reader of ``old`` results misses in ``new`` ones."""
    found = []
    for name, kind in old["columns"].items():
        if name not in new["columns"]:
            found.append(f"column {name} is gone")
        elif new["columns"][name] != kind:
            found.append(f"column {name} is {new['columns'][name]}, and was {kind}")
    for what, one in (("statuses", "status"), ("reasons", "reason")):
        found += [f"{one} {name} is gone" for name in old[what] if name not in new[what]]
    return found + [f"key {name} of the manifest is gone" for name in old["manifest"] if name not in new["manifest"]]


def report_form() -> Form:
    """Return the schema that ships."""
    text = resources.files("screening.report").joinpath("templates", "report.schema.json").read_text()
    form: Form = json.loads(text)
    return form


def breaks(old: Form, new: Form, at: str = "") -> list[str]:
    """Return where a document by the schema ``new`` may hold what a reader of the schema ``old`` does not know.

    Objects may gain keys. All else must stay, but for what only explains.
    """
    found = []
    for group in ("properties", "$defs"):
        for name, before in old.get(group, {}).items():
            place = "/".join(part for part in (at, group if group == "$defs" else "", name) if part)
            after = new.get(group, {}).get(name)
            found += [f"{place} is gone"] if after is None else breaks(before, after, place)
    found += [f"{at}: {name} may be missing" for name in old.get("required", []) if name not in new.get("required", [])]
    for key in (set(old) | set(new)) - {"properties", "$defs", "required", "title", "description", "$schema"}:
        if key == "items" and isinstance(old.get(key), dict) and isinstance(new.get(key), dict):
            found += breaks(old[key], new[key], f"{at}[]")
        elif old.get(key) != new.get(key):
            found.append(f"{at}: {key} is {new.get(key)}, and was {old.get(key)}")
    return found


def store_run(folder: Path) -> None:
    """Write a published run of three records."""
    catalog = write_catalog(folder / "catalog", [{"record_id": name, "patient_key": f"p{name}"} for name in "abc"])
    rows = {"a": {"probability": 0.9}, "b": {"status": "rejected", "reason": "flat_lead", "detail": "V2"}}
    publish_run(Folder(str(folder)), catalog, "0123456789abcdef", rows, shard_records=2)
