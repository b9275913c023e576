"""The wheel: built, installed into an environment of its own, imported from another folder."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.processes
def test_the_wheel_installs_and_imports(tmp_path: Path) -> None:
    source = tmp_path / "source"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(source)], check=True)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(tmp_path)]
    subprocess.run([*build, str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in ("analyses/landscape.mplstyle", "analyses/claims/demo.toml", "optimizers/py.typed"):
        assert needed in names, f"{needed} is not in the wheel"
    assert not [name for name in names if name.startswith(("tests/", "notebooks/"))]

    clean = tmp_path / "clean"
    venv.create(clean, with_pip=False)
    site = Path(sysconfig.get_path("purelib", vars={"base": str(clean)}))
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)], check=True
    )
    # the dependencies are lent by the running environment, listed after the clean one, so that they are not downloaded
    # again; its editable install of this very project is not followed
    lent = sysconfig.get_path("purelib")
    code = (
        f"import sys; sys.path.append({lent!r})\n"
        "import optimizers, landscape, analyses, importlib.metadata\n"
        "for module in (optimizers, landscape, analyses):\n"
        f"    assert module.__file__.startswith({str(clean)!r}), module.__file__\n"
        "assert importlib.metadata.version('landscape-toolkit')\n"
        "from landscape.commands.parser import recipes\n"
        "assert 'demo' in recipes('claims')\n"
    )
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    subprocess.run([str(clean / "bin" / "python"), "-c", code], check=True, cwd=tmp_path, env=environment)
