"""Write a model bundle, whole or not at all; ``bundle.py`` says what is in it and reads it back."""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from screening.contract import NOTICE, input_contract, sha256_of
from screening.model.bundle import (
    CARD,
    GOLDEN,
    MANIFEST,
    NAME,
    OUT_OF_FOLD,
    PICTURE,
    REFERENCE,
    SCHEMA_VERSION,
    SEEN,
    SEEN_USES,
    TOLERANCE,
    WEIGHTS,
    Bundle,
    BundleError,
    OperatingCharacteristics,
    decode_manifest,
    encode_manifest,
    golden_logits,
    load_bundle,
    plain,
    sha256_of_file,
)
from screening.model.calibration import PlattCalibrator
from screening.model.classifier import Classifier
from screening.model.out_of_fold import OutOfFold, write_out_of_fold
from screening.model.reference import Reference, write_reference
from screening.signal.preprocess import Preprocessing


def save_bundle(
    folder: str | Path,
    *,
    name: str,
    version: str,
    network: Classifier,
    preprocessing: Preprocessing,
    calibrator: PlattCalibrator,
    threshold: float,
    threshold_rule: str,
    operating_characteristics: OperatingCharacteristics,
    training: Mapping[str, Any],
    seen: Mapping[str, Sequence[str]],
    card: str,
    golden_inputs: np.ndarray,
    golden_signals: np.ndarray | None = None,
    golden_rate_hz: float | None = None,
    out_of_fold: OutOfFold | None = None,
    reference: Reference | None = None,
    pictures: Mapping[str, bytes] | None = None,
) -> Bundle:
    """Write a bundle, whole or not at all: it appears under its name only when every file is there.

    Parameters
    ----------
    folder
        Local folder to make; refused if it exists.
    network
        Trained network; its golden logits are computed here, in float32 on the CPU.
    threshold
        On the calibrated probability, with ``threshold_rule`` saying in words how it was fixed.
    training
        What the network was made from: label rule, folds, settings. JSON values only.
    seen
        SHA-256 of the source bytes of the records, by use: ``trained``, ``tuned``, ``calibrated``.
    card
        The model card, Markdown.
    golden_inputs
        Network inputs made from simulated ECGs, float32 (b, 12, t).
    golden_signals, golden_rate_hz
        The simulated ECGs themselves, float32 (b, 12, n) in mV, so that preprocessing can be checked too.
    out_of_fold
        Predictions of its nested cross-validation.
    reference
        What its own population looked like.
    pictures
        File name (NAME.png) -> PNG that the card shows.

    Raises
    ------
    BundleError
        If ``folder`` exists, or the name or version could not name a folder.
    ValueError
        If a value cannot be stored (NaN in a fact, an unknown use of a record).
    """
    for what, value in (("name", name), ("version", version)):
        if not NAME.fullmatch(value):
            raise BundleError(f"the {what} {value!r} of a model may hold letters, digits, '.', '_' and '-' only.")
    if unknown := set(seen) - set(SEEN_USES):
        raise ValueError(f"unknown use of records: {', '.join(sorted(unknown))}")
    with _built(folder) as building:
        was_training = network.training
        device = next(network.parameters()).device
        network.eval().to("cpu", torch.float32)
        golden = {"x": np.ascontiguousarray(golden_inputs, dtype=np.float32)}
        golden["logit"] = golden_logits(network, golden["x"])
        if golden_signals is not None:
            golden["signal_mV"] = np.ascontiguousarray(golden_signals, dtype=np.float32)
            golden["rate_hz"] = np.array([golden_rate_hz], dtype=np.float64)
        weights = {key: value.detach().contiguous() for key, value in network.state_dict().items()}
        save_file(weights, building / WEIGHTS)
        network.train(was_training).to(device)
        save_arrays(golden, building / GOLDEN)
        _write_seen(building / SEEN, seen)
        _write_card(building, card, pictures or {})
        if out_of_fold is not None:
            write_out_of_fold(out_of_fold, building / OUT_OF_FOLD)
        if reference is not None:
            write_reference(reference, building / REFERENCE)

        contract = input_contract(plain(preprocessing))
        facts: dict[str, Any] = {
            "schema_version": SCHEMA_VERSION,
            "notice": NOTICE,
            "name": name,
            "version": version,
            "architecture": network.config.to_json(),
            "input_contract": contract,
            "input_contract_sha256": sha256_of(contract),
            "calibrator": plain(calibrator),
            "threshold": {"probability": float(threshold), "rule": threshold_rule},
            "operating_characteristics": plain(operating_characteristics),
            "training": {**plain(training), "records": {use: len(set(seen.get(use, ()))) for use in SEEN_USES}},
            "golden_tolerance": TOLERANCE,
            "libraries": _libraries(),
        }
        _write_manifest(building, facts)
    return load_bundle(folder)


def amend_card(bundle: Bundle, folder: str | Path, *, card: str, pictures: Mapping[str, bytes]) -> Bundle:
    """Write a bundle anew with another card: the network and all else stay as they are, the content hash is another.

    Parameters
    ----------
    bundle
        As ``load_bundle`` gave it.
    folder
        Local folder to make; refused if it exists.
    card
        The whole card, Markdown.
    pictures
        File name (NAME.png) -> PNG that the card shows beside those that are there; one of the same name is replaced.

    Raises
    ------
    BundleError
        If ``folder`` exists.
    """
    with _built(folder) as building:
        for file in bundle.files:
            shutil.copyfile(bundle.path / file, building / file)
        _write_card(building, card, pictures)
        _write_manifest(building, decode_manifest((bundle.path / MANIFEST).read_bytes(), str(bundle.path / MANIFEST)))
    return load_bundle(folder)


@contextmanager
def _built(folder: str | Path) -> Iterator[Path]:
    """Give a folder to fill, which takes its name when all went well; else nothing is left of it."""
    target = Path(folder).absolute()
    if target.exists():
        raise BundleError(f"{target} exists already; name another folder for the bundle.")
    target.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield building
        for path in building.iterdir():
            os.chmod(path, 0o644)
        os.chmod(building, 0o755)
        os.rename(building, target)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise


def _write_card(building: Path, card: str, pictures: Mapping[str, bytes]) -> None:
    (building / CARD).write_text(card, encoding="utf-8")
    for picture, png in pictures.items():
        if not PICTURE.fullmatch(picture):
            raise ValueError(f"{picture!r} is no file name of a picture")
        (building / picture).write_bytes(png)


def _write_manifest(building: Path, facts: Mapping[str, Any]) -> None:
    """Write the manifest last, with the hashes of all files there are."""
    files = {path.name: sha256_of_file(path) for path in sorted(building.iterdir())}
    stated = {**{key: value for key, value in facts.items() if key != "sha256"}, "files": files}
    _write_durably(building / MANIFEST, encode_manifest({**stated, "sha256": sha256_of(stated)}))


def _libraries() -> dict[str, str]:
    """Return the versions of what computes scores."""
    names = ("numpy", "safetensors", "scipy", "torch", "ecg-screening")
    installed = {}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # run from a source tree
            continue
    return installed


def _write_seen(path: Path, seen: Mapping[str, Sequence[str]]) -> None:
    rows = sorted((use, sha256) for use, hashes in seen.items() for sha256 in set(hashes))
    columns = {"use": [use for use, _ in rows], "sha256": [sha256 for _, sha256 in rows]}
    schema = pa.schema([("use", pa.string()), ("sha256", pa.string())])
    pq.write_table(pa.table(columns, schema=schema), path, compression="zstd", use_dictionary=["use"])


def _write_durably(path: Path, content: bytes) -> None:
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
