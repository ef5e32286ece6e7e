"""The strict decoder: what is read, and how everything else is refused."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any, Literal

import pytest
import torch

from brownout.host import FileRefusedError
from brownout.host.storage.decoding import (
    DEPTH,
    LIMIT_BYTES,
    Count,
    Digest,
    Form,
    Fraction,
    check,
    check_tensors,
    decode,
    parse,
    read_text,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    volts: float = 0.9
    pair: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        if self.volts > 2:
            raise ValueError(f"volts must be at most 2, not {self.volts!r}")


@dataclass(frozen=True)
class Outer:
    kind: Literal["a", "b"]
    number: Count
    share: Fraction
    inner: list[Inner]
    about: dict[str, Any]


GOOD = '{"kind": "a", "number": 3, "share": 1, "inner": [{"volts": 1e-3, "pair": [1, 2]}, {}], "about": {"x": [null]}}'


def test_what_a_schema_allows_is_read():
    assert decode(GOOD, Outer, "it") == Outer("a", 3, 1.0, [Inner(volts=1e-3, pair=(1, 2)), Inner()], {"x": [None]})


@pytest.mark.parametrize(
    ("good", "bad", "reason"),
    [
        ('"a"', '"c"', "its kind is refused: Input should be 'a' or 'b', not 'c'"),
        ("3", "-1", "its number is refused: Input should be greater than or equal to 0, not -1"),
        ("3", "true", "its number is refused: Input should be a valid integer, not True"),
        ("3", "3.0", "its number is refused: Input should be a valid integer, not 3.0"),
        ("3", '"3"', "its number is refused: Input should be a valid integer, not '3'"),
        ('"share": 1', '"share": 1.01', "its share is refused: Input should be less than or equal to 1, not 1.01"),
        ("1e-3", '"0.7"', r"its inner\[0\].volts is refused: Input should be a valid number, not '0.7'"),
        ("1e-3", "2.5", r"its inner\[0\] is refused: volts must be at most 2, not 2.5"),
        ("[1, 2]", "[1, 2, 3]", r"its inner\[0\].pair is refused: Tuple should have at most 2 items"),
        ('"volts"', '"watts"', r"its inner\[0\].watts is refused: Unexpected keyword argument"),
        (', "about": {"x": [null]}', "", "its about is refused: Field required$"),
        ('{"x": [null]}', "[]", r"its about is refused: Input should be an object, not \[\]"),
    ],
)
def test_anything_else_is_refused_with_the_field_and_the_value(good, bad, reason):
    assert good in GOOD
    with pytest.raises(FileRefusedError, match=rf"^the thing has a wrong form: {reason}"):
        decode(GOOD.replace(good, bad, 1), Outer, "the thing")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * (DEPTH + 1) + "]" * (DEPTH + 1), f"arrays and objects are nested more than {DEPTH} deep"),
        ("[" * 1_000_000, f"nested more than {DEPTH} deep"),
        ('{"a":' * 1_000_000, f"nested more than {DEPTH} deep"),
        ("NaN", "NaN is no JSON"),
        ("[1, -Infinity]", "-Infinity is no JSON"),
        ("1e999", "the number 1e999 is too large"),
        ("1" * 100_000, "the integer 1{24} has more than 64 bits"),
        (str(1 << 64), "the integer 18446744073709551616 has more than 64 bits"),
        ('{"a": 1, "b": 2, "a": 3}', "'a' is there twice in one object"),
        (r'"\ud800"', "surrogates not allowed"),
        ("{'a': 1}", "Expecting property name"),
        ("", "Expecting value"),
        ("1 2", "Extra data"),
        (b"\xff", "invalid start byte"),
    ],
)
def test_what_is_no_bounded_json_is_refused(text, reason):
    with pytest.raises(FileRefusedError, match=rf"^x is no JSON that this program reads: .*{reason}"):
        parse(text, "x")


def test_bounds_themselves_are_read():
    deepest = "[" * DEPTH + "]" * DEPTH
    assert str(parse(deepest, "x")) == deepest
    # Brackets in strings, closed or escaped, open nothing.
    assert parse('["' + "[" * 1000 + r"\"{" * 1000 + '"]', "x") == ["[" * 1000 + '"{' * 1000]
    assert parse(f"[{(1 << 64) - 1}, {1 - (1 << 64)}]", "x") == [(1 << 64) - 1, 1 - (1 << 64)]
    assert parse(r'"\ud83d\ude00"', "x") == "\U0001f600"


def test_numbers_keep_their_bits():
    seed = 11
    print(f"seed {seed}")
    rng = random.Random(seed)
    values = [rng.uniform(-1, 1) * 10.0 ** rng.randrange(-300, 300) for _ in range(2000)]
    assert check(values, list[float], "x") == values


def test_time_is_linear_in_what_comes():
    began = time.monotonic()
    for text in ('"' + r"\"" * 500_000 + "[" * 100, '["' * 300_000, "[[]," * 300_000):
        with pytest.raises(FileRefusedError):
            parse(text, "x")
    assert time.monotonic() - began < 60


def test_files_are_bounded_before_they_are_read(tmp_path):
    path = tmp_path / "long"
    with path.open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)
    with pytest.raises(FileRefusedError, match=rf"^{path} has more than {LIMIT_BYTES} bytes, the most that is read$"):
        read_text(path)
    path.write_bytes(b"\xc3(")
    with pytest.raises(FileRefusedError, match=rf"^{path} is no text in UTF-8: "):
        read_text(path)
    for missing in (tmp_path, tmp_path / "absent"):
        with pytest.raises(FileNotFoundError, match=f"^there is no file {missing}$"):
            read_text(missing)


def test_digests_are_64_hexadecimal_digits():
    assert check("0f" * 32, Digest, "x") == "0f" * 32
    for text in ("0f" * 31, "0F" * 32, "0g" * 32, "²" * 64):
        with pytest.raises(FileRefusedError):
            check(text, Digest, "x")


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "lacks a tensor 'a'"),
        ({"a": torch.ones(2), "b": torch.ones(2)}, "has a tensor 'b'"),
        ({"a": torch.ones(2).half()}, "has a tensor 'a' of float16, not float32 or float64"),
        ({"a": torch.ones(3)}, r"has a tensor 'a' of shape \(3,\), not \(2\)"),
        ({"a": torch.ones(2, 1)}, r"has a tensor 'a' of shape \(2, 1\), not \(2\)"),
        ({"a": torch.tensor([1.0, float("nan")])}, "has a tensor 'a' with 1 elements that are not finite"),
        ({"a": torch.tensor([1.0, float("inf")])}, "has a tensor 'a' with 1 elements that are not finite"),
        ({"a": torch.tensor([1.0, 0.0])}, "has a tensor 'a' with the element 0; all must be positive"),
        ({"a": torch.tensor([1.0, -2.0])}, "has a tensor 'a' with the element -2; all must be positive"),
    ],
)
def test_tensors_have_their_forms(tensors, reason):
    forms = {"a": Form((torch.float32, torch.float64), (2,), positive=True)}
    check_tensors({"a": torch.full((2,), 1e-40, dtype=torch.float64)}, forms, "x")
    with pytest.raises(FileRefusedError, match=f"^x {reason}$"):
        check_tensors(tensors, forms, "x")


def test_who_reads_nothing_does_not_wait_for_the_library():
    code = "import sys, brownout.host.storage.decoding; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout == "False\n"
