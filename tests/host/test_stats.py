"""The same calls give the same counters on simulated RTL and on the twin: cycles, stalls, bytes, row activations."""

from __future__ import annotations

import random

import pytest
import torch

from brownout.host import Accelerator, DeviceMemoryError, Requantisation, load_denoiser, offload, restore
from brownout.host.models.spec import DIGITS
from brownout.hw.config import AcceleratorConfig, MemoryConfig

pytestmark = pytest.mark.rtl

# Small rows and few banks, so that row activations are many and depend on every address.
MEMORY = MemoryConfig(size_bytes=1 << 21, row_bytes=512, banks=8, latency_cycles=20)


class Pair:
    """Both backends, given the same calls."""

    def __init__(self, config):
        self.both = [Accelerator(config, backend=name) for name in ("rtl", "twin")]
        self.weights = {}  # by name: on either backend

    def upload(self, name, w):
        self.weights[name] = [accelerator.upload(w) for accelerator in self.both]

    def gemm(self, a, w, **options):
        operands = self.weights[w] if isinstance(w, str) else [w, w]
        results = [x.gemm(a, operand, **options) for x, operand in zip(self.both, operands, strict=True)]
        assert torch.equal(*results)

    def assert_same_stats(self):
        rtl, twin = (dict(accelerator.stats) for accelerator in self.both)
        assert twin == rtl

    def close(self):
        for accelerator in self.both:
            accelerator.close()


@pytest.fixture
def open_pair():
    pairs = []

    def make(config):
        pairs.append(Pair(config))
        return pairs[-1]

    yield make
    for pair in pairs:
        pair.close()


def random_int8(generator, *shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


def random_call(rng, generator, pair):
    """One of everything that the interface offers."""
    kind = rng.choice(["upload", "free", "reset", "restart", "too large", *["gemm"] * 12])
    if kind == "upload" or (kind == "gemm" and not pair.weights):
        k, n = rng.randint(1, 90), rng.randint(1, 90)
        pair.upload(f"w{rng.randint(0, 5)}", random_int8(generator, *rng.choice([(k, n), (3, k, n)])))
    elif kind == "free" and pair.weights:
        del pair.weights[rng.choice(sorted(pair.weights))]
    elif kind == "reset":
        for accelerator in pair.both:
            accelerator.reset_stats()
    elif kind == "restart" and rng.random() < 0.3:
        for accelerator in pair.both:
            accelerator.restart()
    elif kind == "too large":
        for accelerator in pair.both:
            with pytest.raises(DeviceMemoryError):
                accelerator.gemm(torch.zeros(4096, 512, dtype=torch.int8), torch.zeros(512, 1, dtype=torch.int8))
    elif kind == "gemm":
        m = rng.choice([1, rng.randint(1, 20), rng.randint(1, 150)])
        if rng.random() < 0.6:
            w = rng.choice(sorted(pair.weights))
            *batch, k, n = pair.weights[w][0].shape
        else:
            batch, k, n = rng.choice([[], [2]]), rng.randint(1, 90), rng.randint(1, 90)
            w = random_int8(generator, *batch, k, n)
        options = {}
        if rng.random() < 0.5:
            options["bias"] = torch.randint(-1000, 1000, (n,), dtype=torch.int32, generator=generator)
        if rng.random() < 0.5:
            mult = torch.randint(0, 2**31, (n,), generator=generator)
            options["requant"] = Requantisation(mult, torch.full((n,), 40))
        if rng.random() < 0.3:
            options["out"] = torch.empty(*batch, n, m, dtype=torch.int8 if "requant" in options else torch.int32).mT
        pair.gemm(random_int8(generator, *batch, m, k), w, **options)


@pytest.mark.parametrize("seed", range(2))
def test_any_sequence_of_calls_counts_the_same(open_pair, config, seed):
    print(f"seed {seed}")
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    fields = config.to_dict() | {"memory": MEMORY}
    pair = open_pair(AcceleratorConfig.from_dict(fields))
    for _ in range(60):
        random_call(rng, generator, pair)
        pair.assert_same_stats()


def test_a_forward_pass_of_the_digits_model_counts_the_same(open_pair):
    pair = open_pair(AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 23)))
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(4, 1, DIGITS.image_size, DIGITS.image_size, generator=generator)
    model = load_denoiser("digits")

    def forward(module):
        timesteps, labels = torch.full((4,), 300), torch.arange(4)
        return module(latents, timestep=timesteps, class_labels=labels).sample

    results = []
    with torch.no_grad():
        for accelerator in pair.both:
            offload(model, accelerator, calibration=forward)
            for _ in range(2):
                results.append(forward(model))
            restore(model)
    assert all(torch.equal(results[0], result) for result in results)
    pair.assert_same_stats()
    assert pair.both[0].stats["cycles"] > 0
