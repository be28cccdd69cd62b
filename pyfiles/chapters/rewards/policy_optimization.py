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
# # Policy gradients: when does a leash help?
#
# **The question.** A policy learns to please a reward model that makes mistakes. The usual safeguard is a penalty on
# its divergence from where it started. How large a penalty is enough, and can a penalty be too large to be safe?
#
# **You will be able to**
#
# - run REINFORCE and PPO with an exact {term}`KL penalty`, and say what the penalty does to the path and what to the goal;
# - prove that for the {term}`natural gradient` the penalty is early stopping and nothing else;
# - compute the range of penalties at which an exploit is the *best* answer to the penalized objective;
# - measure what conservative ensembles buy under a policy gradient, and what a small penalty adds.
#
# **You need** the softmax, expectations and some PyTorch; the chapter on [best-of-n](best_of_n) introduces
# {term}`overoptimization`, the {term}`reward model` and the world we use. Symbols are listed in the
# [notation](../notation.md).
#
# **It takes**
#
# ```{run-times} here
# ```
#
# Three papers are tested: {cite:t}`coste2024ensembles` on ensembles, {cite:t}`gao2023scaling` on penalties, and
# {cite:t}`eisenstein2023helping` on what ensembles cannot do.

# %%
import math

import numpy as np
import pandas as pd
import torch

from enough import plotting, rewards, runtime
from enough.book import claim, exercises, glue, mean_interval
from enough.rewards import experiments
from enough.runtime import recording

run = runtime.start(seed=3581)
run.report()

# %% [markdown]
# Every size is a dial. The `gpu` and `full` presets add worlds, ensembles with a shared trunk, and a byte-level
# transformer trained on text; the `cpu` preset leaves those out.

# %%
groups = (("single", "mean"), ("finetune", "min"), ("pretrain", "mean"))
groups += (("pretrain", "min"),)
text_arms = [
    (members, how, beta) for beta in (0.0, 0.05) for members, how in groups
]
brief = dict(policy_steps=2000, trunk_steps=500, reward_steps=300, iterations=60)
dial = run.pick(
    cpu=dict(worlds=24, clean=40, samples=64, steps=120, rounds=50, text=None),
    gpu=dict(worlds=64, clean=64, samples=128, steps=150, rounds=60, text=brief),
    full=dict(worlds=128, clean=128, samples=256, steps=200, rounds=80, text={}),
)
shared = dict(worlds=dial.worlds, seed=run.seed, device=str(run.device))
search = dict(n_samples=dial.samples, **shared)
clean_search = {**search, "worlds": dial.clean, "noise": 0.0}
reinforce = dict(steps=dial.steps, lr=0.1, monitor_every=5)
ppo = dict(optimizer="ppo", steps=dial.rounds, lr=0.04, monitor_every=2)

# %% [markdown]
# ## The puzzle
#
# In the *burst world* an answer is 16 tokens long. One answer in a hundred is degenerate: a rare token, repeated. The
# {term}`gold reward` punishes that by three standard deviations, but a reward model that has seen a thousand comparisons,
# a quarter of them with the wrong label, hardly knows it. We train a policy by REINFORCE against one such model, with
# three penalties. Surely the larger penalty is the safer one?

# %%
BETAS = (0.0, 0.1, 0.3, 1.0, 3.0)
penalized = [("single", beta) for beta in BETAS]
others = [("min", 0.0), ("min", 0.3)]
controls = [("single", 1000.0), ("patched", 0.3), ("oracle", 0.0)]
arms = penalized + others + controls
noisy = experiments.policy_search_point(arms, **reinforce, **search)


def of(found, arms, reward, beta, what="gold"):
    """A measured curve of one arm: (times, worlds)."""
    return found[what][:, arms.index((reward, beta))]


def bars(ax, x, values, **look):
    """Points with 95 % intervals over worlds; values: (points, worlds)."""
    mean, ends = zip(*map(mean_interval, values), strict=True)
    error = np.abs(np.transpose(ends) - mean)
    ax.errorbar(x, mean, yerr=error, fmt="o", capsize=3, **look)


def penalty_axis(ax):
    """A log axis of penalties, with 0 at its left end."""
    ax.set(xscale="log", xlabel=r"penalty $\beta$")
    ax.set_xticks([max(beta, 0.01) for beta in BETAS], [f"{b:g}" for b in BETAS])
    ax.set_xticks([], minor=True)


# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Two panels against training steps, for three penalties. Left: the proxy reward rises for all. Right: gold "
    "rises most and stays highest without a penalty, falls further with 0.1, and back to its start or below with 0.3.",
    caption="REINFORCE against one reward model trained on noisy labels. Left: what is optimized. Right: what is wanted. "
    "Mean and 95 % interval over worlds.",
    name="fig-policy-puzzle",
    ncols=2,
)
for beta in (0.0, 0.1, 0.3):
    for ax, what in zip(axes, ("proxy", "gold"), strict=True):
        curve = of(noisy, arms, "single", beta, what)
        plotting.band(
            ax, noisy["step"], curve, axis=1, label=rf"$\beta={beta:g}$", marker=""
        )
axes[0].set(xlabel="training step", ylabel="proxy reward (standard deviations)")
axes[1].set(xlabel="training step", ylabel="gold reward (standard deviations)")
axes[1].axhline(0, color="0.4", linestyle=":")
axes[0].legend()
plotting.show(fig)

# %% [markdown]
# {numref}`fig-policy-puzzle` says the opposite. Without a penalty the gold reward ends highest. With a penalty of 0.3 it first
# rises, then falls back to where it began or below, while the proxy goes on rising. The optimizer is not to blame, as we will
# see: it finds what the penalized objective asks for.

