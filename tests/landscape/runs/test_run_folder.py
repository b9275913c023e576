"""A run: created or recognised, never mixed; metrics over all segments; the model back at its weights."""

import subprocess

import numpy as np
import pytest
import torch

from landscape.experiment import Experiment
from landscape.objective.parameters import ParameterSpace
from landscape.runs import provenance
from landscape.runs.lock import RunInUse
from landscape.runs.run import Checkpoint, Run
from landscape.store.refused_file import RefusedFile

EXPERIMENT = Experiment(data="digits", model="mlp", epochs=2)


def save(run, step, first=0, **changes):
    model = torch.nn.Linear(2, 2)
    steps = np.arange(first, step)
    options = {
        "model": model,
        "momentum": None,
        "state": {},
        "metrics": {"loss": (steps, 1.0 / (1 + steps)), "psf": (steps[::5], steps[::5] * 1.0)},
    }
    return run.save(step, **{**options, **changes})


def test_a_new_run_has_its_experiment_and_nothing_else(tmp_path):
    run = Run.create(tmp_path / "runs/a", EXPERIMENT)
    assert Run.open(tmp_path / "runs/a").experiment == EXPERIMENT
    assert (run.steps, run.finished, dict(run.metrics.sizes)) == ((), False, {})
    with pytest.raises(KeyError, match="no checkpoint yet"):
        run.checkpoint("last")


