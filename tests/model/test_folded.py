from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from screening.contract import INDEPENDENT_ROWS
from screening.model.bundle import PRETRAINED, load_bundle
from screening.model.folded import FoldedMSAIC
from screening.model.msaic import MSAICConfig
from screening.model.peers.resnet import XResNetConfig
from tests.model.test_msaic import SMALL, ecgs, network

CONFIGS = {
    "as shipped": SMALL,
    "leads mixed": replace(SMALL, leads_apart=False),
    "no attention": replace(SMALL, attention_kernel=None),
    "mean only": replace(SMALL, pooling="mean"),
    "other kernels": MSAICConfig(
        channels=6, kernel=3, stem_kernel=9, stem_stride=3, dilations=(1, 3), blocks=2, projection_channels=10
    ),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("samples", [250, 999, 1000])
def test_folded_is_the_same_function(config: MSAICConfig, samples: int) -> None:
    net, x = network(config), ecgs(5, samples)
    folded = net.for_scoring()
    assert isinstance(folded, FoldedMSAIC)
    with torch.inference_mode():
        torch.testing.assert_close(folded(x), net(x), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(folded.features(x), net.features(x), atol=1e-5, rtol=1e-5)
        for ours, theirs in zip(folded.embed(x), net.embed(x), strict=True):
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_each_of_the_folded_parts_counts() -> None:
    """The comparison would not see a part that changes nothing: every weight of the network must move its logit."""
    net, x = network().double(), ecgs(3).double()
    with torch.inference_mode():
        before = net(x)
        for name, weight in net.named_parameters():
            if name.startswith("embedding."):
                continue
            kept = weight.clone()
            weight.mul_(1.5).add_(0.05)
            moved = net(x)
            torch.testing.assert_close(net.for_scoring()(x), moved, atol=1e-10, rtol=1e-10)
            assert (moved - before).abs().max() > 1e-8, name
            weight.copy_(kept)


def test_what_leads_contribute_is_the_same() -> None:
    net, x = network(), ecgs(3)
    traces, places = x[:, INDEPENDENT_ROWS].flatten(0, 1), torch.arange(8).repeat(3)
    folded = net.for_scoring()
    with torch.inference_mode():
        ours, theirs = (of.lead_contributions(traces, places) for of in (folded, net))
        # A factor of each projected channel stands before the sum in one and behind it in the other, so what adds up differs.
        merged = [
            of.merged_logits(given.unflatten(0, (3, 8)).sum(dim=1)) for of, given in ((folded, ours), (net, theirs))
        ]
        torch.testing.assert_close(merged[0], merged[1], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(merged[0], net(x), atol=1e-5, rtol=1e-5)


def test_a_record_scores_the_same_in_any_batch() -> None:
    folded, x = network().for_scoring(), ecgs(9)
    with torch.inference_mode():
        together = folded(x)
        alone = torch.cat([folded(x[i : i + 1]) for i in range(9)])
        turned = folded(x.flip(0)).flip(0)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned, together, atol=1e-5, rtol=1e-5)


def test_it_shares_no_weight_with_the_network_and_learns_nothing() -> None:
    net, x = network(), ecgs(2)
    folded = net.for_scoring()
    with torch.inference_mode():
        before = folded(x)
        for weight in net.parameters():
            weight.zero_()
        torch.testing.assert_close(folded(x), before, atol=0, rtol=0)
    assert not any(weight.requires_grad for weight in folded.parameters())
    assert not folded.training


def test_the_shipped_network_gives_its_golden_logits_folded() -> None:
    bundle = load_bundle(PRETRAINED)
    golden = bundle.golden()
    with torch.inference_mode():
        logit = bundle.network().for_scoring()(torch.from_numpy(golden["x"])).numpy()
    assert abs(logit - golden["logit"]).max() < 1e-5


def test_other_networks_score_as_they_are() -> None:
    net = XResNetConfig().build()
    assert net.for_scoring() is net
