"""Every kind of file, damaged in many ways: it is refused, or read as it was written."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
from collections.abc import Mapping

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from brownout.host import Calibration, CheckpointWarning, FileRefusedError, read_results, write_results
from brownout.host.device.mixed.case import Case, Result, load_case, save_case
from brownout.host.device.mixed.passes import OutputTile
from brownout.host.drift.characterisation.profile import ResilienceProfile
from brownout.host.drift.characterisation.slices import Slice
from brownout.host.drift.characterisation.store import Store
from brownout.host.drift.operating_point import OperatingPoint
from brownout.host.drift.policy.search import FoundPolicy
from brownout.host.drift.power_policy import TablePolicy
from brownout.host.models.load import WEIGHTS, load_classifier
from brownout.host.offloading import LayerCalibration
from brownout.host.storage.files import digest_of
from brownout.hw.config import AcceleratorConfig
from brownout.hw.errors.state import CommandOptions, ErrorState

from ..checkpoints import toy
from ..drift.test_refused import policy, profile, table

MUTATIONS = 60


def same(one, other) -> bool:
    """Equality of whatever is read."""
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if dataclasses.is_dataclass(one):
        return type(one) is type(other) and all(
            same(getattr(one, each.name), getattr(other, each.name)) for each in dataclasses.fields(one)
        )
    if isinstance(one, Mapping):
        return one.keys() == other.keys() and all(same(value, other[name]) for name, value in one.items())
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def calibration(path):
    layers = {
        "a": LayerCalibration("linear", torch.tensor([0.5, 0.25], dtype=torch.float64), torch.ones(3), 30.0),
        "b": LayerCalibration("attention", torch.ones(2, 3, dtype=torch.float64)),
    }
    Calibration(layers, "absmax", 99.0, 0.5, (500.0,)).save(path)


def case(path):
    config = AcceleratorConfig(rows=4, cols=4)
    a, w = torch.arange(24, dtype=torch.int8).view(4, 6), torch.arange(18, dtype=torch.int8).view(6, 3)
    output = a.int() @ w.int()
    tile = OutputTile(0, 0, 4, 0, 3)
    made = Case(config, 3, tile, 1, False, a, w, None, None, None, output, CommandOptions(), ErrorState(), None)
    save_case(path, made, "one bit", Result(output, b"", {"cycles": 5}))


def store(path):
    made = Store(path, {"seed": 1})
    for batch in range(3):
        made.add(Slice(name="a"), OperatingPoint(voltage_v=0.7), batch, {"mse": [0.5, batch]})


def read_store(path):
    made = Store(path, {"seed": 1})
    return [made.values(Slice(name="a"), OperatingPoint(voltage_v=0.7), batch) for batch in range(3)]


def weights(path):
    path.parent.mkdir(exist_ok=True)
    shutil.copy(WEIGHTS / "digits-classifier.safetensors", path)
    shutil.copy(WEIGHTS / "SHA256SUMS", path.parent)


KINDS = {
    "calibration": ("c", calibration, Calibration.load),
    "case": ("c", case, load_case),
    "policy": ("p", lambda path: policy().save(path), FoundPolicy.load),
    "profile": ("p", lambda path: profile().save(path), ResilienceProfile.load),
    "table": (
        "t",
        lambda path: path.write_text(table().to_json()),
        lambda path: TablePolicy.from_json(path.read_bytes()),
    ),
    "store": ("s", store, read_store),
    "results": (
        "results/r.json",
        lambda path: write_results("r", {"x": 0.5}, config={"a": 1}, root=path.parents[1]),
        lambda path: read_results("r", root=path.parents[1]),
    ),
    "weights": (
        "digits-classifier.safetensors",
        weights,
        lambda path: load_classifier("digits", folder=path.parent).state_dict(),
    ),
}


def mutated(data: bytes, rng: random.Random) -> bytes:
    place = rng.randrange(len(data))
    kind = rng.randrange(6)
    if kind == 0:
        return data[:place]
    if kind == 1:
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]
    if kind == 2:
        return data[:place] + data[place + rng.randrange(1, 9) :]
    if kind == 3:
        return data[:place] + rng.choice([b"[" * 5000, b'"', b"NaN", b"1e999", b"\xff", b"-", b"9" * 50]) + data[place:]
    if kind == 4:
        other = rng.randrange(len(data))
        return data[:place] + data[other : other + 8] + data[place + 8 :]
    return data[:place] + rng.randbytes(4) + data[place + 4 :]


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_or_read_as_it_was(kind, tmp_path):
    """Of JSON without a checksum other values may be read: then they are values that could have been written."""
    name, write, read = KINDS[kind]
    path = tmp_path / name
    write(path)
    data, expected = path.read_bytes(), read(path)
    checked = kind in ("calibration", "case", "weights")
    seed = 17
    print(f"seed {seed}")
    rng, refused = random.Random(seed), 0
    for _ in range(MUTATIONS if kind != "weights" else 12):
        path.write_bytes(mutated(data, rng))
        try:
            got = read(path)
        except (FileRefusedError, FileNotFoundError):
            refused += 1
            continue
        assert type(got) is type(expected)
        assert not checked or same(got, expected)
    assert refused >= (MUTATIONS // 3 if kind != "weights" else 12)


def rewritten(path, change) -> None:
    """A file with other content, and the checksum of that."""
    with safe_open(path, framework="pt") as file:
        facts = json.loads(file.metadata()["brownout"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(facts["details"], tensors)
    del facts["digest"]
    save_file(tensors, path, metadata={"brownout": json.dumps({**facts, "digest": digest_of(tensors, facts)})})


def other_values(value, rng: random.Random):
    """Values with one of them replaced."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        name = rng.choice(list(value))
        if rng.random() < 0.1:
            return {key: each for key, each in value.items() if key != name}
        return {**value, name: other_values(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.9:
        place = rng.randrange(len(value))
        return [*value[:place], other_values(value[place], rng), *value[place + 1 :]]
    return rng.choice([None, -1, "x", True, [], {}, 1e300, 1 << 63, "a" * 1000, [[1]]])


@pytest.mark.parametrize("kind", ["calibration", "case"])
def test_values_that_cannot_be_are_refused_in_spite_of_a_right_checksum(kind, tmp_path):
    name, write, read = KINDS[kind]
    path = tmp_path / name
    write(path)
    data = path.read_bytes()
    seed = 19
    print(f"seed {seed}")
    rng, refused = random.Random(seed), 0

    def change(details, tensors):
        if rng.random() < 0.3:
            chosen = rng.choice(list(tensors))
            tensor = tensors[chosen]
            replaced = [tensor.double(), tensor.flatten()[:0], tensor[..., None], torch.full_like(tensor, 100)]
            if tensor.is_floating_point():
                replaced += [torch.full_like(tensor, value) for value in (0, -1, float("nan"), float("inf"))]
            tensors[chosen] = rng.choice(replaced)
            return
        chosen = rng.choice(list(details))
        details[chosen] = other_values(details[chosen], rng)

    for _ in range(MUTATIONS):
        path.write_bytes(data)
        rewritten(path, change)
        try:
            read(path)
        except FileRefusedError:
            refused += 1
    assert refused >= MUTATIONS // 2


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    values = toy.run(folder)[0]
    return folder, values


def nan_time(details, _tensors):
    details["values"]["accelerator"]["meter"]["time_s"] = "0"


def negative_energy(details, _tensors):
    details["values"]["accelerator"]["meter"]["energy_j"]["mac"] = -1.0


def no_place(details, _tensors):
    del details["values"]["place"]


def another_point(details, _tensors):
    details["values"]["accelerator"]["points"]["assigned"] = [99, 99]


def float_sums(_details, tensors):
    name = next(name for name in tensors if name.startswith("history/"))
    tensors[name] = tensors[name].float()


def no_sums(_details, tensors):
    del tensors[next(name for name in tensors if name.startswith("history/"))]


def nested_slots(details, _tensors):
    details["values"]["history"]["slots"] = [[[]]]


@pytest.mark.parametrize(
    "change", [nan_time, negative_energy, no_place, another_point, float_sums, no_sums, nested_slots]
)
def test_a_state_that_cannot_be_falls_back_to_the_one_before(change, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    rewritten(folder / "state-000006.safetensors", change)
    with pytest.warns(CheckpointWarning, match=r"state-000006.safetensors has values that cannot be used: .*state 5$"):
        values, _, computed = toy.run(folder)
    assert torch.equal(values, finished[1])
    assert computed == 1


@pytest.mark.parametrize(
    "output",
    [
        {"x": 1},
        ["tensor", "9", "cpu", [1]],
        ["tensor", "0", "cpu", [1 << 40, 1]],
        ["tensor", "0", "tape", [10, 1]],
        ["x"],
    ],
)
def test_an_evaluation_that_cannot_be_is_computed_again(output, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "run")
    rewritten(folder / "evaluation-000005.safetensors", lambda details, _: details["values"].update(output=output))
    with pytest.warns(CheckpointWarning, match=r"evaluation-000005.safetensors has values that cannot be used: "):
        values, _, computed = toy.run(folder)
    assert torch.equal(values, finished[1])
    assert computed == 1
