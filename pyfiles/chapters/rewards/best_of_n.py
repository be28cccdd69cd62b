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
# # Pick the best of n: when does a higher score mean a worse answer?
#
# **The question.** You draw $n$ answers and keep the one that a learned model scores highest. You want answers that are
# *good*; you select answers that *score* well. How large may $n$ be before the two part ways?
#
# **You will be able to**
#
# - estimate what {term}`best-of-n` reaches for every $n$ from one pool of samples, without bias and with ties;
# - compute how far best-of-n moves a policy, and say when the usual formula is wrong;
# - tell a {term}`proxy reward` that stops helping from one that does harm, and name the part of its distribution that
#   decides.
#
# **You need** probability (order statistics, Kullback–Leibler divergence) and some PyTorch. Symbols are listed in the
# [notation](../notation.md).
#
# **It takes**
#
# ```{run-times} here
# ```
#
# The chapter stands on {cite:t}`gao2023scaling`, who measured how {term}`overoptimization` grows, on
# {cite:t}`beirami2024theoretical`, who corrected a formula for the divergence, and on {cite:t}`openai2022measuring`,
# where the mathematics of best-of-n is laid out.

# %%
import itertools
import math

import numpy as np
from scipy import stats

from enough import plotting, runtime
from enough import rewards as rw
from enough.book import claim, exercises, glue, mean_interval
from enough.rewards import experiments
from enough.runtime import recording

run = runtime.start(seed=1153)
run.report()

# %% [markdown]
# Every size in this chapter is a dial, set here once.

# %%
dial = run.pick(
    cpu=dict(worlds=40, members=5, pool=16_384, pools=20_000),
    gpu=dict(worlds=96, members=8, pool=65_536, pools=100_000),
    full=dict(worlds=192, members=8, pool=131_072, pools=100_000),
)
sizes = dict(pool=dial.pool, seed=run.seed, device=str(run.device))

# %% [markdown]
# ## The puzzle
#
# Here is a world small enough to know everything about. An answer is a sequence of 16 tokens. A fixed random network,
# the {term}`gold reward`, says how good it is; in real life nobody has it. An annotator compares a thousand pairs of
# answers by gold and gets a quarter of the comparisons wrong. A small network, the {term}`reward model`, learns from
# these comparisons and becomes the proxy. Then we draw $n$ answers and keep the one with the highest proxy score.

# %%
noisy = experiments.overoptimization_point(
    "burst", (0.25,), worlds=dial.worlds // 2, members=3, **sizes
)
counts, kl = noisy["n"], noisy["kl"]


def by_world(point, name):
    """Mean over the reward models of a world: (worlds, n). Worlds are the repeats."""
    return point[name][0].mean(1)


# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Score against number of answers on a log axis. The proxy score rises throughout. "
    "The gold score rises for the first few doublings, peaks, and falls far below its start.",
    caption="Goodhart's law in one figure. Score of the answer that the reward model prefers "
    "among $n$, in standard deviations of ordinary answers: as the reward model sees it, and "
    "in truth. Mean and 95 % interval over worlds.",
    name="fig-bon-puzzle",
)
for name, label in (("proxy", "what is optimized"), ("gold", "what is wanted")):
    values = by_world(noisy, name)
    plotting.band(ax, counts, values, label=f"{name} score ({label})")
ax.axhline(0, color="0.4", linestyle=":", marker="")
ax.set(
    xscale="log", xlabel="answers drawn, $n$", ylabel="score (standard deviations)"
)
ax.legend()
plotting.show(fig)

# %% [markdown]
# {numref}`fig-bon-puzzle` is {term}`Goodhart's law`: *when a measure becomes a target, it ceases to be a good measure*. The
# proxy says that every further answer helps. In truth a handful of answers helps, and beyond that each doubling of
# the effort makes the result worse, until it is worse than taking the first answer. Nothing was trained here but the
# reward model: the answers come from a fixed policy, and we only choose among them.
#
# Three questions. How was this curve measured, for $n$ up to 4096, without drawing 4096 answers again and again? How
# hard does a given $n$ push? And what makes the gold score *fall*, rather than merely stop rising?

