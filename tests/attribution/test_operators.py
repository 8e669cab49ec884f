from __future__ import annotations

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest

from screening.attribution.operators import SHARED, coalitions, exchanges, falls, matrices, waves_of
from screening.attribution.territories import LEADS_OF
from screening.contract import DERIVED_LEADS, LEADS, N_LEADS, OPERATORS, TERRITORIES, WAVES

RESPECTFUL = [operator for operator in OPERATORS if operator != "lead"]


def heart(seed: int, samples: int = 50) -> np.ndarray:
    """Return noise (12, samples) that obeys Einthoven's and Goldberger's laws."""
    rng = np.random.default_rng(seed)
    one, two = rng.normal(size=(2, samples))
    derived = [a * one + b * two for a, b in DERIVED_LEADS.values()]
    return np.vstack([one, two, *derived, rng.normal(size=(6, samples))])


def exchanged(operator: str, part: str, record: np.ndarray, donor: np.ndarray) -> dict[str, np.ndarray]:
    a = matrices(operator)[OPERATORS[operator].index(part)]
    return dict(zip(LEADS, record + a @ (donor - record), strict=True))


def lawful(ecg: dict[str, np.ndarray]) -> bool:
    return all(
        np.allclose(ecg[lead], a * ecg["I"] + b * ecg["II"], atol=1e-12) for lead, (a, b) in DERIVED_LEADS.items()
    )


@pytest.mark.parametrize("operator", OPERATORS)
def test_one_matrix_a_part(operator: str) -> None:
    assert matrices(operator).shape == (len(OPERATORS[operator]), N_LEADS, N_LEADS)
    assert matrices(operator).dtype == np.float32


@pytest.mark.parametrize("operator", RESPECTFUL)
def test_what_is_exchanged_is_still_an_ecg(operator: str) -> None:
    record, donor = heart(1), heart(2)
    for part in OPERATORS[operator]:
        assert lawful(exchanged(operator, part, record, donor)), part


def test_a_single_limb_lead_breaks_the_law() -> None:
    assert not any(lawful(exchanged("lead", lead, heart(1), heart(2))) for lead in LEADS[:6])


@pytest.mark.parametrize("operator", ["independent", "territory", "plane"])
def test_all_parts_together_give_the_donor(operator: str) -> None:
    record, donor = heart(3), heart(4)
    whole = matrices(operator).astype(np.float64).sum(axis=0)
    np.testing.assert_allclose(record + whole @ (donor - record), donor, atol=1e-12)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_donor_like_the_record_changes_nothing(operator: str) -> None:
    record = heart(5)
    for part in OPERATORS[operator]:
        for lead, trace in exchanged(operator, part, record, record).items():
            np.testing.assert_array_equal(trace, record[LEADS.index(lead)])


def test_what_stays_and_what_is_taken() -> None:
    record, donor = (dict(zip(LEADS, heart(seed), strict=True)) for seed in (6, 7))
    as_arrays = (np.stack(list(record.values())), np.stack(list(donor.values())))
    taken = {
        ("territory", "septal"): ("V1", "V2"),
        ("territory", "anterior"): ("V3", "V4"),
        ("territory", "lateral"): ("I", "V5", "V6"),
        ("territory", "inferior"): ("aVF",),
        ("independent", "I"): ("I",),
        ("independent", "II"): ("II",),
        ("plane", "limb"): LEADS[:6],
        ("plane", "precordial"): LEADS[6:],
    }
    kept = {
        ("territory", "septal"): (*LEADS[:6], "V3", "V4", "V5", "V6"),
        ("territory", "anterior"): (*LEADS[:6], "V1", "V2", "V5", "V6"),
        ("territory", "lateral"): ("aVF", "V1", "V2", "V3", "V4"),
        ("territory", "inferior"): ("I", *LEADS[6:]),
        ("independent", "I"): ("II", *LEADS[6:]),
        ("independent", "II"): ("I", *LEADS[6:]),
        ("plane", "limb"): LEADS[6:],
        ("plane", "precordial"): LEADS[:6],
    }
    for (operator, part), leads in taken.items():
        ecg = exchanged(operator, part, *as_arrays)
        for lead in leads:
            np.testing.assert_allclose(ecg[lead], donor[lead], atol=1e-12, err_msg=f"{part} takes {lead}")
        for lead in kept[operator, part]:
            np.testing.assert_allclose(ecg[lead], record[lead], atol=1e-12, err_msg=f"{part} keeps {lead}")


