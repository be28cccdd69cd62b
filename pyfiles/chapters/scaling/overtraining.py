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
# # Train too long: can small runs still predict the large one?
#
# **The question.** A model that will serve many users is trained on far more tokens than its compute budget asks for.
# Do small, cheap runs still predict where it ends?
#
# **You will be able to**
#
# - derive why over-training shifts the loss curve in the logarithm but leaves its slope alone;
# - predict the loss and the downstream error of a model from runs three hundred times cheaper, and check the prediction;
# - choose the size of a model that must be trained *and* served.
#
# **You need** power laws, logarithms, and a little calculus. Symbols are listed in the [notation](../notation.md).
#
# **It takes**
#
# ```{run-times} here
# ```
#
# This chapter stands on {cite:t}`gadre2024scale`, called *the paper* below: 104 language models on three training sets,
# published with all their losses and errors.

# %%
import math

import numpy as np
import pandas as pd

from enough import plotting, runtime, scaling
from enough.book import claim, exercises, glue, mean_interval
from enough.runtime import recording
from enough.scaling import published
from enough.scaling.experiments import overtraining

run = runtime.start(seed=6301)
run.report()

# %%
dial = run.pick(
    cpu=dict(permutations=59, replicas=300),
    gpu=dict(permutations=999, replicas=2000),
    full=dict(permutations=4999, replicas=10_000),
)
source = published.overtraining_models()
models = source.table
NAMES = {"rpj": "RedPajama", "c4_original": "C4", "rw_original": "RefinedWeb"}
glue("table_source", "the published table" if source.real else source.source)

# %% [markdown]
# The rows on this page come from {glue:text}`table_source`. Where the published table is not at hand, a generated one
# fills the figures, and every claim about real runs says that it was not run.

# %% [markdown]
# ## The puzzle
#
# A compute-optimal model reads about 20 tokens for each of its parameters. Call the ratio of tokens to parameters the
# {term}`token multiplier` $M$. The runs below were trained at $M$ between 5 and 640: up to 32 times too long. Plot the
# loss, less a constant, against compute, one line for each $M$.

# %%
pajama = models[models.dataset == "rpj"]
small = pajama[pajama.params < 1e9]
law = scaling.OverTrainingLaw.fit(
    small, bootstrap=dial.replicas, generator=run.generator("bootstrap")
)
floor = law.params["E"]
lines = overtraining.exponents_by_multiplier(small, floor)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Loss less its floor against compute on log axes, one straight falling line for each of eight token "
    "multipliers. The lines are parallel; those of larger multipliers lie higher.",
    caption="Each line joins models of four sizes at one number of tokens for each parameter. Points: runs on "
    "RedPajama; lines: the law fitted to all of them.",
    name="fig-overtrain-parallel",
)
colors = plotting.shades(len(lines))
for color, multiplier in zip(colors, lines.multiplier, strict=True):
    one = small[small.multiplier == multiplier].sort_values("params")
    flops = 6 * one.params * one.tokens
    ax.plot(flops, one.loss - floor, "o", color=color, markersize=4)
    ax.plot(
        flops,
        law.predict(one) - floor,
        color=color,
        marker="",
        linestyle="-",
        label=f"{multiplier:g}",
    )
ax.set(xscale="log", yscale="log")
ax.set(xlabel="training compute $C$ (FLOP)", ylabel="loss $-\\ E$ (nats per token)")
ax.legend(title="tokens per parameter", ncols=2)
plotting.show(fig)

# %% [markdown]
# The lines in {numref}`fig-overtrain-parallel` are nearly parallel. Training too long costs a factor, the same at every scale,
# and not an exponent. Why should that be so, and how far may one trust it?

