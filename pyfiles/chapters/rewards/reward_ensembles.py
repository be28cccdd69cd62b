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
# # Ask several judges: does their disagreement protect you?
#
# **The question.** A learned {term}`reward model` can be fooled, and the harder you optimize against it, the more
# surely it is. Train five of them. Can you optimize against all five at once, and how hard?
#
# **You will be able to**
#
# - combine reward models by mean, median, {term}`worst-case optimization` and {term}`uncertainty-weighted optimization`;
# - say which errors an ensemble removes, which it does not, and prove the second;
# - test a claim about overoptimization on paired worlds, with an interval and with negative controls;
# - find a bug that makes every ensemble look like its first member.
#
# **You need** best-of-n sampling, the Bradley–Terry model of preferences, and some PyTorch. Symbols are listed in
# the [notation](../notation.md).
#
# **It takes**
#
# ```{run-times} here
# ```
#
# The chapter stands on two papers: {cite:t}`coste2024ensembles`, who find that conservative ensembles all but remove
# overoptimization, and {cite:t}`eisenstein2023helping`, who find that they mitigate it but do not eliminate it.

# %%
import math

import numpy as np
import pandas as pd
import torch

from enough import plotting, rewards, runtime
from enough.book import claim, exercises, glue, mean_interval
from enough.rewards import experiments
from enough.runtime import recording

run = runtime.start(seed=2711)
run.report()

# %% [markdown]
# Every size in this chapter is a dial, set here once.

# %%
COUNTS = tuple(2**k for k in range(13))  # best of 1 to best of 4096
EARLY, LAST = COUNTS.index(64), -1
SIZE = 5  # judges in an ensemble
dial = run.pick(
    cpu=dict(worlds=16, noisy=40, herding=12, pool=2**14),
    gpu=dict(worlds=64, noisy=96, herding=128, pool=2**15),
    full=dict(worlds=256, noisy=256, herding=512, pool=2**15),
)
here = dict(pool=dial.pool, seed=run.seed, device=str(run.device))

# %% [markdown]
# ## The puzzle
#
# A policy writes answers of 16 tokens. Every answer has a {term}`gold reward`, which nobody sees. We show a learner
# 1000 pairs of answers with the better one marked, and it fits a small network, the reward model. Then we draw $n$ fresh
# answers and keep the one that the reward model likes best. We do that in several *worlds*, each with another gold
# reward, and in each world for several reward models that saw the same pairs but started from other weights.

# %%
clean = experiments.score_answers(dial.worlds, 8, **here)


# %%
def best_of(answers):
    """Gold and proxy of the best of n, (worlds, ensembles, counts) for each rule."""
    pool = answers.scores, answers.gold
    alone = experiments.ensemble_curves(*pool, 1, {"single": ("mean", 0.0)}, COUNTS)
    five = experiments.ensemble_curves(*pool, SIZE, experiments.RULES, COUNTS)
    return {part: alone[part] | five[part] for part in ("value", "proxy")}


def by_world(curves):
    """Average over the ensembles of a world: (worlds, counts) for each rule."""
    return {rule: values.mean(1) for rule, values in curves.items()}


clean_curves = best_of(clean)
gold = {"clean": by_world(clean_curves["value"])}
proxy = by_world(clean_curves["proxy"])

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Gold reward of the chosen answer against the number of answers to choose from, on a "
    "logarithmic axis. With one reward model it rises and then falls steeply. With the lowest of "
    "five scores it keeps rising.",
    caption="The same reward models, used in two ways: one alone, or the lowest score of five. "
    "Mean and 95 % interval over worlds. One unit is a standard deviation of the gold reward.",
    name="fig-ensembles-puzzle",
)
plotting.band(ax, COUNTS, gold["clean"]["single"], label="one reward model")
plotting.band(ax, COUNTS, gold["clean"]["WCO"], label="the harshest of five")
ax.set_xscale("log", base=2)
ax.set(xlabel="answers to choose from, $n$", ylabel="gold reward (sd)")
ax.legend()
plotting.show(fig)

# %%
found = experiments.agreement(clean)
glue("accuracy", 100 * found["accuracy"].mean())
glue("spread", 100 * found["accuracy"].std(0, ddof=1).mean())

# %% [markdown]
# On pairs of ordinary answers the models agree with gold in {glue:text}`accuracy:.0f` % of cases, and from model to model
# this number varies by {glue:text}`spread:.1f` points only. No model is much better than another. Each of them alone leads
# astray in {numref}`fig-ensembles-puzzle`. Yet the *worst* of five opinions is a guide that can be followed much further. Why? And
# is there a price, or a catch?

