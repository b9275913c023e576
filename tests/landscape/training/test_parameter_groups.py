"""Weight decay leaves out what a rule names, and everything that is kept by parameter finds its own again."""

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from landscape.data import load
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.run import Run
from landscape.seeding import generator
from landscape.training.bases import build_base
from landscape.training.groups import RULES, parameter_groups
from landscape.training.training import Training, train
from optimizers import first_moment

SMALL = Experiment(
    data_options={"train_examples": 60}, model_options={"widths": [4], "batch_norm": True}, batch_size=20, epochs=2,
    weight_decay=0.5, optimizer="plain",
)  # fmt: skip
BOTH = SMALL.replace(no_decay=["norm", "bias"])


class LlamaRMSNorm(nn.Module):
    """A normalisation that torch does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.class_token = nn.Parameter(torch.ones(4)), nn.Parameter(torch.ones(4))


class Attentive(nn.Module):
    """Biases under several names, a vector that is none, and a bias that is frozen."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = nn.MultiheadAttention(4, 2), LlamaRMSNorm()
        self.scale = nn.Parameter(torch.ones(4))
        self.head = nn.Linear(4, 2)
        self.head.bias.requires_grad_(False)


@pytest.mark.parametrize(
    ("rules", "exempt"),
    [
        (["norm"], {"norm.weight", "norm.class_token"}),
        (["bias"], {"attention.in_proj_bias", "attention.out_proj.bias"}),
        (
            ["bias", "norm"],
            {"norm.weight", "norm.class_token", "attention.in_proj_bias", "attention.out_proj.bias"},
        ),
    ],
    ids=["norm", "bias", "both"],
)
def test_a_rule_goes_by_the_type_of_the_layer_or_by_the_name(rules: list[str], exempt: set[str]) -> None:
    model = Attentive()
    decayed, kept = parameter_groups(SMALL.replace(no_decay=rules), model)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[p] for p in kept["params"]} == exempt  # type: ignore[index]
    assert kept["weight_decay"] == 0.0  # type: ignore[index]
    everything = {name for name, p in model.named_parameters() if p.requires_grad}
    assert {names[p] for p in decayed["params"]} == everything - exempt  # type: ignore[index]


def test_it_is_torchs_own_loop_with_two_groups(tmp_path: Path) -> None:
    """To the bit: the steps of a training, and of SGD with the groups written by hand."""
    training, by_hand = Training(BOTH), Training(BOTH)
    model, data = by_hand.model, load(BOTH).train
    weights = [p for name, p in model.named_parameters() if p.ndim == 2]
    others = [p for name, p in model.named_parameters() if p.ndim == 1]
    groups = [{"params": weights}, {"params": others, "weight_decay": 0.0}]
    sgd = torch.optim.SGD(groups, lr=BOTH.lr, momentum=0.9, weight_decay=0.5)
    model.train()
    training.model.train()
    order = torch.randperm(len(data), generator=generator(BOTH.seed, "data order", 0)).split(BOTH.batch_size)
    for step, (batch, index) in enumerate(zip(training.batches_of_epoch(0), order, strict=True)):
        for group in sgd.param_groups:
            group["lr"] = BOTH.lr * (step + 1) / 3  # the ramp of the first epoch
        sgd.zero_grad()
        nn.functional.cross_entropy(model(data.inputs[index]), data.targets[index]).backward()
        sgd.step()
        training.take_step(batch)
    for name, parameter in training.model.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
    without = Training(SMALL)
    for index in without.batches_of_epoch(0):
        without.take_step(index)
    assert not torch.equal(without.model.get_parameter("1.bias"), model.get_parameter("1.bias"))


@pytest.mark.parametrize("base", ["sgd", "adamw"])
@pytest.mark.parametrize("optimizer", ["msam", "fsam", "looksam", "vasso"])
def test_with_two_groups_a_run_resumes_to_the_bit_and_its_vectors_are_in_order(
    tmp_path: Path, optimizer: str, base: str
) -> None:
    experiment = BOTH.replace(optimizer=optimizer, base=base, lr=0.01, weight_decay=0.1)
    whole = train(
        experiment, tmp_path / "whole", execution=Execution(checkpoint_every=1, probe_every=2), progress=False
    )
    shutil.copytree(whole.path, tmp_path / "cut")
    Run.open(tmp_path / "cut").checkpoint_path(6).unlink()
    resumed = train(experiment, tmp_path / "cut", progress=False).checkpoint()
    last = whole.checkpoint()
    assert torch.equal(last.theta, resumed.theta)
    for name, vector in last.vectors.items():
        assert torch.equal(vector, resumed.vectors[name])
    training = Training(experiment)
    training.restore(last)
    held = [p for group in training.optimizer.param_groups for p in group["params"]]
    moments = dict(zip(map(id, held), first_moment(training.optimizer), strict=True))
    expected = torch.cat([moments[id(p)].reshape(-1) for p in training.model.parameters()])
    assert last.momentum is not None
    assert torch.equal(last.momentum, expected)
    assert len(training.optimizer.param_groups) == 2


def test_what_cannot_be_meant_is_refused() -> None:
    assert sorted(RULES) == ["bias", "norm"]
    assert SMALL.replace(no_decay=("norm", "bias", "norm")) == BOTH
    assert BOTH.digest == SMALL.replace(no_decay=["bias", "norm"]).digest != SMALL.digest
    assert Experiment.from_toml(BOTH.to_toml()) == BOTH
    for wrong in ("norm", ["norms"], [["norm"]], 3):
        with pytest.raises(ValueError, match="no_decay: expected a list of norm and bias, got"):
            SMALL.replace(no_decay=wrong)
    with pytest.raises(ValueError, match=r"(?s)no_decay.*norms"):
        Experiment.from_toml('no_decay = ["norms"]')
    with pytest.raises(ValueError, match="no_decay: norm holds for no parameter of model 'mlp'"):
        Training(BOTH.replace(model_options={"widths": [4]}))
    with pytest.raises(ValueError, match=r"no_decay: base 'torch\.optim:Rprop' has no weight_decay"):
        build_base(BOTH.replace(base="torch.optim:Rprop"), Training(SMALL).model)
