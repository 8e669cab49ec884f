"""The Ray job that this process is the driver of, where it is one: what it shows of itself in ``ray job list``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from screening.watch import answers

if TYPE_CHECKING:
    from screening.run.pipeline import Progress

JOB_CONFIG = "RAY_JOB_CONFIG_JSON_ENV_VAR"
"""Where Ray tells the driver of a submitted job, among other things, its submission id."""


def tell_job(facts: Mapping[str, object]) -> None:
    """Add ``facts`` to the metadata of this Ray job, which ``ray job list`` and the jobs' API show; elsewhere do nothing.

    They are shown to everybody who may list jobs: counts and names of runs and models, nothing of a patient. Ray has no public
    way to change what was given when a job was submitted, so that its own record is changed; where a version of Ray keeps
    that otherwise, the facts stand in the job's log alone.
    """
    submission = json.loads(os.environ.get(JOB_CONFIG) or "{}").get("metadata", {}).get("job_submission_id")
    if submission is None:
        return
    with suppress(Exception):  # a note for people is not worth a run
        if not answers(
            os.environ["RAY_ADDRESS"]
        ):  # Ray's own client would wait for a minute, and then end this process
            return
        from ray._private.ray_constants import KV_NAMESPACE_JOB
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.dashboard.modules.job.common import JobInfoStorageClient

        key = JobInfoStorageClient.JOB_DATA_KEY.format(job_id=submission).encode()
        control = GcsClient(address=os.environ["RAY_ADDRESS"])
        info = json.loads(control.internal_kv_get(key, namespace=KV_NAMESPACE_JOB))
        info["metadata"] = {**(info["metadata"] or {}), **{name: str(fact) for name, fact in facts.items()}}
        control.internal_kv_put(key, json.dumps(info).encode(), True, namespace=KV_NAMESPACE_JOB)


class AtWork:
    """Knows which run is at work and how far it is, for the moment at which it ends too early."""

    def __init__(self) -> None:
        self._run_id: str | None = None
        self._counts: Progress | None = None

    def hear(self, event: str, facts: Mapping[str, Any]) -> None:
        """Hear an event of `pipeline.screen`."""
        if event == "run.planned":
            self._run_id, self._counts = facts["run_id"], None
        elif event == "run.published":
            self._run_id, self._counts = None, None

    def heard(self, now: Progress) -> None:
        """Hear of its progress."""
        self._counts = now

    def so_far(self) -> dict[str, object]:
        """Return what is to be told of a run that was begun and is not published; empty where there is none."""
        if self._run_id is None:
            return {}
        names = ("done", "scored", "rejected", "flagged")
        counts = {name: getattr(self._counts, name) for name in names} if self._counts is not None else {}
        return {"run_id": self._run_id, **counts}
