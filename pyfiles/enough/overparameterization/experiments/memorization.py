"""Experiments on memorization: the long tail, influence, coherent gradients, two worlds."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from enough.data import digits, flip_labels
from enough.models import MLP
from enough.overparameterization.coherence import RobustDescent, gradient_coherence
from enough.overparameterization.impossibility import solve_parity, two_worlds
from enough.overparameterization.influence import InfluenceEstimate, train_on_subsets
from enough.overparameterization.long_tail import (
    expected_items,
    fitting_price,
    head_tail_frequencies,
    simulate_long_tail,
    singleton_cost,
    uniform_frequencies,
    zipf_frequencies,
)
from enough.overparameterization.measures import generalization_measures
from enough.runtime import derive_seed, named_generator
from enough.runtime.validation import check_choice, check_integer, check_number
from enough.training import Ensemble

__all__ = [
    "coherence_point",
    "long_tail_point",
    "parity_point",
    "subset_point",
    "suppression_point",
    "tail_learners_point",
    "tailed_digits",
    "two_worlds_point",
    "worlds_table",
]

_CLASSES = 10


def long_tail_point(
    prior: str,
    n_items: int,
    n_samples: int,
    n_classes: int = 10,
    noise_rate: float = 0.0,
    draws: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure and predict what guessing on singletons costs.

    Parameters
    ----------
    prior : {"zipf", "uniform", "head"}
        Frequencies: Zipf's law, all equal, or a head of a twentieth of the items with 99 % of
        the mass.
    n_items : int
        Number of items.
    n_samples : int
        Number of samples.
    n_classes : int, default 10
        Number of classes.
    noise_rate : float, default 0.0
        Probability that an observed label is another class.
    draws : int, default 20
        Independent draws.
    seed : int, default 0
        Points that differ in an argument draw independently.

    Returns
    -------
    dict
        Arrays (draws,): ``gap`` (excess error), ``error`` (of the learner that fits), ``mass``
        and ``items`` (of the singletons), ``predicted`` (excess error, from the number of
        singletons in the draw). Numbers: ``price`` (of one singleton), ``expected_gap``,
        ``expected_items``.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(prior, "prior", ("zipf", "uniform", "head"))
    n_items = check_integer(n_items, "n_items", minimum=20)
    frequencies = {
        "zipf": zipf_frequencies,
        "uniform": uniform_frequencies,
        "head": lambda n: head_tail_frequencies(n, n // 20, 0.01),
    }[prior](n_items)
    stream = named_generator(
        seed, "long tail", prior, n_items, n_samples, n_classes, str(noise_rate)
    )
    found = simulate_long_tail(
        frequencies,
        n_samples,
        n_classes,
        noise_rate=noise_rate,
        draws=draws,
        generator=stream,
    )
    task = frequencies, n_samples, n_classes, noise_rate
    return {
        "gap": found.gap.numpy(),
        "error": found.fitting_error.numpy(),
        "mass": found.mass.numpy(),
        "items": found.items.numpy(),
        "predicted": np.array([singleton_cost(*task, float(count)) for count in found.items]),
        "price": fitting_price(frequencies, n_samples),
        "expected_gap": singleton_cost(*task),
        "expected_items": expected_items(frequencies, n_samples),
    }


@functools.lru_cache(maxsize=1)
def _digits() -> tuple[Tensor, Tensor]:
    data = digits()
    return data.x - data.x.mean(0), data.y


@functools.lru_cache(maxsize=4)
def _subpopulations(per_class: int) -> Tensor:
    """Cut every class into clusters by k-means; return the cluster of each image."""
    from sklearn.cluster import KMeans

    x, y = _digits()
    cluster = torch.empty(len(y), dtype=torch.int64)
    for label in range(_CLASSES):
        mine = y == label
        found = KMeans(per_class, n_init=4, random_state=0).fit_predict(x[mine].double().numpy())
        cluster[mine] = label * per_class + torch.as_tensor(found, dtype=torch.int64)
    return cluster


def tailed_digits(
    per_class: int = 3, most: int = 24, exponent: float = 1.0, seed: int = 0
) -> dict[str, Tensor]:
    """Draw a training set of digits whose subpopulations follow Zipf's law.

    k-means cuts every class into subpopulations. They are put in random order, and the one of
    rank r gives ``max(1, round(most / r**exponent))`` training images. All other images of a
    subpopulation are for testing.

    Parameters
    ----------
    per_class : int, default 3
        Subpopulations a class.
    most : int, default 24
        Training images of the most common subpopulation. A subpopulation takes only a rank for
        which at least a third of its images are left for testing.
    exponent : float, default 1.0
        Of Zipf's law; at 0 all subpopulations give the same number of images.
    seed : int, default 0
        Seed of the order and of the choice of images.

    Returns
    -------
    dict of str to torch.Tensor
        ``train`` (n,): positions of the training images among the 1797 digits; ``rank`` (1797,):
        the rank of each image's subpopulation, from 0; ``counts`` (ranks,): training images by
        rank; ``test`` (1797,): which images are for testing.

    Raises
    ------
    ValueError
        If an argument is out of range, or no subpopulation is large enough for a rank.
    """
    per_class = check_integer(per_class, "per_class", minimum=1)
    most = check_integer(most, "most", minimum=1)
    exponent = check_number(exponent, "exponent", minimum=0.0)
    cluster = _subpopulations(per_class)
    stream = named_generator(seed, "tailed digits", per_class, most)
    sizes = cluster.bincount()
    ranks = torch.arange(1, len(sizes) + 1)
    counts = (most / ranks**exponent).round().long().clamp(min=1)
    waiting = torch.randperm(len(sizes), generator=stream).tolist()
    rank = torch.empty_like(cluster)
    train = []
    for i, count in enumerate(counts.tolist()):
        fitting = [c for c in waiting if count <= 2 * int(sizes[c]) // 3]
        if not fitting:
            raise ValueError(
                f"most: expected fewer images, no subpopulation holds {count} and more"
            )
        waiting.remove(fitting[0])
        images = (cluster == fitting[0]).nonzero()[:, 0]
        rank[images] = i
        train.append(images[torch.randperm(len(images), generator=stream)[:count]])
    train = torch.cat(train)
    test = torch.ones(len(cluster), dtype=torch.bool)
    test[train] = False
    return {"train": train, "rank": rank, "counts": counts, "test": test}


def _mlp(width: int):
    return lambda generator: MLP([64, width, _CLASSES], generator=generator)


def tail_learners_point(
    draws: int = 6,
    width: int = 64,
    epochs: int = 60,
    lr: float = 0.2,
    private_lr: float = 0.5,
    clip: float = 0.5,
    noise: float = 1.0,
    per_class: int = 3,
    most: int = 24,
    exponent: float = 1.0,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Compare a learner that may memorize with one that may not, on long-tailed digits.

    The first is plain SGD. The second clips per-example gradients and adds noise, as
    differentially private descent does, so that no example can move it far.

    Parameters
    ----------
    draws : int, default 6
        Independent training sets, 2 or more.
    width : int, default 64
        Hidden width.
    epochs : int, default 60
        Passes over the data.
    lr, private_lr : float
        Learning rates of the two learners.
    clip : float, default 0.5
        Largest norm of a gradient of the second.
    noise : float, default 1.0
        Its noise multiplier.
    per_class, most : int
        As in `tailed_digits`.
    exponent : float, default 1.0
        As in `tailed_digits`.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to train.

    Returns
    -------
    dict
        ``counts`` (ranks,): training images by rank; ``memorizing`` and ``private`` (draws,
        ranks): test accuracy on each subpopulation; ``fit_memorizing`` and ``fit_private``
        (draws,): share of training images that the learner fits.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    draws = check_integer(draws, "draws", minimum=2)
    x, y = _digits()
    sets = [
        tailed_digits(per_class, most, exponent, derive_seed(seed, "draw", i)) for i in range(draws)
    ]
    rows = torch.stack([s["train"] for s in sets])
    every = x.to(device).expand(draws, -1, -1)
    result: dict[str, Any] = {"counts": sets[0]["counts"].numpy()}
    for name, options in (
        ("memorizing", dict(rule="mean", lr=lr)),
        ("private", dict(rule="private", lr=private_lr, clip=clip, noise=noise)),
    ):
        learner = RobustDescent(
            _mlp(width), draws, batch_size=rows.shape[1] // 4, seed=seed, **options
        )
        learner.fit(x[rows].to(device), y[rows].to(device), epochs)
        right = (learner.predict(every).cpu() == y).double()  # (draws, images)
        result[name] = np.stack([_by_rank(right[i], s) for i, s in enumerate(sets)])
        result[f"fit_{name}"] = right.gather(1, rows).mean(1).numpy()
    return result


def _by_rank(right: Tensor, drawn: dict[str, Tensor]) -> np.ndarray:
    rank, test = drawn["rank"][drawn["test"]], right[drawn["test"]]
    total = torch.zeros(len(drawn["counts"]), dtype=torch.float64).index_add(0, rank, test)
    return (total / rank.bincount(minlength=len(total))).numpy()


def subset_point(
    n_models: int = 100,
    share: float = 0.7,
    width: int = 32,
    epochs: int = 40,
    lr: float = 0.01,
    per_class: int = 3,
    most: int = 24,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Estimate memorization and influence on one draw of long-tailed digits.

    Parameters
    ----------
    n_models : int, default 100
        Models, each trained on a random subset.
    share : float, default 0.7
        Size of a subset as a share of the training set.
    width : int, default 32
        Hidden width.
    epochs : int, default 40
        Passes over a subset.
    lr : float, default 0.01
        Adam's learning rate.
    per_class, most : int
        As in `tailed_digits`.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to train.

    Returns
    -------
    dict
        ``estimate`` (`enough.overparameterization.InfluenceEstimate`, on the CPU), ``train`` and
        ``test`` (positions among the digits), ``train_rank`` and ``test_rank`` (of the
        subpopulations), ``counts`` (training images by rank).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    x, y = _digits()
    drawn = tailed_digits(per_class, most, seed=seed)
    train, test = drawn["train"], drawn["test"].nonzero()[:, 0]
    estimate = train_on_subsets(
        _mlp(width),
        x[train].to(device),
        y[train].to(device),
        x[test].to(device),
        y[test].to(device),
        n_models=n_models,
        share=share,
        seed=derive_seed(seed, "subset models"),
        ensemble={"mode": "stacked"},
        epochs=epochs,
        batch_size=32,
        lr=lr,
        progress=False,
    )
    parts = estimate.membership, estimate.train_outcome, estimate.test_outcome
    return {
        "estimate": InfluenceEstimate(*(part.cpu() for part in parts)),
        "train": train.numpy(),
        "test": test.numpy(),
        "train_rank": drawn["rank"][train].numpy(),
        "test_rank": drawn["rank"][test].numpy(),
        "counts": drawn["counts"].numpy(),
    }


def _rows(n_samples: int, draw: int, seed: int) -> Tensor:
    stream = named_generator(seed, "images", draw)
    return torch.randperm(len(_digits()[1]), generator=stream)[:n_samples]


def _noisy_digits(
    n_samples: int, shares: Sequence[float], draws: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Images (draws × shares, N, 64), given labels, and which of them are random."""
    x, y = _digits()
    images, labels, wrong = [], [], []
    for draw in range(draws):
        rows = _rows(n_samples, draw, seed)
        for i, share in enumerate(shares):
            stream = named_generator(seed, "label noise", draw, i)
            given = flip_labels(y[rows], share, _CLASSES, stream)
            if share == 1.0:  # all labels redrawn, the true class not excluded
                given = torch.randint(_CLASSES, rows.shape, generator=stream)
            images.append(x[rows])
            labels.append(given)
            wrong.append(given != y[rows])
    return torch.stack(images), torch.stack(labels), torch.stack(wrong)


