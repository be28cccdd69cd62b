"""Ask peer packages for losses on preferences, pass@k and best of n, and write a JSON file.

Run in an environment of its own, never in the book's:

    python -m venv .venv-oracles
    .venv-oracles/bin/pip install torch trl scipy
    .venv-oracles/bin/pip install --no-deps evalplus
    .venv-oracles/bin/python tests/oracles/make_rewards.py

TRL has no function of log-probabilities, so its trainers' own methods are called with a model that
answers with given ones. Known traps: TRL averages its ``sft`` term over tokens, not answers, so all
answers have one length and the weight is eta * beta * length; its ``rpo_alpha`` of older versions
belongs to another paper. evalplus returns 1 for c = 0 and k > n, so it is asked for k <= n only.
SciPy's hypergeometric distribution gives the chance that all n answers drawn are among the worst i;
differences of it are the weights of best of n.
"""

from __future__ import annotations

import json
import sys
import warnings
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from rewards_inputs import log_probs, pool, rewards
from scipy.stats import hypergeom

warnings.simplefilter("ignore")

from evalplus.eval import estimate_pass_at_k  # noqa: E402
from trl import DPOTrainer, RewardTrainer  # noqa: E402

PACKAGES = ["trl", "transformers", "torch", "evalplus", "scipy", "numpy"]


def trainer(**settings) -> SimpleNamespace:
    """Return what a trainer's loss reads of the trainer."""
    same = SimpleNamespace(
        device=torch.device("cpu"), gather=lambda x: x, gather_for_metrics=lambda x: x
    )
    return SimpleNamespace(
        accelerator=same,
        model=SimpleNamespace(training=False),
        _metrics=defaultdict(lambda: defaultdict(list)),
        _total_train_tokens=0,
        **settings,
    )


def dpo(tokens: torch.Tensor, base: torch.Tensor, beta: float, losses: dict[str, float]):
    """TRL's loss of per-token log-probabilities (2 * pairs, length), chosen first."""
    asked = trainer(
        aux_loss_enabled=False,
        ld_alpha=None,
        precompute_ref_logps=True,
        f_divergence_type="reverse_kl",
        loss_types=list(losses),
        loss_weights=list(losses.values()),
        beta=beta,
        label_smoothing=0.0,
        use_weighting=False,
    )
    zeros = torch.zeros_like(tokens)
    outputs = SimpleNamespace(
        log_probs=tokens, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool()
    )
    shape = len(tokens), tokens.shape[1] + 1  # the first token is the prompt
    mask = torch.ones(shape, dtype=torch.long)
    mask[:, 0] = 0
    ref_chosen, ref_rejected = base.sum(1).chunk(2)
    inputs = {
        "input_ids": torch.zeros(shape, dtype=torch.long),
        "attention_mask": torch.ones(shape, dtype=torch.long),
        "completion_mask": mask,
        "ref_chosen_logps": ref_chosen,
        "ref_rejected_logps": ref_rejected,
    }
    return DPOTrainer._compute_loss(asked, lambda **_: outputs, inputs, False)


def bradley_terry(scores: torch.Tensor, centering: float):
    """TRL's loss of rewards (2 * pairs,), chosen first."""
    asked = trainer(args=SimpleNamespace(center_rewards_coefficient=centering or None))
    outputs = SimpleNamespace(logits=scores[:, None])
    return RewardTrainer.compute_loss(asked, lambda **_: outputs, {})


def answer(loss, leaf: torch.Tensor) -> dict:
    """Value, and derivative by the number of every answer, which all its tokens share."""
    value = loss(leaf)
    (slope,) = torch.autograd.grad(value, leaf)
    return {"value": value.item(), "slope": slope.view(len(leaf), -1)[:, 0].tolist()}


def preference_cases() -> list[dict]:
    """Losses of direct and of regularized preference optimization."""
    cases = []
    for recipe in ((0, 6, 3, 0.5), (1, 4, 1, 2.0), (2, 5, 8, 6.0)):
        policy, base = (torch.tensor(x).flatten(0, 1) for x in log_probs(*recipe))
        policy.requires_grad_()
        for beta, eta in ((0.1, 0.005), (0.5, 1.0), (3.0, 0.2)):
            only = {"sigmoid": 1.0}
            both = {"sigmoid": 1.0, "sft": eta * beta * recipe[2]}
            cases.append(
                {
                    "log_probs": recipe,
                    "beta": beta,
                    "eta": eta,
                    "dpo": answer(lambda x, b=base, c=beta, d=only: dpo(x, b, c, d), policy),
                    "rpo": answer(lambda x, b=base, c=beta, d=both: dpo(x, b, c, d), policy),
                }
            )
    return cases


def reward_cases() -> list[dict]:
    """Losses of reward models."""
    cases = []
    for recipe in ((3, 7, 1.0), (4, 5, 30.0)):
        scores = torch.tensor(rewards(*recipe)).flatten().requires_grad_()
        for centering in (0.0, 0.001, 0.3):
            cases.append(
                {
                    "rewards": recipe,
                    "centering": centering,
                    "bradley_terry": answer(lambda x, c=centering: bradley_terry(x, c), scores),
                }
            )
    return cases


def pass_cases() -> list[dict]:
    """pass@k of problems with few, many and no right samples."""
    cases = []
    for n in (1, 5, 200, 10_000):
        right = sorted({0, 1, n // 3, n - 1, n})
        for k in sorted({1, min(n, 7), n // 2 or 1, n}):
            found = estimate_pass_at_k(n, right, k).tolist()
            cases.append({"n": n, "c": right, "k": k, "evalplus": found})
    return cases


def best_of_n_cases() -> list[dict]:
    """Expected gold and proxy of the best of n, ties broken at random."""
    cases = []
    for recipe in ((5, 12, 0), (6, 40, 5), (7, 3000, 0), (8, 500, 60)):
        proxy, gold = pool(*recipe)
        size, levels = len(proxy), np.unique(proxy)
        at_or_below = (proxy <= levels[:, None]).sum(1)
        level_gold = np.array([gold[proxy == level].mean() for level in levels])
        for n in sorted({1, 2, 7, size // 3, size}):
            # A level's chance: all n answers at or below it, less all n below it.
            chance = np.diff(hypergeom.pmf(n, size, at_or_below, n), prepend=0.0)
            cases.append(
                {
                    "pool": recipe,
                    "n": n,
                    "gold": float(chance @ level_gold),
                    "proxy": float(chance @ levels),
                }
            )
    return cases


def main() -> None:
    """Write the answers beside this file."""
    answers = {
        "command": "python tests/oracles/make_rewards.py",
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in PACKAGES},
        "preferences": preference_cases(),
        "rewards": reward_cases(),
        "passes": pass_cases(),
        "best_of_n": best_of_n_cases(),
    }
    path = Path(__file__).with_name("rewards.json")
    lines = []
    for key, value in answers.items():
        if isinstance(value, list):  # one case a line keeps differences readable
            value = "[\n  " + ",\n  ".join(map(json.dumps, value)) + "\n ]"
        else:
            value = json.dumps(value)
        lines.append(f" {json.dumps(key)}: {value}")
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n")
    print(f"wrote {path.name}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
