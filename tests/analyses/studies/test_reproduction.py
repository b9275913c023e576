"""A small study from nothing to its report: nothing is done twice, every number returns, failures are told."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from analyses import saved
from analyses.studies import jobs, outcomes
from analyses.studies.answers import Answers
from analyses.studies.carrying_out import complete
from analyses.studies.claims import Claims
from analyses.studies.figures import FIGURES
from analyses.studies.judge import JUDGED, judge
from analyses.studies.plan import Plan, answer_file
from analyses.studies.report import write_report
from analyses.studies.values import value_of
from analyses.studies.workers import Failure
from landscape.__main__ import main
from landscape.commands.parser import recipe
from landscape.runs.run import Run
from landscape.store.dataset_file import read_dataset, write_dataset
from landscape.training.training import Training

STUDY = """
title = "A small study"
seeds = [0, 1]
[experiment]
data_options = {train_examples = 150}
model_options = {widths = [8]}
epochs = 2
[execution]
checkpoint_every = 1
probe_every = 2
[arms.sgd]
label = "SGD"
optimizer = "plain"
[arms.msam]
label = "MSAM"
optimizer = "msam"
rho = 1.0
[asks.top_eigenvalues]
options = {k = 2}
[asks.directional_sharpness]
options = {radii = [-0.5, 0.5], samples = 2}
[asks.gradient_similarity]
options = {batches = 2}
[asks.psf]
options = {batches = 2}
[values.lambda_max]
label = "λ_max"
ask = "top_eigenvalues"
variable = "eigenvalue"
sel = {k = 1}
[values.rise]
label = "sharpness, −momentum"
ask = "directional_sharpness"
variable = "sharpness"
sel = {direction = "momentum", radius = -0.5}
[[claims]]
id = "flatter"
statement = "MSAM ends at a smaller eigenvalue than SGD"
source = "test"
value = "lambda_max"
arms = ["msam", "sgd"]
direction = "less"
"""
VALUES = 7  # five of every training, two of its own


@pytest.fixture(scope="module")
def claims() -> Claims:
    return Claims.parse("small", STUDY)


@pytest.fixture(scope="module")
def folder(claims: Claims, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that has been carried out; its runs lie in `runs`."""
    folder = tmp_path_factory.mktemp("study")
    assert complete(claims, folder / "runs", jobs=1) == {}
    return folder


