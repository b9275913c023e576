"""`landscape list [KIND] [--update README.md]`."""

from __future__ import annotations

import inspect
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from landscape.commands.parser import command_parser, recipes
from landscape.markdown import markdown_table
from optimizers.ground.signatures import options_of

CHOICES = {"policies": "policy", "metrics": "metric", "schedules": "rho_schedule"}
KINDS = (
    "optimizers",
    "analyses",
    "models",
    "data",
    "augmentations",
    "tasks",
    "bases",
    "claims",
    "experiments",
    *CHOICES,
)


def main(arguments: Sequence[str]) -> None:
    """Print what can be named, or write the README's tables anew."""
    parser = command_parser("list", "Show what can be named on the command line and in recipes.")
    parser.add_argument("kind", nargs="?", type=Literal[KINDS] | None, default=None, help="One kind; all if left out.")
    parser.add_argument("--update", type=str | None, default=None, help="A Markdown file whose tables to write anew.")
    chosen = parser.parse_args(list(arguments)).as_dict()
    if chosen["update"]:
        path = Path(chosen["update"])
        path.write_text(updated(path.read_text(), path.parent))
        return
    for kind in [chosen["kind"]] if chosen["kind"] else KINDS:
        print(f"{kind}\n\n{table(kind)}\n")


def table(kind: str) -> str:
    """The Markdown table of one kind, from its registry."""
    if kind == "optimizers":
        import optimizers

        infos = [optimizers.describe(name) for name in optimizers.available()]
        return markdown_table(
            ("name", "what it does", "gradients a step", "state, in copies", "defaults", "reference"),
            [(f"`{i.name}`", i.summary, i.cost, i.state, _defaults(i.defaults), i.reference) for i in infos],
        )
    if kind in CHOICES:
        import optimizers

        chosen = [
            (f"`{name}`", (inspect.getdoc(each) or "").split("\n")[0], ", ".join(options_of(each)) or "—")
            for name, each in optimizers.choices(CHOICES[kind]).items()
        ]
        return markdown_table(("name", "what it is", "options"), chosen)
    if kind == "analyses":
        import analyses

        found = [analyses.get(name) for name in analyses.available()]
        return markdown_table(
            ("name", "what it answers", "cost", "reference"),
            [(f"`{a.name}`", a.summary, a.cost, a.reference) for a in found],
        )
    if kind in ("claims", "experiments"):
        return markdown_table(("name", "what it is"), [(f"`{n}`", first_comment(p)) for n, p in recipes(kind).items()])
    from landscape import data, models, tasks
    from landscape.training import bases

    named = {
        "models": models.models,
        "data": data.datasets,
        "augmentations": data.augmentations,
        "tasks": tasks.tasks,
        "bases": bases.bases,
    }[kind]
    rows = [(f"`{name}`", (f.__doc__ or "").strip().split("\n")[0]) for name, f in sorted(named.factories.items())]
    return markdown_table(("name", "what it is"), rows)


def first_comment(recipe: Path) -> str:
    """A recipe's first line, which says what it is."""
    return recipe.read_text().split("\n", 1)[0].lstrip("# ")


def _defaults(defaults: dict[str, object]) -> str:
    return ", ".join(f"{name}={value}" for name, value in defaults.items() if isinstance(value, int | float | str))


def updated(text: str, folder: Path) -> str:
    """`text` with what stands between `<!-- table KIND -->` or `<!-- file PATH -->` and `<!-- end -->` made anew."""

    def made(found: re.Match[str]) -> str:
        content = table(found[2]) if found[1] == "table" else (folder / found[2]).read_text().strip()
        return f"<!-- {found[1]} {found[2]} -->\n\n{content}\n\n<!-- end -->"

    return re.sub(r"<!-- (table|file) (\S+) -->\n.*?<!-- end -->", made, text, flags=re.DOTALL)
