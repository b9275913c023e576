"""m-SAM ascends and descends with one micro-batch after the other; of two replicas, one is m examples of each together."""

from expectations import Expected

EXPECTED = Expected(
    compiles_step=True,
    descends=lambda at, passes: at in (2, 4),
    reading={"at once": ({"vectorize": True}, lambda steps: 0)},
    copied_with={"m": 2},
    alone={"m": 8},
    together={"m": 4},
    replicated={"m": 4},
    refused_on_replicas=(
        ({"m": 4, "vectorize": True}, "bypasses DistributedDataParallel's averaging; use vectorize=False"),
    ),
    refused_on_shards=(({"m": 4, "vectorize": True}, r"these are sharded .*; use vectorize=False"),),
)
