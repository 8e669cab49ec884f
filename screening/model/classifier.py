"""What every network here has in common: pooled features, a classifier, and a projection for the contrastive losses."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class NetworkConfig:
    """What a network is made of. Everything is JSON: ``to_json`` and ``networks.config_from_json`` are inverse."""

    kind: ClassVar[str]

    leads: int = 12
    scale_mV: float = 0.2  # root mean square of filtered ECGs; one number, so amplitudes between leads survive
    embedding: int = 64  # dimensions of the contrastive space
    head_dropout: float = 0.3  # before the classifier

    def __post_init__(self) -> None:
        if not self.scale_mV > 0:
            raise ValueError(f"scale_mV must be positive, not {self.scale_mV}")

    def to_json(self) -> dict[str, Any]:
        """Return the configuration as plain JSON values."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {"kind": self.kind, **plain}

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Return the configuration that ``to_json`` wrote; an unknown key is a TypeError."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in value.items() if k != "kind"}
        return cls(**known)

    def build(self) -> Classifier:
        """Return a network with random weights."""
        raise NotImplementedError


class Classifier(nn.Module):
    """Filtered 12-lead ECGs in, one logit of infarction each out. A subclass gives ``features``.

    Parameters
    ----------
    config : NetworkConfig
        What the network is made of; it belongs in the bundle beside the weights.
    width : int
        Of the pooled features.
    """

    def __init__(self, config: NetworkConfig, width: int) -> None:
        super().__init__()
        self.config = config
        self.classifier = nn.Sequential(nn.Dropout(config.head_dropout), nn.Linear(width, 1))
        self.embedding = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.embedding))

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, width)."""
        raise NotImplementedError

    def for_scoring(self) -> Classifier:
        """Return the same function of an ECG in the form that is computed fastest: here the network itself."""
        return self

    def forward(self, x_mV: Tensor) -> Tensor:
        """Return the logit of infarction.

        Parameters
        ----------
        x_mV : Tensor, float (b, leads, T)
            ECGs at the bundle's rate, filtered as its preprocessing says, in millivolts.

        Returns
        -------
        Tensor, float (b,)
        """
        logit: Tensor = self.classifier(self.features(x_mV)).squeeze(1)  # (b, width) -> (b, 1) -> (b,)
        return logit

    def embed(self, x_mV: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logit (b,) and the contrastive embedding (b, d), whose rows have unit length."""
        pooled = self.features(x_mV)
        z = functional.normalize(self.embedding(pooled), dim=1)  # (b, width) -> (b, d)
        return self.classifier(pooled).squeeze(1), z


def count_parameters(network: nn.Module) -> int:
    """Return the number of weights, without those of the contrastive projection, which screening never uses."""
    return sum(p.numel() for name, p in network.named_parameters() if not name.startswith("embedding."))


def count_flop(network: Classifier, samples: int) -> int:
    """Return the floating-point operations (a multiply and an add are two) that scoring one record takes.

    Counted by torch while it runs: matrix products and convolutions, those inside recurrent layers and attention among
    them, and Fourier transforms at 2.5 n log2 n for n real numbers. What is done element by element is left out.
    """
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    aten = torch.ops.aten
    formulas = {aten.mkldnn_rnn_layer: _lstm_flop, aten._fft_r2c: _rfft_flop, aten._fft_c2r: _rfft_flop}
    counter = FlopCounterMode(display=False, custom_mapping=formulas)
    was_training, had_fast_path = network.training, torch.backends.mha.get_fastpath_enabled()
    network.eval()
    torch.backends.mha.set_fastpath_enabled(False)  # fused encoder layers hide their matrix products
    try:
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            network(torch.zeros(1, network.config.leads, samples))
    finally:
        torch.backends.mha.set_fastpath_enabled(had_fast_path)
        network.train(was_training)
    return int(counter.get_total_flops())


def _lstm_flop(x: torch.Size, inputs: torch.Size, hidden: torch.Size, *_: Any, **__: Any) -> int:
    """Return the cost of one direction of one LSTM layer: x (t, b, c), weights (4h, c) and (4h, h)."""
    return 2 * x[0] * x[1] * (inputs.numel() + hidden.numel())


def _rfft_flop(shape: torch.Size, dim: list[int], *_: Any, out_shape: torch.Size, **__: Any) -> int:
    """Return the cost of Fourier transforms from or to real numbers; the real side is the longer one."""
    real = max(shape, out_shape, key=lambda side: side[dim[0]])
    return round(2.5 * real.numel() * math.log2(real[dim[0]]))
