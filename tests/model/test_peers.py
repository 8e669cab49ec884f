from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from screening.model.classifier import Classifier, NetworkConfig, count_flop, count_parameters
from screening.model.msaic import MSAICConfig
from screening.model.networks import KINDS, config_from_json
from screening.model.peers.convolutional import concat_pool, convolution
from screening.model.peers.recurrent import CNNLSTMConfig, LSTMConfig
from screening.model.peers.resnet import ResNetWangConfig, XResNetConfig, bottleneck
from screening.model.peers.state_space import S4D, S4DConfig
from screening.model.peers.transformer import TransformerConfig, positions
from screening.train.augment import Augmentation
from screening.train.fit import FitSettings, fit, predict
from tests.train.sets import training_set

SMALL: dict[str, NetworkConfig] = {
    config.kind: config
    for config in (
        ResNetWangConfig(channels=16, stem_stride=2),
        XResNetConfig(width=8, layers=(1, 1, 2, 1), stem_channels=(8, 8, 16)),
        LSTMConfig(channels=16, hidden=16),
        CNNLSTMConfig(channels=(16, 16, 16), hidden=16),
        TransformerConfig(channels=16, heads=2, feed_forward=32, layers=2),
        S4DConfig(channels=16, state=8, layers=2),
    )
}
every_kind = pytest.mark.parametrize("kind", SMALL)


def ecgs(n: int, samples: int = 1000, *, seed: int = 1) -> torch.Tensor:
    return 0.2 * torch.randn(n, 12, samples, generator=torch.Generator().manual_seed(seed))


def network(config: NetworkConfig, *, seed: int = 0) -> Classifier:
    """Return a network in evaluation mode whose normalisation statistics are not those of a fresh one."""
    torch.manual_seed(seed)
    net = config.build()
    with torch.no_grad():
        for _ in range(3):
            net(ecgs(8, 400, seed=seed))
    return net.eval()


def without_dropout(config: NetworkConfig) -> NetworkConfig:
    plain = config.to_json()
    return config_from_json({**plain, **{key: 0.0 for key in plain if key.endswith("dropout")}})


def test_every_kind_is_tested() -> None:
    assert set(SMALL) | {"msaic"} == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_default_networks_score_crops_and_whole_ecgs(kind: str) -> None:
    net = KINDS[kind]().build().eval()
    with torch.inference_mode():
        for samples in (500, 1000):
            logit, z = net.embed(ecgs(2, samples))
            assert logit.shape == (2,)
            assert z.shape == (2, 64)
            assert logit.isfinite().all()
            torch.testing.assert_close(z.norm(dim=1), torch.ones(2))


@every_kind
@pytest.mark.parametrize("samples", [251, 999, 3000])
def test_any_length_is_scored(kind: str, samples: int) -> None:
    with torch.inference_mode():
        assert network(SMALL[kind])(ecgs(2, samples)).isfinite().all()