def test_the_worked_example_of_the_matrices() -> None:
    """Lateral, with I of the donor 0.4 mV above the record's: the numbers in the module's docstring."""
    donor = np.zeros((N_LEADS, 1))
    donor[LEADS.index("I")] = 0.4
    ecg = exchanged("territory", "lateral", np.zeros((N_LEADS, 1)), donor)
    changed = {lead: round(float(trace[0]), 6) for lead, trace in ecg.items() if trace[0]}
    assert changed == {"I": 0.4, "II": 0.2, "III": -0.2, "aVR": -0.3, "aVL": 0.3}


def test_waves_are_those_of_the_names() -> None:
    waves = waves_of("wave")
    assert waves is not None
    for part, wave, a in zip(OPERATORS["wave"], waves, matrices("wave"), strict=True):
        name, wall = part.split("_")
        assert WAVES[wave] == name
        np.testing.assert_array_equal(a, matrices("territory")[TERRITORIES.index(wall)])
    assert all(waves_of(operator) is None for operator in OPERATORS if operator != "wave")


@pytest.mark.parametrize("operator", OPERATORS)
def test_exchanges_are_sums_of_parts(operator: str) -> None:
    parts = len(OPERATORS[operator])
    assert len(exchanges(operator)) == (2**parts - 1 if operator in SHARED else parts)
    for members, a in zip(coalitions(operator), exchanges(operator), strict=True):
        np.testing.assert_array_equal(a, matrices(operator)[members].sum(axis=0))


def shapley(parts: int, value: Callable[[frozenset[int]], float]) -> list[float]:
    """The mean over all orders, written out."""
    found = np.zeros(parts)
    orders = list(permutations(range(parts)))
    for order in orders:
        for at, part in enumerate(order):
            found[part] += value(frozenset(order[:at])) - value(frozenset(order[: at + 1]))
    return (found / len(orders)).tolist()


@pytest.mark.parametrize("operator", OPERATORS)
def test_falls_are_shares_where_parts_share_and_single_elsewhere(operator: str) -> None:
    rng = np.random.default_rng(0)
    logit, exchanged = 1.7, rng.normal(size=(3, len(exchanges(operator))))
    found = falls(operator, logit, exchanged)
    for donor, of_donor in enumerate(exchanged):
        known = {frozenset(np.flatnonzero(row)): v for row, v in zip(coalitions(operator), of_donor, strict=True)}
        known[frozenset()] = logit
        if operator in SHARED:
            expected = shapley(len(OPERATORS[operator]), known.__getitem__)
            assert found[donor].sum() == pytest.approx(logit - of_donor[-1])  # all parts together: the donor
        else:
            expected = [logit - value for value in of_donor]
        np.testing.assert_allclose(found[donor], expected, atol=1e-12)


def test_the_worked_example_of_two_planes() -> None:
    """The numbers in the module's docstring: limb alone 1.5, precordial alone 0.2, both -1.0."""
    assert OPERATORS["plane"] == ("limb", "precordial")
    np.testing.assert_allclose(falls("plane", 2.0, np.array([[1.5, 0.2, -1.0]])), [[0.85, 2.15]], atol=1e-12)


def test_territories_and_their_leads_agree() -> None:
    for wall, a in zip(TERRITORIES, matrices("territory"), strict=True):
        changed = {lead for lead, row in zip(LEADS, a, strict=True) if row.any()}
        assert set(LEADS_OF[wall]) <= changed


def test_the_matrices_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="read-only"):
        matrices("lead")[0, 0, 0] = 2.0
    with pytest.raises(KeyError, match="leads"):
        matrices("leads")
