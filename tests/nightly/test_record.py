from __future__ import annotations

import json

import numpy as np
import pytest

from screening.errors import UserError
from screening.nightly.record import LAST_RUN, MODEL, DriftFigure, Night, Outcome, drift_figures
from screening.report.document import Document, Section
from screening.report.drift import between_runs
from screening.report.render import render_json
from screening.report.sections.drift import _tables
from screening.report.tallies import Histogram

NIGHT = Night(
    date="2026-11-22",
    attempt=2,
    outcome=Outcome.PUBLISHED,
    started_at="2026-11-22T01:00:00+00:00",
    finished_at="2026-11-22T01:10:00+00:00",
    model_name="msaic-mi",
    model_version="3",
    run_ids=("0123456789abcdef",),
    planned=100,
    scored=98,
    rejected=2,
    flagged=9,
    reasons={"flat_lead": 2},
    drift=(DriftFigure(MODEL, "Age (years)", 0.3, 0.25, "marked"),),
)


def test_a_night_is_json_and_comes_back() -> None:
    written = json.loads(json.dumps(NIGHT.to_json()))
    assert Night.from_json(written) == NIGHT
    assert Night.from_json(written | {"of_a_later_version": 1}) == NIGHT


@pytest.mark.parametrize(
    ("broken", "said"),
    [
        ({"schema_version": 2}, "a night was recorded by a later version of screening; update this one"),
        ({"outcome": "splendid"}, r"the record of a night is damaged \(ValueError\); restore or remove it"),
        ({"drift": [{"psi": 1}]}, r"damaged \(TypeError\)"),
        ({"schema_version": None}, r"damaged \(TypeError\)"),
    ],
)
def test_what_is_no_night_says_so(broken: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        Night.from_json(NIGHT.to_json() | broken)


def test_figures_of_drift_come_from_the_report_as_it_is_written() -> None:
    edges = np.arange(0.0, 101.0, 10)
    young = Histogram(edges, np.array([0, 200, 300, 300, 200, 0, 0, 0, 0, 0]), missing=20)
    old = Histogram(edges, np.array([0, 0, 0, 0, 0, 200, 300, 300, 200, 0]), missing=600)
    found = between_runs({"age": young}, {"age": old}, same_model=True)
    blocks = [*_tables(found, "drift", "Against the model"), *_tables(found, "drift_runs", "Against the run before")]
    document = Document("t", "s", "n", {}, [Section("drift", "Drift", blocks), Section("other", "Other", [])])
    figures = drift_figures(json.loads(render_json(document)))
    assert [(figure.against, figure.feature, figure.verdict) for figure in figures] == [
        (against, *rest)
        for against in (MODEL, LAST_RUN)
        for rest in (("Age (years)", "marked"), ("age unknown", "marked"))
    ]
    assert figures[0].ks == 1.0
    assert figures[0].psi is not None
    assert figures[0].psi > 1
    assert figures[1].effect == pytest.approx(found.shares[0].effect, abs=0.01)
