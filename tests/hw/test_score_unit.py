"""The score unit against its rule: exponentials, their places and times, quotients of row sums."""

import random

import pytest

from brownout.hw.attention.depths import LEAST_ROWS, exponential_latency, scale_latency
from brownout.hw.attention.score_unit import ScoreUnit
from brownout.hw.attention.table import TABLE
from brownout.hw.config import AcceleratorConfig

from .amaranth_bench import simulate

CONFIG = AcceleratorConfig(rows=3, cols=3, block_rows=12, block_col_tiles=4, slab_bytes=6, attention=True)
MULT, SHIFT, OUT_SCALE = 700, 9, 127 << 12


def golden(rows, first_query, causal):
    """Exponentials in unbounded integers."""
    found = []
    for query, row in enumerate(rows, first_query):
        t = [max(-32768, min(32767, (score * MULT + (1 << (SHIFT - 1))) >> SHIFT)) for score in row]
        count = query + 1 if causal else len(row)
        top = max(t[:count])
        steps = []
        for key, each in enumerate(t):
            octave, step = divmod(top - each, 256)
            counted = key < count and octave < 8
            steps.append((TABLE[step] + (1 << (octave + 7))) >> (octave + 8) if counted else 0)
        found.append(steps)
    return found


@pytest.mark.parametrize("follows", [False, True])
@pytest.mark.parametrize("causal", [0, 1])
@pytest.mark.parametrize(("queries", "block_rows", "keys"), [(1, 1, 1), (12, 12, 3), (7, 4, 8), (3, 3, 35), (9, 9, 10)])
def test_blocks(queries, block_rows, keys, causal, follows):
    """Scores that are all there at once, of heads of several k-tiles, or tile by tile, sooner and later than needed."""
    rng = random.Random(queries * 100 + keys)
    scores = [
        [rng.choice([rng.randrange(-2000, 2000), -(2**31), 2**31 - 1, 0]) for _ in range(keys)] for _ in range(queries)
    ]
    unit = ScoreUnit(CONFIG)
    tiles = -(-keys // CONFIG.cols)

    async def bench(ctx):
        params = {"attention": 1, "causal": causal, "m": queries, "n": 1, "batch": 1, "keys": keys}
        params |= {
            "k": CONFIG.rows + (not follows),
            "block_rows": block_rows,
            "score_mult": MULT,
            "score_shift": SHIFT,
            "out_scale": OUT_SCALE,
        }
        for name, value in params.items():
            ctx.set(getattr(unit.params, name), value)
        ctx.set(unit.start, 1)
        await ctx.tick()
        ctx.set(unit.start, 0)
        for block, first in enumerate(range(0, queries, block_rows)):
            rows = scores[first : first + block_rows]
            tile_cycles = max(len(rows), LEAST_ROWS)
            # Cycle in which each tile is seen to be there. The first row is issued in the one after the first.
            seen = sorted(rng.sample(range(1 + 2 * tiles * tile_cycles), tiles)) if follows else [0] * tiles
            second_pass = seen[0] + 1 + tile_cycles
            for each in seen[1:]:
                second_pass = max(second_pass, each) + tile_cycles
            written, ready, scaled = {}, [], None
            for cycle in range(-1, second_pass + tiles * tile_cycles + scale_latency(CONFIG) + 4):
                ctx.set(unit.score_tile_done, follows and cycle + 1 in seen)
                ctx.set(unit.scores_done, cycle + 1 == seen[-1])
                if ctx.get(unit.write_enable):
                    written[ctx.get(unit.write_address)] = ctx.get(unit.write_row)
                if ctx.get(unit.exponentials_ready):
                    ready.append(cycle)
                if ctx.get(unit.scales_ready):
                    scaled = cycle
                enable, address = ctx.get(unit.score_enable), ctx.get(unit.score_address)
                await ctx.tick()
                if enable:
                    tile, row = divmod(address, block_rows)
                    part = [*rows[row][tile * CONFIG.cols : (tile + 1) * CONFIG.cols], 99, 99, 99][: CONFIG.cols]
                    ctx.set(unit.score_row, sum((value & 0xFFFFFFFF) << 32 * c for c, value in enumerate(part)))
            latency = exponential_latency(CONFIG)
            assert ready == [second_pass + (tile + 1) * tile_cycles - 1 + latency for tile in range(tiles)]
            assert scaled == second_pass + (tiles - 1) * tile_cycles + len(rows) - 1 + scale_latency(CONFIG)
            assert len(written) == tiles * len(rows)
            for row, wanted in enumerate(golden(rows, first, causal)):
                found = [
                    written[key // CONFIG.cols * block_rows + row] >> 8 * (key % CONFIG.cols) & 255
                    for key in range(tiles * CONFIG.cols)
                ]
                assert found == wanted + [0] * (tiles * CONFIG.cols - keys)
                ctx.set(unit.scale_enable, 1)
                ctx.set(unit.scale_address, block % 2 * CONFIG.block_rows + row)
                await ctx.tick()
                assert ctx.get(unit.scale) == OUT_SCALE // sum(wanted)

    simulate(unit, bench)
