"""Files made on purpose, and sealed: what they can make a reader do is bounded by their size, in time and in memory."""

import time
import tracemalloc

import h5py
import numpy as np
import pytest
import torch

from landscape import limited_toml, recipe
from landscape.execution import Execution
from landscape.experiment import Experiment
from landscape.runs.archive import export_archive, import_archive
from landscape.runs.checkpoint import Checkpoint
from landscape.runs.checkpoint_file import LAST_STEP, read_checkpoint, write_checkpoint
from landscape.runs.exchange import export_weights
from landscape.runs.metric_series import as_dataset, coordinates
from landscape.runs.run import Run
from landscape.runs.verify import verify
from landscape.store.digest import seal
from landscape.store.refused_file import RefusedFile
from landscape.store.tree_codec import write_text

SECONDS = 10  # each takes well under one; what is quadratic takes minutes
SLACK = 24 << 20


@pytest.fixture
def path(tmp_path):
    write_checkpoint(
        tmp_path / "c.h5",
        step=12,
        parameters={"weight": torch.randn(400, 400), "bias": torch.zeros(400)},
        momentum=None,
        buffers={},
        state={"rng": {"x": [1, 2]}, "frozen": {}},
        metrics={"loss": (np.arange(500), np.arange(500.0))},
        attributes={"experiment": Experiment().to_toml(), "finished": True},
    )
    return tmp_path / "c.h5"


def edit(path, harm):
    with h5py.File(path, "r+", libver=("v108", "v108")) as file:
        harm(file)
    seal(path)


def relayout(file, group, text):
    del file["layout"][group]
    write_text(file["layout"], group, text)


def bounded(path, act):
    """What `act` raises, its time and memory held to the size of the file."""
    start = time.process_time()
    tracemalloc.start()
    try:
        with pytest.raises(RefusedFile) as refused:
            act()
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert time.process_time() - start < SECONDS
    assert peak < 10 * path.stat().st_size + SLACK
    assert len(str(refused.value)) < 600
    assert "\n" not in str(refused.value)
    return refused.value.reason


def overlapping_numbers(file):
    """20,000 series, each all but a byte of the file."""
    at = {"step": 1024} | {f"x{i}": 1024 + i for i in range(20_000)}
    relayout(file, "metrics", str({"step": {"length": 60_000, "at": at}}).replace("'", '"'))


def many_attributes(file):
    for i in range(3000):
        file.attrs[f"a{i}"] = i


def links(file):
    """3,000 names for one tensor, each in the layout."""
    node = '{"tensor":"float32","shape":[400,400],"at":["%s"]}'
    for i in range(3000):
        file[f"parameters/w{i}"] = file["parameters/weight"]
    del file["parameters/bias"]
    names = ["weight", *(f"w{i}" for i in range(3000))]
    relayout(file, "parameters", '{"dict":[' + ",".join(f'["{n}",{node % n}]' for n in names) + "]}")


def many_missing(file):
    """A message that would name 20,000 tensors."""
    node = '{"tensor":"float32","shape":[],"at":["%s"]}'
    names = ["weight", "bias", *(f"w{i}" for i in range(20_000))]
    relayout(file, "parameters", '{"dict":[' + ",".join(f'["{n}",{node % n}]' for n in names) + "]}")


@pytest.mark.parametrize(
    ("harm", "act", "reason"),
    [
        (overlapping_numbers, lambda p: read_checkpoint(p).metrics, "larger than it is"),
        (many_attributes, read_checkpoint, "at most 1000 attributes"),
        (links, lambda p: Checkpoint.open(p).theta, "more than the file has"),
        (links, lambda p: export_weights(Checkpoint.open(p), p.with_name("w.safetensors")), "more than the file has"),
        (links, lambda p: export_weights(Checkpoint.open(p), p.with_name("w.pt")), "more than the file has"),
        (many_missing, lambda p: read_checkpoint(p).parameters, "20000 in all"),
        (lambda f: f.attrs.__setitem__("step", np.uint64(2**63)), read_checkpoint, f"from 0 to {LAST_STEP}"),
        (lambda f: f.attrs.__setitem__("experiment", np.zeros(3)), read_checkpoint, "attribute experiment"),
    ],
    ids=["ranges", "attributes", "links", "safetensors of links", "torch of links", "message", "step", "vector"],
)
def test_a_file_asks_for_no_more_than_it_has(path, harm, act, reason):
    edit(path, harm)
    assert reason in bounded(path, lambda: act(path))


def test_names_of_series_cost_linear_time(tmp_path):
    """Each with steps of its own, so that none shares a coordinate."""
    start = time.process_time()
    assert len(coordinates({f"x{i}": (np.array([i]), np.zeros(1)) for i in range(30_000)})) == 30_000
    series = {f"x{i}": (np.array([i]), np.zeros(1)) for i in range(200)}
    arguments = {"parameters": {}, "momentum": None, "buffers": {}, "state": {}, "attributes": {}}
    write_checkpoint(tmp_path / "c.h5", step=1, metrics=series, **arguments)
    found = read_checkpoint(tmp_path / "c.h5")
    found.verify()
    assert as_dataset(found.metrics).sizes == {"step": 1} | {f"x{i}_step": 1 for i in range(1, 200)}
    assert time.process_time() - start < SECONDS


