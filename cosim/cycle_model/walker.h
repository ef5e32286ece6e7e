// The order of blocks: hw/block_walker.py.

#pragma once

#include <algorithm>

#include "types.h"

namespace brownout::cycles {

struct Walker {
    uint64_t m = 0, n = 0, batch = 0;              // the product
    uint64_t largest_rows = 0;                     // of a block
    bool even = true;                              // blocks of ATTENTION are as large as it says
    bool keep = false, kept = false;  // KEEP_ACTIVATIONS; the block's activations are those of the block before
    uint64_t m_left = 0, n_left = 0, batch_left = 0;
    uint64_t row_block = 0, col_block = 0, product = 0;  // position, for skipping
    uint32_t rows = 0, col_tiles = 0, cols = 0;
    bool valid = false, last_in_row = false, last_in_product = false, last = false;

    void start(const Config& config, const Command& command) {
        m = m_left = command.m;
        n = n_left = command.n;
        batch = batch_left = command.batch;
        row_block = col_block = product = 0;
        largest_rows = command.largest_rows(config);
        even = !command.attention();
        keep = command.keep();
        kept = false;
        valid = true;
        update(config);
    }
    void advance(const Config& config) {
        n_left -= cols;
        ++col_block;
        kept = keep && !last_in_row;
        if (last_in_row) {
            n_left = n;
            m_left -= rows;
            col_block = 0;
            ++row_block;
        }
        if (last_in_product) {
            m_left = m;
            --batch_left;
            row_block = 0;
            ++product;
        }
        if (last) valid = false;
        else update(config);
    }
    void update(const Config& config) {
        rows = uint32_t(even ? Split::first(m_left, largest_rows) : std::min(m_left, largest_rows));
        col_tiles = uint32_t(Split::first(ceil_div(n_left, config.cols), config.block_col_tiles));
        last_in_row = n_left <= col_tiles * config.cols;
        cols = uint32_t(last_in_row ? n_left : col_tiles * config.cols);
        last_in_product = last_in_row && m_left == rows;
        last = last_in_product && batch_left == 1;
    }

    template <class V>
    void visit(V& v) {
        v.value(valid);
        v.value(kept);
        for (uint64_t* x : {&m_left, &n_left, &batch_left, &row_block, &col_block, &product}) v.absolute(*x);
    }
};

}  // namespace brownout::cycles
