"""The flagged infarcts that an audit explains, each by a network that has not seen it, and every number it needs of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from screening.attribution.donors import DonorSet
from screening.contract import INDEPENDENT_LEADS, LEADS, OPERATORS
from screening.errors import UserError
from screening.train.cohort import donors_for_all, permuted_logits
from screening.train.data import TrainingSet
from screening.train.evaluate import one_a_patient
from screening.train.exchanges import Delineated, exchanged_logits, falls_of
from screening.train.gradients import Gradients, gradients_of
from screening.train.random_weights import RANDOMISED
from screening.train.unseen import Unseen

AS_THEY_ARE, LAID = "as they are", "laid on the record's beats"
"""How donors lend: their ECG as it is, or with its beats where the record's are."""
COHORT_OPERATORS = ("territory", "plane", "independent", "lead")
RANDOM_NETWORKS = 5
_POOL = 128  # records of a network's own that may lend
_RANDOM_DONORS = 4


@dataclass(frozen=True)
class Scored:
    """Records, scored by networks that have not seen them."""

    records: TrainingSet
    networks: Sequence[Unseen]
    delineated: Delineated
    logit: np.ndarray  # float32 (all,)
    network: np.ndarray  # int (all,), which of the networks

    @classmethod
    def of(cls, records: TrainingSet, networks: Sequence[Unseen], rate_hz: float) -> Scored:
        """Score every record by the network that has it among its own."""
        logit, network = np.full(len(records), np.nan, np.float32), np.full(len(records), -1)
        for number, of in enumerate(networks):
            logit[of.places] = of.logits(records.signals_mV[of.places])
            network[of.places] = number
        return cls(records, networks, Delineated(records.signals_mV, rate_hz), logit, network)

    @property
    def leads_read(self) -> tuple[str, ...]:
        """Return the leads that the networks read: all, or the independent ones where leads stay apart."""
        apart = any(getattr(of.network.config, "leads_apart", False) for of in self.networks)
        return INDEPENDENT_LEADS if apart else LEADS

    @property
    def threshold(self) -> np.ndarray:
        """Return the logit at which each record is flagged, float (all,)."""
        return np.array([of.threshold_logit for of in self.networks])[self.network]


@dataclass(frozen=True)
class Chosen:
    """The flagged, labelled infarcts that are explained, one ECG a patient, those of one network after another."""

    place: np.ndarray  # int (n,), in the records
    network: np.ndarray  # int (n,)
    donors: np.ndarray  # int (n, k), places in the records
    without_beats: int  # more that are flagged, but have no beats to lay a donor's on

    def by_network(self, scored: Scored) -> list[tuple[Unseen, np.ndarray, np.ndarray]]:
        """Return each network with its places and their donors."""
        own = [self.network == number for number in range(len(scored.networks))]
        return [(of, self.place[at], self.donors[at]) for of, at in zip(scored.networks, own, strict=True)]


def choose(scored: Scored, *, most: int | None, donors: int, seed: int) -> Chosen:
    """Choose flagged, labelled infarcts, at most so many, and their donors among the other records of their network.

    Raises
    ------
    UserError
        There are fewer than two, or a record has too few donors.
    """
    records, delineated = scored.records, scored.delineated
    flagged = np.flatnonzero((scored.logit >= scored.threshold) & (records.target == 1))
    found = flagged[one_a_patient(records.patient_key[flagged], records.record_sha256[flagged])]
    place = found[delineated.usable(found)]
    without = len(found) - len(place)
    if most is not None and len(place) > most:
        place = np.random.default_rng(seed).choice(place, most, replace=False)
    if len(place) < 2:
        raise UserError(
            f"{len(place)} labelled infarcts are flagged and have beats, and two are needed; give a larger catalog."
        )
    place = place[np.lexsort((place, scored.network[place]))]
    network = scored.network[place]
    lend = [_donors(scored, number, place[network == number], donors, seed) for number in range(len(scored.networks))]
    return Chosen(place, network, np.concatenate(lend), without)


