"""What a characterisation has measured so far, on disk."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..setting import Setting
from .slices import Slice

FORMAT = "brownout characterisation 1"

Values = dict[str, list[float]]


class Store:
    """A file of JSON lines to which each batch is appended, whole or not at all.

    The first line says what is measured. A last line that was cut off by a kill is dropped.

    Parameters
    ----------
    path : Path, optional
        The file; None keeps everything in memory.
    about : mapping
        What is measured, for JSON: everything that values depend on apart from slice, setting and batch.

    Raises
    ------
    ValueError
        The file is no store, or one of something else.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self.path = path
        self._clean: dict[int, dict[str, Any]] = {}
        self._values: dict[tuple[str, str, int], Values] = {}
        header = {"format": FORMAT, "about": dict(about)}
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if len(whole) < len(data):
            if not lines and not self._line(header).startswith(data):
                raise ValueError(f"{path} is no store of a characterisation; choose another file")
            os.truncate(path, len(whole))
        if not lines:
            self._append(header)
            return
        self._check(path, lines[0], header)
        for line in lines[1:]:
            record = json.loads(line)
            if "slice" in record:
                self._values[self._key(record["slice"], record["setting"], record["batch"])] = record["values"]
            else:
                self._clean[record["batch"]] = record["clean"]

    @staticmethod
    def _line(record: Mapping[str, Any]) -> bytes:
        return json.dumps(record, allow_nan=False).encode() + b"\n"

    @classmethod
    def _check(cls, path: Path, line: bytes, header: dict[str, Any]) -> None:
        try:
            found = json.loads(line)
        except ValueError:
            found = None
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ValueError(f"{path} is no store of a characterisation; choose another file")
        wanted = json.loads(cls._line(header))["about"]
        for name in sorted({*found["about"], *wanted}):
            if found["about"].get(name) != wanted.get(name):
                raise ValueError(
                    f"{path} is of another characterisation: {name} is {found['about'].get(name)!r} there, "
                    f"{wanted.get(name)!r} here; choose another file"
                )

    def _append(self, record: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        with self.path.open("ab") as file:
            file.write(self._line(record))
            file.flush()
            os.fsync(file.fileno())

    @staticmethod
    def _key(slice_: Mapping[str, Any], setting: Mapping[str, Any], batch: int) -> tuple[str, str, int]:
        return json.dumps(slice_), json.dumps(setting), batch

    def values(self, slice_: Slice, setting: Setting, batch: int) -> Values | None:
        """Damage of each image of a batch by each metric, if it is known."""
        return self._values.get(self._key(slice_.to_dict(), setting.to_dict(), batch))

    def add(self, slice_: Slice, setting: Setting, batch: int, values: Values) -> None:
        """Note the damage of a batch."""
        record = {"slice": slice_.to_dict(), "setting": setting.to_dict(), "batch": batch, "values": values}
        self._values[self._key(record["slice"], record["setting"], batch)] = values  # type: ignore[arg-type]
        self._append(record)

    def clean(self, batch: int) -> dict[str, Any] | None:
        """What is known of a batch of clean images."""
        return self._clean.get(batch)

    def add_clean(self, batch: int, clean: dict[str, Any]) -> None:
        """Note it."""
        self._clean[batch] = clean
        self._append({"batch": batch, "clean": clean})
