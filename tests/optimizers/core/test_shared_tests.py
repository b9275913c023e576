"""A test shared by all methods names none: what is particular to one lies beside it, and a new one edits no test."""

import ast
from pathlib import Path

import pytest
from expectations import FOLDER, expected, one_gradient, simplest, two_gradients

import optimizers

HERE = Path(__file__).parent
SHARED = [*HERE.glob("*.py"), *HERE.parent.glob("optimizer_*.py"), HERE.parent / "expectations.py"]


def named(source, names):
    """The names of methods among the strings of a module."""
    return [
        node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant) and node.value in names
    ]


@pytest.mark.parametrize("file", SHARED, ids=lambda file: file.name)
def test_no_shared_test_names_a_method(file):
    found = named(file.read_text(), optimizers.available())
    assert not found, (
        f"{file.name} names {', '.join(found)}: choose by optimizers.describe(method), or say it in methods/{found[0]}.py"
    )


def test_the_search_finds_a_name_wherever_it_stands():
    (first, *_) = optimizers.available()
    for source in ("if method == {0!r}: pass", "f(x, {0!r})", "{{{0!r}: 1}}", 'f"{{ {0!r} }}"', "(a, {0!r})"):
        assert named(source.format(first), optimizers.available()) == [first]


def test_whatever_is_particular_belongs_to_a_method():
    """A file that nobody reads would say nothing; one that is read says something."""
    for file in FOLDER.glob("*.py"):
        assert file.stem in optimizers.available()
        assert expected(file.stem) != expected("none")


def test_examples_are_chosen_by_what_they_cost():
    two, one = (optimizers.describe(simplest(holds)) for holds in (two_gradients, one_gradient))
    assert list(two.gradients(5)) == [10]
    assert list(one.gradients(5)) == [5]
    assert one.closure_free
