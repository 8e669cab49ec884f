from __future__ import annotations

import numpy as np
import pytest

from screening.train.audit import audit_labels, to_look_at, why


def test_by_hand() -> None:
    """Ten records; thresholds (mean self-confidence): none (.9+.8+.7+.9+.2+.55)/6 = .675, infarct (.9+.7+.1+.4)/4 = .525.

    The fifth (labelled none, p .8 >= .525) and the ninth (labelled infarct, 1 - p = .9 >= .675) are confidently
    contradicted; the sixth (p .45) and the tenth (p .4) reach neither threshold.
    """
    p = np.array([0.1, 0.2, 0.3, 0.1, 0.8, 0.45, 0.9, 0.7, 0.1, 0.4])
    y = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    audit = audit_labels(p, y)
    assert audit.thresholds == pytest.approx((0.675, 0.525))
    assert audit.confident_joint.tolist() == [[4, 1], [1, 2]]
    assert audit.suspects.tolist() == [8, 4]  # margins .8 and .6
    assert audit.margin == pytest.approx([0.8, 0.6])
    # Rows scaled to 6 and 4 labels, then to 1: [4/5, 1/5] * .6, [1/3, 2/3] * .4
    np.testing.assert_allclose(audit.estimated_joint, [[0.48, 0.12], [0.4 / 3, 0.8 / 3]])
    assert why(audit, 1, 0.1) == (
        "labelled infarction, but the probability of none, 0.900, reaches 0.675, the mean of the records labelled without"
    )
    assert why(audit, 0, 0.8).startswith(
        "labelled without infarction, but the probability of one, 0.800, reaches 0.525"
    )


def noisy(n: int = 4000, flips: float = 0.05) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return calibrated probabilities, labels some of which were turned round at random, and which."""
    rng = np.random.default_rng(7)
    p = rng.beta(0.3, 0.9, n)
    y = (rng.uniform(size=n) < p).astype(int)
    flipped = rng.uniform(size=n) < flips
    return p, np.where(flipped, 1 - y, y), flipped


def test_labels_turned_round_are_found() -> None:
    p, y, flipped = noisy()
    audit = audit_labels(p, y)
    clear = flipped & (np.abs(p - 0.5) > 0.45)  # those that could be known
    found = np.isin(np.flatnonzero(clear), audit.suspects)
    assert clear.sum() > 50
    assert found.mean() > 0.9  # a few were wrong before they were turned
    # Twenty times the share that any list of that length would hold by chance.
    assert flipped[audit.suspects[:20]].mean() > 0.5
    sound = audit_labels(p, noisy(flips=0.0)[1])
    assert len(sound.suspects) < len(audit.suspects)


def test_as_another_implementation() -> None:
    """cleanlab 2.9.0: find_label_issues(y, [1 - p, p], filter_by="confident_learning", ...ranked_by="normalized_margin")."""
    p, y, _ = noisy(n=300, flips=0.1)
    audit = audit_labels(p, y)
    assert len(audit.suspects) == 42
    assert audit.suspects[:12].tolist() == [138, 168, 103, 295, 274, 54, 179, 208, 230, 1, 158, 145]
    assert audit.confident_joint.tolist() == [[137, 20], [25, 52]]


def test_the_classes_are_alike_to_it() -> None:
    p, y, _ = noisy(n=500)
    audit, mirrored = audit_labels(p, y), audit_labels(1 - p, 1 - y)
    assert sorted(audit.suspects) == sorted(mirrored.suspects)
    assert audit.thresholds == pytest.approx(mirrored.thresholds[::-1])
    np.testing.assert_array_equal(audit.confident_joint, mirrored.confident_joint[::-1, ::-1])
    assert (np.diff(audit.margin) <= 0).all()


def test_nothing_is_suspected_of_constant_predictions() -> None:
    audit = audit_labels(np.full(10, 0.5), np.array([0, 1] * 5))
    assert len(audit.suspects) == 0
    assert audit.confident_joint.tolist() == [[5, 0], [0, 5]]
    assert audit.estimated_joint.tolist() == [[0.5, 0], [0, 0.5]]


def test_both_kinds_are_looked_at() -> None:
    p, y, _ = noisy()
    audit = audit_labels(p, y)
    infarction = y[audit.suspects] == 1
    few = min(int(infarction.sum()), int((~infarction).sum()))
    chosen = to_look_at(audit, y, 10)
    assert len(chosen) == 10
    assert infarction[chosen].sum() == 5
    assert chosen[0] == 0
    everything = to_look_at(audit, y, 10**6)
    assert everything.tolist() == list(range(len(audit.suspects)))
    wide = to_look_at(audit, y, 2 * few + 3)  # what one kind cannot fill, the other does
    assert len(wide) == 2 * few + 3


@pytest.mark.parametrize(
    ("p", "y", "message"),
    [
        ([0.1, 0.2], [0, 0], "labels must be 0 and 1, both present"),
        ([0.1, 1.2], [0, 1], "a probability lies outside 0 to 1"),
        ([0.1, np.nan], [0, 1], "a probability lies outside 0 to 1"),
        ([0.1], [0, 1], r"two equally long rows, not \(1,\) and \(2,\)"),
    ],
)
def test_what_cannot_be_audited_is_told(p: list[float], y: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        audit_labels(np.array(p), np.array(y))
