"""Residuals of keys and values: what has changed since a receiver last heard of them, in few bits.

A residual is the difference of int8 values to what the receiver holds, so within -255..255. What a message does not
convey is still missing there, and is part of the next residual: that is the feedback of errors.

In each row of tokens, elements in blocks share a step s in 0..255. An element's code c of b bits stands for

- s (2 c - 2**b + 1) with 1 or 2 bits: odd multiples, as so few levels are better spent without a zero;
- s (c - 2**(b - 1)) with more bits, which is exact where residuals are small.

All of that is integer arithmetic, so that sender and receiver agree bit for bit. The step of a block is, of nine evenly
spaced ones up to the one with which every residual is within the levels, the one with the least squared error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from ...storage.packable import packable
from ..plan.coding import SCALE_BYTES, ExchangeCoding
from ..plan.plan import Share
from .exchange import Exchange
from .pieces import Piece

CANDIDATES = 8
"""Parts into which the range of steps is divided in the search."""

Integers = NDArray[np.int32]


class _Levels(NamedTuple):
    """Integers that a code can stand for: first, last, and from one to the next."""

    first: int
    last: int
    spacing: int


def _levels(bits: int) -> _Levels:
    if bits <= 2:
        return _Levels(1 - 2**bits, 2**bits - 1, 2)
    return _Levels(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, 1)


def _codes(blocks: Integers, steps: Integers, levels: _Levels) -> Integers:
    """Nearest codes, halves upwards; with step 0 any will do."""
    unit = np.maximum(steps, 1)[..., None]
    width = levels.spacing * unit
    codes: Integers = (2 * (blocks - levels.first * unit) + width) // (2 * width)
    return codes.clip(0, (levels.last - levels.first) // levels.spacing)


def _values(codes: Integers, steps: Integers, levels: _Levels) -> Integers:
    values: Integers = (levels.first + levels.spacing * codes) * steps[..., None]
    return values


def encode(residuals: torch.Tensor, coding: ExchangeCoding) -> torch.Tensor:
    """Code residuals.

    Parameters
    ----------
    residuals : torch.Tensor
        Integers (rows, count), within -255..255.
    coding : ExchangeCoding
        How.

    Returns
    -------
    torch.Tensor
        uint8 (rows, ``coding.bytes(count)``): steps of the blocks of a row, then codes, most significant bits first.
    """
    levels = _levels(coding.bits)
    rows, count = residuals.shape
    padded = np.pad(residuals.numpy().astype(np.int32), ((0, 0), (0, -count % coding.block)))
    blocks = padded.reshape(rows, -1, coding.block)
    # With this step the largest residual is the last level.
    widest = -(-np.abs(blocks).max(axis=2) // levels.last)
    best, least = widest, np.full(widest.shape, np.iinfo(np.int64).max)
    for part in range(CANDIDATES, -1, -1):
        steps = -(-widest * part // CANDIDATES)
        wrong = _values(_codes(blocks, steps, levels), steps, levels) - blocks
        errors = (wrong.astype(np.int64) ** 2).sum(axis=2)
        best, least = np.where(errors < least, steps, best), np.minimum(errors, least)
    codes = _codes(blocks, best, levels).reshape(rows, -1)[:, :count].astype(np.uint8)
    bits = np.unpackbits(codes[..., None], axis=2)[..., 8 - coding.bits :].reshape(rows, -1)
    return torch.from_numpy(np.concatenate([best.astype(np.uint8), np.packbits(bits, axis=1)], axis=1))


def decode(coded: torch.Tensor, count: int, coding: ExchangeCoding) -> torch.Tensor:
    """Undo `encode`, but for what it leaves out.

    Returns
    -------
    torch.Tensor
        int32 (rows, count).

    Raises
    ------
    ValueError
        These are not so many coded elements.
    """
    rows, width = coded.shape
    if width != coding.bytes(count):
        raise ValueError(f"{count} elements take {coding.bytes(count)} bytes with {coding}, not {width}")
    scales = -(-count // coding.block) * SCALE_BYTES
    steps = coded[:, :scales].numpy().astype(np.int32)
    bits = np.unpackbits(coded[:, scales:].numpy(), axis=1, count=count * coding.bits).reshape(rows, count, -1)
    codes = np.packbits(bits, axis=2)[..., 0] >> (8 - coding.bits)
    padded = np.pad(codes.astype(np.int32), ((0, 0), (0, -count % coding.block))).reshape(rows, -1, coding.block)
    values = _values(padded, steps, _levels(coding.bits)).reshape(rows, -1)[:, :count]
    return torch.from_numpy(np.ascontiguousarray(values))


def _by_rows(piece: Piece) -> torch.Tensor:
    """int32 (rows, elements of a row): keys, then values."""
    rows = piece.rows[1] - piece.rows[0]
    parts = [each.unflatten(2, (rows, -1)).movedim(2, 0).reshape(rows, -1) for each in (piece.key, piece.value)]
    return torch.cat(parts, 1).to(torch.int32)


def _advanced(base: Piece, coded: torch.Tensor, coding: ExchangeCoding) -> Piece:
    """What a receiver holds after a message: computed by its sender too."""
    before = _by_rows(base)
    after = (before + decode(coded, before.shape[1], coding)).clamp(-128, 127).to(torch.int8)
    found, first = [], 0
    for each in (base.key, base.value):
        images, heads, tokens, width = each.shape
        count = each.numel() // len(after)
        part = after[:, first : first + count].reshape(len(after), images, heads, tokens // len(after), width)
        found.append(part.movedim(0, 2).reshape(each.shape).contiguous())
        first += count
    return replace(base, key=found[0], value=found[1])


def whole(piece: Piece) -> dict[str, torch.Tensor]:
    """A message that is not coded."""
    return {"key": piece.key, "value": piece.value, **_facts(piece)}


def _facts(piece: Piece) -> dict[str, torch.Tensor]:
    facts = {"steps": torch.tensor(piece.scales, dtype=torch.float64)}
    return facts | {"bad": torch.tensor([True])} if piece.bad else facts


@packable("stadi.runtime.residuals.Known")
@dataclass(frozen=True)
class Known:
    """What other devices hold of this one's rows.

    Attributes
    ----------
    agreed : bool
        Whether, beside `pieces`, all hold the same of everybody: the last exchange was synchronous.
    pieces : dict of str to dict of str to Piece
        Pieces by the place in the model and the receiver.
    """

    agreed: bool = False
    pieces: Mapping[str, Mapping[str, Piece]] = field(default_factory=dict)


class Residuals:
    """Sends and receives keys and values, whole or as residuals, as the exchange's coding and plan say."""

    def __init__(self) -> None:
        self._agreed = False
        self._pieces: dict[str, dict[str, Piece]] = {}

    def send(self, site: str, exchange: Exchange, own: Piece, before: Piece | None) -> None:
        """Send keys and values to all who will use them.

        Parameters
        ----------
        site : str
            Place in the model.
        exchange : Exchange
            Exchange of the present evaluation.
        own : Piece
            Values of the device's rows in it.
        before : Piece or None
            Values that were held until now.
        """
        if exchange.synchronous or exchange.coding is None:
            self._agreed = exchange.synchronous
            exchange.send(site, whole(own))
            return
        if site not in self._pieces:
            same = before if self._agreed else None
            self._pieces[site] = {} if same is None else {share.device: same for share in exchange.others}
        known = self._pieces[site]
        # Receivers that hold the same, because they got the same messages, get the same one again.
        made: dict[int, tuple[dict[str, torch.Tensor], Piece]] = {}
        for share in exchange.others:
            number = exchange.number(share)
            if number is None:
                continue
            base = None if exchange.coding.is_keyframe(number) else known.get(share.device)
            if id(base) not in made:
                made[id(base)] = self.message(own, base, exchange.coding)
            tensors, known[share.device] = made[id(base)]
            exchange.send(_letterbox(site, share), tensors, (share,))

    @staticmethod
    def message(own: Piece, base: Piece | None, coding: ExchangeCoding) -> tuple[dict[str, torch.Tensor], Piece]:
        """What to send to a receiver that holds `base`, and what it then holds."""
        if base is None:
            return whole(own), own
        base = replace(base.scaled(own.scales), step=own.step)
        coded = encode(_by_rows(own) - _by_rows(base), coding)
        return {"coded": coded, **_facts(own)}, replace(_advanced(base, coded, coding), bad=own.bad)

    @staticmethod
    def receive(
        site: str, exchange: Exchange, sender: Share, step: int, before: Piece | None
    ) -> dict[str, torch.Tensor]:
        """Wait for keys and values of a sender's evaluation; raises as `Mailbox.take`.

        Parameters
        ----------
        site : str
            Place in the model.
        exchange : Exchange
            Exchange of the present evaluation.
        sender, step : Share, int
            Whose, and of which evaluation.
        before : Piece or None
            What is held of the sender.

        Returns
        -------
        dict
            ``key``, ``value`` and ``steps``, whether they came whole or not, and ``bad`` if some are NaN or infinite.
        """
        letterbox = site if exchange.synchronous or exchange.coding is None else _letterbox(site, exchange.me)
        tensors = exchange.receive(letterbox, sender, step)
        if "coded" not in tensors:
            return tensors
        assert before is not None
        assert exchange.coding is not None
        key_scale, value_scale = tensors["steps"].tolist()
        after = _advanced(before.scaled((key_scale, value_scale)), tensors["coded"], exchange.coding)
        return whole(replace(after, bad="bad" in tensors))

    def redistribute(self) -> None:
        """Rows belong to other devices: unless all hold the same, receivers begin with whole keys and values."""
        self._agreed = self._agreed and not self._pieces
        self._pieces.clear()

    def state(self) -> Known:
        """What `restore` goes back to; it is not changed later."""
        return Known(self._agreed, {site: dict(pieces) for site, pieces in self._pieces.items()})

    def restore(self, known: Known) -> None:
        """Go back to what `state` returned."""
        self._agreed = known.agreed
        self._pieces = {site: dict(pieces) for site, pieces in known.pieces.items()}

    def forget(self) -> None:
        """Another image begins."""
        self.restore(Known())


def _letterbox(site: str, receiver: Share) -> str:
    """Where a message that is for one receiver alone is waited for."""
    return f"{site} for {receiver.device}"
