# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% tags=["remove-cell"]
# !python -c "import enough" 2>/dev/null || pip install -q "how-much-is-enough @ git+https://github.com/OWNER/REPO"

# %% [markdown]
# # Fit first, understand later: when does memorizing turn into learning?
#
# **The question.** A network fits every training label, the wrong ones included, and predicts new points no better than
# a coin. You keep training. Why does it ever get better, when the training set has nothing left to say?
#
# **You will be able to**
#
# - produce {term}`benign overfitting` and {term}`grokking` in a two-layer network in seconds, in hundreds of thousands of dimensions;
# - split a ReLU network into a part that memorizes and a part that generalizes, exactly;
# - turn the delay on and off with one dial, the output scale, and draw the map of where it appears;
# - say which popular statistics of feature learning announce the delayed drop, and which do not.
#
# **You need** gradient descent, the {term}`neural tangent kernel` by name, and some PyTorch. Symbols are listed in the
# [notation](../notation.md).
#
# **It takes**
#
# ```{run-times} here
# ```
#
# This chapter stands on two papers: {cite:t}`xu2023benign` on {term}`XOR clusters`, and {cite:t}`kumar2023grokking` on
# {term}`lazy training`.

# %%
import math

import numpy as np
import pandas as pd
import torch

from enough import overparameterization as op
from enough import plotting, runtime
from enough.book import claim, exercises, glue, mean_interval
from enough.overparameterization import experiments
from enough.runtime import recording

run = runtime.start(seed=5309)
run.report()

# %%
XOR = run.pick(
    cpu=dict(
        n_samples=600, dimension=400_000, separation=65.0, width=128, seeds=12
    ),
    gpu=dict(
        n_samples=1600, dimension=1_000_000, separation=80.0, width=256, seeds=16
    ),
    full=dict(
        n_samples=1600, dimension=1_000_000, separation=80.0, width=256, seeds=32
    ),
)
dial = run.pick(
    cpu=dict(cluster_seeds=36, sweep_seeds=8, fit_seeds=160, size=50, samples=350,
             plenty=1000, seeds=8, steps=2500, map_size=20, map_seeds=5, map_steps=1500, modular=None),
    gpu=dict(cluster_seeds=36, sweep_seeds=32, fit_seeds=400, size=100, samples=700,
             plenty=4000, seeds=16, steps=10_000, map_size=40, map_seeds=8, map_steps=6000,
             modular=dict(modulus=59, steps=20_000)),
    full=dict(cluster_seeds=64, sweep_seeds=64, fit_seeds=800, size=100, samples=700,
              plenty=4000, seeds=32, steps=20_000, map_size=50, map_seeds=16, map_steps=10_000,
              modular=dict(modulus=97, steps=60_000)),
)  # fmt: skip
device = str(run.device)

# %%
step_size = 5 * XOR.n_samples / XOR.dimension  # outputs of order 1 after one step
XOR_OPTIONS = vars(XOR) | dict(
    learning_rate=step_size, n_test=300, seed=run.seed, device=device
)

# %% [markdown]
# ## The puzzle
#
# Four clusters lie in a space of very many dimensions: two of them, opposite to each other, carry the label $+1$, the two
# others the label $-1$. We draw 600 points (cpu preset) and flip 15 % of their labels. A network with one hidden layer of ReLU
# neurons, started from tiny weights, sees the data; all points enter every step of gradient descent.

# %%
STEPS = (0, 1, 2, 3, 5, 10, 20, 60)
clusters = experiments.xor_point(
    record=STEPS, **(XOR_OPTIONS | {"seeds": dial.cluster_seeds})
)
at = {step: i for i, step in enumerate(clusters["steps"])}

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Accuracy against training step. Flipped and other training labels are all fitted from step 1 on. Accuracy on new "
    "points is one half at step 1 and rises to nearly one within sixty steps.",
    caption="One step of gradient descent fits all training labels, flipped ones included. New points are then still a "
    "coin toss. Mean and 95 % interval over data sets.",
    name="fig-grok-puzzle",
)
shown = slice(1, None)
for key, label, marker in (
    ("train_flipped", "flipped training labels", "s"),
    ("train_kept", "other training labels", "o"),
    ("test", "new points", "D"),
):
    plotting.band(
        ax, STEPS[shown], clusters[key][shown], axis=1, label=label, marker=marker
    )
ax.axhline(0.5, color="0.4", linestyle=":")
ax.set(
    xscale="log", xlabel="step of gradient descent", ylabel="share of labels right"
)
ax.legend(loc="center right")
plotting.show(fig)

# %% [markdown]
# {numref}`fig-grok-puzzle` shows two surprises in one run. A perfect fit of wrong labels can go with perfect predictions: that is
# {term}`benign overfitting`. And the good predictions come *after* the fit is perfect: that is {term}`grokking`. The first part
# of this chapter takes the run apart. The second asks what sets the length of the delay.

# %% [markdown]
# ## Theory: what a linear part can and cannot do
#
# ```{prf:definition} XOR clusters
# :label: def-grok-xor
#
# Let $\mu_1 \perp \mu_2$ be centers of equal length $\mu$. A point is $x = s\,\mu_c + z$ with an axis $c \in \{1, 2\}$ and a
# sign $s = \pm 1$, both uniform, and noise $z \sim \mathcal N(0, I_p)$. Its clean label is $+1$ on the first axis and $-1$ on the
# second.
# ```
#
# The clean label is an *even* function: $x$ and $-x$ have the same label and the same probability. Everything below follows from
# that. The network is $f(x) = \sum_{j=1}^m a_j \max(w_j \cdot x, 0)$ with fixed $a_j = \pm 1/\sqrt m$.
#
# ```{prf:theorem} A linear part and an even part
# :label: thm-grok-parts
#
# A two-layer ReLU network without biases is $f = l + e$ with
#
# $$ l(x) = \tfrac12 \sum_j a_j\, w_j \cdot x, \qquad e(x) = \tfrac12 \sum_j a_j\, |w_j \cdot x| . $$
#
# If the distribution of the inputs is symmetric and the labels are even, its accuracy is
#
# $$ \tfrac12 \Pr\bigl(|l| > |e|\bigr) + \Pr\bigl(|e| > |l| \text{ and } e \text{ has the sign of the label}\bigr), $$
#
# up to ties. In particular, a linear classifier has accuracy exactly $\tfrac12$.
# ```
#
# ```{prf:proof}
# $\max(h, 0) = \frac12 h + \frac12 |h|$ gives the parts; $l$ is odd, $e$ is even. Take $x$ and $-x$ together. They share their
# label and $e$, while $l$ changes sign. Where $|l| > |e|$ the network says $+1$ on one of them and $-1$ on the other, so exactly one
# is right. Where $|e| > |l|$ both get the sign of $e$.
# ```
#
# So the linear part can *memorize*, since in a dimension $p > n$ some hyperplane fits any labels; but on new points it is a coin.
# Only the even part can *generalize*. Grokking, here, is the even part overtaking the linear one.
#
# ### Why one step is almost linear
#
# Start from weights so small that $f \approx 0$. The logistic loss then pulls with strength $\frac12$ on every point, and after one
# step of size $\eta$
#
# $$
# w_j = \frac{\eta\, a_j}{2n} \sum_i y_i\, g_{ij}\, x_i, \qquad g_{ij} = 1[w_j^{(0)} \cdot x_i > 0] .
# $$
#
# Write $h_j(x) = \sum_i y_i g_{ij}\, x_i \cdot x$. Since $a_j^2 = 1/m$, the linear part is an average over neurons,
# $l = \frac{\eta}{4n} \cdot \frac1m \sum_j h_j$, and all neurons agree on its expectation $\frac12 \sum_i y_i\, x_i \cdot x$. The even part is
# $\frac{\eta}{4n} \cdot \frac1m \sum_j \operatorname{sign}(a_j) |h_j|$. Neurons with $a_j > 0$ and with $a_j < 0$ drew their gates $g_{ij}$ from the same
# distribution, so the two halves of this sum cancel up to fluctuations: $e/l$ is of order $1/\sqrt m$. *The first step cannot tell the
# two kinds of neurons apart, and what they have in common is linear.*
#
# ### Why one step fits, and when not
#
# By the same formula the margin of training point $i$ is proportional to
#
# ```{math}
# :label: eq-grok-votes
# y_i \sum_k y_k\, x_k \cdot x_i = \underbrace{|x_i|^2}_{\approx\, p + \mu^2} + \; y_i \sum_{k \ne i} y_k\, x_k \cdot x_i .
# ```
#
# The point's own vote is $p + \mu^2$. The others' votes have mean zero: the half of them on the same axis vote $\pm \mu^2$, and noise
# adds $p + 2\mu^2$ to the variance of each. The share of labels that one step fits, flipped or not, is about
#
# ```{math}
# :label: eq-grok-fitted
# \Phi\!\left( \frac{p + \mu^2}{\sqrt{\mu^4 n/2 + n\,(p + 2\mu^2)}} \right) .
# ```
#
# High dimension is what makes wrong labels easy: it takes $p \gg \mu^2 \sqrt{n/2}$.
#
# ### Why the even part grows
#
# From the second step on the gates depend on the weights. A neuron with $a_j > 0$ is active on the points it voted for, which have
# $y_i = +1$; if it leans towards $\mu_1$, it is active on that cluster and adds its points, not those at $-\mu_1$, and leans
# further. So neurons with $a_j > 0$ latch onto $\mu_1$ or $-\mu_1$, those with $a_j < 0$ onto $\pm\mu_2$, and $e(x)$ becomes large and
# positive on the first axis, large and negative on the second. Flipped labels stay fitted because nobody revokes the points' own votes.

