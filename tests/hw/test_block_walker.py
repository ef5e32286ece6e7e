import pytest

from brownout.hw.block_walker import BlockWalker
from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import blocks, with_block_rows

from .amaranth_bench import simulate

CONFIGS = [
    AcceleratorConfig(rows=4, cols=3, block_rows=5, block_col_tiles=2),
    AcceleratorConfig(rows=1, cols=1, block_rows=1, block_col_tiles=1),
    AcceleratorConfig(rows=16, cols=16),
]
SHAPES = [(1, 1, 1), (5, 6, 1), (23, 29, 2), (11, 4, 3), (600, 33, 1), (2, 300, 1)]


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: f"{config.rows}x{config.cols}")
def test_hardware_walks_the_blocks_of_the_python_rule(config):
    walker = BlockWalker(config)

    async def bench(ctx):
        for m, n, batch in SHAPES:
            ctx.set(walker.m, m)
            ctx.set(walker.n, n)
            ctx.set(walker.batch, batch)
            ctx.set(walker.start, 1)
            await ctx.tick()
            ctx.set(walker.start, 0)
            expected = list(blocks(config, m, n, batch))
            for index, block in enumerate(expected):
                assert ctx.get(walker.valid)
                assert ctx.get(walker.rows) == block.rows
                assert ctx.get(walker.col_tiles) == block.col_tiles
                assert ctx.get(walker.cols) == min(
                    block.col_tiles * config.cols, n - block.first_col_tile * config.cols
                )
                assert ctx.get(walker.last) == (index + 1 == len(expected))
                next_batch = expected[index + 1].batch if index + 1 < len(expected) else None
                assert ctx.get(walker.last_in_product) == (next_batch != block.batch)
                ctx.set(walker.advance, 1)
                await ctx.tick()
                ctx.set(walker.advance, 0)
            assert not ctx.get(walker.valid)

    simulate(walker, bench)


@pytest.mark.parametrize("largest", [1, 3, 5, 8])
def test_blocks_as_large_as_the_command_says_are_those_of_a_smaller_configuration(largest):
    config = AcceleratorConfig(rows=4, cols=3, block_rows=8, block_col_tiles=2, slab_bytes=4, activation_vectors=16)
    walker = BlockWalker(config)

    async def bench(ctx):
        ctx.set(walker.largest_rows, largest)
        for m, n, batch in ((1, 1, 1), (23, 29, 2), (41, 4, 3)):
            ctx.set(walker.m, m)
            ctx.set(walker.n, n)
            ctx.set(walker.batch, batch)
            ctx.set(walker.start, 1)
            await ctx.tick()
            ctx.set(walker.start, 0)
            for block in blocks(with_block_rows(config, largest), m, n, batch):
                assert ctx.get(walker.valid)
                assert ctx.get(walker.rows) == block.rows
                assert ctx.get(walker.first_in_row) == (block.first_col_tile == 0)
                ctx.set(walker.advance, 1)
                await ctx.tick()
                ctx.set(walker.advance, 0)
            assert not ctx.get(walker.valid)

    simulate(walker, bench)
