"""The parts of the study: which models, on which splits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from screening.errors import UserError
from screening.signal.preprocess import Preprocessing
from screening.study.models import (
    ABLATION,
    ABLATION_NOTE,
    BEST_PEER,
    DESIGN,
    DESIGN_PREPROCESSING,
    ENSEMBLES,
    PEERS,
    PEERS_NOTE,
    REFERENCE,
)
from screening.train.data import TrainingSet
from screening.train.procedure import Procedure
from screening.train.trials import Split, Trial, outer_folds

LOW_RECORDS = 350  # as many recordings as the paper's scar data set has for training
LOW_DRAWS = 1  # of the training sample, on each third of the folds
LOW_TRIAL_EPOCHS = 6  # few records make short epochs


@dataclass(frozen=True)
class Part:
    """Some models on some splits; every model is tested on the same records."""

    title: str
    models: Mapping[str, Procedure]
    splits: tuple[Split, ...]
    reference: str = REFERENCE
    preprocessing: Mapping[str, Preprocessing] = field(default_factory=dict)  # by model, where it is not the usual
    note: str = ""  # what the models' names mean
    ensembles: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> models whose scores are averaged

    def preprocessing_of(self, model: str) -> Preprocessing:
        """Return how a model's records are filtered."""
        return self.preprocessing.get(model, Preprocessing())

    def trials(self) -> dict[str, list[Trial]]:
        """Return each model's trials, one a split."""
        return {
            name: [Trial(procedure, split, self.preprocessing_of(name)) for split in self.splits]
            for name, procedure in self.models.items()
        }


def thirds(folds: tuple[int, ...], *, sample: int | None = None, draw: int = 0) -> tuple[Split, ...]:
    """Return three splits: each third of the folds tests once, and the fold after it tunes."""
    if len(folds) < 5:
        raise UserError(f"a study needs five folds and more, and the catalog has {len(folds)}")
    size = -(-len(folds) // 3)
    splits = []
    for at in range(0, len(folds), size):
        test = folds[at : at + size]
        rest = [fold for fold in (*folds[at + size :], *folds[:at])]
        splits.append(Split(tuple(sorted(rest[1:])), (rest[0],), test, sample, draw))
    return tuple(splits)


def low_data(folds: tuple[int, ...]) -> tuple[Split, ...]:
    """Return splits that train on few records, a draw or more for each third."""
    return tuple(split for draw in range(LOW_DRAWS) for split in thirds(folds, sample=LOW_RECORDS, draw=draw))


def _few(models: Mapping[str, Procedure]) -> dict[str, Procedure]:
    return {name: replace(of, trial_epochs=LOW_TRIAL_EPOCHS) for name, of in models.items()}


PARTS: dict[str, Callable[[tuple[int, ...]], Part]] = {
    "ablation": lambda folds: Part("Ablation", ABLATION, thirds(folds), note=ABLATION_NOTE),
    "peers": lambda folds: Part("Peers", {REFERENCE: ABLATION[REFERENCE], **PEERS}, thirds(folds), note=PEERS_NOTE),
    "low-data-ablation": lambda folds: Part(
        f"Ablation, {LOW_RECORDS} records", _few(ABLATION), low_data(folds), note=ABLATION_NOTE
    ),
    "low-data-peers": lambda folds: Part(
        f"Peers, {LOW_RECORDS} records",
        _few({REFERENCE: ABLATION[REFERENCE], **PEERS}),
        low_data(folds),
        note=PEERS_NOTE,
    ),
    "design": lambda folds: Part(
        "Design", DESIGN, thirds(folds), preprocessing=DESIGN_PREPROCESSING, ensembles=ENSEMBLES
    ),
    "nested": lambda folds: Part(
        "Nested cross-validation",
        {name: {**ABLATION, **PEERS}[name] for name in (REFERENCE, "CNN", BEST_PEER)},
        tuple(outer_folds(folds)),
    ),
}


def folds_of(data: TrainingSet) -> tuple[int, ...]:
    """Return the folds that the records lie in."""
    return tuple(int(fold) for fold in sorted(set(data.fold.tolist())))