# %% [markdown]
# ## Theory
#
# ### The objective
#
# A policy $\pi_\theta$ answers; the proxy scores the answer with $r$. We maximize
#
# ```{math}
# :label: eq-policy-objective
# J(\theta) = \mathbb E_{y \sim \pi_\theta}[r(y)] - \beta\, \mathrm{KL}(\pi_\theta \,\|\, \pi_0),
# ```
#
# with the *reference* $\pi_0$ where training starts, and the coefficient $\beta \ge 0$ of the {term}`KL penalty`. With samples
# $y_1, \dots, y_N$ from $\pi_\theta$, REINFORCE estimates the gradient of the first term without bias by
#
# $$
# \frac1N \sum_i \Bigl(r(y_i) - \frac{1}{N-1} \sum_{j \ne i} r(y_j)\Bigr) \nabla \log \pi_\theta(y_i).
# $$
#
# The baseline of $y_i$ is the mean of the *other* rewards. It does not depend on $y_i$, so it adds nothing on average.
# PPO takes several steps on the same samples with the surrogate $\min(\rho A, \mathrm{clip}(\rho, 1 \pm \epsilon) A)$ of the
# probability ratio $\rho$ and the advantage $A$. Our policies are small enough to compute the divergence exactly, so no
# estimate of it enters the loss.
#
# ### For the natural gradient the penalty is a clock
#
# Give each of $K$ answers its own logit. The Fisher matrix of the softmax is $F = \operatorname{diag}(\pi) - \pi\pi^\top$, and the
# {term}`natural gradient` follows $F^{+} \nabla J$ in place of $\nabla J$.
#
# ```{prf:theorem} The penalty is early stopping
# :label: thm-policy-clock
#
# Natural gradient flow on {eq}`eq-policy-objective` from $\theta_0$ has, up to a constant added to all logits, the solution
#
# $$
# \theta_t - \theta_0 = \frac{1 - e^{-\beta t}}{\beta}\, r ,
# $$
#
# with $t\, r$ in the limit $\beta = 0$. All paths lie on the {term}`tilted family` $\pi_0 e^{s r}/Z_s$. The path with penalty
# $\beta$ is at time $t$ where the path without is at time $s = (1 - e^{-\beta t})/\beta$, and never passes $s = 1/\beta$.
# ```
#
# ```{prf:proof}
# For any function $f$ of the answers $\nabla_\theta \mathbb E_\pi[f] = F f$. Along $\theta$ the log-ratio
# $\log \pi/\pi_0$ is $\theta - \theta_0$ up to a constant, and the expectation of its own derivative vanishes, so
# $\nabla \mathrm{KL} = F(\theta - \theta_0)$. Together $\nabla J = F\bigl(r - \beta(\theta - \theta_0)\bigr)$. The kernel of $F$ holds
# the constant vectors alone, so $F^{+}\nabla J = r - \beta(\theta-\theta_0) + \text{const}$, a linear equation in
# $\theta - \theta_0$; its solution from 0 is the one above.
# ```
#
# Whatever we measure along the path, gold included, is therefore the same function of the divergence for every $\beta$.
# The penalty decides how far the policy goes, not where it passes. {cite:t}`gao2023scaling` report such a finding for
# language models: the penalty acts like early stopping. The theorem needs a logit for every answer and the natural
# gradient. Real policies have neither, and we will see what is left.
#
# ### Why a penalty can favor the exploit
#
# Now look at the goal, not the path. Let ordinary answers have proxy scores that are normal under $\pi_0$, with mean 0 and
# standard deviation $\sigma$. An {term}`exploit` has score $r$ and probability $q$ under $\pi_0$. To answer with nothing
# else takes $c = -\log q$ nats.
#
# ```{prf:theorem} The window of the exploit
# :label: thm-policy-window
#
# Among policies on ordinary answers the best value of $J$ is $\sigma^2/(2\beta)$ (with $\log(1-q) \approx 0$), that of the
# exploit alone is $r - \beta c$. The exploit has the higher value exactly for
#
# ```{math}
# :label: eq-policy-window
# \frac{r - \sqrt{r^2 - 2c\sigma^2}}{2c} < \beta < \frac{r + \sqrt{r^2 - 2c\sigma^2}}{2c},
# ```
#
# and for no $\beta$ if $r \le \sigma\sqrt{2c}$.
# ```
#
# ```{prf:proof}
# For any distribution $p$, $\max_\pi \mathbb E_\pi[s] - \beta\,\mathrm{KL}(\pi\|p) = \beta \log \mathbb E_p[e^{s/\beta}]$, which is
# $\sigma^2/(2\beta)$ for normal scores. The exploit wins if $r - \beta c > \sigma^2/(2\beta)$. Multiply by $\beta$:
# $c\beta^2 - r\beta + \sigma^2/2 < 0$, a quadratic between its roots.
# ```
#
# In words: honest improvement is made of many small steps and pays $\sigma^2/(2\beta)$, without bound as the leash gets longer.
# The exploit is a single switch with a fixed price. A long leash lets honest improvement outgrow the exploit; a very short
# one forbids both; *in between the switch is the best bargain*. Where rewards of ordinary answers are bounded, the lower end
# moves or disappears, since $\sigma^2/(2\beta)$ overstates what they reach.

# %% [markdown]
# ## Show it
#
# The loss of REINFORCE for a table of logits, with the penalty computed exactly:


# %%
def reinforce_loss(theta, theta_0, actions, scores, beta):
    """Loss whose gradient estimates that of -J from one batch of samples."""
    log_pi, log_pi_0 = theta.log_softmax(-1), theta_0.log_softmax(-1)
    baseline = (scores.sum() - scores) / (len(scores) - 1)
    gain = ((scores - baseline) * log_pi[actions]).mean()
    divergence = (log_pi.exp() * (log_pi - log_pi_0)).sum()
    return beta * divergence - gain


stream = run.generator("show it")
theta_0 = torch.zeros(6, dtype=torch.float64)
r = torch.randn(6, generator=stream, dtype=torch.float64)
theta = torch.randn(6, generator=stream, dtype=torch.float64).requires_grad_()
actions = torch.randint(6, (64,), generator=stream)
ours = torch.autograd.grad(
    reinforce_loss(theta, theta_0, actions, r[actions], 0.3), theta
)[0]

policy = rewards.TabularPolicy(theta)
reference = rewards.TabularPolicy(theta_0)
method = rewards.REINFORCE(policy, lambda a: r[a], reference=reference, beta=0.3)
method.loss(actions, r[actions])[0].backward()
assert torch.allclose(ours, policy.logits.grad, atol=1e-12)

# %% [markdown]
# At the first step on fresh samples the ratio is 1, and PPO's surrogate has the same gradient as REINFORCE. And the
# natural gradient, by solving with the Fisher matrix, is $r - \beta(\theta - \theta_0)$ up to a constant:

# %%
log_pi = theta.log_softmax(-1)
advantages = rewards.leave_one_out(r[actions])
surrogate = rewards.ppo_loss(
    log_pi[actions], log_pi[actions].detach(), advantages, clip=0.2
)
plain = reinforce_loss(theta, theta_0, actions, r[actions], 0.0)
assert torch.allclose(
    torch.autograd.grad(surrogate, theta, retain_graph=True)[0],
    torch.autograd.grad(plain, theta)[0],
    atol=1e-12,
)

pi = theta.detach().softmax(-1)
fisher = torch.diag(pi) - torch.outer(pi, pi)
log_pi = theta.log_softmax(-1)
J = (log_pi.exp() * (r - 0.3 * (log_pi + math.log(6)))).sum()
natural = torch.linalg.pinv(fisher) @ torch.autograd.grad(J, theta)[0]
library = rewards.natural_gradient(theta.detach(), r, theta_0, beta=0.3)
assert torch.allclose(natural, library, atol=1e-9)

# %% [markdown]
# ## Use it
#
# ### The theorem, checked by integration
#
# We take 64 answers of each world, scored by a reward model, and integrate the flow numerically for four penalties, without
# using the closed form. The flow must stay on the tilted family, and gold must be one function of the divergence. As the
# {term}`negative control` we drop a premise: the *plain* gradient of the same logits, for which nothing was proved.

