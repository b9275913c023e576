"""Files of MNIST's idx format, plain or gzip: four bytes of magic, the sizes, the bytes.

    0  0  8  d | n_1 … n_d, big-endian 32-bit each | n_1 · … · n_d unsigned bytes

http://yann.lecun.com/exdb/mnist (section "File formats")
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from pathlib import Path

import torch
from torch import Tensor

UNSIGNED_BYTE = 8
LARGEST = 1 << 32  # bytes: a damaged header must not ask for more memory than any such file has


def find_idx(folder: Path, stem: str) -> Path:
    """The file `stem` or `stem.gz` in `folder`; FileNotFoundError names both."""
    for name in (stem, f"{stem}.gz"):
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: expected a file {stem} or {stem}.gz, found neither")


def read_idx(path: Path, dimensions: int) -> Tensor:
    """The array in an idx file as uint8, with so many dimensions.

    Raises `ValueError`, naming the file, for another format, another number of dimensions, and bytes too few or many.
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            magic = file.read(4)
            if magic[:3] != bytes((0, 0, UNSIGNED_BYTE)) or magic[3:] != bytes((dimensions,)):
                raise ValueError(
                    f"{path}: expected an idx file of unsigned bytes with {dimensions} dimensions (first bytes "
                    f"00 00 08 {dimensions:02x}), got {magic.hex(' ') or 'an empty file'}"
                )
            sizes = struct.unpack(f">{dimensions}I", file.read(4 * dimensions))
            expected = math.prod(sizes)
            if expected > LARGEST:
                raise ValueError(f"{path}: its header announces {expected} bytes ({sizes}); is it damaged?")
            content = file.read(expected + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{path}: expected a whole idx file, got one that cannot be read ({error})") from error
    if len(content) != expected:
        got = "more" if len(content) > expected else str(len(content))
        raise ValueError(f"{path}: expected {expected} bytes after the header, got {got}; fetch the file again")
    return torch.frombuffer(bytearray(content), dtype=torch.uint8).reshape(sizes)
