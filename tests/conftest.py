"""What every test shares: one thread (the suite runs under xdist), a fixed seed, and the marker for accelerators."""

import os
import tempfile
from collections.abc import Iterator

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is imported; processes the tests start inherit it
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="landscape-state-")  # where names of own code are remembered

import pytest
import torch
from started_processes import started, watch

torch.set_num_threads(1)
watch()


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def started_processes_are_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    started.clear()
    yield
    if started and request.node.get_closest_marker("processes") is None:
        pytest.fail(f"starts {', '.join(started)}: mark this test with @pytest.mark.processes")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device; this machine has none")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
