"""An opened Stable Diffusion XL answers what diffusers' own pipeline would, and refuses what is not one."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from loraloom import plugins
from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import LoraConfig
from loraloom.data.batches import geometry_of
from loraloom.data.manifest import read_manifest
from loraloom.diffusion.objective import make_objective
from loraloom.extensions.families.sdxl import FAMILY
from loraloom.extensions.families.sdxl.tiny import build_tiny
from loraloom.lora.inject import attach_new
from loraloom.models.loading import open_model
from loraloom.prepare.run import prepare
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.model import DiffusionModel, ImageGeometry, ModelSource
from loraloom.utils.errors import UserError

DOMAIN = plugins.load("domains", "freetext")
PROMPT = "a plan of two rooms"
PLACE = ImageGeometry(original=(300, 200), crop=(7, 11), target=(64, 32))
"""Wider than high, so that no two of its numbers are alike."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FAMILY.build_tiny(tmp_path_factory.mktemp("sdxl") / "model", seed=2)


@pytest.fixture
def model(folder: Path) -> DiffusionModel:
    return open_model(ModelSource(location=str(folder)))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    """diffusers' own pipeline of the same folder."""
    from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

    kind: Any = StableDiffusionXLPipeline
    return kind.from_pretrained(folder, local_files_only=True)


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    """A copy of the model to break."""
    return Path(shutil.copytree(folder, tmp_path / "copy"))


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **values}), encoding="utf-8")


def encoded(model: DiffusionModel, *prompts: str, **settings: Any) -> list[Any]:
    return PromptEncoder(text=model.text, domain=DOMAIN, **settings).encode(prompts)


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def refusal(location: Path, family: str = "auto") -> str:
    with pytest.raises(UserError) as caught:
        open_model(ModelSource(location=str(location)), family)
    return str(caught.value)


# --------------------------------------------------------------------------------------------------------------- text


@pytest.mark.parametrize("prompt", ["", PROMPT, "Küche, 창문 및 문", "x" * 75])
@torch.inference_mode()
def test_both_encoders_read_a_prompt_as_the_pipeline_does(prompt: str, model: DiffusionModel, pipeline: Any) -> None:
    hidden, _, pooled, _ = pipeline.encode_prompt(prompt, do_classifier_free_guidance=False)
    [ours] = encoded(model, prompt)
    torch.testing.assert_close(ours["hidden"], hidden, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours["pooled"], pooled[0], atol=1e-5, rtol=1e-5)


@torch.inference_mode()
def test_a_long_prompt_keeps_every_window_of_both_encoders_and_the_first_ones_pooled_embedding(
    model: DiffusionModel, pipeline: Any
) -> None:
    """As in sd-scripts, A1111 and ComfyUI, whose pooled embedding is the first window's too."""
    long, short = "There is a large kitchen. " * 9, "a hall"
    plan = PromptEncoder(text=model.text, domain=DOMAIN).plan(long)
    assert len(plan.windows) > 2
    ours = encoded(model, short, long, short)
    expected = [
        pipeline.encode_prompt(model.text.tokenizer.detokenize(window.ids), do_classifier_free_guidance=False)
        for window in plan.windows
    ]
    torch.testing.assert_close(
        ours[1]["hidden"], torch.cat([hidden for hidden, _, _, _ in expected]), atol=1e-5, rtol=1e-5
    )
    torch.testing.assert_close(ours[1]["pooled"], expected[0][2][0], atol=1e-5, rtol=1e-5)
    assert torch.equal(ours[0]["pooled"], ours[2]["pooled"])


def test_both_encoders_and_tokenizers_are_in_the_fingerprint(model: DiffusionModel, copy: Path) -> None:
    """Embeddings of another second encoder would be taken from the cache."""
    before = model.text.fingerprint
    change(copy / "text_encoder_2" / "config.json", layer_norm_eps=2e-5)
    second = open_model(ModelSource(location=str(copy))).text.fingerprint
    change(copy / "tokenizer_2" / "tokenizer_config.json", pad_token="?")
    third = open_model(ModelSource(location=str(copy))).text.fingerprint
    assert len({before, second, third}) == 3


def test_no_lora_layer_is_put_where_no_gradient_arrives(model: DiffusionModel) -> None:
    """The last layer of the first encoder is not read: sd-scripts trains it for nothing."""
    adapter = attach_new(model, LoraConfig(rank=2, target="attention", text_encoder=True), seed=0)
    for key, parameter in adapter.parameters.items():
        parameter.data = 0.1 * random(*parameter.shape, seed=len(key))
    conditioning = model.condition(encoded(model, PROMPT), [PLACE], None)
    model.predict(random(1, 4, 4, 8), torch.tensor([500.0]), conditioning).square().sum().backward()
    dead = [key for key, parameter in adapter.parameters.items() if parameter.grad is None or not parameter.grad.any()]
    assert not dead
    assert {key.partition(".")[0] for key in adapter.parameters} == {"unet", "text_encoder", "text_encoder_2"}


