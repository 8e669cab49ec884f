"""The driver of a run that was taken over ends with a sentence, and publishes nothing. No Ray here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from screening.errors import UserError
from screening.run import engine, pipeline
from screening.run.lease import Held, Lease
from screening.run.ledger import finished_shards
from screening.run.plan import load_plan, results_name
from screening.run.worker import Source
from screening.settings import RunSettings
from screening.storage import Folder
from tests.bundles import make_bundle
from tests.published import publish_run, write_catalog


@pytest.fixture
def run(tmp_path: Path) -> Folder:
    """Return a run of four shards that are finished, and which is not published."""
    catalog = write_catalog(tmp_path / "catalog", [{"record_id": f"r{n}"} for n in range(12)])
    run = publish_run(Folder(str(tmp_path / "runs")), catalog, "one")
    run.remove("manifest.json")
    return run


def finish(run: Folder, lease: Lease, settings: RunSettings | None = None) -> pipeline.RunOutcome:
    plan = replace(load_plan(run), fingerprint={"device": "cpu"})
    source = Source(lease.folder, plan, None, {})  # type: ignore[arg-type]
    nobody = pipeline._Told(*(lambda *_: None,) * 3)
    runs = Folder(run.url.rsplit("/", 1)[0])
    return pipeline._finish(source, runs, settings or RunSettings(), 1, lease, datetime.now(UTC), None, nobody)


def take_over(run: Folder) -> None:
    run.create("lease/epoch-000002.json", b"{}")


def test_a_run_is_begun_and_gone_on_with_under_its_lease_which_its_workers_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What workers write goes through the leased folder: else one that was frozen would write into another's run."""
    given: list[Held] = []

    def finish(source: Source, *_: Any) -> str:
        assert isinstance(source.run, Held)
        assert source.run.is_held()
        given.append(source.run)
        return "left"

    monkeypatch.setattr(pipeline, "cluster", lambda *_, **__: nullcontext())
    monkeypatch.setattr(pipeline.ray, "cluster_resources", lambda: {"CPU": 2.0})
    monkeypatch.setattr(pipeline, "_fingerprint", lambda _: {"device": "cpu", "batch_size": 8})
    monkeypatch.setattr(pipeline, "_finish", finish)
    catalog = write_catalog(tmp_path / "catalog", [{"record_id": f"r{n}"} for n in range(4)])
    runs, settings = tmp_path / "runs", RunSettings(attribution="none")
    bundle = make_bundle(tmp_path / "bundle")
    assert pipeline.screen(catalog, str(runs), model_path=str(bundle.path), settings=settings) == "left"  # type: ignore[comparison-overlap]
    (run,) = (path.parent for path in runs.glob("*/plan.json"))
    assert pipeline.resume(str(runs), run.name, settings=settings) == "left"  # type: ignore[comparison-overlap]
    assert [(folder.url, folder.epoch) for folder in given] == [(str(run), 1), (str(run), 2)]
    assert (run / "lease" / "epoch-000002.released").exists()


def test_a_run_of_which_all_is_done_is_published_by_whoever_holds_it(run: Folder) -> None:
    with Lease(run) as lease:
        assert finish(run, lease).published
    assert run.exists("manifest.json")


def test_a_run_that_was_taken_over_is_not_published(run: Folder) -> None:
    with Lease(run, beat_s=60) as lease:  # its next beat, which would tell, is a minute away
        take_over(run)
        with pytest.raises(UserError, match="was taken over by another runner; nothing is lost, and that one goes on"):
            finish(run, lease)
    assert not run.exists("manifest.json")
    assert not run.exists("lease/epoch-000001.released")


def test_a_run_that_is_taken_over_while_it_is_published_is_left_to_the_other(
    run: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = pipeline.publish

    def late(*arguments: Any, **named: Any) -> dict[str, Any]:
        take_over(run)
        return publish(*arguments, **named)

    monkeypatch.setattr(pipeline, "publish", late)
    with Lease(run, beat_s=60) as lease, pytest.raises(UserError, match="was taken over by another runner"):
        finish(run, lease)
    assert not run.exists("manifest.json")


def test_a_run_that_was_taken_over_is_not_said_to_be_left_unfinished(
    run: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is another's by now, and starting it again would be the wrong thing to do."""
    run.remove(results_name(0))
    monkeypatch.setattr(engine, "execute", lambda *_: iter([(0, "shard 0: no answer", {})]))
    with Lease(run, beat_s=60) as lease:
        take_over(run)
        with pytest.raises(UserError, match="was taken over by another runner"):
            finish(run, lease)


def test_no_shard_is_waited_for_once_the_run_is_taken_over(run: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    done = finished_shards(run, load_plan(run))
    for shard in done:
        run.remove(results_name(shard))
    asked: list[int] = []

    def execute(*_: Any) -> Iterator[Any]:
        for shard in sorted(done):
            asked.append(shard)
            if shard == 1:
                take_over(run)
                assert lease.lost.wait(20)
            yield shard, done[shard], {}

    monkeypatch.setattr(engine, "execute", execute)
    with Lease(run, beat_s=0.05) as lease, pytest.raises(UserError, match="was taken over by another runner"):
        finish(run, lease)
    assert asked == [0, 1]
