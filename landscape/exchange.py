"""Weights to and from other people's files: safetensors, and torch.save as `weights_only=True` reads it.

export_weights(checkpoint, "weights.safetensors")      parameters, frozen parameters and buffers under the names of
import_weights("weights.pt", "runs/x", experiment)     the model's state_dict
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from landscape.atomic_file import atomic_file
from landscape.checkpoint import Checkpoint, model_tensors
from landscape.experiment import Experiment
from landscape.refused_file import RefusedFile
from landscape.run import Run
from landscape.shortened import shortened

SUFFIXES = (".safetensors", ".pt", ".pth")


def export_weights(checkpoint: Checkpoint, target: str | Path) -> None:
    """Write the clean weights and buffers of `checkpoint` to `target`, whose ending says how.

    A `.pt` or `.pth` holds `model`, `momentum` (or None) and `attributes`; a `.safetensors` holds the tensors, and the
    attributes as text in its metadata.

    Raises:
        ValueError: An ending we do not write.
    """
    target = Path(target)
    tensors = {**checkpoint.parameters, **checkpoint.state("frozen"), **checkpoint.buffers}
    with atomic_file(target) as temporary:
        if target.suffix == ".safetensors":
            from safetensors.torch import save_file

            owned = {name: tensor.clone() for name, tensor in tensors.items()}  # the format knows no shared tensors
            save_file(owned, temporary, metadata={name: str(value) for name, value in checkpoint.attributes.items()})
        elif target.suffix in SUFFIXES:
            content = {"model": tensors, "momentum": checkpoint.momentum, "attributes": checkpoint.attributes}
            torch.save(content, temporary)
        else:
            raise ValueError(f"{target}: expected a name that ends in {', '.join(SUFFIXES)}, got {target.suffix!r}")
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())


def import_weights(source: str | Path, directory: str | Path, experiment: Experiment) -> Run:
    """A finished run of `experiment` in `directory` with one checkpoint, of step 0, that holds the weights in `source`.

    `source` holds tensors by the names of the model's state_dict, by themselves or under `model` or `state_dict`.
    Code in it is never run: torch reads it with `weights_only=True`.

    Raises:
        RefusedFile: Not such a file, or not the weights of the experiment's model; names what differs.
    """
    from landscape import data, models

    source = Path(source)
    tensors = _read(source)
    model = models.build(experiment, data.load(experiment))
    expected = {name: tensor for group in model_tensors(model).values() for name, tensor in group.items()}
    optional = set(model.state_dict()) - set(expected)  # further names of tied tensors
    wrong = [
        name for name in {**expected, **tensors} if _differs(expected.get(name), tensors.get(name), name in optional)
    ]
    if wrong:
        raise RefusedFile(
            source,
            f"expected the weights of model {experiment.model!r}, got other names or shapes at {shortened(wrong)}",
        )
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(tensors[name])
    run = Run.create(directory, experiment)
    with run.writing():
        if run.steps:
            raise ValueError(f"{run.path} has checkpoints already; import into a new folder")
        run.save(
            0, model=model, momentum=None, state={}, metrics={}, last=True, attributes={"imported_from": source.name}
        )
    return run


def _differs(expected: Tensor | None, found: Tensor | None, optional: bool) -> bool:
    if expected is None:
        return not optional
    return found is None or found.shape != expected.shape


def _read(source: Path) -> dict[str, Tensor]:
    try:
        if source.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(source)
        content = torch.load(source, weights_only=True, map_location="cpu")
    except (FileNotFoundError, ImportError):
        raise
    except Exception as error:  # torch, zipfile and safetensors each have errors of their own for a bad file
        raise RefusedFile(
            source, f"not readable as weights: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(t, Tensor) for t in content.values()):
        raise RefusedFile(source, "expected tensors by name, alone or under `model` or `state_dict`")
    return dict(content)
