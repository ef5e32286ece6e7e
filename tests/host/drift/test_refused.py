"""Policies, profiles, tables and stores that are damaged, or have values that cannot be."""

from __future__ import annotations

import json
import os

import pytest

from brownout.host import FileRefusedError
from brownout.host.drift.characterisation.profile import ResilienceProfile
from brownout.host.drift.characterisation.slices import Slice
from brownout.host.drift.characterisation.stopping import DamageEstimate, Stopping
from brownout.host.drift.characterisation.store import Store
from brownout.host.drift.operating_point import NOMINAL, OperatingPoint
from brownout.host.drift.policy.search import FoundPolicy, PolicyOutcome
from brownout.host.drift.power_policy import TablePolicy
from brownout.host.errors import FileUnwrittenError

LOW = OperatingPoint(voltage_v=0.7, check_voltage_v=0.8)


def table() -> TablePolicy:
    return TablePolicy({(3, "blocks.1"): LOW}, kinds=("ff1",))


def policy() -> FoundPolicy:
    outcome = PolicyOutcome(1.0, 2.0, DamageEstimate(0.1, 0.0, 0.2, 40))
    return FoundPolicy(
        table(), "energy", 0.5, outcome, PolicyOutcome(0.5, 2.0, None, 0.1), outcome, 0.4, [{"aim": 0.5, "images": 4}]
    )


def profile() -> ResilienceProfile:
    return ResilienceProfile(
        slices=(Slice(name="early", evaluations=(0, 1)), Slice(name="bit3", bits=(3,))),
        points=(OperatingPoint(error_rate=1e-3), OperatingPoint(error_rate=1e-2)),
        metrics=("mse",),
        values={("early", 0): {"mse": (0.1, 0.2)}, ("bit3", 1): {"mse": (0.0, 0.5)}},
        unrelated={"mse": 1.0},
        stopping=Stopping(images=4, batch=2),
        about={"model": "x"},
    )


@pytest.mark.parametrize("made", [table(), policy(), profile()], ids=["table", "policy", "profile"])
def test_what_is_written_is_read(made, tmp_path):
    assert type(made).from_json(made.to_json()) == made
    if not isinstance(made, TablePolicy):
        made.save(tmp_path / "file")
        assert type(made).load(tmp_path / "file") == made


@pytest.mark.parametrize(
    "point",
    [
        {"voltage_v": float("nan")},
        {"voltage_v": float("inf")},
        {"voltage_v": -1},
        {"voltage_v": 0},
        {"voltage_v": 1e9},
        {"voltage_v": "0.7"},
        {"voltage_v": True},
        {"voltage_v": None},
        {"frequency_hz": 0.0},
        {"frequency_hz": 1e15},
        {"check_voltage_v": 3},
        {"error_rate": 2.0},
        {"error_rate": -1e-9},
        {"error_rate": 0.1, "check_rate": 1.5},
        {"error_rate": 0.1, "bit_weights": [1.0] * 30},
        {"error_rate": 0.1, "bit_weights": [0.0] * 31},
        {"error_rate": 0.1, "bit_weights": [float("nan")] * 31},
        {"error_rate": 0.1, "voltage_v": 0.8},
        {"volts": 0.7},
        [],
        None,
    ],
)
def test_operating_points_that_cannot_be_are_refused_wherever_they_are(point):
    text = json.dumps({"default": point, "kinds": None, "settings": []})
    with pytest.raises(FileRefusedError, match=r"^this (has a wrong form: its default|is no JSON that this program)"):
        TablePolicy.from_json(text)
    if isinstance(point, dict):
        with pytest.raises(ValueError, match=r"OperatingPoint|bit_weights|an operating point has"):
            OperatingPoint.from_dict(point)


def test_constructors_refuse_them_too():
    for name, value in (("voltage_v", float("nan")), ("voltage_v", "0.7"), ("error_rate", 2), ("frequency_hz", -1.0)):
        with pytest.raises(ValueError, match=rf"^OperatingPoint\.{name} must be a number in .*, not {value!r}$"):
            OperatingPoint(**{name: value})


def changed(made, change) -> str:
    data = json.loads(made.to_json())
    change(data)
    return json.dumps(data)


