"""Packages that are installed for a test, with entry points."""

from __future__ import annotations

import contextlib
import os
import sys


@contextlib.contextmanager
def installed_package(folder, monkeypatch, name, modules, entries):
    """A package on the path of this process and of those that it starts; forgotten afterwards.

    Parameters
    ----------
    folder : Path
        Empty folder in which it is installed.
    monkeypatch : pytest.MonkeyPatch
    name : str
        Name of the package.
    modules : dict of str to str
        Text of each of its modules.
    entries : dict of str to dict of str to str
        For each group of entry points, module of each entry.
    """
    (folder / name).mkdir()
    (folder / name / "__init__.py").touch()
    for module, text in modules.items():
        (folder / name / f"{module}.py").write_text(text)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    groups = (
        "\n".join((f"[{group}]", *(f"{entry} = {name}.{module}" for entry, module in named.items())))
        for group, named in entries.items()
    )
    (info / "entry_points.txt").write_text("\n".join(groups) + "\n")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH")))))
    yield folder
    for module in [each for each in sys.modules if each.partition(".")[0] == name]:
        del sys.modules[module]
