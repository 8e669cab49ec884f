"""`screening run --attribution none` against a bare loop of its own stages, and against the script a user would write.

    python -m tests.benchmarks.bench_run --archive DIR [--model BUNDLE] [--sizes 2663,10652] [--rounds R] [--json OUT]

Every contender is a process of its own, the run the real command, and they take turns, so that whatever else the
machine does meets all alike. Each does two sizes of one archive, t1 seconds for n1 records and t2 for n2, and then

    steady rate = (n2 - n1) / (t2 - t1)        start-up = t1 - n1 / rate

so start-up is all that does not grow with the archive: the interpreter, imports, Ray, loading the network, the end. The
script is slow: its sizes are a quarter of n1, and n1. Scores are compared before any ratio is printed: rows of the bare
loop must agree to float tolerance; the script resamples in another way, so there logits must correlate.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from tests.benchmarks.contenders import Failed, Timed, archive_of, catalog_of, timed
from tests.benchmarks.table import Report, Row, machine, show, spread, write_json

SIZES = (2663, 10652)
ROUNDS = 3
WARM_UP_RECORDS = 64
LOGIT_TOLERANCE = 1e-4
"""Between run and bare loop: the same arithmetic, but sums of several threads may be ordered in another way."""
LEAST_GROWTH = 0.25
"""The larger size must take so much longer than the smaller, else start-up hides the rate."""
SCRIPT_CORRELATION = 0.99
"""Pearson, between logits of run and script: another resampler and band-pass, one record a batch."""


@dataclass(frozen=True)
class Contender:
    """A way to screen an archive, and how to read its scores."""

    name: str
    command: Callable[[Path, Path], tuple[str, list[str | Path]]]  # archive, out -> module, arguments
    files: str  # pattern of its results below out
    threads: int | None = None


def contenders(model: Path | None) -> tuple[Contender, list[Contender], Contender]:
    """Return the run, the bare loops (few processes or few threads: the better one counts) and the script."""
    bundle: list[str | Path] = ["--model", model] if model else []
    cores = os.cpu_count() or 1
    shards = ["--shard-records", "128"]  # the same for all, so that they write the same files

    def run(archive: Path, out: Path) -> tuple[str, list[str | Path]]:
        arguments: list[str | Path] = [
            "run",
            "--device",
            "cpu",
            "--catalog",
            catalog_of(archive),
            "--out",
            out,
            "--attribution",
            "none",
            "--json",
        ]
        return "screening", [*arguments, *shards, *bundle]

    def bare(processes: int, threads: int) -> Contender:
        def command(archive: Path, out: Path) -> tuple[str, list[str | Path]]:
            layout = ["--processes", str(processes), "--threads", str(threads)]
            return "tests.benchmarks.bare_loop", [
                "--catalog",
                catalog_of(archive),
                "--out",
                out,
                *shards,
                *layout,
                *bundle,
            ]

        return Contender(f"bare loop {processes} x {threads}", command, "part-*.parquet", threads)

    def script(archive: Path, out: Path) -> tuple[str, list[str | Path]]:
        return "tests.benchmarks.naive", [archive, out, *bundle]

    layouts = sorted({(1, cores), (cores, 1)})
    return (
        Contender("screening run", run, "*/results/part-*.parquet"),
        [bare(*layout) for layout in layouts],
        Contender("script", script, ""),
    )


# --- Scores ----------------------------------------------------------------------------------------------------------


def scores(contender: Contender, out: Path) -> pd.Series:
    """Return logits by record id, NaN where a record was rejected."""
    files = sorted(out.glob(contender.files)) if contender.files else [out]
    tables = [pq.read_table(file, columns=["record_id", "logit"]).to_pandas() for file in files]
    if not tables:
        raise Failed(f"{contender.name} wrote no results")
    return pd.concat(tables).set_index("record_id")["logit"].astype(float)


def compare(run: pd.Series, other: pd.Series) -> dict[str, float]:
    """Return how two contenders' logits differ, over the records that the run scored."""
    scored = run[run.notna()]
    there = other.reindex(scored.index)
    difference = (scored - there).abs()
    varied = len(scored) > 1 and scored.std() > 0 and there.std() > 0
    return {
        "records": len(run),
        "records_of_the_other": len(other),
        "scored": len(scored),
        "missing": int(there.isna().sum()),
        "scored_by_the_other_alone": int(other.reindex(run.index[run.isna()]).notna().sum()),
        "largest_difference": float(difference.max()),
        "median_difference": float(difference.median()),
        "correlation": float(np.corrcoef(scored, there)[0, 1]) if varied and not there.isna().any() else float("nan"),
    }


