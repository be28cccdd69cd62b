"""What does a path of 100 ridges cost, against one ridge and against a solve for each?

1000 samples, 1000 features, one output, predictions at 1000 test points. ``ridge_path`` pays for
one decomposition; the peers solve the problem anew for every ridge.
"""

from __future__ import annotations

import torch
from sklearn.linear_model import Ridge

from enough.overparameterization import ridge_path
from side_by_side import Peer, compare, main

N_RIDGES = 100
FEW = 10  # the peers solve for every tenth ridge; their time is multiplied
SIZE = 1000


def _problem(size: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    features = torch.randn(size, size, **draw) / size**0.5
    targets = torch.randn(size, 1, **draw)
    test = torch.randn(size, size, **draw) / size**0.5
    return features, targets, test, torch.logspace(-3, 2, N_RIDGES, dtype=torch.float64)


def _path(features, targets, test, ridges, method="auto") -> torch.Tensor:
    path = ridge_path(features, targets, ridges, test, method=method)
    return torch.cat([path.coefficients, path.test_predictions], dim=1)


def _solve_each(features, targets, test, ridges) -> torch.Tensor:
    gram, right = features.T @ features, features.T @ targets
    eye = torch.eye(features.shape[1], dtype=features.dtype)
    results = []
    for ridge in ridges:
        weights = torch.linalg.solve(gram + ridge * eye, right)
        results.append(torch.cat([weights, test @ weights]))
    return torch.stack(results)


def _scikit_learn_each(features, targets, test, ridges) -> torch.Tensor:
    results = []
    for ridge in ridges.tolist():
        model = Ridge(alpha=ridge, fit_intercept=False, solver="cholesky")
        model.fit(features.numpy(), targets.numpy())
        weights = torch.as_tensor(model.coef_).reshape(-1, 1)
        predictions = torch.as_tensor(model.predict(test.numpy())).reshape(-1, 1)
        results.append(torch.cat([weights, predictions]))
    return torch.stack(results)


def rows(quick: bool = False) -> list[dict]:
    """Measure both methods of ``ridge_path``.

    Parameters
    ----------
    quick : bool, default False
        Small sizes, two rounds.

    Returns
    -------
    list of dict
        As ``README.md`` describes.
    """
    size = 60 if quick else SIZE
    features, targets, test, ridges = _problem(size)
    data = (features, targets, test)
    reference = _solve_each(*data, ridges[-3:])
    apart = 0.0
    for found in (_path(*data, ridges)[-3:], _scikit_learn_each(*data, ridges[-3:])):
        torch.testing.assert_close(found, reference, rtol=1e-7, atol=1e-9)
        apart = max(apart, float((found - reference).abs().max()))
    few = ridges[::FEW]
    decomposed = "one decomposition serves every ridge, while the peer solves anew for each"
    result = []
    for method in ("svd", "gram"):
        result += compare(
            f"{N_RIDGES} ridges, {size} x {size}, {method}",
            lambda method=method: _path(*data, ridges, method),
            {
                f"ridge_path, one ridge ({method})": lambda method=method: _path(
                    *data, ridges[:1], method
                ),
                "torch.linalg.solve": Peer(lambda: _solve_each(*data, few), scale=FEW),
                "scikit-learn Ridge": Peer(lambda: _scikit_learn_each(*data, few), scale=FEW),
            },
            rounds=2 if quick else 5,
            why={
                f"ridge_path, one ridge ({method})": (
                    "both pay for one decomposition; more ridges add products with its factors"
                ),
                "torch.linalg.solve": decomposed,
                "scikit-learn Ridge": decomposed,
            },
            note=f"answers within {apart:.0e}",
        )
    return result


if __name__ == "__main__":
    main(rows)