# %% [markdown]
# ## Show it: hundreds of thousands of dimensions in a small matrix
#
# Gradient descent adds training points to weights and nothing else, so $w_j = w_j^{(0)} + \sum_i C_{ij}\, x_i$. Training needs the
# coefficients $C$ and inner products, never the space itself.


# %%
def descend(x, y, w, a, eta, steps):
    """Coefficients C of full-batch logistic gradient descent, (n, m)."""
    G, H0 = x @ x.mT, x @ w.mT
    C = torch.zeros_like(H0)
    for _ in range(steps):
        H = H0 + G @ C
        f = H.relu() @ a
        pull = y * torch.sigmoid(-y * f) / len(y)
        C = C + eta * pull[:, None] * (H > 0) * a
    return C


small = op.xor_problem(
    30, 5000, 12.0, width=20, n_test=50, seeds=1, generator=run.generator("show it")
)
x, y, w, a = small.x[0], small.labels[0], small.weights[0], op.output_signs(20)
C = descend(x, y, w, a, 0.05, 12)
trained = op.train_relu(x, y, w, a, learning_rate=0.05, record=[0, 12])
assert torch.allclose(C, trained.coefficients[-1, 0], atol=1e-12)

# %% [markdown]
# Nor does *drawing* the data need the space. Order the Gaussian vectors, training points first, then initial weights. By Gram and
# Schmidt, each has independent normal components along its predecessors and a new direction whose length is a $\chi$ variable;
# `xor_problem` draws these numbers. Dimension enters through the degrees of freedom only, so a million dimensions cost what a
# thousand cost. Nothing is approximated. And {prf:ref}`thm-grok-parts` holds point by point:

# %%
f_plus = trained.outputs(small.x_test)[-1]
f_minus = trained.outputs(-small.x_test)[-1]
assert torch.allclose(
    (f_plus - f_minus) / 2, trained.linear_part(small.x_test)[-1], atol=1e-12
)

# %% [markdown]
# ## Use it: which part, which neurons
#
# The run of {numref}`fig-grok-puzzle` again. How much of the output is linear, and where do the neurons point? A neuron counts as *latched*
# when, of the two axes, it points more along the one of its own class.

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Two panels against the training step. Left: the cosine of the output with its linear part is near one at step 1 "
    "and falls to about a fifth, while the share of points ruled by the even part rises from near zero to one. Right: the "
    "share of neurons latched onto their own class rises from one half to nearly one, like test accuracy.",
    caption="Left: the linear part rules after one step, the even part from the second on. Right: neurons find the "
    "centers of their class. Mean and 95 % interval over data sets.",
    name="fig-grok-parts",
    ncols=2,
)
LEFT = {
    "cosine": "cosine with linear part",
    "even_share": "points ruled by even part",
}
RIGHT = {"aligned": "latched neurons", "test": "test accuracy"}
for ax, labels in zip(axes, (LEFT, RIGHT), strict=True):
    for key, label in labels.items():
        plotting.band(ax, STEPS[1:], clusters[key][1:], axis=1, label=label)
    ax.set(xscale="log", xlabel="step of gradient descent", ylim=(-0.03, 1.05))
    ax.legend(loc="center right")
axes[0].set_ylabel("cosine, or share of new points")
axes[1].set_ylabel("share")
plotting.show(fig)


# %%
def share_interval(sample):
    """Mean and interval of shares, cut at 0 and 1."""
    mean, (low, high) = mean_interval(sample)
    return mean, (max(low, 0.0), min(high, 1.0))


first_cosine, first_cosine_interval = share_interval(clusters["cosine"][at[1]])
first_train, first_train_interval = share_interval(clusters["train"][at[1]])
first_test, first_test_interval = share_interval(clusters["test"][at[1]])
last_flipped, last_flipped_interval = share_interval(
    clusters["train_flipped"][at[60]]
)
last_test, last_test_interval = share_interval(clusters["test"][at[60]])
glue("first_cosine", first_cosine)
glue("first_test", first_test)
glue("last_test", last_test)
glue("latched", clusters["aligned"][at[60]].mean())

# %% [markdown]
# After one step the output has a cosine of {glue:text}`first_cosine:.3f` with its linear part, and accuracy on new points is
# {glue:text}`first_test:.2f`. After sixty it is {glue:text}`last_test:.3f`, and a share of {glue:text}`latched:.2f` of the neurons
# points along its own axis.
#
# ### Baselines: a linear classifier, and a lazy network
#
# Two learners that cannot change their features, on the same data: a linear classifier, and the network with its gates frozen at their
# initial values, which is the linearization that {term}`lazy training` follows. And a {term}`negative control`: the network itself,
# on clusters with no separation, where there is nothing to learn.