def report(claims: Claims, folder: Path, runs: Path | None = None) -> str:
    """Judge and report; the text."""
    runs = runs or folder / "runs"
    write_dataset(folder / "claims.h5", judge(claims, runs), JUDGED)
    write_report(folder, runs)
    return (folder / "report.md").read_text()


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports without figures, which take most of the time of one."""
    monkeypatch.setattr("analyses.studies.report.drawable", lambda answers: {})


def run_of(claims: Claims, runs: Path, arm: str, seed: int) -> Run:
    return Run.open(runs / claims.experiment_of(arm, seed).digest)


def numbers(claims: Claims, run: Run) -> dict[str, float]:
    return {name: value_of(value, run, claims.asks).value for name, value in claims.values.items()}


def test_the_report_has_every_figure_number_and_verdict(claims: Claims, folder: Path) -> None:
    text = report(claims, folder)
    for name in FIGURES:
        assert f"figures/{name.lower()}.png" in text
        assert (folder / "figures" / f"{name.lower()}.pdf").stat().st_size > 1000
    html = (folder / "report.html").read_text()
    assert html.count("data:image/png;base64,") == len(FIGURES)
    assert not re.search(r'src="(?!data:)', html)  # self-contained
    assert re.search(r"HOLDS|REVERSED|NOT RESOLVED", text)
    assert "SGD" in text
    assert "MSAM" in text


@pytest.mark.usefixtures("undrawn")
def test_each_number_of_the_report_is_in_the_file_it_names(claims: Claims, folder: Path) -> None:
    """Read back with h5py alone, from the table under "Where each number comes from"."""
    text = report(claims, folder).split("## Where each number comes from")[1]
    rows = [
        [cell.strip().strip("`") for cell in line.strip("| ").split(" | ")] for line in text.splitlines() if "`" in line
    ]
    assert len(rows) == 4 * VALUES
    for _, _, label, value, file, place in rows:
        with h5py.File(folder / file) as opened:
            if place.startswith("/metrics/"):
                name, step = place.removeprefix("/metrics/").split(", step ")
                series = opened["metrics"][name]
                found = series[np.asarray(series.dims[0][0]).tolist().index(int(step))]
            else:
                variable, index, at = re.fullmatch(r"/(\w+)\[([\d, ]+)\], (.+)", place).groups()  # type: ignore[union-attr]
                position = tuple(map(int, index.split(", ")))
                found = opened[variable][position]
                for said, where in zip(at.split(", "), position, strict=True):
                    dim, named = said.split()
                    there = opened[dim][where]
                    assert there.decode() == named if isinstance(there, bytes) else float(named) == pytest.approx(there)
        assert float(value) == pytest.approx(float(found), rel=1e-5), (label, file, place)


def test_nothing_is_done_twice(claims: Claims, folder: Path) -> None:
    files = {path: path.stat().st_mtime_ns for path in folder.rglob("runs/**/*.h5")}
    assert complete(claims, folder / "runs", jobs=1) == {}
    assert files == {path: path.stat().st_mtime_ns for path in folder.rglob("runs/**/*.h5")}
    assert Plan.of(claims).missing(folder / "runs") == []


@pytest.mark.processes
def test_a_deleted_analysis_returns_with_the_same_number(claims: Claims, folder: Path) -> None:
    run = run_of(claims, folder / "runs", "msam", 0)
    before = numbers(claims, run)
    for path in (run.path / "analyses").glob("*.h5"):
        path.unlink()
    assert {job.name for job in Plan.of(claims).missing(folder / "runs")} == set(claims.asks)
    assert complete(claims, folder / "runs", jobs=1) == {}
    assert before == numbers(claims, run)


@pytest.mark.processes
def test_an_interrupted_study_goes_on(claims: Claims, folder: Path, tmp_path: Path) -> None:
    """One run missing, one cut after its first epoch: the numbers are those of the undisturbed study."""
    from landscape.seeding import isolated
    from landscape.training.interruption import Interruption

    experiment, execution = claims.recipe_of("sgd", 0)
    run = Run.create(tmp_path / experiment.digest, experiment)
    with run.writing(), isolated(experiment.seed, "training"), Interruption() as interruption:
        training = Training(experiment, execution)
        training.evaluate()
        run.write(training.contents(run))
        training.run_epoch(interruption)
        training.evaluate()
        run.write(training.contents(run))
    assert complete(claims, tmp_path, jobs=1) == {}
    again, before = (numbers(claims, run_of(claims, runs, "sgd", 0)) for runs in (tmp_path, folder / "runs"))
    for name in claims.values:
        if name != "seconds":
            assert again[name] == before[name]


def test_a_damaged_analysis_is_refused_by_name(claims: Claims, folder: Path) -> None:
    run = run_of(claims, folder / "runs", "sgd", 1)
    file = answer_file(run, claims.asks["psf"], run.steps[-1])
    whole = file.read_bytes()
    for damage in (whole[: len(whole) // 2], b"not HDF5 at all", b""):
        file.write_bytes(damage)
        with pytest.raises(saved.DamagedAnalysis, match=re.escape(str(file))):
            saved.analyze(run, "psf", rho=0.05, batches=2)
    file.write_bytes(whole)
    saved.analyze(run, "psf", rho=0.05, batches=2)


@pytest.mark.processes
@pytest.mark.usefixtures("undrawn")
def test_a_diverged_arm_is_an_outcome_and_does_not_stop_the_others(tmp_path: Path) -> None:
    text = STUDY.replace('optimizer = "plain"', 'optimizer = "plain"\nlr = 1e30').replace("[0, 1]", "[0]")
    failing = Claims.parse("failing", text)
    ((job, failure),) = complete(failing, tmp_path / "runs", jobs=1).items()
    assert (job.digest, job.ask) == (failing.experiment_of("sgd", 0).digest, None)
    assert "not finite" in failure.message
    answers = Answers(failing, tmp_path / "runs")
    assert [arm for arm, runs in answers.runs.items() if runs] == ["msam"]
    assert outcomes.diverged(tmp_path / "runs", job.digest)
    told = report(failing, tmp_path)
    assert "sgd: 0 of 1 runs are whole" in told
    assert re.search(r"sgd, seed 0 \(`\w{16}`\) diverged: .*not finite", told)
    assert "diverged, and the claim names no value" in told
    assert Plan.of(failing).missing(tmp_path / "runs") == []  # an outcome: not trained again


@pytest.mark.processes
@pytest.mark.usefixtures("undrawn")
def test_a_killed_worker_costs_one_job_and_a_missing_run_its_claims(
    claims: Claims, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a kill: two jobs answer as a killed process does (tests/…/test_workers.py kills real ones)."""
    shutil.copytree(folder / "runs", tmp_path / "runs")
    runs = tmp_path / "runs"
    killed = run_of(claims, runs, "sgd", 1)
    for file in (killed.path / "analyses").glob("top_eigenvalues-*"):
        file.unlink()
    missing = claims.experiment_of("msam", 0).digest
    shutil.rmtree(runs / missing)
    monkeypatch.setattr(
        jobs,
        "in_processes",
        lambda work, tasks, **_: (
            (job, Failure("killed", "by SIGKILL")) for job in tasks if job.ask is None or job.digest != missing
        ),
    )
    failures = complete(claims, runs, jobs=1)
    assert {(job.digest, job.name) for job in failures} == {
        (killed.path.name, "top_eigenvalues"),
        (missing, "training"),
    }
    told = report(claims, tmp_path)
    assert re.search(r"sgd, seed 1 \(`\w{16}`\) has no answer to everything: top_eigenvalues: killed: by SIGKILL", told)
    assert re.search(r"msam, seed 0 \(`\w{16}`\) is missing: its training failed: killed: by SIGKILL", told)
    assert "NOT RESOLVED: msam, seed 0: missing" in told
    judged = read_dataset(tmp_path / "claims.h5", JUDGED)
    kept = [
        str(c)
        for a, s, c in zip(
            judged.number_arm.values, judged.number_seed.values, judged.number_column.values, strict=True
        )
        if (a, s) == ("sgd", 1)
    ]
    assert set(kept) == set(claims.values)
    monkeypatch.undo()
    assert complete(claims, runs, jobs=1) == {}  # tried again
    assert outcomes.failed(runs, missing) == {}
    assert judge(claims, runs).claim_reason.item() == ""


