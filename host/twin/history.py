"""What memory held before a product: the value that a suppressed element keeps."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from brownout.hw.config import AcceleratorConfig

from .flips import Hits
from .geometry import geometry

Indices = NDArray[np.int32]


class History:
    """Values of an output from before it is overwritten.

    Parameters
    ----------
    config : AcceleratorConfig
        Where segments are.
    out : torch.Tensor
        The output, (M, N).
    """

    def __init__(self, config: AcceleratorConfig, out: torch.Tensor) -> None:
        self.config, self.out = config, out
        self._saved: tuple[NDArray[np.int64], torch.Tensor] | None = None

    def save(self, outputs: Hits, checks: Hits) -> None:
        """Keep the segments in which anything errs; in no other is an element ever marked.

        Parameters
        ----------
        outputs, checks : Hits
            Errors of outputs and of row checks, as `Flips` has them.
        """
        checksum = self.config.checksum
        assert checksum is not None
        pieces = geometry(self.config, *self.out.shape)
        places = np.concatenate(
            [
                outputs.rows.astype(np.int64) * pieces.segments + self._segment(outputs.cols),
                checks.rows.astype(np.int64) * pieces.segments + checks.cols // checksum.checks,
            ]
        )
        places = np.unique(places)
        rows, segments = np.divmod(places, pieces.segments)
        columns = pieces.segment_starts[segments][:, None] + np.arange(checksum.segment_cols)
        columns = np.minimum(columns, self.out.shape[1] - 1)
        self._saved = places, self.out[torch.from_numpy(rows)[:, None], torch.from_numpy(columns)]

    def _segment(self, columns: Indices) -> NDArray[np.int64]:
        assert self.config.checksum is not None
        tile, column = np.divmod(columns.astype(np.int64), self.config.cols)
        return tile * len(self.config.segments) + column // self.config.checksum.segment_cols

    def values_at(self, rows: Indices, cols: Indices) -> torch.Tensor:
        """Values from before at some places; without `save`, of what is there now."""
        if self._saved is None:
            return self.out[self._index(rows), self._index(cols)]
        places, values = self._saved
        segment = self._segment(cols)
        pieces = geometry(self.config, *self.out.shape)
        index = np.searchsorted(places, rows.astype(np.int64) * pieces.segments + segment)
        position = cols - pieces.segment_starts[segment]
        return values[torch.from_numpy(index), torch.from_numpy(position)]

    def write(self, rows: Indices, cols: Indices, values: torch.Tensor | None) -> None:
        """Put values, or zeros, back at some places."""
        where = self._index(rows), self._index(cols)
        self.out[where] = 0 if values is None else values

    def _index(self, values: Indices) -> torch.Tensor:
        return torch.from_numpy(values.astype(np.int64)).to(self.out.device)
