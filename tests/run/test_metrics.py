"""What is counted, where it is shown, and that the file is whole at every moment."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from screening.contract import Reason
from screening.errors import UserError
from screening.nightly.record import Night, Outcome
from screening.run.metrics import FINDING, METRICS, Meter
from screening.run.stopwatch import STAGES, Stopwatch

PLANNED = {
    "run_id": "0123456789abcdef",
    "records": 512,
    "shards": 2,
    "left": 2,
    "model": "msaic-mi",
    "model_version": "3",
    "device": "cpu",
    "workers": 2,
}


def shard(left: int, **changed: Any) -> dict[str, Any]:
    seconds = dict.fromkeys(STAGES, 0.25)
    facts = {"scored": 250, "flagged": 30, "explained": 30, "reasons": {Reason.FLAT_LEAD: 6}, "seconds": seconds}
    return {"run_id": "0123456789abcdef", "left": left, **facts, **changed}


def read(path: Path) -> dict[tuple[str, ...], float]:
    """Return (name, label values...) -> value, as Prometheus' own parser reads the file; labels by name."""
    families = text_string_to_metric_families(path.read_text())
    return {(s.name, *(s.labels[key] for key in sorted(s.labels))): s.value for f in families for s in f.samples}


def night(outcome: Outcome, **changed: Any) -> Night:
    at: Mapping[str, str] = {"started_at": "2026-11-22T01:00:00+00:00", "finished_at": "2026-11-22T02:00:00+00:00"}
    return Night(date="2026-11-22", outcome=outcome, **at, **changed)


def test_a_run_in_the_textfile(tmp_path: Path) -> None:
    path = tmp_path / "screening.prom"
    meter = Meter(path)
    meter("run.planned", PLANNED)
    meter("shard.finished", shard(1))
    meter("shard.unfinished", {"run_id": "0123456789abcdef", "why": "shard 1: storage"})
    meter("run.unfinished", {"run_id": "0123456789abcdef", "left": 1, "seconds": 1.0})
    held = read(path)
    assert held["screening_records_scored_total",] == 250
    assert held["screening_records_rejected_total", "flat_lead"] == 6
    assert held["screening_stage_seconds_total", "explain"] == 0.25
    assert held["screening_shard_seconds_bucket", "1.0"] == 0
    assert held["screening_shard_seconds_bucket", "2.0"] == held["screening_shard_seconds_count",] == 1
    assert held["screening_shard_seconds_sum",] == 1.5
    assert held["screening_shards_left",] == held["screening_shards_unfinished_total",] == 1
    assert held["screening_runs_total", "unfinished"] == 1
    assert held["screening_run_info", "cpu", "msaic-mi", "3", "0123456789abcdef"] == 1
    assert {name for name, *_ in held} - {"screening_shard_seconds_count"} <= {
        *METRICS,
        *(f"screening_shard_seconds_{part}" for part in ("bucket", "sum")),
    }
    assert [each.name for each in tmp_path.iterdir()] == ["screening.prom"]


def test_counters_go_on_over_runs_and_the_run_that_is_over_goes(tmp_path: Path) -> None:
    path = tmp_path / "screening.prom"
    for run in ("0123456789abcdef", "fedcba9876543210"):
        meter = Meter(path)
        meter("run.planned", PLANNED | {"run_id": run})
        meter("shard.finished", shard(0))
        meter("run.published", {"run_id": run, "left": 0, "seconds": 1.0})
    held = read(path)
    assert held["screening_records_scored_total",] == 500
    assert held["screening_runs_total", "published"] == 2
    assert [key for key in held if key[0] == "screening_run_info"] == [
        ("screening_run_info", "cpu", "msaic-mi", "3", "fedcba9876543210")
    ]
    path.write_text("neither metrics\nnor 1 2 3 4 text")
    Meter(path)("run.planned", PLANNED)
    assert ("screening_records_scored_total",) not in read(path)


