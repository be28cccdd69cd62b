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
# # Measure calibration: how much of the error is the ruler's?
#
# **The question.** A classifier that says 90 % should be right nine times out of ten. You measure how far yours is from
# that, and find an error of 5 %. How much of it belongs to the classifier, and how much to the measurement?
#
# **You will be able to**
#
# - predict the calibration error that a *perfect* classifier shows, from its forecasts alone, and subtract it;
# - read a {term}`reliability diagram` and put an honest interval on a calibration error;
# - name the traps that make two programs report different errors for the same forecasts;
# - split a {term}`proper score` into parts that add up exactly, and repair quantile forecasts for free.
#
# **You need** means and variances, the idea of a bootstrap, and some PyTorch. Symbols are listed in the
# [notation](../notation.md).
#
# **It takes**
#
# ```{run-times} here
# ```

# %%
import math

import numpy as np
import pandas as pd
import torch
from scipy import stats
from sklearn.isotonic import IsotonicRegression

from enough import calibration as cal
from enough import plotting, runtime
from enough.book import claim, exercises, glue, mean_interval
from enough.calibration import experiments
from enough.runtime import recording

run = runtime.start(seed=7219)
run.report()

# %% [markdown]
# Every size in this chapter is a dial, set here once.

# %%
dial = run.pick(
    cpu=dict(trials=2000, datasets=500, resamples=200, members=12, smooth=60),
    gpu=dict(trials=4000, datasets=1200, resamples=400, members=32, smooth=120),
    full=dict(trials=10_000, datasets=2400, resamples=800, members=64, smooth=240),
)
device = str(run.device)

# %% [markdown]
# ## The puzzle
#
# Build a forecaster that cannot be wrong about its own confidence. It draws a number $p$ at random, announces "the
# event has probability $p$", and then the event happens with probability $p$, by a fair draw. There is no better
# calibrated forecaster. Now measure its {term}`expected calibration error` as everybody does: sort the forecasts into
# bins, and average the distance between the mean forecast and the share of events in each bin.

# %%
BIN_GRID = (5, 10, 15, 20, 30, 50, 100)
SIZES = (500, 2000, 8000)
puzzle = {
    n: np.stack(
        [
            experiments.calibrated_point(n, b, 200, seed=run.seed)["l1"]
            for b in BIN_GRID
        ]
    )
    for n in SIZES
}  # each (bins, trials)
glue("puzzle_small", 100 * puzzle[500][BIN_GRID.index(15)].mean())
glue("puzzle_large", 100 * puzzle[8000][BIN_GRID.index(15)].mean())

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Measured calibration error against the number of bins on log axes, for three "
    "test sizes. All curves rise with the bins, by a factor of four from 5 to 100, and "
    "larger test sets lie lower. The true error is zero everywhere.",
    caption="What a perfectly calibrated forecaster scores. Median and central 95 % of "
    "200 test sets. Its true calibration error is 0.",
    name="fig-measure-puzzle",
)
for n in SIZES:
    plotting.band(
        ax, BIN_GRID, puzzle[n], axis=1, kind="quantile", label=f"{n} test samples"
    )
ax.set(xscale="log", yscale="log")
ax.set(xlabel="bins $B$", ylabel="measured calibration error (l1)")
ax.set_xticks(BIN_GRID, [str(b) for b in BIN_GRID])
ax.minorticks_off()
ax.legend()
plotting.show(fig)

# %% [markdown]
# Every point of {numref}`fig-measure-puzzle` is the measured error of a forecaster that makes none. With 15 bins it scores
# {glue:text}`puzzle_small:.1f` % on 500 test samples and {glue:text}`puzzle_large:.1f` % on 8000. Choose more bins, and
# it looks worse; collect more data, and it looks better. If a number depends that much on the ruler, what does it say
# about the model?

# %% [markdown]
# ## Theory: the ruler's share
#
# ### What calibration is
#
# ```{prf:definition} Calibration
# :label: def-measure-calibration
#
# A forecast $f(X) \in [0, 1]$ of an event $Y \in \{0, 1\}$ has {term}`calibration` if $\Pr(Y = 1 \mid f(X) = p) = p$
# for every $p$ that it announces.
# ```
#
# A classifier with $K$ classes gives a vector of probabilities, and "calibrated" then has several meanings.
# *Top-label*: take the largest probability as the forecast, and "the {term}`top label` is right" as the event
# {cite:p}`guo2017calibration`. *Classwise*: each class has its own forecast and event. *Binary*: one class of two has
# been named the event. A model can pass one and fail another; an example follows below.
#
# With $n$ test samples in $B$ bins, $n_b$ of them in bin $b$, let $r_i = p_i - y_i$ be the residuals and $m_b$ their
# mean in the bin.
#
# ```{prf:definition} Binned calibration errors
# :label: def-measure-errors
#
# The {term}`plug-in <plug-in estimate>` calibration errors are
#
# $$
# \mathrm{ECE}_1 = \sum_b \frac{n_b}{n}\,\lvert m_b\rvert, \qquad
# \mathrm{ECE}_2^2 = \sum_b \frac{n_b}{n}\, m_b^2, \qquad
# \mathrm{MCE} = \max_b\, \lvert m_b\rvert .
# $$
# ```
#
# The first and the last go back to {cite:t}`naeini2015obtaining`; {cite:t}`guo2017calibration` measured deep networks
# by them.
#
# ### What a perfect model scores
#
# ```{prf:theorem} The noise floor
# :label: thm-measure-floor
#
# Let the forecasts be fixed, and let the outcomes be independent with $\Pr(y_i = 1) = p_i$. With $v_b$ the mean of
# $p(1-p)$ in bin $b$,
#
# $$
# \mathrm{E}\bigl[\mathrm{ECE}_2^2\bigr] = \frac1n \sum_{b:\, n_b > 0} v_b .
# $$
#
# If all bins hold the same number of samples, that is $\dfrac{B}{n}\,\overline{p(1-p)}$.
# ```
#
# ```{prf:proof}
# The residuals of bin $b$ have mean 0 and variances $p_i(1-p_i)$, so $\mathrm{E}[m_b^2] = n_b v_b / n_b^2 = v_b/n_b$.
# The weight $n_b/n$ cancels $n_b$. With equal counts, $\sum_b v_b = B\,\overline{p(1-p)}$.
# ```
#
# The {term}`noise floor` grows with the bins and falls with the data, and it needs no labels: you can compute it for
# your own model before you see an outcome. For the absolute version, $m_b$ is close to a normal variable of variance
# $v_b/n_b$, whose mean size is $\sqrt{2/\pi}$ standard deviations, so
#
# ```{math}
# :label: eq-measure-floor-l1
# \mathrm{E}\bigl[\mathrm{ECE}_1\bigr] \approx \sqrt{\frac2\pi}\, \frac1n \sum_b \sqrt{n_b v_b}
#   \;\approx\; \sqrt{\frac{2}{\pi}}\; \overline{\sqrt{p(1-p)}}\, \sqrt{\frac Bn} .
# ```
#
# The uniform forecasts of the puzzle have $\mathrm E[p(1-p)] = 1/6$ and $\mathrm E\sqrt{p(1-p)} = \pi/8$.
#
# ### Subtract the floor
#
# If the bins have true gaps $\delta_b = \mathrm E[m_b]$, the same computation gives
# $\mathrm{E}[m_b^2] = \delta_b^2 + \mathrm{Var}(m_b)$: the floor is *added* to the true square. Variances can be
# estimated, so it can be subtracted:
#
# ```{math}
# :label: eq-measure-debias
# \widehat{\mathrm{ECE}_2^2} = \sum_b \frac{n_b}{n} \Bigl( m_b^2 - \frac{\bar y_b (1 - \bar y_b)}{n_b - 1} \Bigr).
# ```
#
# {cite:t}`brocker2012estimating` studied how far the empirical parts of a score are from the true ones, and how to
# estimate them better; {cite:t}`kumar2019verified` brought such an estimate from meteorology to machine learning.
# Equation {eq}`eq-measure-debias` takes the variance of the outcomes alone. That is exact for a model that announces one
# probability per bin; if forecasts differ inside a bin, calibrated outcomes follow them, and the formula subtracts too
# much, by the variance of the forecasts in the bin over $n_b$. Taking the variance of the residuals, $s_b^2/n_b$,
# repairs that:
#
# ```{math}
# :label: eq-measure-unbiased
# \theta = \sum_b \frac{n_b}{n} \Bigl( m_b^2 - \frac{s_b^2}{n_b} \Bigr), \qquad
# \mathrm{E}[\theta] = \sum_b \frac{n_b}{n}\,\delta_b^2 .
# ```
#
# The expectation is exact if the samples of a bin are independent draws from it, and for calibrated forecasts even if
# they are fixed; bins of one sample are left out. An unbiased estimate of a square near 0 is negative about half of the
# time. Keep the sign when you average over seeds; take $\sqrt{\max(\theta, 0)}$ only at the very end.

