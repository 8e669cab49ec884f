"""Predictions for records by networks that never saw them: the outer folds of a nested cross-validation.

They say what a procedure (fit, choice, calibration, threshold) is worth on the very archive that it was made from, and
they are what two versions are compared on where no locked set exists that neither has seen.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

_SCHEMA = pa.schema(
    [
        ("record_sha256", pa.string()),
        ("fold", pa.int16()),
        ("logit", pa.float32()),
        ("probability", pa.float64()),
        ("flagged", pa.bool_()),
    ]
)


@dataclass(frozen=True)
class OutOfFold:
    """One entry a record, sorted by ``record_sha256``; each is judged by the network whose test fold it lay in.

    Logits of different folds come from different networks, so ranks are compared within a fold only; probabilities are
    calibrated, and ``flagged`` uses the threshold, of that fold's own procedure.
    """

    record_sha256: np.ndarray  # object: str
    fold: np.ndarray  # int16, the outer fold
    logit: np.ndarray  # float32
    probability: np.ndarray  # float64
    flagged: np.ndarray  # bool

    def __len__(self) -> int:
        return len(self.record_sha256)

    def where(self, chosen: np.ndarray) -> OutOfFold:
        """Return the records that a mask or an index array chooses."""
        return OutOfFold(**{f.name: getattr(self, f.name)[chosen] for f in fields(self)})

    def match(self, record_sha256: np.ndarray) -> tuple[np.ndarray, OutOfFold]:
        """Return which records there are predictions for (a mask, n), and those predictions in the records' order."""
        place = {sha256: at for at, sha256 in enumerate(self.record_sha256.tolist())}
        found = np.array([place.get(sha256, -1) for sha256 in record_sha256.tolist()], dtype=np.int64)
        return found >= 0, self.where(found[found >= 0])


def write_out_of_fold(predictions: OutOfFold, path: Path) -> None:
    """Write the predictions as Parquet: hashes and scores, no identifier and no label."""
    ordered = predictions.where(np.argsort(predictions.record_sha256.astype(str), kind="stable"))
    columns = {field.name: pa.array(getattr(ordered, field.name), field.type) for field in _SCHEMA}
    pq.write_table(pa.table(columns, schema=_SCHEMA), path, compression="zstd")


def read_out_of_fold(path: Path) -> OutOfFold:
    """Return what ``write_out_of_fold`` wrote; ValueError where the columns are others."""
    table = pq.read_table(path)
    if not table.schema.equals(_SCHEMA):
        raise ValueError("other columns than those of predictions")
    sha256 = np.empty(table.num_rows, dtype=object)
    sha256[:] = table["record_sha256"].to_pylist()
    rest = {name: table[name].to_numpy() for name in _SCHEMA.names if name != "record_sha256"}
    return OutOfFold(sha256, **rest)
