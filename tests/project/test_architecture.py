"""The arrows between the wings of the house: an import that the table does not allow fails, and so does any circle.

Imports inside functions and under TYPE_CHECKING count. `python tests/project/test_architecture.py` prints the table for the
README, `tests/project/arrows.md`.
"""

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("optimizers", "landscape", "analyses")

# wing → the wings it may import from, besides itself and GROUND; "(ground)" is what lies directly in a package's folder
GROUND = "optimizers.ground"
ARROWS = {
    GROUND: (),
    "optimizers.core": (),
    "optimizers": ("optimizers.core",),
    "optimizers.trainers": ("optimizers.core",),
    "landscape (ground)": (),
    "landscape.objective": ("optimizers.core", "landscape (ground)"),
    "landscape.data": ("landscape (ground)",),
    "landscape.models": ("landscape (ground)", "landscape.data"),
    "landscape.tasks": ("landscape (ground)", "landscape.objective"),
    "landscape.store": ("landscape (ground)",),
    "landscape.runs": (
        "landscape (ground)",
        "landscape.objective",
        "landscape.data",
        "landscape.models",
        "landscape.tasks",
        "landscape.store",
    ),
    "landscape.training": (
        "optimizers",
        "landscape (ground)",
        "landscape.data",
        "landscape.models",
        "landscape.tasks",
        "landscape.store",
        "landscape.runs",
    ),
    "analyses.krylov": (),
    "analyses.estimators": ("analyses.krylov",),
    "analyses.directions": ("optimizers.core", "landscape.objective", "analyses.krylov"),
    "analyses (ground)": (
        "landscape (ground)",
        "landscape.objective",
        "landscape.store",
        "landscape.runs",
        "analyses.directions",
        "analyses.estimators",
    ),
    "analyses.curvature": (
        "landscape.objective",
        "landscape.runs",
        "analyses (ground)",
        "analyses.krylov",
        "analyses.estimators",
        "analyses.directions",
    ),
    "analyses.sharpness": (
        "landscape.objective",
        "landscape.runs",
        "analyses (ground)",
        "analyses.directions",
        "analyses.estimators",
    ),
    "analyses.gradients": ("landscape.objective", "analyses (ground)", "analyses.estimators"),
    "analyses.studies": (
        "landscape (ground)",
        "landscape.objective",
        "landscape.data",
        "landscape.store",
        "landscape.runs",
        "landscape.training",
        "analyses (ground)",
    ),
}
# the command line sees everything, and imports late
COMMAND_LINE = ("landscape.commands", "landscape.__main__")
FOREIGN = {"tests", "notebooks"}


def modules() -> dict[str, Path]:
    """Every module of the three packages by its dotted name; a package's own name is its `__init__`."""
    found = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


MODULES = modules()


