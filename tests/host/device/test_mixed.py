"""Replays of passes on a stand-in for the RTL that follows the slow reference: what is chosen, compared, counted."""

from __future__ import annotations

import dataclasses
import os
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from brownout.host import Accelerator, MismatchError, MixedOptions, Protection, Requantisation
from brownout.host.device.backends.rtl import RtlBackend
from brownout.host.device.mixed.backend import MixedBackend
from brownout.host.device.mixed.case import load_case
from brownout.host.device.mixed.checker import COUNTED_TOGETHER, Checker, ObservedTwin
from brownout.host.device.twin.findings import Deltas
from brownout.host.errors import FileRefusedError
from brownout.host.storage.files import write_tensors
from brownout.hw.config import AcceleratorConfig, ChecksumConfig, MemoryConfig

from .fake_simulator import CHECK_COUNTERS, FakeSimulator


def configuration(model, scheme=None, *, group=0, **fields):
    checksum = None
    if scheme is not None:
        checksum = ChecksumConfig(scheme=scheme, segment_cols=3, column_checks=group > 0, group_rows=group or 32)
    memory = MemoryConfig(size_bytes=1 << 20)
    settings = {"rows": 3, "cols": 5, "block_rows": 8, "drain_lanes": 2, "memory": memory, **fields}
    return AcceleratorConfig(timing_model=model, checksum=checksum, **settings)


CONFIGS = {
    "none": configuration("none"),
    "none-checked": configuration("none", "residue", group=4),
    "flip": configuration("flip"),
    "flip-rows": configuration("flip", "weighted"),
    "flip-columns": configuration("flip", "matched", group=4, voltage_domains=2),
    "carry": configuration("carry"),
    "carry-rows": configuration("carry", "residue"),
    "carry-columns": configuration("carry", "residue", group=4, voltage_domains=2),
    "flip-razor": configuration("flip", "residue", group=4, razor=True),
    "carry-razor": configuration("carry", razor=True),
}


class BrokenSimulator(FakeSimulator):
    """Inverts a bit of the first output of every product while told to."""

    broken = False
    miscounts = ()

    def _gemm(self, f):
        super()._gemm(f)
        if self.broken:
            self.memory[f["y_addr"]] ^= 4
        self._counts["macs"] += len(self.commands) in self.miscounts or f["k"] in self.miscounts


class Setup:
    """A mixed accelerator on the stand-in, and a twin that gets the same calls."""

    def __init__(self, config, tmp_path, protection=None, **options):
        self.config, self.simulators, self.cases = config, [], []
        mixed = MixedOptions(**{"folder": tmp_path, **options})
        self.backend = MixedBackend(config, mixed, self.start)
        check = self.backend._checker.check

        def record(case):
            verdict = check(case)
            self.cases.append((case, verdict))
            return verdict

        self.backend._checker.check = record
        protection = protection if config.checksum is not None else None
        self.mixed = Accelerator(config, backend=self.backend, protection=protection)
        self.twin = Accelerator(config, backend="twin", protection=protection)
        self.calls = 0

    def start(self):
        self.simulators.append(BrokenSimulator(self.config))
        return RtlBackend(self.config, lambda: self.simulators[-1], deadline_s=1)

    def both(self, change):
        for accelerator in (self.mixed, self.twin):
            change(accelerator)

    def err(self, share=0.02):
        if self.config.timing_model == "flip":
            check_rate = share if self.config.checksum is not None else 0.0
            self.both(lambda accelerator: accelerator.set_error_rate(share, seed=3, check_rate=check_rate))
        elif self.config.timing_model == "carry":
            self.both(lambda accelerator: accelerator.set_operating_point(voltage_v=0.76))
            if self.config.checksum is not None:
                self.both(lambda accelerator: accelerator.set_operating_point(voltage_v=0.76, domain="check"))

    def gemm(self, generator, batch=2, m=19, k=11, n=12, *, compare=True, **settings):
        a, w = (
            torch.randint(-128, 128, s, dtype=torch.int8, generator=generator) for s in ((batch, m, k), (batch, k, n))
        )
        dtype = torch.int8 if "requant" in settings else torch.int32
        results = []
        self.calls += 1
        for accelerator in (self.mixed, self.twin):
            slot = torch.full((batch, m, n), 7, dtype=dtype)
            accelerator.gemm(a, w, out=slot, error_key=self.calls, first_row=2**32 - 7, first_col=5, **settings)
            results.append((slot, accelerator.last_log))
        if compare:
            assert torch.equal(results[0][0], results[1][0])
            assert results[0][1] == results[1][1]


