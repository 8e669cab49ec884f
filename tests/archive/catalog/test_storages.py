"""Archives and catalogs elsewhere than on a disk."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from screening.archive.build import CatalogSummary, build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.labels import PRESETS
from screening.errors import UserError
from tests.archive.catalog.made import HEADER, KEY, add_record, counts, rows_of


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
