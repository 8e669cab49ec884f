from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from screening.contract import DERIVED_LEADS, INDEPENDENT_LEADS, LEADS
from screening.train.augment import Augmentation, augment, derive

OFF = Augmentation(
    crop_samples=1000,
    stretch=0.0,
    amplitude=0.0,
    noise_mV=0.0,
    wander_mV=0.0,
    rotation_degrees=0.0,
    displacement=0.0,
    chest_dropout=0.0,
    frontal_dropout=0.0,
)
STRONG = Augmentation(
    stretch=0.2, amplitude=0.5, noise_mV=0.3, wander_mV=0.5, rotation_degrees=40, displacement=0.5, chest_dropout=0.3
)


def ecgs(n: int = 6, samples: int = 1000) -> Tensor:
    return derive(torch.randn(n, 8, samples, generator=torch.Generator().manual_seed(0)).cumsum(dim=2) / 20)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def lead(x: Tensor, name: str) -> Tensor:
    return x[:, LEADS.index(name)]


def assert_identities(x: Tensor) -> None:
    for name, (of_first, of_second) in DERIVED_LEADS.items():
        expected = of_first * lead(x, "I") + of_second * lead(x, "II")
        torch.testing.assert_close(lead(x, name), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        lead(x, "aVR") + lead(x, "aVL") + lead(x, "aVF"), torch.zeros_like(lead(x, "I")), atol=1e-5, rtol=0
    )


def test_derive_gives_the_limb_leads_of_einthoven_and_goldberger() -> None:
    x = derive(torch.arange(1.0, 9.0)[None, :, None])  # I = 1, II = 2, V1-V6 = 3-8
    assert x.flatten().tolist() == [1, 2, 1, -1.5, 0, 1.5, 3, 4, 5, 6, 7, 8]


def test_switched_off_it_changes_nothing() -> None:
    x = ecgs()
    torch.testing.assert_close(augment(x, OFF, seeded()), x, atol=1e-5, rtol=1e-5)


CHANGES = [
    {f.name: getattr(STRONG, f.name)}
    for f in dataclasses.fields(STRONG)
    if getattr(STRONG, f.name) != getattr(OFF, f.name)
]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: next(iter(change)))
def test_each_change_changes_something_and_keeps_the_limb_identities(change: dict[str, float]) -> None:
    x = ecgs()
    view = augment(x, dataclasses.replace(OFF, **change), seeded())
    assert view.shape == (6, 12, change.get("crop_samples", 1000))
    assert view.isfinite().all()
    assert view.shape != x.shape or not torch.allclose(view, x, atol=1e-3)
    assert_identities(view)


def test_all_changes_together_keep_the_limb_identities() -> None:
    for seed in range(20):
        assert_identities(augment(ecgs(), STRONG, seeded(seed)))


def test_the_same_generator_state_gives_the_same_view_and_another_another() -> None:
    x = ecgs()
    torch.testing.assert_close(augment(x, STRONG, seeded(1)), augment(x, STRONG, seeded(1)), atol=0, rtol=0)
    assert not torch.allclose(augment(x, STRONG, seeded(1)), augment(x, STRONG, seeded(2)))


def test_the_original_is_left_alone() -> None:
    x = ecgs()
    before = x.clone()
    augment(x, STRONG, seeded())
    assert torch.equal(x, before)


def test_amplitude_is_one_factor_for_all_leads() -> None:
    x = ecgs()
    ratio = augment(x, dataclasses.replace(OFF, amplitude=0.5), seeded()) / x
    spread = ratio.flatten(1).quantile(0.99, dim=1) - ratio.flatten(1).quantile(0.01, dim=1)
    assert spread.max() < 1e-3
    assert ratio.flatten(1).median(dim=1).values.std() > 0.05