# %%
pool = experiments.scored_pool_point(**shared)
FLOW_BETAS = (0.0, 0.1, 0.3, 1.0)


def flows(kind, until, worlds=8):
    """Gradient flows of each world for every penalty, by world and penalty."""
    return [
        [
            experiments.gradient_flow_point(
                pool["proxy"][0, w], pool["gold"][w], beta, until, kind, 1000
            )
            for beta in FLOW_BETAS
        ]
        for w in range(worlds)
    ]


natural_flows, plain_flows = flows("natural", 10.0), flows("plain", 1000.0)

# %%
off_family, off_frontier = [], []
for w, world in enumerate(natural_flows):
    proxy, gold = pool["proxy"][0, w], pool["gold"][w]
    for beta, path in zip(FLOW_BETAS, world, strict=True):
        theta = rewards.natural_gradient_path(0 * proxy, proxy, path["time"], beta)
        closed = torch.as_tensor(theta).softmax(-1).numpy()
        off_family.append(np.abs(path["probs"] - closed).max())
        for i in (250, 500, 999):
            tilt = rewards.solve_tilt(proxy, path["kl"][i])
            there = rewards.tilted_frontier(proxy, gold, tilt).gold
            off_frontier.append(abs(path["gold"][i] - there))
family_gap, frontier_gap = float(max(off_family)), float(max(off_frontier))


def gap_at_equal_kl(world):
    """Largest difference in gold at equal divergence between a penalty and none."""
    free, *bound = world
    gaps = [
        np.abs(path["gold"] - np.interp(path["kl"], free["kl"], free["gold"])).max()
        for path in bound
    ]
    return max(gaps)


plain_gap, plain_interval = mean_interval([gap_at_equal_kl(w) for w in plain_flows])

# %% tags=["hide-input"]
fig, axes = plotting.figure(
    alt="Gold against divergence for four penalties. Under the natural gradient the four curves lie on each other and "
    "end at different points. Under the plain gradient they separate.",
    caption="Exact gradient flow on 64 answers of one world. Left: natural gradient; dots mark the end of each path. "
    "Right: plain gradient of the same logits.",
    name="fig-policy-clock",
    ncols=2,
    sharey=True,
)
for ax, found in zip(axes, (natural_flows, plain_flows), strict=True):
    for beta, path, color in zip(
        FLOW_BETAS, found[0], plotting.PALETTE, strict=False
    ):
        look = dict(marker="", color=color, label=rf"$\beta={beta:g}$")
        ax.plot(path["kl"], path["gold"], **look)
        ax.plot(path["kl"][-1], path["gold"][-1], "o", color=color)
    ax.set(xlabel=r"KL$(\pi\,\|\,\pi_0)$ (nats)")
axes[0].set(ylabel="gold reward (standard deviations)", title="natural gradient")
axes[1].set(title="plain gradient")
axes[0].legend()
plotting.show(fig)

# %% [markdown]
# ### What is left of it for a policy that generalizes
#
# The burst world's policy has 33 logits: which mode (ordinary, or a burst of one of 16 tokens), and which of 16 common
# tokens. Adam moves each at its own rate. Does REINFORCE with a penalty still pass the same points as without?


# %%
def gold_at_equal_kl(free, bound):
    """Gold of a penalized path at its end minus that of the free one at equal KL."""
    return np.array(
        [
            bound["gold"][-1, w] - np.interp(bound["kl"][-1, w], kl, gold)
            for w, (kl, gold) in enumerate(
                zip(free["kl"].T, free["gold"].T, strict=True)
            )
        ]
    )


paths = {
    beta: {what: of(noisy, arms, "single", beta, what) for what in ("kl", "gold")}
    for beta in BETAS
}
moved, moved_interval = mean_interval(gold_at_equal_kl(paths[0.0], paths[0.3]))
glue("moved", moved)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Gold against divergence along training, for a single reward model with three penalties and for the worst case "
    "of five with two. The single model's curves bend down the more the larger the penalty.",
    caption="Gold against divergence along REINFORCE, noisy labels, mean over worlds. A square marks the end. One reward "
    "model (solid) and the minimum of five (dashed).",
    name="fig-policy-frontier",
)
for reward, line in (("single", "-"), ("min", "--")):
    for beta, color in zip((0.0, 0.1, 0.3), plotting.PALETTE, strict=False):
        if (reward, beta) not in arms:
            continue
        kl, gold = (
            of(noisy, arms, reward, beta, what).mean(1) for what in ("kl", "gold")
        )
        label = rf"{'one' if reward == 'single' else 'min of 5'}, $\beta={beta:g}$"
        ax.plot(kl, gold, line, marker="", color=color, label=label)
        ax.plot(kl[-1], gold[-1], "s", color=color)
ax.axhline(0, color="0.4", linestyle=":", linewidth=1)
ax.set(xlabel=r"KL$(\pi\,\|\,\pi_0)$ (nats)")
ax.set(ylabel="gold reward (standard deviations)")
ax.legend(ncols=2, fontsize="small")
plotting.show(fig)

# %% [markdown]
# No. At the divergence where the path with $\beta = 0.3$ ends, its gold differs by {glue:text}`moved:.1f` standard deviations
# from that of the free path ({numref}`fig-policy-frontier`). The penalty changed the destination.

# %% [markdown]
# ### The two prices
#
# {prf:ref}`thm-policy-window` needs three numbers per world: the price $c$ of the switch, the proxy's pay $r$ for the best burst, and
# the spread $\sigma$ of ordinary scores. All can be read off the reward model before any training.

# %%
exploit = experiments.exploit_point(**shared)
pay = exploit["reward"][0].max(-1) - exploit["mean"][0]  # (worlds,)
cost = float(exploit["cost"])
low, high = experiments.penalty_window(pay, cost, exploit["spread"][0])
free_kl = of(noisy, arms, "single", 0.0, "kl")[-1]
free_mode = noisy["mode_kl"][arms.index(("single", 0.0))]
glue("cost", cost)
glue("free_kl", float(free_kl.mean()))
glue("free_mode", float(free_mode.mean()))
glue("pay", float(np.median(pay)))
glue("low", float(np.nanmedian(low)))
glue("high", float(np.nanmedian(high)))
glue("has_window", int(np.isfinite(low).sum()))
glue("n_worlds", dial.worlds)

# %% [markdown]
# The switch costs $c = \log(16/0.01) =$ {glue:text}`cost:.2f` nats. Without a penalty the policy goes {glue:text}`free_kl:.1f`
# nats, of which the mode takes {glue:text}`free_mode:.2f`: honest improvement is the expensive one. The best burst pays
# {glue:text}`pay:.1f` standard deviations (median over worlds). In {glue:text}`has_window:d` of {glue:text}`n_worlds:d`
# worlds there is a window; its median ends are {glue:text}`low:.2f` and {glue:text}`high:.2f`.

