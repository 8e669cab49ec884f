"""Histograms without small bins: neighbours are merged until no bin, and no difference that can be formed, is a small count."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from screening.report.tallies import Histogram


@dataclass(frozen=True)
class Merged:
    """A histogram at full resolution, exact and private, and the cuts between bins that may be shown."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]
    missing: int
    cuts: tuple[int, ...]  # indices into edges, the first and the last among them
    missing_shown: bool

    def shown(self) -> tuple[tuple[float, ...], tuple[int, ...], int]:
        """Return edges, exact counts of the merged bins, and missing values; few of these stand in the largest bin."""
        bins = [sum(self.counts[a:b]) for a, b in zip(self.cuts, self.cuts[1:], strict=False)]
        if not self.missing_shown and bins:
            bins[int(np.argmax(bins))] += self.missing
        return tuple(self.edges[cut] for cut in self.cuts), tuple(bins), self.missing if self.missing_shown else 0

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {name: getattr(self, name) for name in Merged.__dataclass_fields__}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Merged:
        """Return what `to_json` gave."""
        return cls(
            tuple(values["edges"]),
            tuple(values["counts"]),
            int(values["missing"]),
            tuple(values["cuts"]),
            bool(values["missing_shown"]),
        )


def merge(
    histogram: Histogram,
    threshold: int,
    *,
    marks: Sequence[int] = (),
    only: Sequence[float] | None = None,
    before: Merged | None = None,
) -> Merged:
    """Merge neighbouring bins until none holds 1 to ``threshold``.

    Parameters
    ----------
    marks
        Counts of the highest values that are known otherwise (patients above the threshold of a flag): no shown cut may lie
        within 1 to ``threshold`` of one.
    only
        Edges at which a cut may be; None: at any.
    before
        As shown last: what lies between cuts of both must have changed by 0 or by more than ``threshold``.
    """
    counts, edges = np.asarray(histogram.counts, dtype=np.int64), np.asarray(histogram.edges, dtype=float)
    n = len(counts)
    below = np.concatenate(([0], np.cumsum(counts)))
    comparable = before is not None and len(before.edges) == n + 1 and bool(np.allclose(before.edges, edges))
    below_before = np.concatenate(([0], np.cumsum(before.counts))) if before is not None and comparable else None
    cuts = [cut for cut in range(n + 1) if cut in (0, n) or only is None or bool(np.isclose(edges[cut], only).any())]

    def small(count: int) -> bool:
        return 1 <= abs(count) <= threshold

    def worst() -> int | None:
        """Return a cut that has to go."""
        inner = cuts[1:-1]
        for cut in inner:
            if any(small(int(below[n] - below[cut]) - mark) for mark in marks):
                return cut
        bins = np.diff(below[cuts])
        for i, count in enumerate(bins):
            if small(int(count)) and inner:
                left, right = (bins[i - 1] if i else np.inf), (bins[i + 1] if i + 1 < len(bins) else np.inf)
                return cuts[i] if left <= right else cuts[i + 1]
        if before is not None and below_before is not None:
            common = [cut for cut in cuts if cut in before.cuts]
            for a, b in zip(common, common[1:], strict=False):
                if small(int((below[b] - below[a]) - (below_before[b] - below_before[a]))) and (a > 0 or b < n):
                    return b if b < n else a
        return None

    while (cut := worst()) is not None:
        cuts.remove(cut)
    missing = int(histogram.missing)
    shown = not small(missing) and not (before is not None and small(missing - before.missing))
    return Merged(tuple(edges.tolist()), tuple(counts.tolist()), missing, tuple(cuts), shown)
