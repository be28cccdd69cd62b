"""Calibrators that aim at correctness, on digits and on rotated, blurred and noisy digits."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from torch import Tensor

from enough.calibration.affine import VectorScaling
from enough.calibration.binary import IsotonicCalibration
from enough.calibration.errors import expected_calibration_error
from enough.calibration.experiments.correctness_heads import TemperatureHeads
from enough.calibration.temperature import TemperatureScaling
from enough.calibration.transforms import add_noise, adjust_contrast, blur, rotate
from enough.data import digits
from enough.models import MLP
from enough.runtime import derive_seed, named_generator, resolve_device
from enough.runtime.validation import (
    as_tensors,
    check_choice,
    check_integer,
    check_number,
    check_tensor,
)
from enough.training import Ensemble

__all__ = [
    "CORRECTNESS_METHODS",
    "CorrectnessTask",
    "TemperatureSlopes",
    "balanced_confidence",
    "calibrated_probabilities",
    "correctness_metrics",
    "correctness_point",
    "correctness_table",
    "correctness_task",
    "digit_shifts",
    "digit_views",
    "measure_correctness",
    "sample_labels",
    "shuffle_views",
    "temperature_slopes",
    "top_scores",
    "unbalanced_confidence",
]

_PLAIN = {
    "temperature": TemperatureScaling,
    # A class that 900 images separate has no finite optimum: stop early, without a warning.
    "vector": functools.partial(VectorScaling, max_iter=200),
    "isotonic": IsotonicCalibration,
}
_HEADS = ("ce", "mse", "ca", "weighted")

#: What `calibrated_probabilities` can do to the logits of a task.
CORRECTNESS_METHODS = (
    "uncalibrated",
    *_PLAIN,
    *(f"{loss}, {inputs}" for loss in _HEADS for inputs in ("original", "views")),
)


class TemperatureSlopes(NamedTuple):
    """Slopes of two losses of each sample in the inverse temperature b.

    Parameters
    ----------
    ce : torch.Tensor or numpy.ndarray, shape (N,)
        Slope of the cross-entropy.
    ca : torch.Tensor or numpy.ndarray, shape (N,)
        Slope of the squared distance between the top probability and the correctness.
    """

    ce: Any
    ca: Any


def temperature_slopes(logits: Any, labels: Any, inverse: float = 1.0) -> TemperatureSlopes:
    r"""Return how cross-entropy and correctness loss of each sample change with b = 1/T.

    With p = softmax(b z), top class t and c = p_t, the slopes are E_p[z] − z_y for the
    cross-entropy and 2 (c − a) c (z_t − E_p[z]) for (c − a)², a = 1[t = y].

    Parameters
    ----------
    logits : array of shape (N, K)
        Logits z.
    labels : array of shape (N,)
        Class numbers y from 0.
    inverse : float, default 1.0
        The inverse temperature b, zero or more.

    Returns
    -------
    TemperatureSlopes
        Two float64 vectors. A negative slope asks for more confidence.

    Raises
    ------
    ValueError
        If a shape or label is wrong, or ``inverse`` is negative.

    Notes
    -----
    E_p[z] − z_y is summed as Σ_j p_j (z_j − z_y), so equal logits give exactly zero and the
    slope of the correctness loss keeps its sign until p underflows.
    """
    (logits, labels), restore = as_tensors(logits=logits, labels=labels)
    check_tensor(logits, "logits", ndim=2)
    check_tensor(labels, "labels", shape=logits.shape[:1], minimum=0, maximum=logits.shape[1] - 1)
    inverse = check_number(inverse, "inverse", minimum=0.0)
    z, y = logits.double(), labels.long()[:, None]
    top, where = z.max(1, keepdim=True)
    probs = (inverse * (z - top)).softmax(1)
    ce = (probs * (z - z.gather(1, y))).sum(1)
    lead = (probs * (top - z)).sum(1)
    confidence, right = probs.gather(1, where)[:, 0], (where == y)[:, 0].double()
    # c − 1 from the other classes: no cancellation where the confidence is close to one.
    others = probs.scatter(1, where, 0.0).sum(1)
    miss = torch.where(right > 0.5, -others, confidence)
    return TemperatureSlopes(restore(ce), restore(2.0 * miss * confidence * lead))


def balanced_confidence(accuracy: Any, reference: float) -> Any:
    """Return the best confidence of a group of samples under the published weights.

    Right samples weigh 1 − A and wrong ones A, where A is the accuracy of all samples. A group
    that is right with probability a then has its optimum at sigmoid(logit a − logit A): one
    half where a = A.

    Parameters
    ----------
    accuracy : float or array
        Accuracy a of the group, in [0, 1].
    reference : float
        Accuracy A of all samples, strictly between 0 and 1.

    Returns
    -------
    float or array
        The confidence, of the kind of ``accuracy``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    return _shift(accuracy, "accuracy", reference, -1.0)


