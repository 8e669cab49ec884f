from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from screening.attribution.operators import exchanges, waves_of
from screening.attribution.swaps import Laid, LeadSwapScorer, SwapScorer, swap_scorer
from screening.contract import DERIVED_LEADS, OPERATORS
from screening.model.msaic import MSAICConfig, MSAICNet
from screening.model.peers.recurrent import CNNLSTMConfig

SAMPLES = 400
PAIRS = [(0, 3), (0, 1), (2, 0), (1, 4), (1, 2)]
TOLERANCE = 2e-5  # float32 sums in another order
LAST_BITS = 1e-6  # the same sums at another place in a batch of the same size


def noise(count: int, seed: int) -> np.ndarray:
    """Return noise that obeys Einthoven's and Goldberger's laws: float32 (count, 12, SAMPLES)."""
    made = np.random.default_rng(seed).normal(0, 0.2, (count, 12, SAMPLES))
    for place, (a, b) in enumerate(DERIVED_LEADS.values(), start=2):
        made[:, place] = a * made[:, 0] + b * made[:, 1]
    return made.astype(np.float32)


RECORDS, DONORS = noise(3, 1), noise(5, 2)
MASKS = np.zeros((3, 4, SAMPLES), np.float32)
for _record in range(3):
    for _wave in range(4):
        MASKS[_record, _wave, 40 * _record + 60 * _wave :][:50] = np.hanning(50)


def laid(record: int, donor: int) -> tuple[np.ndarray, np.ndarray]:
    return np.roll(DONORS[donor], record, axis=1), MASKS[record]


def network(leads_apart: bool = True) -> MSAICNet:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        made = MSAICConfig(channels=6, projection_channels=16, dilations=(1, 4), leads_apart=leads_apart).build()
        for module in made.modules():  # an untrained network's statistics are too tame to notice a wrong order
            if isinstance(module, nn.BatchNorm1d):
                module.running_mean.uniform_(-0.2, 0.2)
                module.running_var.uniform_(0.2, 2)
        made.classifier[1].weight.data *= 20
    return made.eval()


def one_by_one(score: Callable[[torch.Tensor], torch.Tensor], operator: str, over: Laid | None) -> np.ndarray:
    """The definition, written out."""
    waves = waves_of(operator)
    found = np.empty((len(PAIRS), len(exchanges(operator))))
    for row, (record, donor) in enumerate(PAIRS):
        lent, masks = (DONORS[donor], None) if over is None else over(record, donor)
        for number, a in enumerate(exchanges(operator)):
            mask = np.ones(SAMPLES) if waves is None or masks is None else masks[waves[number]]
            changed = RECORDS[record] + mask * (a @ (lent - RECORDS[record]))
            with torch.inference_mode():
                found[row, number] = score(torch.from_numpy(changed[None].astype(np.float32))).item()
    return found


@pytest.mark.parametrize("batch_size", [1, 7, 64])
@pytest.mark.parametrize("over", [None, laid])
def test_every_way_gives_what_the_definition_gives(batch_size: int, over: Laid | None) -> None:
    net = network()
    operators = [operator for operator in OPERATORS if over is not None or operator != "wave"]
    for kind in (SwapScorer, LeadSwapScorer):
        scorer = kind(net, DONORS, device="cpu", batch_size=batch_size)
        found = scorer.logits(scorer.take(RECORDS), PAIRS, operators, laid=over)
        assert list(found) == operators
        for operator, logits in found.items():
            expected = one_by_one(net, operator, over)
            assert expected.std(axis=0).min() > 1e-3 or operator == "lead"  # a lead that is not read has no importance
            np.testing.assert_allclose(logits, expected, atol=TOLERANCE, rtol=0, err_msg=f"{kind.__name__} {operator}")


@pytest.mark.parametrize("kind", [SwapScorer, LeadSwapScorer])
def test_a_pair_scores_the_same_in_any_company(kind: type[SwapScorer]) -> None:
    scorer = kind(network(), DONORS, device="cpu", batch_size=8)
    operators = list(OPERATORS)
    together = scorer.logits(scorer.take(RECORDS), PAIRS, operators, laid=laid)
    backwards = scorer.logits(scorer.take(RECORDS), PAIRS[::-1], operators[::-1], laid=laid)
    for operator in operators:
        np.testing.assert_allclose(backwards[operator][::-1], together[operator], atol=LAST_BITS, rtol=0)
    for row, (record, donor) in enumerate(PAIRS):
        alone = scorer.logits(
            scorer.take(RECORDS[record : record + 1]),
            [(0, donor)],
            operators,
            laid=lambda _, donor, record=record: laid(record, donor),
        )
        for operator in operators:
            np.testing.assert_allclose(alone[operator][0], together[operator][row], atol=LAST_BITS, rtol=0)


def test_the_fast_way_is_taken_where_leads_stay_apart() -> None:
    def chosen(net: nn.Module) -> type[SwapScorer]:
        return type(swap_scorer(net, DONORS, device="cpu", batch_size=4))

    assert chosen(network()) is LeadSwapScorer
    assert chosen(network(leads_apart=False)) is SwapScorer
    assert chosen(CNNLSTMConfig().build().eval()) is SwapScorer


def test_leads_that_are_not_read_have_no_importance() -> None:
    scorer = swap_scorer(network(), DONORS, device="cpu", batch_size=8)
    records = scorer.take(RECORDS)
    own = scorer.network(records.signals).tolist()
    both = scorer.logits(records, PAIRS, ["lead", "independent"])
    found = both["lead"]
    np.testing.assert_allclose(found[:, 2:6], np.array([[own[record]] * 4 for record, _ in PAIRS]), atol=TOLERANCE)
    np.testing.assert_allclose(found[:, [0, 1, 6, 7, 8, 9, 10, 11]], both["independent"], atol=TOLERANCE)


def test_waves_need_beats() -> None:
    scorer = swap_scorer(network(), DONORS, device="cpu", batch_size=8)
    with pytest.raises(ValueError, match="waves are exchanged between beats that are laid on each other"):
        scorer.logits(scorer.take(RECORDS), PAIRS, ["lead", "wave"])
