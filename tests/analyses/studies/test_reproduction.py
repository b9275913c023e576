"""A small study from nothing to its report: nothing is done twice, every number returns, failures are told."""

import re
from pathlib import Path

import h5py
import numpy as np
import pytest

from analyses import saved
from analyses.studies.figures import FIGURES
from analyses.studies.report import write_report
from analyses.studies.reproduction import carry_out
from analyses.studies.results import QUANTITIES, Results, quantity
from analyses.studies.study import Study
from analyses.studies.verdicts import judge
from landscape.commands.parser import recipe
from landscape.training.training import Training

STUDY = """
title = "A small study"
seeds = [0, 1]
sharpness_radius = 0.5
[experiment]
data_options = {train_examples = 150}
model_options = {widths = [8]}
epochs = 2
checkpoint_every = 1
probe_every = 2
[methods.sgd]
label = "SGD"
optimizer = "plain"
[methods.msam]
label = "MSAM"
optimizer = "msam"
rho = 1.0
[[analyses]]
name = "top_eigenvalues"
options = {k = 2}
[[analyses]]
name = "directional_sharpness"
options = {radii = [-0.5, 0.5], samples = 2}
[[analyses]]
name = "gradient_similarity"
options = {batches = 2}
[[analyses]]
name = "psf"
options = {batches = 2}
[[claims]]
id = "flatter"
statement = "MSAM ends at a smaller eigenvalue than SGD"
source = "test"
quantity = "lambda_max"
method = "msam"
versus = "sgd"
direction = "less"
"""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    path = tmp_path_factory.mktemp("study") / "small.toml"
    path.write_text(STUDY)
    return Study.read(path)


@pytest.fixture(scope="module")
def results(study: Study, tmp_path_factory: pytest.TempPathFactory) -> Results:
    directory = tmp_path_factory.mktemp("runs")
    assert carry_out(study, directory, jobs=1) == {}
    return Results(study, directory)


def test_the_report_has_every_figure_number_and_verdict(results: Results) -> None:
    page = write_report(results, {})
    text = (results.directory / "report.md").read_text()
    for name in FIGURES:
        assert f"figures/{name.lower()}.png" in text
        assert (results.directory / "figures" / f"{name.lower()}.pdf").stat().st_size > 1000
    html = page.read_text()
    assert html.count("data:image/png;base64,") == len(FIGURES)
    assert not re.search(r'src="(?!data:)', html)  # self-contained
    assert re.search(r"HOLDS|REVERSED|NOT RESOLVED", text)
    assert "SGD" in text
    assert "MSAM" in text