@every_kind
def test_a_record_scores_the_same_in_any_batch_and_again(kind: str) -> None:
    net, x = network(SMALL[kind]), ecgs(9)
    with torch.inference_mode():
        together = net(x)
        alone = torch.cat([net(x[i : i + 1]) for i in range(9)])
        turned = net(x.flip(0)).flip(0)
        assert torch.equal(net(x), together)
    torch.testing.assert_close(alone, together, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(turned, together, atol=1e-5, rtol=1e-5)


@every_kind
def test_scoring_is_the_same_with_gradients_as_without(kind: str) -> None:
    """Attribution asks for gradients, screening does not; torch takes different routes for them."""
    net, x = network(SMALL[kind]), ecgs(3)
    with torch.inference_mode():
        without = net(x)
    torch.testing.assert_close(net(x).detach(), without.clone(), atol=1e-5, rtol=1e-5)


@every_kind
def test_one_fixed_scale_is_all_the_normalisation_of_the_input(kind: str) -> None:
    config, x = SMALL[kind], ecgs(3)
    net = network(config)
    doubled = config_from_json({**config.to_json(), "scale_mV": 2 * config.scale_mV}).build().eval()
    doubled.load_state_dict(net.state_dict())
    louder = x.clone()
    louder[0] *= 3
    with torch.inference_mode():
        torch.testing.assert_close(doubled(2 * x), net(x))
        torch.testing.assert_close(net(louder)[1:], net(x)[1:], atol=1e-5, rtol=1e-5)
        assert abs(net(louder)[0] - net(x)[0]) > 1e-3


@every_kind
def test_every_weight_learns_and_bfloat16_learns_the_same(kind: str) -> None:
    torch.manual_seed(0)
    net, x = without_dropout(SMALL[kind]).build().train(), ecgs(16, 500)
    for name, weight in net.named_parameters():
        if name.endswith("path.4.1.weight"):
            nn.init.ones_(weight)  # a fresh bottleneck is its shortcut, and nothing inside it learns at first

    def gradients(*, bfloat16: bool) -> dict[str, torch.Tensor]:
        net.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bfloat16):
            logit, z = net.embed(x)
        (logit.float().square().sum() + (z.float() * ecgs(16, 64)[:, 0]).sum()).backward()
        return {name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None}

    exact, rough = gradients(bfloat16=False), gradients(bfloat16=True)
    names = {name for name, _ in net.named_parameters()}
    assert {name for name, grad in exact.items() if grad.abs().max() > 0} == names
    assert all(grad.isfinite().all() for grad in rough.values())
    flat = [torch.cat([grads[name].flatten() for name in sorted(names)]) for grads in (exact, rough)]
    assert torch.cosine_similarity(*flat, dim=0) > 0.85  # 0.91 in the deepest, more than 0.97 in the others


@every_kind
def test_each_kind_learns_a_tiny_problem_as_it_will_be_trained(kind: str) -> None:
    """Positives are higher in V2; the whole harness runs: bfloat16, contrastive loss, averaged weights."""
    train, tune = training_set(records=192, seed=0), training_set(records=96, seed=1)
    settings = FitSettings(
        epochs=6,
        batch_size=32,
        learning_rate=0.01,
        precision="bfloat16",
        ema=0.9,
        augmentation=Augmentation(crop_samples=200),
    )
    result = fit(train, tune, settings, network_config=SMALL[kind])
    net = SMALL[kind].build()
    net.load_state_dict(result.state_dict)
    fresh = training_set(records=96, seed=2)
    assert roc_auc_score(fresh.target, predict(net, fresh.signals_mV)) > 0.98


@every_kind
def test_configurations_survive_json(kind: str) -> None:
    config = SMALL[kind]
    assert config_from_json(json.loads(json.dumps(config.to_json()))) == config
    assert config_from_json({"kind": kind}) == KINDS[kind]()
    with pytest.raises(TypeError, match="widht"):
        config_from_json({"kind": kind, "widht": 3})


def test_an_unknown_kind_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown network 'gru'; known are msaic, resnet1d_wang, xresnet1d, lstm"):
        config_from_json({"kind": "gru"})


def test_impossible_configurations_are_refused() -> None:
    with pytest.raises(ValueError, match="kernels must be odd, so that padding keeps the length; one has 4"):
        ResNetWangConfig(kernels=(5, 4)).build()
    with pytest.raises(ValueError, match="channels must be even and a multiple of heads, not 30 of 4"):
        TransformerConfig(channels=30, heads=4)
    with pytest.raises(ValueError, match="state must be even, because .* not 7"):
        S4DConfig(state=7)


# Facts of the literature, and sums by hand


