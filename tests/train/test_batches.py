from __future__ import annotations

import numpy as np
import pytest

from screening.train.batches import class_aware_batches


@pytest.mark.parametrize(("share", "positives"), [(None, 5), (0.5, 16), (0.0, 2), (1.0, 30)])
def test_every_batch_has_positives_of_both_classes(share: float | None, positives: int) -> None:
    target = (np.arange(200) < 30).astype(np.int8)
    batches = list(class_aware_batches(target, 32, share, np.random.default_rng(0)))
    assert len(batches) == 6
    for batch in batches:
        assert len(batch) == 32
        assert target[batch].sum() == positives
    drawn = np.bincount(np.concatenate(batches), minlength=200)
    for value in (0, 1):  # without replacement until a class is used up
        assert drawn[target == value].max() - drawn[target == value].min() <= 1


def test_ranks_share_each_batch() -> None:
    target = (np.arange(100) < 40).astype(np.int8)
    whole = list(class_aware_batches(target, 20, 0.4, np.random.default_rng(0)))
    parts = [
        list(class_aware_batches(target, 20, 0.4, np.random.default_rng(0), rank=rank, world_size=2)) for rank in (0, 1)
    ]
    for batch, first, second in zip(whole, *parts, strict=True):
        assert sorted(batch) == sorted([*first, *second])
        assert target[first].sum() == target[second].sum() == 4


def test_a_batch_too_small_for_both_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="batch_size 6 is too small for two records of each class on 2 ranks"):
        next(class_aware_batches(np.array([0, 1] * 10), 6, None, np.random.default_rng(0), world_size=2))