# %%
baselines = experiments.xor_baselines_point(record=(1, 3, 10, 60), **XOR_OPTIONS)
merged = experiments.xor_point(
    record=(1, 3, 10, 60),
    **(XOR_OPTIONS | {"separation": 0.0, "n_samples": 400, "n_test": 1000}),
)
rows = {
    "linear classifier": (baselines["linear_train"], baselines["linear_test"]),
    "lazy network": (baselines["lazy_train"], baselines["lazy_test"]),
    "network, no separation": (merged["train"], merged["test"]),
    "network": (clusters["train"], clusters["test"]),
}
table = pd.DataFrame(
    {
        "learner": name,
        "train accuracy, step 60": train[-1].mean(),
        "test accuracy, step 60": test[-1].mean(),
        "best test accuracy after step 0": test[-4:].mean(1).max(),
    }
    for name, (train, test) in rows.items()
)
table.set_index("learner").round(3)

# %%
linear_best, linear_interval = mean_interval(baselines["linear_test"].max(0))
nothing, nothing_interval = mean_interval(merged["test"][-1])
glue("lazy_test", baselines["lazy_test"][-1].mean())

# %% [markdown]
# All four fit all labels. The linear classifier is the coin that {prf:ref}`thm-grok-parts` says it must be. The lazy network is a little better,
# {glue:text}`lazy_test:.2f`: its kernel has an even part too, but a small one.
#
# ### Three phases
#
# Equation {eq}`eq-grok-fitted` says that clusters far apart are *not* fitted in one step, and clusters close together cannot be learned. We
# sweep the separation at 200 points in 20 000 dimensions.

# %%
SEPARATIONS = (5, 10, 15, 20, 30, 40, 55, 75, 110, 200)
SWEEP = dict(width=64, seed=run.seed, device=device)
phases = experiments.separation_table(
    SEPARATIONS, record=(1, 2, 10, 60), seeds=dial.sweep_seeds, n_test=300, **SWEEP
)
FIT_SEPARATIONS = (20, 30, 40, 55, 75)
one_step = experiments.separation_table(
    FIT_SEPARATIONS, record=(1,), seeds=dial.fit_seeds, n_test=20, **SWEEP
)


def per_problem(table, column, step):
    """One row a problem, one column a separation."""
    rows = table[table.step == step]
    return rows.pivot(
        index="problem", columns="separation", values=column
    ).to_numpy()


one = per_problem(one_step, "train", 1)
curve = np.geomspace(5, 200, 100)
fit_curve = op.fitted_share(200, 20_000, curve)

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Two panels against cluster separation on a log axis. Left: labels fitted by one step stay at one up to a separation of 20 "
    "and fall towards one half, as predicted; flipped labels fitted at steps 2 and 10 drop further, from 55 and 75 on. Right: test "
    "accuracy is one half at step 1 throughout; at step 60 it rises from one half to one between separations 5 and 40.",
    caption="Left: training labels fitted; dashed: predicted. Right: accuracy on new points. At small separations the network "
    "never generalizes, at medium ones it groks, at large ones new points come before the flipped labels. Mean and 95 % "
    "interval over data sets.",
    name="fig-grok-phases",
    ncols=2,
)
plotting.band(axes[0], FIT_SEPARATIONS, one, label="all labels, step 1")
axes[0].plot(curve, fit_curve, "--", color="0.3", marker="", label="predicted")
for ax, key, name, steps in (
    (axes[0], "train_flipped", "flipped, ", (2, 10)),
    (axes[1], "test", "", (1, 2, 10, 60)),
):
    for step in steps:
        values = per_problem(phases, key, step)
        plotting.band(ax, SEPARATIONS, values, label=f"{name}step {step}")
    ax.set(xscale="log", xlabel=r"separation $\mu$", ylim=(-0.02, 1.05))
    ax.set_ylabel("share of labels right")
    ax.legend(loc="lower left")
plotting.show(fig)


# %%
def share_error(rows):
    """Largest error of the predicted share of fitted labels, over separations."""
    theory = op.fitted_share(200, 20_000, np.array(FIT_SEPARATIONS, dtype=float))
    return float(np.abs(one[rows].mean(0) - theory).max())


draws = np.random.default_rng(run.seed)
everything = np.arange(len(one))
fit_error = share_error(everything)
resampled = [share_error(draws.choice(everything, len(one))) for _ in range(500)]
fit_interval = (
    max(0.0, min(fit_error, 2 * fit_error - np.quantile(resampled, 0.975))),
    max(fit_error, 2 * fit_error - np.quantile(resampled, 0.025)),
)
glue("fit_error", fit_error)

# %% [markdown]
# The prediction {eq}`eq-grok-fitted` has no free parameter; its largest error over the sweep is {glue:text}`fit_error:.3f`.
# *Which* labels are missed first? Not the flipped ones: the formula does not contain the flip. A label is missed when its own vote is
# outvoted by its cluster, and the flipped ones are at first just as safe as the others. Later that changes. Where clusters are far
# apart the even part, once it has found the rule, outvotes the single point, and flipped labels are the ones that are given up; they are fitted
# again in the end ({numref}`fig-grok-phases`, left). So far to the right the network generalizes *before* it overfits, and there is nothing to grok.

# %% [markdown]
# ## What sets the delay: laziness
#
# In the first part the delay was a matter of a few steps, and separation ruled it. {cite:t}`kumar2023grokking` propose a cause that does not
# need label noise: training is {term}`lazy <lazy training>` first, and {term}`rich <rich training>` later. They make it precise in a network with a dial.
#
# ```{prf:definition} The polynomial-regression network
# :label: def-grok-network
#
# Inputs are $x \sim \mathcal N(0, I/D)$, the target is $y = \frac12 (\beta \cdot x)^2$ with $|\beta|^2 = D$. The network is
#
# $$ f(x) = \frac{\alpha}{N} \sum_{i=1}^N \phi(w_i \cdot x), \qquad \phi(h) = h + \tfrac{\epsilon}{2} h^2, $$
#
# trained on the mean squared error of $f - f_0$, where $f_0$ is the network at the start, by gradient descent with the learning rate
# $\eta N / \alpha^2$ for the weights.
# ```
#
# The output scale $\alpha$ is the laziness. A large $\alpha$ needs only small changes of the weights to change the output, and the factor
# $1/\alpha^2$ keeps the speed of the output the same; what changes with $\alpha$ is how far the *features* move.
#
# ```{prf:theorem} Two averages are enough
# :label: thm-grok-moments
#
# The network depends on its neurons only through $\bar w = \frac1N \sum_i w_i$ and $M = \frac1N \sum_i w_i w_i^\top$, and gradient descent is
# closed on the two. With residuals $r_\mu$, $c = 2\eta/(\alpha P)$, $g = \sum_\mu r_\mu x_\mu$ and $G = \sum_\mu r_\mu x_\mu x_\mu^\top$, and
# $A = I - c\,\epsilon\, G$,
#
# $$
# \bar w \mapsto A \bar w - c g, \qquad
# M \mapsto A M A - c\,(A \bar w g^\top + g \bar w^\top A) + c^2 g g^\top .
# $$
#
# With $\Delta$ for changes since the start and $B = \alpha\epsilon\,\Delta M - \beta\beta^\top$, the test loss is
#
# $$
# E = \frac{(\operatorname{tr} B)^2 + 2 |B|_F^2}{4 D^2} + \frac{\alpha^2}{D} |\Delta \bar w|^2 .
# $$
# ```
#
# ```{prf:proof}
# $f(x) = \alpha\, \bar w \cdot x + \frac{\alpha\epsilon}{2}\, x^\top M x$. The gradient of the loss in $w_i$ is
# $\frac{2}{P} \sum_\mu r_\mu \frac{\alpha}{N} (1 + \epsilon\, w_i \cdot x_\mu)\, x_\mu = \frac{2\alpha}{PN}(g + \epsilon G w_i)$, so every neuron moves by the same
# affine map $w \mapsto A w - c g$; average it, and average its outer product. The error on a new point is
# $\frac12 x^\top B x + \alpha \Delta\bar w \cdot x$; for Gaussian $x$ the two terms are uncorrelated, and a quadratic form has the second moment
# $\bigl((\operatorname{tr} B)^2 + 2|B|_F^2\bigr)/D^2$.
# ```
#
# So width costs nothing, the test loss needs no test set, and the {term}`neural tangent kernel` is explicit (over $\alpha^2/N$):
#
# ```{math}
# :label: eq-grok-kernel
# K(x, x') = x \cdot x' \,\bigl(1 + \epsilon\, \bar w \cdot (x + x') + \epsilon^2\, x^\top M x'\bigr) .
# ```
#
# ### Why there can be a delay
#
# At the start $M \approx I$. The kernel {eq}`eq-grok-kernel` then weighs all $D(D+1)/2$ quadratic functions alike, and to find one of them it needs a
# number of samples of that order. It can still *fit*: $P$ samples need only $P$ functions. The solution that generalizes has
# $\Delta M = \beta\beta^\top/(\alpha\epsilon)$, one direction of $D$ numbers, which a few times $D$ samples can pin down. If
# $P$ lies between the two counts, the kernel fits without understanding, and the features understand if they move. Larger
# $\alpha$: less movement, a longer delay. That is the proposal.

