"""Small trainings in float64, for one process and for those that torchrun starts on this file."""

import json
import os
import shutil
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn

from enough.models import Transformer, TransformerConfig, next_token_loss
from enough.training import TrainingInterrupted, cosine, distributed, fit

STRATEGIES = ("ddp", "fsdp") if distributed.can_cut(torch.device("cpu")) else ("ddp",)


def sequences(count, generator):
    return torch.randint(13, (count, 7), generator=generator)


def pairs(tokens):
    return tokens[:, :-1], tokens[:, 1:]


def fresh(rows):
    """Data that are a function: new sequences every update."""
    return lambda generator: pairs(sequences(rows, generator))


FEW = pairs(sequences(7, torch.Generator().manual_seed(3)))

#: Three ways to cut a batch. Five rows are 2 and 3; a batch of one row leaves a process without.
CASES = {
    "unequal": {"data": fresh(5)},
    "epochs": {"data": FEW, "batch_size": 3},
    "accumulated": {"data": fresh(5), "accumulate": 2},
}


def held_out_loss(model):
    with torch.no_grad():
        return next_token_loss(model(FEW[0]), FEW[1])


def train(group=None, how=None, *, clip=0.5, sgd=False, **options):
    """Train a tiny transformer; return history and whole weights."""
    config = TransformerConfig(
        13, 6, d_model=8, n_layers=2, n_heads=2, qk_norm=True, parameterization="mup", base_width=4
    )
    # Only process 0 starts from the right weights: the others must be told.
    model = Transformer(config, generator=0 if group is None else group.rank).double()
    if group is not None:
        model = distributed.parallelize(model, group, how)
    inner = distributed.unwrap(model)

    def adamw(parameters):
        return torch.optim.AdamW(inner.parameter_groups(3e-3, 0.1), eps=1e-6, fused=True)

    history = fit(
        model,
        loss=next_token_loss,
        **({"optimizer": "sgd", "lr": 0.1} if sgd else {"optimizer": adamw}),
        **({"steps": 10, "data": fresh(5)} | options),
        schedule=cosine(10, warmup=2),
        clip=clip,
        evaluate=held_out_loss,
        evaluate_every=4,
        generator=7,
        group=group,
    )
    weights = {
        name: (p.full_tensor() if hasattr(p, "full_tensor") else p).detach()
        for name, p in inner.named_parameters()
    }
    return {
        "losses": torch.from_numpy(history.losses),
        "held out": torch.from_numpy(history.metrics["evaluation"]),
        "weights": weights,
    }


def interrupt(report, after=5):
    if report.step == after:
        os.kill(os.getpid(), signal.SIGINT)


def stopped_and_resumed(train, path, hooks=(interrupt,)):
    """Interrupt a training after five updates; say what it answers."""
    try:
        train(checkpoint=path, hooks=hooks)
    except TrainingInterrupted as error:
        return error.step
    return None


def message(function, *arguments, **options):
    try:
        function(*arguments, **options)
    except ValueError as error:
        return str(error)
    return None


def streams(group):
    """What layers draw, and what the data are, on each process when nobody gives a seed."""
    drawn, batches = [], []

    def data(generator):
        batches.append(torch.rand(4, 2, generator=generator))
        return batches[-1]

    def objective(model, x):
        drawn.append(torch.rand(()))
        return model(x).square().mean()

    model = distributed.parallelize(nn.Linear(2, 1), group, "ddp")
    fit(model, data, objective=objective, steps=1, group=group)
    return group.gather(drawn[0]), group.gather(batches[0])


def chosen(group):
    """What "auto" makes of a process without memory, and of none."""
    model = nn.Linear(2, 1)
    plenty = distributed.choose_strategy(model, group)
    if group.rank == 1:
        distributed.available_memory = lambda device: 0
    return plenty, distributed.choose_strategy(model, group)


def main(folder):
    results, said = {}, {}
    with distributed.start("cpu") as group:
        second = (interrupt,) if group.rank == 1 else ()
        for how in STRATEGIES:
            for name, options in CASES.items():
                results[name, how] = train(group, how, **options)
            mine = partial(train, group, how)
            # Begun by two, to be resumed by one; begun by one, resumed by two; two and two.
            said[f"{how} stopped"] = stopped_and_resumed(
                mine, folder / f"{how}-begun-by-two", second
            )
            if group.main:
                shutil.copy(folder / "begun-by-one", folder / f"{how}-begun-by-one")
            group.any(False)  # wait for the copy
            results["one then two", how] = mine(checkpoint=folder / f"{how}-begun-by-one")
            path = folder / f"{how}-sgd"
            stopped_and_resumed(partial(mine, sgd=True), path, second)
            results["sgd", how] = mine(sgd=True, checkpoint=path)
            # The end of a training: known to one process, obeyed by both.
            end = (lambda report: report.step == 5,) if group.rank == 1 else ()
            said[f"{how} ended"] = len(mine(hooks=end)["losses"])
            (folder / "damaged").write_bytes(b"no checkpoint")
            said[f"{how} damaged"] = message(mine, checkpoint=folder / "damaged")
        results["streams"] = streams(group)
        said["not spread"] = message(
            fit, nn.Linear(2, 1), torch.ones(2, 2), objective=None, loss=sum, steps=1, group=group
        )
        wide = distributed.parallelize(nn.Linear(2, 2), group, "ddp")
        said["no group"] = message(fit, wide, FEW, nn.functional.mse_loss, steps=1)
        ragged = (torch.ones(2, 2), torch.ones(3, 1))
        said["ragged"] = message(
            fit, wide, lambda _: ragged, nn.functional.mse_loss, steps=1, group=group
        )
        if "fsdp" in STRATEGIES:
            cut = distributed.parallelize(nn.Linear(2, 2), group, "fsdp")
            half = {"steps": 1, "group": group, "precision": torch.float16}
            said["float16"] = message(fit, cut, FEW, nn.functional.mse_loss, **half)
        said["auto"] = chosen(group)
        if group.main:
            torch.save(results, folder / "results.pt")
        (folder / f"said-{group.rank}.json").write_text(json.dumps(said))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
