"""Class-aware batches: enough of both classes in each for the contrastive loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np


def class_aware_batches(
    target: np.ndarray,
    batch_size: int,
    positive_share: float | None,
    rng: np.random.Generator,
    *,
    rank: int = 0,
    world_size: int = 1,
) -> Iterator[np.ndarray]:
    """Yield one epoch of index arrays, each with the same number of both classes.

    Each class is drawn without replacement until it is used up, then shuffled again. An epoch has as many batches as
    the set has records for; the smaller class comes round more often where ``positive_share`` is above its own.

    Parameters
    ----------
    target : array (n,)
        1 and 0.
    batch_size : int
        Of all ranks together.
    positive_share : float, optional
        Of each batch; None takes that of ``target``. At least two of each class a rank are drawn, so that every anchor
        has a positive.
    rng : numpy.random.Generator
        The same on every rank.
    rank, world_size : int
        A rank yields every world_size-th record of each class.
    """
    share = float(np.mean(target == 1)) if positive_share is None else positive_share
    least = 2 * world_size
    positives = min(max(round(batch_size * share), least), batch_size - least)
    if positives < least:
        raise ValueError(f"batch_size {batch_size} is too small for two records of each class on {world_size} ranks")
    streams = [_shuffled(np.flatnonzero(target == value), rng) for value in (1, 0)]
    for _ in range(max(1, len(target) // batch_size)):
        chosen = [
            np.array([next(stream) for _ in range(count)])[rank::world_size]
            for stream, count in zip(streams, (positives, batch_size - positives), strict=True)
        ]
        yield np.concatenate(chosen)


def _shuffled(index: np.ndarray, rng: np.random.Generator) -> Iterator[int]:
    while True:
        yield from rng.permutation(index).tolist()
