"""Damaged and hostile checkpoints, each of which must be refused by file and reason, quickly and without a crash.

    python tests/soak/damaged_files.py [--files 10000] [--seed 0]

Damage is done to a good file. "Blind" damage leaves the seal as it was, as disks, networks and editors do. "Resealed"
damage is sealed again afterwards, as somebody would who wants the file to be interpreted. Every file is read in full by
a child process with a time limit; a crash, a hang, another error, an allocation beyond the file's size, or a file that
is accepted although it says something else than the good one, fails the campaign and is reported with its number.
"""

import argparse
import collections
import json
import multiprocessing
import os
import sys
import tempfile
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import torch

from landscape.runs.checkpoint_file import read_checkpoint, write_checkpoint
from landscape.store.digest import USER_BLOCK, seal
from landscape.store.refused_file import RefusedFile

SECONDS_PER_FILE = 20
SLACK = 4 << 20  # bytes that reading any file may take: interpreter objects, one span of the reader


def good_checkpoint(path):
    """A small checkpoint with something of everything in it."""
    torch.manual_seed(0)
    parameters = {f"layer{i}.weight": torch.randn(32, 16) for i in range(6)} | {"bias": torch.randn(32)}
    write_checkpoint(
        path,
        step=1200,
        parameters=parameters,
        momentum={name: torch.randn_like(p) for name, p in parameters.items()},
        buffers={"norm.mean": torch.randn(16), "norm.count": torch.tensor(7), "mask": torch.ones(9, dtype=torch.bool)},
        state={
            "optimizer": {"state": {0: {"exp_avg": torch.randn(32, 16).bfloat16()}}, "param_groups": [{"lr": 0.1}]},
            "rng": {"python": (3, (1, 2, 3), None), "numpy": np.arange(624, dtype=np.uint32)},
        },
        metrics={"loss": (np.arange(12), np.random.default_rng(0).random(12)), "psf": (np.array([0, 6]), np.ones(2))},
        attributes={"experiment": "lr = 0.1\n" * 40, "seed": 0, "finished": False, "seconds": 1.5},
    )


# Blind damage: bytes in, bytes out.


def flip_bits(data, random):
    data = bytearray(data)
    for _ in range(random.integers(1, 4)):
        data[random.integers(len(data))] ^= 1 << random.integers(8)
    return data


def truncate(data, random):
    return data[: random.integers(len(data))]


def append(data, random):
    return data + random.bytes(random.integers(1, 200))


def zero_range(data, random):
    start, length = random.integers(len(data)), random.integers(1, 5000)
    return data[:start] + bytes(len(data[start : start + length])) + data[start + length :]


def noise_range(data, random):
    start, length = random.integers(len(data)), random.integers(1, 5000)
    return data[:start] + random.bytes(len(data[start : start + length])) + data[start + length :]


def swap_ranges(data, random):
    length = int(random.integers(1, 2000))
    a, b = sorted(random.integers(0, len(data) - 2 * length, 2))
    b = max(b, a + length)
    return data[:a] + data[b : b + length] + data[a + length : b] + data[a : a + length] + data[b + length :]


def drop_bytes(data, random):
    start = random.integers(len(data) - 10)
    return data[:start] + data[start + random.integers(1, 10) :]


def edit_seal(data, random):
    position = random.integers(USER_BLOCK)
    return data[:position] + random.bytes(1) + data[position + 1 :]


def without_seal(data, random):
    return data[USER_BLOCK:]


# Resealed damage: an open HDF5 file to do harm in.


def datasets(file):
    found = []
    file.visititems(lambda name, item: found.append(name) if isinstance(item, h5py.Dataset) else None)
    return found


def any_dataset(file, random):
    return str(random.choice(datasets(file)))


def replace(file, name, **arguments):
    del file[name]
    return file.create_dataset(name, **arguments)


def wrong_shape(file, random):
    name = any_dataset(file, random)
    replace(file, name, shape=(*file[name].shape, 2), dtype=file[name].dtype, data=None)


