"""Verifying a run, and taking it, or its weights, elsewhere and back."""

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

from landscape import data, models
from landscape.__main__ import main
from landscape.experiment import Experiment
from landscape.runs.archive import export_archive, import_archive
from landscape.runs.exchange import export_weights, import_weights
from landscape.runs.retention import Retention
from landscape.runs.run import Run
from landscape.runs.verify import verify
from landscape.store.dataset_file import ANALYSIS, write_dataset
from landscape.store.refused_file import RefusedFile

EXPERIMENT = Experiment(data="digits", model="convnet", epochs=2, seed=3)


@pytest.fixture(scope="module")
def network():
    return models.build(EXPERIMENT, data.load(EXPERIMENT))


@pytest.fixture
def run(tmp_path, network):
    run = Run.create(tmp_path / "run", EXPERIMENT)
    for step in (0, 5, 10, 15):
        steps = np.arange(max(0, step - 5), step)
        momentum = [torch.full_like(p, step) for p in network.parameters()]
        state = {"rng": {"torch": torch.get_rng_state()}, "optimizer": {0: (1, None)}}
        run.save(step, model=network, momentum=momentum, state=state, metrics={"loss": (steps, steps * 1.0)})
    write_dataset(run.path / "analyses/psf-1.h5", xr.Dataset({"value": ("batch", np.arange(5.0))}), ANALYSIS)
    return run


def problems(run):
    return {finding.path.name: finding.problem for finding in verify(run) if finding.problem}


# Verifying


def test_a_good_run_has_no_finding(run, capsys):
    run.thin(Retention(last=2))
    assert problems(run) == {}
    assert main(["verify", str(run.path)]) == 0
    # three checkpoints, the metrics of the dropped one, an analysis, the experiment
    assert "6 files, all as they were written" in capsys.readouterr().out


def test_every_kind_of_damage_is_found_and_named(run, capsys):
    checkpoint = run.checkpoint_path(5)
    data = bytearray(checkpoint.read_bytes())
    data[-3000] ^= 1
    checkpoint.write_bytes(data)
    run.checkpoint_path(10).rename(run.checkpoint_path(11))
    (run.path / "analyses/psf-1.h5").write_bytes(b"not HDF5")
    (run.path / "checkpoints/.tmp-7-step.h5").write_bytes(b"half")
    found = problems(run)
    assert found.keys() == {"step-00000005.h5", "step-00000011.h5", "psf-1.h5", ".tmp-7-step.h5"}
    assert "do not match the digest" in found["step-00000005.h5"]
    assert "expected the checkpoint of step 11, got that of 10" in found["step-00000011.h5"]
    assert main(["verify", str(run.path)]) == 2
    printed = capsys.readouterr()
    assert all(problem in printed.out for problem in found.values())
    assert "4 of 7 files are not right" in printed.err


def test_a_checkpoint_of_another_experiment_is_found(run, tmp_path, network):
    other = Run.create(tmp_path / "other", EXPERIMENT.replace(lr=0.7))
    other.save(15, model=network, momentum=None, state={}, metrics={})
    run.checkpoint_path(15).write_bytes(other.checkpoint_path(15).read_bytes())
    assert problems(run) == {"step-00000015.h5": "belongs to another experiment than the run"}


def test_metrics_lost_with_a_deleted_checkpoint_are_found(run):
    run.checkpoint_path(10).unlink()
    assert problems(run) == {"run": "metrics of steps 5 to 9 are missing"}


# Weights


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
def test_weights_go_out_and_come_back(run, tmp_path, network, suffix):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    export_weights(run.checkpoint("last"), tmp_path / f"w{suffix}")
    back = import_weights(tmp_path / f"w{suffix}", tmp_path / "back", EXPERIMENT)
    assert torch.equal(back.checkpoint("last").theta, run.checkpoint("last").theta)
    assert back.finished
    for name, tensor in network.state_dict().items():
        assert torch.equal(back.checkpoint(0).model().state_dict()[name], tensor)


def test_others_read_what_is_exported(run, tmp_path, network):
    safetensors = pytest.importorskip("safetensors.torch")
    export_weights(run.checkpoint(5), tmp_path / "w.safetensors")
    export_weights(run.checkpoint(5), tmp_path / "w.pt")
    network.load_state_dict(safetensors.load_file(tmp_path / "w.safetensors"))
    saved = torch.load(tmp_path / "w.pt", weights_only=True)
    network.load_state_dict(saved["model"])
    assert torch.equal(saved["momentum"], torch.full_like(saved["momentum"], 5))
    assert saved["attributes"]["step"] == 5


