"""``screening nightly`` in this process: champions that come and go, who is told of what, and what Ray shows of the job."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest

from screening.cli import group
from screening.errors import StorageError, UserError
from screening.nightly import screening
from screening.run import pipeline
from screening.run.pipeline import Progress
from screening.signal.simulate import SimulationSettings, write_archive
from screening.storage import Folder
from screening.train.registry import move_champion, register
from tests.nightly.conftest import World, bundles_of

PLANNED = {"records": 16, "shards": 2, "left": 2, "model": "tiny", "model_version": "1", "device": "cpu", "workers": 1}
RUN_ID = "0123456789abcdef"


def nightly(world: World, *options: str, **settings: Any) -> int:
    """Run the command, and return its exit code."""
    metrics, tee = world.folder / "night.prom", ["tee", "-a", str(world.folder / "told.jsonl")]
    notify = {"when": "always", "command": tee}
    given = world.given(model=str(world.bundle.path), metrics_file=str(metrics), notify=notify) | settings
    file = world.folder / "nightly.yaml"
    file.write_text("".join(f"{key}: {json.dumps(value)}\n" for key, value in given.items()))
    arguments = ["nightly", "--settings", str(file), "--state", str(world.folder / "state"), *options]
    code: int = group.main(arguments, standalone_mode=False)
    return code


def told(world: World) -> list[dict[str, Any]]:
    """Return what was told of nights, one after the other."""
    path = world.folder / "told.jsonl"
    decoder, text, found = json.JSONDecoder(), path.read_text() if path.exists() else "", []
    while text:
        one, end = decoder.raw_decode(text)
        found.append(one)
        text = text[end:]
    return found


def metric(world: World, name: str) -> float:
    lines = (world.folder / "night.prom").read_text().splitlines()
    (value,) = [line.split()[-1] for line in lines if line.startswith(f"{name} ")]
    return float(value)


def in_the_book(world: World) -> list[str]:
    return sorted(path.parent.name for path in (world.folder / "runs" / "nights").glob("2*/night.json"))


@pytest.fixture
def job(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Return what the Ray job shows, by name."""
    shown: dict[str, Any] = {}
    for module in ("screening.cli.nightly", "screening.cli.run", "screening.cli.log"):
        monkeypatch.setattr(f"{module}.tell_job", shown.update)
    return shown


