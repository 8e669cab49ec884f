from __future__ import annotations

import json
from dataclasses import replace
from typing import Literal

import pytest
import torch

from screening.contract import INDEPENDENT_LEADS, LEADS
from screening.model.msaic import EfficientChannelAttention, MSAICConfig, MSAICNet

SMALL = MSAICConfig(channels=8, projection_channels=16, embedding=6)


def network(config: MSAICConfig = SMALL, *, seed: int = 0) -> MSAICNet:
    """Return a network in evaluation mode whose normalisation statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    net = MSAICNet(config)
    with torch.no_grad():
        for _ in range(3):
            net(0.2 * torch.randn(8, 12, 400))
    return net.eval()


def ecgs(n: int, samples: int = 1000, *, seed: int = 1) -> torch.Tensor:
    return 0.2 * torch.randn(n, 12, samples, generator=torch.Generator().manual_seed(seed))


def test_shapes_and_unit_length_of_the_embedding() -> None:
    net = network()
    logit, z = net.embed(ecgs(5))
    assert logit.shape == (5,)
    assert z.shape == (5, 6)
    torch.testing.assert_close(z.norm(dim=1), torch.ones(5))
    torch.testing.assert_close(net(ecgs(5)), logit)


@pytest.mark.parametrize("samples", [250, 999, 1000, 3000])
def test_any_length_is_scored(samples: int) -> None:
    assert network()(ecgs(2, samples)).isfinite().all()


def test_a_record_scores_the_same_in_any_batch() -> None:
    net, x = network(), ecgs(9)
    with torch.inference_mode():
        together = net(x)
        alone = torch.cat([net(x[i : i + 1]) for i in range(9)])
        turned = net(x.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned, together, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dilation", SMALL.dilations)
def test_a_branch_sees_its_receptive_field_and_no_more(dilation: int) -> None:
    net = network()
    branch = net.branches[SMALL.dilations.index(dilation)]
    for block in branch:
        block.attention = torch.nn.Identity()  # attention looks at all of time, on purpose
        block.norm = torch.nn.Identity()
        torch.nn.init.constant_(block.conv.weight, 0.1)  # no ReLU may hide a path
    x = torch.rand(1, 8, 400, generator=torch.Generator().manual_seed(0))
    middle, reach = 200, SMALL.receptive_field(dilation) // 2
    for distance, seen in ((reach, True), (reach + 1, False)):
        for place in (middle - distance, middle + distance):
            moved = x.clone()
            moved[:, :, place] += 1
            difference = (branch(moved) - branch(x))[0, :, middle].abs().max()
            assert bool(difference > 0) is seen


def test_receptive_fields_follow_the_formula() -> None:
    config = MSAICConfig(kernel=7, blocks=3, dilations=(1, 2, 4, 8))
    assert [config.receptive_field(d) for d in config.dilations] == [19, 37, 73, 145]


def test_attention_weighs_channels_by_their_own_neighbourhood() -> None:
    attention = EfficientChannelAttention(3)
    x = ecgs(2, 50)
    weights = attention.weights(x)
    assert weights.shape == (2, 12, 1)
    assert ((weights > 0) & (weights < 1)).all()
    kernel = attention.across_channels.weight.flatten()
    mean = torch.nn.functional.pad(x.mean(dim=2), (1, 1))
    expected = torch.sigmoid(torch.stack([(mean[:, i : i + 3] * kernel).sum(dim=1) for i in range(12)], dim=1))
    torch.testing.assert_close(weights[:, :, 0], expected)
    torch.testing.assert_close(attention(x), x * expected[:, :, None])


def test_one_fixed_scale_is_all_the_normalisation() -> None:
    """Scaling the input and ``scale_mV`` together changes nothing; scaling one record leaves the others alone."""
    net, x = network(), ecgs(3)
    doubled = MSAICNet(MSAICConfig.from_json({**SMALL.to_json(), "scale_mV": 0.4})).eval()
    doubled.load_state_dict(net.state_dict())
    torch.testing.assert_close(doubled(2 * x), net(x))
    louder = x.clone()
    louder[0] *= 10
    torch.testing.assert_close(net(louder)[1:], net(x)[1:])
    assert abs(net(louder)[0] - net(x)[0]) > 1e-4


@pytest.mark.parametrize("pooling", ["mean", "mean_max"])
def test_pooled_features_are_the_mean_and_where_asked_the_maximum_over_time(
    pooling: Literal["mean", "mean_max"],
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = MSAICNet(replace(SMALL, pooling=pooling)).eval()
    steady = torch.ones(2, 12, 400) * torch.tensor([0.1, -0.2])[:, None, None]
    features = net.features(steady)
    assert features.shape == (2, SMALL.projection_channels * (2 if pooling == "mean_max" else 1))
    if pooling == "mean_max":
        mean, highest = features.chunk(2, dim=1)
        assert (highest >= mean - 1e-6).all()
        assert (highest > mean + 1e-6).any()


def test_leads_that_stay_apart_add_up_at_the_projection() -> None:
    net, x = network(), ecgs(3)
    traces = x[:, [LEADS.index(lead) for lead in INDEPENDENT_LEADS]]
    places = torch.arange(8).repeat(3)
    with torch.inference_mode():
        contributions = net.lead_contributions(traces.flatten(0, 1), places)
        contributions = contributions.reshape(3, 8, -1, SMALL.projection_channels)
        torch.testing.assert_close(net.merged_logits(contributions.sum(dim=1)), net(x), atol=1e-5, rtol=1e-5)


def test_only_the_independent_leads_are_read_one_by_one_and_all_leads_where_they_are_mixed() -> None:
    for leads_apart in (True, False):
        net = network(replace(SMALL, leads_apart=leads_apart))
        for place, lead in enumerate(LEADS):
            x = ecgs(2)
            before = net(x)
            x[:, place] = 0
            same = bool((net(x) == before).all())
            assert same == (leads_apart and lead not in INDEPENDENT_LEADS), lead


def test_all_leads_are_read_with_the_same_weights() -> None:
    """Leads that change places together with their weights in the projection leave the logit as it was."""
    net, x = network(), ecgs(2)
    before = net(x)
    first, second = INDEPENDENT_LEADS.index("V2"), INDEPENDENT_LEADS.index("V6")
    with torch.no_grad():
        weight = net.projection[0].weight.reshape(SMALL.projection_channels, 8, -1)
        weight[:, [first, second]] = weight[:, [second, first]]
        x[:, [LEADS.index("V2"), LEADS.index("V6")]] = x[:, [LEADS.index("V6"), LEADS.index("V2")]]
    torch.testing.assert_close(net(x), before)


def test_config_survives_json() -> None:
    config = MSAICConfig(dilations=(1, 3), channels=24)
    assert MSAICConfig.from_json(json.loads(json.dumps(config.to_json()))) == config
    # What bundles were before these could be chosen.
    assert MSAICConfig.from_json({}) == MSAICConfig(pooling="mean", leads_apart=False)
    with pytest.raises(ValueError, match="pooling must be one of mean, mean_max, not 'last'"):
        MSAICConfig(pooling="last")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="widht"):
        MSAICConfig.from_json({"widht": 3})


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="kernels must be odd"):
        MSAICConfig(kernel=6)
    with pytest.raises(ValueError, match="scale_mV must be positive, not 0"):
        MSAICConfig(scale_mV=0)


def test_the_default_network_is_cheap() -> None:
    """A record costs at most 150 MFLOP, so that an archive can be screened without a GPU."""
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        MSAICNet().eval()(ecgs(1))
    assert counter.get_total_flops() < 150e6