# %% [markdown]
# ## Theory
#
# ### The best of n, from one pool
#
# Score a pool of $N$ answers once: proxy scores $s_1, \dots, s_N$ and gold scores $g_1, \dots, g_N$. Sort by proxy, worst
# first, and let $g_{(i)}$ be the gold score of rank $i$. Every subset of size $n$ is an equally likely draw of $n$
# answers. The one of rank $i$ wins in those subsets that contain it and $n-1$ of the $i-1$ answers below it.
#
# ```{prf:theorem} The unbiased estimate
# :label: thm-bon-unbiased
#
# Without ties, the average over all subsets of size $n$ of the winner's gold score is
#
# $$
# \hat g(n) = \sum_{i=n}^{N} w_i\, g_{(i)}, \qquad w_i = \binom{i-1}{n-1} \Big/ \binom Nn ,
# $$
#
# and if the pool holds independent draws from the policy, its expectation is the expected gold score of the best of $n$
# fresh draws. The weights follow from the top by $w_N = n/N$ and $w_{i-1} = w_i\,(i-n)/(i-1)$. With ties, replace each
# $g_{(i)}$ by the mean gold score of all answers with its proxy score.
# ```
#
# ```{prf:proof}
# The weights are counted above, and their recurrence is a ratio of binomial coefficients. Any fixed subset of independent
# draws is itself $n$ independent draws, so each term of the average has the right expectation, and so has the average.
# Let ties be broken at random, all orders of the tied answers being equally likely. Given the subset, that is a fair
# choice among its tied winners. Averaged over the orders, each rank inside a tie holds the mean gold score of the tie.
# ```
#
# {cite:t}`openai2022measuring` use an estimate from one pool as well. Three cousins look alike and are not:
#
# - **With replacement.** Draw $n$ from the pool *with* replacement, in closed form $(F_i^n - F_{i-1}^n)$ with $F_i = i/N$. The same
#   answer is drawn twice, so fewer than $n$ answers compete, and the proxy score comes out too low.
# - **A bootstrap over samples** adds the same copies on top. For an interval resample prompts or, as here, worlds.
# - **Sorting without a rule for ties.** `argsort` breaks ties by the order of the pool. If the pool was ever sorted by
#   anything that knows about gold, the result is biased; otherwise it is one random draw where a mean is to be had.
#
# ### How far best-of-n moves the policy
#
# Break ties at random and let $U \in [0, 1]$ be the quantile of an answer's proxy score; it is uniform under the policy
# $\pi_0$. The largest of $n$ uniform numbers has density $n u^{n-1}$, so
#
# ```{math}
# :label: eq-bon-kl
# \int_0^1 n u^{n-1} \log\bigl(n u^{n-1}\bigr)\, du = \log n - \frac{n-1}{n} .
# ```
#
# This is often quoted as the divergence of best-of-n. It is the divergence of the *quantile*; the answer may say less.
#
# ```{prf:theorem} A bound, and when it is exact
# :label: thm-bon-kl
#
# Let $\pi_n$ be the distribution of the best of $n$. Then $\mathrm{KL}(\pi_n \| \pi_0) \le \log n - (n-1)/n$. If $\pi_0$ is discrete,
# with probability $F(y)$ of a score at or below that of $y$, $F^-(y)$ of one below, and $p(y)/p(\text{level})$ the share of
# $y$ among answers of its score,
#
# $$
# \pi_n(y) = \frac{p(y)}{p(\text{level})} \bigl(F(y)^n - F^-(y)^n\bigr),
# \qquad
# \mathrm{KL}(\pi_n \| \pi_0) \le -\log p(\text{top level}) .
# $$
# ```
#
# ```{prf:proof}
# All $n$ scores are at or below a level with probability $F^n$ and below it with probability $(F^-)^n$; among equal scores
# chance decides. This gives $\pi_n$. The answer is a function of the quantile and of a choice within its level that does not
# depend on $n$. The divergence of a function of a variable is at most that of the variable, which is {eq}`eq-bon-kl`, and equal
# to it only if the density $n u^{n-1}$ is constant where the function is; for $n > 1$ an answer with positive probability
# excludes that. Last, $F^n - (F^-)^n$ is at most 1, and $\pi_n(y)/p(y) = (F^n - (F^-)^n)/p(\text{level})$. This ratio is the mean of
# $n u^{n-1}$ over the level, hence highest at the top, where it is at most $1/p(\text{top level})$; so the mean of its logarithm
# is at most $-\log p(\text{top level})$.
# ```
#
# The bound and its looseness are the subject of {cite:t}`beirami2024theoretical`; the proof above is ours. Measured in
# $d = \sqrt{\mathrm{KL}}$, the unit that {cite:t}`gao2023scaling` use, best-of-4096 is at 2.7: choosing is a mild pressure.
#
# ### What the winner is worth
#
# Let $\psi(u)$ be the expected gold score of an answer at proxy quantile $u$. Then
#
# ```{math}
# :label: eq-bon-psi
# g(n) = \int_0^1 \psi(u)\, n u^{n-1}\, du .
# ```
#
# ```{prf:theorem} A fall needs a bad top
# :label: thm-bon-fall
#
# If $\psi$ does not decrease, $g(n)$ does not decrease. If $\psi$ is continuous at 1, $g(n) \to \psi(1)$.
# ```
#
# ```{prf:proof}
# The largest of $n$ uniform numbers is distributed as $U^{1/n}$, which grows with $n$ at every value of $U$. So $g(n) = \mathrm E\,
# \psi(U^{1/n})$ is the mean of functions that do not decrease in $n$. As $n \to \infty$, $U^{1/n} \to 1$.
# ```
#
# A noisy proxy is therefore not enough for {numref}`fig-bon-puzzle`. The best-scoring answers must be *worse* than those below
# them.
#
# **Gaussian scores.** If proxy and gold are standard normal with correlation $\rho$, then $\psi(u) = \rho\,\Phi^{-1}(u)$ and
#
# $$
# g(n) = \rho\, m_n, \qquad m_n = \int x\, n\, \Phi(x)^{n-1} \varphi(x)\, dx \;\le\; \sqrt{2\,\mathrm{KL}_n} .
# $$
#
# The last step is the Donsker–Varadhan inequality: for $\lambda > 0$, $\lambda\, \mathrm E_{\pi_n}[s] \le \mathrm{KL} +
# \log \mathrm E_{\pi_0} e^{\lambda s} = \mathrm{KL} + \lambda^2/2$; take $\lambda = \sqrt{2\,\mathrm{KL}}$. So gold rises for ever, at most
# like $\sqrt2 \rho\, d$, a share $\rho$ of what the proxy promises. This is *regressional* Goodhart in the terms of
# {cite:t}`manheim2018categorizing`: the winner is lucky as well as good. It disappoints, and it never hurts.
#
# **A rare exploit.** Now let an answer be, with a small probability $\varepsilon$, of another kind: worthless, with gold score
# $g_\varepsilon$, and with a normal proxy score of mean 0 and standard deviation $\tau$. At score $s$ the odds of an exploit are
#
# ```{math}
# :label: eq-bon-odds
# \frac{\varepsilon}{1-\varepsilon}\, \frac{1}{\tau}\,
# \exp\Bigl(\frac{s^2}{2}\bigl(1 - \tau^{-2}\bigr)\Bigr) .
# ```
#
# Everything hangs on $\tau$. At $\tau = 1$ the odds are the same at every score: the exploit costs a share $\varepsilon$ of the gain and
# no more. At $\tau < 1$ selection removes it. At $\tau > 1$, however small $\varepsilon$, the odds grow without bound: the top of the ranking
# is nothing but exploits, $\psi(1) = g_\varepsilon$, and gold must fall. This is *extremal* Goodhart. "Heavy-tailed" means this
# here: a rare kind of answer on which the proxy's scores spread wider than on all others. For errors with truly heavy
# tails, {cite:t}`kwa2024catastrophic` prove more: some policies then gain any amount of proxy reward, close to $\pi_0$, and no
# gold.

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Two panels against the number of answers, for four spreads of the exploit's score. "
    "Gold rises for spread one half and one; for one and a half and two it peaks and falls "
    "to minus three. The probability that an exploit wins rises to one in the same order.",
    caption=r"The two-kinds model, computed exactly: $\rho = 0.7$, one answer in a hundred is "
    r"an exploit of gold score $-3$. Left: gold. Right: probability that an exploit wins.",
    name="fig-bon-two-kinds",
    ncols=2,
)
far = 2.0 ** np.arange(0, 20.5, 0.5)
for tau, color in zip((0.5, 1.0, 1.5, 2.0), plotting.PALETTE, strict=False):
    curve = experiments.two_mode_curve(far, 0.7, probability=0.01, scale=tau)
    look = dict(color=color, marker="", label=rf"$\tau = {tau:g}$")
    axes[0].plot(far, curve["gold"], **look)
    axes[1].plot(far, curve["exploit"], **look)