def quarrel(found: dict[str, float], *, script: bool) -> str | None:
    """Return why the scores of run and contender are not those of one method, None if they are."""
    if found["records"] != found["records_of_the_other"] or found["missing"] or not found["scored"]:
        return (
            f"it has {found['records_of_the_other']:,} records and the run {found['records']:,}, and it lacks "
            f"{found['missing']:,} of the {found['scored']:,} that the run scored"
        )
    if script:
        if not found["correlation"] >= SCRIPT_CORRELATION:
            return f"its logits correlate by {found['correlation']:.4f}; {SCRIPT_CORRELATION} is asked"
        return None
    if found["scored_by_the_other_alone"]:
        return f"it scored {found['scored_by_the_other_alone']:,} records that the run rejected"
    if not found["largest_difference"] <= LOGIT_TOLERANCE:
        return f"its logits differ by up to {found['largest_difference']:.2g}; {LOGIT_TOLERANCE:g} is allowed"
    return None


# --- Times -----------------------------------------------------------------------------------------------------------


def once(contender: Contender, archive: Path, folder: Path) -> tuple[Timed, dict[str, Any], pd.Series]:
    """Run a contender; return its times, what it says of itself and its scores. Its results are removed."""
    out = folder / "out"
    module, arguments = contender.command(archive, out)
    try:
        done = timed(module, arguments, threads=contender.threads)
        said: dict[str, Any] = json.loads(done.stdout) if done.stdout.strip() else {}
        if contender.name == "screening run" and not said.get("published"):
            raise Failed(f"screening run did not publish: {said.get('unfinished')}")
        files = list(out.glob(contender.files)) if contender.files else []
        if files:
            first, last = (choose(files, key=lambda file: file.stat().st_mtime) for choose in (min, max))
            said["first_file_s"] = first.stat().st_mtime - done.begun
            said["last_file_s"] = last.stat().st_mtime - done.begun
            said["first_file_records"] = pq.read_metadata(first).num_rows
        return done, said, scores(contender, out)
    finally:
        shutil.rmtree(out, ignore_errors=True)
        out.unlink(missing_ok=True)


def steady(sizes: tuple[int, int], small: list[float], large: list[float]) -> tuple[list[float], list[float]]:
    """Return records a second after start-up, and start-up, of each round; NaN where they cannot be told apart."""
    rates = []
    for t1, t2 in zip(small, large, strict=True):
        apart = t2 - t1 > LEAST_GROWTH * t1
        rates.append((sizes[1] - sizes[0]) / (t2 - t1) if apart else float("nan"))
    return rates, [t1 - sizes[0] / rate for t1, rate in zip(small, rates, strict=True)]


def file_rate(said: list[dict[str, Any]], records: int) -> list[float]:
    """Return records a second between the first and the last results file, which no start-up can blur: a check."""
    found = [words for words in said if words["records"] == records and "last_file_s" in words]
    return [
        (records - words["first_file_records"]) / (words["last_file_s"] - words["first_file_s"])
        for words in found
        if words["last_file_s"] > words["first_file_s"]
    ]


