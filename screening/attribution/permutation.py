"""Lead-wise permutation importance: how much a record's logit falls when one lead is taken from other patients.

The paper's operator (MSAIC-Net, arXiv 2606.06718; Breiman 2001, Random Forests, section 10): a lead is replaced by
the same lead of a donor record. Swaps happen in filtered millivolts, on the network's own input. A limb lead swapped
alone makes an ECG that no heart can produce (Hooker, Mentch & Zhou 2021), which is why the operator is named.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from screening.contract import N_LEADS, canonical_json

OPERATOR = "lead"


@dataclass(frozen=True)
class DonorSet:
    """Records that lend their leads, quality-checked, at most one a patient.

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

    def order(self, record_id: str, patient_key: str | None, *, count: int) -> np.ndarray:
        """Return the indices of up to ``count`` donors for a record: never itself, never of its patient.

        The order depends on the record's id alone, so that a record has the same donors in any shard.
        """
        seed = np.frombuffer(hashlib.sha256(record_id.encode()).digest(), np.uint64)
        shuffled = np.random.Generator(np.random.Philox(key=seed[:2])).permutation(len(self.record_ids))
        allowed = [
            i
            for i in shuffled
            if self.record_ids[i] != record_id and (patient_key is None or self.patient_keys[i] != patient_key)
        ]
        return np.array(allowed[:count], dtype=np.int64)


@dataclass(frozen=True)
class LeadImportance:
    """Importance of the 12 leads for one record, in logits."""

    mean: np.ndarray  # float32 (12,): mean over donors of logit(x) - logit(x with the lead from the donor)
    se: float  # standard error over donors, mean over leads
    donors: int


def lead_importances(
    score: Callable[[Iterator[np.ndarray]], Iterator[float]],
    signals_mV: np.ndarray,
    logits: Sequence[float],
    donors: Sequence[np.ndarray],
    donor_signals_mV: np.ndarray,
) -> list[LeadImportance | None]:
    """Return the lead importance of each record; None for a record with fewer than two donors.

    Parameters
    ----------
    score
        Maps a stream of (12, samples) arrays to a stream of logits, in order; it may batch across records.
    signals_mV
        float32 (records, 12, samples), filtered.
    logits
        The records' own logits.
    donors
        For each record the indices into ``donor_signals_mV`` to be used, as from `DonorSet.order`.
    donor_signals_mV
        float32 (donors, 12, samples), filtered.
    """
    enough = [i for i, chosen in enumerate(donors) if len(chosen) >= 2]

    def variants() -> Iterator[np.ndarray]:
        for i in enough:
            for lead in range(N_LEADS):
                for donor in donors[i]:
                    swapped = signals_mV[i].copy()
                    swapped[lead] = donor_signals_mV[donor, lead]
                    yield swapped

    stream = score(variants())
    found: list[LeadImportance | None] = [None] * len(donors)
    for i in enough:
        count = len(donors[i])
        swapped = np.array([next(stream) for _ in range(N_LEADS * count)], dtype=np.float64).reshape(N_LEADS, count)
        fall = float(logits[i]) - swapped
        se = fall.std(axis=1, ddof=1) / np.sqrt(count)
        found[i] = LeadImportance(fall.mean(axis=1).astype(np.float32), float(se.mean()), count)
    return found
