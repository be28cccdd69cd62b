"""Three ways to run all members: as one stacked batch, through vmap, one after the other."""

from __future__ import annotations

import contextlib
import threading
import warnings
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from enough.training.member_losses import MemberLoss
from enough.training.members import Stack
from enough.training.stacked import stacked_forward

__all__ = ["MODES", "Pass", "make_pass"]

MODES = ("stacked", "vmap", "loop")


class Pass:
    """Predictions, losses and gradients of the members of a stack.

    Parameters
    ----------
    modules : sequence of torch.nn.Module
        The members; the first one stands for the structure.
    stack : Stack
        Their tensors.
    """

    def __init__(self, modules: Sequence[nn.Module], stack: Stack) -> None:
        self.modules, self.stack = list(modules), stack
        self.leaves = list(stack.params.values())

    def train(self, mode: bool) -> None:
        """Set training or evaluation mode.

        Parameters
        ----------
        mode : bool
            Whether to train.
        """
        self.modules[0].train(mode)

    def predict(self, x: Tensor) -> Tensor:
        """Map one batch a member, (E, B, ...), to one output a member."""
        raise NotImplementedError

    def gradients(
        self, x: Tensor, y: Tensor | None, loss: MemberLoss
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Return losses (E,) and the gradients of their sum, one a parameter.

        Parameters
        ----------
        x : torch.Tensor, shape (E, B, ...)
            One batch a member.
        y : torch.Tensor, shape (E, B, ...), or None
            Targets.
        loss : MemberLoss
            The loss.

        Returns
        -------
        losses : torch.Tensor, shape (E,)
            Without a graph.
        grads : list of torch.Tensor or None
            Of the shapes of the parameters; ``None`` where a parameter is not used.
        """
        for leaf in self.leaves:
            leaf.requires_grad_(True)
        losses = loss(self.predict(x), y)
        grads = torch.autograd.grad(losses.sum(), self.leaves, allow_unused=True)
        return losses.detach(), list(grads)


class StackedPass(Pass):
    """All members through batched matrix products."""

    def predict(self, x: Tensor) -> Tensor:
        params = {**self.stack.params, **self.stack.frozen}
        return stacked_forward(self.modules[0], params, self.stack.buffers, x)


class VmapPass(Pass):
    """All members through ``torch.func.vmap``; random layers draw independently."""

    def predict(self, x: Tensor) -> Tensor:
        tensors = {**self.stack.params, **self.stack.frozen, **self.stack.buffers}

        def one(tensors: dict[str, Tensor], x: Tensor) -> Tensor:
            return functional_call(self.modules[0], tensors, (x,))

        with _BATCHABLE[x.device.type == "cpu"]:
            return vmap(one, randomness="different")(tensors, x)


class LoopPass(Pass):
    """One member after the other, each an ordinary module."""

    def __init__(self, modules: Sequence[nn.Module], stack: Stack) -> None:
        super().__init__(modules, stack)
        stack.bind(self.modules)
        self.parameters = []
        for module in self.modules:
            named = dict(module.named_parameters())
            self.parameters.append([named[name] for name in stack.params])

    def train(self, mode: bool) -> None:
        for module in self.modules:
            module.train(mode)

    def predict(self, x: Tensor) -> Tensor:
        return torch.stack([module(x[e]) for e, module in enumerate(self.modules)])

    def gradients(
        self, x: Tensor, y: Tensor | None, loss: MemberLoss
    ) -> tuple[Tensor, list[Tensor | None]]:
        losses, rows = [], []
        for e, module in enumerate(self.modules):
            value = loss.one(module(x[e]), None if y is None else y[e])
            rows.append(torch.autograd.grad(value, self.parameters[e], allow_unused=True))
            losses.append(value.detach())
        grads = [_stack_used(column) for column in zip(*rows, strict=True)]
        return torch.stack(losses), grads


def make_pass(mode: str, modules: Sequence[nn.Module], stack: Stack) -> Pass:
    """Make the pass for a mode.

    Parameters
    ----------
    mode : {"stacked", "vmap", "loop"}
        The mode.
    modules : sequence of torch.nn.Module
        The members.
    stack : Stack
        Their tensors.

    Returns
    -------
    Pass
        The pass.
    """
    kinds = {"stacked": StackedPass, "vmap": VmapPass, "loop": LoopPass}
    return kinds[mode](modules, stack)


def _stack_used(column: Sequence[Tensor | None]) -> Tensor | None:
    used = [grad for grad in column if grad is not None]
    if not used:
        return None
    return torch.stack([torch.zeros_like(used[0]) if g is None else g for g in column])


class _Batchable:
    """Steer torch to kernels that vmap can batch, while at least one thread is inside.

    On the CPU, flash attention and the fused encoder layer have no batching rule, and vmap
    would run them member by member. The switches belong to the process, so the first thread
    to enter throws them and the last to leave throws them back.
    """

    def __init__(self, plain_attention: bool) -> None:
        self._plain_attention = plain_attention
        self._lock = threading.Lock()
        self._inside = 0
        self._switches = contextlib.ExitStack()

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside > 1:
                return
            fast = torch.backends.mha.get_fastpath_enabled()
            self._switches.callback(torch.backends.mha.set_fastpath_enabled, fast)
            torch.backends.mha.set_fastpath_enabled(False)
            if self._plain_attention:
                self._switches.enter_context(sdpa_kernel(SDPBackend.MATH))
            self._switches.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="There is a performance drop")

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0:
                self._switches.close()


_BATCHABLE = {True: _Batchable(True), False: _Batchable(False)}
