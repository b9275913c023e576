"""What a checkpoint holds, as a short text: the same for the same contents, wherever and in whatever file they lie.

A saved answer belongs to the weights it was computed at, not to the name of their file: a run that was trained again in
the same folder, or a checkpoint that was replaced, must not find the answers of the one before.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import torch
import xxhash
from torch import Tensor

from landscape.runs.checkpoint import Checkpoint
from landscape.runs.run import Run


def contents_key(run: Run, step: int) -> str:
    """A digest of the checkpoint at `step`: experiment, what it is evaluated on, weights, buffers, the optimizer's vectors; empty where there is none.

    Cost: reading them, once a file and process.
    """
    path = run.checkpoint_path(step)
    return contents_of(path) if path.exists() else ""


def contents_of(path: Path) -> str:
    """The digest of the checkpoint in a file."""
    found = path.stat()
    return _digest(path, found.st_mtime_ns, found.st_size, found.st_ino)


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, *_state: int) -> str:
    checkpoint = Checkpoint.open(path)
    digest = xxhash.xxh3_128()
    digest.update(str(checkpoint.attributes.get("experiment", "")).encode())
    if "execution" in checkpoint.attributes:  # where it does not, the experiment says it too
        digest.update(f"\nevaluation_examples {checkpoint.execution.evaluation_examples}\n".encode())
    vectors = dict(checkpoint.vectors)
    momentum = vectors.pop("momentum", None)
    for kind, tensors in (
        ("parameters", checkpoint.parameters),
        ("buffers", checkpoint.buffers),
        ("momentum", {} if momentum is None else {"": momentum}),
        ("vectors", vectors),
    ):
        for name, tensor in tensors.items():
            digest.update(f"\n{kind} {name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(_bytes(tensor))
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    """The tensor's bytes as an array, whatever its dtype."""
    return tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
