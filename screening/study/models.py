"""What is compared: the steps from a plain CNN to MSAIC-Net, and its peers, all in one harness.

Every model gets the same records, augmentation, batches, epochs and tuning: three learning rates a split, each tried for a
short schedule, the best trained in full, its best epoch by the tuning fold. A peer's grid is centred where its own authors
train it or, for want of that, where MSAIC-Net's is.
"""

from __future__ import annotations

from dataclasses import replace

from screening.model.msaic import MSAICConfig
from screening.model.networks import KINDS
from screening.train.fit import FitSettings
from screening.train.procedure import RATES, Procedure

SLOW_RATES = (3e-4, 1e-3, 3e-3)  # attention and recurrence want less
REFERENCE = "MSAIC-Net"
"""The model that the others are compared with."""

_NETWORK = MSAICConfig()
# One branch of twice the channels: the multiplications of a layer are those of the four branches together.
_CNN = MSAICConfig(dilations=(1,), channels=2 * _NETWORK.channels, attention_kernel=None)
_FIT = FitSettings(contrast="none")


def _procedure(network: MSAICConfig, fit: FitSettings) -> Procedure:
    return Procedure(network, fit, RATES)


ABLATION: dict[str, Procedure] = {
    "CNN": _procedure(_CNN, _FIT),
    "+ multi-scale": _procedure(replace(_NETWORK, attention_kernel=None), _FIT),
    "+ attention": _procedure(_NETWORK, _FIT),
    "+ SupCon": _procedure(_NETWORK, replace(_FIT, contrast="supcon")),
    REFERENCE: _procedure(_NETWORK, replace(_FIT, contrast="fscl")),
    "minority": _procedure(_NETWORK, replace(_FIT, contrast="supervised_minority", views=2)),
    "prototypes": _procedure(_NETWORK, replace(_FIT, contrast="supervised_prototypes")),
}
"""Each step adds one piece of the paper to the one before; the last two put another loss in place of FSCL."""

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
