"""What explaining a record costs: against scoring it as often, and against captum on the same task.

The task is the paper's: each of 12 leads taken from each of K donors. Side by side in every round, on one core:

- ours, as a run does it, with the shipped network (leads apart) and with the network of the paper's kind (leads mixed);
- 12 K plain forwards of ECGs that are there already: what a perfect implementation without reuse would take;
- captum's FeatureAblation (one donor after the other as its baseline) and FeaturePermutation (which takes leads from other
  records of the batch): lead by lead with a feature mask.

And for the rest of what a run does: territories (all 15 exchanges of each donor) and waves, a record. Donors are taken as they
are, except in those, which lay beats on each other. Weights do not matter to the time, so that the networks are untrained.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from captum.attr import FeatureAblation, FeaturePermutation
from torch import nn

from screening.attribution.beats import delineate, wave_masks
from screening.attribution.permutation import importances
from screening.attribution.retiming import Lender
from screening.attribution.swaps import swap_scorer
from screening.contract import N_LEADS
from screening.model.msaic import MSAICConfig
from screening.run.fingerprint import CPU_BATCH
from screening.signal.preprocess import Preprocessing, preprocess
from screening.signal.simulate import SimulationSettings, simulate

RATE_HZ, SAMPLES = 100, 1000


def ecgs(count: int) -> np.ndarray:
    """Return simulated ECGs as the network reads them, float32 (count, 12, 1000)."""
    settings = SimulationSettings(records=count, prevalence=0.5, seed=5)
    return preprocess(simulate(range(count), settings).signal_mV, settings.rate_hz, Preprocessing())


def seconds(work: Callable[[], object]) -> float:
    """Return the processor's seconds that ``work`` takes."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=int, default=16)
    parser.add_argument("--donors", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    n, k = options.records, options.donors
    signals = ecgs(n + 2 * k)
    records, lent = signals[:n], signals[n:]
    x, others = torch.from_numpy(records), torch.from_numpy(lent[:k])
    mask = torch.arange(N_LEADS)[None, :, None].expand(1, N_LEADS, SAMPLES)
    orders = [np.arange(k)] * n
    lenders = [Lender(signal, delineate(signal, RATE_HZ), RATE_HZ) for signal in lent]
    networks = {
        "leads apart": MSAICConfig().build().for_scoring(),
        "leads mixed": MSAICConfig(leads_apart=False, channels=48, projection_channels=128).build().for_scoring(),
    }

    def ours(network: nn.Module, operators: list[str], *, lay: bool = False) -> None:
        scorer = swap_scorer(network, lent, device="cpu", batch_size=CPU_BATCH)
        beats = [delineate(signal, RATE_HZ) for signal in records] if lay else []
        masks = [wave_masks(of, RATE_HZ, SAMPLES) for of in beats]

        def laid(record: int, donor: int) -> tuple[np.ndarray, np.ndarray]:
            over = lenders[donor].laid_on(records[record], beats[record])
            assert over is not None
            return over, masks[record]

        taken = scorer.take(records)
        importances(scorer, operators, taken, [0.0] * n, orders, most=k, target_se=0.0, laid=laid if lay else None)

    def forwards(network: nn.Module) -> None:
        ready = x[:1].repeat(CPU_BATCH, 1, 1)
        with torch.inference_mode():
            for _ in range(n * N_LEADS * k // CPU_BATCH):
                network(ready)

    def ablated(network: nn.Module) -> None:
        by_lead = FeatureAblation(network)
        with torch.inference_mode():
            for donor in others:
                by_lead.attribute(
                    x, baselines=donor[None].expand_as(x), feature_mask=mask, perturbations_per_eval=N_LEADS
                )

    def permuted(network: nn.Module) -> None:
        by_lead = FeaturePermutation(network)
        with torch.inference_mode():
            for _ in range(k):
                by_lead.attribute(x, feature_mask=mask)

    tasks: dict[str, Callable[[], object]] = {}
    for name, network in networks.items():
        tasks |= {
            f"{name}: ours": lambda network=network: ours(network, ["lead"]),
            f"{name}: plain forwards": lambda network=network: forwards(network),
            f"{name}: captum FeatureAblation": lambda network=network: ablated(network),
            f"{name}: captum FeaturePermutation": lambda network=network: permuted(network),
            f"{name}: ours, lead + territory, beats laid": lambda network=network: ours(
                network, ["lead", "territory"], lay=True
            ),
            f"{name}: ours, lead + territory + wave": lambda network=network: ours(
                network, ["lead", "territory", "wave"], lay=True
            ),
        }
    found: dict[str, list[float]] = {task: [] for task in tasks}
    for work in tasks.values():
        work()  # once, so that nothing is made ready in a round
    for _ in range(options.rounds):
        for task, work in tasks.items():
            found[task].append(1000 * seconds(work) / n)
    print(f"{n} records, {k} donors, milliseconds a record on one core: median (range); ratio to plain forwards")
    for name in networks:
        plain = found[f"{name}: plain forwards"]
        for task in (task for task in tasks if task.startswith(name)):
            ratios = [one / other for one, other in zip(plain, found[task], strict=True)]
            print(
                f"{task:<55} {statistics.median(found[task]):8.1f} ({min(found[task]):.1f}-{max(found[task]):.1f})"
                f"  {statistics.median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
            )
    print(json.dumps({"records": n, "donors": k, "ms_per_record": found}))


if __name__ == "__main__":
    main()
