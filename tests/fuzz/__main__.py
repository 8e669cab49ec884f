"""Fuzz everything that reads foreign bytes: ``python -m tests.fuzz --inputs 1000000``.

Inputs are known files with changes (`targets.mutated`), drawn from a seed. Each runs under an alarm, the process under a
limit of address space; whatever opens a file, lists a folder or connects somewhere is caught by an audit hook. A crash, a
hang, an excess or a broken promise is told with the input, which is kept, and the exit code is 1. With ``--engine atheris``
inputs are guided by coverage instead (https://github.com/google/atheris, Apache-2.0; extra ``fuzz``), under the same guard;
what reached new code is kept in the scratch folder, and the next run begins from it.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from tests.fuzz.engine import run
from tests.fuzz.guard import MEMORY_MB
from tests.fuzz.targets import targets


def _guided(names: list[str], inputs: int, seed: int, scratch: Path) -> int:
    """Run atheris on each target, one process after the other; return how many ended with a finding."""
    found, executed = 0, 0
    chosen = [target for target in targets() if target.name in names]
    total = sum(target.share for target in chosen)
    for target in chosen:
        corpus = scratch / target.name
        corpus.mkdir(exist_ok=True)
        for number, data in enumerate(target.seeds):
            (corpus / f"seed-{number}").write_bytes(data)
        runs, most_mb = max(1, round(inputs * target.share / total)), 2 * MEMORY_MB
        command = [sys.executable, "-m", "tests.fuzz.guided", target.name, str(scratch), str(corpus)]
        command += [f"-seed={seed + 1}", f"-runs={runs}", f"-timeout={target.seconds:.0f}", f"-rss_limit_mb={most_mb}"]
        command += ["-max_len=65536", f"-artifact_prefix={scratch}/", "-print_final_stats=1"]
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.stderr.startswith("Error: "):
            sys.exit(done.stderr.strip())
        units = int((re.findall(r"number_of_executed_units:\s*(\d+)", done.stderr) or [0])[0])
        covered = (re.findall(r"\bcov: (\d+)", done.stderr) or ["0"])[-1]
        outcome = "a finding" if done.returncode else "no finding"
        print(f"{target.name:<16}{units:>10,} inputs, {covered:>6} places reached: {outcome}", flush=True)
        executed += units
        if done.returncode:
            found += 1
            print(done.stdout[-2000:] + done.stderr[-3000:])
    print(f"{executed:,} inputs: {found} targets with a finding, which is kept in {scratch}")
    return found


def main() -> int:
    every = [target.name for target in targets()]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--targets", default=",".join(every), help=f"of {', '.join(every)}")
    parser.add_argument("--engine", choices=["mutate", "atheris"], default="mutate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--scratch", type=Path, default=Path("build/fuzz"), help="where inputs that break something are kept"
    )
    options = parser.parse_args()
    names = options.targets.split(",")
    options.scratch.mkdir(parents=True, exist_ok=True)
    begun = time.monotonic()
    if options.engine == "atheris":
        return 1 if _guided(names, options.inputs, options.seed, options.scratch) else 0
    found, died = run(names, options.inputs, options.seed, options.scratch)
    broken = [entry for tally in found.values() for entry in tally.broken]
    print(f"{'target':<10}{'inputs':>11}{'a second':>10}{'slowest ms':>12}{'peak MB':>9}  outcomes")
    for name, tally in found.items():
        told = ", ".join(f"{outcome} {count:,}" for outcome, count in tally.outcomes.most_common())
        rate = tally.inputs / max(tally.seconds, 1e-9)
        print(f"{name:<10}{tally.inputs:>11,}{rate:>10,.0f}{tally.slowest_ms:>12.1f}{tally.peak_mb:>9.0f}  {told}")
    inputs = sum(tally.inputs for tally in found.values())
    print(
        f"{inputs:,} inputs in {time.monotonic() - begun:,.0f} s: {len(broken)} broke a promise, {len(died)} ended the process"
    )
    seen = set()
    for number, (what, data) in enumerate(broken):
        if what not in seen and len(seen) < 20:
            seen.add(what)
            (options.scratch / f"broken-{number}").write_bytes(bytes.fromhex(data))
            print(f"  {what}  (kept as {options.scratch}/broken-{number})")
    for what in died:
        print(f"  {what[:2000]}")
    if options.json:
        facts = {
            name: {
                **{key: getattr(tally, key) for key in ("inputs", "seconds", "slowest_ms", "peak_mb")},
                **tally.outcomes,
            }
            for name, tally in found.items()
        }
        options.json.write_text(
            json.dumps({"inputs": inputs, "broken": len(broken), "died": len(died), **facts}, indent=1)
        )
    return 1 if broken or died else 0


if __name__ == "__main__":
    sys.exit(main())
