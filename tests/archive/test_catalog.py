"""The catalog: every record once, nothing identifying, renewed by reading only what changed, whole after any crash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import zipfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from screening.archive import store
from screening.archive.build import CatalogSummary, build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.identity import PUBLIC_KEY, PseudonymKey
from screening.archive.labels import PRESETS, LabelRule
from screening.archive.location import safe_location
from screening.archive.mapping import ColumnMapping
from screening.archive.reader import ArchiveReader
from screening.archive.root import without_credentials
from screening.cli import main
from screening.cli.catalog import command
from screening.contract import CATALOG_COLUMNS
from screening.errors import UserError

KEY = PseudonymKey.of(b"a key for tests, 32 characters long")
HEADER = "{name} 2 500 5000\n{name}.dat 16 1000/mV 16 0 0 0 0 I\n{name}.dat 16 1000/mV 16 0 0 0 0 II\n"


def add_record(root: Path, path: str, comments: str = "", *, data: bytes = b"\0" * 20) -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_name(file.name + ".hea").write_text(HEADER.format(name=file.name) + comments)
    file.with_name(file.name + ".dat").write_bytes(data)


def rows_of(catalog: str | Path, **options: Any) -> list[dict[str, Any]]:
    batches = open_catalog(str(catalog), **options).iter_batches(with_location=True)
    return [row for batch in batches for row in batch.to_pylist()]


def counts(summary: CatalogSummary) -> tuple[int, int, int, int, int]:
    return summary.records, summary.new, summary.changed, summary.unchanged, summary.gone


# --- Real archives ---------------------------------------------------------------------------------------------------


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


# --- Finding records -------------------------------------------------------------------------------------------------


@pytest.fixture
def mimic(tmp_path: Path) -> Path:
    """Return an archive laid out as MIMIC-IV-ECG is: a folder a study."""
    archive = tmp_path / "mimic"
    lines = ["subject_id,study_id,file_name,ecg_time,path"]
    for subject in range(10000032, 10000042):
        for study in range(3):
            number = f"4{subject % 100:02d}{study}"
            path = f"files/p1000/p{subject}/s{number}/{number}"
            add_record(archive, path, data=b"\1" * (subject % 7 + study))
            lines.append(f"{subject},{number},{number},2180-07-23 08:44:00,{path}")
    (archive / "record_list.csv").write_text("\n".join(lines) + "\n")
    return archive


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


# --- Scanning again --------------------------------------------------------------------------------------------------


def test_second_scan_reads_only_new_and_changed_headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive, out = tmp_path / "a", str(tmp_path / "c")
    for i in range(6):
        add_record(archive, f"r{i}", f"# Age: {40 + i}\n# Dx: 426783006\n")
    rule = PRESETS["snomed-mi"]
    first = build_catalog(str(archive), out, key=KEY, labels=rule)
    before = {row["location"]: row for row in rows_of(out)}

    add_record(archive, "r1", "# Age: 71\n# Dx: 164865005\n")
    (archive / "r2.dat").write_bytes(b"\0" * 24)  # the header stays, the signal changes
    (archive / "r3.hea").unlink()
    add_record(archive, "r9", "# Age: 9\n")
    read: list[str] = []
    beginning = ArchiveReader.beginning
    monkeypatch.setattr(
        ArchiveReader, "beginning", lambda self, at, *limit: (read.append(at), beginning(self, at, *limit))[1]
    )
    second = build_catalog(str(archive), out, key=KEY, labels=rule)
    assert counts(second) == (6, 1, 2, 3, 1)
    assert sorted(read) == ["r1.hea", "r2.hea", "r9.hea"]
    after = {row["location"]: row for row in rows_of(out)}
    assert all(after[f"r{i}.hea"] == before[f"r{i}.hea"] for i in (0, 4, 5))
    assert (after["r1.hea"]["age"], after["r1.hea"]["label"]) == (71.0, "MI")
    assert after["r2.hea"]["version"] != before["r2.hea"]["version"]
    assert second.catalog_id != first.catalog_id

    third = build_catalog(str(archive), out, key=KEY, labels=rule)
    assert (counts(third), third.headers_read, third.catalog_id) == ((6, 0, 0, 6, 0), 0, second.catalog_id)
    other_rule = build_catalog(str(archive), out, key=KEY)
    assert (counts(other_rule), other_rule.headers_read) == (
        (6, 0, 0, 6, 0),
        6,
    )  # statements are read anew for a new rule


def test_same_archive_gives_the_same_bytes_and_id(mimic: Path, tmp_path: Path) -> None:
    one = build_catalog(str(mimic), str(tmp_path / "c"), key=KEY)
    two = build_catalog(str(mimic), str(tmp_path / "d"), key=KEY)
    assert one.catalog_id == two.catalog_id
    for name in ("catalog.parquet", "locations.parquet"):
        assert (tmp_path / "c" / name).read_bytes() == (tmp_path / "d" / name).read_bytes()
    settings = json.loads((tmp_path / "c" / "catalog.json").read_text())
    for name, facts in settings["files"].items():
        assert hashlib.sha256((tmp_path / "c" / name).read_bytes()).hexdigest() == facts["sha256"]


def test_another_archive_or_key_does_not_overwrite(mimic: Path, tmp_path: Path) -> None:
    out = tmp_path / "c"
    build_catalog(str(mimic), str(out), key=KEY)
    held = {file.name: file.read_bytes() for file in out.iterdir()}
    add_record(tmp_path / "b", "r")
    with pytest.raises(
        UserError, match=r"holds the catalog of another archive \(file://.*mimic\); choose another --out"
    ):
        build_catalog(str(tmp_path / "b"), str(out), key=KEY)
    with pytest.raises(
        UserError,
        match=rf"with keyed record ids and key {KEY.key_id}, and this scan has plain record ids and key public",
    ):
        build_catalog(str(mimic), str(out), deidentified=True)
    with pytest.raises(UserError, match=r"use the same, or another --out"):
        build_catalog(str(mimic), str(out), key=PseudonymKey.of(b"another key"))
    assert {file.name: file.read_bytes() for file in out.iterdir()} == held


class Killed(BaseException):
    """Stands for kill -9: nothing may tidy up after it."""


@pytest.mark.parametrize("step", range(6))
def test_killed_at_any_step_leaves_a_whole_catalog(
    mimic: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    out = tmp_path / "c"
    old = build_catalog(str(mimic), str(out), key=KEY).catalog_id
    old_rows = rows_of(out)
    add_record(mimic, "files/p1000/p10000032/s4320/4320", data=b"changed")

    move: Callable[..., None] = store.CatalogFiles._move
    moves: list[str] = []

    def killed_move(self: store.CatalogFiles, source: str, target: str) -> None:
        if len(moves) == step:
            raise Killed
        moves.append(target)
        move(self, source, target)

    with monkeypatch.context() as patch:
        patch.setattr(store.CatalogFiles, "_move", killed_move)
        patch.setattr(store.CatalogFiles, "__exit__", lambda *_: None)
        if step < 5:
            with pytest.raises(Killed):
                build_catalog(str(mimic), str(out), key=KEY)
        else:
            build_catalog(str(mimic), str(out), key=KEY)
    is_new = open_catalog(str(out)).catalog_id != old
    assert is_new == (step >= 3)  # two data files under their ids, then catalog.json: the third move commits
    assert len(rows_of(out)) == 30
    assert (rows_of(out) != old_rows) == is_new

    again = build_catalog(str(mimic), str(out), key=KEY)
    assert (again.changed, again.unchanged) == ((0, 30) if is_new else (1, 29))
    build_catalog(str(mimic), str(out), key=KEY)
    assert sorted(file.name for file in out.iterdir()) == ["catalog.json", "catalog.parquet", "locations.parquet"]


def test_an_error_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("screening.archive.scan.BATCH", 2)
    for i in range(5):
        add_record(tmp_path / "a", f"r{i}")

    def fail(records: int) -> None:
        if records > 2:
            raise OSError(5, "Input/output error", "/ecg/a-name")

    with pytest.raises(UserError, match=r"could not be read to its end \(OSError: Input/output error\); mend that"):
        build_catalog(str(tmp_path / "a"), str(tmp_path / "c"), deidentified=True, progress=fail)
    assert not (tmp_path / "c").exists()


# --- Other file systems ----------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[Any]:
    fs = fsspec.filesystem("memory")
    yield fs
    if fs.exists("/t"):
        fs.rm("/t", recursive=True)


def test_memory_archive_and_catalog(memory: Any) -> None:
    for i in range(5):
        memory.pipe_file(f"/t/a/{i}/r.hea", HEADER.format(name="r").encode() + b"# Age: 30\n")
        memory.pipe_file(f"/t/a/{i}/r.dat", b"\0" * 8)
    assert counts(build_catalog("memory://t/a", "memory://t/c", deidentified=True)) == (5, 5, 0, 0, 0)
    assert open_catalog("memory://t/c").root_url == "memory:///t/a"
    memory.pipe_file("/t/a/3/r.dat", b"\0" * 9)
    memory.rm("/t/a/4", recursive=True)
    assert counts(build_catalog("memory://t/a", "memory://t/c", deidentified=True)) == (4, 0, 1, 3, 1)
    assert [row["record_id"] for row in rows_of("memory://t/c")] == [f"{i}/r" for i in range(4)]
    assert sorted(memory.ls("/t/c", detail=False)) == [
        f"/t/c/{n}" for n in ("catalog.json", "catalog.parquet", "locations.parquet")
    ]


def test_a_folder_a_record_takes_few_requests(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """MIMIC-IV-ECG's layout on an object store: listed by common parents, with the same result as folder by folder."""
    lines = ["subject_id,study_id,path"]
    for subject in range(60):
        for study in range(3):
            path = f"files/p{subject // 20}/p{subject}/s{study}/r"
            memory.pipe_file(f"/t/a/{path}.hea", b"x" * (subject + 1))
            lines.append(f"{subject},{study},{path}")
    memory.pipe_file("/t/a/record_list.csv", "\n".join([*lines, "1,1,files/p9/p99/s1/r"]).encode())
    requests: list[str] = []
    for name in ("ls", "find"):
        method = getattr(type(memory), name)
        monkeypatch.setattr(
            type(memory),
            name,
            lambda self, path, *a, _m=method, **k: (requests.append(path), _m(self, path, *a, **k))[1],
        )
    few = build_catalog("memory://t/a", "memory://t/few", key=KEY)
    n_few = len([path for path in requests if "/a/files" in path and path.count("/") <= 4])
    assert (few.records, few.absent) == (181, 1)
    assert n_few <= 4
    monkeypatch.setattr("screening.archive.listing._DENSE", 0)
    assert build_catalog("memory://t/a", "memory://t/one_by_one", key=KEY).catalog_id == few.catalog_id


