"""Z-Image and FLUX.2 klein: a language model reads prompts; names of layers are those of diffusers' own converters."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from loraloom import plugins
from loraloom.config.run import LoraConfig
from loraloom.extensions.families.flux2_klein.model import empirical_mu
from loraloom.extensions.families.flux2_klein.tiny import build_tiny as build_klein
from loraloom.extensions.families.z_image.tiny import build_tiny as build_z_image
from loraloom.generate.images import denoise
from loraloom.lora.export import export_adapter, first_noise
from loraloom.lora.files import read_adapter, save_adapter
from loraloom.lora.inject import attach_new
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.train.notices import distilled_lines
from loraloom.utils.errors import UserError

LONG = "a cat on a mat, " * 60  # a token a letter


@pytest.fixture(scope="module")
def z_image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_z_image(tmp_path_factory.mktemp("z_image") / "model", seed=3)


@pytest.fixture(scope="module")
def klein(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_klein(tmp_path_factory.mktemp("klein") / "model", seed=3)


def opened(folder: Path, *options: str) -> DiffusionModel:
    return open_model(ModelSource(location=str(folder), options=options))


def encoder(model: DiffusionModel) -> PromptEncoder:
    return PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext"))


def latents_of(model: DiffusionModel, guidance: float = 3.0) -> tuple[Tensor, Tensor]:
    """Ours, and the pipeline's."""
    wanted = ImageRequest(
        prompt="a red house", negative_prompt="blurred", seed=5, num_steps=2, guidance_scale=guidance, sampler="euler",
        width=32, height=48,
    )  # fmt: skip
    noise = first_noise(model, wanted)
    return denoise(model, encoder(model).encode, [wanted], noise_bchw=noise), model.reference_latents(
        None, wanted, noise
    )


@pytest.mark.parametrize("name", ["z_image", "klein"])
@pytest.mark.parametrize("prompt", ["", "a cat", "\n two\n\nlines ", "강아지 <|im_end|>"])
def test_prompts_are_read_as_the_pipeline_reads_them(prompt: str, name: str, request: pytest.FixtureRequest) -> None:
    """The template is written here and comes with the model there: tokens and embeddings are the same."""
    folder = request.getfixturevalue(name)
    model = opened(folder)
    with torch.inference_mode():
        ours = encoder(model).encode([prompt])[0]["text"]
        pipeline: Any = model.pipeline_class().from_pretrained(folder, local_files_only=True)  # pyright: ignore
        if name == "klein":
            theirs = pipeline.encode_prompt(prompt)[0][0]
        else:
            theirs = pipeline.encode_prompt([prompt], do_classifier_free_guidance=False)[0][0]
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_a_long_prompt_keeps_the_template_and_names_what_is_not_read(z_image: Path) -> None:
    """The pipeline cuts the end of the template away with the end of the text; here the text is cut and the template kept."""
    model = opened(z_image, "text_tokens=64")
    plan = encoder(model).plan(LONG)
    assert plan.lost_tokens == plan.num_tokens - 56 > 0
    assert "".join(plan.lost) == LONG[56:]
    [count] = model.text.counts(LONG)
    assert (count.capacity, count.tokens) == (56, len(LONG))
    with torch.inference_mode():
        long, cut = (encoder(model).encode([text])[0]["text"] for text in (LONG, LONG[:56]))
    assert len(long) == 64
    torch.testing.assert_close(long, cut, atol=1e-5, rtol=1e-5)


def test_a_weight_reaches_the_tokens_of_its_words_and_no_other(klein: Path) -> None:
    model = opened(klein)
    with torch.inference_mode():
        plain, strong = (
            encoder(model).encode([text], weighting=True)[0]["text"] for text in ("a red cat", "a (red:1.5) cat")
        )
    ratio = (strong / plain).median(dim=-1).values
    raised = (ratio > 1.2 * float(ratio.median())).nonzero().flatten().tolist()
    first = 3 + len("a ")
    assert raised == [first, first + 1, first + 2]


