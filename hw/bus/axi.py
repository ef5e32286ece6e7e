"""AXI4 and AXI4-Lite as signatures, seen from the master."""

from __future__ import annotations

from amaranth.hdl import unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

RESP_OKAY = 0
RESP_SLVERR = 2
RESP_DECERR = 3
BURST_INCR = 1

MAX_BURST_BEATS = 256
BURST_BOUNDARY_BYTES = 4096

ID_BITS = 1


class Axi4Signature(wiring.Signature):
    """AXI4 master with a single transaction ID.

    Parameters
    ----------
    address_bits : int
        Width of addresses.
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


class Axi4LiteSignature(wiring.Signature):
    """AXI4-Lite master with 32-bit data.

    Parameters
    ----------
    address_bits : int
        Width of addresses.
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
