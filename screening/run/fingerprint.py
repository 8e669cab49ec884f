"""Numerics fingerprint: within one, a record's row has the same bytes; across two, the same to float tolerance."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import Any

import numpy
import pyarrow
import scipy
from numpy._core._multiarray_umath import __cpu_features__  # type: ignore[import-not-found]  # named in numpy's guide to its dispatcher

import screening

CPU_BATCH = 32
GPU_BATCH = 256  # a shard, so that no batch is half empty
THREADS_PER_WORKER = 1
"""Cores are filled by workers, not by threads: sums of several threads may change order from run to run."""


def choose_device(wanted: str) -> str:
    """Return ``cuda`` or ``cpu`` for a setting of ``auto``, ``cuda`` or ``cpu``."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if wanted == "auto" else wanted


def numerics_fingerprint(device: str, *, batch_size: int | None = None) -> dict[str, Any]:
    """Return what the last bits of a score depend on, here and now, as JSON-able facts."""
    if device == "cuda":
        import torch

        hardware = torch.cuda.get_device_name()
    else:
        # What numpy tells of the processor, not torch: a driver starts seconds earlier without it.
        known = [name for name, found in __cpu_features__.items() if found]
        hardware = " ".join([platform.machine(), *known[-1:]])
    return {
        "device": device,
        "hardware": hardware,
        "dtype": "float32",
        "threads": THREADS_PER_WORKER,
        "batch_size": batch_size or (GPU_BATCH if device == "cuda" else CPU_BATCH),
        "screening": screening.__version__,
        "torch": version("torch"),
        "numpy": numpy.__version__,
        "scipy": scipy.__version__,
        "pyarrow": pyarrow.__version__,
    }