@pytest.mark.parametrize("name", ["z_image", "klein"])
def test_the_kohya_export_is_loaded_by_the_pipelines_own_loader(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """diffusers converts kohya's keys and splits fused layers: every layer has the update that was trained."""
    folder = request.getfixturevalue(name)
    model = opened(folder)
    adapter = attach_new(model, LoraConfig(rank=2, target="blocks"), seed=0)
    generator = torch.Generator().manual_seed(1)
    for parameter in adapter.parameters.values():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    save_adapter(tmp_path / "own.safetensors", adapter.state(), {"format": "loraloom.adapter.1", "alpha": 2, "rank": 2})
    layers = read_adapter(tmp_path / "own.safetensors").layers(opened(folder))
    kohya = export_adapter(opened(folder), layers, {"rank": 2}, tmp_path / "e", "x", "fp32")[1]
    pipeline: Any = model.pipeline_class().from_pretrained(folder, local_files_only=True)  # pyright: ignore
    pipeline.load_lora_weights(str(kohya.parent), weight_name=kohya.name)
    for layer in layers:
        loaded = pipeline.transformer.get_submodule(layer.module)
        torch.testing.assert_close(
            loaded.get_delta_weight("default_0"), layer.factor * layer.up @ layer.down, atol=1e-5, rtol=1e-4
        )


def test_mu_of_klein_is_diffusers(klein: Path) -> None:
    from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

    for tokens, steps in ((16, 4), (1024, 50), (4096, 28), (5000, 50)):
        assert empirical_mu(tokens, steps) == pytest.approx(compute_empirical_mu(tokens, steps), abs=1e-9)
    schedule = opened(klein).info.schedule
    assert schedule.shift is not None
    assert schedule.shift_steps == 50
    assert schedule.shift(1024, 1024) == pytest.approx(float(torch.tensor(empirical_mu(4096, 50)).exp()), rel=1e-6)


def test_latents_of_klein_are_normalised_without_the_vae_in_memory(klein: Path) -> None:
    model = opened(klein)
    raw = torch.randn(2, 16, 3, 3, generator=torch.Generator().manual_seed(0))
    scaled = model.scale_latents(raw)
    assert not model.modules.loaded("vae")
    vae: Any = model.modules.get("vae")
    wanted = torch.nn.functional.batch_norm(raw, vae.bn.running_mean, vae.bn.running_var, eps=vae.config.batch_norm_eps)
    torch.testing.assert_close(scaled, wanted, atol=1e-5, rtol=1e-5)
    pixels = model.decode_latents(scaled)
    unpatched = torch.nn.functional.pixel_shuffle(raw, 2)
    torch.testing.assert_close(pixels, vae.decode(unpatched, return_dict=False)[0].clamp(-1, 1), atol=1e-4, rtol=1e-4)


def test_distilled_versions_are_recognised_and_not_trained(klein: Path, z_image: Path, tmp_path: Path) -> None:
    turbo = shutil.copytree(z_image, tmp_path / "Z-Image-Turbo")
    few = shutil.copytree(klein, tmp_path / "klein")
    index = json.loads((few / "model_index.json").read_text(encoding="utf-8"))
    (few / "model_index.json").write_text(json.dumps({**index, "is_distilled": True}), encoding="utf-8")
    for folder, steps in ((turbo, 8), (few, 4)):
        info = opened(folder).info
        assert (info.defaults.num_steps, info.defaults.guidance_scale) == (steps, 1.0)
        with pytest.raises(UserError, match="train_distilled=true"):
            distilled_lines(info)
        [line] = distilled_lines(opened(folder, "train_distilled=true").info)
        assert line.startswith("warning: ")
    assert distilled_lines(opened(klein).info) == distilled_lines(opened(z_image).info) == []
    torch.testing.assert_close(*latents_of(opened(few), guidance=1.0), atol=2e-4, rtol=1e-4)


def test_a_text_length_without_room_for_the_template_is_refused(klein: Path) -> None:
    opened(klein, "text_tokens=16")
    with pytest.raises(UserError, match="16"):
        opened(klein, "text_tokens=8")


def test_flux_2_dev_is_refused_with_the_reason(klein: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(klein, tmp_path / "dev")
    file = copy / "transformer" / "config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, "guidance_embeds": True}), encoding="utf-8")
    with pytest.raises(UserError, match=r"FLUX\.2 dev is another model"):
        opened(copy)
