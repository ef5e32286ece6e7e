#include "gemm.h"

#include <string.h>

#include "accelerator.h"
#include "brownout_device.h"
#include "device.h"

static unsigned whole_beats(unsigned bytes) {
    return (bytes + BROWNOUT_BUS_BYTES - 1) / BROWNOUT_BUS_BYTES * BROWNOUT_BUS_BYTES;
}

void fill(struct gemm *gemm, unsigned m, unsigned n, unsigned k, unsigned flags, uint32_t seed) {
    gemm->m = m, gemm->n = n, gemm->k = k, gemm->flags = flags;
    for (unsigned i = 0; i < MOST * MOST; ++i) {
        seed = seed * 1664525u + 1013904223u;
        gemm->a[i / MOST][i % MOST] = (int8_t)(seed >> 24);
        gemm->w[i / MOST][i % MOST] = (int8_t)(seed >> 16);
    }
    for (unsigned row = 0; row < m; ++row) {
        for (unsigned col = 0; col < n; ++col) {
            gemm->y[row][col] = 0;
            for (unsigned i = 0; i < k; ++i) gemm->y[row][col] += gemm->a[row][i] * gemm->w[i][col];
        }
    }
}

/* A piece of an extent. */
struct piece {
    unsigned start, size;
};

/* The piece that `at` is in: how the hardware cuts an extent. */
static struct piece piece_of(unsigned extent, unsigned largest, unsigned at) {
    struct piece piece = {0, 0};
    do {
        const unsigned left = extent - (piece.start += piece.size), pieces = (left + largest - 1) / largest;
        piece.size = pieces > BROWNOUT_BALANCED_PIECES ? largest : (left + pieces - 1) / pieces;
    } while (at >= piece.start + piece.size);
    return piece;
}

static unsigned smaller(unsigned x, unsigned y) { return x < y ? x : y; }

/* Bytes of a row in the tiles left of a column, or in all of them; the piece of columns that the column is in. */
static unsigned bytes_before(unsigned cols, unsigned unit, unsigned largest, unsigned item, unsigned col,
                             struct piece *found) {
    const unsigned units = (cols + unit - 1) / unit;
    unsigned bytes = 0;
    for (unsigned at = 0; at < units;) {
        struct piece piece = piece_of(units, largest, at);
        at = piece.start + piece.size;
        piece.start *= unit;
        piece.size = smaller(piece.size * unit, cols - piece.start);
        if (col < piece.start + piece.size) {
            *found = piece;
            return bytes;
        }
        bytes += whole_beats(piece.size * item);
    }
    return bytes;
}

struct matrix {
    unsigned rows, cols, item;     /* bytes of an element */
    unsigned block_rows;           /* rows of a tile */
    unsigned unit, largest;        /* columns of a tile: at most so many times so many */
    int tiled;
};

static unsigned row_bytes(struct matrix matrix) {
    struct piece piece;
    if (!matrix.tiled) return whole_beats(matrix.cols * matrix.item);
    return bytes_before(matrix.cols, matrix.unit, matrix.largest, matrix.item, matrix.cols, &piece);
}

static uint64_t place(struct matrix matrix, unsigned row, unsigned col) {
    if (!matrix.tiled) return (uint64_t)row * row_bytes(matrix) + col * matrix.item;
    struct piece cols;
    const struct piece rows = piece_of(matrix.rows, matrix.block_rows, row);
    const unsigned before = bytes_before(matrix.cols, matrix.unit, matrix.largest, matrix.item, col, &cols);
    /* Whole rows of tiles, whole tiles beside it, rows in it. */
    return (uint64_t)rows.start * row_bytes(matrix) + (uint64_t)rows.size * before +
           (uint64_t)(row - rows.start) * whole_beats(cols.size * matrix.item) + (col - cols.start) * matrix.item;
}

