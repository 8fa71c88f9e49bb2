"""Products by the library that multiplies fastest: the numbers and gradients of torch's own."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from helpers import generator
from torch.utils._python_dispatch import TorchDispatchMode

from posteriori.models.cpu import capabilities, matmul

N, D_IN, D_OUT = 5, 7, 3


@pytest.fixture(params=[True, False], ids=["onednn", "mkl"])
def taken(request, monkeypatch):
    """Products of any size, as on a CPU that AMD made and on any other; how many oneDNN does."""
    calls = []
    by_onednn = matmul._onednn
    monkeypatch.setattr(matmul, "has_amds_avx512", lambda: request.param)
    monkeypatch.setattr(matmul, "_SMALL", 0)
    monkeypatch.setattr(matmul, "_onednn", lambda *args: calls.append(args) or by_onednn(*args))
    return lambda: bool(calls) == request.param


def operands(*shape):
    x = torch.randn(*shape, D_IN, generator=generator(0))
    weight = torch.randn(D_OUT, D_IN, generator=generator(1))
    return x, weight, torch.randn(D_OUT, generator=generator(2))


def close(mine, expected):
    # Sums of seven products, in another order.
    torch.testing.assert_close(mine, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(N,), (2, N), (1, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_linear_has_the_numbers_and_gradients_of_torchs_own(taken, shape, with_bias):
    x, weight, bias = operands(*shape)
    inputs = [x, weight, *([bias] if with_bias else [])]
    slopes = torch.randn(*shape, D_OUT, generator=generator(3))
    values, gradients = [], []
    for way in (matmul.linear, torch.nn.functional.linear):
        for each in inputs:
            each.requires_grad_()
        values.append(way(*inputs))
        gradients.append(torch.autograd.grad(values[-1], inputs, slopes))
    close(*values)
    for mine, expected in zip(*gradients, strict=True):
        close(mine, expected)
    assert taken()


def test_linear_has_gradients_of_what_is_trained_alone(taken):
    x, weight, bias = operands(N)
    bias.requires_grad_()
    matmul.linear(x, weight, bias).sum().backward()
    close(bias.grad, torch.full((D_OUT,), float(N)))
    with torch.no_grad():
        assert not matmul.linear(x, weight, bias).requires_grad
    assert taken()


LAID_OUT = {
    "row by row": lambda x: x.contiguous(),
    "column by column": lambda x: x.t().contiguous().t(),
    "within a wider one": lambda x: torch.cat([x, x], dim=1)[:, : x.shape[1]],
    "every other": lambda x: x.repeat_interleave(2, dim=1)[:, ::2],
}


@pytest.mark.parametrize("of_x", LAID_OUT)
@pytest.mark.parametrize("of_weight", LAID_OUT)
@pytest.mark.parametrize("rows", [1, 2, 50])
def test_products_of_matrices_however_they_lie_in_memory(taken, of_x, of_weight, rows):
    x, weight, _ = operands(rows)
    x, weight = LAID_OUT[of_x](x), LAID_OUT[of_weight](weight)
    expected = x @ weight.t()
    close(matmul.product(x, weight), expected)
    close(matmul.product(x, weight, out_NO=torch.empty(rows, D_OUT)), expected)
    added = torch.ones(rows, D_OUT)
    assert matmul.add_product(added, x, weight) is added
    close(added, 1 + expected)
    close(matmul.linear(x, weight), expected)
    assert taken()


class Weights(TorchDispatchMode):
    """The W that oneDNN is given."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.mkldnn._linear_pointwise.default:
            self.seen = [*getattr(self, "seen", []), args[1]]
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("of_x", LAID_OUT)
@pytest.mark.parametrize("of_weight", LAID_OUT)
def test_onednn_is_given_no_matrix_within_a_wider_one(of_x, of_weight, monkeypatch):
    """Of one it makes a product a thousand times as slow."""
    monkeypatch.setattr(matmul, "has_amds_avx512", lambda: True)
    monkeypatch.setattr(matmul, "_SMALL", 0)
    x, weight, bias = operands(50)
    x, weight = LAID_OUT[of_x](x), LAID_OUT[of_weight](weight)
    with Weights() as weights:
        matmul.product(x, weight)
        matmul.add_product(torch.zeros(50, D_OUT), x, weight)
        with torch.no_grad():
            matmul.linear(x, weight, bias)
    assert len(weights.seen) == 3
    assert all(w.is_contiguous() or w.t().is_contiguous() for w in weights.seen)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_precisions_are_torchs_own(dtype, monkeypatch):
    monkeypatch.setattr(matmul, "has_amds_avx512", lambda: True)
    monkeypatch.setattr(matmul, "_SMALL", 0)
    monkeypatch.setattr(matmul, "_onednn", None)
    x, weight, bias = (each.to(dtype) for each in operands(N))
    expected = torch.nn.functional.linear(x, weight, bias)
    assert torch.equal(matmul.linear(x, weight, bias), expected)


def test_autocast_rounds_as_ever(monkeypatch):
    monkeypatch.setattr(matmul, "has_amds_avx512", lambda: True)
    monkeypatch.setattr(matmul, "_SMALL", 0)
    x, weight, bias = operands(N)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mine = matmul.linear(x, weight, bias)
        expected = torch.nn.functional.linear(x, weight, bias)
    assert mine.dtype == torch.bfloat16
    assert torch.equal(mine, expected)


def test_small_products_stay_with_torch(monkeypatch):
    monkeypatch.setattr(matmul, "has_amds_avx512", lambda: True)
    monkeypatch.setattr(matmul, "_onednn", None)
    x, weight, bias = operands(N)
    assert torch.equal(matmul.linear(x, weight, bias), torch.nn.functional.linear(x, weight, bias))


@pytest.mark.parametrize(
    ("told", "amds"),
    [
        ({"cpu_name": "AMD EPYC", "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC", "avx512_f": False}, False),
        ({"cpu_name": "Intel(R) Xeon(R) Processor", "avx512_f": True}, False),
        ({"neon": True}, False),
    ],
)
def test_who_made_the_cpu(told, amds, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: told, raising=False)
    assert capabilities.has_amds_avx512.__wrapped__() == amds


def test_an_older_torch_does_not_tell(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    assert not capabilities.has_amds_avx512.__wrapped__()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_products_of_ever_new_shapes_keep_few_kernels():
    """In a process of its own, because the caches' sizes are read once. Without a limit the 500
    shapes kept 0.2 GB and more, with it a quarter of that."""
    script = """
import ctypes, torch
import posteriori.models.cpu.matmul
torch.set_num_threads(1)
weight, x = torch.ones(512, 512), torch.ones(1000, 512)

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

def product(rows):
    torch.ops.mkldnn._linear_pointwise(x[:rows], weight, None, "none", [], "")

product(500)
before = resident()
for rows in range(500, 1000):
    product(rows)
ctypes.CDLL(None).malloc_trim(0)
print(resident() - before)
"""
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    assert float(answer.stdout) < 120
