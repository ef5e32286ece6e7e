"""Elements with Razor flip-flops: what they drop, on the twin and on simulated RTL."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, Protection, Requantisation
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig
from brownout.hw.errors.state import check_columns
from brownout.hw.tiling import split_extent

from .test_protected_commands import checks
from .test_protected_commands import config as configuration

SHAPES = [(1, 1, 1), (7, 5, 3), (19, 13, 11), (33, 26, 17)]
"""M, K, N: less than a tile, and several blocks and tiles that are all cut."""


def random_int8(generator, *shape):
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=generator)


def late_product(config, a, w, lengths):
    """What docs/protection.md says about `carry`, one array row at a time: sums, errors and products dropped."""
    a, w = a.astype(np.int64), w.astype(np.int64)
    column = np.arange(w.shape[1]) % config.cols
    total, errors, drops = np.zeros((len(a), w.shape[1]), np.uint32), 0, 0
    for first_row, rows in split_extent(len(a), config.block_rows):
        for first_k in range(0, a.shape[1], config.rows):
            x = np.zeros((rows, w.shape[1]), np.uint32)
            drop = np.zeros(x.shape, bool)
            for r in range(config.rows):
                k = first_k + r
                y = np.zeros_like(x)
                if k < a.shape[1]:
                    y += np.outer(a[first_row : first_row + rows, k], w[k]).astype(np.uint32)
                settled, p = x + y, x ^ y
                length = lengths[r, column]
                run = np.full_like(p, 0xFFFFFFFF)
                for back in range(32):
                    run &= np.where(length > back, p << np.uint32(back), np.uint32(0xFFFFFFFF))
                late = (settled ^ p) & (run << np.uint32(1))
                late[0] = 0
                stale = np.roll(settled, 1, axis=0)
                out = (settled & ~late) | (stale & late)
                drops += int(drop.sum())
                if config.razor:
                    x, drop = np.where(drop, x, settled), (out != settled) & ~drop
                    errors += int(drop.sum())
                else:
                    x, errors = out, errors + int((out != settled).sum())
            total[first_row : first_row + rows] += x
    return total.view(np.int32), errors, drops


def drawn(seed, error_key, rows, cols, rate):
    """Where the draws of docs/protection.md are errors: bool (rows, cols)."""

    def mix(x):
        x = x ^ (x >> np.uint32(16))
        x = x * np.uint32(0x7FEB352D)
        x = x ^ (x >> np.uint32(15))
        x = x * np.uint32(0x846CA68B)
        return x ^ (x >> np.uint32(16))

    base = mix(np.array([seed], np.uint32) + mix(np.array([error_key], np.uint32)))
    row_keys = mix(base + np.arange(rows, dtype=np.uint32) * np.uint32(0x9E3779B1))
    return mix(row_keys[:, None] + np.arange(cols, dtype=np.uint32) * np.uint32(0x85EBCA77)) < np.uint32(rate)


def small(model, **fields):
    return AcceleratorConfig(
        **{"rows": 5, "cols": 3, "block_rows": 16, "timing_model": model, "razor": True, **fields},
        memory=MemoryConfig(size_bytes=1 << 22),
    )


def length_tables(config, rng):
    """Settled carry lengths: nothing waits for a carry, everything does, and between."""
    shape = (config.rows, config.cols + check_columns(config))
    tables = [np.full(shape, length, np.uint8) for length in (0, 1, 20, 30, 31, 63)]
    return [*tables, rng.integers(8, 33, shape).astype(np.uint8)]


@pytest.mark.parametrize("razor", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_late_sum_costs_the_product_of_the_element_below(generator, shape, razor):
    config = small("carry", razor=razor)
    (m, k, n), rng = shape, np.random.default_rng(3)
    a, w = random_int8(generator, m, k), random_int8(generator, k, n)
    clean = a.numpy().astype(np.int32) @ w.numpy().astype(np.int32)
    seen = []
    for lengths in length_tables(config, rng):
        expected, late, drops = late_product(config, a.numpy(), w.numpy(), lengths)
        with Accelerator(config, backend="twin") as twin:
            twin.set_carry_lengths(lengths)
            assert np.array_equal(twin.gemm(a, w).numpy(), expected)
            counts = {"injected": late, "missed": int((expected != clean).sum()), "wrong": 0}
            counts |= {"dropped": drops} if razor else {}
            assert {name: value for name, value in twin.stats.items() if name in (*counts, "dropped")} == counts
        seen.append(late)
    # Without a row before, nothing is late.
    assert (seen[0] > seen[2] > seen[4] == seen[5] == 0) if m > 1 and k > 1 else not any(seen)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_sums_that_a_flip_hits_become_zero_before_bias(generator, shape):
    config = small("flip")
    m, k, n = shape
    a, w = random_int8(generator, m, k), random_int8(generator, k, n)
    a[::4] = 0  # Sums that are zero anyway are dropped too, and not wrong afterwards.
    bias = torch.arange(n, dtype=torch.int32) + 5
    clean = a.numpy().astype(np.int32) @ w.numpy().astype(np.int32)
    with Accelerator(config, backend="twin") as twin:
        for rate in (0.0, 0.01, 0.3, 1.0):
            twin.reset_stats()
            twin.set_error_rate(rate, seed=11)
            hit = drawn(11, 4, m, n, min(int(rate * 2**32), 2**32 - 1))
            expected = np.where(hit, 0, clean) + bias.numpy()
            assert np.array_equal(twin.gemm(a, w, bias=bias, error_key=4).numpy(), expected)
            wanted = {"dropped": hit.sum(), "injected": hit.sum(), "missed": (hit & (clean != 0)).sum(), "wrong": 0}
            assert {name: twin.stats[name] for name in wanted} == wanted
    assert hit.all()


def test_bits_cannot_be_weighted_where_sums_are_dropped():
    message = r"^bit_weights must be None with AcceleratorConfig.razor=True: sums that err become zero$"
    with Accelerator(small("flip"), backend="twin") as twin, pytest.raises(ValueError, match=message):
        twin.set_error_rate(0.1, bit_weights=[1.0] * 31)


def column_with_errors(late_rows, a, w):
    """Sum and counters of one column of four elements after a row whose sums are 0, with these rows' carries late."""
    config = small("carry", rows=4, cols=1)
    lengths = np.full((4, 1), 63, np.uint8)
    lengths[late_rows] = 0
    rows = torch.tensor([[0] * len(a), a], dtype=torch.int8)
    with Accelerator(config, backend="twin") as twin:
        twin.set_carry_lengths(lengths)
        out = twin.gemm(rows, torch.tensor(w, dtype=torch.int8)[:, None])
        return out[1, 0].item(), twin.stats["injected"], twin.stats["dropped"]


