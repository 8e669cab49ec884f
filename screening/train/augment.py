"""Random changes of an ECG that keep its label and obey the leads.

Limb leads are linear in I and II. So whatever is done to them is the same linear operation on all leads (crop, stretch,
amplitude), or is done to the electrodes' eight independent leads with the derived four computed again (noise, frontal
rotation), or takes the whole frontal plane away. Nothing ever scales one limb lead alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from screening.contract import DERIVED_LEADS, INDEPENDENT_LEADS, LEADS

_INDEPENDENT = [LEADS.index(lead) for lead in INDEPENDENT_LEADS]
_PRECORDIAL = [LEADS.index(lead) for lead in LEADS if lead.startswith("V")]
_FRONTAL = [LEADS.index(lead) for lead in LEADS if not lead.startswith("V")]
_I, _II, _AVF = (LEADS.index(lead) for lead in ("I", "II", "aVF"))
_AVF_LENGTH = math.sqrt(3) / 2  # of aVF's lead vector where I, II and III have length 1 (Einthoven's triangle)


@dataclass(frozen=True)
class Augmentation:
    """How strong each change is; zero switches it off.

    Noise and wander go up to about what the preprocessing at 100 Hz leaves in 5% of the leads of PTB-XL's folds 1-8
    (``python -m tests.studies.noise_bands``). Above 20 Hz that is 3.6, 11 and 19 uV RMS in the median, 95th and 99th
    percentile, and the largest noise has 14; between 0.3 and 0.7 Hz 8.8, 35 and 73 uV, and the largest wander has 35.
    White noise has the 95th percentile's density from 20 to 30 Hz, less below and more above.
    """

    crop_samples: int = 300  # window taken at a random place; a multiple of the network's stem stride
    stretch: float = 0.15  # time runs faster or slower by up to this share: heart rate
    amplitude: float = 0.3  # standard deviation of the log of one factor for all leads
    noise_mV: float = 0.02  # largest root mean square of white noise
    wander_mV: float = 0.05  # largest amplitude of a slow sine: what the high-pass leaves of the baseline
    rotation_degrees: float = 15.0  # standard deviation of the frontal axis
    displacement: float = 0.3  # largest share of a neighbour in a chest lead: electrodes a little off their place
    chest_dropout: float = 0.05  # probability that a chest lead is missing (zero)
    frontal_dropout: float = 0.05  # probability that the whole frontal plane is missing (zero)

    def __post_init__(self) -> None:
        if self.crop_samples < 2:
            raise ValueError(f"crop_samples cannot be {self.crop_samples}")
        for name in ("stretch", "displacement", "chest_dropout", "frontal_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in 0 to 1, not be {getattr(self, name)}")


def augment(x_mV: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Return one random view of each ECG.

    Parameters
    ----------
    x_mV : Tensor, float (b, 12, T)
        Filtered ECGs, leads in contract order.
    settings : Augmentation
        Strengths.
    generator : torch.Generator
        On the CPU; the same state gives the same view.

    Returns
    -------
    Tensor, float (b, 12, min(crop_samples, T))
    """
    x = _window(x_mV, settings, generator)
    b = len(x)
    x = x * torch.exp(settings.amplitude * _normal((b, 1, 1), generator, x))
    x = _move_electrodes(x, settings, generator)
    x = derive(x[:, _INDEPENDENT] + _disturbance(x[:, _INDEPENDENT], settings, generator))
    keep = torch.ones((b, len(LEADS), 1), dtype=x.dtype, device=x.device)
    keep[:, _PRECORDIAL] = (_uniform((b, len(_PRECORDIAL), 1), generator, x) >= settings.chest_dropout).to(x.dtype)
    keep[:, _FRONTAL] = (_uniform((b, 1, 1), generator, x) >= settings.frontal_dropout).to(x.dtype)
    return x * keep


def derive(independent: Tensor) -> Tensor:
    """Return twelve leads of the eight independent ones: (b, 8, T) -> (b, 12, T), both in contract order."""
    first, second = independent[:, 0], independent[:, 1]
    derived = {lead: a * first + b * second for lead, (a, b) in DERIVED_LEADS.items()}
    measured = dict(zip(INDEPENDENT_LEADS, independent.unbind(dim=1), strict=True))
    return torch.stack([derived[lead] if lead in derived else measured[lead] for lead in LEADS], dim=1)


def _window(x: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Cut a window at a random place and speed, by linear interpolation in time: (b, 12, T) -> (b, 12, w)."""
    b, leads, samples = x.shape
    width = min(settings.crop_samples, samples)
    speed = 1 + settings.stretch * (2 * _uniform((b, 1), generator, x) - 1)  # (b, 1)
    speed = speed.clamp_max((samples - 1) / max(width - 1, 1))
    start = _uniform((b, 1), generator, x) * (samples - 1 - speed * (width - 1))
    place = start + speed * torch.arange(width, device=x.device, dtype=x.dtype)  # (b, w), in samples of x
    left = place.floor().clamp(0, samples - 2).long()
    share = (place - left)[:, None]  # (b, 1, w)
    index = left[:, None].expand(b, leads, width)
    return torch.lerp(x.gather(2, index), x.gather(2, index + 1), share)


def _move_electrodes(x: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Rotate the frontal axis (I and aVF; the caller derives the rest) and blend neighbouring chest leads."""
    b = len(x)
    angle = math.radians(settings.rotation_degrees) * _normal((b, 1), generator, x)
    across, down = x[:, _I], x[:, _AVF] / _AVF_LENGTH  # (b, T) orthogonal components of the frontal vector
    turned_I = torch.cos(angle) * across - torch.sin(angle) * down
    turned_aVF = _AVF_LENGTH * (torch.sin(angle) * across + torch.cos(angle) * down)
    chest = x[:, _PRECORDIAL]  # (b, 6, T)
    share = settings.displacement * (2 * _uniform((b, len(_PRECORDIAL), 1), generator, x) - 1)
    towards_v1 = torch.cat([chest[:, :1], chest[:, :-1]], dim=1)
    towards_v6 = torch.cat([chest[:, 1:], chest[:, -1:]], dim=1)
    out = x.clone()
    out[:, _PRECORDIAL] = torch.lerp(chest, torch.where(share < 0, towards_v1, towards_v6), share.abs())
    out[:, _I] = turned_I
    out[:, _II] = turned_aVF + turned_I / 2
    return out


def _disturbance(x: Tensor, settings: Augmentation, generator: torch.Generator) -> Tensor:
    """Return white noise and a slow sine for each independent lead: like x, (b, 8, T)."""
    b, leads, samples = x.shape
    noise = settings.noise_mV * _uniform((b, 1, 1), generator, x) * _normal((b, leads, samples), generator, x)
    cycles = 3 * _uniform((b, leads, 1), generator, x)  # a window
    phase = _uniform((b, leads, 1), generator, x)
    time = torch.linspace(0, 1, samples, device=x.device, dtype=x.dtype)
    wander = torch.sin(2 * math.pi * (cycles * time + phase))
    return noise + settings.wander_mV * _uniform((b, leads, 1), generator, x) * wander


def _uniform(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.rand(shape, generator=generator).to(like)


def _normal(shape: tuple[int, ...], generator: torch.Generator, like: Tensor) -> Tensor:
    return torch.randn(shape, generator=generator).to(like)
