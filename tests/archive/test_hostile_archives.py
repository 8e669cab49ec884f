"""Archives with links, pipes, names and tables that somebody arranged: one outcome a record, nothing read outside."""

from __future__ import annotations

import re
import resource
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.archive.identity import PseudonymKey
from screening.contract import Reason
from screening.errors import UserError
from tests import hostile_archives
from tests.hostile_archives import (
    CONTROL_NAMES,
    NAMES,
    SECRET,
    ArchiveCase,
    archive_cases,
    nothing_read,
    outcomes,
    put,
    table_cases,
)

CASES = archive_cases()
KEY = PseudonymKey.of(b"a secret of more than thirty-two characters")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_hostile_archive(case: ArchiveCase, tmp_path: Path) -> None:
    archive, catalog = tmp_path / "archive", tmp_path / "catalog"
    archive.mkdir()
    case.build(archive)
    if case.error:
        with pytest.raises(UserError, match=case.error) as told:
            build_catalog(str(archive), str(catalog), key=KEY)
        assert len(str(told.value)) < 1500
        assert not catalog.exists()
        return
    with nothing_read(Path("/etc/passwd"), Path("/dev"), tmp_path / "outside"):
        summary = build_catalog(str(archive), str(catalog), key=KEY)
        found = Counter(outcomes(catalog).values())
    assert found == case.outcomes
    assert summary.records == sum(case.outcomes.values())
    assert re.search(case.warning, " ".join(summary.warnings))
    rows = [row for batch in open_catalog(str(catalog)).iter_batches() for row in batch.to_pylist()]
    for column in case.null:
        assert not rows[1][column]
        assert rows[0][column] or column == "labels"
    for file in catalog.iterdir():
        assert SECRET not in file.read_bytes()


@pytest.mark.parametrize("deidentified", [False, True])
def test_names_of_every_kind(deidentified: bool, tmp_path: Path) -> None:
    archive, catalog = tmp_path / "archive", tmp_path / "catalog"
    for number, name in enumerate([*NAMES.values(), *CONTROL_NAMES.values()]):
        put(archive / str(number), name)
    build_catalog(str(archive), str(catalog), deidentified=deidentified, key=None if deidentified else KEY)
    assert Counter(outcomes(catalog).values()) == {None: len(NAMES), Reason.UNSAFE_PATH: len(CONTROL_NAMES)}
    ids = [
        i for batch in open_catalog(str(catalog)).iter_batches(["record_id"]) for i in batch["record_id"].to_pylist()
    ]
    assert len(set(ids)) == len(NAMES) + len(CONTROL_NAMES)
    if not deidentified:
        assert all(re.fullmatch("[0-9a-f]{32}", i) for i in ids)


def test_a_name_that_is_no_text_is_left_out_and_told(tmp_path: Path) -> None:
    archive = tmp_path / "archive"
    put(archive, "good")
    put(archive, "caf\udce9")
    summary = build_catalog(str(archive), str(tmp_path / "catalog"), key=KEY)
    assert summary.records == 1
    assert "1 files were left out because their names are not UTF-8; rename them." in summary.warnings


@pytest.mark.parametrize("case", table_cases(), ids=lambda case: case[0])
def test_a_hostile_table(case: tuple[str, str, Any, str], tmp_path: Path) -> None:
    _, name, data, expected = case
    archive = tmp_path / "archive"
    put(archive, "a/r")
    (tmp_path / name).write_bytes(data())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    if expected:
        with pytest.raises(UserError, match=expected) as told:
            build_catalog(str(archive), str(tmp_path / "catalog"), metadata=str(tmp_path / name), key=KEY)
        assert len(str(told.value)) < 1500
    else:
        build_catalog(str(archive), str(tmp_path / "catalog"), metadata=str(tmp_path / name), key=KEY)
        assert len(outcomes(tmp_path / "catalog")) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024


def test_there_are_more_than_eighty_kinds() -> None:
    from tests import corpus

    broken = len(corpus.broken_cases()) + len(corpus.poor_cases())
    assert broken + len(CASES) + len(table_cases()) + len(hostile_archives.NAMES) >= 170