def unbalanced_confidence(confidence: Any, reference: float) -> Any:
    """Undo the published weights: the inverse of `balanced_confidence`.

    Parameters
    ----------
    confidence : float or array
        Confidence from a calibrator that was trained with the weights, in [0, 1].
    reference : float
        Accuracy A that gave the weights, strictly between 0 and 1.

    Returns
    -------
    float or array
        The confidence sigmoid(logit c + logit A), of the kind of ``confidence``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    return _shift(confidence, "confidence", reference, 1.0)


def top_scores(logits: Any, n_top: int = 4) -> Any:
    """Return what the views of an image say about the top classes of the original.

    Parameters
    ----------
    logits : array of shape (V, ..., K)
        Logits of V views of the same images; view 0 is the original.
    n_top : int, default 4
        Classes to follow: those with the largest logits in view 0, largest first.

    Returns
    -------
    array of shape (..., V * n_top)
        Softmax values, view by view.

    Raises
    ------
    ValueError
        If ``logits`` has fewer than two dimensions or ``n_top`` is not in 1 … K.
    """
    (logits,), restore = as_tensors(logits=logits)
    check_tensor(logits, "logits", floating=True)
    if logits.ndim < 2:
        raise ValueError(f"logits: expected shape (V, ..., K), got {tuple(logits.shape)}")
    n_top = check_integer(n_top, "n_top", minimum=1, maximum=logits.shape[-1])
    top = logits[0].topk(n_top, dim=-1).indices
    scores = logits.softmax(-1).gather(-1, top.expand(len(logits), *top.shape))
    return restore(scores.movedim(0, -2).flatten(-2))


def digit_views(images: Tensor, generator: torch.Generator | int | None = None) -> Tensor:
    """Return the views that a calibrator of digits sees: the original and five copies.

    The copies are rotated by 15° to either side, blurred (0.7 pixels), halved in contrast, and
    noisy (0.2).

    Parameters
    ----------
    images : torch.Tensor, shape (..., H, W)
        Images with ink from 0 to 1.
    generator : torch.Generator or int, optional
        Draws the noise.

    Returns
    -------
    torch.Tensor, shape (6, ..., H, W)
        The views; view 0 is ``images``.

    Raises
    ------
    ValueError
        If ``images`` is not a floating-point array of at least two dimensions.
    """
    return torch.stack(
        [
            images,
            rotate(images, 15.0),
            rotate(images, -15.0),
            blur(images, 0.7),
            adjust_contrast(images, 0.5),
            add_noise(images, 0.2, generator),
        ]
    )


def digit_shifts(
    images: Tensor, strength: float = 1.0, generator: torch.Generator | int | None = None
) -> dict[str, Tensor]:
    """Return digits out of distribution: rotated, blurred and noisy.

    Parameters
    ----------
    images : torch.Tensor, shape (..., H, W)
        Images with ink from 0 to 1.
    strength : float, default 1.0
        At 1: rotated by 30°, blurred by 1 pixel, noise of 0.4. All three are proportional to
        it, and at 0 nothing changes.
    generator : torch.Generator or int, optional
        Draws the noise.

    Returns
    -------
    dict from str to torch.Tensor
        ``"rotated"``, ``"blurred"`` and ``"noisy"``, each of the shape of ``images``.

    Raises
    ------
    ValueError
        If ``images`` is not a floating-point array of at least two dimensions, or ``strength``
        is negative.
    """
    strength = check_number(strength, "strength", minimum=0.0)
    return {
        "rotated": rotate(images, 30.0 * strength),
        "blurred": blur(images, 1.0 * strength),
        "noisy": add_noise(images, 0.4 * strength, generator),
    }


@dataclass(frozen=True)
class CorrectnessTask:
    """Logits of many classifiers on held-out digits, in all views.

    Parameters
    ----------
    logits : dict from str to torch.Tensor
        By set of images: shape (V, E, N, K) for V views and E classifiers. ``"calibration"``
        is for fitting; the other sets are for testing and hold the same images: ``"test"`` as
        they are, and shifted.
    labels : dict from str to torch.Tensor
        Labels of shape (E, N), under the same names.
    """

    logits: dict[str, Tensor]
    labels: dict[str, Tensor]

    @property
    def tests(self) -> tuple[str, ...]:
        """Names of the test sets."""
        return tuple(name for name in self.logits if name != "calibration")


def correctness_task(
    members: int = 20,
    n_train: int = 300,
    n_calibration: int = 900,
    strengths: Sequence[float] = (1.0,),
    seed: int = 0,
    device: str | None = "cpu",
    views: bool = True,
) -> CorrectnessTask:
    """Train classifiers on few digits and read their logits on the other ones.

    Each member has its own split into training, calibration and test images, its own initial
    weights, and one hidden layer of 64 units. All members train as one `Ensemble`.

    Parameters
    ----------
    members : int, default 20
        Classifiers E, at least two.
    n_train : int, default 300
        Training images.
    n_calibration : int, default 900
        Calibration images. The rest is for testing.
    strengths : sequence of float, default (1.0,)
        Strengths of the shifts, as in `digit_shifts`. Sets of strength 1 are called
        ``"rotated"``, ``"blurred"`` and ``"noisy"``; others carry the strength in the name, as
        ``"rotated 0.5"``.
    seed : int, default 0
        Seed of splits, weights and noise.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.
    views : bool, default True
        Whether to read the transformed copies; without them V = 1.

    Returns
    -------
    CorrectnessTask
        Logits and labels, float32 and int64.

    Raises
    ------
    ValueError
        If an argument is out of range, or no image is left for testing.
    """
    members = check_integer(members, "members", minimum=2)
    n_train = check_integer(n_train, "n_train", minimum=10)
    n_calibration = check_integer(n_calibration, "n_calibration", minimum=10)
    source = digits()
    if n_train + n_calibration >= len(source):
        raise ValueError(
            f"n_calibration: expected fewer than {len(source) - n_train} images, so that some "
            f"are left for testing, got {n_calibration}"
        )
    where = resolve_device(device)
    images, y = source.x.reshape(-1, 8, 8), source.y.to(where)
    split = torch.stack(
        [
            torch.randperm(len(source), generator=named_generator(seed, "split", member))
            for member in range(members)
        ]
    ).to(where)
    train, calibration, test = split.tensor_split([n_train, n_train + n_calibration], dim=1)
    ensemble = Ensemble(
        lambda generator: MLP([64, 64, 10], gains=(1.0, math.sqrt(2.0)), generator=generator),
        size=members,
        seed=derive_seed(seed, "classifiers"),
        mode="stacked",
        device=where,
    )
    x = source.x.to(where)
    ensemble.fit(x[train], y[train], steps=150, lr=0.01, per_member=True, progress=False)

    def read(kind: str, some: Tensor, rows: Tensor) -> Tensor:
        noise = named_generator(seed, "noise of the view", kind)
        shown = (digit_views(some, noise) if views else some[None]).to(where)
        found = ensemble.predict(shown.reshape(-1, 64), per_member=False)
        found = found.unflatten(1, shown.shape[:2]).movedim(0, 1)  # (V, E, all images, K)
        return found.gather(2, rows[None, :, :, None].expand(len(found), -1, -1, found.shape[-1]))

    logits = {
        "calibration": read("clean", images, calibration),
        "test": read("clean", images, test),
    }
    for strength in strengths:
        noise = named_generator(seed, "noise of the shift")
        for name, shifted in digit_shifts(images, strength, noise).items():
            kind = name if strength == 1.0 else f"{name} {strength:g}"
            logits[kind] = read(kind, shifted, test)
    rows = {name: calibration if name == "calibration" else test for name in logits}
    return CorrectnessTask(logits, {name: y[rows[name]] for name in logits})


def sample_labels(task: CorrectnessTask, seed: int = 0) -> CorrectnessTask:
    """Return a task whose logits are calibrated by construction: labels follow the softmax.

    Each member's logits are divided by its optimal temperature first.

    Parameters
    ----------
    task : CorrectnessTask
        The task to start from.
    seed : int, default 0
        Seed of the labels.

    Returns
    -------
    CorrectnessTask
        The calibration set and the test set in distribution.

    Raises
    ------
    ValueError
        If ``seed`` is not a whole number >= 0.
    """
    held_out, y = task.logits["calibration"][0], task.labels["calibration"]
    scale = [
        TemperatureScaling().fit(z, target).temperature_
        for z, target in zip(held_out, y, strict=True)
    ]
    scale = torch.tensor(scale, device=held_out.device, dtype=held_out.dtype)[:, None, None]
    logits, labels = {}, {}
    for name in ("calibration", "test"):
        logits[name] = task.logits[name] / scale
        probs = logits[name][0].softmax(-1).cpu()
        drawn = torch.multinomial(
            probs.flatten(0, 1), 1, generator=named_generator(seed, "sampled labels", name)
        )
        labels[name] = drawn.reshape(probs.shape[:2]).to(held_out.device)
    return CorrectnessTask(logits, labels)


def shuffle_views(task: CorrectnessTask, seed: int = 0) -> CorrectnessTask:
    """Return a task in which every image has the views of another image, drawn at random.

    The original stays. The other views keep their distribution, and lose all they say about
    the image.

    Parameters
    ----------
    task : CorrectnessTask
        The task to start from.
    seed : int, default 0
        Seed of the permutations, one for each set and member.

    Returns
    -------
    CorrectnessTask
        A task of the same shapes.

    Raises
    ------
    ValueError
        If ``seed`` is not a whole number >= 0.
    """
    logits = {}
    for name, views in task.logits.items():
        shuffled = views.clone()
        for member in range(views.shape[1]):
            stream = named_generator(seed, "views of another image", name, member)
            order = torch.randperm(views.shape[2], generator=stream).to(views.device)
            shuffled[1:, member] = views[1:, member, order]
        logits[name] = shuffled
    return replace(task, logits=logits)


def calibrated_probabilities(
    task: CorrectnessTask,
    method: str,
    seed: int = 0,
    sets: Sequence[str] | None = None,
    **options: Any,
) -> dict[str, Tensor]:
    """Fit a method on the calibration set of each member and calibrate the test sets.

    Parameters
    ----------
    task : CorrectnessTask
        The logits.
    method : str
        One of `CORRECTNESS_METHODS`: ``"uncalibrated"``, ``"temperature"``, ``"vector"``,
        ``"isotonic"``, or ``"<loss>, <inputs>"`` for `TemperatureHeads` with the loss ``ce``,
        ``mse``, ``ca`` or ``weighted`` (``ca`` with the published weights), reading the four
        largest probabilities (``original``) or those of all views (``views``).
    seed : int, default 0
        Seed of the heads.
    sets : sequence of str, optional
        Which test sets to calibrate. Default: all.
    **options
        Passed to `TemperatureHeads`.

    Returns
    -------
    dict from str to torch.Tensor
        Probabilities of shape (E, N, K), float64, for each test set.

    Raises
    ------
    ValueError
        If ``method`` or a set is unknown, or ``options`` are given for a method without heads.
    """
    check_choice(method, "method", CORRECTNESS_METHODS)
    sets = task.tests if sets is None else [check_choice(n, "sets", task.tests) for n in sets]
    held_out, labels = task.logits["calibration"], task.labels["calibration"]
    originals = {name: task.logits[name][0].double() for name in sets}
    loss, _, inputs = method.partition(", ")
    if not inputs:
        if options:
            raise ValueError(
                f"options: expected none for the method {method!r}, got {', '.join(options)}"
            )
        if method == "uncalibrated":
            return {name: z.softmax(-1) for name, z in originals.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="max_iter", category=UserWarning)
            fitted = [_PLAIN[method]().fit(z, y) for z, y in zip(held_out[0], labels, strict=True)]
        return {
            name: torch.stack([one.transform(z) for one, z in zip(fitted, some, strict=True)])
            for name, some in originals.items()
        }
    shown = slice(None) if inputs == "views" else slice(1)
    heads = TemperatureHeads(
        "ca" if loss == "weighted" else loss, weighted=loss == "weighted", seed=seed, **options
    )
    heads.fit(top_scores(held_out[shown]), held_out[0], labels)
    return {
        name: (z / heads.temperatures(top_scores(task.logits[name][shown]))[..., None]).softmax(-1)
        for name, z in originals.items()
    }


def correctness_metrics(confidence: Any, right: Any, n_bins: int = 15) -> dict[str, float]:
    """Return how well a confidence tells right predictions from wrong ones.

    Parameters
    ----------
    confidence : array of shape (N,)
        Confidence in the prediction, in [0, 1].
    right : array of shape (N,)
        Whether the prediction is right.
    n_bins : int, default 15
        Uniform bins of the calibration error.

    Returns
    -------
    dict from str to float
        ``accuracy``, mean ``confidence``; ``ece``: the debiased l2 calibration error;
        ``brier``: mean squared distance between confidence and correctness; ``auroc`` of the
        confidence for correctness (NaN where all are right or all wrong);
        ``wrong_confidence`` and ``right_confidence``: mean confidence of wrong and of right
        predictions (NaN where there are none).

    Raises
    ------
    ValueError
        If shapes differ or a confidence is outside [0, 1].
    """
    (confidence, right), _ = as_tensors(confidence=confidence, right=right)
    check_tensor(confidence, "confidence", ndim=1)
    check_tensor(right, "right", shape=confidence.shape)
    c, a = confidence.detach().cpu().double(), right.detach().cpu().bool()
    n_right, n_wrong = int(a.sum()), int((~a).sum())
    # The rank sum of the right predictions; equal confidences share their mean rank.
    ranks = float(rankdata(c.numpy())[a.numpy()].sum())
    pairs = n_right * n_wrong
    area = (ranks - n_right * (n_right + 1) / 2) / pairs if pairs else math.nan
    return {
        "accuracy": a.double().mean().item(),
        "confidence": c.mean().item(),
        "ece": expected_calibration_error(c, a.long(), n_bins=n_bins, norm="l2", debias=True),
        "brier": (c - a.double()).square().mean().item(),
        "auroc": area,
        "wrong_confidence": c[~a].mean().item(),
        "right_confidence": c[a].mean().item(),
    }


def measure_correctness(
    task: CorrectnessTask, probs: dict[str, Tensor], sets: Sequence[str] | None = None
) -> dict[str, dict[str, np.ndarray]]:
    """Measure every member on every test set.

    Parameters
    ----------
    task : CorrectnessTask
        The task.
    probs : dict from str to torch.Tensor
        As `calibrated_probabilities` returns them.
    sets : sequence of str, optional
        Which test sets. Default: all in ``probs``.

    Returns
    -------
    dict
        ``result[set][metric]`` has shape (E,); the metrics are those of `correctness_metrics`
        and ``nll``, the mean negative log-likelihood of the label.

    Raises
    ------
    ValueError
        If a set is not in ``probs``.
    """
    result = {}
    for name in probs if sets is None else sets:
        check_choice(name, "sets", probs)
        labels = task.labels[name]
        top, where = probs[name].max(-1)
        rows = [correctness_metrics(c, a) for c, a in zip(top, where == labels, strict=True)]
        chosen = probs[name].gather(-1, labels[..., None])[..., 0]
        result[name] = {key: np.array([row[key] for row in rows]) for key in rows[0]}
        result[name]["nll"] = (-chosen.log()).mean(-1).cpu().numpy()
    return result


def correctness_point(
    methods: Sequence[str] = CORRECTNESS_METHODS,
    members: int = 20,
    n_train: int = 300,
    n_calibration: int = 900,
    strengths: Sequence[float] = (1.0,),
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """Run methods on one task and measure every member.

    Parameters
    ----------
    methods : sequence of str, default CORRECTNESS_METHODS
        What to compare, as in `calibrated_probabilities`.
    members : int, default 20
        Classifiers, as in `correctness_task`.
    n_train : int, default 300
        Training images.
    n_calibration : int, default 900
        Calibration images.
    strengths : sequence of float, default (1.0,)
        Strengths of the shifts.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to compute; ``None`` for the default device.

    Returns
    -------
    dict
        ``result[method][set][metric]`` is a list of one number a member, as
        `measure_correctness` measures it.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    for method in methods:
        check_choice(method, "methods", CORRECTNESS_METHODS)
    task = correctness_task(members, n_train, n_calibration, strengths, seed, device)
    found = {
        method: measure_correctness(task, calibrated_probabilities(task, method, seed))
        for method in methods
    }
    return {
        method: {
            name: {key: values.tolist() for key, values in measured.items()}
            for name, measured in sets.items()
        }
        for method, sets in found.items()
    }


def correctness_table(point: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> pd.DataFrame:
    """Turn the measurements of several methods into a table.

    Parameters
    ----------
    point : mapping
        As `correctness_point` returns it, or one result of `measure_correctness` a method.

    Returns
    -------
    pandas.DataFrame
        One row for each method, set and member, one column a metric.
    """
    rows = [
        {"method": method, "set": name, "member": member, **dict(zip(measured, row, strict=True))}
        for method, sets in point.items()
        for name, measured in sets.items()
        for member, row in enumerate(zip(*measured.values(), strict=True))
    ]
    return pd.DataFrame(rows)


def _shift(values: Any, name: str, reference: float, sign: float) -> Any:
    plain = not isinstance(values, torch.Tensor | np.ndarray)
    (tensor,), restore = as_tensors(**{name: values})
    check_tensor(tensor, name, minimum=0.0, maximum=1.0)
    reference = check_number(reference, "reference", above=0.0, below=1.0)
    moved = torch.sigmoid(
        torch.logit(tensor.double()) + sign * math.log(reference / (1 - reference))
    )
    return moved.item() if plain and moved.ndim == 0 else restore(moved)
