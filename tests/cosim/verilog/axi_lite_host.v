// Runs a script of register accesses: words {operation, address, data}; 0 read and print, 1 write, 2 wait for the
// interrupt, 3 end. What is not valid is x.

module axi_lite_host #(
    parameter STEPS = 1,
    parameter SCRIPT = "script.hex"
) (
    input clk,
    input rst,
    input irq,
    output reg done,
    output reg [11:0] awaddr,
    output [2:0] awprot,
    output reg awvalid,
    input awready,
    output reg [31:0] wdata,
    output reg [3:0] wstrb,
    output reg wvalid,
    input wready,
    input [1:0] bresp,
    input bvalid,
    output bready,
    output reg [11:0] araddr,
    output [2:0] arprot,
    output reg arvalid,
    input arready,
    input [31:0] rdata,
    input [1:0] rresp,
    input rvalid,
    output rready
);
    reg [47:0] script [0:STEPS-1];
    reg [9:0] step;
    reg waiting;
    wire [3:0] operation = script[step][47:44];

    initial $readmemh(SCRIPT, script);

    assign awprot = 3'b000;
    assign arprot = 3'b000;
    assign bready = 1'b1;
    assign rready = 1'b1;

    always @(posedge clk) begin
        if (awvalid && awready) begin
            awvalid <= 1'b0;
            awaddr <= 12'bx;
        end
        if (wvalid && wready) begin
            wvalid <= 1'b0;
            wdata <= 32'bx;
            wstrb <= 4'bx;
        end
        if (arvalid && arready) begin
            arvalid <= 1'b0;
            araddr <= 12'bx;
        end
        if (!waiting) begin
            waiting <= 1'b1;
            case (operation)
                0: begin
                    arvalid <= 1'b1;
                    araddr <= script[step][43:32];
                end
                1: begin
                    awvalid <= 1'b1;
                    awaddr <= script[step][43:32];
                    wvalid <= 1'b1;
                    wdata <= script[step][31:0];
                    wstrb <= 4'b1111;
                end
                2: waiting <= 1'b1;
                default: done <= 1'b1;
            endcase
        end else if (operation == 0 ? rvalid : operation == 1 ? bvalid : operation == 2 ? irq : 1'b0) begin
            waiting <= 1'b0;
            step <= step + 1;
            if (operation == 0) $display("%m read %h %b %h", script[step][43:32], rresp, rdata);
            if (operation == 1 && bresp !== 2'b00) $display("%m write %h %b", script[step][43:32], bresp);
        end
        if (rst) begin
            awvalid <= 1'b0;
            wvalid <= 1'b0;
            arvalid <= 1'b0;
            waiting <= 1'b0;
            done <= 1'b0;
            step <= 0;
        end
    end
endmodule
