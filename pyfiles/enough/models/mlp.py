"""Multilayer perceptrons in three parameterizations, one at a time or many as one batch."""

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
from enough.runtime.validation import check_choice, check_integer, check_number

__all__ = ["MLP", "ScaledLinear"]


class ScaledLinear(nn.Module):
    """An affine map whose weight and bias are multiplied by fixed numbers.

    Computes ``weight_multiplier * x @ weight.T + bias_multiplier * bias``. The multipliers
    are constants of the parameterization, not parameters.

    Parameters
    ----------
    in_features : int
        Length of the last dimension of the input.
    out_features : int
        Length of the last dimension of the output.
    weight_multiplier : float, default 1.0
        Factor of the weight.
    bias_multiplier : float, default 1.0
        Factor of the bias.
    bias : bool, default True
        Whether there is a bias.

    Attributes
    ----------
    weight : torch.nn.Parameter
        Shape (out_features, in_features), zero until filled.
    bias : torch.nn.Parameter or None
        Shape (out_features,), zero until filled.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        weight_multiplier: float = 1.0,
        bias_multiplier: float = 1.0,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight_multiplier, self.bias_multiplier = weight_multiplier, bias_multiplier
        self.weight = nn.Parameter(torch.zeros(out_features, in_features))
        self.register_parameter("bias", nn.Parameter(torch.zeros(out_features)) if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the map.

        Parameters
        ----------
        x : torch.Tensor, shape (..., in_features)
            The input.

        Returns
        -------
        torch.Tensor, shape (..., out_features)
            The output.
        """
        if self.bias is None:
            return F.linear(x, self.weight) * self.weight_multiplier
        rows = torch.addmm(
            self.bias,
            x.reshape(-1, self.in_features),
            self.weight.t(),
            beta=self.bias_multiplier,
            alpha=self.weight_multiplier,
        )
        return rows.view(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        """Describe the layer in ``repr``.

        Returns
        -------
        str
            Sizes and multipliers.
        """
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"weight_multiplier={self.weight_multiplier:.4g}, "
            f"bias_multiplier={self.bias_multiplier:.4g}, bias={self.bias is not None}"
        )


