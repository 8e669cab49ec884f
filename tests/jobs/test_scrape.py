"""What Prometheus gets from a real Ray head node over HTTP, at the address that it finds as on a cluster."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from screening.run.metrics import METRICS
from screening.run.stopwatch import STAGES
from tests.bundles import make_bundle
from tests.conftest import PROJECT
from tests.jobs.test_submit import Head, catalog, head  # noqa: F401

pytestmark = pytest.mark.timeout(600)
SCRAPE = PROJECT / "infra" / "prometheus" / "prometheus.yml"


def scrape() -> dict[str, list[tuple[dict[str, str], float]]]:
    """Return name -> (labels, value) of each series, as our configuration makes Prometheus see them."""
    found = json.loads(Path(f"/tmp/sr{os.getpid()}/prom_metrics_service_discovery.json").read_text())
    text = ""
    for target in found[0]["targets"]:  # the node's agent, the dashboard and others
        with suppress(OSError), urllib.request.urlopen(f"http://{target}/metrics", timeout=10) as answer:
            text += answer.read().decode()
    jobs = {job["job_name"]: job for job in yaml.safe_load(SCRAPE.read_text())["scrape_configs"]}
    _, rename, drop = jobs["ray"]["metric_relabel_configs"]
    series: dict[str, list[tuple[dict[str, str], float]]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            match = re.fullmatch(rename["regex"], sample.name)
            labels = {key: value for key, value in sample.labels.items() if not re.fullmatch(drop["regex"], key)}
            series.setdefault(match[1] if match else sample.name, []).append((labels, sample.value))
    return series


def total(series: dict[str, list[tuple[dict[str, str], float]]], name: str) -> float:
    return sum(value for _, value in series.get(name, []))


def test_a_run_on_a_cluster_shows_in_prometheus(head: Head, catalog: Path, tmp_path: Path) -> None:  # noqa: F811
    bundle = make_bundle(tmp_path / "bundle")
    entry = ["screen.py", "--catalog", catalog, "--model", bundle.path, "--shard-records", "32", "--log-format", "json"]
    entry += ["--out", tmp_path / "runs", "--attribution", "none", "--json"]
    done = head.submit("screen-and-watch", *entry)
    assert done.returncode == 0, done.stdout + done.stderr
    deadline = time.monotonic() + 30
    while total(series := scrape(), "screening_records_scored_total") < 150:
        assert time.monotonic() < deadline, {name: series[name] for name in series if "screening" in name}
        time.sleep(1)
    ours = {name: values for name, values in series.items() if "screening" in name}
    known = set(METRICS) | {f"screening_shard_seconds{part}" for part in ("_bucket", "_count", "_sum")}
    assert set(ours) <= known
    assert total(ours, "screening_records_scored_total") == 150  # all of it, though the driver ended at once
    assert total(ours, "screening_shards_finished_total") == total(ours, "screening_shard_seconds_count") == 5
    assert [(labels["outcome"], value) for labels, value in ours["screening_runs_total"]] == [("published", 1)]
    spent = {labels["stage"]: value for labels, value in ours["screening_stage_seconds_total"]}
    assert set(spent) == set(STAGES)
    events = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"time"')]
    assert [event["event"] for event in events if event["event"].startswith(("run", "shard"))] == [
        "run.planned",
        *["shard.finished"] * 5,
        "run.published",
    ]
    assert {event["run_id"] for event in events if event["event"] == "shard.finished"} == {events[-1]["run_id"]}
    of_ray = {"SessionName", "NodeAddress", "Version", "WorkerId", "Component"}
    for name, values in ours.items():
        labels = set(METRICS[name].labels if name in METRICS else ("le",))
        assert all(set(each) - of_ray <= labels for each, _ in values), name


TELLS = """
from screening.nightly.record import Night, Outcome
from screening.run.metrics import Meter

at = "2026-11-22T01:00:00+00:00"
night = Night(date="2026-11-22", outcome=Outcome.UNFINISHED, started_at=at, finished_at=at, waiting=7)
Meter().night(night, [("unfinished", "alarm"), ("speed", "warning")], at=1795309200.25)
"""


def test_how_a_night_ended_shows_in_prometheus_after_it_has_left_the_cluster(head: Head) -> None:  # noqa: F811
    environment = {**head.environment, "RAY_ADDRESS": head.control}
    subprocess.run([sys.executable, "-c", TELLS], env=environment, check=True)
    series = scrape()
    told = {
        (name, *(labels[key] for key in METRICS[name].labels)): value
        for name in METRICS
        for labels, value in series.get(name, [])
        if "night" in name
    }
    assert told == {
        ("screening_night_timestamp_seconds",): 1795309200.25,
        ("screening_night_success",): 0,
        ("screening_night_waiting_records",): 7,
        ("screening_night_finding_timestamp_seconds", "unfinished", "alarm"): 1795309200.25,
        ("screening_night_finding_timestamp_seconds", "speed", "warning"): 1795309200.25,
    }
