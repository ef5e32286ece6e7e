"""What a characterisation has measured so far, on disk."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import FileRefusedError, FileUnwrittenError
from ...storage.decoding import Count, Digest, check, parse
from ..operating_point import OperatingPoint
from .slices import Slice

FORMAT = "brownout characterisation 1"

Values = dict[str, list[float]]


@dataclass(frozen=True)
class _Header:
    """The first line."""

    format: str
    about: dict[str, Any]


@dataclass(frozen=True)
class _Damage:
    """Damage of a batch, by the names in files."""

    slice: Slice
    setting: OperatingPoint
    batch: Count
    values: dict[str, list[float]]


@dataclass(frozen=True)
class _Images:
    """What `Bench.describe_clean` says of clean images."""

    sha256: Digest
    unrelated: dict[str, list[float]]


@dataclass(frozen=True)
class _Clean:
    """Clean images of a batch."""

    batch: Count
    clean: _Images


class Store:
    """A file of JSON lines to which each batch is appended, whole or not at all.

    The first line says what is measured. A last line that was cut off by a kill is dropped.

    Parameters
    ----------
    path : Path, optional
        The file; None keeps everything in memory.
    about : mapping
        What is measured, for JSON: everything that values depend on apart from slice, operating point and batch.

    Raises
    ------
    FileRefusedError
        The file is no store, or one of something else, or a line but the last is damaged.
    FileUnwrittenError
        It cannot be written.
    """

    def __init__(self, path: Path | None, about: Mapping[str, Any]) -> None:
        self.path = path
        self._clean: dict[int, dict[str, Any]] = {}
        self._values: dict[tuple[str, str, int], Values] = {}
        header = {"format": FORMAT, "about": dict(about)}
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileUnwrittenError(path, error) from error
        if path.exists() and not path.is_file():
            raise FileRefusedError(path, "is no store of a characterisation; choose another file")
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        lines = whole.splitlines()
        if len(whole) < len(data):
            if not lines and not self._line(header).startswith(data):
                raise FileRefusedError(path, "is no store of a characterisation; choose another file")
            os.truncate(path, len(whole))
        if not lines:
            self._append(header)
            return
        self._check(path, lines[0], header)
        for number, line in enumerate(lines[1:], 2):
            try:
                self._take(line)
            except FileRefusedError as error:
                remedy = "take the line out, or choose another file"
                raise FileRefusedError(path, f"has a damaged line {number}, which {error.reason}; {remedy}") from error

    def _take(self, line: bytes) -> None:
        record = parse(line, "a line")
        if isinstance(record, dict) and "slice" in record:
            damage = check(record, _Damage, "a line")
            key = self._key(damage.slice.to_dict(), damage.setting.to_dict(), damage.batch)
            self._values[key] = damage.values
        else:
            clean = check(record, _Clean, "a line")
            self._clean[clean.batch] = asdict(clean.clean)

    @staticmethod
    def _line(record: Mapping[str, Any]) -> bytes:
        return json.dumps(record, allow_nan=False).encode() + b"\n"

    @classmethod
    def _check(cls, path: Path, line: bytes, header: dict[str, Any]) -> None:
        found = None
        with contextlib.suppress(FileRefusedError):
            found = check(parse(line, path), _Header, path)
        if found is None or found.format != FORMAT:
            raise FileRefusedError(path, "is no store of a characterisation; choose another file")
        wanted = json.loads(cls._line(header))["about"]
        for name in sorted({*found.about, *wanted}):
            if found.about.get(name) != wanted.get(name):
                raise FileRefusedError(
                    path,
                    f"is of another characterisation: {name} is {found.about.get(name)!r} there, "
                    f"{wanted.get(name)!r} here; choose another file",
                )

    def _append(self, record: Mapping[str, Any]) -> None:
        if self.path is None:
            return
        before = 0
        try:
            # Unbuffered, so that nothing is written later, after what follows here.
            with self.path.open("ab", buffering=0) as file:
                before = file.tell()
                self._write(file.fileno(), self._line(record))
                os.fsync(file.fileno())
        except OSError as error:
            # The next line must not go on where half of this one ends.
            with contextlib.suppress(OSError):
                os.truncate(self.path, before)
            raise FileUnwrittenError(self.path, error) from error

    @staticmethod
    def _write(descriptor: int, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[os.write(descriptor, left) :]

    @staticmethod
    def _key(slice_: Mapping[str, Any], point: Mapping[str, Any], batch: int) -> tuple[str, str, int]:
        return json.dumps(slice_), json.dumps(point), batch

    def values(self, slice_: Slice, point: OperatingPoint, batch: int) -> Values | None:
        """Damage of each image of a batch by each metric, if it is known."""
        return self._values.get(self._key(slice_.to_dict(), point.to_dict(), batch))

    def add(self, slice_: Slice, point: OperatingPoint, batch: int, values: Values) -> None:
        """Note the damage of a batch."""
        record = {"slice": slice_.to_dict(), "setting": point.to_dict(), "batch": batch, "values": values}
        self._values[self._key(record["slice"], record["setting"], batch)] = values  # type: ignore[arg-type]
        self._append(record)

    def clean(self, batch: int) -> dict[str, Any] | None:
        """What is known of a batch of clean images."""
        return self._clean.get(batch)

    def add_clean(self, batch: int, clean: dict[str, Any]) -> None:
        """Note it."""
        self._clean[batch] = clean
        self._append({"batch": batch, "clean": clean})
