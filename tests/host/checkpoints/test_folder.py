"""Files that are damaged, missing or of another run, and folders that are in use."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from brownout.host import CheckpointError, CheckpointWarning, FileRefusedError, RunCheckpoint
from brownout.host.checkpoints.folder import RunFolder
from brownout.host.storage import files
from brownout.host.storage.files import read_tensors

from . import toy

REMEDY = r"choose another folder, or begin anew with RunCheckpoint\(folder, overwrite=True\)$"


@pytest.fixture(scope="module")
def expected():
    values, stats, _ = toy.run()
    assert stats["suppressed"] > 0
    return values, stats


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    toy.run(folder)
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    """A run that is complete."""
    return shutil.copytree(finished, tmp_path / "run")


def state(folder, number=toy.STEPS):
    return folder / f"state-{number:06d}.safetensors"


def evaluation(folder, number):
    return folder / f"evaluation-{number:06d}.safetensors"


def assert_same(got, expected):
    assert torch.equal(got[0], expected[0])
    assert got[1] == expected[1]


def test_a_finished_run_is_only_replayed(folder, expected):
    got = toy.run(folder)
    assert_same(got, expected)
    assert got[2] == 0


def test_two_states_are_kept_and_all_evaluations(folder):
    names = [f"evaluation-{number:06d}.safetensors" for number in range(6)] + ["lock", "run.safetensors"]
    assert sorted(file.name for file in folder.iterdir()) == [*names, state(folder, 5).name, state(folder, 6).name]


def test_states_are_as_many_and_as_far_apart_as_wanted(tmp_path, expected):
    options = RunCheckpoint(tmp_path / "run", every=2, keep=3)
    assert_same(toy.run(options), expected)
    assert [file.name for file in sorted(tmp_path.glob("run/state-*"))] == [
        state(tmp_path, number).name for number in (2, 4, 6)
    ]
    state(tmp_path / "run", 6).unlink()
    got = toy.run(options)
    assert_same(got, expected)
    assert got[2] == 2


def flip(file, place, bit=0):
    content = bytearray(file.read_bytes())
    content[place] ^= 1 << bit
    file.write_bytes(content)


def rewrite(file, text):
    """A safetensors file whose metadata is some text."""
    save_file({"x": torch.zeros(1)}, file, metadata={"brownout": text})


def make_folder(file):
    file.unlink()
    file.mkdir()
    (file / "kept").touch()


def truncate(file):
    os.truncate(file, file.stat().st_size * 2 // 3)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (truncate, "is damaged, or no safetensors file: "),
        (lambda file: file.write_bytes(b""), "is damaged, or no safetensors file: "),
        (lambda file: flip(file, -5), "is damaged: its content does not have the checksum"),
        (lambda file: flip(file, 3, 7), "is damaged, or no safetensors file: "),
        (lambda file: rewrite(file, "[" * 2000 + "]" * 2000), "is no JSON that this program reads: arrays and objects"),
        (lambda file: rewrite(file, "[]"), "has a wrong form: it is refused: "),
        (lambda file: save_file({"x": torch.zeros(1)}, file), "is a safetensors file, but Brownout did not write it"),
        (make_folder, ""),
        (lambda file: shutil.copy(state(file.parent, 5), file), "is of another run: its 'number' is 5, not 6"),
        (lambda file: shutil.copy(evaluation(file.parent, 5), file), "holds 'checkpoint: evaluation', not 'checkpoint"),
    ],
)
def test_a_damaged_state_is_refused_with_the_reason_and_the_one_before_is_used(damage, reason, folder, expected):
    damage(state(folder))
    with pytest.warns(CheckpointWarning, match=rf"state-000006.safetensors ?{reason}.*; going on from state 5$"):
        got = toy.run(folder)
    assert_same(got, expected)
    assert got[2] == 1
    assert toy.run(folder)[2] == 0


def test_a_folder_with_the_name_of_a_state_keeps_what_is_in_it(folder):
    for _ in range(2):
        make_folder(state(folder))
        with pytest.warns(
            CheckpointWarning, match=r"there is no file .*state-000006.safetensors; going on from state 5"
        ):
            toy.run(folder)
    assert (folder / "state-000006.safetensors.refused" / "kept").exists()
    assert (folder / "state-000006.safetensors.refused1" / "kept").exists()


def test_names_that_are_not_written_here_are_nobodys_states(folder, expected):
    names = ("state-²²²", "state-١٢٣٤٥٦", "state-7", "state-0000007", "state-000007x", "state--00007")
    for name in names:
        (folder / f"{name}.safetensors").touch()
    got = toy.run(folder)
    assert_same(got, expected)
    assert got[2] == 0
    toy.run(RunCheckpoint(folder, overwrite=True))
    assert all((folder / f"{name}.safetensors").exists() for name in names)


def test_what_was_being_written_at_a_kill_is_tidied_up(folder):
    for name in (".tmpAb3dE9", "state-000007.safetensors.tmp"):
        (folder / name).touch()
    (folder / ".tmp-mine").touch()
    toy.run(folder)
    assert [file.name for file in folder.glob("*tmp*")] == [".tmp-mine"]


@pytest.mark.parametrize("kind", ["evaluation", "state"])
def test_a_full_disk_costs_nothing_but_the_time(kind, tmp_path, expected, monkeypatch):
    folder = tmp_path / "run"

    def full(tensors, path, metadata):
        if path.name.startswith(f"{kind}-000004"):
            path.write_bytes(b"half")
            raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")
        save_file(tensors, path, metadata)

    with monkeypatch.context() as patch:
        patch.setattr(files, "save_file", full)
        at = 4 if kind == "evaluation" else 3
        message = (
            f"{kind}-000004.safetensors cannot be written: No space left on device; free space there, or choose a "
            f"folder on another disk; the run is kept up to state {at}, where the same program, run again, goes on"
        )
        for _ in range(2):
            with pytest.raises(CheckpointError, match=rf"^{folder}/{re.escape(message)}$"):
                toy.run(folder)
    assert not list(folder.glob("*.tmp"))
    got = toy.run(folder)
    assert_same(got, expected)
    assert got[2] == toy.STEPS - at


def test_a_folder_that_cannot_be_made_is_named_with_the_cause(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=rf"^{tmp_path}/file/run cannot be written: Not a directory; choose "):
        toy.run(tmp_path / "file" / "run")


def test_a_missing_state_is_no_loss_while_there_is_another(folder, expected):
    state(folder).unlink()
    got = toy.run(folder)
    assert_same(got, expected)
    assert got[2] == 1


@pytest.mark.parametrize("damage", [truncate, os.unlink, lambda file: flip(file, -1)])
def test_a_state_needs_all_evaluations_before_it(damage, folder, expected):
    damage(evaluation(folder, 5))
    reason = r"state-000006.safetensors needs an evaluation of which .*evaluation-000005.safetensors"
    with pytest.warns(CheckpointWarning, match=reason):
        got = toy.run(folder)
    assert_same(got, expected)
    assert got[2] == 1


def test_without_a_state_the_run_does_not_begin_anew_unasked(folder, expected):
    truncate(evaluation(folder, 2))
    before = sorted(folder.iterdir())
    with pytest.raises(
        CheckpointError, match=rf"^{folder} has no state to go on from: .*; put the file back, {REMEDY}"
    ):
        toy.run(folder)
    assert sorted(folder.iterdir()) == before
    state(folder, 5).unlink()
    state(folder, 6).unlink()
    with pytest.raises(CheckpointError, match=rf": there are evaluations, but no states; put the file back, {REMEDY}"):
        toy.run(folder)
    got = toy.run(RunCheckpoint(folder, overwrite=True))
    assert_same(got, expected)
    assert got[2] == toy.STEPS
    assert toy.run(folder)[2] == 0


@pytest.mark.parametrize("damage", [truncate, os.unlink])
def test_without_its_first_file_a_run_is_unknown(damage, folder):
    damage(folder / "run.safetensors")
    with pytest.raises(CheckpointError, match=rf"run.safetensors.*, put the file back, {REMEDY}"):
        toy.run(folder)


def test_files_of_another_run_are_refused(folder, expected, tmp_path):
    toy.run(tmp_path / "other", seed=1)
    shutil.copy(state(tmp_path / "other"), state(folder))
    with pytest.warns(
        CheckpointWarning, match=r"state-000006.safetensors is of another run: its 'run' is '[0-9a-f]{32}'"
    ):
        assert_same(toy.run(folder), expected)
    shutil.copy(evaluation(tmp_path / "other", 5), evaluation(folder, 5))
    with pytest.warns(CheckpointWarning, match=r"evaluation-000005.safetensors is of another run: its 'run' is"):
        assert_same(toy.run(folder), expected)


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        ({"rate": 0.2}, r"'operating_points' was .* and is .* now"),
        ({"error_seed": 2}, r"'error_seed' was 1 and is 2 now"),
    ],
)
def test_a_run_with_other_settings_is_refused(options, difference, folder):
    before = {file: file.read_bytes() for file in folder.iterdir() if file.name != "lock"}
    with pytest.raises(CheckpointError, match=rf"holds another run: {difference}; call it as .*, {REMEDY}"):
        toy.run(folder, **options)
    assert {file: file.read_bytes() for file in folder.iterdir() if file.name != "lock"} == before


def test_other_weights_are_refused(folder, monkeypatch):
    init = toy.Denoiser.__init__

    def other(denoiser):
        init(denoiser)
        denoiser.last.bias.data[3] += 1e-6

    monkeypatch.setattr(toy.Denoiser, "__init__", other)
    with pytest.raises(
        CheckpointError, match=r"holds another run: 'weights' was [0-9a-f]{64} and is [0-9a-f]{64} now;"
    ):
        toy.run(folder)


def test_other_inputs_are_refused_where_they_differ(folder, expected):
    message = rf"in evaluation 0, 'sample' was float32 \(7, 10\) with .* now; call it as that run was called, {REMEDY}"
    with pytest.raises(CheckpointError, match=message):
        toy.run(folder, seed=1)
    # Nothing has been lost.
    assert_same(toy.run(folder), expected)


def test_a_longer_run_goes_on_where_a_shorter_one_ended(folder):
    got = toy.run(folder, steps=9)
    undisturbed = toy.run(steps=9)
    assert_same(got, undisturbed)
    assert got[2] == 3


def test_a_folder_serves_one_run_at_a_time(folder):
    opened = RunFolder(folder, 2)
    message = f"{folder} is in use by process {os.getpid()}; wait until it ends, or choose another folder"
    with pytest.raises(CheckpointError, match=f"^{re.escape(message)}$"):
        toy.run(folder)
    opened.close()
    # What another process does, without its imports.
    code = """if True:
        import fcntl, os, sys, time
        file = open(sys.argv[1], "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        print(os.getpid(), file=file, flush=True)
        print("locked", flush=True)
        time.sleep(600)
    """
    other = subprocess.Popen([sys.executable, "-c", code, folder / "lock"], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    with pytest.raises(CheckpointError, match=f" is in use by process {other.pid}; "):
        toy.run(folder)
    other.kill()
    other.wait()
    other.stdout.close()
    assert toy.run(folder)[2] == 0


def test_no_flipped_bit_goes_unnoticed(finished, tmp_path):
    """In the header as in the tensors."""
    content = state(finished).read_bytes()
    read = read_tensors(state(finished), "checkpoint: state", dict)
    seed = 3
    print(f"seed {seed}")
    rng = random.Random(seed)
    file = tmp_path / "flipped"
    refused = 0
    for _ in range(400):
        place = rng.randrange(len(content))
        file.write_bytes(content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :])
        try:
            tensors, details = read_tensors(file, "checkpoint: state", dict)
        except FileRefusedError:
            refused += 1
            continue
        # Of what does not matter, such as padding or the order of tensors in the file.
        assert details == read[1]
        assert tensors.keys() == read[0].keys()
        assert all(torch.equal(tensor, read[0][name]) for name, tensor in tensors.items())
    assert refused > 390


def test_no_file_is_a_pickle(folder):
    for file in folder.glob("*.safetensors"):
        content = file.read_bytes()
        header = int.from_bytes(content[:8], "little")
        assert content[8:9] == b"{"
        assert content[8 : 8 + header].rstrip().endswith(b"}")