axes[0].set(xscale="log", xlabel="answers drawn, $n$", ylabel="gold score")
axes[1].set(xscale="log", xlabel="answers drawn, $n$", ylabel="P(exploit wins)")
axes[0].legend()
plotting.show(fig)

# %% [markdown]
# ### A law for the curve
#
# {cite:t}`gao2023scaling` found that two numbers describe the gold score above that of the initial policy, with
# $d = \sqrt{\mathrm{KL}(\pi \| \pi_0)}$:
#
# ```{math}
# :label: eq-bon-laws
# R_{\mathrm{bon}}(d) = d\,(\alpha - \beta d), \qquad R_{\mathrm{rl}}(d) = d\,(\alpha - \beta \log d),
# ```
#
# the first for best-of-n, the second for reinforcement learning. The term $\alpha d$ has the form of the Gaussian gain above, where
# $\alpha \le \sqrt2 \rho$. The term in $\beta$ is a fit, not a theorem; the first law peaks at $d^* = \alpha/2\beta$ and then falls
# without end.

# %% [markdown]
# ## Show it
#
# ### The estimate in a few lines


# %%
def estimate(proxy, gold, n):
    """Gold score of the best of n answers by proxy, averaged over all subsets."""
    order = np.argsort(proxy)
    s, g = proxy[order], gold[order]
    g = np.array([g[s == level].mean() for level in s])  # ties share their mean
    N, w, total = len(s), n / len(s), 0.0
    for i in range(N, n - 1, -1):  # ranks from the top
        total += w * g[i - 1]
        w *= (i - n) / max(i - 1, 1)
    return total


def brute_force(proxy, gold, n):
    """The same by looking at every subset; tied winners share the prize."""
    found = []
    for subset in itertools.combinations(range(len(proxy)), n):
        s, g = proxy[list(subset)], gold[list(subset)]
        found.append(g[s == s.max()].mean())
    return np.mean(found)


# %% [markdown]
# The library's `best_of_n` does this for all $n$ at once. It must agree with both, on pools with ties.

# %%
draws = np.random.default_rng(run.seed)
worst = 0.0
for _ in range(20):
    scores, values = draws.integers(0, 4, 8).astype(float), draws.normal(size=8)
    ours = rw.best_of_n(scores, values, np.arange(1, 9)).gold
    for n in range(1, 9):
        truth = brute_force(scores, values, n)
        worst = max(worst, abs(ours[n - 1] - truth))
        assert math.isclose(estimate(scores, values, n), truth, abs_tol=1e-12)

# %% [markdown]
# What would a plain `argsort` have said? A judge gives grades from 1 to 5, and the pool happens to be stored with the
# better answers last, or first.

# %%
grades = np.repeat(np.arange(1.0, 6.0), 20)
quality = grades + np.tile(np.linspace(-1, 1, 20), 5)  # better answers last


def argsort_estimate(order, n):
    """The same weights on a stable argsort, ties left in the order of the pool."""
    ranked = quality[order][np.argsort(grades[order], kind="stable")]
    return float(rw.best_of_n_weights(100, n) @ ranked)


forward, backward = np.arange(100), np.arange(100)[::-1]
tie_low, tie_high = argsort_estimate(backward, 16), argsort_estimate(forward, 16)
tie_mean = rw.best_of_n(grades, quality, 16).gold
for name, value in dict(low=tie_low, high=tie_high, mean=tie_mean).items():
    glue(f"tie_{name}", value)

# %% [markdown]
# The same hundred answers give {glue:text}`tie_low:.2f` or {glue:text}`tie_high:.2f` at $n = 16$, depending on how the file was
# sorted. The mean over tied winners is {glue:text}`tie_mean:.2f`.
#
# ### Without bias, and with
#
# Draw pools of 64 normal scores, estimate the best of $n$ from each, and compare with the exact $m_n$. The
# {term}`negative control` is $n = 1$: nothing competes, and all estimates are the mean of the pool.

# %%
pools = experiments.estimator_point(64, pools=dial.pools, seed=run.seed)
exact = experiments.expected_maximum(pools["n"])
at16 = list(pools["n"]).index(16)
best16, best16_interval = mean_interval(pools["without"][:, at16])
loss16, loss16_interval = mean_interval(
    pools["replaced"][:, at16] - pools["without"][:, at16]
)
loss1 = float(np.abs(pools["replaced"][:, 0] - pools["without"][:, 0]).max())

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Bias of two estimates against the number of competing answers. The bias without "
    "replacement is zero at every n. With replacement it grows downward with n, to about "
    "minus a fifth of a standard deviation when n equals the pool.",
    caption="Mean error of the estimated best of $n$ from a pool of 64 normal scores. Bands: "
    "95 % interval over pools. At $n = 1$ both are the mean of the pool.",
    name="fig-bon-bias",
)
plotting.band(ax, pools["n"], pools["without"] - exact, label="without replacement")
plotting.band(ax, pools["n"], pools["replaced"] - exact, label="with replacement")
ax.set(xscale="log", xlabel="answers that compete, $n$")
ax.set(ylabel="bias (standard deviations)")
ax.legend()
plotting.show(fig)