@pytest.mark.parametrize(
    ("late_rows", "a", "result"),
    [
        ([], [1, 3, 5, 11], (20, 0, 0)),
        # 1 + 3 has carries; it is finished, and the 5 is lost.
        ([1], [1, 3, 5, 11], (15, 1, 1)),
        # The element that has lost its product has no sum that could be late, as 4 + 5 would be.
        ([1, 2], [1, 3, 5, 11], (15, 1, 1)),
        # After the element that has lost its product, the next one may be late again: 4 + 12, in the last row.
        ([1, 2, 3], [1, 3, 5, 12], (16, 2, 1)),
        # The last row: 9 + 11 is finished while the accumulator waits, and nothing is lost.
        ([3], [1, 3, 5, 11], (20, 1, 0)),
        # A product of 0 is lost, too, and one beyond K.
        ([1], [1, 3, 0, 11], (15, 1, 1)),
        ([2], [1, 3, 4], (8, 1, 1)),
        # The borrowing ends with the k-tile: 1 + 15 in the last row costs nothing in the next one.
        ([3], [1, 0, 0, 15, 2, 1], (19, 1, 0)),
    ],
)
def test_an_error_costs_one_product(late_rows, a, result):
    assert column_with_errors(late_rows, a, [1] * len(a)) == result