# %% [markdown]
# ## Theory: which errors does an ensemble see?
#
# ### Four ways to combine judges
#
# Members $i = 1, \dots, m$ give an answer $y$ the rewards $r_i(y)$, each fitted to preferences by the Bradley–Terry
# likelihood $\sigma(r_i(y^+) - r_i(y^-))$.
#
# ```{prf:definition} Aggregation
# :label: def-ensembles-aggregation
#
# With $\bar r = \frac1m \sum_i r_i$, the mean, the median, worst-case optimization (WCO) and uncertainty-weighted
# optimization (UWO) with coefficient $\lambda \ge 0$ score an answer by
#
# $$
# \bar r, \qquad \operatorname{med}_i r_i, \qquad \min_i r_i, \qquad
# \bar r - \lambda \cdot \frac1m \sum_{i=1}^m (r_i - \bar r)^2 .
# $$
# ```
#
# WCO and UWO are the conservative rules of {cite:t}`coste2024ensembles`: they pay for what all members like. With
# $\lambda = 0$ UWO is the mean. The variance divides by $m$, so one member has variance 0.
#
# ### The judges need one scale
#
# The likelihood depends on differences, so $r_i$ and $r_i + c$ fit equally well, and nothing in the data says where a
# member's zero is. The mean does not mind: a constant on one member moves all answers alike. The minimum does: shift one
# member far down, and the minimum is that member alone. So do the median and the variance. And every rule minds a
# member's *unit*: large scores outvote small ones. We therefore train with a small penalty on $(r^+ + r^-)^2$, as
# {cite:t}`eisenstein2023helping` do, and then bring every member to mean 0 and standard deviation 1 over answers of the
# policy. In this chapter each world has one prompt, so that one constant a member is all there is; with many prompts the
# penalty is needed, since each prompt has a constant of its own.
#
# ### What averages out, and what does not
#
# Split a member's error into a part that all share and a part of its own:
#
# ```{math}
# :label: eq-ensembles-split
# r_i(y) = g(y) + s(y) + e_i(y), \qquad i = 1, \dots, m,
# ```
#
# with $g$ the gold reward.
#
# ```{prf:theorem} Shared errors pass through
# :label: thm-ensembles-shared
#
# Let $A$ be the mean, the median, WCO or UWO with any $\lambda$. Then
#
# $$
# A(r_1, \dots, r_m) = g + s + A(e_1, \dots, e_m) .
# $$
# ```
#
# ```{prf:proof}
# Adding one constant $c$ to all members adds $c$ to their mean, median and minimum, and leaves the variance as it is. So
# $A(x + c) = A(x) + c$ for all four. Take $c = g(y) + s(y)$, answer by answer.
# ```
#
# So for the optimizer the shared error is part of the reward. No rule of this kind, however conservative, removes any of
# it. What it can work on is the private part. If the $e_i$ have mean 0, variance $\tau^2$ and no correlation, the
# variance across members is $\frac{m-1}m\tau^2$ on average, whatever $s$ is: **disagreement measures the private
# errors and is blind to the shared one.** If the errors $s + e_i$ of all members have variance $\sigma^2$ and those of
# any two the correlation $\rho$, the error of the mean has the variance
#
# ```{math}
# :label: eq-ensembles-floor
# \sigma^2 \Bigl(\rho + \frac{1-\rho}{m}\Bigr) \;\ge\; \rho\,\sigma^2 ,
# ```
#
# a floor that no number of members gets below.
#
# That leaves one question for experiments: on the answers that best-of-n finds, are errors private or shared? In
# {numref}`fig-ensembles-puzzle` they seem to be private. The rest of the chapter makes them less so, in three ways: with label noise,
# with members that start alike, and with an annotator who is wrong.

# %% [markdown]
# ### The burst world
#
# An answer is 16 tokens, nearly always drawn from 16 common ones. With probability 1 % the policy falls into a
# {term}`burst`: one of 16 rare tokens, repeated 8 to 16 times, as language models sometimes do. Gold is a random network
# of the token counts, scaled to mean 0 and standard deviation 1 over ordinary answers; **a burst has gold near $-3$ by
# design**. Among 1000 pairs there are about 20 bursts, so that most rare tokens are seen once or twice, or never. A reward
# model must extrapolate, to large counts of tokens that it has hardly seen, and its initial weights decide where to.
#
# This is the third design that was tried. In the first two, tokens without bursts and rare single tokens, the gold
# reward of best-of-n went flat but did not fall, with or without ensembles. The world was chosen because it shows the
# effect. What is not put in by hand is that reward models fall for bursts: they see preferences and nothing else.

# %% [markdown]
# ## Show it
#
# ### The rules in a few lines


# %%
def aggregate(r, how, coefficient=0.5):
    """Score (answers,) from the rewards (members, answers)."""
    mean = r.mean(0)
    if how == "mean":
        return mean
    if how == "median":
        return r.quantile(0.5, dim=0)
    if how == "min":
        return r.min(0).values
    return mean - coefficient * ((r - mean) ** 2).mean(0)


stream = run.generator("show it")
r = torch.randn(SIZE, 1000, generator=stream, dtype=torch.float64)
for how in ("mean", "median", "min", "uwo"):
    assert torch.allclose(aggregate(r, how), rewards.aggregate_rewards(r, how))

# %% [markdown]
# Shared errors pass through, as {prf:ref}`thm-ensembles-shared` says, and a shift of one member changes what WCO prefers:

# %%
shared = torch.randn(1000, generator=stream, dtype=torch.float64)
for how in ("mean", "median", "min", "uwo"):
    assert torch.allclose(aggregate(r + shared, how), aggregate(r, how) + shared)

shifted = r.clone()
shifted[0] -= 100.0
assert (aggregate(shifted, "min") == shifted[0]).all()
again = rewards.normalize_rewards(shifted)
assert torch.allclose(again, rewards.normalize_rewards(r))

# %% [markdown]
# ### What members see in a burst
#
# One world, two members. On ordinary answers the two nearly agree. On bursts they do not: what one takes for one of the
# best answers, the other may take for one of the worst. On the right, two members that started from one trunk, a case
# that we come back to; whether they agree more does not show in one world.

# %%
tuned = experiments.score_answers(dial.worlds, SIZE, "shared", **here)
found_tuned = experiments.agreement(tuned)

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Two scatter plots of one member's score against another's. Ordinary answers form a "
    "narrow cloud along the diagonal. Bursts lie far out on all sides, many of them where one member's "
    "score is high and the other's is low.",
    caption="Scores of two members on answers of the first world, in standard deviations. Left: "
    "every member has its own initial weights. Right: all start from one trunk.",
    name="fig-ensembles-members",
    ncols=2,
    sharex=True,
    sharey=True,
)
for ax, answers, title in zip(
    axes, (clean, tuned), ("own trunks", "one trunk"), strict=True
):
    x, y = answers.scores[:2, 0].cpu()
    burst = answers.bursts[0].cpu() > 0
    ordinary = (~burst).nonzero()[:1500, 0]
    ax.plot(x[ordinary], y[ordinary], ".", markersize=2, label="ordinary answers")
    ax.plot(x[burst], y[burst], "x", markersize=4, label="bursts")
    ax.set(title=title, xlabel="score of member 1 (sd)")