# %% [markdown]
# ## Show it: training without neurons


# %%
def step(w, M, w0, M0, x, y, alpha, eps, eta):
    """One step of gradient descent on the mean and the second moment."""
    dw, dM = w - w0, M - M0
    f = alpha * x @ dw + alpha * eps / 2 * ((x @ dM) * x).sum(1)
    r, c = f - y, 2 * eta / (alpha * len(y))
    g, G = x.mT @ r, x.mT @ (r[:, None] * x)
    A = torch.eye(len(w), dtype=w.dtype) - c * eps * G
    cross = c * torch.outer(A @ w, g)
    return A @ w - c * g, A @ M @ A - cross - cross.mT + c**2 * torch.outer(g, g)


# %%
x, y, beta = op.quadratic_task(40, 8, run.generator("quadratic"))
neurons = torch.randn(30, 8, generator=run.generator("neurons")).double()
w0, M0 = op.weight_statistics(neurons)
w, M = w0, M0
for _ in range(50):
    w, M = step(w, M, w0, M0, x[0], y[0], 1.0, 0.25, 1.0)
library = op.train_lazy_rich(
    x,
    y,
    beta,
    1.0,
    0.25,
    steps=50,
    mean=w0[None],
    moment=M0[None],
    learning_rate=1.0,
)
E = op.population_loss(w - w0, M - M0, beta[0], 1.0, 0.25)
assert math.isclose(E.item(), library.final_test[0], rel_tol=1e-9)

# %% [markdown]
# And real neurons, moved one by one by automatic differentiation, end with the same two averages:

# %%
start = neurons.clone()
moving = neurons.clone().requires_grad_()


def network(weights, x, alpha=1.0, eps=0.25):
    h = x @ weights.mT
    return alpha * (h + eps / 2 * h**2).mean(1)


for _ in range(50):
    loss = (network(moving, x[0]) - network(start, x[0]) - y[0]).square().mean()
    (slope,) = torch.autograd.grad(loss, moving)
    moving = (moving - 30 * slope).detach().requires_grad_()
mean, moment = op.weight_statistics(moving.detach())
assert torch.allclose(mean, w, atol=1e-10)
assert torch.allclose(moment, M, atol=1e-10)

# %% [markdown]
# ## Use it: turning the dial
#
# What counts as a delay was fixed before any run. $t_{\mathrm{train}}$ and $t_{\mathrm{test}}$ are the first steps at which the train and the
# test loss are at most **a tenth of their start**, the same share for both; the delay is $\log_{10}(t_{\mathrm{test}}/t_{\mathrm{train}})$, in decades, and
# half a decade or more counts as grokking. Where the test loss never gets there the delay is infinite, and intervals use the time
# the run lasted as a lower bound. The learning rate is a fixed fraction of what the sharpest direction allows at each $\alpha$
# (`stable_learning_rate`): rates that are too small slow both losses alike, and rates that are too large diverge.
#
# We train 500 neurons on 7 samples a dimension.

# %%
LAZINESS = (0.25, 0.5, 1.0, 2.0, 4.0)
MARKS = sorted({0, *np.geomspace(1, dial.steps, 45).astype(int).tolist()})
LAZY = {"seed": run.seed, "device": device, "seeds": dial.seeds}
dialed = experiments.lazy_rich_point(
    dial.samples,
    dial.size,
    LAZINESS,
    [0.25] * len(LAZINESS),
    steps=dial.steps,
    record=MARKS,
    stop=0.05,
    **LAZY,
)

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Three panels of train and test loss against step on log axes, for output scales 0.25, 1 and 4. The gap between the "
    "train and the test curve widens with the output scale; at 4 the test loss levels off above a tenth.",
    caption="Loss relative to its start for three output scales: train (dashed) and test (solid), one pair of lines a seed. "
    "Dotted: the tenth that counts as crossed. A run stops at a twentieth.",
    name="fig-grok-dial",
    ncols=3,
    sharey=True,
)
for ax, alpha, color in zip(axes, (0.25, 1.0, 4.0), plotting.PALETTE, strict=False):
    i = LAZINESS.index(alpha)
    for part, line in (("train", "--"), ("test", "-")):
        losses = dialed[f"{part}_loss"][:, i] / dialed[f"{part}_loss"][0, i]
        look = dict(color=color, linewidth=1, marker="")
        ax.plot(MARKS, losses[:, 1:], line, alpha=0.6, **look)
        ax.plot(MARKS, losses[:, 0], line, alpha=0.6, label=part, **look)
    ax.axhline(0.1, color="0.3", linestyle=":")
    ax.set(xscale="log", yscale="log", ylim=(0.01, 2), xlabel="step")
    ax.set_title(rf"$\alpha={alpha:g}$")
axes[0].set_ylabel("loss / loss at start")
axes[0].legend()
plotting.show(fig)

# %%
delays = dialed["delay_floor"]
smallest_delay, smallest_interval = mean_interval(delays[0])
largest_delay, largest_interval = mean_interval(delays[-1])
middle_delay, middle_interval = mean_interval(delays[3])
crossed = np.isfinite(dialed["test_crossing"]).mean(1)
table = pd.DataFrame(
    {
        "output scale": LAZINESS,
        "train crossing (median step)": np.median(dialed["train_crossing"], 1),
        "test crossing (median step)": np.median(dialed["test_crossing"], 1),
        "seeds that generalize": crossed,
        "delay or lower bound (mean, decades)": delays.mean(1).round(2),
    }
)
glue("smallest_delay", smallest_delay)
glue("crossed_last", crossed[-1])
glue("middle_delay", middle_delay)
table.set_index("output scale")

