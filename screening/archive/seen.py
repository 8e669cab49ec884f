"""What a scan has seen before: in itself, and in the scan whose catalog it renews; 8 bytes a record."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from screening.archive.store import id_hashes
from screening.archive.version import ABSENT


class PreviousRows:
    """What an earlier scan found: a compact index of record -> version, and its rows by position."""

    def __init__(self, rows: Iterable[pa.RecordBatch], row: Callable[[int], dict[str, Any]]) -> None:
        hashes, versions = [np.zeros(0, np.uint64)], [np.zeros(0, np.uint64)]
        for batch in rows:
            hashes.append(id_hashes(batch["record_id"].to_pylist()))
            versions.append(_version_numbers(batch["version"].to_pylist()))
        unsorted = np.concatenate(hashes)
        self._order = np.argsort(unsorted, kind="stable")
        self._hashes = unsorted[self._order]
        self._versions = np.concatenate(versions)
        self.seen = np.zeros(len(unsorted), bool)
        self._row = row

    def positions(self, ids: list[str]) -> np.ndarray:
        """Return each record's row, -1 where it is new, and mark the rows as seen."""
        if not len(self._hashes):
            return np.full(len(ids), -1)
        wanted = id_hashes(ids)
        at = np.minimum(np.searchsorted(self._hashes, wanted), len(self._hashes) - 1)
        found = np.where(self._hashes[at] == wanted, self._order[at], -1)
        self.seen[found[found >= 0]] = True
        return found

    def same_version(self, positions: np.ndarray, versions: list[str]) -> np.ndarray:
        """Return whether the record at each position has the version it had."""
        if not len(self._versions):
            return np.zeros(len(positions), bool)
        return np.asarray((positions >= 0) & (self._versions[positions] == _version_numbers(versions)))

    def row(self, position: int) -> dict[str, Any]:
        """Return KEPT_COLUMNS, and the format, of the row at ``position``."""
        return self._row(position)


def _version_numbers(versions: list[str]) -> np.ndarray:
    return np.where([version == ABSENT for version in versions], np.uint64(0), id_hashes(versions))


class SeenIds:
    """Ids seen so far, 8 bytes each: sorted runs that are merged when they have grown alike."""

    def __init__(self) -> None:
        self._runs: list[np.ndarray] = []

    def first_time(self, ids: list[str]) -> np.ndarray:
        """Return for each id whether it is seen for the first time, and remember all."""
        hashes = id_hashes(ids)
        fresh = np.zeros(len(hashes), bool)
        fresh[np.unique(hashes, return_index=True)[1]] = True
        for run in self._runs:
            at = np.minimum(np.searchsorted(run, hashes), len(run) - 1)
            fresh &= run[at] != hashes
        if fresh.any():
            self._runs.append(np.sort(hashes[fresh]))
        while len(self._runs) > 1 and len(self._runs[-1]) * 2 >= len(self._runs[-2]):
            self._runs.append(np.sort(np.concatenate([self._runs.pop(), self._runs.pop()]), kind="stable"))
        return fresh