axes[0].set(ylabel="score of member 2 (sd)")
axes[0].legend(markerscale=1.5)
plotting.show(fig)

# %%
ratio = found["burst_variance"] / found["variance"]
disagreement, disagreement_interval = mean_interval(ratio)
agree, agree_interval = mean_interval(
    found_tuned["burst_correlation"] - found["burst_correlation"]
)
spread, spread_interval = mean_interval(found["accuracy"].std(0, ddof=1))
glue("disagreement", disagreement)
for name, of in (("own", found), ("tuned", found_tuned)):
    glue(f"{name}_correlation", of["correlation"].mean())
    glue(f"{name}_burst", of["burst_correlation"].mean())

# %% [markdown]
# Over all worlds, the variance across members is {glue:text}`disagreement:.0f` times larger on bursts than on ordinary
# answers. The correlation of two members is {glue:text}`own_correlation:.2f` on ordinary answers and
# {glue:text}`own_burst:.2f` on bursts. {cite:t}`eisenstein2023helping` call this underspecification: models that are alike
# where the data is, and unlike where optimization goes.

# %% [markdown]
# ## Use it: clean labels and noisy labels
#
# Now flip a quarter of the labels, exactly and at random. Everything else stays as it is. For a steadier estimate we train
# more members than an ensemble needs, eight with clean labels and six with noisy ones, and average over ensembles of five
# consecutive members. The world is the unit: a value a world, then a mean and an interval over worlds.

# %%
noisy = experiments.score_answers(dial.noisy, 6, noise=0.25, **here)
noisy_curves = best_of(noisy)
gold["noisy"] = by_world(noisy_curves["value"])
oracle = rewards.best_of_n(clean.gold, clean.gold, COUNTS).gold_per_prompt.cpu()

# %%
NAMES = {
    "single": "one member",
    "mean": "mean",
    "median": "median",
    "WCO": "WCO",
    "UWO": r"UWO, $\lambda=0.5$",
    "UWO2": r"UWO, $\lambda=2$",
}

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Gold reward against the number of answers for six rules, two panels. Clean labels: one "
    "member falls, mean and median rise more slowly than WCO and UWO. A quarter of labels flipped: one member, "
    "mean and median fall together far below zero, WCO and UWO with 0.5 later and less, UWO with 2 "
    "least.",
    caption="Gold reward of the best of $n$. Left: clean labels. Right: a quarter of the labels "
    "flipped. Mean and 95 % interval over worlds.",
    name="fig-ensembles-rules",
    ncols=2,
    sharey=True,
)
for ax, labels in zip(axes, ("clean", "noisy"), strict=True):
    for rule, name in NAMES.items():
        plotting.band(ax, COUNTS, gold[labels][rule], label=name)
    ax.set_xscale("log", base=2)
    ax.set(title=f"{labels} labels", xlabel="answers to choose from, $n$")
axes[0].set(ylabel="gold reward (sd)")
axes[0].legend(fontsize="small", loc="lower left")
plotting.show(fig)

# %% [markdown]
# How do we measure a fall? A noisy curve lies below its own highest point by luck alone. `drop_from_peak` finds the peak
# of a world on the *other* worlds, so that this luck does not count; claims that a curve falls use it. Where a curve does
# *not* fall, that measure is 0 whatever happens in single worlds. Claims of that kind use the drop of the mean curve from
# its own highest point, and an interval from resampling the worlds, which leaves luck in.


# %%
def drop_of_mean(curves, replicas=1000):
    """Drop of the mean curve from its highest point, with a 95 % interval over worlds."""
    rng = np.random.default_rng(run.seed)

    def drop(mean):
        return mean.max(-1) - mean[..., LAST]

    value = float(drop(curves.mean(0)))
    draws = rng.integers(len(curves), size=(replicas, len(curves)))
    low, high = np.quantile(drop(curves[draws].mean(1)), (0.025, 0.975))
    return value, (min(float(low), value), max(float(high), value))


# %%
def cell(values):
    """Mean and interval as text."""
    mean, (low, high) = mean_interval(values)
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"


table = pd.DataFrame(
    {
        f"{labels}: {what}": [cell(f(values)) for values in gold[labels].values()]
        for labels in gold
        for what, f in (
            ("gold at 4096", lambda values: values[:, LAST]),
            ("drop from peak", experiments.drop_from_peak),
        )
    },
    index=list(NAMES.values()),
)
table

# %%
single_fall, single_fall_interval = mean_interval(
    experiments.drop_from_peak(gold["clean"]["single"])
)
rise, rise_interval = mean_interval(
    proxy["single"][:, LAST] - proxy["single"][:, EARLY]
)
wco_fall, wco_fall_interval = drop_of_mean(gold["clean"]["WCO"])
uwo_fall, uwo_fall_interval = drop_of_mean(gold["clean"]["UWO"])
rescued, rescued_interval = mean_interval(
    gold["clean"]["WCO"][:, LAST] - gold["clean"]["single"][:, LAST]
)