def test_the_judged_difference_is_paired(claims: Claims, folder: Path) -> None:
    judged = judge(claims, folder / "runs")
    found = {
        arm: [numbers(claims, run_of(claims, folder / "runs", arm, seed))["lambda_max"] for seed in (0, 1)]
        for arm in claims.arms
    }
    expected = np.mean(np.subtract(found["msam"], found["sgd"]))
    assert judged.claim_effect.item() == pytest.approx(expected)
    assert judged.claim_seeds.item() == 2


def test_a_second_call_does_nothing_and_a_touched_file_is_looked_at(
    claims: Claims, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "runs", tmp_path / "there" / "runs")
    (tmp_path / "small.toml").write_text(STUDY)
    command = ["reproduce", str(tmp_path / "small.toml"), "--directory", str(tmp_path / "there"), "--jobs", "1"]
    assert main(command) == 0
    page = capsys.readouterr().out
    states = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    monkeypatch.setattr("analyses.studies.carrying_out.reproduce", None)  # nothing of it is called
    assert main(command) == 0
    told = capsys.readouterr()
    assert told.out == page
    assert "nothing is missing, and no file has changed" in told.err
    assert states == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    some = next((tmp_path / "there" / "runs").glob("*/analyses/psf-*.h5"))
    for damaged in (some, tmp_path / "there" / "claims.h5", tmp_path / "there" / "figures" / "psf.png"):
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[:-1])
        assert main(command) == 2  # it would be called
        assert "NoneType" in capsys.readouterr().err
        damaged.write_bytes(whole)


@pytest.mark.processes
def test_the_second_call_imports_no_torch(folder: Path) -> None:
    code = "import sys\nimport landscape.commands.reproduce\nassert not {'torch', 'xarray', 'matplotlib', 'analyses'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])


def test_the_plan_says_runs_asks_and_what_is_missing(claims: Claims, folder: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "small.toml").write_text(STUDY + "[scales.tiny]\nseeds = [0]\nexperiment = {epochs = 1}\n")
    run = run_of(claims, folder / "runs", "sgd", 0)
    shutil.copytree(run.path, tmp_path / "runs" / run.path.name)
    command = ["plan", str(tmp_path / "small.toml"), "--runs", str(tmp_path / "runs")]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert "4 runs, 16 asks, 1 claims" in told
    assert (
        f"| {run.path.name} | sgd 0 | 12 | top_eigenvalues, directional_sharpness, gradient_similarity, psf | – |"
        in told
    )
    assert re.search(r"missing: 3 trainings, 36 gradients", told)
    assert main([*command, "--scale", "tiny"]) == 0
    told = capsys.readouterr().out
    assert "2 runs, 8 asks" in told
    assert "epochs: 2 in the paper, 1 here" in told
    assert not (tmp_path / "runs" / "report.md").exists()