# %% [markdown]
# The dial works: from {glue:text}`smallest_delay:.2f` decades at $\alpha = 0.25$ to {glue:text}`middle_delay:.2f` at $\alpha = 2$. It also
# has an end. At $\alpha = 4$ training is so lazy that only a share of {glue:text}`crossed_last:.2f` of the networks generalizes: the others reach a train loss
# of nearly zero before their features got there, and with nothing left to fit they stop. And the other end is not zero. Even the richest network
# lags, because at this number of samples the training set is easier than the population whatever the features do. With more samples
# that lag should vanish. Two controls, and the case of plenty:

# %%
frozen = experiments.lazy_rich_point(
    dial.samples, dial.size, [1.0], [0.25], steps=1500, frozen=True, **LAZY
)
shuffled = experiments.lazy_rich_point(
    dial.samples, dial.size, [1.0], [0.25], steps=600, target="shuffled", **LAZY
)
plenty = experiments.lazy_rich_point(
    dial.plenty, dial.size, [0.25, 4.0], [0.25] * 2, steps=1000, stop=0.1, **LAZY
)
frozen_lowest, frozen_interval = mean_interval(frozen["lowest_test"][0])
shuffled_lowest, shuffled_interval = mean_interval(shuffled["lowest_test"][0])
plenty_delay, plenty_interval = mean_interval(plenty["delay_floor"][0])
plenty_lazy = plenty["delay_floor"][1].mean()
glue("frozen_lowest", frozen_lowest)
glue("shuffled_lowest", shuffled_lowest)
glue("plenty_delay", plenty_delay)
glue("plenty_lazy", plenty_lazy)
glue("plenty_ratio", dial.plenty // dial.size)

# %% [markdown]
# With the kernel frozen, the train loss goes to zero as well, and the test loss never falls below a share of
# {glue:text}`frozen_lowest:.2f` of its start; with shuffled labels it never falls below {glue:text}`shuffled_lowest:.2f`. So it is the moving
# features that generalize, and only if there is something to find. With plenty of samples ({glue:text}`plenty_ratio` a dimension) the delay at $\alpha=0.25$ is
# {glue:text}`plenty_delay:.2f`, and even at $\alpha = 4$ only {glue:text}`plenty_lazy:.2f`.
#
# ### The map
#
# Where in the plane of samples and laziness does the delay appear? In a smaller dimension we can afford the whole map.

# %%
SAMPLES = [round(r * dial.map_size) for r in (2.5, 3.5, 4.5, 5.5, 7, 10)]
MAP_LAZINESS = (0.25, 0.5, 1, 2, 4, 8, 16)
plane = experiments.delay_table(
    SAMPLES,
    MAP_LAZINESS,
    dimension=dial.map_size,
    steps=dial.map_steps,
    seeds=dial.map_seeds,
    seed=run.seed,
    device=device,
)
grid = plane.pivot(index="laziness", columns="n_samples", values="delay")

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Map of the median delay over output scale and samples. The upper left never generalizes; a diagonal band next to "
    "it has delays of half a decade and more; the lower right has small delays.",
    caption="Median delay in decades over seeds, by samples and output scale. Gray: more than half of the seeds never "
    "generalize. Bold: half a decade or more.",
    name="fig-grok-map",
)
values = np.ma.masked_invalid(grid.to_numpy())
ax.set_facecolor("0.85")
ax.grid(False)
image = ax.imshow(
    values, origin="lower", aspect="auto", vmin=0, vmax=1.5, cmap="viridis"
)
for (i, j), delay in np.ndenumerate(grid.to_numpy()):
    text = f"{delay:.2f}" if np.isfinite(delay) else "never"
    bold = "bold" if 0.5 <= delay < np.inf else "normal"
    dark = not np.isfinite(delay) or delay > 1
    ax.text(j, i, text, ha="center", va="center", fontweight=bold,
            color="black" if dark else "white", fontsize=8)  # fmt: skip
ax.set_xticks(range(len(SAMPLES)), [f"{p / dial.map_size:g}" for p in SAMPLES])
ax.set_yticks(range(len(MAP_LAZINESS)), [f"{a:g}" for a in MAP_LAZINESS])
ax.set(xlabel="samples per dimension $P/D$", ylabel=r"output scale $\alpha$")
fig.colorbar(image, ax=ax, label="median delay (decades)")
plotting.show(fig)

# %%
finite = np.isfinite(grid.to_numpy())
glue("cells", grid.size)
glue("cells_never", int((~finite).sum()))
glue("cells_grok", int((finite & (grid.to_numpy() >= 0.5)).sum()))

# %% [markdown]
# Of {glue:text}`cells` cells, {glue:text}`cells_never` never generalize, {glue:text}`cells_grok` grok, and the others generalize with
# a delay below half a decade. {numref}`fig-grok-map` explains why a delayed drop is easy to miss: it lives on the border of the region that never
# generalizes. Too few samples or too much laziness, and there is no drop; too many samples, and there is no delay.

# %% [markdown]
# ### Which statistics announce the drop?
#
# The proposal says that features move late. We follow three statistics: how far the tangent kernel has moved from its start, its
# centered {term}`kernel-target alignment`, and the share $\beta^\top M \beta / (|\beta|^2 \operatorname{tr} M)$ of the weights' power that lies along the
# target.

# %%
TRACES = {
    "movement": "kernel movement",
    "kernel_alignment": "kernel-target alignment",
    "weight_alignment": "power along target",
}


def relative_change(key, i):
    """Change since the start over the last change, at the steps that all seeds reached."""
    traces = dialed[key][:, i]
    both = np.isfinite(traces).all(1)
    change = traces[both] - traces[0]
    return np.array(MARKS)[both][1:], (change / change[-1])[1:]


# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Three statistics against step for output scales 1 and 2, each relative to its final value, with dots where the train "
    "loss crosses. Kernel movement is above 0.8 of its final value at the dot; the share of power along the target is much "
    "lower there and keeps rising.",
    caption="Statistics of the features relative to their last value, mean over seeds while all of them train. Dashed vertical: the median step at "
    "which the train loss has crossed; dotted: the test loss.",
    name="fig-grok-statistics",
    ncols=2,
    sharey=True,
)
for ax, i in zip(axes, (2, 3), strict=True):
    for key, label in TRACES.items():
        plotting.band(ax, *relative_change(key, i), axis=1, label=label)
    for part, line in (("train", "--"), ("test", ":")):
        when = np.median(dialed[f"{part}_crossing"][i])
        ax.axvline(when, color="0.3", linestyle=line)
    ax.set(xscale="log", xlabel="step", ylim=(-0.05, 1.5))
    ax.set_title(rf"$\alpha={LAZINESS[i]:g}$")
axes[0].set_ylabel("change / last change")
axes[0].legend()
plotting.show(fig)

# %%
grokked = np.isfinite(dialed["delay"]) & (dialed["delay"] >= 0.5)
moved = dialed["movement_at_crossing"] / dialed["final_movement"]
turned = (dialed["alignment_at_crossing"] - 1 / dial.size) / (
    dialed["final_alignment"] - 1 / dial.size
)