# %% [markdown]
# ### The divergence, exactly


# %%
def exact_kl(mass, n):
    """Divergence of best-of-n when level k has probability mass[k], worst first."""
    F = np.cumsum(mass)
    share = F**n - (F - mass) ** n
    return float((share * np.log(share / mass)).sum())


mass = np.array([0.5, 0.3, 0.2])
assert math.isclose(exact_kl(mass, 7), rw.best_of_n_kl_exact(mass, np.arange(3), 7))
coin = rw.best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], 2)  # 3/4 log 3 - log 2
coin64 = rw.best_of_n_kl_exact([0.5, 0.5], [0.0, 1.0], 64)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Divergence against n on a log axis. The formula rises throughout; the exact curves "
    "for two, ten, a hundred and ten thousand equally likely scores follow it and then "
    "flatten, each at its ceiling.",
    caption="Divergence of best-of-n from a policy whose score takes $K$ values with equal "
    r"probability. Dashed: $\log n - (n-1)/n$. Each curve ends at $\log K$.",
    name="fig-bon-kl",
)
whole = np.unique(np.geomspace(1, 2**20, 120).astype(int))
for K, color in zip((2, 10, 100, 10_000), plotting.PALETTE, strict=False):
    found = rw.best_of_n_kl_exact(np.full(K, 1 / K), np.arange(K), whole)
    look = dict(color=color, marker="", linestyle="-", label=f"$K = {K}$")
    ax.plot(whole, found, **look)
ax.plot(
    whole, rw.best_of_n_kl(whole), "--", color="0.3", marker="", label="formula"
)
ax.set(xscale="log", xlabel="answers drawn, $n$", ylabel="divergence (nats)")
ax.legend()
plotting.show(fig)

# %% [markdown]
# A verifier that says right or wrong has two levels. With half of the answers right, best-of-64 is
# {glue:text}`coin64:.3f` nats away, not the {glue:text}`formula64:.3f` of the formula. We look for a violation of the bound on a
# thousand random distributions with random ties, and, as the control, for a gap where theory says that there is none:
# 10,000 distinct, equally likely scores. There the gap is about $n^2/24K^2$.

# %%
excess, looseness = -math.inf, rw.best_of_n_kl(64) / coin64
for _ in range(1000):
    K = int(draws.integers(2, 50))
    mass = draws.dirichlet(np.full(K, 0.5)) + 1e-12
    levels = draws.integers(0, K, K)
    n = np.unique(np.geomspace(2, 10**6, 40).astype(int))
    found = rw.best_of_n_kl_exact(mass / mass.sum(), levels, n)
    excess = max(excess, float((found - rw.best_of_n_kl(n)).max()))
fine = np.full(10_000, 1e-4)
gap = rw.best_of_n_kl(64) - rw.best_of_n_kl_exact(fine, np.arange(10_000), 64)
glue("coin64", coin64)
glue("formula64", rw.best_of_n_kl(64))

# %% [markdown]
# ## Use it: a world that only disappoints
#
# The obvious experiment goes like this. Draw a random network as gold, let the policy draw tokens at random, train
# proxies on noisy comparisons, and watch gold fall. It does not work, and why not is worth seeing. In this *naive* world an
# answer has 12 tokens of a vocabulary of 8, all equally likely.
#
# Whether a curve falls must be asked with care. Its highest point is partly luck, so a flat, noisy curve seems to fall from it.
# We let the *other* worlds say where the peak is, and measure each world from there to its last point. Where gold still rises the
# difference is negative.

# %%
few = sizes | dict(members=2, unrelated=1)
naive = experiments.overoptimization_point(
    "naive", (0.25,), worlds=dial.worlds // 2, **few | dict(members=4)
)
naive_clean = experiments.overoptimization_point(
    "naive", (0.0,), worlds=dial.worlds // 5, **few
)
naive_gold = by_world(naive, "gold")
naive_drop, naive_drop_interval = mean_interval(
    experiments.drop_from_peak(naive_gold)
)
glue("naive_rho_clean", naive_clean["correlation"].mean())
glue("naive_rho_noisy", naive["correlation"].mean())
glue("naive_end", naive_gold[:, -1].mean())

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Two panels, clean and noisy labels, score against number of answers in the naive "
    "world. The proxy rises, the gold score rises much less and flattens, close to the "
    "proxy score times its correlation with gold; it does not fall.",
    caption="The naive world. Left: clean labels. Right: a quarter of the labels turned "
    r"around. Dashed: proxy score times its correlation $\rho$ with gold, the Gaussian "
    "prediction. Mean and 95 % interval over worlds.",
    name="fig-bon-naive",
    ncols=2,
    sharey=True,
)
for ax, point, title in zip(
    axes, (naive_clean, naive), ("clean labels", "25 % label noise"), strict=True
):
    for name in ("proxy", "gold"):
        values = by_world(point, name)
        plotting.band(ax, counts, values, label=name, linestyle="-")
    gaussian = point["correlation"].mean() * by_world(point, "proxy").mean(0)
    look = dict(color="0.3", marker="", label=r"$\rho\,\times$ proxy")
    ax.plot(counts, gaussian, "--", **look)
    ax.set(xscale="log", xlabel="answers drawn, $n$", title=title)
axes[0].set(ylabel="score (standard deviations)")
axes[0].legend()
plotting.show(fig)

