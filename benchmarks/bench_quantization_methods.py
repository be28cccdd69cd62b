"""AdaRound, AdaQuant and GPTQ on one layer, from second moments and as published.

The learned methods are published as a loop that runs the layer on calibration data at every step.
Ours gather the moments of the inputs once and never see the data again; their time includes the
gathering. The peers run the same number of steps of the same optimizer on the same loss: on all
images at every step, which gives the same weights up to rounding, and on batches of 32 images,
which does not. GPTQ's peer is the published recursion with the inverse, column by column.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from enough.quantization import (
    LayerStatistics,
    RoundedWeight,
    WeightGrid,
    adaquant,
    adaround,
    gptq,
    nearest,
    straight_through_quantize,
)
from side_by_side import compare, main

BITS = 3
BATCH = 32


@dataclass(frozen=True)
class Layer:
    """A 3 x 3 convolution and images that reach it."""

    images: torch.Tensor
    weight: torch.Tensor
    grid: WeightGrid

    @classmethod
    def make(cls, n_images: int, channels: int, side: int = 8) -> Layer:
        """Draw smooth images behind a ReLU and a weight."""
        draw = torch.Generator().manual_seed(0)
        images = torch.randn(n_images, channels, side, side, generator=draw)
        mix = torch.randn(channels, channels, 3, 3, generator=draw) / (9 * channels) ** 0.5
        weight = torch.randn(channels, channels, 3, 3, generator=draw) / (9 * channels) ** 0.5
        images = F.conv2d(images, mix, padding=1).relu()
        return cls(images, weight, WeightGrid.fit(weight.flatten(1), bits=BITS, method="mse"))

    @property
    def matrix(self) -> torch.Tensor:
        """The weight as a matrix."""
        return self.weight.flatten(1)

    def statistics(self) -> LayerStatistics:
        """Gather the moments of the patches."""
        patches = F.unfold(self.images, 3, padding=1).mT.flatten(0, 1)
        return LayerStatistics.from_rows(patches)

    def run(self, images: torch.Tensor, matrix: torch.Tensor) -> torch.Tensor:
        """Run the convolution; samples and positions along the last dimension."""
        output = F.conv2d(images, matrix.view_as(self.weight), padding=1)
        return output.transpose(0, 1).flatten(1)

    def batches(self, steps: int, size: int | None) -> list[slice | torch.Tensor]:
        """Draw the images of every step; all of them without a size."""
        draw = torch.Generator().manual_seed(1)
        if size is None:
            return [slice(None)] * steps
        return list(torch.randint(len(self.images), (steps, size), generator=draw))


def published_adaround(layer: Layer, steps: int, batch: int | None = None) -> torch.Tensor:
    """AdaRound as a loop over forward passes, in the units of ours."""
    w, grid = layer.matrix, layer.grid
    scale, zero = (v[0] for v in grid.expand(w.shape[1], w.dtype))
    floor = torch.floor(w / scale)
    v = torch.logit((w / scale - floor + 0.1) / 1.2).requires_grad_()
    near = (torch.round(w / scale) + zero).clamp(grid.low, grid.high)
    target = layer.run(layer.images, w)
    unit = (layer.run(layer.images, scale * (near - zero)) - target).square().mean(1) / w.shape[1]
    positions = target.shape[1] // len(layer.images)
    target = target.unflatten(1, (-1, positions))
    optimizer = torch.optim.Adam([v], lr=0.2, fused=True)
    for step, pick in enumerate(layer.batches(steps, batch)):
        share = (torch.sigmoid(v) * 1.2 - 0.1).clamp(0, 1)
        q = (floor + share + zero).clamp(grid.low, grid.high)
        output = layer.run(layer.images[pick], scale * (q - zero))
        loss = ((output - target[:, pick].flatten(1)).square().mean(1) / unit).sum()
        if step >= 0.2 * steps:
            beta = 2 + 18 * (1 - (step - 0.2 * steps) / (0.8 * steps))
            loss = loss + 20 * (1 - (2 * share - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    q = (floor + (v.detach() >= 0) + zero).clamp(grid.low, grid.high)
    return scale * (q - zero)


def published_adaquant(layer: Layer, steps: int, batch: int | None = None) -> torch.Tensor:
    """AdaQuant as a loop over forward passes, the bias left out.

    With all images each row keeps its best weight, as ours does; batches cannot tell which that
    is, so there the last one stands.
    """
    w, grid = layer.matrix, layer.grid
    first, zero = grid.scale[0].to(w), grid.zero_point[0].to(w).requires_grad_()
    move, stretch = torch.zeros_like(w).requires_grad_(), torch.zeros_like(first).requires_grad_()
    target = layer.run(layer.images, w)
    target = target.unflatten(1, (-1, target.shape[1] // len(layer.images)))
    optimizer = torch.optim.Adam(
        [
            {"params": [move], "lr": 0.01},
            {"params": [stretch], "lr": 1e-3},
            {"params": [zero], "lr": 1e-2},
        ],
        fused=True,
    )

    def weight() -> torch.Tensor:
        return straight_through_quantize(
            w + first * move, first * (1 + stretch), zero, grid.low, grid.high
        )

    best, best_weight = torch.full((len(w),), torch.inf), w
    for pick in layer.batches(steps, batch):
        w_hat = weight()
        error = layer.run(layer.images[pick], w_hat) - target[:, pick].flatten(1)
        error = error.square().mean(1)
        if batch is None:
            better = error.detach() < best
            best = torch.where(better, error.detach(), best)
            best_weight = torch.where(better[:, None], w_hat.detach(), best_weight)
        optimizer.zero_grad()
        error.sum().backward()
        optimizer.step()
    return weight().detach() if batch else best_weight


def published_gptq(weight: torch.Tensor, hessian: torch.Tensor, grid: WeightGrid) -> torch.Tensor:
    """GPTQ as published, without lazy batches."""
    w = weight.clone()
    scale, zero = (v[0].expand_as(w).to(w) for v in grid.expand(w.shape[1], w.dtype))
    eye = torch.eye(len(hessian), dtype=hessian.dtype)
    damped = hessian + 0.01 * hessian.diagonal().mean() * eye
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    upper = torch.linalg.cholesky(inverse, upper=True).to(w)
    rounded = torch.empty_like(w)
    for j in range(w.shape[1]):
        q = (torch.round(w[:, j] / scale[:, j]) + zero[:, j]).clamp(grid.low, grid.high)
        rounded[:, j] = scale[:, j] * (q - zero[:, j])
        error = (w[:, j] - rounded[:, j]) / upper[j, j]
        w[:, j:] -= torch.outer(error, upper[j, j:])
    return rounded


def rows(quick: bool = False) -> list[dict]:
    """Measure the three methods.

    Parameters
    ----------
    quick : bool, default False
        Small sizes.

    Returns
    -------
    list of dict
        Rows as ``README.md`` describes them.
    """
    n_images, channels, steps, columns = (8, 4, 20, 32) if quick else (100, 32, 500, 1024)
    layer = Layer.make(n_images, channels)
    moments = layer.statistics()
    base = nearest(layer.matrix, moments, layer.grid).error

    def error(weight: torch.Tensor) -> str:
        return f"{moments.error(layer.matrix, None, weight, None) / base:.3f}"

    def note(ours: RoundedWeight, everything: torch.Tensor, some: torch.Tensor) -> str:
        return (
            f"error over that of rounding to nearest: ours {error(ours.weight)}, all images "
            f"{error(everything)}, batches {error(some)}"
        )

    size = f"{steps} steps, {channels} channels, {n_images} images"
    why = "moments once and one matrix product a step, beside a convolution there and back"
    result = []
    methods = {
        "AdaRound": (
            lambda: adaround(layer.matrix, layer.statistics(), layer.grid, steps=steps),
            published_adaround,
        ),
        "AdaQuant": (
            lambda: adaquant(
                layer.matrix, layer.statistics(), layer.grid, steps=steps, correct_bias=False
            ),
            published_adaquant,
        ),
    }
    for name, (ours, published) in methods.items():
        result += compare(
            f"{name}, {size}",
            ours,
            {
                "as published, all images": lambda f=published: f(layer, steps),
                f"as published, {BATCH} images a step": lambda f=published: f(layer, steps, BATCH),
            },
            rounds=3,
            why=why,
            note=note(ours(), published(layer, steps), published(layer, steps, BATCH)),
        )
    draw = torch.Generator().manual_seed(2)
    mix = torch.randn(columns, columns, generator=draw) / columns**0.5
    x = (torch.randn(4 * columns, columns, generator=draw) @ mix).relu()
    weight = torch.randn(columns, columns, generator=draw)
    moments = LayerStatistics.from_rows(x)
    grid = WeightGrid.fit(weight, bits=4)
    hessian = moments.S_hh[0]
    ours = gptq(weight, moments, grid).weight
    theirs = published_gptq(weight, hessian, grid)
    same = (ours == theirs).float().mean()
    errors = [moments.error(weight, None, w, None) for w in (ours, theirs)]
    result += compare(
        f"GPTQ, {columns} x {columns}, moments given",
        lambda: gptq(weight, moments, grid),
        {"the published recursion": lambda: published_gptq(weight, hessian, grid)},
        rounds=3,
        why="one factor in float64 and blocks of columns, beside an inverse and its factor "
        "with the rest of the weight corrected at each column in float32",
        note=f"{100 * same:.2f} % of the integers agree, error {errors[0] / errors[1]:.4f} of the "
        "peer's",
    )
    return result


if __name__ == "__main__":
    main(rows)