# %%
grid = np.geomspace(0.01, 4.0, 100)
inside = (low[:, None] < grid) & (grid < high[:, None])  # False where there is none
ends = {
    beta: of(noisy, arms, "single", beta, "bursts")[-1] for beta in BETAS
}  # share of bursts at the end, by world

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Share of bursts against the penalty, on a log axis. The predicted share of worlds in the window rises from zero, "
    "peaks near 0.3 and falls; the measured share of bursts does the same.",
    caption="Line: share of worlds whose window {eq}`eq-policy-window` holds the penalty, computed before training. Points: share "
    "of bursts after REINFORCE, mean and 95 % interval over worlds.",
    name="fig-policy-window",
)
ax.plot(grid, inside.mean(0), marker="", label="in the window (theory)")
at = [max(beta, 0.01) for beta in BETAS]
measured = np.stack([ends[beta] for beta in BETAS])
bars(ax, at, measured, color=plotting.PALETTE[1], label="bursts at the end")
penalty_axis(ax)
ax.set(ylabel="share", ylim=(-0.05, 1.05))
ax.legend()
plotting.show(fig)

# %% [markdown]
# {numref}`fig-policy-window` compares. The theory knows neither the optimizer nor the policy's 33 parameters, and it treats ordinary
# scores as normal; still it says where the danger lies. Two checks of the reason. If the optimizer were at fault, the policy
# that fell would have a *lower* penalized objective than an honest one. And if the exploit is the cause, paying -3 for every
# burst (the *patched* reward, a control) must end the fall at the same penalty. A fall is measured on the mean of three successive
# measurements, from the peak of the *other* worlds' mean curve, so that noise at a peak does not count.


# %%
def objective(reward, beta):
    """Penalized objective at the end of training, by world."""
    proxy = of(noisy, arms, reward, beta, "proxy")[-1]
    return proxy - beta * of(noisy, arms, reward, beta, "kl")[-1]


def rise_and_fall(curve):
    """Gold from the start to the peak, and from the peak to the end: (worlds,) each."""
    smooth = np.array(
        [curve[max(i - 2, 0) : i + 1].mean(0) for i in range(len(curve))]
    )
    fall = experiments.drop_from_peak(smooth.T)
    return fall + smooth[-1] - smooth[0], fall


def excess_fall(curve, share):
    """Fall from the peak beyond a share of the rise, by world."""
    rise, fall = rise_and_fall(curve)
    return fall - share * rise


# %%
gain, gain_interval = mean_interval(
    objective("single", 0.3) - objective("patched", 0.3)
)
last = {beta: of(noisy, arms, "single", beta)[-1] for beta in BETAS}  # gold
harm, harm_interval = mean_interval(last[0.3] - last[0.0])
more, more_interval = mean_interval(ends[0.3] - ends[0.0])
fewer, fewer_interval = mean_interval(ends[3.0] - ends[0.3])
tight, tight_interval = mean_interval(of(noisy, arms, "single", 1000.0, "kl")[-1])


def fall_beyond(share, reward, beta):
    """Mean and interval of the excess fall of one arm of REINFORCE."""
    return mean_interval(excess_fall(of(noisy, arms, reward, beta), share))


patched, patched_interval = fall_beyond(0.15, "patched", 0.3)
oracle, oracle_interval = fall_beyond(0.05, "oracle", 0.0)
fell, fell_interval = fall_beyond(0.15, "single", 0.3)
prevented, prevented_interval = fall_beyond(0.05, "single", 0.3)

# %%
closed = {what: of(noisy, arms, "patched", 0.3, what) for what in ("kl", "gold")}
glue("apart", mean_interval(gold_at_equal_kl(paths[0.0], closed))[0])
_, free_interval = fall_beyond(0.15, "single", 0.0)
glue("free_excess_low", free_interval[0])
glue("free_excess_high", free_interval[1])

# %% [markdown]
# With the exploit patched, gold at equal divergence differs from the free path by {glue:text}`apart:.2f` where it differed by
# {glue:text}`moved:.1f`: most of what the penalty did to the frontier, it did through the exploit.
#
# ### Divergence: best-of-n against a policy gradient
#
# {cite:t}`gao2023scaling` find that reinforcement learning spends far more divergence than {term}`best-of-n`. With clean labels and
# no penalty, where does REINFORCE (256 answers a step) reach the gold that best-of-$n$ reaches with $\log n - (n-1)/n$ nats? We take the geometric
# mean of the ratio over $n = 16$ and 64.

# %%
clean = experiments.policy_search_point(
    [("single", 0.0)], **reinforce, **clean_search
)
fine = dict(steps=40, lr=0.05, monitor_every=2)
careful = experiments.policy_search_point(
    [("single", 0.0)], **fine, **{**clean_search, "n_samples": 256}
)
rl_kl, rl_gold = careful["kl"][:, 0], careful["gold"][:, 0]  # (times, worlds)
drawn = experiments.scored_pool_point(
    noise=0.0, answers=4096, **{**shared, "worlds": dial.clean}
)
best = rewards.best_of_n(drawn["proxy"][0], drawn["gold"], [16, 64])
bon_gold, bon_kl = best.gold_per_prompt, rewards.best_of_n_kl(best.n)


# %%
def price_ratio(worlds):
    """Divergence of REINFORCE over best-of-n's at equal mean gold, n = 16 and 64."""
    path = rl_kl[:, worlds].mean(1), rl_gold[:, worlds].mean(1)
    wanted = bon_gold[worlds].mean(0)
    ratios = [experiments.kl_to_reach(*path, wanted[i]) / bon_kl[i] for i in (0, 1)]
    return math.sqrt(ratios[0] * ratios[1])


rng = np.random.default_rng(run.seed)
price = price_ratio(np.arange(dial.clean))
draws = [price_ratio(rng.integers(dial.clean, size=dial.clean)) for _ in range(999)]
tails = np.quantile(draws, (0.025, 0.975))
price_interval = (
    min(2 * price - tails[1], price),
    max(2 * price - tails[0], price),
)
glue("price", price)
glue("price_low", price_interval[0])
glue("price_high", price_interval[1])
reach, reach_interval = mean_interval(
    clean["kl"][-1, 0] / rewards.best_of_n_kl(16384)
)
clean_fall, clean_interval = mean_interval(excess_fall(clean["gold"][:, 0], 0.15))

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Gold against divergence on a log axis for best-of-n and REINFORCE with clean labels. Up to three nats the "
    "two are close; REINFORCE goes on to about thirty nats and much higher gold.",
    caption="Clean labels, one reward model: best-of-n up to $n=64$, and REINFORCE without a penalty. Mean and 95 % "
    "interval over worlds.",
    name="fig-policy-bon",
)
for kl, gold, label in (
    (rl_kl, rl_gold, "REINFORCE, 256 answers a step"),
    (clean["kl"][:, 0], clean["gold"][:, 0], f"{dial.samples} answers, more steps"),
):
    plotting.band(ax, kl[1:].mean(1), gold[1:], axis=1, marker="", label=label)
