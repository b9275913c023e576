"""What writers leave when they are killed, and what they are at while they live: two things that nobody confuses."""

import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

from analyses import saved
from landscape.__main__ import main
from landscape.experiment import Experiment
from landscape.runs.archive import export_archive, import_archive
from landscape.runs.lock import NAME, RunInUse
from landscape.runs.run import Run
from landscape.runs.verify import verify
from landscape.store.atomic_file import TEMPORARY, atomic_file, remove_leftovers, write_text

FOLDERS = ("checkpoints", "analyses", "metrics", ".")
WRITE = """
import contextlib, sys, time
from pathlib import Path
from landscape.store.atomic_file import atomic_file
with contextlib.ExitStack() as stack:
    for target in sys.argv[1:]:
        stack.enter_context(atomic_file(target)).write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path):
    run = Run.create(tmp_path / "run", Experiment())
    (run.path / "metrics").mkdir()
    for step in (0, 1):
        run.save(
            step,
            model=torch.nn.Linear(2, 2),
            momentum=None,
            state={},
            metrics={"loss": (np.arange(step), [1.0] * step)},
        )
    return run


def temporaries(folder):
    return sorted(folder.rglob(f"{TEMPORARY}*"))


def problems(run):
    return {str(finding.path.relative_to(run.path)): finding.problem for finding in verify(run) if finding.problem}


@pytest.mark.processes
def test_the_living_are_left_alone_and_the_dead_cleared_away(run, tmp_path, capsys):
    archive = tmp_path / "run.h5"
    targets = [run.path / folder / f"{folder.strip('.')}file-00000007-0123456789.h5" for folder in FOLDERS]
    command = [sys.executable, "-c", WRITE, *map(str, targets), str(archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout.readline() == "writing\n"
        held = temporaries(tmp_path)
        assert len(held) == 5
        with run.writing():
            pass
        Run.create(run.path, run.experiment)
        for folder in (run.path, tmp_path):
            remove_leftovers(folder)
        assert temporaries(tmp_path) == held
        assert problems(run) == {}
        export_archive(run, tmp_path / "other.h5")
        writer.send_signal(signal.SIGKILL)
        writer.wait()
    assert temporaries(tmp_path) == held
    found = problems(run)
    assert len(found) == 4
    assert all("left by a writer that died" in problem for problem in found.values())
    assert main(["info", str(run.path)]) == 0
    assert TEMPORARY not in capsys.readouterr().out
    export_archive(run, tmp_path / "other.h5")
    import_archive(tmp_path / "other.h5", tmp_path / "back")
    assert temporaries(tmp_path) == held  # neither had anything to do with them
    export_archive(run, archive)
    assert len(temporaries(tmp_path)) == 4  # the next export to this target removes what the last one left
    Run.create(run.path, run.experiment)
    assert temporaries(tmp_path) == []
    assert problems(run) == {}


def test_an_analysis_removes_what_a_killed_one_left(run):
    leftover = run.path / "analyses" / f"{TEMPORARY}1-0123abcd" / "psf-00000001-0123456789.h5"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    saved.write(xr.Dataset(attrs={"analysis": "psf"}), run.path / "analyses/psf-00000001-00.h5")
    assert temporaries(run.path) == []


def test_other_peoples_files_are_not_ours_to_delete(tmp_path):
    for name in (f"{TEMPORARY}theirs", f"{TEMPORARY}12-0123abcd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "thesis.tex").write_text("hours of work")
    write_text(tmp_path / "target", "text")
    assert len(temporaries(tmp_path)) == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError])
def test_a_writer_that_fails_leaves_nothing(tmp_path, error):
    def fail():
        with atomic_file(tmp_path / "file") as temporary:
            temporary.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["checkpoints", "metrics"])
def test_a_stray_file_is_one_clear_line_and_in_nobodys_way(run, tmp_path, folder, capsys):
    for name in ("notes.txt", "step-1.h5", "step-000000001.h5", "to-x.h5", ".DS_Store"):
        (run.path / folder / name).write_text("stray")
    assert run.steps == (0, 1)
    assert run.metrics.sizes["step"] == 1
    export_archive(run, tmp_path / "run.h5")
    found = problems(run)
    assert len(found) == 5
    assert all("not a file of this run" in problem for problem in found.values())


def test_a_stray_analysis_is_named_before_anything_is_exported(run, tmp_path):
    (run.path / "analyses/my notes.h5").write_text("stray")
    with pytest.raises(ValueError, match=r"my notes\.h5: not the name of an analysis; move it"):
        export_archive(run, tmp_path / "run.h5")
    assert not (tmp_path / "run.h5").exists()


HOLD = """
import sys, time
from pathlib import Path
from landscape.runs.lock import writing
with writing(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.processes
def test_deleting_files_lets_no_second_trainer_in(run):
    with subprocess.Popen([sys.executable, "-c", HOLD, run.path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        experiment = (run.path / "experiment.toml").read_text()
        for name in (NAME, "experiment.toml"):
            (run.path / name).unlink()
            write_text(run.path / "experiment.toml", experiment)
            with pytest.raises(RunInUse, match="writes to it"), run.writing():
                pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with run.writing():
        pass


FORK = """
import os, sys, time
from pathlib import Path
from landscape.runs.lock import writing
with writing(Path(sys.argv[1])):
    if os.fork():
        time.sleep(60)
    print("held", flush=True)
    sys.stdin.read()
    os._exit(0)
"""


@pytest.mark.processes
def test_a_forked_child_does_not_keep_the_lock_of_a_dead_parent(run):
    command = [sys.executable, "-c", FORK, run.path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"  # said by the child
        with pytest.raises(RunInUse), run.writing():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
        with run.writing():
            pass
        holder.stdin.close()  # the child ends