def coherence_point(
    draws: int = 6,
    n_samples: int = 512,
    shares: Sequence[float] = (0.0, 0.5, 1.0, 1.0),
    width: int = 64,
    lr: float = 0.3,
    epochs: int = 40,
    watched: Sequence[int] = (0, 1, 2, 5, 10, 20, 40),
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Follow the coherence of per-example gradients during SGD, for several shares of noise.

    Parameters
    ----------
    draws : int, default 6
        Independent draws of images, labels and weights.
    n_samples : int, default 512
        Training images.
    shares : sequence of float, default (0.0, 0.5, 1.0, 1.0)
        Share of wrong labels; at 1 all labels are drawn anew. A share that is listed twice gets
        two independent draws.
    width : int, default 64
        Hidden width.
    lr : float, default 0.3
        Learning rate.
    epochs : int, default 40
        Passes over the data.
    watched : sequence of int, default (0, 1, 2, 5, 10, 20, 40)
        Epochs after which the coherence is measured.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to train.

    Returns
    -------
    dict
        ``epochs`` (W,); ``m_coherence`` (W, draws, shares); ``clean`` and ``wrong``, the same
        among examples with right and with wrong labels alone (NaN where there are fewer than
        two); ``per_example`` (W, draws, shares, N); ``correct`` (epochs + 1, draws, shares, N):
        whether the given label is predicted; ``corrupted`` (draws, shares, N).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    draws = check_integer(draws, "draws", minimum=1)
    x, y, wrong = _noisy_digits(n_samples, shares, draws, seed)
    x, y = x.to(device), y.to(device)
    learner = RobustDescent(_mlp(width), len(x), lr=lr, seed=seed)
    found: list[list[tuple[float, float, float, Tensor]]] = []

    def measure(epoch: int, params: dict[str, Tensor]) -> None:
        if epoch in watched:
            found.append(
                [
                    _coherences(learner, {k: v[i] for k, v in params.items()}, x[i], y[i], wrong[i])
                    for i in range(len(x))
                ]
            )

    learner.fit(x, y, epochs, on_epoch=measure)
    shape = (draws, len(shares))
    correct = (learner.train_predictions_ == y).cpu().numpy()
    part = [np.array([[e[j] for e in row] for row in found]).reshape(-1, *shape) for j in range(3)]
    each = np.stack([np.stack([e[3].numpy() for e in row]) for row in found])
    return {
        "epochs": np.array(sorted(watched)),
        "m_coherence": part[0],
        "clean": part[1],
        "wrong": part[2],
        "per_example": each.reshape(-1, *shape, n_samples),
        "correct": correct.reshape(-1, *shape, n_samples),
        "corrupted": wrong.numpy().reshape(*shape, n_samples),
    }


def _coherences(
    learner: RobustDescent, params: dict[str, Tensor], x: Tensor, y: Tensor, wrong: Tensor
) -> tuple[float, float, float, Tensor]:
    whole = gradient_coherence(learner.module_, x, y, params=params)
    halves = []
    for mask in (~wrong, wrong):
        some = 2 <= int(mask.sum()) < len(mask)
        halves.append(
            gradient_coherence(learner.module_, x[mask], y[mask], params=params).m_coherence
            if some
            else float("nan")
        )
    return whole.m_coherence, *halves, whole.per_example.cpu()


def suppression_point(
    rule: str,
    draws: int = 5,
    n_samples: int = 510,
    share: float = 0.5,
    width: int = 64,
    lr: float = 0.3,
    epochs: int = 80,
    tail: int = 8,
    batch_size: int = 51,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Train on partly wrong labels and record what is learned and what is memorized.

    Parameters
    ----------
    rule : {"mean", "winsorized", "rm3"}
        How a batch becomes a step, as in `enough.overparameterization.RobustDescent`. All rules
        see the same images, labels, initial weights and batches.
    draws : int, default 5
        Independent draws of images, labels and weights.
    n_samples : int, default 510
        Training images.
    share : float, default 0.5
        Share of wrong labels.
    width : int, default 64
        Hidden width.
    lr : float, default 0.3
        Learning rate.
    epochs : int, default 80
        Passes over the data.
    tail : int, default 8
        Values pulled in on either side, for ``"winsorized"``.
    batch_size : int, default 51
        Examples a step.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to train.

    Returns
    -------
    dict
        Arrays (epochs + 1, draws): ``clean`` (share of the rightly labeled training images that
        are predicted), ``memorized`` (share of the wrongly labeled ones whose wrong label is
        predicted), ``test`` (accuracy on all other images).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    check_choice(rule, "rule", ("mean", "winsorized", "rm3"))
    share = check_number(share, "share", above=0.0, below=1.0)
    x, y, wrong = _noisy_digits(n_samples, (share,), draws, seed)
    learner = RobustDescent(
        _mlp(width), draws, rule=rule, lr=lr, batch_size=batch_size, tail=tail, seed=seed
    )
    every, truth = _digits()
    pictures = every.to(device).expand(draws, -1, -1)
    unseen = torch.ones(draws, len(truth), dtype=torch.bool)
    for draw in range(draws):
        unseen[draw, _rows(n_samples, draw, seed)] = False
    test: list[np.ndarray] = []

    def look(epoch: int, params: dict[str, Tensor]) -> None:
        hit = (learner.predict(pictures).cpu() == truth) & unseen
        test.append((hit.sum(1) / unseen.sum(1)).numpy())

    learner.fit(x.to(device), y.to(device), epochs, on_epoch=look)
    right = learner.train_predictions_.cpu() == y
    return {
        "clean": ((right & ~wrong).sum(-1) / (~wrong).sum(-1)).numpy(),
        "memorized": ((right & wrong).sum(-1) / wrong.sum(-1)).numpy(),
        "test": np.stack(test),
    }


def two_worlds_point(
    draws: int = 20,
    n_samples: int = 898,
    width: int = 64,
    epochs: int = 60,
    lr: float = 0.01,
    seed: int = 0,
    device: str | None = "cpu",
) -> dict[str, Any]:
    """Train networks on digits in two worlds that agree on the sample, and compare measures.

    The domain is the 1797 images. A first network is trained on a sample and fits it. In the
    first world the unseen images have the labels that it predicts; in the second they have
    random ones. Then networks are trained from scratch, with the same seeds, in each world.

    Parameters
    ----------
    draws : int, default 20
        Independent samples and initial weights.
    n_samples : int, default 898
        Images in the sample.
    width : int, default 64
        Hidden width.
    epochs : int, default 60
        Passes over the sample.
    lr : float, default 0.01
        Adam's learning rate.
    seed : int, default 0
        Seed of everything.
    device : str or None, default "cpu"
        Where to train.

    Returns
    -------
    dict
        ``measures``: by name, arrays (2, draws), as `generalization_measures` gives them;
        ``population_error`` and ``train_error`` (2, draws); for the first draw ``rows`` (its
        sample) and ``labels`` (2, 1797), the labels of the two worlds.

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    x, y = _digits()
    n_samples = check_integer(n_samples, "n_samples", minimum=2, maximum=len(y))
    rows = torch.stack(
        [
            torch.randperm(len(y), generator=named_generator(seed, "sample", i))[:n_samples]
            for i in range(draws)
        ]
    )

    def train(labels: Tensor) -> Ensemble:
        models = Ensemble(
            _mlp(width), draws, derive_seed(seed, "two worlds"), mode="stacked", device=device
        )
        return models.fit(
            x[rows].to(device),
            labels.gather(1, rows).to(device),
            per_member=True,
            epochs=epochs,
            batch_size=min(128, n_samples),
            lr=lr,
            progress=False,
        )

    true = y.expand(draws, -1)
    first = train(true).predict(x.to(device), per_member=False).argmax(-1).cpu()
    coins = torch.stack(
        [
            torch.randint(_CLASSES, y.shape, generator=named_generator(seed, "coins", i))
            for i in range(draws)
        ]
    )
    seen = torch.zeros(draws, len(y), dtype=torch.bool).scatter(1, rows, True)
    worlds = torch.stack([torch.where(seen, true, first), torch.where(seen, true, coins)])
    population, fit, measures = [], [], []
    for labels in worlds:
        models = train(labels)
        wrong = models.predict(x.to(device), per_member=False).argmax(-1).cpu() != labels
        population.append(wrong.double().mean(1).numpy())
        fit.append(wrong.gather(1, rows).double().mean(1).numpy())
        start = Ensemble(
            _mlp(width), draws, derive_seed(seed, "two worlds"), mode="stacked", device=device
        )
        measures.append(
            [
                generalization_measures(
                    models.member(i),
                    start.parameters_of(i),
                    x[rows[i]].to(device),
                    labels[i, rows[i]].to(device),
                    generator=derive_seed(seed, "perturbation", i),
                )
                for i in range(draws)
            ]
        )
    names = measures[0][0]
    return {
        "measures": {k: np.array([[m[k] for m in row] for row in measures]) for k in names},
        "population_error": np.stack(population),
        "train_error": np.stack(fit),
        "rows": rows[0].numpy(),
        "labels": worlds[:, 0].numpy(),
    }


def worlds_table(largest: int = 12, predictors: int = 4, seed: int = 0) -> pd.DataFrame:
    """Enumerate the two worlds on all finite domains up to a size.

    Parameters
    ----------
    largest : int, default 12
        Largest number of points d, at most 12.
    predictors : int, default 4
        Random predictors and samples for each d and n.
    seed : int, default 0
        Seed of predictors and samples.

    Returns
    -------
    pandas.DataFrame
        One row for each d, n and predictor: ``n_points``, ``n_seen``, ``random_error``,
        ``smallest_error`` (both by enumeration), ``theory`` (``(1 - n/d)/4``).

    Raises
    ------
    ValueError
        If an argument is out of range.
    """
    largest = check_integer(largest, "largest", minimum=1, maximum=12)
    predictors = check_integer(predictors, "predictors", minimum=1)
    stream = named_generator(seed, "worlds")
    rows = []
    for d in range(1, largest + 1):
        for n in range(d + 1):
            for _ in range(predictors):
                h = torch.randint(2, (d,), generator=stream)
                seen = torch.rand(d, generator=stream).argsort().argsort() < n
                worlds = two_worlds(h, seen)
                rows.append(
                    {
                        "n_points": d,
                        "n_seen": n,
                        "random_error": worlds.random_error,
                        "smallest_error": worlds.smallest_error,
                        "theory": (1 - n / d) / 4,
                    }
                )
    return pd.DataFrame(rows)


def parity_point(
    weight: int,
    d: int = 20,
    n_samples: int = 12,
    draws: int = 20,
    seed: int = 0,
) -> dict[str, Any]:
    """Learn a parity of known weight with two rules, and ask how well their error can be bounded.

    Parameters
    ----------
    weight : int
        Ones of the parity that gives the labels, 0 to d. Which they are is random.
    d : int, default 20
        Length of the binary inputs.
    n_samples : int, default 12
        Samples.
    draws : int, default 20
        Independent samples and targets. Different weights share the samples.
    seed : int, default 0
        Seed of everything.

    Returns
    -------
    dict
        Arrays (draws,): ``solutions`` (parities that fit the sample), ``sparse_error`` and
        ``random_error``, the population error of the sparsest solution and the mean error of a
        uniformly random one; ``sparse_gap`` and ``random_gap``, the smallest possible mean
        distance between a number computed from sample and predictor and the population error,
        in the worst world that fits the sample.

    Raises
    ------
    ValueError
        If an argument is out of range.

    Notes
    -----
    The sparsest solution h is a function of the sample. One world that fits has h's labels and
    error 0, all others have error 1/2: no number is closer than 1/4 to both. A random solution
    hits the world's labels with probability 1/s among s solutions, whatever the world; the
    number 1/2 is off by 1/(2s) on average.
    """
    d = check_integer(d, "d", minimum=1, maximum=30)
    weight = check_integer(weight, "weight", minimum=0, maximum=d)
    draws = check_integer(draws, "draws", minimum=1)
    columns: dict[str, list[float]] = {
        name: []
        for name in ("solutions", "sparse_error", "random_error", "sparse_gap", "random_gap")
    }
    for draw in range(draws):
        stream = named_generator(seed, "parity", d, n_samples, draw)
        x = torch.randint(2, (n_samples, d), generator=stream)
        target = torch.zeros(d, dtype=torch.int64)
        target[torch.randperm(d, generator=stream)[:weight]] = 1
        found = solve_parity(x, (x @ target) % 2)
        words, truth = found.all(), target.numpy()
        # Error 1/2 against every world but its own: a matrix of 0 and 1/2 by enumeration.
        sparse = found.minimum_weight()
        errors = np.where((words == sparse).all(1), 0.0, 0.5)  # of h in every world that fits
        against = np.where((words == truth).all(1), 0.0, 0.5)  # of every solution in this world
        columns["solutions"].append(len(found))
        columns["sparse_error"].append(0.0 if (sparse == truth).all() else 0.5)
        columns["random_error"].append(against.mean())
        columns["sparse_gap"].append((errors.max() - errors.min()) / 2)
        columns["random_gap"].append(min(np.abs(against - b).mean() for b in (0.0, 0.5)))
    return {name: np.array(values) for name, values in columns.items()}
