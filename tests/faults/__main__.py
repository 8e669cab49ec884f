"""``python -m tests.faults``: screen an archive while processes and nodes are killed, and compare with an undisturbed run.

Each round screens the same archive into a new folder, while faults befall it at random moments; whenever its process ended, the
same command is started again. What came of it is compared, byte by byte, with an undisturbed run, with the catalog, and by
``screening verify``. Rounds go on until so many faults were survived; the exit status is 1 where one was not.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.faults.place import Place, make_place
from tests.faults.rounds import Befallen, Round, Violation
from tests.faults.world import FAULTS

KINDS = (*FAULTS, "stopped", "node")
WEIGHTS = {
    "driver": 3,
    "actor": 4,
    "decoder": 4,
    "node": 3,
    "raylet": 2,
    "gcs": 1,
    "term": 2,
    "interrupt": 2,
    "stopped": 1,
}
A_ROUND = 6
"""Faults a round at most: the start of Ray costs as long as many shards."""


@dataclass
class Tally:
    """What has come of all rounds."""

    befallen: list[Befallen] = field(default_factory=list)
    lost: dict[str, int] = field(default_factory=dict)
    duplicates: dict[str, int] = field(default_factory=dict)
    rounds: int = 0
    wrong: list[str] = field(default_factory=list)


def endure(
    place: Place, undisturbed: Path, folder: Path, kinds: Sequence[str], rng: random.Random, **more: Any
) -> Tally:
    """Let faults of these kinds, in this order, befall runs of ``place`` until all have; nodes in rounds of their own."""
    tally = Tally()
    waiting = list(kinds)
    idle = 0
    while waiting and not tally.wrong:
        # Rounds on three nodes, where decoders are processes of their own, and rounds on a Ray of the run's own.
        on_nodes = waiting[0] == "node"
        fit = {"node", "actor", "decoder", "driver"} if on_nodes else set(KINDS) - {"node"}
        chosen = [kind for kind in waiting if kind in fit][:A_ROUND]
        for kind in chosen:
            waiting.remove(kind)
        apart = on_nodes or tally.rounds % 2 == 0
        here = replace(place, module="tests.faults.apart" if apart else "screening")
        with nodes() if on_nodes else _no_nodes() as (cluster, address):
            one = Round(here, folder / f"round-{tally.rounds}", rng, address=address, cluster=cluster, **more)
            try:
                left = one.undergo(chosen)
                finding = one.check(undisturbed)
            except Violation as error:
                tally.wrong.append(f"round {tally.rounds} ({', '.join(chosen)}): {error}")
                break
        waiting += left
        tally.rounds += 1
        tally.befallen += one.befallen
        for kind in {fault.kind for fault in one.befallen}:
            tally.lost[kind] = tally.lost.get(kind, 0) + finding.lost
            tally.duplicates[kind] = tally.duplicates.get(kind, 0) + finding.duplicates
        tally.wrong += [f"round {tally.rounds - 1} ({', '.join(chosen)}): {what}" for what in finding.wrong]
        idle = 0 if one.befallen else idle + 1
        if idle > 2:  # a run may be over before its moment comes, but not again and again
            tally.wrong.append(f"round {tally.rounds - 1}: {', '.join(chosen)} found nothing to befall")
        if finding.lost or finding.duplicates:
            tally.wrong.append(f"round {tally.rounds - 1}: {finding.lost} lost, {finding.duplicates} twice")
        said = ", ".join(f"{fault.kind} {fault.seconds or 0:.0f} s" for fault in one.befallen)
        print(f"round {tally.rounds - 1}: {said}; {len(tally.befallen)} faults so far", file=sys.stderr, flush=True)
    return tally


@contextmanager
def nodes() -> Any:
    """Start a cluster of three nodes, one CPU each, and end it; yields it and the options that name it."""
    # Read when Ray is loaded; by drivers, workers and nodes alike.
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    os.environ["RAY_BACKEND_LOG_LEVEL"] = "fatal"
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        yield cluster, ("--address", cluster.address)
    finally:
        cluster.shutdown()


@contextmanager
def _no_nodes() -> Any:
    yield None, ()


def table(tally: Tally) -> str:
    """Return the table by kind of fault."""
    rows = ["| killed or stopped | faults | went on by itself | resumed | records lost | duplicates | median seconds |"]
    rows.append("|---|---:|---:|---:|---:|---:|---:|")
    for kind in KINDS:
        of = [fault for fault in tally.befallen if fault.kind == kind]
        if of:
            within = sum(not fault.resumes for fault in of)
            seconds = statistics.median(fault.seconds or 0 for fault in of)
            rows.append(
                f"| {kind} | {len(of)} | {within} | {len(of) - within} | {tally.lost[kind]} | {tally.duplicates[kind]} "
                f"| {seconds:.0f} |"
            )
    return "\n".join(rows)


def plan_of_faults(faults: int, kinds: Sequence[str], rng: random.Random) -> list[str]:
    """Return kinds of faults in random order, each kind at least once where there are so many."""
    drawn = list(kinds[:faults]) + rng.choices(kinds, [WEIGHTS[kind] for kind in kinds], k=max(0, faults - len(kinds)))
    rng.shuffle(drawn)
    return drawn


def main() -> int:
    """Run the harness."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__.splitlines()[0])
    parser.add_argument("--faults", type=int, default=50)
    parser.add_argument("--seed", type=int, default=1, help="of the kinds and the moments")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of " + ",".join(KINDS))
    parser.add_argument("--records", type=int, default=280)
    parser.add_argument("--json", type=Path, help="write the figures here")
    chosen = parser.parse_args()
    kinds = chosen.kinds.split(",")
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"unknown kinds {', '.join(sorted(unknown))}; known are {', '.join(KINDS)}")
    rng, begun = random.Random(chosen.seed), time.monotonic()
    random.seed(chosen.seed)
    with tempfile.TemporaryDirectory(prefix="faults.") as temporary:
        folder = Path(temporary)
        place = make_place(folder / "place", chosen.records)
        started = time.monotonic()
        first = place.screen(folder / "undisturbed")
        if first.returncode:
            print(first.stderr, file=sys.stderr)
            return 1
        undisturbed_s = time.monotonic() - started
        print(f"{place.records} records undisturbed in {undisturbed_s:.0f} s", file=sys.stderr, flush=True)
        drawn = plan_of_faults(chosen.faults, kinds, rng)
        tally = endure(place, folder / "undisturbed", folder, drawn, rng, start_s=undisturbed_s / 2)
    print(table(tally))
    lost, twice = sum(tally.lost.values()), sum(tally.duplicates.values())
    print(
        f"\n{len(tally.befallen)} faults in {tally.rounds} rounds over {place.records} records, "
        f"{(time.monotonic() - begun) / 60:.0f} minutes: {lost} records lost, {twice} duplicates"
    )
    for what in tally.wrong:
        print(f"WRONG: {what}")
    if chosen.json:
        figures = {
            "seed": chosen.seed,
            "faults": len(tally.befallen),
            "rounds": tally.rounds,
            "records": place.records,
            "records_lost": lost,
            "duplicates": twice,
            "wrong": tally.wrong,
            "befallen": [vars(fault) for fault in tally.befallen],
        }
        chosen.json.write_text(json.dumps(figures, indent=1))
    return 1 if tally.wrong or len(tally.befallen) < chosen.faults else 0


if __name__ == "__main__":
    sys.exit(main())
