"""Training of many small reward models on pairs, with the gradient written out.

Autograd keeps the activations of all members at once. Here a few members at a time go through
all updates, so that what an update touches stays in the processor's cache.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from enough.runtime import chunks
from enough.runtime import progress as progress_bar
from enough.training.streams import BatchOrder

__all__ = ["train_on_pairs"]

_CHUNK_BYTES = 8 * 2**20  # parameters and activations of the members trained together


@torch.no_grad()
def train_on_pairs(
    params: Mapping[str, Tensor],
    pairs: Tensor,
    generators: Sequence[torch.Generator],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    weight_decay: float,
    centering: float,
    progress: bool = True,
) -> None:
    """Train multilayer perceptrons with ReLU by AdamW on the centered Bradley-Terry loss.

    Parameters
    ----------
    params : mapping from str to torch.Tensor
        ``layers.0.weight`` (E, out, in), ``layers.0.bias`` (E, out), ``layers.1.weight``, ...,
        of all members, in one dtype on one device; changed in place.
    pairs : torch.Tensor, shape (W, P, 2, F)
        Features of the chosen and the rejected answer of each pair, for W data sets. Member e
        learns from set e mod W.
    generators : sequence of torch.Generator
        For each member the stream of its orders of the pairs.
    steps : int
        Updates.
    batch_size : int
        Pairs an update; an epoch ends with a smaller batch where it does not divide P.
    lr : float
        Learning rate.
    weight_decay : float
        Weight decay, decoupled.
    centering : float
        Weight of the centering term of `bradley_terry_loss`.
    progress : bool, default True
        Show a progress bar where a person watches.

    Notes
    -----
    With s the sigmoid of the rejected answer's reward minus the chosen one's and c the weight
    of the centering term, a pair's loss has the derivative ±s + 2c(r⁺ + r⁻) with respect to
    the two rewards: minus for the chosen one.
    """
    depth = len(params) // 2
    names = [f"layers.{i}.{part}" for i in range(depth) for part in ("weight", "bias")]
    members, device = len(params[names[0]]), pairs.device
    floats = 2 * batch_size * (pairs.shape[-1] + 4 * sum(params[n].shape[1] for n in names[1::2]))
    floats += 4 * sum(params[name][0].numel() for name in names)
    limit = float(_CHUNK_BYTES) if device.type == "cpu" else None
    slices = list(chunks(members, 4.0 * floats, limit, device=device))
    flat = pairs.flatten(2).flatten(0, 1)
    place = torch.arange(members) % pairs.shape[0] * pairs.shape[1]
    work = [(part, step) for part in slices for step in range(steps)]
    for part, step in progress_bar(work, len(work), "reward models") if progress else work:
        if step == 0:
            own = [params[name][part].clone() for name in names]
            grads = list(own)  # all of them are replaced
            first, second = ([torch.zeros_like(p) for p in own] for _ in range(2))
            counts = [torch.zeros((), device=device) for _ in own]
            order = BatchOrder(generators[part], pairs.shape[1], batch_size)
        rows = order.next() + place[part, None]
        size = rows.shape[1]
        x = flat.index_select(0, rows.flatten().to(device)).view(len(rows), 2 * size, -1)
        hidden = [x]
        for w, b in zip(own[:-2:2], own[1:-2:2], strict=True):
            hidden.append(torch.baddbmm(b.unsqueeze(1), hidden[-1], w.mT).relu_())
        chosen, rejected = (
            ((hidden[-1] * own[-2]).sum(-1) + own[-1]).unflatten(1, (-1, 2)).unbind(2)
        )
        wrong, center = torch.sigmoid(rejected - chosen), 2.0 * centering * (chosen + rejected)
        slope = torch.stack([center - wrong, center + wrong], -1).view(len(rows), -1, 1) / size
        grads[-2], grads[-1] = (slope * hidden[-1]).sum(1, keepdim=True), slope.sum(1)
        slope = slope * own[-2]
        for i in reversed(range(depth - 1)):
            slope *= hidden[i + 1].sign()  # the derivative of ReLU, 0 or 1
            grads[2 * i], grads[2 * i + 1] = torch.bmm(slope.mT, hidden[i]), slope.sum(1)
            if i > 0:
                slope = torch.bmm(slope, own[2 * i])
        adamw(
            own,
            grads,
            first,
            second,
            [],
            counts,
            fused=device.type in ("cpu", "cuda"),
            amsgrad=False,
            beta1=0.9,
            beta2=0.999,
            lr=lr,
            weight_decay=weight_decay,
            eps=1e-8,
            maximize=False,
        )
        if step == steps - 1:
            for name, value in zip(names, own, strict=True):
                params[name][part] = value
