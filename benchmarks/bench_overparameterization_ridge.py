"""What does a path of 100 ridges cost, against one ridge and against a solve for each?

1000 samples, 1000 features, one output, predictions at 1000 test points. ``ridge_path`` pays for
one decomposition; the peers solve the problem anew for every ridge.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from sklearn.linear_model import Ridge

from enough.overparameterization import ridge_path
from side_by_side import interleave, spread

N_RIDGES = 100
FEW = 10  # the peers solve for every tenth ridge; their time is multiplied
SIZE = 1000


def _problem() -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(0)
    draw = {"generator": generator, "dtype": torch.float64}
    features = torch.randn(SIZE, SIZE, **draw) / SIZE**0.5
    targets = torch.randn(SIZE, 1, **draw)
    test = torch.randn(SIZE, SIZE, **draw) / SIZE**0.5
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


def _minima(calls: dict[str, Callable], repeats: int) -> tuple[dict, dict]:
    """Interleaved minima, and the slowest run over the fastest."""
    times = interleave(calls, repeats)
    fastest = {name: min(seconds) for name, seconds in times.items()}
    return fastest, {name: spread(seconds) for name, seconds in times.items()}


def rows() -> list[dict]:
    """Measure; one dict a row."""
    features, targets, test, ridges = _problem()
    data = (features, targets, test)
    reference = _solve_each(*data, ridges[-3:])
    for found in (_path(*data, ridges)[-3:], _scikit_learn_each(*data, ridges[-3:])):
        torch.testing.assert_close(found, reference, rtol=1e-7, atol=1e-9)
    one = ridges[:1]
    quick, spreads = _minima(
        {
            "svd one": lambda: _path(*data, one, "svd"),
            "svd": lambda: _path(*data, ridges, "svd"),
            "gram one": lambda: _path(*data, one, "gram"),
            "gram": lambda: _path(*data, ridges, "gram"),
        },
        5,
    )
    slow, _ = _minima(
        {
            "solve": lambda: _solve_each(*data, ridges[::FEW]),
            "scikit-learn": lambda: _scikit_learn_each(*data, ridges[::FEW]),
        },
        3,
    )
    slow = {name: FEW * seconds for name, seconds in slow.items()}
    result = []
    for method in ("svd", "gram"):
        peers = {
            f"ridge_path, one ridge ({method})": quick[f"{method} one"],
            "torch.linalg.solve, 10 x the time of 10 ridges": slow["solve"],
            "sklearn.linear_model.Ridge, 10 x the time of 10 ridges": slow["scikit-learn"],
        }
        for peer, seconds in peers.items():
            result.append(
                {
                    "name": f"{N_RIDGES} ridges, {SIZE} x {SIZE}, {method}",
                    "ours_s": quick[method],
                    "peer_s": seconds,
                    "ratio": seconds / quick[method],
                    "spread": spreads[method],
                    "note": f"peer: {peer}",
                }
            )
    return result


def main() -> None:
    """Print the rows as a table."""
    print(f"{'what':35} {'ours [s]':>9} {'peer [s]':>9} {'peer/ours':>9} {'spread':>7}  note")
    for row in rows():
        print(
            f"{row['name']:35} {row['ours_s']:9.3f} {row['peer_s']:9.3f} {row['ratio']:9.2f} "
            f"{row['spread']:7.2f}  {row['note']}"
        )


if __name__ == "__main__":
    main()
