"""The records that lend parts of their ECGs, and in which order a record takes them."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from screening.contract import canonical_json


@dataclass(frozen=True)
class DonorSet:
    """Records that lend parts of their ECGs, quality-checked, at most one a patient.

    Attributes
    ----------
    signals_mV
        float32 (donors, 12, samples), filtered, as the network reads them.
    record_ids, patient_keys
        One a donor; a patient key may be None.
    """

    signals_mV: np.ndarray
    record_ids: tuple[str, ...]
    patient_keys: tuple[str | None, ...]

    @property
    def sha256(self) -> str:
        """Hash of the ids and samples: names the set."""
        digest = hashlib.sha256(canonical_json([self.record_ids, self.patient_keys]))
        digest.update(np.ascontiguousarray(self.signals_mV).data)
        return digest.hexdigest()

    def order(self, record_id: str, patient_key: str | None, *, usable: np.ndarray | None = None) -> np.ndarray:
        """Return the indices of the donors of a record, in the order it takes them: never itself, never of its patient.

        The order depends on the record's id alone, so that a record has the same donors in any shard.

        Parameters
        ----------
        record_id, patient_key
            The record's; without a patient key any other donor may be of the same patient.
        usable
            bool (donors,); the others are passed over. None: all are usable.
        """
        seed = np.frombuffer(hashlib.sha256(record_id.encode()).digest(), np.uint64)
        shuffled = np.random.Generator(np.random.Philox(key=seed[:2])).permutation(len(self.record_ids))
        allowed = [
            i
            for i in shuffled
            if (usable is None or usable[i])
            and self.record_ids[i] != record_id
            and (patient_key is None or self.patient_keys[i] != patient_key)
        ]
        return np.array(allowed, dtype=np.int64)
