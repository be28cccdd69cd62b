"""The moments of a layer's inputs, against the data they stand for."""

import numpy as np
import pytest
import torch

from enough.quantization import LayerStatistics


@pytest.fixture
def draw():
    return torch.Generator().manual_seed(3)


def problem(draw, groups=2, n=50, columns=5, rows=3, dtype=torch.float64):
    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).to(dtype)

    x = normal(groups, n, columns) + 1.5
    return {
        "x": x,
        "h": x + 0.1 * normal(groups, n, columns),
        "w": normal(groups, rows, columns),
        "b": normal(groups, rows),
        "w_hat": normal(groups, rows, columns),
        "b_hat": normal(groups, rows),
    }


def forward_errors(p):
    y = torch.einsum("gnc,grc->gnr", p["x"].double(), p["w"].double()) + p["b"][:, None].double()
    y_hat = torch.einsum("gnc,grc->gnr", p["h"].double(), p["w_hat"].double())
    return (y_hat + p["b_hat"][:, None].double() - y).square().mean(1)


def test_moments_are_those_of_the_rows(draw):
    p = problem(draw)
    s = LayerStatistics.from_rows(p["x"], p["h"])
    x, h = p["x"].numpy(), p["h"].numpy()
    assert s.count == 50
    for ours, a, b in ((s.S_xx, x, x), (s.S_hh, h, h), (s.S_hx, h, x)):
        expected = np.stack([u.T @ v / 50 for u, v in zip(a, b, strict=True)])
        np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(s.mean_x, x.mean(1), rtol=1e-13)
    np.testing.assert_allclose(s.mean_h, h.mean(1), rtol=1e-13)


@pytest.mark.parametrize("pieces", [(1,) * 50, (49, 1), (20, 0, 30)])
def test_streaming_does_not_depend_on_the_pieces(draw, pieces):
    p = problem(draw)
    whole = LayerStatistics.from_rows(p["x"], p["h"])
    parts = LayerStatistics(5, 2)
    for x, h in zip(p["x"].split(pieces, 1), p["h"].split(pieces, 1), strict=True):
        if x.shape[1]:
            parts.update(x, h)
    for name in ("S_xx", "S_hh", "S_hx", "mean_x", "mean_h"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-12, atol=0)


def test_rows_without_drift_may_be_mixed_with_rows_with_it(draw):
    p = problem(draw)
    mixed = LayerStatistics(5, 2)
    mixed.update(p["x"][:, :20]).update(p["x"][:, 20:40], p["h"][:, 20:40]).update(p["x"][:, 40:])
    h = p["x"].clone()
    h[:, 20:40] = p["h"][:, 20:40]
    whole = LayerStatistics.from_rows(p["x"], h)
    for name in ("S_xx", "S_hh", "S_hx", "mean_x", "mean_h"):
        torch.testing.assert_close(getattr(mixed, name), getattr(whole, name), rtol=1e-12, atol=0)


def test_error_is_that_of_running_the_layer(draw):
    p = problem(draw)
    s = LayerStatistics.from_rows(p["x"], p["h"])
    expected = forward_errors(p)
    ours = s.row_errors(p["w"], p["b"], p["w_hat"], p["b_hat"])
    torch.testing.assert_close(ours, expected, rtol=1e-11, atol=0)
    total = s.error(p["w"], p["b"], p["w_hat"], p["b_hat"])
    assert total == pytest.approx(float(expected.sum()), rel=1e-11)


def test_output_error_matches_with_bias_fixed_and_free(draw):
    p = problem(draw)
    s = LayerStatistics.from_rows(p["x"], p["h"])
    difference = p["w_hat"] - p["w"]
    fixed = s.output_error(p["w"]).rows(difference)
    torch.testing.assert_close(fixed, forward_errors({**p, "b_hat": p["b"]}), rtol=1e-11, atol=0)
    free = s.output_error(p["w"], correct_bias=True).rows(difference)
    best = s.best_bias(p["w"], p["w_hat"], p["b"])
    torch.testing.assert_close(free, forward_errors({**p, "b_hat": best}), rtol=1e-10, atol=0)


def test_best_bias_is_the_minimum_and_removes_the_mean(draw):
    p = problem(draw)
    s = LayerStatistics.from_rows(p["x"], p["h"])
    best = s.best_bias(p["w"], p["w_hat"], p["b"])
    at = s.row_errors(p["w"], p["b"], p["w_hat"], best)
    for step in (-1e-3, 1e-3):
        moved = s.row_errors(p["w"], p["b"], p["w_hat"], best + step)
        torch.testing.assert_close(moved - at, torch.full_like(at, 1e-6), rtol=1e-6, atol=0)
    y = torch.bmm(p["x"], p["w"].mT) + p["b"][:, None]
    y_hat = torch.bmm(p["h"], p["w_hat"].mT) + best[:, None]
    assert (y_hat - y).mean(1).abs().max() < 1e-13