# %% [markdown]
# ## Show it
#
# ### The errors in a few lines


# %%
def binned(p, y, B):
    """Plug-in l1, plug-in squared l2, and theta, for bins ((b-1)/B, b/B]."""
    bins = np.clip(np.ceil(p * B), 1, B)
    l1 = squared = theta = 0.0
    for b in np.unique(bins):
        r = (p - y)[bins == b]
        m, weight = r.mean(), len(r) / len(p)
        l1 += weight * abs(m)
        squared += weight * m**2
        if len(r) > 1:
            theta += weight * (m**2 - r.var(ddof=1) / len(r))
    return l1, squared, theta


rng = np.random.default_rng(run.seed)
p = rng.random(1000)
y = (rng.random(1000) < p**2).astype(int)
l1, squared, theta = binned(p, y, 15)

# %% [markdown]
# The library must agree, in bins of equal width, in both norms, and in the debiased value with its interval.

# %%
assert math.isclose(l1, cal.expected_calibration_error(p, y))
assert math.isclose(squared, cal.expected_calibration_error(p, y, norm="l2") ** 2)
assert math.isclose(theta, cal.calibration_error_interval(p, y).value ** 2)
batch = experiments.binned_errors(p[None], y[None], 15)
assert np.allclose(
    (l1, squared, theta), [batch[k][0] for k in ("l1", "squared", "unbiased")]
)

# %% [markdown]
# ### Traps
#
# The definition leaves choices open, and programs fill them differently. Each trap below stands in public code or in
# its bug reports. The library's convention is bins $(\tfrac{b-1}{B}, \tfrac bB]$ with 0 in the first, edges rounded to
# the precision of the input, and equal forecasts never parted.
#
# **Confidence exactly 1.** Number the bins by $\lfloor pB \rfloor$, and a forecast of 1 gets a bin of its own, number
# $B$. Softmax in single precision reaches exactly 1 at a gap of 17 between logits, so the hidden bin fills up.


# %%
def floor_bins(p, y, B):
    """The l1 error with bins numbered by floor(pB): 1.0 falls into an extra bin."""
    bins = np.floor(p * B)
    sums = [abs((p - y)[bins == b].sum()) for b in np.unique(bins)]
    return sum(sums) / len(p)


two = np.array([0.95, 1.0]), np.array([1, 0])
hidden = floor_bins(*two, 10), cal.expected_calibration_error(*two, n_bins=10)
assert np.allclose(hidden, (0.525, 0.475))
assert torch.tensor([17.0, 0.0]).softmax(0)[0] == 1.0

# %% [markdown]
# **Edges in floating point.** In double precision `numpy.linspace(0, 1, 11)[3]` is a little more than 0.3; in single
# precision it is 0.3. With bins closed on the left, the same forecasts land in different bins when only their type
# changes.


# %%
def linspace_bins(p, y, B):
    """The l1 error with edges from linspace in the type of p, closed on the left."""
    bins = np.digitize(p, np.linspace(0, 1, B + 1, dtype=p.dtype))
    return sum(abs((p - y)[bins == b].sum()) for b in np.unique(bins)) / len(p)


grid = np.repeat([0.3, 0.35], 20)
events = np.repeat([1, 0, 1, 0], [12, 8, 1, 19])
edges = {
    kind: (
        linspace_bins(grid.astype(kind), events, 10),
        cal.expected_calibration_error(grid.astype(kind), events, n_bins=10),
    )
    for kind in ("float32", "float64")
}
assert abs(edges["float32"][0] - edges["float64"][0]) > 0.29
assert abs(edges["float32"][1] - edges["float64"][1]) < 1e-6

# %% [markdown]
# **Ties in bins of equal mass.** Sort the forecasts, cut them into $B$ equal pieces: if forecasts are tied, as votes of
# ten trees are, the cut runs through a tie, and the answer depends on the order of the rows in the file.


# %%
def split_bins(p, y, B):
    """The l1 error of equal pieces of the sorted forecasts, ties cut where they fall."""
    order = np.argsort(p, kind="stable")
    return sum(abs((p - y)[part].sum()) for part in np.array_split(order, B)) / len(
        p
    )


votes = rng.integers(0, 11, 500) / 10
won = (rng.random(500) < votes).astype(int)
orders = [rng.permutation(500) for _ in range(100)]
cut = [split_bins(votes[o], won[o], 15) for o in orders]
kept = [
    cal.expected_calibration_error(votes[o], won[o], binning="quantile")
    for o in orders
]
assert np.ptp(kept) < 1e-12 < np.ptp(cut)

# %% [markdown]
# **The largest gap of a lonely sample.** The MCE takes one bin at its word. A bin of one sample has the gap $p$ or
# $1 - p$, whatever the model does.

# %%
lonely = (
    np.append(np.full(1000, 0.9), 0.55),
    np.append(np.arange(1000) < 900, False),
)
lonely_mce = cal.expected_calibration_error(*lonely, norm="max")
assert math.isclose(lonely_mce, 0.55)
typical_mce = {
    b: experiments.calibrated_point(500, b, 200, seed=run.seed)["maximum"].mean()
    for b in (15, 100)
}

# %% [markdown]
# **Which event?** Let a model announce 0.1 where the truth is 0.2, and 0.9 where it is 1.0. As a forecast of the event
# it is wrong by 0.1 everywhere. Its top label has confidence 0.9 on both sides, is right in 80 % and in 100 % of cases,
# and is calibrated on average.

# %%
said = np.repeat([0.1, 0.9], 500)
true = np.concatenate([np.arange(500) < 100, np.ones(500, dtype=bool)]).astype(int)
table = np.stack([1 - said, said], 1)
meanings = {
    "binary": cal.expected_calibration_error(said, true),
    "top label": cal.expected_calibration_error(table, true),
    "classwise": cal.expected_calibration_error(table, true, classwise=True),
}
assert np.allclose(list(meanings.values()), [0.1, 0.0, 0.1])

# %%
pd.DataFrame(
    [
        ("1.0 in a hidden bin", hidden[0], hidden[1]),
        ("edge 0.3, single precision", *edges["float32"]),
        ("edge 0.3, double precision", *edges["float64"]),
        ("ties cut, lowest over orders", min(cut), min(kept)),
        ("ties cut, highest over orders", max(cut), max(kept)),
        ("calibrated, 500 samples, MCE of 15 bins", typical_mce[15], 0.0),
        ("calibrated, 500 samples, MCE of 100 bins", typical_mce[100], 0.0),
        ("top label for binary", meanings["top label"], meanings["binary"]),
    ],
    columns=["trap", "reported", "by the convention, or true"],
).round(4)

# %% [markdown]
# ## Use it: bias and debiasing
#
# We test {prf:ref}`thm-measure-floor` and equation {eq}`eq-measure-debias` on the perfect forecaster: 2000 test samples, many trials.
# The same trials serve all numbers of bins.

