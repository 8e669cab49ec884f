"""What the driver makes of what workers send, of storage that fails again and again, and of a worker that dies. No Ray here."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import ray

from screening.errors import UserError
from screening.run import engine, worker
from screening.run.lease import Lease
from screening.run.ledger import ShardSummary, finished_shards
from screening.run.plan import load_plan, results_name
from screening.run.worker import Source
from screening.settings import RunSettings
from screening.signal.preprocess import Preprocessing
from screening.storage import Folder
from tests.run.test_ledger import PLAN
from tests.run.test_taken_over import finish, run  # noqa: F401

SUMMARY = ShardSummary(0, 3, "0" * 64, bytes=4, scored=3, flagged=0, explained=0)


class Sent:
    """Stands for a data set of Ray: gives these rows, and then ends with an error."""

    def __init__(self, rows: list[pa.Table], error: Exception | None) -> None:
        self._rows, self._error = rows, error

    def map_batches(self, *_: Any, **__: Any) -> Sent:
        return self

    def iter_batches(self, **_: Any) -> Iterator[pa.Table]:
        yield from self._rows
        if self._error is not None:
            raise self._error


def executed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rows: list[pa.Table], error: Exception | None = None
) -> list[tuple[int | None, ShardSummary | str]]:
    runs = Folder(str(tmp_path))
    monkeypatch.setattr(ray.data, "read_datasource", lambda *_, **__: Sent(rows, error))
    source = Source(runs.folder("r"), replace(PLAN, fingerprint={"device": "cpu"}), Preprocessing(), {})
    return [(shard, what) for shard, what, _ in engine.execute(source, runs, [0, 1], 1, Counter())]


def test_a_worker_that_dies_leaves_the_shards_that_it_had_and_its_message_unsaid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = worker._row(0, summary=json.dumps(asdict(SUMMARY)))
    error = ray.exceptions.RayError("/archive/MUELLER\nUnexpected: ValueError at worker.py:1 in decode\nmore")
    assert executed(tmp_path, monkeypatch, [done], error) == [
        (0, SUMMARY),
        (None, "Ray ended the run: ValueError at worker.py:1 in decode"),
    ]
    killed = ray.exceptions.WorkerCrashedError("/archive/MUELLER")
    assert executed(tmp_path, monkeypatch, [], killed) == [(None, "Ray ended the run: WorkerCrashedError")]


def test_a_shard_that_storage_did_not_give_is_a_sentence_and_what_ends_the_run_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert executed(tmp_path, monkeypatch, [worker._row(1, error="no answer")]) == [(1, "no answer")]
    with pytest.raises(UserError, match="^another machine$"):
        executed(tmp_path, monkeypatch, [worker._row(1, error="another machine", fatal=True)])


def test_storage_that_fails_shard_after_shard_ends_the_run_before_all_are_tried(
    run: Folder,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An archive that is gone would else be waited for at each of thousands of shards."""
    done = finished_shards(run, load_plan(run))
    for shard in done:
        run.remove(results_name(shard))
    asked: list[int] = []

    def execute(*_: Any) -> Iterator[Any]:
        for shard in sorted(done):
            asked.append(shard)
            yield shard, f"shard {shard}: no answer", {}

    monkeypatch.setattr(engine, "execute", execute)
    with Lease(run, beat_s=0.05) as lease:
        outcome = finish(run, lease, RunSettings(unfinished_limit=2))
    assert asked == [0, 1]
    assert (outcome.published, outcome.undone) == (False, 4)
    assert outcome.unfinished == ("shard 0: no answer", "shard 1: no answer")