def test_a_weight_of_zero_is_a_product_to_lose():
    """Elements with zero weights add nothing and can be left out, but their cycle can be borrowed."""
    assert column_with_errors([1, 2], [1, 3, 100, 11], [1, 1, 0, 1]) == (15, 1, 1)
    assert column_with_errors([1], [1, 3, 100, 12], [1, 1, 0, 1]) == (16, 1, 1)


def test_checks_put_back_what_one_slow_element_drops(generator):
    """Check columns are no Razor elements: they see the product that is missing, and correct the sum."""
    checksum = ChecksumConfig(scheme="residue", column_checks=False, segment_cols=6)
    config = small("carry", cols=6, checksum=checksum)
    a, w = random_int8(generator, 400, 5), random_int8(generator, 5, 6)
    a[:, 4] |= 1  # The element below the slow one always has a product to lose.
    w[4] |= 1
    lengths = np.full((5, 6 + check_columns(config)), 63, np.uint8)
    lengths[3, 4] = 12
    with Accelerator(config, backend="twin", protection=Protection()) as twin:
        twin.set_carry_lengths(lengths)
        assert torch.equal(twin.gemm(a, w), a.int() @ w.int())
        counts = twin.stats
    assert counts["dropped"] == counts["injected"] == counts["corrected"] > 5
    assert counts["missed"] == counts["wrong"] == counts["suppressed"] == 0


@pytest.mark.parametrize("model", ["flip", "carry"])
def test_the_number_of_threads_changes_nothing(generator, model):
    config = AcceleratorConfig(timing_model=model, razor=True)
    a, w = random_int8(generator, 300, 40), random_int8(generator, 40, 300)
    results = []
    for threads in (1, 6):
        torch.set_num_threads(threads)
        with Accelerator(config, backend="twin") as twin:
            if model == "flip":
                twin.set_error_rate(0.2)
            else:
                twin.set_carry_lengths(np.full((16, 16), 22, np.uint8))
            results.append((twin.gemm(a, w), dict(twin.stats)))
    assert torch.equal(results[0][0], results[1][0])
    assert results[0][1] == results[1][1]
    assert results[0][1]["dropped"] > 1000


def journey(config, backend):
    """Results, logs and counters of products with everything from no errors to nothing but errors."""
    generator, rng, found = torch.Generator().manual_seed(5), np.random.default_rng(5), []
    protection = Protection(on_uncorrectable="zero", log_records=40) if config.checksum else None
    flip = config.timing_model == "flip"
    with Accelerator(config, backend=backend, protection=protection) as accelerator:
        for step, setting in enumerate([0.0, 0.01, 0.3, 1.0, 0.05] if flip else length_tables(config, rng)):
            if flip:
                accelerator.set_error_rate(setting, seed=step)
            else:
                accelerator.set_carry_lengths(setting)
            for m, k, n in SHAPES:
                a, w = random_int8(generator, 2, m, k), random_int8(generator, 2, k, n)
                scales = Requantisation(torch.full((n,), 1 << 20), torch.full((n,), 26))
                bias = torch.arange(n, dtype=torch.int32)
                finish = {"bias": bias, "requant": scales} if step % 2 else {}
                check = {"protection": Protection(check=False)} if config.checksum and m == 7 else {}
                out = accelerator.gemm(a, w, error_key=step, **finish, **check)
                found.append((out, accelerator.last_log, dict(accelerator.stats)))
    return found


RTL_CONFIGS = {
    "flip": configuration(3, 9, "flip", None, razor=True, voltage_domains=2),
    "carry": configuration(4, 6, "carry", checks("residue", 4, 8, locators=2), razor=True, bus_bytes=64),
}


@pytest.mark.rtl
@pytest.mark.xdist_group("protected")
@pytest.mark.parametrize("model", RTL_CONFIGS)
def test_the_rtl_drops_and_counts_what_the_twin_does(model):
    config = RTL_CONFIGS[model]
    dropped = []
    for place, (expected, got) in enumerate(zip(journey(config, "twin"), journey(config, "rtl"), strict=True)):
        assert torch.equal(expected[0], got[0]), place
        assert expected[1] == got[1], place
        assert expected[2] == got[2], place
        dropped.append(got[2]["dropped"])
    assert len(set(dropped)) > 10
