import random

import pytest

from brownout.hw.checks.column_sums import ColumnSums
from brownout.hw.config import AcceleratorConfig, ChecksumConfig

from .amaranth_bench import simulate


@pytest.mark.parametrize("group_rows", [1, 8, 256, 512])
def test_digits_add_up_to_the_sums_of_the_group(group_rows):
    checksum = ChecksumConfig(segment_cols=4, group_rows=group_rows)
    config = AcceleratorConfig(rows=3, cols=4, block_rows=512, checksum=checksum)
    unit = ColumnSums(config)
    generator = random.Random(group_rows)
    groups = [[[-128] * 3] * group_rows, [[127] * 3] * group_rows]
    groups += [[[generator.randint(-128, 127) for _ in range(3)] for _ in range(generator.randint(1, group_rows))]]

    def unpacked(bits):
        return [((bits >> 8 * i & 0xFF) ^ 0x80) - 0x80 for i in range(3)]

    async def bench(ctx):
        for rows in groups:
            ctx.set(unit.enable, 1)
            for index, row in enumerate(rows):
                ctx.set(unit.first, index == 0)
                ctx.set(unit.a_row, sum((value & 0xFF) << 8 * i for i, value in enumerate(row)))
                await ctx.delay(1e-10)
                assert unpacked(ctx.get(unit.out_row)) == row
                await ctx.tick()
            ctx.set(unit.enable, 0)
            ctx.set(unit.digit, 1)
            totals = [0, 0, 0]
            for digit in range(checksum.digits):
                await ctx.delay(1e-10)
                values = unpacked(ctx.get(unit.out_row))
                totals = [total + (value << 8 * digit) for total, value in zip(totals, values, strict=True)]
                await ctx.tick()
            ctx.set(unit.digit, 0)
            assert totals == [sum(column) for column in zip(*rows, strict=True)]

    simulate(unit, bench)
