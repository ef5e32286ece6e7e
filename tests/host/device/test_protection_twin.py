"""The fast twin's errors, checks and log, and what it tells the cycle model, are those of the slow reference."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from brownout.cosim.reference import SegmentOutcome, reference_gemm
from brownout.cosim.reference.golden import ChannelTable
from brownout.host import Requantisation
from brownout.host.device.backends.twin import TwinBackend
from brownout.host.device.product.operands import make_product
from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.errors.state import UNIFORM_BITS, CommandOptions, ErrorState, check_columns
from brownout.hw.log_record import LOG_RECORDS_PER_BLOCK
from brownout.hw.tiling import blocks

KINDS = (
    ("classic", 0, True),
    ("matched", 0, True),
    ("weighted", 1, False),
    ("weighted", 1, True),
    ("weighted", 2, False),
    ("weighted", 2, True),
    ("residue", 1, False),
    ("residue", 1, True),
    ("residue", 2, False),
    ("residue", 2, True),
    ("residue", 1, False, "pairs"),
    ("residue", 2, False, "pairs"),
    None,
)


def random_config(rng, model, kind):
    rows, cols = int(rng.integers(1, 9)), int(rng.integers(1, 9))
    drain_lanes = int(rng.integers(1, 3))
    group = int(rng.choice([1, 2, 3, 4, 8]))
    checksum = None
    if kind is not None:
        scheme, locators, column_checks, *pairs = kind
        checksum = ChecksumConfig(
            scheme=scheme,
            locators=locators,
            column_checks=column_checks,
            group_rows=group,
            segment_cols=int(rng.integers(min(drain_lanes, cols), 10)),
            pairs=bool(pairs),
        )
    return AcceleratorConfig(
        rows=rows,
        cols=cols,
        bus_bytes=4,
        block_rows=group * int(rng.integers(1, 9)),
        block_col_tiles=int(rng.integers(1, 4)),
        slab_bytes=int(rng.integers(1, 20)),
        drain_lanes=drain_lanes,
        timing_model=model,
        checksum=checksum,
        voltage_domains=int(rng.integers(1, min(3, cols) + 1)),
        operating_points=4,
    )


def random_operands(rng, config):
    batch, m, k, n = (int(rng.integers(1, high)) for high in (4, 28, 26, 26))
    kind = rng.integers(5)
    if kind == 0:
        values = [np.array([-128, 127], np.int8)[rng.integers(0, 2, shape)] for shape in ((batch, m, k), (batch, k, n))]
        return values
    if kind == 1:
        # Rows alike: syndromes of different rows become equal, and errors cancel.
        a = np.repeat(rng.integers(-128, 128, (batch, 1, k)), m, axis=1).astype(np.int8)
        return [a, np.repeat(rng.integers(-128, 128, (batch, k, 1)), n, axis=2).astype(np.int8)]
    spread = 128 if kind < 4 else 3
    return [rng.integers(-spread, spread, shape).astype(np.int8) for shape in ((batch, m, k), (batch, k, n))]


def random_errors(rng, config):
    rate = float(rng.choice([0.0, 1e-3, 1e-2, 0.1, 0.5]))
    rates = tuple(min(int(rate * scale * 2**32), 2**32 - 1) for scale in (0, 1, 0.3, 2))
    bits = UNIFORM_BITS
    if rng.random() < 0.3:
        # One bit or two only, so that errors cancel and repeat.
        low = int(rng.integers(0, 31))
        bits = tuple(0 if i < low else 1 << 31 if i == low else 2**32 - 1 for i in range(30))
    errors = ErrorState(seed=int(rng.integers(2**32)), rates=rates, bits=bits)
    for domain in range(config.voltage_domains + 1):
        point = int(rng.integers(4)) if domain < config.voltage_domains or rng.random() < 0.7 else 0
        lengths = None
        if config.timing_model == "carry":
            low = int(rng.choice([0, 8, 14, 20, 26, 31]))
            shape = (config.rows, config.cols + check_columns(config))
            lengths = rng.integers(low, 64 if rng.random() < 0.5 else 34, shape).astype(np.uint8)
            if rng.random() < 0.2:
                # A few slow elements among good ones: errors that are alone, and can be located.
                lengths[rng.random(shape) < 0.97] = 63
        errors.move(config, domain, point, lengths)
    return errors


def random_options(rng, config):
    flags = GemmFlag(0)
    if config.checksum is not None and rng.random() < 0.9:
        flags |= GemmFlag.CHECK
        flags |= GemmFlag.CORRECT if rng.random() < 0.7 else 0
        flags |= GemmFlag(int(rng.choice([0, GemmFlag.SUPPRESS, GemmFlag.ZERO])))
    extreme = rng.random() < 0.3
    return CommandOptions(
        flags=flags,
        error_key=int(rng.integers(2**32)),
        first_row=int(rng.integers(2**32 - 20, 2**32)) if extreme else int(rng.integers(1000)),
        first_col=int(rng.integers(2**32 - 20, 2**32)) if extreme else int(rng.integers(1000)),
        theta=0 if not flags or rng.random() < 0.5 else int(rng.integers(0, 64 if rng.random() < 0.2 else 35)),
        log_bytes=config.log_record_bytes * int(rng.choice([0, 3, 70, 5000])) if flags else 0,
    )


def random_finish(rng, n):
    """Bias and requantisation for the reference and for the twin."""
    kind = rng.integers(3)
    bias = rng.integers(-(2**31), 2**31, n).astype(np.int32)
    if kind == 0:
        return None, None, {}
    if kind == 1:
        return ChannelTable(bias, np.ones(n, np.int64), np.ones(n, np.int64)), None, {"bias": torch.from_numpy(bias)}
    bias //= 1 << 12
    mult, shift = rng.integers(1, 1 << 12, n), rng.integers(10, 24, n)
    bits = int(rng.choice([8, 16]))
    requant = Requantisation(torch.from_numpy(mult), torch.from_numpy(shift), bits)
    return ChannelTable(bias, mult, shift), bits, {"bias": torch.from_numpy(bias), "requant": requant}


def compare_findings(config, operands, errors, options, result, place):
    """Records of each block and places of suppressed elements, as the twin tells them to the cycle model; the number.

    What is marked does not depend on what becomes of it, so that every case can be one with suppression.
    """
    if options.check:
        options = dataclasses.replace(options, flags=(options.flags | GemmFlag.SUPPRESS) & ~GemmFlag.ZERO)
    twin = TwinBackend(config)
    twin.settings.errors = errors
    out = torch.zeros(result.uncorrectable.shape, dtype=torch.int32)
    product, _ = make_product(*operands, None, None, out, options)
    found = twin.find(product)
    batch, m, n = result.uncorrectable.shape
    flagged = result.outcome != SegmentOutcome.NOT_FLAGGED
    records = []
    for block in blocks(config, m, n, batch):
        rows = slice(block.first_row, block.first_row + block.rows)
        tiles = slice(block.first_col_tile, block.first_col_tile + block.col_tiles)
        records.append(min(int(flagged[block.batch, rows, tiles].sum()), LOG_RECORDS_PER_BLOCK))
    if found is None:
        assert not any(records), place
        return 0
    assert found.records.tolist() == records, place
    if options.suppress:
        assert np.array_equal(np.sort(found.suppressed), np.flatnonzero(result.uncorrectable)), place
    return len(found.suppressed)


def compare_random_commands(model, kind, seeds, **fields):
    """How often each thing has happened in these cases."""
    names = ("corrected", "suppressed", "log_records", "log_dropped", "dropped", "injected", "missed", "wrong", "held")
    seen = dict.fromkeys(names, 0)
    for seed in seeds:
        rng = np.random.default_rng([seed, *str((model, kind)).encode()])
        config = dataclasses.replace(random_config(rng, model, kind), **fields)
        a, w = random_operands(rng, config)
        errors, options = random_errors(rng, config), random_options(rng, config)
        channels, bits, finish = random_finish(rng, w.shape[2])
        dtype = f"int{bits or 32}"
        previous = rng.integers(-100, 100, (*a.shape[:2], w.shape[2])).astype(dtype)
        expected = reference_gemm(
            config,
            a,
            w,
            options=options,
            errors=errors,
            channels=channels,
            requantise=bits is not None,
            bits=bits or 8,
            previous=previous,
        )

        twin = TwinBackend(config)
        twin.settings.errors = errors
        out = torch.from_numpy(previous.copy())
        if rng.random() < 0.3:
            out = out.mT.clone().mT
        left = torch.from_numpy(a) if rng.random() < 0.5 else torch.from_numpy(a).mT.clone().mT
        right = torch.from_numpy(w)
        weights = twin.upload(right) if rng.random() < 0.5 else right
        product, _ = make_product(left, weights, finish.get("bias"), finish.get("requant"), out, options)
        log = twin.gemm(product)
        place = f"seed {seed}, {config}, {options}, {errors}"
        assert np.array_equal(out.numpy(), expected.output), place
        assert log == expected.log, place
        counts = twin.counters()
        assert {name: counts.get(name, 0) for name in expected.counters} == expected.counters, place
        for name in expected.counters.keys() & seen.keys():
            seen[name] += expected.counters[name]
        if model != "none":
            seen["held"] += compare_findings(config, (left, right), errors, options, expected, place)
    return seen


@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("model", ["flip", "carry"])
def test_random_commands_equal_the_reference(model, kind):
    seen = compare_random_commands(model, kind, range(20))
    # The cases are worth nothing unless things happen in them.
    wanted = {"injected", "missed"}
    if kind is not None:
        wanted |= {"suppressed", "held", "log_records", "log_dropped"}
        wanted |= {"corrected"} if kind[0] != "classic" and model == "flip" else set()
    assert all(seen[name] for name in wanted), seen


@pytest.mark.parametrize("kind", [("matched", 0, True), ("residue", 2, False), None], ids=str)
@pytest.mark.parametrize("model", ["flip", "carry"])
def test_random_commands_with_razor_equal_the_reference(model, kind):
    seen = compare_random_commands(model, kind, range(18), razor=True)
    assert seen["dropped"] > 50


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not None and kind[0] != "classic"], ids=str)
def test_late_carries_of_one_slow_element_are_corrected_as_by_the_reference(kind):
    scheme, locators, column_checks, *pairs = kind
    checksum = ChecksumConfig(
        scheme=scheme,
        locators=locators,
        column_checks=column_checks,
        group_rows=4,
        segment_cols=4,
        pairs=bool(pairs),
    )
    config = AcceleratorConfig(rows=4, cols=8, block_rows=8, timing_model="carry", checksum=checksum)
    options = CommandOptions(flags=GemmFlag.CHECK | GemmFlag.CORRECT, log_bytes=1 << 12)
    corrected = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        a, w = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((24, 8), (8, 8)))
        errors = ErrorState(lengths=np.full((4, 8 + check_columns(config)), 63, np.uint8))
        errors.lengths[rng.integers(4), rng.integers(8)] = rng.integers(8, 20)
        expected = reference_gemm(config, a, w, options=options, errors=errors)
        twin = TwinBackend(config)
        twin.settings.errors = errors
        product, out = make_product(torch.from_numpy(a), torch.from_numpy(w), None, None, None, options)
        assert twin.gemm(product) == expected.log, seed
        assert np.array_equal(out.numpy(), expected.output[0]), seed
        assert {name: twin.counters()[name] for name in expected.counters} == expected.counters, seed
        corrected += expected.counters["corrected"]
    assert corrected > 0


@pytest.mark.parametrize("segment_cols", [16, 32])
@pytest.mark.parametrize("locators", [1, 2])
def test_most_pairs_of_flips_are_corrected_as_by_the_reference(locators, segment_cols):
    checksum = ChecksumConfig(locators=locators, column_checks=False, segment_cols=segment_cols, pairs=True)
    config = AcceleratorConfig(rows=4, cols=32, block_rows=64, timing_model="flip", checksum=checksum)
    options = CommandOptions(flags=GemmFlag.CHECK | GemmFlag.CORRECT, log_bytes=1 << 12, error_key=3)
    rng = np.random.default_rng(segment_cols)
    a, w = (rng.integers(-128, 128, shape).astype(np.int8) for shape in ((400, 8), (8, 64)))
    # Checks err ten times less than outputs.
    errors = ErrorState(seed=5, rates=(0, int(0.03 * 2**32), int(0.003 * 2**32)), points=(1, 2))
    expected = reference_gemm(config, a, w, options=options, errors=errors)
    twin = TwinBackend(config)
    twin.settings.errors = errors
    product, out = make_product(torch.from_numpy(a), torch.from_numpy(w), None, None, None, options)
    assert twin.gemm(product) == expected.log
    assert np.array_equal(out.numpy(), expected.output[0])
    counts = {name: twin.counters()[name] for name in expected.counters}
    assert counts == expected.counters

    erred = (expected.sums[0] != a.astype(np.int64) @ w).reshape(400, -1, segment_cols).sum(axis=2)
    located = expected.corrected[0].reshape(400, -1, segment_cols).sum(axis=2)
    pairs = erred == 2
    assert pairs.sum() > 100
    # Ambiguous are those of sums that are powers of two, and a few in 8,191 ways to take two columns of a segment.
    assert (located[pairs] == 2).mean() > (0.93 if locators == 2 else 0.75)
    assert counts["wrong"] <= 0.005 * counts["corrected"]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_checks_of_hardware_that_cannot_err_find_nothing(kind):
    seen = compare_random_commands("none", kind, range(3))
    assert not any(seen.values())


@pytest.mark.soak
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("kind", KINDS, ids=str)
@pytest.mark.parametrize("razor", [False, True])
@pytest.mark.parametrize("model", ["flip", "carry"])
def test_many_random_commands_equal_the_reference(model, razor, kind):
    compare_random_commands(model, kind, range(1000, 1060), razor=razor)
