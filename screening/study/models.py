"""What is compared: the steps from a plain CNN to MSAIC-Net, and its peers, all in one harness.

Every model gets the same records, augmentation, batches, epochs and tuning: three learning rates a split, each tried for a
short schedule, the best trained in full, its best epoch by the tuning fold. A peer's grid is centred where its own authors
train it or, for want of that, where MSAIC-Net's is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from screening.model.msaic import MSAICConfig
from screening.model.networks import KINDS
from screening.signal.preprocess import Preprocessing
from screening.train.augment import Augmentation
from screening.train.fit import FitSettings
from screening.train.procedure import RATES, Procedure

SLOW_RATES = (3e-4, 1e-3, 3e-3)  # attention and recurrence want less
REFERENCE = "MSAIC-Net"
"""The model that the others are compared with."""

_NETWORK = MSAICConfig()
_MIXED = MSAICConfig(leads_apart=False, channels=48, projection_channels=128)
_PAPER = replace(_MIXED, pooling="mean")
# One branch of twice the channels: the multiplications of a layer are those of the four branches together.
_CNN = replace(_PAPER, dilations=(1,), channels=2 * _PAPER.channels, attention_kernel=None)
_FIT = FitSettings(contrast="none")


def _at_rate(rate_hz: int) -> MSAICConfig:
    """Return the network whose stem sees as many milliseconds and leaves as many steps at another rate."""
    times = rate_hz / 100
    kernel = int(_NETWORK.stem_kernel * times) // 2 * 2 + 1
    return replace(_NETWORK, stem_kernel=kernel, stem_stride=round(_NETWORK.stem_stride * times))


def _crop_at_rate(rate_hz: int) -> Augmentation:
    return replace(_FIT.augmentation, crop_samples=_FIT.augmentation.crop_samples * rate_hz // 100)


def _procedure(network: MSAICConfig, fit: FitSettings) -> Procedure:
    return Procedure(network, fit, RATES)


ABLATION: dict[str, Procedure] = {
    "CNN": _procedure(_CNN, _FIT),
    "+ multi-scale": _procedure(replace(_PAPER, attention_kernel=None), _FIT),
    "+ attention": _procedure(_PAPER, _FIT),
    "+ SupCon": _procedure(_PAPER, replace(_FIT, contrast="supcon")),
    "+ FSCL: the paper's": _procedure(_PAPER, replace(_FIT, contrast="fscl")),
    "+ maximum": _procedure(_MIXED, replace(_FIT, contrast="fscl")),
    REFERENCE: _procedure(_NETWORK, replace(_FIT, contrast="fscl")),
    "apart, no contrast": _procedure(_NETWORK, _FIT),
    "mixed, no contrast": _procedure(_MIXED, _FIT),
    "CNN, max": _procedure(replace(_CNN, pooling="mean_max"), _FIT),
    "minority": _procedure(_MIXED, replace(_FIT, contrast="supervised_minority", views=2)),
    "prototypes": _procedure(_MIXED, replace(_FIT, contrast="supervised_prototypes")),
}
ABLATION_NOTE = (
    f"From *CNN* (one branch of {_CNN.channels} channels, focal cross-entropy) each row adds one piece of the paper (arXiv "
    "2606.06718) to the row above, all leads mixed by the first convolution. *+ maximum* (ours) adds the maximum over time "
    f"beside the mean, and *{REFERENCE}*, which ships, reads each of the eight independent leads by itself, all with the same "
    "weights, until the projection (ours). *apart, no contrast* is that without the contrastive loss. The other rows change "
    "*+ maximum*: *mixed, no contrast* has no contrastive loss, *CNN, max* that neither and the plain CNN in place of the "
    "branches; *minority* and *prototypes* have one of the two fixes for binary imbalance of arXiv 2503.17024 in place of FSCL "
    "(*minority* with two views of each record)."
)

_SHORT = replace(ABLATION[REFERENCE].fit, epochs=18, learning_rate=2e-3)


def _design(network: MSAICConfig, **fit: Any) -> Procedure:
    return Procedure(network, replace(_SHORT, **fit))


DESIGN: dict[str, Procedure] = {
    REFERENCE: _design(_NETWORK),
    "8 channels": _design(replace(_NETWORK, channels=8)),
    "24 channels": _design(replace(_NETWORK, channels=24)),
    "2 blocks": _design(replace(_NETWORK, blocks=2)),
    "dilations 1, 2, 4": _design(replace(_NETWORK, dilations=(1, 2, 4))),
    "250 Hz": _design(_at_rate(250), augmentation=_crop_at_rate(250)),
    "500 Hz": _design(_at_rate(500), augmentation=_crop_at_rate(500)),
    "seed 1": _design(_NETWORK, seed=1),
}
"""What could be another way, each trained half as long at one learning rate: differences count here, not figures."""

DESIGN_PREPROCESSING = {
    "250 Hz": Preprocessing(rate_hz=250, high_hz=100.0),
    "500 Hz": Preprocessing(rate_hz=500, high_hz=150.0),
}
"""Bands as wide as the rate deserves; 0.05-150 Hz is what diagnostic recorders keep (Kligfield et al. 2007)."""

ENSEMBLES = {"mean of 2 seeds": (REFERENCE, "seed 1")}

PEERS: dict[str, Procedure] = {
    name: Procedure(KINDS[kind](), _FIT, rates)
    for name, kind, rates in (
        ("ResNet1d (Wang)", "resnet1d_wang", RATES),
        ("xResNet1d-101", "xresnet1d", RATES),
        ("LSTM", "lstm", RATES),
        ("CNN-LSTM", "cnn_lstm", RATES),
        ("Transformer", "transformer", SLOW_RATES),
        ("S4D", "s4d", RATES),
    )
}

PEERS_NOTE = (
    "Peers are trained with the focal cross-entropy alone. *ResNet1d (Wang)* has its published size (arXiv 1611.06455), "
    "*xResNet1d-101* 48 channels where the benchmark of arXiv 2004.13701 has 64; the others are sized for two processor cores."
)

BEST_PEER = "ResNet1d (Wang)"
"""Of the peers, the one that ranked best in the tables; it is cross-validated fold by fold, as what ships is."""