# %%
BINS = (10, 30, 100)
perfect = {
    b: experiments.calibrated_point(
        2000, b, dial.trials, seed=run.seed, device=device
    )
    for b in (*BINS, 15)
}
floor_ratio, floor_interval = mean_interval(
    np.mean([perfect[b]["squared"] / (b / 12_000) for b in BINS], axis=0)
)
l1_theory = {b: math.sqrt(2 * b / (math.pi * 2000)) * math.pi / 8 for b in BINS}
l1_ratio, l1_interval = mean_interval(
    np.mean([perfect[b]["l1"] / l1_theory[b] for b in BINS], axis=0)
)
debiased = perfect[15]["debiased"]
debiased_mean, debiased_interval = mean_interval(debiased)
z = abs(debiased_mean) / (debiased.std(ddof=1) / math.sqrt(len(debiased)))
plugin_mean = perfect[15]["squared"].mean()
left = debiased_mean / plugin_mean
left_interval = tuple(end / plugin_mean for end in debiased_interval)

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Two panels against the number of bins. Left: the plug-in squared error rises on "
    "the theory's line, the debiased one stays at zero. Right: their root mean squares; "
    "the plug-in's rises in proportion to the bins, the debiased one's like their root.",
    caption="A perfect forecaster, 2000 samples. Left: median of the estimated squared "
    "error (band: central 95 % of trials), with $B\\,E[p(1-p)]/n$ dashed. Right: how "
    "far the estimates are from the truth, with lines of slope 1 and 1/2.",
    name="fig-measure-bias",
    ncols=2,
)
every = np.array(sorted(perfect))
for name, label in (("squared", "plug-in"), ("debiased", "debiased")):
    cells = np.stack([perfect[b][name] for b in every])
    plotting.band(axes[0], every, cells, axis=1, kind="quantile", label=label)
    axes[1].plot(every, np.sqrt((cells**2).mean(1)))
axes[0].plot(every, every / 12_000, "--", color="0.1", marker="", label="theory")
guides = np.stack([8.6e-4 * every / 10, 3.9e-4 * (every / 10) ** 0.5], 1)
axes[1].plot(every, guides, ":", color="0.5", marker="", zorder=0)
axes[1].set_yscale("log")
for ax, label in zip(axes, ("squared error", "root mean square"), strict=True):
    ax.set(xscale="log", xlabel="bins $B$", ylabel=label)
    ax.set_xticks(every, [str(b) for b in every])
    ax.set_xticks([], minor=True)
axes[0].legend(loc="upper left")
plotting.show(fig)

# %% [markdown]
# Debiasing takes away the bias. What remains is noise, and it grows more slowly: the plug-in is off by its mean, in
# proportion to $B$; the debiased estimate by its standard deviation, which for a sum of $B$ independent terms grows
# like $\sqrt B$. That is the point of {cite:t}`kumar2019verified`: to know the error equally well, the debiased
# estimate needs $O(\sqrt B)$ samples, the plug-in $O(B)$. We measure both exponents between 10 and 100 bins.


# %%
def growth(name):
    """Exponent of the root mean square in B between 10 and 100 bins, with interval."""

    def exponent(few, many, axis=-1):
        return np.log10((many**2).mean(axis) / (few**2).mean(axis)) / 2

    pair = perfect[10][name], perfect[100][name]
    found = stats.bootstrap(
        pair,
        exponent,
        paired=True,
        vectorized=True,
        n_resamples=499,
        method="basic",
        random_state=np.random.default_rng(run.seed),
    ).confidence_interval
    value = float(exponent(*pair))
    return value, (min(float(found.low), value), max(float(found.high), value))


plugin_growth, plugin_growth_interval = growth("squared")
debiased_growth, debiased_growth_interval = growth("debiased")
glue("plugin_growth", plugin_growth)
glue("debiased_growth", debiased_growth)

# %% [markdown]
# The exponents are {glue:text}`plugin_growth:.2f` and {glue:text}`debiased_growth:.2f`.
#
# ### Without bins, but not without noise
#
# {cite:t}`blasiok2023smooth` replace the bins by a kernel, with a bandwidth that equals the error it finds. Their smECE
# is continuous in the forecasts, and the traps above disappear. The noise does not: at bandwidth $s$ about $sn$ samples
# are averaged, so the error of a perfect forecaster is of order $(sn)^{-1/2}$, and setting it equal to $s$ gives
# $n^{-1/3}$. For uniform forecasts the constant can be computed: a Gaussian kernel has $\int K_s^2 = 1/(2\sqrt\pi s)$,
# so
#
# $$
# s^* = \sqrt{\tfrac2\pi}\;\tfrac\pi8\; (2\sqrt\pi\, s^* n)^{-1/2} \quad\Longrightarrow\quad s^* \approx 0.30\, n^{-1/3} .
# $$

# %%
smooth = [
    experiments.smooth_point(n, dial.smooth, seed=run.seed)
    for n in (500, 2000, 8000)
]
smooth_ratio, smooth_interval = mean_interval(
    np.mean([point["smooth"] / point["theory"] for point in smooth], axis=0)
)
glue("smooth_2000", 100 * smooth[1]["smooth"].mean())
ends = [0.95, 0.95, 1.0, 1.0], [0, 0, 1, 1]
assert cal.smooth_calibration_error(*ends) < 0.4751

# %% [markdown]
# On 2000 samples the perfect forecaster has an smECE of {glue:text}`smooth_2000:.1f` %. (The smECE never exceeds the
# mean of $\lvert p - y\rvert$; code that gives half a kernel to forecasts of exactly 0 and 1 can report more. The last
# line of the cell is a case where it would.)

# %% [markdown]
# ## An interval that covers
#
# A number wants an interval, and the habit is to bootstrap: resample the test set, recompute the error, take the 2.5 %
# and 97.5 % points. For a calibration error that fails twice over. The plug-in is too high to begin with; and a
# resample has noise of its own on top of the sample's, so its errors are higher still. The whole interval sits above
# the truth.
#
# `calibration_error_interval` does something plainer: it estimates the variance of $\theta$ and puts a normal interval
# around it, cut off at 0. {cite:t}`sun2024confidence` prove that the debiased estimate is asymptotically normal, with
# different rates for calibrated and miscalibrated models; our interval adds both variance terms instead of choosing, so
# it is wide near 0. We count how often each kind of interval holds the true error, on 1000 samples with 15 bins, for
# forecasters that are calibrated, a little overconfident, and badly so.

# %%
SLOPES = (1.0, 0.95, 0.9, 0.75, 0.5)
coverage = experiments.coverage_table(
    SLOPES, datasets=dial.datasets, resamples=dial.resamples, seed=run.seed
)


def share(successes, of):
    """A share with its Wilson interval."""
    found = stats.binomtest(int(successes), int(of)).proportion_ci(method="wilson")
    return successes / of, (found.low, found.high)


def covered(slope, method):
    """Coverage of one method at one slope, with its Wilson interval."""
    row = coverage[(coverage.slope == slope) & (coverage.method == method)].iloc[0]
    return share(row.held, row.datasets)


# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Coverage of three kinds of 95 percent intervals against the true calibration "
    "error. The percentile bootstrap starts at zero and rises slowly; the basic "
    "bootstrap starts near a third; the normal interval stays near or above 95 percent.",
    caption="How often a 95 % interval holds the true error, over simulated test sets of "
    "1000. Bars: Wilson intervals; dashed: what was promised.",
    name="fig-measure-coverage",
)
names = {
    "percentile": "percentile bootstrap",
    "basic": "basic bootstrap",
    "normal": "normal, debiased",
}
for method, label in names.items():
    found = [covered(slope, method) for slope in SLOPES]
    value = np.array([f[0] for f in found])
    reach = np.abs(np.array([f[1] for f in found]).T - value)
    truth = coverage[coverage.method == method].true_l1
    ax.errorbar(truth, value, yerr=reach, capsize=2, label=label)
ax.axhline(0.95, color="0.4", linestyle="--", linewidth=1)
ax.set(xlabel="true calibration error (l1, binned)", ylabel="coverage")
ax.legend(loc="lower right")
plotting.show(fig)

# %%
worst_slope = min(SLOPES, key=lambda slope: covered(slope, "normal")[0])
normal, normal_interval = covered(worst_slope, "normal")
percentile, percentile_interval = covered(0.9, "percentile")
one = coverage[(coverage.slope == 1.0) & (coverage.method == "normal")].iloc[0]
silent, silent_interval = share(one.low_is_zero, one.datasets)
glue("percentile", 100 * percentile)
glue("basic", 100 * covered(0.9, "basic")[0])
glue("normal", 100 * normal)
glue("error_at_09", 100 * coverage[coverage.slope == 0.9].true_l1.iloc[0])

# %% [markdown]
# At a true error of {glue:text}`error_at_09:.1f` % the percentile bootstrap holds the truth in
# {glue:text}`percentile:.0f` % of test sets, the basic bootstrap, which reflects the resampled values about the
# estimate, in {glue:text}`basic:.0f` %. The normal interval covers at least {glue:text}`normal:.0f` % at every error
# tried. Use it, and report the error with both ends.

