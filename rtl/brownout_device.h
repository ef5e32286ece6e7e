/* The simulated accelerator for a driver in C: what its bus, its memory and its interrupt line are on a chip.
 *
 * A driver is a shared library with the function `int brownout_driver(void)`; docs/driver.md has how it is run.
 * Simulated time passes in these functions only.
 */

#ifndef BROWNOUT_DEVICE_H
#define BROWNOUT_DEVICE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* AXI responses. */
#define BROWNOUT_DEVICE_OKAY 0
#define BROWNOUT_DEVICE_SLVERR 2
#define BROWNOUT_DEVICE_DECERR 3

/* Reads or writes the register at a byte address; the result is the AXI response. */
int brownout_device_read(uint32_t address, uint32_t *value);
int brownout_device_write(uint32_t address, uint32_t value);

/* Lets so many clock cycles pass. */
void brownout_device_wait(uint32_t cycles);

/* Level of the interrupt line. */
int brownout_device_interrupt(void);

/* The memory behind the AXI master: byte `a` of it has the address `a`. */
uint8_t *brownout_device_memory(void);

/* Parameters of the memory model (latency_cycles, hang, ..): 0, or -1 if there is none of that name. */
int brownout_dram_set(const char *name, unsigned long long value);

/* The first breach of AXI rules, "" if there was none. */
const char *brownout_axi_violation(void);

/* Written by the driver: 0 for success. */
int brownout_driver(void);

#ifdef __cplusplus
}
#endif

#endif
