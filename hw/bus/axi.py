"""AXI4 and AXI4-Lite as signatures, seen from the master."""

from __future__ import annotations

from amaranth.hdl import unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

RESP_OKAY = 0
RESP_SLVERR = 2
RESP_DECERR = 3
BURST_INCR = 1

ID_BITS = 1
TRANSACTION_ID = 0
"""Of every transaction: all are in order. Responses with another ID are errors."""

ADDRESS_ATTRIBUTES = {"lock": (1, 0), "cache": (4, 0b0011), "prot": (3, 0b000), "qos": (4, 0)}
"""Width and constant value of what AWx and ARx say beside the burst: normal access, normal memory without caches
(modifiable, bufferable), unprivileged secure data access, no quality of service."""


class Axi4Signature(wiring.Signature):
    """AXI4 master with a single transaction ID.

    Parameters
    ----------
    address_bits : int
        Width of addresses in bits.
    data_bytes : int
        Width of the data bus in bytes.
    """

    def __init__(self, *, address_bits: int, data_bytes: int) -> None:
        address_members = {
            "id": Out(ID_BITS),
            "addr": Out(address_bits),
            "len": Out(8),
            "size": Out(3),
            "burst": Out(2),
            **{name: Out(bits) for name, (bits, _) in ADDRESS_ATTRIBUTES.items()},
            "valid": Out(1),
            "ready": In(1),
        }
        members = {f"{channel}{name}": member for channel in ("aw", "ar") for name, member in address_members.items()}
        members |= {
            "wdata": Out(8 * data_bytes),
            "wstrb": Out(data_bytes),
            "wlast": Out(1),
            "wvalid": Out(1),
            "wready": In(1),
            "bid": In(ID_BITS),
            "bresp": In(unsigned(2)),
            "bvalid": In(1),
            "bready": Out(1),
            "rid": In(ID_BITS),
            "rdata": In(8 * data_bytes),
            "rresp": In(unsigned(2)),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
        }
        super().__init__(members)


def constant_outputs(axi: wiring.PureInterface, channel: str, data_bytes: int) -> list[object]:
    """Statements that drive what is the same in every burst on ``"aw"`` or ``"ar"``."""
    values = {"id": TRANSACTION_ID, "size": exact_log2(data_bytes), "burst": BURST_INCR}
    values |= {name: value for name, (_, value) in ADDRESS_ATTRIBUTES.items()}
    return [getattr(axi, f"{channel}{name}").eq(value) for name, value in values.items()]


class Axi4LiteSignature(wiring.Signature):
    """AXI4-Lite master with 32-bit data.

    Parameters
    ----------
    address_bits : int
        Width of addresses in bits.
    """

    def __init__(self, *, address_bits: int) -> None:
        super().__init__(
            {
                "awaddr": Out(address_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(32),
                "wstrb": Out(4),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(address_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(32),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )
