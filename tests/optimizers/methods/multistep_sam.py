"""Climbing in strides: what is seen is the first of three."""

from expectations import Expected, euclidean

EXPECTED = Expected(
    length=lambda training, epsilon: 3 * euclidean(training, epsilon),
    reading={"1-norm": ({"p": 1}, lambda steps: 0)},
    other_settings={"p": ({}, {"p": 1})},
    refused_on_shards=(({"p": 1}, r"p = 1 needs the largest entry of all shards, .*; use p = 2"),),
)