@pytest.fixture(autouse=True)
def counters_of_the_stand_in(monkeypatch):
    """It knows no times: what it does not count is not compared."""
    counted = {*CHECK_COUNTERS, "dropped", "macs"}
    counters = Checker._counters

    def known(checker):
        return tuple({name: value for name, value in counts.items() if name in counted} for counts in counters(checker))

    monkeypatch.setattr(Checker, "_counters", known)


@pytest.fixture
def make(tmp_path):
    made = []

    def start(config, protection=None, **options):
        made.append(Setup(config, tmp_path, protection, **options))
        return made[-1]

    yield start
    for setup in made:
        setup.mixed.close()
        assert all(simulator.closed for simulator in setup.simulators)


@pytest.mark.parametrize("name", CONFIGS)
def test_pieces_of_every_model_are_exact_and_parts_of_their_product(make, generator, name):
    setup = make(CONFIGS[name], Protection(on_uncorrectable="suppress"), passes_per_product=6)
    setup.gemm(generator)
    setup.err()
    setup.gemm(generator)
    scales = Requantisation(torch.full((12,), 1 << 20), torch.full((12,), 29))
    setup.gemm(generator, requant=scales, bias=torch.arange(12, dtype=torch.int32))
    if CONFIGS[name].timing_model != "none" and CONFIGS[name].voltage_domains > 1:
        setup.both(lambda accelerator: accelerator.set_operating_point(voltage_v=0.66, domain=1))
    setup.gemm(
        generator, protection=Protection(correct=False, on_uncorrectable="zero") if CONFIGS[name].checksum else None
    )
    setup.gemm(generator, protection=Protection(check=False) if CONFIGS[name].checksum else None)
    coverage = setup.mixed.coverage
    assert (coverage.products, coverage.replayed, coverage.mismatches) == (5, 30, 0)
    assert (coverage.faulty_replayed > 10) == (CONFIGS[name].timing_model != "none")
    assert setup.mixed.stats == setup.twin.stats


@pytest.mark.parametrize("name", ["flip-columns", "carry-columns"])
def test_faulty_passes_are_the_ones_that_are_replayed(make, generator, name):
    setup = make(CONFIGS[name], Protection(), selection="faulty", passes_per_product=3)
    setup.gemm(generator)
    assert setup.mixed.coverage.replayed == 0
    setup.err(0.002)
    for _ in range(4):
        setup.gemm(generator)
    coverage = setup.mixed.coverage
    assert coverage.replayed == coverage.faulty_replayed == len(setup.cases) > 4
    assert coverage.faulty_seen >= coverage.replayed
    for case, verdict in setup.cases:
        assert verdict.faulty
        assert case.errors


def test_coverage_counts_pieces_and_faulty_tiles(make, generator):
    setup = make(CONFIGS["flip-columns"], Protection(), selection="random", passes_per_product=2)
    setup.err(1.0)
    setup.gemm(generator, batch=2, m=19, k=11, n=12)
    # Blocks of 7, 6 and 6 rows in groups of 4: 6 pieces; 4 k-tiles; 3 column tiles.
    expected = {"products": 1, "passes": 2 * 6 * 4 * 3, "faulty_seen": 2 * 6 * 3, "replayed": 2, "faulty_replayed": 2}
    coverage = setup.mixed.coverage
    assert {name: getattr(coverage, name) for name in expected} == expected
    text = str(dataclasses.replace(coverage, rtl_cycles=1234, rtl_wall_s=0.5))
    assert text == (
        "1 products, 144 passes; 2 (0.014) replayed on RTL, 2 of them faulty (36 faulty tiles seen); 0 mismatches; "
        "1,234 RTL cycles in 0.50 s"
    )


def test_a_late_carry_is_replayed_with_all_rows_before_it(make, generator):
    setup = make(CONFIGS["carry-columns"], Protection(), selection="faulty", passes_per_product=4)
    setup.err()
    setup.gemm(generator)
    assert setup.mixed.coverage.replayed == 4
    assert {(case.tile.first_row, case.tile.rows) for case, _ in setup.cases} <= {(0, 7), (7, 6), (13, 6)}


