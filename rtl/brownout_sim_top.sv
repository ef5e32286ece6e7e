// Simulation top: the accelerator, and the memory model behind its AXI4 master.
//
// Ports are what a host sees of a device: clock, reset, interrupt and the AXI4-Lite registers. The memory model is C++
// (dram.h), entered once per rising edge and not at all while nothing is in flight.

`timescale 1ps / 1ps

module brownout_sim_top #(
    parameter int ADDRESS_BITS = 40,
    parameter int BUS_BYTES = 16
) (
    input logic clk,
    input logic rst,
    output logic irq,

    input  logic [11:0] s_axil_awaddr,
    input  logic [ 2:0] s_axil_awprot,
    input  logic        s_axil_awvalid,
    output logic        s_axil_awready,
    input  logic [31:0] s_axil_wdata,
    input  logic [ 3:0] s_axil_wstrb,
    input  logic        s_axil_wvalid,
    output logic        s_axil_wready,
    output logic [ 1:0] s_axil_bresp,
    output logic        s_axil_bvalid,
    input  logic        s_axil_bready,
    input  logic [11:0] s_axil_araddr,
    input  logic [ 2:0] s_axil_arprot,
    input  logic        s_axil_arvalid,
    output logic        s_axil_arready,
    output logic [31:0] s_axil_rdata,
    output logic [ 1:0] s_axil_rresp,
    output logic        s_axil_rvalid,
    input  logic        s_axil_rready
);

    import "DPI-C" function void dram_open(input int bus_bytes);
    import "DPI-C" function void dram_reset();
    import "DPI-C" function void dram_note_time(input longint unsigned time_ps);
    import "DPI-C" function int unsigned dram_cycle(
        input int unsigned controls,
        input longint unsigned awaddr,
        input int unsigned awinfo,
        input longint unsigned araddr,
        input int unsigned arinfo,
        input bit [8*BUS_BYTES-1:0] wdata,
        input bit [BUS_BYTES-1:0] wstrb,
        output bit [8*BUS_BYTES-1:0] rdata,
        input int bus_bytes
    );

    logic                    m_axi_awid;
    logic [ADDRESS_BITS-1:0] m_axi_awaddr;
    logic [             7:0] m_axi_awlen;
    logic [             2:0] m_axi_awsize;
    logic [             1:0] m_axi_awburst;
    logic                    m_axi_awlock;
    logic [             3:0] m_axi_awcache;
    logic [             2:0] m_axi_awprot;
    logic [             3:0] m_axi_awqos;
    logic                    m_axi_awvalid;
    logic                    m_axi_awready;
    logic [ 8*BUS_BYTES-1:0] m_axi_wdata;
    logic [   BUS_BYTES-1:0] m_axi_wstrb;
    logic                    m_axi_wlast;
    logic                    m_axi_wvalid;
    logic                    m_axi_wready;
    logic                    m_axi_bid;
    logic [             1:0] m_axi_bresp;
    logic                    m_axi_bvalid;
    logic                    m_axi_bready;
    logic                    m_axi_arid;
    logic [ADDRESS_BITS-1:0] m_axi_araddr;
    logic [             7:0] m_axi_arlen;
    logic [             2:0] m_axi_arsize;
    logic [             1:0] m_axi_arburst;
    logic                    m_axi_arlock;
    logic [             3:0] m_axi_arcache;
    logic [             2:0] m_axi_arprot;
    logic [             3:0] m_axi_arqos;
    logic                    m_axi_arvalid;
    logic                    m_axi_arready;
    logic                    m_axi_rid;
    logic [ 8*BUS_BYTES-1:0] m_axi_rdata;
    logic [             1:0] m_axi_rresp;
    logic                    m_axi_rlast;
    logic                    m_axi_rvalid;
    logic                    m_axi_rready;

    // Registered, so that what reset feeds changes at clock edges only. Verilator evaluates everything that depends on an
    // input pin at both edges of the clock, and reset is in the cone of nearly every register: a tenth of the speed.
    logic reset_in = 1'b1;
    always_ff @(posedge clk) reset_in <= rst;

    brownout accelerator (
        .rst(reset_in),
        .*
    );

    // Registered outputs of the memory; the meaning of the bits stands at dram_cycle in dram_dpi.cpp.
    logic [           13:0] memory_status;
    logic [8*BUS_BYTES-1:0] memory_rdata;
    bit   [8*BUS_BYTES-1:0] next_rdata;
    int unsigned            next_status;

    assign m_axi_awready = memory_status[0];
    assign m_axi_wready  = memory_status[1];
    assign m_axi_bvalid  = memory_status[2];
    assign m_axi_bresp   = memory_status[4:3];
    assign m_axi_bid     = memory_status[5];
    assign m_axi_arready = memory_status[6];
    assign m_axi_rvalid  = memory_status[7];
    assign m_axi_rlast   = memory_status[8];
    assign m_axi_rresp   = memory_status[10:9];
    assign m_axi_rid     = memory_status[11];
    assign m_axi_rdata   = memory_rdata;

    initial begin
        memory_status = 14'h1000;
        dram_open(BUS_BYTES);
    end

    always_ff @(posedge clk) begin
        if (reset_in) begin
            dram_reset();
            memory_status <= 14'h1000;
        end else if (memory_status[12] || m_axi_awvalid || m_axi_wvalid || m_axi_arvalid) begin
            next_status = dram_cycle(
                {26'b0, m_axi_rready, m_axi_arvalid, m_axi_bready, m_axi_wlast, m_axi_wvalid, m_axi_awvalid},
                64'(m_axi_awaddr),
                {
                    6'b0, m_axi_awqos, m_axi_awprot, m_axi_awcache, m_axi_awlock,
                    m_axi_awid, m_axi_awburst, m_axi_awsize, m_axi_awlen
                },
                64'(m_axi_araddr),
                {
                    6'b0, m_axi_arqos, m_axi_arprot, m_axi_arcache, m_axi_arlock,
                    m_axi_arid, m_axi_arburst, m_axi_arsize, m_axi_arlen
                },
                m_axi_wdata,
                m_axi_wstrb,
                next_rdata,
                BUS_BYTES
            );
            if (next_status[13] && !memory_status[13]) dram_note_time($time);
            memory_status <= next_status[13:0];
            memory_rdata <= next_rdata;
        end
    end

endmodule