# %% [markdown]
# With noisy labels the proxy's correlation with gold is {glue:text}`naive_rho_noisy:.2f` (clean: {glue:text}`naive_rho_clean:.2f`), and
# best-of-4096 reaches {glue:text}`naive_end:.2f`, a fraction of what the proxy promises. This is regressional Goodhart: gold follows
# $\rho$ times the proxy, roughly. All answers are of one kind, errors of the proxy have light tails, and so $\psi$ does not
# decrease.
#
# ## Use it: one exploit in a hundred
#
# In the world of the puzzle the policy has 16 common and 16 rare tokens. It draws common ones, but once in a hundred answers
# it degenerates: one rare token repeated 8 to 16 times. Gold and proxies read how often each token occurs. Gold punishes
# such *bursts* with about $-3$. That is put in by hand. What is *not* put in by hand is that proxies fall for them: they
# learn from a thousand random pairs, which contain about twenty bursts, one or so for each rare token. On a burst a network
# extrapolates, its output grows with the count, and the sign is a matter of luck. Among 16 rare tokens some come out high.
#
# The control keeps everything, reward models included, and takes the bursts out of the pool. And we ask what clean labels change.
# They help, but whether a network scores some burst highly is then a matter of luck, which differs from model to model: to see
# the mean we need more worlds and more models than with noisy labels.

# %%
clean = experiments.overoptimization_point(
    "burst",
    (0.0,),
    worlds=dial.worlds,
    members=dial.members,
    unrelated=1,
    **sizes,
)
both = clean, noisy
proxy, gold, share, without = (
    [by_world(point, name) for point in both]
    for name in ("proxy", "gold", "exploit", "gold_without")
)

# %%
drops = [mean_interval(experiments.drop_from_peak(curves)) for curves in gold]
cleansed = mean_interval(experiments.drop_from_peak(without[1]))
end, middle = list(counts).index(4096), list(counts).index(64)
rise = [mean_interval(curves[:, end] - curves[:, middle]) for curves in proxy]
oracle_drop = float(np.maximum(-np.diff(clean["oracle"], axis=1), 0.0).max())
chance = noisy["unrelated"]
nothing, nothing_interval = mean_interval(chance[:, end] - chance[:, 0])
peaks = [counts[curves.mean(0).argmax()] for curves in gold]
glue("peak_clean", int(peaks[0]))
glue("peak_noisy", int(peaks[1]))
glue("share_clean", 100 * share[0][:, end].mean())
glue("share_noisy", 100 * share[1][:, end].mean())

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Left: gold score against number of answers for clean and noisy labels; both peak and "
    "fall, the noisy one earlier and deeper; with bursts removed both keep rising. Right: the "
    "probability that a burst wins rises from one in a hundred towards one.",
    caption="The burst world. Left: gold score of the winner (solid), and of the winner when "
    "bursts are taken out of the pool (dashed). Right: probability that the winner is a burst. "
    "Mean and 95 % interval over worlds.",
    name="fig-bon-burst",
    ncols=2,
)
for i, label in enumerate(("clean labels", "25 % label noise")):
    look = dict(color=plotting.PALETTE[i], linestyle="-")
    plotting.band(axes[0], counts, gold[i], label=label, **look)
    axes[0].plot(counts, without[i].mean(0), "--", color=look["color"], marker="")
    plotting.band(axes[1], counts, share[i], label=label, **look)
axes[0].set(ylabel="gold score (standard deviations)")
axes[1].set(ylabel="P(a burst wins)")
for ax in axes:
    ax.set(xscale="log", xlabel="answers drawn, $n$")
axes[0].legend()
plotting.show(fig)

# %% [markdown]
# With clean labels gold peaks at $n =$ {glue:text}`peak_clean`, with noisy ones at $n =$ {glue:text}`peak_noisy`. At $n = 4096$ the winner is
# a burst in {glue:text}`share_clean:.0f` % and {glue:text}`share_noisy:.0f` % of the cases, against 1 % under the policy. Take the bursts out
# of the pool, and the same reward models keep their gain.
#
# {prf:ref}`thm-bon-fall` says where to look: at the top of the ranking.

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Mean gold score against rank from the top on a log axis, noisy labels. In the naive "
    "world it is highest at the top ranks. In the burst world it peaks near rank 200 and is "
    "below minus two at the top.",
    caption=r"The function $\psi$: mean gold score of answers in bands of proxy rank, the best "
    "at the left, 25 % label noise. Mean and 95 % interval over worlds.",
    name="fig-bon-ranks",
)
for point, label in ((naive, "naive world"), (noisy, "burst world")):
    plotting.band(ax, point["rank"], by_world(point, "rank_gold"), label=label)
ax.axhline(0, color="0.4", linestyle=":", marker="")
ax.set(xscale="log", xlabel="rank by proxy score (1 is the best)")
ax.set(ylabel="mean gold score")
ax.legend()
plotting.show(fig)

# %% [markdown]
# ## A law for the fall, and its limits
#
# We fit both forms of {eq}`eq-bon-laws` to the mean curve of all worlds, at 25 % label noise. The points of a curve share their pool, so
# the standard errors of a least-squares fit mean little here: intervals come from resampling worlds.


# %%
def fit_laws(worlds=slice(None), noise=1):
    """Both laws fitted to the mean gold curve of some worlds."""
    curve = gold[noise][worlds].mean(0)
    reward = curve - curve[0]
    return {
        form: rw.fit_overoptimization(kl, reward, form) for form in ("bon", "rl")
    }


def advantage(worlds):
    """R^2 of the best-of-n form minus R^2 of the RL form."""
    laws = fit_laws(np.asarray(worlds, dtype=int))
    return laws["bon"].r2 - laws["rl"].r2


# %%
laws = fit_laws()
everyone = np.arange(len(gold[1]))
better = advantage(everyone)
spread = stats.bootstrap(
    (everyone,),
    advantage,
    vectorized=False,
    method="basic",
    n_resamples=999,
    random_state=np.random.default_rng(run.seed),
).confidence_interval
better_interval = (min(spread.low, better), max(spread.high, better))

