"""A source is a pure function of (seed, epoch, index): whoever asks, whenever, in how many shares, gets the same batch."""

from typing import Any, Literal

import generated_images
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from landscape.data import Feed, augmentations, load
from landscape.data.augmentation import Augmentations
from landscape.execution import Execution
from landscape.experiment import Experiment

CROPPED = [{"name": "crop", "padding": 2}, {"name": "flip"}, {"name": "cutout", "size": 3}]
HERE = generated_images.__name__
KINDS: dict[str, tuple[str, dict[str, Any], Literal["auto", "yes", "no"], list[dict[str, Any]]]] = {
    "resident": ("tensors", {}, "yes", CROPPED),
    "streamed": ("tensors", {}, "no", CROPPED),
    "fetched": ("waves", {"noise": 0.3}, "auto", CROPPED),
    "own": ("own_source", {}, "auto", []),
}


def feed(kind: str, examples: int, batch: int, seed: int) -> Feed:
    factory, options, resident, augment = KINDS[kind]
    experiment = Experiment(
        data=f"{HERE}:{factory}", data_options={"examples": examples, **options}, augment=augment, batch_size=batch,
        seed=seed,
    )  # fmt: skip
    return Feed(experiment, Execution(resident=resident), load(experiment), torch.device("cpu"))


@settings(max_examples=12, deadline=None)
@given(
    examples=st.integers(1, 40), batch=st.integers(1, 17), seed=st.integers(-5, 5), epoch=st.integers(0, 3), data=st.data(),
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_shares_are_disjoint_and_together_the_batch_from_wherever_one_begins(
    kind: str, examples: int, batch: int, seed: int, epoch: int, data: Any
) -> None:
    one, other = feed(kind, examples, batch, seed), feed(kind, examples, batch, seed)
    whole = list(one.batches(epoch))
    assert sum(found.examples for found in whole) == examples
    list(other.batches(epoch + 1))  # what was asked before does not matter
    smallest = min(found.examples for found in whole)  # with fewer examples than processes a batch is refused
    world = data.draw(st.integers(1, min(4, smallest)))
    position = data.draw(st.integers(0, len(whole) - 1))
    shares = [list(other.batches(epoch, position, rank, world)) for rank in range(world)]
    for batches, expected in zip(zip(*shares, strict=True), whole[position:], strict=True):
        assert torch.equal(torch.cat([share.inputs for share in batches]), expected.inputs)
        assert torch.equal(torch.cat([share.targets for share in batches]), expected.targets)
        assert {share.examples for share in batches} == {expected.examples} == {len(expected.targets)}


@pytest.mark.parametrize("kind", KINDS)
def test_epochs_and_seeds_differ(kind: str) -> None:
    def first(seed: int, epoch: int) -> Tensor:
        return next(feed(kind, 40, 17, seed).batches(epoch)).inputs

    assert not torch.equal(first(0, 0), first(0, 1))
    assert not torch.equal(first(0, 0), first(1, 0))


@pytest.mark.parametrize("channels", [1, 3])
def test_augmentations_are_what_a_loop_over_pixels_makes_of_them(channels: int) -> None:
    images = torch.randn(9, channels, 6, 7, generator=torch.Generator().manual_seed(0))
    random = torch.Generator().manual_seed(1)
    for table in ({"name": "crop", "padding": 2}, {"name": "flip"}, {"name": "cutout", "size": 3}):
        kind = augmentations.create(str(table["name"]), {}, {k: v for k, v in table.items() if k != "name"})
        drawn = kind.draw(9, (channels, 6, 7), random)
        before, found = images.clone(), kind(images, drawn)
        assert torch.equal(images, before)
        for n in range(9):
            for row in range(6):
                for column in range(7):
                    r, c = row, column
                    if table["name"] == "crop":
                        r, c = row + int(drawn[n, 0]) - 2, column + int(drawn[n, 1]) - 2
                    elif table["name"] == "flip" and drawn[n]:
                        c = 6 - column
                    blank = not (0 <= r < 6 and 0 <= c < 7)
                    if table["name"] == "cutout":
                        top, left = int(drawn[n, 0]) - 1, int(drawn[n, 1]) - 1
                        blank = top <= row < top + 3 and left <= column < left + 3
                    expected = torch.zeros(channels) if blank else images[n, :, r, c]
                    assert torch.equal(found[n, :, row, column], expected), (table, n, row, column)


def test_an_example_is_augmented_alike_in_whatever_batch_it_comes_up() -> None:
    images = torch.randn(30, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    made = Augmentations(CROPPED, seed=3, examples=30, shape=(1, 8, 8), standardisation=None, dtype=torch.float32)
    everything = made(images, torch.arange(30), 2)
    some = torch.tensor([17, 3, 25])
    assert torch.equal(made(images[some], some, 2), everything[some])
    assert not torch.equal(made(images[some], some, 3), everything[some])