def test_s3_over_http(ptbxl: Path, tmp_path: Path, s3: dict[str, Any]) -> None:
    fs = fsspec.filesystem("s3", **s3)
    tables = [ptbxl / name for name in ("ptbxl_database.csv", "scp_statements.csv")]
    for file in [*sorted(ptbxl.rglob("*"))[:60], *tables]:
        if file.is_file():
            fs.pipe_file(f"screening/ptbxl/{file.relative_to(ptbxl)}", file.read_bytes())
    rule = PRESETS["ptbxl-mi"]
    archive, catalog = "s3://screening/ptbxl", "s3://screening/catalog"

    def scan() -> CatalogSummary:
        return build_catalog(archive, catalog, deidentified=True, labels=rule, storage_options=s3)

    first = scan()
    assert first.records == 64
    assert 0 < first.absent < 64
    local = build_catalog(str(ptbxl), str(tmp_path / "c"), deidentified=True, labels=rule)
    assert first.labels == local.labels
    remote_rows, local_rows = rows_of(catalog, storage_options=s3), rows_of(tmp_path / "c")
    held = [row["version"] != "absent" for row in remote_rows]
    assert [row["bytes"] for row in remote_rows] == [
        row["bytes"] if there else 0 for row, there in zip(local_rows, held, strict=True)
    ]
    fs.pipe_file("screening/ptbxl/records500/00000/00001_hr.dat", b"other bytes")
    assert counts(scan()) == (64, 0, 1, 63, 0)
    text = fs.cat_file("screening/catalog/catalog.json").decode()
    assert s3["secret"] not in text
    with pytest.raises(UserError, match=r"There is no archive at 's3://screening/nothing'; check the path or URL"):
        build_catalog("s3://screening/nothing", str(tmp_path / "d"), deidentified=True, storage_options=s3)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # fsspec leaves the zip file to the collector