def wrong_type(file, random):
    name = any_dataset(file, random)
    data = np.zeros(file[name].shape, random.choice(["<f2", ">f4", "<i4", "S5", "<u8", "<c8"]))
    if data.dtype != file[name].dtype:
        replace(file, name, data=data)
    else:
        del file[name]


def huge_unallocated(file, random):
    name = any_dataset(file, random)
    replace(file, name, shape=(2**40,), dtype="<f4")


def huge_chunked(file, random):
    name = any_dataset(file, random)
    replace(file, name, shape=(2**40,), dtype="<f4", chunks=(1024,))


def many_dimensions(file, random):
    replace(file, any_dataset(file, random), shape=(2,) * 30, dtype="<f4", chunks=(1,) * 30)


def compressed(file, random):
    name = any_dataset(file, random)
    replace(file, name, data=np.zeros(10_000_000, np.uint8), chunks=True, compression="gzip", shuffle=True)


def external_storage(file, random):
    name = any_dataset(file, random)
    shape = file[name].shape or (1,)
    replace(file, name, shape=shape, dtype="<f4", external=[("/etc/hostname", 0, 4 * int(np.prod(shape)))])


def virtual(file, random):
    name = any_dataset(file, random)
    layout = h5py.VirtualLayout(shape=(4,), dtype="<f4")
    layout[:] = h5py.VirtualSource("/tmp/other.h5", "x", shape=(4,))
    del file[name]
    file.create_virtual_dataset(name, layout)


def variable_length(file, random):
    name = any_dataset(file, random)
    replace(file, name, data=np.array(["x" * 100] * 3, dtype=h5py.string_dtype()))


def soft_link(file, random):
    first, second = random.choice(datasets(file), 2, replace=False)
    del file[str(first)]
    file[str(first)] = h5py.SoftLink("/" + str(second))


def external_link(file, random):
    name = any_dataset(file, random)
    del file[name]
    file[name] = h5py.ExternalLink("/etc/passwd", "/x")


def group_link(file, random):
    group = str(random.choice(["parameters", "metrics", "layout", "optimizer"]))
    file.move(group, "moved")
    file[group] = random.choice([h5py.SoftLink("/moved"), h5py.ExternalLink("other.h5", "/")])


def cycle(file, random):
    file["parameters/layer0.weight/".rstrip("/")]
    del file["optimizer/state/0"]
    file["optimizer/state/0"] = file["optimizer"]


def missing(file, random):
    del file[any_dataset(file, random)]


def missing_group(file, random):
    del file[str(random.choice(["parameters", "metrics", "layout", "optimizer", "buffers", "momentum", "rng"]))]


def swapped(file, random):
    names = [name for name in datasets(file) if not name.startswith("layout")]
    first = str(random.choice(names))
    others = [n for n in names if (file[n].shape, file[n].dtype) != (file[first].shape, file[first].dtype)]
    second = str(random.choice(others))
    file.move(first, "aside")
    file.move(second, first)
    file.move("aside", second)


def group_for_dataset(file, random):
    name = any_dataset(file, random)
    del file[name]
    file.create_group(name)


def dataset_for_group(file, random):
    name = str(random.choice(["parameters", "metrics", "layout", "optimizer/state", "buffers", "momentum", "rng"]))
    del file[name]
    file[name] = np.zeros(3)


