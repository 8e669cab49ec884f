"""Does a local validation sample give the prevalence of its archive? Coverage over many archives and samples.

    python -m tests.studies.local_validation --pool pool.npz [--replicates 1000] [--patients 2000]

The pool is simulated once and scored by the bundle that ships, whose counts of PTB-XL do not hold for the simulator. Each
replicate draws an archive of its own from it (infarcts binomial at the stated prevalence, patients without replacement), a
labelled sample of that archive by `sampling.draw`, "reads" it without error, and estimates as `screening validate import`
does. Printed is the share of 95% intervals that hold the truth, with its own 95% (Wilson) interval, and the mean width:

direct   the stratified estimate; truth: the archive's own prevalence
RG       Rogan-Gladen with Lang & Reiczigel's interval, local Se, Sp and covariance, the flagged share taken as of another
         sample; truth: the prevalence the archive was drawn from
Se, Sp   local; truth: the archive's own
bundle   Rogan-Gladen with the bundle's PTB-XL counts: what a report without local validation says
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.special import expit
from scipy.stats import binomtest

from screening.errors import UserError
from screening.model.bundle import PRETRAINED, Counts, load_bundle
from screening.report.accuracy import Accuracy
from screening.report.document import Estimate
from screening.report.prevalence import Corrected, lang_reiczigel
from screening.report.readings import INFARCT, NONE, by_stratum
from screening.report.sampling import draw
from screening.report.validation import Validation, accuracy, estimate
from screening.run.stages import batched_logits
from screening.signal.population import SimulationSettings, patient_and_visit
from screening.signal.preprocess import preprocess
from screening.signal.quality import assess, verdicts
from screening.signal.simulate import simulate

POOL_SEED, POOL_RECORDS, POOL_PREVALENCE = 20_240_607, 24_000, 0.25
BATCH = 200
PREVALENCES, READINGS = (0.02, 0.1), (100, 200, 300, 500)


@dataclass(frozen=True)
class Pool:
    """Scored patients with known truth, one ECG each."""

    log_odds: np.ndarray
    infarct: np.ndarray
    flagged: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pool", type=Path, required=True, help="kept here, and made where it is not")
    parser.add_argument("--replicates", type=int, default=1000)
    parser.add_argument("--patients", type=int, default=2000, help="of an archive")
    parser.add_argument("--sites", type=int, default=0, help="draw by site, of so many of unequal size [not by site]")
    parser.add_argument("--readings", type=int, nargs="+", default=READINGS)
    parser.add_argument("--prevalence", type=float, nargs="+", default=PREVALENCES)
    arguments = parser.parse_args()
    if not arguments.pool.exists():
        make_pool(arguments.pool)
    pool = read_pool(arguments.pool)
    hits = int(pool.flagged[pool.infarct].sum()), int((~pool.flagged[~pool.infarct]).sum())
    print(f"pool: {len(pool.infarct):,} patients, Se {hits[0] / pool.infarct.sum():.3f}", end=", ")
    print(f"Sp {hits[1] / (~pool.infarct).sum():.3f}; archives of {arguments.patients:,} patients")
    print("prevalence readings  what      covers (95% interval)   mean width  mean error  failed")
    for prevalence in arguments.prevalence:
        for readings in arguments.readings:
            rows = list(_replicates(pool, arguments, prevalence, readings))
            for what in ("direct", "RG", "Se", "Sp", "bundle"):
                print(
                    f"{prevalence:10.2f} {readings:8d}  {what:8s}  {_line([row[what] for row in rows if row])}", end=""
                )
                print(f"  {sum(not row for row in rows):6d}", flush=True)


def _replicates(
    pool: Pool, arguments: argparse.Namespace, prevalence: float, readings: int
) -> Iterator[dict[str, tuple[Estimate, float]]]:
    """Yield (estimate, truth) of each quantity for each replicate; empty where the readings allow no estimate."""
    own = load_bundle(PRETRAINED).operating_characteristics.overall
    for replicate in range(arguments.replicates):
        rng = np.random.default_rng((round(1e6 * prevalence), readings, replicate))
        chosen = archive_of(pool, arguments.patients, prevalence, rng)
        infarct, flagged = pool.infarct[chosen], pool.flagged[chosen]
        sizes = np.arange(1, arguments.sites + 1) / max(1, sum(range(arguments.sites + 1)))
        site = rng.choice(arguments.sites, arguments.patients, p=sizes).astype(str) if arguments.sites else None
        validation = validated(pool.log_odds[chosen], flagged, infarct, readings, seed=replicate, site=site)
        try:
            found = estimate(validation)
        except UserError:
            yield {}
            continue
        yield {
            "direct": (found.prevalence, float(infarct.mean())),
            "RG": (
                _corrected(flagged, accuracy(validation)),
                prevalence,
            ),
            "Se": (found.sensitivity, float(flagged[infarct].mean())),
            "Sp": (found.specificity, float((~flagged[~infarct]).mean())),
            "bundle": (_corrected(flagged, _stated(own)), prevalence),
        }


def _corrected(flagged: np.ndarray, errors: Accuracy) -> Estimate:
    """Return what the report's Rogan-Gladen says; all of 0 to 1 where it says that nothing can be."""
    found = lang_reiczigel(float(flagged.sum()), len(flagged), errors)
    return found.estimate if isinstance(found, Corrected) else Estimate(0.5, 0.0, 1.0)