# %%
bon, start = laws["bon"], gold[1].mean(0)[0]
residual = gold[1].mean(0) - start - bon.predict(kl)
floor = rw.BURST_WORLD.burst_gold - rw.BURST_WORLD.burst_spread
distance = (
    bon.alpha + math.sqrt(bon.alpha**2 - 4 * bon.beta * (floor - start))
) / (2 * bon.beta)
glue("r2_bon", bon.r2)
glue("r2_rl", laws["rl"].r2)
glue("alpha", bon.alpha)
glue("beta", bon.beta)
glue("fitted_peak", bon.peak.distance)
glue("measured_peak", math.sqrt(kl[gold[1].mean(0).argmax()]))
glue("residual", float(np.abs(residual).max()))
glue("floor_kl", distance**2)
glue("gaussian_alpha", math.sqrt(2) * noisy["correlation"].mean())
glue("r2_clean", fit_laws(noise=0)["bon"].r2)
glue("r2_clean_rl", fit_laws(noise=0)["rl"].r2)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Gold gain against the square root of the divergence, measured points and two fitted "
    "laws. The quadratic law is closer than the logarithmic one, bends earlier than the "
    "points and, extended, falls below the lowest gold score that any answer has.",
    caption="Two laws fitted to the measured gain of gold, 25 % label noise. Dashed: beyond "
    "the data. Dotted: the lowest gold score that any burst can have.",
    name="fig-bon-law",
)
plotting.band(
    ax, np.sqrt(kl), gold[1] - gold[1][:, :1], label="measured", linestyle="none"
)
inside = np.linspace(0, math.sqrt(kl[-1]), 200) ** 2
outside = np.linspace(kl[-1], 12, 100)
for form, label, color in (
    ("bon", r"$d(\alpha - \beta d)$", plotting.PALETTE[1]),
    ("rl", r"$d(\alpha - \beta\log d)$", plotting.PALETTE[2]),
):
    law = laws[form]
    look = dict(color=color, marker="")
    ax.plot(np.sqrt(inside), law.predict(inside), "-", label=label, **look)
    ax.plot(np.sqrt(outside), law.predict(outside), "--", **look)
ax.axhline(floor - start, color="0.4", linestyle=":", marker="", label="floor")
ax.set(xlabel=r"$d = \sqrt{\mathrm{KL}}$ (root nats)", ylabel="gain of gold")
ax.legend()
plotting.show(fig)

# %% [markdown]
# The best-of-n form explains more ($R^2 =$ {glue:text}`r2_bon:.2f`) than the RL form ({glue:text}`r2_rl:.2f`); with clean labels it is
# {glue:text}`r2_clean:.2f` against {glue:text}`r2_clean_rl:.2f`. With $\alpha =$ {glue:text}`alpha:.2f` and $\beta =$ {glue:text}`beta:.2f` it puts the
# peak at $d =$ {glue:text}`fitted_peak:.2f`; measured, it is at {glue:text}`measured_peak:.2f`, and the largest residual is
# {glue:text}`residual:.2f`. The misfit has a pattern. A parabola bends from the start, while {eq}`eq-bon-odds` says that an
# exploit is harmless until its odds take off. To reach the fall at the end, the fit overstates the gain at the beginning: among
# Gaussian scores with the correlation measured here, $\alpha$ would be at most {glue:text}`gaussian_alpha:.2f`. And the law cannot hold for
# ever. Beyond {glue:text}`floor_kl:.1f` nats it predicts less than
# any answer is worth. A law of two numbers summarizes a curve; it does not know where the curve ends.

# %% [markdown]
# ## At scale
#
# The same notebook at the `gpu` and `full` presets uses more worlds, more reward models and larger pools. Tables recorded on
# larger machines are drawn here beside this run.

# %%
CHAPTER = "rewards/best_of_n"


def standard_error(x):
    """Standard error of the mean over worlds."""
    return x.std(0, ddof=1) / math.sqrt(len(x))


summary = [
    {
        "n": int(n),
        "proxy": float(proxy[1][:, i].mean()),
        "gold_clean": float(gold[0][:, i].mean()),
        "gold": float(gold[1][:, i].mean()),
        "gold_se": float(standard_error(gold[1])[i]),
        "naive_gold": float(naive_gold[:, i].mean()),
    }
    for i, n in enumerate(counts)
]
recording.record(run, CHAPTER, summary)
recorded = recording.read_tables(CHAPTER)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Gold score against number of answers in the burst world with noisy labels, from this "
    "run and from recorded runs on larger machines. The curves rise, peak and fall together.",
    caption="Gold score in the burst world, 25 % label noise: this run, and recorded runs with "
    "their preset and device. Bars: two standard errors over worlds.",
    name="fig-bon-recorded",
)
curves = {f"this run ({run.preset} preset)": summary}
curves |= {
    f"{r.preset} preset, {r.device}": r.table.to_dict("records") for r in recorded
}
for name, rows in curves.items():
    n, score, error = ([row[c] for row in rows] for c in ("n", "gold", "gold_se"))
    ax.errorbar(n, score, yerr=2 * np.array(error), capsize=2, label=name)
ax.set(xscale="log", xlabel="answers drawn, $n$")
ax.set(ylabel="gold score (standard deviations)")
ax.legend()
plotting.show(fig)

# %% [markdown]
# ## Claims
#
# Each bound below was fixed before the experiments were run. Identities carry their tolerance as the bound; the intervals of all
# others are over worlds, or over pools for the estimator.

# %% tags=["nbval-check-output"]
claim(
    "On pools of eight with ties, the weighted estimate equals the average over all subsets",
    paper="openai2022measuring",
    where="best-of-n sampling",
    measured=worst,
    interval=(worst, worst),
    below=1e-12,
    unit="largest difference",
)