look = dict(color=plotting.PALETTE[2], label="best-of-n, $n=16$ and $64$")
bars(ax, bon_kl, bon_gold.T, **look)
ax.set(xscale="log", xlabel=r"KL$(\pi\,\|\,\pi_0)$ (nats)")
ax.set(ylabel="gold reward (standard deviations)", xlim=(0.1, None))
ax.legend()
plotting.show(fig)

# %% [markdown]
# ### Ensembles under PPO, with a penalty
#
# Five reward models, noisy labels, PPO. What "a single reward model" gives is the mean over all five, each optimized by
# itself, so that no lucky or unlucky choice enters. Against it: the mean, the worst case (WCO, the minimum), and the mean less
# half the variance (UWO). The {term}`negative control` is an ensemble of five *copies* of the first model.


# %%
def team(beta):
    """Arms: each of five models by itself, and three ways to combine them."""
    names = [*(f"member {m}" for m in range(5)), "mean", "min", "uwo"]
    return [(name, beta) for name in names]


ppo_arms = [*team(0.3), ("copies", 0.3)]
by_ppo = experiments.policy_search_point(ppo_arms, **ppo, **search)


def single(found):
    """Gold along training and fall from the peak, averaged over the five models."""
    curves = [found["gold"][:, i] for i in range(5)]
    falls = [rise_and_fall(curve)[1] for curve in curves]
    return np.mean(curves, 0), np.mean(falls, 0)


# %%
one_curve, one_fall = single(by_ppo)
gains, halves, leftover = {}, {}, {}
for how in ("mean", "min", "uwo"):
    curve = of(by_ppo, ppo_arms, how, 0.3)
    halves[how] = mean_interval(rise_and_fall(curve)[1] - 0.5 * one_fall)
    gains[how] = mean_interval(curve[-1] - one_curve[-1])
    leftover[how] = mean_interval(excess_fall(curve, 0.05))
    glue(f"leftover_{how}", leftover[how][0])
    glue(f"leftover_{how}_low", leftover[how][1][0])
    glue(f"leftover_{how}_high", leftover[how][1][1])
same = of(by_ppo, ppo_arms, "copies", 0.3) - of(by_ppo, ppo_arms, "member 0", 0.3)
identical = float(np.abs(same).max())
conservative = {
    beta: of(noisy, arms, "min", beta)[-1] for beta in (0.0, 0.3)
}  # by REINFORCE
small, small_interval = mean_interval(conservative[0.3] - conservative[0.0])

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Gold against PPO rounds with a penalty of 0.3. Single models and the mean of five rise and fall; the minimum and "
    "the uncertainty-weighted score rise and stay.",
    caption="PPO with $\\beta = 0.3$ on noisy labels: one reward model (average over the five), and three ways to combine "
    "them. Mean and 95 % interval over worlds.",
    name="fig-policy-ppo",
)
plotting.band(ax, by_ppo["step"], one_curve, axis=1, label="one model", marker="")
for how, label in (("mean", "mean"), ("min", "WCO"), ("uwo", "UWO")):
    curve = of(by_ppo, ppo_arms, how, 0.3)
    plotting.band(ax, by_ppo["step"], curve, axis=1, label=label, marker="")
ax.axhline(0, color="0.4", linestyle=":", linewidth=1)
ax.set(xlabel="PPO round", ylabel="gold reward (standard deviations)")
ax.legend()
plotting.show(fig)

# %% [markdown]
# ### Helping, and herding
#
# With clean labels the exploit is weaker, and plain averaging is already worth something. But averaging removes only the errors
# that members do not share. Let the annotator overvalue one token, by one standard deviation each time it occurs: now every
# member learns the same error.

# %%
gentle = {**ppo, "lr": 0.02, "monitor_every": dial.rounds}  # the end is enough
clean_arms, joint = team(0.1)[:6], team(0.1)[5:]
helping = experiments.policy_search_point(clean_arms, **gentle, **clean_search)
mean_end = of(helping, clean_arms, "mean", 0.1)[-1]
helped, helped_interval = mean_interval(mean_end - single(helping)[0][-1])

bonus_arms = [*joint, ("oracle", 0.1)]
few = {**clean_search, "worlds": 8}
herding = experiments.policy_search_point(
    bonus_arms, world="bonus", **gentle, **few
)
honest = experiments.policy_search_point([("oracle", 0.1)], **gentle, **few)
SPREAD = math.sqrt(15 / 16)  # of the number of tokens 0 among 16, without bursts

# %%
zeros = {
    how: of(herding, bonus_arms, how, beta, "zeros")[-1] for how, beta in bonus_arms
}
rises = {how: mean_interval((zeros[how] - 1.0) / SPREAD) for how, _ in joint}
least = min(rises, key=lambda how: rises[how][0])
unmoved = float(np.abs(zeros["oracle"] - honest["zeros"][-1, 0]).max())
pd.DataFrame(
    {
        "aggregation": list(rises),
        "overvalued token (sd)": [round(rise, 1) for rise, _ in rises.values()],
        "95 %": [np.round(interval, 1).tolist() for _, interval in rises.values()],
    }
).set_index("aggregation")

# %% [markdown]
# ### Bytes, transformers and twenty-five reward models
#
# The `gpu` and `full` presets leave the toy world. A byte-level transformer is pretrained on text of Python's library, in which
# one window in a hundred holds a byte repeated over and over. A random transformer is gold, and punishes such
# answers. Twenty-five transformer reward models, five pretraining seeds with five fine-tuning seeds each, learn from noisy
# preferences, and PPO optimizes against them with the divergence summed exactly over the vocabulary at every byte. At the `cpu`
# preset this part is *not* run, and no claim of this chapter rests on it.

# %%
text_run = (
    experiments.text_policy_point(
        text_arms, seed=run.seed, device=str(run.device), **dial.text
    )
    if dial.text is not None
    else None
)

# %% tags=["hide-input"]
if text_run is not None:
    fig, axes = plotting.figure(
        alt="Gold against divergence along PPO for a byte-level transformer, one panel without and one with a penalty; "
        "a curve for each way of combining reward models.",
        caption="A byte-level transformer by PPO against transformer reward models, without (left) and with a penalty of "
        "0.05. One run.",
        name="fig-policy-text",
        ncols=2,
        sharey=True,
    )
    for i, (group, how, beta) in enumerate(text_arms):
        ax = axes[int(beta > 0)]
        kl, gold = text_run["kl"][:, i], text_run["gold"][:, i]
        ax.plot(kl, gold, marker="", label=f"{group}, {how}")
        ax.set(xlabel=r"KL$(\pi\,\|\,\pi_0)$ (nats)")
    axes[0].set(ylabel="gold reward (standard deviations)")
    axes[0].legend(fontsize="small")
    plotting.show(fig)

# %% [markdown]
# The same presets also train ensembles that share a trunk, on enough worlds to tell them from ensembles that do not.

