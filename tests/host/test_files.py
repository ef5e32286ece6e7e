"""The format of all files of the host; damage is tested where files are used."""

from __future__ import annotations

import hashlib
import json
import os

import pytest
import torch

from brownout.host import FileRefusedError, files
from brownout.host.files import read_tensors, write_tensors


def test_what_is_written_is_read(tmp_path):
    base = torch.arange(12, dtype=torch.int32)
    tensors = {
        "shared": base,
        "part": base[3:7],
        "strided": base.view(3, 4).T,
        "expanded": torch.ones(1, 3, dtype=torch.bfloat16).expand(2, 3),
        "scalar": torch.tensor(2.5, dtype=torch.float64),
        "empty": torch.zeros(0, 3, dtype=torch.bool),
    }
    details = {"text": "ä", "numbers": [1, 0.1, None, True], "nested": {"b": 1, "a": []}}
    write_tensors(tmp_path / "file", "kind", tensors, details)
    got, read = read_tensors(tmp_path / "file", "kind")
    assert read == details
    assert got.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert got[name].dtype == tensor.dtype
        assert torch.equal(got[name], tensor)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_the_checksum_is_the_documented_one(tmp_path):
    digest = write_tensors(tmp_path / "file", "kind", {"a": torch.tensor([1, -1], dtype=torch.int8)}, {"x": [1]})
    text = json.dumps({"details": {"x": [1]}, "kind": "kind", "version": 2})
    assert digest == hashlib.sha256(text.encode() + b"a torch.int8 (2,);" + b"\x01\xff").hexdigest()


def test_a_file_is_on_the_disk_before_it_takes_its_name(tmp_path, monkeypatch):
    events = []

    def watch(name):
        call = getattr(os, name)

        def watched(*arguments):
            events.append(
                (name, os.readlink(f"/proc/self/fd/{arguments[0]}") if name == "fsync" else arguments[0].name)
            )
            return call(*arguments)

        monkeypatch.setattr(os, name, watched)

    watch("fsync")
    watch("replace")
    write_tensors(tmp_path / "file", "kind", {}, {})
    temporary = tmp_path / "file.tmp"
    assert events == [("fsync", str(temporary)), ("replace", "file.tmp"), ("fsync", str(tmp_path))]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_tensors(tmp_path / "file", "kind", {}, {"old": 1})

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(OSError, match=r"^disk full$"):
        write_tensors(tmp_path / "file", "kind", {}, {"new": 1})
    assert read_tensors(tmp_path / "file", "kind")[1] == {"old": 1}


def test_a_refusal_names_file_and_reason(tmp_path):
    write_tensors(tmp_path / "file", "one", {}, {})
    with pytest.raises(FileRefusedError) as caught:
        read_tensors(tmp_path / "file", "two")
    assert (caught.value.path, caught.value.reason) == (tmp_path / "file", "holds 'one', not 'two'")
    assert str(caught.value) == f"{tmp_path}/file holds 'one', not 'two'"