def test_resnet1d_wang_is_the_benchmarks() -> None:
    """The sum of its layers as published (arXiv 2004.13701): one convolution of 7, three blocks of 5 and 3, 128 wide."""
    stem = 12 * 128 * 7
    blocks = 3 * (128 * 128 * 5 + 128 * 128 * 3) + 2 * 128 * 128  # two strided shortcuts
    norms = 2 * 128 * (1 + 3 * 2 + 2)
    head = 2 * 128 + 1
    assert count_parameters(ResNetWangConfig().build()) == stem + blocks + norms + head == 439_297


def test_xresnet1d_has_101_layers_and_at_the_benchmarks_width_its_weights() -> None:
    net = XResNetConfig().build()
    strided_and_plain = [m for m in net.modules() if isinstance(m, nn.Conv1d)]
    shortcuts = [m for name, m in net.named_modules() if isinstance(m, nn.Conv1d) and ".shortcut." in name]
    # 101 counts a stem of one convolution and the classifier; here the stem has three.
    assert len(strided_and_plain) - len(shortcuts) - 2 + 1 == 101
    block = 256 * 64 + 64 * 64 * 5 + 64 * 256
    first = 64 * 64 + 64 * 64 * 5 + 64 * 256 + 64 * 256  # of 64 channels, with a projection
    stem = 5 * (12 * 32 + 32 * 32 + 32 * 64)
    wide = XResNetConfig(width=64).build()
    assert sum(m.weight.numel() for m in wide.modules() if isinstance(m, nn.Conv1d)) == stem + first + 32 * block


def test_a_fresh_bottleneck_is_its_shortcut() -> None:
    x = ecgs(4, 100).abs()  # ReLU after the sum leaves it as it is
    torch.testing.assert_close(bottleneck(12, 4, 12, 5, stride=1)(x), x)
    halved = bottleneck(12, 4, 12, 5, stride=2)(x[:, :, :99])
    torch.testing.assert_close(halved[:, :, :49], x[:, :, :98].reshape(4, 12, 49, 2).mean(dim=3))
    torch.testing.assert_close(halved[:, :, 49], x[:, :, 98])  # half a pair counts whole


def test_flop_of_an_lstm_are_those_of_its_matrix_products() -> None:
    net = LSTMConfig(patch=10, channels=20, hidden=30, layers=2).build()
    steps = 100
    patches = 2 * steps * (12 * 10) * 20
    first = 2 * 2 * steps * 4 * 30 * (20 + 30)  # two directions, four gates
    second = 2 * 2 * steps * 4 * 30 * (60 + 30)
    assert count_flop(net, 1000) == patches + first + second + 2 * 120
    assert net.training


def test_flop_of_a_transformer_include_attention() -> None:
    net = TransformerConfig(patch=10, channels=32, heads=4, feed_forward=50, layers=3).build().requires_grad_(False)
    t, c = 100, 32
    projections = 2 * t * c * 4 * c
    attention = 2 * (2 * t * t * c)  # all heads: scores, then the weighted sum
    feed_forward = 2 * (2 * t * c * 50)
    assert count_flop(net, 1000) == 2 * t * 120 * c + 3 * (projections + attention + feed_forward) + 2 * c
    assert torch.backends.mha.get_fastpath_enabled()


def test_flop_of_s4d_include_the_fourier_transforms() -> None:
    net = S4DConfig(channels=8, state=4, layers=1, stem_kernel=7, stem_stride=4).build()
    t = 250
    transform = 2.5 * 2 * t * math.log2(2 * t)
    transforms = [round(rows * transform) for rows in (8, 8, 8)]  # the signal, the response, the product back
    stem, mix = 2 * t * 12 * 7 * 8, 2 * t * 8 * 16
    products = stem + mix + sum(transforms) + 2 * 8
    response = 8 * (2 * 2 * 2 * t)  # complex einsum over two numbers, two directions
    assert count_flop(net, 1000) == pytest.approx(products + response, abs=3)