# ----------------------------------------------------------------------------------------------------------- geometry


def test_the_unet_is_told_height_before_width_of_source_crop_and_target(model: DiffusionModel) -> None:
    sizes = model.condition(encoded(model, PROMPT), [PLACE], None)["sizes"]
    assert sizes.tolist() == [[200, 300, 11, 7, 32, 64]]


def test_prepared_images_bring_their_real_sizes_and_crops(
    model: DiffusionModel, tmp_path: Path, draw_folder: Any
) -> None:
    source = draw_folder(tmp_path / "source", 2, [(200, 100), (90, 150)])
    settings = PrepareConfig(size=64, bucket_step=32, min_size=16, validation_share=0, num_workers=1)
    prepare(source, tmp_path / "dataset", settings, console=lambda text: None)
    for example in read_manifest(tmp_path / "dataset").examples:
        left, top, right, bottom = example.crop
        scale = example.scale
        for mirrored in (False, True):
            first = example.source_width - right if mirrored else left
            expected = [
                example.source_height, example.source_width, round(top * scale), round(first * scale),
                example.height, example.width,
            ]  # fmt: skip
            place = geometry_of(example, mirrored)
            assert model.condition(encoded(model, PROMPT), [place], None)["sizes"].tolist() == [expected]
        assert abs((bottom - top) * scale - example.height) <= 1


def test_sizes_are_not_rounded_in_bfloat16(model: DiffusionModel) -> None:
    """bfloat16 holds eight bits: 1023 would be 1024."""
    model.modules.place("denoiser", torch.device("cpu"), torch.bfloat16)
    text = encoded(model, PROMPT)
    answers: list[Tensor] = []
    seen: list[Tensor] = []
    module: Any = model.modules.get("denoiser")
    handle = module.add_time_proj.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for side in (1023, 1024):
            place = ImageGeometry(original=(side, side), crop=(0, 0), target=(64, 64))
            answers.append(model.predict(random(1, 4, 8, 8), torch.tensor([9.0]), model.condition(text, [place], None)))
    handle.remove()
    assert [float(sizes[0]) for sizes in seen] == [1023, 1024]


# ---------------------------------------------------------------------------------------------------- denoiser, loss


