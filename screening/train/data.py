"""A labelled catalog as arrays: read, judged and filtered by the same code that screens."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from screening.archive.catalog import open_catalog
from screening.archive.reader import ArchiveReader
from screening.contract import CARRIED_COLUMNS, N_LEADS
from screening.errors import UserError
from screening.model.reference import NUMERIC_QUALITY
from screening.run.stages import decode_shard
from screening.signal.preprocess import Preprocessing

FOLDS = 10
_BATCH = 256
QUALITY = np.dtype([(name, np.float32) for name in NUMERIC_QUALITY])


@dataclass(frozen=True)
class TrainingSet:
    """Labelled ECGs, ready for the network. All arrays have one entry a record, in the catalog's order."""

    signals_mV: np.ndarray  # float32 (n, 12, samples), filtered
    target: np.ndarray  # int8, 1 for infarction
    label: np.ndarray  # str: MI, NORM or other
    patient_key: np.ndarray  # object: str, or None where the archive names nobody
    fold: np.ndarray  # int16
    record_id: np.ndarray  # object: str
    record_sha256: np.ndarray  # object: str
    age: np.ndarray  # float32, NaN where unknown
    sex: np.ndarray  # object: str or None
    site: np.ndarray  # object: str or None
    device: np.ndarray  # object: str or None
    statements: np.ndarray  # object: tuple[str, ...], the archive's codes that the label rule lets count
    acquired_at: np.ndarray  # datetime64[us], NaT where unknown
    quality: np.ndarray  # structured: a float32 of each of model.reference.NUMERIC_QUALITY
    quality_flags: np.ndarray  # object: str, comma-separated names, empty where nothing is doubtful
    left_out: dict[str, int] = field(default_factory=dict)  # reason -> records of the catalog that are not here

    def __len__(self) -> int:
        return len(self.target)

    def where(self, chosen: np.ndarray) -> TrainingSet:
        """Return the records that a mask or an index array chooses."""
        arrays = {f.name: getattr(self, f.name)[chosen] for f in fields(self) if f.name != "left_out"}
        return TrainingSet(**arrays, left_out=dict(self.left_out))

    def of_folds(self, folds: Iterable[int]) -> TrainingSet:
        """Return the records of these folds."""
        return self.where(np.isin(self.fold, list(folds)))

    def counts(self) -> dict[str, int]:
        """Return how many records there are of each label."""
        return {str(name): int(count) for name, count in sorted(Counter(self.label.tolist()).items())}


