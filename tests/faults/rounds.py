"""Rounds of faults: a run is screened into a new folder while faults befall it, and is resumed until it is published."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.place import Finding, Place, compare
from tests.faults.world import EXPIRY_S, FAULTS, GO_ON, Driver

PATIENCE_S = 300.0
"""So long may a run take from one finished shard to the next, its start and the wait for a lease included."""
EARLY = 0.25
"""Share of the faults that fall into the start of a process; the others come once it has finished a shard."""


class Violation(Exception):
    """What must not happen: a run that ends in another way than it should, hangs, or gives other results."""


@dataclass
class Befallen:
    """One fault, and what became of the run."""

    kind: str
    at: float  # on the monotonic clock
    resumes: int = 0
    seconds: float | None = None  # until the next shard was finished


@dataclass
class Round:
    """One run into a new folder, from its start to its publication."""

    place: Place
    folder: Path
    rng: random.Random
    start_s: float  # what the start takes undisturbed
    address: tuple[str, ...] = ()  # options that name a cluster
    cluster: Any = None  # ray.cluster_utils.Cluster
    early: float = EARLY
    late_s: float = 3.0  # a fault that comes late comes within this time after a shard was finished
    befallen: list[Befallen] = field(default_factory=list)
    drivers: list[Driver] = field(default_factory=list)

    @property
    def runs(self) -> Path:
        """The folder of runs of this round alone."""
        return self.folder / "runs"

    def undergo(self, kinds: Sequence[str]) -> list[str]:
        """Let faults of these kinds befall the run, one after the other, and finish it; return those it was too quick for.

        Raises
        ------
        Violation
            The run hangs, or ends in another way than it should.
        """
        self.folder.mkdir(parents=True)
        left = list(kinds)
        self._start()
        try:
            while left and self._wait_for_a_moment():
                if self._befall(left[0]):
                    left.pop(0)
            while self._tick():
                pass
        finally:
            for driver in self.drivers:
                driver.end()
        return left

    def check(self, undisturbed: Path) -> Finding:
        """Compare what came of it with an undisturbed run."""
        return compare(self.place, self.runs, undisturbed)

    # --- The run ---

    def _start(self) -> Driver:
        log = self.folder / f"driver-{len(self.drivers)}.log"
        cluster = os.getpid() if self.cluster else None
        self.drivers.append(Driver(self.place, self.runs, *self.address, log=log, cluster=cluster))
        self._finished, self._last = self._parts(), time.monotonic()
        return self.drivers[-1]

    def _parts(self) -> int:
        return len(list(self.runs.glob("*/results/part-*.parquet")))

    def _tick(self) -> bool:
        """Look after the run once: resume it where it ended; return False when it is published."""
        driver, now = self.drivers[-1], time.monotonic()
        if (parts := self._parts()) > self._finished or driver.code == 0:
            self._finished, self._last = parts, now
            for fault in self.befallen:
                fault.seconds = fault.seconds or now - fault.at
        if driver.code == 0:
            return False
        if driver.code is not None:
            last = self.befallen[-1].kind if self.befallen else "nothing"
            # A signal in the first instants, before Python has loaded the command, does what it does to any program.
            told = GO_ON in driver.said() if driver.code == 3 else driver.code == -signal.SIGKILL
            # Where the raylet ends while a driver registers with it, Ray's core leaves at once with 1, past all of Python.
            by_ray = driver.code == 1 and self._ray_was_killed() and driver.said().endswith("starting Ray ...\n")
            if not (told or by_ray) and "starting Ray" in driver.said():
                raise Violation(f"exit code {driver.code} after {last}: {driver.said()[-1000:]}")
            if self.befallen:
                self.befallen[-1].resumes += 1
            self._start()
        if now - self._last > PATIENCE_S:
            raise Violation(f"nothing was finished for {PATIENCE_S:g} s: {driver.said()[-1000:]}")
        time.sleep(0.05)
        return True

    def _wait_for_a_moment(self) -> bool:
        """Wait until a fault is due; return False where the run was published before."""
        early = self.rng.random() < self.early
        pause = self.rng.uniform(0, self.start_s if early else self.late_s)
        parts, due = self._parts(), time.monotonic() + pause
        while self._tick():
            if not early and self._parts() == parts:
                due = time.monotonic() + pause  # counted from the next shard that is finished
            if time.monotonic() >= due:
                return True
        return False

    # --- The world ---

    def _befall(self, kind: str) -> bool:
        begun = time.monotonic()
        if not {**FAULTS, "stopped": self._stopped, "node": self._node}[kind](self.drivers[-1], 20.0):
            return False
        # A driver that was taken over was stopped on purpose for as long; the clock runs from the taking over.
        self.befallen.append(Befallen(kind, time.monotonic() if kind == "stopped" else begun))
        return True

    def _stopped(self, driver: Driver, _patience_s: float) -> bool:
        """Stop the driver for longer than its lease holds, let another runner take over, and let it go on."""
        if not self._leases() or driver.code is not None:
            return False
        driver.children()
        driver.process.send_signal(signal.SIGSTOP)
        leases = self._leases()
        newest = leases[-1]
        held = (
            not newest.with_suffix(".released").exists() and json.loads(newest.read_text())["pid"] == driver.process.pid
        )
        if not held:  # it has not got so far, or is about to end
            driver.process.send_signal(signal.SIGCONT)
            return False
        second = self._start()
        try:
            self._until(lambda: len(self._leases()) > len(leases) or second.code is not None)
        finally:
            driver.process.send_signal(signal.SIGCONT)
        if second.code == 0 and "published before" in second.said():  # it was stopped while it tidied up
            return True
        if f"process {driver.process.pid} on " not in second.said():
            raise Violation(f"the second runner does not say whom it waits for: {second.said()[-1000:]}")
        with suppress(subprocess.TimeoutExpired):
            driver.wait(60)
        # Where the fault before was Ray's own death, it may learn of that first, and after so long from Ray's core, wordlessly.
        told = any(what in driver.said() for what in ("was taken over by another", GO_ON))
        if driver.code in (None, 0) or not (told or (driver.code == 1 and self._ray_was_killed())):
            raise Violation(f"a runner that lost its lease ended with {driver.code}: {driver.said()[-1000:]}")
        self._last = time.monotonic()
        return True

    def _ray_was_killed(self) -> bool:
        return bool(self.befallen) and self.befallen[-1].kind in ("raylet", "gcs")

    def _leases(self) -> list[Path]:
        return sorted(self.runs.glob("*/lease/epoch-*.json"))

    def _node(self, driver: Driver, _patience_s: float) -> bool:
        """Take a node from the cluster, without grace, and give it another."""
        if driver.code is not None:
            return False
        nodes = [node for node in self.cluster.list_all_nodes() if node is not self.cluster.head_node]
        self.cluster.remove_node(self.rng.choice(nodes), allow_graceful=False)
        time.sleep(self.rng.uniform(0, 3))
        self.cluster.add_node(num_cpus=1)
        return True

    def _until(self, come: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 2 * EXPIRY_S + PATIENCE_S
        while not come():
            if time.monotonic() > deadline:
                raise Violation(f"nobody took the lease over: {self.drivers[-1].said()[-1000:]}")
            time.sleep(0.1)
