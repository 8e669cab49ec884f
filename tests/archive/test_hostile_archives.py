"""Archives with links, pipes, names and tables that somebody arranged: one outcome a record, nothing read outside."""

from __future__ import annotations

import re
import resource
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from screening.archive.catalog import build_catalog, open_catalog
from screening.archive.identity import PseudonymKey
from screening.archive.reader import ArchiveReader
from screening.contract import CARRIED_COLUMNS, Reason
from screening.errors import UserError
from screening.recording import Recording
from screening.run.stages import decode_shard
from screening.signal.preprocess import Preprocessing
from tests import hostile_archives
from tests.hostile_archives import CONTROL_NAMES, NAMES, SECRET, ArchiveCase, archive_cases, put, table_cases

CASES = archive_cases()
KEY = PseudonymKey.of(b"a secret of more than thirty-two characters")

_watched: list[str] = []
_opened: list[str] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if _watched and event in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo"):
        _opened.append(str(arguments[1] if event.startswith("socket") else arguments[0]))


sys.addaudithook(_hook)


@contextmanager
def nothing_read(*places: Path) -> Iterator[None]:
    """Fail where something below ``places``, or on the network, is opened."""
    _watched.append("on")
    _opened.clear()
    try:
        yield
    finally:
        _watched.clear()
    wrong = [path for path in _opened if any(path.startswith(str(place)) for place in places) or "198.51" in path]
    assert wrong == []


def outcomes(archive: Path, catalog: Path) -> Counter[Reason | None]:
    """Read and decode what a catalog holds, as a run does; return how many there are of each reason."""
    reader = ArchiveReader(str(archive))
    found: Counter[Reason | None] = Counter()
    for batch in open_catalog(str(catalog)).iter_batches(with_location=True):
        rows = batch.to_pylist()
        read = [reader.read(row["location"], row["record_id"], version=row["version"]) for row in rows]
        for one in read:
            found[None if isinstance(one, Recording) else one.reason] += 1
            detail = "" if isinstance(one, Recording) else one.detail
            assert "outside/" not in detail
            assert "passwd" not in detail
        planned = pa.table({name: batch[name] for name in CARRIED_COLUMNS})
        assert decode_shard(planned, read, Preprocessing()).num_rows == len(rows)
    return found


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
        found = outcomes(archive, catalog)
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
    assert outcomes(archive, catalog) == {None: len(NAMES), Reason.UNSAFE_PATH: len(CONTROL_NAMES)}
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
        assert sum(outcomes(archive, tmp_path / "catalog").values()) == 2
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 400 * 1024


def test_there_are_more_than_eighty_kinds() -> None:
    from tests import corpus

    broken = len(corpus.broken_cases()) + len(corpus.poor_cases())
    assert broken + len(CASES) + len(table_cases()) + len(hostile_archives.NAMES) >= 170