def test_crop_is_a_piece_of_the_record() -> None:
    x = ecgs(1, 300)
    view = augment(x, dataclasses.replace(OFF, crop_samples=100), seeded())
    # Between samples the view is a straight line, so it equals a lerp of x at one shared offset.
    best = min(
        float((torch.lerp(x[..., i : i + 100], x[..., i + 1 : i + 101], share) - view).abs().max())
        for i in range(200)
        for share in np.linspace(0, 1, 51)
    )
    assert best < 0.02


@pytest.mark.parametrize("samples", [400, 501, 1000])
def test_a_window_never_leaves_the_record(samples: int) -> None:
    """The first and the last value mark the ends; stretched windows of every seed stay within."""
    ramp = torch.linspace(0, 1, samples).repeat(4, 12, 1)
    ramp = derive(ramp[:, :8])
    for seed in range(30):
        view = augment(ramp, dataclasses.replace(OFF, crop_samples=500, stretch=0.3), seeded(seed))
        assert view.shape[2] == min(500, samples)
        first = lead(view, "V1")
        assert first.min() >= -1e-6
        assert first.max() <= 1 + 1e-6
        assert (first.diff(dim=1) > 0).all()


def test_rotation_turns_the_frontal_vector_and_nothing_else() -> None:
    x = ecgs()
    view = augment(x, dataclasses.replace(OFF, rotation_degrees=30), seeded())

    def length(y: Tensor) -> Tensor:
        return (lead(y, "I") ** 2 + (lead(y, "aVF") / (3**0.5 / 2)) ** 2).sqrt()

    torch.testing.assert_close(length(view), length(x), atol=1e-4, rtol=1e-4)
    chest = [LEADS.index(name) for name in INDEPENDENT_LEADS if name.startswith("V")]
    torch.testing.assert_close(view[:, chest], x[:, chest])


def test_noise_is_white_and_no_louder_than_said() -> None:
    nothing = torch.zeros(300, 12, 1000)
    view = augment(nothing, dataclasses.replace(OFF, noise_mV=0.02), seeded())
    chest = view[:, [LEADS.index(name) for name in INDEPENDENT_LEADS]]
    size = chest.square().mean(dim=(1, 2)).sqrt()
    assert 0.019 < size.max() < 0.0205
    assert abs(size.median() - 0.01) < 0.002
    power = torch.fft.rfft(chest).abs().square().mean(dim=(0, 1))
    assert abs(power[300:].mean() / power[1:200].mean() - 1) < 0.02
    between = torch.corrcoef(chest[0])[~torch.eye(8, dtype=torch.bool)]
    assert between.abs().max() < 0.2  # every electrode has its own


def test_wander_is_slow_and_no_larger_than_said() -> None:
    view = augment(torch.zeros(300, 12, 1000), dataclasses.replace(OFF, crop_samples=500, wander_mV=0.05), seeded())
    chest = view[:, 6:]
    assert 0.045 < chest.abs().max() <= 0.05
    assert chest.diff(dim=2).abs().max() < 0.05 * 2 * np.pi * 3 / 499 * 1.01  # three cycles a window at most


def test_missing_leads_are_missing_whole() -> None:
    x = ecgs(200)
    view = augment(x, dataclasses.replace(OFF, chest_dropout=0.3, frontal_dropout=0.3), seeded())
    gone = (view == 0).all(dim=2)  # (b, 12)
    frontal = [i for i, name in enumerate(LEADS) if not name.startswith("V")]
    assert (gone[:, frontal].all(dim=1) == gone[:, frontal].any(dim=1)).all()
    assert 0.2 < gone[:, frontal[0]].float().mean() < 0.4
    assert 0.2 < gone[:, 6:].float().mean() < 0.4


def test_impossible_strengths_are_named() -> None:
    with pytest.raises(ValueError, match="stretch must lie in 0 to 1, not be 1.5"):
        Augmentation(stretch=1.5)
    with pytest.raises(ValueError, match="crop_samples cannot be 1"):
        Augmentation(crop_samples=1)
