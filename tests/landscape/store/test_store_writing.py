"""Writing behind the training, keeping few checkpoints, one writer, and disks that fail."""

import errno
import fcntl
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
import torch

from landscape.__main__ import main
from landscape.experiment import Experiment
from landscape.runs.lock import RunInUse
from landscape.runs.retention import Retention
from landscape.runs.run import Run
from landscape.store.background_writer import BackgroundWriter
from landscape.store.host_copy import HostCopy

EXPERIMENT = Experiment(data="digits", model="mlp", epochs=2)


def contents(run, step, first=0, value=1.0, **changes):
    model = torch.nn.Linear(20, 20)
    with torch.no_grad():
        model.weight.fill_(value)
    steps = np.arange(first, step)
    metrics = {"loss": (steps, steps * 0.5), "test_loss": (np.array([step]), np.array([value]))}
    return run.contents(step, **{"model": model, "momentum": None, "state": {}, "metrics": metrics, **changes})


@pytest.fixture
def run(tmp_path):
    return Run.create(tmp_path / "run", EXPERIMENT)


# Behind the training


def test_the_copy_is_what_was_submitted_however_training_goes_on(run):
    model = torch.nn.Linear(300, 300)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    with run.writer() as writer:
        writer.submit(run.contents(1, model=model, momentum=None, state={}, metrics={}))
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(7.0)
    assert all(torch.equal(p, before[name]) for name, p in run.checkpoint(1).parameters.items())


def test_submissions_are_written_in_order_and_all_of_them(run):
    with run.writer() as writer:
        for step in range(1, 8):
            writer.submit(contents(run, step, first=step - 1, value=float(step)))
    assert run.steps == tuple(range(1, 8))
    assert all(run.checkpoint(step).parameters["weight"][0, 0] == step for step in run.steps)


def test_who_is_faster_than_the_disk_waits_and_memory_holds_one_copy():
    release, written, held = threading.Event(), [], []

    def slow(tree):
        held.append(tree["x"].data_ptr())
        release.wait()
        written.append(tree["x"].clone())

    with BackgroundWriter(slow) as writer:
        writer.submit({"x": torch.zeros(5)})
        second = threading.Thread(target=writer.submit, args=({"x": torch.ones(5)},))
        second.start()
        second.join(0.1)
        assert second.is_alive()  # back-pressure: the first is not written yet
        release.set()
        second.join()
    assert [t.tolist() for t in written] == [[0.0] * 5, [1.0] * 5]
    assert len(set(held)) == 1


@pytest.mark.parametrize("when", ["submit", "wait", "end"])
def test_an_error_of_the_writer_surfaces_in_the_training_loop(when):
    def fail(tree):
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"), BackgroundWriter(fail) as writer:  # noqa: PT012
        writer.submit({})
        if when == "submit":
            writer.submit({})
        if when == "wait":
            writer.wait()


def test_an_error_of_the_training_is_not_hidden_by_one_of_the_writer():
    def fail(tree):
        raise OSError(28, "No space left on device")

    with pytest.raises(ZeroDivisionError) as raised, BackgroundWriter(fail) as writer:  # noqa: PT012
        writer.submit({})
        1 / 0  # noqa: B018
    assert "No space left" in raised.value.__notes__[0]


def test_a_host_copy_shares_nothing_and_keeps_ties():
    weight = torch.randn(4, 4)
    tree = {"a": weight, "b": [weight, weight.t()], "n": np.arange(3), "s": ("x", 1, None), "e": torch.empty(0)}
    copy = HostCopy()
    copied = copy(tree)
    expected = weight.clone()
    weight.zero_()
    tree["n"][:] = 9
    assert torch.equal(copied["a"], expected)
    assert copied["a"] is copied["b"][0]
    assert torch.equal(copied["b"][1], expected.t())
    assert copied["n"].tolist() == [0, 1, 2]
    assert copied["s"] == ("x", 1, None)
    again = copy(tree)
    assert again["a"].data_ptr() == copied["a"].data_ptr()  # allocated once