def _stated(own: Counts) -> Accuracy:
    return Accuracy(
        sensitivity=own.sensitivity,
        specificity=own.specificity,
        n_sensitivity=own.TP + own.FN,
        n_specificity=own.TN + own.FP,
        covariance=0.0,
        source="nested out-of-fold counts",
        data="",
        reference="",
    )


def archive_of(pool: Pool, patients: int, prevalence: float, rng: np.random.Generator) -> np.ndarray:
    """Return the patients of one archive, in random order."""
    infarcts = rng.binomial(patients, prevalence)
    chosen = [
        rng.choice(np.flatnonzero(pool.infarct), infarcts, replace=False),
        rng.choice(np.flatnonzero(~pool.infarct), patients - infarcts, replace=False),
    ]
    return rng.permutation(np.concatenate(chosen))


def validated(
    log_odds: np.ndarray,
    flagged: np.ndarray,
    infarct: np.ndarray,
    readings: int,
    *,
    seed: int,
    site: np.ndarray | None = None,
) -> Validation:
    """Return the validation of an archive whose drawn sheets are read without error."""
    sample = draw(log_odds, flagged, readings=readings, seed=seed, site=site)
    words = {i: INFARCT if infarct[row] else NONE for i, row in enumerate(sample.row.tolist(), start=1)}
    return Validation(
        date="2026-01-01",
        bundle_sha256="0" * 64,
        model="",
        threshold=0.5,
        catalog_id="",
        index_rule="first",
        reference="the simulator's truth",
        readers=("truth",),
        strata=by_stratum(sample.strata, sample.stratum.tolist(), words),
    )


def _line(pairs: list[tuple[Estimate, float]]) -> str:
    inside = sum(found.low <= truth <= found.high for found, truth in pairs)
    interval = binomtest(inside, len(pairs)).proportion_ci(method="wilson")
    width = np.mean([found.high - found.low for found, _ in pairs])
    error = np.mean([found.value - truth for found, truth in pairs])
    share = inside / len(pairs)
    return f"{share:6.1%} ({interval.low:.1%}-{interval.high:.1%})  {width:13.4f}  {error:+10.4f}"


def make_pool(path: Path) -> None:
    """Simulate and score one ECG a patient with the bundle that ships; keep log-odds and truth. A minute on one core."""
    bundle = load_bundle(PRETRAINED)
    settings = SimulationSettings(records=POOL_RECORDS, prevalence=POOL_PREVALENCE, seed=POOL_SEED)
    logits = batched_logits(bundle, device="cpu", batch_size=32)
    index = np.arange(POOL_RECORDS)
    index = index[patient_and_visit(index)[1] == 0]
    found: list[float] = []
    truth: list[bool] = []
    for first in range(0, len(index), BATCH):
        batch = simulate(index[first : first + BATCH], settings)
        good = [i for i, verdict in enumerate(verdicts(assess(batch.signal_mV, settings.rate_hz))) if verdict is None]
        found += list(logits(preprocess(batch.signal_mV[good], settings.rate_hz, bundle.preprocessing)))
        truth += [batch.truth[i].territory is not None for i in good]
    log_odds = bundle.calibrator.slope * np.array(found) + bundle.calibrator.intercept
    np.savez(path, log_odds=log_odds, infarct=np.array(truth), bundle=bundle.sha256, threshold=bundle.threshold)


def read_pool(path: Path) -> Pool:
    """Return what `make_pool` kept; it must be of the bundle that ships now."""
    with np.load(path) as kept:
        if str(kept["bundle"]) != load_bundle(PRETRAINED).sha256:
            raise SystemExit(f"{path} was scored by another bundle; delete it, and it is made again")
        log_odds = kept["log_odds"]
        return Pool(log_odds, kept["infarct"], expit(log_odds) >= float(kept["threshold"]))


if __name__ == "__main__":
    main()