def _donors(scored: Scored, number: int, places: np.ndarray, count: int, seed: int) -> np.ndarray:
    """Return the donors of records, int (n, count): in an order given by a record's hash, as a run takes them."""
    records, of = scored.records, scored.networks[number]
    people = of.places[one_a_patient(records.patient_key[of.places], records.record_sha256[of.places])]
    pool = np.random.default_rng(seed).permutation(people)[: 2 * _POOL]
    pool = pool[scored.delineated.usable(pool)][:_POOL]
    donors = DonorSet(records.signals_mV[pool], tuple(records.record_id[pool]), tuple(records.patient_key[pool]))
    orders = [donors.order(str(records.record_id[at]), records.patient_key[at])[:count] for at in places]
    if any(len(order) < count for order in orders):
        raise UserError(
            f"a record has fewer than {count} donors among the {len(pool)} patients of the network {of.name}; "
            "lower --donors or give a larger catalog."
        )
    return pool[np.array(orders, dtype=np.int64).reshape(len(places), count)]


def exchanged(scored: Scored, chosen: Chosen, lend: str) -> dict[str, np.ndarray]:
    """Return operator -> logits, float64 (n, k, exchanges); waves only where donors are laid on the records."""
    operators = tuple(name for name in OPERATORS if lend == LAID or name != "wave")
    parts = [
        exchanged_logits(of.network, scored.delineated, places, donors, operators, laid=lend == LAID, device=of.device)
        for of, places, donors in chosen.by_network(scored)
        if len(places)
    ]
    return {name: np.concatenate([part[name] for part in parts]) for name in operators}


def gradients(scored: Scored, chosen: Chosen) -> dict[str, Gradients]:
    """Return method -> attributions by gradients."""
    parts = [
        gradients_of(of.network, scored.records.signals_mV, places, device=of.device)
        for of, places, _ in chosen.by_network(scored)
    ]
    return {
        name: Gradients(
            np.concatenate([of[name].by_leads for of in parts]), np.concatenate([of[name].by_territory for of in parts])
        )
        for name in parts[0]
    }


def randomised(scored: Scored, chosen: Chosen, *, seed: int) -> dict[str, np.ndarray]:
    """Return what is random -> the territories' importances in such networks, float (networks, n, 4)."""
    signals = scored.records.signals_mV
    found = {}
    for what, randomise in RANDOMISED.items():
        draws = []
        for draw in range(RANDOM_NETWORKS):
            parts = []
            for of, places, donors in chosen.by_network(scored):
                if not len(places):
                    continue
                other = replace(of, network=randomise(of.network, seed + draw))
                logits = exchanged_logits(
                    other.network,
                    scored.delineated,
                    places,
                    donors[:, :_RANDOM_DONORS],
                    ("territory",),
                    laid=True,
                    device=of.device,
                )
                parts.append(falls_of("territory", other.logits(signals[places]), logits["territory"]).mean(axis=1))
            draws.append(np.concatenate(parts))
        found[what] = np.stack(draws)
    return found


def permuted(scored: Scored, *, repeats: int, seed: int) -> Mapping[str, np.ndarray]:
    """Return operator -> the logits of all records with each part permuted, float32 (repeats, all, parts)."""
    records = scored.records
    found = {
        operator: np.empty((repeats, len(records), len(OPERATORS[operator])), np.float32)
        for operator in COHORT_OPERATORS
    }
    for of in scored.networks:
        donors = donors_for_all(records.patient_key[of.places], repeats=repeats, seed=seed)
        for operator in COHORT_OPERATORS:
            found[operator][:, of.places] = permuted_logits(
                of.logits, records.signals_mV[of.places], donors, operator, laid=_laid_in(of.places, scored.delineated)
            )
    return found


def _laid_in(places: np.ndarray, delineated: Delineated) -> Callable[[int, int], np.ndarray | None]:
    return lambda donor, place: delineated.laid(int(places[donor]), int(places[place]))
