"""How a run is kept."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunCheckpoint:
    """Where and how often a run is kept, so that it can be resumed.

    Attributes
    ----------
    folder : Path or str
        Folder of this run alone; made if need be. If it holds the run already, that is resumed.
    every : int
        Evaluations of the denoiser between two states. After a loss the evaluations since the last one are computed
        once more.
    keep : int
        States kept. With one, a damaged file ends the run.
    restarts : int
        How often a lost simulator is replaced in one call of `OffloadedPipeline`.
    overwrite : bool
        Begin anew: what checkpoints of another run the folder holds are deleted.
    """

    folder: Path | str
    every: int = 1
    keep: int = 2
    restarts: int = 3
    overwrite: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, Path)):
            raise TypeError(f"RunCheckpoint.folder must be a Path or str, not {self.folder!r}")
        for name, least in (("every", 1), ("keep", 1), ("restarts", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise ValueError(f"RunCheckpoint.{name} must be an integer of at least {least}, not {value!r}")
        if not isinstance(self.overwrite, bool):
            raise ValueError(f"RunCheckpoint.overwrite must be a bool, not {self.overwrite!r}")
