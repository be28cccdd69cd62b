"""A small convolutional network with batch norm and residual blocks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from enough.models._building import (
    activation_gain,
    check_members,
    construction,
    fill_normal,
    parameter_groups,
    resolve_activation,
)
from enough.runtime.validation import check_integer

__all__ = ["ConvNet", "ConvNorm", "ResidualBlock"]


class ConvNorm(nn.Module):
    """A convolution without bias, followed by batch norm.

    The padding keeps the size at stride 1 and halves it, rounded up, at stride 2.

    Parameters
    ----------
    in_channels : int
        Channels of the input.
    out_channels : int
        Channels of the output.
    kernel_size : int, default 3
        Odd side of the kernel.
    stride : int, default 1
        Step of the kernel.
    groups : int, default 1
        Groups of channels that do not mix.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding=kernel_size // 2,
            groups=groups,
            bias=False,
        )
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Apply convolution and norm.

        Parameters
        ----------
        x : torch.Tensor, shape (B, in_channels, H, W)
            The input.

        Returns
        -------
        torch.Tensor, shape (B, out_channels, H', W')
            The output, without an activation.
        """
        return self.norm(self.conv(x))


class ResidualBlock(nn.Module):
    """Convolutions with an activation between them and after them, added to their input.

    Parameters
    ----------
    convs : sequence of ConvNorm
        The branch. Its output must have the input's shape where ``residual`` is on.
    activation : callable
        Elementwise function.
    residual : bool, default True
        Whether the input is added before the last activation.
    """

    def __init__(
        self,
        convs: Sequence[ConvNorm],
        activation: Callable[[Tensor], Tensor],
        residual: bool = True,
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.activation = activation
        self.residual = residual

    def forward(self, x: Tensor) -> Tensor:
        """Apply the block.

        Parameters
        ----------
        x : torch.Tensor, shape (B, C, H, W)
            The input.

        Returns
        -------
        torch.Tensor, shape (B, C', H', W')
            The output.
        """
        h = x
        for i, conv in enumerate(self.convs):
            h = conv(h if i == 0 else self.activation(h))
        return self.activation(x + h if self.residual else h)


class ConvNet(nn.Module):
    r"""A small convolutional network for images of 8 to 32 pixels a side.

    One stage per entry of ``channels``: a convolution that changes width and size, then
    ``blocks`` residual blocks of two convolutions each. Batch norm follows every convolution.
    The head averages over space and is linear.

    Parameters
    ----------
    in_channels : int, default 1
        Channels of the image.
    out_features : int, default 10
        Number of outputs.
    channels : sequence of int, default (16, 32, 32)
        Width of each stage.
    blocks : int, default 1
        Residual blocks after the first convolution of each stage; 0 gives a plain network.
    strides : sequence of int, optional
        Stride of each stage's first convolution. By default 1, then 2 for each later stage.
    kernel_size : int, default 3
        Odd side of the kernels.
    depthwise : bool, default False
        Replace each convolution inside the residual blocks by one per channel and one of
        kernel size 1 (depthwise separable).
    residual : bool, default True
        Whether blocks add their input; ``False`` is the control without skip connections.
    activation : {"relu", "gelu", "silu", "tanh", "identity"} or callable, default "relu"
        Elementwise function.
    pool_size : int, default 1
        Side of the grid of averages that the head reads; 1 is global average pooling.
    generator : torch.Generator or int, optional
        Source of the initial weights. ``None`` reads the global state inside
        ``torch.random.fork_rng``: the weights follow ``torch.manual_seed``, the global state
        does not move, and two models built one after the other are equal.

    Attributes
    ----------
    stages : torch.nn.ModuleList
        The blocks in order, `ResidualBlock` each.
    head : torch.nn.Linear
        The last layer.

    Raises
    ------
    ValueError
        If an option is not as described.

    Notes
    -----
    Kernels start at :math:`N(0, g^2/n)` with fan-in n and gain g = 1 for the first layer,
    :math:`1/\sqrt{E[\varphi(z)^2]}` for the others (He et al. [1]_ for ReLU); the head at
    :math:`N(0, 1/n)`. Biases start at 0, batch norm at gain 1 and shift 0. Blocks follow [2]_,
    separable convolutions [3]_. ``ConvNet(channels=(16, 32, 32), blocks=0, pool_size=2)`` on 8 x 8
    digits has three convolutions of 144, 4608 and 9216 weights and a head of 1280.

    References
    ----------
    .. [1] He, Zhang, Ren and Sun (2015), "Delving deep into rectifiers", arXiv:1502.01852.
    .. [2] He, Zhang, Ren and Sun (2016), "Deep residual learning for image recognition",
       arXiv:1512.03385.
    .. [3] Howard et al. (2017), "MobileNets", arXiv:1704.04861.

    Examples
    --------
    >>> import torch
    >>> from enough.models import ConvNet
    >>> ConvNet(generator=0)(torch.zeros(4, 1, 8, 8)).shape
    torch.Size([4, 10])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_features: int = 10,
        channels: Sequence[int] = (16, 32, 32),
        *,
        blocks: int = 1,
        strides: Sequence[int] | None = None,
        kernel_size: int = 3,
        depthwise: bool = False,
        residual: bool = True,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        pool_size: int = 1,
        generator: torch.Generator | int | None = None,
    ) -> None:
        super().__init__()
        self.in_channels = check_integer(in_channels, "in_channels", minimum=1)
        self.out_features = check_integer(out_features, "out_features", minimum=1)
        if isinstance(channels, int | float | str) or not len(channels):
            raise ValueError(f"channels: expected a sequence of widths, got {channels!r}")
        self.channels = tuple(check_integer(c, "channels", minimum=1) for c in channels)
        blocks = check_integer(blocks, "blocks", minimum=0)
        if strides is None:
            strides = (1,) + (2,) * (len(self.channels) - 1)
        if isinstance(strides, int) or len(strides) != len(self.channels):
            raise ValueError(
                f"strides: expected {len(self.channels)} strides, one a stage, got {strides!r}"
            )
        self.strides = tuple(check_integer(s, "strides", minimum=1) for s in strides)
        kernel_size = check_integer(kernel_size, "kernel_size", minimum=1)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size: expected an odd number, got {kernel_size}")
        self.pool_size = check_integer(pool_size, "pool_size", minimum=1)
        self.activation = resolve_activation(activation)
        gain = activation_gain(self.activation)

        def branch_conv(width: int) -> list[ConvNorm]:
            if not depthwise:
                return [ConvNorm(width, width, kernel_size)]
            return [
                ConvNorm(width, width, kernel_size, groups=width),
                ConvNorm(width, width, 1),
            ]

        with construction(generator) as generator:
            self.stages = nn.ModuleList()
            width = self.in_channels
            for out, stride in zip(self.channels, self.strides, strict=True):
                first = ConvNorm(width, out, kernel_size, stride)
                self.stages.append(ResidualBlock([first], self.activation, residual=False))
                for _ in range(blocks):
                    branch = branch_conv(out) + branch_conv(out)
                    self.stages.append(ResidualBlock(branch, self.activation, residual))
                width = out
            self.head = nn.Linear(width * self.pool_size**2, self.out_features)
            for i, conv in enumerate(m for m in self.modules() if isinstance(m, nn.Conv2d)):
                fan_in = conv.weight[0].numel()
                fill_normal(conv.weight, (gain if i else 1.0) / math.sqrt(fan_in), generator)
            fill_normal(self.head.weight, 1 / math.sqrt(self.head.in_features), generator)
            nn.init.zeros_(self.head.bias)

    def features(self, x: Tensor) -> Tensor:
        """Compute what the head reads.

        Parameters
        ----------
        x : torch.Tensor, shape (B, in_channels, H, W)
            The images.

        Returns
        -------
        torch.Tensor, shape (B, channels[-1] * pool_size ** 2)
            The averaged activations.

        Raises
        ------
        ValueError
            If ``x`` has another shape.
        """
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"x: expected shape (batch, {self.in_channels}, height, width), "
                f"got {tuple(x.shape)}"
            )
        for stage in self.stages:
            x = stage(x)
        return F.adaptive_avg_pool2d(x, self.pool_size).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the outputs.

        Parameters
        ----------
        x : torch.Tensor, shape (B, in_channels, H, W)
            The images.

        Returns
        -------
        torch.Tensor, shape (B, out_features)
            The outputs (logits for a classifier).

        Raises
        ------
        ValueError
            If ``x`` has another shape.
        """
        return self.head(self.features(x))

    def stacked_forward(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor
    ) -> Tensor:
        """Compute the outputs of many models of this shape at once.

        Members become groups of channels: one grouped convolution and one batch norm a layer,
        so each member keeps statistics of its own. In training mode the running statistics in
        ``buffers`` are updated in place, as a call of the single model would.

        Parameters
        ----------
        params : mapping from str to torch.Tensor
            Parameters by name, members stacked along a new first dimension of length E, as
            ``torch.func.stack_module_state`` returns them.
        buffers : mapping from str to torch.Tensor
            Buffers by name, stacked in the same way and contiguous.
        x : torch.Tensor, shape (E, B, in_channels, H, W)
            The images of each member.

        Returns
        -------
        torch.Tensor, shape (E, B, out_features)
            The outputs of each member.

        Raises
        ------
        ValueError
            If a parameter or buffer is missing or the numbers of members differ.
        """
        members = check_members(params, [name for name, _ in self.named_parameters()], x)
        if x.ndim != 5 or x.shape[2] != self.in_channels:
            raise ValueError(
                f"x: expected shape (members, batch, {self.in_channels}, height, width), "
                f"got {tuple(x.shape)}"
            )
        missing = sorted({name for name, _ in self.named_buffers()} - set(buffers))
        if missing:
            raise ValueError(f"buffers: expected every buffer by name, {missing[0]} missing")

        def conv_norm(name: str, layer: ConvNorm, h: Tensor) -> Tensor:
            conv, norm = layer.conv, layer.norm
            h = F.conv2d(
                h,
                params[f"{name}.conv.weight"].flatten(0, 1),
                stride=conv.stride,
                padding=conv.padding,
                groups=members * conv.groups,
            )
            if norm.training:
                buffers[f"{name}.norm.num_batches_tracked"].add_(1)
            return F.batch_norm(
                h,
                buffers[f"{name}.norm.running_mean"].view(-1),
                buffers[f"{name}.norm.running_var"].view(-1),
                params[f"{name}.norm.weight"].flatten(),
                params[f"{name}.norm.bias"].flatten(),
                training=norm.training,
                momentum=norm.momentum,
                eps=norm.eps,
            )

        h = x.transpose(0, 1).flatten(1, 2)
        for s, stage in enumerate(self.stages):
            skip = h
            for i, layer in enumerate(stage.convs):
                h = conv_norm(f"stages.{s}.convs.{i}", layer, stage.activation(h) if i else h)
            h = stage.activation(skip + h if stage.residual else h)
        h = F.adaptive_avg_pool2d(h, self.pool_size)
        h = h.unflatten(1, (members, -1)).flatten(2).transpose(0, 1)
        return torch.baddbmm(params["head.bias"].unsqueeze(1), h, params["head.weight"].mT)

    def learning_rate_multipliers(self, optimizer: str = "sgd") -> dict[str, float]:
        """Give the factor of the learning rate that each parameter needs: 1.

        Parameters
        ----------
        optimizer : str, default "sgd"
            Unused: this network has one parameterization.

        Returns
        -------
        dict from str to float
            By parameter name.
        """
        return {name: 1.0 for name, _ in self.named_parameters()}

    def parameter_groups(
        self, lr: float, weight_decay: float = 0.0, optimizer: str = "sgd"
    ) -> list[dict[str, Any]]:
        """Give the parameter groups for an optimizer.

        Parameters
        ----------
        lr : float
            The learning rate.
        weight_decay : float, default 0.0
            Decay of kernels and of the head's weight; biases and batch norm do not decay.
        optimizer : str, default "sgd"
            Unused: this network has one parameterization.

        Returns
        -------
        list of dict
            Groups with ``params``, ``lr``, ``weight_decay`` and ``lr_multiplier``.

        Raises
        ------
        ValueError
            If a number is negative.
        """
        return parameter_groups(self, self.learning_rate_multipliers(optimizer), lr, weight_decay)
