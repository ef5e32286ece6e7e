"""What travels beside a row through the array, to whoever takes its sums."""

from __future__ import annotations

from amaranth.lib import data

from ..config import AcceleratorConfig


def accumulator_depth(config: AcceleratorConfig) -> int:
    """Rows of sums in an accumulator bank: [column tile][row], then [column tile][group][digit]."""
    digits = 0 if config.checksum is None else config.checksum.digits
    return config.block_col_tiles * (config.block_rows + config.group_count * digits)


def row_tag_layout(config: AcceleratorConfig) -> data.StructLayout:
    """Tag of a row of sums.

    Always: accumulator `bank` and `address`, `first` (no old sum), `block_last`. With checksum units or a model of
    errors that `draws`: `final` (last k-tile), `tile` (column tile of the block). If it draws: global `row` and `col`
    of the draws, `cols` (columns inside N). With an attention unit: `of_scores`, `of_values` (the products of
    attention), `tile_last` (last row of the pass). With column checks: `digit` (0: a row of data), `group` of the
    block, `group_first`, `group_end` (its first row of data, its last row of digits).
    """
    members: dict[str, object] = {"bank": 1, "first": 1, "block_last": 1, "address": range(accumulator_depth(config))}
    if config.checksum is not None or config.error_model.draws:
        members |= {"final": 1, "tile": range(config.block_col_tiles)}
    if config.error_model.draws:
        members |= {"row": 32, "col": 32, "cols": range(config.cols + 1)}
    if config.attention:
        members |= {"of_scores": 1, "of_values": 1, "tile_last": 1}
    if config.group_count:
        members |= {"digit": 2, "group": range(config.group_count), "group_first": 1, "group_end": 1}
    return data.StructLayout(members)
