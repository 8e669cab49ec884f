"""The model bundle: a folder that holds a network and everything its scores rest on. No pickle anywhere.

::

    bundle.json         the facts below, the SHA-256 of every other file, and its own content hash
    model.safetensors   weights
    golden.safetensors  simulated ECGs as recorded and as the network sees them, and their logits
    seen.parquet        SHA-256 of every record it was trained, tuned or calibrated on
    card.md             the model card, and the pictures (.png) that it shows
    out_of_fold.parquet predictions of nested cross-validation, where it was run
    reference.json      what its own population looked like, for comparison; not in bundles of schema 1 and 2

The content hash of ``bundle.json`` names the bundle: it covers every file, so two bundles with one hash are one bundle.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from screening.contract import input_contract, sha256_of
from screening.errors import UserError
from screening.storage import forbid_pickled_columns

if TYPE_CHECKING:
    import torch

    from screening.model.calibration import PlattCalibrator
    from screening.model.classifier import Classifier
    from screening.model.out_of_fold import OutOfFold
    from screening.model.reference import Reference
    from screening.signal.preprocess import Preprocessing

SCHEMA_VERSION = 3
READABLE = (1, 2, 3)  # 2 added the optional files, 3 the reference
PRETRAINED = Path(__file__).resolve().parent / "pretrained"
"""The bundle that ships with the package."""

MANIFEST, WEIGHTS, GOLDEN, SEEN, CARD = (
    "bundle.json",
    "model.safetensors",
    "golden.safetensors",
    "seen.parquet",
    "card.md",
)
FILES = (WEIGHTS, GOLDEN, SEEN, CARD)
OUT_OF_FOLD, REFERENCE = "out_of_fold.parquet", "reference.json"  # not in every bundle
TOLERANCE = {"float32": 1e-3, "bfloat16": 0.1, "input_mV": 1e-4}
"""Largest difference that is still rounding: of a golden logit by the network's dtype (float32 leaves room for another
machine's kernels), and of a preprocessed sample."""
SEEN_USES = ("trained", "tuned", "calibrated")

MAX_MANIFEST_BYTES = 16 * 2**20
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # also fit for a folder, a URL and an MLflow name
PICTURE = re.compile(r"[a-z0-9_]{1,60}\.png")
_T = TypeVar("_T")


class BundleError(UserError):
    """A bundle is incomplete, damaged, or gives other scores than it did where it was made."""


@dataclass(frozen=True)
class Counts:
    """A confusion matrix at the bundle's threshold, in patients."""

    TP: int
    FN: int
    TN: int
    FP: int

    @property
    def sensitivity(self) -> float:
        """Share of the positives that are flagged; NaN where there are none."""
        return self.TP / (self.TP + self.FN) if self.TP + self.FN else float("nan")

    @property
    def specificity(self) -> float:
        """Share of the negatives that are not flagged; NaN where there are none."""
        return self.TN / (self.TN + self.FP) if self.TN + self.FP else float("nan")


@dataclass(frozen=True)
class OperatingCharacteristics:
    """What the threshold catches and misses, as counts, and on what data that was counted."""

    data: str  # e.g. "PTB-XL 1.0.3 fold 9, one ECG a patient"
    reference: str  # the reference standard, e.g. "readers' MI statements"
    overall: Counts
    subgroups: Mapping[str, Mapping[str, Counts]]  # e.g. {"sex": {"female": Counts}, "age": {"60-69": Counts}}
    figures: Mapping[str, Any] = field(default_factory=dict)  # e.g. {"auroc": {"value": .95, "low": .93, "high": .97}}


