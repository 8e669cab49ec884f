"""Two runners of one run: processes that race for a lease, are stopped, and have clocks of their own."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

import pytest

from screening.errors import UserError
from screening.run.lease import KEPT_EPOCHS, Held, Lease
from screening.storage import Folder
from tests.faults.proxy import FaultyProxy

SPAWN = multiprocessing.get_context("spawn")
RUNNERS = 5


@pytest.fixture(params=["local", "s3"])
def run(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "local":
        return Folder(str(tmp_path / "run"))
    return Folder("s3://screening/runs/run", request.getfixturevalue("s3"))


def leave_dead(run: Folder, **holder: Any) -> None:
    """Leave the lease of a runner that ended without a word."""
    run.create("lease/epoch-000001.json", json.dumps({"host": "elsewhere", "pid": 1, "token": "x", **holder}).encode())
    run.write("lease/epoch-000001.beat", b"17")


def race(run: Folder, start: Any, refused: Any, say: Any) -> None:
    start.wait()
    try:
        with Lease(run, expiry_s=2.0, beat_s=0.1):
            say.put(("held", os.getpid()))
            for _ in range(RUNNERS - 1):
                refused.acquire(timeout=120)
    except UserError as error:
        refused.release()
        say.put((str(error), os.getpid()))


def test_of_many_processes_one_takes_over_a_dead_runners_lease(run: Folder) -> None:
    leave_dead(run)
    start, refused, say = SPAWN.Barrier(RUNNERS), SPAWN.Semaphore(0), SPAWN.Queue()
    runners = [SPAWN.Process(target=race, args=(run, start, refused, say)) for _ in range(RUNNERS)]
    for runner in runners:
        runner.start()
    said = [say.get(timeout=200) for _ in runners]
    for runner in runners:
        runner.join(60)
        assert runner.exitcode == 0
    (winner,) = [pid for what, pid in said if what == "held"]
    losers = {what for what, _ in said if what != "held"}
    assert losers == {
        f"{run.url} is being run by process {winner} on {socket.gethostname()}; wait for it to end, or end it, "
        "and start again"
    }
    # The races that were lost left nothing: one epoch after the dead one, and it was given back.
    assert run.names("lease") == [
        "epoch-000001.beat",
        "epoch-000001.json",
        "epoch-000002.beat",
        "epoch-000002.json",
        "epoch-000002.released",
    ]
    assert json.loads(run.read("lease/epoch-000002.json"))["pid"] == winner


def test_creation_is_exclusive_on_the_store_itself(s3: dict[str, Any]) -> None:
    """The server that stands for S3 enforces the condition; otherwise the race above would prove nothing."""
    import boto3
    from botocore.exceptions import ClientError

    client = boto3.client(
        "s3", endpoint_url=s3["endpoint_url"], aws_access_key_id="k", aws_secret_access_key="s", region_name="us-east-1"
    )
    client.put_object(Bucket="screening", Key="once", Body=b"1", IfNoneMatch="*")
    with pytest.raises(ClientError, match="PreconditionFailed"):
        client.put_object(Bucket="screening", Key="once", Body=b"2", IfNoneMatch="*")
    assert client.get_object(Bucket="screening", Key="once")["Body"].read() == b"1"


@pytest.mark.parametrize("skew_s", [-1e9, 1e9])
def test_clocks_are_not_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, skew_s: float) -> None:
    """Neither a wall clock that is decades off, nor times of files that are, make a living runner dead or a dead one live."""
    run = Folder(str(tmp_path))
    now = time.time
    with Lease(run, expiry_s=2.0, beat_s=0.1):
        while not run.exists("lease/epoch-000001.beat"):
            time.sleep(0.01)
        monkeypatch.setattr(time, "time", lambda: now() + skew_s)
        os.utime(tmp_path / "lease" / "epoch-000001.beat", (now() + skew_s, now() + skew_s))
        os.utime(tmp_path / "lease" / "epoch-000001.json", (now() + skew_s, now() + skew_s))
        with pytest.raises(UserError, match="is being run by"), Lease(run, expiry_s=2.0):
            pytest.fail("a living runner lost its lease")
    dead = Folder(str(tmp_path / "other"))
    leave_dead(dead)
    for name in dead.names("lease"):
        os.utime(dead.path(f"lease/{name}"), (now() + skew_s, now() + skew_s))
    begun = time.monotonic()
    with Lease(dead, expiry_s=1.0):
        assert 1.0 <= time.monotonic() - begun < 30


def hold(run: Folder, held: Any, say: Any) -> None:
    try:
        with Lease(run, expiry_s=2.0, beat_s=0.1) as lease:
            held.set()
            say.put("lost" if lease.lost.wait(120) else "kept")
    except BaseException as error:
        say.put(repr(error))
        raise


@pytest.fixture
def holder(run: Folder) -> Iterator[tuple[SpawnProcess, Any]]:
    held, say = SPAWN.Event(), SPAWN.Queue()
    process = SPAWN.Process(target=hold, args=(run, held, say))
    process.start()
    assert held.wait(120)
    yield process, say
    process.kill()
    process.join()


def test_a_stopped_runner_that_comes_back_learns_that_it_lost_and_does_no_harm(
    run: Folder, holder: tuple[SpawnProcess, Any]
) -> None:
    process, say = holder
    while not run.exists("lease/epoch-000001.beat"):
        time.sleep(0.01)
    os.kill(process.pid or 0, signal.SIGSTOP)
    waited: list[int] = []
    with Lease(run, expiry_s=2.0, beat_s=0.1, on_wait=lambda of: waited.append(of.pid)) as lease:
        assert waited == [process.pid]  # it is alive, so that only its silence tells
        os.kill(process.pid or 0, signal.SIGCONT)
        assert say.get(timeout=60) == "lost"
        process.join(60)
        assert process.exitcode == 0
        time.sleep(0.5)
        assert not lease.lost.is_set()
        assert "epoch-000002.released" not in run.names("lease")
        with pytest.raises(UserError, match=f"process {os.getpid()} on"), Lease(run, expiry_s=5.0):
            pytest.fail("the one that came back gave away the lease of the other")


def test_a_holder_in_another_container_is_not_taken_for_dead(tmp_path: Path) -> None:
    """Containers share names of hosts, and their process numbers mean nothing outside."""
    run = Folder(str(tmp_path))
    nobody = next(pid for pid in range(2**22 - 1, 1, -1) if not Path(f"/proc/{pid}").exists())
    leave_dead(run, host=socket.gethostname(), pid=nobody, machine="another boot pid:[1]")
    begun = time.monotonic()
    with Lease(run, expiry_s=1.0):
        assert time.monotonic() - begun >= 1.0  # waited for, though no such process is here


def test_of_a_folder_that_is_leased_for_years_the_last_epochs_are_kept(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "nights"))
    for _ in range(KEPT_EPOCHS + 5):
        with Lease(folder, beat_s=0.01):
            pass
    names = folder.names("lease")
    assert {int(name[6:12]) for name in names} == set(range(6, KEPT_EPOCHS + 6))


class Sleepy(Folder):
    """A folder whose owner falls asleep before its first creation, while others come and go."""

    def create(self, name: str, data: bytes, **options: Any) -> bool:
        if not self.exists("lease"):
            for _ in range(KEPT_EPOCHS + 1):
                with Lease(Folder(self.url), beat_s=0.01):
                    pass
        return super().create(name, data, **options)


def test_a_number_that_others_have_used_and_removed_is_not_taken(tmp_path: Path) -> None:
    with Lease(Sleepy(str(tmp_path / "nights")), beat_s=0.01) as lease:
        lease.require()
        assert Folder(str(tmp_path / "nights")).names("lease")[-1].startswith(f"epoch-{KEPT_EPOCHS + 2:06d}")
        assert not (tmp_path / "nights" / "lease" / "epoch-000001.json").exists()


def test_who_holds_a_lease_can_be_asked(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path / "nights"))
    asking = Lease(folder, beat_s=0.05)
    assert asking.holder() is None
    with Lease(folder, beat_s=0.01):
        holder = asking.holder()
        assert holder is not None
        assert holder.pid == os.getpid()
    assert asking.holder() is None
    leave_dead(Folder(str(tmp_path / "dead")))
    assert Lease(Folder(str(tmp_path / "dead")), beat_s=0.01).holder() is None


# --- Losing a lease ---------------------------------------------------------------------------------------------------


def freeze(lease: Lease) -> None:
    """Let the owner fall silent, as a suspended machine does."""
    lease._stop.set()
    lease._thread.join()


def wake(lease: Lease) -> None:
    lease._stop.clear()
    lease._thread = threading.Thread(target=lease._beat, daemon=True)
    lease._thread.start()


@pytest.mark.parametrize("published", [False, True])
def test_who_lost_a_lease_leaves_the_one_of_its_successor(run: Folder, published: bool) -> None:
    if published:
        run.write("manifest.json", b"{}")
    first = Lease(run, expiry_s=1.0, beat_s=0.1).__enter__()
    freeze(first)
    with Lease(run, expiry_s=1.0, beat_s=0.1) as second:
        first.__exit__(None, None, None)  # it has not even learned that it lost
        assert "epoch-000002.json" in run.names("lease")
        with pytest.raises(UserError, match="is being run by process"), Lease(run, expiry_s=5.0, beat_s=0.1):
            pytest.fail("two runners hold one lease")
        second.require()
        assert not second.lost.is_set()


def test_the_count_of_epochs_outlives_a_publication(run: Folder) -> None:
    """A later owner under the same number would not be told from the one that was frozen meanwhile."""
    first = Lease(run, expiry_s=1.0, beat_s=0.1).__enter__()
    freeze(first)
    with Lease(run, expiry_s=1.0, beat_s=0.1):
        run.write("manifest.json", b"{}")
    with Lease(run, expiry_s=1.0, beat_s=0.1) as third:
        wake(first)
        assert first.lost.wait(20)
        assert not third.lost.is_set()
    first.__exit__(None, None, None)


def test_owners_of_one_number_are_told_apart_where_the_count_was_removed(run: Folder) -> None:
    first = Lease(run, expiry_s=1.0, beat_s=0.1).__enter__()
    freeze(first)
    run.remove("lease")
    with Lease(run, expiry_s=1.0, beat_s=0.1) as second:
        assert "epoch-000002.json" not in run.names("lease")
        with pytest.raises(UserError, match="was taken over by another runner"):
            first.require()
        first.__exit__(None, None, None)
        assert "epoch-000001.released" not in run.names("lease")
        second.require()


def stream(folder: Folder) -> None:
    with folder.writer("results/part") as file:
        file.write(b"old")


WAYS: dict[str, Callable[[Folder], object]] = {
    "write": lambda folder: folder.write("results/part", b"old"),
    "writer": stream,
    "create": lambda folder: folder.create("results/new", b"old"),
    "remove": lambda folder: folder.remove("results"),
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_written_or_removed_under_a_lease_that_is_anothers(run: Folder, way: str) -> None:
    first = Lease(run, expiry_s=1.0, beat_s=0.1).__enter__()
    held: Held = pickle.loads(pickle.dumps(first.folder))  # as a worker has it
    WAYS[way](held)
    freeze(first)
    with Lease(run, expiry_s=1.0, beat_s=0.1):
        run.remove("results")
        run.write("results/part", b"new")
        with pytest.raises(UserError, match="was taken over by another runner; nothing is lost, and that one goes on"):
            WAYS[way](held)
        assert run.names("results") == ["part"]
        assert run.read("results/part") == b"new"
    first.__exit__(None, None, None)


def test_a_beat_that_the_store_does_not_answer_costs_no_lease(s3: dict[str, Any]) -> None:
    """A stalled request is given up by the store's own client only after as long as a lease holds."""
    calm = Folder("s3://screening/runs/run", s3)
    with FaultyProxy(s3["endpoint_url"], kinds=("stall",), stall_s=25.0) as proxy:
        run = Folder(calm.url, s3 | {"endpoint_url": proxy.url})
        with Lease(run, expiry_s=3.0, beat_s=0.1) as lease:
            proxy.share = 1.0
            while not proxy.done["stall"]:
                time.sleep(0.01)
            proxy.share = 0.0
            with pytest.raises(UserError, match="is being run by process"), Lease(calm, expiry_s=3.0):
                pytest.fail("a living runner lost its lease to one request")
            lease.require()
            assert not lease.lost.is_set()
