// Clock, reset and a deadline for `system`, in simulators that have time.

`timescale 1ps / 1ps

module clocked;
    reg clk = 1'b0;
    reg rst;
    wire done;
    integer cycles = 0;

    system system (.clk(clk), .rst(rst), .done(done));

    always #250 clk = ~clk;

    always @(posedge clk) begin
        cycles <= cycles + 1;
        rst <= cycles < 4;
        if (done === 1'b1) $finish;
        if (cycles == 100000) begin
            $display("deadline");
            $finish;
        end
    end
endmodule
