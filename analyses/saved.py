"""Analyses kept as files: computed once, then read; deleting a file is how to have it computed again.

    runs/<name>/analyses/<analysis>-<step>-<key>.h5

The key is a digest of what was asked (analysis, split, examples, precision, and every option, those left at their
defaults too) and of what the checkpoint holds, so that other options, another default or other weights make another
file. Each file is a Dataset that xarray and plain h5py open, written whole or not at all, and sealed as checkpoints
are: one that was damaged or edited is refused.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import torch
import xarray as xr

from analyses import registry
from analyses.second_subject import checkpoint_of, subjects_of
from analyses.subject_key import contents_key, contents_of
from landscape import distributed
from landscape.runs.run import Checkpoint, Run
from landscape.store.atomic_file import remove_leftovers
from landscape.store.dataset_file import ANALYSIS, read_dataset, write_dataset
from landscape.store.refused_file import RefusedFile

FORMAT = 2  # raise it when an analysis changes what it computes, so that older files are computed again


class DamagedAnalysis(ValueError):
    """A file in an `analyses` folder is not a whole analysis of ours."""


def analysis_path(
    run: Run,
    name: str,
    step: int,
    *,
    split: str,
    examples: int | None,
    dtype: str | None,
    options: dict[str, Any],
    draw: int = 0,
    draws: int | None = None,
    micro_batch: int | None = None,
    autocast: str | None = None,
) -> Path:
    """Where the analysis `name` of the checkpoint at `step` is kept."""
    # every option with its value, defaults too: where a release changes a default, it asks another question
    analysis = registry.get(name)
    defaults = {key: option.default for key, option in analysis.options.items()}
    known = defaults | options
    seconds = [key for key in subjects_of(analysis.options) if known[key] is not None]
    missing = [key for key in seconds if known[key] is inspect.Parameter.empty]
    if missing:
        raise TypeError(f"{name}: expected {', '.join(missing)}, a checkpoint or the path of one; got none")
    # a second subject is what it holds, wherever it lies
    known |= {key: contents_of(checkpoint_of(known[key]).path) for key in seconds}
    asked = {
        "format": FORMAT,
        "analysis": analysis.origin,
        "step": step,
        "contents": contents_key(run, step),
        "split": split,
        "examples": examples,
        "dtype": dtype,
        # only where asked for, so that answers from before there were these are found
        **({} if not draw else {"draw": draw}),
        **({} if draws is None else {"draws": draws}),
        **({} if micro_batch is None else {"micro_batch": micro_batch}),
        **({} if autocast is None else {"autocast": autocast}),
        "options": _plain(name, known),
    }
    digest = hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
    return run.path / "analyses" / f"{analysis.name}-{step:08d}-{digest[:10]}.h5"


def _plain(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """The options as JSON has them, so that a tuple and the same list ask the same; what is no text or number is refused."""

    def refuse(value: Any) -> Any:
        raise TypeError(
            f"{name}: expected options of text and numbers for an answer that is kept, got a {type(value).__name__}; "
            f"call the analysis itself: analyses.{name}(checkpoint, …)"
        )

    known = {key: value for key, value in options.items() if value is not inspect.Parameter.empty}
    return json.loads(json.dumps(known, default=refuse))


def analyze(
    run: Run | str | Path,
    name: str,
    *,
    step: int | str = "last",
    split: str = "train",
    examples: int | None = None,
    draw: int = 0,
    draws: int | None = None,
    micro_batch: int | None = None,
    autocast: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    **options: Any,
) -> xr.Dataset:
    """The analysis `name` of a run's checkpoint, from its file where there is one, else computed and saved.

    Model, data and loss are those of the experiment in the checkpoint's file, which the answer's attribute `experiment`
    repeats; where experiment.toml says something else, a warning names it.

    Args:
        run: The run or its folder.
        name: A registered analysis, or `package.module:function`.
        step: Of the checkpoint, or `first` or `last`.
        split: Which data the objective averages over, `train` or `test`.
        examples: How many of them; all where left out.
        draw: Which of them: another number, another random part.
        draws: So many random parts, from `draw` on, with the spread over them (`analyses.over_draws`).
        micro_batch: Rows of a batch computed at once, to fit memory.
        autocast: `bfloat16` or `float16`: the model's arithmetic under autocast; off where left out.
        device: Where to compute; where left out, where the run was trained if that exists here.
        dtype: `float32` or `float64`; where left out, the run's own.
        **options: Of the analysis; a second checkpoint also by its path, `runs/b` or `runs/b@1200`.

    Raises:
        ValueError: An unknown name, step or option.
        DamagedAnalysis: The file exists and is not whole; its name and the reason are in the message.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    analysis = registry.get(name)
    checkpoint = run.checkpoint(step)
    path = analysis_path(
        run,
        name,
        checkpoint.step,
        split=split,
        examples=examples,
        dtype=dtype,
        options=options,
        draw=draw,
        draws=draws,
        micro_batch=micro_batch,
        autocast=autocast,
    )
    known = path.exists()
    if known and _unsealed(path):
        warnings.warn(f"{path}: saved by an older release, without a seal; it is computed again", stacklevel=2)
        known = False
    distributed.barrier()  # all have looked before one of them writes
    if known:
        return read(path, analysis.name)
    precision = None if dtype is None else {"float32": torch.float32, "float64": torch.float64}.get(dtype)
    if dtype is not None and precision is None:
        raise ValueError(f"dtype: expected float32 or float64, got {dtype!r}")
    half = None if autocast is None else {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(autocast)
    if autocast is not None and half is None:
        raise ValueError(f"autocast: expected bfloat16 or float16, got {autocast!r}")
    if checkpoint.experiment != run.experiment and not checkpoint.experiment.shortens(run.experiment):
        different = checkpoint.experiment.difference(run.experiment, f"in {checkpoint.path.name}", "in experiment.toml")
        warnings.warn(
            f"{run.path}: the analysis is of the experiment in its checkpoint, from which experiment.toml differs "
            f"({different})",
            stacklevel=2,
        )
    device = device or device_of(checkpoint)
    dataset = analysis(
        checkpoint,
        split=split,
        examples=examples,
        draw=draw,
        draws=draws,
        micro_batch=micro_batch,
        autocast=half,
        device=device,
        dtype=precision,
        **options,
    )
    if distributed.rank() == 0:
        write(dataset, path)
    distributed.barrier()
    # not the computed one: what is reported is what the file holds
    return read(path, analysis.name)


def device_of(checkpoint: Checkpoint) -> str:
    """Where a checkpoint was trained, if that exists here; else the CPU."""
    device = torch.device(checkpoint.execution.device)
    known = device.type == "cpu" or torch.get_device_module(device).is_available()
    return str(device) if known else "cpu"


def write(dataset: xr.Dataset, path: Path) -> None:
    """Write `dataset` whole and sealed or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_leftovers(path.parent)
    write_dataset(path, dataset, ANALYSIS)


def read(path: Path, name: str | None = None) -> xr.Dataset:
    """The Dataset in `path`, checked to be an analysis (called `name`), with the path itself as an attribute."""
    try:
        dataset = read_dataset(path, ANALYSIS)
    except RefusedFile as refusal:
        older = "; saved by an older release, without a seal" if _unsealed(path) else ""
        raise DamagedAnalysis(
            f"{path}: not a whole analysis: {refusal.reason}{older}; delete it to have it computed again"
        ) from refusal
    found = dataset.attrs.get("analysis")
    if found is None or (name is not None and found != name):
        raise DamagedAnalysis(f"{path}: expected the analysis {name or 'that made it'} in its attributes, got {found}")
    return dataset.assign_attrs(path=str(path))


def _unsealed(path: Path) -> bool:
    """Whether the file begins as plain HDF5 does: releases that did not seal analyses wrote them so."""
    with path.open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"
