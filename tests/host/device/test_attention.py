"""Attention on the chip from PyTorch: the twin against the reference, the RTL and floating point; refusals."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from brownout.cosim.reference.attention import AttentionScales, reference_attention
from brownout.host import Accelerator, Protection, SoftmaxScales
from brownout.host.device.backends import twin as twin_backend
from brownout.host.device.backends.shapes import ShapeBackend
from brownout.host.stadi.plan.device import DeviceSpec
from brownout.host.workload.counting import CountedWorkload
from brownout.host.workload.trace import Workload
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.state import CommandOptions, ErrorState
from brownout.hw.tiling import attention_rows

from ...configurations import ATTENTION, ATTENTION_CARRY, ATTENTION_FLIP

SCALES = SoftmaxScales(score_mult=40_000, score_shift=23, out_scale=127 << 20, out_shift=21)
PROTECTIONS = [
    None,
    Protection(theta=2, log_records=9),
    Protection(on_uncorrectable="zero", log_records=0),
    Protection(correct=False, on_uncorrectable="suppress"),
]
CHECKED = ("checks", "detected", "corrected", "suppressed", "log_records", "log_dropped")


def operands(heads: int, queries: int, width: int, keys: int, columns: int, seed: int = 1) -> list[torch.Tensor]:
    print("seed", seed)
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(-128, 128, (heads, *shape), dtype=torch.int8, generator=generator)
        for shape in ((queries, width), (keys, width), (keys, columns))
    ]


def reference(
    config: AcceleratorConfig,
    values: list[torch.Tensor],
    protection: Protection | None,
    errors: ErrorState,
    previous: torch.Tensor,
    causal: bool,
) -> Any:
    options = CommandOptions(error_key=7, first_row=3)
    if protection is not None:
        log_bytes = protection.log_records * config.log_record_bytes
        options = dataclasses.replace(options, flags=protection.flags, theta=protection.theta, log_bytes=log_bytes)
    return reference_attention(
        *(config, *(each.numpy() for each in values)),
        scales=AttentionScales(**dataclasses.asdict(SCALES)),
        block_rows=attention_rows(config, values[0].shape[1], values[1].shape[1]),
        options=options,
        value_error_key=8,
        value_theta=options.theta,
        errors=errors,
        causal=causal,
        previous=previous.numpy(),
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("rate", [0.0, 2e-3, 0.1])
@pytest.mark.parametrize("protection", PROTECTIONS, ids=lambda each: "unchecked" if each is None else str(each.flags))
def test_twin_has_the_bits_of_the_reference(protection: Protection | None, rate: float, causal: bool) -> None:
    values = operands(2, 21, 9, 40, 13)
    previous = torch.full((2, 21, 13), 5, dtype=torch.int8)
    with Accelerator(ATTENTION_FLIP, "twin") as accelerator:
        accelerator.set_error_rate(rate, seed=11)
        errors = accelerator._device.settings.errors
        wanted = reference(ATTENTION_FLIP, values, protection, errors, previous, causal)
        before = accelerator.check_counts
        out = accelerator.attention(
            *values, SCALES, causal=causal, out=previous.clone(), protection=protection, error_key=7, value_error_key=8,
            first_row=3,
        )  # fmt: skip
        assert out.numpy().tobytes() == wanted.output.tobytes()
        gained = {name: value - before[name] for name, value in accelerator.check_counts.items()}
        assert gained == {name: wanted.counters[name] for name in CHECKED}
        assert accelerator._log == wanted.log


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_change_nothing(threads: int) -> None:
    values = operands(3, 70, 16, 33, 24)
    kept = torch.get_num_threads()
    with Accelerator(ATTENTION_FLIP, "twin") as accelerator:
        accelerator.set_error_rate(0.02, seed=1)
        wanted = accelerator.attention(*values, SCALES, protection=Protection(on_uncorrectable="zero"))
        try:
            torch.set_num_threads(threads)
            found = accelerator.attention(*values, SCALES, protection=Protection(on_uncorrectable="zero"))
        finally:
            torch.set_num_threads(kept)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("at_once", [1, 100, 1 << 20], ids=str)
@pytest.mark.parametrize("queries", [7, 16, 29])
@pytest.mark.parametrize("config", [ATTENTION_FLIP, ATTENTION_CARRY], ids=["flip", "carry"])
def test_blocks_are_those_of_the_command_however_many_run_at_once(
    config: AcceleratorConfig, queries: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of few rows, the last one shorter; records are dropped block by block."""
    monkeypatch.setattr(twin_backend, "MOST_SCORES", at_once)
    columns = config.block_col_tiles * config.cols
    values = operands(2, queries, 8, 15, columns)
    protection = Protection(on_uncorrectable="zero")
    previous = torch.zeros(2, queries, columns, dtype=torch.int8)
    rng = np.random.default_rng(2)
    with Accelerator(config, "twin") as accelerator:
        if config.error_model.settles:
            accelerator.set_carry_lengths(
                rng.integers(5, 15, (config.rows, config.cols + len(config.check_columns)), np.uint8)
            )
        else:
            accelerator.set_error_rate(0.3, seed=11)
        wanted = reference(config, values, protection, accelerator._device.settings.errors, previous, causal=True)
        out = accelerator.attention(
            *values, SCALES, causal=True, protection=protection, error_key=7, value_error_key=8, first_row=3
        )
        assert out.numpy().tobytes() == wanted.output.tobytes()
        assert accelerator._log == wanted.log
        assert accelerator.check_counts["log_dropped"] == wanted.counters["log_dropped"]
        if config is ATTENTION_FLIP and queries > 8:
            assert wanted.counters["log_dropped"] > 0