def imported(name: str) -> set[str]:
    """The modules of ours that a module names in any import."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in MODULES}
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in MODULES else node.module)
    return found - {name}


def wing(name: str) -> str:
    """The wing that a module lies in."""
    parts = name.split(".")
    if len(parts) > 2 or (len(parts) == 2 and MODULES[name].name == "__init__.py"):
        return ".".join(parts[:2])
    if parts[0] == "optimizers":
        return "optimizers"
    return f"{parts[0]} (ground)"


def entrance(name: str) -> bool:
    """Whether a module is the front door of its package, which shows what all the wings have."""
    return name in PACKAGES


def subjects() -> list[str]:
    return sorted(name for name in MODULES if not entrance(name) and not name.startswith(COMMAND_LINE))


@pytest.mark.parametrize("name", subjects())
def test_imports_follow_the_arrows(name: str) -> None:
    allowed = {wing(name), GROUND, *ARROWS[wing(name)]}
    for target in imported(name):
        if entrance(target) and target != "optimizers" and wing(name) != "analyses.studies":
            pytest.fail(f"{name} imports the front door {target}; name the module")
        assert entrance(target) or wing(target) in allowed, f"{name} imports {target}: no arrow to {wing(target)}"


def test_every_wing_stands_in_the_table_and_every_arrow_is_used() -> None:
    wings = {wing(name) for name in subjects()}
    assert wings == set(ARROWS)
    for tail, heads in ARROWS.items():
        used = {wing(t) for name in subjects() if wing(name) == tail for t in imported(name)}
        assert set(heads) <= used, f"{tail} does not import {set(heads) - used}: take the arrow out of the table"


def test_no_two_wings_import_each_other() -> None:
    assert not [" → ".join(path) for path in circles({tail: set(heads) for tail, heads in ARROWS.items()})]


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """A closed path for every edge that leads back to where the search came from."""
    state: dict[str, int] = {}

    def walk(node: str, path: list[str]) -> Iterator[list[str]]:
        state[node] = 1
        for target in sorted(graph.get(node, ())):
            if state.get(target) == 1:
                yield [*path[path.index(target) :], target]
            elif target not in state:
                yield from walk(target, [*path, target])
        state[node] = 2

    for node in sorted(graph):
        if node not in state:
            yield from walk(node, [node])


def test_no_module_imports_itself_through_others() -> None:
    found = [" → ".join(path) for path in circles({name: imported(name) for name in MODULES})]
    assert not found, "\n".join(found)


def test_the_search_for_circles_finds_one() -> None:
    assert list(circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}})) == [["a", "b", "c", "a"]]


def test_optimizers_need_torch_alone() -> None:
    for name, file in MODULES.items():
        if name.split(".")[0] != "optimizers":
            continue
        for node in ast.walk(ast.parse(file.read_text())):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            named += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            foreign = {n.split(".")[0] for n in named} - set(sys.stdlib_module_names) - {"torch", "optimizers"}
            assert not foreign, f"{name} imports {foreign}"


def test_matrices_know_no_model() -> None:
    """`krylov` and `estimators` import nothing of `landscape`, and no package imports tests or notebooks."""
    for name in MODULES:
        names = {n.module for n in ast.walk(ast.parse(MODULES[name].read_text())) if isinstance(n, ast.ImportFrom)}
        tops = {n.split(".")[0] for n in names if n}
        assert not tops & FOREIGN, name
        assert not (name.startswith(("analyses.krylov", "analyses.estimators")) and "landscape" in tops), name


def test_no_file_holds_two_ideas() -> None:
    long = {str(f.relative_to(ROOT)): n for f in MODULES.values() if (n := len(f.read_text().splitlines())) > 300}
    assert not long, f"over 300 lines: {long}"


@pytest.mark.processes
def test_the_command_line_imports_late() -> None:
    """`landscape --help` answers without loading torch; training does not load an analysis."""
    code = (
        "import sys\nfrom landscape.__main__ import main\nassert main(['--help']) == 0\n"
        "assert 'torch' not in sys.modules and 'analyses' not in sys.modules\n"
        "import landscape.training.training\nassert 'analyses' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_every_public_name_is_there() -> None:
    for package in PACKAGES:
        module = importlib.import_module(package)
        for name in getattr(module, "__all__", dir(module)):
            assert getattr(module, name, None) is not None, f"{package}.{name}"


def test_nothing_names_an_accelerator() -> None:
    """Every code path takes a device: no `.cuda()` anywhere."""
    for file in MODULES.values():
        assert ".cuda()" not in file.read_text(), file


def table() -> str:
    """The arrows as a Markdown table."""
    rows = [f"| `{tail}` | {', '.join(f'`{head}`' for head in heads) or '—'} |" for tail, heads in ARROWS.items()]
    return "\n".join(["| wing | imports |", "| --- | --- |", *rows])


def test_the_table_in_the_readme_is_this_one() -> None:
    drawn = (ROOT / "tests/project/arrows.md").read_text().strip()
    assert drawn == table(), (
        "run `python tests/project/test_architecture.py > tests/project/arrows.md`, then `make docs`"
    )


if __name__ == "__main__":
    print(table())