def mean_by_seed(values):
    """Mean over the runs of a seed that grokked, one number a seed."""
    counts = grokked.sum(0)
    return (values * grokked).sum(0)[counts > 0] / counts[counts > 0]


moved_share, moved_interval = mean_interval(mean_by_seed(moved))
turned_share, turned_interval = mean_interval(mean_by_seed(turned))
glue("moved_share", 100 * moved_share)
glue("turned_share", 100 * turned_share)

# %% [markdown]
# In the runs that grok, the kernel has made {glue:text}`moved_share:.0f` % of its final movement when the train loss crosses, long before the
# test loss does. So the picture of a frozen kernel that thaws late is *not* what happens here. The reason is in {eq}`eq-grok-kernel`:
# any fit of the labels, lazy or not, needs a $\Delta M$ of order $1/(\alpha\epsilon)$, and the memorizing $\Delta M$ is nearly as large as the
# generalizing one. What comes late is the *direction*: at the train crossing the power along the target has made
# {glue:text}`turned_share:.0f` % of its way. {cite:t}`zheng2024delays` report the same dissociation in image classifiers: there, too, the tangent
# kernel deviates from its start well before test performance rises.

# %% [markdown]
# ### The other dial: curvature
#
# The paper's second dial is $\epsilon$. A small $\epsilon$ makes the starting kernel mostly linear, misaligned with a quadratic target; so a larger
# $\epsilon$ should shorten the delay. But $\epsilon$ does two things at once.
#
# ```{prf:theorem} The product rules
# :label: thm-grok-product
#
# Drop $\bar w$ from the dynamics of {prf:ref}`thm-grok-moments`. Then the losses after $t$ steps depend on $\alpha$, $\epsilon$ and $\eta$ only through
# $\alpha\epsilon$ and $\eta\,\epsilon^2$.
# ```
#
# ```{prf:proof}
# Let $Q = \alpha\epsilon M$. The output is $\frac12 x^\top \Delta Q\, x$, the start is $Q_0 = \alpha\epsilon I$, and the step is $Q \mapsto AQA$ with
# $A = I - c\epsilon G$, $c\,\epsilon = \frac{2\eta\epsilon}{\alpha P} = \frac{2 \eta \epsilon^2}{P\,\alpha\epsilon}$.
# ```
#
# So at fixed $\alpha$ a larger $\epsilon$ is *lazier*; only at a fixed product $\alpha\epsilon$ does $\epsilon$ change the linear part alone.

# %%
CURVATURES = (0.0625, 0.125, 0.25, 0.5, 1.0)
BENT = dict(n_samples=200, dimension=30, steps=3000, stop=0.1)
fixed_scale = experiments.lazy_rich_point(
    laziness=[1.0] * 5, curvature=CURVATURES, **BENT, **LAZY
)
fixed_product = experiments.lazy_rich_point(
    laziness=[0.25 / e for e in CURVATURES], curvature=CURVATURES, **BENT, **LAZY
)

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Two panels against the curvature. Left: the delay rises with curvature at fixed output scale and is flat at fixed "
    "product. Right: the highest test loss falls from 1.15 to 1 in both cases.",
    caption="Curvature at a fixed output scale $\\alpha=1$ and at a fixed product $\\alpha\\epsilon=1/4$. Left: delay (a lower "
    "bound where the test loss never crossed). Right: highest test loss. Mean and 95 % interval over tasks.",
    name="fig-grok-curvature",
    ncols=2,
)
for found, label in (
    (fixed_scale, "fixed scale"),
    (fixed_product, "fixed product"),
):
    plotting.band(axes[0], CURVATURES, found["delay_floor"], axis=1, label=label)
    plotting.band(axes[1], CURVATURES, found["highest_test"], axis=1, label=label)
axes[0].set(ylabel="delay (decades)", ylim=(0, None))
axes[1].set(ylabel="highest test loss / loss at start")
for ax in axes:
    ax.set(xscale="log", xlabel=r"curvature $\epsilon$")
axes[0].legend()
plotting.show(fig)

# %%
trend, trend_interval = mean_interval(
    fixed_scale["delay_floor"][3] - fixed_scale["delay_floor"][0]
)
drift, drift_interval = mean_interval(
    fixed_product["delay_floor"][3] - fixed_product["delay_floor"][0]
)
bump, bump_interval = mean_interval(
    fixed_product["highest_test"][0] - fixed_product["highest_test"][3]
)
glue("trend", trend)
glue("drift", drift)
glue("bump", bump)

# %% [markdown]
# At fixed $\alpha$ the delay does not fall with $\epsilon$: from $\epsilon = 1/16$ to $1/2$ it *grows* by {glue:text}`trend:.2f` decades. At a
# fixed product it changes by {glue:text}`drift:.3f`, as {prf:ref}`thm-grok-product` says. What misalignment does cause is
# the early rise of the test loss: a small $\epsilon$ lets the network fit with a linear function first, and the test loss overshoots its start by
# {glue:text}`bump:.2f` more than at $\epsilon = 1/2$.

# %% [markdown]
# ## At scale
#
# The `gpu` and `full` presets use a million dimensions for the clusters, the paper's $D = 100$ for the polynomial, and add a third setting: a
# one-layer transformer on sums modulo a prime, trained by full-batch gradient descent without weight decay at several output scales
# (`experiments.modular_point`). The `cpu` preset skips it: its runs take tens of thousands of steps over thousands of pairs.

# %%
modular = {}
if dial.modular is not None:
    marks = sorted(
        {0, *np.geomspace(1, dial.modular["steps"], 60).astype(int).tolist()}
    )
    for alpha in (0.5, 1.0, 2.0, 4.0):
        modular[alpha] = experiments.modular_point(
            laziness=alpha,
            record=marks,
            seed=run.seed,
            device=device,
            **dial.modular,
        )

# %% tags=["hide-input"]
if modular:
    fig, ax = plotting.figure(
        alt="Train and test loss of a transformer on modular sums against step, for several output scales.",
        caption="Loss of a one-layer transformer on modular sums: train (dashed) and test (solid), for several output "
        "scales.",
        name="fig-grok-modular",
    )
    for (alpha, point), color in zip(
        modular.items(), plotting.PALETTE, strict=False
    ):
        ax.plot(point["steps"], point["train_loss"], "--", color=color, marker="")
        ax.plot(
            point["steps"],
            point["test_loss"],
            color=color,
            marker="",
            label=rf"$\alpha={alpha:g}$",
        )
    ax.set(xscale="log", yscale="log", xlabel="step", ylabel="cross-entropy (nats)")
    ax.legend()
    plotting.show(fig)

# %%
CHAPTER = "overparameterization/benign_overfitting_and_grokking"
summary = [
    {
        "laziness": alpha,
        "dimension": dial.size,
        "n_samples": dial.samples,
        "delay": float(delays[i].mean()),
        "delay_se": float(delays[i].std(ddof=1) / math.sqrt(dial.seeds)),
        "generalized": float(crossed[i]),
    }
    for i, alpha in enumerate(LAZINESS)
]
recording.record(run, CHAPTER, summary)
recorded = recording.read_tables(CHAPTER)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Delay against the output scale, from this run and from recorded runs on larger machines. It rises with the scale.",
    caption="The delay against the output scale: this run, and recorded runs with their preset and device. Lower bounds where "
    "test losses never crossed. Bars: two standard errors.",
    name="fig-grok-recorded",
)
curves = {f"this run ({run.preset} preset)": summary}
curves |= {
    f"{r.preset} preset, {r.device}": r.table.to_dict("records") for r in recorded
}
for name, rows in curves.items():
    scale, delay, error = (
        [row[column] for row in rows]
        for column in ("laziness", "delay", "delay_se")
    )
    ax.errorbar(scale, delay, yerr=2 * np.array(error), capsize=2, label=name)
