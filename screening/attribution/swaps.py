"""Scores of ECGs of which parts are exchanged, computed where the network runs.

Two ways, one result. Any network is shown every changed ECG. A network whose leads stay apart until its projection
(`MSAICNet` with ``leads_apart``) need not be: there a lead is a summand, so that a whole lead taken from a donor is one
subtraction and one addition of what was computed before, and only a lead that mixes record and donor (II, when aVF is the
donor's and I is kept; a lead with a donor's wave) is read anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from screening.attribution.operators import exchanges, waves_of
from screening.contract import INDEPENDENT_ROWS, LEADS, OPERATORS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from screening.model.folded import FoldedMSAIC
    from screening.model.msaic import MSAICNet

Pair = tuple[int, int]
"""Places of a record and of its donor."""
Laid = Callable[[int, int], tuple[np.ndarray, np.ndarray]]
"""Gives for a pair the donor's beats laid on the record's, (12, samples), and when waves last, (4, samples)."""

_PAIRS = 32
"""Pairs changed at once: enough to fill batches, few enough for a processor's cache."""


@dataclass(frozen=True)
class Records:
    """Records where the network runs."""

    signals: Tensor  # float32 (r, 12, samples)
    contributions: Tensor | None = None  # of each lead that is read, float32 (r, n, t, p); where leads stay apart


class SwapScorer:
    """Shows a network every changed ECG. Pairs are changed on its device.

    Parameters
    ----------
    network
        Maps float32 (b, 12, samples) to logits (b,); in evaluation mode, on ``device``.
    donors_mV
        float32 (donors, 12, samples), filtered.
    device, batch_size
        Where, and in what padded batch, the network runs. The batch shape never varies, because libraries choose their
        algorithms, and so the last bits, by shape.
    """

    def __init__(self, network: nn.Module, donors_mV: np.ndarray, *, device: str, batch_size: int) -> None:
        self.network, self.device, self.batch_size = network, device, batch_size
        self.donors = self._moved(donors_mV)

    def take(self, records_mV: np.ndarray) -> Records:
        """Bring records, float32 (r, 12, samples), to where the network runs; what does not change is computed once."""
        return Records(self._moved(records_mV))

    def logits(
        self, records: Records, pairs: Sequence[Pair], operators: Sequence[str], *, laid: Laid | None = None
    ) -> dict[str, np.ndarray]:
        """Return the logits with everything exchanged that the operators exchange.

        Parameters
        ----------
        records
            As `take` gave them.
        pairs
            Which record takes from which donor.
        operators
            Of ``contract.OPERATORS``.
        laid
            Lays the donor's beats on the record's; None takes donors as they are, which waves cannot.

        Returns
        -------
        dict
            Operator -> float64 (pairs, exchanges).
        """
        import torch

        if laid is None and "wave" in operators:
            raise ValueError("waves are exchanged between beats that are laid on each other")
        found: dict[str, list[np.ndarray]] = {operator: [] for operator in operators}
        with torch.inference_mode():
            for start in range(0, len(pairs), _PAIRS):
                changes = self._changes(records, pairs[start : start + _PAIRS], laid)
                for operator, of_operator in found.items():
                    scored = self._score(changes, operator)
                    of_operator.append(scored.double().cpu().numpy())
        return {operator: np.concatenate(of_operator) for operator, of_operator in found.items() if of_operator}

    def _changes(self, records: Records, pairs: Sequence[Pair], laid: Laid | None) -> _Changes:
        of_record, of_donor = (list(places) for places in zip(*pairs, strict=True))
        own = records.signals[of_record]
        if laid is None:
            return _Changes(records, of_record, of_donor, own, self.donors[of_donor] - own)
        over, masks = zip(*(laid(record, donor) for record, donor in pairs), strict=True)
        difference = self._moved(np.stack(over)) - own
        return _Changes(records, of_record, None, own, difference, self._moved(np.stack(masks)))

    def _score(self, changes: _Changes, operator: str) -> Tensor:
        """Return the logits (pairs, exchanges)."""
        import torch

        a = self._moved(exchanges(operator))  # (g, 12, 12)
        change = (a.flatten(0, 1) @ changes.difference).reshape(len(changes.own), *a.shape[:2], -1)
        waves = waves_of(operator)
        if waves is not None and changes.masks is not None:
            change *= changes.masks[:, torch.from_numpy(waves), None]
        changed = (changes.own[:, None] + change).flatten(0, 1)  # (q * g, 12, samples)
        return self._in_batches(self.network, changed).reshape(len(changes.own), -1)

    def _moved(self, array: np.ndarray) -> Tensor:
        import torch

        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    def _in_batches(self, network: Callable[..., Tensor], rows: Tensor, *beside: Tensor) -> Tensor:
        """Return what ``network`` makes of ``rows``, and of the tensors beside them, in padded batches of one size."""
        import torch

        found = []
        for start in range(0, len(rows), self.batch_size):
            batch = [tensor[start : start + self.batch_size] for tensor in (rows, *beside)]
            lacking = self.batch_size - len(batch[0])
            if lacking:
                batch = [torch.cat([part, part.new_zeros((lacking, *part.shape[1:]))]) for part in batch]
            found.append(network(*batch)[: self.batch_size - lacking].float())
        return torch.cat(found)


@dataclass
class _Changes:
    """What q pairs change."""

    records: Records
    of_record: list[int]
    of_donor: list[int] | None  # None: of donors whose beats were laid on the record's
    own: Tensor  # (q, 12, samples), the records' signals
    difference: Tensor  # (q, 12, samples), donor minus record
    masks: Tensor | None = None  # (q, 4, samples)
    lent: Tensor | None = None  # (q, n, t, p), what the donors' leads contribute; computed when it is first needed


