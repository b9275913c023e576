"""The arrows: optimizers ◄─ landscape ◄─ analyses; training never sees an analysis, optimizers see torch alone."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ALLOWED = {
    "optimizers": {"optimizers"},
    "landscape": {"optimizers", "landscape"},
    "analyses": {"optimizers", "landscape", "analyses"},
}
OURS = {"optimizers", "landscape", "analyses", "notebooks", "tests"}
COMMAND_LINE = {
    "landscape/__main__.py",
    *(f"landscape/commands/{p.name}" for p in (ROOT / "landscape/commands").glob("*.py")),
}


def imports(tree: ast.AST) -> set[str]:
    """The top-level packages a module names anywhere, inside functions and TYPE_CHECKING blocks too."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_import_only_downwards(package: str) -> None:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        name = str(file.relative_to(ROOT))
        if name in COMMAND_LINE:
            continue
        upward = (imports(ast.parse(file.read_text())) & OURS) - ALLOWED[package]
        assert not upward, f"{name} imports {upward}"


def test_optimizers_need_torch_alone() -> None:
    for file in sorted((ROOT / "optimizers").rglob("*.py")):
        foreign = imports(ast.parse(file.read_text())) - set(sys.stdlib_module_names) - {"torch", "optimizers"}
        assert not foreign, f"{file.name} imports {foreign}"


def test_the_command_line_imports_late() -> None:
    """`landscape --help` answers without loading torch; training does not load an analysis."""
    code = (
        "import sys\nfrom landscape.__main__ import main\nassert main(['--help']) == 0\n"
        "assert 'torch' not in sys.modules and 'analyses' not in sys.modules\n"
        "import landscape.training\nassert 'analyses' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_nothing_names_an_accelerator() -> None:
    """Every code path takes a device: no `.cuda()` anywhere."""
    for package in ALLOWED:
        for file in (ROOT / package).rglob("*.py"):
            assert ".cuda()" not in file.read_text(), file
