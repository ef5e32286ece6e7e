"""Wrong arguments are refused with the value and the remedy, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, AcceleratorClosedError, Requantisation
from brownout.host.device.backends.rtl import RtlBackend

from .fake_simulator import FakeSimulator


def int8(*shape, device="cpu"):
    return torch.zeros(shape, dtype=torch.int8, device=device)


def exactly(message):
    return f"^{re.escape(message)}$"


@pytest.fixture
def twin(config):
    with Accelerator(config, backend="twin") as accelerator:
        yield accelerator


@pytest.mark.parametrize(
    ("a", "w", "error", "message"),
    [
        (
            torch.zeros(2, 3),
            int8(3, 4),
            TypeError,
            "a must be int8, not torch.float32; quantise it, or convert it with .to(torch.int8)",
        ),
        (
            int8(2, 3),
            torch.zeros(3, 4, dtype=torch.uint8),
            TypeError,
            "w must be int8, not torch.uint8; quantise it, or convert it with .to(torch.int8)",
        ),
        (
            np.zeros((2, 3), dtype=np.int8),
            int8(3, 4),
            TypeError,
            "a must be a torch.Tensor, not ndarray; convert it with torch.as_tensor",
        ),
        (int8(2, 3), [[1]], TypeError, "w must be a torch.Tensor, not list; convert it with torch.as_tensor"),
        (
            int8(3),
            int8(3, 4),
            ValueError,
            (
                "a must have 2 dimensions, or 3 for a batch, not 1 (shape (3,)); "
                "flatten the leading ones with .flatten(0, -2)"
            ),
        ),
        (int8(0, 3), int8(3, 4), ValueError, "a must not be empty, but has shape (0, 3)"),
        (int8(2, 3), int8(3, 0), ValueError, "w must not be empty, but has shape (3, 0)"),
        (
            int8(2, 3),
            int8(4, 5),
            ValueError,
            "a (2, 3) and w (4, 5) do not fit: a has 3 columns, w has 4 rows; transpose one with .mT",
        ),
        (
            int8(2, 3, 4),
            int8(4, 5),
            ValueError,
            (
                "a (2, 3, 4) and w (4, 5) must both have 2 or both have 3 dimensions; "
                "flatten a with .flatten(0, 1), or expand w over the batch"
            ),
        ),
        (
            int8(2, 3, 4),
            int8(3, 4, 5),
            ValueError,
            "a (2, 3, 4) and w (3, 4, 5) do not fit: batches of 2 and 3 products",
        ),
        (
            int8(1, 131072),
            int8(131072, 1),
            ValueError,
            (
                "K must be at most 131071, not 131072: a longer sum of int8 products could overflow 32 bits; "
                "split K and add the partial products"
            ),
        ),
        (
            int8(1, 1).expand(1 << 24, 1),
            int8(1, 1),
            ValueError,
            "M must be at most 16777215, not 16777216; split the product along M",
        ),
        (
            int8(1, 1),
            int8(1, 1).expand(1, 1 << 24),
            ValueError,
            "N must be at most 16777215, not 16777216; split the product along N",
        ),
        (
            int8(1, 1, 1).expand(1 << 16, 1, 1),
            int8(1, 1, 1).expand(1 << 16, 1, 1),
            ValueError,
            "a batch must hold at most 65535 products, not 65536; split it",
        ),
        (
            int8(2, 3),
            int8(3, 4, device="meta"),
            ValueError,
            "a is on cpu but w is on meta; move one of them with .to('cpu')",
        ),
        (
            int8(2, 3, device="meta"),
            int8(3, 4, device="meta"),
            ValueError,
            "a must hold data, but is on the meta device; make it on another device",
        ),
    ],
)
def test_operands(twin, a, w, error, message):
    with pytest.raises(error, match=exactly(message)):
        twin.gemm(a, w)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (
            {"bias": torch.zeros(4)},
            TypeError,
            "bias must be int32, not torch.float32; convert it with .to(torch.int32)",
        ),
        (
            {"bias": torch.zeros(3, dtype=torch.int32)},
            ValueError,
            "bias must have shape (4,), one value per column of w, not (3,)",
        ),
        ({"requant": 0.5}, TypeError, "requant must be a Requantisation, not float"),
        (
            {"requant": Requantisation(torch.tensor([1]), torch.tensor([1]))},
            ValueError,
            "requant must have 4 channels, one per column of w, not 1",
        ),
        ({"out": torch.zeros(2, 4)}, TypeError, "out must be torch.int32, not torch.float32"),
        (
            {"out": torch.zeros(4, 2, dtype=torch.int32)},
            ValueError,
            "out must have shape (2, 4), not (4, 2)",
        ),
    ],
)
def test_options(twin, options, error, message):
    with pytest.raises(error, match=exactly(message)):
        twin.gemm(int8(2, 3), int8(3, 4), **options)


@pytest.mark.parametrize(
    ("mult", "shift", "error", "message"),
    [
        ([2**31], [1], ValueError, "mult must be in 0..2147483647, not 2147483648 (channel 0)"),
        ([1, -1], [1, 1], ValueError, "mult must be in 0..2147483647, not -1 (channel 1)"),
        ([1], [0], ValueError, "shift must be in 1..62, not 0 (channel 0)"),
        ([1], [63], ValueError, "shift must be in 1..62, not 63 (channel 0)"),
        ([1, 2], [1], ValueError, "mult (2,) and shift (1,) must have the same shape"),
        ([[1]], [[1]], ValueError, "mult must have shape (N,), one value per output channel, not (1, 1)"),
        (
            [0.5],
            [1],
            TypeError,
            "mult must be an integer tensor, not torch.float32; convert it with .to(torch.int64)",
        ),
    ],
)
def test_requantisation(mult, shift, error, message):
    with pytest.raises(error, match=exactly(message)):
        Requantisation(torch.tensor(mult), torch.tensor(shift))


def test_rtl_wants_tensors_on_the_cpu(config):
    backend = RtlBackend(config, lambda: FakeSimulator(config), deadline_s=1)
    with (
        Accelerator(config, backend=backend) as accelerator,
        pytest.raises(
            ValueError, match=exactly("w must be on the CPU for backend='rtl', not on meta; move it with .cpu()")
        ),
    ):
        accelerator.upload(int8(3, 4, device="meta"))


def test_weights_of_another_accelerator(twin, config):
    weights = Accelerator(config, backend="twin").upload(int8(3, 4))
    with pytest.raises(ValueError, match=exactly("w was uploaded to another accelerator; upload it to this one")):
        twin.gemm(int8(2, 3), weights)


def test_closed(config):
    accelerator = Accelerator(config, backend="twin")
    accelerator.close()
    accelerator.close()
    assert repr(accelerator) == "Accelerator(4x4, backend='twin', closed)"
    with pytest.raises(AcceleratorClosedError, match=exactly("this accelerator is closed; make a new one")):
        accelerator.gemm(int8(2, 3), int8(3, 4))


def test_unknown_backend():
    with pytest.raises(ValueError, match=exactly("backend must be one of 'rtl', 'twin', 'mixed', not 'fpga'")):
        Accelerator(backend="fpga")


def test_twin_has_no_waves():
    with pytest.raises(ValueError, match=exactly("waves are recorded from RTL; use backend='rtl', not 'twin'")):
        Accelerator(backend="twin", waves=Path("waves.vcd"))
