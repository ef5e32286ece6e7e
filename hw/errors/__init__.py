"""Models of timing errors: what errs in the hardware, by what is set, and what each has of its own in the RTL."""
