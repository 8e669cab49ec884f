"""What a worker does when storage fails or refuses while it makes itself ready."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from screening.archive.build import build_catalog
from screening.archive.catalog import open_catalog
from screening.errors import StorageError, Unexpected, UserError
from screening.run import worker
from screening.run.bundles import fetch_bundle, store_bundle
from screening.run.fingerprint import numerics_fingerprint
from screening.run.lease import Lease
from screening.run.ledger import ShardSummary
from screening.run.plan import make_plan, store_plan
from screening.settings import RunSettings
from screening.signal.preprocess import Preprocessing
from screening.storage import Folder
from tests import wfdb_files
from tests.bundles import make_bundle

SPENT = tuple(f"{stage}_s" for stage in worker.DECODING)
DECODED = pa.table({name: pa.array([0, 0], pa.int32()) for name in ("shard", "packed", "damaged", *SPENT)})
SUMMARY = ShardSummary(0, 2, "0" * 64, bytes=4, scored=2, flagged=0, explained=0)


def actor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answers: list[Any]) -> worker.ScoringActor:
    """Return a scoring actor for whom model and donors are asked with these answers, one after the other."""

    def ask(*_: object) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(worker, "scorer_of", ask)
    monkeypatch.setattr(worker, "results_file", lambda *_: (SUMMARY, b"rows"))
    plan: Any = SimpleNamespace(shard_rows=lambda _: 2)
    return worker.ScoringActor(Folder(str(tmp_path)), Folder(str(tmp_path)), plan, 1)


def test_storage_that_fails_while_a_scorer_starts_leaves_shards_unfinished_and_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = SimpleNamespace(score=lambda decoded, **_: decoded)
    gone = StorageError("no answer, 4 times")
    one = actor(tmp_path, monkeypatch, [gone, gone, scorer])
    (told,) = one(DECODED).to_pylist()
    assert told["error"] == "shard 0, model and donors: no answer, 4 times"
    assert not told["fatal"]
    (told,) = one(DECODED).to_pylist()
    assert told["error"] is None
    assert told["summary"] is not None
    assert (tmp_path / "results" / "part-00000.parquet").read_bytes() == b"rows"


def test_a_worker_of_a_runner_that_lost_its_lease_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between scoring and writing the run may have been taken over, published, and a patient erased from it."""
    one = actor(tmp_path, monkeypatch, [SimpleNamespace(score=lambda decoded, **_: decoded)])
    with Lease(Folder(str(tmp_path)), beat_s=0.1) as lease:
        one.run = lease.folder
        one.run.create("lease/epoch-000002.json", b"{}")
        (told,) = one(DECODED).to_pylist()
    assert "was taken over by another runner" in told["error"]
    assert told["fatal"]
    assert list((tmp_path / "results").iterdir()) == []


@pytest.mark.parametrize("shards", [[0], [0, 0, 0], [0, 1]])
def test_a_block_that_is_not_the_whole_of_one_shard_is_not_scored(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shards: list[int]
) -> None:
    """Were Ray to cut or join blocks, a shard would lack rows, or have those of another."""
    one = actor(tmp_path, monkeypatch, [SimpleNamespace(score=lambda decoded, **_: decoded)])
    block = pa.table({name: pa.array(shards, pa.int32()) for name in DECODED.column_names})
    with pytest.raises(Unexpected, match=r"^RuntimeError at .*worker.py:\d+ in __call__$"):
        one(block)
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_full_or_closed_disk_leaves_the_shard_unfinished_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    scorer = SimpleNamespace(score=lambda decoded, **_: decoded)
    one = actor(tmp_path, monkeypatch, [scorer])

    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/archive/MUELLER")

    with monkeypatch.context() as patched:
        patched.setattr(os, "open" if number == errno.EROFS else "fsync", refuse)
        (told,) = one(DECODED).to_pylist()
    why = f"{tmp_path} cannot be written to ({os.strerror(number)})"
    assert told["error"] == f"shard 0, results file: {why}"
    assert not told["fatal"]
    assert list((tmp_path / "results").iterdir()) == []
    (told,) = one(DECODED).to_pylist()  # there is room again
    assert told["error"] is None


def test_an_archive_that_vanishes_leaves_the_shard_unfinished_until_it_is_back(tmp_path: Path) -> None:
    """It is not taken for one whose every record is missing: that would reject them all."""
    for name in ("one", "two"):
        for file, data in wfdb_files.record(name).items():
            (tmp_path / "archive").mkdir(exist_ok=True)
            (tmp_path / "archive" / file).write_bytes(data)
    build_catalog(str(tmp_path / "archive"), str(tmp_path / "catalog"), deidentified=True)
    catalog, run = open_catalog(str(tmp_path / "catalog")), Folder(str(tmp_path / "runs" / "r"))
    plan = make_plan(
        catalog,
        model={"name": "m", "version": "1", "bundle_sha256": "b", "input_contract_sha256": "i"},
        donor_set=None,
        settings=RunSettings(),
        quality={},
        shard_records=2,
        fingerprint={},
    )
    source = worker.Source(run, store_plan(run, catalog, plan), Preprocessing(), {}, attempts=1)
    (tmp_path / "archive").rename(tmp_path / "away")
    (told,) = worker.decode_block(source, 0)[0].to_pylist()
    assert told["error"] == "shard 0: the archive's folder is gone or empty, 1 times"
    assert run.names("begun") == []  # its records are not suspected of it
    (tmp_path / "away").rename(tmp_path / "archive")
    (decoded,) = worker.decode_block(source, 0)
    assert decoded["record_id"].to_pylist() == ["one", "two"]
    assert "missing_file" not in decoded["reason"].to_pylist()


def test_a_worker_that_may_not_score_says_so_and_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = actor(tmp_path, monkeypatch, [UserError("another machine")])
    (told,) = one(DECODED).to_pylist()
    assert told["error"] == "another machine"
    assert told["fatal"]


def test_a_worker_of_another_kind_does_not_go_on_with_a_run(tmp_path: Path) -> None:
    """Some rows of the run would differ from the others in their last digits."""
    here = numerics_fingerprint("cpu", batch_size=8)
    plan: Any = SimpleNamespace(run_id="r", fingerprint=here | {"numpy": "1.0"})
    runs = Folder(str(tmp_path))
    with pytest.raises(
        UserError, match=rf"differs from the plan of run r in numpy \({re.escape(here['numpy'])}\); start"
    ):
        worker.scorer_of(runs, plan)


def test_a_model_under_the_name_of_another_is_not_used(tmp_path: Path) -> None:
    """Whole by itself, it would score as nobody has planned."""
    runs, bundle = Folder(str(tmp_path / "runs")), make_bundle(tmp_path / "bundle")
    store_bundle(runs, bundle)
    (tmp_path / "runs" / "models" / bundle.sha256).rename(tmp_path / "runs" / "models" / ("0" * 64))
    with pytest.raises(UserError, match="holds another model than its name says; restore it, or start a new run"):
        fetch_bundle(runs, "0" * 64)
