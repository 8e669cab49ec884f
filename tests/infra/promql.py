"""What `promtool test rules` does, for the part of PromQL that infra/prometheus/rules.yml uses; any other is refused.

No package brings promtool, so that this is what holds the rules everywhere; where promtool is installed, a test holds the
two against each other, on the same file. Ranges are those of Prometheus 2 (closed at both ends) or of 3 (open at their start).
"""

from __future__ import annotations

import json
import math
import operator
import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import promql_parser
import yaml

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]
LOOKBACK_S = 300.0
ARITHMETIC: dict[str, Callable[[float, float], float]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "^": operator.pow,
    "/": lambda a, b: a / b if b else (math.nan if a == 0 or math.isnan(a) else math.copysign(math.inf, a)),
}
COMPARISON = {"==": operator.eq, "!=": operator.ne, ">": operator.gt, "<": operator.lt}
OF_ONE: dict[str, Callable[..., float]] = {
    "abs": abs,
    "sqrt": math.sqrt,
    "asin": math.asin,
    "clamp": lambda value, low, high: min(max(value, low), high),
}
OF_MANY: dict[str, Callable[[Sequence[float]], float]] = {
    "avg_over_time": lambda values: sum(values) / len(values),
    "max_over_time": max,
}
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def seconds(text: str) -> float:
    """Return the seconds of a duration as Prometheus writes it."""
    return sum(float(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdw])", str(text)))


class Store:
    """Series in time; a None in one is the mark of a series that ended."""

    def __init__(self, *, open_ranges: bool) -> None:
        self.series: dict[str, dict[Labels, tuple[list[float], list[float | None]]]] = {}
        self.open_ranges = open_ranges

    def add(self, name: str, labels: Labels, at: float, value: float | None) -> None:
        times, values = self.series.setdefault(name, {}).setdefault(labels, ([], []))
        times.append(at)
        values.append(value)

    def _of(self, selector: Any) -> Iterator[tuple[Labels, list[float], list[float | None]]]:
        wanted = [(str(m.op) == "MatchOp.Equal", m.name, m.value) for m in selector.matchers.matchers]
        assert all(str(m.op) in ("MatchOp.Equal", "MatchOp.NotEqual") for m in selector.matchers.matchers)
        for labels, (times, values) in self.series.get(selector.name, {}).items():
            have = dict(labels) if wanted else {}
            if all((have.get(name, "") == value) is is_ for is_, name, value in wanted):
                yield labels, times, values

    def at(self, selector: Any, now: float) -> Vector:
        now -= selector.offset.total_seconds() if selector.offset else 0
        found = {}
        for labels, times, values in self._of(selector):
            last = bisect_right(times, now) - 1
            if last >= 0 and now - times[last] < LOOKBACK_S and (value := values[last]) is not None:
                found[labels] = value
        return found

    def within(self, matrix: Any, now: float) -> Iterator[tuple[Labels, list[float], list[float], float, float]]:
        """Yield labels, times and values of each series in the range, and the range."""
        selector = matrix.vector_selector
        now -= selector.offset.total_seconds() if selector.offset else 0
        start = now - matrix.range.total_seconds()
        for labels, times, values in self._of(selector):
            first = (bisect_right if self.open_ranges else bisect_left)(times, start)
            there = slice(first, bisect_right(times, now))
            held = [(t, v) for t, v in zip(times[there], values[there], strict=True) if v is not None]
            if held:
                yield labels, [t for t, _ in held], [v for _, v in held], start, now


def increase(times: Sequence[float], values: Sequence[float], start: float, end: float) -> float | None:
    """Return what a counter grew by, with Prometheus' way to the ends of the range."""
    if len(values) < 2:
        return None
    grown = values[-1] - values[0] + sum(a for a, b in zip(values, values[1:], strict=False) if b < a)
    sampled, to_start, to_end = times[-1] - times[0], times[0] - start, end - times[-1]
    between = sampled / (len(values) - 1)
    if grown > 0 and values[0] >= 0:
        to_start = min(to_start, sampled * values[0] / grown)
    reached = sampled + sum(gap if gap < between * 1.1 else between / 2 for gap in (to_start, to_end))
    return grown * reached / sampled


