"""A study that cannot be what it says: exit code 2, one clear line, nothing trained and nothing written."""

from pathlib import Path

import pytest

from landscape.__main__ import main

HEAD = """
title = "A small study"
seeds = [0, 1]
"""
STUDY = (
    HEAD
    + """
[experiment]
data_options = {train_examples = 150}
model_options = {widths = [8]}
epochs = 2
checkpoint_every = 1
[methods.sgd]
label = "SGD"
[methods.msam]
optimizer = "msam"
rho = 1.0
[[analyses]]
name = "top_eigenvalues"
options = {k = 2}
[[analyses]]
name = "directional_sharpness"
id = "along"
options = {radii = [-0.5, 0.5], samples = 2}
[[claims]]
id = "flatter"
statement = "MSAM ends at a smaller eigenvalue than SGD"
source = "test"
quantity = "lambda_max"
method = "msam"
versus = "sgd"
direction = "less"
"""
)
K = "options = {k = 2}"
RADII = "options = {radii = [-0.5, 0.5], samples = 2}"
CLAIM = 'quantity = "lambda_max"'
ALONG = f'{CLAIM}\nask = "along"'


def claims(quantity: str) -> tuple[str, str]:
    return CLAIM, f'quantity = "{quantity}"'


# what is replaced, by what, and parts of the line that answers it
WRONG = {
    # names become folders
    "method up": ("methods.msam]", 'methods."../../evil"]', ["'../../evil'", "plain name"]),
    "method absolute": ("methods.msam]", 'methods."/tmp/evil"]', ["'/tmp/evil'", "plain name"]),
    "method empty": ("methods.msam]", 'methods.""]', ["''", "plain name"]),
    "method hidden": ("methods.msam]", 'methods.".msam"]', ["'.msam'", "plain name"]),
    "method in a folder": ("methods.msam]", 'methods."a/b"]', ["'a/b'", "plain name"]),
    "method with a backslash": ("methods.msam]", "methods.'a\\b']", ["plain name"]),
    "method with an end of line": ("methods.msam]", 'methods."a\\n"]', ["plain name"]),
    "method of the figures' name": ("methods.msam]", "methods.figures]", ["'figures'", "plain name"]),
    "method another in case": ("methods.msam]", "methods.SGD]", ["more than case", "SGD"]),
    "analysis's id a path": ('id = "along"', 'id = "../along"', ["'../along'", "expected an id"]),
    # what there is not
    "split": (K, f'{K}\nsplit = "validation"', ["top_eigenvalues", "train or test", "'validation'"]),
    "dtype": (K, f'{K}\ndtype = "float16"', ["float32 or float64", "'float16'"]),
    "examples zero": (K, f"{K}\nexamples = 0", ["at least 1, got 0"]),
    "examples more than there are": (K, f"{K}\nexamples = 151", ["1 to 150 of the train split, got 151"]),
    "examples more than the test split": (K, f'{K}\nsplit = "test"\nexamples = 99999', ["test split, got 99999"]),
    "analysis": ('name = "top_eigenvalues"', 'name = "top_eigenvalue"', ["top_eigenvalue", "expected one of"]),
    "option": (K, "options = {kk = 2}", ["top_eigenvalues: unknown option 'kk'", "among", "k"]),
    "option's type": (K, 'options = {k = "two"}', ["top_eigenvalues: k: expected", "got 'two'"]),
    "option's range": (K, "options = {k = 0}", ["top_eigenvalues: k: expected", "got 0"]),
    "option's entries": (RADII, 'options = {radii = ["a"]}', ["along: radii: expected", "'a'"]),
    "option of a vector": (RADII, "options = {momentum = [1.0]}", ["along: unknown option 'momentum'"]),
    "step": (K, f"{K}\nsteps = [0, 4, 6]", ["no checkpoint at step 4", "6"]),
    "step by word": (K, f'{K}\nsteps = "soon"', ["all, first, last or a list", "'soon'"]),
    "steps empty": (K, f"{K}\nsteps = []", ["all, first, last or a list"]),
    "key of an analysis": (K, "option = {k = 2}", ["Question", "option"]),
    "key of a study": (HEAD, f"{HEAD}\nnothing = 1", ["unknown ['nothing']"]),
    "key of an experiment": ("epochs = 2", "epoch = 2", ["epoch"]),
    "optimizer": ('optimizer = "msam"', 'optimizer = "msan"', ["method 'msam'", "'msan'", "expected one of"]),
    "optimizer's option": ("rho = 1.0", "optimizer_options = {rhoo = 1.0}", ["method 'msam'", "rhoo"]),
    "model": ("epochs = 2", 'epochs = 2\nmodel = "mpl"', ["method 'sgd'", "'mpl'"]),
    "model's option": ("{widths = [8]}", "{width = [8]}", ["method 'sgd'", "width"]),
    "data": ("epochs = 2", 'epochs = 2\ndata = "digit"', ["method 'sgd'", "'digit'"]),
    # claims
    "claim's quantity": (*claims("lamda"), ["unknown quantity 'lamda'", "expected one of", "lambda_max"]),
    "claim on an analysis not asked": (
        'name = "top_eigenvalues"\noptions = {k = 2}',
        'name = "psf"',
        ["'flatter'", "needs the analysis top_eigenvalues", "[[analyses]]"],
    ),
    "claim on an analysis asked of the first step alone": (
        K,
        f'{K}\nsteps = "first"',
        ["'flatter'", "the first alone"],
    ),
    "claim on steps without the last": (K, f"{K}\nsteps = [0, 3]", ["'flatter'", "step 6"]),
    "claim's ask": (CLAIM, f'{CLAIM}\nask = "nothing"', ["'flatter'", "ask = 'nothing'"]),
    "claim's ask of the training": (CLAIM, 'quantity = "seconds"\nask = "along"', ["'flatter'", "no `ask`"]),
    "claim on one of two": (K, f'{K}\n[[analyses]]\nname = "top_eigenvalues"\nid = "b"', ["asked 2 times", "b"]),
    "claim on a direction not asked": (
        f"{RADII}\n[[claims]]",
        f"{RADII[:-1]}, directions = ['gradient']}}\n[[claims]]\n"
        'id = "own"\nstatement = "s"\nsource = "s"\nquantity = "sharpness_batch_gradient"\n'
        'method = "msam"\nversus = "sgd"\ndirection = "less"\n[[claims]]',
        ["'own'", "'batch_gradient'", "['gradient']"],
    ),
    "claim on a radius not asked": (
        CLAIM,
        'quantity = "sharpness_momentum"',
        ["'flatter'", "radius -0.25 (sharpness_radius)", "[-0.5, 0.5]"],
    ),
    "claim's method": ('versus = "sgd"', 'versus = "sdg"', ["'flatter'", "'sdg'", "expected one of"]),
    "claim's direction": ('direction = "less"', 'direction = "fewer"', ["less or greater, got 'fewer'"]),
    "claim's outcome": (CLAIM, f"{CLAIM}\ndiverged = nan", ["diverged", "finite number"]),
    "claim twice": (STUDY[STUDY.index("[[claims]]") :], 2 * STUDY[STUDY.index("[[claims]]") :], ["'flatter' twice"]),
    # wrong types
    "title": ('title = "A small study"', "title = 7", ["title: expected text, got 7"]),
    "about": (HEAD, f"{HEAD}\nabout = [1]", ["about: expected text, got [1]"]),
    "seeds a number": ("seeds = [0, 1]", "seeds = 3", ["seeds", "got 3"]),
    "seeds empty": ("seeds = [0, 1]", "seeds = []", ["seeds", "got []"]),
    "seeds twice": ("seeds = [0, 1]", "seeds = [0, 0]", ["different whole numbers", "[0, 0]"]),
    "seeds text": ("seeds = [0, 1]", 'seeds = ["a"]', ["seeds: expected a whole number, got 'a'"]),
    "seeds truth": ("seeds = [0, 1]", "seeds = [true]", ["seeds: expected a whole number, got True"]),
    "experiment": ("[experiment]", "[[experiment]]", ["experiment: expected a table"]),
    "methods a list": (STUDY[STUDY.index("[exp") :], "methods = [1]", ["methods: expected a table, got [1]"]),
    "methods none": (STUDY[STUDY.index("[exp") :], "[methods]", ["methods"]),
    "method a number": (STUDY[STUDY.index("[exp") :], "[methods]\nsgd = 1", ["'sgd'", "a table, got 1"]),
    "label": ('label = "SGD"', "label = 7", ["label", "text, got 7"]),
    "options": (K, "options = 5", ["options of top_eigenvalues: expected a table, got 5"]),
    "steps a number": (K, f"{K}\nsteps = 3", ["all, first, last or a list of numbers, got 3"]),
    "steps of text": (K, f'{K}\nsteps = ["0"]', ["all, first, last or a list of numbers"]),
    "examples text": (K, f'{K}\nexamples = "9"', ["whole number", "'9'"]),
    "analyses a number": (
        STUDY[STUDY.index("[exp") :],
        "analyses = 5\n[methods.a]",
        ["analyses: expected a list, got 5"],
    ),
    "analyses of numbers": (STUDY[STUDY.index("[exp") :], "analyses = [5]\n[methods.a]", ["expected a table, got 5"]),
    "claims a table": (STUDY[STUDY.index("[[claims") :], "[claims]", ["claims: expected a list"]),
    "analysis's name": ('name = "top_eigenvalues"', "name = 1", ["name of an analysis: expected text, got 1"]),
    "analysis without a name": ('name = "top_eigenvalues"\n', "", ["name"]),
    "claim's statement": ('source = "test"', "source = 1", ["source of a claim: expected text, got 1"]),
    "claim without a source": ('source = "test"\n', "", ["source"]),
    "radius": (HEAD, f'{HEAD}\nsharpness_radius = "x"', ["sharpness_radius", "finite number, got 'x'"]),
    # no study
    "no TOML": (STUDY, "title = ", ["expected a study as TOML"]),
    "nothing": (STUDY, "", ["missing ['methods', 'seeds', 'title']"]),
    "nested": (STUDY, f"title = {'[' * 5000}{']' * 5000}", ["nested at most"]),
    "long": (STUDY, f"title = '{'x' * 70000}'", ["65536 characters"]),
    "no text": (STUDY, "title = \udcff", ["utf-8"]),
}
BEFORE = {"claim on a radius not asked": ("seeds = [0, 1]", "seeds = [0, 1]\nsharpness_radius = 0.25")}


@pytest.mark.parametrize("case", WRONG)
def test_it_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    old, new, says = WRONG[case]
    text = STUDY
    for before, after in ((old, new), *([BEFORE[case]] if case in BEFORE else [])):
        assert before in text
        text = text.replace(before, after, 1)
    (tmp_path / "wrong.toml").write_bytes(text.encode(errors="surrogateescape"))
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "wrong.toml", "--directory", "a/b/runs", "--jobs", "1"]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    (line,) = told.err.splitlines()
    assert line.startswith("landscape reproduce: error: ")
    assert len(line) < 2000
    for part in says:
        assert part in line, line
    assert [path.name for path in tmp_path.rglob("*")] == ["wrong.toml"]
    assert not (tmp_path.parent / "evil").exists()


@pytest.mark.parametrize("arguments", [["--jobs", "0"], ["--jobs", "x"], ["--job", "1"], ["--directory"]])
def test_wrong_options_are_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch
) -> None:
    (tmp_path / "right.toml").write_text(STUDY)
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", "right.toml", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert arguments[0].removeprefix("--") in line
    assert [path.name for path in tmp_path.rglob("*")] == ["right.toml"]
