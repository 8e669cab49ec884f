"""Every record of an archive once, and nothing identifying."""

from __future__ import annotations

import json
import os
import shutil
import stat
from datetime import datetime
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.identity import PUBLIC_KEY
from screening.archive.labels import PRESETS
from screening.archive.mapping import ColumnMapping
from screening.contract import CATALOG_COLUMNS
from screening.errors import UserError
from tests.archive.catalog.made import HEADER, KEY, add_record, counts, rows_of


def test_ptbxl(ptbxl: Path, tmp_path: Path) -> None:
    out = tmp_path / "catalog"
    seen: list[int] = []
    rule = PRESETS["ptbxl-mi"]
    summary = build_catalog(str(ptbxl), str(out), deidentified=True, labels=rule, progress=seen.append)
    assert counts(summary) == (64, 64, 0, 0, 0)
    assert (summary.found_by, summary.headers_read, summary.absent, summary.warnings) == ("table", 0, 0, ())
    assert sum(summary.labels.values()) == 64
    assert seen == [64]

    catalog = open_catalog(str(out))
    assert (catalog.records, catalog.key_id, catalog.patient_key_id) == (64, None, "public")
    assert (catalog.catalog_id, catalog.label_rule) == (summary.catalog_id, rule)
    assert catalog.root_url == f"file://{ptbxl}"
    rows = rows_of(out)
    files = [ptbxl / f"records500/00000/00001_hr{suffix}" for suffix in (".hea", ".dat")]
    assert {name: value for name, value in rows[0].items() if name != "version"} == {
        "record_id": "records500/00000/00001_hr",
        "location": "records500/00000/00001_hr.hea",
        "format": "wfdb",
        "bytes": sum(file.stat().st_size for file in files),
        "patient_key": PUBLIC_KEY.pseudonym("patient", "15709"),
        "acquired_at": datetime(1984, 11, 9, 9, 17, 34),
        "age": 56.0,
        "sex": "female",
        "site": "0",
        "device": "CS-12   E",
        **dict.fromkeys(["rate_hz", "duration_s", "qrs_ms"]),  # the table is silent, and headers are not read
        **dict.fromkeys(["paced", "lbbb", "wpw"], False),
        "labels": ["LVOLT", "NORM", "SR"],
        "label": "NORM",
        "fold": 3,
    }
    assert all((ptbxl / row["location"]).is_file() for row in rows)


def test_columns_and_types_are_those_of_the_contract(ptbxl: Path, tmp_path: Path) -> None:
    build_catalog(str(ptbxl), str(tmp_path / "c"), deidentified=True)
    schema = pq.read_schema(tmp_path / "c" / "catalog.parquet")
    kinds = [
        str(kind).replace("list<element: string>", "list<string>").replace("float", "float32") for kind in schema.types
    ]
    wanted = [(name, kind) for name, kind, _ in CATALOG_COLUMNS]
    assert list(zip(schema.names, [kind.replace("float3232", "float32") for kind in kinds], strict=True)) == wanted


