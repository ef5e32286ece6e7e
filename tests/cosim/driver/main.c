/* What docs/driver.md promises, tried out: one function for each of its sections. */

#include <stdio.h>
#include <string.h>

#include "accelerator.h"
#include "brownout_device.h"
#include "device.h"
#include "gemm.h"

static struct gemm gemm;
static struct failure failure;

static void registers_after_power_up(void) {
    EXPECT(read_register(BROWNOUT_REG_STATUS) == BROWNOUT_RESET_STATUS);
    EXPECT(read_register(BROWNOUT_REG_IRQ) == BROWNOUT_RESET_IRQ);
    EXPECT(read_register(BROWNOUT_REG_RING_BASE_LO) == BROWNOUT_RESET_RING_BASE_LO);
    EXPECT(read_register(BROWNOUT_REG_RING_BASE_HI) == BROWNOUT_RESET_RING_BASE_HI);
    EXPECT(read_register(BROWNOUT_REG_RING_ENTRIES) == BROWNOUT_RESET_RING_ENTRIES);
    EXPECT(read_register(BROWNOUT_REG_RING_HEAD) == BROWNOUT_RESET_RING_HEAD);
    EXPECT(read_register(BROWNOUT_REG_RING_TAIL) == BROWNOUT_RESET_RING_TAIL);
    EXPECT(read_register(BROWNOUT_REG_TIMEOUT) == BROWNOUT_RESET_TIMEOUT);
    EXPECT(read_register(BROWNOUT_REG_ERROR_CAUSE) == BROWNOUT_RESET_ERROR_CAUSE);
    EXPECT(read_register(BROWNOUT_REG_ERROR_INDEX) == BROWNOUT_RESET_ERROR_INDEX);
    EXPECT(!brownout_device_interrupt());
    /* No register there; one that cannot be written. */
    uint32_t value;
    EXPECT(brownout_device_read(0x0F0, &value) == BROWNOUT_DEVICE_DECERR);
    EXPECT(brownout_device_write(BROWNOUT_REG_ID, 1) == BROWNOUT_DEVICE_DECERR);
}

static void products(void) {
    fill(&gemm, 7, 10, 9, 0, 1);
    submit(&gemm);
    EXPECT(!run(&failure));
    EXPECT(is_right(&gemm));
    /* int8, by bias and scale of each column. */
    fill(&gemm, 5, 6, 7, 0, 2);
    const uint64_t command = submit(&gemm);
    put(command + BROWNOUT_GEMM_FLAGS, 2, BROWNOUT_FLAG_CHANNEL | BROWNOUT_FLAG_REQUANT);
    put(command + BROWNOUT_GEMM_CHANNEL_ADDR, 8, CHANNEL_ADDR);
    for (unsigned col = 0; col < gemm.n; ++col) {
        const uint64_t record = CHANNEL_ADDR + col * BROWNOUT_CHANNEL_RECORD_BYTES;
        memset(brownout_device_memory() + record, 0, BROWNOUT_CHANNEL_RECORD_BYTES);
        put(record + BROWNOUT_CHANNEL_BIAS, 4, (uint32_t)(100 * (int)col - 300));
        put(record + BROWNOUT_CHANNEL_MULT, 4, 3);
        put(record + BROWNOUT_CHANNEL_SHIFT, 1, 10);
    }
    EXPECT(!run(&failure));
    for (unsigned row = 0; row < gemm.m; ++row) {
        for (unsigned col = 0; col < gemm.n; ++col) {
            const int64_t scaled = ((int64_t)gemm.y[row][col] + 100 * (int)col - 300) * 3 + 512;
            int64_t wanted = (scaled - ((scaled % 1024 + 1024) % 1024)) / 1024;
            wanted = wanted < -128 ? -128 : wanted > 127 ? 127 : wanted;
            EXPECT((int8_t)get(Y_ADDR + row * get(command + BROWNOUT_GEMM_LDY, 4) + col, 1) == wanted);
        }
    }
}

static void a_full_ring_and_fence(void) {
    /* Three commands of a ring of four entries: the second is a fence, the third has the first one's output for A. */
    for (unsigned round = 0; round < 3; ++round) {
        fill(&gemm, 4, 4, 4, 0, 3 + round);
        const uint64_t first = submit(&gemm);
        put(first + BROWNOUT_GEMM_FLAGS, 2, BROWNOUT_FLAG_CHANNEL | BROWNOUT_FLAG_REQUANT);
        put(first + BROWNOUT_GEMM_CHANNEL_ADDR, 8, CHANNEL_ADDR);
        next_command(BROWNOUT_OPCODE_FENCE);
        const uint64_t second = next_command(BROWNOUT_OPCODE_GEMM);
        memcpy(brownout_device_memory() + second, brownout_device_memory() + first, BROWNOUT_COMMAND_BYTES);
        put(second + BROWNOUT_GEMM_FLAGS, 2, 0);
        put(second + BROWNOUT_GEMM_CHANNEL_ADDR, 8, 0);
        put(second + BROWNOUT_GEMM_A_ADDR, 8, Y_ADDR);
        put(second + BROWNOUT_GEMM_LDA, 4, get(first + BROWNOUT_GEMM_LDY, 4));
        put(second + BROWNOUT_GEMM_READ_LIMIT, 8, LOG_ADDR);
        put(second + BROWNOUT_GEMM_Y_ADDR, 8, LOG_ADDR);
        EXPECT(!run(&failure));
        for (unsigned row = 0; row < 4; ++row) {
            for (unsigned col = 0; col < 4; ++col) {
                int32_t sum = 0;
                for (unsigned i = 0; i < 4; ++i)
                    sum += (int8_t)get(Y_ADDR + row * get(first + BROWNOUT_GEMM_LDY, 4) + i, 1) * gemm.w[i][col];
                EXPECT((int32_t)get(LOG_ADDR + row * get(second + BROWNOUT_GEMM_LDY, 4) + 4 * col, 4) == sum);
            }
        }
    }
}

