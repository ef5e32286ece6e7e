from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.registers import ADDRESS_BITS, COUNTER_BASE, REGISTERS, counter_offset, counters

ALL_COUNTERS = counters(
    AcceleratorConfig(
        timing_model="carry", razor=True, checksum=ChecksumConfig(), voltage_domains=8, operating_points=8
    )
)


def test_registers_are_aligned_distinct_and_below_the_counters():
    offsets = [register.offset for register in REGISTERS]
    assert len(set(offsets)) == len(offsets)
    assert all(offset % 4 == 0 and offset < COUNTER_BASE for offset in offsets)


def test_counters_fit_the_address_space():
    assert counter_offset(len(ALL_COUNTERS)) <= 1 << ADDRESS_BITS


def test_names_are_distinct():
    names = [register.name for register in REGISTERS] + [counter.name for counter in ALL_COUNTERS]
    assert len(set(names)) == len(names)
