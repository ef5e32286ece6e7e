"""The same calls give the same counters on simulated RTL and on the twin: cycles, stalls, bytes, row activations."""

from __future__ import annotations

import dataclasses
import random

import pytest
import torch

from brownout.host import Accelerator, DeviceMemoryError, Protection, Requantisation, load_denoiser, offload, restore
from brownout.host.models.spec import DIGITS
from brownout.hw.config import AcceleratorConfig, MemoryConfig

from ...configurations import CLASSIC, POINTS, WEIGHTED, plain

pytestmark = pytest.mark.rtl

# Small rows and few banks, so that row activations are many and depend on every address.
MEMORY = MemoryConfig(size_bytes=1 << 21, row_bytes=512, banks=8, latency_cycles=20)

# Two domains; many marks, one element to a beat; more segments in a block than the hardware keeps records.
PROTECTED = {**POINTS, "classic": CLASSIC, "weighted": WEIGHTED}


# By seed.
TIMINGS = (
    {},
    {"latency_cycles": 1, "bytes_per_cycle": 64, "read_queue": 2, "write_queue": 1},
    {"latency_cycles": 150, "bytes_per_cycle": 3, "banks": 1, "row_bytes": 64},
)


LAYOUTS = ("row-major", "tiled", "tiled")


class Pair:
    """Both backends, given the same calls."""

    def __init__(self, config, layout="row-major"):
        self.both = [Accelerator(config, backend=name, layout=layout) for name in ("rtl", "twin")]
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
        return rtl

    def close(self):
        for accelerator in self.both:
            accelerator.close()


@pytest.fixture
def open_pair():
    pairs = []

    def make(config, **options):
        pairs.append(Pair(config, **options))
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
            options["requant"] = Requantisation(mult, torch.full((n,), 40), 8 + 8 * (n % 2))
        if rng.random() < 0.3:
            options["out"] = torch.empty(
                *batch, n, m, dtype=options["requant"].dtype if "requant" in options else torch.int32
            ).mT
        pair.gemm(random_int8(generator, *batch, m, k), w, **options)


@pytest.mark.parametrize(("seed", "layout"), [(0, "row-major"), (1, "row-major"), (2, "tiled")])
def test_any_sequence_of_calls_counts_the_same(open_pair, config, seed, layout):
    print(f"seed {seed}")
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    fields = config.to_dict() | {"memory": MEMORY}
    pair = open_pair(AcceleratorConfig.from_dict(fields), layout=layout)
    for _ in range(60):
        random_call(rng, generator, pair)
        pair.assert_same_stats()


def random_protection(rng):
    return Protection(
        check=rng.random() < 0.9,
        correct=rng.random() < 0.6,
        on_uncorrectable=rng.choice(["suppress", "suppress", "zero", "keep"]),
        theta=rng.choice([0, 0, rng.randint(0, 33)]),
        log_records=rng.choice([0, 3, rng.randint(0, 300), 1 << 14]),
    )