class LeadSwapScorer(SwapScorer):
    """Exchanges what leads contribute, for an `MSAICNet` whose leads stay apart: what `SwapScorer` gives, many times faster."""

    network: MSAICNet | FoldedMSAIC

    def __init__(self, network: MSAICNet | FoldedMSAIC, donors_mV: np.ndarray, *, device: str, batch_size: int) -> None:
        import torch

        super().__init__(network, donors_mV, device=device, batch_size=batch_size)
        with torch.inference_mode():
            self.of_donors = self._contributions(self.donors)

    def take(self, records_mV: np.ndarray) -> Records:
        """Bring records to where the network runs, and read each lead once."""
        import torch

        signals = self._moved(records_mV)
        with torch.inference_mode():
            return Records(signals, self._contributions(signals))

    def _contributions(self, signals: Tensor) -> Tensor:
        """Return what each lead that is read contributes: (b, 12, samples) -> (b, n, t, p)."""
        import torch

        traces = signals[:, INDEPENDENT_ROWS]
        places = torch.arange(len(INDEPENDENT_ROWS), device=self.device).repeat(len(traces))
        read = self._in_batches(self.network.lead_contributions, traces.flatten(0, 1), places)
        return read.reshape(*traces.shape[:2], *read.shape[1:])

    def _score(self, changes: _Changes, operator: str) -> Tensor:
        import torch

        if changes.records.contributions is None:
            raise ValueError("the records were taken by another scorer")
        own = changes.records.contributions[changes.of_record]  # (q, n, t, p)
        kinds = _kinds(operator)
        anew = self._read_anew(changes, [kind for kind in kinds if not kind.whole])
        read = iter(anew)
        differences = [
            (self._lent(changes)[:, kind.place] if kind.whole else next(read)) - own[:, kind.place] for kind in kinds
        ]
        which = torch.tensor(
            [[float(number in kind.exchanges) for kind in kinds] for number in range(len(exchanges(operator)))],
            device=self.device,
        )
        change = which @ torch.stack(differences, dim=1).flatten(2)  # (g, k) @ (q, k, t * p)
        sums = own.sum(dim=1).flatten(1)[:, None] + change  # (q, g, t * p)
        merged = sums.reshape(-1, *own.shape[2:])
        return self._in_batches(self.network.merged_logits, merged).reshape(len(own), -1)

    def _lent(self, changes: _Changes) -> Tensor:
        if changes.lent is None:
            if changes.of_donor is None:
                changes.lent = self._contributions(changes.own + changes.difference)
            else:
                changes.lent = self.of_donors[changes.of_donor]
        return changes.lent

    def _read_anew(self, changes: _Changes, mixed: Sequence[_Kind]) -> Tensor:
        """Return the contributions (mixed, q, t, p) of leads in which record and donor are mixed."""
        import torch

        if not mixed:
            return changes.own.new_empty(0)
        traces = []
        for kind in mixed:
            change = self._moved(np.array(kind.weights)) @ changes.difference  # (12,) @ (q, 12, samples)
            if kind.wave is not None and changes.masks is not None:
                change = change * changes.masks[:, kind.wave]
            traces.append(changes.own[:, INDEPENDENT_ROWS[kind.place]] + change)
        places = torch.tensor([kind.place for kind in mixed], device=self.device).repeat_interleave(len(changes.own))
        read = self._in_batches(self.network.lead_contributions, torch.cat(traces), places)
        return read.reshape(len(mixed), -1, *read.shape[1:])


@dataclass(frozen=True)
class _Kind:
    """One way in which a lead that is read changes, and in which exchanges it does."""

    place: int  # in INDEPENDENT_ROWS
    weights: tuple[float, ...]  # on donor minus record, (12,)
    wave: int | None
    exchanges: tuple[int, ...]

    @property
    def whole(self) -> bool:
        """Whether the lead becomes the donor's, so that it contributes what the donor's does."""
        alone = [weight for weight in self.weights if weight]
        return self.wave is None and alone == [1.0] and self.weights[INDEPENDENT_ROWS[self.place]] == 1.0


@lru_cache(maxsize=len(OPERATORS))
def _kinds(operator: str) -> list[_Kind]:
    waves = waves_of(operator)
    found: dict[tuple[int, tuple[float, ...], int | None], list[int]] = {}
    for number, a in enumerate(exchanges(operator)):
        wave = None if waves is None else int(waves[number])
        for place, lead in enumerate(INDEPENDENT_ROWS):
            if a[lead].any():
                found.setdefault((place, _lawful(a[lead]), wave), []).append(number)
    return [_Kind(*key, tuple(numbers)) for key, numbers in found.items()]


def _lawful(row: np.ndarray) -> tuple[float, ...]:
    """Return weights on the leads in the shortest form that Einthoven's law allows for lead II: aVF + I / 2 is II."""
    one, two, foot = (LEADS.index(lead) for lead in ("I", "II", "aVF"))
    if np.count_nonzero(row) == 2 and row[one] == 0.5 and row[foot] == 1.0:
        row = np.zeros_like(row)
        row[two] = 1.0
    return tuple(row.tolist())


def swap_scorer(network: nn.Module, donors_mV: np.ndarray, *, device: str, batch_size: int) -> SwapScorer:
    """Return the fastest scorer for a network; parameters as of `SwapScorer`."""
    from screening.model.folded import FoldedMSAIC
    from screening.model.msaic import MSAICNet

    if isinstance(network, (MSAICNet, FoldedMSAIC)) and network.config.leads_apart:
        return LeadSwapScorer(network, donors_mV, device=device, batch_size=batch_size)
    return SwapScorer(network, donors_mV, device=device, batch_size=batch_size)
