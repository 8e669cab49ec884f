"""The training loop on this machine, or on Ray Train workers. Both go on from their last epoch when they were stopped.

Only what a worker needs is imported here: arrays and torch, neither archive nor registry. In a training's folder::

    state.pt      state after the last whole epoch, when it trains in this process
    data/         the filtered ECGs as .npy files, which workers map into memory
    <name>/       checkpoints of Ray Train: state.pt after each epoch

Workers on other machines must see the folder under the same path.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from screening.errors import UserError
from screening.model.networks import config_from_json
from screening.train.fit import EpochReport, FitResult, FitSettings, LabelledSignals, fit

if TYPE_CHECKING:
    from screening.train.assemble import TrainSettings

STATE, DATA = "state.pt", "data"
_ARRAYS = ("signals_mV", "target", "label")


def fit_here(
    train: LabelledSignals,
    tune: LabelledSignals,
    settings: TrainSettings,
    *,
    folder: Path,
    device: str = "cpu",
    on_epoch: Callable[[int, Mapping[str, float]], None] = lambda *_: None,
) -> FitResult:
    """Train in this process, keeping the state of every epoch in ``folder`` and beginning from what is there."""
    path = folder / STATE

    def keep(report: EpochReport) -> None:
        _save_state(report.state, path)
        on_epoch(report.epoch, report.metrics())

    return fit(
        train,
        tune,
        settings.fit,
        network_config=settings.network,
        resume_from=_load_state(path) if path.exists() else None,
        on_epoch=keep,
        device=device,
    )


def fit_on_ray(
    train: LabelledSignals,
    tune: LabelledSignals,
    settings: TrainSettings,
    *,
    folder: Path,
    name: str,
    address: str | None = None,
) -> FitResult:
    """Train on ``settings.workers`` Ray Train workers (gloo or NCCL), surviving lost workers and a lost driver.

    Parameters
    ----------
    folder
        Absolute, and visible to every worker; Ray Train keeps its checkpoints in ``folder / name``.

    Raises
    ------
    UserError
        The cluster is too small, or workers were lost or failed more than ``settings.max_failures`` times.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchTrainer

    from screening.cluster import cluster

    # How often the controller looks for reports; each epoch waits for it, and Ray's 2 s are long beside small epochs.
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.2")
    data = folder / DATA
    _write_arrays(data, {"train": train, "tune": tune})
    with cluster(address):
        resources = ray.cluster_resources()
        if (cpus := resources.get("CPU", 0)) < settings.workers:
            raise UserError(
                f"{settings.workers} workers need as many CPU cores, and the Ray cluster has {cpus:g}; lower --workers."
            )
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "data": str(data),
                "fit": settings.fit.to_json(),
                "network": settings.network.to_json(),
            },
            scaling_config=ScalingConfig(
                num_workers=settings.workers, use_gpu=resources.get("GPU", 0) >= settings.workers
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=settings.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
            ),
        )
        try:
            result = trainer.fit()
        except TrainingFailedError as error:
            cause = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
            raise UserError(
                f"training {name} failed on its workers ({cause}); "
                "start the same command again to go on from the last epoch."
            ) from error
    if result.checkpoint is None:
        raise UserError(f"training {name} left no checkpoint in {folder}; remove that folder and start again.")
    with result.checkpoint.as_directory() as kept:
        state = _load_state(Path(kept) / STATE)
    best = state["best"]
    return FitResult(best["network"], best["epoch"], best["score"], state["history"])


def _work(config: dict[str, Any]) -> None:
    """Train one worker's share: the loop that Ray Train runs on every worker."""
    import ray.train
    from ray.train import Checkpoint
    from ray.train.torch import get_device, prepare_model

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    settings = FitSettings.from_json(config["fit"])
    if world_size > 1:
        # Normalisation statistics differ a little between ranks, so their scores do: a rank that stopped alone would
        # leave the others waiting for it.
        settings = replace(settings, patience=settings.epochs)
    earlier = ray.train.get_checkpoint()
    state = None
    if earlier is not None:
        with earlier.as_directory() as folder:
            state = _load_state(Path(folder) / STATE)

    def report(epoch: EpochReport) -> None:
        with tempfile.TemporaryDirectory() as folder:
            checkpoint = None
            if rank == 0:
                _save_state(epoch.state, Path(folder) / STATE)
                checkpoint = Checkpoint.from_directory(folder)
            # A barrier: every rank calls it once an epoch.
            ray.train.report({"epoch": epoch.epoch, **epoch.metrics()}, checkpoint=checkpoint)

    fit(
        _read_arrays(Path(config["data"]), "train"),
        _read_arrays(Path(config["data"]), "tune"),
        settings,
        network_config=config_from_json(config["network"]),
        resume_from=state,
        on_epoch=report,
        device=get_device(),
        wrap=prepare_model if world_size > 1 else None,
        rank=rank,
        world_size=world_size,
    )


@dataclass(frozen=True)
class _Mapped:
    """A training set on disk, mapped into memory."""

    signals_mV: np.ndarray
    target: np.ndarray
    label: np.ndarray


def _write_arrays(folder: Path, parts: Mapping[str, LabelledSignals]) -> None:
    if folder.is_dir():
        return
    building = Path(tempfile.mkdtemp(prefix=".data.", dir=folder.parent))
    for part, arrays in parts.items():
        for array in _ARRAYS:
            np.save(building / f"{part}_{array}.npy", getattr(arrays, array), allow_pickle=False)
    building.chmod(0o755)
    building.rename(folder)


def _read_arrays(folder: Path, part: str) -> _Mapped:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"a worker does not see {folder}; put --state on a file system that every machine of the cluster mounts"
        )
    # Copy on write: torch wants memory that it could write to, though nothing does.
    arrays = {a: np.load(folder / f"{part}_{a}.npy", mmap_mode="c", allow_pickle=False) for a in _ARRAYS}
    return _Mapped(**arrays)


def _save_state(state: Mapping[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        torch.save(dict(state), stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _load_state(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return state