# %% [markdown]
# ## Real networks
#
# Now networks that we train here. Perceptrons with one hidden layer learn digits from 300 images, for a short, a medium
# and a long time (the long one with a larger learning rate), and are tested on the 1497 others. A fourth family learns
# breast cancer from 200 cases and is tested on 369. Every network has its own split and its own weights; all networks
# of a family train as one batch.

# %%
FAMILIES = {
    "digits, short": dict(task="digits", steps=100),
    "digits, medium": dict(task="digits", steps=400),
    "digits, long": dict(task="digits", steps=400, lr=1e-2),
    "breast cancer": dict(task="breast_cancer", steps=400),
}
networks = {
    name: experiments.network_point(
        members=dial.members, seed=run.seed, device=device, **options
    )
    for name, options in FAMILIES.items()
}
measured = {
    name: experiments.network_table(point["probs"], point["labels"])
    for name, point in networks.items()
}

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Four reliability diagrams with Wilson bars. Digits after short training lie "
    "above the diagonal, after medium training on it, after long training below it. "
    "Breast cancer has bars so wide that most contain the diagonal.",
    caption="Top-label reliability of one network of each family, 15 bins, Wilson 95 % "
    "intervals. Above the diagonal: underconfident. Bars at the foot: samples in the "
    "bin.",
    name="fig-measure-reliability",
    nrows=2,
    ncols=2,
    sharex=True,
    sharey=True,
)
for ax, (name, point) in zip(axes.flat, networks.items(), strict=True):
    curve = cal.reliability_curve(point["probs"][0], point["labels"][0])
    cal.draw_reliability(
        ax, curve, linestyle="none", color=plotting.PALETTE[0], markersize=4
    )
    ax.set_title(name, fontsize=10)
    ax.label_outer()
plotting.show(fig)

# %% [markdown]
# Does the network err, or the ruler? The table holds means over networks. "Floor" is {prf:ref}`thm-measure-floor`, computed
# from the forecasts alone; "debiased" is the root of the mean $\theta$, with the sign kept in front; "detected" is the
# share of networks whose 95 % interval leaves 0 out.


# %%
def summary_of(frame):
    """Means over networks of what a reader wants to compare."""
    theta = frame.unbiased.mean()
    return {
        "accuracy": frame.accuracy.mean(),
        "confidence": frame.confidence.mean(),
        "plug-in l1": frame.l1.mean(),
        "plug-in l2": math.sqrt(frame.squared.mean()),
        "floor l2": math.sqrt(frame.floor.mean()),
        "debiased l2": math.copysign(math.sqrt(abs(theta)), theta),
        "detected": (frame.interval_low > 0).mean(),
    }


pd.DataFrame({name: summary_of(frame) for name, frame in measured.items()}).T.round(
    3
)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="For four families of networks, dots show the ratio of the noise floor to the "
    "plug-in squared error on a log axis. Digits after short training sit far below "
    "one; the other families spread from about a fifth to above one.",
    caption="The ruler's share: the noise floor over the measured squared error. A dot is "
    "a network, the bar their median. At 1 (dashed) a perfect model would score the "
    "same.",
    name="fig-measure-share",
    height=3.0,
)
for i, frame in enumerate(measured.values()):
    ratio = (frame.floor / frame.squared).to_numpy()
    color = plotting.PALETTE[i]
    height = i + np.linspace(-0.18, 0.18, len(ratio))
    ax.plot(ratio, height, "o", color=color, markersize=4, alpha=0.7)
    ax.vlines(np.median(ratio), i - 0.35, i + 0.35, color=color, linewidth=2)
ax.axvline(1.0, color="0.4", linestyle="--", linewidth=1)
ax.set(xscale="log", xlabel="noise floor / measured squared error")
ax.set_yticks(range(len(measured)), list(measured))
ax.invert_yaxis()
plotting.show(fig)

# %%
long, cancer = measured["digits, long"], measured["breast cancer"]
over, over_interval = mean_interval(long.confidence - long.accuracy)
short = measured["digits, short"]
under, under_interval = mean_interval(short.confidence - short.accuracy)
real, real_interval = mean_interval(long.unbiased)
noise, noise_interval = mean_interval(cancer.floor / cancer.squared.mean())
glue("over", 100 * over)
glue("under", -100 * under)
glue("cancer_plugin", 100 * math.sqrt(cancer.squared.mean()))
glue("cancer_floor", 100 * math.sqrt(cancer.floor.mean()))

forecast = networks["digits, long"]["probs"].max(-1)  # (networks, samples)
one_bin = np.sqrt((forecast * (1 - forecast)).mean(1) / forecast.shape[1])
gaps = (long.confidence - long.accuracy).abs() / one_bin
glue("one_bin", 100 * (gaps > 1.96).mean())
glue("detected", 100 * (long.interval_low > 0).mean())

# %% [markdown]
# After long training the digit networks promise {glue:text}`over:.1f` points more than they keep, after short training
# {glue:text}`under:.1f` points less. On breast cancer the plug-in l2 error is {glue:text}`cancer_plugin:.1f` %, and a
# *perfect* model with the same forecasts would score {glue:text}`cancer_floor:.1f` %: 369 cases are too few to tell
# these networks from calibrated ones with 15 bins. Nearly all cases sit in the last bin; the others hold a handful
# each, and every bin adds its $v_b$ to the floor, however few samples it has.
#
# Bins cost power as well. For the digit networks after long training the *mean* of $\theta$ over networks is clearly
# above zero, but the 95 % interval of a single network leaves 0 out for {glue:text}`detected:.0f` % of them. One bin
# for all samples sees no shape, but it sees an overall excess with the smallest floor there is: measured against
# $\sqrt{\overline{p(1-p)}/n}$, the gap between confidence and accuracy is significant for {glue:text}`one_bin:.0f` % of
# the networks. Choose the bins for the question.
#
# The {term}`negative control` keeps the networks and their forecasts, and redraws the labels: the top label is right
# with exactly the probability that was announced. The debiased error must vanish.

# %%
redrawn = {"squared": [], "unbiased": [], "debiased": []}
for draw in range(500):
    stream = np.random.default_rng([run.seed, draw])
    errors = experiments.binned_errors(
        forecast, stream.random(forecast.shape) < forecast
    )
    for name, values in redrawn.items():
        values.append(errors[name].mean())
scale = np.mean(redrawn["squared"])
null, null_interval = mean_interval(np.array(redrawn["unbiased"]) / scale)
glue("null", 100 * null)
glue("null_debiased", 100 * np.mean(redrawn["debiased"]) / scale)

# %% [markdown]
# What is left is {glue:text}`null:.1f` % of the plug-in square ({glue:text}`null_debiased:.1f` % with equation
# {eq}`eq-measure-debias`).

# %% [markdown]
# ## Scores that decompose exactly
#
# A calibration error says nothing about whether forecasts are *useful*: announcing the base rate every time is
# perfectly calibrated. A proper score rewards both, and can be taken apart.
#
# ### Murphy's three terms, and the two that are missing
#
# For forecasts that take one value per bin, {cite:t}`murphy1973new` split the {term}`Brier score` into reliability,
# resolution and uncertainty. In bins of a continuous forecast the three do not add up; {cite:t}`stephenson2008two`
# found the two missing terms, the variance of the forecasts within bins (WBV) and their covariance with the outcomes
# (WBC):
#
# ```{math}
# :label: eq-measure-murphy
# \overline{(p-y)^2} = \underbrace{\sum_b \tfrac{n_b}{n} (\bar p_b - \bar y_b)^2}_{\mathrm{REL}}
#   - \underbrace{\sum_b \tfrac{n_b}{n} (\bar y_b - \bar y)^2}_{\mathrm{RES}}
#   + \underbrace{\bar y(1-\bar y)}_{\mathrm{UNC}} + \mathrm{WBV} - 2\,\mathrm{WBC} .
# ```


# %%
def murphy(p, y, B):
    """REL, RES, UNC, WBV and WBC of forecasts p in B bins of equal width."""
    bins = np.clip(np.ceil(p * B), 1, B)
    rel = res = wbv = wbc = 0.0
    for b in np.unique(bins):
        f, o = p[bins == b], y[bins == b]
        weight = len(f) / len(p)
        rel += weight * (f.mean() - o.mean()) ** 2
        res += weight * (o.mean() - y.mean()) ** 2
        wbv += weight * f.var()
        wbc += weight * ((f - f.mean()) * (o - o.mean())).mean()
    return rel, res, y.mean() * (1 - y.mean()), wbv, wbc