def test_zip_archive(tmp_path: Path) -> None:
    add_record(tmp_path / "a", "x/r1", "# Age: 61\n")
    add_record(tmp_path / "a", "r2", "# Age: 62\n")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        for file in sorted((tmp_path / "a").rglob("*.*")):
            packed.write(file, file.relative_to(tmp_path / "a"))
    url = f"zip::file://{tmp_path}/a.zip"
    assert counts(build_catalog(url, str(tmp_path / "c"), deidentified=True)) == (2, 2, 0, 0, 0)
    assert [(row["record_id"], row["age"]) for row in rows_of(tmp_path / "c")] == [("r2", 62.0), ("x/r1", 61.0)]
    assert open_catalog(str(tmp_path / "c")).root_url == url


# --- Refusals --------------------------------------------------------------------------------------------------------


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


# --- The command -----------------------------------------------------------------------------------------------------


def test_command_says_what_it_did(ptbxl: Path, tmp_path: Path) -> None:
    out = str(tmp_path / "c")
    result = CliRunner().invoke(command, [str(ptbxl), "--out", out, "--deidentified", "--labels", "ptbxl-mi"])
    assert result.exit_code == 0
    assert "64 records found by table" in result.output
    assert "Labels by ptbxl-mi: MI " in result.output
    assert f"Next: screening run --catalog {out} --out runs" in result.output
    assert "Not a medical device" in result.output


