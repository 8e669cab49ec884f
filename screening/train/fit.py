"""Train a network: plain torch, no cluster, no clock, no files.

Everything random in epoch e comes from (seed, e, rank), so an interrupted training that resumes from the state of its
last whole epoch ends with the same weights as one that was never interrupted.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import torch
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import Tensor, nn

from screening.model import losses
from screening.model.classifier import Classifier, NetworkConfig
from screening.model.msaic import MSAICConfig
from screening.train.augment import Augmentation, augment
from screening.train.batches import class_aware_batches

Contrast = Literal["none", "supcon", "fscl", "supervised_minority", "supervised_prototypes"]
Precision = Literal["auto", "bfloat16", "float32"]
Keep = Literal["best", "last"]
"""The best epoch by the tune score, with early stopping; or the last, at the end of the whole schedule. A tune score on some
hundred records is noisy, and weights averaged over a schedule that ends at rate zero hardly overfit: on PTB-XL's folds 1-9
the last epoch ranked unseen folds as well as the best or better, and leaves the tuning records to the calibration."""


class LabelledSignals(Protocol):
    """What ``fit`` reads of a training set; ``train.data.TrainingSet`` is one."""

    @property
    def signals_mV(self) -> np.ndarray:
        """Filtered ECGs, float32 (n, 12, T)."""

    @property
    def target(self) -> np.ndarray:
        """1 for infarction, 0 for none, (n,)."""

    @property
    def label(self) -> np.ndarray:
        """MI, NORM or other, str (n,)."""


@dataclass(frozen=True)
class FitSettings:
    """How the network is trained. The defaults train the network that ships."""

    seed: int = 0
    epochs: int = 36
    keep: Keep = "last"  # which epoch's weights
    score_every: int = 6  # epochs; the last is always scored
    patience: int = 12  # with keep="best": epochs without a better tune score before stopping
    batch_size: int = 64  # records
    views: int = 1  # augmented copies of each record in a batch
    precision: Precision = "auto"  # auto: bfloat16 on a GPU, and on a CPU that computes in it
    positive_share: float | None = 0.4  # of every batch; None keeps the training set's own share
    learning_rate: float = 2e-3  # highest, after the warm-up
    warmup: float = 0.1  # share of the steps
    weight_decay: float = 0.02
    gradient_norm: float = 1.0
    ema: float = 0.99  # decay a step of the averaged weights that are scored and kept; 0 keeps the last weights
    focal_alpha: float | None = None
    focal_gamma: float = 1.0
    contrast: Contrast = "fscl"
    contrast_weight: float = 0.2  # lambda
    contrast_gamma: float = 2.0
    temperature: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)

    def __post_init__(self) -> None:
        ranges = {
            "epochs": self.epochs >= 1,
            "score_every": self.score_every >= 1,
            # Else it could stop before the first score.
            "patience": self.keep == "last" or self.patience >= self.score_every,
            "batch_size": self.batch_size >= 4,
            # A majority anchor's only positive is another view of its record.
            "views": self.views >= (2 if self.contrast == "supervised_minority" else 1),
            "positive_share": self.positive_share is None or 0 < self.positive_share < 1,
            "warmup": 0 <= self.warmup <= 1,
            "ema": 0 <= self.ema < 1,
            "gradient_norm": self.gradient_norm > 0,
            "temperature": self.temperature > 0,
        }
        for name, allowed in ranges.items():
            if not allowed:
                raise ValueError(f"{name} cannot be {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> FitSettings:
        """Return the settings that ``to_json`` wrote; an unknown key is a TypeError."""
        return cls(**{**value, "augmentation": Augmentation(**value.get("augmentation", {}))})


@dataclass(frozen=True)
class EpochReport:
    """What one epoch gave, and all that is needed to go on from its end."""

    epoch: int  # 0 is the first
    loss: float
    classification_loss: float
    contrastive_loss: float
    # Of the weights that would be kept: score, auroc, auprc, auroc_norm; on ranks above 0 score alone; empty: not scored.
    tune: dict[str, float]
    best_epoch: int
    state: dict[str, Any]  # tensors and JSON values only: ``torch.load(..., weights_only=True)`` reads it back

    @property
    def is_best(self) -> bool:
        """Whether this epoch's weights are the best so far."""
        return self.epoch == self.best_epoch

    def metrics(self) -> dict[str, float]:
        """Return the numbers to log."""
        return {
            "loss": self.loss,
            "classification_loss": self.classification_loss,
            "contrastive_loss": self.contrastive_loss,
            **{f"tune_{name}": value for name, value in self.tune.items()},
        }


