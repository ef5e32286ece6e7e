"""Without values the checks find as much as is expected."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, Protection
from brownout.host.device.backends.shapes import ShapeBackend
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

RATE = 1e-2
M, N, K = 2000, 500, 24
SCHEMES = {
    "pairs": ChecksumConfig(scheme="residue", segment_cols=16, column_checks=False, pairs=True),
    "residue": ChecksumConfig(scheme="residue", segment_cols=8, column_checks=False),
    "classic": ChecksumConfig(scheme="classic", segment_cols=16, group_rows=32),
}


def config(scheme):
    return AcceleratorConfig(rows=16, cols=16, timing_model="flip", checksum=SCHEMES[scheme])


def run(accelerator, protection, values):
    checked = accelerator.config.checksum is not None
    accelerator.set_error_rate(RATE, seed=3, check_rate=RATE if checked else 0.0)
    accelerator.reset_stats()
    shape = (M, N)
    if values:
        generator = torch.Generator().manual_seed(1)
        a, w = (torch.randint(-90, 90, size, generator=generator, dtype=torch.int8) for size in ((M, K), (K, N)))
        out = accelerator.new_slot(*shape)
    else:
        a, w = (torch.empty(size, dtype=torch.int8, device="meta") for size in ((M, K), (K, N)))
        out = accelerator.new_slot(*shape, device="meta")
    accelerator.gemm(a, w, out=out, protection=protection)
    return dict(accelerator.stats), accelerator.last_uncorrectable(0, 0)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_expected_counts_are_those_of_a_product_with_values(scheme):
    protection = Protection(on_uncorrectable="suppress", log_records=1 << 20)
    with Accelerator(config(scheme), backend="twin") as accelerator:
        found, places = run(accelerator, protection, values=True)
    with Accelerator(config(scheme), ShapeBackend(config(scheme))) as accelerator:
        expected, expected_places = run(accelerator, protection, values=False)
    for name in ("injected", "detected", "corrected", "suppressed"):
        # Four standard deviations of what comes in segments.
        spread = 4 * np.sqrt(2 * 16 * max(found[name], 16))
        assert abs(expected[name] - found[name]) < max(0.02 * found[name], spread), name
    assert found["suppressed"] > 100
    assert len(expected_places) == pytest.approx(len(places), rel=0.25)
    assert expected_places.rows.max() < M
    assert expected_places.cols.max() < N
    assert expected["cycles"] == pytest.approx(found["cycles"], rel=0.02)


def test_the_same_calls_find_the_same():
    found = []
    for _ in range(2):
        with Accelerator(config("pairs"), ShapeBackend(config("pairs"))) as accelerator:
            found.append(run(accelerator, Protection(on_uncorrectable="suppress"), values=False)[0])
    assert found[0] == found[1]


def test_checks_and_log_are_counted_not_drawn():
    kept = Protection(on_uncorrectable="suppress", log_records=40)
    for protection in (kept, Protection(on_uncorrectable="suppress", log_records=0)):
        counted = []
        for backend, values in (("twin", True), (ShapeBackend(config("pairs")), False)):
            with Accelerator(config("pairs"), backend=backend) as accelerator:
                counted.append(run(accelerator, protection, values)[0])
        assert counted[0]["checks"] == counted[1]["checks"] == M * -(-N // 16)
        assert counted[0]["log_records"] == counted[1]["log_records"] == protection.log_records
        assert counted[1]["log_dropped"] == counted[1]["detected"] - protection.log_records


@pytest.mark.parametrize("razor", [False, True])
def test_errors_that_nobody_looks_for_are_counted(razor):
    plain = AcceleratorConfig(rows=16, cols=16, timing_model="flip", razor=razor)
    counted = []
    for backend, values in (("twin", True), (ShapeBackend(plain), False)):
        with Accelerator(plain, backend=backend) as accelerator:
            counted.append(run(accelerator, None, values)[0])
    for name in ("injected", "missed", *(["dropped"] if razor else [])):
        assert counted[0][name] > 1000
        assert counted[1][name] == pytest.approx(counted[0][name], abs=4 * np.sqrt(2 * M * N * RATE)), name