static void tiles(void) {
    /* More than a block of rows would be long; more than a block of columns and a slab of K is enough. */
    fill(&gemm, 33, 50, 60, BROWNOUT_FLAG_A_TILED | BROWNOUT_FLAG_W_TILED | BROWNOUT_FLAG_Y_TILED, 6);
    const uint64_t command = submit(&gemm);
    EXPECT(!run(&failure));
    EXPECT(is_right(&gemm));
    /* A stride that is not that of the tiles. */
    submit(&gemm);
    const uint64_t next = command + BROWNOUT_COMMAND_BYTES < RING_BASE + RING_ENTRIES * BROWNOUT_COMMAND_BYTES
                              ? command + BROWNOUT_COMMAND_BYTES
                              : RING_BASE;
    put(next + BROWNOUT_GEMM_LDW, 4, get(command + BROWNOUT_GEMM_LDW, 4) + BROWNOUT_BUS_BYTES);
    EXPECT(run(&failure));
    EXPECT(failure.cause == BROWNOUT_ERROR_LDW);
    acknowledge();
}

static void a_command_that_is_refused(void) {
    fill(&gemm, 3, 5, 4, 0, 7);
    const uint64_t bad = submit(&gemm);
    put(bad + BROWNOUT_GEMM_VERSION, 1, BROWNOUT_COMMAND_VERSION + 1);
    submit(&gemm);
    EXPECT(run(&failure));
    EXPECT(failure.cause == BROWNOUT_ERROR_VERSION);
    EXPECT(failure.index == (bad - RING_BASE) / BROWNOUT_COMMAND_BYTES);
    EXPECT(read_register(BROWNOUT_REG_RING_HEAD) == failure.index);
    EXPECT(!is_right(&gemm));
    acknowledge();
    EXPECT(read_register(BROWNOUT_REG_RING_HEAD) == (failure.index + 1) % RING_ENTRIES);
    /* The one behind it waits for another doorbell. */
    brownout_device_wait(1000);
    EXPECT(!is_right(&gemm));
    EXPECT(!run(&failure));
    EXPECT(is_right(&gemm));
}

static void a_bus_that_does_not_answer(void) {
    const uint32_t timeout = read_register(BROWNOUT_REG_TIMEOUT);
    fill(&gemm, 6, 5, 8, 0, 8);
    write_register(BROWNOUT_REG_TIMEOUT, 500);
    brownout_dram_set("hang", 1);
    submit(&gemm);
    EXPECT(run(&failure));
    EXPECT(failure.cause == BROWNOUT_ERROR_BUS_TIMEOUT);
    EXPECT(read_register(BROWNOUT_REG_STATUS) & BROWNOUT_STATUS_DRAINING);
    brownout_dram_set("hang", 0);
    wait_until_drained();
    acknowledge();
    write_register(BROWNOUT_REG_TIMEOUT, timeout);
    submit(&gemm);
    EXPECT(!run(&failure));
    EXPECT(is_right(&gemm));
}

static void a_soft_reset(void) {
    fill(&gemm, 60, 60, 60, 0, 9);
    submit(&gemm);
    write_register(BROWNOUT_REG_RING_TAIL, (read_register(BROWNOUT_REG_RING_HEAD) + 1) % RING_ENTRIES);
    brownout_device_wait(500);
    EXPECT(read_register(BROWNOUT_REG_STATUS) & BROWNOUT_STATUS_BUSY);
    /* Where the ring lies cannot be changed now. */
    EXPECT(brownout_device_write(BROWNOUT_REG_RING_ENTRIES, 8) == BROWNOUT_DEVICE_SLVERR);
    soft_reset();
    EXPECT(read_register(BROWNOUT_REG_RING_HEAD) == 0);
    EXPECT(read_register(BROWNOUT_REG_RING_TAIL) == 0);
    EXPECT(read_register(BROWNOUT_REG_IRQ) == 0);
    EXPECT(read_register(BROWNOUT_REG_RING_BASE_LO) == RING_BASE);
    EXPECT(read_register(BROWNOUT_REG_RING_ENTRIES) == RING_ENTRIES);
    wait_until_drained();
    submit(&gemm);
    EXPECT(!run(&failure));
    EXPECT(is_right(&gemm));
}

