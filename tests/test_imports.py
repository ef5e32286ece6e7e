"""Rooms lie in layers: what imports what has no circle and points downwards, and a class name means one thing."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("hw", "cosim", "host")

LAYERS = (
    ("hw",),
    ("cosim",),
    ("host.errors", "host.progress"),
    ("host.storage",),
    ("host.device.product",),
    ("host.device.twin",),
    ("host.device.power",),
    ("host.device.backends",),
    ("host.device.mixed",),
    ("host.device.make", "host.device.ledger", "host.device.session"),
    ("host.device.controls",),
    ("host.device.accelerator",),
    ("host.offloading", "host.quality"),
    ("host.workload", "host.caching", "host.checkpoints", "host.models"),
    ("host.pipelines",),
    ("host.drift", "host.stadi.plan"),
    ("host.stadi.simulate",),
    ("host.stadi.execute",),
    ("host.stadi",),
    ("host.cli", "host.demo", "host.replay"),
    ("host",),
)
"""From the lowest. A room imports from lower layers only: neither from higher ones nor from its neighbours."""

LOOSE_MODULES = 6
"""Largest number of modules at the root of a package that is not a room of them."""


@pytest.fixture(scope="module")
def graph():
    """All imports, those inside functions and for type checking too."""
    return grimp.build_graph(*(f"brownout.{name}" for name in PACKAGES), cache_dir=None)


def room_of(module):
    """The longest entry of LAYERS that a module lies in, without ``brownout.``; a front door is its own room."""
    name = module.removeprefix("brownout.")
    rooms = [room for layer in LAYERS for room in layer if name == room or name.startswith(f"{room}.")]
    return max(rooms, key=len, default=None)


def circles(modules, imports):
    """Strongly connected components of more than one module, by Kosaraju's algorithm."""
    order, seen = [], set()
    for start in sorted(modules):
        stack = [(start, iter(()))] if start in seen else [(start, iter(sorted(imports(start))))]
        if start in seen:
            continue
        seen.add(start)
        while stack:
            module, rest = stack[-1]
            following = next((each for each in rest if each not in seen), None)
            if following is None:
                order.append(module)
                stack.pop()
            else:
                seen.add(following)
                stack.append((following, iter(sorted(imports(following)))))
    importers = defaultdict(set)
    for module in modules:
        for each in imports(module):
            importers[each].add(module)
    found, taken = [], set()
    for start in reversed(order):
        group, waiting = [], [start]
        while waiting:
            module = waiting.pop()
            if module not in taken:
                taken.add(module)
                group.append(module)
                waiting.extend(importers[module])
        if len(group) > 1:
            found.append(sorted(group))
    return found


def test_the_search_finds_circles():
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": {"e"}, "e": set(), "f": {"f"}}
    assert circles(edges, edges.__getitem__) == [["a", "b", "c"]]


def test_modules_import_each_other_in_no_circle(graph):
    assert circles(graph.modules, graph.find_modules_directly_imported_by) == []


def test_every_module_lies_in_a_room(graph):
    inner = {"brownout.host.device"}
    assert sorted(module for module in graph.modules - inner if room_of(module) == "host") == ["brownout.host"]
    assert all(room_of(module) for module in graph.modules)


def test_rooms_import_from_lower_layers_only(graph):
    rank = {room: number for number, layer in enumerate(LAYERS) for room in layer}
    upward = [
        f"{module} -> {imported}"
        for module in sorted(graph.modules)
        for imported in sorted(graph.find_modules_directly_imported_by(module))
        if (room := room_of(module)) != (other := room_of(imported)) and rank[other] >= rank[room]
    ]
    assert upward == []


@pytest.mark.parametrize(("package", "forbidden"), [("hw", {"torch", "cocotb"}), ("cosim", {"torch"})])
def test_hardware_and_simulation_do_without_the_host_s_libraries(package, forbidden):
    found = set()
    for path in (ROOT / package).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level and node.module:
                found.add(node.module.partition(".")[0])
    assert not found & forbidden


def test_a_simulator_s_python_starts_without_what_it_does_not_need():
    code = "import sys, brownout.cosim.server; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"numpy", "brownout.cosim.build", "brownout.cosim.simulator"} & set(done.stdout.split())


def test_a_class_name_is_given_once():
    places = defaultdict(list)
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text())):
                # What begins with an underscore is its module's own.
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(str(path.relative_to(ROOT)))
    assert {name: where for name, where in places.items() if len(where) > 1} == {}


def test_few_modules_lie_loose():
    loose = [path.name for path in (ROOT / "host").glob("*.py") if path.name != "__init__.py"]
    assert len(loose) <= LOOSE_MODULES
