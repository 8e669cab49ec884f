"""Rules, scraping and dashboard: every expression parses, every name is one that is made, and alerts fire as said."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml

from screening.run.metrics import METRICS
from tests.conftest import PROJECT
from tests.infra import promql

RULES = PROJECT / "infra" / "prometheus" / "rules.yml"
SCRAPE = PROJECT / "infra" / "prometheus" / "prometheus.yml"
IN_KUBERNETES = SCRAPE.with_name("kubernetes.yml")
DASHBOARD = PROJECT / "infra" / "grafana" / "screening.json"
NOT_OURS = {"job", "instance", "le", "operator"}
GRAFANA = {"$job": ".+", "$__rate_interval": "5m"}
"""Variables that Grafana puts in before it asks."""


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return list(json.loads(DASHBOARD.read_text())["panels"])


def expressions() -> Iterator[tuple[str, str]]:
    """Yield (where, PromQL)."""
    for rule in rules():
        yield rule.get("record") or rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", []):
            expression = target["expr"]
            for variable, value in GRAFANA.items():
                expression = expression.replace(variable, value)
            yield panel["title"], expression


def selectors(expression: object) -> Iterator[tuple[str, set[str]]]:
    """Yield (metric, labels that are matched) for each selector in a parsed expression."""
    if isinstance(expression, promql_parser.VectorSelector):
        yield expression.name, {matcher.name for matcher in expression.matchers.matchers}
        return
    if isinstance(expression, promql_parser.MatrixSelector):
        yield from selectors(expression.vector_selector)
    for name in ("lhs", "rhs", "expr"):
        yield from selectors(getattr(expression, name)) if hasattr(expression, name) else ()
    for argument in getattr(expression, "args", ()) or ():
        yield from selectors(argument)


def known() -> dict[str, set[str]]:
    """Return every name that there is in Prometheus -> its labels, of ours."""
    names = {name: set(metric.labels) for name, metric in METRICS.items()}
    for name, metric in METRICS.items():
        if metric.kind == "histogram":
            names |= {f"{name}{part}": set(metric.labels) for part in ("_bucket", "_sum", "_count")}
    return names | {rule["record"]: set() for rule in rules() if "record" in rule}


def of_ray() -> set[str]:
    """Return the names of Ray's own metrics that a dashboard may use."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
    from ray.data._internal.execution.interfaces.op_runtime_metrics import OpRuntimeMetrics

    of_data = {f"ray_data_{metric.name}" for metric in OpRuntimeMetrics.get_metrics()}
    return of_data | {f"ray_{name}" for name in METRICS_GAUGES}