# %% [markdown]
# ## Theory: one exponent
#
# Start from the usual law of loss in parameters $N$ and tokens $D$, $L = E + A N^{-\alpha} + B D^{-\beta}$, with compute
# $C = 6ND$ and multiplier $M = D/N$. Then $N = \sqrt{C/(6M)}$ and $D = \sqrt{CM/6}$, and
#
# $$
# L(C, M) = E + A \left(\tfrac{C}{6M}\right)^{-\alpha/2} + B \left(\tfrac{C M}{6}\right)^{-\beta/2} .
# $$
#
# ```{prf:theorem} Over-training keeps the exponent
# :label: thm-overtrain-overtraining
#
# The loss above its floor is, at every fixed $M$, a power of $C$ with one exponent that does not depend on $M$, if and
# only if $\alpha = \beta$. With $\eta = \alpha/2$, $a = A\,6^{\eta}$ and $b = B\,6^{\eta}$ it is then
#
# $$
# L(C, M) = E + \bigl(a M^{\eta} + b M^{-\eta}\bigr)\, C^{-\eta} .
# $$
# ```
#
# ```{prf:proof}
# If $\alpha = \beta$, collect terms. If not, the two terms fall at different rates in $C$ for every $M$, and their sum is
# no power of $C$.
# ```
#
# The bracket is smallest at $M^* = (b/a)^{1/(2\eta)}$, the compute-optimal multiplier, and grows slowly on both sides. For
# $\eta$ near 0.14 a model trained 32 times too long pays a factor of
# $\tfrac12\bigl(32^{\eta} + 32^{-\eta}\bigr)$ on its reducible loss, about 12 %.
#
# ```{prf:definition} Downstream error
# :label: def-overtrain-downstream
#
# The paper relates the error on tasks to the loss by
#
# $$
# \mathrm{Err}(L) = \epsilon - k\, e^{-\gamma L} .
# $$
# ```
#
# Both laws have few parameters, and that is their use: five small runs fit the first, one more run fits the second.

# %% [markdown]
# ## Show it
#
# At a given $\eta$ the law is linear in $E$, $a$ and $b$. So one needs to search over a single number.


# %%
def fit_law(rows, etas):
    """Least squares over a grid of exponents: the lowest objective and its parameters."""
    flops, multiplier = 6 * rows.params * rows.tokens, rows.tokens / rows.params
    best = (math.inf, None)
    for eta in etas:
        columns = np.stack(
            [
                np.ones(len(rows)),
                multiplier**eta / flops**eta,
                1 / (multiplier**eta * flops**eta),
            ],
            axis=1,
        )
        scale = np.linalg.norm(columns, axis=0)
        found, *_ = np.linalg.lstsq(columns / scale, rows.loss, rcond=None)
        error = float(((columns / scale @ found - rows.loss) ** 2).sum() / 2)
        if error < best[0]:
            E, a, b = found / scale
            best = (error, {"E": E, "a": a, "b": b, "eta": eta})
    return best


# %% [markdown]
# The paper's recipe fits five runs: four small models at $M = 20$, and the smallest at $M = 320$. The library's `fit` starts
# from such a grid and finishes with Newton's method; it must end lower, and nearby.

# %%
recipe = overtraining.recipe_rows(pajama)
five = recipe[recipe.role == "loss"]
objective, grid_params = fit_law(five, np.linspace(0.05, 0.3, 2001))
paper_fit = scaling.OverTrainingLaw.fit(five, residuals="raw", huber_delta=math.inf)
assert paper_fit.objective <= objective * (1 + 1e-9)
assert math.isclose(paper_fit.params["eta"], grid_params["eta"], rel_tol=1e-2)

# %% [markdown]
# ## Use it: predict the large runs
#
# Two runs on each training set were held out: a model of 1.4 billion parameters that was over-trained, and one of 6.9
# billion parameters. Each cost about three hundred times what the five small runs cost together.

# %%
predictions = overtraining.prediction_table(models)
shown = predictions.assign(
    **{
        "training set": predictions.dataset.map(NAMES),
        "loss, predicted": predictions.predicted_loss.round(3),
        "miss of the loss, %": (100 * predictions.loss_miss).round(2),
        "error, predicted": predictions.predicted_error.round(3),
        "miss of the error, %": (100 * predictions.error_miss).round(2),
        "miss, all small runs, %": (100 * predictions.wide_miss).round(2),
    }
)
order = [
    "training set",
    "params",
    "multiplier",
    "loss",
    *shown.columns[-5:],
]
shown[order]

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Relative miss of six predicted losses, two for each training set, from five small runs and from all "
    "small runs. Five of six lie below two percent; the 6.9-billion model on C4 is missed by more than four.",
    caption="Miss of the predicted loss for the held-out runs. Circles: the paper's five runs; squares: all runs below "
    "a billion parameters. Dotted: two percent.",
    name="fig-overtrain-misses",
)
labels = [
    f"{NAMES[row.dataset]}\n{row.params / 1e9:.1f} B, {row.multiplier:g}"
    for row in predictions.itertuples()
]
places = np.arange(len(labels))
ax.plot(places - 0.08, 100 * predictions.loss_miss, "o", label="five runs")
ax.plot(places + 0.08, 100 * predictions.wide_miss, "s", label="all small runs")
ax.axhline(2, color="0.4", linestyle=":")
ax.set_xticks(places, labels, fontsize=7)
ax.set(xlabel="held-out run: size, tokens per parameter", ylabel="miss (%)")
ax.set_ylim(bottom=0)
ax.legend()
plotting.show(fig)

