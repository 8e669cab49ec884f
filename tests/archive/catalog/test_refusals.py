"""What no catalog is made from, and catalogs that are damaged."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.labels import PRESETS, LabelRule
from screening.archive.location import safe_location
from screening.archive.mapping import ColumnMapping
from screening.archive.root import without_credentials
from screening.errors import UserError
from tests.archive.catalog.made import KEY, add_record, rows_of


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("{tmp}/absent", r"There is no archive at '.*absent'; check the path or URL"),
        ("{tmp}/a/r.hea", r"is a file; give the folder that holds the records"),
        ("gopher://host/ecg", r"The archive URL 'gopher://host/ecg' cannot be used \(Protocol not known: gopher"),
        ("{tmp}/empty", r"There are no records in '.*empty' \(no \.hea file in any of its folders\); check the URL"),
    ],
)
def test_wrong_archives(tmp_path: Path, url: str, message: str) -> None:
    add_record(tmp_path / "a", "r")
    (tmp_path / "empty" / "sub").mkdir(parents=True)
    with pytest.raises(UserError, match=message):
        build_catalog(url.format(tmp=tmp_path), str(tmp_path / "c"), deidentified=True)
    assert not (tmp_path / "c").exists()


def test_wrong_tables_and_rules(tmp_path: Path) -> None:
    archive, out = tmp_path / "a", str(tmp_path / "c")
    add_record(archive, "r")
    (archive / "list.csv").write_text("file,who\nr,1\n")
    (archive / "none.csv").write_text("file,who\n")

    def refused(message: str, **options: Any) -> None:
        with pytest.raises(UserError, match=message):
            build_catalog(str(archive), out, deidentified=True, **options)
        assert not Path(out).exists()

    refused(r"no metadata table 'absent\.csv', neither in the archive nor here", metadata="absent.csv")
    refused(
        r"The columns of list\.csv are not known \(file, who\); say which is which with --mapping", metadata="list.csv"
    )
    refused(r"has no column 'path' \(it has file, who\)", metadata="list.csv", mapping=ColumnMapping(path="path"))
    refused(r"\(no row of none\.csv names one\)", metadata="none.csv", mapping=ColumnMapping(path="file"))
    refused(r"A column mapping was given but no table", mapping=ColumnMapping(path="file"))
    refused(r"needs superclasses, but there is no scp_statements\.csv", labels=PRESETS["ptbxl-mi"])
    with pytest.raises(
        UserError, match=r"Identifiers need a pseudonym key; give one with --key-file, or say --deidentified"
    ):
        build_catalog(str(archive), out)


def test_out_that_is_a_file(tmp_path: Path) -> None:
    add_record(tmp_path / "a", "r")
    (tmp_path / "c").write_text("mine")
    with pytest.raises(UserError, match=r"'.*/c' is a file; name a folder for the catalog with --out"):
        build_catalog(str(tmp_path / "a"), str(tmp_path / "c"), deidentified=True)
    assert (tmp_path / "c").read_text() == "mine"


def test_damaged_catalogs(mimic: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    with pytest.raises(
        UserError, match=r"There is no catalog at .*; make one with: screening catalog ARCHIVE_URL --out"
    ):
        open_catalog(str(out))
    build_catalog(str(mimic), str(out), key=KEY)
    with pytest.raises(UserError, match=r"has no column 'colour'; it has record_id, format"):
        next(open_catalog(str(out)).iter_batches(["colour"]))
    whole = (out / "catalog.parquet").read_bytes()
    (out / "catalog.parquet").write_bytes(whole[:100])
    with pytest.raises(UserError, match=r"catalog\.parquet in the catalog .* is damaged; make it again"):
        next(open_catalog(str(out)).iter_batches())
    (out / "catalog.parquet").unlink()
    with pytest.raises(UserError, match=r"catalog\.parquet in the catalog .* is missing or belongs to another scan"):
        next(open_catalog(str(out)).iter_batches())
    settings = json.loads((out / "catalog.json").read_text())
    (out / "catalog.json").write_text(json.dumps({**settings, "schema_version": 99}))
    with pytest.raises(UserError, match=r"has version 99, and this program reads 3; make a new one"):
        open_catalog(str(out))
    (out / "catalog.json").write_text("{")
    with pytest.raises(UserError, match=r"cannot be read \(JSONDecodeError"):
        open_catalog(str(out))


@pytest.mark.parametrize("name", ["catalog.parquet", "locations.parquet", "catalog.json"])
def test_a_flipped_byte_in_any_file_of_a_catalog_is_found(mimic: Path, tmp_path: Path, name: str) -> None:
    """Many leave the file readable, with another place or patient in it."""
    out = tmp_path / "c"
    first = build_catalog(str(mimic), str(out), key=KEY)
    expected, whole = rows_of(out), (out / name).read_bytes()
    for at in range(0, len(whole), 5):
        (out / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with contextlib.suppress(UserError):
            assert rows_of(out) == expected, at  # white space of catalog.json
            assert name == "catalog.json", at
    if name != "catalog.json":
        (out / name).write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
        with pytest.raises(
            UserError, match=rf"is damaged: {name} is not as it was written; make it again with `screening cat"
        ):
            open_catalog(str(out))
        again = build_catalog(str(mimic), str(out), key=KEY)  # it takes over nothing of what is damaged
        assert (again.new, again.catalog_id) == (30, first.catalog_id)
        assert "The earlier catalog was damaged, and was made anew." in again.warnings
    (out / name).write_bytes(whole)
    assert rows_of(out) == expected


def test_a_damaged_or_older_catalog_is_made_anew(mimic: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    first = build_catalog(str(mimic), str(out), key=KEY)
    (out / "catalog.parquet").write_bytes(b"PAR1")
    again = build_catalog(str(mimic), str(out), key=KEY)
    assert (again.new, again.catalog_id) == (30, first.catalog_id)
    assert "The earlier catalog was damaged, and was made anew." in again.warnings
    assert len(rows_of(out)) == 30
    settings = json.loads((out / "catalog.json").read_text())
    (out / "catalog.json").write_text(json.dumps({**settings, "schema_version": 0}))
    assert build_catalog(str(mimic), str(out), key=KEY).new == 30
    (out / "catalog.json").write_text("{")
    with pytest.raises(UserError, match=r"holds a damaged catalog\.json; remove that folder, or choose another --out"):
        build_catalog(str(mimic), str(out), key=KEY)


def test_a_catalog_that_cannot_be_written(tmp_path: Path) -> None:
    add_record(tmp_path / "a", "r")
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"The catalog cannot be written to '.*/file/c' \(.*\); mend that, or choose another"
    ):
        build_catalog(str(tmp_path / "a"), str(tmp_path / "file" / "c"), deidentified=True)


def test_names_that_are_not_utf8_are_counted(tmp_path: Path) -> None:
    add_record(tmp_path / "a", "r")
    try:
        (tmp_path / "a" / os.fsdecode(b"M\xfcller.hea")).write_text("x")
    except (OSError, UnicodeEncodeError):
        return  # this file system knows no such names
    summary = build_catalog(str(tmp_path / "a"), str(tmp_path / "c"), deidentified=True)
    assert summary.records == 1
    assert summary.warnings == ("1 files were left out because their names are not UTF-8; rename them.",)


def test_a_rule_that_suits_nothing_is_said(tmp_path: Path) -> None:
    add_record(tmp_path / "a", "r", "# Dx: 1\n")
    rule = LabelRule(name="mine", positive_codes=("MI",))
    summary = build_catalog(str(tmp_path / "a"), str(tmp_path / "c"), deidentified=True, labels=rule)
    assert summary.labels == {"MI": 0, "NORM": 0, "other": 1, "none": 0}
    assert summary.warnings == (
        "The label rule 'mine' found neither MI nor NORM; does it suit the codes of this archive?",
    )


def test_credentials_and_paths() -> None:
    assert without_credentials("s3://u:p@bucket/a?X-Amz-Signature=1#f") == "s3://bucket/a"
    assert without_credentials("zip::https://u:p@host/a.zip") == "zip::https://host/a.zip"
    assert without_credentials("s3://bucket/a@b/c") == "s3://bucket/a@b/c"
    assert without_credentials("/data/who?/a@b") == "/data/who?/a@b"
    assert [safe_location(path) for path in ("a/../b", "../a", "a/../../b", "/a", "a\\b", "")] == ["b"] + [None] * 5