library = cal.brier_decomposition(p, y, 10)
rel, res, unc, wbv, wbc = murphy(p, y, 10)
assert np.allclose(
    (rel, res, unc), (library.reliability, library.resolution, library.uncertainty)
)
assert math.isclose(wbv - 2 * wbc, library.within_bin, abs_tol=1e-12)

# %%
MURPHY_BINS = (5, 10, 20, 50)
rng = np.random.default_rng(run.seed + 1)
draws = rng.random((200, 2, 2000))
terms = np.array(
    [[murphy(p, (u < p).astype(float), b) for b in MURPHY_BINS] for p, u in draws]
)  # (trials, bins, terms)
brier = np.array([((p - (u < p)) ** 2).mean() for p, u in draws])[:, None]
rel, res, unc, wbv, wbc = np.moveaxis(terms, -1, 0)
three = brier - (rel - res + unc)
five_residual = float(np.abs(three - wbv + 2 * wbc).max())
three_residual, three_interval = mean_interval(np.abs(three[:, 1]))  # ten bins

general = res - wbv + 2 * wbc
ranges = [np.ptp(x.mean(0)) for x in (general, res)]
jackknife = [
    [np.ptp(np.delete(x, i, 0).mean(0)) for x in (general, res)] for i in range(200)
]
range_ratio = ranges[0] / ranges[1]
pseudo = 200 * range_ratio - 199 * np.divide(*np.array(jackknife).T)
range_interval = mean_interval(pseudo)[1]

# %% [markdown]
# The {term}`negative control` puts the forecast of every sample to its bin's mean. Then nothing varies inside a bin,
# and three terms must be enough.

# %%
constant = []
for p, u in draws[:50]:
    bins, o = np.clip(np.ceil(p * 10), 1, 10), (u < p).astype(float)
    flat = (
        np.bincount(bins.astype(int), p) / np.bincount(bins.astype(int)).clip(1)
    )[bins.astype(int)]
    parts = murphy(flat, o, 10)
    constant.append(
        abs(((flat - o) ** 2).mean() - (parts[0] - parts[1] + parts[2]))
    )
constant_residual = float(max(constant))

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Resolution and generalized resolution against the number of bins. Resolution "
    "rises over the whole range; generalized resolution starts higher and rises less.",
    caption="The perfect forecaster, 2000 samples: resolution depends on the bins twice, "
    "too low with few and too high with many. With the within-bin terms (generalized) "
    "only the noise is left. Dashed: the true value 1/12. Mean and 95 % interval over "
    "200 test sets.",
    name="fig-measure-murphy",
)
plotting.band(ax, MURPHY_BINS, res, label="resolution (RES)")
plotting.band(ax, MURPHY_BINS, general, label="generalized, RES − WBV + 2 WBC")
ax.axhline(1 / 12, color="0.4", linestyle="--", linewidth=1)
ax.set(xscale="log", xlabel="bins $B$", ylabel="resolution")
ax.set_xticks(MURPHY_BINS, [str(b) for b in MURPHY_BINS])
ax.minorticks_off()
ax.legend()
plotting.show(fig)

# %% [markdown]
# ### CORP: let the data choose the bins
#
# {cite:t}`dimitriadis2021stable` replace the bins by {term}`isotonic regression`: find the nondecreasing function of
# the forecast that fits the outcomes best. With $\hat f$ the recalibrated forecast and $\bar y$ the base rate, every
# proper score $S$ splits into
#
# $$
# S(f) = \underbrace{S(f) - S(\hat f)}_{\mathrm{MCB}} - \underbrace{\bigl(S(\bar y) - S(\hat f)\bigr)}_{\mathrm{DSC}}
#   + \underbrace{S(\bar y)}_{\mathrm{UNC}} .
# $$
#
# The sum is exact by construction. What is not obvious is that neither MCB nor DSC can be negative, for every proper
# score at once: the same isotonic fit is optimal for all of them. (Below, `out_of_bounds="clip"` is needed:
# scikit-learn merges forecasts that differ by less than $10^{-15}$, and by default returns NaN for the largest of
# them.)


# %%
def corp(p, y, score):
    """MCB, DSC and UNC with scikit-learn's isotonic regression."""
    fitted = IsotonicRegression(out_of_bounds="clip").fit(p, y).predict(p)
    base = np.full(len(y), y.mean())
    mine, best, unc = (score(f, y).mean() for f in (p, fitted, base))
    return mine - best, unc - best, unc


def brier_of(f, y):
    return (f - y) ** 2


def log_of(f, y):
    return -np.log(np.where(y == 1, f, 1 - f))


# %%
events = [
    (point["probs"][i].max(-1), point["probs"][i].argmax(-1) == point["labels"][i])
    for name, point in networks.items()
    for i in range(dial.members)
    if name.startswith("digits")
]
signs, closure = [], []
for f, o in events:
    for name, score in (("brier", brier_of), ("log", log_of)):
        mcb, dsc, unc = corp(f, o, score)
        signs += [mcb, dsc]
        closure.append(abs(mcb - dsc + unc - score(f, o).mean()))
        parts = cal.score_decomposition(f, o.astype(int), name)
        assert np.allclose((mcb, dsc), (parts.miscalibration, parts.discrimination))
corp_residual, corp_smallest = float(max(closure)), float(min(signs))

# %% [markdown]
# The {term}`negative control` trains the breast-cancer networks on shuffled labels. There is nothing to discriminate,
# and DSC should be a small part of UNC. It is not zero: isotonic regression finds something in pure noise. By Spitzer's
# lemma on random walks, a random order of $n$ outcomes gives $\mathrm E[\mathrm{DSC}] = \mathrm{UNC}\,(H_n - 1)/(n-1)$
# with $H_n = \sum_{i \le n} 1/i$, when no forecasts are tied. CORP has a noise floor, too; it is just low. (We derived
# this; an exercise checks it.)

# %%
nothing = experiments.network_point(
    "breast_cancer", 2 * dial.members, shuffle=True, seed=run.seed, device=device
)


def discrimination(point):
    """DSC / UNC of P(benign), network by network."""
    pairs = zip(point["probs"][..., 1], point["labels"], strict=True)
    parts = [cal.score_decomposition(probs, labels) for probs, labels in pairs]
    return [part.discrimination / part.uncertainty for part in parts]


useless, useless_interval = mean_interval(discrimination(nothing))
order = np.arange(1, nothing["labels"].shape[1] + 1)
glue("useless", 100 * useless)
glue("useless_floor", 100 * ((1 / order).sum() - 1) / (len(order) - 1))
glue("useful", 100 * np.mean(discrimination(networks["breast cancer"])))

# %% [markdown]
# Networks trained on true labels have a DSC of {glue:text}`useful:.0f` % of UNC; on shuffled labels
# {glue:text}`useless:.1f` %, where pure noise gives {glue:text}`useless_floor:.1f` %.
#
# ### What can be repaired
#
# The parts say what to do. Miscalibration can be repaired after training, by a function of the forecast; what is left
# cannot. In the split of {cite:t}`berta2025rethinking`, *refinement* is the smallest risk over a family of repairs,
# here one temperature, and *calibration* is the rest.

# %%
splits = {
    name: [
        cal.refinement_split(logits, labels)
        for logits, labels in zip(point["logits"], point["labels"], strict=True)
    ]
    for name, point in networks.items()
}
pd.DataFrame(
    {
        name: {
            part: np.mean([getattr(split, part) for split in found])
            for part in ("risk", "refinement", "calibration")
        }
        for name, found in splits.items()
    }
).T.round(4)

