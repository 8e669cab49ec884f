"""An archive scanned again: only what changed is read, and the catalog is whole after any crash."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from screening.archive import store
from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.identity import PseudonymKey
from screening.archive.labels import PRESETS
from screening.archive.reader import ArchiveReader
from screening.errors import UserError
from tests.archive.catalog.made import KEY, add_record, counts, rows_of


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