def test_a_night_that_fails_keeps_the_time_of_the_last_that_did_not(tmp_path: Path) -> None:
    path = tmp_path / "screening.prom"
    Meter(path).night(night(Outcome.NOTHING_NEW), [("drift", "alarm")], at=1000.0)
    Meter(path).night(night(Outcome.FAILED, waiting=7), [("failed", "alarm")], at=2000.0)
    held = read(path)
    assert held["screening_night_timestamp_seconds",] == 2000
    assert held["screening_last_success_timestamp_seconds",] == 1000
    assert held["screening_night_success",] == 0
    assert held["screening_night_waiting_records",] == 7
    assert {key[1:]: value for key, value in held.items() if key[0] == FINDING.name} == {("failed", "alarm"): 2000}


class Instrument:
    """Hears what one of Ray's metrics would."""

    def __init__(self) -> None:
        self.heard: dict[tuple[str, ...], float] = {}

    def set(self, value: float, tags: dict[str, str]) -> None:
        self.heard[tuple(tags.values())] = value

    def inc(self, value: float, tags: dict[str, str]) -> None:
        self.heard[tuple(tags.values())] = self.heard.get(tuple(tags.values()), 0.0) + value


@pytest.mark.parametrize(
    ("variable", "address", "joins"),
    [
        (None, None, None),
        ("10.0.0.1:6379", None, "10.0.0.1:6379"),
        (None, "10.0.0.2:6379", "10.0.0.2:6379"),
        ("local", None, None),
    ],
)
def test_a_night_is_told_to_the_cluster_that_it_has_left(
    variable: str | None, address: str | None, joins: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    joined, instruments = [], {name: Instrument() for name in METRICS}

    @contextmanager
    def cluster(named: str) -> Iterator[None]:
        joined.append(named)
        yield

    monkeypatch.setattr("ray.is_initialized", lambda: False)  # whatever other tests of this process have joined
    monkeypatch.setattr("screening.cluster.cluster", cluster)
    monkeypatch.setattr("screening.run.metrics._instruments", lambda: instruments if joined else None)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    if variable is not None:
        monkeypatch.setenv("RAY_ADDRESS", variable)
    path = tmp_path / "screening.prom"
    Meter(path).night(night(Outcome.NOTHING_NEW), [], at=1000.0)
    joined.clear()
    Meter(path).night(night(Outcome.FAILED, waiting=7), [("failed", "alarm")], at=2000.0, address=address)
    assert joined == ([joins] if joins else [])
    told = {name: each.heard for name, each in instruments.items() if each.heard and joins}
    assert told == (
        {
            "screening_night_timestamp_seconds": {(): 2000},
            "screening_last_success_timestamp_seconds": {(): 1000},
            "screening_night_success": {(): 0},
            "screening_night_waiting_records": {(): 7},
            "screening_night_finding_timestamp_seconds": {("failed", "alarm"): 2000},
        }
        if joins
        else {}
    )
    assert read(path)["screening_night_timestamp_seconds",] == 2000


def test_a_cluster_that_is_gone_disturbs_no_night(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")  # nobody answers
    Meter(tmp_path / "screening.prom").night(night(Outcome.UNFINISHED), [("unfinished", "alarm")], at=2000.0)
    assert read(tmp_path / "screening.prom")["screening_night_timestamp_seconds",] == 2000


def test_when_a_run_was_published(tmp_path: Path) -> None:
    """A moment, as the counter of a cluster that lives for one run goes from nothing to 1, which is no increase."""
    path = tmp_path / "screening.prom"
    Meter(path, now=lambda: 1000.0)("run.unfinished", {"run_id": "0", "left": 1, "seconds": 1.0})
    assert ("screening_run_published_timestamp_seconds",) not in read(path)
    Meter(path, now=lambda: 2000.0)("run.published", {"run_id": "0", "left": 0, "seconds": 1.0})
    assert read(path)["screening_run_published_timestamp_seconds",] == 2000


def test_what_the_hours_of_a_night_had_no_time_for_does_not_stand_still(tmp_path: Path) -> None:
    path = tmp_path / "screening.prom"
    meter = Meter(path)
    meter("run.planned", PLANNED)
    meter("run.unfinished", {"run_id": "0123456789abcdef", "left": 2, "seconds": 1.0})
    meter.night(night(Outcome.UNFINISHED), [], at=1000.0)
    assert read(path)["screening_shards_left",] == 2
    meter.night(night(Outcome.PUBLISHED, hours_over=True, waiting=512), [], at=2000.0)
    assert read(path)["screening_shards_left",] == 0


def test_the_file_is_replaced_whole_and_a_fault_of_it_disturbs_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError, match=r"the metrics file .*/absent/a\.prom cannot be written \(No such file or direct"
    ):
        Meter(tmp_path / "absent" / "a.prom")
    path, now = tmp_path / "screening.prom", [0.0]
    meter = Meter(path, clock=lambda: now[0])
    before = path.stat().st_ino
    meter("shard.finished", shard(3))
    assert path.stat().st_ino == before  # not yet again
    now[0] = 6.0
    meter("shard.finished", shard(2))
    assert path.stat().st_ino != before  # another file, by its name
    assert read(path)["screening_shards_left",] == 2

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.rename", full)
    monkeypatch.setattr("os.replace", full)
    now[0] = 12.0
    meter("shard.finished", shard(1))
    assert read(path)["screening_shards_left",] == 2
    assert [each.name for each in tmp_path.iterdir()] == ["screening.prom"]


def test_names_labels_and_kinds_follow_the_rules_of_prometheus() -> None:
    for name, metric in METRICS.items():
        assert name.startswith("screening_")
        assert name.endswith("_total") == (metric.kind == "counter")
        assert not {"record_id", "patient_key", "path", "url", "site", "device_name"} & set(metric.labels)
        assert bool(metric.buckets) == (metric.kind == "histogram")


@pytest.mark.usefixtures("ray_here")
def test_the_events_of_a_run(ptbxl: Path, tmp_path: Path) -> None:
    from screening.archive.build import build_catalog
    from screening.run.pipeline import screen
    from screening.settings import RunSettings
    from tests.bundles import make_bundle

    build_catalog(str(ptbxl), str(tmp_path / "catalog"), deidentified=True)
    told: list[tuple[str, dict[str, Any]]] = []
    settings = RunSettings(attribution="all", operators=("lead",), donors=2, donor_set=8, shard_records=32)  # type: ignore[call-arg]
    outcome = screen(
        str(tmp_path / "catalog"),
        str(tmp_path / "runs"),
        model_path=str(make_bundle(tmp_path / "bundle").path),
        settings=settings,
        on_event=lambda name, facts: told.append((name, facts)),
    )
    assert [name for name, _ in told] == ["run.planned", "shard.finished", "shard.finished", "run.published"]
    assert {**told[0][1], "run_id": "", "workers": 0} == {
        **PLANNED,
        "run_id": "",
        "workers": 0,
        "records": 64,
        "model": "tiny",
        "model_version": told[0][1]["model_version"],
    }
    assert [facts["left"] for _, facts in told] == [2, 1, 0, 0]
    for _, facts in told[1:3]:
        assert set(facts["seconds"]) == set(STAGES)
        assert all(seconds > 0 for seconds in facts["seconds"].values())
        assert sum(facts["seconds"].values()) < 2 * outcome.seconds + 1
    assert json.loads(json.dumps(told)) == [list(each) for each in told]


def test_what_is_told_costs_next_to_nothing(tmp_path: Path) -> None:
    """Far less than a hundredth of the second that a shard of 256 records takes at the least."""
    meter, stopwatch = Meter(tmp_path / "screening.prom"), Stopwatch()
    meter("run.planned", PLANNED)
    begun = time.process_time()
    for left in range(100, 0, -1):
        for _ in range(256):
            with stopwatch.stage("fetch"):
                pass
            with stopwatch.stage("decode"):
                pass
        meter("shard.finished", shard(left))
    assert (time.process_time() - begun) / 100 < 0.01


def test_a_stage_within_a_stage_stops_the_others_time() -> None:
    stopwatch = Stopwatch()
    with stopwatch.stage("filter"):
        time.sleep(0.02)
        with stopwatch.stage("fetch"):
            time.sleep(0.1)
    assert 0.1 <= stopwatch.seconds["fetch"] < 0.2
    assert 0.02 <= stopwatch.seconds["filter"] < 0.1
    assert stopwatch.seconds["score"] == 0


def test_a_ray_that_we_start_has_nobody_to_tell(tmp_path: Path) -> None:
    asked = (
        "from screening.cluster import cluster\nfrom screening.run.metrics import has_agent\n"
        "print(has_agent())\nwith cluster(None):\n    print(has_agent())"
    )
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run([sys.executable, "-c", asked], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["False", "False"], done.stderr