def test_the_choice_depends_on_the_seed_alone(make, generator):
    places = []
    for seed in (1, 1, 2):
        setup = make(CONFIGS["flip-rows"], Protection(), passes_per_product=2, seed=seed)
        setup.err()
        generator.manual_seed(5)
        for _ in range(5):
            setup.gemm(generator)
        assert setup.mixed.coverage.replayed == 10
        places.append([(case.tile, case.k_tile) for case, _ in setup.cases])
    assert places[0] == places[1] != places[2]


def test_replays_end_at_their_cap(make, generator):
    setup = make(CONFIGS["none"], passes_per_product=2, max_passes=5)
    for _ in range(4):
        setup.gemm(generator)
    assert (setup.mixed.coverage.products, setup.mixed.coverage.replayed) == (4, 5)


def test_more_passes_than_there_are_are_not_waited_for(make, generator):
    setup = make(CONFIGS["none"], passes_per_product=9)
    setup.gemm(generator, batch=1, m=2, k=4, n=6)
    assert setup.mixed.coverage.replayed == 4


def test_resident_weights_belong_to_the_backend(make, generator):
    setup = make(CONFIGS["none"])
    w = torch.randint(-128, 128, (7, 6), dtype=torch.int8, generator=generator)
    a = torch.randint(-128, 128, (9, 7), dtype=torch.int8, generator=generator)
    assert torch.equal(setup.mixed.gemm(a, setup.mixed.upload(w)), setup.twin.gemm(a, w))
    assert setup.mixed.coverage.replayed == 1


def test_a_wrong_device_stops_the_run_and_leaves_a_reproducer(make, generator, tmp_path):
    setup = make(CONFIGS["flip-columns"], Protection(on_uncorrectable="suppress"))
    setup.err()
    setup.gemm(generator)
    setup.mixed.coverage  # noqa: B018 (waits)
    setup.simulators[0].broken = True
    setup.gemm(generator)
    with pytest.raises(
        MismatchError, match=r"^product 1, batch \d, rows .*: output, twin \(expected\) and RTL: .*differ"
    ) as caught:
        setup.mixed.coverage  # noqa: B018
    error = caught.value
    assert error.reproducer.parent == tmp_path
    assert str(error).endswith(f"; replay it with: python -m brownout.host.replay {error.reproducer}")
    # It is not forgotten, and closing, in the fixture, does not raise it again.
    with pytest.raises(MismatchError):
        setup.gemm(generator)
    assert setup.mixed.coverage.mismatches == 1
    saved, (case, verdict) = load_case(error.reproducer), setup.cases[-1]
    assert saved.difference == error.difference
    assert str(saved.case) == str(case) == error.place
    assert saved.case.options == case.options
    assert torch.equal(saved.case.a, case.a)
    assert torch.equal(saved.expected.output, verdict.expected.output)
    assert saved.expected.log == verdict.expected.log
    assert saved.same_rtl
    setup.simulators[0].broken = False
    checker = Checker(setup.config, setup.start)
    assert checker.check(saved.case).difference is None
    setup.simulators[-1].broken = True
    assert checker.check(saved.case).difference == error.difference
    checker.close()