@pytest.mark.parametrize(("where", "expression"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_every_expression_parses_and_asks_for_what_is_there(where: str, expression: str) -> None:
    found = list(selectors(promql_parser.parse(expression)))
    assert found, where
    ours, rays = known(), of_ray()
    for name, labels in found:
        if name.startswith("ray_"):
            assert name in rays
            continue
        assert name in ours
        assert labels <= ours[name] | NOT_OURS
    made = {label for metric in METRICS.values() for label in metric.labels}
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        assert {label.strip() for label in grouped.split(",")} <= made | NOT_OURS


def test_recorded_before_it_is_used() -> None:
    seen: set[str] = set()
    for rule in rules():
        used = {name for name, _ in selectors(promql_parser.parse(rule["expr"])) if ":" in name}
        assert used <= seen, rule
        seen |= {rule["record"]} if "record" in rule else set()
    assert {rule["alert"] for rule in rules() if "alert" in rule} == {
        "ScreeningNightFinding",
        "ScreeningDrift",
        "ScreeningNoNight",
        "ScreeningFlagRateJump",
        "ScreeningRejectRateJump",
        "ScreeningNoRun",
        "ScreeningNotSeen",
        "ScreeningUnfinishedShards",
        "ScreeningStandsStill",
    }


@pytest.mark.parametrize("scrape", [SCRAPE, IN_KUBERNETES], ids=lambda path: path.name)
def test_what_ray_puts_before_our_names_is_taken_off(scrape: Path) -> None:
    jobs = {job["job_name"]: job for job in yaml.safe_load(scrape.read_text())["scrape_configs"]}
    instance, rename, drop = jobs["ray"]["metric_relabel_configs"]
    assert (instance["regex"], instance["target_label"]) == ("ray_screening_.+", "instance")
    assert re.fullmatch(rename["regex"], "ray_screening_shards_left")
    for name in METRICS:
        expanded = re.fullmatch(rename["regex"], f"ray_{name}")
        assert expanded is not None
        assert rename["replacement"].replace("$1", expanded[1]) == name
    assert not re.fullmatch(rename["regex"], "ray_node_gpus_utilization")
    assert not any(re.fullmatch(drop["regex"], label) for metric in METRICS.values() for label in metric.labels)


def test_every_kind_of_metric_is_shown_or_watched() -> None:
    used = {name for _, expression in expressions() for name, _ in selectors(promql_parser.parse(expression))}
    used |= {name.removesuffix("_bucket") for name in used}
    assert set(METRICS) - used == {
        "screening_records_explained_total",
        "screening_night_success",
    }


def test_the_dashboard_is_one_that_grafana_can_lay_out() -> None:
    """Structure only: Grafana publishes no JSON schema of dashboards."""
    dashboard = json.loads(DASHBOARD.read_text())
    assert {"uid", "title", "schemaVersion", "panels", "templating", "time"} <= dashboard.keys()
    assert dashboard["schemaVersion"] >= 36
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers)
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        assert place["x"] + place["w"] <= 24
        taken |= cells
        assert panel["type"] in ("row", "stat", "timeseries", "table")
        if panel["type"] != "row":
            assert panel["targets"]
            assert panel["description"]
            assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
            assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$\{?(\w+)", json.dumps(dashboard["panels"])))
    assert {name for name in used if not name.startswith("__")} <= variables


ALERTS = [PROJECT / "tests" / "infra" / name for name in ("alerts.yml", "alerts_minutes.yml")]


@pytest.mark.parametrize("open_ranges", [False, True], ids=["Prometheus 2", "Prometheus 3"])
@pytest.mark.parametrize("alerts", ALERTS, ids=lambda path: path.name)
def test_alerts_fire_when_they_should(alerts: Path, open_ranges: bool) -> None:
    """By an evaluation of our own, of two weeks in a moment."""
    assert promql.faults(alerts, open_ranges=open_ranges) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # As it was: what first shows as 1 has not increased, though the night of that cluster has just succeeded.
        (
            r"time\(\) - max by \(job\) \(max_over_time\(screening_run_published.*\n",
            'increase(screening_runs_total{outcome="published"}[26h]) == 0\n',
            "ScreeningNoRun",
        ),
        (r"(?m)^ +or \(screening:unfinished:sum.*\n", "", "ScreeningUnfinishedShards"),
        (r"max_over_time\((screening_last_success\w+)\[14d\]\)", r"\1", "ScreeningNoNight"),
        (r"max_over_time\((screening_night_timestamp\w+)\[26h\]\)", r"\1", "ScreeningNightFinding"),
        (r"for: 24h", "for: 30h", "ScreeningNotSeen"),
    ],
)
def test_rules_that_do_otherwise_are_found(old: str, new: str, said: str, tmp_path: Path) -> None:
    changed = re.sub(old, new, RULES.read_text())
    assert changed != RULES.read_text()
    (tmp_path / "rules.yml").write_text(changed)
    found = []
    for path in ALERTS:
        file = yaml.safe_load(path.read_text())
        file["tests"] = [
            test for test in file["tests"] if not test["name"].startswith("two quiet weeks")
        ]  # the long one
        copy = tmp_path / path.name
        copy.write_text(yaml.safe_dump({**file, "rule_files": ["rules.yml"]}))
        found += promql.faults(copy, open_ranges=False)
    assert any(said in fault for fault in found), found


def test_an_evaluation_that_meets_something_new_says_so() -> None:
    with pytest.raises(KeyError, match="stddev"):
        promql.evaluate(promql_parser.parse("stddev by (job) (a)"), promql.Store(open_ranges=False), 0.0)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here (it comes with Prometheus)")
def test_promtool_says_the_same(tmp_path: Path) -> None:
    shutil.copy(RULES, tmp_path)
    in_kubernetes = yaml.safe_load(IN_KUBERNETES.read_text())
    for job in in_kubernetes["scrape_configs"]:
        del job["kubernetes_sd_configs"]  # Debian's promtool knows no Kubernetes
    (tmp_path / "kubernetes.yml").write_text(yaml.safe_dump(in_kubernetes))
    for command in (
        *(["check", "config", str(path)] for path in (SCRAPE, tmp_path / "kubernetes.yml")),
        ["test", "rules", *map(str, ALERTS)],
    ):
        done = subprocess.run(["promtool", *command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
