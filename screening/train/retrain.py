"""A retraining from catalog to registered bundle.

It is named by what goes in (``assemble.training_id``), so the same command resumes it wherever it was stopped, and a
finished one is not done twice. Its folder holds what ``loop.py`` keeps of each fit, and at the end ``bundle/``. Only this, the
driver, writes to the registry.
"""

from __future__ import annotations

import fcntl
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from screening.archive.catalog import Catalog, open_catalog
from screening.errors import UserError
from screening.model.bundle import MANIFEST, Bundle, load_bundle
from screening.model.out_of_fold import OutOfFold
from screening.run.fingerprint import choose_device
from screening.storage import make_folders
from screening.train.assemble import (
    TrainSettings,
    make_bundle,
    registry_entry,
    training_id,
)
from screening.train.data import TrainingSet, load_training_set
from screening.train.fit import FitResult, FitSettings
from screening.train.loop import DATA, fit_here, fit_on_ray
from screening.train.procedure import WHOLE, run_procedure
from screening.train.registry import ModelVersion, register
from screening.train.sweep import run_trials
from screening.train.trials import Split, Trial, TrialStore, out_of_fold, outer_folds

BUNDLE = "bundle"
TRIALS = "trials"  # beside the folder of trainings: what a study ran, a training need not run again


@dataclass(frozen=True)
class Retraining:
    """What a retraining gave."""

    training_id: str
    bundle: Bundle
    registered: ModelVersion
    already: bool  # it was finished before


def retrain(
    catalog_path: str,
    settings: TrainSettings,
    *,
    comparisons: str = "",
    trainings: Path,
    out: Path | None = None,
    tracking_uri: str,
    address: str | None = None,
    device: str = "auto",
    storage_options: dict[str, Any] | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_epoch: Callable[[int, Mapping[str, float]], None] = lambda *_: None,
) -> Retraining:
    """Train on a labelled catalog, save the bundle and register it; goes on where an earlier call was stopped.

    Parameters
    ----------
    catalog_path
        Made by ``screening catalog --labels RULE``.
    comparisons
        Tables of a study (Markdown) that the model card shows.
    trainings
        Folder of trainings, local (or mounted on every machine); each has a folder in it.
    out
        Where a copy of the bundle goes; refused if another bundle is there.
    tracking_uri
        See ``registry.register``.
    address
        Ray cluster for ``settings.workers`` above 0; None starts Ray on this machine, or joins that of a Ray job.
    device
        ``auto``, ``cpu`` or ``cuda``, for a training in this process; workers take a GPU each where there are enough.
    on_stage, on_epoch
        Told what is being done, and the metrics of every epoch trained in this process.
    """
    catalog = open_catalog(catalog_path, storage_options=storage_options)
    name = training_id(catalog.catalog_id, settings, comparisons)
    folder = trainings.absolute() / name
    place = folder / BUNDLE
    if out is not None and out.exists() and not _is_bundle(out, name):
        raise UserError(f"{out} exists and is not the bundle of this training; name another folder.")
    already = _is_bundle(place, name)
    if not already:
        with _alone(folder):
            _train(
                catalog,
                settings,
                comparisons=comparisons,
                folder=folder,
                address=address,
                device=device,
                storage_options=storage_options,
                on_stage=on_stage,
                on_epoch=on_epoch,
            )
    bundle = load_bundle(place)
    if out is not None and not out.exists():
        bundle = _copy(bundle, out.absolute())
    on_stage("registering")
    registered = register(
        bundle,
        tracking_uri=tracking_uri,
        run_name=f"{bundle.name}-{name}",
        **registry_entry(bundle),
    )
    return Retraining(name, bundle, registered, already)