@dataclass(frozen=True)
class FitResult:
    """The weights that are kept, and how the training went."""

    state_dict: dict[str, Tensor]  # of the network, on the CPU
    best_epoch: int  # that was kept
    best_score: float
    history: list[dict[str, float]]  # one entry an epoch


def fit(
    train_set: LabelledSignals,
    tune_set: LabelledSignals,
    settings: FitSettings | None = None,
    *,
    network_config: NetworkConfig | None = None,
    resume_from: dict[str, Any] | None = None,
    on_epoch: Callable[[EpochReport], None] | None = None,
    device: str | torch.device = "cpu",
    wrap: Callable[[nn.Module], nn.Module] | None = None,
    rank: int = 0,
    world_size: int = 1,
    agree: Callable[[float], float] | None = None,
) -> FitResult:
    """Train a network on one set, watched on the other.

    Parameters
    ----------
    train_set, tune_set : LabelledSignals
        With no patient in common; that is the caller's to check (``train.data.check_disjoint``).
    settings : FitSettings, optional
        The defaults train the network that ships.
    network_config : NetworkConfig, optional
        The network; the default is the one that ships.
    resume_from : dict, optional
        ``EpochReport.state`` of an earlier call with the same settings; training goes on after that epoch.
    on_epoch : callable, optional
        Called after every epoch on every rank.
    device : str or torch.device
        Where the network trains; see ``uses_bfloat16`` for its precision.
    wrap : callable, optional
        Makes the network data-parallel, e.g. ``ray.train.torch.prepare_model``. Its result's ``forward`` is called.
    rank, world_size : int
        Each rank trains on its own share of every batch; losses reported are those of the share.
    agree : callable, needed where world_size is above 1
        Called by every rank once an epoch, returns what rank 0 called it with. Rank 0 alone scores the tune set: ranks
        differ in their normalisation statistics, so each would find another best epoch, and stop by itself.

    Returns
    -------
    FitResult
        On rank 0 the best weights by its own scores; other ranks' results differ in normalisation statistics.

    Raises
    ------
    ValueError
        Where a set lacks one of the two classes, or ``resume_from`` belongs to other settings.
    """
    if world_size > 1 and agree is None:
        raise ValueError(f"{world_size} ranks must agree on a score, or some would stop while others wait for them")
    settings = settings or FitSettings()
    config: NetworkConfig = network_config or MSAICConfig()
    for name, part in (("train", train_set), ("tune", tune_set)):
        if len(np.unique(part.target)) < 2:
            raise ValueError(f"the {name} set needs records of both classes, it has {len(part.target)} of one or none")
    device = torch.device(device)
    identity = {"settings": settings.to_json(), "network": config.to_json()}
    if resume_from is not None and resume_from["identity"] != identity:
        raise ValueError("the state to resume from was made with other settings or another network")

    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(settings.seed)
        network = config.build().to(device)
        training = _Training(network, settings, train_set, device, wrap, rank, world_size)
        best: dict[str, Any] = {"epoch": -1, "score": -math.inf, "network": None}
        history: list[dict[str, float]] = []
        first = 0
        if resume_from is not None:
            training.load_state(resume_from)
            best = dict(resume_from["best"])
            history = [dict(entry) for entry in resume_from["history"]]
            first = len(history)
        for epoch in range(first, settings.epochs):
            if settings.keep == "best" and epoch - best["epoch"] > settings.patience:
                break
            torch.manual_seed(_seed(settings.seed, epoch, rank))  # dropout
            numbers = training.epoch(epoch)
            tune: dict[str, float] = {}
            if (epoch + 1) % settings.score_every == 0 or epoch + 1 == settings.epochs:
                tune = score(training.kept, tune_set, device=device) if rank == 0 else {"score": math.nan}
                if agree is not None:
                    tune["score"] = agree(tune["score"])
            if tune and (settings.keep == "last" or tune["score"] > best["score"]):
                best = {"epoch": epoch, "score": tune["score"], "network": _cpu_copy(training.kept.state_dict())}
            report = EpochReport(epoch, **numbers, tune=tune, best_epoch=best["epoch"], state={})
            history.append(report.metrics())
            if on_epoch is not None:
                state = {**training.state(), "best": best, "history": history, "identity": identity}
                report.state.update(copy.deepcopy(state))
                on_epoch(report)
    return FitResult(best["network"], best["epoch"], best["score"], history)