# %% tags=["nbval-check-output"]
claim(
    "From pools of 64 normal scores it finds the best of 16 at 1.766 standard deviations",
    paper="openai2022measuring",
    where="best-of-n sampling",
    measured=best16,
    interval=best16_interval,
    between=(1.756, 1.776),
    unit="standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "Drawing the 16 with replacement gives less than that by more than 0.02",
    paper="openai2022measuring",
    where="best-of-n sampling",
    measured=loss16,
    interval=loss16_interval,
    below=-0.02,
    unit="standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "Where nothing competes, at n = 1, drawing with replacement makes no difference",
    paper="openai2022measuring",
    where="best-of-n sampling",
    control=True,
    measured=loss1,
    interval=(loss1, loss1),
    below=1e-12,
    unit="largest difference",
)

# %% tags=["nbval-check-output"]
claim(
    "The divergence of best-of-n never exceeds log n − (n − 1)/n, on a thousand random distributions",
    paper="beirami2024theoretical",
    where="abstract",
    measured=excess,
    interval=(excess, excess),
    below=1e-12,
    unit="nats, largest excess",
)

# %% tags=["nbval-check-output"]
claim(
    "The better of two flips of a fair coin is 0.131 nats away, not the formula's 0.193",
    paper="beirami2024theoretical",
    where="exact expression",
    measured=coin,
    interval=(coin, coin),
    between=(0.1305, 0.1315),
    unit="nats",
)

# %% tags=["nbval-check-output"]
claim(
    "For a coin and n = 64 the formula overstates the divergence more than four times",
    paper="beirami2024theoretical",
    where="tightness of the bound",
    measured=looseness,
    interval=(looseness, looseness),
    above=4.0,
    unit="ratio",
)

# %% tags=["nbval-check-output"]
claim(
    "With ten thousand distinct scores and no ties the formula is exact at n = 64",
    paper="beirami2024theoretical",
    where="tightness of the bound",
    control=True,
    measured=gap,
    interval=(gap, gap),
    between=(0.0, 1e-4),
    unit="nats",
)

# %% tags=["nbval-check-output"]
claim(
    "From n = 64 to n = 4096 the proxy score rises by more than 1.5 with clean labels",
    paper="gao2023scaling",
    where="overoptimization",
    measured=rise[0][0],
    interval=rise[0][1],
    above=1.5,
    unit="standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "It rises by more than 1.5 with noisy labels as well",
    paper="gao2023scaling",
    where="overoptimization",
    measured=rise[1][0],
    interval=rise[1][1],
    above=1.5,
    unit="standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "With clean labels gold falls from its peak by more than 0.5",
    paper="gao2023scaling",
    where="overoptimization",
    measured=drops[0][0],
    interval=drops[0][1],
    above=0.5,
    unit="standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "With a quarter of the labels turned around gold falls by more than 2",
    paper="gao2023scaling",
    where="overoptimization",
    measured=drops[1][0],
    interval=drops[1][1],
    above=2.0,
    unit="standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "With bursts taken out of the pool the same reward models show no fall",
    paper="gao2023scaling",
    where="overoptimization",
    control=True,
    measured=cleansed[0],
    interval=cleansed[1],
    below=0.1,
    unit="standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "In the naive world, with noisy labels, gold does not fall",
    paper="gao2023scaling",
    where="overoptimization",
    control=True,
    measured=naive_drop,
    interval=naive_drop_interval,
    below=0.1,
    unit="standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "When gold itself chooses, no step to a larger n lowers it",
    paper="gao2023scaling",
    where="overoptimization",
    control=True,
    measured=oracle_drop,
    interval=(oracle_drop, oracle_drop),
    below=1e-9,
    unit="largest fall, standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "Scores that have nothing to do with gold gain nothing",
    paper="gao2023scaling",
    where="overoptimization",
    control=True,
    measured=nothing,
    interval=nothing_interval,
    between=(-0.1, 0.1),
    unit="standard deviations",
)

# %% tags=["nbval-check-output"]
claim(
    "The best-of-n form of the law fits the mean curve better than the form for RL",
    paper="gao2023scaling",
    where="functional forms",
    measured=better,
    interval=better_interval,
    above=0.0,
    unit="difference of R²",
)

# %% [markdown]
# ## Where it breaks
#
# - **The exploit is ours.** The naive world was the first design, and it shows no fall; rare tokens alone were the second, and showed
#   none either. Bursts are the third. A fall of gold is thus no property of learned proxies as such: it needs answers that the
#   policy can give, that the proxy hardly saw, and that are bad. How common these are for language models is an empirical
#   matter, and this chapter says nothing about it.
# - **Gold is known here, and cheap.** {cite:t}`gao2023scaling` also use a synthetic gold, a large reward model in place of people.
#   Whatever separates gold from what people want is outside either experiment.
# - **The pool is finite.** At $n = 4096$ the estimate rests on the top dozen or two of a world's ranking. It has no bias, but it is
#   noisy; that is why worlds are repeated, and why a peak is located on other worlds.
# - **Ties do not matter in our token worlds**, where no score has a probability near $1/4096$, and so the formula
#   for the divergence is as good as exact. They do for graders with few grades and for verifiers.
# - **What changed after the first look:** no bound did. With 8 worlds of 3 reward models each, as first planned, and again with 24
#   worlds of 6, the interval of the fall with clean labels could reach its bound: luck of single reward models is averaged only by
#   trying more often. It is now measured on 40 worlds of 5 models each. One of these looks was at the seed first chosen for this
#   chapter, by mistake; the fall was then 0.89, with an interval from 0.498 to 1.285 around its bound of 0.5. The chapter got a fresh seed.
# - **What was proved, checked and quoted.** The three theorems are proved above and checked numerically; the laws {eq}`eq-bon-laws` are
#   quoted from notes on the paper, and fitted. The paper's abstract was read, not its tables. The bound and the looseness of
#   the divergence were read in the abstract of {cite:t}`beirami2024theoretical`; the opening of {cite:t}`openai2022measuring` was
#   read, and the estimate derived here.
# - **What the papers did that we did not:** reward models from three million to three billion parameters, a policy that writes
#   text, curves up to 60,000 answers, and reinforcement learning. The next chapters train policies.