def evaluate(node: Any, store: Store, now: float) -> Vector | float:
    """Return what an expression gives at a moment."""
    match type(node).__name__:
        case "NumberLiteral":
            return float(node.val)
        case "ParenExpr":
            return evaluate(node.expr, store, now)
        case "VectorSelector":
            return store.at(node, now)
        case "AggregateExpr":
            of = {"sum": sum, "max": max}[str(node.op)]
            assert str(node.modifier.type) == "AggModifierType.By"
            groups: dict[Labels, list[float]] = {}
            for labels, value in _vector(node.expr, store, now).items():
                groups.setdefault(_only(labels, node.modifier.labels), []).append(value)
            return {labels: of(values) for labels, values in groups.items()}
        case "Call":
            return _call(node, store, now)
        case "BinaryExpr":
            return _binary(node, evaluate(node.lhs, store, now), evaluate(node.rhs, store, now))
    raise AssertionError(f"unknown to this evaluation: {type(node).__name__}")


def _vector(node: Any, store: Store, now: float) -> Vector:
    found = evaluate(node, store, now)
    assert isinstance(found, dict), node
    return found


def _only(labels: Labels, names: Sequence[str]) -> Labels:
    return frozenset(item for item in labels if item[0] in names)


def _call(node: Any, store: Store, now: float) -> Vector | float:
    name = node.func.name
    if name == "time":
        return now
    if name in OF_ONE:
        bounds = [evaluate(argument, store, now) for argument in node.args[1:]]
        return {labels: OF_ONE[name](v, *bounds) for labels, v in _vector(node.args[0], store, now).items()}
    if name == "absent":
        return {} if _vector(node.args[0], store, now) else {frozenset(): 1.0}
    series = list(store.within(node.args[0], now))
    if name == "absent_over_time":
        return {} if series else {frozenset(): 1.0}
    if name == "increase":
        grown = {labels: increase(times, values, start, end) for labels, times, values, start, end in series}
        return {labels: value for labels, value in grown.items() if value is not None}
    return {labels: OF_MANY[name](values) for labels, _, values, _, _ in series}


def _binary(node: Any, left: Vector | float, right: Vector | float) -> Vector | float:
    op = str(node.op)
    assert node.modifier is None or not node.modifier.return_bool
    if isinstance(left, float) and isinstance(right, float):
        return ARITHMETIC[op](left, right)
    if isinstance(right, float):
        assert isinstance(left, dict)
        if op in COMPARISON:
            return {labels: value for labels, value in left.items() if COMPARISON[op](value, right)}
        return {labels: ARITHMETIC[op](value, right) for labels, value in left.items()}
    if isinstance(left, float):
        return {labels: ARITHMETIC[op](left, value) for labels, value in right.items()}
    on: Sequence[str] | None = None
    if node.modifier is not None and node.modifier.matching is not None:
        matching = re.fullmatch(r"on \((.*)\)", str(node.modifier.matching))
        assert matching, node.modifier.matching
        on = matching[1].split(", ")

    def key(labels: Labels) -> Labels:
        return labels if on is None else _only(labels, on)

    theirs = {key(labels) for labels in right}
    if op == "and":
        return {labels: value for labels, value in left.items() if key(labels) in theirs}
    if op == "unless":
        return {labels: value for labels, value in left.items() if key(labels) not in theirs}
    if op == "or":
        ours = {key(labels) for labels in left}
        return left | {labels: value for labels, value in right.items() if key(labels) not in ours}
    assert len(theirs) == len(right), f"many to many: {node}"
    many = node.modifier is not None and str(node.modifier.card).endswith("ManyToOne")
    assert many or len({key(labels) for labels in left}) == len(left), f"many to one without group_left: {node}"
    by = {key(labels): value for labels, value in right.items()}
    pairs = [(labels, value, by[key(labels)]) for labels, value in left.items() if key(labels) in by]
    if op in COMPARISON:
        return {labels: a for labels, a, b in pairs if COMPARISON[op](a, b)}
    return {labels if many else key(labels): ARITHMETIC[op](a, b) for labels, a, b in pairs}


# --- Tests of rules --------------------------------------------------------------------------------------------------


def values_of(text: str) -> list[float | None]:
    """Return the samples of promtool's shorthand.

    >>> values_of("0+10x2 _x2 5 7x1")
    [0.0, 10.0, 20.0, None, None, 5.0, 7.0, 7.0]
    """
    found: list[float | None] = []
    for word in text.split():
        match = re.fullmatch(r"(_|[\d.]+)(?:\+([\d.]+))?(?:x(\d+))?", word)
        assert match, word
        first, step, times = match[1], float(match[2] or 0), int(match[3] or 0)
        if first == "_":
            found += [None] * (times or 1)
        else:
            found += [float(first) + step * i for i in range(times + 1)]
    return found


def series_of(text: str) -> tuple[str, Labels]:
    """Return name and labels of a series as it is written."""
    return text.partition("{")[0], frozenset(re.findall(r'(\w+)="([^"]*)"', text))