ax.axhline(0.5, color="0.3", linestyle=":")
ax.set(xscale="log", xlabel=r"output scale $\alpha$", ylabel="delay (decades)")
ax.set_xticks(LAZINESS, [f"{a:g}" for a in LAZINESS])
ax.minorticks_off()
ax.legend()
plotting.show(fig)

# %% [markdown]
# ## Claims
#
# The bounds were fixed before the chapter's seeds were run: most of them with the plan of this book, those of the added
# claims from derivations and from prototypes on other seeds.
#
# ### Clusters

# %% tags=["nbval-check-output"]
claim(
    "One step of gradient descent fits all training labels, flipped ones included",
    paper="xu2023benign",
    where="abstract: after the first step",
    measured=first_train,
    interval=first_train_interval,
    above=0.999,
    unit="share of labels",
)

# %% tags=["nbval-check-output"]
claim(
    "After that step the network is no better than a coin on new points",
    paper="xu2023benign",
    where="abstract: after the first step",
    measured=first_test,
    interval=first_test_interval,
    below=0.6,
    unit="accuracy",
)

# %% tags=["nbval-check-output"]
claim(
    "After sixty steps it predicts new points nearly perfectly",
    paper="xu2023benign",
    where="abstract: at a later step",
    measured=last_test,
    interval=last_test_interval,
    above=0.95,
    unit="accuracy",
)

# %% tags=["nbval-check-output"]
claim(
    "It still fits the flipped labels then, so overfitting is benign",
    paper="xu2023benign",
    where="abstract: at a later step",
    measured=last_flipped,
    interval=last_flipped_interval,
    above=0.999,
    unit="share of flipped labels",
)

# %% tags=["nbval-check-output"]
claim(
    "The network after one step is a linear classifier, up to a small even part",
    paper="xu2023benign",
    where="abstract: a linear classifier after one step",
    measured=first_cosine,
    interval=first_cosine_interval,
    above=0.9,
    unit="cosine with the linear part",
)

# %% tags=["nbval-check-output"]
claim(
    "The share of labels that one step fits is predicted without a free parameter, over all separations",
    paper="xu2023benign",
    where="this chapter's one-step formula",
    measured=fit_error,
    interval=fit_interval,
    below=0.05,
    unit="largest difference of shares",
)

# %% tags=["nbval-check-output"]
claim(
    "A linear classifier never leaves chance on new points",
    paper="xu2023benign",
    where="abstract: not linearly separable",
    control=True,
    measured=linear_best,
    interval=linear_interval,
    below=0.6,
    unit="best accuracy of all recorded steps",
)

# %% tags=["nbval-check-output"]
claim(
    "Without separation the network fits the labels and stays at chance",
    paper="xu2023benign",
    where="clusters with equal centers",
    control=True,
    measured=nothing,
    interval=nothing_interval,
    between=(0.45, 0.55),
    unit="accuracy",
)

# %% [markdown]
# ### Laziness

# %% tags=["nbval-check-output"]
claim(
    "At the largest output scale the test loss lags the train loss by half a decade or more",
    paper="kumar2023grokking",
    where="abstract: rate of feature learning",
    measured=largest_delay,
    interval=largest_interval,
    above=0.5,
    unit="decades, a lower bound where the test loss never crossed",
)

# %% tags=["nbval-check-output"]
claim(
    "At half the largest output scale the lag is half a decade or more, too",
    paper="kumar2023grokking",
    where="abstract: rate of feature learning",
    measured=middle_delay,
    interval=middle_interval,
    above=0.5,
    unit="decades",
)

# %% tags=["nbval-check-output"]
claim(
    "At the smallest output scale the lag is at most a fifth of a decade",
    paper="kumar2023grokking",
    where="abstract: rate of feature learning",
    measured=smallest_delay,
    interval=smallest_interval,
    below=0.2,
    unit="decades",
    expect="does not hold here",
    because="with as few samples as the frozen kernel needs to fail, the rich network lags too",
)

# %% tags=["nbval-check-output"]
claim(
    "With plenty of samples the lag at the smallest output scale is at most a fifth of a decade",
    paper="kumar2023grokking",
    where="abstract: dataset size",
    measured=plenty_delay,
    interval=plenty_interval,
    below=0.2,
    unit="decades",
)

# %% tags=["nbval-check-output"]
claim(
    "With its kernel frozen the network never halves its test loss",
    paper="kumar2023grokking",
    where="abstract: kernel regression with initial features",
    control=True,
    measured=frozen_lowest,
    interval=frozen_interval,
    above=0.5,
    unit="lowest test loss over its start",
)

# %% tags=["nbval-check-output"]
claim(
    "With shuffled labels the network never halves its test loss",
    paper="kumar2023grokking",
    where="labels without a rule",
    control=True,
    measured=shuffled_lowest,
    interval=shuffled_interval,
    above=0.5,
    unit="lowest test loss over its start",
)

# %% tags=["nbval-check-output"]
claim(
    "In runs that grok, at most a tenth of the kernel's movement is made when the train loss crosses",
    paper="kumar2023grokking",
    where="abstract: late-time feature learning",
    measured=moved_share,
    interval=moved_interval,
    below=0.1,
    unit="share of the final movement",
    expect="does not hold here",
    because="fitting by memory moves the second moment nearly as far as fitting by the rule",
)

# %% tags=["nbval-check-output"]
claim(
    "In runs that grok, less than half of the alignment of the weights is made when the train loss crosses",
    paper="kumar2023grokking",
    where="Section 5: weight alignment",
    measured=turned_share,
    interval=turned_interval,
    below=0.5,
    unit="share of the final alignment",
)

# %% tags=["nbval-check-output"]
claim(
    "At a fixed output scale the delay falls as the curvature grows",
    paper="kumar2023grokking",
    where="abstract: alignment of the initial features",
    measured=trend,
    interval=trend_interval,
    below=0.0,
    unit="decades, from curvature 1/16 to 1/2",
    expect="does not hold here",
    because="laziness is the product of output scale and curvature, so a larger curvature is also lazier",
)

# %% tags=["nbval-check-output"]
claim(
    "At a fixed product of output scale and curvature the delay does not depend on curvature",
    paper="kumar2023grokking",
    where="this chapter's product rule",
    measured=drift,
    interval=drift_interval,
    between=(-0.1, 0.1),
    unit="decades, from 1/16 to 1/2",
)

# %% tags=["nbval-check-output"]
claim(
    "A small curvature, a misaligned kernel, makes the test loss rise before it falls",
    paper="kumar2023grokking",
    where="abstract: alignment of the initial features",
    measured=bump,
    interval=bump_interval,
    above=0.05,
    unit="difference of the highest test loss over its start",
)

