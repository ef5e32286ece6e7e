"""Sums of one block of a command."""

from __future__ import annotations

from brownout.hw.residues import RESIDUE_MODULUS
from brownout.hw.tiling import Block

from .command import Command
from .error_models import REFERENCE_ERROR_MODELS, ReferenceErrorModel, Sums
from .numbers import check_weights, digits_of, is_residue, wrap


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


@REFERENCE_ERROR_MODELS.register
class NoReferenceErrors(ReferenceErrorModel):
    """Nothing errs."""

    name = "none"

    def sums(self, cmd: Command, block: Block) -> Sums:
        return clean_sums(cmd, block)