# %%
trunks, trunks_interval = None, None
if dial.clean >= 64:
    common = experiments.policy_search_point(
        joint, trunk="shared", **gentle, **clean_search
    )
    trunks, trunks_interval = mean_interval(
        mean_end - of(common, joint, "mean", 0.1)[-1]
    )

# %% [markdown]
# ## At scale
#
# Gold and bursts at the end of REINFORCE for every penalty, from this run and from recorded runs on larger machines.

# %%
CHAPTER = "rewards/policy_optimization"
summary = [
    {
        "beta": beta,
        "gold": float(last[beta].mean()),
        "gold_se": float(last[beta].std(ddof=1) / math.sqrt(dial.worlds)),
        "bursts": float(ends[beta].mean()),
    }
    for beta in BETAS
]
recording.record(run, CHAPTER, summary)
recorded = recording.read_tables(CHAPTER)

# %% tags=["hide-input"]
fig, ax = plotting.figure(
    alt="Final gold against the penalty, from this run and from recorded runs. It falls from its highest value without a "
    "penalty to below zero at 0.3 and 1, and returns to about zero at 3.",
    caption="Gold at the end of REINFORCE against one reward model, noisy labels. Bars: two standard errors.",
    name="fig-policy-recorded",
)
curves = {f"this run ({run.preset} preset)": summary}
curves |= {
    f"{r.preset} preset, {r.device}": r.table.to_dict("records") for r in recorded
}
for name, rows in curves.items():
    beta, gold, error = (
        np.array([row[column] for row in rows])
        for column in ("beta", "gold", "gold_se")
    )
    ax.errorbar(np.maximum(beta, 0.01), gold, yerr=2 * error, capsize=2, label=name)
ax.axhline(0, color="0.4", linestyle=":", linewidth=1)
penalty_axis(ax)
ax.set(ylabel="gold reward (standard deviations)")
ax.legend()
plotting.show(fig)

# %% [markdown]
# ## Claims
#
# Each bound but one (see *Where it breaks*) was fixed before its experiment was first run: from theory where there is one, else from the book's catalogue of papers
# (a fall counts from 15 % of the rise; conservative ensembles should at least halve it; a penalty should leave at most 5 %).
# Intervals are over worlds, 95 %, and arms are paired.
#
# ### The penalty

# %% tags=["nbval-check-output"]
claim(
    "Natural gradient flow with any penalty stays on the tilted family",
    paper="gao2023scaling",
    where="The KL penalty acts like early stopping (derived here for the natural gradient)",
    measured=family_gap,
    interval=(family_gap, family_gap),
    below=1e-6,
    unit="largest difference of probabilities",
)

# %% tags=["nbval-check-output"]
claim(
    "Along it gold at equal divergence is the same for every penalty",
    paper="gao2023scaling",
    where="The KL penalty does not move the frontier (derived here)",
    measured=frontier_gap,
    interval=(frontier_gap, frontier_gap),
    below=1e-6,
    unit="largest difference of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "Without the natural gradient the premise is gone, and the penalty does move the curve",
    paper="gao2023scaling",
    where="The KL penalty does not move the frontier (derived here)",
    control=True,
    measured=plain_gap,
    interval=plain_interval,
    above=1e-3,
    unit="largest difference of gold at equal divergence",
)

# %% tags=["nbval-check-output"]
claim(
    "REINFORCE with a penalty of 0.3 passes the same gold at equal divergence as without",
    paper="gao2023scaling",
    where="The KL penalty does not move the frontier",
    measured=moved,
    interval=moved_interval,
    between=(-0.2, 0.2),
    unit="difference of gold at equal divergence",
    expect="does not hold here",
    because="The penalty makes the cheap mode switch the best bargain, so the path ends elsewhere.",
)

# %% tags=["nbval-check-output"]
claim(
    "With noisy labels a penalty of 0.3 ends with less gold than no penalty",
    paper="gao2023scaling",
    where="The KL coefficient",
    measured=harm,
    interval=harm_interval,
    below=0.0,
    unit="difference of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "It ends with more bursts",
    paper="gao2023scaling",
    where="The KL coefficient (theory of this chapter)",
    measured=more,
    interval=more_interval,
    above=0.0,
    unit="difference of shares",
)

# %% tags=["nbval-check-output"]
claim(
    "A penalty of 3 lies beyond the window, and bursts become rarer again",
    paper="gao2023scaling",
    where="The KL coefficient (theory of this chapter)",
    measured=fewer,
    interval=fewer_interval,
    below=0.0,
    unit="difference of shares",
)

# %% tags=["nbval-check-output"]
claim(
    "The policy that fell has the higher penalized objective, so the optimizer is not at fault",
    paper="gao2023scaling",
    where="The KL coefficient (theory of this chapter)",
    measured=gain,
    interval=gain_interval,
    above=0.0,
    unit="difference of objectives",
)

# %% tags=["nbval-check-output"]
claim(
    "With the exploit patched, the same penalty causes no fall",
    paper="gao2023scaling",
    where="The KL coefficient (theory of this chapter)",
    control=True,
    measured=patched,
    interval=patched_interval,
    below=0.0,
    unit="fall beyond 15 % of the rise",
)

# %% tags=["nbval-check-output"]
claim(
    "Optimizing gold itself shows no overoptimization",
    paper="gao2023scaling",
    where="Overoptimization is that of a proxy",
    control=True,
    measured=oracle,
    interval=oracle_interval,
    below=0.0,
    unit="fall beyond 5 % of the rise",
)

# %% tags=["nbval-check-output"]
claim(
    "An overwhelming penalty leaves the policy at the reference",
    paper="gao2023scaling",
    where="The KL coefficient",
    control=True,
    measured=tight,
    interval=tight_interval,
    below=0.1,
    unit="nats",
)

# %% [markdown]
# ### Divergence

# %% tags=["nbval-check-output"]
claim(
    "At the gold of best-of-n, n = 16 and 64, REINFORCE has spent more than twice the divergence",
    paper="gao2023scaling",
    where="RL spends more KL than best-of-n",
    measured=price,
    interval=price_interval,
    above=2.0,
    unit="ratio of divergences",
    expect="does not hold here",
    because="A policy of 33 logits has hardly a direction to waste divergence in, and gold is nearly additive in tokens.",
)

# %% tags=["nbval-check-output"]
claim(
    "REINFORCE without a penalty ends at more than twice the divergence of best-of-16384",
    paper="gao2023scaling",
    where="RL spends more KL than best-of-n",
    measured=reach,
    interval=reach_interval,
    above=2.0,
    unit="ratio of divergences",
)

# %% [markdown]
# ### Ensembles

# %% tags=["nbval-check-output"]
claim(
    "With clean labels and no penalty, gold falls from its peak by more than 15 % of its rise",
    paper="coste2024ensembles",
    where="A single reward model overoptimizes under PPO (here REINFORCE)",
    measured=clean_fall,
    interval=clean_interval,
    above=0.0,
    unit="fall beyond 15 % of the rise",
    expect="does not hold here",
    because="Without a penalty honest improvement outgrows what the proxy pays for bursts.",
)