def test_command_as_json_with_a_key_made_on_the_way(mimic: Path, tmp_path: Path) -> None:
    arguments = [str(mimic), "--out", str(tmp_path / "c"), "--key-file", str(tmp_path / "key"), "--json"]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0
    assert "Made a new pseudonym key at" in result.stderr
    assert json.loads(result.stdout)["records"] == 30
    result = CliRunner().invoke(command, arguments)
    assert (result.stderr, json.loads(result.stdout)["unchanged"]) == ("", 30)


def test_command_takes_the_key_from_the_environment(mimic: Path, tmp_path: Path) -> None:
    secret = "an environment key of enough characters"
    environment = {"SCREENING_PSEUDONYM_KEY": secret, "HOME": str(tmp_path / "home")}
    result = CliRunner().invoke(command, [str(mimic), "--out", str(tmp_path / "c")], env=environment)
    assert result.exit_code == 0
    assert open_catalog(str(tmp_path / "c")).key_id == PseudonymKey.of(secret.encode()).key_id
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{tmp}/absent"], "Error: There is no archive at"),
        (["{tmp}", "--storage-options", "{"], "is not JSON: Expecting property name"),
        (["{tmp}", "--storage-options", "[1]"], "must be a JSON object"),
        (["{tmp}", "--labels", "mi"], "Error: There is no label rule 'mi'"),
        (["{tmp}", "--mapping", "{tmp}/none.yaml"], "Error: The column mapping"),
    ],
)
def test_command_errors_are_one_sentence_and_exit_1(
    tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    filled = [argument.replace("{tmp}", str(tmp_path)) for argument in arguments]
    with pytest.raises(SystemExit) as ended:
        main(["catalog", *filled, "--out", str(tmp_path / "c"), "--deidentified"])
    assert ended.value.code == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "c").exists()


def test_help_shows_two_examples() -> None:
    result = CliRunner().invoke(command, ["--help"])
    assert sum(line.startswith("    screening catalog ") for line in result.output.splitlines()) == 2