# %% [markdown]
# On RedPajama the recipe works as the paper says, to the printed digit. On C4 the same recipe misses the largest model by more
# than twice the two percent that a planner might tolerate, and {numref}`fig-overtrain-misses` shows that more small runs do not repair it: that
# run ended *below* what any smaller run foretold. One training set cannot tell whether a law is reliable.

# %%
worst = predictions.loss_miss.max()
worst_wide = predictions.wide_miss.max()
error_gap = (predictions.predicted_error - predictions.error).abs().max()
rows_of = predictions.set_index("dataset")
pajama_miss = 100 * rows_of.loc["rpj", "loss_miss"].to_numpy()
pajama_error = 100 * rows_of.loc["rpj", "error_miss"].to_numpy()
c4_miss = 100 * rows_of.loc["c4_original", "loss_miss"].to_numpy()

# %% [markdown]
# ### Is it one exponent?
#
# {prf:ref}`thm-overtrain-overtraining` needs $\alpha = \beta$. Fit Chinchilla's law with both exponents free to all small runs of each set, and
# compare slopes at $M = 5$ and $M = 80$ directly.

# %%
slopes, free = {}, {}
for name in NAMES:
    one = models[(models.dataset == name) & (models.params < 1e9)]
    joint = scaling.OverTrainingLaw.fit(one)
    slope = overtraining.exponents_by_multiplier(one, joint.params["E"])
    slopes[name] = slope.set_index("multiplier").exponent
    free[name] = scaling.ChinchillaLaw.fit(
        one, bootstrap=dial.replicas, generator=run.generator("free", name)
    )

# %%
slope_gap, slope_interval = mean_interval(
    [one[5.0] - one[80.0] for one in slopes.values()]
)
gaps = {
    name: np.quantile(
        fit.bootstrap["alpha"] - fit.bootstrap["beta"], [0.025, 0.975]
    )
    for name, fit in free.items()
}
pd.DataFrame(
    {
        "training set": list(NAMES.values()),
        "exponent, M = 5": [one[5.0] for one in slopes.values()],
        "exponent, M = 80": [one[80.0] for one in slopes.values()],
        "alpha": [fit.params["alpha"] for fit in free.values()],
        "beta": [fit.params["beta"] for fit in free.values()],
        "alpha - beta, 95 %": [np.round(gap, 3).tolist() for gap in gaps.values()],
    }
).round(3)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Exponent of compute against tokens per parameter for three training sets. The curves are flat from "
    "ten tokens per parameter on and differ at five.",
    caption="Exponent of the loss above its floor, by token multiplier, for three training sets.",
    name="fig-overtrain-exponents",
)
for name, one in slopes.items():
    ax.plot(one.index, one, marker="o", label=NAMES[name])
ax.set(
    xscale="log", xlabel="tokens per parameter $M$", ylabel="exponent of compute"
)
ax.set_ylim(bottom=0)
ax.legend()
plotting.show(fig)

# %% [markdown]
# ### The negative control
#
# Five runs and four parameters fit almost anything. Would the law also explain losses that have nothing to do with size and
# tokens? As a {term}`negative control` we permute the losses among the runs and fit again, many times.

# %%
control = overtraining.shuffled_fits(small, dial.permutations, seed=run.seed)
shuffled_share = float(np.median(control["shuffled"]))
shuffled_interval = tuple(np.quantile(control["shuffled"], [0.025, 0.975]).tolist())
glue("explained", control["explained"])
glue("shuffled_share", shuffled_share)

# %% [markdown]
# The law explains a share of {glue:text}`explained:.3f` of the variance of the log loss, and a median share of
# {glue:text}`shuffled_share:.3f` once the losses are permuted.
#
# ### What serving costs
#
# Training costs $6ND$ operations, each token served another $2N$. For a fixed target loss, set the derivative of
# $6 N D(N) + 2 N D_{\mathrm{inf}}$ with respect to $N$ to zero: with every token served, the best model gets smaller and trains longer.

# %%
SERVED = [0.0, 1e11, 1e12, 1e13, 1e14]
serving = overtraining.inference_table(law, 1e22, SERVED)
serving.assign(saved=(100 * serving.saved).round(1)).rename(
    columns={"saved": "saved, %", "multiplier": "tokens per parameter"}
)[["served", "params", "tokens", "tokens per parameter", "saved, %"]]