# %%
end = {rule: values[:, LAST] for rule, values in gold["noisy"].items()}
noisy_fall, noisy_fall_interval = mean_interval(
    experiments.drop_from_peak(gold["noisy"]["single"])
)
mean_fall, mean_fall_interval = mean_interval(
    experiments.drop_from_peak(gold["noisy"]["mean"])
)
noisy_wco_fall, noisy_wco_interval = drop_of_mean(gold["noisy"]["WCO"])
cautious, cautious_interval = mean_interval(end["UWO2"] - end["mean"])
ensembles = {rule: v[..., LAST] for rule, v in noisy_curves["value"].items()}
wins, (low, high) = mean_interval((ensembles["WCO"] > ensembles["mean"]).mean(1))
wins_interval = (low, min(high, 1.0))  # a share
glue("noisy_mean_gain", cell(end["mean"] - end["single"]))
glue(
    "clean_wco_gain",
    cell(gold["clean"]["WCO"][:, LAST] - gold["clean"]["mean"][:, LAST]),
)
glue("wins", 100 * wins)
for rule in ("WCO", "UWO"):
    curves = clean_curves["value"][rule]
    glue(f"{rule}_worst", (curves.max(-1) - curves[..., LAST]).mean(1).max())

# %% [markdown]
# With clean labels any conservative rule does: neither WCO nor UWO falls on average over worlds. In single worlds they
# may; the largest drop of a world from its own highest point is {glue:text}`WCO_worst:.2f` for WCO and
# {glue:text}`UWO_worst:.2f` for UWO with $\lambda = 0.5$. Is the mean worse? WCO minus mean at $n = 4096$ is
# {glue:text}`clean_wco_gain` (mean over worlds and 95 % interval); it changes from seed to seed, and we
# claim nothing about it.
#
# With a quarter of the labels flipped the picture changes. Averaging buys little or nothing: mean minus one member is
# {glue:text}`noisy_mean_gain`. The conservative rules lose less; WCO ends above the mean in {glue:text}`wins:.0f` % of the
# ensembles; but they fall, too. Why? All five members see the *same* flipped labels. If the only burst of some
# token was marked as the winner by mistake, all members learn that the token is good. The error has become a shared one.

# %% [markdown]
# ### What the rules pick
#
# The mechanism in one figure, for the first five members: how likely is the answer that is kept a burst? In the pool 1 %
# are.

# %%
PICK = {rule: experiments.RULES[rule] for rule in ("mean", "WCO", "UWO2")}


def burst_share(answers, size, rules):
    """Probability that the best of n is a burst, (worlds, counts) for each rule."""
    is_burst = (answers.bursts > 0).float()
    found = experiments.ensemble_curves(
        answers.scores[:SIZE], is_burst, size, rules, COUNTS
    )
    return by_world(found["value"])


shares = {
    labels: burst_share(answers, 1, {"single": ("mean", 0.0)})
    | burst_share(answers, SIZE, PICK)
    for labels, answers in (("clean", clean), ("noisy", noisy))
}

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Probability that the chosen answer is a burst, against n, two panels. Clean labels: it grows "
    "large for one member and stays near zero for WCO and UWO. Noisy labels: near one for one member "
    "and the mean, lower for WCO, lowest for UWO with 2.",
    caption="Probability that the best of $n$ is a burst. Mean and 95 % interval over worlds.",
    name="fig-ensembles-bursts",
    ncols=2,
    sharey=True,
)
for ax, (labels, share) in zip(axes, shares.items(), strict=True):
    for rule, values in share.items():
        plotting.band(ax, COUNTS, values, label=NAMES[rule])
    ax.set_xscale("log", base=2)
    ax.set(title=f"{labels} labels", xlabel="answers to choose from, $n$")
axes[0].set(ylabel="probability of a burst", ylim=(-0.02, 1.02))
axes[0].legend()
plotting.show(fig)

# %% [markdown]
# ### Three negative controls
#
# **Without the exploit.** Take the clean single models and refuse every burst, as a perfect filter would. If bursts are
# the cause, nothing is left to fall. **Without diversity.** Five copies of one member are an ensemble with no private
# errors; by {prf:ref}`thm-ensembles-shared` with $e_i$ equal, every rule must give back the member. **Without error.** If gold itself
# chooses, nothing is overoptimized.

# %%
refused = clean.scores.masked_fill(clean.bursts > 0, -1e3)
filtered = experiments.ensemble_curves(
    refused, clean.gold, 1, {"single": ("mean", 0.0)}, COUNTS
)["value"]["single"].mean(1)
left, left_interval = mean_interval(filtered[:, EARLY] - filtered[:, LAST])

copies = clean.scores[:1].expand(SIZE, -1, -1)
of_copies = experiments.ensemble_curves(copies, clean.gold, SIZE, counts=COUNTS)
original = clean_curves["value"]["single"][:, 0]
gain = max(
    float(np.abs(values[:, 0] - original).max())
    for values in of_copies["value"].values()
)
oracle_fall = float((oracle.amax(-1) - oracle[:, LAST]).max())

# %% [markdown]
# ## How many judges?
#
# We reuse the eight clean members for ensembles of one to eight.

# %%
SIZES = (1, 2, 3, 4, 5, 8)
SIZE_RULES = {rule: experiments.RULES[rule] for rule in ("mean", "WCO")}
at_size = {
    size: experiments.ensemble_curves(
        clean.scores, clean.gold, size, SIZE_RULES, (COUNTS[LAST],)
    )["value"]
    for size in SIZES
    if size not in (1, SIZE)  # these we have
}
for size, names in ((1, ("single", "single")), (SIZE, SIZE_RULES)):
    at_size[size] = {
        rule: clean_curves["value"][name][..., LAST:]
        for rule, name in zip(SIZE_RULES, names, strict=True)
    }
more, more_interval = mean_interval(
    (at_size[8]["WCO"].mean(1) - at_size[5]["WCO"].mean(1))[:, 0]
)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Gold reward of the best of 4096 against the number of members from one to eight, for mean "
    "and WCO. Both rise steeply from one to three members and little after five.",
    caption="Gold reward of the best of 4096 against the size of the ensemble, clean labels. Mean and "
    "95 % interval over worlds.",
    name="fig-ensembles-size",
)
for rule in SIZE_RULES:
    values = np.stack([at_size[size][rule].mean((1, 2)) for size in SIZES], 1)
    plotting.band(ax, SIZES, values, label=NAMES[rule])