# %% [markdown]
# ## Quantile forecasts
#
# Confidence is not only for classes. A forecast of a number can be a list of quantiles $q_1, \dots, q_Q$ at levels
# $\tau_1 < \dots < \tau_Q$. Each is scored by the {term}`pinball loss` $\rho_\tau(u) = u\,(\tau - 1[u < 0])$ of
# $u = y - q$. Fitted one level at a time, quantiles cross: the 60 % quantile lies below the 50 % one for some inputs.
# Sort them.
#
# ```{prf:theorem} Sorting is free
# :label: thm-measure-sort
#
# Let $q_{(1)} \le \dots \le q_{(Q)}$ be the sorted quantiles. For *every* outcome $y$,
#
# $$
# \sum_j \rho_{\tau_j}(y - q_j) - \sum_j \rho_{\tau_j}(y - q_{(j)}) = \sum_j \tau_j\,(q_{(j)} - q_j) \;\ge\; 0 .
# $$
# ```
#
# ```{prf:proof}
# $\rho_\tau(y - q) = \tau (y - q) + (q - y)^+$. The second term does not involve $\tau$, so its sum over levels is the
# same for every order of the quantiles. What is left is $-\sum_j \tau_j q_j$, and by the rearrangement inequality
# $\sum_j \tau_j q_j$ is largest when both are sorted alike.
# ```
#
# The gain does not even depend on the outcome. {cite:t}`chernozhukov2010quantile` proved that sorting brings quantiles
# nearer to the true curve; {cite:t}`fakoor2023flexible` state that sorting, and isotonic regression over the levels,
# can only improve the weighted interval score. We test on random numbers and on linear quantile regressions of the
# progression of diabetes, at 19 levels, fitted on 120 patients.

# %%
diabetes = experiments.quantile_point(dial.members, seed=run.seed)
levels, unit = diabetes["levels"], diabetes["target"].std()
real_q = diabetes["prediction"].reshape(-1, 19) / unit
real_y = diabetes["target"].reshape(-1) / unit
rng = np.random.default_rng(run.seed + 2)
cases = [(real_q, real_y), (rng.normal(size=(4000, 19)), rng.normal(size=4000))]


def total(q, y):
    """Sum over levels of the pinball loss, sample by sample."""
    return cal.pinball_loss(q, y, levels).sum(1)


increase = {"sort": [], "isotonic": []}
for q, outcome in cases:
    before = total(q, outcome)
    for method, worst in increase.items():
        repaired = cal.sort_quantiles(q, levels, method)
        worst.append((total(repaired, outcome) - before).max())
    gain = (levels * (np.sort(q) - q)).sum(1)
    assert np.allclose(before - total(np.sort(q), outcome), gain, atol=1e-10)

# %%
crossing = (np.diff(real_q) < 0).any(1)
after = total(np.sort(real_q), real_y)
relative = (total(real_q, real_y) - after).reshape(dial.members, -1).mean(1)
relative = relative / total(real_q, real_y).mean()
sort_gain, sort_gain_interval = mean_interval(relative)
ordered = np.sort(real_q)
unchanged = float(
    np.abs(total(cal.sort_quantiles(ordered, levels), real_y) - after).max()
)
glue("crossing", 100 * crossing.mean())
glue("sort_gain", 100 * sort_gain)

# %% [markdown]
# Of the test patients {glue:text}`crossing:.0f` % have crossing quantiles. Sorting lowers the loss by
# {glue:text}`sort_gain:.2f` %: free, and small. The {term}`negative control` is a forecast in order already, which must
# stay as it is.
#
# ## Conformal coverage
#
# {term}`Conformal prediction <conformal prediction>` turns any score of strangeness into sets that cover. Take $n$ calibration scores, sort
# them, and use the one of rank $k = \lceil (n+1)(1-\alpha) \rceil$ as threshold. The famous guarantee is about the
# *average* over calibration sets; yours is one of them.
#
# ```{prf:theorem} Coverage is Beta
# :label: thm-measure-beta
#
# If calibration and test scores are independent draws from one continuous distribution, the coverage of the threshold,
# given the calibration set, follows the distribution $\mathrm{Beta}(k, n + 1 - k)$, with mean $k/(n+1)$.
# ```
#
# ```{prf:proof}
# The coverage is $F(s_{(k)})$ with $F$ the distribution function of the scores. The $F(s_i)$ are uniform on $[0,1]$, so
# it is the $k$-th of $n$ sorted uniform numbers, which has that distribution.
# ```
#
# {cite:t}`marques2023universal` works out the distribution for finite batches under exchangeability. We draw many
# calibration sets of 99, with $\alpha = 0.1$, and compute the coverage of each exactly; then the same with the digit
# networks, on repeated divisions of their test images. The {term}`negative control` shifts the test scores by half a
# standard deviation: the guarantee must break.

# %%
conformal = experiments.conformal_point(trials=10 * dial.trials, seed=run.seed)
values = conformal["coverage"]
error = values.std(ddof=1) / math.sqrt(len(values))
coverage_z = abs(values.mean() - conformal["mean"]) / error
sd_ratio = values.std(ddof=1) / conformal["sd"]
found = stats.bootstrap(
    (values,),
    np.std,
    n_resamples=199,
    method="basic",
    random_state=np.random.default_rng(run.seed),
).confidence_interval
sd_interval = (found.low / conformal["sd"], found.high / conformal["sd"])

divided = experiments.conformal_coverage(
    networks["digits, long"]["probs"],
    networks["digits, long"]["labels"],
    seed=run.seed,
)
network_coverage, network_interval = mean_interval(divided.mean(1))
shifted = experiments.conformal_point(
    trials=10 * dial.trials, shift=0.5, seed=run.seed
)
broken, broken_interval = mean_interval(shifted["coverage"])
glue("unlucky", 100 * (values < 0.85).mean())

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Histogram of the coverage over calibration sets, from 0.8 to 0.98, on the "
    "density of the Beta distribution; the histogram of the digit networks has the "
    "same shape.",
    caption="Coverage at a promised 90 %, one calibration set of 99 a time. Line: "
    "theory. Simulated scores: exact coverage. Digit networks: measured on the images "
    "left over.",
    name="fig-measure-conformal",
)
cells = np.linspace(0.76, 1.0, 49)
blue, orange = plotting.PALETTE[:2]
ax.hist(values, cells, density=True, color=blue, alpha=0.35, label="simulated")
shape = dict(density=True, histtype="step", color=orange, linewidth=1.5)
ax.hist(divided.ravel(), cells, label="digit networks", **shape)
x = np.linspace(0.76, 1.0, 300)
density = stats.beta(90, 10).pdf(x)
ax.plot(x, density, color="0.2", marker="", linestyle="-", label="Beta(90, 10)")
ax.legend(loc="upper left")
ax.set(xlabel="coverage given the calibration set", ylabel="density")
plotting.show(fig)

# %% [markdown]
# Of a hundred calibration sets, {glue:text}`unlucky:.0f` give less than 85 %. If that is too many, the theorem says how
# many calibration samples are enough.

# %% [markdown]
# ## At scale
#
# The same notebook at the `gpu` and `full` presets uses more trials, data sets and networks. Tables recorded on larger
# machines are drawn here beside this run.

# %%
CHAPTER = "calibration/measuring"
summary = [
    {
        "n_bins": int(b),
        "plugin": float(perfect[b]["squared"].mean()),
        "debiased": float(perfect[b]["debiased"].mean()),
        "debiased_se": float(
            perfect[b]["debiased"].std(ddof=1) / math.sqrt(dial.trials)
        ),
    }
    for b in sorted(perfect)
]
recording.record(run, CHAPTER, summary)
recorded = recording.read_tables(CHAPTER)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Mean debiased squared error of the perfect forecaster, as a share of the "
    "plug-in's, against the number of bins, from this run and from recorded runs. All "
    "points lie within a few percent of zero.",
    caption="What debiasing leaves of the plug-in square: this run, and recorded runs with "
    "their preset and device. Bars: two standard errors. Dotted: the bias that is left, "
    "$-1/(2B^2)$, since forecasts differ inside a bin.",
    name="fig-measure-recorded",
)
curves = {f"this run ({run.preset} preset)": summary}
curves |= {
    f"{r.preset} preset, {r.device}": r.table.to_dict("records") for r in recorded
}
for name, rows in curves.items():
    b, plugin, mean, se = (
        np.array([row[column] for row in rows])
        for column in ("n_bins", "plugin", "debiased", "debiased_se")
    )
    ax.errorbar(b, mean / plugin, yerr=2 * se / plugin, capsize=2, label=name)
ax.plot(b, -1 / (2.0 * b**2), ":", color="0.4", marker="")
ax.set(xscale="log", xlabel="bins $B$", ylabel="debiased / plug-in square")
ax.legend()
plotting.show(fig)