# %% [markdown]
# ## Exercises
#
# ```{exercise-start} Who wins? (5 minutes)
# :label: ex-bon-weight
# ```
# A pool holds five answers with different scores. Three of them are drawn without replacement, and the best of the three is
# kept. With which probability is it the *second best* of the five? Check with
# `exercises.check("rewards/best_of_n/weight", your_probability)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-bon-weight
# :class: dropdown
# ```
# It must be drawn, with two of the three below it: $\binom32 / \binom53 = 3/10$. In the notation of {prf:ref}`thm-bon-unbiased` this is $w_4$ at
# $N = 5$, $n = 3$.

# %%
exercises.check("rewards/best_of_n/weight", math.comb(3, 2) / math.comb(5, 3))
assert math.isclose(rw.best_of_n_weights(5, 3)[3], 0.3)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} How often does the best of n beat a fresh answer? (20 minutes)
# :label: ex-bon-win
# ```
# Draw the best of $n$ and, independently, one more answer. Let the *win rate* be the probability that the first has the higher score,
# plus half the probability of a tie. Show that it is at most $n/(n+1)$, with equality without ties. Write `win_rate(mass, n)` for scores
# whose levels have the probabilities `mass`, worst first, and check it with
# `exercises.check("rewards/best_of_n/win_rate", win_rate)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-bon-win
# :class: dropdown
# ```
# Given that the winner is at a level, it beats a fresh answer with probability $F^- + \frac12 p(\text{level})$, the *middle* of the level's
# interval of quantiles. The winner's own quantile has the density $n u^{n-1}$, which increases, so inside an interval its mean is at or
# above the middle. Averaged over levels, the win rate is at most the mean quantile, $\int u \cdot n u^{n-1} du = n/(n+1)$. Without ties
# the intervals shrink to points.


# %%
def win_rate(mass, n):
    F = np.cumsum(mass)
    below = F - mass
    return float(((F**n - below**n) * (below + mass / 2)).sum())


exercises.check("rewards/best_of_n/win_rate", win_rate)
assert win_rate(np.array([0.5, 0.5]), 4) < 4 / 5
assert math.isclose(win_rate(np.full(10_000, 1e-4), 4), 4 / 5, rel_tol=1e-6)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} When to stop (20 minutes)
# :label: ex-bon-stop
# ```
# In the model of two kinds, an answer is an exploit with probability 1 in 1000, of gold score $-3$; the proxy's correlation with gold is
# 0.7 on ordinary answers, and its spread on exploits is $\tau = 2$. At which power of two $n$ is gold highest? First guess from
# {eq}`eq-bon-odds`: at which score are the odds 1? Then compute it with `experiments.two_mode_curve` and check with
# `exercises.check("rewards/best_of_n/stop", your_n)`. What does making the exploit ten times rarer buy?
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-bon-stop
# :class: dropdown
# ```
# The odds are 1 at $s^2 = 2 \log\bigl(\tau (1-\varepsilon)/\varepsilon\bigr)/(1 - \tau^{-2})$, here $s \approx 4.5$. Gold turns long before. Near its
# peak a doubling of $n$ gains about 0.15 on ordinary answers, and an exploit in place of a good answer costs about 5: if the
# exploit's share grows by three points in a hundred a doubling, the gain is gone.

# %%
powers = 2.0 ** np.arange(0, 21)


def best_power(probability):
    curve = experiments.two_mode_curve(powers, 0.7, probability, scale=2.0)
    return int(powers[curve["gold"].argmax()])


exercises.check("rewards/best_of_n/stop", best_power(1e-3))
assert best_power(1e-2) < best_power(1e-3) < best_power(1e-4)
glue("stop_common", best_power(1e-2))
glue("stop", best_power(1e-3))
glue("stop_rare", best_power(1e-4))

# %% [markdown]
# Gold is highest at $n =$ {glue:text}`stop`. With exploits ten times as common it is highest at {glue:text}`stop_common`, ten times rarer at
# {glue:text}`stop_rare`: rarity delays the fall and does not prevent it.
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} A reward model that learned nothing (open)
# :label: ex-bon-coin
# ```
# Random scores gain nothing, says the control above. Now train reward models on labels that are coin flips (`noises=(0.5,)`) in the
# burst world. They know nothing about gold either. Predict what best-of-n with such a model does to gold, then run it. Where does
# the difference come from?
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-bon-coin
# :class: dropdown
# ```
# The model knows nothing, but its scores have a wide spread on bursts, where it extrapolates, and a narrow one elsewhere. By {eq}`eq-bon-odds`
# the top of its ranking is full of bursts. A control made of random *scores* is not a control for a random *model*.

# %%
coins = experiments.overoptimization_point(
    "burst",
    (0.5,),
    worlds=4,
    members=2,
    pool=8192,
    seed=run.seed,
    device=str(run.device),
)
coin_gold, coin_share = (
    coins["gold"][0].mean((0, 1)),
    coins["exploit"][0].mean((0, 1)),
)
glue("coin_gold", coin_gold[-1])
glue("coin_share", 100 * coin_share[-1])

# %% [markdown]
# At $n = 4096$ gold is at {glue:text}`coin_gold:.2f`, and the winner is a burst in {glue:text}`coin_share:.0f` % of the cases.
# ```{solution-end}
# ```

# %% [markdown]
# ## Further reading
#
# - {cite:t}`gao2023scaling`: how the coefficients of {eq}`eq-bon-laws` depend on the size of the reward model and on its data.
# - {cite:t}`beirami2024theoretical`: more on the divergence, an estimate of it from samples, and win rates.
# - {cite:t}`openai2022measuring`: best-of-n as a tool for measuring Goodhart's law.
# - {cite:t}`manheim2018categorizing`: kinds of Goodhart effects, beyond the two met here.
# - {cite:t}`kwa2024catastrophic`: what heavy tails of the error do to policies under a KL penalty.
