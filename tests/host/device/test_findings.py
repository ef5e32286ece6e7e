"""What the twin tells the cycle model about a product is what the slow reference finds in it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from brownout.cosim.cycle_model import Found
from brownout.cosim.reference import SegmentOutcome, reference_gemm
from brownout.host.device.backends.twin import TwinBackend
from brownout.host.device.product.operands import make_product
from brownout.hw.commands import GemmFlag
from brownout.hw.log_record import LOG_RECORDS_PER_BLOCK
from brownout.hw.tiling import blocks

from .test_protection_twin import KINDS, random_config, random_errors, random_operands, random_options


def expected_findings(config, result):
    batch, m, n = result.marked.shape
    flagged = result.outcome != SegmentOutcome.NOT_FLAGGED
    records = []
    for block in blocks(config, m, n, batch):
        rows = slice(block.first_row, block.first_row + block.rows)
        tiles = slice(block.first_col_tile, block.first_col_tile + block.col_tiles)
        records.append(min(int(flagged[block.batch, rows, tiles].sum()), LOG_RECORDS_PER_BLOCK))
    return records, np.flatnonzero(result.marked)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not None], ids=str)
@pytest.mark.parametrize("model", ["flip", "carry"])
def test_findings_equal_the_reference(model, kind):
    records_seen = suppressed_seen = 0
    for seed in range(20):
        rng = np.random.default_rng([seed, 5, *str((model, kind)).encode()])
        config = random_config(rng, model, kind)
        a, w = random_operands(rng, config)
        errors, options = random_errors(rng, config), random_options(rng, config)
        if options.check:
            options = dataclasses.replace(options, flags=(options.flags | GemmFlag.SUPPRESS) & ~GemmFlag.ZERO)
        result = reference_gemm(config, a, w, options=options, errors=errors)
        twin = TwinBackend(config)
        twin.errors = errors
        out = torch.zeros(result.marked.shape, dtype=torch.int32)
        product, _ = make_product(torch.from_numpy(a), torch.from_numpy(w), None, None, out, options)
        _, found = twin._compute(product)
        found = found or Found(np.zeros(len(list(blocks(config, *result.marked.shape[1:], a.shape[0])))))
        records, marked = expected_findings(config, result)
        assert found.records.tolist() == records, (seed, config, options)
        if options.suppress:
            assert np.array_equal(np.sort(found.suppressed), marked), (seed, config, options)
        records_seen += sum(records)
        suppressed_seen += len(found.suppressed)
    assert records_seen
    assert suppressed_seen