def hostile_layout(file, random):
    name = str(random.choice(list(file["layout"])))
    texts = [
        "",
        "{",
        "[" * 100_000,
        "1" * 100_000,
        '{"tensor":"float32","shape":[1099511627776],"at":["bias"]}',
        '{"dict":[["bias",{"tensor":"float32","shape":[-1],"at":["bias"]}]]}',
        '{"dict":[["bias",{"tensor":"float32","shape":[32],"at":["..","parameters","bias"]}]]}',
        '{"dict":[["bias",{"tensor":"float32","shape":[32],"at":["bias/../bias"]}]]}',
        '{"dict":[["bias",{"tensor":"load","shape":[32],"at":["bias"]}]]}',
        '{"dict":[["bias",{"array":"O","shape":[32],"at":["bias"]}]]}',
        '{"dict":[["bias",{"tensor":"float32","shape":"x","at":7}]]}',
        '{"dict":[[["k"],null]]}',
        '{"eval":"1"}',
        '{"step":{"length":1099511627776,"at":{"step":512,"loss":512}}}',
        '{"tuple":' * 5000 + "1" + "}" * 5000,
        "null",
        "\x00\xff".encode("latin-1"),
    ]
    text = texts[random.integers(len(texts))]
    data = text if isinstance(text, bytes) else text.encode()
    del file["layout"][name]
    file["layout"][name] = np.array(data, dtype=h5py.string_dtype("utf-8", max(1, len(data))))


def broken_layout(file, random):
    """Cut or garble the JSON in the middle: what it describes is then another file, or nothing."""
    name = str(random.choice(list(file["layout"])))
    text = file["layout"][name][()]
    position = random.integers(len(text))
    data = text[:position] + bytes([random.integers(128, 256)]) + text[position + 1 :]
    del file["layout"][name]
    file["layout"][name] = np.array(data, dtype=h5py.string_dtype("utf-8", len(data)))


def hostile_attribute(file, random):
    values = [np.zeros(1000), h5py.Empty("f4"), "variable length", np.array(["a", "b"], "S1"), np.zeros((), "<c8"), 2.0]
    name = str(random.choice(["format_version", "step"]))
    del file.attrs[name]
    file.attrs[name] = values[random.integers(len(values))]


def later_version(file, random):
    file.attrs["format_version"] = int(random.choice([0, -1, 3, 2**40]))


def other_format(file, random):
    del file.attrs["format"]
    file.attrs["format"] = np.bytes_("somebody else's")


def object_reference(file, random):
    name = any_dataset(file, random)
    reference = file.ref
    replace(file, name, data=reference, dtype=h5py.ref_dtype)


def bool_that_is_not(file, random):
    file["buffers/mask"][3] = int(random.integers(2, 256))


def foreign(file, random):
    for name in list(file):
        del file[name]
    file["images"] = np.zeros((3, 4, 4))


BLIND = [flip_bits] * 6 + [truncate, append, zero_range, noise_range, swap_ranges, drop_bytes, edit_seal, without_seal]
RESEALED = [
    wrong_shape, wrong_type, huge_unallocated, huge_chunked, many_dimensions, compressed, external_storage, virtual,
    variable_length, soft_link, external_link, group_link, cycle, missing, missing_group, swapped, group_for_dataset,
    dataset_for_group, hostile_layout, broken_layout, hostile_attribute, later_version, other_format, object_reference,
    bool_that_is_not, foreign,
]  # fmt: skip


def flip_structure(path, good, random):
    """Up to three flipped bits among HDF5's own structures, sealed again: HDF5 has to cope with them itself.

    Much of that space is unused, so many of these files are as good as before, and must then say the same.
    """
    data = bytearray(good)
    weights = np.zeros(len(data), bool)
    with h5py.File(path, "r", locking=False) as file:
        for name in datasets(file):
            start = file[name].id.get_offset()
            weights[start : start + file[name].id.get_storage_size()] = start is not None
    structure = USER_BLOCK + np.flatnonzero(~weights[USER_BLOCK:])
    for position in random.choice(structure, random.integers(1, 4)):
        data[position] ^= 1 << random.integers(8)
    path.write_bytes(data)
    seal(path)


def damage(good, path, number, seed):
    """Write damaged file `number` to `path`; the kind of damage."""
    random = np.random.default_rng([seed, number])
    if number % 5 < 2:
        kind = BLIND[random.integers(len(BLIND))]
        data = bytes(kind(good, random))
        path.write_bytes(data)
        return kind.__name__ if data != good else None
    if number % 5 == 4:
        path.write_bytes(good)
        flip_structure(path, good, random)
        return "resealed flip_structure"
    kind = RESEALED[random.integers(len(RESEALED))]
    path.write_bytes(good)
    with h5py.File(path, "r+", locking=False) as file:
        kind(file, random)
    seal(path)
    return f"resealed {kind.__name__}"


