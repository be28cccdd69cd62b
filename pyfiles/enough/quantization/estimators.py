"""Methods as estimators: say how, then ``fit(model, calibration_data)``.

Each builds a `Recipe` and calls `quantize_model`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from sklearn.base import BaseEstimator
from torch import nn

from enough.quantization.model import quantize_model
from enough.quantization.recipe import Recipe

__all__ = ["GPTQ", "AdaQuant", "AdaRound", "PDQuant", "PostTrainingQuantizer"]


class PostTrainingQuantizer(BaseEstimator, ABC):
    """Base of the methods as estimators.

    A subclass holds its options as attributes and says which `Recipe` they mean.

    Attributes
    ----------
    model_ : torch.nn.Module
        The quantized copy of the model given to `fit`.
    report_ : QuantizationReport
        What happened to each layer.
    """

    @abstractmethod
    def recipe(self) -> Recipe:
        """Write the options as a recipe.

        Returns
        -------
        Recipe
            What `fit` hands to `quantize_model`.
        """

    def fit(self, model: nn.Module, calibration_data: Any) -> PostTrainingQuantizer:
        """Quantize a trained model with a few unlabeled samples.

        Parameters
        ----------
        model : torch.nn.Module
            The model; it stays as it is.
        calibration_data : array, mapping, or iterable of batches
            As in `quantize_model`.

        Returns
        -------
        PostTrainingQuantizer
            The estimator itself.

        Raises
        ------
        ValueError
            If an option, the model or the data are not as `quantize_model` expects.
        """
        self.model_ = quantize_model(
            model, self.recipe(), calibration_data, generator=getattr(self, "generator", None)
        )
        self.report_ = self.model_.report
        return self


class GPTQ(PostTrainingQuantizer):
    """Round column by column, feeding errors back.

    Parameters
    ----------
    bits : int, default 4
        Width of the weights, 2 to 8.
    symmetric : bool, default False
        Whether the grids are symmetric around zero.
    group_size : int, optional
        Columns that share a step. Default: one step an output channel.
    range_method : str, default "minmax"
        How the ranges of the weights are chosen, as in `choose_qparams`.
    activation_bits : int, optional
        Width of the layers' inputs. Default: they stay in floating point.
    overrides : mapping from str, optional
        Exceptions by layer, as in `Recipe`.
    bias_correction : bool, default False
        Whether the bias makes up for the mean error of the output.
    damping : float, default 0.01
        What is added to the diagonal of the second moments, as a share of its mean.
    order : str, default "natural"
        Columns as they stand, or ``"activation"``: the largest second moment first.
    block : int, default 128
        Columns whose corrections are gathered.
    refit : str, optional
        Choose the step of each column group anew when its turn comes, by this range
        method.
    dead : str, default "nearest"
        What becomes of weights whose input was always zero, or ``"zero"``.

    Attributes
    ----------
    model_ : torch.nn.Module
        The quantized copy of the model.
    report_ : QuantizationReport
        What happened to each layer.

    Notes
    -----
    See `gptq`.

    References
    ----------
    Frantar, Ashkboos, Hoefler and Alistarh (2023), "GPTQ", arXiv:2210.17323.

    Examples
    --------
    >>> import torch
    >>> from enough.models import MLP
    >>> data = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    >>> method = GPTQ(bits=3).fit(MLP([8, 16, 2], generator=0), data)
    >>> [row.bits for row in method.report_]
    [3, 3]
    """

    def __init__(
        self,
        *,
        bits: int = 4,
        symmetric: bool = False,
        group_size: int | None = None,
        range_method: str = "minmax",
        activation_bits: int | None = None,
        overrides: Mapping[str, Any] | None = None,
        bias_correction: bool = False,
        damping: float = 0.01,
        order: str = "natural",
        block: int = 128,
        refit: str | None = None,
        dead: str = "nearest",
    ) -> None:
        self.bits = bits
        self.symmetric = symmetric
        self.group_size = group_size
        self.range_method = range_method
        self.activation_bits = activation_bits
        self.overrides = overrides
        self.bias_correction = bias_correction
        self.damping = damping
        self.order = order
        self.block = block
        self.refit = refit
        self.dead = dead

    def recipe(self) -> Recipe:
        """Write the options as a recipe.

        Returns
        -------
        Recipe
            What `fit` hands to `quantize_model`.
        """
        return Recipe(
            method="gptq",
            bits=self.bits,
            symmetric=self.symmetric,
            group_size=self.group_size,
            range_method=self.range_method,
            activation_bits=self.activation_bits,
            overrides=self.overrides or {},
            bias_correction=self.bias_correction,
            options={
                "damping": self.damping,
                "order": self.order,
                "block": self.block,
                "refit": self.refit,
                "dead": self.dead,
            },
        )


class AdaRound(PostTrainingQuantizer):
    """Learn for each weight whether to round down or up.

    Parameters
    ----------
    bits : int, default 4
        Width of the weights, 2 to 8.
    symmetric : bool, default False
        Whether the grids are symmetric around zero.
    group_size : int, optional
        Columns that share a step. Default: one step an output channel.
    range_method : str, default "mse"
        How the ranges of the weights are chosen, as in `choose_qparams`.
    activation_bits : int, optional
        Width of the layers' inputs. Default: they stay in floating point.
    overrides : mapping from str, optional
        Exceptions by layer, as in `Recipe`.
    bias_correction : bool, default False
        Whether the bias makes up for the mean error of the output.
    steps : int, default 500
        Steps of Adam for each layer.
    lr : float, default 0.2
        Its learning rate.
    regularization : float, default 20.0
        Weight of the term that drives each choice to 0 or 1.
    warmup : float, default 0.2
        Share of the steps before that term is switched on.
    generator : torch.Generator or int, optional
        For the draws of the method.

    Attributes
    ----------
    model_ : torch.nn.Module
        The quantized copy of the model.
    report_ : QuantizationReport
        What happened to each layer.

    Notes
    -----
    See `adaround`.

    References
    ----------
    Nagel, Amjad, van Baalen, Louizos and Blankevoort (2020), "Up or down? Adaptive rounding for
    post-training quantization", arXiv:2004.10568.
    """

    def __init__(
        self,
        *,
        bits: int = 4,
        symmetric: bool = False,
        group_size: int | None = None,
        range_method: str = "mse",
        activation_bits: int | None = None,
        overrides: Mapping[str, Any] | None = None,
        bias_correction: bool = False,
        steps: int = 500,
        lr: float = 0.2,
        regularization: float = 20.0,
        warmup: float = 0.2,
        generator: torch.Generator | int | None = None,
    ) -> None:
        self.bits = bits
        self.symmetric = symmetric
        self.group_size = group_size
        self.range_method = range_method
        self.activation_bits = activation_bits
        self.overrides = overrides
        self.bias_correction = bias_correction
        self.steps = steps
        self.lr = lr
        self.regularization = regularization
        self.warmup = warmup
        self.generator = generator

    def recipe(self) -> Recipe:
        """Write the options as a recipe.

        Returns
        -------
        Recipe
            What `fit` hands to `quantize_model`.
        """
        return Recipe(
            method="adaround",
            bits=self.bits,
            symmetric=self.symmetric,
            group_size=self.group_size,
            range_method=self.range_method,
            activation_bits=self.activation_bits,
            overrides=self.overrides or {},
            bias_correction=self.bias_correction,
            options={
                "steps": self.steps,
                "lr": self.lr,
                "regularization": self.regularization,
                "warmup": self.warmup,
            },
        )


class AdaQuant(PostTrainingQuantizer):
    """Learn the weights before rounding, the steps, the zero points and the biases.

    Parameters
    ----------
    bits : int, default 4
        Width of the weights, 2 to 8.
    symmetric : bool, default False
        Whether the grids are symmetric around zero.
    group_size : int, optional
        Columns that share a step. Default: one step an output channel.
    range_method : str, default "mse"
        How the ranges of the weights are chosen, as in `choose_qparams`.
    activation_bits : int, optional
        Width of the layers' inputs. Default: they stay in floating point.
    overrides : mapping from str, optional
        Exceptions by layer, as in `Recipe`.
    bias_correction : bool, default True
        Whether the bias makes up for the mean error of the output.
    steps : int, default 500
        Steps of Adam for each layer.
    lr : float, default 0.01
        Learning rate of the weights, in steps of the first grid.
    lr_scale : float, default 1e-3
        Learning rate of the steps, relative to their first value.
    lr_zero_point : float, default 1e-2
        Learning rate of the zero points, in integers.
    generator : torch.Generator or int, optional
        For the draws of the method.

    Attributes
    ----------
    model_ : torch.nn.Module
        The quantized copy of the model.
    report_ : QuantizationReport
        What happened to each layer.

    Notes
    -----
    See `adaquant`.

    References
    ----------
    Hubara, Nahshan, Hanani, Banner and Soudry (2021), "Accurate post training quantization with
    small calibration sets", ICML, arXiv:2006.10518.
    """

    def __init__(
        self,
        *,
        bits: int = 4,
        symmetric: bool = False,
        group_size: int | None = None,
        range_method: str = "mse",
        activation_bits: int | None = None,
        overrides: Mapping[str, Any] | None = None,
        bias_correction: bool = True,
        steps: int = 500,
        lr: float = 0.01,
        lr_scale: float = 1e-3,
        lr_zero_point: float = 1e-2,
        generator: torch.Generator | int | None = None,
    ) -> None:
        self.bits = bits
        self.symmetric = symmetric
        self.group_size = group_size
        self.range_method = range_method
        self.activation_bits = activation_bits
        self.overrides = overrides
        self.bias_correction = bias_correction
        self.steps = steps
        self.lr = lr
        self.lr_scale = lr_scale
        self.lr_zero_point = lr_zero_point
        self.generator = generator

    def recipe(self) -> Recipe:
        """Write the options as a recipe.

        Returns
        -------
        Recipe
            What `fit` hands to `quantize_model`.
        """
        return Recipe(
            method="adaquant",
            bits=self.bits,
            symmetric=self.symmetric,
            group_size=self.group_size,
            range_method=self.range_method,
            activation_bits=self.activation_bits,
            overrides=self.overrides or {},
            bias_correction=self.bias_correction,
            options={
                "steps": self.steps,
                "lr": self.lr,
                "lr_scale": self.lr_scale,
                "lr_zero_point": self.lr_zero_point,
            },
        )


class PDQuant(PostTrainingQuantizer):
    """Learn the rounding block by block, by the difference of predictions too.

    Parameters
    ----------
    bits : int, default 4
        Width of the weights, 2 to 8.
    symmetric : bool, default False
        Whether the grids are symmetric around zero.
    group_size : int, optional
        Columns that share a step. Default: one step an output channel.
    range_method : str, default "mse"
        How the ranges of the weights are chosen, as in `choose_qparams`.
    activation_bits : int, optional
        Width of the layers' inputs. Default: they stay in floating point.
    overrides : mapping from str, optional
        Exceptions by layer, as in `Recipe`.
    steps : int, default 400
        Steps of Adam for each block.
    batch : int, default 32
        Samples in a step.
    lr : float, default 0.2
        Learning rate of the rounding.
    lr_input : float, default 1e-3
        Learning rate of the inputs' steps, relative to their first value.
    drop : float, default 0.5
        Probability that an entry of an input keeps full precision.
    prediction : float, default 1.0
        Weight of the prediction difference.
    temperature : float, default 4.0
        Divides the scores in that difference.
    correction_steps : int, default 100
        Steps of the distribution correction; 0 leaves it out.
    correction_strength : float, default 0.02
        How freely the corrected input may move.
    generator : torch.Generator or int, optional
        For the draws of the method.

    Attributes
    ----------
    model_ : torch.nn.Module
        The quantized copy of the model.
    report_ : QuantizationReport
        What happened to each layer.

    Notes
    -----
    See `reconstruct_blocks`.

    References
    ----------
    Liu, Niu, Yuan, Yang, Wang and Liu (2023), "PD-Quant: post-training quantization based on
    prediction difference metric", arXiv:2212.07048.
    """

    def __init__(
        self,
        *,
        bits: int = 4,
        symmetric: bool = False,
        group_size: int | None = None,
        range_method: str = "mse",
        activation_bits: int | None = None,
        overrides: Mapping[str, Any] | None = None,
        steps: int = 400,
        batch: int = 32,
        lr: float = 0.2,
        lr_input: float = 1e-3,
        drop: float = 0.5,
        prediction: float = 1.0,
        temperature: float = 4.0,
        correction_steps: int = 100,
        correction_strength: float = 0.02,
        generator: torch.Generator | int | None = None,
    ) -> None:
        self.bits = bits
        self.symmetric = symmetric
        self.group_size = group_size
        self.range_method = range_method
        self.activation_bits = activation_bits
        self.overrides = overrides
        self.steps = steps
        self.batch = batch
        self.lr = lr
        self.lr_input = lr_input
        self.drop = drop
        self.prediction = prediction
        self.temperature = temperature
        self.correction_steps = correction_steps
        self.correction_strength = correction_strength
        self.generator = generator

    def recipe(self) -> Recipe:
        """Write the options as a recipe.

        Returns
        -------
        Recipe
            What `fit` hands to `quantize_model`.
        """
        return Recipe(
            method="pdquant",
            bits=self.bits,
            symmetric=self.symmetric,
            group_size=self.group_size,
            range_method=self.range_method,
            activation_bits=self.activation_bits,
            overrides=self.overrides or {},
            options={
                "steps": self.steps,
                "batch": self.batch,
                "lr": self.lr,
                "lr_input": self.lr_input,
                "drop": self.drop,
                "prediction": self.prediction,
                "temperature": self.temperature,
                "correction_steps": self.correction_steps,
                "correction_strength": self.correction_strength,
            },
        )
