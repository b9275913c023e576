"""The step as one reads it: few files on the way to the base's step, one answer however often one asks, new files found."""

import copy
import sys
from pathlib import Path

import pytest
import torch
from optimizer_training import Smooth, Training, over_methods, same

import optimizers
from optimizers.core.step import Step

FOLDER = Path(optimizers.__file__).parent
ONE_SCREEN = 6
READ_ON_THE_WAY = {"Steepest": None, "Steepest with a reuse": lambda: optimizers.SurrogateGap()}


def files_entered(training, closure):
    """Files of the package that run between the call of `step` and the base's step, each with the number of calls."""
    entered = {}

    def note(frame, event, _):
        file = Path(frame.f_code.co_filename)
        if event == "call" and file.is_relative_to(FOLDER):
            entered[file.name] = entered.get(file.name, 0) + 1

    training.base.register_step_pre_hook(lambda *_: sys.setprofile(None))
    sys.setprofile(note)
    try:
        training.optimizer.step(closure)
    finally:
        sys.setprofile(None)
    return entered


@pytest.mark.parametrize("reuse", READ_ON_THE_WAY.values(), ids=READ_ON_THE_WAY)
def test_a_step_is_read_through_at_most_six_files(reuse):
    """Those of SAM and of GSAM: no circle, and no file that is passed through on the way."""
    training = Training(None, net=Smooth)
    training.optimizer = optimizers.SharpnessAware(training.base, reuse=reuse and reuse())
    training.run(2)
    batch = training.closure()

    def closure():
        training.optimizer.zero_grad()
        loss = batch.loss_fn(training.model(batch.inputs), batch.targets)
        loss.backward()
        return loss

    entered = files_entered(training, closure)
    assert "sharpness_aware.py" in entered
    assert len(entered) <= ONE_SCREEN, entered


@over_methods
def test_asking_whether_a_step_climbs_changes_nothing(method):
    """Any number of steps may be asked, each gives the same answer, and the training goes on as if nobody had."""
    asked, plain = (Training(method, net=Smooth) for _ in range(2))
    for _ in range(6):
        asked.closure()()
        policy, answers = asked.optimizer.policy, set()
        before = copy.deepcopy(policy.state_dict())
        if not policy.reads_gradient:
            for _ in range(3):
                step = Step(asked.optimizer, policy.decides)
                answers |= {step.climbs, step.climbs}
            assert len(answers) == 1
        assert same(policy.state_dict(), before)
        asked.step()
        plain.step()
    assert same(asked.weights(), plain.weights())
    assert same(asked.optimizer.state_dict()["sharpness_aware"], plain.optimizer.state_dict()["sharpness_aware"])


def test_a_file_in_the_folder_is_all_that_a_method_needs(tmp_path, monkeypatch):
    """It is found by `available`, by `create` and as an attribute; nothing else is edited."""
    (tmp_path / "dropped_in.py").write_text(
        "from optimizers.core.registry import register\nfrom optimizers.core.sharpness_aware import SharpnessAware\n"
        "@register('dropped_in', cost='2', state='1', reference='none')\n"
        'class DroppedIn(SharpnessAware):\n    """A file alone."""\n'
        "    def __init__(self, base, *, rho=0.05):\n        super().__init__(base, rho=rho)\n"
    )
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        optimizers.Nothing  # noqa: B018
    from optimizers.core import registry

    monkeypatch.setattr(registry, "_METHODS", dict(registry._METHODS))
    monkeypatch.setattr(optimizers, "__path__", [*optimizers.__path__, str(tmp_path)])
    try:
        assert "dropped_in" in optimizers.available()
        base = torch.optim.SGD([torch.nn.Parameter(torch.ones(2))], lr=0.1)
        assert type(optimizers.create("dropped_in", base)) is optimizers.DroppedIn
    finally:
        sys.modules.pop("optimizers.dropped_in", None)
