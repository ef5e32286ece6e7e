import random

from brownout.hw.commands import ErrorCause, GemmCommand, GemmFlag, output_item_bytes
from brownout.hw.config import AcceleratorConfig
from brownout.hw.control.extents import Extents
from brownout.hw.matrix_layout import tiled_activations, tiled_output, tiled_weights

from .amaranth_bench import simulate

CONFIG = AcceleratorConfig(rows=3, cols=5, bus_bytes=4, block_col_tiles=2, slab_bytes=6, address_bits=32)
BUS = CONFIG.bus_bytes
SCALED = GemmFlag.CHANNEL | GemmFlag.REQUANT
TILED = ((GemmFlag.A_TILED, "lda"), (GemmFlag.W_TILED, "ldw"), (GemmFlag.Y_TILED, "ldy"))


def beats(count):
    return -(-count // BUS) * BUS


def random_command(rng):
    m, n, k, batch = (rng.choice([1, 2, rng.randint(1, 50)]) for _ in range(4))
    flags = sum(flag for flag in (*GemmFlag,) if flag >= GemmFlag.A_TILED and rng.random() < 0.4)
    flags |= rng.choice([0, GemmFlag.CHANNEL, SCALED, SCALED | GemmFlag.INT16])
    item_bytes = output_item_bytes(flags)
    strides = {
        "lda": tiled_activations(CONFIG, m, k).row_bytes if flags & GemmFlag.A_TILED else beats(k) + BUS,
        "ldw": tiled_weights(CONFIG, k, n).row_bytes if flags & GemmFlag.W_TILED else beats(n) + BUS,
        "ldy": tiled_output(CONFIG, m, n, item_bytes).row_bytes if flags & GemmFlag.Y_TILED else beats(n * item_bytes),
    }
    if rng.random() < 0.3:
        strides[rng.choice(list(strides))] += rng.choice([BUS, 1 << 31])
    spread = {
        **{name: BUS * rng.randint(256, 2048) for name in ("a_addr", "w_addr", "y_addr", "channel_addr")},
        **{name: BUS * rng.randint(0, 99) for name in ("a_batch_stride", "w_batch_stride", "y_batch_stride")},
    }
    windows = {"read_base": 1024, "read_limit": 1 << 20, "write_base": 1024, "write_limit": 1 << 20}
    return GemmCommand(m=m, n=n, k=k, batch=batch, flags=int(flags), **strides, **spread, **windows)


def last_bytes(command):
    """Per operand: cause, first byte, byte after the last one, window."""
    c = command
    item_bytes = output_item_bytes(c.flags)
    read, write = (c.read_base, c.read_limit), (c.write_base, c.write_limit)
    rows = (
        ("A", c.a_addr, c.m, c.lda, c.a_batch_stride, beats(c.k), GemmFlag.A_TILED, read),
        ("W", c.w_addr, c.k, c.ldw, c.w_batch_stride, beats(c.n), GemmFlag.W_TILED, read),
        ("Y", c.y_addr, c.m, c.ldy, c.y_batch_stride, beats(c.n * item_bytes), GemmFlag.Y_TILED, write),
    )
    for name, address, count, stride, batch_stride, row, tiled, window in rows:
        row = stride if c.flags & tiled else row
        yield f"{name}_WINDOW", address, address + (count - 1) * stride + (c.batch - 1) * batch_stride + row, window
    if c.flags & GemmFlag.CHANNEL:
        yield "CHANNEL_WINDOW", c.channel_addr, c.channel_addr + 16 * c.n, read


def expected_cause(command):
    c = command
    item_bytes = output_item_bytes(c.flags)
    row_bytes = {
        "lda": tiled_activations(CONFIG, c.m, c.k).row_bytes,
        "ldw": tiled_weights(CONFIG, c.k, c.n).row_bytes,
        "ldy": tiled_output(CONFIG, c.m, c.n, item_bytes).row_bytes,
    }
    for flag, name in TILED:
        if c.flags & flag and getattr(c, name) != row_bytes[name]:
            return name.upper()
    for cause, begin, end, (low, high) in last_bytes(c):
        if not low <= begin < high or end > high:
            return cause
    return "NONE"


def test_operands_that_leave_their_window_by_a_beat_are_found():
    seed = 7
    print(f"seed {seed}")
    rng = random.Random(seed)
    checks = Extents(CONFIG)
    seen = set()

    async def bench(ctx):
        for _ in range(150):
            command = random_command(rng)
            # A window that an operand just fills, or just does not.
            _, begin, end, _ = rng.choice(list(last_bytes(command)))
            side = rng.choice(["read", "write"])
            edges = {f"{side}_base": begin + rng.choice([0, 0, BUS]), f"{side}_limit": end - rng.choice([0, 0, BUS])}
            if rng.random() < 0.7:
                name, value = rng.choice(list(edges.items()))
                command = GemmCommand(**{**vars(command), name: value})
            ctx.set(checks.command, int.from_bytes(command.encode()[: len(checks.command) // 8], "little"))
            ctx.set(checks.start, 1)
            await ctx.tick()
            ctx.set(checks.start, 0)
            for _ in range(60):
                if ctx.get(checks.done):
                    break
                await ctx.tick()
            assert ctx.get(checks.done)
            cause = ErrorCause(ctx.get(checks.cause)).name
            assert cause == expected_cause(command), command
            seen.add(cause)
            await ctx.tick()

    simulate(checks, bench)
    assert seen == {"NONE", "LDA", "LDW", "LDY", "A_WINDOW", "W_WINDOW", "Y_WINDOW", "CHANNEL_WINDOW"}


def test_in_a_hurry_widths_of_tiles_are_not_waited_for():
    command = GemmCommand(
        **{"m": 1, "n": (1 << 24) - 1, "k": 1, "lda": 4, "ldw": 4, "ldy": 4, "flags": int(GemmFlag.W_TILED)},
        **{"a_addr": 0, "w_addr": 0, "y_addr": 0},
        **{"read_base": 0, "read_limit": 4, "write_base": 0, "write_limit": 4},
    )
    checks = Extents(CONFIG)

    async def bench(ctx):
        ctx.set(checks.command, int.from_bytes(command.encode()[: len(checks.command) // 8], "little"))
        ctx.set(checks.start, 1)
        await ctx.tick()
        ctx.set(checks.start, 0)
        await ctx.tick().repeat(100)
        assert not ctx.get(checks.done)
        ctx.set(checks.hurry, 1)
        cycles = 0
        while not ctx.get(checks.done):
            cycles += 1
            assert cycles <= 25
            await ctx.tick()

    simulate(checks, bench)