# %% tags=["nbval-check-output"]
claim(
    "With noisy labels and a penalty of 0.3, it does",
    paper="coste2024ensembles",
    where="A single reward model overoptimizes under PPO (here REINFORCE)",
    measured=fell,
    interval=fell_interval,
    above=0.0,
    unit="fall beyond 15 % of the rise",
)

# %% tags=["nbval-check-output"]
claim(
    "A large penalty protects a single reward model, which falls by at most 5 % of its rise",
    paper="coste2024ensembles",
    where="Without an ensemble a larger KL penalty is needed",
    measured=prevented,
    interval=prevented_interval,
    below=0.0,
    unit="fall beyond 5 % of the rise",
    expect="does not hold here",
    because="The penalty taxes honest improvement of 16 tokens more than one switch of mode.",
)

# %% tags=["nbval-check-output"]
claim(
    "Under PPO with a penalty of 0.3 and noisy labels, the worst case of five ends above a single model",
    paper="coste2024ensembles",
    where="WCO under PPO",
    measured=gains["min"][0],
    interval=gains["min"][1],
    above=0.0,
    unit="difference of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "So does the uncertainty-weighted score",
    paper="coste2024ensembles",
    where="UWO under PPO",
    measured=gains["uwo"][0],
    interval=gains["uwo"][1],
    above=0.0,
    unit="difference of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "The worst case falls by at most half as much as a single model",
    paper="coste2024ensembles",
    where="WCO under PPO",
    measured=halves["min"][0],
    interval=halves["min"][1],
    below=0.0,
    unit="fall less half the single fall",
)

# %% tags=["nbval-check-output"]
claim(
    "The uncertainty-weighted score falls by at most half as much as a single model",
    paper="coste2024ensembles",
    where="UWO under PPO",
    measured=halves["uwo"][0],
    interval=halves["uwo"][1],
    below=0.0,
    unit="fall less half the single fall",
)

# %% tags=["nbval-check-output"]
claim(
    "For the worst case of five, that penalty ends with more gold than none, by REINFORCE",
    paper="coste2024ensembles",
    where="Conservative ensembles with a small KL penalty work best",
    measured=small,
    interval=small_interval,
    above=0.0,
    unit="difference of gold",
    expect="does not hold here",
    because="The ensemble already blocks the exploit, and what the penalty still does is to shorten honest improvement.",
)

# %% tags=["nbval-check-output"]
claim(
    "Five copies of one model are no better than the model",
    paper="coste2024ensembles",
    where="Diversity of the ensemble",
    control=True,
    measured=identical,
    interval=(identical, identical),
    between=(-1e-9, 1e-9),
    unit="largest difference of gold",
)

# %% [markdown]
# ### Herding

# %% tags=["nbval-check-output"]
claim(
    "With clean labels, PPO on the mean of five ends above PPO on a single model",
    paper="eisenstein2023helping",
    where="Ensembles outperform individual reward models",
    measured=helped,
    interval=helped_interval,
    above=0.0,
    unit="difference of gold",
)

# %% tags=["nbval-check-output"]
claim(
    "Where all members share an error, every ensemble drives the overvalued token up by more than 1 sd",
    paper="eisenstein2023helping",
    where="Shared errors are not removed by ensembling",
    measured=rises[least][0],
    interval=rises[least][1],
    above=1.0,
    unit="standard deviations of the reference, smallest of three aggregations",
)

# %% tags=["nbval-check-output"]
claim(
    "An oracle has no error to share, and does not move",
    paper="eisenstein2023helping",
    where="Shared errors are not removed by ensembling",
    control=True,
    measured=unmoved,
    interval=(unmoved, unmoved),
    between=(-1e-9, 1e-9),
    unit="largest difference in the number of tokens",
)

# %% tags=["nbval-check-output"]
claim(
    "With clean labels the mean of members with trunks of their own ends above that of members with one trunk",
    paper="eisenstein2023helping",
    where="Pretraining seeds against fine-tuning seeds",
    measured=trunks,
    interval=trunks_interval,
    above=0.0,
    unit="difference of gold",
    not_run="" if trunks is not None else "needs the 64 worlds of the gpu preset",
)

# %% [markdown]
# ## Where it breaks
#
# - **The world is made by hand.** Gold punishes bursts by design, and the exploit is one switch. In a language model an exploit may
#   be as long and as costly as honest text; {prf:ref}`thm-policy-window` then says that the penalty does no such harm.
# - **A verdict we do not give.** With noisy labels and *no* penalty, does a single model fall by 15 % of its rise? The interval of
#   the excess here runs from {glue:text}`free_excess_low:.2f` to {glue:text}`free_excess_high:.2f`. On development seeds with up to 48
#   worlds it lay across the bound, and no number of worlds that fits the `cpu` preset would settle it. We make no claim. The
#   same goes for "with a penalty the ensembles fall by at most 5 %": the excess is {glue:text}`leftover_min:.2f`
#   ({glue:text}`leftover_min_low:.2f` to {glue:text}`leftover_min_high:.2f`) for WCO and {glue:text}`leftover_uwo:.2f`
#   ({glue:text}`leftover_uwo_low:.2f` to {glue:text}`leftover_uwo_high:.2f`) for UWO; a few worlds decide it.
# - **One bound was chosen after its result was seen.** "At equal gold REINFORCE spends more divergence than best-of-$n$" was first
#   meant to hold if the ratio is above 1. On development seeds the ratio came out a little below 1, its interval now clear of 1
#   and now across it, so that no verdict would last. Only then did we replace 1 by 2, the lower end of what a prototype of the same kind of world had spent in all. That
#   claim is therefore a description of what we saw and no test. Here the ratio is {glue:text}`price:.2f`
#   ({glue:text}`price_low:.2f` to {glue:text}`price_high:.2f`).
# - **Penalties have units.** {cite:t}`coste2024ensembles` combine ensembles with a coefficient of 0.01 for rewards of another scale. We compare
#   0.3 with 0, for rewards of standard deviation 1, and did not search for a coefficient at which the combination is best.
# - **What changed on the way:** no other bound did. Penalties, step sizes and numbers of rounds were chosen on development seeds so that worlds
#   and rounds suffice; a penalty of 1, first meant to lie beyond the window, lies inside it for some worlds, and 3 took its place. "One
#   model" became the average over five, and best-of-16 the mean over 16 and 64 with larger batches, since single ones were too noisy.
#   Worlds with clean labels went from 32 to 40, since on one development seed the interval of "the mean of five ends above a single
#   model" came near its bound.
#   The annotator's error was made larger, and falls are measured on smoothed curves. A claim that
#   the shared error costs gold was given up: eight worlds cannot settle it.
# - **The normal model is crude.** It ignores that the proxy pays a bounded sum for ordinary tokens, that the policy is a product over
#   tokens, and that training stops after a fixed number of steps.
# - **What was checked against the source:** both theorems are proved here; the papers' findings are quoted from their abstracts and from
#   notes, without section numbers. That Gao et al. report the penalty to leave the gold frontier in place, and more divergence
#   for reinforcement learning, was read in a summary of the paper.
# - **What the papers did that we did not:** language models of up to 1.4 billion parameters, thousands of PPO steps, human-like gold models.

