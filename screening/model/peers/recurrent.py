"""Recurrent networks: an LSTM on patches of the ECG, and one on the features of a small convolutional network.

Strodthoff et al. 2021 (arXiv 2004.13701) run two bidirectional LSTM layers (Hochreiter and Schmidhuber 1997) on every
sample. On CPUs those steps, one after the other, are too slow, so both networks shorten the series first: ``lstm`` by one
linear projection of patches, ``cnn_lstm`` by convolutions of stride 2. Pooling is their concatenated one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from screening.model.classifier import Classifier, NetworkConfig
from screening.model.peers.convolutional import concat_pool, convolution


@dataclass(frozen=True)
class LSTMConfig(NetworkConfig):
    """What ``lstm`` is made of."""

    kind: ClassVar[str] = "lstm"

    patch: int = 10  # samples a step: 0.1 s at 100 Hz; a shorter rest at the end is dropped
    channels: int = 128  # of a projected patch
    hidden: int = 128  # a direction
    layers: int = 2
    dropout: float = 0.2  # between the layers

    def build(self) -> LSTMNet:
        """Return a network with random weights."""
        return LSTMNet(self)


@dataclass(frozen=True)
class CNNLSTMConfig(NetworkConfig):
    """What ``cnn_lstm`` is made of."""

    kind: ClassVar[str] = "cnn_lstm"

    channels: tuple[int, ...] = (64, 128, 128)  # a convolution each, of stride 2: 100 Hz -> 12.5 Hz
    kernel: int = 7
    hidden: int = 96  # a direction
    dropout: float = 0.1  # of whole channels after each convolution

    def build(self) -> CNNLSTMNet:
        """Return a network with random weights."""
        return CNNLSTMNet(self)


class LSTMNet(Classifier):
    """Linear patches, bidirectional LSTM layers, concatenated pooling.

    Parameters
    ----------
    config : LSTMConfig
        What the network is made of.
    """

    def __init__(self, config: LSTMConfig | None = None) -> None:
        config = config or LSTMConfig()
        super().__init__(config, 4 * config.hidden)
        self.patches = nn.Conv1d(config.leads, config.channels, config.patch, stride=config.patch)
        self.lstm = nn.LSTM(
            config.channels,
            config.hidden,
            config.layers,
            batch_first=True,
            bidirectional=True,
            dropout=config.dropout if config.layers > 1 else 0.0,
        )

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, 4 hidden)."""
        x = self.patches(x_mV / self.config.scale_mV)  # (b, leads, T) -> (b, c, t)
        x, _ = self.lstm(x.transpose(1, 2))  # (b, t, c) -> (b, t, 2 hidden)
        return concat_pool(x.transpose(1, 2))  # (b, 2 hidden, t) -> (b, 4 hidden)


class CNNLSTMNet(Classifier):
    """Strided convolutions, one bidirectional LSTM layer, concatenated pooling.

    Parameters
    ----------
    config : CNNLSTMConfig
        What the network is made of.
    """

    def __init__(self, config: CNNLSTMConfig | None = None) -> None:
        config = config or CNNLSTMConfig()
        super().__init__(config, 4 * config.hidden)
        self.convolutions = nn.Sequential()
        inputs = config.leads
        for channels in config.channels:
            self.convolutions.extend(
                [
                    convolution(inputs, channels, config.kernel, stride=2),
                    nn.ReLU(inplace=True),
                    nn.Dropout1d(config.dropout),
                ]
            )
            inputs = channels
        self.lstm = nn.LSTM(inputs, config.hidden, batch_first=True, bidirectional=True)

    def features(self, x_mV: Tensor) -> Tensor:
        """Return the pooled features: (b, leads, T) in filtered mV -> (b, 4 hidden)."""
        x = self.convolutions(x_mV / self.config.scale_mV)  # (b, leads, T) -> (b, c, t)
        x, _ = self.lstm(x.transpose(1, 2))  # (b, t, c) -> (b, t, 2 hidden)
        return concat_pool(x.transpose(1, 2))  # (b, 2 hidden, t) -> (b, 4 hidden)