def _said(template: str, labels: dict[str, str], value: float) -> str:
    """Return what the few forms of Go's templates that the rules use become."""

    def duration(value: float) -> str:
        whole = int(value)
        return f"{whole // 86400}d {whole // 3600 % 24}h {whole // 60 % 60}m {whole % 60}s"

    forms: dict[str, Callable[..., str]] = {
        r'if eq \$labels\.(\w+) "(\w+)" \}\}(\w+)\{\{ else \}\}(\w+)\{\{ end': lambda name, is_, then, otherwise: (
            then if labels.get(name) == is_ else otherwise
        ),
        r"\$labels\.(\w+)": lambda name: labels.get(name, ""),
        r"\$value \| humanizeDuration": lambda: duration(value),
        r"\$value": lambda: f"{value:g}",
        r'printf "%\.(\d)f" \$value': lambda digits: f"{value:.{digits}f}",
    }
    for form, means in forms.items():
        template = re.sub(r"\{\{ " + form + r" \}\}", lambda found, means=means: means(*found.groups()), template)  # type: ignore[misc]
    assert "{{" not in template, template
    return template


def faults(path: Path, *, open_ranges: bool) -> list[str]:
    """Return where the rules do otherwise than a file for ``promtool test rules`` says."""
    file = yaml.safe_load(path.read_text())
    (rules_path,) = file["rule_files"]
    groups = {each["name"]: each["rules"] for each in yaml.safe_load((path.parent / rules_path).read_text())["groups"]}
    rules = [rule for name in file["group_eval_order"] for rule in groups[name]]
    parsed = {id(rule): promql_parser.parse(rule["expr"]) for rule in rules}
    found = []
    for test in file["tests"]:
        store = Store(open_ranges=open_ranges)
        for series in test["input_series"]:
            for i, value in enumerate(values_of(str(series["values"]))):
                if value is not None:
                    store.add(*series_of(series["series"]), i * seconds(test["interval"]), value)
        checks = [(seconds(each["eval_time"]), each) for each in test.get("alert_rule_test", ())]
        asked = [(seconds(each["eval_time"]), each) for each in test.get("promql_expr_test", ())]
        since: dict[tuple[str, Labels], float] = {}
        step, before = seconds(file["evaluation_interval"]), dict[int, set[Labels]]()
        for tick in range(int(max(at for at, _ in checks + asked) // step) + 1):
            now, firing = tick * step, dict[str, list[dict[str, Any]]]()
            for rule in rules:
                result = _result(evaluate(parsed[id(rule)], store, now))
                if "record" in rule:
                    for labels, value in result.items():
                        store.add(rule["record"], labels, now, value)
                    for labels in before.get(id(rule), set()) - result.keys():
                        store.add(rule["record"], labels, now, None)
                    before[id(rule)] = set(result)
                else:
                    firing[rule["alert"]] = _firing(rule, result, since, now)
            for at, check in checks:
                if at == now and (got := firing[check["alertname"]]) != _wanted(check):
                    found.append(f"{test['name']}: {check['alertname']} at {check['eval_time']}: {got}")
            for at, query in asked:
                if at == now:
                    is_ = _result(evaluate(promql_parser.parse(query["expr"]), store, now))
                    wanted = {series_of(each["labels"])[1]: float(each["value"]) for each in query["exp_samples"]}
                    if is_ != wanted:
                        found.append(f"{test['name']}: {query['expr']} at {query['eval_time']}: {is_}")
        late = [at for at, _ in checks + asked if at % step]
        assert not late, f"{test['name']}: nothing is evaluated at {late}"
    return found


def _result(found: Vector | float) -> Vector:
    return found if isinstance(found, dict) else {frozenset(): found}


def _firing(
    rule: dict[str, Any], result: Vector, since: dict[tuple[str, Labels], float], now: float
) -> list[dict[str, Any]]:
    name = rule["alert"]
    for key in [key for key in since if key[0] == name and key[1] not in result]:
        del since[key]
    firing = []
    for labels, value in result.items():
        if now - since.setdefault((name, labels), now) >= seconds(rule.get("for", "0s")):
            have = dict(labels)
            firing.append(
                {
                    "labels": {**have, **{k: _said(v, have, value) for k, v in rule["labels"].items()}},
                    "annotations": {k: _said(v, have, value) for k, v in rule["annotations"].items()},
                }
            )
    return sorted(firing, key=_in_order)


def _wanted(check: dict[str, Any]) -> list[dict[str, Any]]:
    wanted = [{"labels": each["exp_labels"], "annotations": each["exp_annotations"]} for each in check["exp_alerts"]]
    return sorted(wanted, key=_in_order)


def _in_order(alert: dict[str, Any]) -> str:
    return json.dumps(alert, sort_keys=True)