static struct matrix matrix_a(const struct gemm *gemm) {
    return (struct matrix){gemm->m, gemm->k, 1, BROWNOUT_BLOCK_ROWS, BROWNOUT_ROWS, BROWNOUT_SLAB_K_TILES,
                           (gemm->flags & BROWNOUT_FLAG_A_TILED) != 0};
}

static struct matrix matrix_w(const struct gemm *gemm) {
    return (struct matrix){gemm->k, gemm->n, 1, gemm->k, BROWNOUT_COLS, BROWNOUT_BLOCK_COL_TILES,
                           (gemm->flags & BROWNOUT_FLAG_W_TILED) != 0};
}

static struct matrix matrix_y(const struct gemm *gemm) {
    return (struct matrix){gemm->m, gemm->n, 4, BROWNOUT_BLOCK_ROWS, BROWNOUT_COLS, BROWNOUT_BLOCK_COL_TILES,
                           (gemm->flags & BROWNOUT_FLAG_Y_TILED) != 0};
}

uint64_t a_at(const struct gemm *gemm, unsigned row, unsigned col) { return A_ADDR + place(matrix_a(gemm), row, col); }

uint64_t w_at(const struct gemm *gemm, unsigned row, unsigned col) { return W_ADDR + place(matrix_w(gemm), row, col); }

uint64_t y_at(const struct gemm *gemm, unsigned row, unsigned col) { return Y_ADDR + place(matrix_y(gemm), row, col); }

uint64_t submit(const struct gemm *gemm) {
    const uint64_t command = next_command(BROWNOUT_OPCODE_GEMM);
    for (unsigned row = 0; row < gemm->m; ++row)
        for (unsigned i = 0; i < gemm->k; ++i) put(a_at(gemm, row, i), 1, (uint8_t)gemm->a[row][i]);
    for (unsigned i = 0; i < gemm->k; ++i)
        for (unsigned col = 0; col < gemm->n; ++col) put(w_at(gemm, i, col), 1, (uint8_t)gemm->w[i][col]);
    memset(brownout_device_memory() + Y_ADDR, 0xAA, LOG_ADDR - Y_ADDR);
    put(command + BROWNOUT_GEMM_FLAGS, 2, gemm->flags);
    put(command + BROWNOUT_GEMM_BATCH, 4, 1);
    put(command + BROWNOUT_GEMM_M, 4, gemm->m);
    put(command + BROWNOUT_GEMM_N, 4, gemm->n);
    put(command + BROWNOUT_GEMM_K, 4, gemm->k);
    put(command + BROWNOUT_GEMM_LDA, 4, row_bytes(matrix_a(gemm)));
    put(command + BROWNOUT_GEMM_LDW, 4, row_bytes(matrix_w(gemm)));
    put(command + BROWNOUT_GEMM_LDY, 4, row_bytes(matrix_y(gemm)));
    put(command + BROWNOUT_GEMM_A_ADDR, 8, A_ADDR);
    put(command + BROWNOUT_GEMM_W_ADDR, 8, W_ADDR);
    put(command + BROWNOUT_GEMM_Y_ADDR, 8, Y_ADDR);
    put(command + BROWNOUT_GEMM_READ_BASE, 8, A_ADDR);
    put(command + BROWNOUT_GEMM_READ_LIMIT, 8, Y_ADDR);
    put(command + BROWNOUT_GEMM_WRITE_BASE, 8, Y_ADDR);
    put(command + BROWNOUT_GEMM_WRITE_LIMIT, 8, WRITE_LIMIT);
    return command;
}

int32_t result(const struct gemm *gemm, unsigned row, unsigned col) { return (int32_t)get(y_at(gemm, row, col), 4); }

int is_right(const struct gemm *gemm) {
    for (unsigned row = 0; row < gemm->m; ++row)
        for (unsigned col = 0; col < gemm->n; ++col)
            if (result(gemm, row, col) != gemm->y[row][col]) return 0;
    return 1;
}
