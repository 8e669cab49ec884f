"""The command itself, killed with SIGKILL while it works, and started again by the clock: the same bytes."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from screening.nightly.record import Outcome
from tests.nightly.conftest import World
from tests.nightly.test_interrupted import PROTECTED, bytes_of

pytestmark = [pytest.mark.long]


def settings_of(world: World) -> Path:
    path = world.folder / "nightly.yaml"
    run = {"attribution": "none", "shard_records": 4, "donor_set": 4}
    given = world.given(model=str(world.bundle.path), run=run, reporting=PROTECTED)
    path.write_text(yaml.safe_dump(given))
    return path


def started(world: World) -> subprocess.Popen[bytes]:
    command = [
        sys.executable,
        "-m",
        "screening",
        "nightly",
        "--settings",
        str(settings_of(world)),
        "--date",
        "2026-11-21",
    ]
    state = {"SCREENING_STATE": str(world.folder / "state")}
    with (world.folder / "said").open("ab") as said:
        return subprocess.Popen(command, env=os.environ | state, stdout=said, stderr=said, start_new_session=True)


def test_killed_again_and_again_and_started_by_the_clock(world: World) -> None:
    world.grow(40)
    assert started(world).wait(300) == 0, (world.folder / "said").read_text()[-2000:]
    undisturbed = bytes_of(world)
    for name in ("runs", "catalog", "report"):
        shutil.rmtree(world.folder / name)
    draw, kills = random.Random(8), 0
    for _ in range(3):
        process = started(world)
        time.sleep(draw.uniform(1.0, 9.0))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)  # Ray's processes too, as when the machine goes away
            kills += 1
        process.wait()
    assert kills
    deadline = time.monotonic() + 300
    while (code := started(world).wait(300)) != 0:  # a clock starts it again, until the dead one's lease has run out
        assert time.monotonic() < deadline, (code, (world.folder / "said").read_text()[-2000:])
        time.sleep(5)
    assert bytes_of(world) == undisturbed
    nights = sorted((world.folder / "runs/nights").glob("2026-11-21-*"))
    assert 1 <= len(nights) <= kills + 1  # who was killed early had not begun one
    assert Outcome.PUBLISHED.value in (nights[-1] / "night.json").read_text()
