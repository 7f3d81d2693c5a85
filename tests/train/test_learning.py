"""Training learns, and says what it does."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from loraloom.config.generate import GenerateConfig
from loraloom.config.prepare import PrepareConfig
from loraloom.data.encode import load_pixels
from loraloom.data.manifest import read_manifest
from loraloom.generate.session import open_session
from loraloom.lora.files import read_adapter
from loraloom.prepare.run import prepare
from loraloom.train.run import train
from loraloom.utils.errors import UserError

from .conftest import Configure, first_colour


def events(folder: Path, kind: str) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if row["kind"] == kind]


@pytest.fixture(scope="module")
def overfitted(
    tmp_path_factory: pytest.TempPathFactory, draw_folder: Callable[..., Path], tiny_model: Path
) -> tuple[Path, Path]:
    """(run folder, dataset) of one image learned by heart."""
    from loraloom.config.run import RunConfig

    root = tmp_path_factory.mktemp("overfit")
    source = draw_folder(root / "source", 1, text="one image")
    for copy in range(1, 8):  # eight names of one image: eight noises a step
        shutil.copy(source / "000.png", source / f"{copy:03d}.png")
        shutil.copy(source / "000.txt", source / f"{copy:03d}.txt")
    settings = PrepareConfig(size=64, bucket_step=16, min_size=16, num_workers=1, validation_share=0)
    prepare(source, root / "dataset", settings, console=lambda t: None)
    config = RunConfig.model_validate(
        {
            "model": {"source": str(tiny_model)},
            "data": {"dataset": str(root / "dataset"), "batch_size": 8, "caption_dropout": 0},
            "lora": {"target": "all_linear_conv", "rank": 32},
            "optim": {"learning_rate": 4e-3, "scheduler": "cosine"},
            "train": {"output": str(root / "run"), "max_steps": 200, "log_every": 10},
            "checkpoints": {"every": 0},
            "samples": {"enabled": False},
            "export": {"verify": False},
        }
    )
    train(config, say=lambda text: None)
    return root / "run", root / "dataset"


def test_the_loss_falls(overfitted: tuple[Path, Path]) -> None:
    losses = [row["loss"] for row in events(overfitted[0], "train")]
    assert np.mean(losses[-5:]) < 0.75 * np.mean(losses[:3])


def test_an_overfitted_adapter_reproduces_its_image_better_than_the_base(
    overfitted: tuple[Path, Path], tiny_model: Path
) -> None:
    run, dataset = overfitted
    pixels = load_pixels(dataset, read_manifest(dataset).examples[0])[None]
    settings = GenerateConfig(num_images=4, steps=20, guidance_scale=1.0, sampler="ddim", seed=5, width=64, height=64)
    distance: dict[float, float] = {}
    for weight in (0.0, 1.0):
        session = open_session(settings, adapters=[(run, weight)])
        with torch.inference_mode():
            mean, _ = session.model.encode_images(pixels)
            target = session.model.decode_latents(session.model.scale_latents(mean))[0]
        drawn = [
            torch.from_numpy(np.array(p.image)).permute(2, 0, 1).float() / 127.5 - 1
            for p in session.generate(session.requests(["one image"]))
        ]
        distance[weight] = float(np.mean([(image - target).abs().mean() for image in drawn]))
    # The tiny VAE has random weights too, so the image to reproduce is what it makes of the original.
    assert distance[1.0] < 0.7 * distance[0.0], distance


def test_events_tell_loss_rate_speed_norm_and_memory(overfitted: tuple[Path, Path]) -> None:
    row = events(overfitted[0], "train")[-1]
    assert row["step"] == 200
    assert {"loss", "learning_rate", "images_per_second", "grad_norm", "peak_memory_mib"} <= row.keys()


def test_the_run_folder_holds_what_it_promises(configure: Configure) -> None:
    config = configure(
        samples={"enabled": True, "steps": 2, "sampler": "ddim", "prompts": ("a", "b")}, export={"verify": True}
    )
    said: list[str] = []
    result = train(config, say=said.append)
    folder = result.folder
    assert [p.name for p in sorted((folder / "checkpoints").iterdir())] == ["step_0000003", "step_0000006"]
    for step in (0, 3, 6):
        assert (folder / "samples" / f"step_{step:07d}" / "01.txt").read_text() == "b\n"
        assert Image.open(folder / "samples" / f"step_{step:07d}" / "01.png").size == (64, 64)
    assert Image.open(folder / "samples" / "sheet.png").width > 3 * 192
    assert len(result.checks) == 2
    assert all(check.good for check in result.checks)
    assert any("16 layers of the denoiser" in line for line in said)
    programs = [line for line in said if line.startswith("for ")]
    assert [line.partition(":")[0] for line in programs] == [
        "for loraloom", "for diffusers", "for A1111, ComfyUI, Forge and sd-scripts"
    ]  # fmt: skip
    assert all(Path(line.partition(": ")[2]).is_file() for line in programs)
    assert events(folder, "validation")


def test_an_adapter_knows_its_base_from_another_folder(
    configure: Configure, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny_model.parent)
    folder = train(configure(model={"source": tiny_model.name}, train={"max_steps": 1}), say=lambda t: None).folder
    monkeypatch.chdir(tmp_path)
    config = GenerateConfig(steps=1, width=32, height=32)
    for place in (folder, folder / "checkpoints" / "step_0000001"):
        session = open_session(config, adapters=[(place, 1.0)])
        assert Path(session.model.info.source.location).samefile(tiny_model)
    exported = read_adapter(folder / "exports" / "pytorch_lora_weights.safetensors").record
    assert "path" not in exported["base"], "a path of this machine is nobody else's business"


def test_a_second_run_with_the_same_settings_is_bit_identical(configure: Configure, tmp_path: Path) -> None:
    files = [train(configure(train={"output": str(tmp_path / name)}), say=lambda t: None).folder for name in "ab"]
    first, second = (_tensors(folder) for folder in files)
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_training_from_a_full_cache_never_reads_vae_or_text_encoder(
    configure: Configure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(configure(), say=lambda t: None)
    from loraloom.extensions.families.stable_diffusion.model import StableDiffusionModel

    read: list[str] = []
    original = StableDiffusionModel._load

    def watch(self: StableDiffusionModel, part: str):
        read.append(part)
        return original(self, part)

    monkeypatch.setattr(StableDiffusionModel, "_load", watch)
    train(configure(train={"output": str(tmp_path / "again")}), say=lambda t: None)
    assert read == ["denoiser"]


def test_the_text_encoder_can_learn_too(configure: Configure) -> None:
    result = train(
        configure(lora={"text_encoder": True}, train={"max_steps": 3}, export={"verify": True}), say=lambda t: None
    )
    tensors = _tensors(result.folder)
    moved = [
        key
        for key, value in tensors.items()
        if key.startswith("text_encoder.") and ".lora_B." in key and bool(value.any())
    ]
    assert moved
    assert all(check.good for check in result.checks)


def test_uncached_training_learns_the_same_as_cached(configure: Configure, tmp_path: Path) -> None:
    cached = _tensors(train(configure(), say=lambda t: None).folder)
    config = configure(data={"cache": False}, train={"output": str(tmp_path / "live")})
    live = _tensors(train(config, say=lambda t: None).folder)
    assert all(torch.equal(cached[key], live[key]) for key in cached)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"lora": {"target": "nothing_here_\\d{9}"}}, "matches no layer"),
        ({"lora": {"target": "cross_atention"}}, "did you mean 'cross_attention'"),
        ({"data": {"dataset": "/nowhere"}}, "not a prepared dataset|no such"),
        ({"model": {"source": "no/such-model-here"}}, "not in the cache"),
        ({"train": {"mixed_precision": "fp16"}}, "needs a GPU"),
        ({"prompts": {"max_windows": 1}, "data": {"domain": "nodomain"}}, "unknown domains extension"),
    ],
)
def test_mistakes_are_told_before_anything_is_trained(
    configure: Configure, groups: dict[str, dict[str, object]], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        train(configure(**groups), say=lambda t: None)


def _tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "adapter.safetensors")


def test_a_class_that_weighs_more_is_said_and_changes_what_is_learned(
    configure: Configure, dataset: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    colour = first_colour(dataset)
    for name, weights in (("plain", []), ("same", ["#010203=7"]), ("weighed", [f"{colour}=20"])):
        config = configure(train={"output": str(tmp_path / name)}, objective={"class_weights": weights})
        train(config, say=said.append)
    plain, same, weighed = (load_file(tmp_path / name / "adapter.safetensors") for name in ("plain", "same", "weighed"))
    assert all(torch.equal(plain[key], same[key]) for key in plain), "what is nowhere weighs nothing"
    assert any(not torch.equal(plain[key], weighed[key]) for key in plain)
    assert any("#010203 counts 7 times, warning: none is there" in line for line in said)
    assert any(line.startswith(f"class weights: {colour} counts 20 times, in ") for line in said)


def test_lines_for_the_user_are_records_of_the_logger(
    configure: Configure, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    """A program around the library decides where they go; `say` is for those that want a function."""
    numbers: list[int] = []
    train(configure(data={"batch_size": 5}), say=None, report=lambda done, values: numbers.append(done))
    levels = {record.getMessage(): record.levelname for record in caplog.records if record.name == "loraloom"}
    assert any("LoRA on" in line for line in levels)
    assert any(line.startswith("note: a batch of 5") for line in levels), levels
    assert numbers == [2, 4, 6]
    assert capsys.readouterr().out == ""
