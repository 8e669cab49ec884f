from __future__ import annotations

import numpy as np

from screening.attribution.donors import DonorSet

SIGNALS = np.random.default_rng(0).normal(size=(40, 12, 8)).astype(np.float32)
DONORS = DonorSet(SIGNALS, tuple(f"d{i}" for i in range(40)), tuple(f"p{i // 2}" for i in range(40)))


def test_a_record_never_takes_from_itself_or_its_patient() -> None:
    order = DONORS.order("d6", "p3")
    assert sorted(order.tolist()) == [i for i in range(40) if i not in (6, 7)]
    assert sorted(DONORS.order("d6", None).tolist()) == [i for i in range(40) if i != 6]


def test_the_order_is_the_records_own() -> None:
    orders = [tuple(DONORS.order(f"record {i}", "nobody").tolist()) for i in range(20)]
    assert len(set(orders)) == 20
    assert orders[4] == tuple(DONORS.order("record 4", "nobody").tolist())


def test_unusable_donors_are_passed_over_and_the_others_keep_their_order() -> None:
    usable = np.arange(40) % 3 != 0
    every, some = DONORS.order("r", None), DONORS.order("r", None, usable=usable)
    assert some.tolist() == [i for i in every if usable[i]]


def test_the_hash_covers_samples_and_names() -> None:
    other = SIGNALS.copy()
    other[39, 11, 7] += 1e-6
    hashes = {
        DONORS.sha256,
        DonorSet(other, DONORS.record_ids, DONORS.patient_keys).sha256,
        DonorSet(SIGNALS, DONORS.record_ids[::-1], DONORS.patient_keys).sha256,
        DonorSet(SIGNALS, DONORS.record_ids, (None,) * 40).sha256,
    }
    assert len(hashes) == 4
