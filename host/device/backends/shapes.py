"""Products without their values: what they would take, and nothing else."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.cosim.cycle_model import Found, Runs
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.model import ERROR_FREE, erring_models
from brownout.hw.errors.state import CommandOptions
from brownout.hw.log_record import LOG_BITS_WORD, LOG_MASK_WORD, LOG_RECORDS_PER_BLOCK, WORD_BITS

from ..power.domain_points import RATE_ONE
from ..product.attention import Attended, Attention
from ..product.operands import GemmShape, Product, ResidentWeights
from ..product.reload import Places
from ..twin.call import Call
from ..twin.findings import Findings
from ..twin.geometry import geometry
from .twin import TwinBackend

SAMPLED_ELEMENTS = 1 << 21
"""Of a sample's product: at a rate of 1e-3, some 2,000 errors."""

SAMPLED_K, SAMPLED_DEVIATION = 32, 25
"""Length of its sums, which flips do not depend on, and standard deviation of operands."""

_SCATTER = 2654435761
"""Of Fibonacci hashing: keys that follow one another lie far apart."""


@dataclass(frozen=True)
class _Sample:
    """What erred in a product of whole blocks, and what checks found of it.

    Attributes
    ----------
    config : AcceleratorConfig
    elements : int
        Of the product.
    counts : mapping of str to int
        `COUNTERS` and others.
    unit : int
        Elements that are marked together.
    records : list of uint8 arrays (count, bytes of a record)
        Log of each block.
    """

    config: AcceleratorConfig
    elements: int
    counts: Mapping[str, int]
    unit: int
    records: list[NDArray[np.uint8]]

    @classmethod
    def of(cls, config: AcceleratorConfig, findings: Findings, shape: GemmShape) -> _Sample:
        """From a sample's findings."""
        size = config.log_record_bytes
        log = np.frombuffer(findings.log, np.uint8).reshape(-1, size)
        block = log[:, :4].copy().view("<u4")[:, 0] // config.block_rows
        records = [log[block == index] for index in range(shape.m // config.block_rows)]
        unit = 1 if config.group_count or config.checksum is None else config.checksum.segment_cols
        return cls(config, shape.m * shape.n, findings.counts, unit, records)

    def drawn(self, elements: int, random: np.random.Generator) -> dict[str, int]:
        """Counts of a product with so many elements, but for those of its checks and of its log."""
        share = elements / self.elements
        drawn = {name: int(random.poisson(count * share)) for name, count in self.counts.items()}
        drawn["suppressed"] = self.unit * int(random.poisson(self.counts["suppressed"] * share / self.unit))
        return drawn | dict.fromkeys(("checks", "log_records", "log_dropped"), 0)

    def log_of(self, shape: GemmShape, options: CommandOptions) -> bytes:
        """Log of a product: each block has that of a block of the sample, as far as it reaches.

        Products with different error keys begin at different blocks of the sample.
        """
        config, size = self.config, self.config.log_record_bytes
        width = config.block_col_tiles * config.cols
        blocks = itertools.product(range(shape.batch), range(0, shape.m, config.block_rows), range(0, shape.n, width))
        pieces = []
        begin = (options.error_key * _SCATTER & 0xFFFFFFFF) >> 8
        for place, (index, first_row, first_col) in enumerate(blocks, begin):
            records = self.records[place % len(self.records)].copy()
            rows, cols = (records[:, 4 * word : 4 * word + 4].copy().view("<u4")[:, 0] for word in range(2))
            rows = rows % config.block_rows + first_row
            cols = cols + first_col
            inside = (rows < shape.m) & (cols < shape.n)
            _cut(records, shape.n - cols.astype(np.int64), masks=bool(config.group_count))
            rows = rows + np.uint32(index * shape.m + options.first_row)
            cols = cols + np.uint32(options.first_col)
            for word, values in enumerate((rows, cols)):
                records[:, 4 * word : 4 * word + 4] = values.astype("<u4")[:, None].view(np.uint8)
            pieces.append(records[inside])
        return np.concatenate(pieces).tobytes()[: options.log_bytes // size * size]


def _cut(records: NDArray[np.uint8], room: NDArray[np.int64], *, masks: bool) -> None:
    """Leave out marked columns beyond the matrix, of which `room` are left from each record's segment on."""
    if masks:
        first = LOG_MASK_WORD * WORD_BITS // 8
        bits = np.unpackbits(records[:, first:], axis=1, bitorder="little")
        bits[np.arange(bits.shape[1]) >= room[:, None]] = 0
        records[:, first:] = np.packbits(bits, axis=1, bitorder="little")
        return
    count = LOG_BITS_WORD * WORD_BITS // 8
    records[:, count] = np.clip(room, 0, records[:, count])


class ShapeBackend(TwinBackend):
    """Counts cycles, traffic and energy of products, whose operands need have no more than a shape.

    Pass it to `Accelerator` in place of a name: ``Accelerator(config, ShapeBackend(config))``. Operands may be on
    torch's meta device, or one element expanded; they are not read, and outputs are left as they are.

    Without errors all hardware counters are those of the other backends. With errors, what the checks find is expected:
    a sample of blocks of random operands is run on the twin at the rates of the operating points, and products find as
    much by their area; what is marked is drawn, so that strategies which act on it act as often as they would. The log
    is that of the sample, block by block. Rows of memory are counted as if every element were written.

    Parameters
    ----------
    config : AcceleratorConfig
        Accelerator whose errors, if any, are drawn: how many carries are late depends on the values.
    loop_order : {"searched", "fixed"}
        In which loop order products are computed.

    Raises
    ------
    ValueError
        Its elements have settled carry lengths.
    """

    name = "shapes"

    def __init__(self, config: AcceleratorConfig, *, loop_order: str = "searched") -> None:
        if config.error_model.settles:
            raise ValueError(
                f"ShapeBackend needs timing_model={erring_models('draws')} or {ERROR_FREE!r}; "
                "late carries depend on the values"
            )
        super().__init__(config, loop_order=loop_order)
        self._samples: dict[object, _Sample] = {}
        # Expected counts are rarely whole: what is left over is drawn.
        self._random = np.random.default_rng(0)

    def check_device(self, name: str, device: torch.device) -> None:
        """Any device will do, as no values are read."""

    def upload(self, w: torch.Tensor) -> ResidentWeights:
        weights = ResidentWeights(self, w if w.ndim == 3 else w.unsqueeze(0), tuple(w.shape))
        with self._lock:
            self._layout.place_weights(weights)
        return weights

    def _compute(self, product: Product, cut: AcceleratorConfig | None = None) -> tuple[bytes, Found | None]:
        shape, options, errors = product.shape, product.options, self.settings.errors
        checked = bool(options.check)
        if checked:
            self._add({"checks": shape.batch * shape.m * self._segments(shape.n)})
        erring = self.config.error_model.errs and any(map(errors.rate_of, range(self.config.voltage_domains)))
        if not self.config.error_model.errs or not (checked or erring):
            return b"", None
        sample = self._sample(product)
        drawn = sample.drawn(shape.batch * shape.m * shape.n, self._random)
        log = sample.log_of(shape, options) if checked and options.log_bytes else b""
        kept = len(log) // self.config.log_record_bytes
        self._add(drawn | {"log_records": kept, "log_dropped": max(0, drawn["detected"] - kept)})
        if not checked:
            return b"", None
        records = self._expected_records(product, self._layout.blocks_of(product) if cut is None else cut)
        return log, Found(records) if records.any() else None

    def _attend(self, attention: Attention) -> tuple[Attended, Found | None]:
        scores, values = attention.score_shape, attention.value_shape
        dropped = self._counts.get("log_dropped", 0)
        queries = Product(scores, attention.q, attention.k, None, None, attention.out, attention.scores)
        self._compute(queries, self.config)
        if "log_dropped" in self._counts:
            # Scores are counted, not logged.
            self._counts["log_dropped"] = dropped
        marked = self._counts.get("suppressed", 0)
        logs, records = [], []
        for first in range(0, values.m, attention.block_rows):
            rows = min(attention.block_rows, values.m - first)
            shape = replace(values, m=rows)
            options = replace(attention.values, first_row=attention.values.first_row + first)
            part = Product(shape, attention.q, attention.v, None, None, attention.out, options)
            log, found = self._compute(part, self.config)
            logs.append(log)
            records.append(np.zeros(values.batch, np.uint64) if found is None else found.records)
        # Blocks of a head come one after the other.
        of_blocks = np.stack(records, axis=1).ravel()
        kept = self._counts.get("suppressed", 0) - marked if attention.values.suppress else 0
        return Attended(b"".join(logs), kept), Found(of_blocks) if of_blocks.any() else None

    def _sample(self, product: Product) -> _Sample:
        """What checks find at the present points; of each point and use of the checks one sample is run."""
        options, config = product.options, self.config
        rates = tuple(self.settings.errors.rate_of(domain) for domain in range(config.domains))
        key = (options.flags, options.theta, rates, tuple(self.settings.errors.bits), product.requant is None)
        if key not in self._samples:
            rows, cols = config.block_rows, config.block_col_tiles * config.cols
            blocks = max(1, SAMPLED_ELEMENTS // (rows * cols))
            generator = torch.Generator().manual_seed(0)
            shape = GemmShape(1, blocks * rows, cols, SAMPLED_K)
            a, w = (
                (torch.randn(*size, generator=generator) * SAMPLED_DEVIATION).round().clamp(-128, 127).to(torch.int8)
                for size in ((shape.m, shape.k), (shape.k, shape.n))
            )
            out = torch.zeros(1, shape.m, shape.n, dtype=torch.int32)
            sampled = Product(shape, a[None], w[None], None, None, out, replace(options, error_key=0, first_row=0))
            call = Call(sampled.options, self.settings.errors, 0, LOG_RECORDS_PER_BLOCK * blocks, self._threads())
            findings = self._erring(sampled, a, w, out[0], call)
            self._samples[key] = _Sample.of(config, findings, shape)
        return self._samples[key]

    def copy(self, source: torch.Tensor, target: torch.Tensor, places: Places | None) -> None:
        with self._lock, self._layout.place_copy(source, places) as (command, runs):
            self._time(command, Runs(runs))

    def _expected_records(self, product: Product, cut: AcceleratorConfig) -> NDArray[np.uint64]:
        """Flagged segments of each block of `cut`, in the order of `Found.records`."""
        shape, config = product.shape, self.config
        assert config.checksum is not None
        pieces = geometry(cut, shape.m, shape.n)
        rates = np.array([self.settings.errors.rate_of(domain) for domain in range(config.domains)]) / RATE_ONE
        quiet = np.log1p(-rates)
        columns = np.add.reduceat(quiet[pieces.domains], pieces.segment_starts[:-1])
        flagged = -np.expm1(columns + config.checksum.checks * quiet[config.check_domain])
        first = np.searchsorted(pieces.segment_starts, pieces.col_blocks * config.cols)
        of_blocks = [flagged[start:end].sum() for start, end in pairwise(first)]
        expected = np.outer(np.diff(pieces.row_blocks), of_blocks).round().astype(np.uint64)
        return np.tile(expected.ravel(), shape.batch)
