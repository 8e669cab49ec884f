"""Start the RayJob of tonight after a pattern, wait for its end, and say how it ended.

The pod of the CronJob ``night`` runs it, with Python's own library alone. The RayJob is named after the CronJob's Job, so
that starting twice starts once: a pod that takes over waits for the RayJob that is there. It belongs to the Job and goes with
it. A night that was interrupted is attempted again, up to three times; one that failed for another reason is not. All attempts
are at the night of the evening for which the Job was scheduled, however late they begin.

Exit codes: 0 the night is done, 2 it failed or is to be looked at; another one means that this program itself failed.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
import time
import urllib.error
import urllib.request
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
ATTEMPTS = 3
LOOK_EVERY_S = 30.0
FINAL_CODES = {
    "1",
    "2",
}  # of `screening nightly`: bad input, and done with something to look at; 3 goes on where it stopped


def ask(method: str, name: str = "", body: dict[str, Any] | None = None) -> dict[str, Any] | None:
    """Return Kubernetes' answer on a RayJob, None where there is none (or, on creation, one already)."""
    host = f"{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT_HTTPS']}"
    url = f"https://{host}/apis/ray.io/v1/namespaces/{os.environ['NAMESPACE']}/rayjobs/{name}".rstrip("/")
    headers = {"Authorization": f"Bearer {(ACCOUNT / 'token').read_text().strip()}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers, method=method)
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    try:
        with urllib.request.urlopen(request, timeout=60, context=trusted) as response:
            found: dict[str, Any] = json.load(response)
            return found
    except urllib.error.HTTPError as error:
        if error.code == (409 if method == "POST" else 404):
            return None
        raise


def evening_of(job: str, now: datetime) -> date:
    """Return the day that names the night, which goes from noon to noon, UTC, as `screening nightly` has it.

    A CronJob ends the names of its Jobs with the minute for which they were scheduled, since 1970; a Job by hand begins now.
    """
    minute = re.search(r"-(\d{8,})$", job)
    at = datetime.fromtimestamp(int(minute[1]) * 60, UTC) if minute else now
    return (at - timedelta(hours=12)).date()


def made_after(pattern: dict[str, Any], name: str) -> dict[str, Any]:
    """Return a RayJob that runs, after one that is suspended."""
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": os.environ["JOB_NAME"], "uid": os.environ["JOB_UID"]}
    night = evening_of(os.environ["JOB_NAME"], datetime.now(UTC))
    return {
        "apiVersion": pattern["apiVersion"],
        "kind": "RayJob",
        "metadata": {"name": name, "ownerReferences": [owner]},
        "spec": {**pattern["spec"], "suspend": False, "entrypoint": f"{pattern['spec']['entrypoint']} --date {night}"},
    }


def ended(name: str, pattern: dict[str, Any]) -> dict[str, Any]:
    """Start the RayJob where it is not there, and return its status once it has ended."""
    if ask("GET", name) is None:
        ask("POST", body=made_after(pattern, name))
        print(f"{name}: started", flush=True)
    said = ""
    while True:
        status: dict[str, Any] = (ask("GET", name) or {}).get("status", {})
        now = f"{status.get('jobDeploymentStatus', 'New')} {status.get('jobStatus', '')}".strip()
        if now != said:
            print(f"{name}: {now}", flush=True)
        said = now
        if status.get("jobDeploymentStatus") in ("Complete", "Failed"):
            return status
        time.sleep(LOOK_EVERY_S)


def main() -> int:
    """Run tonight's attempts; return the exit code."""
    pattern = ask("GET", sys.argv[1])
    if pattern is None:
        print(f"there is no RayJob {sys.argv[1]} to go by; apply infra/kubernetes again", flush=True)
        return 2
    for attempt in range(1, ATTEMPTS + 1):
        name = f"{os.environ['JOB_NAME']}-{attempt}"
        status = ended(name, pattern)
        if status.get("jobStatus") == "SUCCEEDED":
            return 0
        message = str(status.get("message", ""))
        code = re.search(r"exit code (\d+)", message)
        print(f"{name}: {status.get('reason', 'failed')}: {message.splitlines()[0] if message else ''}", flush=True)
        if code and code[1] in FINAL_CODES:
            return 2
    return 2


if __name__ == "__main__":
    sys.exit(main())