def test_late_carries() -> None:
    values = operands(2, 12, 8, 14, 7)
    config = ATTENTION_CARRY
    rng = np.random.default_rng(2)
    previous = torch.zeros(2, 12, 7, dtype=torch.int8)
    with Accelerator(config, "twin") as accelerator:
        lengths = rng.integers(9, 20, (config.rows, config.cols + len(config.check_columns)), np.uint8)
        accelerator.set_carry_lengths(lengths)
        errors = accelerator._device.settings.errors
        protection = Protection(on_uncorrectable="suppress", log_records=0)
        wanted = reference(config, values, protection, errors, previous, causal=False)
        out = accelerator.attention(
            *values, SCALES, out=previous.clone(), protection=protection, error_key=7, value_error_key=8, first_row=3
        )
    assert out.numpy().tobytes() == wanted.output.tobytes()


@pytest.mark.xdist_group("attention")
@pytest.mark.parametrize("layout", ["row-major", "tiled"])
@pytest.mark.parametrize("config", [ATTENTION, ATTENTION_FLIP], ids=["plain", "flip"])
def test_rtl_and_twin_are_the_same(config: AcceleratorConfig, layout: str) -> None:
    """Bits, and every counter, energies included."""
    results, stats = [], []
    for backend in ("rtl", "twin"):
        with Accelerator(config, backend, deadline_s=60, layout=layout) as accelerator:
            protection = None
            if config.checksum is not None:
                accelerator.set_error_rate(0.02, seed=3)
                protection = Protection(on_uncorrectable="suppress", log_records=4)
            values = operands(2, 11, 7, 21, 5)
            out = torch.full((2, 11, 5), 9, dtype=torch.int8)
            for causal in (False, True):
                accelerator.attention(*values, SCALES, causal=causal, out=out, protection=protection)
                accelerator.gemm(values[0], values[1].mT)
            results.append(out)
            stats.append(dict(accelerator.stats))
    assert torch.equal(*results)
    assert stats[0] == stats[1]


@pytest.mark.parametrize("keys", [1, 33, 64])
def test_close_to_softmax(keys: int) -> None:
    """Within what rounding of exponentials, and of the output, can do."""
    generator = torch.Generator().manual_seed(keys)
    q, k, v = (torch.randn(2, rows, 16, generator=generator) for rows in (20, keys, keys))
    steps = [each.abs().max().item() / 127 for each in (q, k, v)]
    integers = [(each / step).round().to(torch.int8) for each, step in zip((q, k, v), steps, strict=True)]
    scale = 1 / math.sqrt(16)
    scales = SoftmaxScales.from_factors(scale * steps[0] * steps[1], steps[2] / (steps[2] / 2))
    config = AcceleratorConfig(rows=8, cols=8, block_rows=16, block_col_tiles=8, slab_bytes=16, attention=True)
    with Accelerator(config, "twin") as accelerator:
        found = accelerator.attention(*integers, scales).float() * (steps[2] / 2)
    floats = [each.float() * step for each, step in zip(integers, steps, strict=True)]
    wanted = F.scaled_dot_product_attention(*floats)
    weights = torch.softmax(floats[0] @ floats[1].mT * scale, 2)
    away = (floats[2][:, None] - wanted[:, :, None]).abs().sum(2)
    total = 1 / weights.max(2, keepdim=True).values  # of exponentials, at least
    inside = (wanted / steps[2] * 2).abs() < 127
    bound = 0.26 * steps[2] + 0.6 / 127 * away / total
    assert ((found - wanted).abs() <= bound)[inside].all()


def test_factors_become_the_closest_integers() -> None:
    scales = SoftmaxScales.from_factors(1e-4, 3.0)
    assert scales.score_mult / 2**scales.score_shift == pytest.approx(1e-4 * math.log2(math.e) * 256, rel=2**-16)
    assert scales.out_scale / 2**scales.out_shift == pytest.approx(3.0, rel=2**-36)
    assert scales.score_mult >= 1 << 15
    for factors in ((0.0, 1.0), (1.0, math.nan), (1e9, 1.0), (1.0, 1e12)):
        with pytest.raises(ValueError, match="must be"):
            SoftmaxScales.from_factors(*factors)