@pytest.mark.gpu
def test_a_host_copy_of_cuda_tensors_is_pinned_and_complete():
    tensors = {str(i): torch.randn(1000, 1000, device="cuda") for i in range(20)}
    expected = {name: t.cpu() for name, t in tensors.items()}
    copied = HostCopy()(tensors)
    for tensor in tensors.values():
        tensor.zero_()
    assert all(t.is_pinned() and torch.equal(t, expected[name]) for name, t in copied.items())


# Retention


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({}, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
        ({"every": 40}, [0, 40, 80, 100]),
        ({"last": 3}, [0, 80, 90, 100]),
        ({"best": "test_loss"}, [0, 30, 100]),
        ({"best": "test_loss", "best_is": "highest"}, [0, 90, 100]),
        ({"log_spaced": 2}, [0, 10, 40, 100]),
        ({"every": 50, "last": 2, "best": "test_loss"}, [0, 30, 50, 90, 100]),
        ({"best": "no such metric"}, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),  # a typo drops nothing
    ],
)
def test_rules_of_retention(rules, kept):
    values = {step: abs(step - 30.0) for step in range(0, 101, 10)} | {100: float("nan")}
    value = lambda metric, step: values[step] if metric == "test_loss" else None  # noqa: E731
    assert sorted(Retention(**rules).kept(sorted(values), value)) == kept


def test_rules_answer_the_same_whether_asked_once_or_after_each_checkpoint():
    rules = Retention(every=40, log_spaced=3)
    steps = list(range(0, 400, 7))
    present = []
    for step in steps:
        present = sorted(rules.kept([*present, step], lambda *_: None))
    always = rules.kept(steps, lambda *_: None)
    assert set(present) == always


def test_dropped_checkpoints_leave_their_metrics(run):
    retention = Retention(last=2, best="test_loss")
    with run.writer(retention) as writer:
        for i, value in enumerate([3.0, 1.0, 2.0, 2.5, 4.0, 5.0]):
            writer.submit(contents(run, 10 * i, first=max(0, 10 * i - 10), value=value))
    assert run.steps == (0, 10, 40, 50)
    metrics = Run.open(run.path).metrics
    assert np.array_equal(metrics.step, np.arange(50))
    assert np.array_equal(metrics.loss, np.arange(50) * 0.5)
    assert metrics.test_loss.values.tolist() == [3.0, 1.0, 2.0, 2.5, 4.0, 5.0]
    assert len(list((run.path / "metrics").iterdir())) == 1


@pytest.mark.parametrize("bad", [{"every": -1}, {"last": -2}, {"log_spaced": -1}, {"best_is": "largest"}])
def test_rules_that_mean_nothing_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Retention(**bad)


# One writer