# %%
stretch = float(serving.multiplier[3] / serving.multiplier[0])
replica_stretch = []
for i in range(dial.replicas):
    params = {name: values[i] for name, values in law.bootstrap.items()}
    replica_stretch.append(overtraining.stretch(params, 1e22, 1e13))
stretch_interval = tuple(np.quantile(replica_stretch, [0.025, 0.975]).tolist())

# %% [markdown]
# ## At scale
#
# The runs of this chapter were made by the paper's authors; larger presets only draw more permutations and replicas. Recorded tables, where
# there are any, stand beside this run.

# %%
CHAPTER = "scaling/overtraining"
summary = predictions[
    ["dataset", "params", "multiplier", "loss_miss", "error_miss", "wide_miss"]
].to_dict("records")
recording.record(run, CHAPTER, summary)
recorded = recording.read_tables(CHAPTER)
pd.DataFrame(
    [{"run": f"this run ({run.preset} preset)", "largest miss, %": 100 * worst}]
    + [
        {
            "run": f"{r.preset} preset, {r.device}",
            "largest miss, %": 100 * r.table.loss_miss.max(),
        }
        for r in recorded
    ]
).round(3)

# %% [markdown]
# ## Claims
#
# Bounds of the reproductions are the paper's printed figures; two percent for the loss and 0.03 for the error were set before the fits to
# all training sets were made.

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "On RedPajama the recipe predicts the loss of the over-trained 1.4-billion model with the published miss",
    paper="gadre2024scale",
    where="Section 4",
    measured=pajama_miss[0],
    interval=(pajama_miss[0], pajama_miss[0]),
    between=(0.705, 0.715),
    unit="percent",
    not_run=source.absent,
)

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "On RedPajama it predicts the loss of the 6.9-billion model with the published miss",
    paper="gadre2024scale",
    where="Section 4",
    measured=pajama_miss[1],
    interval=(pajama_miss[1], pajama_miss[1]),
    between=(0.727, 0.737),
    unit="percent",
    not_run=source.absent,
)

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "And the downstream errors of the two with the published misses",
    paper="gadre2024scale",
    where="Section 4",
    measured=pajama_error.max(),
    interval=(pajama_error.min(), pajama_error.max()),
    between=(0.04, 3.65),
    unit="percent, interval: the two runs",
    not_run=source.absent,
)

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "The recipe predicts all six held-out losses within two percent",
    paper="gadre2024scale",
    where="abstract: predict the validation loss",
    measured=100 * worst,
    interval=(100 * worst, 100 * worst),
    below=2.0,
    unit="percent, largest miss",
    expect="does not hold here",
    because="on C4 the recipe misses the 6.9-billion model by more than four percent; the paper prints RedPajama alone.",
    not_run=source.absent,
)

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "Fitted to all runs below a billion parameters the law predicts all six within two percent",
    paper="gadre2024scale",
    where="equation 4",
    measured=100 * worst_wide,
    interval=(100 * worst_wide, 100 * worst_wide),
    below=2.0,
    unit="percent, largest miss",
    expect="does not hold here",
    because="the 6.9-billion model on C4 ends lower than any smaller run foretells.",
    not_run=source.absent,
)

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "The downstream law predicts all six mean errors within 0.03",
    paper="gadre2024scale",
    where="equation 5",
    measured=error_gap,
    interval=(error_gap, error_gap),
    below=0.03,
    unit="error, largest difference",
    expect="does not hold here",
    because="on C4 the over-trained model makes fewer errors than its loss foretells.",
    not_run=source.absent,
)

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "The exponent of compute is the same at 5 and at 80 tokens per parameter",
    paper="gadre2024scale",
    where="Figure 2",
    measured=slope_gap,
    interval=slope_interval,
    between=(-0.03, 0.03),
    unit="difference of exponents, mean over three training sets",
    not_run=source.absent,
)

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "The law explains losses better than any permutation of them",
    paper="gadre2024scale",
    where="equation 4",
    measured=control["p_value"],
    interval=(control["p_value"], control["p_value"]),
    below=0.05,
    unit="permutation p-value",
    not_run=source.absent,
)

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "Permuted losses are not explained",
    paper="gadre2024scale",
    where="equation 4",
    control=True,
    measured=shuffled_share,
    interval=shuffled_interval,
    below=0.5,
    unit="share of the variance of the log loss",
    not_run=source.absent,
)

