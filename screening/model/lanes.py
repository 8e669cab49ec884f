"""A stream of ECGs through a network in padded batches of one shape; on a GPU a batch is copied while another is computed.

The batch shape never varies, because libraries choose their algorithms, and so the last bits, by shape.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

if TYPE_CHECKING:
    from screening.model.classifier import Classifier

GPU_LANES = 2
"""One is filled and copied while the other's batch is computed."""
_WARM_UP = 3
"""Batches before a CUDA graph is recorded: cuDNN chooses its algorithms with the first, and memory is at hand after it."""


class Lane(Protocol):
    """Takes one batch at a time."""

    def begin(self, signals_mV: Sequence[np.ndarray]) -> None:
        """Set to work on (leads, samples) arrays, at most a batch of them; what was begun before has been collected."""

    def collect(self) -> list[float]:
        """Wait for the logits of what was begun."""


def lanes_for(network: Classifier, shape: tuple[int, int, int], device: str) -> list[Lane]:
    """Return the lanes for batches of a shape (b, leads, samples) on a device, where the network is."""
    if device == "cpu":
        return [CpuLane(network, shape)]
    return [GpuLane(network, shape, device) for _ in range(GPU_LANES)]


def logits_through(lanes: Sequence[Lane], batch_size: int) -> Callable[[Iterable[np.ndarray]], Iterator[float]]:
    """Return a function from a stream of (leads, samples) arrays to their logits, in order; its lanes take turns."""

    def logits(signals_mV: Iterable[np.ndarray]) -> Iterator[float]:
        stream = iter(signals_mV)
        free, busy = deque(lanes), deque[Lane]()
        while chunk := list(islice(stream, batch_size)):
            if not free:
                yield from (lane := busy.popleft()).collect()
                free.append(lane)
            lane = free.popleft()
            lane.begin(chunk)
            busy.append(lane)
        for lane in busy:
            yield from lane.collect()

    return logits


class CpuLane:
    """Computes at once."""

    def __init__(self, network: Classifier, shape: tuple[int, int, int]) -> None:
        self.network, self.batch = network, torch.zeros(shape)
        self.found: list[float] = []

    def begin(self, signals_mV: Sequence[np.ndarray]) -> None:
        """Compute the logits."""
        _fill(self.batch, signals_mV)
        with torch.inference_mode():
            self.found = self.network(self.batch)[: len(signals_mV)].float().tolist()

    def collect(self) -> list[float]:
        """Return them."""
        return self.found


class GpuLane:
    """Copies from pinned memory and computes on a CUDA stream of its own; a batch is the replay of a recorded graph.

    A graph launches in one call the same kernels that the network would launch one by one, which for a network as small as
    MSAIC-Net takes longer than what they compute.
    """

    def __init__(self, network: Classifier, shape: tuple[int, int, int], device: str) -> None:
        self.host, self.logits_host = torch.zeros(shape, pin_memory=True), torch.zeros(shape[0], pin_memory=True)
        self.x = torch.zeros(shape, device=device)
        self.stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self.done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self.graph = torch.cuda.CUDAGraph()
        self.signals = 0
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.no_grad(), torch.cuda.stream(self.stream):
            for _ in range(_WARM_UP):
                network(self.x)
        self.stream.synchronize()
        with torch.no_grad(), torch.cuda.graph(self.graph, stream=self.stream):
            self.logits = network(self.x).float()

    def begin(self, signals_mV: Sequence[np.ndarray]) -> None:
        """Fill the pinned batch, and queue its copy, the graph and the copy back; returns at once."""
        self.signals = len(signals_mV)
        _fill(self.host, signals_mV)
        with torch.cuda.stream(self.stream):
            self.x.copy_(self.host, non_blocking=True)
            self.graph.replay()
            self.logits_host.copy_(self.logits, non_blocking=True)
            self.done.record()

    def collect(self) -> list[float]:
        """Wait for the copy back."""
        self.done.synchronize()
        found: list[float] = self.logits_host[: self.signals].tolist()
        return found


def _fill(batch: torch.Tensor, signals_mV: Sequence[np.ndarray]) -> None:
    """Write signals into a batch and zeros behind them."""
    count = len(signals_mV)
    np.stack(signals_mV, out=batch.numpy()[:count])
    batch[count:] = 0