def outcome(path):
    """What became of reading the file: `refused`, or what is wrong."""
    tracemalloc.start()
    try:
        read_checkpoint(path).verify()
        verdict = "accepted"
    except RefusedFile as refusal:
        named = refusal.path == path and str(path) in str(refusal) and refusal.reason
        verdict = "refused" if named else f"refused without a name or a reason: {refusal}"
    except BaseException as error:  # the campaign reports whatever comes
        verdict = f"{type(error).__name__}: {error}"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    allowed = path.stat().st_size + SLACK
    return verdict if peak <= allowed else f"{verdict}, but allocated {peak} bytes where {allowed} were allowed"


def rewritten(path, target):
    """The bytes of a new file with the same contents: equal for files that say the same."""
    found = read_checkpoint(path)
    own = ("format", "format_version", "step")
    write_checkpoint(
        target,
        step=found.step,
        parameters=found.parameters,
        momentum=found.momentum,
        buffers=found.buffers,
        state={group: found.state(group) for group in found.groups},
        metrics=found.metrics,
        attributes={name: value for name, value in found.attributes.items() if name not in own},
    )
    return target.read_bytes()


def work(first, last, seed, folder, pipe):
    """Damage and read files `first` to `last`, reporting before and after each."""
    good = (Path(folder) / "good.h5").read_bytes()
    path = Path(folder) / "damaged.h5"
    said = rewritten(Path(folder) / "good.h5", Path(folder) / "again.h5")
    for number in range(first, last):
        kind = damage(good, path, number, seed)
        pipe.send((number, kind, None))
        verdict = outcome(path)
        if verdict == "accepted" and rewritten(path, Path(folder) / "again.h5") == said:
            verdict = "says the same"
        pipe.send((number, kind, verdict))
        path.unlink()
    pipe.close()


def campaign(files, seed):
    """Counts of `(kind, verdict)` over all files; crashes and hangs are verdicts."""
    counts = collections.Counter()
    with tempfile.TemporaryDirectory() as folder:
        good_checkpoint(Path(folder) / "good.h5")
        read_checkpoint(Path(folder) / "good.h5").verify()
        number = 0
        while number < files:
            ours, theirs = multiprocessing.Pipe(duplex=False)
            child = multiprocessing.get_context("fork").Process(target=work, args=(number, files, seed, folder, theirs))
            child.start()
            theirs.close()
            kind = "before the first file"
            try:
                while ours.poll(SECONDS_PER_FILE):
                    number, kind, verdict = ours.recv()
                    if verdict is not None:
                        counts[kind, verdict] += 1
                        number += 1
                else:
                    child.kill()
                    counts[kind, f"file {number} hung"] += 1
                    number += 1
            except EOFError:
                if number < files:
                    child.join()
                    counts[kind, f"file {number} crashed with exit code {child.exitcode}"] += 1
                    number += 1
            child.join()
    return counts


def main():
    """Run the campaign, print a table, exit 1 if any file was not refused."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    counts = campaign(options.files, options.seed)
    unchanged = {key: n for key, n in counts.items() if key[0] is None}
    harmless = {key for key in counts if key[0] in (None, "resealed flip_structure") and key[1] == "says the same"}
    bad = {key: n for key, n in counts.items() if key[1] != "refused" and key not in harmless}
    for (kind, verdict), n in sorted(counts.items(), key=lambda item: str(item[0])):
        print(f"{n:7d}  {kind or 'damage that changed nothing':<32} {verdict}")
    print(
        json.dumps(
            {"files": sum(counts.values()), "not refused": sum(bad.values()), "unchanged": sum(unchanged.values())}
        )
    )
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
