"""Networks whose weights are random, in all or in the classifier alone.

Explanations that do not change with the weights do not explain them (Adebayo et al., Sanity Checks for Saliency Maps, 2018,
arXiv 1810.03292).
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from screening.model.classifier import Classifier


def all_random(network: Classifier, seed: int) -> Classifier:
    """Return a network of the same kind with random weights, on the same device, in evaluation mode."""
    device = next(network.parameters()).device
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return network.config.build().to(device).eval()


def classifier_random(network: Classifier, seed: int) -> Classifier:
    """Return the network with the weights of its classifier random, on the same device, in evaluation mode."""
    other = all_random(network, seed)
    kept = {name: value for name, value in network.state_dict().items() if not name.startswith("classifier.")}
    other.load_state_dict(kept, strict=False)
    return other


RANDOMISED: dict[str, Callable[[Classifier, int], Classifier]] = {
    "all weights random": all_random,
    "classifier random": classifier_random,
}
