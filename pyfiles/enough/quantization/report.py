"""What became of a model: one row a layer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from enough.quantization.reconstruction import BlockReport

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LayerReport", "QuantizationReport"]


@dataclass(frozen=True)
class LayerReport:
    """What became of one layer.

    Parameters
    ----------
    name : str
        Name of the layer in the model.
    kind : str
        ``"linear"``, ``"conv2d"``, ``"conv_transpose1d"`` and so on.
    method : str
        How the weight was rounded.
    bits : int
        Width of the weight.
    n_weights : int
        Number of weights, biases not counted.
    low, high : float
        Smallest and largest number that the weight's grid holds.
    activation_bits : int or None
        Width of the input.
    input_low, input_high : float or None
        Smallest and largest number that the input's grid holds.
    weight_error : float
        ‖Ŵ − W‖ / ‖W‖.
    output_error : float
        Root of E ‖ŷ − y‖² / E ‖y‖² on the calibration data, where ŷ is the quantized layer's
        output on the input it is given and y that of the full-precision layer on its own.
    seconds : float
        Time taken, the passes of the model that gather inputs included.
    """

    name: str
    kind: str
    method: str
    bits: int
    n_weights: int
    low: float
    high: float
    activation_bits: int | None
    input_low: float | None
    input_high: float | None
    weight_error: float
    output_error: float
    seconds: float


@dataclass(frozen=True)
class QuantizationReport:
    """What became of a model.

    Parameters
    ----------
    rows : tuple of LayerReport
        Quantized layers, in the order they ran.
    blocks : tuple of BlockReport
        Blocks that were reconstructed; empty for methods that work layer by layer.
    folded : tuple of str
        Batch norms that were merged into layers.
    kept : tuple of str
        Modules whose parameters stayed in floating point.
    seconds : float
        Time taken in all.
    """

    rows: tuple[LayerReport, ...]
    blocks: tuple[BlockReport, ...]
    folded: tuple[str, ...]
    kept: tuple[str, ...]
    seconds: float

    def __iter__(self) -> Iterator[LayerReport]:
        """Go through the rows."""
        return iter(self.rows)

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def __getitem__(self, name: str) -> LayerReport:
        """Find the row of a layer by name."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(name)

    @property
    def size(self) -> dict[str, int]:
        """Number of weights by layer, as `allocate_bits` takes it."""
        return {row.name: row.n_weights for row in self.rows}

    @property
    def mean_bits(self) -> float:
        """Bits a weight, averaged over the weights of all quantized layers."""
        total = sum(row.n_weights for row in self.rows)
        return sum(row.n_weights * row.bits for row in self.rows) / total

    def to_frame(self) -> pd.DataFrame:
        """Lay the rows out as a table.

        Returns
        -------
        pandas.DataFrame
            One row a layer, columns as the fields of `LayerReport`.
        """
        import pandas as pd

        return pd.DataFrame([asdict(row) for row in self.rows])
