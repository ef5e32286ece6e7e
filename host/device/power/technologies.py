"""Named technologies: what a saving becomes if one thing is another."""

from __future__ import annotations

from dataclasses import replace

from .dram import dram
from .energy import EnergyModel
from .leakage import Leakage
from .regulators import IDEAL, INTEGRATED, LDO
from .sram import CELLS

REFERENCE = EnergyModel()
"""HBM2, SRAM of 1 pJ a byte, a switching converter: the technology that figures are stated in."""

TECHNOLOGIES = {
    "reference": REFERENCE,
    "ideal_regulator": replace(REFERENCE, regulator=IDEAL),
    "integrated_regulator": replace(REFERENCE, regulator=INTEGRATED),
    "ldo": replace(REFERENCE, regulator=LDO),
    "gated_clock": replace(REFERENCE, idle_share=0.0),
    "constant_leakage": replace(REFERENCE, leakage=Leakage(law="constant")),
    # CACTI's high-performance cells leak 0.31 W a MiB.
    "leaking_sram": replace(REFERENCE, sram_leakage_w=0.31),
    "sram_1.5pj": replace(REFERENCE, sram_byte_j=1.5e-12),
    # DRIFT's 31 pJ a byte with row activations on top: twice the same, as figures were before.
    "dram_31pj": replace(REFERENCE, dram_byte_j=31e-12),
    **{name: REFERENCE.with_dram(dram(name)) for name in ("hbm2", "hbm3", "lpddr4x", "lpddr5")},
    **{f"cacti_{cells}": replace(REFERENCE, sram_cells=cells) for cells in CELLS},
}
"""Each differs from the reference in one thing; what the host moves is in all of them. ``hbm2`` is the reference with
standby power; ``cacti_*`` are memories on the chip by size and width, of transistors for speed, for low power, and for
little leakage."""
