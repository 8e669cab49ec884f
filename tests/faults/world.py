"""What the world does to the processes of a run: it kills them, stops them and asks them to end."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.faults.place import Place

GO_ON = "Start the same command again to go on where it stopped."
EXPIRY_S = 30.0
"""Of the lease, as in screening.run.lease; a stopped driver is stopped for longer."""


class Driver:
    """The process of one ``screening run``, in a process group of its own, its output in a file.

    Parameters
    ----------
    cluster
        The process whose children the nodes of the cluster are that it joins; None where it starts its own Ray.
    """

    def __init__(self, place: Place, runs: Path, *more: str, log: Path, cluster: int | None = None) -> None:
        self.begun = time.monotonic()
        self.log = log
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                place.command(runs, *more),
                env=place.env,
                stdout=out,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.cluster = cluster
        self.seen: set[psutil.Process] = set()

    @property
    def code(self) -> int | None:
        """The exit code; None while it runs."""
        return self.process.poll()

    def said(self) -> str:
        """Return what it has printed."""
        return self.log.read_text(errors="replace")

    def wait(self, seconds: float) -> int:
        """Return the exit code, or raise TimeoutExpired."""
        return self.process.wait(seconds)

    def children(self) -> list[psutil.Process]:
        """Return all processes below the driver; they are remembered, for `strays`."""
        with suppress(psutil.NoSuchProcess):
            found = psutil.Process(self.process.pid).children(recursive=True)
            self.seen.update(found)
            return found
        return []

    def workers(self) -> list[psutil.Process]:
        """Return all processes below the driver, or below the nodes of the cluster that it joined."""
        return self.children() if self.cluster is None else psutil.Process(self.cluster).children(recursive=True)

    def strays(self, patience_s: float) -> list[str]:
        """Return the command lines of processes of this run that are still there after ``patience_s``."""
        deadline = time.monotonic() + patience_s
        while (left := [p for p in self.seen if alive(p)]) and time.monotonic() < deadline:
            time.sleep(0.2)
        return [command_line(process) for process in left]

    def end(self) -> None:
        """Kill the driver and all that was seen below it."""
        self.children()
        for process in (self.process, *self.seen):
            with suppress(psutil.NoSuchProcess, ProcessLookupError):
                process.kill()
        self.process.wait()


def command_line(process: psutil.Process) -> str:
    """Return a process's command line, which Ray's workers write their task into; empty where it has ended."""
    try:
        words = process.cmdline()
        return " ".join(words).strip()
    except psutil.Error:
        return ""


def name_of(process: psutil.Process) -> str:
    """Return the name of a process's program; empty where it has ended."""
    try:
        return process.name()
    except psutil.Error:
        return ""


def alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


# --- Faults -----------------------------------------------------------------------------------------------------------

Fault = Callable[[Driver, float], bool]
"""Does it, or returns False where the run ended, or ``patience_s`` passed, before there was what to do it to."""

SCORERS = ("ray::MapWorker(MapBatches(ScoringActor))", "ray::MapWorker(ReadDecode->MapBatches(ScoringActor))")
DECODERS = ("ray::ReadDecode", "ray::MapWorker(ReadDecode->MapBatches(ScoringActor))")
"""Ray gives a worker's process the name of its task; where decoding and scoring ask for the same, one process does both."""


def _kill(*beginnings: str) -> Fault:
    """Kill a worker, any one of those whose title or name begins like one of these."""

    def fault(driver: Driver, patience_s: float) -> bool:
        deadline = time.monotonic() + patience_s
        while driver.code is None and time.monotonic() < deadline:
            found = [p for p in driver.workers() if command_line(p).startswith(beginnings) or name_of(p) in beginnings]
            with suppress(psutil.NoSuchProcess, IndexError):
                random.choice(found).kill()
                return True
            time.sleep(0.01)
        return False

    return fault


def _signal(number: signal.Signals, *, group: bool = False) -> Fault:
    def fault(driver: Driver, _patience_s: float) -> bool:
        driver.children()
        if driver.code is not None:
            return False
        (os.killpg if group else os.kill)(driver.process.pid, number)
        return True

    return fault


FAULTS: dict[str, Fault] = {
    "driver": _signal(signal.SIGKILL),
    "actor": _kill(*SCORERS),
    "decoder": _kill(*DECODERS),
    "raylet": _kill("raylet"),
    "gcs": _kill("gcs_server"),
    "term": _signal(signal.SIGTERM),
    "interrupt": _signal(signal.SIGINT, group=True),
}
"""All but ``stopped`` and ``node``, which need more than one process."""