@dataclass(frozen=True)
class Bundle:
    """A verified model bundle. Every file was compared with its hash when it was loaded."""

    path: Path
    name: str
    version: str
    sha256: str  # content hash of bundle.json, which holds the hashes of all files
    architecture: Mapping[str, Any]  # of the network, as ``NetworkConfig.to_json`` gives it
    preprocessing: Preprocessing
    input_contract_sha256: str
    calibrator: PlattCalibrator
    threshold: float  # on the calibrated probability
    threshold_rule: str
    operating_characteristics: OperatingCharacteristics
    training: Mapping[str, Any]  # label rule, folds, settings, records seen by use
    tolerance: Mapping[str, float]  # dtype -> of a golden logit; input_mV -> of a preprocessed sample
    libraries: Mapping[str, str]
    files: Mapping[str, str]  # name -> SHA-256
    notice: str

    def network(self, device: str | torch.device = "cpu") -> Classifier:
        """Return the network with its weights, in evaluation mode, on ``device``; BundleError for an unknown kind."""
        from safetensors.torch import load_file

        from screening.model.networks import config_from_json

        network = _known("architecture", config_from_json, self.architecture, self.path).build()
        with _understood(self.path / WEIGHTS):
            weights = load_file(self.path / WEIGHTS)
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            raise BundleError(
                f"{self.path / WEIGHTS} does not fit the architecture in {MANIFEST}: "
                f"{str(error).splitlines()[0]}; use the version of screening that made the bundle."
            ) from None
        return network.to(device).eval()

    def golden(self) -> dict[str, np.ndarray]:
        """Return the stored arrays.

        Returns
        -------
        dict
            ``x`` float32 (b, 12, t), the network's input, and ``logit`` float32 (b,); ``signal_mV`` float32
            (b, 12, n) and ``rate_hz`` (1,), the recordings that preprocessing made ``x`` from, where they were stored.
        """
        from safetensors.numpy import load_file

        with _understood(self.path / GOLDEN):
            golden = dict(load_file(self.path / GOLDEN))
            if not {"x", "logit"} <= set(golden):
                raise ValueError("no golden arrays")
        return golden

    def out_of_fold(self) -> OutOfFold | None:
        """Return the predictions of its nested cross-validation; None where that was not run."""
        from screening.model.out_of_fold import read_out_of_fold

        if OUT_OF_FOLD not in self.files:
            return None
        with _understood(self.path / OUT_OF_FOLD):
            return read_out_of_fold(self.path / OUT_OF_FOLD)

    def reference(self) -> Reference | None:
        """Return what its own population looked like; None where it does not say.

        Raises
        ------
        BundleError
            The reference is of another version of the program.
        """
        from screening.model.reference import read_reference

        if REFERENCE not in self.files:
            return None
        try:
            return read_reference(self.path / REFERENCE)
        except ValueError as error:
            raise BundleError(
                f"{self.path / REFERENCE} is not understood ({error}); install the version of screening that made the bundle."
            ) from None

    def seen(self) -> dict[str, frozenset[str]]:
        """Return the SHA-256 of the records the bundle was made from, by use (trained, tuned, calibrated)."""
        import pyarrow.parquet as pq

        seen: dict[str, set[str]] = {use: set() for use in SEEN_USES}
        with _understood(self.path / SEEN):
            table = pq.read_table(self.path / SEEN).to_pydict()
            for sha256, use in zip(table["sha256"], table["use"], strict=True):
                seen[use].add(sha256)
        return {use: frozenset(hashes) for use, hashes in seen.items()}


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Say it in one sentence where a file with the right hash is not what its name says; each reader has its own errors."""
    try:
        yield
    except Exception as error:
        raise BundleError(
            f"{path} is not understood ({type(error).__name__}); whoever made the bundle must make it again, with screening."
        ) from None


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle from a local folder and compare every file with its hash.

    Bundles from elsewhere come through ``locate.resolve_model``.

    Raises
    ------
    BundleError
        Naming the file that is absent, damaged or not understood.
    """
    forbid_pickled_columns()
    path = Path(folder).absolute()
    facts = _read_manifest(path / MANIFEST)
    for file, expected in facts["files"].items():
        if not (path / file).is_file():
            raise BundleError(f"the model bundle lacks {path / file}; copy the whole folder again.")
        if sha256_of_file(path / file) != expected:
            raise BundleError(f"{path / file} differs from its SHA-256 in {MANIFEST}; copy the whole bundle again.")
    return _bundle_of(path, facts)


def check_golden(bundle: Bundle, network: Classifier, device: str | torch.device = "cpu") -> None:
    """Refuse to go on where ``network`` gives other logits than the bundle's where it was made.

    Where the bundle holds the recordings too, preprocessing is run and compared as well, so that another version of a
    library that filters differently is noticed.

    Raises
    ------
    BundleError
        If a golden logit differs by more than the bundle's tolerance for the network's dtype.
    """
    golden = bundle.golden()
    dtype = str(next(network.parameters()).dtype).removeprefix("torch.")
    if dtype not in bundle.tolerance:
        known = ", ".join(sorted(set(bundle.tolerance) - {"input_mV"}))
        raise BundleError(f"model {bundle.name} {bundle.version} states no golden tolerance for {dtype}; use {known}.")
    differences = {f"logit in {dtype}": (golden_logits(network, golden["x"], device) - golden["logit"], dtype)}
    if "signal_mV" in golden:
        from screening.signal.preprocess import preprocess

        x = preprocess(golden["signal_mV"], float(golden["rate_hz"][0]), bundle.preprocessing)
        differences["preprocessed sample in mV"] = (x - golden["x"], "input_mV")
    for what, (difference, kind) in differences.items():
        largest, allowed = float(np.abs(difference).max()), bundle.tolerance[kind]
        if not largest <= allowed:  # also refuses NaN
            raise BundleError(
                f"model {bundle.name} {bundle.version} fails its golden check: here a {what} differs by {largest:.2g} "
                f"from where it was made (allowed: {allowed:g}); install the library versions in "
                f"{bundle.path / MANIFEST}."
            )