EXPERIMENTS = {
    "lists": "x = " + "[" * 5000 + "]" * 5000,
    "shallower": "x = " + "[" * 400 + "]" * 400,
    "tables": "model_options = " + "{a = " * 60 + "1" + "}" * 60,
    "dots": ".".join(["a"] * 20_000) + " = 1",
    "quoted dots": ".".join(['"a"', "'b'"] * 10_000) + " = 1",
    "header": "[" + " . ".join(["a"] * 20_000) + "]",
    "long": 'data = "' + "x" * 100_000 + '"',
    "keys": "\n".join(f"k{i} = 1" for i in range(20_000)),
    "digits": "seed = " + "1" * 5000,
}


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_toml_is_parsed_within_bounds(path, kind):
    """A checkpoint's own, and a run's."""
    edit(
        path,
        lambda f: (
            write_text(f.create_group("attributes"), "experiment", EXPERIMENTS[kind]) or f.attrs.pop("experiment")
        ),
    )
    assert "experiment is not one" in bounded(path, lambda: Checkpoint.open(path).experiment)
    folder = path.parent / "run"
    folder.mkdir()
    (folder / "experiment.toml").write_text(EXPERIMENTS[kind])
    assert "experiment is not one" in bounded(path, lambda: Run.open(folder).experiment)


def test_ordinary_toml_is_within_the_bounds():
    text = 'data_options = {path = "a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q.r.s.t.u.v w"}\n'
    assert len(limited_toml.loads(text + recipe.Recipe(Experiment(), Execution()).to_toml())) > 20
    assert limited_toml.loads("x = [0.1, 0.2" + ", 0.3" * 100 + "]")["x"][0] == 0.1


# Archives


@pytest.fixture
def archive(tmp_path):
    run = Run.create(tmp_path / "run", Experiment())
    for step in (0, 5):
        steps = np.arange(max(0, step - 5), step)
        run.save(step, model=torch.nn.Linear(3, 3), momentum=None, state={}, metrics={"loss": (steps, steps * 1.0)})
    export_archive(run, tmp_path / "run.h5")
    return tmp_path / "run.h5"


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: f.move("checkpoints/step-00000005", "checkpoints/step-00000006"),
        lambda f: f.move("checkpoints/step-00000005", "checkpoints/step-000000005"),
        lambda f: f.copy("checkpoints/step-00000005", "checkpoints/step-00000009"),
        lambda f: [f.__setitem__(f"checkpoints/step-{i:08d}", f["checkpoints/step-00000005"]) for i in range(9, 3009)],
        lambda f: f["checkpoints/step-00000005"].attrs.__setitem__("step", np.uint64(2**63)),
        lambda f: f["checkpoints/step-00000005"].attrs.pop("step"),
        lambda f: f["checkpoints"].create_group("else"),
    ],
    ids=["renamed", "zero", "twice", "links", "large", "none", "other"],
)
def test_an_archive_holds_each_step_once_under_its_name(archive, harm):
    edit(archive, harm)
    target = archive.parent / "back"
    assert "expected the checkpoint of its name" in bounded(archive, lambda: import_archive(archive, target))
    assert not target.exists()


# Messages, and runs of many checkpoints


def test_a_missing_step_is_said_in_a_line(tmp_path):
    run = Run.create(tmp_path / "run", Experiment())
    for step in range(1001):
        run.checkpoint_path(step).touch()
    with pytest.raises(
        KeyError, match=r"no checkpoint at step 7777; .* \(0, 1, 2, 3, 4, 5, …, 1000 \(1001 in all\)\)"
    ) as said:
        run.checkpoint(7777)
    assert len(str(said.value)) < 400


def test_names_that_are_no_step_are_no_checkpoints(tmp_path):
    run = Run.create(tmp_path / "run", Experiment())
    for name in ("step-9223372036854775808000", "step-000000007", "step-0000007", "step-٠٠٠٠٠٠٠٧", "step-00000003"):
        (run.path / f"checkpoints/{name}.h5").touch()
    assert run.steps == (3,)


def test_verifying_lists_the_folder_and_reads_the_experiment_a_few_times_only(tmp_path, monkeypatch):
    """Counted, not timed: of 5,000 checkpoints, once for each would be 25 million names and 5,000 parsings."""
    run = Run.create(tmp_path / "run", Experiment())
    for step in range(20):
        run.save(step, model=torch.nn.Linear(2, 2), momentum=None, state={}, metrics={})
    run = Run.open(run.path)
    counts = {"steps": 0, "parsed": 0}
    steps, loads = Run.steps.fget, recipe.loads

    def listed(self):
        counts["steps"] += 1
        return steps(self)

    def parsed(text):
        counts["parsed"] += 1
        return loads(text)

    monkeypatch.setattr(Run, "steps", property(listed))
    monkeypatch.setattr(recipe, "loads", parsed)
    assert not [finding for finding in verify(run) if finding.problem]
    assert counts["steps"] <= 3
    assert 1 <= counts["parsed"] <= 2


def test_metrics_of_dropped_checkpoints_are_verified_as_segments_are(tmp_path):
    """A series whose layout points at the numbers of another: sealed, readable, and not what HDF5 finds under the name."""
    from landscape.runs.metrics_file import write_metrics_file

    run = Run.create(tmp_path / "run", Experiment())
    (run.path / "metrics").mkdir()
    file = run.path / "metrics/to-00000009.h5"
    write_metrics_file(file, {"a": (np.arange(9), np.zeros(9)), "b": (np.arange(9), np.ones(9))})

    def swap(f):
        text = f["layout/metrics"][()].decode()
        a, b = (str(f[f"metrics/{name}"].id.get_offset()) for name in "ab")
        relayout(f, "metrics", text.replace(a, "#").replace(b, a).replace("#", b))

    assert not [finding for finding in verify(run) if finding.problem]
    edit(file, swap)
    (finding,) = [finding for finding in verify(run) if finding.problem]
    assert finding.path == file
    assert "is not where its layout says" in finding.problem
