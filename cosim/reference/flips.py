"""Errors of the `flip` model in the sums of one block."""

from __future__ import annotations

from brownout.hw.tiling import Block

from .command import Command
from .draws import pick
from .error_models import REFERENCE_ERROR_MODELS, ReferenceErrorModel, Sums
from .numbers import is_residue, wrap
from .sums import clean_sums


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


@REFERENCE_ERROR_MODELS.register
class FlipReference(ReferenceErrorModel):
    """Inverted bits."""

    name = "flip"

    def sums(self, cmd: Command, block: Block) -> Sums:
        found = clean_sums(cmd, block)
        flip(cmd, block, found)
        return found