def test_each_number_of_the_report_is_in_the_file_it_names(results: Results) -> None:
    """Read back with h5py alone, from the table under "Where each number comes from"."""
    write_report(results, {})
    text = (results.directory / "report.md").read_text().split("## Where each number comes from")[1]
    rows = [
        [cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if "`" in line
    ]
    assert len(rows) == 4 * len(QUANTITIES)
    for _, _, label, value, file, place in rows:
        with h5py.File(results.directory / file) as opened:
            if place.startswith("/metrics/"):
                name, step = place.removeprefix("/metrics/").split(", step ")
                series = opened["metrics"][name]
                found = series[np.asarray(series.dims[0][0]).tolist().index(int(step))]
            elif place == "/eigenvalue[0]":
                found = opened["eigenvalue"][0]
            else:
                direction, radius = re.match(r"/sharpness, direction (\w+), radius (.+)", place).groups()  # type: ignore[union-attr]
                names = [name.decode() for name in opened["direction"][:]]
                found = opened["sharpness"][names.index(direction), opened["radius"][:].tolist().index(float(radius))]
        assert float(value) == pytest.approx(float(found), rel=1e-5), (label, file, place)


def test_nothing_is_done_twice(results: Results, study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {path: path.stat().st_mtime_ns for path in results.directory.rglob("*.h5")}
    assert carry_out(study, results.directory, jobs=1) == {}
    assert files == {path: path.stat().st_mtime_ns for path in results.directory.rglob("*.h5")}


@pytest.mark.processes
def test_a_deleted_analysis_returns_with_the_same_number(results: Results, study: Study) -> None:
    run = results.runs["msam"][0]
    before = {q.name: q.read(results, run).value for q in QUANTITIES}
    for path in (run.path / "analyses").glob("*.h5"):
        path.unlink()
    assert carry_out(study, results.directory, jobs=1) == {}
    assert before == {q.name: q.read(results, run).value for q in QUANTITIES}


@pytest.mark.processes
def test_an_interrupted_study_goes_on(study: Study, results: Results, tmp_path: Path) -> None:
    """One run missing, one cut after its first epoch: the numbers are those of the undisturbed study."""
    from landscape.runs.run import Run
    from landscape.seeding import isolated
    from landscape.training.interruption import Interruption

    method, seed, folder = next(study.runs(tmp_path))
    experiment, execution = study.recipe_of(method, seed)
    run = Run.create(folder, experiment)
    with run.writing(), isolated(experiment.seed, "training"), Interruption() as interruption:
        training = Training(experiment, execution)
        training.evaluate()
        run.write(training.contents(run))
        training.run_epoch(interruption)
        training.evaluate()
        run.write(training.contents(run))
    assert carry_out(study, tmp_path, jobs=1) == {}
    again = Results(study, tmp_path)
    for q in QUANTITIES:
        if q.name != "seconds":
            assert q.read(again, again.runs["sgd"][0]).value == q.read(results, results.runs["sgd"][0]).value


def test_a_damaged_analysis_is_refused_by_name(results: Results, study: Study) -> None:
    run = results.runs["sgd"][1]
    file = results.file(run, "psf", run.steps[-1])
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"not HDF5 at all", b""):
        file.write_bytes(damage)
        with pytest.raises(saved.DamagedAnalysis, match=re.escape(str(file))):
            saved.analyze(run, "psf", rho=0.05, batches=2)
    file.write_bytes(whole)
    saved.analyze(run, "psf", rho=0.05, batches=2)


@pytest.mark.processes
def test_one_failing_run_does_not_stop_the_others(study: Study, tmp_path: Path) -> None:
    path = tmp_path / "failing.toml"
    path.write_text(STUDY.replace('optimizer = "plain"', 'optimizer = "plain"\nlr = 1e30').replace("[0, 1]", "[0]"))
    failing = Study.read(path)
    failures = carry_out(failing, tmp_path / "runs", jobs=1)
    ((folder, reason),) = failures.items()
    assert folder.parts[-2:] == ("sgd", "seed-0")
    assert "not finite" in reason
    results = Results(failing, tmp_path / "runs")
    assert list(results.labels) == ["msam"]
    assert list(results.diverged) == [("sgd", 0)]
    write_report(results, failures)
    assert "sgd: 0 of 1 runs are whole" in (tmp_path / "runs" / "report.md").read_text()


def test_the_judged_difference_is_paired(results: Results, study: Study) -> None:
    (verdict,) = judge(results)
    numbers = results.numbers(quantity("lambda_max"))
    expected = np.mean([numbers["msam"][s].value - numbers["sgd"][s].value for s in (0, 1)])
    assert verdict.difference == pytest.approx(expected)
    assert verdict.seeds == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title = 'x'", "missing.*methods.*seeds"),
        (STUDY + "\n[extra]\n", "unknown.*extra"),
        (STUDY.replace('versus = "sgd"', 'versus = "sdg"'), "'flatter' speaks of 'sdg'.*expected one of.*msam.*sgd"),
        (STUDY.replace("options = {k = 2}", "option = {k = 2}"), "Question, got.*option"),
        ("title = ", "expected a study as TOML"),
        (STUDY.replace('direction = "less"', 'direction = "smaller"'), "flatter.*less or greater, got 'smaller'"),
        (STUDY.replace("options = {k = 2}", 'options = {k = 2}\nsteps = "soon"'), "all, first, last or a list"),
        (STUDY.replace("[0, 1]", "[0, 0]"), "list of different whole numbers"),
        (STUDY.replace("[0, 1]", "3"), "list of different whole numbers"),
    ],
)
def test_wrong_studies_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(ValueError, match=f"(?s){says}"):
        Study.read(tmp_path / "wrong.toml")


def test_the_packaged_demo_is_a_study_of_valid_experiments() -> None:
    demo = Study.read(recipe("demo", "studies"))
    assert len(demo.seeds) >= 5
    assert len({(demo.experiment_of(m, s)).to_toml() for m in demo.methods for s in demo.seeds}) == 25
    assert {quantity(claim.quantity).name for claim in demo.claims}


@pytest.mark.processes
def test_a_study_without_analyses_still_has_its_report(tmp_path: Path) -> None:
    asks_nothing = STUDY.split("[[analyses]]")[0].replace("[0, 1]", "[0]").replace("probe_every = 2", "")
    (tmp_path / "bare.toml").write_text(asks_nothing)
    bare = Study.read(tmp_path / "bare.toml")
    assert carry_out(bare, tmp_path / "runs", jobs=1) == {}
    write_report(Results(bare, tmp_path / "runs"), {})
    text = (tmp_path / "runs" / "report.md").read_text()
    assert "test accuracy, final" in text
    assert "λ_max" not in text
    assert "## Training" in text
    assert "## Momentum" not in text


def test_a_run_without_all_its_answers_is_left_out_and_named(results: Results, study: Study) -> None:
    run = results.runs["sgd"][1]
    file = results.file(run, "psf", run.steps[-1])
    kept = file.read_bytes()
    file.unlink()
    incomplete = Results(study, results.directory)
    assert list(incomplete.runs["sgd"]) == [0]
    write_report(incomplete, {})
    assert "sgd: 1 of 2 runs are whole" in (results.directory / "report.md").read_text()
    file.write_bytes(kept)


def test_equal_questions_have_one_file_and_vectors_have_none(results: Results) -> None:
    import torch

    run = results.runs["sgd"][0]
    asked = {"split": "train", "examples": None, "dtype": None}
    paths = {
        saved.analysis_path(run, "directional_sharpness", 4, **asked, options={"directions": directions})
        for directions in (("gradient", "random"), ["gradient", "random"])
    }
    assert len(paths) == 1
    with pytest.raises(TypeError, match=r"text and numbers.*Tensor"):
        saved.analyze(run, "directional_sharpness", momentum=torch.ones(5000))