def uses_bfloat16(precision: Precision, device: torch.device) -> bool:
    """Return whether the forward pass of a training runs in bfloat16; weights and losses are float32 always.

    On CPUs with AVX-512 BF16 or AMX a step takes half the time; on others bfloat16 is emulated and slower.
    """
    if precision != "auto":
        return precision == "bfloat16"
    return device.type == "cuda" or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def predict(
    network: nn.Module, signals_mV: np.ndarray, *, device: str | torch.device = "cpu", batch_size: int = 64
) -> np.ndarray:
    """Return the logits, float32 (n,), of filtered ECGs (n, 12, T) in mV; the network is left in evaluation mode."""
    network.eval()
    with torch.inference_mode():
        parts = [
            network(torch.from_numpy(signals_mV[at : at + batch_size]).to(device, torch.float32)).float().cpu().numpy()
            for at in range(0, len(signals_mV), batch_size)
        ]
    return np.concatenate(parts) if parts else np.empty(0, np.float32)


def score(network: nn.Module, tune_set: LabelledSignals, *, device: str | torch.device = "cpu") -> dict[str, float]:
    """Return what epochs are compared by: ``score`` is the AUROC of infarction against everything else."""
    logit = predict(network, tune_set.signals_mV, device=device)
    auroc = float(roc_auc_score(tune_set.target, logit))
    numbers = {
        "score": auroc,
        "auroc": auroc,
        "auprc": float(average_precision_score(tune_set.target, logit)),
    }
    against_norm = (tune_set.target == 1) | (tune_set.label == "NORM")
    if len(np.unique(tune_set.target[against_norm])) == 2:
        numbers["auroc_norm"] = float(roc_auc_score(tune_set.target[against_norm], logit[against_norm]))
    return numbers