def test_small_errors_survive_large_means_and_small_drifts(draw):
    # The drift and the weight error are a millionth of the input and the mean a million times
    # its spread: moments of x and x̂ apart, taken around zero, would lose all digits.
    p = problem(draw)
    p["x"] = p["x"] + 1e6
    p["h"] = p["x"] + 1e-6 * (p["h"] - p["x"] + 1e6)
    p["w_hat"] = p["w"] + 1e-9 * p["w_hat"]
    p["b_hat"] = p["b"]
    s = LayerStatistics.from_rows(p["x"], p["h"])
    drift, d = p["h"] - p["x"], p["w_hat"] - p["w"]
    exact = (torch.bmm(p["h"], d.mT) + torch.bmm(drift, p["w"].mT)).square().mean(1)
    torch.testing.assert_close(
        s.row_errors(p["w"], p["b"], p["w_hat"], p["b_hat"]), exact, rtol=1e-5, atol=0
    )


def test_equal_weights_and_inputs_make_no_error(draw):
    p = problem(draw)
    assert LayerStatistics.from_rows(p["x"]).error(p["w"], p["b"], p["w"], p["b"]) == 0.0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_rows_are_summed_in_double(draw, dtype):
    x = torch.randn(4000, 3, generator=draw).to(dtype)
    s = LayerStatistics.from_rows(x)
    wide = x.double()
    torch.testing.assert_close(s.S_xx[0], wide.T @ wide / 4000, rtol=1e-12, atol=1e-13)
    assert s.S_xx.dtype == torch.float64


def test_matrices_numpy_and_strided_tensors_give_the_same(draw):
    p = problem(draw, groups=1)
    ours = LayerStatistics.from_rows(p["x"], p["h"])
    flat = LayerStatistics.from_rows(p["x"][0].numpy(), p["h"][0].numpy())
    strided = LayerStatistics.from_rows(p["x"].mT.contiguous().mT, p["h"].mT.contiguous().mT)
    torch.testing.assert_close(flat.S_hx, ours.S_hx, rtol=0, atol=0)
    torch.testing.assert_close(strided.S_hx, ours.S_hx, rtol=1e-14, atol=1e-15)
    matrix = flat.best_bias(p["w"][0].numpy(), p["w_hat"][0].numpy(), p["b"][0].numpy())
    assert isinstance(matrix, np.ndarray)
    assert matrix.shape == (3,)
    np.testing.assert_allclose(matrix, ours.best_bias(p["w"], p["w_hat"], p["b"])[0], rtol=1e-14)


def test_update_leaves_its_input_alone(draw):
    x = torch.randn(1, 6, 2, generator=draw, dtype=torch.float64)
    before = x.clone()
    LayerStatistics(2).update(x, x + 1).update(x)
    assert torch.equal(x, before)


def test_messages_name_the_argument(draw):
    s = LayerStatistics(3, 2)
    with pytest.raises(ValueError, match="statistics: expected at least one row"):
        _ = s.S_hh
    with pytest.raises(ValueError, match=r"rows: expected shape \(2, any, 3\), got \(2, 4, 5\)"):
        s.update(torch.zeros(2, 4, 5))
    with pytest.raises(ValueError, match="rows_hat: expected the shape of rows"):
        s.update(torch.zeros(2, 4, 3), torch.zeros(2, 5, 3))
    with pytest.raises(ValueError, match="rows: expected finite numbers, got 1 NaN"):
        s.update(torch.full((2, 1, 3), 0.0).index_put((torch.tensor(0),) * 3, torch.tensor(np.nan)))
    with pytest.raises(ValueError, match=r"columns: expected a whole number, got 2\.5"):
        LayerStatistics(2.5)
    s.update(torch.ones(2, 4, 3))
    with pytest.raises(ValueError, match="weight_hat: expected shape"):
        s.best_bias(torch.zeros(2, 1, 3), torch.zeros(2, 2, 3))
    with pytest.raises(ValueError, match="bias: expected shape"):
        s.best_bias(torch.zeros(2, 1, 3), torch.zeros(2, 1, 3), torch.zeros(2, 4))
    assert s.count == 4
