"""Every kind of network by its name: MSAIC-Net, which ships, and the peers that it is compared with."""

from __future__ import annotations

from typing import Any

from screening.model.classifier import NetworkConfig
from screening.model.msaic import MSAICConfig
from screening.model.peers.recurrent import CNNLSTMConfig, LSTMConfig
from screening.model.peers.resnet import ResNetWangConfig, XResNetConfig
from screening.model.peers.state_space import S4DConfig
from screening.model.peers.transformer import TransformerConfig

KINDS: dict[str, type[NetworkConfig]] = {
    config.kind: config
    for config in (
        MSAICConfig,
        ResNetWangConfig,
        XResNetConfig,
        LSTMConfig,
        CNNLSTMConfig,
        TransformerConfig,
        S4DConfig,
    )
}


def config_from_json(value: dict[str, Any]) -> NetworkConfig:
    """Return the configuration that ``NetworkConfig.to_json`` wrote.

    Raises
    ------
    ValueError
        For an unknown kind.
    TypeError
        For an unknown key.
    """
    kind = value.get("kind", MSAICConfig.kind)  # bundles of schema 1 name none
    if kind not in KINDS:
        raise ValueError(f"unknown network {kind!r}; known are {', '.join(KINDS)}")
    return KINDS[kind].from_json(value)
