"""What a worker does when storage fails or refuses while it makes itself ready."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from screening.errors import StorageError, UserError
from screening.run import worker
from screening.run.lease import Lease
from screening.run.ledger import ShardSummary
from screening.storage import Folder

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


def test_a_worker_that_may_not_score_says_so_and_ends_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = actor(tmp_path, monkeypatch, [UserError("another machine")])
    (told,) = one(DECODED).to_pylist()
    assert told["error"] == "another machine"
    assert told["fatal"]
