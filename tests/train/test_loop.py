"""The training loop: here and on Ray workers, killed and resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from screening.errors import UserError
from screening.train import loop
from screening.train.data import TrainingSet
from tests.train.sets import SETTINGS, training_set

PROJECT = Path(__file__).resolve().parents[2]


def arrays() -> tuple[TrainingSet, TrainingSet]:
    """Return a training and a tuning set."""
    data = training_set()
    return data.of_folds((1, 2)), data.of_folds((3,))


def test_state_is_read_without_unpickling_objects(tmp_path: Path) -> None:
    torch.save({"harmful": PROJECT}, tmp_path / "state.pt")
    with pytest.raises(Exception, match="weights_only"):
        loop._load_state(tmp_path / "state.pt")


def test_workers_map_the_arrays_that_the_driver_wrote(tmp_path: Path) -> None:
    data, _ = arrays()
    loop._write_arrays(tmp_path / "data", {"train": data})
    read = loop._read_arrays(tmp_path / "data", "train")
    np.testing.assert_array_equal(read.signals_mV, data.signals_mV)
    np.testing.assert_array_equal(read.label, data.label)
    assert isinstance(read.signals_mV, np.memmap)
    with pytest.raises(FileNotFoundError, match="put --state on a file system that every machine"):
        loop._read_arrays(tmp_path / "elsewhere", "train")


KILLED = """
import os, sys
from pathlib import Path
from screening.train import loop
from tests.train.test_loop import SETTINGS, arrays

def epoch(number, _):
    if number == 1:
        print("epoch 1", flush=True)
        os.kill(os.getpid(), 9)

train, tune = arrays()
loop.fit_here(train, tune, SETTINGS, folder=Path(sys.argv[1]), on_epoch=epoch)
"""


def test_a_killed_process_resumes_to_the_same_weights(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, tmp_path], cwd=PROJECT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    train, tune = arrays()
    epochs: list[int] = []
    resumed = loop.fit_here(train, tune, SETTINGS, folder=tmp_path, on_epoch=lambda epoch, _: epochs.append(epoch))
    assert epochs == [2]
    (tmp_path / "whole").mkdir()
    whole = loop.fit_here(train, tune, SETTINGS, folder=tmp_path / "whole")
    assert resumed.best_epoch == whole.best_epoch
    for key, value in whole.state_dict.items():
        assert torch.equal(resumed.state_dict[key], value), key


LONG = SETTINGS.model_copy(update={"workers": 1, "fit": dataclasses.replace(SETTINGS.fit, epochs=8)})

ON_RAY = """
import sys
from pathlib import Path
from screening.train import loop
from tests.train.test_loop import LONG, arrays

loop.fit_on_ray(*arrays(), LONG, folder=Path(sys.argv[1]), name="once")
"""


def checkpoints(folder: Path) -> int:
    return len(list(folder.glob("checkpoint_*/state.pt")))


def descendants() -> list[int]:
    """Return the processes that this one started, and those that they started."""
    parents: dict[int, int] = {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # ended meanwhile
            parents[int(status.parent.name)] = int(status.read_text().rpartition(")")[2].split()[1])
    found = [os.getpid()]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found[1:]


def wait_for(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.usefixtures("ray_here")
def test_a_killed_driver_resumes_to_what_one_process_gives(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", ON_RAY, tmp_path], cwd=PROJECT, start_new_session=True)
    try:
        wait_for(lambda: checkpoints(tmp_path / "once") >= 2 or driver.poll() is not None)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    resumed = loop.fit_on_ray(*arrays(), LONG, folder=tmp_path, name="once")
    assert len(resumed.history) == 8
    (tmp_path / "here").mkdir()
    here = loop.fit_here(*arrays(), LONG, folder=tmp_path / "here")
    assert resumed.best_epoch == here.best_epoch
    for key, value in here.state_dict.items():
        torch.testing.assert_close(resumed.state_dict[key], value)


@pytest.mark.usefixtures("ray_here")
def test_two_gloo_workers_survive_the_loss_of_one(tmp_path: Path) -> None:
    settings = SETTINGS.model_copy(update={"workers": 2, "fit": dataclasses.replace(SETTINGS.fit, epochs=10)})
    lost: list[int] = []

    def kill_one() -> None:
        wait_for(lambda: checkpoints(tmp_path / "pair") >= 2)
        lost.append(
            next(pid for pid in descendants() if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes())
        )
        os.kill(lost[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    fitted = loop.fit_on_ray(*arrays(), settings, folder=tmp_path, name="pair")
    killer.join(timeout=5)
    assert len(lost) == 1
    assert len(fitted.history) == 10
    assert np.isfinite([entry["loss"] for entry in fitted.history]).all()
    assert fitted.best_score > 0.5


def test_a_cluster_that_is_too_small_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "cluster_resources", lambda: {"CPU": 2.0})
    settings = SETTINGS.model_copy(update={"workers": 3})
    with pytest.raises(UserError, match="3 workers need as many CPU cores, and the Ray cluster has 2; lower --workers"):
        loop.fit_on_ray(*arrays(), settings, folder=tmp_path, name="big")
