/* Products as commands, and by three loops. */

#ifndef GEMM_H
#define GEMM_H

#include <stddef.h>
#include <stdint.h>

#define A_ADDR 0x10000u
#define W_ADDR 0x20000u
#define CHANNEL_ADDR 0x30000u
#define Y_ADDR 0x40000u
#define LOG_ADDR 0x60000u
#define WRITE_LIMIT 0x80000u

enum { MOST = 64 };

/* Operands and the exact product; sizes up to MOST. */
struct gemm {
    unsigned m, n, k, flags;
    int8_t a[MOST][MOST], w[MOST][MOST];
    int32_t y[MOST][MOST];
};

/* Random operands, the product beside them. */
void fill(struct gemm *gemm, unsigned m, unsigned n, unsigned k, unsigned flags, uint32_t seed);

/* Where element (row, column) of each operand lies, as the flags say. */
uint64_t a_at(const struct gemm *gemm, unsigned row, unsigned col);
uint64_t w_at(const struct gemm *gemm, unsigned row, unsigned col);
uint64_t y_at(const struct gemm *gemm, unsigned row, unsigned col);

/* Writes the operands into memory and the command into the next entry of the ring; the command's address. */
uint64_t submit(const struct gemm *gemm);

/* Element of the output in memory, 32 bits. */
int32_t result(const struct gemm *gemm, unsigned row, unsigned col);

/* Whether the output in memory is the product. */
int is_right(const struct gemm *gemm);

#endif
