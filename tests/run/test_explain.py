from __future__ import annotations

import numpy as np
import pytest

from screening.attribution.donors import DonorSet
from screening.attribution.permutation import Importance
from screening.contract import EXPLANATION_COLUMNS, OPERATORS, TERRITORIES
from screening.model.bundle import PRETRAINED, Bundle, load_bundle
from screening.run.explain import Explainer, Person, importance_columns
from screening.signal.preprocess import preprocess
from screening.signal.simulate import SimulationSettings, simulate
from screening.train.explanation_checks import INFARCT_WALLS
from screening.train.fit import predict

RECORDS, DONORS = 420, 24


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return load_bundle(PRETRAINED)


@pytest.fixture(scope="module")
def simulated(shipped: Bundle) -> tuple[np.ndarray, list[str | None], list[Person]]:
    """Filtered ECGs, the code of each record's infarction, and who they are of; half of the patients have one."""
    settings = SimulationSettings(records=RECORDS, prevalence=0.5, seed=11)
    batch = simulate(range(RECORDS), settings)
    signals = preprocess(batch.signal_mV, settings.rate_hz, shipped.preprocessing)
    persons: list[Person] = [(f"r{t.index}", f"p{t.patient_id}", t.sex, float(t.age)) for t in batch.truth]
    return signals, [t.territory for t in batch.truth], persons


@pytest.fixture(scope="module")
def donors(simulated: tuple[np.ndarray, list[str | None], list[Person]]) -> DonorSet:
    signals, _, persons = simulated
    return DonorSet(signals[:DONORS], *zip(*((p[0], p[1]) for p in persons[:DONORS]), strict=True))


def explainer(bundle: Bundle, donors: DonorSet, operators: tuple[str, ...] = tuple(OPERATORS)) -> Explainer:
    return Explainer(bundle, donors, operators=operators, most=8, target_se=0.2, device="cpu", batch_size=32)


def test_the_leading_territory_is_that_of_a_simulated_infarct(
    shipped: Bundle, donors: DonorSet, simulated: tuple[np.ndarray, list[str | None], list[Person]]
) -> None:
    """In at least 80% of the flagged infarctions, which the network was never trained on."""
    signals, infarcts, persons = simulated
    logit = predict(shipped.network(), signals)
    flagged = shipped.calibrator.probability(logit.astype(np.float64)) >= shipped.threshold
    chosen = [i for i in range(DONORS, RECORDS) if flagged[i] and infarcts[i] in INFARCT_WALLS]
    assert len(chosen) >= 40
    columns = explainer(shipped, donors, ("territory",)).explain(
        signals[chosen], logit[chosen], [persons[i] for i in chosen]
    )
    right = [
        found["leading_territory"] in INFARCT_WALLS[infarcts[i] or ""] for i, found in zip(chosen, columns, strict=True)
    ]
    assert np.mean(right) >= 0.8
    leading = {found["leading_territory"] for found in columns}
    assert {"septal", "inferior"} <= leading  # and not one territory for all


def test_every_operator_fills_its_columns(
    shipped: Bundle, donors: DonorSet, simulated: tuple[np.ndarray, list[str | None], list[Person]]
) -> None:
    signals, _, persons = simulated
    some = slice(DONORS, DONORS + 3)
    logit = predict(shipped.network(), signals[some])
    found = explainer(shipped, donors).explain(signals[some], logit, persons[some])
    names = {name for name, _, _ in EXPLANATION_COLUMNS}
    for columns in found:
        assert set(columns) == names
        # Shares of the territories, and those of the planes, add up to the same fall: from the record to its donors.
        if columns["territory_donors"] == columns["plane_donors"]:
            shares = sum(columns[f"territory_{wall}"] for wall in TERRITORIES)
            assert shares == pytest.approx(columns["plane_limb"] + columns["plane_precordial"], abs=2e-3)


def test_a_record_without_beats_is_not_explained_and_the_others_are(
    shipped: Bundle, donors: DonorSet, simulated: tuple[np.ndarray, list[str | None], list[Person]]
) -> None:
    signals, _, persons = simulated
    flat = np.zeros_like(signals[:1])
    both = np.concatenate([flat, signals[DONORS : DONORS + 1]])
    logit = predict(shipped.network(), both)
    nothing, something = explainer(shipped, donors).explain(
        both, logit, [("flat", "nobody", None, None), persons[DONORS]]
    )
    assert nothing == {}
    assert something["territory_donors"] >= 4


def test_importance_becomes_columns() -> None:
    def importance(*mean: float) -> Importance:
        return Importance(np.array(mean, np.float32), np.full(len(mean), 0.5, np.float32), 4)

    assert importance_columns("plane", importance(1.0, -2.0)) == {
        "plane_limb": 1.0,
        "plane_precordial": -2.0,
        "plane_donors": 4,
        "plane_se": 0.5,
    }
    territory = importance_columns("territory", importance(0.5, 0.25, -1.0, 2.0))
    assert territory["leading_territory"] == "inferior"
    assert territory["territory_se_lateral"] == 0.5
    assert "territory_se" not in territory
    assert importance_columns("territory", importance(0.0, -0.25, -1.0, -2.0))["leading_territory"] is None
