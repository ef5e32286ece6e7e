"""``python -m brownout.hw --rows 16 --cols 16 -o accelerator.v``: plain Verilog for those who want only that."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from .c_header import c_header_text
from .config import AcceleratorConfig
from .emit import verilog_text
from .reference import reference_markdown


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m brownout.hw", description="Generate the accelerator's Verilog.")
    for spec in dataclasses.fields(AcceleratorConfig):
        if spec.name != "memory":
            option = "--" + spec.name.replace("_", "-")
            parser.add_argument(option, type=int, default=spec.default, metavar="N", help=f"default {spec.default}")
    parser.add_argument("-o", "--output", type=Path, help="Verilog file (default: standard output)")
    parser.add_argument("--c-header", type=Path, help="also write a C header of registers and commands")
    parser.add_argument("--reference", type=Path, help="write the reference tables (Markdown) and nothing else")
    options = vars(parser.parse_args(arguments))
    output, header, reference = (options.pop(name) for name in ("output", "c_header", "reference"))
    if reference is not None:
        reference.write_text(reference_markdown())
        return 0
    try:
        config = AcceleratorConfig(**options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = verilog_text(config)
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text)
    if header is not None:
        header.write_text(c_header_text(config))
    return 0


if __name__ == "__main__":
    sys.exit(main())