def golden_logits(network: Classifier, x: np.ndarray, device: str | torch.device = "cpu") -> np.ndarray:
    """Return the logits, float32 (b,), of network inputs ``x`` (b, 12, t) in the network's own dtype."""
    import torch

    dtype = next(network.parameters()).dtype
    with torch.inference_mode():
        logit: np.ndarray = network(torch.from_numpy(x).to(device, dtype)).float().cpu().numpy()
    return logit


# --- bundle.json -----------------------------------------------------------------------------------------------------


def encode_manifest(facts: Mapping[str, Any]) -> bytes:
    """Return ``bundle.json`` in the one spelling that ``decode_manifest`` accepts."""
    return (json.dumps(facts, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()


def decode_manifest(encoded: bytes, where: str) -> dict[str, Any]:
    """Parse ``bundle.json`` and check its own hash. One spelling is accepted, so that no byte can change unseen."""
    try:
        facts = json.loads(encoded)
        stated = facts["sha256"]
        genuine = encode_manifest(facts) == encoded and stated == sha256_of(
            {k: v for k, v in facts.items() if k != "sha256"}
        )
    except (ValueError, KeyError, TypeError, RecursionError):
        genuine = False
    if not genuine:
        raise BundleError(f"{where} differs from its own content hash; copy the whole bundle again.")
    if facts.get("schema_version") not in READABLE:
        raise BundleError(
            f"{where} has schema version {facts.get('schema_version')}, this program reads {SCHEMA_VERSION}; "
            "install the version of screening that made the bundle."
        )
    if not set(FILES) <= set(facts["files"]) or not all(_may_hold(file) for file in facts["files"]):
        raise BundleError(
            f"{where} does not list {', '.join(sorted(FILES))} and pictures alone; it is no bundle of screening."
        )
    return dict(facts)


def _may_hold(file: str) -> bool:
    return file in (*FILES, OUT_OF_FOLD, REFERENCE) or PICTURE.fullmatch(file) is not None


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as stream:
            encoded = stream.read(MAX_MANIFEST_BYTES + 1)
    except OSError:
        raise BundleError(f"{path} is not there or cannot be read; --model takes the folder that holds it.") from None
    return decode_manifest(encoded, str(path))


def _bundle_of(path: Path, facts: Mapping[str, Any]) -> Bundle:
    from screening.model.calibration import PlattCalibrator
    from screening.signal.preprocess import Preprocessing

    contract = facts["input_contract"]
    preprocessing = _known("preprocessing", _made(Preprocessing), contract["preprocessing"], path)
    if input_contract(plain(preprocessing)) != contract or sha256_of(contract) != facts["input_contract_sha256"]:
        raise BundleError(
            f"{path / MANIFEST} was made under another input contract (leads, units, preprocessing) than this "
            "program's; install the version of screening that made the bundle."
        )
    measured = facts["operating_characteristics"]
    return Bundle(
        path=path,
        name=facts["name"],
        version=facts["version"],
        sha256=facts["sha256"],
        architecture=facts["architecture"],
        preprocessing=preprocessing,
        input_contract_sha256=facts["input_contract_sha256"],
        calibrator=_known("calibrator", _made(PlattCalibrator), facts["calibrator"], path),
        threshold=facts["threshold"]["probability"],
        threshold_rule=facts["threshold"]["rule"],
        operating_characteristics=OperatingCharacteristics(
            data=measured["data"],
            reference=measured["reference"],
            overall=Counts(**measured["overall"]),
            subgroups={
                kind: {group: Counts(**counts) for group, counts in groups.items()}
                for kind, groups in measured["subgroups"].items()
            },
            figures=measured["figures"],
        ),
        training=facts["training"],
        tolerance=facts["golden_tolerance"],
        libraries=facts["libraries"],
        files=facts["files"],
        notice=facts["notice"],
    )


def _known(what: str, read: Callable[[dict[str, Any]], _T], values: Mapping[str, Any], path: Path) -> _T:
    """Return what ``read`` makes of the JSON form of some settings."""
    try:
        return read(dict(values))
    except (TypeError, ValueError) as error:
        raise BundleError(
            f"{path / MANIFEST} holds settings of its {what} that this program does not know ({error}); "
            "install the version of screening that made the bundle."
        ) from None


def _made(kind: type[_T]) -> Callable[[dict[str, Any]], _T]:
    return lambda values: kind(**{key: _tuples(value) for key, value in values.items()})


def _tuples(value: Any) -> Any:
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value


def plain(value: Any) -> Any:
    """Return ``value`` as JSON would give it back: dataclasses as objects, tuples as lists."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        value = dataclasses.asdict(value)
    return json.loads(json.dumps(value, allow_nan=False))


def sha256_of_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
