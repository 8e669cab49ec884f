"""How often the intervals of prevalence hold the truth: ``python -m tests.studies.coverage``.

Every replicate draws its own screened patients, and its own measured positives and negatives.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np

from screening.report.accuracy import Accuracy, sample
from screening.report.document import NotEstimable
from screening.report.prevalence import PRIORS, bayes, draw, lang_reiczigel

GRID = list(
    itertools.product(
        (0.6, 0.8, 0.95),  # sensitivity
        (0.85, 0.95, 0.99),  # specificity
        ((50, 200), (500, 2000)),  # measured positives and negatives
        (300, 5000),  # patients
        (0.01, 0.05, 0.2),  # prevalence
    )
)


def coverage(*, replicates: int, cells: int | None = None, seed: int = 0, draws: int = 1000) -> list[dict[str, float]]:
    """Return for each cell of the grid (or a random choice of them) the share of intervals that hold the prevalence.

    ``draws`` is how many joint draws the intervals of groups are made of; 0 leaves these out.
    """
    rng = np.random.default_rng(seed)
    chosen = GRID if cells is None else [GRID[i] for i in rng.choice(len(GRID), cells, replace=False)]
    rows = []
    for se, sp, (n_se, n_sp), n, p in chosen:
        flagged = rng.binomial(n, p * se + (1 - p) * (1 - sp), replicates)
        right = rng.binomial(n_se, se, replicates), rng.binomial(n_sp, sp, replicates)
        held = {"lang_reiczigel": 0, "draws": 0}
        width = {"lang_reiczigel": 0.0, "draws": 0.0}
        for f, a, b in zip(flagged.tolist(), *(row.tolist() for row in right), strict=True):
            measured = Accuracy(a / n_se, b / n_sp, n_se, n_sp, 0.0, "", "", "")
            found = lang_reiczigel(f, n, measured)
            if isinstance(found, NotEstimable):
                continue
            intervals = {"lang_reiczigel": found.estimate}
            if draws:
                intervals["draws"] = draw([(f, n, sample(measured, draws, rng))], rng).estimate.estimate
            for name, of in intervals.items():
                held[name] += of.low <= p <= of.high
                width[name] += of.high - of.low
        rows.append(
            {"se": se, "sp": sp, "n_se": n_se, "n_sp": n_sp, "n": n, "prevalence": p}
            | {name: count / replicates for name, count in held.items()}
            | {f"{name}_width": of / replicates for name, of in width.items()}
        )
    return rows


def bayes_coverage(
    se: float,
    sp: float,
    n_se: int,
    n_sp: int,
    *,
    n: int,
    prevalence: float,
    replicates: int,
    seed: int,
    draws: int = 2000,
) -> float:
    """Return the share of credible intervals, under the uniform prior, that hold the prevalence.

    All replicates at once: AP ~ Beta(x + 1, n - x + 1) with weight 1 / J where P lies in 0-1 is the posterior that `bayes`
    computes on a grid. Where too few draws do, the grid is asked.
    """
    rng = np.random.default_rng(seed)
    held = 0
    for size in [500] * (replicates // 500) + [replicates % 500] * (replicates % 500 > 0):
        x = rng.binomial(n, prevalence * se + (1 - prevalence) * (1 - sp), size)
        a, b = rng.binomial(n_se, se, size), rng.binomial(n_sp, sp, size)
        ap, drawn_se, drawn_sp = (
            rng.beta(right[:, None] + 1.0, of - right[:, None] + 1.0, (size, draws))
            for right, of in ((x, n), (a, n_se), (b, n_sp))
        )
        j = drawn_se + drawn_sp - 1
        p = (ap + drawn_sp - 1) / j
        weight = np.where((p > 0) & (p < 1) & (j > 0), 1 / j, 0.0)
        below = np.sum(weight * (p <= prevalence), axis=1) / np.maximum(weight.sum(axis=1), 1e-300)
        few = weight.sum(axis=1) ** 2 < 200 * np.sum(weight**2, axis=1)
        held += int(((below >= 0.025) & (below <= 0.975) & ~few).sum())
        for i in np.flatnonzero(few):
            measured = Accuracy(a[i] / n_se, b[i] / n_sp, n_se, n_sp, 0.0, "", "", "")
            found = bayes(int(x[i]), n, measured, prior=next(iter(PRIORS.values())), rng=rng)
            held += not isinstance(found, NotEstimable) and found.low <= prevalence <= found.high
    return held / replicates


def _print_bayes(replicates: int, seed: int) -> None:
    found = sorted(
        (
            bayes_coverage(se, sp, *measured, n=n, prevalence=p, replicates=replicates, seed=seed),
            se,
            sp,
            *measured,
            n,
            p,
        )
        for se, sp, measured, n, p in GRID
    )
    print("Bayesian    Se    Sp  n_Se  n_Sp     n  prevalence")
    for held, se, sp, n_se, n_sp, n, p in found:
        print(f"{held:>8.3f}  {se:.2f}  {sp:.2f}  {n_se:>4}  {n_sp:>4}  {n:>4}  {p:>10.2f}")
    values = [row[0] for row in found]
    print(f"lowest {min(values):.3f}, mean {np.mean(values):.3f}, below 0.94 in {sum(v < 0.94 for v in values)}")


def main() -> None:
    """Print the table, worst cells first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=6000)
    parser.add_argument("--draws", type=int, default=0, help="of the intervals that groups get; some 1000")
    parser.add_argument("--bayes", type=int, default=0, help="replicates of the credible interval alone, some 4000")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    if arguments.bayes:
        _print_bayes(arguments.bayes, arguments.seed)
        return
    rows = sorted(
        coverage(replicates=arguments.replicates, seed=arguments.seed, draws=arguments.draws),
        key=lambda row: row["lang_reiczigel"],
    )
    names = ["lang_reiczigel", *(["draws"] if arguments.draws else [])]
    print("Se    Sp    n_Se  n_Sp     n  prevalence" + "".join(f"  {name:>14}  width" for name in names))
    for row in rows:
        print(
            f"{row['se']:.2f}  {row['sp']:.2f}  {row['n_se']:>4.0f}  {row['n_sp']:>4.0f}  {row['n']:>4.0f}  "
            f"{row['prevalence']:>10.2f}"
            + "".join(f"  {row[name]:>14.3f}  {row[f'{name}_width']:.3f}" for name in names)
        )
    for name in names:
        values = [row[name] for row in rows]
        print(
            f"{name}: lowest {min(values):.3f}, mean {np.mean(values):.3f}, below 0.94 in {sum(v < 0.94 for v in values)}"
        )


if __name__ == "__main__":
    main()