# %% [markdown]
# ## Where it breaks
#
# - **Grokking is a border phenomenon.** {numref}`fig-grok-map` shows a band between two regions without it. No single number of samples
#   gives all three: a long delay when lazy, none when rich, and a frozen kernel that fails.
# - **Movement is not understanding.** The size of the kernel's change does not tell memorizing from generalizing here; its direction
#   does.
# - **The dial is a product.** Results about the alignment dial at a fixed output scale mix two effects in this network.
# - **Too lazy is never, not later.** Gradient descent without weight decay stops when the train loss is zero. Whether a very lazy
#   network would generalize after a far longer time is a question about the last decimals of the train loss.
# - **The definition matters.** A tenth for both losses is a choice; the last exercise moves it.
# - **The target must be within reach.** With $\frac12(\beta \cdot x)^2 - \frac12$ as the target the network would have to learn
#   $\Delta M \approx (\beta\beta^\top - I)/(\alpha\epsilon)$, and a second moment cannot have negative eigenvalues: for
#   $\alpha\epsilon < 1$ the rich network underfits. That alone can hide the delay.
# - **What was tuned, and what was added.** Sample sizes, dimensions and separations were chosen on other seeds. Claims were added there,
#   beside those planned: the share that one step fits, half the largest output scale, plenty of samples, alignment instead of movement, the
#   product rule, and the early rise. The claim on curvature compares 1/16 with 1/2, since at 1 some networks never generalize.
# - **Clusters: our dimension is far below the theorem's.** The guarantee of {cite:t}`xu2023benign` needs a dimension above a fifth power of
#   the number of samples, by a review of the paper; we see the effect far below. When clusters are drawn with unequal sizes and few
#   points, the linear part stays strong and the rise takes longer; with the smallest samples that we tried it was not over after sixty steps.
# - **What changed after the first look:** bounds did not. At two of five other seeds, twelve data sets left the interval of the accuracy
#   after sixty steps across its bound, because one data set in a dozen is late. There are 36 data sets now.
# - **What was checked against the sources:** their abstracts were read, the first paper's theorems through its public reviews, and the
#   second paper's network also in an adaptation of its published code. {prf:ref}`thm-grok-parts`, {prf:ref}`thm-grok-moments`,
#   {prf:ref}`thm-grok-product` and equation {eq}`eq-grok-fitted` are derived here; bounds come from this book's plan. In that code, target and
#   inputs are scaled as here or differ by constant factors.
# - **What the papers did that we did not:** proofs for the clusters at every later step, mean-field equations for the polynomial, and
#   experiments on MNIST and on student-teacher networks. The transformer runs only on larger machines.

# %% [markdown]
# ## Exercises
#
# ```{exercise-start} Pairs (5 minutes)
# :label: ex-grok-pairs
# ```
# On 70 % of all points the linear part of a network is larger than its even part. On the other 30 % the even part always has the sign of
# the label. What is the accuracy on XOR clusters? Check with
# `exercises.check("overparameterization/benign_overfitting_and_grokking/pairs", your_accuracy)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-grok-pairs
# :class: dropdown
# ```
# By {prf:ref}`thm-grok-parts`, half of the 70 % and all of the 30 %.

# %%
exercises.check(
    "overparameterization/benign_overfitting_and_grokking/pairs", 0.5 * 0.7 + 0.3
)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} The linear part of a network (10 minutes)
# :label: ex-grok-direction
# ```
# Write a function `direction(weights, signs)` that returns the vector $v$ with $l(x) = v \cdot x$, for weights of shape `(m, k)` and an
# output layer of shape `(m,)`. Then measure the accuracy of the network of {numref}`fig-grok-puzzle` *without* its linear part. Check the
# function with `exercises.check("overparameterization/benign_overfitting_and_grokking/direction", direction)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-grok-direction
# :class: dropdown
# ```
# $v = \frac12 \sum_j a_j w_j$. Taking it away makes every prediction even, and the network better at once: after two steps the even part
# already knows the rule where the linear part still outvotes it.


# %%
def direction(weights, signs):
    return 0.5 * signs @ weights


exercises.check(
    "overparameterization/benign_overfitting_and_grokking/direction", direction
)

# %%
problem = op.xor_problem(
    200, 20_000, 20.0, seeds=1, generator=run.generator("without the linear part")
)
fresh, rule = problem.x_test[0], problem.test_labels[0]
net = op.train_relu(
    problem.x,
    problem.labels,
    problem.weights,
    op.output_signs(256),
    learning_rate=0.02,
    record=[1, 2, 60],
)
rows = []
for i, steps in enumerate(net.steps):
    outputs = net.outputs(problem.x_test)[i, 0]
    even = outputs - fresh @ direction(net.weights_at(i)[0], net.signs)
    right = [float((f * rule > 0).double().mean()) for f in (outputs, even)]
    rows.append({"step": steps, "network": right[0], "even part": right[1]})
pd.DataFrame(rows).set_index("step").round(3)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} How far must the features go? (10 minutes)
# :label: ex-grok-move
# ```
# What is the Frobenius norm of the change $\Delta M$ that solves the polynomial task exactly, at $\alpha = 2$, $\epsilon = 1/4$ and $D = 50$?
# Compare with the norm of the starting $M = I$. Check the norm with
# `exercises.check("overparameterization/benign_overfitting_and_grokking/move", your_norm)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-grok-move
# :class: dropdown
# ```
# $\Delta M = \beta\beta^\top/(\alpha\epsilon)$, of norm $|\beta|^2/(\alpha\epsilon) = 50/0.5 = 100$, against $|I|_F = \sqrt{50} \approx 7$. Even a
# "lazy" network moves far when the target lies in one direction; lazy it is only against the linear part of its kernel.

# %%
beta = op.quadratic_task(1, 50, run.generator("move"))[2][0]
change = torch.outer(beta, beta) / (2 * 0.25)
exercises.check(
    "overparameterization/benign_overfitting_and_grokking/move",
    change.norm().item(),
)
assert op.population_loss(torch.zeros(50).double(), change, beta, 2.0, 0.25) < 1e-20

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} Is the delay a matter of the threshold? (open)
# :label: ex-grok-threshold
# ```
# A tenth of the starting loss was a choice. Repeat the runs at $\alpha = 0.25$ and $\alpha = 2$ with thresholds from 0.03 to 0.5. Does the order of
# the two delays survive? Does half a decade?
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-grok-threshold
# :class: dropdown
# ```
# The order of the two survives at every threshold below; half a decade does not. A loose threshold shrinks the delay, a strict one stretches
# it, that of the lazy network most. A delay without its threshold says little.

# %%
rows = []
for share in (0.5, 0.3, 0.1, 0.05):
    point = experiments.lazy_rich_point(
        200, 30, [0.25, 2.0], [0.25, 0.25], threshold=share, stop=share, **LAZY
    )
    rich, lazy = point["delay_floor"].mean(1)
    rows.append({"threshold": share, "delay at 0.25": rich, "delay at 2": lazy})
by_threshold = pd.DataFrame(rows).set_index("threshold").round(2)
by_threshold

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ## Further reading
#
# - {cite:t}`xu2023benign`: proofs for the clusters, step by step, with label noise.
# - {cite:t}`kumar2023grokking`: the dial, with mean-field theory, transformers and images.
# - {cite:t}`zheng2024delays`: a study of image classifiers in which the kernel moves before the delayed rise.
# - {cite:t}`jacot2018neural`: the kernel that stays put in an infinitely wide network.
