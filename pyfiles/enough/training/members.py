"""Members of an ensemble: built one by one, checked to be alike, stored as one stack."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from enough.runtime import derive_seed, named_generator
from enough.training.streams import private_state

__all__ = ["Stack", "build_members", "stack_members"]


@dataclass
class Stack:
    """Tensors of E members by name, each of shape (E, ...).

    Parameters
    ----------
    params : dict from str to torch.Tensor
        Parameters that are trained.
    frozen : dict from str to torch.Tensor
        Parameters that are not.
    buffers : dict from str to torch.Tensor
        Buffers, such as running statistics.
    """

    params: dict[str, Tensor]
    frozen: dict[str, Tensor]
    buffers: dict[str, Tensor]

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        for group in (self.params, self.frozen, self.buffers):
            yield from group.items()

    def take(self, members: Tensor | slice) -> Stack:
        """Copy some of the members.

        Parameters
        ----------
        members : torch.Tensor or slice
            Which.

        Returns
        -------
        Stack
            With memory of its own.
        """
        return Stack(
            *(
                {name: t[members].clone() for name, t in group.items()}
                for group in (self.params, self.frozen, self.buffers)
            )
        )

    @torch.no_grad()
    def put(self, members: Tensor | slice, other: Stack, rows: Tensor | slice) -> None:
        """Overwrite some members with rows of another stack.

        Parameters
        ----------
        members : torch.Tensor or slice
            Which members of this stack.
        other : Stack
            Where the values come from.
        rows : torch.Tensor or slice
            Which members of ``other``.
        """
        for (_, mine), (_, theirs) in zip(self, other, strict=True):
            mine[members] = theirs[rows]

    def bind(self, modules: Sequence[nn.Module]) -> None:
        """Make the tensors of modules views into this stack, module e into row e.

        Parameters
        ----------
        modules : sequence of torch.nn.Module
            One a row.
        """
        trained = {**self.params, **self.frozen}
        rows = {name: t.detach().unbind() for name, t in trained.items()}
        buffers = {name: t.unbind() for name, t in self.buffers.items()}
        for e, module in enumerate(modules):
            for name, parameter in module.named_parameters():
                parameter.data = rows[name][e]
            for name, views in buffers.items():
                owner, _, leaf = name.rpartition(".")
                module.get_submodule(owner)._buffers[leaf] = views[e]


def build_members(
    build: Callable[..., nn.Module],
    size: int,
    seed: int,
    device: torch.device | None,
    dtype: torch.dtype | None,
) -> list[nn.Module]:
    """Build every member from a stream of its own, whatever the number of members.

    Parameters
    ----------
    build : callable
        ``build(generator)``, or ``build()``.
    size : int
        Number of members.
    seed : int
        Global seed.
    device : torch.device or None
        Where to put them.
    dtype : torch.dtype or None
        Floating-point type to give them.

    Returns
    -------
    list of torch.nn.Module
        The members. Where they share a part, each has a copy of its own.

    Raises
    ------
    ValueError
        If ``build`` returns something else, or members that differ in structure.
    """
    takes_generator, keyword = _signature(build)
    members: list[nn.Module] = []
    for i in range(size):
        where = device or torch.device("cpu")
        with private_state(derive_seed(seed, "weights", "global", i), where):
            generator = named_generator(seed, "weights", i)
            if not takes_generator:
                member = build()
            elif keyword:
                member = build(generator=generator)
            else:
                member = build(generator)
        if not isinstance(member, nn.Module):
            raise ValueError(
                f"build: expected a function that returns a torch.nn.Module, got "
                f"{type(member).__name__}"
            )
        members.append(member.to(device=device, dtype=dtype))
    if len({id(member) for member in members}) < size:
        raise ValueError("build: expected a new module at every call, got the same one again")
    _check_alike(members)
    tensors = [t for m in members for t in {*m.parameters(), *m.buffers()}]
    if len({id(t) for t in tensors}) < len(tensors):  # say, one pretrained part in all of them
        members = [copy.deepcopy(member) for member in members]
    return members


def stack_members(members: Sequence[nn.Module]) -> Stack:
    """Copy the tensors of all members into one stack and make the members views of it.

    Parameters
    ----------
    members : sequence of torch.nn.Module
        Members that are alike.

    Returns
    -------
    Stack
        Their tensors.

    Raises
    ------
    ValueError
        If nothing is trained, or parameters differ in device or are not floating-point.
    """
    groups: tuple[dict[str, Tensor], ...] = ({}, {}, {})
    named = [dict(member.named_parameters()) for member in members]
    for name, parameter in named[0].items():
        group = groups[0] if parameter.requires_grad else groups[1]
        group[name] = torch.stack([tensors[name].detach() for tensors in named])
    buffers = [dict(member.named_buffers()) for member in members]
    for name in buffers[0]:
        groups[2][name] = torch.stack([tensors[name] for tensors in buffers])
    stack = Stack(*groups)
    if not stack.params:
        raise ValueError("build: expected modules with parameters that require a gradient")
    devices = sorted({str(t.device) for _, t in stack})
    if len(devices) > 1:
        raise ValueError(f"build: expected modules on one device, got {', '.join(devices)}")
    stack.bind(members)
    return stack


def _signature(build: Callable[..., nn.Module]) -> tuple[bool, bool]:
    """Tell whether ``build`` takes a generator, and whether by keyword only."""
    if not callable(build):
        raise ValueError(f"build: expected a callable, got {type(build).__name__}")
    try:
        signature = inspect.signature(build)
    except (TypeError, ValueError):  # built-in callables without a signature
        return True, False
    for arguments, keywords in (((None,), {}), ((), {"generator": None}), ((), {})):
        try:
            signature.bind(*arguments, **keywords)
        except TypeError:
            continue
        return bool(arguments or keywords), bool(keywords)
    raise ValueError(f"build: expected build(generator) or build(), got build{signature}")


def _check_alike(members: Sequence[nn.Module]) -> None:
    first = _structure(members[0])
    for i, member in enumerate(members[1:], 1):
        other = _structure(member)
        if other == first:
            continue
        name = next(n for n in {**first, **other} if first.get(n) != other.get(n))
        raise ValueError(
            f"build: expected members of one structure, but {name or 'the module'} is "
            f"{first.get(name, 'absent')} in member 0 and {other.get(name, 'absent')} in member "
            f"{i}; pad narrow members with units fixed at zero, or make one ensemble a width"
        )


def _structure(module: nn.Module) -> Mapping[str, str]:
    structure = {name: type(m).__name__ for name, m in module.named_modules()}
    for name, p in module.named_parameters():
        kind = "trained" if p.requires_grad else "frozen"
        structure[name] = f"{kind}, {tuple(p.shape)}, {p.dtype}"
    for name, b in module.named_buffers():
        structure[name] = f"a buffer, {tuple(b.shape)}, {b.dtype}"
    return structure