@torch.inference_mode()
def test_a_denoising_step_is_the_pipelines(model: DiffusionModel, pipeline: Any) -> None:
    latents, steps = random(2, 4, 4, 8), torch.tensor([1.0, 990.0])
    texts = encoded(model, PROMPT, "a hall")
    ours = model.predict(latents, steps, model.condition(texts, [PLACE, PLACE], None))
    hidden, _, pooled, _ = pipeline.encode_prompt([PROMPT, "a hall"], do_classifier_free_guidance=False)
    sizes = pipeline._get_add_time_ids((200, 300), (11, 7), (32, 64), torch.float32, pooled.shape[1])
    theirs = pipeline.unet(
        latents,
        steps,
        encoder_hidden_states=hidden,
        added_cond_kwargs={"text_embeds": pooled, "time_ids": sizes.repeat(2, 1)},
    ).sample
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_the_training_loss_is_the_papers(prediction_type: Any, tmp_path: Path) -> None:
    """Ho et al. 2020, equation 14, and Salimans & Ho 2022, appendix D, by diffusers' own scheduler, one image at a time."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    folder = build_tiny(tmp_path / "model", seed=5, prediction_type=prediction_type)
    model = open_model(ModelSource(location=str(folder)))
    scheduler: Any = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    objective = make_objective(model.info.schedule, snr_gamma=None, noise_offset=0.0, device=torch.device("cpu"))
    latents, noise, steps = random(3, 4, 4, 8), random(3, 4, 4, 8, seed=8), torch.tensor([3, 500, 999])
    texts = encoded(model, PROMPT, "a hall", "")
    with torch.inference_mode():
        noisy = objective.add_noise(latents, noise, steps)
        prediction = model.predict(noisy, steps.float(), model.condition(texts, [PLACE] * 3, None))
        ours = objective.loss(prediction, objective.target(latents, noise, steps), steps)
        for index, step in enumerate(steps):
            one = slice(index, index + 1)
            seen = scheduler.add_noise(latents[one], noise[one], step[None])
            answer = model.predict(seen, step[None].float(), model.condition([texts[index]], [PLACE], None))
            target = noise[one]
            if prediction_type == "v_prediction":
                target = scheduler.get_velocity(latents[one], noise[one], step[None])
            torch.testing.assert_close(ours[index], (answer - target).square().mean(), atol=1e-5, rtol=1e-5)


# ---------------------------------------------------------------------------------------------------------------- VAE


@torch.no_grad()
def test_the_vae_never_computes_in_float16_which_overflows_in_the_original(model: DiffusionModel) -> None:
    """Under autocast, or placed in float16 by a caller, the original VAE of Stable Diffusion XL gives NaN: black images."""
    vae: Any = model.modules.get("vae")
    for convolution in (vae.decoder.conv_in, vae.encoder.conv_in):
        convolution.weight *= 1e6  # far beyond what float16 holds; the next norm takes it back
    latents, pixels = random(1, 4, 4, 4), torch.rand(1, 3, 32, 32) * 2 - 1
    expected = (model.decode_latents(latents), model.encode_images(pixels)[0])
    with torch.autocast("cpu", torch.float16):
        under = (model.decode_latents(latents), model.encode_images(pixels)[0])
    for got, wanted in zip(under, expected, strict=True):
        assert torch.equal(got, wanted)
    for convolution in (vae.decoder.conv_in, vae.encoder.conv_in):
        convolution.weight *= 1e-2  # finite as float16, but what it makes is not
    expected_image = model.decode_latents(latents)
    placed: Any = model.modules.place("vae", torch.device("cpu"), torch.float16)
    assert not bool(torch.isfinite(placed.decode(1000 * latents.half()).sample).all())
    half = model.decode_latents(latents)
    assert bool(torch.isfinite(half).all())
    torch.testing.assert_close(half, expected_image, atol=0.05, rtol=0.05)


# ----------------------------------------------------------------------------------------------------- what is refused


def test_the_refiner_is_refused_with_a_reason(copy: Path) -> None:
    shutil.rmtree(copy / "text_encoder")
    shutil.rmtree(copy / "tokenizer")
    assert "the model lacks text_encoder/config.json" in refusal(copy)  # of a base that lost it
    change(copy / "unet" / "config.json", cross_attention_dim=48)
    text = refusal(copy)
    assert "refiner of Stable Diffusion XL" in text
    assert "use the base model" in text


def test_encoders_of_sdxl_beside_a_unet_of_stable_diffusion_1_are_named_both(copy: Path, tiny_model: Path) -> None:
    shutil.copy(tiny_model / "unet" / "config.json", copy / "unet" / "config.json")
    text = refusal(copy)
    assert "a UNet of Stable Diffusion 1.x or 2.x beside the text encoders of Stable Diffusion XL" in text


def test_a_unet_of_sdxl_with_another_second_encoder_is_refused_by_its_widths(copy: Path) -> None:
    other = build_tiny(copy.parent / "other", text_widths=(32, 64))
    shutil.rmtree(copy / "text_encoder_2")
    shutil.copytree(other / "text_encoder_2", copy / "text_encoder_2")
    text = refusal(copy)
    assert "cross_attention_dim: got 80, expected the sum of both text encoders' hidden_size (96)" in text
    change(copy / "text_encoder_2" / "config.json", hidden_size=48)
    assert "projection_class_embeddings_input_dim: got 96" in refusal(copy)


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "vae", "unet", "scheduler"])
def test_a_missing_part_is_named(part: str, copy: Path) -> None:
    shutil.rmtree(copy / part)
    assert f"the model lacks {part}/" in refusal(copy, "sdxl")


def test_two_tokenizers_of_different_models_are_refused(copy: Path) -> None:
    vocabulary = json.loads((copy / "tokenizer_2" / "vocab.json").read_text(encoding="utf-8"))
    first, second = list(vocabulary)[:2]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (copy / "tokenizer_2" / "vocab.json").write_text(json.dumps(vocabulary), encoding="utf-8")
    (copy / "tokenizer_2" / "tokenizer.json").unlink(missing_ok=True)
    assert "the two tokenizers of this model differ" in refusal(copy)


@pytest.mark.parametrize(("channels", "told"), [(9, "inpainting"), (8, "editing"), (5, "depth")])
@pytest.mark.parametrize("family", ["sdxl", "stable_diffusion"])
def test_unets_that_take_more_than_latents_are_refused_with_their_kind(
    family: str, channels: int, told: str, folder: Path, tiny_model: Path, tmp_path: Path
) -> None:
    copied = Path(shutil.copytree(folder if family == "sdxl" else tiny_model, tmp_path / "copy"))
    change(copied / "unet" / "config.json", in_channels=channels)
    change(copied / "model_index.json", _class_name="StableDiffusionDepth2ImgPipeline")
    text = refusal(copied)
    assert told in text
    assert f"got '{channels} input channels', expected 4" in text


def test_the_wrong_family_names_both(folder: Path, tiny_model: Path) -> None:
    assert "of another family" in refusal(folder, "stable_diffusion")
    assert "got 'sdxl', expected stable_diffusion" in refusal(folder, "stable_diffusion")
    assert "got 'stable_diffusion', expected sdxl" in refusal(tiny_model, "sdxl")


def test_the_tiny_model_has_less_than_a_million_weights(model: DiffusionModel) -> None:
    modules = [model.modules.get(part.name) for part in model.info.parts]
    assert sum(parameter.numel() for module in modules for parameter in module.parameters()) < 1_000_000