def _train(
    catalog: Catalog,
    settings: TrainSettings,
    *,
    comparisons: str,
    folder: Path,
    address: str | None,
    device: str,
    storage_options: dict[str, Any] | None,
    on_stage: Callable[[str], None],
    on_epoch: Callable[[int, Mapping[str, float]], None],
) -> None:
    """Leave the bundle in ``folder / "bundle"``."""
    on_stage("reading the labelled records")
    data = load_training_set(
        catalog.path,
        settings.preprocessing,
        folds={*settings.train_folds, *settings.tune_folds},
        storage_options=storage_options,
    )
    train, tune, _ = Split(settings.train_folds, settings.tune_folds, ()).records(data)
    on_stage(f"training {folder.name} on {len(train):,} records, choosing on {len(tune):,}")
    here = choose_device(device)

    def fit_with(fit: FitSettings, name: str) -> FitResult:
        ours = settings.model_copy(update={"fit": fit})
        told = on_epoch if name == WHOLE else lambda *_: None
        if name != WHOLE:
            on_stage(f"trying learning rate {fit.learning_rate:g} for {fit.epochs} epochs")
        if settings.workers:
            return fit_on_ray(
                train,
                tune,
                ours,
                folder=folder,
                name=f"{folder.name}-{name}",
                address=address,
                device=device,
                on_epoch=told,
            )
        (folder / name).mkdir(exist_ok=True)
        return fit_here(train, tune, ours, folder=folder / name, device=here, on_epoch=told)

    fitted = run_procedure(train, tune, settings.procedure(), train_with=fit_with, device=here)
    predictions = None
    if settings.nested:
        store = TrialStore(folder.parent.parent / TRIALS)
        predictions = _nested(catalog, data, settings, store, address=address, device=here, on_stage=on_stage)
    on_stage("measuring")
    make_bundle(
        folder / BUNDLE,
        fitted=fitted,
        train=train,
        tune=tune,
        data=data,
        predictions=predictions,
        settings=settings,
        comparisons=comparisons,
        catalog={
            "catalog_id": catalog.catalog_id,
            "label_rule": catalog.label_rule.name,
            "label_rule_settings": catalog.label_rule.model_dump(mode="json", exclude_defaults=True),
        },
    )
    shutil.rmtree(folder / DATA, ignore_errors=True)


def _nested(
    catalog: Catalog,
    data: TrainingSet,
    settings: TrainSettings,
    store: TrialStore,
    *,
    address: str | None,
    device: str,
    on_stage: Callable[[str], None],
) -> OutOfFold:
    """Repeat the whole procedure without each fold in turn, and return what each gave for the fold it never saw."""
    folds = tuple(sorted({*settings.train_folds, *settings.tune_folds}))
    trials = {split.test[0]: Trial(settings.procedure(), split, settings.preprocessing) for split in outer_folds(folds)}
    on_stage(f"nested cross-validation: the same again {len(folds)} times, each without the fold that it is tested on")
    run_trials(
        list(trials.values()),
        data,
        store,
        catalog_id=catalog.catalog_id,
        workers=settings.workers,
        address=address,
        device=device,
        on_trial=lambda _key, result: on_stage(f"fold {result.facts['split']['test'][0]} tested"),
    )
    results = {fold: store.read(trial.key(catalog.catalog_id)) for fold, trial in trials.items()}
    finished = {fold: result for fold, result in results.items() if result is not None}
    if waiting := [str(fold) for fold in results if fold not in finished]:
        raise UserError(
            f"another process has the trials of fold {', '.join(waiting)} in hand; start this command again after it"
        )
    return out_of_fold(finished)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the training's lock, which the system lets go of however this process ends."""
    make_folders(str(folder))
    with (folder / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"training {folder.name} is running already; wait for it, or stop it first.") from None
        yield


def _is_bundle(folder: Path, version: str) -> bool:
    return (folder / MANIFEST).exists() and load_bundle(folder).version == version


def _copy(bundle: Bundle, out: Path) -> Bundle:
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as temporary:
        building = Path(shutil.copytree(bundle.path, Path(temporary) / "bundle"))
        building.rename(out)
    return load_bundle(out)
