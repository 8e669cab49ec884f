"""Ctrl-C and SIGTERM at any stage of a run: exit code 3, how to go on, nothing left behind, the same bytes after resuming.

The long form is every signal at every stage.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.faults.place import Place, compare, leftovers
from tests.faults.slowly import WAIT_BEFORE
from tests.faults.world import GO_ON, Driver

STAGES = ("starting", "planning", "decoding", "scoring", "publishing")
_HELD = {"planning": "store_plan", "publishing": "publish"}
TIDY_S = 10.0


def terminate(driver: Driver) -> None:
    """As a cluster, ``ray job stop`` and ``kill`` do."""
    os.kill(driver.process.pid, signal.SIGTERM)


def terminate_impatiently(driver: Driver) -> None:
    """As an operator does who asks until it has ended: while it lets go of its leases, of Ray, of the interpreter."""
    while driver.code is None:
        terminate(driver)
        time.sleep(0.005)


def press_ctrl_c(driver: Driver) -> None:
    """As a terminal does, to the whole process group, twice."""
    os.killpg(driver.process.pid, signal.SIGINT)
    time.sleep(0.3)
    if driver.code is None:
        os.killpg(driver.process.pid, signal.SIGINT)


WAYS: tuple[Callable[[Driver], None], ...] = (terminate, terminate_impatiently, press_ctrl_c)


def interrupt(place: Place, runs: Path, stage: str, way: Callable[[Driver], None], log: Path) -> None:
    """Start the run, interrupt it at ``stage``, and assert that it ends as it should."""
    held = replace(place, module="tests.faults.slowly", environment={WAIT_BEFORE: _HELD.get(stage, "")})
    driver = Driver(held, runs, log=log)
    try:
        done = len(parts(runs))
        reached = {
            "starting": lambda: bool(driver.children()),
            "planning": lambda: "waiting before store_plan" in driver.said(),
            "decoding": lambda: any(runs.glob("*/begun/*")),
            "scoring": lambda: len(parts(runs)) > done,
            "publishing": lambda: "waiting before publish" in driver.said(),
        }[stage]
        deadline = time.monotonic() + 300
        while not reached():
            assert driver.code is None, driver.said()
            assert time.monotonic() < deadline, f"never came to {stage}: {driver.said()}"
            time.sleep(0.02)
        driver.children()
        way(driver)
        assert driver.wait(90) == 3, f"{stage}: {driver.said()}"
        assert f"Interrupted. {GO_ON}" in driver.said()
        assert "Traceback" not in driver.said()
        assert driver.strays(TIDY_S) == [], stage
        if stage != "starting":
            for lease in runs.glob("*/lease/epoch-*.json"):
                assert lease.with_suffix(".released").exists(), f"{stage}: {lease.name} is held by nobody"
            assert leftovers(runs) == []
    finally:
        driver.end()


def parts(runs: Path) -> list[Path]:
    return list(runs.glob("*/results/part-*.parquet"))


@pytest.mark.timeout(600)
def test_an_interrupted_run_says_how_to_go_on_and_goes_on_to_the_same_bytes(
    place: Place, undisturbed: Path, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    place = replace(place, options=tuple(option for option in place.options if option != "--json"))
    for stage, way in (("scoring", press_ctrl_c), ("publishing", terminate_impatiently)):
        interrupt(place, runs, stage, way, tmp_path / f"{stage}.log")
    done = place.screen(runs)
    assert done.returncode == 0, done.stderr
    assert "resuming: 15 of 15" in done.stderr or "Published" in done.stdout
    found = compare(place, runs, undisturbed, sample=0)
    assert (found.lost, found.duplicates, found.wrong) == (0, 0, ())


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_every_signal_at_every_stage(
    way: Callable[[Driver], None], place: Place, undisturbed: Path, tmp_path: Path
) -> None:
    place = replace(place, options=tuple(option for option in place.options if option != "--json"))
    for stage in STAGES:
        interrupt(place, tmp_path / "runs", stage, way, tmp_path / f"{stage}.log")
    done = place.screen(tmp_path / "runs")
    assert done.returncode == 0, done.stderr
    found = compare(place, tmp_path / "runs", undisturbed, sample=0)
    assert (found.lost, found.duplicates, found.wrong) == (0, 0, ())