def test_shapes_count_what_the_twin_counts() -> None:
    config = dataclasses.replace(ATTENTION, memory=ATTENTION.memory)
    values = operands(2, 11, 7, 21, 5)
    with Accelerator(config, "twin") as twin, Accelerator(config, ShapeBackend(config)) as shapes:
        twin.attention(*values, SCALES)
        shapes.attention(*(each.to("meta") for each in values), SCALES)
        assert dict(shapes.stats) == dict(twin.stats)


def test_shapes_expect_what_the_twin_finds() -> None:
    checksum = ChecksumConfig(scheme="residue", column_checks=False, segment_cols=8)
    config = dataclasses.replace(ATTENTION_FLIP, checksum=checksum)
    values = operands(8, 48, 16, 48, 24)
    protection = Protection(on_uncorrectable="zero", log_records=0)
    counted = []
    for backend in ("twin", ShapeBackend(config)):
        with Accelerator(config, backend) as accelerator:
            accelerator.set_error_rate(0.02, seed=3)
            accelerator.attention(*values, SCALES, protection=protection)
            counted.append(dict(accelerator.stats))
    for name in ("checks", "detected", "corrected", "suppressed"):
        assert counted[1][name] == pytest.approx(counted[0][name], rel=0.15), name
    assert counted[1]["cycles"] == pytest.approx(counted[0]["cycles"], rel=0.01)


def test_elements_of_a_new_slot_that_were_never_written_are_counted() -> None:
    values = operands(2, 21, 9, 40, 13)
    protection = Protection(on_uncorrectable="suppress")
    with Accelerator(ATTENTION_FLIP, "twin") as accelerator:
        accelerator.set_error_rate(0.1, seed=11)
        slot = accelerator.new_slot(2, 21, 13, dtype=torch.int8)
        errors = accelerator._device.settings.errors
        wanted = reference(ATTENTION_FLIP, values, protection, errors, slot.clone(), causal=False)
        for _ in range(2):
            accelerator.attention(
                *values, SCALES, out=slot, protection=protection, error_key=7, value_error_key=8, first_row=3
            )
        assert accelerator.stats["suppressed_unwritten"] == wanted.uncorrectable.sum() > 0
        assert accelerator.stats["suppressed"] > 2 * wanted.uncorrectable.sum()


def test_dropped_sums() -> None:
    """Of Razor elements with drawn errors."""
    config = dataclasses.replace(ATTENTION_FLIP, razor=True, checksum=None)
    values = operands(2, 21, 9, 40, 13)
    with Accelerator(config, "twin") as accelerator:
        accelerator.set_error_rate(0.05, seed=11)
        errors = accelerator._device.settings.errors
        wanted = reference(config, values, None, errors, torch.zeros(2, 21, 13, dtype=torch.int8), causal=True)
        out = accelerator.attention(*values, SCALES, causal=True, error_key=7, value_error_key=8, first_row=3)
        assert out.numpy().tobytes() == wanted.output.tobytes()
        assert accelerator.stats["dropped"] == wanted.counters["dropped"] > 0


def test_mixed_and_fleets_refuse() -> None:
    """They would give other images."""
    with pytest.raises(ValueError, match="attention=False"):
        Accelerator(ATTENTION, "mixed")
    with pytest.raises(ValueError, match=r"device 'a' has an attention unit.*attention=False"):
        DeviceSpec(name="a", config=ATTENTION)
    with pytest.raises(ValueError, match="ShapedModel"):
        CountedWorkload(ATTENTION, Workload((), {}))


REFUSED: list[tuple[str, dict[str, Any]]] = [
    ("attention=True", {"config": AcceleratorConfig()}),
    ("int8", {"q": torch.zeros(1, 2, 2)}),
    ("heads, rows, columns", {"q": torch.zeros(2, 2, dtype=torch.int8)}),
    ("as many heads", {"q": torch.zeros(2, 2, 2, dtype=torch.int8)}),
    ("do not fit", {"q": torch.zeros(1, 2, 3, dtype=torch.int8)}),
    ("head size must be at most 8", {name: torch.zeros(1, 2, 9, dtype=torch.int8) for name in "qk"}),
    ("columns of v must be at most 8", {"v": torch.zeros(1, 2, 9, dtype=torch.int8)}),
    ("keys must be at most 64", {name: torch.zeros(1, 65, 2, dtype=torch.int8) for name in "kv"}),
    ("checksum units", {"protection": Protection()}),
    ("reload", {"protection": Protection(on_uncorrectable="reload")}),
    ("out must be int8", {"out": torch.zeros(1, 2, 2, dtype=torch.int32)}),
]  # fmt: skip


@pytest.mark.parametrize(("message", "changes"), REFUSED, ids=[message for message, _ in REFUSED])
def test_refused(message: str, changes: dict[str, Any]) -> None:
    changes = dict(changes)
    tensors = {name: changes.pop(name, torch.zeros(1, 2, 2, dtype=torch.int8)) for name in "qkv"}
    with (
        Accelerator(changes.pop("config", ATTENTION), "twin") as accelerator,
        pytest.raises((ValueError, TypeError), match=message),
    ):
        accelerator.attention(*tensors.values(), SCALES, **changes)
