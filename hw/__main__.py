"""``python -m brownout.hw --rows 16 --cols 16 -o accelerator.v``: plain Verilog for those who want only that."""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

from .c_header import c_header_text
from .checks.scheme import CHECK_SCHEMES
from .config import AcceleratorConfig, ChecksumConfig
from .emit import verilog_text
from .reference import reference_markdown


def _add_fields(parser: argparse.ArgumentParser, owner: type, prefix: str, *, without: tuple[str, ...]) -> None:
    """One option for each field of a configuration class."""
    for spec in dataclasses.fields(owner):
        if spec.name in without:
            continue
        option = f"--{prefix}{spec.name}".replace("_", "-")
        text = f"default {spec.default}"
        if isinstance(spec.default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=spec.default, help=text)
        else:
            kind = type(spec.default)
            parser.add_argument(option, type=kind, default=spec.default, metavar=kind.__name__.upper(), help=text)


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m brownout.hw", description="Generate the accelerator's Verilog.")
    _add_fields(parser, AcceleratorConfig, "", without=("memory", "checksum"))
    parser.add_argument("--checksum", choices=CHECK_SCHEMES.names(), help="scheme of checksum units (default: none)")
    _add_fields(parser, ChecksumConfig, "checksum_", without=("scheme",))
    parser.add_argument(
        "--name", help="of the top module; all modules and C macros begin with it (default: brownout_CONFIG_HASH)"
    )
    parser.add_argument(
        "--aresetn", action="store_true", help="clock aclk and reset aresetn, active low, as AXI has them"
    )
    parser.add_argument("-o", "--output", type=Path, help="Verilog file (default: standard output)")
    parser.add_argument("--c-header", type=Path, help="also write a C header of registers and commands")
    parser.add_argument("--reference", type=Path, help="write the reference tables (Markdown) and nothing else")
    options = vars(parser.parse_args(arguments))
    output, header, reference = (options.pop(name) for name in ("output", "c_header", "reference"))
    name, aresetn = options.pop("name"), options.pop("aresetn")
    if reference is not None:
        reference.write_text(reference_markdown())
        return 0
    scheme = options.pop("checksum")
    checks = {name: options.pop(name) for name in list(options) if name.startswith("checksum_")}
    try:
        if scheme is not None:
            fields = {name.removeprefix("checksum_"): value for name, value in checks.items()}
            options["checksum"] = ChecksumConfig(scheme=scheme, **fields)
        config = AcceleratorConfig(**options)
        text = verilog_text(config, name, aresetn=aresetn)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if output is None:
        sys.stdout.write(text)
    else:
        output.write_text(text)
    if header is not None:
        header.write_text(c_header_text(config, name))
    return 0


if __name__ == "__main__":
    sys.exit(main())
