"""Run many trials: in this process, or as tasks on a Ray cluster. Finished ones are not run again."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from screening.errors import UserError
from screening.train.data import TrainingSet
from screening.train.trials import Trial, TrialResult, TrialStore, run_trial

OnTrial = Callable[[str, TrialResult], None]


def run_trials(
    trials: Sequence[Trial],
    data: TrainingSet,
    store: TrialStore,
    *,
    catalog_id: str,
    workers: int = 0,
    address: str | None = None,
    device: str = "cpu",
    on_trial: OnTrial = lambda *_: None,
) -> None:
    """Run the trials that the store lacks. Several callers may share a store: each trial runs once.

    Parameters
    ----------
    data : TrainingSet
        Of the preprocessing that the trials name.
    workers : int
        Ray tasks at a time, one CPU core (or one GPU where ``device`` is ``cuda``) each; 0 runs here, one by one.
    on_trial : callable
        Told each trial that was run by this call, by its key.
    """
    wanted = {trial.key(catalog_id): trial for trial in trials}
    if workers == 0:
        for key, trial in wanted.items():
            result = _run(key, trial, data, store.folder, device)
            if result is not None:
                on_trial(key, result)
    else:
        _on_ray(
            {key: trial for key, trial in wanted.items() if store.read(key) is None},
            data,
            store,
            workers,
            address,
            device,
            on_trial,
        )


def _run(key: str, trial: Trial, data: TrainingSet, folder: Path, device: str) -> TrialResult | None:
    """Run one trial unless it is finished or another process has it in hand."""
    store = TrialStore(folder)
    with store.claimed(key) as mine:
        if not mine or store.read(key) is not None:
            return None
        started = time.perf_counter()
        result = run_trial(trial, data, device=device)
        result = replace(result, facts={**result.facts, "seconds": time.perf_counter() - started})
        store.write(key, result)
        return result


def _task(key: str, trial: Trial, data: TrainingSet, folder: str, device: str) -> tuple[str, TrialResult | None]:
    import torch

    torch.set_num_threads(1)  # as many tasks as cores run side by side
    return key, _run(key, trial, data, Path(folder), device)


def _on_ray(
    trials: dict[str, Trial],
    data: TrainingSet,
    store: TrialStore,
    workers: int,
    address: str | None,
    device: str,
    on_trial: OnTrial,
) -> None:
    import ray
    from ray.exceptions import RayTaskError, WorkerCrashedError

    from screening.cluster import cluster

    if not trials:
        return
    with cluster(address):
        if device == "cuda" and ray.cluster_resources().get("GPU", 0) < 1:  # the trials would wait for ever
            raise UserError("--device cuda, but Ray sees no GPU; choose cpu, or a cluster with GPUs")
        shared = ray.put(data)

        # A lost worker (a lost machine, no memory) is tried again elsewhere; an error of our own is not.
        one = ray.remote(num_cpus=1, num_gpus=1 if device == "cuda" else 0, max_retries=3)(_task)
        waiting = list(trials.items())
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < workers:
                key, trial = waiting.pop(0)
                running.append(one.remote(key, trial, shared, str(store.folder), device))
            done, running = ray.wait(running, num_returns=1)
            try:
                key, result = ray.get(done[0])
            except (RayTaskError, WorkerCrashedError) as error:
                cause = str(error).strip().splitlines()[-1]
                raise UserError(f"a trial failed ({cause}); start again to go on with the others") from error
            if result is not None:
                on_trial(key, result)