def test_a_plain_state_dict_is_imported(tmp_path, network):
    torch.save({"state_dict": network.state_dict()}, tmp_path / "theirs.pt")
    run = import_weights(tmp_path / "theirs.pt", tmp_path / "run", EXPERIMENT)
    assert run.checkpoint(0).attributes["imported_from"] == "theirs.pt"
    with pytest.raises(ValueError, match="has checkpoints already"):
        import_weights(tmp_path / "theirs.pt", tmp_path / "run", EXPERIMENT)


class Payload:
    def __reduce__(self):
        return (print, ("this code must not run",))


def test_code_in_a_file_is_never_run(tmp_path, capsys):
    torch.save({"model": Payload()}, tmp_path / "evil.pt")
    with pytest.raises(RefusedFile, match=r"evil\.pt: not readable as weights"):
        import_weights(tmp_path / "evil.pt", tmp_path / "run", EXPERIMENT)
    assert "must not run" not in capsys.readouterr().out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", ["missing", "extra", "shape"])
def test_weights_of_another_model_are_refused_by_name(tmp_path, network, change):
    tensors = dict(network.state_dict())
    name = next(iter(tensors))
    if change == "missing":
        del tensors[name]
    elif change == "extra":
        name = tensors["else"] = torch.ones(1)
        name = "else"
    else:
        tensors[name] = torch.ones(1, 2, 3)
    torch.save(tensors, tmp_path / "w.pt")
    with pytest.raises(RefusedFile, match=rf"w\.pt: expected the weights of model 'convnet'.* at {name}$"):
        import_weights(tmp_path / "w.pt", tmp_path / "run", EXPERIMENT)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("content", [b"", b"PK\3\4 no zip", b"\x80\x02."])
def test_files_that_are_no_weights_are_refused(tmp_path, content):
    for name in ("w.pt", "w.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(RefusedFile, match=f"{name}: not readable as weights"):
            import_weights(tmp_path / name, tmp_path / "run", EXPERIMENT)


def test_an_unknown_ending_is_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"ends in \.safetensors, \.pt, \.pth, got '\.onnx'"):
        export_weights(run.checkpoint(5), tmp_path / "w.onnx")


# One file


def test_a_run_in_one_file_is_the_same_run(run, tmp_path):
    run.thin(Retention(last=2))
    assert main(["export", str(run.path), str(tmp_path / "run.h5")]) == 0
    assert main(["import", str(tmp_path / "run.h5"), str(tmp_path / "back")]) == 0
    back = Run.open(tmp_path / "back")
    assert back.experiment == run.experiment
    assert back.steps == run.steps == (0, 10, 15)
    assert back.metrics.identical(run.metrics)
    for step in run.steps:
        a, b = run.checkpoint(step), back.checkpoint(step)
        assert a.attributes == b.attributes
        assert torch.equal(a.theta, b.theta)
        assert torch.equal(a.momentum, b.momentum)
        assert torch.equal(a.state("rng")["torch"], b.state("rng")["torch"])
        assert a.state("optimizer") == b.state("optimizer")
    assert (back.path / "analyses/psf-1.h5").read_bytes() == (run.path / "analyses/psf-1.h5").read_bytes()
    assert problems(back) == {}


def test_the_one_file_opens_with_plain_h5py(run, tmp_path):
    export_archive(run, tmp_path / "run.h5")
    with h5py.File(tmp_path / "run.h5", "r") as file:
        assert list(file["checkpoints"]) == [f"step-{step:08d}" for step in run.steps]
        weights = torch.cat(
            [torch.from_numpy(data[...]).flatten() for data in file["checkpoints/step-00000010/parameters"].values()]
        )
        assert weights.numel() == run.checkpoint(10).theta.numel()
        assert file["metrics/loss"].shape == (15,)


def test_a_damaged_or_foreign_archive_is_refused(run, tmp_path):
    export_archive(run, tmp_path / "run.h5")
    data = bytearray((tmp_path / "run.h5").read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "damaged.h5").write_bytes(data)
    with pytest.raises(RefusedFile, match=r"damaged\.h5: damaged"):
        import_archive(tmp_path / "damaged.h5", tmp_path / "a")
    with pytest.raises(RefusedFile, match="expected a landscape-toolkit archive"):
        import_archive(run.checkpoint_path(5), tmp_path / "b")
    with pytest.raises(ValueError, match="expected a new or an empty folder"):
        import_archive(tmp_path / "run.h5", run.path)