HOLD = """
import sys, time
from landscape.runs.run import Run
with Run.open(sys.argv[1]).writing():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.processes
def test_a_second_process_is_refused_until_the_first_dies(run):
    with subprocess.Popen([sys.executable, "-c", HOLD, run.path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        (run.path / "checkpoints/.tmp-1-half.h5").write_bytes(b"half")
        with pytest.raises(RunInUse, match=rf"process {holder.pid} on .* writes to it"), run.writing():
            pass
        assert list((run.path / "checkpoints").iterdir())  # what the other is writing is left alone
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run.writing():
        assert not list((run.path / "checkpoints").iterdir())  # and what it left half-written is removed


def test_a_file_system_without_locks_is_said_not_hidden(run, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", unsupported)
    with pytest.warns(UserWarning, match="has no locks; see that only one process trains here"), run.writing():
        run.write(contents(run, 1))
    assert run.steps == (1,)


def test_two_commands_on_one_folder(run, capsys):
    recipe = run.path / "experiment.toml"
    with run.writing():
        assert main(["train", str(run.path), "-c", str(recipe)]) == 2
    assert "this process already writes to it" in capsys.readouterr().err
    assert run.steps == ()


# Disks that fail

LIMITED = """
import json, resource, sys, signal
import torch
from landscape.runs.run import Run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
run = Run.open(sys.argv[1])
model = torch.nn.Linear(400, 400)
save = lambda step: run.save(step, model=model, momentum=None, state={}, metrics={})
save(1)
for limit in map(int, sys.argv[2:]):
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, -1))
    try:
        save(2)
    except OSError as error:
        print(json.dumps([limit, type(error).__name__, str(error), run.steps]))
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
save(2)  # there is room again, and the training goes on
"""


@pytest.mark.processes
def test_a_full_disk_is_an_error_and_everything_before_it_stays(run):
    limits = ["0", "100", "3000", "300000", "641600", "643000"]  # up to the last bytes of a file of 643 kB
    command = [sys.executable, "-c", LIMITED, str(run.path), *limits]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    refusals = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [limit for limit, *_ in refusals] == [int(limit) for limit in limits]
    for _, kind, message, steps in refusals:
        assert kind == "OSError"
        assert "step-00000002.h5" in message
        assert "File too large" in message
        assert steps == [1]
    assert run.steps == (1, 2)
    for step in run.steps:
        run.checkpoint(step).verify()
    assert len(list((run.path / "checkpoints").iterdir())) == 2


READ_ONLY = """
import os, sys, torch
from landscape.experiment import Experiment
from landscape.runs.run import Run
Run.open(sys.argv[1]).experiment  # imports what it needs before this process is nobody
if os.geteuid() == 0:
    os.setuid(65534)  # root may write everywhere
run = Run.open(sys.argv[1])
run.checkpoint("last").verify()
assert run.metrics.sizes["step"] == 3
for attempt in (lambda: run.save(2, model=torch.nn.Linear(2, 2), momentum=None, state={}, metrics={}),
                lambda: run.writing().__enter__()):
    try:
        attempt()
    except PermissionError as error:
        print(error)
"""


@pytest.mark.processes
def test_a_read_only_folder_is_read_and_refuses_to_be_written():
    with tempfile.TemporaryDirectory() as folder:  # pytest's own folders are closed to other users
        run = Run.create(folder, EXPERIMENT)
        run.write(contents(run, 3))
        for path in (*run.path.rglob("*"), run.path):
            path.chmod(0o555 if path.is_dir() else 0o444)
        command = [sys.executable, "-c", READ_ONLY, folder]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        run.path.chmod(0o755)
        (run.path / "checkpoints").chmod(0o755)
        (run.path / "analyses").chmod(0o755)
        assert ran.returncode == 0, ran.stderr
        first, second = ran.stdout.splitlines()
        assert "step-00000002.h5" in first
        assert ".writer" in second
        assert run.steps == (3,)


def test_a_folder_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    run = Run.create(tmp_path / "run", EXPERIMENT)
    (run.path / "checkpoints").rmdir()
    (run.path / "checkpoints").write_text("a file where the folder should be")
    with pytest.raises(OSError, match="checkpoints"):
        run.write(contents(run, 1))


# Reading while writing

READ = """
import sys, time
from landscape.runs.run import Run
reads = 0
print("reading", flush=True)
while True:
    run = Run.open(sys.argv[1])
    metrics = run.metrics
    if "loss" in metrics:
        assert (metrics.loss == metrics.step * 0.5).all()
        assert (metrics.step == range(metrics.sizes["step"])).all()
    if run.steps:
        last = run.checkpoint("last")
        weight = last.parameters["weight"]
        assert (weight == last.step).all(), (last.step, weight)
        reads += 1
        if run.finished:
            break
print(reads)
"""


@pytest.mark.processes
def test_a_reader_in_a_loop_never_fails_and_never_sees_half(run):
    with subprocess.Popen([sys.executable, "-c", READ, run.path], stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "reading\n"
        deadline = time.monotonic() + 60
        with run.writing(), run.writer(Retention(last=3)) as writer:
            for step in range(1, 150):
                writer.submit(contents(run, step, first=step - 1, value=float(step), last=step == 149))
        assert int(reader.communicate(timeout=deadline - time.monotonic())[0]) > 5
        assert reader.returncode == 0
    assert run.steps == (1, 147, 148, 149)