ax.set(xlabel="members of the ensemble", ylabel="gold reward at $n=4096$ (sd)")
ax.legend()
plotting.show(fig)

# %% [markdown]
# ## Do the judges need different schools?
#
# {cite:t}`eisenstein2023helping` compare ensembles whose members differ from pretraining on with ensembles that were only
# fine-tuned with different seeds, and find the first better. Our counterpart: members with trunks of their own, against
# members that start from one trunk, with another last layer and another order of the data. There is no pretraining here;
# a trunk is a random draw. The two kinds are paired: same world, answers, pairs, heads and orders of the data.

# %%
gold["tuned"] = by_world(best_of(tuned)["value"])
difference = pd.DataFrame(
    {
        "own trunks minus one trunk": [
            cell(gold["clean"][rule][:, LAST] - gold["tuned"][rule][:, LAST])
            for rule in experiments.RULES
        ],
        "one trunk minus one member": [
            cell(gold["tuned"][rule][:, LAST] - gold["clean"]["single"][:, LAST])
            for rule in experiments.RULES
        ],
    },
    index=[NAMES[rule] for rule in experiments.RULES],
)
helped, helped_interval = mean_interval(
    gold["tuned"]["WCO"][:, LAST] - gold["clean"]["single"][:, LAST]
)
difference

# %% [markdown]
# The table shows paired differences of gold at $n = 4096$, mean and 95 % interval over worlds. What is significant, and
# stays so from seed to seed, is one step earlier: on bursts, members with one trunk agree more
# (correlation {glue:text}`tuned_burst:.2f` against {glue:text}`own_burst:.2f`), so that more of their error is shared. And
# WCO over members with one trunk is better than one member; for the mean even that is not certain. The step from there to gold, own trunks better than one
# trunk, has the right sign for most rules, but intervals that reach zero for some rules at one seed and for others at the
# next. We do not claim it, for no rule: a few worlds in which one trunk happens to be fooled make up most of the
# difference.

# %% [markdown]
# ## Herding: when all judges learned the same mistake
#
# Last, an error that is shared by construction. The annotator takes bursts of two of the 16 rare tokens for excellent
# ($+3$, where gold says $-3$). There is no noise: the annotator is consistent. With and without this habit, everything
# else is equal, and we give the models 2000 pairs, then 8000. More pairs are better, are they not?

# %%
PAIRS = (2000, 8000)
herd = {
    (n_pairs, mislabeled): experiments.ensemble_point(
        dial.herding,
        SIZE,
        n_pairs=n_pairs,
        mislabeled=mislabeled,
        counts=COUNTS,
        **here,
    )
    for n_pairs in PAIRS
    for mislabeled in (0, 2)
}
loss = {
    (n_pairs, rule): (
        herd[n_pairs, 0]["gold"][rule] - herd[n_pairs, 2]["gold"][rule]
    )[:, LAST]
    for n_pairs in PAIRS
    for rule in NAMES
}

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Gold reward against n for mean, WCO and UWO with 2, two panels, 2000 and 8000 pairs. Without "
    "the annotator's error all curves rise. With it they fall, and with 8000 pairs they fall further "
    "than with 2000.",
    caption="Solid: the annotator is right about all bursts. Dashed: the annotator takes bursts of two "
    "tokens for excellent. Mean and 95 % interval over worlds.",
    name="fig-ensembles-herding",
    ncols=2,
    sharey=True,
)
for ax, n_pairs in zip(axes, PAIRS, strict=True):
    for rule, color in zip(PICK, plotting.PALETTE, strict=False):
        for mislabeled, line in ((0, "-"), (2, "--")):
            values = herd[n_pairs, mislabeled]["gold"][rule]
            label = None if mislabeled else NAMES[rule]
            look = dict(color=color, linestyle=line, marker="", label=label)
            plotting.band(ax, COUNTS, values, **look)
    ax.set_xscale("log", base=2)
    ax.set(title=f"{n_pairs} pairs", xlabel="answers to choose from, $n$")
axes[0].set(ylabel="gold reward (sd)")
axes[0].legend()
plotting.show(fig)

# %%
pd.DataFrame(
    {
        f"lost with {n_pairs} pairs": [cell(loss[n_pairs, rule]) for rule in NAMES]
        for n_pairs in PAIRS
    },
    index=list(NAMES.values()),
)

# %%
few_loss, few_interval = mean_interval(loss[2000, "mean"])
herd_loss, herd_interval = mean_interval(loss[8000, "mean"])
wco_loss, wco_loss_interval = mean_interval(loss[8000, "WCO"])
uwo_loss, uwo_loss_interval = mean_interval(loss[8000, "UWO"])
praise, praise_interval = mean_interval(
    np.nanmean(herd[8000, 2]["burst_score"][:, :2], 1)
)
right = herd[8000, 0]["gold"]["mean"]
unharmed, unharmed_interval = mean_interval(right[:, EARLY] - right[:, LAST])
glue("praise", praise)
glue("more_pairs", cell(loss[8000, "mean"] - loss[2000, "mean"]))
glue("blame", np.nanmean(herd[8000, 2]["burst_score"][:, 2:]))

# %% [markdown]
# With 8000 pairs the members give the mislabeled bursts a mean score of {glue:text}`praise:.1f` and the other bursts one of
# {glue:text}`blame:.1f`. They agree, they are right about the annotator, and they are wrong about gold. The table shows what the error costs at
# $n = 4096$. No rule escapes. Nor do more pairs help: the mean loses {glue:text}`more_pairs` more with 8000 pairs than with
# 2000. Random flips average out with more data; a consistent mistake is learned better. {cite:t}`eisenstein2023helping`
# call it herding.
#
# With 2000 pairs worlds differ a lot. In some the two tokens hardly occur among the pairs, and nothing happens; in others
# the loss is total. The bound that we set for this case, a mean loss above 2, needs about a hundred worlds to be judged,
# more than the `cpu` preset has. There the claim stands as not run, and the table shows what was seen.