def protected_call(rng, generator, pair):
    """A product with its checks, or a change of voltage, rate or settled lengths."""
    config = pair.both[0].config
    kind = rng.choice(["point", "rate", "restart", *["gemm"] * 7])
    if kind == "point":
        settings = {"voltage_v": rng.choice([0.9, 0.76, 0.68, 0.62]), "transition_s": rng.choice([0, 1e-8, 3e-7])}
        settings["domain"] = rng.choice([*range(config.voltage_domains), "array", "check"])
        if settings["domain"] == "array":
            settings["frequency_hz"] = rng.choice([2e9, 2.1e9, 1.3e9, 777_777_777.7])
        for accelerator in pair.both:
            accelerator.set_operating_point(**settings)
    elif kind == "rate" and config.timing_model == "flip":
        rate = rng.choice([0.0, 1e-3, 1e-2, 0.05, 0.3])
        seed, check_rate = rng.randrange(1 << 32), rng.choice([0.0, rate])
        for accelerator in pair.both:
            accelerator.set_error_rate(rate, seed, check_rate)
    elif kind == "restart" and rng.random() < 0.2:
        for accelerator in pair.both:
            accelerator.restart()
    elif kind == "gemm":
        batch = rng.choice([[], [], [2]])
        m, k, n = (rng.choice([1, rng.randint(1, 20), rng.randint(1, 70)]) for _ in range(3))
        options = {"error_key": rng.randrange(1 << 32), "first_row": rng.randrange(1 << 32), "first_col": 5}
        if rng.random() < 0.3:
            options["bias"] = torch.randint(-1000, 1000, (n,), dtype=torch.int32, generator=generator)
        dtype = torch.int32
        if rng.random() < 0.4:
            mult = torch.randint(0, 2**20, (n,), generator=generator)
            options["requant"] = Requantisation(mult, torch.full((n,), 30), 8 + 8 * (n % 2))
            dtype = options["requant"].dtype
        protection = random_protection(rng)
        a, w = random_int8(generator, *batch, m, k), random_int8(generator, *batch, k, n)
        for _ in range(rng.choice([1, 1, 2])):
            if protection.on_uncorrectable == "suppress" or rng.random() < 0.3:
                # Both begin with the same values, in tensors of their own.
                slot = torch.randint(-9, 9, (*batch, m, n), generator=generator).to(dtype)
                outs = [slot.clone(), slot.clone()]
            else:
                outs = [None, None]
            results = [
                accelerator.gemm(a, w, out=out, protection=protection, **options)
                for accelerator, out in zip(pair.both, outs, strict=True)
            ]
            assert torch.equal(*results)
            assert pair.both[0].last_log == pair.both[1].last_log


@pytest.mark.parametrize("least", [40, pytest.param(300, marks=[pytest.mark.soak, pytest.mark.timeout(1500)])])
@pytest.mark.parametrize("seed", range(len(TIMINGS)))
@pytest.mark.parametrize("name", PROTECTED)
def test_any_sequence_of_protected_calls_counts_the_same(open_pair, name, seed, least):
    print(f"seed {seed}")
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    memory = dataclasses.replace(MEMORY, **TIMINGS[seed])
    pair = open_pair(dataclasses.replace(PROTECTED[name], memory=memory), layout=LAYOUTS[seed])
    wanted = {"injected", "transition_cycles", "domain_0_point_1_cycles"}
    wanted |= {"detected", "suppressed", "log_records", "log_dropped"}
    seen = set()
    for call in range(least + 60):
        if call >= least and wanted <= seen:
            break
        protected_call(rng, generator, pair)
        seen |= {name for name, value in pair.assert_same_stats().items() if value > 0}
    assert wanted <= seen


@pytest.mark.parametrize(("bytes_per_cycle", "latency_cycles"), [(1, 1), (16, 20)])
def test_any_clock_counts_the_same(open_pair, bytes_per_cycle, latency_cycles):
    """Memory-bound and compute-bound products, with and without a look at `stats` between them.

    The slow memory needs longer for its credit of bandwidth than the host for a doorbell.
    """
    generator = torch.Generator().manual_seed(bytes_per_cycle)
    memory = dataclasses.replace(MEMORY, bytes_per_cycle=bytes_per_cycle, latency_cycles=latency_cycles)
    pair = open_pair(dataclasses.replace(PROTECTED["flip"], memory=memory))
    products = [
        [random_int8(generator, *shape) for shape in ((m, k), (k, n))] for m, k, n in ((24, 3, 40), (20, 70, 8))
    ]
    times = set()
    for index, frequency_hz in enumerate([2.3e9, 4.2e9, 1.1e9 * 1.1, 333_333_333, 2e9, 2_000_000_001, 2.9e9]):
        for accelerator in pair.both:
            accelerator.set_operating_point(frequency_hz=frequency_hz)
            if index == 3:
                accelerator.restart()
            accelerator.reset_stats()
        for a, w in products:
            pair.gemm(a, w)
            if index % 2:
                pair.assert_same_stats()
        pair.assert_same_stats()
        times.add(pair.both[0].stats["cycles"])
    assert len(times) >= 6  # one hertz more is no cycle more


def test_a_forward_pass_of_the_digits_model_counts_the_same(open_pair):
    pair = open_pair(dataclasses.replace(plain(16, 4), memory=MemoryConfig(size_bytes=1 << 23)))
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
