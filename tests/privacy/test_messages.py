"""What is raised and refused says nothing that it was given."""

from __future__ import annotations

import pickle
import re
import traceback
from pathlib import Path

import pytest

from tests.privacy.planted import SENTINELS, broken_lists
from tests.privacy.planted_formats import broken_archives


def test_what_a_worker_raises_holds_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray keeps it for its dashboard and for whoever asks its state."""
    from screening.errors import Unexpected
    from screening.run import worker

    def fail() -> None:
        raise ValueError(f"cannot convert {SENTINELS['surname']}")

    monkeypatch.setattr(worker, "keep_freed_memory", fail)
    for work in (lambda: worker.decode_block(None, 0), lambda: worker.ScoringActor(None, None, None, 1)):  # type: ignore[arg-type]
        with pytest.raises(Unexpected, match=r"^ValueError at .* in fail$") as raised:
            work()
        kept = "".join(traceback.format_exception(raised.value)) + repr(pickle.dumps(raised.value))
        assert SENTINELS["surname"] not in kept


def test_a_fault_of_the_program_is_said_without_its_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import screening.cli
    from screening.cli import failures

    def fail(*_: object, **__: object) -> None:
        raise ValueError(f"cannot convert {SENTINELS['surname']}")

    monkeypatch.setattr(failures.command, "callback", fail)
    with pytest.raises(SystemExit) as left:
        screening.cli.main(["failures", "somewhere"])
    said = capsys.readouterr()
    assert left.value.code == 1
    assert SENTINELS["surname"] not in said.err + said.out
    assert re.fullmatch(
        r"Error: a fault of the program: ValueError at .* in fail; with SCREENING_TRACEBACK=1 in the environment the same "
        r"command shows the whole, which may quote patients' data\n",
        said.err,
    )
    monkeypatch.setenv("SCREENING_TRACEBACK", "1")
    with pytest.raises(ValueError, match="cannot convert"):
        screening.cli.main(["failures", "somewhere"])


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    from screening.errors import UserError
    from screening.storage import Folder

    with pytest.raises(
        UserError, match=r"the URL s3://bucket/runs was given with a password; give that in .*OPTIONS"
    ) as said:
        Folder("s3://ann:hunter2@bucket/runs").exists()
    assert "hunter2" not in str(said.value)
    assert Folder("/data/a:b@c/runs").is_local  # a path is no URL


def test_lists_of_records_that_cannot_be_followed_are_told_by_their_lines(tmp_path: Path) -> None:
    from screening.archive.build import build_catalog
    from screening.errors import UserError

    for kind, said in broken_lists(tmp_path).items():
        with pytest.raises(UserError) as told:
            build_catalog(str(tmp_path / kind), str(tmp_path / "catalog"), deidentified=True)
        assert str(told.value).startswith(said)
        shown = "".join(traceback.format_exception(told.value))
        assert not [name for name, sentinel in SENTINELS.items() if sentinel in shown]


def test_zip_and_tar_files_that_are_damaged_are_told_without_what_they_hold(tmp_path: Path) -> None:
    from screening.archive.build import build_catalog
    from screening.archive.catalog import open_catalog
    from screening.archive.identity import PseudonymKey
    from screening.archive.reader import ArchiveReader
    from screening.errors import UserError

    refused, said = set(), []
    for url in broken_archives(tmp_path / "packed"):
        catalog, kind = str(tmp_path / "catalogs" / url.rpartition("/")[2]), url.rpartition("/")[2]
        try:
            said += build_catalog(url, catalog, key=PseudonymKey.of(b"k" * 32)).warnings
        except UserError as error:
            refused.add(kind)
            said.append("".join(traceback.format_exception(error)))
            continue
        reader = ArchiveReader(url)
        for batch in open_catalog(catalog).iter_batches(["record_id", "version"], with_location=True):
            for row in batch.to_pylist():
                try:
                    said.append(repr(getattr(reader.read(row["location"], "x", version=row["version"]), "detail", "")))
                except OSError as error:  # of storage: what is told of it is its type
                    said.append(type(error).__name__)
    assert refused == {"cut.zip", "prose.zip", "cut.tar", "prose.tar", "damaged.tar", "packed.tar", "number.tar"}
    assert not [name for name, sentinel in SENTINELS.items() if sentinel in "".join(said)]
