"""The losses of MSAIC-Net: focal binary cross-entropy, and contrastive losses over the embeddings of a batch.

Notation of SupCon (Khosla et al. 2020, arXiv 2004.11362): for an anchor i of a batch of unit vectors z, A(i) is every
other vector, P(i) the positives among them, and

    eta_ip = exp(z_i . z_p / tau) / sum over a in A(i) of exp(z_i . z_a / tau).

Each contrastive loss here is a sum over anchors divided by the number of anchors, so that its weight does not depend on
the batch size. An anchor's own terms are divided by |P(i)|, never by the size of the batch, which would let the larger
class dominate; an anchor without positives adds nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def focal_bce(logit: Tensor, target: Tensor, *, alpha: float | None = None, gamma: float = 2.0) -> Tensor:
    """Return the mean focal binary cross-entropy, -alpha_t (1 - p_t)^gamma log p_t (Lin et al. 2017, arXiv 1708.02002).

    Parameters
    ----------
    logit, target : Tensor (b,)
        ``target`` is 1 for the positive class and 0 for the negative one.
    alpha : float, optional
        Weight of the positive class; the negative one gets 1 - alpha. None weighs both 1.
    gamma : float
        How strongly records that are already right are discounted; 0 is plain cross-entropy.

    Returns
    -------
    Tensor ()
    """
    positive = target > 0.5
    signed = torch.where(positive, logit, -logit)  # log-odds of the true class
    loss = -torch.sigmoid(-signed).pow(gamma) * functional.logsigmoid(signed)  # (b,)
    if alpha is not None:
        loss = loss * torch.where(positive, alpha, 1.0 - alpha)
    return loss.mean()


def supcon(z: Tensor, target: Tensor, *, temperature: float = 0.1) -> Tensor:
    """Return SupCon: every other vector of the anchor's class is a positive. See ``fscl`` for shapes."""
    return fscl(z, target, temperature=temperature, gamma_c=0.0)


def fscl(z: Tensor, target: Tensor, *, temperature: float = 0.1, gamma_c: float = 2.0) -> Tensor:
    """Return the focal supervised contrastive loss of MSAIC-Net (arXiv 2606.06718).

    Sum over i of -1/|P(i)| sum over p in P(i) of (1 - eta_ip)^gamma_c log eta_ip, divided by the number of anchors.

    Parameters
    ----------
    z : Tensor (b, d)
        Embeddings of unit length, usually two views of each record.
    target : Tensor (b,)
        Class of each embedding.
    temperature : float
        tau.
    gamma_c : float
        How strongly pairs that are already close are discounted; 0 gives SupCon.

    Returns
    -------
    Tensor ()
    """
    positives = _others(target[:, None] == target[None, :])  # (b, b)
    return _contrast(z, z, positives, temperature=temperature, gamma_c=gamma_c)


def supervised_minority(
    z: Tensor, target: Tensor, source: Tensor, *, minority: int = 1, temperature: float = 0.1, gamma_c: float = 0.0
) -> Tensor:
    """Return SupCon in which only the minority class attracts itself (arXiv 2503.17024, for binary imbalance).

    A minority anchor's positives are its class; a majority anchor's are the other views of its own record, so that the
    majority spreads instead of collapsing to a point.

    Parameters
    ----------
    z, target, temperature, gamma_c
        As in ``fscl``.
    source : Tensor (b,)
        Which record each embedding is a view of.
    minority : int
        The minority's value in ``target``.

    Returns
    -------
    Tensor ()
    """
    same_class = target[:, None] == target[None, :]
    same_record = source[:, None] == source[None, :]
    positives = _others(torch.where((target == minority)[:, None], same_class, same_record))  # (b, b)
    return _contrast(z, z, positives, temperature=temperature, gamma_c=gamma_c)


def supervised_prototypes(
    z: Tensor, target: Tensor, source: Tensor, prototype: Tensor, *, temperature: float = 0.1, gamma_c: float = 0.0
) -> Tensor:
    """Return the loss that draws each class to one end of a fixed axis (after arXiv 2503.17024).

    The two prototypes +v (class 1) and -v (class 0) join every anchor's A(i) as fixed vectors. An anchor's positives
    are its class's prototype and the other views of its own record: classes part along v, records spread across it.

    Parameters
    ----------
    z, target, temperature, gamma_c
        As in ``fscl``.
    source : Tensor (b,)
        Which record each embedding is a view of.
    prototype : Tensor (d,)
        v, of unit length.

    Returns
    -------
    Tensor ()
    """
    candidates = torch.cat([z, prototype[None], -prototype[None]])  # (b, d) -> (b + 2, d)
    same_record = _others(source[:, None] == source[None, :])  # (b, b)
    own_end = torch.stack([target == 1, target != 1], dim=1)  # (b, 2)
    positives = torch.cat([same_record, own_end], dim=1)  # (b, b + 2)
    return _contrast(z, candidates, positives, temperature=temperature, gamma_c=gamma_c)


def _others(pairs: Tensor) -> Tensor:
    """Return ``pairs`` (b, b) without the pair of each vector with itself."""
    return pairs & ~torch.eye(len(pairs), dtype=torch.bool, device=pairs.device)


def _contrast(anchors: Tensor, candidates: Tensor, positives: Tensor, *, temperature: float, gamma_c: float) -> Tensor:
    """Return the loss over anchors (b, d), candidates (m, d) of which the first b are the anchors, positives (b, m)."""
    itself = torch.eye(*positives.shape, dtype=torch.bool, device=positives.device)  # (b, m): a is never i
    similarity = (anchors @ candidates.T / temperature).float()  # float32 under autocast too
    log_eta = similarity.masked_fill(itself, -torch.inf).log_softmax(dim=1).masked_fill(itself, 0.0)  # (b, m)
    term = -log_eta
    if gamma_c:
        # expm1 keeps digits where eta is nearly 1; the floor keeps the slope finite there when gamma_c < 1.
        term = term * (-torch.expm1(log_eta)).clamp_min(torch.finfo(log_eta.dtype).eps).pow(gamma_c)
    count = positives.sum(dim=1)  # (b,) |P(i)|
    per_anchor = term.masked_fill(~positives, 0.0).sum(dim=1) / count.clamp_min(1)  # (b,)
    return per_anchor.sum() / len(anchors)
