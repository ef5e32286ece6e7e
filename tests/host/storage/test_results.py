"""Result files have the agreed form."""

from __future__ import annotations

import json
import os

import pytest

from brownout.cosim.errors import BuildFolderError
from brownout.host import FileRefusedError, read_results, write_results
from brownout.host.storage.results import results_folder
from brownout.hw.config import AcceleratorConfig


def test_form(tmp_path):
    path = write_results("speed", {"ok": True, "cycles": 12, "ratio": 0.5}, config=AcceleratorConfig(), root=tmp_path)
    assert path == tmp_path / "results" / "speed.json"
    document = json.loads(path.read_text())
    assert list(document) == ["name", "metrics", "config", "machine", "versions"]
    assert document["name"] == "speed"
    assert document["metrics"] == {"ok": 1, "cycles": 12, "ratio": 0.5}
    assert document["config"]["rows"] == 16
    assert set(document["machine"]) == {"cpus", "architecture", "system", "python"}
    assert "torch" in document["versions"]
    assert list(path.parent.iterdir()) == [path]


def test_what_is_written_is_read(tmp_path):
    write_results("speed", {"ok": True, "ratio": 0.5}, config={"model": "digits"}, root=tmp_path)
    found = read_results("speed", root=tmp_path)
    assert (found.name, found.metrics, found.config) == ("speed", {"ok": 1, "ratio": 0.5}, {"model": "digits"})
    with pytest.raises(FileNotFoundError, match=r"there is no file .*other\.json"):
        read_results("other", root=tmp_path)


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("0.5", "NaN", "NaN is no JSON"),
        ("0.5", '"0.5"', "its metrics.ratio"),
        ("0.5", "[1]", "its metrics.ratio"),
        ('"speed"', '"slow"', "has the results of 'slow'"),
        ('"metrics"', '"numbers"', "is refused"),
        ('"python"', '"snake"', "its machine"),
    ],
)
def test_results_that_cannot_be_are_refused(old, new, reason, tmp_path):
    path = write_results("speed", {"ratio": 0.5}, root=tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(FileRefusedError, match=f"^{path} .*{reason}"):
        read_results("speed", root=tmp_path)


def test_build_folder_comes_from_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("BROWNOUT_BUILD", str(tmp_path / "elsewhere"))
    assert write_results("x", {}, config={"model": "digits"}) == tmp_path / "elsewhere" / "results" / "x.json"


def test_metrics_are_flat_numbers(tmp_path):
    with pytest.raises(TypeError, match=r"^metric 'nested' must be a number, not \{'a': 1\}$"):
        write_results("x", {"nested": {"a": 1}}, root=tmp_path)


def test_what_is_no_json_leaves_the_old_file_alone(tmp_path):
    path = write_results("x", {"value": 1.0}, root=tmp_path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON compliant"):
        write_results("x", {"value": float("nan")}, root=tmp_path)
    assert path.read_bytes() == before


def test_what_cannot_be_written_is_typed_and_leaves_nothing_half_written(tmp_path, monkeypatch):
    path = write_results("x", {"value": 1.0}, root=tmp_path)
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(BuildFolderError, match=r": No space left on device; free space there, or set BROWNOUT_BUILD "):
        write_results("x", {"value": 2.0}, root=tmp_path)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]
    with pytest.raises(BuildFolderError, match=f"^cannot use {path}/results: Not a directory; a file is in the place "):
        results_folder(path)