static void set_rate(uint32_t rate) {
    const uint64_t errors = next_command(BROWNOUT_OPCODE_SET_ERRORS);
    put(errors + BROWNOUT_SET_ERRORS_SEED, 4, 11);
    put(errors + BROWNOUT_SET_ERRORS_RATE_1, 4, rate);
    for (unsigned bit = 0; bit < 30; ++bit)
        put(errors + BROWNOUT_SET_ERRORS_BIT_0 + 4 * bit, 4, (uint32_t)((((uint64_t)bit + 1) << 32) / 31));
    const uint64_t point = next_command(BROWNOUT_OPCODE_SET_POINT);
    put(point + BROWNOUT_SET_POINT_DOMAIN, 4, 0);
    put(point + BROWNOUT_SET_POINT_POINT, 4, 1);
    put(point + BROWNOUT_SET_POINT_TRANSITION_CYCLES, 4, 100);
    EXPECT(!run(&failure));
}

static void errors_and_their_log(void) {
    static int32_t wrong[MOST][MOST];
    set_rate(0xFFFFFFFFu / 50);
    /* As it comes out without checks, .. */
    fill(&gemm, 40, 30, 8, 0, 10);
    submit(&gemm);
    EXPECT(!run(&failure));
    unsigned injected = 0;
    for (unsigned row = 0; row < gemm.m; ++row) {
        for (unsigned col = 0; col < gemm.n; ++col) {
            wrong[row][col] = result(&gemm, row, col);
            injected += wrong[row][col] != gemm.y[row][col];
        }
    }
    EXPECT(injected > 10);
    /* .. and with the same errors, corrected. */
    const uint64_t command = submit(&gemm);
    put(command + BROWNOUT_GEMM_FLAGS, 2, BROWNOUT_FLAG_CHECK | BROWNOUT_FLAG_CORRECT);
    put(command + BROWNOUT_GEMM_LOG_ADDR, 8, LOG_ADDR);
    put(command + BROWNOUT_GEMM_LOG_BYTES, 4, 1000 * BROWNOUT_LOG_RECORD_BYTES);
    EXPECT(!run(&failure));
    write_register(BROWNOUT_REG_SNAPSHOT, 1);
    const uint64_t records = read_counter(BROWNOUT_COUNTER_LOG_RECORDS);
    EXPECT(records == read_counter(BROWNOUT_COUNTER_DETECTED));
    EXPECT(read_counter(BROWNOUT_COUNTER_LOG_DROPPED) == 0);
    uint64_t corrected = 0, marked = 0;
    for (uint64_t i = 0; i < records; ++i) {
        const uint64_t record = LOG_ADDR + i * BROWNOUT_LOG_RECORD_BYTES;
        const uint32_t row = (uint32_t)get(record + BROWNOUT_LOG_ROW, 4), col = (uint32_t)get(record + BROWNOUT_LOG_COL, 4);
        const uint32_t word = (uint32_t)get(record + BROWNOUT_LOG_WORD, 4);
        const uint32_t place = BROWNOUT_LOG_PLACE(word), outcome = BROWNOUT_LOG_OUTCOME(word);
        int64_t syndrome = (int64_t)get(record + BROWNOUT_LOG_SYNDROME, 4), difference = 0;
        if (BROWNOUT_LOG_NEGATIVE(word)) syndrome -= (int64_t)1 << 32;
        for (unsigned c = col; c < col + BROWNOUT_SEGMENT_COLS && c < gemm.n; ++c)
            difference += (int64_t)wrong[row][c] - gemm.y[row][c];
        EXPECT(difference == syndrome);
        if (outcome == BROWNOUT_LOG_CORRECTED) {
            EXPECT((int64_t)wrong[row][col + place] - gemm.y[row][col + place] == syndrome);
            EXPECT(result(&gemm, row, col + place) == gemm.y[row][col + place]);
            ++corrected;
        } else {
            EXPECT(outcome == BROWNOUT_LOG_MARKED);
            marked += BROWNOUT_LOG_COUNT(word);
        }
    }
    EXPECT(corrected > 10);
    EXPECT(corrected == read_counter(BROWNOUT_COUNTER_CORRECTED));
    EXPECT(marked == read_counter(BROWNOUT_COUNTER_SUPPRESSED));
    printf("%u errors, %u corrected\n", injected, (unsigned)corrected);
    /* A soft reset brings back the nominal operating point. */
    soft_reset();
    submit(&gemm);
    EXPECT(!run(&failure));
    EXPECT(is_right(&gemm));
}

int brownout_driver(void) {
    registers_after_power_up();
    open_device();
    products();
    a_full_ring_and_fence();
    tiles();
    a_command_that_is_refused();
    a_bus_that_does_not_answer();
    a_soft_reset();
    errors_and_their_log();
    printf("all right\n");
    return 0;
}