@pytest.mark.usefixtures("ray_here")
def test_the_champion_of_the_night_scores_and_its_version_stands_in_the_rows(
    mlflow_uri: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for bundle in bundles_of(tmp_path / "bundles", "tiny"):
        register(bundle, tracking_uri=mlflow_uri, run_name="tiny", parameters={}, figures={}, tags={})
    world = World(tmp_path, tmp_path, bundle)
    write_archive(str(world.archive), SimulationSettings(records=24, prevalence=0.4, seed=3))

    def night(day: str) -> dict[str, Any]:
        asks = ("--date", day, "--tracking-uri", mlflow_uri, "--json")
        assert nightly(world, *asks, model="models:/tiny@champion", max_records=12, mlflow=True) == 0
        ended: dict[str, Any] = json.loads(capsys.readouterr().out)
        return ended

    move_champion("tiny", 1, expected=None, tracking_uri=mlflow_uri)
    first = night("2026-11-21")
    move_champion("tiny", 2, expected=1, tracking_uri=mlflow_uri)
    second = night("2026-11-22")
    assert [one["id"] for one in (first, second)] == ["2026-11-21-tiny-1-1", "2026-11-22-tiny-2-1"]
    assert [(one["model_version"], one["planned"], one["untold"]) for one in (first, second)] == [
        ("1", 12, 0),
        ("2", 12, 0),
    ]
    rows = [world.rows(*one["run_ids"]) for one in (first, second)]
    assert [set(of["model_version"]) for of in rows] == [{"1"}, {"2"}]
    assert len(set(rows[0].index) | set(rows[1].index)) == 24
    assert world.standing()["model_version"].value_counts().to_dict() == {"1": 12, "2": 12}


@pytest.mark.usefixtures("without_ray")
def test_a_second_start_is_told_truly_tells_nobody_again_and_renews_the_success(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    world.grow(24)
    assert nightly(world, max_records=10) == 0
    (name,) = in_the_book(world)
    (world.folder / "night.prom").unlink()
    capsys.readouterr()
    assert nightly(world, max_records=24) == 0
    assert capsys.readouterr().out == (
        f"The night {name} ended well already (published; 14 records wait for the nights to come), and nothing was done now; "
        "--again begins another attempt at it.\n"
    )
    assert len(told(world)) == 1
    assert metric(world, "screening_last_success_timestamp_seconds") == metric(
        world, "screening_night_timestamp_seconds"
    )
    assert metric(world, "screening_night_waiting_records") == 14
    assert nightly(world, "--again", "--id") == 0
    following = f"{name.removesuffix('-1')}-2"
    assert capsys.readouterr().out == f"{following}\n"
    assert nightly(world, "--again", max_records=24) == 0
    assert in_the_book(world) == [name, following]
    assert told(world)[-1]["counts"]["planned"] == 14
    # That a night of long ago ended well is no news of today.
    assert nightly(world, "--date", "2026-01-01") == 0
    (world.folder / "night.prom").unlink()
    assert nightly(world, "--date", "2026-01-01") == 0
    assert "\nscreening_last_success_timestamp_seconds " not in (world.folder / "night.prom").read_text()


def bad_key(world: World) -> dict[str, Any]:
    key = world.folder / "pseudonym.key"
    key.write_text("k" * 64)
    key.chmod(0o644)
    return {"deidentified": False, "key_file": str(key)}


def damaged_book(world: World) -> dict[str, Any]:
    folder = world.folder / "runs" / "nights" / "2026-11-20-tiny-1-1"
    folder.mkdir(parents=True)
    (folder / "started.json").write_text("{")
    return {}


def no_model(world: World) -> dict[str, Any]:
    return {"model": str(world.folder / "absent")}


def no_place_for_metrics(world: World) -> dict[str, Any]:
    return {"metrics_file": str(world.folder / "absent" / "night.prom")}


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(
    ("spoil", "said", "name"),
    [
        (bad_key, "chmod 600", "2026-11-21-tiny-1-1"),
        (damaged_book, "is damaged", "2026-11-21-unknown-model-1"),
        (no_model, "absent", "2026-11-21-unknown-model-1"),
        (no_place_for_metrics, "the metrics file", "2026-11-21-unknown-model-1"),
    ],
)
def test_whatever_fails_once_settings_are_read_is_told_and_noted(
    spoil: Callable[[World], dict[str, Any]], said: str, name: str, world: World, job: dict[str, Any]
) -> None:
    world.grow(8)
    with pytest.raises(UserError, match=said):
        nightly(world, "--date", "2026-11-21", **spoil(world))
    (night,) = told(world)
    assert night["outcome"] == "failed"
    assert said in night["text"]
    assert name in in_the_book(world)
    assert (job["night"], job["outcome"]) == (name, "failed")
    if spoil is not no_place_for_metrics:
        assert metric(world, "screening_night_success") == 0


@pytest.mark.usefixtures("without_ray")
def test_storage_that_is_closed_is_told_and_leaves_no_book(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.grow(8)

    def refuses(*_: object) -> bool:
        raise StorageError("no space is left")

    monkeypatch.setattr(Folder, "create", refuses)
    with pytest.raises(StorageError):
        nightly(world, "--date", "2026-11-21")
    (night,) = told(world)
    assert (night["outcome"], in_the_book(world)) == ("unfinished", [])
    assert "no space is left" in night["text"]
    assert metric(world, "screening_night_success") == 0


def ended_early(error: BaseException) -> Callable[..., Any]:
    """Return a `screen` that ends after a shard."""

    def ends(
        *_: object,
        on_event: Callable[[str, dict[str, Any]], None],
        on_progress: Callable[[Progress], None],
        **__: object,
    ) -> None:
        on_event("run.planned", {"run_id": RUN_ID, **PLANNED})
        on_progress(Progress(records=16, done=8, scored=7, rejected=1, flagged=2, at_start=0))
        raise error

    return ends


@pytest.mark.usefixtures("without_ray")
@pytest.mark.parametrize(("error", "outcome"), [(KeyboardInterrupt(), "unfinished"), (UserError("no."), "failed")])
def test_ray_shows_of_a_night_that_ends_early_which_run_it_was_and_how_far(
    error: BaseException, outcome: str, world: World, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.grow(16)
    monkeypatch.setattr(screening, "screen", ended_early(error))
    with pytest.raises((type(error), click.Abort)):  # which click makes of an interrupt
        nightly(world, "--date", "2026-11-21")
    assert (job["night"], job["outcome"], job["run_id"]) == ("2026-11-21-tiny-1-1", outcome, RUN_ID)
    assert (job["records"], job["run_done"], job["run_scored"], job["run_rejected"], job["run_flagged"]) == (
        16,
        8,
        7,
        1,
        2,
    )
    assert (job["planned"], job["run_ids"]) == (0, "")  # none is published


def test_ray_shows_of_a_run_that_ends_early_how_far_it_was(
    world: World, job: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "screen", ended_early(KeyboardInterrupt()))
    arguments = ["run", "--catalog", "c", "--out", "r", "--model", str(world.bundle.path)]
    with pytest.raises(click.Abort):
        group.main([*arguments, "--state", str(world.folder / "state")], standalone_mode=False)
    assert job == {
        "run_id": RUN_ID,
        "records": 16,
        "done": 8,
        "scored": 7,
        "rejected": 1,
        "flagged": 2,
        "published": False,
    }
