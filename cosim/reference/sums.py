"""Sums of one block of a command, and errors of the `flip` model in them."""

from __future__ import annotations

from dataclasses import dataclass

from brownout.hw.residues import RESIDUE_MODULUS
from brownout.hw.tiling import Block

from .command import Command
from .draws import pick
from .numbers import check_weights, digits_of, is_residue, wrap


@dataclass
class Sums:
    """Final sums of one block: of its rows, its digit rows (by group) and its row checks."""

    data: dict[tuple[int, int], int]
    digits: dict[tuple[int, int, int], int]
    checks: dict[tuple[int, int, int, int], int]


def clean_sums(cmd: Command, block: Block) -> Sums:
    """Sums of a block without errors."""
    sums = Sums({}, {}, {})
    b = block.batch
    for tile in cmd.tiles(block):
        for n in cmd.tile_columns(tile):
            for m in range(block.first_row, block.first_row + block.rows):
                sums.data[m, n] = int(cmd.a[b, m] @ cmd.w[b, :, n])
        if cmd.checksum is None:
            continue
        u = check_weights(cmd.w[b], cmd.config, tile)
        for m in range(block.first_row, block.first_row + block.rows):
            values = cmd.a[b, m] @ u
            for column, value in enumerate(values):
                s, j = divmod(column, cmd.checksum.checks)
                modular = is_residue(cmd.checksum, j)
                reduced = value % RESIDUE_MODULUS if modular else wrap(value, cmd.checksum.check_bits(j))
                sums.checks[m, tile, s, j] = int(reduced)
        if cmd.checksum.column_checks:
            for g, rows in enumerate(cmd.groups(block)):
                digits = digits_of(cmd.a[b, rows].sum(axis=0), cmd.checksum.digits)
                for i, digit_row in enumerate(digits):
                    for n in cmd.tile_columns(tile):
                        sums.digits[g, i, n] = int(digit_row @ cmd.w[b, :, n])
    return sums


def flip(cmd: Command, block: Block, sums: Sums) -> None:
    """Errors of the `flip` model in the sums of a block."""
    config = cmd.config
    for (m, n), value in sums.data.items():
        domain = config.domain_of_column(n % config.cols)
        drawn = cmd.error_of(domain, row=cmd.global_row(block.batch, m), col=cmd.global_col(n))
        if drawn is not None:
            sums.data[m, n] = cmd.err(value, drawn)
    for (g, i, n), value in sums.digits.items():
        domain = config.domain_of_column(n % config.cols)
        row = cmd.global_row(block.batch, cmd.groups(block)[g].start)
        drawn = cmd.error_of(domain, row=row, col=cmd.global_col(n), digit=1 + i)
        if drawn is not None:
            sums.digits[g, i, n] = cmd.err(value, drawn)
    for (m, tile, s, j), value in sums.checks.items():
        columns = cmd.segment_columns(tile, s)
        if not columns:
            continue
        assert cmd.checksum is not None
        row, col = cmd.global_row(block.batch, m), cmd.global_col(columns.start)
        drawn = cmd.error_of(config.check_domain, row=row, col=col, check=1 + j)
        if drawn is not None:
            width = cmd.checksum.check_bits(j)
            flipped = value ^ (1 << (pick(drawn) * width >> 32))
            sums.checks[m, tile, s, j] = flipped if is_residue(cmd.checksum, j) else wrap(flipped, width)
