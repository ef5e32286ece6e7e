// Memory behind AXI4, for any simulator: one read and one write burst at a time, pauses at random. What is not valid is x.

module axi_memory #(
    parameter BUS_BYTES = 16,
    parameter ADDRESS_BITS = 40,
    parameter SIZE = 16384,
    parameter IMAGE = "memory.hex"
) (
    input clk,
    input rst,
    input awid,
    input [ADDRESS_BITS-1:0] awaddr,
    input [7:0] awlen,
    input awvalid,
    output awready,
    input [8*BUS_BYTES-1:0] wdata,
    input [BUS_BYTES-1:0] wstrb,
    input wlast,
    input wvalid,
    output wready,
    output reg bid,
    output reg [1:0] bresp,
    output reg bvalid,
    input bready,
    input arid,
    input [ADDRESS_BITS-1:0] araddr,
    input [7:0] arlen,
    input arvalid,
    output arready,
    output reg rid,
    output reg [8*BUS_BYTES-1:0] rdata,
    output reg [1:0] rresp,
    output reg rlast,
    output reg rvalid,
    input rready
);
    reg [7:0] bytes [0:SIZE-1];
    reg [15:0] random;
    reg reading, read_id, writing, write_id;
    reg [ADDRESS_BITS-1:0] read_address, write_address;
    reg [7:0] read_left, write_left;
    integer i;

    initial $readmemh(IMAGE, bytes);

    assign arready = !reading;
    assign awready = !writing && !bvalid;
    assign wready = writing && random[1];

    always @(posedge clk) begin
        random <= {random[14:0], random[15] ^ random[13] ^ random[12] ^ random[10]};
        if (rvalid && rready) begin
            rvalid <= 1'b0;
            rid <= 1'bx;
            rdata <= {8*BUS_BYTES{1'bx}};
            rresp <= 2'bxx;
            rlast <= 1'bx;
        end
        if (arvalid && arready) begin
            reading <= 1'b1;
            read_id <= arid;
            read_address <= araddr;
            read_left <= arlen;
        end
        if (reading && (!rvalid || rready) && random[0]) begin
            rvalid <= 1'b1;
            rid <= read_id;
            for (i = 0; i < BUS_BYTES; i = i + 1) rdata[8*i +: 8] <= bytes[read_address + i];
            rresp <= 2'b00;
            rlast <= read_left == 0;
            read_address <= read_address + BUS_BYTES;
            read_left <= read_left - 1;
            if (read_left == 0) reading <= 1'b0;
        end
        if (bvalid && bready) begin
            bvalid <= 1'b0;
            bid <= 1'bx;
            bresp <= 2'bxx;
        end
        if (awvalid && awready) begin
            writing <= 1'b1;
            write_id <= awid;
            write_address <= awaddr;
            write_left <= awlen;
        end
        if (wvalid && wready) begin
            for (i = 0; i < BUS_BYTES; i = i + 1) if (wstrb[i]) bytes[write_address + i] <= wdata[8*i +: 8];
            write_address <= write_address + BUS_BYTES;
            write_left <= write_left - 1;
            if (wlast !== (write_left == 0)) $display("%m: wlast is %b with %0d beats to come", wlast, write_left);
            if (wlast) begin
                writing <= 1'b0;
                bvalid <= 1'b1;
                bid <= write_id;
                bresp <= 2'b00;
            end
        end
        if (rst) begin
            random <= 16'hACE1;
            reading <= 1'b0;
            writing <= 1'b0;
            rvalid <= 1'b0;
            bvalid <= 1'b0;
        end
    end
endmodule
