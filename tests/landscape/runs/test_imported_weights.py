"""Weights from other people's files: the same numbers arrive, or the file is refused in one line and nothing is made."""

import subprocess
import sys
from contextlib import nullcontext

import pytest
import torch

from landscape import data, models
from landscape.__main__ import main
from landscape.experiment import Experiment
from landscape.runs.exchange import import_weights
from landscape.store.refused_file import RefusedFile

EXPERIMENT = Experiment(
    model="mlp", model_options={"widths": [4], "batch_norm": True}, data_options={"train_examples": 9}
)
KINDS = {
    torch.float16: "real",
    torch.bfloat16: "real",
    torch.float32: "real",
    torch.float64: "real",
    torch.complex64: "complex",
    torch.bool: "bool",
    torch.uint8: "whole",
    torch.int64: "whole",
}


@pytest.fixture(scope="module")
def weights():
    return models.build(EXPERIMENT, data.load(EXPERIMENT)).state_dict()


def brought_back(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    return import_weights(tmp_path / "w.pt", tmp_path / "run", EXPERIMENT).checkpoint("last").model().state_dict()


def one_line_and_nothing_made(tmp_path, content, says):
    with pytest.raises(RefusedFile, match=says) as refusal:
        brought_back(tmp_path, content)
    assert "\n" not in str(refusal.value)
    assert "weights_only" not in str(refusal.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("dtype", KINDS, ids=str)
@pytest.mark.parametrize("name", ["1.weight", "2.running_mean", "2.num_batches_tracked"])
def test_numbers_of_every_type_arrive_or_are_refused(tmp_path, weights, name, dtype):
    content = {**weights, name: torch.ones_like(weights[name]).to(dtype)}
    if KINDS[dtype] == KINDS[weights[name].dtype]:
        assert torch.equal(brought_back(tmp_path, content)[name], torch.ones_like(weights[name]))
    else:
        one_line_and_nothing_made(tmp_path, content, f"at {name}, got {dtype} ones")


@pytest.mark.parametrize("name", ["1.weight", "2.bias", "2.running_var"])
@pytest.mark.parametrize(("value", "dtype"), [("nan", torch.float32), ("inf", torch.float32), ("1e60", torch.float64)])
def test_weights_that_are_not_finite_are_refused(tmp_path, weights, name, value, dtype):
    content = {**weights, name: torch.full_like(weights[name], float(value), dtype=dtype)}
    if name == "2.running_var" and value != "nan":
        with pytest.warns(UserWarning, match="rounded") if value == "1e60" else nullcontext():
            assert brought_back(tmp_path, content)[name].isinf().all()  # a mask among the buffers may hold infinities
    else:
        one_line_and_nothing_made(tmp_path, content, f"NaN or infinite ones at {name}")


def test_rounding_is_said(tmp_path, weights):
    with pytest.warns(UserWarning, match=r"rounded to torch\.float32 at 1\.bias$"):
        brought_back(tmp_path, {**weights, "1.bias": torch.full((4,), 0.1, dtype=torch.float64)})


class Payload:
    def __reduce__(self):
        return (print, ("this code must not run",))


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({0: torch.ones(1)}, "expected tensors by name"),
        ({"model": {0: torch.ones(1)}}, "expected tensors by name"),
        ({"a": 1.0}, "expected tensors by name"),
        ({"a": Payload()}, "whose code is never run; save the weights alone"),
        (torch.nn.Linear(2, 2), "whose code is never run; save the weights alone"),
    ],
)
def test_what_is_no_state_dict_is_refused(tmp_path, content, says, capsys):
    one_line_and_nothing_made(tmp_path, content, says)
    assert "must not run" not in capsys.readouterr().out


@pytest.mark.parametrize("change", [torch.Tensor.to_sparse, lambda tensor: tensor.to("meta")])
def test_tensors_without_plain_numbers_are_refused(tmp_path, weights, change):
    content = {**weights, "1.weight": change(weights["1.weight"])}
    one_line_and_nothing_made(tmp_path, content, r"expected plain numbers .* at 1\.weight")


FULL = """
import resource, signal, sys
from landscape.__main__ import main
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run, target = sys.argv[1:]
import safetensors.torch, torch, matplotlib.pyplot, analyses.figures, analyses.saved
from pathlib import Path
answer = str(next((Path(run) / "analyses").glob("*.h5")))
for name in ("w.pt", "w.safetensors", "figure"):
    resource.setrlimit(resource.RLIMIT_FSIZE, (900, -1))
    command = ["figure", answer, "--output", target] if name == "figure" else ["export", run, f"{target}/{name}"]
    print(main(command), flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
"""


@pytest.mark.processes
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path):
    run = tmp_path / "run"
    assert main(["train", str(run), "--epochs", "1", "--data_options.train_examples", "64"]) == 0
    assert main(["analyze", str(run), "psf", "--batches", "1"]) == 0
    (tmp_path / "out").mkdir()
    command = [sys.executable, "-c", FULL, str(run), str(tmp_path / "out")]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ran.stdout.split() == ["2", "2", "2"]
    lines = [line for line in ran.stderr.splitlines() if "File too large" in line]
    assert len(lines) == 3
    for line, name in zip(lines, ("w.pt", "w.safetensors", ".png"), strict=True):
        assert line.startswith("landscape ")
        assert name in line
    assert list((tmp_path / "out").iterdir()) == []