# %% [markdown]
# ## Claims
#
# Each bound below was fixed before the chapter's seeds were run: from theory where it is an identity or a constant,
# zero where a sign is claimed, and from the promise itself where coverage is.

# %% tags=["nbval-check-output"]
claim(
    "The plug-in squared error of a calibrated forecaster is B E[p(1-p)]/n",
    paper="kumar2019verified",
    where="plug-in estimator; the constant is derived here",
    measured=floor_ratio,
    interval=floor_interval,
    between=(0.95, 1.05),
    unit="measured / theory",
)

# %% tags=["nbval-check-output"]
claim(
    "Its plug-in l1 error is the normal approximation's",
    paper="guo2017calibration",
    where="definition of ECE; the constant is derived here",
    measured=l1_ratio,
    interval=l1_interval,
    between=(0.95, 1.05),
    unit="measured / theory",
)

# %% tags=["nbval-check-output"]
claim(
    "The debiased squared error of a calibrated forecaster is zero within three standard errors",
    paper="kumar2019verified",
    where="debiased estimator",
    control=True,
    measured=z,
    interval=(z, z),
    below=3.0,
    unit="standard errors",
)

# %% tags=["nbval-check-output"]
claim(
    "Debiasing removes at least 95 % of the squared error of a calibrated forecaster",
    paper="kumar2019verified",
    where="debiased estimator",
    control=True,
    measured=left,
    interval=left_interval,
    between=(-0.05, 0.05),
    unit="debiased / plug-in",
)

# %% tags=["nbval-check-output"]
claim(
    "The error of the plug-in estimate grows in proportion to the number of bins",
    paper="kumar2019verified",
    where="sample complexity of the plug-in",
    measured=plugin_growth,
    interval=plugin_growth_interval,
    between=(0.9, 1.1),
    unit="exponent",
)

# %% tags=["nbval-check-output"]
claim(
    "The error of the debiased estimate grows like the square root of the number of bins",
    paper="kumar2019verified",
    where="sample complexity of the debiased estimator",
    measured=debiased_growth,
    interval=debiased_growth_interval,
    between=(0.4, 0.6),
    unit="exponent",
)

# %% tags=["nbval-check-output"]
claim(
    "The smooth calibration error of a calibrated forecaster follows the constant derived above",
    paper="blasiok2023smooth",
    where="definition of smECE; the constant is derived here",
    measured=smooth_ratio,
    interval=smooth_interval,
    between=(0.9, 1.1),
    unit="measured / theory",
)

# %% tags=["nbval-check-output"]
claim(
    "A normal interval around the debiased error covers at every size of error tried",
    paper="sun2024confidence",
    where="asymptotic normality; another interval than the paper's",
    measured=normal,
    interval=normal_interval,
    above=0.90,
    unit="worst coverage",
)

# %% tags=["nbval-check-output"]
claim(
    "A percentile bootstrap of a small calibration error covers in fewer than half of all test sets",
    paper="sun2024confidence",
    where="resampling, with which the paper compares",
    measured=percentile,
    interval=percentile_interval,
    below=0.5,
    unit="coverage",
)

# %% tags=["nbval-check-output"]
claim(
    "For calibrated forecasts the normal interval begins at zero",
    paper="sun2024confidence",
    where="calibrated case",
    control=True,
    measured=silent,
    interval=silent_interval,
    above=0.90,
    unit="share of test sets",
)

# %% tags=["nbval-check-output"]
claim(
    "Digit networks trained for long promise more than they keep",
    paper="guo2017calibration",
    where="Figure 1",
    measured=over,
    interval=over_interval,
    above=0.0,
    unit="confidence minus accuracy",
)

# %% tags=["nbval-check-output"]
claim(
    "Their debiased squared error is above zero",
    paper="guo2017calibration",
    where="Figure 1",
    measured=real,
    interval=real_interval,
    above=0.0,
    unit="squared l2 error",
)

# %% tags=["nbval-check-output"]
claim(
    "Digit networks trained for a short time promise less than they keep",
    paper="guo2017calibration",
    where="the opposite case",
    measured=under,
    interval=under_interval,
    below=0.0,
    unit="confidence minus accuracy",
)

# %% tags=["nbval-check-output"]
claim(
    "With labels drawn from the networks' own forecasts the debiased error vanishes",
    paper="guo2017calibration",
    where="definition of calibration",
    control=True,
    measured=null,
    interval=null_interval,
    between=(-0.05, 0.05),
    unit="debiased / plug-in",
)

# %% tags=["nbval-check-output"]
claim(
    "On breast cancer at least a tenth of the measured squared error is noise",
    paper="guo2017calibration",
    where="definition of ECE with 15 bins",
    measured=noise,
    interval=noise_interval,
    above=0.1,
    unit="floor / plug-in",
)

# %% tags=["nbval-check-output"]
claim(
    "Five terms of the Brier score add up",
    paper="stephenson2008two",
    where="decomposition with two within-bin terms",
    measured=five_residual,
    interval=(five_residual, five_residual),
    below=1e-12,
    unit="largest residual",
)

# %% tags=["nbval-check-output"]
claim(
    "Three terms do not, by more than one in ten thousand",
    paper="stephenson2008two",
    where="decomposition with two within-bin terms",
    measured=three_residual,
    interval=three_interval,
    above=1e-4,
    unit="mean absolute residual",
)

# %% tags=["nbval-check-output"]
claim(
    "With the forecast constant in each bin three terms are enough",
    paper="stephenson2008two",
    where="stratification on all issued values",
    control=True,
    measured=constant_residual,
    interval=(constant_residual, constant_residual),
    below=1e-12,
    unit="largest residual",
)

# %% tags=["nbval-check-output"]
claim(
    "Generalized resolution depends less on the number of bins than resolution",
    paper="stephenson2008two",
    where="generalized resolution",
    measured=range_ratio,
    interval=range_interval,
    below=1.0,
    unit="ratio of ranges over 5 to 50 bins",
)

# %% tags=["nbval-check-output"]
claim(
    "Miscalibration minus discrimination plus uncertainty is the score",
    paper="dimitriadis2021stable",
    where="CORP score decomposition",
    measured=corp_residual,
    interval=(corp_residual, corp_residual),
    below=1e-12,
    unit="largest residual",
)

# %% tags=["nbval-check-output"]
claim(
    "Neither miscalibration nor discrimination is ever negative, for the Brier and the log score",
    paper="dimitriadis2021stable",
    where="CORP score decomposition",
    measured=corp_smallest,
    interval=(corp_smallest, corp_smallest),
    above=-1e-12,
    unit="smallest part",
)

# %% tags=["nbval-check-output"]
claim(
    "Networks trained on shuffled labels discriminate less than a twentieth of the uncertainty",
    paper="dimitriadis2021stable",
    where="CORP score decomposition",
    control=True,
    measured=useless,
    interval=useless_interval,
    below=0.05,
    unit="DSC / UNC",
)

# %%
worst_sort, worst_isotonic = (float(max(increase[m])) for m in ("sort", "isotonic"))

# %% tags=["nbval-check-output"]
claim(
    "Sorting quantiles never raises a sample's pinball loss",
    paper="fakoor2023flexible",
    where="post sorting",
    measured=worst_sort,
    interval=(worst_sort, worst_sort),
    below=1e-12,
    unit="largest increase",
)

# %% tags=["nbval-check-output"]
claim(
    "Neither does isotonic regression over the levels",
    paper="fakoor2023flexible",
    where="post isotonic regression",
    measured=worst_isotonic,
    interval=(worst_isotonic, worst_isotonic),
    below=1e-12,
    unit="largest increase",
)

# %% tags=["nbval-check-output"]
claim(
    "Sorting improves linear quantile regressions of diabetes",
    paper="fakoor2023flexible",
    where="post sorting",
    measured=sort_gain,
    interval=sort_gain_interval,
    above=0.0,
    unit="relative drop of the loss",
)

# %% tags=["nbval-check-output"]
claim(
    "Quantiles that do not cross stay as they are",
    paper="fakoor2023flexible",
    where="post sorting",
    control=True,
    measured=unchanged,
    interval=(unchanged, unchanged),
    below=1e-12,
    unit="largest change",
)

