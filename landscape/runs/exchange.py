"""Weights to and from other people's files: safetensors, and torch.save as `weights_only=True` reads it.

export_weights(checkpoint, "weights.safetensors")      parameters, frozen parameters and buffers under the names of
import_weights("weights.pt", "runs/x", experiment)     the model's state_dict
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from landscape.experiment import Experiment
from landscape.runs.checkpoint import Checkpoint, model_tensors
from landscape.runs.run import Run
from landscape.shortened import shortened
from landscape.store.atomic_file import write_bytes
from landscape.store.refused_file import RefusedFile

SUFFIXES = (".safetensors", ".pt", ".pth")


def export_weights(checkpoint: Checkpoint, target: str | Path) -> None:
    """Write the clean weights and buffers of `checkpoint`, as an evaluation has them, to `target`, whose ending says how.

    A `.pt` or `.pth` holds `model`, `momentum` (or None) and `attributes`; a `.safetensors` holds the tensors, and the
    attributes as text in its metadata.

    Memory holds the file beside the weights.

    Raises:
        ValueError: An ending we do not write.
        RefusedFile: One tensor stands under so many names that its copies would be larger than the checkpoint's file.
        OSError: The disk is full, the folder not writable, …; names `target`.
    """
    target = Path(target)
    if target.suffix not in SUFFIXES:
        raise ValueError(f"{target}: expected a name that ends in {', '.join(SUFFIXES)}, got {target.suffix!r}")
    stored = {**checkpoint.parameters, **checkpoint.state("frozen"), **checkpoint.buffers}
    checkpoint.apart({name: tensor for name, tensor in stored.items() if isinstance(tensor, Tensor)})
    tensors = {**stored, **checkpoint.evaluated_buffers()}
    # in memory first: neither library tells a full disk from any other error
    if target.suffix == ".safetensors":
        from safetensors.torch import save

        owned = {name: tensor.clone() for name, tensor in tensors.items()}  # the format knows no shared tensors
        write_bytes(target, save(owned, {name: str(value) for name, value in checkpoint.attributes.items()}))
    else:
        content = {"model": tensors, "momentum": checkpoint.momentum, "attributes": checkpoint.attributes}
        buffer = io.BytesIO()
        torch.save(content, buffer)
        write_bytes(target, buffer.getbuffer())


def import_weights(source: str | Path, directory: str | Path, experiment: Experiment) -> Run:
    """A finished run of `experiment` in `directory` with one checkpoint, of step 0, that holds the weights in `source`.

    `source` holds tensors by the names of the model's state_dict, by themselves or under `model` or `state_dict`.
    Code in it is never run: torch reads it with `weights_only=True`.

    Raises:
        RefusedFile: Not such a file, not the weights of the experiment's model (names what differs), numbers of another
            kind (complex for real, say), or not finite.
    """
    from landscape import data, imports, models

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
    converted = {name: _converted(source, name, tensors[name], tensor.dtype) for name, tensor in expected.items()}
    buffers = model_tensors(model)["buffers"]
    for name, tensor in converted.items():
        # a buffer may hold an infinity on purpose, as a mask does
        good = ~tensor.isnan() if name in buffers else tensor.isfinite()
        if not good.all():
            raise RefusedFile(source, f"expected finite weights, got NaN or infinite ones at {name}")
    rounded = [n for n, t in converted.items() if not torch.equal(t.to(tensors[n].dtype), tensors[n])]
    if rounded:
        warnings.warn(f"{source}: rounded to {experiment.dtype} at {', '.join(rounded)}", stacklevel=2)
    with torch.no_grad():
        for name, tensor in expected.items():
            tensor.copy_(converted[name])
    imports.remember(experiment.code)
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


def _converted(source: Path, name: str, found: Tensor, dtype: torch.dtype) -> Tensor:
    """`found` as `dtype`; numbers of another kind are refused."""
    if (
        found.layout != torch.strided
        or found.is_quantized
        or found.device.type == "meta"
        or _kind(found) != _kind(dtype)
    ):
        what = (
            "no"
            if found.device.type == "meta"
            else "quantized"
            if found.is_quantized
            else f"{found.layout} {found.dtype}".replace("torch.strided ", "")
        )
        raise RefusedFile(source, f"expected plain numbers that {dtype} can hold at {name}, got {what} ones")
    return found.to(dtype)


def _kind(of: Tensor | torch.dtype) -> str:
    dtype = of.dtype if isinstance(of, Tensor) else of
    if dtype.is_floating_point or dtype.is_complex:
        return "complex" if dtype.is_complex else "real"
    return "bool" if dtype == torch.bool else "whole"


def _read(source: Path) -> dict[str, Tensor]:
    try:
        if source.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(source)
        content = torch.load(source, weights_only=True, map_location="cpu")
    except (FileNotFoundError, IsADirectoryError, PermissionError, ImportError):
        raise
    except Exception as error:  # torch, zipfile and safetensors each have errors of their own for a bad file
        if isinstance(error, pickle.UnpicklingError) or "weights_only" in str(error):  # torch advises to run the code
            raise RefusedFile(
                source,
                "not readable as weights: it is damaged, or holds more than tensors, whose code is never run; "
                "save the weights alone, torch.save(model.state_dict(), path)",
            ) from error
        raise RefusedFile(
            source, f"not readable as weights: {type(error).__name__}: {str(error).partition(chr(10))[0]}"
        ) from error
    for key in ("model", "state_dict"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(
        isinstance(name, str) and isinstance(tensor, Tensor) for name, tensor in content.items()
    ):
        raise RefusedFile(source, "expected tensors by name, alone or under `model` or `state_dict`")
    return dict(content)
