"""What a process tells of itself in ``ray job list``; with a real Ray job in tests/jobs/."""

from __future__ import annotations

import json
import sys

import pytest

from screening.job import JOB_CONFIG, tell_job


@pytest.mark.parametrize("config", [None, "", json.dumps({"metadata": {}}), json.dumps({"runtime_env": {}})])
def test_no_job_is_told_nothing(config: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(JOB_CONFIG, raising=False)
    if config is not None:
        monkeypatch.setenv(JOB_CONFIG, config)
    monkeypatch.setitem(sys.modules, "ray._raylet", None)  # asking Ray would fail
    tell_job({"run_id": "abc"})


def test_a_ray_that_does_not_answer_ends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(JOB_CONFIG, json.dumps({"metadata": {"job_submission_id": "screen-1"}}))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    tell_job({"run_id": "abc"})