# %% tags=["nbval-check-output"]
claim(
    "The mean conformal coverage is k/(n+1) within three standard errors",
    paper="marques2023universal",
    where="distribution of the coverage",
    measured=coverage_z,
    interval=(coverage_z, coverage_z),
    below=3.0,
    unit="standard errors",
)

# %% tags=["nbval-check-output"]
claim(
    "Its standard deviation over calibration sets is that of the Beta distribution",
    paper="marques2023universal",
    where="distribution of the coverage",
    measured=sd_ratio,
    interval=sd_interval,
    between=(0.95, 1.05),
    unit="measured / theory",
)

# %% tags=["nbval-check-output"]
claim(
    "Conformal sets of overconfident digit networks cover as promised on average",
    paper="marques2023universal",
    where="universality",
    measured=network_coverage,
    interval=network_interval,
    between=(0.89, 0.91),
    unit="coverage",
)

# %% tags=["nbval-check-output"]
claim(
    "Where test scores shift, coverage falls below the promise",
    paper="marques2023universal",
    where="exchangeability",
    control=True,
    measured=broken,
    interval=broken_interval,
    below=0.9,
    unit="coverage",
)

# %% [markdown]
# ## Where it breaks
#
# - **Everything here is about the binned error.** A model can be off by $+\delta$ in one half of a bin and by $-\delta$
#   in the other, and no estimate in these bins will see it. More bins see more and pay for it; debiasing makes them
#   cheaper, not free.
# - **Unbiased on average is not right on your test set.** For a calibrated model the debiased estimate is negative
#   about half of the time. Its interval, not its value, is the result.
# - **The networks share their data.** Every network has its own split, but all splits come from one set of 1797 images
#   or 569 cases. Intervals over networks do not say what another data set would give.
# - **Equation {eq}`eq-measure-debias` subtracts slightly too much** when forecasts differ inside a bin. With uniform forecasts
#   and 15 bins that is a fifth of a percent of the floor; enough trials would make it visible. Equation
#   {eq}`eq-measure-unbiased` does not have this bias.
# - **What was checked against the sources:** definitions and sentences were read in abstracts and first pages.
#   {prf:ref}`thm-measure-floor`, {prf:ref}`thm-measure-sort` and {prf:ref}`thm-measure-beta` are proved above; equation {eq}`eq-measure-floor-l1`, the
#   constant of the smECE and the noise floor of CORP are derived here and checked by simulation; consistency of smECE
#   and the interval of {cite:t}`sun2024confidence` are quoted, and our interval is not theirs.
# - **What changed after the first look:** bounds did not. The networks were seen at other seeds before their bounds
#   were written, which is why those bounds are as plain as zero, a tenth, or the promise itself. After the first runs
#   the redrawn labels went from 200 draws to 500 and the networks on shuffled labels were doubled, so that no interval
#   touches its bound.
# - **What the papers did that we did not:** deep networks on CIFAR and ImageNet, the scaling-binning calibrator,
#   aggregation of quantile models, conformal coverage of finite batches.

# %% [markdown]
# ## Exercises
#
# ```{exercise-start} What would a perfect model score? (5 minutes)
# :label: ex-measure-floor
# ```
# A model announces 0.7 for 250 test images and 0.9 for 250 others, and is perfectly calibrated. In ten bins, what is
# its expected plug-in squared error? Check with `exercises.check("calibration/measuring/floor", your_number)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-measure-floor
# :class: dropdown
# ```
# By {prf:ref}`thm-measure-floor` only the two bins that are not empty count: $(0.7 \cdot 0.3 + 0.9 \cdot 0.1)/500$.

# %%
exercises.check("calibration/measuring/floor", (0.7 * 0.3 + 0.9 * 0.1) / 500)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} How many test samples are enough? (10 minutes)
# :label: ex-measure-enough
# ```
# You want the plug-in l1 error of a perfect forecaster with uniform forecasts and 15 bins to be 1 %, so that larger
# errors mean something. How many test samples do you need, by {eq}`eq-measure-floor-l1`? Check with
# `exercises.check("calibration/measuring/enough", your_n)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-measure-enough
# :class: dropdown
# ```
# Solve $0.01 = \sqrt{2B/(\pi n)}\,\pi/8$ for $n = 2 B \pi / (64 \cdot 0.01^2)$.

# %%
enough_samples = 2 * 15 * math.pi / 64 / 0.01**2
exercises.check("calibration/measuring/enough", enough_samples)
check = experiments.calibrated_point(round(enough_samples), 15, 100, seed=run.seed)
assert abs(check["l1"].mean() - 0.01) < 0.0005
round(enough_samples)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} Your own floor (15 minutes)
# :label: ex-measure-own
# ```
# Write a function `floor(p, B)` that takes the forecasts and returns the expected plug-in squared error of a calibrated
# model with these forecasts in $B$ bins of equal width. Check it with
# `exercises.check("calibration/measuring/own", floor)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-measure-own
# :class: dropdown
# ```


# %%
def floor(p, B):
    bins = np.clip(np.ceil(p * B), 1, B)
    return sum((p * (1 - p))[bins == b].mean() for b in np.unique(bins)) / len(p)


exercises.check("calibration/measuring/own", floor)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} Discrimination in noise (20 minutes)
# :label: ex-measure-noise
# ```
# Shuffle the labels of one breast-cancer network many times. What is the mean of DSC/UNC? Compare with
# $(H_n - 1)/(n - 1)$ for its 369 test cases, and check that number with
# `exercises.check("calibration/measuring/noise", your_ratio)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-measure-noise
# :class: dropdown
# ```
# Put the centered outcomes in the order of the forecasts; DSC is $\frac1n \sum S^2/i$ over the faces of the greatest
# convex minorant of their partial sums, a face of length $i$ with increment $S$. Spitzer's lemma gives the expectation
# of such a sum as $\sum_{i \le n} \frac1i\, \mathrm E[S_i^2/i]$, and in a random order
# $\mathrm E[S_i^2] = i\,\frac{n-i}{n-1}\,\mathrm{UNC}$.

# %%
cases = networks["breast cancer"]
forecasts, labels = cases["probs"][0][:, 1], cases["labels"][0]
rng = np.random.default_rng(run.seed + 3)
shuffled = [
    cal.score_decomposition(forecasts, rng.permutation(labels)) for _ in range(300)
]
found, found_interval = mean_interval(
    [part.discrimination / part.uncertainty for part in shuffled]
)
n = len(labels)
expected = ((1 / np.arange(1, n + 1)).sum() - 1) / (n - 1)
exercises.check("calibration/measuring/noise", expected)
assert abs(found / expected - 1) < 0.2
found, expected

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} Equal widths or equal counts? (open)
# :label: ex-measure-bins
# ```
# The digit networks put nearly all forecasts into the last bin of equal width. Would bins of equal counts measure their
# calibration better? Say what "better" should mean, choose a case in which you know the truth, and compare.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-measure-bins
# :class: dropdown
# ```
# One answer: take the forecasts of the digit networks, let the top label be right with probability $p^2$ (overconfident
# by a known amount), and look at the squared error $\theta$. In each kind of bins the truth is
# $\sum_b \frac{n_b}{n}\,\delta_b^2$ with $\delta_b$ the mean of $p - p^2$ in the bin. Equal counts put narrow bins
# where the forecasts are and lose the wide, nearly empty ones, which carry most of the variance.

# %%
confidence = networks["digits, long"]["probs"].max(-1)[0]
rng = np.random.default_rng(run.seed + 4)
many = np.tile(confidence, (500, 1))
outcomes = rng.random(many.shape) < many**2
spreads = {}
for binning in ("uniform", "quantile"):
    estimates = experiments.binned_errors(many, outcomes, 15, binning)["unbiased"]
    spreads[binning] = {"mean": estimates.mean(), "sd": estimates.std(ddof=1)}
pd.DataFrame(spreads).T

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ## Further reading
#
# - {cite:t}`guo2017calibration`: the paper that put calibration on the agenda of deep learning.
# - {cite:t}`kumar2019verified`: models less calibrated than reported, and how few samples debiasing needs.
# - {cite:t}`sun2024confidence`: intervals for the squared error, with proofs.
# - {cite:t}`dimitriadis2021stable`: reliability diagrams and scores by isotonic regression.
# - {cite:t}`blasiok2023smooth`: what a calibration measure should satisfy.
# - {cite:t}`fakoor2023flexible`: combining quantile forecasts.