class _Training:
    """The moving parts of a training, and their state."""

    def __init__(
        self,
        network: Classifier,
        settings: FitSettings,
        train_set: LabelledSignals,
        device: torch.device,
        wrap: Callable[[nn.Module], nn.Module] | None,
        rank: int,
        world_size: int,
    ) -> None:
        self.network, self.settings, self.device = network, settings, device
        self.rank, self.world_size = rank, world_size
        self.bfloat16 = uses_bfloat16(settings.precision, device)
        self.signals = torch.from_numpy(np.ascontiguousarray(train_set.signals_mV))
        self.target = np.asarray(train_set.target)
        views = _Views(network)
        self.model = wrap(views) if wrap else views
        # Norms, biases and attention are few and have no need of decay.
        decayed = [p for p in network.parameters() if p.ndim > 1 and p.numel() > 16]
        plain = [p for p in network.parameters() if not (p.ndim > 1 and p.numel() > 16)]
        self.optimiser = torch.optim.AdamW(
            [{"params": decayed, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=settings.learning_rate,
            betas=(0.9, 0.98),
        )
        self.steps = settings.epochs * max(1, len(self.target) // settings.batch_size)
        self.step = 0
        self.average = copy.deepcopy(network).requires_grad_(False) if settings.ema else None
        d = network.config.embedding
        self.prototype = torch.full((d,), d**-0.5, device=device)

    @property
    def kept(self) -> Classifier:
        """The network that is scored and kept."""
        return self.network if self.average is None else self.average

    def epoch(self, epoch: int) -> dict[str, float]:
        self.model.train()
        rng = np.random.default_rng(_seed(self.settings.seed, epoch, 0))
        draws = torch.Generator().manual_seed(_seed(self.settings.seed, epoch, self.rank) + 1)
        total = torch.zeros(3, dtype=torch.float64)
        batches = 0
        for index in class_aware_batches(
            self.target,
            self.settings.batch_size,
            self.settings.positive_share,
            rng,
            rank=self.rank,
            world_size=self.world_size,
        ):
            total += self._step(index, draws)
            batches += 1
        names = ("loss", "classification_loss", "contrastive_loss")
        return dict(zip(names, (total / batches).tolist(), strict=True))

    def _step(self, index: np.ndarray, draws: torch.Generator) -> Tensor:
        settings = self.settings
        x = self.signals[torch.from_numpy(index)].to(self.device)  # (b, 12, T)
        target = torch.from_numpy(self.target[index].astype(np.float32)).to(self.device)
        x = torch.cat([augment(x, settings.augmentation, draws) for _ in range(settings.views)])  # (vb, 12, w)
        source = torch.arange(len(index), device=self.device).repeat(settings.views)
        target = target.repeat(settings.views)
        for group in self.optimiser.param_groups:
            group["lr"] = self._learning_rate()
        with torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.bfloat16):
            logit, z = self.model(x)  # (vb,), (vb, d)
        classification = losses.focal_bce(logit.float(), target, alpha=settings.focal_alpha, gamma=settings.focal_gamma)
        contrastive = self._contrastive(z.float(), target, source)
        loss = classification + settings.contrast_weight * contrastive
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.network.parameters(), settings.gradient_norm)
        self.optimiser.step()
        self.step += 1
        self._follow()
        return torch.stack([loss, classification, contrastive]).detach().double().cpu()

    def _contrastive(self, z: Tensor, target: Tensor, source: Tensor) -> Tensor:
        s = self.settings
        match s.contrast:
            case "none":
                return z.sum() * 0.0  # keeps the projection head in the graph of a data-parallel network
            case "supcon":
                return losses.supcon(z, target, temperature=s.temperature)
            case "fscl":
                return losses.fscl(z, target, temperature=s.temperature, gamma_c=s.contrast_gamma)
            case "supervised_minority":
                return losses.supervised_minority(z, target, source, temperature=s.temperature)
            case "supervised_prototypes":
                return losses.supervised_prototypes(z, target, source, self.prototype, temperature=s.temperature)

    def _learning_rate(self) -> float:
        """Linear warm-up, then a half cosine to zero."""
        warm = max(1, round(self.settings.warmup * self.steps))
        if self.step < warm:
            return self.settings.learning_rate * (self.step + 1) / warm
        done = (self.step - warm) / max(1, self.steps - warm)
        return self.settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))

    def _follow(self) -> None:
        """Move the averaged network, its normalisation statistics too, towards the trained one."""
        if self.average is None:
            return
        # Early on the average is short, so that the random first weights do not linger in it.
        pace = 1 - min(self.settings.ema, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for kept, new in zip(self.average.state_dict().values(), self.network.state_dict().values(), strict=True):
                if kept.is_floating_point():
                    kept.lerp_(new, pace)
                else:
                    kept.copy_(new)

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "network": self.network.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]
        self.network.load_state_dict(state["network"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])


class _Views(nn.Module):
    """Makes ``embed`` the forward pass, which is what data-parallel wrappers hook."""

    def __init__(self, network: Classifier) -> None:
        super().__init__()
        self.network = network

    def forward(self, x_mV: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.embed(x_mV)


def _seed(seed: int, epoch: int, rank: int) -> int:
    return int(np.random.SeedSequence((seed, epoch, rank)).generate_state(1)[0])


def _cpu_copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().clone() for name, value in state.items()}
