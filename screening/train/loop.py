"""The training loop on this machine, or on Ray Train workers. Both go on from their last epoch when they were stopped.

Only what a worker needs is imported here: arrays and torch, neither archive nor registry. In a training's folder::

    state.pt             state after the last whole epoch, when it trains in this process
    data/                the filtered ECGs as .npy files, which workers map into memory
    <name>/              checkpoints of Ray Train: state.pt after each epoch
    <name>.epochs.jsonl  metrics of each epoch since the driver started, for its ``on_epoch``

Workers on other machines must see the folder under the same path.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from screening.errors import UserError, without_messages
from screening.model.networks import config_from_json
from screening.train.fit import EpochReport, FitResult, FitSettings, LabelledSignals, fit

if TYPE_CHECKING:
    from screening.train.assemble import TrainSettings

STATE, DATA = "state.pt", "data"
POLL_S = 0.2
"""How often the controller looks for reports, and the driver for epochs. Each epoch waits for the former; Ray's own 2 s
are long beside small epochs."""
_ARRAYS = ("signals_mV", "target", "label")

OnEpoch = Callable[[int, Mapping[str, float]], None]
"""Told the number of an epoch, 0 the first, and its metrics."""


def fit_here(
    train: LabelledSignals,
    tune: LabelledSignals,
    settings: TrainSettings,
    *,
    folder: Path,
    device: str = "cpu",
    on_epoch: OnEpoch = lambda *_: None,
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
    device: str = "auto",
    on_epoch: OnEpoch = lambda *_: None,
) -> FitResult:
    """Train on ``settings.workers`` Ray Train workers (gloo or NCCL), surviving lost workers and a lost driver.

    Parameters
    ----------
    folder
        Absolute, and visible to every worker; Ray Train keeps its checkpoints in ``folder / name``.
    device
        ``cpu``; ``cuda``: a GPU for each worker; ``auto``: that where the cluster has so many.
    on_epoch
        Called here, in this thread, once for every epoch that is trained and kept. What it raises ends the training.

    Raises
    ------
    UserError
        The cluster is too small, or workers were lost or failed more than ``settings.max_failures`` times.
    """
    import ray
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig, TrainingFailedError
    from ray.train.torch import TorchConfig, TorchTrainer

    from screening.cluster import cluster

    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(POLL_S))
    data = folder / DATA
    _write_arrays(data, {"train": train, "tune": tune})
    progress = folder / f"{name}.epochs.jsonl"
    progress.unlink(missing_ok=True)
    with cluster(address):
        each = _resources(settings, ray.nodes(), device)
        trainer = TorchTrainer(
            _work,
            train_loop_config={
                "data": str(data),
                "fit": settings.fit.to_json(),
                "network": settings.network.to_json(),
            },
            torch_config=TorchConfig(backend=None if settings.backend == "auto" else settings.backend),
            scaling_config=ScalingConfig(
                num_workers=settings.workers, use_gpu=each.get("GPU", 0) > 0, resources_per_worker=each
            ),
            run_config=RunConfig(
                name=name,
                storage_path=str(folder),
                failure_config=FailureConfig(max_failures=settings.max_failures),
                checkpoint_config=CheckpointConfig(num_to_keep=2),
                callbacks=[_note_epochs(progress)],
            ),
        )
        try:
            result = _watched(trainer.fit, progress, on_epoch)
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


def _resources(settings: TrainSettings, nodes: Iterable[Mapping[str, Any]], device: str) -> dict[str, float]:
    """Return what each worker takes of the cluster (``ray.nodes()``), after a check that there is so much."""
    machines = [node["Resources"] for node in nodes if node["Alive"]]

    def room(need: Mapping[str, float]) -> int:
        """Return how many workers there is room for; one lives on one machine."""
        return sum(min(int(has.get(name, 0) / n + 1e-9) for name, n in need.items() if n > 0) for has in machines)

    each = {"CPU": 1.0, **settings.resources}
    if device == "cpu":
        each.pop("GPU", None)
    elif "GPU" not in each and (device == "cuda" or room(each | {"GPU": 1}) >= settings.workers):
        each["GPU"] = 1.0
    if (found := room(each)) < settings.workers:
        wanted = ", ".join(f"{n:g} {name}" for name, n in each.items())
        raise UserError(
            f"{settings.workers} workers that take {wanted} each do not fit into the Ray cluster, which has room for "
            f"{found}; lower --workers or `resources`."
        )
    if settings.backend == "nccl" and not each.get("GPU"):
        raise UserError("the backend nccl joins GPUs, and these workers have none; choose gloo or auto.")
    return each


def _note_epochs(progress: Path) -> Any:
    """Return a callback that writes rank 0's metrics to a file; it runs in Ray Train's controller, beside the driver."""
    from ray.train import UserCallback

    class NoteEpochs(UserCallback):
        def after_report(self, run_context: Any, metrics: list[dict[str, Any]], checkpoint: Any) -> None:
            with progress.open("a") as stream:
                stream.write(json.dumps(metrics[0]) + "\n")

    return NoteEpochs()


def _watched(work: Callable[[], Any], progress: Path, on_epoch: OnEpoch, *, poll_s: float = POLL_S) -> Any:
    """Return what ``work`` returns; meanwhile tell of the epochs that appear in ``progress``.

    The work is done in another thread, so that Ctrl-C reaches this one: Ray Train's own handler would exit with 0.
    """
    outcome: Future[Any] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    told = -1
    place = 0
    threading.Thread(target=run, daemon=True).start()
    while True:
        over = bool(wait([outcome], timeout=poll_s).done)
        if progress.exists():
            with progress.open("rb") as stream:
                stream.seek(place)
                lines = stream.read().rpartition(b"\n")[0]
            place += len(lines) + 1 if lines else 0
            for line in lines.splitlines():
                numbers = json.loads(line)
                epoch = int(numbers.pop("epoch"))
                if epoch > told:
                    on_epoch(epoch, numbers)
                    told = epoch
        if over:
            return outcome.result()


@without_messages()
def _work(config: dict[str, Any]) -> None:
    """Train one worker's share: the loop that Ray Train runs on every worker."""
    import ray.train
    from ray.train import Checkpoint
    from ray.train.torch import get_device, prepare_model

    device = get_device()

    context = ray.train.get_context()
    rank, world_size = context.get_world_rank(), context.get_world_size()
    settings = FitSettings.from_json(config["fit"])
    earlier = ray.train.get_checkpoint()
    state = None
    if earlier is not None:
        with earlier.as_directory() as folder:
            state = _load_state(Path(folder) / STATE)

    def agree(score: float) -> float:
        of_rank_0 = torch.tensor(score, dtype=torch.float64, device=device)
        torch.distributed.broadcast(of_rank_0, src=0)
        return of_rank_0.item()

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
        device=device,
        wrap=prepare_model if world_size > 1 else None,
        rank=rank,
        world_size=world_size,
        agree=agree if world_size > 1 else None,
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
    building.rename(folder)


def _read_arrays(folder: Path, part: str) -> _Mapped:
    if not folder.is_dir():
        raise FileNotFoundError(
            f"a worker does not see {folder}; put --state on a file system that every machine of the cluster mounts"
        )
    # Copy on write: torch wants memory that it could write to, though nothing does.
    return _Mapped(**{array: _mapped(folder / f"{part}_{array}.npy") for array in _ARRAYS})


def _mapped(path: Path) -> np.ndarray:
    try:
        array = np.load(path, mmap_mode="c", allow_pickle=False)
        if not isinstance(array, np.ndarray):  # an archive of arrays
            raise ValueError("no array")
    except (ValueError, OSError, EOFError) as error:
        raise UserError(
            f"{path} is no array of a training ({type(error).__name__}); remove {path.parent} to have it written again"
        ) from error
    return array


def _save_state(state: Mapping[str, Any], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        torch.save(dict(state), stream)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)


def _load_state(path: Path) -> dict[str, Any]:
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (
        Exception
    ) as error:  # of the reader of tensors, or of the one that takes nothing but tensors and plain values
        raise UserError(
            f"{path} is no state of a training ({type(error).__name__}); remove it to begin anew"
        ) from error
    return state