@pytest.mark.parametrize(
    ("made", "change", "reason"),
    [
        (table(), lambda data: data["settings"].append(data["settings"][0]), r"evaluation 3, block 'blocks.1' has two"),
        (table(), lambda data: data["settings"][0].update(evaluation=-1), r"its settings\[0\].evaluation is refused"),
        (table(), lambda data: data.pop("kinds"), "its kinds is refused: Field required"),
        (policy(), lambda data: data.clear(), "^this is no policy: its format is not 'brownout policy 1'$"),
        (policy(), lambda data: data.update(format="brownout policy 2"), "is no policy"),
        (policy(), lambda data: data.pop("table"), "its table is refused: Field required"),
        (policy(), lambda data: data["nominal"].update(energy_j=-1), "its nominal.energy_j is refused: .* not -1"),
        (policy(), lambda data: data.update(objective="area"), "its objective is refused: .*, not 'area'"),
        (policy(), lambda data: data.update(budget=0), "its budget is refused: .* greater than 0, not 0"),
        (policy(), lambda data: data["measured"]["damage"].update(images=1.5), "its measured.damage.images is refused"),
        (profile(), lambda data: data.pop("values"), "its values is refused: Field required"),
        (
            profile(),
            lambda data: data["values"][0].update(slice="late"),
            r"\[0\] is of slice 'late' at setting 0",
        ),
        (
            profile(),
            lambda data: data["values"][0].update(setting=2),
            r"slice 'early' at setting 2, which are not",
        ),
        (profile(), lambda data: data["values"][0].update(mse="x"), r"values\[0\] must have lists of the same length"),
        (profile(), lambda data: data["values"][0].pop("mse"), r"values\[0\] has \['setting', 'slice'\], not slice"),
        (
            profile(),
            lambda data: data["values"].append(data["values"][0]),
            "'early' has values at setting 0 twice",
        ),
        (profile(), lambda data: data["unrelated"].clear(), r"unrelated must have \['mse'\], not \[\]"),
        (profile(), lambda data: data["slices"][0].update(name="bit3"), "slices must have different names"),
        (profile(), lambda data: data["slices"][1].update(bits=[31]), r"bits must be some of 0..30, not \[31\]"),
        (profile(), lambda data: data["stopping"].update(batch=3), "images must be a multiple of batch"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(made, change, reason):
    with pytest.raises(FileRefusedError, match=reason):
        type(made).from_json(changed(made, change))


@pytest.mark.parametrize("kind", [FoundPolicy, ResilienceProfile, TablePolicy])
@pytest.mark.parametrize("text", ["[" * 100_000, "", "[]", "3", "null", '{"format": "brownout policy 1"}'])
def test_what_is_something_else_is_refused(kind, text, tmp_path):
    with pytest.raises(FileRefusedError):
        kind.from_json(text)
    if kind is not TablePolicy:
        (tmp_path / "file").write_text(text)
        with pytest.raises(FileRefusedError, match=f"^{tmp_path}/file "):
            kind.load(tmp_path / "file")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"slice": {}}', "its slice.name is refused: Field required"),
        (b'{"batch": 0, "clean": {"sha256": "x", "unrelated": {}}}', "its clean.sha256 is refused"),
        (b'{"slice": {"name": "a"}, "setting": {"voltage_v": -1}, "batch": 0, "values": {}}', "voltage_v must be"),
        (b'{"slice": {"name": "a"}, "setting": {}, "batch": 0, "values": {"mse": [null]}}', "its values.mse"),
        (b"[" * 1000, "nested more than 64 deep"),
        (b"\xff\xfe", "invalid start byte"),
        (b"", "Expecting value"),
    ],
)
def test_a_damaged_line_of_a_store_is_named(line, reason, tmp_path):
    path = tmp_path / "store"
    store = Store(path, {"seed": 1})
    store.add(Slice(name="a"), LOW, 0, {"mse": [0.5]})
    whole = path.read_bytes()
    assert Store(path, {"seed": 1}).values(Slice(name="a"), LOW, 0) == {"mse": [0.5]}
    path.write_bytes(whole + line + b"\n")
    with pytest.raises(FileRefusedError, match=rf"^{path} has a damaged line 3, which .*{reason}.*; take the line out"):
        Store(path, {"seed": 1})


def test_a_store_on_a_full_disk_goes_on_from_its_last_whole_line(tmp_path, monkeypatch):
    path = tmp_path / "store"
    store = Store(path, {})
    whole = path.read_bytes()
    write = os.write

    def half(descriptor, data):
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(descriptor, data[: len(data) // 2])

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", half)
        with pytest.raises(FileUnwrittenError, match=rf"^{path} cannot be written: No space left on device; free"):
            store.add(Slice(name="a"), NOMINAL, 0, {"mse": [0.5]})
    assert path.read_bytes() == whole
    store.add(Slice(name="a"), NOMINAL, 0, {"mse": [0.5]})
    assert Store(path, {}).values(Slice(name="a"), NOMINAL, 0) == {"mse": [0.5]}
