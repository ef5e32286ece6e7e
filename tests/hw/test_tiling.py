from hypothesis import given
from hypothesis import strategies as st

from brownout.hw.config import AcceleratorConfig
from brownout.hw.tiling import blocks, ideal_cycles, slabs, split_extent

extents = st.integers(1, 5000)
limits = st.integers(1, 300)


@given(extents, limits)
def test_pieces_cover_the_extent_without_gap_or_overlap(total, largest):
    position = 0
    for start, size in split_extent(total, largest):
        assert start == position
        assert 1 <= size <= largest
        position += size
    assert position == total


@given(extents, limits)
def test_no_more_pieces_than_necessary(total, largest):
    assert len(list(split_extent(total, largest))) == -(-total // largest)


@given(extents, st.integers(8, 300))
def test_the_smallest_piece_is_no_small_rest(total, largest):
    sizes = [size for _, size in split_extent(total, largest)]
    if len(sizes) > 1:
        assert min(sizes) >= largest // 2


def test_the_last_pieces_are_equal():
    assert list(split_extent(257, 128)) == [(0, 86), (86, 86), (172, 85)]
    assert [size for _, size in split_extent(17, 4)] == [4, 4, 3, 3, 3]


@given(st.integers(1, 400), st.integers(1, 400), st.integers(1, 3))
def test_blocks_cover_every_output_once(m, n, batch):
    config = AcceleratorConfig(rows=3, cols=5, block_rows=7, block_col_tiles=3)
    seen = set()
    for block in blocks(config, m, n, batch):
        for row in range(block.first_row, block.first_row + block.rows):
            for tile in range(block.first_col_tile, block.first_col_tile + block.col_tiles):
                key = (block.batch, row, tile)
                assert key not in seen
                seen.add(key)
    assert len(seen) == batch * m * -(-n // 5)


def test_slabs_cover_all_k_tiles():
    config = AcceleratorConfig()
    assert list(slabs(config, 272)) == [(0, 4), (4, 4), (8, 3), (11, 3), (14, 3)]


def test_ideal_cycles_round_tiles_up():
    assert ideal_cycles(AcceleratorConfig(), m=10, n=17, k=33, batch=2) == 2 * 10 * 2 * 3