def test_the_same_experiment_is_recognised_and_another_refused(tmp_path):
    save(Run.create(tmp_path / "a", EXPERIMENT), 10)
    assert Run.create(tmp_path / "a", EXPERIMENT).steps == (10,)
    with pytest.raises(ValueError, match=r"another experiment \(lr = 0\.1 there, 0\.5 here\)"):
        Run.create(tmp_path / "a", EXPERIMENT.replace(lr=0.5))
    assert Run.open(tmp_path / "a").experiment == EXPERIMENT


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("hours of work")
    with pytest.raises(ValueError, match="other files"):
        Run.create(tmp_path, EXPERIMENT)
    assert [file.name for file in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(FileNotFoundError, match=r"no experiment\.toml"):
        Run.open(tmp_path)


def test_a_run_that_died_while_it_was_created_is_created(tmp_path):
    (tmp_path / "a/checkpoints").mkdir(parents=True)
    (tmp_path / "a/.writer").write_text("process 1 on a machine that is gone\n")
    (tmp_path / "a/.tmp-1-00-experiment.toml").write_text("half")
    assert Run.create(tmp_path / "a", EXPERIMENT).experiment == EXPERIMENT
    (tmp_path / "b/checkpoints").mkdir(parents=True)
    (tmp_path / "b/checkpoints/mine.h5").write_text("somebody's")
    with pytest.raises(ValueError, match="other files"):
        Run.create(tmp_path / "b", EXPERIMENT)


def test_a_damaged_experiment_is_refused_by_file(tmp_path):
    Run.create(tmp_path / "a", EXPERIMENT)
    (tmp_path / "a/experiment.toml").write_text("lr = [")
    with pytest.raises(RefusedFile, match=r"experiment\.toml: its experiment is not one"):
        Run.open(tmp_path / "a").experiment  # noqa: B018


def test_finished_is_what_the_last_checkpoint_says(tmp_path):
    run = Run.create(tmp_path / "a", EXPERIMENT)
    save(run, 10)
    assert not run.finished
    save(run, 20, first=10, last=True)
    assert run.finished
    assert Run.create(tmp_path / "a", EXPERIMENT).finished


def test_checkpoints_by_step_first_and_last(tmp_path):
    run = Run.create(tmp_path / "a", EXPERIMENT)
    for step in (30, 0, 7):
        save(run, step)
    assert run.steps == (0, 7, 30)
    assert [run.checkpoint(which).step for which in ("first", 7, "last")] == [0, 7, 30]
    with pytest.raises(KeyError, match=r"no checkpoint at step 8.*\(0, 7, 30\)"):
        run.checkpoint(8)
    run.checkpoint_path(7).rename(run.checkpoint_path(8))
    with pytest.raises(RefusedFile, match="expected the checkpoint of step 8, got that of 7"):
        run.checkpoint(8)


def test_a_damaged_last_checkpoint_says_how_to_go_on(tmp_path):
    run = Run.create(tmp_path / "a", EXPERIMENT)
    for step in (0, 7):
        save(run, step)
    path = run.checkpoint_path(7)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(RefusedFile, match=r"step-00000007\.h5: incomplete.*without this file .* from step 0"):
        run.checkpoint("last")
    path.unlink()
    assert run.checkpoint("last").step == 0


def test_a_checkpoint_says_where_it_comes_from(tmp_path):
    attributes = save(Run.create(tmp_path / "a", EXPERIMENT), 1, attributes={"wall_seconds": 1.5}).attributes
    assert attributes["experiment"] == EXPERIMENT.to_toml()
    assert attributes["version_torch"] == torch.__version__
    assert {"time", "host", "command", "python", "version_numpy", "version_h5py"} <= attributes.keys()
    assert attributes["wall_seconds"] == 1.5


@pytest.mark.parametrize("state", ["outside", "clean", "dirty"])
def test_provenance_names_the_commit_of_the_working_folder(tmp_path, monkeypatch, state):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    if state != "outside":
        (tmp_path / "paper.tex").write_text("draft")
        identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
        for command in (["init", "-q"], ["add", "."], [*identity, "commit", "-q", "-m", "Begin"]):
            subprocess.run(["git", *command], check=True)
    if state == "dirty":
        (tmp_path / "paper.tex").write_text("second draft")
    provenance._of_this_process.cache_clear()
    found = provenance.provenance()
    provenance._of_this_process.cache_clear()
    assert found.get("git_dirty") == {"outside": None, "clean": False, "dirty": True}[state]
    assert ("git_commit" in found) == (state != "outside")


def test_metrics_join_the_segments(tmp_path):
    run = Run.create(tmp_path / "a", EXPERIMENT)
    save(run, 0, metrics={"test_loss": (np.array([0]), np.array([2.3]))})
    save(run, 12)
    save(run, 30, first=12, metrics={"loss": (np.arange(12, 30), np.ones(18)), "test_loss": ([30], [0.1])})
    metrics = run.metrics
    assert metrics.loss.dims == ("step",)
    assert np.array_equal(metrics.step, np.arange(30))
    assert np.array_equal(metrics.loss, np.r_[1.0 / (1 + np.arange(12)), np.ones(18)])
    assert metrics.psf.sel(psf_step=10) == 10.0
    assert np.array_equal(metrics.test_loss_step, [0, 30])


def test_segments_that_overlap_count_once(tmp_path):
    run = Run.create(tmp_path / "a", EXPERIMENT)
    save(run, 10)
    save(run, 20, first=5)
    assert np.array_equal(run.metrics.step, np.arange(20))


def test_one_writer(tmp_path):
    run = Run.create(tmp_path / "a", EXPERIMENT)
    with run.writing(), pytest.raises(RunInUse, match="this process already writes"), run.writing():
        pass
    with run.writing():
        pass


def test_the_model_returns_with_weights_momentum_buffers_and_frozen_parts(tmp_path):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.body = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
            self.body[0].bias.requires_grad_(False)
            self.head = torch.nn.Linear(4, 3, bias=False)
            self.tied = torch.nn.Linear(4, 3, bias=False)
            self.tied.weight = self.head.weight
            self.register_buffer("scratch", torch.rand(2), persistent=False)

    model = Net()
    space = ParameterSpace.of(model)
    momentum = [torch.randn(shape) for shape in space.shapes]
    checkpoint = save(Run.create(tmp_path / "a", EXPERIMENT), 5, model=model, momentum=momentum)
    assert torch.equal(checkpoint.theta, space.flatten(dict(model.named_parameters())))
    assert torch.equal(checkpoint.momentum, space.flatten(momentum))
    other = Net()
    Checkpoint.open(checkpoint.path).load_into(other)
    for (name, a), (_, b) in zip(model.state_dict().items(), other.state_dict().items(), strict=True):
        assert torch.equal(a, b), name
    assert torch.equal(model.scratch, other.scratch)
    with pytest.raises(ValueError, match=r"got another name or shape at .*weight"):
        checkpoint.load_into(torch.nn.Linear(3, 4))


def test_a_checkpoint_brings_its_model_and_objective(tmp_path):
    from landscape import data, models

    loaded = data.load(EXPERIMENT)
    model = models.build(EXPERIMENT, loaded)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.01)
    checkpoint = save(Run.create(tmp_path / "a", EXPERIMENT), 5, model=model)
    rebuilt = checkpoint.model().eval()
    outputs = rebuilt(loaded.test.inputs)
    assert torch.equal(outputs, model.eval()(loaded.test.inputs))
    expected = torch.nn.CrossEntropyLoss()(outputs.double(), loaded.test.targets)
    assert checkpoint.objective("test", dtype=torch.float64)().item() == pytest.approx(expected.item(), rel=1e-6)
    some, again = (checkpoint.objective(examples=100) for _ in range(2))
    assert some.examples == 100
    assert torch.equal(some.gradient(), again.gradient())
    with pytest.raises(ValueError, match="examples: expected 1 to"):
        checkpoint.objective(examples=10**9)
