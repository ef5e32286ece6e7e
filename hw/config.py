"""The one configuration from which RTL, register map, commands, twin and documentation derive."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from .checks.scheme import CHECK_SCHEMES, DEFAULT_SCHEME, SYNDROME_BITS, CheckScheme
from .dataflow import DATAFLOWS, WEIGHT_STATIONARY, Dataflow
from .depths import BUFFERS
from .errors.model import ERROR_FREE, TIMING_ERROR_MODELS, TimingErrorModel, erring_models
from .log_record import WORD_BITS, log_record_words

ACC_BITS = 32
"""Width of products' sums inside the array, of the accumulators and of raw outputs."""

K_LIMIT = 131_071
"""Largest K: K * (-128)^2 still fits a signed 32-bit accumulator."""

DIMENSION_BITS = 24
"""M and N are at most 2^24 - 1."""

BATCH_BITS = 16
"""At most 2^16 - 1 products in one batched command."""

MAX_SLAB_K_TILES = 16
"""Bounds the control logic of arrays with very few rows."""

MAX_BUS_BYTES = 128

MAX_ACTIVATION_VECTORS = 1 << 20

MAX_VOLTAGE_DOMAINS = 8
"""Those of the array; the checksum units have one more."""

MAX_OPERATING_POINTS = 8

MAX_SEGMENT_COLS = 128

MAX_LOCATORS = 2

RTL_REVISION = 5
"""Raised when the generated hardware changes for an unchanged configuration."""