def test_cinc2021_by_listing_with_labels_from_comments(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "wfdb_variants" / "cinc2021"
    summary = build_catalog(str(archive), str(tmp_path / "c"), deidentified=True, labels=PRESETS["snomed-mi"])
    assert (summary.records, summary.found_by, summary.headers_read) == (25, "listing", 25)
    assert summary.labels == {"MI": 0, "NORM": 5, "other": 20, "none": 0}
    rows = {row["record_id"]: row for row in rows_of(tmp_path / "c")}
    row = rows["JS20018"]
    assert (row["age"], row["sex"], row["labels"]) == (86.0, "male", ["284470004", "427084000", "698252002"])
    assert row["patient_key"] is None


def test_ptbdb_counts_both_signal_files(shared_data: Path, tmp_path: Path) -> None:
    archive = shared_data / "wfdb_variants" / "ptbdb"
    summary = build_catalog(str(archive), str(tmp_path / "c"), key=KEY, labels=PRESETS["ptbdb-mi"])
    assert (summary.records, summary.labels["MI"]) == (3, 3)
    rows = {row["location"]: row for row in rows_of(tmp_path / "c")}
    size = sum((archive / f"s0010_re{suffix}").stat().st_size for suffix in (".hea", ".dat", ".xyz"))
    row = rows["s0010_re.hea"]
    assert (row["bytes"], row["age"], row["sex"], row["acquired_at"]) == (size, 81.0, "female", datetime(1990, 10, 1))
    assert row["record_id"] == KEY.pseudonym("record", "s0010_re.hea")


def test_ptbxl_at_100_hz_where_only_that_is_held(ptbxl: Path, tmp_path: Path) -> None:
    shutil.copy(ptbxl / "ptbxl_database.csv", tmp_path)
    add_record(tmp_path, "records100/00000/00001_lr")
    summary = build_catalog(str(tmp_path), str(tmp_path / "c"), deidentified=True)
    assert (summary.records, summary.absent) == (64, 63)
    assert rows_of(tmp_path / "c")[0]["record_id"] == "records100/00000/00001_lr"


def test_mimic_layout_writes_no_raw_identifier(mimic: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    summary = build_catalog(str(mimic), str(out), key=KEY)
    assert (summary.records, summary.found_by, summary.absent, summary.without_metadata) == (30, "table", 0, 30)
    rows = rows_of(out)
    assert len({row["patient_key"] for row in rows}) == 10
    assert rows[0]["patient_key"] == KEY.pseudonym("patient", "10000032")
    assert rows[0]["acquired_at"] == datetime(2180, 7, 23, 8, 44)
    # Parquet pages are compressed, so look at the values as well as at the bytes.
    shown = [
        (out / "catalog.parquet").read_bytes() + (out / "catalog.json").read_bytes(),
        json.dumps([{k: str(v) for k, v in row.items() if k != "location"} for row in rows]).encode(),
    ]
    for raw in ("10000032", "p1000", "4320", "files/"):
        assert not any(raw.encode() in text for text in shown), raw
    assert KEY.secret.hex().encode() not in shown[0]


def test_file_modes(mimic: Path, tmp_path: Path) -> None:
    old = os.umask(0o022)
    try:
        build_catalog(str(mimic), str(tmp_path / "c"), key=KEY)
        build_catalog(str(mimic), str(tmp_path / "c"), key=KEY)
    finally:
        os.umask(old)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "c").iterdir()}
    assert modes == {"catalog.json": 0o600, "catalog.parquet": 0o600, "locations.parquet": 0o600}
    assert stat.S_IMODE((tmp_path / "c").stat().st_mode) == 0o700