def load_training_set(
    catalog_path: str,
    preprocessing: Preprocessing,
    *,
    folds: Collection[int] | None = None,
    storage_options: dict[str, Any] | None = None,
) -> TrainingSet:
    """Read the labelled records of a catalog.

    A record whose fold the archive does not state gets one of 1 to 10 by the hash of its patient, so that a patient's
    ECGs stay together and the split does not depend on what else is in the archive. Of records with the same bytes the
    first is taken.

    Parameters
    ----------
    catalog_path : str
        Made by ``screening catalog --labels RULE``.
    preprocessing : Preprocessing
        What the bundle will hold.
    folds : collection of int, optional
        Read these folds only; others are not opened.
    storage_options : dict, optional
        For the archive's file system.

    Returns
    -------
    TrainingSet
        ``left_out`` counts rejected records by their reason, and ``unlabelled``, ``other_fold`` and ``duplicate`` ones.

    Raises
    ------
    UserError
        The catalog cannot be read, or holds no labelled record that can be used.
    """
    catalog = open_catalog(catalog_path, storage_options=storage_options)
    reader = ArchiveReader(catalog.root_url, storage_options)
    left_out: Counter[str] = Counter()
    seen: set[str] = set()
    parts: list[dict[str, np.ndarray]] = []
    columns = [*CARRIED_COLUMNS, "labels", "label", "fold"]
    for batch in catalog.iter_batches(columns, with_location=True, batch_size=_BATCH):
        planned = pa.Table.from_batches([batch])
        labelled = pc.is_valid(planned["label"])
        left_out["unlabelled"] += planned.num_rows - pc.sum(labelled).as_py()
        planned = planned.filter(labelled)
        fold = _folds(planned)
        if folds is not None:
            wanted = np.isin(fold, list(folds))
            left_out["other_fold"] += int((~wanted).sum())
            planned, fold = planned.filter(pa.array(wanted)), fold[wanted]
        if not planned.num_rows:
            continue
        outcomes = (
            reader.read(location, record_id)
            for location, record_id in zip(
                planned["location"].to_pylist(), planned["record_id"].to_pylist(), strict=True
            )
        )
        decoded = decode_shard(planned, outcomes, preprocessing)
        left_out.update(reason for reason in decoded["reason"].to_pylist() if reason is not None)
        good = []
        for at, (reason, sha256) in enumerate(
            zip(decoded["reason"].to_pylist(), decoded["record_sha256"].to_pylist(), strict=True)
        ):
            if reason is None and sha256 in seen:
                left_out["duplicate"] += 1
            elif reason is None:
                seen.add(sha256)
                good.append(at)
        parts.append(_arrays(planned.take(good), decoded.take(good), fold[good], preprocessing.samples))
    left = {name: count for name, count in sorted(left_out.items()) if count}
    if not sum(len(part["target"]) for part in parts):
        told = ", ".join(f"{count} {name}" for name, count in left.items()) or "it is empty"
        raise UserError(
            f"The catalog {catalog_path} has no labelled record to train on ({told}); "
            "make it with a label rule: `screening catalog ... --labels RULE`."
        )
    return TrainingSet(**{name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, left_out=left)


def check_disjoint(first: TrainingSet, second: TrainingSet, *, names: tuple[str, str] = ("training", "tuning")) -> None:
    """Raise UserError where two sets share a patient or a record."""
    for what, column in (("patient", "patient_key"), ("record", "record_sha256")):
        shared = {key for key in getattr(first, column) if key} & {key for key in getattr(second, column) if key}
        if shared:
            raise UserError(
                f"The {names[0]} and the {names[1]} set share {len(shared)} {what}{'s' if len(shared) > 1 else ''}; "
                "choose folds that keep a patient's ECGs together."
            )


def _folds(planned: pa.Table) -> np.ndarray:
    stated = planned["fold"].to_pylist()
    if None not in stated:
        return np.array(stated, np.int16)
    keys = zip(planned["patient_key"].to_pylist(), planned["record_id"].to_pylist(), strict=True)
    return np.array(
        [
            fold if fold is not None else _hashed_fold(patient or record)
            for fold, (patient, record) in zip(stated, keys, strict=True)
        ],
        np.int16,
    )


def _hashed_fold(key: str) -> int:
    return 1 + int.from_bytes(hashlib.sha256(f"fold:{key}".encode()).digest()[:8]) % FOLDS


def _arrays(planned: pa.Table, decoded: pa.Table, fold: np.ndarray, samples: int) -> dict[str, np.ndarray]:
    signal = pc.list_flatten(decoded["signal"]).to_numpy().astype(np.float32, copy=False)
    label = np.array(planned["label"].to_pylist(), dtype=np.str_)
    return {
        "signals_mV": signal.reshape(planned.num_rows, N_LEADS, samples),
        "target": (label == "MI").astype(np.int8),
        "label": label,
        "patient_key": _objects(planned["patient_key"].to_pylist()),
        "fold": fold,
        "record_id": _objects(planned["record_id"].to_pylist()),
        "record_sha256": _objects(decoded["record_sha256"].to_pylist()),
        "age": np.array([np.nan if v is None else v for v in planned["age"].to_pylist()], np.float32),
        "sex": _objects(planned["sex"].to_pylist()),
        "site": _objects(planned["site"].to_pylist()),
        "device": _objects(planned["device"].to_pylist()),
        "statements": _objects([tuple(codes or ()) for codes in planned["labels"].to_pylist()]),
        "acquired_at": planned["acquired_at"].cast(pa.timestamp("us")).to_numpy().astype("datetime64[us]"),
        "quality": _quality(decoded),
        "quality_flags": _objects([flags or "" for flags in decoded["quality_flags"].to_pylist()]),
    }


def _quality(decoded: pa.Table) -> np.ndarray:
    out = np.empty(decoded.num_rows, QUALITY)
    for name in NUMERIC_QUALITY:
        out[name] = decoded[name].to_numpy()  # null, where nothing could be measured, becomes NaN
    return out


def _objects(values: list[Any]) -> np.ndarray:
    out = np.empty(len(values), dtype=object)
    for at, value in enumerate(values):  # one by one: numpy would make a table of tuples
        out[at] = value
    return out
