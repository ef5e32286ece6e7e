/* A driver of the accelerator: one ring, one command at a time or several, everything by polling. */

#ifndef DEVICE_H
#define DEVICE_H

#include <stdint.h>

/* Bytes of the ring: as few entries as show that it wraps. */
#define RING_BASE 0x1000u
#define RING_ENTRIES 4u

/* What a wait may take, in looks at a register. */
#define PATIENCE 2000000u

struct failure {
    uint32_t cause, index;
};

uint32_t read_register(uint32_t address);
void write_register(uint32_t address, uint32_t value);
uint64_t read_counter(uint32_t address);

/* Fields of commands in memory, little-endian on every host. */
void put(uint64_t address, unsigned bytes, uint64_t value);
uint64_t get(uint64_t address, unsigned bytes);

/* Checks what the device is and puts the ring where it belongs. */
void open_device(void);

/* An empty command of this kind in the next free entry; its address. There are RING_ENTRIES - 1 of them. */
uint64_t next_command(unsigned opcode);

/* Rings the doorbell for all commands so far and waits; 1 if one of them failed, which is not acknowledged yet. */
int run(struct failure *failure);

/* Steps over the command that failed. */
void acknowledge(void);

/* The same as after power-up, but for what the bus still owes. */
void soft_reset(void);

/* Waits until an abandoned command touches memory no more. */
void wait_until_drained(void);

/* Says what is wrong and ends the program if it is. */
void expect(int holds, const char *what, int line);
#define EXPECT(condition) expect(!!(condition), #condition, __LINE__)

#endif
