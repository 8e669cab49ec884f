"""What MLflow is told, and when it is down."""

from __future__ import annotations

import socket

import pytest

from screening.nightly.record import Outcome
from screening.train.tracking import connected
from tests.nightly.conftest import World


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.usefixtures("without_ray")
def test_a_registry_that_is_down_at_the_end_costs_nothing_and_is_told_the_next_night(
    world: World, mlflow_uri: str
) -> None:
    world.grow(20)
    world.tracking_uri = f"http://127.0.0.1:{closed_port()}"
    night = world.night("2026-11-21")
    assert (night.night.outcome, night.night.untold) == (Outcome.PUBLISHED, 2)
    assert (
        "Note: MLflow is to be told of 2 runs and reports the next night: the MLflow registry at http://127"
        in night.summary
    )
    assert "cannot be reached; see that its server runs" in night.summary
    assert len(world.standing()) == 20
    world.tracking_uri = mlflow_uri
    later = world.night("2026-11-22")
    assert (later.night.outcome, later.night.untold) == (Outcome.NOTHING_NEW, 0)
    with connected(mlflow_uri) as client:
        experiment = client.get_experiment_by_name("screening")
        (run,) = client.search_runs([experiment.experiment_id])
        assert run.data.tags["screening_run_id"] == night.night.run_ids[0]
        assert "model_version" not in run.data.tags  # it was never registered
        assert run.data.tags["bundle_sha256"] == world.bundle.sha256
        assert run.data.metrics["planned"] == 20
        assert {file.path for file in client.list_artifacts(run.info.run_id, "report")} >= {"report/report.html"}


@pytest.mark.usefixtures("without_ray")
def test_a_night_that_ends_while_it_tells_tells_again_and_nothing_is_there_twice(
    world: World, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from screening.nightly.book import Book

    world.grow(20)
    world.tracking_uri = mlflow_uri

    def ends(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as meanwhile:
        meanwhile.setattr(Book, "told", ends)
        with pytest.raises(KeyboardInterrupt):
            world.night("2026-11-21")
    assert world.night("2026-11-21").night.untold == 0
    with connected(mlflow_uri) as client:
        experiment = client.get_experiment_by_name("screening")
        (run,) = client.search_runs([experiment.experiment_id])
        assert [metric.value for metric in client.get_metric_history(run.info.run_id, "planned")] == [20]


@pytest.mark.usefixtures("without_ray")
def test_counts_of_few_are_not_told(world: World, mlflow_uri: str) -> None:
    """The report hides them; exact ones beside it would bring them to light."""
    world.grow(33)
    world.tracking_uri = mlflow_uri
    world.night("2026-11-21", reporting={"smallest_count": 10, "round_to": 5, "draws": 500})
    with connected(mlflow_uri) as client:
        experiment = client.get_experiment_by_name("screening")
        (run,) = client.search_runs([experiment.experiment_id])
    assert (run.data.metrics["planned"], run.data.metrics["scored"]) == (35, 35)
    assert run.data.metrics["flagged"] == 0