class MLP(nn.Module):
    r"""A multilayer perceptron.

    Parameters
    ----------
    widths : sequence of int
        Input features, hidden widths, output features: ``[64, 128, 128, 10]`` has two hidden
        layers. Two entries give a linear model.
    activation : {"relu", "gelu", "silu", "tanh", "identity"} or callable, default "relu"
        Elementwise function after every layer but the last.
    bias : bool, default True
        Whether layers have biases. They start at zero.
    parameterization : {"standard", "ntk", "mup"}, default "standard"
        How weights, multipliers and learning rates depend on width (see Notes).
    gains : sequence of float, optional
        One gain :math:`g_l` per layer. By default 1 for the layer that reads the input and
        :math:`1/\sqrt{E[\varphi(z)^2]}`, :math:`z \sim N(0, 1)`, for the others (:math:`\sqrt2`
        for ReLU), so that inputs of mean square 1 give preactivations of variance 1.
    generator : torch.Generator or int, optional
        Source of the initial weights. ``None`` reads the global state inside
        ``torch.random.fork_rng``: the weights follow ``torch.manual_seed``, the global state
        does not move, and two models built one after the other are equal.

    Attributes
    ----------
    layers : torch.nn.ModuleList
        ``torch.nn.Linear`` layers ("standard") or `ScaledLinear` layers.
    widths : tuple of int
        As given.

    Raises
    ------
    ValueError
        If a width, a gain or an option is not as described.

    Notes
    -----
    Layer :math:`l` maps :math:`n_{l-1}` to :math:`n_l` features with
    :math:`m_l W_l h + c_l b_l`, weights drawn from :math:`N(0, s_l^2)`:

    ============ ============================ ======================= ================ ==========
    name         :math:`m_l`                  :math:`c_l`             :math:`m_l s_l`  SGD rate
    ============ ============================ ======================= ================ ==========
    standard     1                            1                       :math:`\sigma_l` equal
    ntk          :math:`\sigma_l`             1                       :math:`\sigma_l` equal
    mup          :math:`\sqrt{n_l/n_{l-1}}`   :math:`\sqrt{n_l}`      :math:`\mu_l`    equal
    ============ ============================ ======================= ================ ==========

    with :math:`\sigma_l = g_l/\sqrt{n_{l-1}}` and
    :math:`\mu_l = \sigma_l \min(1, \sqrt{n_l/n_{l-1}})`. All width dependence of "ntk" and "mup"
    sits in the multipliers, so ``SGD(model.parameters(), lr)`` needs no groups. "mup" is the
    spectral condition of [3]_, which for one hidden width is the abc-parameterization of [2]_
    (:math:`a = -1/2, 0, 1/2`; :math:`b = 1/2`; :math:`c = 0`) with the input and output sizes
    made explicit. For Adam it needs the multipliers of `learning_rate_multipliers`.

    References
    ----------
    .. [1] Jacot, Gabriel and Hongler (2018), "Neural tangent kernel", arXiv:1806.07572.
    .. [2] Yang and Hu (2021), "Feature learning in infinite-width neural networks",
       arXiv:2011.14522.
    .. [3] Yang, Simon and Bernstein (2023), "A spectral condition for feature learning",
       arXiv:2310.17813.

    Examples
    --------
    >>> import torch
    >>> from enough.models import MLP
    >>> MLP([64, 32, 10], generator=0)(torch.zeros(5, 64)).shape
    torch.Size([5, 10])
    """

    def __init__(
        self,
        widths: Sequence[int],
        *,
        activation: str | Callable[[Tensor], Tensor] = "relu",
        bias: bool = True,
        parameterization: str = "standard",
        gains: Sequence[float] | None = None,
        generator: torch.Generator | int | None = None,
    ) -> None:
        super().__init__()
        if isinstance(widths, int | float | str) or len(widths) < 2:
            raise ValueError(
                "widths: expected a sequence of at least two sizes (input, hidden ..., output), "
                f"got {widths!r}"
            )
        self.widths = tuple(check_integer(n, "widths", minimum=1) for n in widths)
        self.parameterization = check_choice(
            parameterization, "parameterization", ("standard", "ntk", "mup")
        )
        self.activation = resolve_activation(activation)
        pairs = list(zip(self.widths[:-1], self.widths[1:], strict=True))
        if gains is None:
            gains = [1.0] + [activation_gain(self.activation)] * (len(pairs) - 1)
        elif len(gains) != len(pairs):
            raise ValueError(f"gains: expected {len(pairs)}, one a layer, got {len(gains)}")
        gains = [check_number(gain, "gains", minimum=0.0) for gain in gains]
        self.layers = nn.ModuleList()
        with construction(generator) as generator:
            for (n_in, n_out), gain in zip(pairs, gains, strict=True):
                std, weight_multiplier, bias_multiplier = gain / math.sqrt(n_in), 1.0, 1.0
                if self.parameterization == "ntk":
                    std, weight_multiplier = 1.0, std
                elif self.parameterization == "mup":
                    weight_multiplier, bias_multiplier = math.sqrt(n_out / n_in), math.sqrt(n_out)
                    std *= min(1.0, weight_multiplier) / weight_multiplier
                if self.parameterization == "standard":
                    layer = nn.Linear(n_in, n_out, bias=bias)
                else:
                    layer = ScaledLinear(n_in, n_out, weight_multiplier, bias_multiplier, bias)
                fill_normal(layer.weight, std, generator)
                if bias:
                    nn.init.zeros_(layer.bias)
                self.layers.append(layer)

    def features(self, x: Tensor) -> Tensor:
        """Compute what the last layer reads.

        Parameters
        ----------
        x : torch.Tensor, shape (..., widths[0])
            The input.

        Returns
        -------
        torch.Tensor, shape (..., widths[-2])
            The last hidden activations (the input itself for a linear model).

        Raises
        ------
        ValueError
            If the last dimension of ``x`` is not ``widths[0]``.
        """
        if x.ndim == 0 or x.shape[-1] != self.widths[0]:
            raise ValueError(f"x: expected shape (..., {self.widths[0]}), got {tuple(x.shape)}")
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """Compute the output.

        Parameters
        ----------
        x : torch.Tensor, shape (..., widths[0])
            The input.

        Returns
        -------
        torch.Tensor, shape (..., widths[-1])
            The output, without an activation.

        Raises
        ------
        ValueError
            If the last dimension of ``x`` is not ``widths[0]``.
        """
        return self.layers[-1](self.features(x))

    def stacked_forward(
        self, params: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor
    ) -> Tensor:
        """Compute the outputs of many models of this shape at once.

        One batched matrix product a layer; the model's own parameters play no part.

        Parameters
        ----------
        params : mapping from str to torch.Tensor
            Parameters by name, members stacked along a new first dimension of length E, as
            ``torch.func.stack_module_state`` returns them.
        buffers : mapping from str to torch.Tensor
            Unused: the model has no buffers.
        x : torch.Tensor, shape (E, ..., widths[0])
            The input of each member.

        Returns
        -------
        torch.Tensor, shape (E, ..., widths[-1])
            The output of each member.

        Raises
        ------
        ValueError
            If a parameter is missing or the numbers of members differ.
        """
        check_members(params, [name for name, _ in self.named_parameters()], x)
        if x.ndim < 2 or x.shape[-1] != self.widths[0]:
            raise ValueError(
                f"x: expected shape (members, ..., {self.widths[0]}), got {tuple(x.shape)}"
            )
        batch = x.shape[1:-1]
        h = x.flatten(1, -2) if x.ndim > 2 else x.unsqueeze(1)
        for i, layer in enumerate(self.layers):
            weight = params[f"layers.{i}.weight"].mT
            alpha = getattr(layer, "weight_multiplier", 1.0)
            if layer.bias is None:
                h = torch.bmm(h, weight)
                h = h if alpha == 1.0 else h * alpha
            else:
                bias = params[f"layers.{i}.bias"].unsqueeze(1)
                beta = getattr(layer, "bias_multiplier", 1.0)
                h = torch.baddbmm(bias, h, weight, beta=beta, alpha=alpha)
            if i < len(self.layers) - 1:
                h = self.activation(h)
        return h.unflatten(1, batch) if batch else h.squeeze(1)

    def learning_rate_multipliers(self, optimizer: str = "sgd") -> dict[str, float]:
        r"""Give the factor of the learning rate that each parameter needs.

        Parameters
        ----------
        optimizer : {"sgd", "adam"}, default "sgd"
            The kind of optimizer; "adam" stands for all whose step does not grow with the
            gradient.

        Returns
        -------
        dict from str to float
            By parameter name. All 1, but for "mup" with "adam":
            :math:`1/\sqrt{n_{l-1} n_l}` for weights and :math:`1/\sqrt{n_l}` for biases.

        Raises
        ------
        ValueError
            If ``optimizer`` is neither.
        """
        check_choice(optimizer, "optimizer", ("sgd", "adam"))
        multipliers = {name: 1.0 for name, _ in self.named_parameters()}
        if self.parameterization == "mup" and optimizer == "adam":
            for i, layer in enumerate(self.layers):
                n_out, n_in = layer.weight.shape
                multipliers[f"layers.{i}.weight"] = (n_in * n_out) ** -0.5
                if layer.bias is not None:
                    multipliers[f"layers.{i}.bias"] = n_out**-0.5
        return multipliers

    def parameter_groups(
        self, lr: float, weight_decay: float = 0.0, optimizer: str = "sgd"
    ) -> list[dict[str, Any]]:
        """Give the parameter groups for an optimizer.

        Parameters
        ----------
        lr : float
            The learning rate before the multipliers.
        weight_decay : float, default 0.0
            Decay of the weights; biases do not decay. Divided by the multiplier, so that
            learning rate times decay is the same for every weight.
        optimizer : {"sgd", "adam"}, default "sgd"
            The kind of optimizer.

        Returns
        -------
        list of dict
            Groups with ``params``, ``lr``, ``weight_decay`` and ``lr_multiplier``.

        Raises
        ------
        ValueError
            If a number is negative or ``optimizer`` is neither.
        """
        return parameter_groups(self, self.learning_rate_multipliers(optimizer), lr, weight_decay)
