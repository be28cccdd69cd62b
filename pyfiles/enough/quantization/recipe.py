"""What to do with a model: one frozen object, with exceptions by layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

from enough.quantization.grid import MAX_BITS, MIN_BITS
from enough.quantization.ranges import RANGE_METHODS
from enough.runtime.validation import check_choice, check_integer

__all__ = ["BLOCK_METHODS", "LAYER_METHODS", "LayerRecipe", "Recipe"]

LAYER_METHODS = ("nearest", "gptq", "adaround", "adaquant")
BLOCK_METHODS = ("brecq", "qdrop", "pdquant")
_GRANULARITIES = ("tensor", "channel", "group")


@dataclass(frozen=True)
class LayerRecipe:
    """How one layer is quantized.

    Parameters
    ----------
    method : {"nearest", "gptq", "adaround", "adaquant"}, default "nearest"
        How the weight is rounded.
    bits : int, default 4
        Width of the weight, 2 to 8.
    symmetric : bool, default False
        Whether the weight's grid is symmetric around zero.
    granularity : {"channel", "tensor", "group"}, default "channel"
        One step for each output channel, for the whole weight, or for each ``group_size`` columns
        of a channel.
    group_size : int, optional
        Columns that share a step; needed with granularity ``"group"``, which it implies.
    range_method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
        How the range of the weight is chosen.
    activation_bits : int, optional
        Width of the layer's input, 2 to 8. Default: the input stays in floating point.
    activation_symmetric : bool, default False
        Whether the input's grid is symmetric around zero.
    activation_range : {"minmax", "percentile", "mse", "kl"}, default "minmax"
        How the range of the input is chosen.
    bias_correction : bool, optional
        Whether the bias makes up for the mean error of the output. Default: what the method does,
        yes for ``"adaquant"`` and no for the others.
    options : mapping from str, default {}
        Passed to the method's solver, for example ``{"steps": 1000}``. ``{"rows": True}`` gives
        the solver the inputs themselves: `adaround` then looks behind a ReLU, and `adaquant`
        learns the range of the input, where that is quantized.

    Raises
    ------
    ValueError
        If a field is not as described.
    """

    method: str = "nearest"
    bits: int = 4
    symmetric: bool = False
    granularity: str = "channel"
    group_size: int | None = None
    range_method: str = "minmax"
    activation_bits: int | None = None
    activation_symmetric: bool = False
    activation_range: str = "minmax"
    bias_correction: bool | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check every field."""
        check_choice(self.method, "method", self._methods())
        check_integer(self.bits, "bits", minimum=MIN_BITS, maximum=MAX_BITS)
        check_choice(self.granularity, "granularity", _GRANULARITIES)
        check_choice(self.range_method, "range_method", RANGE_METHODS)
        check_choice(self.activation_range, "activation_range", RANGE_METHODS)
        if self.activation_bits is not None:
            check_integer(
                self.activation_bits, "activation_bits", minimum=MIN_BITS, maximum=MAX_BITS
            )
        if self.group_size is not None:
            check_integer(self.group_size, "group_size", minimum=1)
            if self.granularity == "tensor":
                raise ValueError("granularity: expected 'group' with a group_size, got 'tensor'")
            object.__setattr__(self, "granularity", "group")
        elif self.granularity == "group":
            raise ValueError("group_size: expected a number with granularity 'group', got None")
        for name in ("symmetric", "activation_symmetric"):
            check_choice(getattr(self, name), name, (True, False))
        check_choice(self.bias_correction, "bias_correction", (True, False, None))
        if not isinstance(self.options, Mapping):
            raise ValueError(
                f"options: expected a mapping of keyword arguments, got {self.options!r}"
            )

    @staticmethod
    def _methods() -> tuple[str, ...]:
        return LAYER_METHODS


