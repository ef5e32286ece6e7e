"""The layout of matrices changes what the DRAM does, and nothing else."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch

from brownout.cosim.cycle_model import CycleModel
from brownout.host import Accelerator, Requantisation
from brownout.host.device.backends import layout as layout_module
from brownout.host.device.backends.banks import CANDIDATES
from brownout.host.device.backends.layout import LAYOUTS, Layout
from brownout.host.device.backends.twin import TwinBackend
from brownout.host.device.product.operands import make_product
from brownout.hw.commands import GemmFlag
from brownout.hw.config import AcceleratorConfig, MemoryConfig
from brownout.hw.errors.state import CommandOptions

from ...configurations import RESIDUE_FLIP

CONFIG = AcceleratorConfig(memory=MemoryConfig(size_bytes=1 << 24))
TURN = CONFIG.memory.banks * CONFIG.memory.row_bytes
TILED = GemmFlag.A_TILED | GemmFlag.W_TILED | GemmFlag.Y_TILED


def random_int8(seed: int, *shape: int) -> torch.Tensor:
    return torch.randint(-128, 128, shape, dtype=torch.int8, generator=torch.Generator().manual_seed(seed))


def layers(accelerator: Accelerator) -> list[torch.Tensor]:
    """A layer, one with int32 results, and a batch."""
    requant = Requantisation(torch.full((384,), 100), torch.full((384,), 16))
    w = accelerator.upload(random_int8(1, 512, 384))
    return [
        accelerator.gemm(random_int8(0, 200, 512), w, requant=requant),
        accelerator.gemm(random_int8(2, 200, 512), w),
        accelerator.gemm(random_int8(3, 3, 64, 72), random_int8(4, 3, 72, 64)),
    ]


def test_tiles_open_fewer_rows_for_the_same_bytes_cycles_and_results() -> None:
    seen = {}
    for layout in ("row-major", "tiled"):
        with Accelerator(CONFIG, backend="twin", layout=layout) as accelerator:
            seen[layout] = layers(accelerator), dict(accelerator.stats)
    (by_rows, rows), (by_tiles, tiles) = seen.values()
    assert all(map(torch.equal, by_rows, by_tiles))
    counts = {"dram_row_activations", "energy_activation_j", "energy_j"}
    assert {k: v for k, v in rows.items() if k not in counts} == {k: v for k, v in tiles.items() if k not in counts}
    assert 4 * tiles["dram_row_activations"] < rows["dram_row_activations"]
    assert tiles["dram_row_activations"] >= tiles["dram_bytes"] / CONFIG.memory.row_bytes


@pytest.mark.parametrize("resident", [False, True])
def test_outputs_begin_where_the_cycle_model_opens_fewest_rows(resident: bool) -> None:
    """Of the places tried, told apart by running the placed command with Y moved from bank to bank."""
    layout = Layout(CONFIG, 1 << 23, "tiled")
    gains = []
    for m, k, n in [(256, 72, 128), (256, 320, 256), (64, 512, 320), (300, 192, 96)]:
        a, w = torch.zeros(1, m, k, dtype=torch.int8), torch.zeros(1, k, n, dtype=torch.int8)
        weights = TwinBackend(CONFIG).upload(w) if resident else w
        if resident:
            layout.arena.allocate(3 * 4096)  # wherever the weights are
            layout.place_weights(weights)
        product, _ = make_product(a, weights, None, None, None, CommandOptions(), None)
        with layout.place_product(product) as command:
            assert command.flags & TILED == TILED
            assert (command.w_addr - command.a_addr) % TURN == TURN // 2
            assert (command.y_addr - command.a_addr) % (TURN // CANDIDATES) == 0
            assert command.write_limit <= 1 << 23
            counts = []
            for index in range(CANDIDATES):
                moved = command.__class__(**{**vars(command), "y_addr": command.y_addr + index * TURN // CANDIDATES})
                counts.append(CycleModel(CONFIG).run([moved])["dram_row_activations"])
        # The command ring, read before, and the rows that are shared at the edges make a few of a difference.
        assert counts[0] <= min(counts) + 8
        gains.append(max(counts) / counts[0])
    assert max(gains) > 2


def test_a_layout_that_is_not_known_is_refused() -> None:
    message = r"^layout must be one of 'row-major', 'tiled', not 'columns'$"
    with pytest.raises(ValueError, match=message):
        Accelerator(CONFIG, backend="twin", layout="columns")


def test_a_backend_that_is_given_has_its_own_layout() -> None:
    backend = TwinBackend(CONFIG, layout="tiled")
    with pytest.raises(
        ValueError, match=r"^layout='tiled' needs a backend by name; give the backend's own constructor"
    ):
        Accelerator(CONFIG, backend=backend, layout="tiled")


@pytest.mark.parametrize("kind", LAYOUTS)
def test_what_is_remembered_of_shapes_changes_no_command(kind: str) -> None:
    """Regions move and weights come and go; a layout that forgets all shapes each time says the same."""
    config = replace(RESIDUE_FLIP, memory=MemoryConfig(size_bytes=1 << 20))
    one, other = Layout(config, 1 << 19, kind), Layout(config, 1 << 19, kind)
    rng, backend, taken = random.Random(0), TwinBackend(config), []
    shapes = [(rng.choice([1, 3]), *(rng.randint(1, 40) for _ in range(3))) for _ in range(4)]
    weights = []
    for number in range(200):
        batch, m, k, n = rng.choice(shapes)
        if rng.random() < 0.3:
            weights = []
        a, w = torch.zeros(batch, m, k, dtype=torch.int8), torch.zeros(batch, k, n, dtype=torch.int8)
        if rng.random() < 0.5:
            weights.append(backend.upload(w))
            w = weights[-1]
            for layout in (one, other):
                layout.place_weights(w)
        if rng.random() < 0.3:
            size = rng.randint(1, 9000)
            taken.append([(each.arena, each.arena.allocate(size, from_top=True)) for each in (one, other)])
        elif taken and rng.random() < 0.5:
            for arena, region in taken.pop(rng.randrange(len(taken))):
                arena.free(region)
        checked = rng.random() < 0.5
        options = CommandOptions(
            flags=GemmFlag.CHECK | GemmFlag.CORRECT if checked else GemmFlag(0),
            error_key=number,
            first_row=rng.randrange(99),
            first_col=rng.randrange(99),
            theta=rng.randrange(9),
            log_bytes=rng.choice([0, 160, 16000]) if checked else 0,
        )
        bias = torch.zeros(n, dtype=torch.int32) if rng.random() < 0.5 else None
        channels = torch.ones(n, dtype=torch.int64)
        requant = Requantisation(channels, channels, rng.choice([8, 16])) if rng.random() < 0.5 else None
        product, _ = make_product(a, w, bias, requant, None, options, None)
        other._plans.clear()
        found = one.command(product)
        assert one.arena.free_bytes == other.arena.free_bytes
        with one.place_product(product) as placed, other.place_product(product) as expected:
            assert found == placed == expected
    assert 4 < len(one._plans) <= 4 * 2 * 2 * 2 * 4


def test_shapes_are_forgotten_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout_module, "MOST_PLANS", 2)
    layout = Layout(CONFIG, 1 << 20)
    for columns in range(1, 6):
        a, w = torch.zeros(1, 2, 3, dtype=torch.int8), torch.zeros(1, 3, columns, dtype=torch.int8)
        product, _ = make_product(a, w, None, None, None, CommandOptions(), None)
        assert layout.command(product).n == columns
        assert len(layout._plans) <= 2
