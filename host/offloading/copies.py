"""Offloaded models are not copied: what to use instead."""

from __future__ import annotations

from typing import NoReturn, SupportsIndex


class NotCopied:
    """Refuses ``copy``, ``deepcopy`` and ``pickle``, which would share, or lack, an accelerator's memory."""

    def __reduce_ex__(self, protocol: SupportsIndex) -> NoReturn:
        raise TypeError(
            f"{type(self).__name__} cannot be copied or pickled, because its weights are on an accelerator; keep the "
            "model with save_offloaded(model, folder) and load it with load_offloaded(float_model, accelerator, "
            "folder), or call restore(model) first and copy the float model"
        )
