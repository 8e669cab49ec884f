"""The Ray job that this process is the driver of, where it is one: what it shows of itself in ``ray job list``."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress

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
        from ray._private.ray_constants import KV_NAMESPACE_JOB
        from ray._raylet import GcsClient  # type: ignore[attr-defined]
        from ray.dashboard.modules.job.common import JobInfoStorageClient

        key = JobInfoStorageClient.JOB_DATA_KEY.format(job_id=submission).encode()
        control = GcsClient(address=os.environ["RAY_ADDRESS"])
        info = json.loads(control.internal_kv_get(key, namespace=KV_NAMESPACE_JOB))
        info["metadata"] = {**(info["metadata"] or {}), **{name: str(fact) for name, fact in facts.items()}}
        control.internal_kv_put(key, json.dumps(info).encode(), True, namespace=KV_NAMESPACE_JOB)