@dataclass(frozen=True)
class Recipe(LayerRecipe):
    """How a whole model is quantized.

    The fields of a `LayerRecipe`, which hold for every layer, and those of the whole model.

    Parameters
    ----------
    method : str, default "nearest"
        ``"nearest"``, ``"gptq"``, ``"adaround"`` or ``"adaquant"`` round layer by layer;
        ``"brecq"``, ``"qdrop"`` or ``"pdquant"`` start from the nearest integers and reconstruct
        several layers at once.
    bits : int, default 4
        Width of the weight, 2 to 8.
    symmetric : bool, default False
        Whether the weight's grid is symmetric around zero.
    granularity : {"channel", "tensor", "group"}, default "channel"
        One step for each output channel, for the whole weight, or for each ``group_size`` columns
        of a channel.
    group_size : int, optional
        Columns that share a step; needed with granularity ``"group"``, which it implies.
    range_method : {"minmax", "percentile", "mse", "kl"}, default "minmax"
        How the range of the weight is chosen.
    activation_bits : int, optional
        Width of the layer's input, 2 to 8. Default: the input stays in floating point.
    activation_symmetric : bool, default False
        Whether the input's grid is symmetric around zero.
    activation_range : {"minmax", "percentile", "mse", "kl"}, default "minmax"
        How the range of the input is chosen.
    bias_correction : bool, optional
        Whether the bias makes up for the mean error of the output. Default: what the method does,
        yes for ``"adaquant"`` and no for the others.
    options : mapping from str, default {}
        Passed to the method's solver, for example ``{"steps": 1000}``. ``{"rows": True}`` gives
        the solver the inputs themselves: `adaround` then looks behind a ReLU, and `adaquant`
        learns the range of the input, where that is quantized. With a block method, passed to
        `reconstruct_blocks`.
    overrides : mapping from str, default {}
        By name of the layer: a number of bits for the weight, a mapping of fields of
        `LayerRecipe`, or ``None`` for a layer that stays in floating point. ``"first"`` and
        ``"last"`` stand for the first and the last layer that runs. What `allocate_bits`
        returns can be given as it is.
    fold_batch_norm : bool, default True
        Whether batch norms are merged into the layers before them first.
    parallel : bool, default False
        Quantize each layer on its full-precision input. Otherwise layers are quantized in the
        order they run, each on the inputs that the layers before it give once they are
        quantized.
    re_estimate : bool, default False
        Whether the statistics of folded batch norms are estimated anew at the end
        (`re_estimate_batch_norm`, with the moments of the full-precision outputs as target).
    tune_bias : int, default 0
        Steps of `tune_biases` at the end.
    blocks : tuple of str, optional
        Names of the modules that a block method reconstructs. Default: those `find_blocks` finds.
    batch_size : int, default 256
        Samples in a batch, where calibration data come as one array.

    Raises
    ------
    ValueError
        If a field is not as described.

    Examples
    --------
    >>> recipe = Recipe(method="gptq", bits=2, overrides={"first": 8, "last": 8})
    >>> recipe.bits
    2
    """

    overrides: Mapping[str, int | Mapping[str, Any] | None] = field(default_factory=dict)
    fold_batch_norm: bool = True
    parallel: bool = False
    re_estimate: bool = False
    tune_bias: int = 0
    blocks: tuple[str, ...] | None = None
    batch_size: int = 256

    def __post_init__(self) -> None:
        """Check every field."""
        super().__post_init__()
        for name in ("fold_batch_norm", "parallel", "re_estimate"):
            check_choice(getattr(self, name), name, (True, False))
        check_integer(self.tune_bias, "tune_bias", minimum=0)
        check_integer(self.batch_size, "batch_size", minimum=1)
        if not isinstance(self.overrides, Mapping):
            raise ValueError(
                f"overrides: expected a mapping by layer, got {type(self.overrides).__name__}"
            )
        for name in self.overrides:
            self._override(name)

    @staticmethod
    def _methods() -> tuple[str, ...]:
        return LAYER_METHODS + BLOCK_METHODS

    @classmethod
    def of(cls, value: Recipe | str | Mapping[str, Any]) -> Recipe:
        """Read a recipe in any of its forms.

        Parameters
        ----------
        value : Recipe, str, or mapping from str
            A recipe, the name of a method, or fields by name.

        Returns
        -------
        Recipe
            The recipe.

        Raises
        ------
        ValueError
            If it is of another kind, or a field is unknown or not as described.
        """
        if isinstance(value, Recipe):
            return value
        if isinstance(value, str):
            return cls(method=check_choice(value, "recipe", cls._methods()))
        if isinstance(value, Mapping):
            _check_fields(value, cls, "recipe")
            return cls(**value)
        raise ValueError(
            f"recipe: expected a Recipe, a method name or a mapping, got {type(value).__name__}"
        )

    def for_layers(
        self, names: list[str], idle: list[str] | None = None
    ) -> dict[str, LayerRecipe | None]:
        """Work out the recipe of each layer.

        Parameters
        ----------
        names : list of str
            Names of the layers that run, in order.
        idle : list of str, optional
            Names of layers that never run.

        Returns
        -------
        dict from str to LayerRecipe or None
            By name; ``None`` for a layer that stays in floating point. A block method appears
            as ``"nearest"``, the point it starts from.

        Raises
        ------
        ValueError
            If an override names no layer.
        """
        aliases = {"first": names[0], "last": names[-1]} if names else {}
        names = names + (idle or [])
        chosen = {}
        for name in self.overrides:
            if name not in names and name not in aliases:
                raise ValueError(
                    f"overrides: expected names of layers ({', '.join(names)}), 'first' or "
                    f"'last', got {name!r}"
                )
            chosen[name if name in names else aliases[name]] = self._override(name)
        return {name: chosen.get(name, self._plain()) for name in names}

    def _plain(self) -> LayerRecipe:
        """The fields of a layer."""
        values = {f.name: getattr(self, f.name) for f in fields(LayerRecipe)}
        if self.method in BLOCK_METHODS:
            values |= {"method": "nearest", "options": {}}
        return LayerRecipe(**values)

    def _override(self, name: str) -> LayerRecipe | None:
        value = self.overrides[name]
        if value is None:
            return None
        changes = dict(value) if isinstance(value, Mapping) else {"bits": value}
        _check_fields(changes, LayerRecipe, f"overrides[{name!r}]")
        if changes.get("granularity", "group") != "group":
            changes.setdefault("group_size", None)
        elif "group_size" in changes and changes["group_size"] is None:
            changes.setdefault("granularity", "channel")
        if "method" in changes and changes["method"] != self.method:
            changes.setdefault("options", {})  # those of another method do not fit
        try:
            return replace(self._plain(), **changes)
        except ValueError as error:
            raise ValueError(f"overrides[{name!r}]: {error}") from error


def _check_fields(values: Mapping[str, Any], kind: type, name: str) -> None:
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise ValueError(f"{name}: expected fields among {', '.join(known)}, got {key!r}")
