"""What happened during training, as arrays that plot directly."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["History"]


@dataclass
class History:
    """The course of a training: ``plot(history.steps, history.losses)``.

    Parameters
    ----------
    steps : numpy.ndarray, shape (T,)
        Number of the update, from 1.
    losses : numpy.ndarray, shape (T,) or (T, E)
        The loss of the batch before that update; one column a member for an ensemble, NaN
        after a member has stopped.
    learning_rates : numpy.ndarray, shape (T,) or (T, E)
        The learning rate of that update (of the first parameter group).
    evaluation_steps : numpy.ndarray, shape (V,)
        The updates after which metrics were evaluated.
    metrics : dict from str to numpy.ndarray, shape (V,) or (V, E)
        What was evaluated, by name.
    """

    steps: np.ndarray
    losses: np.ndarray
    learning_rates: np.ndarray
    evaluation_steps: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    metrics: dict[str, np.ndarray] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.steps)
