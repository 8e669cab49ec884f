"""How many scorers a run has, and what each takes of the machines; without Ray, so that it is known before Ray Data loads."""

from __future__ import annotations

from collections.abc import Mapping

from screening.errors import UserError
from screening.settings import RunSettings

# Shares of a core. On CPUs, where both are the same, Ray Data fuses the stages: each scorer reads and decodes its own shards,
# and no block goes through the object store. With a GPU decoders are tasks of their own. They always have CPUs left, so that
# actors cannot starve them (a pool that takes every CPU hangs Ray Data).
SCORER_CPUS = DECODER_CPUS = 0.5
SCORERS_A_GPU = 4
"""At most: one copies and writes while another's network runs."""


def workers_for(settings: RunSettings, device: str, resources: Mapping[str, float]) -> int:
    """Return how many scorers a run is to have on a Ray with these resources; UserError where it has no place for them."""
    gpu = device == "cuda"
    cpus = resources.get("CPU", 1.0)
    workers = settings.workers or int(resources["GPU"] if gpu else cpus)
    if gpu and workers > SCORERS_A_GPU * int(resources["GPU"]):
        raise UserError(
            f"--workers {workers} is more than {SCORERS_A_GPU} for each of the {resources['GPU']:g} GPUs of this Ray; lower it"
        )
    if workers * (0.0 if gpu else SCORER_CPUS) + DECODER_CPUS > cpus:
        most = int((cpus - DECODER_CPUS) / SCORER_CPUS)
        raise UserError(f"--workers {workers} leaves no CPU for reading: this Ray has {cpus:g} CPUs, so at most {most}")
    return workers


def gpus_for(workers: int, gpus: int) -> float:
    """Return the share of a GPU that each scorer gets, so that there is one for all."""
    return 1 / max(1, -(-workers // gpus))
