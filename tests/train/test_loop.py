"""The training loop: here and on Ray workers, killed and resumed."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from screening.errors import UserError
from screening.train import loop
from screening.train.data import TrainingSet
from screening.train.fit import score
from tests.train.sets import SETTINGS, training_set

PROJECT = Path(__file__).resolve().parents[2]


def arrays() -> tuple[TrainingSet, TrainingSet]:
    """Return a training and a tuning set."""
    data = training_set()
    return data.of_folds((1, 2)), data.of_folds((3,))


def test_state_is_read_without_unpickling_objects(tmp_path: Path) -> None:
    torch.save({"harmful": PROJECT}, tmp_path / "state.pt")
    with pytest.raises(
        UserError, match=r"state\.pt is no state of a training \(UnpicklingError\); remove it to begin anew"
    ):
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
@pytest.mark.long
def test_a_killed_driver_resumes_to_what_one_process_gives(tmp_path: Path) -> None:
    driver = subprocess.Popen([sys.executable, "-c", ON_RAY, tmp_path], cwd=PROJECT, start_new_session=True)
    try:
        wait_for(lambda: checkpoints(tmp_path / "once") >= 2 or driver.poll() is not None)
        driver.kill()
        assert driver.wait() == -signal.SIGKILL
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(driver.pid, signal.SIGKILL)
    epochs: list[int] = []
    resumed = loop.fit_on_ray(
        *arrays(), LONG, folder=tmp_path, name="once", on_epoch=lambda epoch, _: epochs.append(epoch)
    )
    assert epochs[0] >= 1  # what the checkpoint holds is not trained again
    assert epochs == list(range(epochs[0], 8))
    assert len(resumed.history) == 8
    (tmp_path / "here").mkdir()
    here = loop.fit_here(*arrays(), LONG, folder=tmp_path / "here")
    assert resumed.best_epoch == here.best_epoch
    for key, value in here.state_dict.items():
        torch.testing.assert_close(resumed.state_dict[key], value)


@pytest.mark.long
@pytest.mark.usefixtures("ray_here")
def test_two_gloo_workers_survive_the_loss_of_one_and_stop_early_together(tmp_path: Path) -> None:
    """With a learning rate of 0 only normalisation statistics change, in which the two differ most."""
    patient = dataclasses.replace(SETTINGS.fit, epochs=60, keep="best", score_every=1, patience=8, learning_rate=0.0)
    settings = SETTINGS.model_copy(update={"workers": 2, "fit": patient})
    lost: list[int] = []
    epochs: list[tuple[int, float]] = []

    def kill_one() -> None:
        wait_for(lambda: checkpoints(tmp_path / "pair") >= 2)
        lost.append(
            next(pid for pid in descendants() if b"RayTrainWorker" in Path(f"/proc/{pid}/cmdline").read_bytes())
        )
        os.kill(lost[0], signal.SIGKILL)

    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    train, tune = arrays()
    fitted = loop.fit_on_ray(
        train,
        tune,
        settings,
        folder=tmp_path,
        name="pair",
        on_epoch=lambda epoch, numbers: epochs.append((epoch, numbers["tune_auroc"])),
    )
    killer.join(timeout=5)
    assert len(lost) == 1
    assert epochs == [(epoch, entry["tune_auroc"]) for epoch, entry in enumerate(fitted.history)]
    assert len(fitted.history) < 60
    assert len(fitted.history) - 1 - fitted.best_epoch == 8
    network = settings.network.build()
    network.load_state_dict(fitted.state_dict)
    assert score(network, tune)["score"] == fitted.best_score == fitted.history[fitted.best_epoch]["tune_score"]


def test_epochs_are_told_once_and_in_order_however_they_are_written(tmp_path: Path) -> None:
    progress = tmp_path / "epochs.jsonl"
    told: list[tuple[int, dict[str, float]]] = []
    whole = "".join(json.dumps({"epoch": epoch, "loss": 1.0}) + "\n" for epoch in (0, 1, 1, 2))

    def work() -> str:
        for at in range(0, len(whole), 9):  # lines are seen by halves
            with progress.open("a") as stream:
                stream.write(whole[at : at + 9])
            time.sleep(0.02)
        return "done"

    assert loop._watched(work, progress, lambda *epoch: told.append(epoch), poll_s=0.01) == "done"  # type: ignore[arg-type]
    assert told == [(0, {"loss": 1.0}), (1, {"loss": 1.0}), (2, {"loss": 1.0})]


def test_what_a_training_raises_comes_out(tmp_path: Path) -> None:
    def work() -> None:
        raise ValueError("no good")

    with pytest.raises(ValueError, match="no good"):
        loop._watched(work, tmp_path / "epochs.jsonl", lambda *_: None)


def machine(**resources: float) -> dict[str, Any]:
    return {"Alive": True, "Resources": resources}


def test_workers_take_gpus_where_there_are_enough() -> None:
    settings = SETTINGS.model_copy(update={"workers": 3, "resources": {"CPU": 2}})
    small, large = machine(CPU=4, GPU=1), machine(CPU=8, GPU=2)
    assert loop._resources(settings, [small, large], "auto") == {"CPU": 2, "GPU": 1}
    assert loop._resources(settings, [small, large], "cpu") == {"CPU": 2}
    assert loop._resources(settings, [large], "auto") == {"CPU": 2}  # two GPUs for three workers
    own = settings.model_copy(update={"resources": {"GPU": 0}, "backend": "gloo"})
    assert loop._resources(own, [small, large], "auto") == {"CPU": 1, "GPU": 0}


@pytest.mark.parametrize(
    ("changed", "device", "message"),
    [
        (
            {"workers": 5},
            "auto",
            "5 workers that take 1 CPU each do not fit into the Ray cluster, which has room for 4; lower --workers",
        ),
        ({"workers": 2, "resources": {"CPU": 3}}, "auto", "take 3 CPU each do not fit .* room for 0"),
        ({"workers": 1}, "cuda", "1 workers that take 1 CPU, 1 GPU each do not fit .* room for 0"),
        ({"workers": 2, "backend": "nccl"}, "auto", "the backend nccl joins GPUs, and these workers have none"),
    ],
)
def test_a_cluster_that_is_too_small_is_told(changed: dict[str, Any], device: str, message: str) -> None:
    nodes = [machine(CPU=2), machine(CPU=2), {"Alive": False, "Resources": {"CPU": 64, "GPU": 8}}]
    with pytest.raises(UserError, match=message):
        loop._resources(SETTINGS.model_copy(update=changed), nodes, device)
