"""The audit of explanations: whether they are where the infarct is, and whether they say what the network reads.

Every record is explained by a network that has not seen it (`unseen.py`). What is computed stands in `explained.py`, what is
made of it in `explanation_checks.py`, the words in `explanation_tables.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from screening.attribution.operators import coalitions
from screening.contract import OPERATORS, TERRITORIES
from screening.errors import UserError
from screening.model.bundle import Bundle
from screening.train.cohort import losses
from screening.train.data import TrainingSet
from screening.train.exchanges import falls_of
from screening.train.explained import (
    AS_THEY_ARE,
    LAID,
    Scored,
    choose,
    exchanged,
    gradients,
    permuted,
    randomised,
)
from screening.train.explanation_checks import (
    INFARCT_WALLS,
    INJURY_WALLS,
    Resampled,
    confusion,
    deletion,
    hits,
    localisation,
    of_walls,
    rank_correlations,
    stability,
    walls_of,
)
from screening.train.gradients import Gradients, need_captum
from screening.train.trials import TrialStore
from screening.train.unseen import unseen_networks
from screening.train.without_leads import agreement, retrained

PAPERS = ("lead, mean", AS_THEY_ARE)
"""The paper's operator (arXiv 2606.06718), which the others are compared with."""

ALONE = "territory, by itself"
"""What the logit falls by when one territory alone is exchanged; the operator ``territory`` shares between all of them."""

Importances = dict[tuple[str, str], np.ndarray]
"""Method, how donors lend (empty where there are none) -> importances of the four walls, float (n, 4)."""


@dataclass(frozen=True)
class Settings:
    """How much is computed."""

    records: int | None = None  # flagged infarcts that are explained, a random sample; None: all
    donors: int = 16  # of each of them
    repeats: int = 1  # of the cohort's permutation
    retrain: tuple[str, ...] = ()  # groups of leads to retrain without: parts of the operators territory and plane
    seed: int = 0


