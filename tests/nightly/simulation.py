"""How often quiet years cry, and which jumps a night sees: ``python -m tests.nightly.simulation`` prints the tables.

A quiet hospital is no coin: nights differ in size, weekends bring other patients, records of one night are alike (correlation),
and devices fail in bursts. All of it is simulated, and none of it is to be told of.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from screening.nightly.health import Finding, Rules, judge
from screening.nightly.record import Night, Outcome

REASONS = {"flat_lead": 0.004, "missing_leads": 0.002, "too_short": 0.0005, "clipped": 0.0001}
CORRELATION, BURSTS = 0.002, 0.003
WEEKEND = 1.2
"""By which the flag rate of weekends is greater."""


@dataclass(frozen=True)
class Hospital:
    """What its nights are like."""

    size: float  # median records of a night
    flagged: float = 0.12
    spread: float = 0.3  # of the log of sizes


def quiet_nights(hospital: Hospital, nights: int, rng: np.random.Generator) -> Iterator[Night]:
    """Yield nights of which nothing is to be told."""
    for day in range(nights):
        size = max(1, round(hospital.size * float(np.exp(rng.normal(0, hospital.spread)))))
        weekend = day % 7 > 4
        yield night(rng, day, size // 2 if weekend else size, hospital.flagged * (WEEKEND if weekend else 1.0))


def night(
    rng: np.random.Generator, day: int, size: int, flagged: float, *, rejected: dict[str, float] | None = None
) -> Night:
    """Return a night of ``size`` records with these rates."""
    size = max(1, size)
    reasons: dict[str, int] = {}
    left = size
    for reason, rate in (REASONS | (rejected or {})).items():
        count = int(rng.binomial(left, _rate(rng, rate, BURSTS)))
        reasons |= {reason: count} if count else {}
        left -= count
    at = f"{np.datetime64('2026-01-01') + day}"
    return Night(
        date=at,
        outcome=Outcome.PUBLISHED,
        started_at=f"{at}T01:00:00+00:00",
        finished_at=f"{at}T02:00:00+00:00",
        bundle_sha256="0" * 64,
        device="cpu",
        workers=2,
        planned=size,
        scored=left,
        rejected=size - left,
        flagged=int(rng.binomial(left, _rate(rng, flagged, CORRELATION))),
        reasons=reasons,
        records_this_time=size,
        seconds=size / 40 * float(np.exp(rng.normal(0, 0.15))),
    )


def _rate(rng: np.random.Generator, mean: float, correlation: float) -> float:
    strength = 1 / correlation - 1
    return float(rng.beta(mean * strength, (1 - mean) * strength))


def false_alarms(hospital: Hospital, nights: int, rng: np.random.Generator) -> Counter[str]:
    """Return how many findings of each kind so many quiet nights had."""
    rules, before = Rules(), list[Night]()
    found: Counter[str] = Counter()
    for tonight in quiet_nights(hospital, nights, rng):
        found.update(finding.kind for finding in judge(tonight, before, rules))
        before = [*before, tonight][-40:]
    return found


def power(
    hospital: Hospital,
    times: int,
    rng: np.random.Generator,
    *,
    flagged: float = 1.0,
    rejected: dict[str, float] | None = None,
) -> float:
    """Return how often a night with ``flagged`` times the usual flag rate, or with these rejects, is told of."""
    seen = 0
    for _ in range(times):
        before = list(quiet_nights(hospital, 28, rng))
        tonight = night(rng, 28, round(hospital.size), hospital.flagged * flagged, rejected=rejected)
        seen += bool(of_shares(judge(tonight, before)))
    return seen / times


def of_shares(findings: list[Finding]) -> list[Finding]:
    """Return the findings about flag rates and rejects."""
    return [finding for finding in findings if finding.kind in ("flag_rate", "reject_rate")]


def main(years: int) -> None:
    """Print both tables."""
    rng = np.random.default_rng(8)
    sizes = (10, 30, 100, 300, 1000, 5000)
    print(f"findings a year of quiet nights, {years} years:")
    for size in sizes:
        found = false_alarms(Hospital(size), 365 * years, rng)
        print(f"  {size:>6} records a night: " + f"{found.total() / years:.2f}  {dict(found)}")
    print("nights that tell, of a flag rate of 12% that becomes, and of flat leads (0.4%) that become:")
    print("  records   16%   20%   24%   36%    2%    5%   20%")
    for size in sizes:
        row = [power(Hospital(size), 20 * years, rng, flagged=times) for times in (4 / 3, 5 / 3, 2, 3)]
        row += [power(Hospital(size), 20 * years, rng, rejected={"flat_lead": rate}) for rate in (0.02, 0.05, 0.2)]
        print(f"  {size:>7}" + "".join(f"{share:6.2f}" for share in row))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