def _check_int(owner: str, name: str, value: Any, low: int, high: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{owner}.{name} must be an integer in {low}..{high}, not {value!r}")


def _check_power_of_two(owner: str, name: str, value: int) -> None:
    if value & (value - 1):
        raise ValueError(f"{owner}.{name} must be a power of two, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """The simulated DRAM behind the AXI master. Changes timing and size, never RTL.

    Attributes
    ----------
    size_bytes : int
        Size of the memory; addresses are ``0 .. size_bytes-1``.
    latency_cycles : int
        Cycles from an accepted read address to the earliest first beat, and from a last write beat to its response.
    bytes_per_cycle : int
        Bandwidth, shared by reads and writes.
    banks, row_bytes : int
        Geometry used to count row activations (open-page policy); costs no time.
    read_queue, write_queue : int
        Bursts that the memory accepts before it holds back further addresses.
    """

    size_bytes: int = 1 << 28
    latency_cycles: int = 64
    bytes_per_cycle: int = 16
    banks: int = 16
    row_bytes: int = 2048
    read_queue: int = 64
    write_queue: int = 16

    def __post_init__(self) -> None:
        _check_int("MemoryConfig", "size_bytes", self.size_bytes, 1 << 16, 1 << 40)
        _check_int("MemoryConfig", "latency_cycles", self.latency_cycles, 1, 1 << 16)
        _check_int("MemoryConfig", "bytes_per_cycle", self.bytes_per_cycle, 1, 1024)
        _check_int("MemoryConfig", "banks", self.banks, 1, 1024)
        _check_int("MemoryConfig", "row_bytes", self.row_bytes, 64, 1 << 20)
        _check_int("MemoryConfig", "read_queue", self.read_queue, 1, 256)
        _check_int("MemoryConfig", "write_queue", self.write_queue, 1, 256)
        for name in ("banks", "row_bytes"):
            _check_power_of_two("MemoryConfig", name, getattr(self, name))
        if self.size_bytes % 4096:
            raise ValueError(f"MemoryConfig.size_bytes must be a multiple of 4096, not {self.size_bytes!r}")


@dataclass(frozen=True, kw_only=True)
class ChecksumConfig:
    """The checksum units (ABFT) of an array.

    Attributes
    ----------
    scheme : str
        Name of the scheme by which errors are located (`brownout.hw.checks`): rows against columns ("classic" only
        marks, "matched" compares values), or by further row checks, of wide weighted sums ("weighted") or of residues
        modulo 8191 ("residue"), or one that was added (docs/extending.md).
    locators : int
        Further row checks of ``"weighted"`` and ``"residue"``, 1 or 2; the others have 0. -1: 1 where there can be one.
    column_checks : bool
        Whether sums of activations pass through the array after every `group_rows` rows; always with ``"classic"`` and
        ``"matched"``.
    group_rows : int
        Rows that share one column check.
    segment_cols : int
        Columns that share one row check; at least `AcceleratorConfig.lanes`.
    pairs : bool
        Whether two errors that are powers of two in one segment of a row are located too; for ``"residue"`` without
        column checks.
    """

    scheme: str = DEFAULT_SCHEME
    locators: int = -1
    column_checks: bool = True
    group_rows: int = 32
    segment_cols: int = 16
    pairs: bool = False

    def __post_init__(self) -> None:
        owner = "ChecksumConfig"
        if self.scheme not in CHECK_SCHEMES:
            names = ", ".join(map(repr, CHECK_SCHEMES.names()))
            raise ValueError(f"{owner}.scheme must be one of {names}, not {self.scheme!r}")
        located = self.check_scheme.locates
        if self.locators == -1:
            object.__setattr__(self, "locators", 1 if located else 0)
        _check_int(owner, "locators", self.locators, 1 if located else 0, self.check_scheme.most_locators)
        if not isinstance(self.column_checks, bool) or not (located or self.column_checks):
            wanted = "a bool" if located else f"True for scheme={self.scheme!r}"
            raise ValueError(f"{owner}.column_checks must be {wanted}, not {self.column_checks!r}")
        _check_int(owner, "group_rows", self.group_rows, 1, 4096)
        _check_int(owner, "segment_cols", self.segment_cols, 1, MAX_SEGMENT_COLS)
        if not isinstance(self.pairs, bool):
            raise ValueError(f"{owner}.pairs must be a bool, not {self.pairs!r}")
        if self.pairs and (not self.check_scheme.locates_doubles or self.column_checks):
            raise ValueError(
                f"{owner}.pairs must be False for scheme={self.scheme!r} and column_checks={self.column_checks!r}: "
                "double errors are located by residues, without column checks"
            )

    @cached_property
    def check_scheme(self) -> CheckScheme:
        """Scheme that `scheme` names."""
        return CHECK_SCHEMES.get(self.scheme)

    @property
    def digits(self) -> int:
        """Rows of balanced base-256 digits that carry the column sums of a group; 0 without column checks."""
        if not self.column_checks:
            return 0
        return 2 if self.group_rows <= 256 else 3

    @property
    def checks(self) -> int:
        """Row checks of a segment: the plain one and the locators."""
        return 1 + self.locators

    def check_bits(self, check: int) -> int:
        """Width of the sums of row check `check` (0: the plain one)."""
        if check == 0:
            return SYNDROME_BITS
        return self.check_scheme.check_bits(self.segment_cols, check)

    def modulus(self, check: int) -> int:
        """Modulus of row check `check`; 0 where sums are whole."""
        return self.check_scheme.modulus(check) if check else 0

    def weights(self, check: int) -> tuple[int, ...]:
        """Weight of each column of a segment in row check `check`."""
        if check == 0:
            return (1,) * self.segment_cols
        return self.check_scheme.weights(self.segment_cols, check)


@dataclass(frozen=True, kw_only=True)
class AcceleratorConfig:
    """A weight-stationary int8 systolic-array accelerator and its memory.

    Attributes
    ----------
    rows, cols : int
        Size of the array: `rows` along K, `cols` along N; 1..128 each.
    bus_bytes : int
        Width of the AXI4 data bus in bytes, a power of two in 4..128.
    address_bits : int
        Width of AXI addresses.
    block_rows : int
        Largest number of rows of M that share one weight tile (one pass).
    block_col_tiles : int
        Largest number of column tiles that share one slab of activations; with `block_rows`
        it sets the size of the accumulator memory.
    slab_bytes : int
        Bytes of each row of A fetched at once, rounded down to whole k-tiles (1..16 of them).
    activation_vectors : int
        Vectors of `rows` bytes in the activation buffer; 0 for those of two slabs of `block_rows` rows. With more, a
        GEMM can keep the activations of a row of blocks for all its columns (docs/loop-order.md).
    drain_lanes : int
        Output elements requantised and packed per cycle.
    read_outstanding, write_outstanding : int
        AXI bursts in flight.
    checksum : ChecksumConfig, optional
        Checksum units; without, there is nothing of them in the Verilog.
    timing_model : str
        Name of the model of timing errors that is built into the array and the checksum units, for simulation: "none",
        "flip", "carry", or one that was added (docs/extending.md).
    razor : bool
        Array elements notice timing errors and drop products (`carry`, TE-Drop as in ThUnderVolt) or sums (`flip`);
        needs a `timing_model`.
    voltage_domains : int
        Groups of columns with an operating point of their own, 1..8; the checksum units are one domain more.
    operating_points : int
        Operating points that domains choose from, 1..8; point 0 is the nominal one.
    attention : bool
        A unit that keeps the scores of attention on the chip: the command ATTENTION (docs/attention.md). For arrays of
        as many rows as columns, without column checks.
    memory : MemoryConfig
        Size, timing, banks and queues of the simulated DRAM.
    """

    rows: int = 16
    cols: int = 16
    bus_bytes: int = 16
    address_bits: int = 40
    block_rows: int = 128
    block_col_tiles: int = 4
    slab_bytes: int = 64
    activation_vectors: int = 0
    drain_lanes: int = 4
    read_outstanding: int = 64
    write_outstanding: int = 16
    checksum: ChecksumConfig | None = None
    timing_model: str = ERROR_FREE
    razor: bool = False
    voltage_domains: int = 1
    operating_points: int = 4
    attention: bool = False
    memory: MemoryConfig = field(default_factory=MemoryConfig)

    def __post_init__(self) -> None:
        owner = "AcceleratorConfig"
        _check_int(owner, "rows", self.rows, 1, 128)
        _check_int(owner, "cols", self.cols, 1, 128)
        _check_int(owner, "bus_bytes", self.bus_bytes, 4, MAX_BUS_BYTES)
        _check_power_of_two(owner, "bus_bytes", self.bus_bytes)
        _check_int(owner, "address_bits", self.address_bits, 32, 56)
        _check_int(owner, "block_rows", self.block_rows, 1, 4096)
        _check_int(owner, "block_col_tiles", self.block_col_tiles, 1, 64)
        _check_int(owner, "slab_bytes", self.slab_bytes, 1, 4096)
        _check_int(owner, "activation_vectors", self.activation_vectors, 0, MAX_ACTIVATION_VECTORS)
        if 0 < self.activation_vectors < self.two_slabs:
            raise ValueError(
                f"{owner}.activation_vectors must be 0 or at least those of two slabs, {self.two_slabs}, "
                f"not {self.activation_vectors!r}"
            )
        _check_int(owner, "drain_lanes", self.drain_lanes, 1, 128)
        _check_int(owner, "read_outstanding", self.read_outstanding, 1, 255)
        _check_int(owner, "write_outstanding", self.write_outstanding, 1, 255)
        if self.timing_model not in TIMING_ERROR_MODELS:
            names = ", ".join(map(repr, TIMING_ERROR_MODELS.names()))
            raise ValueError(f"{owner}.timing_model must be one of {names}, not {self.timing_model!r}")
        if not isinstance(self.razor, bool):
            raise ValueError(f"{owner}.razor must be a bool, not {self.razor!r}")
        if self.razor and not self.error_model.errs:
            raise ValueError(
                f"{owner}.razor=True needs a timing_model whose errors it can see, {erring_models()}, "
                f"not {self.timing_model!r}"
            )
        _check_int(owner, "voltage_domains", self.voltage_domains, 1, min(MAX_VOLTAGE_DOMAINS, self.cols))
        _check_int(owner, "operating_points", self.operating_points, 1, MAX_OPERATING_POINTS)
        if self.checksum is not None:
            if not isinstance(self.checksum, ChecksumConfig):
                raise ValueError(f"{owner}.checksum must be a ChecksumConfig or None, not {self.checksum!r}")
            if self.checksum.segment_cols < self.lanes:
                raise ValueError(
                    f"{owner}.checksum.segment_cols must be at least the drain lanes in use, {self.lanes}, "
                    f"not {self.checksum.segment_cols!r}"
                )
            if self.checksum.column_checks and self.block_rows % self.checksum.group_rows:
                raise ValueError(
                    f"{owner}.checksum.group_rows must divide block_rows={self.block_rows}, "
                    f"not {self.checksum.group_rows!r}"
                )
        if not isinstance(self.attention, bool):
            raise ValueError(f"{owner}.attention must be a bool, not {self.attention!r}")
        if self.attention and self.rows != self.cols:
            raise ValueError(
                f"{owner}.attention=True needs as many rows as columns, whose scores become rows of activations, "
                f"not {self.rows} x {self.cols}"
            )
        if self.attention and self.group_count:
            raise ValueError(
                f"{owner}.attention=True needs a checksum without column_checks: rows of scores are checked alone"
            )
        if not isinstance(self.memory, MemoryConfig):
            raise ValueError(f"{owner}.memory must be a MemoryConfig, not {self.memory!r}")
        if self.memory.size_bytes > 1 << self.address_bits:
            raise ValueError(
                f"{owner}.memory.size_bytes must fit address_bits={self.address_bits}, not {self.memory.size_bytes!r}"
            )

    def __hash__(self) -> int:
        # The host looks tables up by configuration for every product; the generated hash goes through all fields.
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return self.hash_word

    @cached_property
    def error_model(self) -> TimingErrorModel:
        """Model of timing errors that `timing_model` names."""
        return TIMING_ERROR_MODELS.get(self.timing_model)

    @property
    def dataflow(self) -> Dataflow:
        """What stays in the array: the weights, in all accelerators so far."""
        return DATAFLOWS.get(WEIGHT_STATIONARY)

    @property
    def slab_k_tiles(self) -> int:
        """k-tiles of activations fetched at once."""
        return max(1, min(MAX_SLAB_K_TILES, self.slab_bytes // self.rows))

    @property
    def two_slabs(self) -> int:
        """Vectors of two slabs of activations of a full block."""
        return BUFFERS * self.slab_k_tiles * self.block_rows

    @property
    def keeps_activations(self) -> bool:
        """Whether the activation buffer is one that a GEMM can keep a row of blocks in."""
        return self.activation_vectors != 0

    @property
    def lanes(self) -> int:
        """Drain lanes in use: never more than there are columns."""
        return min(self.drain_lanes, self.cols)

    @property
    def segments(self) -> tuple[range, ...]:
        """Columns of each checksum segment; the last one may be shorter. Empty without checksum units."""
        if self.checksum is None:
            return ()
        width = self.checksum.segment_cols
        return tuple(range(start, min(start + width, self.cols)) for start in range(0, self.cols, width))

    @property
    def group_count(self) -> int:
        """Most groups of rows, each with a column check, in a block; 0 without column checks."""
        if self.checksum is None or not self.checksum.column_checks:
            return 0
        return self.block_rows // self.checksum.group_rows

    @property
    def log_record_bytes(self) -> int:
        """Bytes of a syndrome record. With column checks it says which elements were marked, not only how many."""
        return log_record_words(bool(self.group_count)) * WORD_BITS // 8

    def domain_of_column(self, col: int) -> int:
        """Voltage domain of an array column: neighbouring columns, groups as equal as can be."""
        return col * self.voltage_domains // self.cols

    @property
    def domains(self) -> int:
        """Voltage domains of the array and, if there are any, of the checksum units."""
        return self.voltage_domains + (self.checksum is not None)

    @property
    def check_columns(self) -> tuple[tuple[int, int], ...]:
        """(segment, check) of each check column, in their order."""
        checks = 0 if self.checksum is None else self.checksum.checks
        return tuple((segment, check) for segment in range(len(self.segments)) for check in range(checks))

    @property
    def check_domain(self) -> int:
        """Number of the checksum units' domain, the one after those of the array."""
        return self.voltage_domains

    @property
    def rtl_hash(self) -> str:
        """16 hexadecimal digits over all that shapes the RTL; names the build folder."""
        fields = {name: value for name, value in self.to_dict().items() if name != "memory"}
        text = json.dumps({"revision": RTL_REVISION, **fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def hash_word(self) -> int:
        """32-bit hash in the CONFIG_HASH register, compared when a host opens the device."""
        return int(self.rtl_hash[:8], 16)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON-compatible form."""
        fields = dataclasses.asdict(self)
        if not self.attention:
            # Without the unit the hardware, and files that name it, are what they were before there was one.
            del fields["attention"]
        if not self.activation_vectors:
            del fields["activation_vectors"]
        return fields

    @classmethod
    def from_dict(cls, fields: dict[str, Any]) -> AcceleratorConfig:
        """Inverse of `to_dict`.

        Raises
        ------
        ValueError
            A field is unknown or its value is out of range.
        """
        _check_fields(cls, fields)
        memory, checksum = fields.get("memory", {}), fields.get("checksum")
        if not isinstance(memory, MemoryConfig):
            _check_fields(MemoryConfig, memory)
            memory = MemoryConfig(**memory)
        if checksum is not None and not isinstance(checksum, ChecksumConfig):
            _check_fields(ChecksumConfig, checksum)
            checksum = ChecksumConfig(**checksum)
        return cls(**{**fields, "memory": memory, "checksum": checksum})


def _check_fields(kind: type[Any], fields: Any) -> None:
    """Refuse what does not name fields of a configuration."""
    if not isinstance(fields, dict):
        raise ValueError(f"the fields of {kind.__name__} must be a dict, not {fields!r}")
    known = {field.name for field in dataclasses.fields(kind)}
    if unknown := sorted(map(str, set(fields) - known)):
        raise ValueError(f"{kind.__name__} has no field {unknown[0]!r}; it has {', '.join(sorted(known))}")
