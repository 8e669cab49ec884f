"""Fixtures that every part of the tests may use: real recordings, and nothing of this machine."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest

# Before anything loads torch: the same sums in the same order in this process and in those that tests start.
os.environ["OMP_NUM_THREADS"] = "1"

PROJECT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Return the folder of real recordings that stands beside the project, or skip."""
    folder = PROJECT / os.environ.get("SCREENING_TEST_DATA", "../shared/data")
    if not folder.is_dir():
        pytest.skip(f"no real recordings: {folder} is absent (set SCREENING_TEST_DATA)")
    return folder.resolve()


@pytest.fixture
def whole_ptbxl(shared_data: Path, tmp_path: Path) -> Iterator[Path]:
    """Return all the PTB-XL records there are, 330 MB, for as long as the test runs."""
    folder = tmp_path / "archive"
    subprocess.run([sys.executable, shared_data / "ptbxl" / "unpack.py", folder], check=True, capture_output=True)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def ptbxl(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a small real archive laid out as PTB-XL is: its first 64 records. Read only."""
    folder = tmp_path_factory.mktemp("ptbxl") / "archive"
    unpack = shared_data / "ptbxl" / "unpack.py"
    subprocess.run([sys.executable, unpack, folder, "--limit", "64"], check=True, capture_output=True)
    return folder


# How long an example takes says something of the machine and not of the code.
hypothesis.settings.register_profile("ours", deadline=None)
hypothesis.settings.load_profile("ours")


@pytest.fixture(scope="session", autouse=True)
def state_of_tests(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep commands without --state, and the audit log they write, out of the state of whoever runs the tests."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("SCREENING_STATE", str(tmp_path_factory.mktemp("state")))
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what takes long, so that no process waits at the end for one that has only begun it."""
    long = ("privacy", "jobs", "faults", "run", "cli", "train", "nightly", "test_docs")
    items.sort(key=lambda item: item.path.parent.name not in long and item.path.stem not in long)


# --- REQUIRE_DATA=1: a skipped test is a failed run, unless it is named here --------------------------------------------

ALLOWED_SKIPS = {
    "no GPU on this machine",
    "no browser on this machine",
    "no namespaces on this machine",
    "hadolint is not here",
    "kubectl is not here",
    "systemd-analyze is not here",
    "no promtool here (it comes with Prometheus)",
}
"""Reasons for which a test may be skipped even where the data are required: what no package of Python brings."""

_skipped: list[tuple[str, str]] = []


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and not hasattr(report, "wasxfail"):
        reason = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else str(report.longrepr)
        _skipped.append((report.nodeid, reason.removeprefix("Skipped: ")))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if os.environ.get("REQUIRE_DATA") != "1":
        return
    wrong = [(test, reason) for test, reason in _skipped if reason not in ALLOWED_SKIPS]
    for test, reason in wrong:
        print(f"\nREQUIRE_DATA=1, but {test} was skipped: {reason}", file=sys.stderr)
    if wrong:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


# --- Ray ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def ray_here() -> Iterator[None]:
    """Start one Ray for the tests that run in this process; those of whole processes start their own."""
    import ray

    from screening import cluster

    cluster._STARTED_HERE.set()  # nobody else's: runs in it do without the helpers of a cluster, as runs at home do
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=2**29,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
    cluster._STARTED_HERE.clear()


# --- S3 over HTTP on loopback ------------------------------------------------------------------------------------------


@pytest.fixture
def s3() -> Iterator[dict[str, Any]]:
    """Return fsspec's options for an S3 server of one's own, which holds an empty bucket ``screening``."""
    import fsspec
    from moto.s3.responses import S3Response
    from moto.server import ThreadedMotoServer

    # moto looks whether an object is there and puts it then, several threads at once; S3 does both in one.
    put_object, taking_turns = S3Response.put_object, threading.Lock()

    def put_alone(response: Any) -> Any:
        with taking_turns:
            return put_object(response)

    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setattr(S3Response, "put_object", put_alone)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"key": "key", "secret": "secret", "endpoint_url": f"http://{host}:{port}", "skip_instance_cache": True}
    fs = fsspec.filesystem("s3", **options)
    fs.mkdir("screening")
    yield options
    fs.rm("screening", recursive=True)  # moto keeps its buckets when a server stops
    server.stop()
    monkeypatch.undo()