def measure(
    source: Path, folder: Path, *, model: Path | None, sizes: tuple[int, int] = SIZES, rounds: int = ROUNDS
) -> Report:
    """Measure in ``folder``, which should be on the disk that results go to."""
    n1, n2 = sizes
    few = max(1, n1 // 4)
    run, bare, script = contenders(model)
    archives = {n: archive_of(source, folder, n) for n in sorted({min(n1, WARM_UP_RECORDS), few, n1, n2})}
    turns = [(run, n) for n in (n1, n2)] + [(b, n) for n in (n1, n2) for b in bare] + [(script, n) for n in (few, n1)]
    for contender in (run, *bare, script):  # fills caches of the disk and of compiled modules
        once(contender, archives[min(n1, WARM_UP_RECORDS)], folder)

    seconds: dict[str, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    processor: dict[str, dict[int, list[float | None]]] = defaultdict(lambda: defaultdict(list))
    said: dict[str, list[dict[str, Any]]] = defaultdict(list)
    agreement: dict[str, dict[str, float]] = {}
    reference: pd.Series | None = None
    for turn in range(rounds):
        for contender, n in turns[turn % len(turns) :] + turns[: turn % len(turns)] if turn else turns:
            done, words, found = once(contender, archives[n], folder)
            seconds[contender.name][n].append(done.seconds)
            processor[contender.name][n].append(done.cpu_seconds)
            said[contender.name].append({"records": n, **words})
            if n == n1 and contender is run:
                reference = found
            elif n == n1 and reference is not None:
                agreement[contender.name] = compare(reference, found)
            print(f"  round {turn + 1}: {contender.name}, {n:,} records: {done.seconds:.1f} s", file=sys.stderr)
    return _report(run, bare, script, (n1, n2), (few, n1), seconds, processor, said, agreement)


def _report(
    run: Contender,
    bare: list[Contender],
    script: Contender,
    sizes: tuple[int, int],
    script_sizes: tuple[int, int],
    seconds: dict[str, dict[int, list[float]]],
    processor: dict[str, dict[int, list[float | None]]],
    said: dict[str, list[dict[str, Any]]],
    agreement: dict[str, dict[str, float]],
) -> Report:
    of = {c.name: script_sizes if c is script else sizes for c in (run, *bare, script)}
    rates, starts = {}, {}
    for name, (small, large) in of.items():
        rates[name], starts[name] = steady((small, large), seconds[name][small], seconds[name][large])
    best = min((b.name for b in bare), key=lambda name: spread(seconds[name][sizes[1]]).median)
    limits = _limits(said[best], sizes[1], rates, processor[run.name], processor[best], sizes)
    rows = []
    for other, aim, is_script in ((best, ">= 0.85", False), (script.name, ">= 5", True)):
        why = quarrel(agreement[other], script=is_script)
        hidden = any(math.isnan(rate) for rate in (*rates[run.name], *rates[other]))
        n = sizes[0] if is_script else sizes[1]
        rows += [
            _row(
                f"{run.name} / {other}, records/s after start-up",
                [ours / theirs for ours, theirs in zip(rates[run.name], rates[other], strict=True)],
                f"{spread(rates[run.name])} records/s",
                f"{spread(rates[other])} records/s",
                limits if not is_script else "the same; the script by wfdb and filters on one core, and small batches",
                why or ("start-up hides the rate; choose larger --sizes" if hidden else None),
                aim,
            ),
            _row(
                f"{other} / {run.name}, seconds for {n:,} records, start-up included",
                [theirs / ours for ours, theirs in zip(seconds[run.name][n], seconds[other][n], strict=True)],
                f"{spread(seconds[run.name][n])} s, {spread(starts[run.name])} s of it start-up",
                f"{spread(seconds[other][n])} s, {spread(starts[other])} s of it start-up",
                "start-up: Ray's processes and importing torch in each worker",
                why,
            ),
        ]
    figures = {
        "sizes": {name: list(pair) for name, pair in of.items()},
        "best_bare_loop": best,
        "seconds": _plain(seconds),
        "processor_seconds": _plain(processor),
        "records_a_second_after_start_up": rates,
        "records_a_second_between_first_and_last_file": {n: file_rate(said[n], sizes[1]) for n in (run.name, best)},
        "start_up_seconds": starts,
        "said": dict(said),
        "agreement_with_run": agreement,
        "tolerances": {"bare loop, logit": LOGIT_TOLERANCE, "script, correlation": SCRIPT_CORRELATION},
    }
    return Report("run", tuple(rows), figures)


def _plain(values: dict[str, dict[int, Any]]) -> dict[str, dict[int, Any]]:
    return {name: dict(by_size) for name, by_size in values.items()}


def _row(what: str, ratios: Sequence[float], ours: str, theirs: str, limit: str, why: str | None, aim: str = "") -> Row:
    return Row(what, None if why else spread(ratios), ours, theirs, limit, aim, why)


def _limits(
    loops: list[dict[str, Any]],
    records: int,
    rates: dict[str, list[float]],
    ours: dict[int, list[float | None]],
    theirs: dict[int, list[float | None]],
    sizes: tuple[int, int],
) -> str:
    """Say from the bare loop's own clock where a core's time goes, and from the machine's what Ray adds."""
    stages = [loop for loop in loops if loop["records"] == records]
    share = {stage: sum(loop[stage] for loop in stages) for stage in ("score", "decode and quality", "read", "write")}
    whole = sum(share.values())
    text = ", ".join(f"{stage} {100 * value / whole:.0f}%" for stage, value in share.items())
    used, least = _per_thousand(ours, sizes), _per_thousand(theirs, sizes)
    if used is not None and least is not None:
        text += f"; {used:.2f} core seconds for 1,000 records, the loop {least:.2f}"
    return f"cores: {text}"


def _per_thousand(used: dict[int, list[float | None]], sizes: tuple[int, int]) -> float | None:
    pairs = [(a, b) for a, b in zip(used[sizes[0]], used[sizes[1]], strict=True) if a is not None and b is not None]
    return spread(1e3 * (b - a) / (sizes[1] - sizes[0]) for a, b in pairs).median if pairs else None


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--archive", type=Path, required=True, help="folder of WFDB records, e.g. PTB-XL at 500 Hz")
    parser.add_argument("--model", type=Path, help="bundle; default: the one that ships")
    parser.add_argument("--sizes", default=",".join(map(str, SIZES)), help="two numbers of records [%(default)s]")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--json", type=Path, help="write everything measured here, too")
    options = parser.parse_args()
    where = machine()
    small, large = sorted(int(size) for size in options.sizes.split(","))
    with tempfile.TemporaryDirectory(prefix="screening-bench-") as folder:
        try:
            report = measure(
                options.archive, Path(folder), model=options.model, sizes=(small, large), rounds=options.rounds
            )
        except Failed as error:
            sys.exit(f"Error: {error}")
    print(show(report.rows))
    if options.json:
        write_json(options.json, [report], where=where)


if __name__ == "__main__":
    main()