def test_a_reproducer_is_a_temporary_file_where_the_build_folder_is_none(make, generator, tmp_path, monkeypatch):
    setup = make(CONFIGS["none"], folder=None)
    setup.simulators[0].broken = True
    setup.gemm(generator)
    (tmp_path / "file").touch()
    monkeypatch.setenv("BROWNOUT_BUILD", str(tmp_path / "file"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(MismatchError) as caught:
        setup.mixed.coverage  # noqa: B018
    assert caught.value.reproducer.parent == tmp_path / f"brownout-{os.getuid()}"
    assert load_case(caught.value.reproducer).difference == caught.value.difference


def test_a_wrong_counter_is_traced_to_its_pass(make, generator):
    setup = make(CONFIGS["none"], passes_per_product=6)
    setup.simulators[0].miscounts = [2]  # the last k-tile's k
    setup.gemm(generator, k=11)
    setup.gemm(generator, k=9)
    with pytest.raises(MismatchError, match=r"product 0, .*: counter 'macs': \d+ \(twin\), \d+ \(RTL\)") as caught:
        setup.mixed.coverage  # noqa: B018
    assert load_case(caught.value.reproducer).case.k_tile == 3


def test_a_counter_that_was_wrong_once_is_told_with_its_passes(make, generator):
    setup = make(CONFIGS["none"], passes_per_product=COUNTED_TOGETHER)
    setup.simulators[0].miscounts = [12]
    setup.gemm(generator, k=9)
    wanted = "counter 'macs': .*, of the last 16 passes, but of none alone; "
    with pytest.raises(MismatchError, match=wanted):
        setup.mixed.coverage  # noqa: B018


def test_a_mismatch_in_the_last_product_is_raised_by_close(make, generator):
    setup = make(CONFIGS["none"])
    setup.simulators[0].broken = True
    setup.gemm(generator)
    with pytest.raises(MismatchError, match=r"^product 0, "):
        setup.mixed.close()
    assert setup.simulators[0].closed
    setup.mixed.close()


def test_restart_after_a_mismatch_goes_on(make, generator):
    setup = make(CONFIGS["flip-columns"], Protection())
    setup.err()
    setup.simulators[0].broken = True
    setup.gemm(generator)
    with pytest.raises(MismatchError):
        setup.mixed.restart()
    setup.both(Accelerator.restart)
    setup.gemm(generator)
    assert (setup.mixed.coverage.replayed, setup.mixed.coverage.mismatches) == (2, 1)
    assert setup.mixed.stats == setup.twin.stats
    assert len(setup.simulators) == 2


def test_what_cannot_be_written_is_raised_all_the_same(make, generator, tmp_path):
    (tmp_path / "file").touch()
    setup = make(CONFIGS["none"])
    setup.backend.options = dataclasses.replace(setup.backend.options, folder=tmp_path / "file")
    setup.simulators[0].broken = True
    setup.gemm(generator)
    with pytest.raises(MismatchError, match="no reproducer could be written: ") as caught:
        setup.mixed.coverage  # noqa: B018
    assert caught.value.reproducer is None


def break_large_products(monkeypatch, change):
    """Let the twin err in products of more rows than any piece has."""
    erring = ObservedTwin._erring

    def broken(twin, product, a, w, out, call, cut):
        findings = erring(twin, product, a, w, out, call, cut)
        if product.shape.m > twin.config.block_rows:
            change(out, findings)
        return findings

    monkeypatch.setattr(ObservedTwin, "_erring", broken)


@pytest.mark.parametrize("name", ["flip-columns", "carry-columns"])
def test_a_wrong_output_of_the_whole_product_is_found(make, generator, monkeypatch, name):
    break_large_products(monkeypatch, lambda out, findings: out.bitwise_xor_(1))
    setup = make(CONFIGS[name], Protection())
    setup.err()
    setup.gemm(generator, compare=False)
    with pytest.raises(MismatchError, match=r"output of the product \(expected\) and of this tile alone: "):
        setup.mixed.coverage  # noqa: B018


@pytest.mark.parametrize("kind", ["outputs", "checks", "digits"])
@pytest.mark.parametrize("name", ["flip-columns", "carry-columns"])
def test_other_errors_of_the_whole_product_are_found(make, generator, monkeypatch, name, kind):
    def change(out, findings):
        rows, cols, deltas = getattr(findings.errors, kind).arrays()
        doubled = Deltas.of(rows.astype(np.int32), cols.astype(np.int32), 2 * deltas)
        findings.errors = dataclasses.replace(findings.errors, **{kind: doubled})

    break_large_products(monkeypatch, change)
    setup = make(CONFIGS[name], Protection(), selection="faulty", passes_per_product=36)
    setup.err(0.2)
    setup.gemm(generator, compare=False)
    with pytest.raises(MismatchError, match=f"errors of the product and of this tile alone: {kind}: "):
        setup.mixed.coverage  # noqa: B018


@pytest.mark.parametrize("name", ["flip-columns", "carry-columns", "flip-razor", "carry-razor"])
def test_a_pass_that_is_no_part_of_its_product_is_found(make, generator, monkeypatch, name):
    # Both devices get other weights for the pass alone.
    monkeypatch.setattr("brownout.host.device.mixed.case.Case.product", other_pass())
    setup = make(CONFIGS[name], Protection(), selection="faulty", passes_per_product=36)
    setup.err(0.2)
    setup.gemm(generator)
    with pytest.raises(MismatchError, match=r"errors of the product in this tile,? and of the pass"):
        setup.mixed.coverage  # noqa: B018


def other_pass():
    from brownout.host.device.mixed.case import Case

    product = Case.product

    def moved(case, first_k_tile=0, k_tiles=None):
        if k_tiles != 1:
            return product(case, first_k_tile, k_tiles)
        options = dataclasses.replace(case.options, first_row=case.options.first_row ^ 64)
        if case.config.timing_model == "carry":
            case = dataclasses.replace(case, a=case.a.flip(0))
        return product(dataclasses.replace(case, options=options), first_k_tile, 1)

    return moved


def test_a_dead_simulator_is_named_by_the_next_call(make, generator):
    setup = make(CONFIGS["none"])
    setup.simulators[0].dead = True
    setup.gemm(generator)
    with pytest.raises(Exception, match=r"^killed$"):
        setup.mixed.coverage  # noqa: B018
    with pytest.raises(Exception, match=r"^killed$"):
        setup.gemm(generator)
    setup.mixed.restart()
    setup.gemm(generator)
    assert setup.mixed.coverage.replayed == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"selection": "all"},
            "MixedOptions.selection must be one of 'faulty', 'random', 'faulty-first', not 'all'",
        ),
        ({"passes_per_product": 0}, "MixedOptions.passes_per_product must be an integer in 1..1024, not 0"),
        ({"seed": -1}, "MixedOptions.seed must be an integer in 0..4294967295, not -1"),
        ({"max_passes": 1.0}, f"MixedOptions.max_passes must be an integer in 0..{2**63 - 1}, not 1.0"),
        ({"folder": "here"}, "MixedOptions.folder must be a Path or None, not 'here'"),
    ],
)
def test_wrong_options_are_refused(fields, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        MixedOptions(**fields)


def test_options_without_a_use_are_refused(config):
    with pytest.raises(ValueError, match=r"^mixed= needs backend='mixed', not 'twin'$"):
        Accelerator(config, backend="twin", mixed=MixedOptions())
    wanted = r"^MixedOptions\.selection='faulty' needs an AcceleratorConfig with a timing_model, .*selection='random'$"
    with pytest.raises(ValueError, match=wanted):
        Accelerator(config, backend="mixed", mixed=MixedOptions(selection="faulty"))
    with Accelerator(config, backend="twin") as twin:
        with pytest.raises(ValueError, match=r"^coverage is what backend='mixed' replays, but the backend is 'twin'$"):
            twin.coverage  # noqa: B018


def test_a_state_is_the_twins_and_the_rtl_starts_anew(make, generator):
    setup = make(CONFIGS["flip-rows"], Protection(on_uncorrectable="suppress"), passes_per_product=2)
    setup.err()
    setup.gemm(generator)
    assert setup.mixed.settings == setup.twin.settings
    state = setup.twin.state()
    setup.twin.restart()
    setup.err(0.3)
    setup.both(lambda accelerator: accelerator.load_state(state))
    assert len(setup.simulators) == 2
    setup.gemm(generator)
    assert setup.mixed.stats == setup.twin.stats
    assert setup.mixed.stats["macs"] == 2 * 2 * 19 * 11 * 12
    coverage = setup.mixed.coverage
    assert (coverage.products, coverage.replayed, coverage.mismatches) == (2, 4, 0)


def test_other_files_are_no_reproducers(tmp_path):
    (tmp_path / "text").write_text("nothing")
    write_tensors(tmp_path / "other", "calibration", {}, {})
    for name, reason in (("text", "is damaged, or no safetensors file"), ("other", "holds 'calibration', not 'reprod")):
        with pytest.raises(FileRefusedError, match=reason):
            load_case(tmp_path / name)


def test_products_of_several_threads_are_counted_once(make, generator):
    setup = make(CONFIGS["flip-rows"], Protection(), passes_per_product=2)
    setup.err()
    a = torch.randint(-128, 128, (19, 11), dtype=torch.int8, generator=generator)
    w = setup.mixed.upload(torch.randint(-128, 128, (11, 12), dtype=torch.int8, generator=generator))
    expected = setup.mixed.gemm(a, w)
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: setup.mixed.gemm(a, w), range(12)))
    assert all(torch.equal(result, expected) for result in results)
    coverage = setup.mixed.coverage
    assert (coverage.products, coverage.replayed, len(setup.cases)) == (13, 26, 26)


def test_products_may_be_made_in_inference_mode_and_outside_of_it(make, generator):
    setup = make(CONFIGS["flip-columns"], Protection(on_uncorrectable="suppress"))
    setup.err()
    with torch.inference_mode():
        setup.gemm(generator)
        assert setup.mixed.coverage.replayed > 0
    setup.gemm(generator)
    assert setup.mixed.coverage.mismatches == 0