# %% [markdown]
# ## At scale
#
# The same notebook at the `gpu` and `full` presets uses more worlds and larger pools. Tables recorded on larger machines
# are drawn here beside this run.

# %%
CHAPTER = "rewards/reward_ensembles"
summary = [
    {
        "labels": labels,
        "rule": rule,
        "gold": float(gold[labels][rule][:, LAST].mean()),
        "gold_se": float(
            gold[labels][rule][:, LAST].std(ddof=1)
            / math.sqrt(len(gold[labels][rule]))
        ),
    }
    for labels in ("clean", "noisy", "tuned")
    for rule in NAMES
]
recording.record(run, CHAPTER, summary)
recorded = recording.read_tables(CHAPTER)

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Gold reward at n = 4096 for six rules, clean and noisy labels, from this run and from recorded "
    "runs on larger machines.",
    caption="Gold reward of the best of 4096: this run, and recorded runs with their preset and device. "
    "Bars: two standard errors.",
    name="fig-ensembles-recorded",
    ncols=2,
    sharey=True,
)
tables = {f"this run ({run.preset} preset)": pd.DataFrame(summary)}
tables |= {f"{r.preset} preset, {r.device}": r.table for r in recorded}
for ax, labels in zip(axes, ("clean", "noisy"), strict=True):
    for i, (name, rows) in enumerate(tables.items()):
        rows = rows[rows.labels == labels]
        at = np.arange(len(rows)) + 0.15 * i
        look = dict(linestyle="none", capsize=2, label=name)
        ax.errorbar(at, rows.gold, yerr=2 * rows.gold_se, **look)
    ax.set_xticks(range(len(NAMES)), list(NAMES), rotation=30)
    ax.set(title=f"{labels} labels", xlabel="rule")
axes[0].set(ylabel="gold reward at $n=4096$ (sd)")
axes[1].legend()
plotting.show(fig)

# %% [markdown]
# ## Claims
#
# Each bound was fixed before the chapter's seeds were run. Falls and gains are in standard deviations of gold over
# ordinary answers. A fall above 0.5 counts as one, a fall below 0.1 as none.

# %% tags=["nbval-check-output"]
claim(
    "With clean labels, the gold reward of one reward model falls from its peak",
    paper="coste2024ensembles",
    where="Abstract",
    measured=single_fall,
    interval=single_fall_interval,
    above=0.5,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "Meanwhile its own score keeps rising, from the best of 64 to the best of 4096",
    paper="coste2024ensembles",
    where="Abstract",
    measured=rise,
    interval=rise_interval,
    above=1.5,
    unit="sd of the score",
)

# %% tags=["nbval-check-output"]
claim(
    "With clean labels, worst-case optimization over five members does not fall",
    paper="coste2024ensembles",
    where="Abstract",
    measured=wco_fall,
    interval=wco_fall_interval,
    below=0.1,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "With clean labels, uncertainty-weighted optimization over five members does not fall",
    paper="coste2024ensembles",
    where="Abstract",
    measured=uwo_fall,
    interval=uwo_fall_interval,
    below=0.1,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "At the best of 4096, worst-case optimization is more than one standard deviation better than one member",
    paper="coste2024ensembles",
    where="Abstract",
    measured=rescued,
    interval=rescued_interval,
    above=1.0,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "With a quarter of the labels flipped, one reward model falls by more than two standard deviations",
    paper="coste2024ensembles",
    where="Abstract",
    measured=noisy_fall,
    interval=noisy_fall_interval,
    above=2.0,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "With a quarter of the labels flipped, the mean of five members falls by more than two, as well",
    paper="coste2024ensembles",
    where="Best-of-n with label noise",
    measured=mean_fall,
    interval=mean_fall_interval,
    above=2.0,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "With noise, worst-case optimization ends above the mean in at least three quarters of the ensembles",
    paper="coste2024ensembles",
    where="Best-of-n with label noise",
    measured=wins,
    interval=wins_interval,
    above=0.75,
    unit="share of ensembles, averaged over worlds",
)

# %% tags=["nbval-check-output"]
claim(
    "With noise, uncertainty weighting with coefficient 2 ends far above the mean",
    paper="coste2024ensembles",
    where="Best-of-n with label noise",
    measured=cautious,
    interval=cautious_interval,
    above=1.5,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "With a quarter of the labels flipped, worst-case optimization does not fall either",
    paper="coste2024ensembles",
    where="Abstract",
    measured=noisy_wco_fall,
    interval=noisy_wco_interval,
    below=0.1,
    unit="sd of gold",
    expect="does not hold here",
    because="all members see the same few flipped labels on bursts, so part of the error is shared",
)

# %% tags=["nbval-check-output"]
claim(
    "From five members to eight, worst-case optimization gains less than a quarter of a standard deviation",
    paper="coste2024ensembles",
    where="Size of the ensemble",
    measured=more,
    interval=more_interval,
    below=0.25,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "Where bursts are refused, one reward model does not fall between the best of 64 and of 4096",
    paper="coste2024ensembles",
    where="Overoptimization",
    control=True,
    measured=left,
    interval=left_interval,
    below=0.1,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "Where gold itself chooses, nothing falls in any world",
    paper="coste2024ensembles",
    where="Overoptimization",
    control=True,
    measured=oracle_fall,
    interval=(oracle_fall, oracle_fall),
    below=0.01,
    unit="sd of gold, largest over worlds",
)

# %% tags=["nbval-check-output"]
claim(
    "In distribution the members are alike, their accuracies differ by less than two points",
    paper="eisenstein2023helping",
    where="Abstract",
    measured=100 * spread,
    interval=tuple(100 * x for x in spread_interval),
    below=2.0,
    unit="percentage points, standard deviation over members",
)

