"""The AXI4 master: ports, bursts and signatures."""
