"""The format of all files of the host; damage is tested where files are used."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from brownout.host import FileRefusedError
from brownout.host.errors import FileUnwrittenError
from brownout.host.storage import files
from brownout.host.storage.files import read_tensors, write_tensors


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
    got, read = read_tensors(tmp_path / "file", "kind", dict)
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


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.ENOSPC, "No space left on device; free space there, or choose a folder on another disk"),
        (errno.EFBIG, r"File too large; raise the limit of file sizes \(ulimit -f\), or choose another file system"),
        (errno.EROFS, "Read-only file system; allow this user to write there, or choose another folder"),
    ],
)
def test_a_failed_write_leaves_the_old_file_and_nothing_else(number, remedy, tmp_path, monkeypatch):
    write_tensors(tmp_path / "file", "kind", {}, {"old": 1})

    def fail(tensors, path, metadata):
        path.write_bytes(b"half")
        raise SafetensorError(f"Error while serializing: I/O error: ... (os error {number})")

    monkeypatch.setattr(files, "save_file", fail)
    with pytest.raises(FileUnwrittenError, match=rf"^{tmp_path}/file cannot be written: {remedy}$") as caught:
        write_tensors(tmp_path / "file", "kind", {}, {"new": 1})
    assert (caught.value.errno, caught.value.path) == (number, tmp_path / "file")
    assert read_tensors(tmp_path / "file", "kind", dict)[1] == {"old": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


FULL_DISK = """
import resource, signal, sys, torch
from pathlib import Path
from brownout.host.errors import FileUnwrittenError
from brownout.host.storage.files import write_tensors
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_tensors(Path(sys.argv[1]), "kind", {"x": torch.zeros(1 << 16)}, {})
except FileUnwrittenError as error:
    print(error)
"""


def test_what_the_system_refuses_is_told_apart_from_what_cannot_be_stored(tmp_path):
    """A limit of the file's size fails where a full disk does, in the midst of writing."""
    command = [sys.executable, "-c", FULL_DISK, tmp_path / "file"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.startswith(f"{tmp_path}/file cannot be written: File too large; raise the limit")
    assert list(tmp_path.iterdir()) == []


def test_text_is_written_whole_too(tmp_path, monkeypatch):
    path = tmp_path / "new" / "file"
    files.write_text(path, "old")
    monkeypatch.setattr(Path, "write_text", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
    with pytest.raises(FileUnwrittenError, match="cannot be written: no space; free space there"):
        files.write_text(path, "new")
    assert (path.read_text(), [each.name for each in path.parent.iterdir()]) == ("old", ["file"])


def test_a_refusal_names_file_and_reason(tmp_path):
    write_tensors(tmp_path / "file", "one", {}, {})
    with pytest.raises(FileRefusedError) as caught:
        read_tensors(tmp_path / "file", "two", dict)
    assert (caught.value.path, caught.value.reason) == (tmp_path / "file", "holds 'one', not 'two'")
    assert str(caught.value) == f"{tmp_path}/file holds 'one', not 'two'"