def test_records_files_nested_as_physionet_nests_them(tmp_path: Path) -> None:
    archive = tmp_path / "a"
    for path in ("top", "p10/0001", "p10/s1/0002", "p11/0003", "p11/not_listed", "p12/x/0004"):
        add_record(archive, path, "# Age: 50\n")
    (archive / "RECORDS").write_text("top\np10/\np11/\n\np12/\ntop\n")
    (archive / "p10" / "RECORDS").write_text("0001\ns1/0002\nabsent\n")
    (archive / "p11" / "RECORDS").write_text("0003")
    summary = build_catalog(str(archive), str(tmp_path / "c"), deidentified=True)
    # p12 has no RECORDS of its own and is listed instead
    ids = ["top", "p10/0001", "p10/s1/0002", "p10/absent", "p11/0003", "p12/x/0004"]
    assert [row["record_id"] for row in rows_of(tmp_path / "c")] == ids
    assert (summary.found_by, summary.headers_read, summary.absent, summary.duplicates) == ("RECORDS", 5, 1, 1)
    assert summary.warnings == (
        "1 records of RECORDS have no file in the archive; a run rejects them as missing_file.",
        "1 records are listed more than once; the first row of each was kept.",
    )
    (archive / "RECORDS").write_text("p13/\n")
    with pytest.raises(UserError, match=r"The folder of line \d of RECORDS is not in the archive; mend"):
        build_catalog(str(archive), str(tmp_path / "d"), deidentified=True)
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize("batch", [1, 2, 4096])
def test_absent_duplicate_hostile_and_nameless_rows_add_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr("screening.archive.scan.BATCH", batch)
    archive = tmp_path / "a"
    add_record(archive, "x/0001")
    (archive / "x" / "0002.dat").write_bytes(b"header lost")
    add_record(tmp_path, "outside")
    rows = [
        "f,p",
        "x/0001,007",
        "x/0001.hea,008",
        "x/0002,9",
        "../outside,10",
        "/etc/passwd,11",
        ",12",
        "./x//0001.dat,13",
    ]
    (archive / "list.csv").write_text("\n".join(rows) + "\n")
    mapping = ColumnMapping(path="f", patient_id="p")
    summary = build_catalog(str(archive), str(tmp_path / "c"), metadata="list.csv", mapping=mapping, key=KEY)
    assert (summary.records, summary.absent, summary.duplicates) == (4, 3, 2)
    assert "1 rows of list.csv name no record and were left out." in summary.warnings
    found = rows_of(tmp_path / "c")
    assert [row["location"] for row in found] == ["x/0001.hea", "x/0002.hea", "../outside.hea", "/etc/passwd.hea"]
    assert [(row["version"] == "absent", row["bytes"] == 0) for row in found] == [(False, False)] + [(True, True)] * 3
    assert found[0]["patient_key"] == KEY.pseudonym("patient", "007")


def test_zero_padded_names_stay_apart(tmp_path: Path) -> None:
    for name in ("1", "01", "001"):
        add_record(tmp_path / "a", name)
    assert build_catalog(str(tmp_path / "a"), str(tmp_path / "c"), deidentified=True).records == 3
    assert [row["record_id"] for row in rows_of(tmp_path / "c")] == ["001", "01", "1"]


def test_listing_follows_links_but_not_in_circles(tmp_path: Path) -> None:
    add_record(tmp_path / "a" / "b", "r2")
    add_record(tmp_path / "a", "r1")
    (tmp_path / "a" / "linked").symlink_to("b")
    (tmp_path / "a" / "b" / "back").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "dangling.dat").symlink_to(tmp_path / "nothing")
    build_catalog(str(tmp_path / "a"), str(tmp_path / "c"), deidentified=True)
    assert [row["record_id"] for row in rows_of(tmp_path / "c")] == ["r1", "b/r2", "linked/r2"]


def test_more_records_than_a_batch_and_a_row_group(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.archive.scan.BATCH", 7)
    monkeypatch.setattr("screening.archive.store.ROW_GROUP", 10)
    monkeypatch.setattr("screening.archive.build.ROW_GROUP", 10)
    monkeypatch.setattr("screening.archive.listing._CACHED_ENTRIES", 3)
    archive = tmp_path / "a"
    for i in range(53):
        add_record(archive, f"f{i % 5}/{i:03d}", f"# Age: {i}\n")
    first = build_catalog(str(archive), str(tmp_path / "c"), deidentified=True)
    assert counts(first) == (53, 53, 0, 0, 0)
    catalog = open_catalog(str(tmp_path / "c"))
    sizes = [batch.num_rows for batch in catalog.iter_batches(["age"], with_location=True, batch_size=4)]
    assert sizes == [4, 4, 2] * 5 + [3]
    rows = rows_of(tmp_path / "c")
    assert all(row["age"] == int(row["record_id"][-3:]) for row in rows)
    assert len({row["record_id"] for row in rows}) == 53

    (archive / "f2" / "new.hea").write_text(HEADER.format(name="new"))
    (archive / "f0" / "000.hea").unlink()
    again = build_catalog(str(archive), str(tmp_path / "c"), deidentified=True)
    assert (*counts(again), again.headers_read) == (53, 1, 0, 52, 1, 1)
    kept = {row["record_id"]: row for row in rows_of(tmp_path / "c")}
    assert all(kept[row["record_id"]] == row for row in rows if row["record_id"] != "f0/000")