# %% tags=["nbval-check-output"]
claim(
    "On bursts the variance across members is more than ten times that on ordinary answers",
    paper="eisenstein2023helping",
    where="Abstract",
    measured=disagreement,
    interval=disagreement_interval,
    above=10.0,
    unit="ratio of variances",
)

# %% tags=["nbval-check-output"]
claim(
    "Members that start from one trunk agree more on bursts than members with trunks of their own",
    paper="eisenstein2023helping",
    where="Abstract",
    measured=agree,
    interval=agree_interval,
    above=0.15,
    unit="difference of correlations",
)

# %% tags=["nbval-check-output"]
claim(
    "Even with one trunk, worst-case optimization is better than one reward model",
    paper="eisenstein2023helping",
    where="Abstract",
    measured=helped,
    interval=helped_interval,
    above=0.0,
    unit="sd of gold",
)

# %%
judged = run.preset != "cpu"  # a hundred worlds
few = dict(measured=few_loss, interval=few_interval) if judged else {}
reason = "" if judged else "the bound needs about a hundred worlds"

# %% tags=["nbval-check-output"]
claim(
    "With 2000 pairs, a shared mistake about two of 16 tokens costs the mean more than two standard deviations",
    paper="eisenstein2023helping",
    where="Abstract",
    above=2.0,
    unit="sd of gold",
    not_run=reason,
    **few,
)

# %% tags=["nbval-check-output"]
claim(
    "With 8000 pairs, that mistake costs the mean more than two standard deviations",
    paper="eisenstein2023helping",
    where="Abstract",
    measured=herd_loss,
    interval=herd_interval,
    above=2.0,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "With 8000 pairs, it costs worst-case optimization more than a fall",
    paper="eisenstein2023helping",
    where="Abstract",
    measured=wco_loss,
    interval=wco_loss_interval,
    above=0.5,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "With 8000 pairs, it costs uncertainty-weighted optimization more than a fall",
    paper="eisenstein2023helping",
    where="Abstract",
    measured=uwo_loss,
    interval=uwo_loss_interval,
    above=0.5,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "The members agree on the mistake, they put the mislabeled bursts above the average answer",
    paper="eisenstein2023helping",
    where="Abstract",
    measured=praise,
    interval=praise_interval,
    above=0.0,
    unit="mean score, sd",
)

# %% tags=["nbval-check-output"]
claim(
    "Where the annotator is right about all bursts, the mean does not fall between the best of 64 and of 4096",
    paper="eisenstein2023helping",
    where="Abstract",
    control=True,
    measured=unharmed,
    interval=unharmed_interval,
    below=0.1,
    unit="sd of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "Five copies of one member earn what the member earns, whatever the rule",
    paper="eisenstein2023helping",
    where="Abstract",
    control=True,
    measured=gain,
    interval=(gain, gain),
    below=0.01,
    unit="sd of gold, largest over rules, worlds and n",
)

# %% [markdown]
# ## Where it breaks
#
# - **The world was chosen.** It is the third design, and its gold punishes the exploit by design. Claims here say that
#   ensembles behave as the papers report *in a world with a rare mode that looks good to an extrapolating model*. How
#   common such modes are in text is another matter.
# - **Noise, and one paper's strongest sentence.** {cite:t}`coste2024ensembles` report that conservative optimization
#   practically eliminates overoptimization for best-of-n with and without label noise. With 1000 pairs, of which about 20
#   hold a burst, it does not here. Their reward models see tens of thousands of pairs.
# - **Own trunks against one trunk.** The paper finds better results with different pretraining seeds. Here only the cause is
#   significant, the agreement of members on the exploit. The effect on gold is not, and a random trunk is a poor
#   stand-in for pretraining on text.
# - **Herding depends on the data.** With 2000 pairs the loss varies from nothing to everything between worlds. UWO with
#   $\lambda = 2$ loses least, but it loses.
# - **The coefficient is in units of the scores.** $\lambda$ multiplies a variance; normalize otherwise, and 2 means something else.
# - **What changed after the first look:** bounds did not. The claims on noise use 40 worlds and averages over ensembles
#   rather than 16 worlds with one ensemble each, because the interval of the share sat at its bound. That WCO and UWO do not
#   fall was first measured by each world's drop from its own highest point; a single world moved the interval of UWO across
#   the bound, and the measure became the drop of the mean curve. The claim on 2000 pairs moved to presets with more worlds;
#   the case of 8000 pairs was added, with its bounds set before it was run.
# - **What was checked against the source:** the abstracts of both papers were read. The coefficient 0.5 for best-of-n, the penalty on
#   $(r^+ + r^-)^2$ and the finding that four or five members suffice come from notes on the papers.
# - **What the papers did that we did not:** language models as policies and reward models, reinforcement learning beside
#   best-of-n, and human or model judges of real text.

# %% [markdown]
# ## Exercises
#
# ```{exercise-start} The floor (5 minutes)
# :label: ex-ensembles-floor
# ```
# Errors of members have variance 1, and any two have the correlation 0.5. What is the variance of the error of the mean of
# five members? How many members would bring it to 0.5? Check the first with
# `exercises.check("rewards/reward_ensembles/floor", your_variance)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-ensembles-floor
# :class: dropdown
# ```
# By {eq}`eq-ensembles-floor` it is $0.5 + 0.5/5 = 0.6$. No number of members reaches 0.5; it is the limit.

