"""How many scorers are started, and what share of a GPU each gets."""

from __future__ import annotations

import pytest

from screening.errors import UserError
from screening.run.scorers import gpus_for, workers_for
from screening.settings import RunSettings

CLUSTER = {"CPU": 8.0, "GPU": 2.0}


@pytest.mark.parametrize(
    ("device", "wanted", "started"),
    [("cpu", None, 8), ("cuda", None, 2), ("cuda", 8, 8), ("cpu", 5, 5)],
)
def test_one_a_core_or_one_a_gpu_unless_told(device: str, wanted: int | None, started: int) -> None:
    assert workers_for(RunSettings(workers=wanted), device, CLUSTER) == started


def test_more_than_there_is_place_for() -> None:
    with pytest.raises(UserError, match=r"--workers 9 is more than 4 for each of the 2 GPUs of this Ray; lower it"):
        workers_for(RunSettings(workers=9), "cuda", CLUSTER)
    with pytest.raises(UserError, match=r"--workers 16 leaves no CPU for reading: this Ray has 8 CPUs, so at most 15"):
        workers_for(RunSettings(workers=16), "cpu", CLUSTER)


@pytest.mark.parametrize(("workers", "share"), [(1, 1), (2, 1), (3, 0.5), (4, 0.5), (5, 1 / 3), (8, 0.25)])
def test_scorers_share_gpus_so_that_all_have_one(workers: int, share: float) -> None:
    assert gpus_for(workers, 2) == share
    whole = int(1 / share)
    assert workers <= 2 * whole
