r"""Lazy and rich training of a two-layer network that two averages describe exactly.

The network :math:`f(x) = \frac{\alpha}{N} \sum_i \phi(w_i \cdot x)` with
:math:`\phi(h) = h + \frac{\epsilon}{2} h^2` depends on its N neurons only through their mean
:math:`\bar w = \frac1N \sum_i w_i` and second moment :math:`M = \frac1N \sum_i w_i w_i^\top`.
Gradient descent moves every neuron by one and the same affine map, so it closes on
:math:`(\bar w, M)`: training costs the same at every width, an infinite one included, and the
test loss over Gaussian inputs has a closed form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from enough.runtime import as_generator
from enough.runtime.validation import as_tensors, check_integer, check_number, check_tensor

__all__ = [
    "LazyRichRun",
    "kernel_movement",
    "kernel_target_alignment",
    "population_loss",
    "quadratic_tangent_kernel",
    "quadratic_task",
    "stable_learning_rate",
    "train_lazy_rich",
    "weight_statistics",
]


@dataclass(frozen=True)
class LazyRichRun:
    r"""What `train_lazy_rich` measured, for B networks trained as one batch.

    Entries of the recorded arrays are NaN after a network was stopped.

    Parameters
    ----------
    steps : numpy.ndarray of int, shape (R,)
        Recorded steps.
    train_loss, test_loss : numpy.ndarray, shape (R, B)
        Mean squared error on the training set and over the population.
    weight_alignment : numpy.ndarray, shape (R, B)
        :math:`\beta^\top M \beta / (|\beta|^2 \operatorname{tr} M)`: the share of the weights'
        power along the target's direction; 1/D at a random start.
    kernel_alignment : numpy.ndarray, shape (R, B)
        Centered alignment of the tangent kernel with the labels, on the probe.
    movement : numpy.ndarray, shape (R, B)
        Relative change of the tangent kernel since the start, on the probe.
    train_crossing, test_crossing : numpy.ndarray, shape (B,)
        First step at which the loss is at most ``threshold`` times its start; infinite if never.
    movement_at_crossing, alignment_at_crossing : numpy.ndarray, shape (B,)
        Movement of the kernel and alignment of the weights at ``train_crossing``; NaN if never.
    final_train, final_test, final_movement, final_alignment : numpy.ndarray, shape (B,)
        Losses, movement and alignment of the weights where training ended.
    lowest_test : numpy.ndarray, shape (B,)
        Smallest test loss of all steps, relative to its start.
    highest_test : numpy.ndarray, shape (B,)
        Largest test loss of all steps, relative to its start.
    learning_rate : numpy.ndarray, shape (B,)
        Rates used.
    last_step : numpy.ndarray of int, shape (B,)
        Where training ended.
    """

    steps: np.ndarray
    train_loss: np.ndarray
    test_loss: np.ndarray
    weight_alignment: np.ndarray
    kernel_alignment: np.ndarray
    movement: np.ndarray
    train_crossing: np.ndarray
    test_crossing: np.ndarray
    movement_at_crossing: np.ndarray
    alignment_at_crossing: np.ndarray
    final_train: np.ndarray
    final_test: np.ndarray
    final_movement: np.ndarray
    final_alignment: np.ndarray
    lowest_test: np.ndarray
    highest_test: np.ndarray
    learning_rate: np.ndarray
    last_step: np.ndarray

    @property
    def delay(self) -> np.ndarray:
        """Decades from the training to the test crossing: (B,).

        Infinite where only the training loss crossed, NaN where it did not.
        """
        with np.errstate(invalid="ignore"):
            return np.log10(self.test_crossing) - np.log10(self.train_crossing)

    @property
    def delay_floor(self) -> np.ndarray:
        """The delay, or a lower bound of it where the test loss never crossed: (B,)."""
        reached = np.minimum(self.test_crossing, self.last_step)
        with np.errstate(invalid="ignore", divide="ignore"):
            floor = np.log10(reached) - np.log10(self.train_crossing)
        return np.where(np.isfinite(floor), floor, np.nan)


def quadratic_task(
    n_samples: int,
    dimension: int,
    generator: torch.Generator | int | None = None,
    *,
    seeds: int = 1,
) -> tuple[Tensor, Tensor, Tensor]:
    r"""Draw inputs and labels of the polynomial-regression task.

    :math:`x \sim N(0, I/D)`, :math:`y = \frac12 (\beta \cdot x)^2` with a random direction
    :math:`\beta` of length :math:`\sqrt D`.

    Parameters
    ----------
    n_samples : int
        Samples P a seed.
    dimension : int
        Input dimension D.
    generator : torch.Generator, int, or None
        Source of the draws.
    seeds : int, default 1
        Number S of independent tasks.

    Returns
    -------
    x : torch.Tensor of shape (S, P, D), float64
        Inputs.
    y : torch.Tensor of shape (S, P), float64
        Labels.
    beta : torch.Tensor of shape (S, D), float64
        Directions.

    Raises
    ------
    ValueError
        If a size is not a positive whole number.

    References
    ----------
    .. [1] T. Kumar, B. Bordelon, S. J. Gershman and C. Pehlevan, "Grokking as the Transition
       from Lazy to Rich Training Dynamics", arXiv:2310.06110.
    """
    n_samples = check_integer(n_samples, "n_samples", minimum=1)
    dimension = check_integer(dimension, "dimension", minimum=1)
    seeds = check_integer(seeds, "seeds", minimum=1)
    generator = as_generator(generator)
    options = {"generator": generator, "device": generator.device, "dtype": torch.float64}
    x = torch.randn(seeds, n_samples, dimension, **options) / dimension**0.5
    beta = torch.randn(seeds, dimension, **options)
    beta = beta / beta.norm(dim=-1, keepdim=True) * dimension**0.5
    return x, 0.5 * (x @ beta[..., None])[..., 0].square(), beta


def weight_statistics(weights: Any) -> tuple[Any, Any]:
    r"""Compute the mean and the second moment of neurons.

    Parameters
    ----------
    weights : array of shape (..., N, D)
        One row a neuron.

    Returns
    -------
    mean : array of shape (..., D)
        :math:`\bar w`.
    moment : array of shape (..., D, D)
        :math:`M`, not centered.

    Raises
    ------
    ValueError
        If ``weights`` is not a finite array of rows.
    """
    (w,), restore = as_tensors(weights=weights)
    if w.ndim < 2:
        raise ValueError(f"weights: expected neurons as rows, got shape {tuple(w.shape)}")
    check_tensor(w, "weights", floating=True)
    return restore(w.mean(-2)), restore(w.mT @ w / w.shape[-2])


def population_loss(
    mean_change: Any, moment_change: Any, beta: Any, laziness: Any, curvature: Any
) -> Any:
    r"""Compute the mean squared error of the centered network over all inputs.

    Parameters
    ----------
    mean_change : array of shape (..., D)
        :math:`\Delta\bar w`, the change of the mean since the start.
    moment_change : array of shape (..., D, D)
        :math:`\Delta M`, the change of the second moment, symmetric.
    beta : array of shape (..., D)
        Direction of the target.
    laziness : float or array of shape (...)
        Output scale :math:`\alpha`.
    curvature : float or array of shape (...)
        :math:`\epsilon` of the activation.

    Returns
    -------
    array of shape (...)
        With :math:`A = \alpha\epsilon\Delta M - \beta\beta^\top`,
        :math:`\frac{(\operatorname{tr} A)^2 + 2 |A|^2}{4 D^2} +
        \frac{\alpha^2}{D} |\Delta\bar w|^2`.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.

    Notes
    -----
    The error is :math:`\frac12 x^\top A x + \alpha \Delta\bar w \cdot x` for
    :math:`x \sim N(0, I/D)`; the formula is that of the second moment of a Gaussian quadratic
    form, and the linear part is uncorrelated with it.
    """
    (w, m, b, alpha, eps), restore = as_tensors(
        mean_change=mean_change,
        moment_change=moment_change,
        beta=beta,
        laziness=laziness,
        curvature=curvature,
    )
    check_tensor(w, "mean_change", floating=True)
    check_tensor(m, "moment_change", shape=(*w.shape, w.shape[-1]), floating=True)
    check_tensor(b, "beta", floating=True)
    check_tensor(alpha, "laziness")
    check_tensor(eps, "curvature")
    return restore(_loss(w, m, b[..., :, None] * b[..., None, :], alpha, eps))


def quadratic_tangent_kernel(x: Any, mean: Any, moment: Any, curvature: Any) -> Any:
    r"""Compute the tangent kernel of the two-layer network, over :math:`\alpha^2 / N`.

    .. math::
        K(x, x') = x \cdot x' \bigl(1 + \epsilon\, \bar w \cdot (x + x')
        + \epsilon^2\, x^\top M x'\bigr)

    Parameters
    ----------
    x : array of shape (..., P, D)
        Inputs.
    mean : array of shape (..., D)
        Mean of the neurons.
    moment : array of shape (..., D, D)
        Second moment of the neurons.
    curvature : float or array of shape (...)
        :math:`\epsilon` of the activation.

    Returns
    -------
    array of shape (..., P, P)
        The kernel matrix.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    (x, w, m, eps), restore = as_tensors(x=x, mean=mean, moment=moment, curvature=curvature)
    check_tensor(x, "x", floating=True)
    d = x.shape[-1]
    check_tensor(w, "mean", shape=(*x.shape[:-2], d), floating=True)
    check_tensor(m, "moment", shape=(*x.shape[:-2], d, d), floating=True)
    check_tensor(eps, "curvature")
    return restore(_kernel(x, w, m, eps.to(x.dtype)))


def kernel_movement(kernel: Any, start: Any) -> Any:
    r"""Compute how far a kernel moved, :math:`|K - K_0|_F / |K_0|_F`.

    Parameters
    ----------
    kernel : array of shape (..., P, P)
        Kernel matrix now.
    start : array of shape (..., P, P)
        Kernel matrix at the start.

    Returns
    -------
    array of shape (...)
        Relative change in the Frobenius norm.

    Raises
    ------
    ValueError
        If shapes differ or an entry is not finite.
    """
    (now, first), restore = as_tensors(kernel=kernel, start=start)
    check_tensor(now, "kernel", floating=True)
    check_tensor(first, "start", shape=now.shape, floating=True)
    return restore(_frobenius(now - first) / _frobenius(first))


def kernel_target_alignment(kernel: Any, y: Any) -> Any:
    r"""Compute the centered alignment of a kernel with labels.

    Parameters
    ----------
    kernel : array of shape (..., P, P)
        Kernel matrix K.
    y : array of shape (..., P)
        Labels.

    Returns
    -------
    array of shape (...)
        :math:`\frac{y_c^\top K y_c}{|H K H|_F\, |y_c|^2}` with the centering matrix H and
        :math:`y_c = H y`: at most 1, reached by :math:`K = y_c y_c^\top`.

    Raises
    ------
    ValueError
        If shapes do not fit or an entry is not finite.
    """
    (k, y), restore = as_tensors(kernel=kernel, y=y)
    check_tensor(k, "kernel", floating=True)
    check_tensor(y, "y", shape=k.shape[:-1])
    return restore(_alignment(k, y.to(k.dtype)))


def stable_learning_rate(
    x: Any, laziness: Any, curvature: Any, moment: Any | None = None
) -> Tensor:
    r"""Choose a rate that is stable at the start and at the solution.

    With the rate :math:`\eta N / \alpha^2` for the weights, a kernel with the largest
    eigenvalue :math:`\lambda` of :math:`2 K / P` needs :math:`\eta < 2 / \lambda`. At the start
    :math:`\lambda \le \lambda_{\mathrm{lin}} (1 + \epsilon^2 \max_i x_i^\top M x_i)`, where
    :math:`\lambda_{\mathrm{lin}}` belongs to the linear kernel. At the solution the moment has
    grown by :math:`\beta\beta^\top / (\alpha\epsilon)`, which adds about
    :math:`3 \epsilon / \alpha` times :math:`\lambda_{\mathrm{lin}}`. The rate is the inverse
    of the sum.

    Parameters
    ----------
    x : array of shape (B, P, D)
        Training inputs.
    laziness : float or array of shape (B,)
        Output scale :math:`\alpha`, above zero.
    curvature : float or array of shape (B,)
        :math:`\epsilon`, zero or more.
    moment : array of shape (B, D, D), optional
        Initial second moment; the identity by default.

    Returns
    -------
    torch.Tensor of shape (B,)
        The rates :math:`\eta`.

    Raises
    ------
    ValueError
        If shapes do not fit or a number is out of range.

    Notes
    -----
    An estimate, not a bound: the factor 3 is the fourth moment of a Gaussian, for many samples.
    """
    (x,), _ = as_tensors(x=x)
    check_tensor(x, "x", ndim=3, floating=True)
    alpha, eps = _dial(laziness, "laziness", x, 1e-12), _dial(curvature, "curvature", x, 0.0)
    linear = 2.0 / x.shape[1] * torch.linalg.eigvalsh(x.mT @ x)[:, -1]
    if moment is None:
        norms = x.square().sum(-1)
    else:
        (moment,), _ = as_tensors(moment=moment)
        shape = (x.shape[0], x.shape[2], x.shape[2])
        check_tensor(moment, "moment", shape=shape, floating=True)
        norms = ((x @ moment.to(x.dtype)) * x).sum(-1)
    return 1.0 / (linear * (1.0 + eps.square() * norms.amax(-1) + 3.0 * eps / alpha))


def train_lazy_rich(
    x: Any,
    y: Any,
    beta: Any,
    laziness: Any,
    curvature: Any,
    *,
    steps: int,
    mean: Any | None = None,
    moment: Any | None = None,
    learning_rate: Any | None = None,
    record: Sequence[int] = (),
    threshold: float = 0.1,
    stop: float | None = None,
    frozen: bool = False,
    probe: int = 128,
) -> LazyRichRun:
    r"""Train B centered two-layer networks by full-batch gradient descent, as one batch.

    The loss is the mean of :math:`(f(x) - f_0(x) - y)^2`, the learning rate of the weights
    :math:`\eta N / \alpha^2`. With residuals r, :math:`c = \frac{2 \eta}{\alpha P}`,
    :math:`g = \sum_\mu r_\mu x_\mu` and :math:`G = \sum_\mu r_\mu x_\mu x_\mu^\top`, every
    neuron moves by :math:`w \mapsto (I - c\epsilon G) w - c g`, and the moments with it.

    Parameters
    ----------
    x : array of shape (B, P, D)
        Training inputs.
    y : array of shape (B, P)
        Labels.
    beta : array of shape (B, D)
        Direction of the target that the test loss is measured against.
    laziness : float or array of shape (B,)
        Output scale :math:`\alpha`, above zero.
    curvature : float or array of shape (B,)
        :math:`\epsilon`, above zero.
    steps : int
        Steps at most.
    mean : array of shape (B, D), optional
        Initial mean of the neurons; zero, as for infinite width, by default.
    moment : array of shape (B, D, D), optional
        Initial second moment; the identity, as for infinite width, by default.
    learning_rate : float or array of shape (B,), optional
        :math:`\eta`; `stable_learning_rate` by default.
    record : sequence of int, default ()
        Steps to record, in ascending order.
    threshold : float, default 0.1
        A loss has crossed when it is at most this share of its start, in (0, 1).
    stop : float, optional
        Stop a network when its test loss is at most this share of its start. Networks that
        stopped cost nothing.
    frozen : bool, default False
        Train the linearization at the start instead: gradient descent with the initial tangent
        kernel, frozen.
    probe : int, default 128
        The kernel is measured on the first so many training inputs.

    Returns
    -------
    LazyRichRun
        What was measured.

    Raises
    ------
    ValueError
        If shapes do not fit or an option is out of range.

    References
    ----------
    .. [1] T. Kumar, B. Bordelon, S. J. Gershman and C. Pehlevan, "Grokking as the Transition
       from Lazy to Rich Training Dynamics", arXiv:2310.06110.
    """
    (x, y, beta), _ = as_tensors(x=x, y=y, beta=beta)
    check_tensor(x, "x", ndim=3, floating=True)
    b, p, d = x.shape
    y = check_tensor(y.to(x.dtype), "y", shape=(b, p))
    beta = check_tensor(beta.to(x.dtype), "beta", shape=(b, d))
    alpha = _dial(laziness, "laziness", x, 1e-12)
    eps = _dial(curvature, "curvature", x, 1e-12)
    steps = check_integer(steps, "steps", minimum=1)
    threshold = check_number(threshold, "threshold", above=0.0, below=1.0)
    stop = -1.0 if stop is None else check_number(stop, "stop", above=0.0, below=1.0)
    probe = check_integer(probe, "probe", minimum=2)
    marks = [check_integer(s, "record", minimum=0, maximum=steps) for s in record]
    if marks != sorted(set(marks)):
        raise ValueError(f"record: expected steps in ascending order, got {list(record)!r}")
    w, m = _start(mean, "mean", x, (b, d)), _start(moment, "moment", x, (b, d, d))
    if learning_rate is None:
        rate = stable_learning_rate(x, alpha, eps, m)
    else:
        rate = _dial(learning_rate, "learning_rate", x, 1e-12)
    net = _Networks(x, y, beta, alpha, eps, rate, w, m, bool(frozen), probe)
    table = _Table(len(marks), b)
    for step in range(steps + 1):
        train, test = net.losses()
        if step == 0:
            net.first = torch.stack([train, test])
        table.cross(step, train, test, net, threshold)
        if step in marks:
            table.note(marks.index(step), train, test, net)
        over = (test <= stop * net.first[1]) | ~torch.isfinite(train + test)
        if step == steps:
            over = torch.ones_like(over)
        if bool(over.any()):
            table.finish(step, over, train, test, net)
            if bool(over.all()):
                break
            net.keep(~over)
        net.step()
    return table.run(marks, rate)


class _Networks:
    """The networks that still train, and the one step that all of them take."""

    def __init__(self, x, y, beta, alpha, eps, rate, w, m, frozen, probe) -> None:
        self.frozen = frozen
        self.members = torch.arange(len(x), device=x.device)
        self.first = x.new_zeros(2, len(x))
        self.x, self.y, self.beta = x, y, beta
        self.alpha, self.eps = alpha, eps
        self.pull = 2.0 * rate / (alpha * x.shape[1])
        self.w, self.m, self.w0, self.m0 = w, m, w, m
        self.target = beta[:, :, None] * beta[:, None, :]
        self.points, self.labels = x[:, :probe], y[:, :probe]
        self.kernel0 = _kernel(self.points, w, m, eps)
        self.eye = torch.eye(x.shape[2], dtype=x.dtype, device=x.device)

    def keep(self, mask: Tensor) -> None:
        """Forget the networks outside the mask."""
        self.first = self.first[:, mask]
        for name in (
            "members", "x", "y", "beta", "alpha", "eps", "pull", "w", "m", "w0", "m0", "target",
            "points", "labels", "kernel0", "residual",
        ):  # fmt: skip
            setattr(self, name, getattr(self, name)[mask])

    def losses(self) -> tuple[Tensor, Tensor]:
        """Compute the training and the test loss, and keep the residuals for the step."""
        dw, dm = self.w - self.w0, self.m - self.m0
        linear = (self.x @ dw[..., None])[..., 0]
        square = ((self.x @ dm) * self.x).sum(-1)
        scale = self.alpha[:, None]
        outputs = scale * linear + 0.5 * scale * self.eps[:, None] * square
        self.residual = outputs - self.y
        test = _loss(dw, dm, self.target, self.alpha, self.eps)
        return self.residual.square().mean(-1), test

    def step(self) -> None:
        """Move all neurons by one step of gradient descent."""
        c = self.pull[:, None]
        g = c * (self.residual[:, None] @ self.x)[:, 0]
        big = (c * self.eps[:, None])[..., None] * (self.x.mT @ (self.residual[..., None] * self.x))
        if self.frozen:
            turn = (big @ self.w0[..., None])[..., 0]
            cross = big @ self.m0 + g[:, :, None] * self.w0[:, None, :]
            self.w = self.w - g - turn
            self.m = self.m - cross - cross.mT
            return
        affine = self.eye - big
        moved = (affine @ self.w[..., None])[..., 0]
        cross = moved[:, :, None] * g[:, None, :]
        self.m = affine @ self.m @ affine - cross - cross.mT + g[:, :, None] * g[:, None, :]
        self.w = moved - g

    def kernel(self) -> Tensor:
        """Compute the tangent kernel on the probe; a frozen one does not change."""
        if self.frozen:
            return self.kernel0
        return _kernel(self.points, self.w, self.m, self.eps)

    def movement(self) -> Tensor:
        """Compute the relative change of the kernel."""
        return _frobenius(self.kernel() - self.kernel0) / _frobenius(self.kernel0)

    def weight_alignment(self) -> Tensor:
        """Compute the share of the weights' power along the target."""
        m = self.m0 if self.frozen else self.m
        along = (self.target * m).sum((-2, -1))
        return along / self.beta.square().sum(-1) / m.diagonal(dim1=-2, dim2=-1).sum(-1)


class _Table:
    """Measurements of all networks, those that stopped included."""

    def __init__(self, records: int, members: int) -> None:
        names = ("train_loss", "test_loss", "weight_alignment", "kernel_alignment", "movement")
        self.records = {name: np.full((records, members), np.nan) for name in names}
        self.crossing = np.full((2, members), np.inf)
        self.ends = {
            name: np.full(members, np.nan)
            for name in (
                "movement_at_crossing", "alignment_at_crossing", "final_train", "final_test",
                "final_movement", "final_alignment", "lowest_test", "highest_test",
            )
        }  # fmt: skip
        self.ends["lowest_test"][:] = np.inf
        self.ends["highest_test"][:] = -np.inf
        self.last = np.zeros(members, dtype=int)

    def cross(self, step: int, train: Tensor, test: Tensor, net: _Networks, share: float) -> None:
        at = net.members.cpu().numpy()
        below = (torch.stack([train, test]) <= share * net.first).cpu().numpy()
        ratio = (test / net.first[1]).double().cpu().numpy()
        self.ends["lowest_test"][at] = np.fmin(self.ends["lowest_test"][at], ratio)
        self.ends["highest_test"][at] = np.fmax(self.ends["highest_test"][at], ratio)
        fresh = below & np.isinf(self.crossing[:, at])
        if fresh[0].any():
            moved = net.movement().double().cpu().numpy()
            aligned = net.weight_alignment().double().cpu().numpy()
            self.ends["movement_at_crossing"][at[fresh[0]]] = moved[fresh[0]]
            self.ends["alignment_at_crossing"][at[fresh[0]]] = aligned[fresh[0]]
        for row in (0, 1):
            self.crossing[row, at[fresh[row]]] = step

    def note(self, row: int, train: Tensor, test: Tensor, net: _Networks) -> None:
        at = net.members.cpu().numpy()
        found = {
            "train_loss": train,
            "test_loss": test,
            "weight_alignment": net.weight_alignment(),
            "kernel_alignment": _alignment(net.kernel(), net.labels),
            "movement": net.movement(),
        }
        for name, value in found.items():
            self.records[name][row, at] = value.double().cpu().numpy()

    def finish(self, step: int, over: Tensor, train: Tensor, test: Tensor, net: _Networks) -> None:
        at = net.members[over].cpu().numpy()
        found = {
            "final_train": train,
            "final_test": test,
            "final_movement": net.movement(),
            "final_alignment": net.weight_alignment(),
        }
        for name, value in found.items():
            self.ends[name][at] = value[over].double().cpu().numpy()
        self.last[at] = step

    def run(self, marks: list[int], rate: Tensor) -> LazyRichRun:
        return LazyRichRun(
            steps=np.array(marks, dtype=int),
            **self.records,
            train_crossing=self.crossing[0],
            test_crossing=self.crossing[1],
            **self.ends,
            learning_rate=rate.double().cpu().numpy(),
            last_step=self.last,
        )


def _dial(value: Any, name: str, x: Tensor, minimum: float) -> Tensor:
    """One number a network."""
    (dial,), _ = as_tensors(**{name: value})
    dial = check_tensor(dial.to(x.device, x.dtype), name, minimum=minimum)
    if dial.ndim == 0:
        dial = dial.expand(x.shape[0])
    return check_tensor(dial, name, shape=(x.shape[0],)).clone()


def _start(value: Any | None, name: str, x: Tensor, shape: tuple[int, ...]) -> Tensor:
    if value is not None:
        (given,), _ = as_tensors(**{name: value})
        return check_tensor(given.to(x.device, x.dtype), name, shape=shape)
    if name == "mean":
        return x.new_zeros(shape)
    return torch.eye(shape[-1], dtype=x.dtype, device=x.device).expand(shape).clone()


def _loss(w: Tensor, m: Tensor, target: Tensor, alpha: Tensor, eps: Tensor) -> Tensor:
    error = (alpha * eps)[..., None, None] * m - target
    trace = error.diagonal(dim1=-2, dim2=-1).sum(-1)
    square = (trace.square() + 2 * error.square().sum((-2, -1))) / (4 * m.shape[-1] ** 2)
    return square + alpha.square() * w.square().sum(-1) / w.shape[-1]


def _kernel(x: Tensor, w: Tensor, m: Tensor, eps: Tensor) -> Tensor:
    along = (x @ w[..., None]) * eps[..., None, None]
    curved = eps.square()[..., None, None] * (x @ m @ x.mT)
    return (x @ x.mT) * (1.0 + along + along.mT + curved)


def _frobenius(matrix: Tensor) -> Tensor:
    return matrix.square().sum((-2, -1)).sqrt()


def _alignment(kernel: Tensor, y: Tensor) -> Tensor:
    y = y - y.mean(-1, keepdim=True)
    kernel = kernel - kernel.mean(-1, keepdim=True)
    kernel = kernel - kernel.mean(-2, keepdim=True)
    top = (y[..., None, :] @ kernel @ y[..., None])[..., 0, 0]
    return top / (_frobenius(kernel) * y.square().sum(-1))