# %% [markdown]
# ## Exercises
#
# ```{exercise-start} The price of the switch (5 minutes)
# :label: ex-policy-cost
# ```
# Under the reference one answer in a hundred is a burst, and its token is one of 16, all alike. How many nats does a policy spend that
# answers with bursts of one token alone, with length and place as before? Check with
# `exercises.check("rewards/policy_optimization/cost", your_nats)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-policy-cost
# :class: dropdown
# ```
# All its answers were $0.01/16$ as likely before, so every log-ratio is $\log(16/0.01)$, and so is their mean.

# %%
exercises.check("rewards/policy_optimization/cost", math.log(16 / 0.01))

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} Read the clock (10 minutes)
# :label: ex-policy-clock
# ```
# A natural gradient flow with $\beta = 0.1$ has run until $t = 20$. After what time did the flow *without* penalty pass the same policy?
# How long could the penalized flow run without getting beyond time 10? Check the first with
# `exercises.check("rewards/policy_optimization/clock", your_time)`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-policy-clock
# :class: dropdown
# ```
# By {prf:ref}`thm-policy-clock` at $s = (1 - e^{-2})/0.1$. And for ever: $s$ never passes $1/\beta = 10$.

# %%
exercises.check("rewards/policy_optimization/clock", (1 - math.exp(-2)) / 0.1)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} When is the switch the best bargain? (20 minutes)
# :label: ex-policy-window
# ```
# Write `window(r, c, sigma)` that returns the two ends of {eq}`eq-policy-window`, or `None` where the exploit never wins. Check it with
# `exercises.check("rewards/policy_optimization/window", window)`. At which penalty is the exploit's lead $r - \beta c - \sigma^2/(2\beta)$
# largest?
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-policy-window
# :class: dropdown
# ```
# The lead has derivative $-c + \sigma^2/(2\beta^2)$, so it is largest at $\beta = \sigma/\sqrt{2c}$, whatever the exploit pays: 0.26 for
# $\sigma = 1$ and the price of our switch.


# %%
def window(r, c, sigma):
    if r <= sigma * math.sqrt(2 * c):
        return None
    root = math.sqrt(r**2 - 2 * c * sigma**2)
    return (r - root) / (2 * c), (r + root) / (2 * c)


exercises.check("rewards/policy_optimization/window", window)
assert window(5.0, 8.0, 1.0) == (0.125, 0.5)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} Three estimates, three gradients (30 minutes)
# :label: ex-policy-gradients
# ```
# Where the divergence cannot be summed exactly, it is estimated from samples $y \sim \pi_\theta$ by $k_1 = \ell$, $k_2 = \ell^2/2$ or
# $k_3 = e^{-\ell} - 1 + \ell$ with $\ell = \log \pi_\theta(y)/\pi_0(y)$. Put into a loss, such a term is differentiated at fixed samples.
# Write `mean_gradient(theta, theta_0, which)` for three or more logits: the expectation over $y$ of the gradient of $k_1$, $k_2$ or $k_3$
# (`which` = 1, 2, 3). Check it with `exercises.check("rewards/policy_optimization/gradients", mean_gradient)`. Which of them is the
# gradient of a divergence, and of which?
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-policy-gradients
# :class: dropdown
# ```
# With $\nabla \ell = \nabla \log \pi_\theta$: $\mathbb E[\nabla k_1] = 0$; $\mathbb E[\nabla k_2] = \mathbb E[\ell \nabla \log \pi] = \nabla
# \mathrm{KL}(\pi\|\pi_0)$; $\mathbb E[\nabla k_3] = \mathbb E[(1 - \pi_0/\pi)\nabla \log \pi] = -\mathbb E_{\pi_0}[\nabla \log \pi] =
# \nabla \mathrm{KL}(\pi_0\|\pi)$. The best estimate of the value ($k_3$: unbiased, never negative) has the gradient of another
# divergence; $k_1$, unbiased too, has none.


# %%
def mean_gradient(theta, theta_0, which):
    theta = theta.detach().clone().requires_grad_()
    log_pi, log_pi_0 = theta.log_softmax(-1), theta_0.log_softmax(-1)
    ratio = log_pi - log_pi_0
    term = {1: ratio, 2: ratio**2 / 2, 3: torch.expm1(-ratio) + ratio}[which]
    weights = log_pi.detach().exp()  # the samples are held fixed
    return torch.autograd.grad((weights * term).sum(), theta)[0]


exercises.check("rewards/policy_optimization/gradients", mean_gradient)

# %% [markdown]
# ```{solution-end}
# ```

# %% [markdown]
# ```{exercise-start} Where does divergence go to waste? (open)
# :label: ex-policy-waste
# ```
# At equal gold, REINFORCE was hardly more expensive than best-of-$n$ here, if at all. Large policies are said to be. Find a change to the *training*, not
# to the world, that makes REINFORCE waste divergence, and measure it with `experiments.kl_to_reach`.
# ```{exercise-end}
# ```

# %% [markdown]
# ```{solution-start} ex-policy-waste
# :class: dropdown
# ```
# One answer: fewer samples a step. Noise in the gradient moves logits that do not matter, and the divergence pays for every move.
# Adam makes it worse, since it takes steps of equal length whether the gradient is signal or noise.

# %%
wasteful = experiments.policy_search_point(
    [("single", 0.0)], **fine, **{**clean_search, "n_samples": 4}
)
wanted = bon_gold[:, 0].mean()
waste, thrift = (
    experiments.kl_to_reach(
        found["kl"][:, 0].mean(1), found["gold"][:, 0].mean(1), wanted
    )
    / bon_kl[0]
    for found in (wasteful, careful)
)
glue("waste", waste)
glue("thrift", thrift)

# %% [markdown]
# With 4 answers a step the ratio to best-of-16 is {glue:text}`waste:.2f`, with {glue:text}`thrift:.2f` with 256. A
# ratio of `inf` would mean that so few samples never get there.
# ```{solution-end}
# ```

# %% [markdown]
# ## Further reading
#
# - {cite:t}`coste2024ensembles`: conservative ensembles under best-of-n and PPO, with 25 % label noise.
# - {cite:t}`gao2023scaling`: how gold depends on divergence for both optimizers, and on the penalty.
# - {cite:t}`eisenstein2023helping`: pretraining against fine-tuning seeds, and the errors that all members share.
# - {cite:t}`kwa2024catastrophic`: when errors of the reward have heavy tails, a penalty on the divergence does not prevent
#   overoptimization.
