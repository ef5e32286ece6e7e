"""One table of the fields of log records: Python, the C header and the C++ header read what is packed."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess

import numpy as np
import pytest

from brownout.hw.c_header import c_header_text
from brownout.hw.config import AcceleratorConfig, ChecksumConfig
from brownout.hw.cpp_header import HARDWARE_HEADER, hardware_header
from brownout.hw.log_record import LOG_FIELDS, Outcome, pack_log_record, parse_log_table

NAMES = [field.name for field in LOG_FIELDS]
CONFIGS = {
    checks: AcceleratorConfig(checksum=ChecksumConfig(scheme="residue", column_checks=checks))
    for checks in (False, True)
}

C_READER = """
#include <stdio.h>
#include "accelerator.h"
static uint32_t word_at(const unsigned char *from) {
    return from[0] | from[1] << 8 | from[2] << 16 | (uint32_t)from[3] << 24;
}
int main(void) {
    unsigned char record[A_LOG_RECORD_BYTES];
    while (fread(record, sizeof record, 1, stdin)) {
        const uint32_t word = word_at(record + A_LOG_WORD);
        printf("%u %u %u %u %u %u %u %u %u\\n", word_at(record + A_LOG_ROW), word_at(record + A_LOG_COL),
               word_at(record + A_LOG_SYNDROME), A_LOG_COUNT(word), A_LOG_PLACE(word), A_LOG_OUTCOME(word),
               A_LOG_OTHER_PLACE(word), A_LOG_PAIR(word), A_LOG_NEGATIVE(word));
    }
    return 0;
}
"""

CPP_COPIER = """
#include <cstdio>
#include "brownout_hw.h"
using namespace brownout::hw;
int main() {
    constexpr LogField fields[] = {LOG_ROW, LOG_COL, LOG_SYNDROME, LOG_COUNT, LOG_PLACE,
                                   LOG_OUTCOME, LOG_OTHER_PLACE, LOG_PAIR, LOG_NEGATIVE};
    uint32_t record[log_record_words(COLUMN_CHECKS)];
    while (std::fread(record, sizeof record, 1, stdin)) {
        uint32_t copy[log_record_words(COLUMN_CHECKS)] = {};
        for (const LogField &field : fields) field.put(copy, field.get(record));
        for (unsigned i = LOG_MASK_WORD; i < log_record_words(COLUMN_CHECKS); ++i) copy[i] = record[i];
        std::fwrite(copy, sizeof copy, 1, stdout);
    }
}
"""


def random_records(column_checks, count=200, seed=0):
    """Values of all fields of some records, each extreme now and then, and masks."""
    rng = random.Random(seed)
    records = []
    for _ in range(count):
        values = {f.name: rng.choice([0, (1 << f.width) - 1, rng.getrandbits(f.width)]) for f in LOG_FIELDS}
        records.append((values, rng.getrandbits(128) if column_checks else None))
    return records


def packed(records):
    return b"".join(pack_log_record(values, mask) for values, mask in records)


def test_bits_lie_where_drivers_look_for_them():
    """Against a record put together by hand from the page as it was first published."""
    values = {"row": 7, "col": 16, "syndrome": 0xFFFFFFF0, "count": 3, "place": 5, "outcome": Outcome.LOCATED}
    values |= {"other_place": 255, "pair": 1, "negative": 1}
    what = 3 | 5 << 8 | 2 << 16 | 255 << 18 | 1 << 26 | 1 << 31
    assert pack_log_record(values) == struct.pack("<4I", 7, 16, 0xFFFFFFF0, what)
    mask = 1 | 1 << 33 | 1 << 127
    assert pack_log_record(values, mask)[16:] == struct.pack("<4I", 1, 2, 0, 1 << 31)
    assert [int(outcome) for outcome in Outcome] == [0, 1, 2, 3]


@pytest.mark.parametrize("column_checks", [False, True])
def test_what_is_packed_is_read(column_checks):
    records = random_records(column_checks)
    log = packed(records)
    assert len(log) == len(records) * CONFIGS[column_checks].log_record_bytes
    table = parse_log_table(log, CONFIGS[column_checks].log_record_bytes)
    assert len(table) == len(records)
    for i, (values, mask) in enumerate(records):
        assert {name: int(column[i]) for name, column in table.fields.items()} == values
        if mask is not None:
            assert table.masks[i].tolist() == [mask >> bit & 1 for bit in range(128)]
    assert table.masks.shape == (len(records), 128 if column_checks else 0)


def test_an_empty_log_has_no_records():
    table = parse_log_table(b"", 16)
    assert len(table) == 0
    assert table.fields["row"].dtype == np.uint32


@pytest.mark.parametrize("column_checks", [False, True])
def test_the_c_header_reads_what_is_packed(tmp_path, column_checks):
    records = random_records(column_checks, seed=1)
    (tmp_path / "accelerator.h").write_text(c_header_text(CONFIGS[column_checks], "a"))
    (tmp_path / "reader.c").write_text(C_READER)
    compile_here(tmp_path, "cc", "-std=c99", "-Wall", "-Werror", "reader.c")
    lines = subprocess.run([tmp_path / "program"], input=packed(records), capture_output=True, check=True).stdout
    assert [[int(x) for x in line.split()] for line in lines.splitlines()] == [
        [values[name] for name in NAMES] for values, _ in records
    ]


@pytest.mark.parametrize("column_checks", [False, True])
def test_the_cpp_header_reads_and_packs_the_same(tmp_path, column_checks):
    log = packed(random_records(column_checks, seed=2))
    (tmp_path / HARDWARE_HEADER).write_text(hardware_header())
    (tmp_path / "copier.cpp").write_text(CPP_COPIER)
    compile_here(
        tmp_path, "c++", "-std=c++17", "-Wall", "-Werror", f"-DCOLUMN_CHECKS={int(column_checks)}", "copier.cpp"
    )
    copied = subprocess.run([tmp_path / "program"], input=log, capture_output=True, check=True).stdout
    assert copied == log


def compile_here(folder, compiler, *arguments):
    found = shutil.which(compiler)
    assert found, f"needs {compiler}"
    subprocess.run([found, *arguments, "-o", "program"], cwd=folder, check=True)


@pytest.mark.parametrize(
    ("values", "mask", "message"),
    [
        ({"colour": 1}, None, r"^a log record has no field 'colour'; its fields are row, col, syndrome, "),
        ({"place": 256}, None, r"^field place of a log record must fit 8 unsigned bits, not 256$"),
        ({"pair": -1}, None, r"^field pair of a log record must fit 1 unsigned bits, not -1$"),
        ({}, 1 << 128, r"^mask of a log record must fit 128 unsigned bits, not 3402823669"),
    ],
)
def test_what_does_not_fit_is_refused(values, mask, message):
    with pytest.raises(ValueError, match=message):
        pack_log_record(values, mask)


def test_a_log_of_broken_records_is_refused():
    with pytest.raises(ValueError, match=r"^a log must hold whole records of 32 bytes, not 48 bytes$"):
        parse_log_table(bytes(48), 32)