def test_runs_are_shared_by_arms_and_files_that_want_the_same(claims: Claims, folder: Path) -> None:
    """Whatever does not decide the numbers; another number is another run."""
    same = STUDY.replace("[arms.msam]", '[arms.again]\nlabel = "again"\noptimizer = "plain"\n[arms.msam]')
    two = Claims.parse("two", same)
    assert len(Plan.of(two).runs) == len(Plan.of(claims).runs) == len(Plan.of(claims, two).runs) == 4
    faster = Claims.parse("faster", STUDY.replace("probe_every = 2", "probe_every = 0"))
    assert set(Plan.of(faster).runs) == set(Plan.of(claims).runs)
    with pytest.raises(
        ValueError, match=r"recorded under another execution \(probe_every = 2 there, 0 here\).*--runs folder"
    ):
        Plan.of(faster).missing(folder / "runs")
    elsewhere = Claims.parse("elsewhere", STUDY.replace("probe_every = 2", "probe_every = 2\nworkers = 1"))
    assert Plan.of(elsewhere).missing(folder / "runs") == []  # what decides no number may differ
    longer = Claims.parse("longer", STUDY.replace("epochs = 2", "epochs = 3"))
    assert not set(Plan.of(longer).runs) & set(Plan.of(claims).runs)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("title = 'x'", "missing.*arms.*seeds"),
        (STUDY + "\n[extra]\n", "unknown.*extra"),
        (STUDY.replace('"sgd"]', '"sdg"]'), "'flatter'.*expected one of.*msam.*sgd.*'sdg'"),
        (STUDY.replace("options = {k = 2}", "option = {k = 2}"), "Ask, got.*option"),
        ("title = ", "expected claims as TOML"),
        (STUDY.replace('direction = "less"', 'direction = "smaller"'), "flatter.*less or greater, got 'smaller'"),
        (STUDY.replace("options = {k = 2}", 'options = {k = 2}\nsteps = "soon"'), "all, first, last or a list"),
        (STUDY.replace("[0, 1]", "[0, 0]"), "list of different whole numbers"),
        (STUDY.replace("[0, 1]", "3"), "list of different whole numbers"),
    ],
)
def test_wrong_studies_are_refused(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "wrong.toml").write_text(text)
    with pytest.raises(ValueError, match=f"(?s){says}"):
        Claims.read(tmp_path / "wrong.toml")


def test_the_packaged_demo_is_a_study_of_valid_experiments() -> None:
    demo = Claims.read(recipe("demo", "claims"))
    assert len(demo.seeds) >= 5
    assert len(Plan.of(demo).runs) == 25
    assert {demo.values[claim.value].name for claim in demo.claims}
    assert len(Plan.of(Claims.read(recipe("demo", "claims"), "tiny")).runs) == 10


@pytest.mark.processes
def test_a_study_without_analyses_still_has_its_report(tmp_path: Path) -> None:
    asks_nothing = STUDY.split("[asks.")[0].replace("[0, 1]", "[0]").replace("probe_every = 2", "")
    bare = Claims.parse("bare", asks_nothing)
    assert complete(bare, tmp_path / "runs", jobs=1) == {}
    text = report(bare, tmp_path)
    assert "test accuracy, final" in text
    assert "λ_max" not in text
    assert "## Training" in text
    assert "## Momentum" not in text


@pytest.mark.usefixtures("undrawn")
def test_a_run_without_all_its_answers_is_named_and_the_numbers_it_has_are_kept(claims: Claims, folder: Path) -> None:
    run = run_of(claims, folder / "runs", "sgd", 1)
    file = answer_file(run, claims.asks["psf"], run.steps[-1])
    kept = file.read_bytes()
    file.unlink()
    answers = Answers(claims, folder / "runs")
    assert list(answers.series(claims.asks["psf"])["SGD"].seed.values) == [0]
    told = report(claims, folder)
    assert "sgd: 1 of 2 runs are whole" in told
    assert re.search(r"sgd, seed 1 .* has no answer to everything: psf: not answered", told)
    file.write_bytes(kept)


def test_equal_questions_have_one_file_and_vectors_have_none(claims: Claims, folder: Path) -> None:
    import torch

    run = run_of(claims, folder / "runs", "sgd", 0)
    asked = {"split": "train", "examples": None, "dtype": None}
    paths = {
        saved.analysis_path(run, "directional_sharpness", 4, **asked, options={"directions": directions})
        for directions in (("gradient", "random"), ["gradient", "random"])
    }
    assert len(paths) == 1
    with pytest.raises(TypeError, match=r"text and numbers.*Tensor"):
        saved.analyze(run, "directional_sharpness", momentum=torch.ones(5000))
