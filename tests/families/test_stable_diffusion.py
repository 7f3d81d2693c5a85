"""An opened model answers what diffusers' own pipeline would, part by part and sampler by sampler."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from loraloom import plugins
from loraloom.extensions.families._diffusers.samplers import SAMPLERS, make_sampler
from loraloom.extensions.families.stable_diffusion.tiny import build_tiny
from loraloom.generate.images import denoise
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ModelSource
from loraloom.utils.errors import UserError
from loraloom.utils.rng import generator, normal

PARTS = ("denoiser", "vae", "text_encoder")
PROMPT = "a plan of two rooms"


@pytest.fixture(scope="module")
def model(tiny_model: Path) -> DiffusionModel:
    return open_model(ModelSource(location=str(tiny_model)), "stable_diffusion")


@pytest.fixture(scope="module")
def peer(tiny_model: Path) -> Any:
    """diffusers' own pipeline of the same folder."""
    return pipeline_of(tiny_model)


@pytest.fixture(scope="module")
def v_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("v") / "model", seed=1, prediction_type="v_prediction")


def pipeline_of(folder: Path) -> Any:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    kind: Any = StableDiffusionPipeline
    pipeline = kind.from_pretrained(folder, local_files_only=True, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# ------------------------------------------------------------------------------------------------------------- pieces


@pytest.mark.parametrize("prompt", ["", PROMPT, "Küche, 창문 및 문", "x" * 75])
def test_the_text_encoder_reads_a_window_as_the_pipeline_does(prompt: str, model: DiffusionModel, peer: Any) -> None:
    ids = model.text.tokenizer.window(model.text.tokenizer.tokenize(prompt))
    assert ids == peer.tokenizer(prompt, padding="max_length", truncation=True, max_length=77).input_ids
    with torch.inference_mode():
        text: Any = model.text
        ours = text.encode_windows(torch.tensor([ids]))
        theirs = peer.encode_prompt(prompt, torch.device("cpu"), 1, False)[0]
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_tokens_are_never_cut_and_read_back(model: DiffusionModel) -> None:
    text = "kitchen left of bath. " * 40
    ids = model.text.tokenizer.tokenize(text)
    assert len(ids) > 77
    assert "".join(model.text.tokenizer.detokenize(ids).split()) == "".join(text.split())


def test_a_windows_length_is_the_encoders_own(model: DiffusionModel) -> None:
    assert model.text.tokenizer.window_tokens == len(model.text.tokenizer.window([])) == 77


@pytest.mark.parametrize("size", [(64, 64), (32, 96)])
def test_images_are_encoded_and_decoded_as_by_the_pipelines_vae(
    size: tuple[int, int], model: DiffusionModel, peer: Any
) -> None:
    pixels = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        mean, log_variance = model.encode_images(pixels)
        posterior = peer.vae.encode(pixels).latent_dist
        scaled = model.scale_latents(mean)
        ours = model.decode_latents(scaled)
        theirs = peer.vae.decode(scaled / peer.vae.config.scaling_factor).sample
    assert torch.allclose(mean, posterior.mean, atol=1e-6)
    assert torch.allclose(log_variance, posterior.logvar, atol=1e-5)
    assert torch.allclose(ours, theirs.clamp(-1, 1), atol=1e-5)
    assert ours.abs().max() <= 1
    assert mean.shape == (
        2,
        model.info.latent_channels,
        size[0] // model.info.vae_scale_factor,
        size[1] // model.info.vae_scale_factor,
    )


def test_a_vae_with_a_shift_is_undone_when_decoding(tmp_path: Path, tiny_model: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "shifted")
    config = json.loads((folder / "vae" / "config.json").read_text(encoding="utf-8"))
    (folder / "vae" / "config.json").write_text(json.dumps({**config, "shift_factor": 0.25}), encoding="utf-8")
    shifted = open_model(ModelSource(location=str(folder)), "stable_diffusion")
    raw = random(1, 4, 8, 8)
    with torch.inference_mode():
        plain: Any = shifted.modules.get("vae")
        expected = plain.decode(raw).sample.clamp(-1, 1)
        assert torch.allclose(shifted.decode_latents(shifted.scale_latents(raw)), expected, atol=1e-5)


def test_the_denoiser_answers_as_the_pipelines(model: DiffusionModel, peer: Any) -> None:
    latents, hidden, steps = random(2, 4, 8, 8), random(2, 77, 64, seed=4), torch.tensor([1, 990])
    with torch.inference_mode():
        ours = model.predict(latents, steps, {"hidden": hidden})
        theirs = peer.unet(latents, steps, encoder_hidden_states=hidden).sample
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_a_masked_window_is_as_if_it_were_not_there(model: DiffusionModel) -> None:
    latents, steps = random(2, 4, 8, 8), torch.tensor([500, 500])
    short, long = random(1, 77, 64, seed=5), random(1, 154, 64, seed=6)
    padded = torch.cat([torch.cat([short, 9 * random(1, 77, 64, seed=7)], dim=1), long])
    mask = torch.ones(2, 154, dtype=torch.bool)
    mask[0, 77:] = False
    with torch.inference_mode():
        together = model.predict(latents, steps, {"hidden": padded, "mask": mask})
        assert torch.allclose(together[:1], model.predict(latents[:1], steps[:1], {"hidden": short}), atol=1e-5)
        assert torch.allclose(together[1:], model.predict(latents[1:], steps[1:], {"hidden": long}), atol=1e-5)


def test_the_schedule_is_the_one_that_the_model_was_trained_with(model: DiffusionModel, peer: Any) -> None:
    schedule, alphas_t = model.info.schedule, peer.scheduler.alphas_cumprod
    assert torch.equal(schedule.signal_t.float(), alphas_t.sqrt())
    assert torch.equal(schedule.sigma_t.float(), (1 - alphas_t).sqrt())
    assert torch.equal(schedule.timestep_t, torch.arange(1000.0))
    assert schedule.signal_t.dtype == schedule.sigma_t.dtype == torch.float64
    assert schedule.prediction_type == "epsilon"


# ----------------------------------------------------------------------------------------------------------- samplers


def drawn_by_both(folder: Path, sampler: str, batch: int, steps: int = 6) -> tuple[Tensor, Tensor]:
    """Latents of a few images: by `denoise`, and by diffusers' pipeline with the same scheduler and first noise."""
    model, pipeline = open_model(ModelSource(location=str(folder)), "stable_diffusion"), pipeline_of(folder)
    requests = [
        ImageRequest(
            prompt=f"{PROMPT} {k}",
            negative_prompt="blur",
            seed=k,
            num_steps=steps,
            guidance_scale=4.0,
            sampler=sampler,
            width=64,
            height=64,
        )
        for k in range(batch)
    ]
    kind, settings = SAMPLERS[sampler]
    pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **settings)
    noise = torch.stack([normal((4, 8, 8), request.seed, "picture") for request in requests])
    ours = denoise(model, PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext")).encode, requests)
    theirs = pipeline(
        [request.prompt for request in requests], negative_prompt=["blur"] * batch, num_inference_steps=steps,
        guidance_scale=4.0, width=64, height=64, latents=noise, output_type="latent",
        generator=[generator(request.seed, "sampler") for request in requests],
    ).images  # fmt: skip
    return ours, theirs


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_each_sampler_draws_what_the_same_scheduler_draws_in_diffusers(
    sampler: str, batch: int, tiny_model: Path
) -> None:
    ours, theirs = drawn_by_both(tiny_model, sampler, batch)
    assert torch.allclose(ours, theirs, atol=1e-4), float((ours - theirs).abs().max())


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_model_that_predicts_velocity_is_drawn_as_by_diffusers(sampler: str, v_model: Path) -> None:
    assert (
        open_model(ModelSource(location=str(v_model)), "stable_diffusion").info.schedule.prediction_type
        == "v_prediction"
    )
    ours, theirs = drawn_by_both(v_model, sampler, 1)
    assert torch.allclose(ours, theirs, atol=1e-4), float((ours - theirs).abs().max())


def test_an_unknown_sampler_names_the_nearest_and_all_are_in_the_help(model: DiffusionModel) -> None:
    from loraloom.config.generate import GenerateConfig

    with pytest.raises(UserError, match="unknown sampler: got 'eulera'\n  did you mean 'euler_a'"):
        model.sampler("eulera", 5, 64, 64)
    with pytest.raises(UserError, match="known: ddim, ddpm, dpmpp_2m, dpmpp_2m_karras, euler, euler_a, lcm, unipc"):
        model.sampler("???", 5, 64, 64)
    help_text = str(GenerateConfig.model_fields["sampler"].description)
    assert all(name in help_text for name in SAMPLERS)


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
@pytest.mark.parametrize("steps", [1, 2, 25])
def test_a_sampler_takes_as_many_steps_as_it_was_asked_for(sampler: str, steps: int, model: DiffusionModel) -> None:
    assert len(model.sampler(sampler, steps, 64, 64).timesteps) == steps


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_more_steps_than_the_schedule_has_are_refused_in_words(sampler: str, model: DiffusionModel) -> None:
    """diffusers raised a ValueError for some, which reached the user as a traceback, and repeated timesteps for others."""
    with pytest.raises(UserError, match=f"too many steps for {sampler}: got 1001, expected at most"):
        model.sampler(sampler, 1001, 64, 64)


def test_lcm_takes_as_many_steps_as_it_was_distilled_for(model: DiffusionModel) -> None:
    assert len(model.sampler("lcm", 50, 64, 64).timesteps) == 50
    with pytest.raises(UserError, match="too many steps for lcm: got 51, expected at most 50"):
        model.sampler("lcm", 51, 64, 64)


def test_a_schedule_with_settings_of_another_solver_still_makes_every_sampler() -> None:
    config = {
        "beta_schedule": "scaled_linear",
        "skip_prk_steps": True,
        "clip_sample": False,
        "_class_name": "PNDMScheduler",
    }
    for name in SAMPLERS:
        assert len(make_sampler(name, config, 4, torch.device("cpu")).timesteps) == 4


def test_an_unknown_prediction_type_is_refused(tmp_path: Path, tiny_model: Path) -> None:
    import json
    import shutil

    folder = shutil.copytree(tiny_model, tmp_path / "flow")
    file = folder / "scheduler" / "scheduler_config.json"
    file.write_text(
        json.dumps({**json.loads(file.read_text(encoding="utf-8")), "prediction_type": "flow"}), encoding="utf-8"
    )
    with pytest.raises(UserError, match="unknown prediction type: got 'flow', expected epsilon or v_prediction"):
        open_model(ModelSource(location=str(folder)), "stable_diffusion")


# -------------------------------------------------------------------------------------------------------------- parts


def test_opening_reads_no_weights_and_parts_come_and_go(tiny_model: Path) -> None:
    model = open_model(ModelSource(location=str(tiny_model)), "stable_diffusion")
    assert model.text.tokenizer.tokenize("counted before anything is loaded")
    assert not any(model.modules.loaded(part) for part in PARTS)
    for part in PARTS:
        module = model.modules.get(part)
        assert model.modules.loaded(part)
        assert model.modules.get(part) is module
        assert not module.training
        assert not any(parameter.requires_grad for parameter in module.parameters())
        model.modules.drop(part)
        assert not model.modules.loaded(part)
        model.modules.drop(part)  # dropping twice is nothing
    again = model.modules.get("denoiser")
    assert torch.equal(
        next(again.parameters()),
        next(
            open_model(ModelSource(location=str(tiny_model)), "stable_diffusion").modules.get("denoiser").parameters()
        ),
    )


def test_a_part_is_placed_in_a_dtype_and_answers_in_it(tiny_model: Path) -> None:
    model = open_model(ModelSource(location=str(tiny_model)), "stable_diffusion")
    for part in PARTS:
        module = model.modules.place(part, torch.device("cpu"), torch.bfloat16)
        assert {parameter.dtype for parameter in module.parameters()} == {torch.bfloat16}
    with torch.inference_mode():
        mean, log_variance = model.encode_images(torch.zeros(1, 3, 64, 64))
        assert mean.dtype == log_variance.dtype == model.decode_latents(mean).dtype == torch.float32


def test_fingerprints_change_with_weights_and_config_only(tiny_model: Path, v_model: Path) -> None:
    one, same, other = (
        open_model(ModelSource(location=str(path)), "stable_diffusion") for path in (tiny_model, tiny_model, v_model)
    )
    for part in PARTS:
        assert one.modules.fingerprint(part) == same.modules.fingerprint(part) != other.modules.fingerprint(part)
    assert one.text.fingerprint == same.text.fingerprint != other.text.fingerprint
    assert not any(one.modules.loaded(part) for part in PARTS)


def test_what_exports_need_is_known(model: DiffusionModel) -> None:
    info = model.info
    assert (info.latent_channels, info.vae_scale_factor, info.size_multiple, info.defaults.size_px) == (4, 8, 8, 64)
    assert [model.lora_format.component(part) for part in PARTS] == ["unet", "vae", "text_encoder"]
    assert [model.lora_format.kohya_prefix(part) for part in ("denoiser", "text_encoder")] == ["lora_unet", "lora_te"]
    assert model.lora_format.diffusers_name("text_encoder", "encoder.layers.0") == "text_model.encoder.layers.0"
    assert model.lora_format.diffusers_name("text_encoder", "text_model.encoder") == "text_model.encoder"
    assert model.lora_format.diffusers_name("denoiser", "mid_block") == "mid_block"


@pytest.fixture
def loud() -> Callable[[], tuple[int, ...]]:
    import diffusers.utils.logging as diffusers_logging
    import transformers.utils.logging as transformers_logging

    return lambda: (diffusers_logging.get_verbosity(), transformers_logging.get_verbosity())


def test_the_libraries_speak_again_after_a_part_was_read(tiny_model: Path, loud: Callable[[], tuple[int, ...]]) -> None:
    before = loud()
    open_model(ModelSource(location=str(tiny_model)), "stable_diffusion").modules.get("text_encoder")
    assert loud() == before