def audit_explanations(
    bundle: Bundle,
    records: TrainingSet,
    *,
    catalog: Mapping[str, str],
    store: TrialStore,
    settings: Settings = Settings(),
    device: str = "cpu",
    on_stage: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Check the explanations of a model against the archive's statements, and against the network itself.

    Parameters
    ----------
    bundle
        The model.
    records
        All labelled records of the catalog, filtered as the bundle says.
    catalog
        ``catalog_id`` and ``label_rule``.
    store
        Where networks for records that the bundle has seen are kept, and what retraining gave.
    settings
        How much is computed.
    device
        Where networks run.
    on_stage
        Told what is being done.

    Returns
    -------
    dict
        JSON values; ``explanation_tables.render`` puts them into words.

    Raises
    ------
    UserError
        captum is not installed, networks cannot be trained, or fewer than two infarcts are flagged.
    """
    need_captum()
    unseen = unseen_networks(
        bundle, records, catalog_id=catalog["catalog_id"], store=store, device=device, on_stage=on_stage
    )
    scored = Scored.of(records, unseen, bundle.preprocessing.rate_hz)
    trained = retrained(
        bundle,
        records,
        groups=settings.retrain,
        catalog_id=catalog["catalog_id"],
        store=store,
        device=device,
        on_stage=on_stage,
    )
    chosen = choose(scored, most=settings.records, donors=settings.donors, seed=settings.seed)
    statements = [records.statements[place] for place in chosen.place]
    walls = np.array([walls_of(codes) for codes in statements])
    injury = np.array([walls_of(codes, INJURY_WALLS) for codes in statements])
    placed = np.asarray(walls.any(axis=1))
    only_injury = ~placed & injury.any(axis=1)
    if placed.sum() < 2:
        raise UserError(
            f"{int(placed.sum())} of the {len(placed)} flagged infarcts have a statement of where the infarct is "
            f"({', '.join(INFARCT_WALLS)}), and two are needed; give a catalog whose labels are such statements."
        )
    own, fell, logits = scored.logit[chosen.place], {}, {}
    for lend in (AS_THEY_ARE, LAID):
        on_stage(f"exchanging parts of {len(placed):,} flagged infarcts, donors {lend}")
        logits = exchanged(scored, chosen, lend)
        fell[lend] = {operator: falls_of(operator, own, of) for operator, of in logits.items()}
        fell[lend][ALONE] = own[:, None, None] - logits["territory"][..., coalitions("territory").sum(axis=1) == 1]
    # The donors that lend to the curves are not those that the order comes from.
    half = settings.donors // 2
    none = np.broadcast_to(own[:, None, None], (*chosen.donors.shape, 1))
    sets = np.concatenate([none, logits["territory"]], axis=2)[:, half:]
    on_stage("gradients")
    by_gradients = gradients(scored, chosen)
    on_stage("networks with random weights")
    random = randomised(scored, chosen, seed=settings.seed)
    on_stage(f"permuting parts over {len(records):,} records")
    cohort = {
        operator: losses(
            scored.logit,
            logits,
            OPERATORS[operator],
            records.target,
            records.label,
            records.patient_key,
            network=scored.network,
            seed=settings.seed,
        )
        for operator, logits in permuted(scored, repeats=settings.repeats, seed=settings.seed).items()
    }
    first = {lend: {name: of[:, :half] for name, of in by_name.items()} for lend, by_name in fell.items()}
    importance = _importances(fell, by_gradients, scored.leads_read, settings.seed)
    return {
        "model": {"name": bundle.name, "version": bundle.version},
        "catalog": dict(catalog),
        "networks": [
            {"name": of.name, "records": len(of.places), "explained": int((chosen.network == number).sum())}
            for number, of in enumerate(unseen)
        ],
        "settings": {"donors": settings.donors, "repeats": settings.repeats, "seed": settings.seed},
        "records": len(records),
        "explained": {
            "flagged infarcts explained, one ECG a patient": len(placed),
            "no beats found": chosen.without_beats,
            "place stated": int(placed.sum()),
            "only posterior": int(
                sum("PMI" in codes for codes, is_placed in zip(statements, placed, strict=True) if not is_placed)
            ),
            "only injury": int(only_injury.sum()),
        },
        "localisation": _localisation(importance, walls, placed, settings.seed),
        "injury": _localisation(importance, injury, only_injury, settings.seed),
        "by_code": {
            name: confusion(importance[name, lend][placed], [statements[at] for at in np.flatnonzero(placed)])
            for name, lend in (("territory", LAID), PAPERS)
        },
        "deletion": _deletion(
            sets, _importances(first, by_gradients, scored.leads_read, settings.seed), scored.threshold[chosen.place]
        ),
        "stability": {
            lend: {operator: stability(of) for operator, of in by_operator.items()}
            for lend, by_operator in fell.items()
        },
        "sanity": {
            what: _sanity(draws, importance["territory", LAID], walls, placed, settings.seed)
            for what, draws in random.items()
        },
        "cohort": cohort,
        "retrained": agreement(trained, cohort),
    }


def _importances(
    fell: Mapping[str, Mapping[str, np.ndarray]],
    by_gradients: Mapping[str, Gradients],
    read: Sequence[str],
    seed: int,
) -> Importances:
    found: Importances = {}
    for lend, of_operator in fell.items():
        mean = {operator: of.mean(axis=1) for operator, of in of_operator.items()}
        found["territory", lend] = mean["territory"]
        found[ALONE, lend] = mean[ALONE]
        found["lead, mean", lend] = of_walls("lead", mean["lead"], read=read)
        found["lead, largest", lend] = of_walls("lead", mean["lead"], read=read, largest=True)
        found["independent, mean", lend] = of_walls("independent", mean["independent"])
        if "wave" in mean:
            found["wave, sum", lend] = of_walls("wave", mean["wave"])
    for name, of in by_gradients.items():
        found[f"{name}, by leads", ""] = of.by_leads
        found[f"{name}, by territory", ""] = of.by_territory
    n = len(found["territory", LAID])
    found["random", ""] = np.random.default_rng(seed).normal(size=(n, len(TERRITORIES)))
    return found


def _localisation(importance: Importances, walls: np.ndarray, chosen: np.ndarray, seed: int) -> list[dict[str, Any]]:
    if chosen.sum() < 2:
        return []
    paper = hits(importance[PAPERS][chosen], walls[chosen])
    rows = []
    for (method, lend), of in importance.items():
        row = {"method": method, "donors": lend, **localisation(of[chosen], walls[chosen], seed=seed)}
        if (method, lend) != PAPERS:
            difference = hits(of[chosen], walls[chosen]).astype(float) - paper
            row["minus_papers"] = Resampled.mean(difference, seed=seed).to_json()
        rows.append(row)
    return rows


def _deletion(sets: np.ndarray, first: Importances, threshold: np.ndarray) -> list[dict[str, Any]]:
    """Return the curves in the order of each method; ``first`` comes from other donors than those of the sets."""
    return [{"method": method, "donors": lend, **deletion(sets, of, threshold)} for (method, lend), of in first.items()]


def _sanity(draws: np.ndarray, trained: np.ndarray, walls: np.ndarray, placed: np.ndarray, seed: int) -> dict[str, Any]:
    """Return how networks with random weights, (networks, n, 4), hit, and how they agree with the trained one, (n, 4)."""
    rows = [localisation(of[placed], walls[placed], seed=seed) for of in draws]
    rates = [row["hits"]["value"] for row in rows]
    correlation = np.mean([rank_correlations(of, trained) for of in draws], axis=0)
    return {
        "networks": len(draws),
        "hits": {"value": float(np.mean(rates)), "low": min(rates), "high": max(rates)},
        "chance": float(np.mean([row["chance"]["value"] for row in rows])),
        "rank_correlation": Resampled.mean(correlation, seed=seed).to_json(),
    }
