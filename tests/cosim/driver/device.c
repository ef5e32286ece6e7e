#include "device.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "accelerator.h"
#include "brownout_device.h"

static uint32_t tail;

void expect(int holds, const char *what, int line) {
    if (holds) return;
    printf("line %d: not so: %s\n", line, what);
    fflush(stdout);
    exit(1);
}

uint32_t read_register(uint32_t address) {
    uint32_t value = 0;
    EXPECT(brownout_device_read(address, &value) == BROWNOUT_DEVICE_OKAY);
    return value;
}

void write_register(uint32_t address, uint32_t value) {
    EXPECT(brownout_device_write(address, value) == BROWNOUT_DEVICE_OKAY);
}

uint64_t read_counter(uint32_t address) {
    return read_register(address) | (uint64_t)read_register(address + 4) << 32;
}

void put(uint64_t address, unsigned bytes, uint64_t value) {
    for (unsigned i = 0; i < bytes; ++i) brownout_device_memory()[address + i] = (uint8_t)(value >> 8 * i);
}

uint64_t get(uint64_t address, unsigned bytes) {
    uint64_t value = 0;
    for (unsigned i = 0; i < bytes; ++i) value |= (uint64_t)brownout_device_memory()[address + i] << 8 * i;
    return value;
}

static void wait_while(uint32_t bits) {
    uint32_t patience = PATIENCE;
    while (read_register(BROWNOUT_REG_STATUS) & bits) EXPECT(--patience);
}

void open_device(void) {
    EXPECT(read_register(BROWNOUT_REG_ID) == BROWNOUT_ID);
    EXPECT(read_register(BROWNOUT_REG_VERSION) == BROWNOUT_INTERFACE_VERSION);
    EXPECT(read_register(BROWNOUT_REG_CONFIG_HASH) == BROWNOUT_CONFIG_HASH);
    EXPECT(read_register(BROWNOUT_REG_DIMENSIONS) == (BROWNOUT_ROWS | BROWNOUT_COLS << 16));
    write_register(BROWNOUT_REG_RING_BASE_LO, RING_BASE);
    write_register(BROWNOUT_REG_RING_BASE_HI, 0);
    write_register(BROWNOUT_REG_RING_ENTRIES, RING_ENTRIES);
    tail = read_register(BROWNOUT_REG_RING_HEAD);
}

uint64_t next_command(unsigned opcode) {
    const uint64_t address = RING_BASE + (uint64_t)tail * BROWNOUT_COMMAND_BYTES;
    const uint32_t next = (tail + 1) % RING_ENTRIES;
    /* An entry may be written when the command that was in it is done; a full ring would look like an empty one. */
    EXPECT(next != read_register(BROWNOUT_REG_RING_HEAD));
    tail = next;
    memset(brownout_device_memory() + address, 0, BROWNOUT_COMMAND_BYTES);
    put(address + BROWNOUT_GEMM_OPCODE, 1, opcode);
    put(address + BROWNOUT_GEMM_VERSION, 1, BROWNOUT_COMMAND_VERSION);
    return address;
}

int run(struct failure *failure) {
    write_register(BROWNOUT_REG_RING_TAIL, tail);
    wait_while(BROWNOUT_STATUS_BUSY);
    EXPECT(brownout_device_interrupt());
    if (read_register(BROWNOUT_REG_STATUS) & BROWNOUT_STATUS_ERROR) {
        EXPECT(read_register(BROWNOUT_REG_IRQ) & BROWNOUT_IRQ_ERROR);
        failure->cause = read_register(BROWNOUT_REG_ERROR_CAUSE);
        failure->index = read_register(BROWNOUT_REG_ERROR_INDEX);
        return 1;
    }
    EXPECT(read_register(BROWNOUT_REG_IRQ) == BROWNOUT_IRQ_DONE);
    write_register(BROWNOUT_REG_IRQ, BROWNOUT_IRQ_DONE);
    EXPECT(!brownout_device_interrupt());
    EXPECT(read_register(BROWNOUT_REG_RING_HEAD) == tail);
    return 0;
}

void acknowledge(void) {
    write_register(BROWNOUT_REG_IRQ, BROWNOUT_IRQ_DONE | BROWNOUT_IRQ_ERROR);
    wait_while(BROWNOUT_STATUS_ERROR);
    EXPECT(!brownout_device_interrupt());
}

void soft_reset(void) {
    write_register(BROWNOUT_REG_CONTROL, BROWNOUT_CONTROL_SOFT_RESET);
    wait_while(BROWNOUT_STATUS_BUSY);
    tail = 0;
}

void wait_until_drained(void) { wait_while(BROWNOUT_STATUS_DRAINING); }
