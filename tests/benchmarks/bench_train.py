"""Training: bfloat16 against float32, two Ray Train workers against one process, a GPU against the CPU.

    python -m tests.benchmarks.bench_train [--records N] [--epochs E] [--rounds R] [--json OUT]

Every contender is a process of its own and they take turns, so that whatever else the machine does meets all alike. Each
trains the network and the settings that ship on the same made-up recordings at 100 Hz, which are as good as real ones
here, and

    rate = records x (epochs - 1) / (end of the last epoch - end of the first)

so that start-up (the interpreter, Ray, its workers, the first batches) does not count; it is told beside. An epoch is all
of it: batches, augmentation, steps, scoring the tuning records, keeping the state. One process has all cores; the two
workers have half of them each.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.benchmarks.contenders import Failed, timed
from tests.benchmarks.table import Report, Row, Spread, machine, show, spread, write_json

RECORDS, TUNE_RECORDS, EPOCHS, ROUNDS = 2048, 256, 4, 3
WORKERS = 2
CONTENDERS = ("float32", "bfloat16", "workers", "gpu")


def made_up(records: int, seed: int) -> SimpleNamespace:
    """Return noise of the shape of recordings, one in four with infarction."""
    rng = np.random.default_rng(seed)
    target = (np.arange(records) % 4 == 0).astype(np.int8)
    signals = rng.normal(0, 0.2, (records, 12, 1000)).astype(np.float32)
    signals[:, 7] += 0.1 * target[:, None]
    return SimpleNamespace(signals_mV=signals, target=target, label=np.where(target == 1, "MI", "NORM"))


def contend(name: str, records: int, epochs: int) -> None:
    """Train as contender ``name`` and print when it began and when each epoch ended, in seconds of the wall clock."""
    from screening.train import loop
    from screening.train.assemble import TrainSettings

    train, tune = made_up(records, 0), made_up(TUNE_RECORDS, 1)
    precision = name if name in ("float32", "bfloat16") else "auto"
    settings = TrainSettings(workers=WORKERS, resources={"CPU": max(1, (os.cpu_count() or WORKERS) // WORKERS)})
    settings = settings.model_copy(update={"fit": replace(settings.fit, epochs=epochs, precision=precision)})
    ends: list[float] = []

    def epoch(_number: int, _numbers: Mapping[str, float]) -> None:
        ends.append(time.time())

    with tempfile.TemporaryDirectory(prefix="screening-bench-") as folder:
        begun = time.time()
        if name == "workers":
            loop.fit_on_ray(train, tune, settings, folder=Path(folder), name="bench", device="cpu", on_epoch=epoch)
        else:
            device = "cuda" if name == "gpu" else "cpu"
            loop.fit_here(train, tune, settings, folder=Path(folder), device=device, on_epoch=epoch)
    print(json.dumps({"begun": begun, "ends": ends}))


def rows(rates: Mapping[str, list[float]], starts: Mapping[str, list[float]], alone: str) -> list[Row]:
    """Return the comparisons; ``alone`` is which contender one process is by default."""

    def ratio(ours: str, theirs: str) -> Spread:
        return spread(a / b for a, b in zip(rates[ours], rates[theirs], strict=True))

    def said(name: str) -> str:
        return f"{spread(rates[name])} records/s in {name}"

    one = (
        f"{spread(rates[alone])} records/s in one process ({alone}), {spread(starts[alone])} s to the first epoch's end"
    )
    found = [
        Row(
            "training, bfloat16 / float32, records/s",
            ratio("bfloat16", "float32"),
            said("bfloat16"),
            said("float32"),
            "convolutions"
            if alone == "bfloat16"
            else "a processor without bfloat16, which emulates it; training chooses float32 here",
        ),
        Row(
            f"training, {WORKERS} Ray Train workers / one process, records/s",
            ratio("workers", alone),
            f"{spread(rates['workers'])} records/s, {spread(starts['workers'])} s to the first epoch's end",
            one,
            "averaging gradients, scoring in one worker, a checkpoint and two waits for the controller an epoch",
        ),
    ]
    if "gpu" in rates:
        found.append(
            Row(
                "training, GPU / one process on the CPU, records/s",
                ratio("gpu", alone),
                f"{spread(rates['gpu'])} records/s",
                one,
                "small batches, and augmentation's random numbers, which are drawn on the CPU",
            )
        )
    return found


def measure(*, records: int = RECORDS, epochs: int = EPOCHS, rounds: int = ROUNDS) -> Report:
    """Measure all contenders that this machine has.

    Raises
    ------
    Failed
        A contender did not do its work, or there are too few epochs to tell the rate.
    """
    import torch

    from screening.train.fit import uses_bfloat16

    if epochs < 2:
        raise Failed("the rate is told from the epochs after the first; take two or more")
    alone = "bfloat16" if uses_bfloat16("auto", torch.device("cpu")) else "float32"
    rates: dict[str, list[float]] = defaultdict(list)
    starts: dict[str, list[float]] = defaultdict(list)
    names = [name for name in CONTENDERS if name != "gpu" or torch.cuda.is_available()]
    for turn in range(rounds):
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            arguments = ["--contender", name, "--records", str(records), "--epochs", str(epochs)]
            told: dict[str, Any] = json.loads(timed("tests.benchmarks.bench_train", arguments).stdout.splitlines()[-1])
            ends = told["ends"]
            rates[name].append(records * (epochs - 1) / (ends[-1] - ends[0]))
            starts[name].append(ends[0] - told["begun"])
            print(f"  round {turn + 1}: {name}: {rates[name][-1]:.0f} records/s", file=sys.stderr)
    figures = {"records_a_second": dict(rates), "seconds_to_first_epoch": dict(starts)}
    figures |= {"records": records, "epochs": epochs}
    return Report("train", tuple(rows(rates, starts, alone)), figures)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--records", type=int, default=RECORDS, help="of an epoch [%(default)s]")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write everything measured here, too")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.contender:
        contend(options.contender, options.records, options.epochs)
        return
    where = machine()
    try:
        report = measure(records=options.records, epochs=options.epochs, rounds=options.rounds)
    except Failed as error:
        sys.exit(f"Error: {error}")
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
