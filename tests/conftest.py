"""Fixtures that every room uses: a tiny model, drawn images, and the real data where it is present."""

import multiprocessing
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

# No test may wait for a hub, and a test process next to another must not fight for cores.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# No test is timed: on a busy machine a first example takes longer than the 200 ms that hypothesis allows.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

# The server that forks processes starts once, in whichever test comes first, and imports nothing later: without this each
# process of each test would import torch anew.
multiprocessing.set_forkserver_preload(
    ["loraloom.train.run", "loraloom.extensions.families.stable_diffusion.model", "tests.support.frozen"]
)

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real images and texts beside the checkout; the test is skipped where they are not."""
    if not SHARED.is_dir():
        pytest.skip("the real data (../shared/data) is not beside this checkout")
    return SHARED


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder of the Stable Diffusion 1 layout with random weights."""
    from loraloom.extensions.families.stable_diffusion.tiny import build_tiny

    return build_tiny(tmp_path_factory.mktemp("model") / "tiny", seed=0)


@pytest.fixture(scope="session")
def draw_folder() -> Callable[..., Path]:
    """Draws a folder of coloured squares with captions: `draw_folder(path, count, size=(w, h) or list of sizes)`."""

    def draw(
        folder: Path, count: int, size: tuple[int, int] | list[tuple[int, int]] = (64, 64), text: str = "image {n}"
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        rng = np.random.default_rng(7)
        for number in range(count):
            width, height = size[number % len(size)] if isinstance(size, list) else size
            pixels = np.full((height, width, 3), rng.integers(0, 255, 3), np.uint8)
            top, left = int(rng.integers(0, height // 2)), int(rng.integers(0, width // 2))
            pixels[top : top + height // 3, left : left + width // 3] = rng.integers(0, 255, 3)
            Image.fromarray(pixels).save(folder / f"{number:03d}.png")
            (folder / f"{number:03d}.txt").write_text(text.format(n=number), encoding="utf-8")
        return folder

    return draw


@pytest.fixture(scope="session")
def draw_dataset(tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path]) -> Callable[..., Path]:
    """Draws and prepares images: `draw_dataset(count, list of sizes, **settings of prepare)`."""

    def draw(count: int, sizes: list[tuple[int, int]], **settings: Any) -> Path:
        from loraloom.config.prepare import PrepareConfig
        from loraloom.prepare.run import prepare

        root = tmp_path_factory.mktemp("dataset")
        source = draw_folder(root / "source", count, sizes, text="a drawn image, number {n}")
        config = PrepareConfig(bucket_step=16, min_size=16, num_workers=1, **settings)
        prepare(source, root / "dataset", config, console=lambda text: None)
        return root / "dataset"

    return draw


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """`small_disk("300k")`: a folder on a disk of that size. Needs root; the test is skipped where none can be mounted."""
    if os.name == "nt" or os.geteuid() != 0:
        pytest.skip("mounting a small tmpfs needs root")
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        folder = tmp_path / f"small{len(mounted)}"
        folder.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(folder)
        return folder

    yield mount
    for folder in mounted:
        subprocess.run(["umount", str(folder)], check=True)
