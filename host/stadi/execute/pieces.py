"""Keys and values of some rows in a self-attention, as they are exchanged and kept."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch

from ...storage.packable import packable


def rescaled(values: torch.Tensor, old: float, new: float) -> torch.Tensor:
    """int8 values of scale `old`, in scale `new`."""
    if old == new:
        return values
    return (values.float() * (old / new)).round().clamp(-128, 127).to(torch.int8)


@packable("stadi.runtime.keys_values.Piece", {"scales": "steps"})
@dataclass(frozen=True)
class Piece:
    """Keys and values of some rows in a self-attention.

    Attributes
    ----------
    step : int
        Evaluation from which they are; -1 for what was held when the plan began.
    rows : (int, int)
        Whose they are.
    key, value : torch.Tensor
        int8 (B, H, S, E) and (B, H, S, V), S tokens in `rows`.
    scales : (float, float)
        Scales of both.
    bad : bool
        Whether there was a NaN or an infinity, which int8 has not.
    """

    step: int
    rows: tuple[int, int]
    key: torch.Tensor
    value: torch.Tensor
    scales: tuple[float, float]
    bad: bool = False

    def cut(self, rows: tuple[int, int]) -> Piece:
        """Part of it."""
        tokens = self.key.shape[2] // (self.rows[1] - self.rows[0])
        place = slice((rows[0] - self.rows[0]) * tokens, (rows[1] - self.rows[0]) * tokens)
        return replace(self, rows=rows, key=self.key[:, :, place], value=self.value[:, :, place])

    def scaled(self, scales: tuple[float, float]) -> Piece:
        """Quantised by other scales: each timestep may have its own."""
        if scales == self.scales:
            return self
        key, value = (
            rescaled(each, old, new) for each, old, new in zip((self.key, self.value), self.scales, scales, strict=True)
        )
        return replace(self, key=key, value=value, scales=scales)


def join(pieces: list[Piece]) -> Piece:
    """Neighbouring rows as one piece, with the scales of the first."""
    same = [piece.scaled(pieces[0].scales) for piece in pieces]
    if len(same) == 1:
        return same[0]
    key, value = (torch.cat([getattr(piece, name) for piece in same], 2) for name in ("key", "value"))
    rows, bad = (same[0].rows[0], same[-1].rows[1]), any(piece.bad for piece in same)
    return Piece(-1, rows, key, value, same[0].scales, bad)