# %%
exercises.check("rewards/reward_ensembles/floor", 0.5 + 0.5 / 5)
errors = torch.randn(6, 100_000, generator=run.generator("floor"))
correlated = math.sqrt(0.5) * (errors[:5] + errors[5])
assert abs(correlated.mean(0).var() - 0.6) < 0.02

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} How cautious is cautious enough? (10 minutes)
# :label: ex-ensembles-coefficient
# ```
# Five members give an honest answer the scores $2, 2, 2, 2, 2$ and a burst the scores $5, 0, 4, -1, 7$. Which of the two do the
# mean, the median and WCO prefer? From which $\lambda$ on does UWO prefer the honest answer? Check with
# `exercises.check("rewards/reward_ensembles/coefficient", your_lambda)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-ensembles-coefficient
# :class: dropdown
# ```
# The burst has mean 3, median 4 and minimum $-1$: mean and median prefer it, WCO does not. Its variance is
# $(4 + 9 + 1 + 16 + 16)/5 = 9.2$, so UWO is indifferent at $3 - 9.2\,\lambda = 2$.

# %%
exercises.check("rewards/reward_ensembles/coefficient", 1 / 9.2)
pair = np.array([[2.0, 2, 2, 2, 2], [5, 0, 4, -1, 7]]).T
assert rewards.aggregate_rewards(pair, "uwo", 0.10).argmax() == 1
assert rewards.aggregate_rewards(pair, "uwo", 0.12).argmax() == 0

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} Every rule scores the same (25 minutes)
# :label: ex-ensembles-order
# ```
# Each member wrote a file: the answers, its scores and their gold rewards, *sorted by its own score, best first*. The function below
# reads the files and ranks the answers by the ensemble. Its output looks plausible: scores fall from the first row to the last. But the
# mean gold of the top 20 is the same for every rule, to the last digit. A public implementation once had this bug.
#
# Find it, write a correct `rerank`, and check it with `exercises.check("rewards/reward_ensembles/order", rerank)`.
# ```{exercise-end}
# ```


# %%
def rerank_with_a_bug(answers, scores, gold, how):
    """Answers of one prompt, best first by the ensemble, with their scores and gold.

    Row i of the three tables is the file of member i; answers are numbered from 0.
    """
    by_answer = np.stack(
        [s[np.argsort(a)] for a, s in zip(answers, scores, strict=True)]
    )
    names = answers[0]
    combined = rewards.aggregate_rewards(by_answer, how)[names]
    order = np.argsort(-combined, kind="stable")
    return names[order], combined[order], gold[0]


raw = clean.scores[:SIZE, 0, :2000].double().cpu().numpy()
answer_files = np.argsort(-raw, axis=1)
score_files = np.take_along_axis(raw, answer_files, 1)
gold_files = clean.gold[0, :2000].double().cpu().numpy()[answer_files]


# %%
def top_gold(ranker):
    """Mean gold of the first 20 answers under each rule."""
    files = answer_files, score_files, gold_files
    return {
        how: ranker(*files, how)[2][:20].mean() for how in ("mean", "min", "uwo")
    }


pd.Series(top_gold(rerank_with_a_bug), name="gold of the top 20").round(3)

# %% [markdown]
# ```{solution-start} ex-ensembles-order
# :class: dropdown
# ```
# Answers and scores are put into the order of the ensemble, and gold stays in the order of the first file. So the gold that is
# reported beside an answer belongs to another one, and the top 20 are always those of the first member. A test that would have caught
# it: after ranking, look up each answer's gold by its name. A cheaper alarm: two rules that never differ in gold.


# %%
def rerank(answers, scores, gold, how):
    by_answer = np.stack(
        [s[np.argsort(a)] for a, s in zip(answers, scores, strict=True)]
    )
    names = answers[0]
    combined = rewards.aggregate_rewards(by_answer, how)[names]
    order = np.argsort(-combined, kind="stable")
    return names[order], combined[order], gold[0][order]


exercises.check("rewards/reward_ensembles/order", rerank)
rankers = {"with the bug": rerank_with_a_bug, "repaired": rerank}
pd.DataFrame({name: top_gold(ranker) for name, ranker in rankers.items()}).round(3)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} A rule of your own (open)
# :label: ex-ensembles-rule
# ```
# UWO punishes the variance, WCO looks at one member. Try the mean minus the standard deviation, the second-lowest score, or a rule of
# your own, on the noisy labels. Is it better than UWO with $\lambda = 2$ in the same worlds? Say before you look how large a
# difference you would call an improvement.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-ensembles-rule
# :class: dropdown
# ```
# Two rules against UWO with $\lambda = 2$: gold of the best of 4096, paired by world, for the first five members. We call 0.5 an
# improvement.

# %%
five = noisy.scores[:SIZE]
baseline = rewards.aggregate_rewards(five, "uwo", 2.0)
candidates = {
    "mean minus sd": five.mean(0) - five.std(0, correction=0),
    "second lowest": five.sort(dim=0).values[1],
}


def final(score):
    """Gold of the best of 4096 in every world."""
    best = rewards.best_of_n(score, noisy.gold, COUNTS[LAST])
    return best.gold_per_prompt.cpu().numpy()


pd.Series(
    {name: cell(final(s) - final(baseline)) for name, s in candidates.items()},
    name="gold above UWO with coefficient 2",
)

# %% [markdown]
# Both are milder than the square of the deviation with this coefficient, which on a burst is worth many standard deviations. Neither is an
# improvement, and by {prf:ref}`thm-ensembles-shared` no rule that moves along with a common shift can repair the part that members
# share. More promising is to change the members: other data, other labels, other features.
# ```{solution-end}
# ```

# %% [markdown]
# ## Further reading
#
# - {cite:t}`coste2024ensembles`: the conservative rules, with best-of-n and with reinforcement learning under a penalty.
# - {cite:t}`eisenstein2023helping`: underspecification, seeds of pretraining and of fine-tuning, and hacks that survive.
# - {cite:t}`gleave2022uncertainty`: an early attempt to measure the uncertainty of reward models by ensembles, mostly negative.
