"""SystemVerilog and C++ sources of the simulators; data, nothing to import."""