@pytest.mark.parametrize(("kind", "most"), [("xresnet1d", 250e6), ("resnet1d_wang", 510e6), ("lstm", 150e6)])
def test_the_costs_that_the_docstrings_state(kind: str, most: float) -> None:
    assert 0.6 * most < count_flop(KINDS[kind]().build(), 1000) < most


def test_flop_of_msaic_are_what_they_were() -> None:
    mixed = MSAICConfig(leads_apart=False, channels=48, projection_channels=128)
    assert count_flop(mixed.build(), 1000) == 83_427_968
    assert count_flop(MSAICConfig().build(), 1000) == 78_281_472


# The parts


def test_s4d_is_its_recurrence() -> None:
    """The convolution by FFT against the state, step by step, in another precision and with numpy alone."""
    torch.manual_seed(3)
    layer, t = S4D(3, 8, (0.01, 0.3)), 37
    u = torch.randn(2, 3, t)
    weights = {name: weight.detach().double().numpy() for name, weight in layer.named_parameters()}
    pole = -np.exp(weights["log_decay"]) + 1j * weights["frequency"]
    dt = np.exp(weights["log_step"])[:, None]
    held, gain = np.exp(dt * pole), (np.exp(dt * pole) - 1) / pole
    read_out = weights["read_out"][..., 0] + 1j * weights["read_out"][..., 1]

    def run(signal: np.ndarray, c: np.ndarray) -> np.ndarray:
        state, out = np.zeros((2, 3, 4), complex), []
        for at in range(signal.shape[2]):
            state = held * state + gain * signal[:, :, at, None]
            out.append(2 * (c * state).sum(axis=2).real)
        return np.stack(out, axis=2)

    x = u.double().numpy()
    later = run(x[:, :, ::-1], read_out[1])[
        :, :, ::-1
    ]  # includes the step itself, which belongs to the other direction
    expected = run(x, read_out[0]) + weights["skip"][:, None] * x
    expected[:, :, :-1] += later[:, :, 1:]
    np.testing.assert_allclose(layer(u).detach().numpy(), expected, atol=2e-5)


def test_s4d_stays_stable_whatever_it_learns() -> None:
    layer = S4D(4, 8, (0.001, 0.1))
    with torch.no_grad():
        for weight in layer.parameters():
            weight.add_(torch.randn_like(weight))
        response = layer.kernel(4000).abs()
    assert response.isfinite().all()
    assert (response[:, :, -100:].amax(dim=2) <= response[:, :, :1000].amax(dim=2) + 1e-6).all()


def test_positions_are_sines_and_cosines() -> None:
    table = positions(300, 16)
    for step, pair in ((0, 0), (7, 3), (299, 7)):
        angle = step / 10_000 ** (2 * pair / 16)
        assert table[step, 2 * pair].item() == pytest.approx(math.sin(angle), abs=1e-4)
        assert table[step, 2 * pair + 1].item() == pytest.approx(math.cos(angle), abs=1e-4)
    torch.testing.assert_close(positions(50, 16), table[:50])


def test_the_transformer_knows_order() -> None:
    """Without positions the mean over time could not tell patches that change places."""
    net, x = network(SMALL["transformer"]), ecgs(1, 100)
    swapped = torch.cat([x[:, :, 50:], x[:, :, :50]], dim=2)
    with torch.inference_mode():
        assert abs(net(x) - net(swapped)) > 1e-4


def test_transformer_layers_start_differently() -> None:
    first, second = (layer.linear1.weight for layer in SMALL["transformer"].build().layers)
    assert not torch.equal(first, second)


def test_concat_pool_and_convolution_keep_their_promises() -> None:
    x = ecgs(2, 50)
    np.testing.assert_allclose(concat_pool(x).numpy(), np.hstack([x.numpy().mean(2), x.numpy().max(2)]), atol=1e-6)
    assert convolution(12, 5, 7)(x).shape == (2, 5, 50)
    assert convolution(12, 5, 7, stride=2)(x).shape == (2, 5, 25)