# %% tags=["nbval-check-output", "needs-gadre_overtraining"]
claim(
    "Serving ten trillion tokens asks for at least twice the tokens per parameter",
    paper="gadre2024scale",
    where="introduction: inference costs",
    measured=stretch,
    interval=stretch_interval,
    above=2.0,
    unit="ratio of token multipliers",
    not_run=source.absent,
)

# %% [markdown]
# ## Where it breaks
#
# - **One set of data is not three.** The printed figures reproduce to their last digit, and they are the good case. The recipe has four parameters
#   and five runs; its miss on C4 is no accident of the recipe, since thirty-two runs miss as well.
# - **Slopes bend at the short end.** At five tokens per parameter the smallest models are far from any asymptote, and the exponent there differs from the rest.
# - **No interval for the recipe.** Five points leave nothing to resample; reproductions above carry no interval, and claims on all runs do.
# - **A mean of 17 tasks** hides tasks that barely move, and the choice of the 17 was the paper's.
# - **Costs** count $6ND$ and $2N$ operations, no attention, no batching, no memory traffic.
# - **What changed after the first look:** the misses of all six runs were seen before the claim cells were written. The bounds of two percent and 0.03 come from this
#   book's plan, which is older; the expected verdicts were set with the numbers in view.
# - **What was checked against the source:** the two laws, the recipe and the printed misses come from the paper's published notebook through notes; the abstract was read.
#   {prf:ref}`thm-overtrain-overtraining` is proved here. Section and equation numbers are quoted from notes.

# %% [markdown]
# ## Exercises
#
# ```{exercise-start} The price of patience (5 minutes)
# :label: ex-overtrain-price
# ```
# With $\eta = 0.14$, by what factor does the loss above its floor grow when a model is trained at 32 times the compute-optimal multiplier, with the
# same compute? Check with `exercises.check("scaling/overtraining/price", your_factor)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-overtrain-price
# :class: dropdown
# ```
# At $M = s M^*$ the bracket $a M^\eta + b M^{-\eta}$ equals $\sqrt{ab}\,(s^\eta + s^{-\eta})$, since $a M^{*\eta} = b M^{*-\eta} = \sqrt{ab}$. Divide by its value at $s = 1$.

# %%
exercises.check("scaling/overtraining/price", (32**0.14 + 32**-0.14) / 2)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} The best multiplier (15 minutes)
# :label: ex-overtrain-multiplier
# ```
# Write a function `best_multiplier(a, b, eta)` that returns the compute-optimal number of tokens per parameter. Check with
# `exercises.check("scaling/overtraining/multiplier", best_multiplier)`, and compare with `scaling.compute_optimal`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-overtrain-multiplier
# :class: dropdown
# ```
# The derivative of $aM^\eta + bM^{-\eta}$ vanishes at $M^{2\eta} = b/a$.


# %%
def best_multiplier(a, b, eta):
    return (b / a) ** (1 / (2 * eta))


exercises.check("scaling/overtraining/multiplier", best_multiplier)
plan = scaling.compute_optimal(law, 1e22)
found = best_multiplier(law.params["a"], law.params["b"], law.params["eta"])
assert math.isclose(plan.tokens / plan.params, found, rel_tol=1e-3)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} Which five runs? (open)
# :label: ex-overtrain-five
# ```
# The recipe uses four models at 20 tokens per parameter and one at 320. Choose another five of the runs below a billion parameters and predict the same
# two large runs on RedPajama. How much does the miss depend on the choice?
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-overtrain-five
# :class: dropdown
# ```
# Draw five runs at random, at least three sizes among them, and look at the spread of the largest miss.

# %%
import warnings

draw = np.random.default_rng(run.seed)
held_out = recipe[recipe.role == "held out"]
misses = []
while len(misses) < 20:
    chosen = small.iloc[draw.choice(len(small), 5, replace=False)]
    if chosen.params.nunique() < 3 or chosen.multiplier.nunique() < 2:
        continue
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scaling.IdentifiabilityWarning)
        other = scaling.OverTrainingLaw.fit(
            chosen, residuals="raw", huber_delta=math.inf, starts=2
        )
    misses.append(100 * np.abs(other.predict(held_out) / held_out.loss - 1).max())
glue("median_miss", float(np.median(misses)))
glue("worst_miss", float(np.max(misses)))

# %% [markdown]
# The median of the larger miss is {glue:text}`median_miss:.1f` %, the worst of twenty choices {glue:text}`worst_miss:.0f` %. The published five were a good choice,
# and nothing in a single prediction says so.
# ```{solution-end}
# ```

# %% [markdown]
# ## Further reading
#
# - {cite:t}`gadre2024scale`: the paper, with its 104 models and 46 tasks.
