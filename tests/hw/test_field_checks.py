from brownout.hw.commands import (
    COMMAND_VERSION,
    CopyCommand,
    ErrorCause,
    GemmCommand,
    GemmFlag,
    Opcode,
    PlainCommand,
    SetErrorsCommand,
)
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.control.field_checks import FieldChecks, known_opcodes

from .amaranth_bench import simulate

CHECKED = AcceleratorConfig(
    **{"rows": 4, "cols": 4, "bus_bytes": 16, "address_bits": 32, "operating_points": 3},
    checksum=ChecksumConfig(segment_cols=4),
    timing_model="flip",
)
PLAIN = AcceleratorConfig(rows=4, cols=4, bus_bytes=16, address_bits=32)
GEMM = {
    **{"m": 1, "n": 1, "k": 1, "a_addr": 0, "w_addr": 0, "y_addr": 0, "lda": 16, "ldw": 16, "ldy": 16},
    **{"read_base": 0, "read_limit": 16, "write_base": 0, "write_limit": 1 << 32},
}
COPY = {
    **{"runs": 1, "size": 1, "source_addr": 4096, "target_addr": 0, "list_addr": 0},
    **{"read_base": 0, "read_limit": 8192, "write_base": 0, "write_limit": 4096},
}
CASES = [
    (PlainCommand(opcode=Opcode.FENCE), "NONE"),
    (PlainCommand(opcode=7), "OPCODE"),
    (PlainCommand(opcode=Opcode.SNAPSHOT, version=COMMAND_VERSION + 1), "VERSION"),
    (GemmCommand(**GEMM), "NONE"),
    (GemmCommand(**GEMM | {"ldy": 0}), "LDY"),
    (GemmCommand(**GEMM | {"m": 0, "lda": 1}), "M"),
    (GemmCommand(**GEMM | {"write_limit": (1 << 32) + 16}), "WRITE_WINDOW"),
    (SetErrorsCommand(seed=0, rates=(1, 2, 3)), "NONE"),
    (SetErrorsCommand(seed=0, rates=(1, 2, 3, 4)), "RATE"),
    (CopyCommand(**COPY), "NONE"),
    (CopyCommand(**COPY | {"runs": 1 << 24}), "RUNS"),
    (CopyCommand(**COPY | {"source_addr": 8192}), "SOURCE"),
    (CopyCommand(**COPY | {"size": 4097}), "SOURCE"),
]


def causes(config, cases):
    checks = FieldChecks(config)
    found = []

    async def bench(ctx):
        for encoded, reserved in cases:
            ctx.set(checks.command, int.from_bytes(encoded[: len(checks.command) // 8], "little"))
            ctx.set(checks.reserved, reserved)
            found.append(ErrorCause(ctx.get(checks.cause)).name)

    simulate(checks, bench)
    return found


def test_the_first_field_that_is_wrong_names_the_cause():
    assert causes(CHECKED, [(command.encode(), 0) for command, _ in CASES]) == [cause for _, cause in CASES]


def test_commands_that_the_configuration_has_no_use_for_are_unknown():
    found = causes(PLAIN, [(command.encode(), 0) for command, _ in CASES])
    assert found[-4:] == ["OPCODE"] * 4
    assert found[7:9] == ["OPCODE", "OPCODE"]


def test_bytes_are_reserved_for_the_command_that_does_not_have_them():
    index = known_opcodes(CHECKED).index(Opcode.FENCE)
    fence = PlainCommand(opcode=Opcode.FENCE).encode()
    assert causes(CHECKED, [(fence, 1 << index), (fence, ~(1 << index) & 0x3F)]) == ["RESERVED", "NONE"]


def test_what_is_kept_must_fit_and_blocks_must_be_whole_groups():
    config = AcceleratorConfig(
        **{"rows": 4, "cols": 4, "address_bits": 32, "block_rows": 8, "slab_bytes": 8, "activation_vectors": 41},
        checksum=ChecksumConfig(segment_cols=4, group_rows=4),
    )
    cases = [
        ({"m": 8, "k": 20}, "NONE"),
        ({"m": 9, "k": 21}, "KEPT"),
        ({"m": 6, "k": 24}, "NONE"),
        ({"m": 7, "k": 24}, "KEPT"),
        ({"m": 100, "k": 40, "block_rows": 4}, "NONE"),
        ({"m": 100, "k": 41, "block_rows": 4}, "KEPT"),
        ({"m": (1 << 24) - 1, "k": 131_071}, "KEPT"),
        ({"m": 1, "k": 164}, "NONE"),
        ({"m": 1, "k": 165}, "KEPT"),
        ({"block_rows": 3}, "BLOCK_ROWS"),
        ({"block_rows": 12}, "BLOCK_ROWS"),
    ]
    keep = {"flags": int(GemmFlag.KEEP_ACTIVATIONS)}
    encoded = [(GemmCommand(**GEMM | keep | fields).encode(), 0) for fields, _ in cases]
    assert causes(config, encoded) == [cause for _, cause in cases]
    without = [(GemmCommand(**GEMM | fields).encode(), 0) for fields, _ in cases]
    assert causes(config, without) == ["NONE"] * 9 + ["BLOCK_ROWS"] * 2
    assert causes(PLAIN, encoded[:1]) == ["FLAGS"]
