from __future__ import annotations

import numpy as np
import pytest

from screening.contract import LEADS
from screening.train.reversal import ARMS, V1_V2, exchange, flags_under_exchange


def recorded(potential: dict[str, np.ndarray]) -> np.ndarray:
    """Return the 12 leads from the potentials of the electrodes, by their definitions."""
    r, left, f = potential["R"], potential["L"], potential["F"]
    leads = {
        "I": left - r,
        "II": f - r,
        "III": f - left,
        "aVR": r - (left + f) / 2,
        "aVL": left - (r + f) / 2,
        "aVF": f - (r + left) / 2,
    }
    leads |= {f"V{at}": potential[f"V{at}"] - (r + left + f) / 3 for at in range(1, 7)}
    return np.stack([leads[lead] for lead in LEADS])[None].astype(np.float32)


@pytest.mark.parametrize(("which", "first", "second"), [(ARMS, "R", "L"), (V1_V2, "V1", "V2")])
def test_an_exchange_is_what_the_electrodes_would_record(which: str, first: str, second: str) -> None:
    rng = np.random.default_rng(0)
    potential = {name: rng.normal(0, 0.3, 50) for name in ("R", "L", "F", *LEADS[6:])}
    swapped = {**potential, first: potential[second], second: potential[first]}
    found = exchange(recorded(potential), which)
    np.testing.assert_allclose(found, recorded(swapped), atol=1e-6)
    np.testing.assert_array_equal(exchange(found, which), recorded(potential))
    assert found.dtype == np.float32


def test_flags_that_come_and_go_are_counted() -> None:
    from screening.signal.preprocess import Preprocessing, preprocess
    from screening.signal.simulate import SimulationSettings, simulate

    settings = SimulationSettings(records=12, prevalence=0.0, seed=1, rate_hz=500)
    x = preprocess(simulate(range(12), settings).signal_mV, 500.0, Preprocessing())
    target = np.array([1, 0] * 6)
    asked: list[int] = []

    def flag(signals: np.ndarray) -> np.ndarray:
        asked.append(len(signals))
        return np.asarray(signals[:, 0].max(axis=1) > -signals[:, 0].min(axis=1))  # lead I points upwards

    found = flags_under_exchange(flag, x, target, rate_hz=100.0)
    upwards = flag(x)
    assert asked == [12, 12, 12, 12]
    for who, chosen in (("positives", target == 1), ("negatives", target == 0)):
        arms, chest = found[ARMS][who], found[V1_V2][who]
        assert arms["n"] == 6
        assert arms["flagged"] == chest["flagged"] == chest["flagged_exchanged"] == upwards[chosen].sum()
        assert arms["flagged_exchanged"] == (~upwards[chosen]).sum()
        assert arms["lost"] == upwards[chosen].sum()
        assert arms["gained"] == (~upwards[chosen]).sum()
        assert 0 <= arms["noticed"] <= 6
        assert "noticed" not in chest
    assert sum(of["noticed"] for of in found[ARMS].values()) >= 9  # the quality check finds most


def test_no_records_give_zeros() -> None:
    found = flags_under_exchange(
        lambda x: np.zeros(len(x), bool), np.zeros((0, 12, 10), "f4"), np.zeros(0), rate_hz=100
    )
    assert found[ARMS]["positives"] == dict.fromkeys(
        ("n", "flagged", "flagged_exchanged", "gained", "lost", "noticed"), 0
    )
