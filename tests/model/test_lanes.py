"""Logits of a stream come out in order, whatever the lanes; on a GPU as without lanes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from screening.model.bundle import PRETRAINED, load_bundle
from screening.model.lanes import GPU_LANES, CpuLane, lanes_for, logits_through

SHAPE = (4, 12, 1000)


class Slow:
    """A lane that keeps what it was given until it is asked, as a GPU does."""

    log: list[str]

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log, self.held = name, log, [0.0]

    def begin(self, signals_mV: Sequence[np.ndarray]) -> None:
        self.log.append(f"begin {self.name}")
        self.held = [float(signal[0, 0]) for signal in signals_mV]

    def collect(self) -> list[float]:
        self.log.append(f"collect {self.name}")
        return self.held


def numbered(count: int) -> list[np.ndarray]:
    return [np.full((12, 5), number, np.float32) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 23])
@pytest.mark.parametrize("lanes", [1, 2, 3])
def test_a_stream_comes_out_in_order(count: int, lanes: int) -> None:
    log: list[str] = []
    through = logits_through([Slow(str(number), log) for number in range(lanes)], 4)
    for _ in range(2):  # and leaves nothing behind for the next
        assert list(through(iter(numbered(count)))) == list(range(count))


def test_the_next_batch_is_begun_before_the_last_is_waited_for() -> None:
    log: list[str] = []
    list(logits_through([Slow("a", log), Slow("b", log)], 4)(numbered(12)))
    assert log == ["begin a", "begin b", "collect a", "begin a", "collect b", "collect a"]


def test_padding_changes_no_logit() -> None:
    bundle = load_bundle(PRETRAINED)
    network, x = bundle.network().for_scoring(), bundle.golden()["x"]
    lane = CpuLane(network, SHAPE)
    lane.begin(list(x[:4]))
    whole = lane.collect()
    lane.begin(list(x[:2]))
    assert lane.collect() == whole[:2], "what the batch before left must not count"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_a_gpu_gives_what_the_network_gives() -> None:
    torch.backends.cudnn.allow_tf32 = False
    bundle = load_bundle(PRETRAINED)
    network, x = bundle.network("cuda").for_scoring(), np.resize(bundle.golden()["x"], (11, 12, 1000))
    lanes = lanes_for(network, SHAPE, "cuda")
    assert len(lanes) == GPU_LANES
    found = list(logits_through(lanes, SHAPE[0])(x))
    with torch.inference_mode():
        expected = network(torch.from_numpy(x).cuda()).cpu().numpy()
    np.testing.assert_allclose(found, expected, atol=bundle.tolerance["float32"], rtol=0)
