"""Everything on an object store: S3 over HTTP on loopback, archive, catalog and runs alike."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fsspec
import pytest

from screening.archive.catalog import build_catalog
from screening.errors import UserError
from screening.run.ledger import Lease, read_manifest
from screening.run.pipeline import screen
from screening.run.read import iter_results
from screening.run.verify import faults
from screening.settings import RunSettings
from screening.storage import Folder
from tests.bundles import make_bundle

SETTINGS = RunSettings(attribution="all", donors=2, donor_set=4, shard_records=4)


@pytest.mark.usefixtures("ray_here")
def test_archive_catalog_and_runs_on_s3_give_the_rows_of_a_local_run(
    s3: dict[str, Any], ptbxl: Path, tmp_path: Path
) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    local = tmp_path / "archive"
    names = (ptbxl / "RECORDS").read_text().split()[:8]
    fs = fsspec.filesystem("s3", **s3)
    for name in names:
        for suffix in (".hea", ".dat"):
            target = local / (name + suffix)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ptbxl / (name + suffix)).read_bytes())
            fs.pipe_file(f"screening/archive/{name}{suffix}", target.read_bytes())
    build_catalog(str(local), str(tmp_path / "catalog"), deidentified=True)
    build_catalog("s3://screening/archive", "s3://screening/catalog", deidentified=True, storage_options=s3)
    here = screen(str(tmp_path / "catalog"), str(tmp_path / "runs"), model_path=str(bundle.path), settings=SETTINGS)
    there = screen(
        "s3://screening/catalog",
        "s3://screening/runs",
        model_path=str(bundle.path),
        settings=SETTINGS,
        storage_options=s3,
    )
    assert there.published
    run = Folder(there.url, s3)
    assert list(faults(run)) == []
    expected = [row for table in iter_results(Folder(here.url)) for row in table.to_pylist()]
    found = [row for table in iter_results(run) for row in table.to_pylist()]
    drop = {"run_id", "acquired_at"}
    assert [{k: v for k, v in row.items() if k not in drop} for row in found] == [
        {k: v for k, v in row.items() if k not in drop} for row in expected
    ]
    again = screen(
        "s3://screening/catalog",
        "s3://screening/runs",
        model_path=str(bundle.path),
        settings=SETTINGS,
        storage_options=s3,
    )
    assert again.already
    assert "secret" not in str(read_manifest(run))


def test_the_lease_holds_on_an_object_store(s3: dict[str, Any]) -> None:
    run = Folder("s3://screening/leased", s3)
    with (
        Lease(run, expiry_s=5.0, beat_s=0.2),
        pytest.raises(UserError, match="is being run by process"),
        Lease(run, expiry_s=5.0, beat_s=0.2),
    ):
        pytest.fail("two runners hold one lease")
    assert run.create("once", b"1")
    assert not run.create("once", b"2")
    assert run.read("once") == b"1"
