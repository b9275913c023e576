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
[execution]
checkpoint_every = 1
[arms.sgd]
label = "SGD"
[arms.msam]
optimizer = "msam"
rho = 1.0
[asks.top]
analysis = "top_eigenvalues"
options = {k = 2}
[asks.along]
analysis = "directional_sharpness"
options = {radii = [-0.5, 0.5], samples = 2}
[values.lambda_max]
ask = "top"
variable = "eigenvalue"
sel = {k = 1}
[values.rise]
ask = "along"
variable = "sharpness"
sel = {direction = "batch_gradient", radius = 0.5}
[[claims]]
id = "flatter"
statement = "MSAM ends at a smaller eigenvalue than SGD"
source = "test"
value = "lambda_max"
arms = ["msam", "sgd"]
direction = "less"
"""
)
K = "options = {k = 2}"
RADII = "options = {radii = [-0.5, 0.5], samples = 2}"
CLAIM = 'value = "lambda_max"'
ARMS = 'arms = ["msam", "sgd"]'
READ = 'ask = "top"\nvariable = "eigenvalue"\nsel = {k = 1}'


# what is replaced, by what, and parts of the line that answers it
WRONG = {
    # names become folders
    "arm up": ("arms.msam]", 'arms."../../evil"]', ["'../../evil'", "plain name"]),
    "arm absolute": ("arms.msam]", 'arms."/tmp/evil"]', ["'/tmp/evil'", "plain name"]),
    "arm empty": ("arms.msam]", 'arms.""]', ["''", "plain name"]),
    "arm hidden": ("arms.msam]", 'arms.".msam"]', ["'.msam'", "plain name"]),
    "arm in a folder": ("arms.msam]", 'arms."a/b"]', ["'a/b'", "plain name"]),
    "arm with a backslash": ("arms.msam]", "arms.'a\\b']", ["plain name"]),
    "arm with an end of line": ("arms.msam]", 'arms."a\\n"]', ["plain name"]),
    "arm another in case": ("arms.msam]", "arms.SGD]", ["more than case", "SGD"]),
    "ask's name a path": ("[asks.along]", '[asks."../along"]', ["'../along'", "plain name"]),
    # what there is not
    "split": (K, f'{K}\nsplit = "validation"', ["top", "train or test", "'validation'"]),
    "dtype": (K, f'{K}\ndtype = "float16"', ["float32 or float64", "'float16'"]),
    "examples zero": (K, f"{K}\nexamples = 0", ["at least 1, got 0"]),
    "examples more than there are": (K, f"{K}\nexamples = 151", ["1 to 150 of the train split, got 151"]),
    "examples more than the test split": (K, f'{K}\nsplit = "test"\nexamples = 99999', ["test split, got 99999"]),
    "analysis": ('analysis = "top_eigenvalues"', 'analysis = "top_eigenvalue"', ["top_eigenvalue", "expected one of"]),
    "option": (K, "options = {kk = 2}", ["top: unknown option 'kk'", "among", "k"]),
    "option's type": (K, 'options = {k = "two"}', ["top: k: expected", "got 'two'"]),
    "option's range": (K, "options = {k = 0}", ["top: k: expected", "got 0"]),
    "option's entries": (RADII, 'options = {radii = ["a"]}', ["along: radii: expected", "'a'"]),
    "option of a vector": (RADII, "options = {momentum = [1.0]}", ["along: unknown option 'momentum'"]),
    "step": (K, f"{K}\nsteps = [0, 4, 6]", ["no checkpoint at step 4", "6"]),
    "step by word": (K, f'{K}\nsteps = "soon"', ["all, first, last or a list", "'soon'"]),
    "steps empty": (K, f"{K}\nsteps = []", ["all, first, last or a list"]),
    "key of an analysis": (K, "option = {k = 2}", ["Ask", "option"]),
    "key of a study": (HEAD, f"{HEAD}\nnothing = 1", ["unknown ['nothing']"]),
    "key of an experiment": ("epochs = 2", "epoch = 2", ["epoch"]),
    "optimizer": ('optimizer = "msam"', 'optimizer = "msan"', ["arm 'msam'", "'msan'", "expected one of"]),
    "optimizer's option": ("rho = 1.0", "optimizer_options = {rhoo = 1.0}", ["arm 'msam'", "rhoo"]),
    "model": ("epochs = 2", 'epochs = 2\nmodel = "mpl"', ["arm 'sgd'", "'mpl'"]),
    "model's option": ("{widths = [8]}", "{width = [8]}", ["arm 'sgd'", "width"]),
    "data": ("epochs = 2", 'epochs = 2\ndata = "digit"', ["arm 'sgd'", "'digit'"]),
    # claims
    "claim's value": (CLAIM, 'value = "lamda"', ["'flatter'", "'lamda'", "expected one of", "lambda_max"]),
    "value of an ask that is not there": ('ask = "top"', 'ask = "psf"', ["'lambda_max'", "'psf'", "along, top"]),
    "claim on an ask not asked of its arm": (K, f'{K}\narms = ["sgd"]', ["'flatter'", "'top'", "the arm 'msam'"]),
    "ask of an arm that is not there": (K, f'{K}\narms = ["sdg"]', ["'top'", "'sdg'", "msam, sgd"]),
    "claim on an analysis asked of the first step alone": (
        K,
        f'{K}\nsteps = "first"',
        ["'flatter'", "the first alone"],
    ),
    "claim on steps without the last": (K, f"{K}\nsteps = [0, 3]", ["'flatter'", "step 6"]),
    "value of nothing": (READ, 'unit = "1"', ["'lambda_max'", "either a metric or an ask"]),
    "value of both": ('ask = "top"', 'ask = "top"\nmetric = "loss"', ["'lambda_max'", "either a metric or an ask"]),
    "metric": (READ, 'metric = "test_acuracy"', ["arm 'sgd'", "'test_acuracy'", "test_accuracy"]),
    "metric's time": (READ, 'metric = "loss"\nat = "soon"', ["last, peak, mean", "'soon'"]),
    "variable": ('"eigenvalue"', '"eigenvalues"', ["'lambda_max', of top", "'eigenvalues'", "eigenvalue"]),
    "dimension": ("sel = {k = 1}", "sel = {kk = 1}", ["'lambda_max', of top", "dimensions k, got kk"]),
    "dimension left": ("\nsel = {k = 1}", "", ["'lambda_max', of top", "dimensions k, got none"]),
    "value of a direction not asked": (
        RADII,
        f"{RADII[:-1]}, directions = ['gradient']}}",
        ["'rise', of along", "'batch_gradient'", "among gradient"],
    ),
    "value of a radius not asked": (
        "radius = 0.5}",
        "radius = -0.25}",
        ["'rise', of along", "radius among -0.5, 0.5, got -0.25"],
    ),
    "format": (
        'variable = "eigenvalue"',
        'variable = "eigenvalue"\nformat = "x.2"',
        ["'lambda_max'", "format", "'x.2'"],
    ),
    "claim's arm": (ARMS, 'arms = ["msam", "sdg"]', ["'flatter'", "'sdg'", "expected one of"]),
    "claim's arms": (ARMS, 'arms = ["msam"]', ["'flatter'", "difference: expected 2 arms, got 1"]),
    "claim's arms twice": (ARMS, 'arms = ["sgd", "sgd"]', ["'flatter'", "different arms"]),
    "claim's statistic": (ARMS, f'{ARMS}\nstatistic = "slop"', ["'flatter'", "unknown statistic 'slop'", "slope"]),
    "slope without levels": (ARMS, f'{ARMS}\nstatistic = "slope"', ["'flatter'", "expected levels, got neither"]),
    "levels without a slope": (
        ARMS,
        f"{ARMS}\nlevels = [1, 2]",
        ["'flatter'", "neither levels nor against, got levels"],
    ),
    "levels too few": (
        ARMS,
        f'{ARMS}\nstatistic = "slope"\nlevels = [1]',
        ["'flatter'", "a different level for each of 2"],
    ),
    "equivalence without a margin": (
        f'{ARMS}\ndirection = "less"',
        f'{ARMS}\ndirection = "equal"\nstatistic = "equivalence"',
        ["'flatter'", "min_effect", "above 0"],
    ),
    "smallest effect": (ARMS, f"{ARMS}\nmin_effect = -1", ["'flatter'", "min_effect", "at least 0"]),
    "claim's seeds": (ARMS, f"{ARMS}\nseeds = [1, 1]", ["'flatter'", "different whole numbers"]),
    "not testable at no scale": (ARMS, f"{ARMS}\nnot_testable = {{huge = 'x'}}", ["'flatter'", "'huge'", "tiny"]),
    "scale": ("[execution]", "[scales.huge]\n[execution]", ["'huge'", "tiny, small"]),
    "older format": (
        STUDY,
        "title = 'x'\nseeds = [0]\n[methods.sgd]\n[[analyses]]\nname = 'psf'",
        ["older release", "[arms.x]"],
    ),
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
    "arms a list": (STUDY[STUDY.index("[exp") :], "arms = [1]", ["arms: expected a table, got [1]"]),
    "arms none": (STUDY[STUDY.index("[exp") :], "[arms]", ["arms"]),
    "arm a number": (STUDY[STUDY.index("[exp") :], "[arms]\nsgd = 1", ["'sgd'", "a table, got 1"]),
    "label": ('label = "SGD"', "label = 7", ["label", "text, got 7"]),
    "options": (K, "options = 5", ["options of top: expected a table, got 5"]),
    "steps a number": (K, f"{K}\nsteps = 3", ["all, first, last or a list of numbers, got 3"]),
    "steps of text": (K, f'{K}\nsteps = ["0"]', ["all, first, last or a list of numbers"]),
    "examples text": (K, f'{K}\nexamples = "9"', ["whole number", "'9'"]),
    "asks a number": (STUDY[STUDY.index("[exp") :], "asks = 5\n[arms.a]", ["asks: expected a table, got 5"]),
    "asks of numbers": (STUDY[STUDY.index("[exp") :], "[asks]\na = 5\n[arms.a]", ["expected a table, got 5"]),
    "claims a table": (STUDY[STUDY.index("[[claims") :], "[claims]", ["claims: expected a list"]),
    "analysis's name": ('analysis = "top_eigenvalues"', "analysis = 1", ["top: analysis: expected text, got 1"]),
    "analysis without a name": ('analysis = "top_eigenvalues"\n', "", ["unknown analysis 'top'"]),
    "claim's statement": ('source = "test"', "source = 1", ["source of a claim: expected text, got 1"]),
    "claim without a source": ('source = "test"\n', "", ["source"]),
    "coordinate": ("sel = {k = 1}", "sel = {k = [1]}", ["'lambda_max'", "text or a number for k, got [1]"]),
    # no study
    "no TOML": (STUDY, "title = ", ["expected claims as TOML"]),
    "nothing": (STUDY, "", ["missing ['arms', 'seeds', 'title']"]),
    "nested": (STUDY, f"title = {'[' * 5000}{']' * 5000}", ["nested at most"]),
    "long": (STUDY, f"title = '{'x' * 70000}'", ["65536 characters"]),
    "no text": (STUDY, "title = \udcff", ["utf-8"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_it_is_refused(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    old, new, says = WRONG[case]
    text = STUDY
    assert old in text
    text = text.replace(old, new, 1)
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
