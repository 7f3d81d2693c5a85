"""What every family promises, with its own reference pipeline as the judge. No line here knows a family."""

from dataclasses import replace
from pathlib import Path
from shutil import copytree, ignore_patterns

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from loraloom import plugins
from loraloom.config.run import LoraConfig
from loraloom.generate.images import check_size, denoise, to_images, unread_negative
from loraloom.lora.export import export_adapter, first_noise, verify_exports
from loraloom.lora.files import read_adapter
from loraloom.lora.inject import Adapter, attach_new
from loraloom.lora.layers import LoraLayer
from loraloom.lora.reading import Updates
from loraloom.lora.stack import LoraStack
from loraloom.models.loading import open_model, resolve
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ImageGeometry, ModelSource
from loraloom.train.run import train
from loraloom.utils.errors import UserError

from .conftest import Case, FinishedRun, costly, settings

DOMAIN = plugins.load("domains", "freetext")
CAPTION = "a red square on a blue ground"


def request(model: DiffusionModel, guidance: float, size: tuple[int, int] | None = None) -> ImageRequest:
    defaults = model.info.defaults
    width, height = size or (defaults.size_px, defaults.size_px)
    return ImageRequest(
        prompt=CAPTION,
        negative_prompt="",
        seed=5,
        num_steps=3,
        guidance_scale=guidance,
        sampler=defaults.exact_sampler,
        width=width,
        height=height,
    )


def encoder(model: DiffusionModel) -> PromptEncoder:
    return PromptEncoder(text=model.text, domain=DOMAIN)


def shaken(model: DiffusionModel) -> Adapter:
    """Fresh LoRA layers whose second halves are not zero."""
    adapter = attach_new(model, LoraConfig(rank=3), seed=0)
    generator = torch.Generator().manual_seed(0)
    for parameter in adapter.parameters.values():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return adapter


def layers_of(adapter: Adapter, model: DiffusionModel, folder: Path) -> tuple[LoraLayer, ...]:
    from loraloom.lora.files import save_adapter

    save_adapter(folder / "own.safetensors", adapter.state(), {"format": "loraloom.adapter.1", "alpha": 3, "rank": 3})
    return read_adapter(folder / "own.safetensors").layers(model)


# ------------------------------------------------------------------------------------------------------------ opening


def test_a_family_matches_its_own_files_and_no_other_does(case: Case) -> None:
    files = resolve(ModelSource(location=str(case.folder)))
    matching = [name for name in plugins.names("families") if plugins.load("families", name).matches(files)]
    assert matching == [case.family]


def test_opening_reads_no_weights_and_parts_have_one_denoiser_and_one_vae(model: DiffusionModel) -> None:
    info = model.info
    assert not any(model.modules.loaded(part.name) for part in info.parts)
    assert [part.role for part in info.parts].count("denoiser") == [part.role for part in info.parts].count("vae") == 1
    assert len({part.name for part in info.parts}) == len(info.parts)
    tables = (info.schedule.timestep_t, info.schedule.signal_t, info.schedule.sigma_t)
    assert {table.shape for table in tables} == {(info.schedule.num_timesteps,)}
    assert {table.dtype for table in tables} == {torch.float64}
    assert all(bool(table.isfinite().all()) for table in tables)
    assert bool((info.schedule.sigma_t.diff() >= 0).all())


# ------------------------------------------------------------------------------------------------------------ drawing


@pytest.mark.parametrize("guidance", [1.0, 4.0])
@pytest.mark.parametrize("shape", [(1, 1), (2, 1)])
def test_images_are_those_of_the_reference_pipeline(
    shape: tuple[int, int], guidance: float, model: DiffusionModel
) -> None:
    side = 4 * model.info.size_multiple
    wanted = request(model, guidance, (shape[0] * side, shape[1] * side))
    noise = first_noise(model, wanted)
    ours = denoise(model, encoder(model).encode, [wanted], noise_bchw=noise)
    torch.testing.assert_close(ours, model.reference_latents(None, wanted, noise), atol=2e-4, rtol=1e-4)
    assert to_images(model, ours)[0].size == (wanted.width, wanted.height)


def test_guidance_changes_the_image(model: DiffusionModel) -> None:
    weak, strong = (denoise(model, encoder(model).encode, [request(model, scale)]) for scale in (1.0, 8.0))
    assert float((weak - strong).abs().max()) > 1e-4


def test_an_image_does_not_depend_on_its_batch(model: DiffusionModel) -> None:
    wanted = request(model, 4.0)
    other = ImageRequest(
        prompt="another, longer text " * 3,
        negative_prompt="",
        seed=9,
        num_steps=3,
        guidance_scale=4.0,
        sampler=wanted.sampler,
        width=wanted.width,
        height=wanted.height,
    )
    alone = denoise(model, encoder(model).encode, [wanted])
    together = denoise(model, encoder(model).encode, [other, wanted])
    torch.testing.assert_close(together[1:], alone, atol=2e-4, rtol=1e-4)


def test_a_negative_prompt_is_read_or_counted_aloud(model: DiffusionModel) -> None:
    wanted = request(model, 4.0)
    asked = ImageRequest(
        prompt=CAPTION,
        negative_prompt="blurred",
        seed=5,
        num_steps=3,
        guidance_scale=4.0,
        sampler=wanted.sampler,
        width=wanted.width,
        height=wanted.height,
    )
    plain, negative = (denoise(model, encoder(model).encode, [one]) for one in (wanted, asked))
    line = unread_negative(model, [asked])
    assert (line is None) == (not torch.equal(plain, negative))
    assert unread_negative(model, [wanted]) is None


def test_sizes_between_the_multiples_are_refused(model: DiffusionModel) -> None:
    step = model.info.size_multiple
    check_size(model, ImageRequest(prompt="", width=4 * step, height=5 * step))
    with pytest.raises(UserError, match=f"multiples of {step}"):
        check_size(model, ImageRequest(prompt="", width=4 * step + 1, height=4 * step))


@pytest.mark.parametrize("half", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_half_precision_answers_near_float32(half: torch.dtype, model: DiffusionModel) -> None:
    text = encoder(model).encode([CAPTION])
    side = 4 * model.info.size_multiple
    place = ImageGeometry(original=(side, side), crop=(0, 0), target=(side, side))
    cells = side // model.info.vae_scale_factor
    latents = torch.randn(1, model.info.latent_channels, cells, cells, generator=torch.Generator().manual_seed(1))
    middle = model.info.schedule.timestep_t[model.info.schedule.num_timesteps // 2].float()[None]
    answers: list[Tensor] = []
    for dtype in (torch.float32, half):
        model.modules.place(model.info.denoiser.name, torch.device("cpu"), dtype)
        with torch.inference_mode(), torch.autocast("cpu", half, enabled=dtype == half):
            answers.append(model.predict(latents, middle, model.condition(text, [place], None)).float())
    assert answers[0].shape == latents.shape
    assert float((answers[0] - answers[1]).abs().max()) < 0.1 * float(answers[0].abs().max())


# --------------------------------------------------------------------------------------------------------------- text


def test_tokens_are_counted_and_what_is_not_read_is_lost_aloud(model: DiffusionModel) -> None:
    tokenizer = model.text.tokenizer
    assert tokenizer.detokenize(tokenizer.tokenize(CAPTION)).replace(" ", "") == CAPTION.replace(" ", "")
    assert len(tokenizer.window([])) == tokenizer.window_tokens
    long = "word " * 600  # beyond every encoder of a fixed text length
    plan = replace(encoder(model), max_windows=1 << 10).plan(long)
    assert plan.num_tokens == len(tokenizer.tokenize(long))
    assert len(plan.windows) <= (model.text.max_windows or 1 << 10)
    assert bool(plan.lost) == (plan.lost_tokens > 0) == (model.text.max_windows is not None)


@torch.inference_mode()
def test_a_prompt_is_encoded_alike_alone_and_among_others(model: DiffusionModel) -> None:
    texts = [CAPTION, "", "another text " * 6]
    together = encoder(model).encode(texts)
    for text, tensors in zip(texts, together, strict=True):
        for name, tensor in encoder(model).encode([text])[0].items():
            torch.testing.assert_close(tensor, tensors[name], atol=1e-5, rtol=1e-4)


# --------------------------------------------------------------------------------------------------------------- LoRA


def test_merging_unmerging_and_removing_leave_the_base_bit_for_bit(model: DiffusionModel, tmp_path: Path) -> None:
    updates = Updates(layers=tuple(layers_of(shaken(model), model, tmp_path)))
    fresh = open_model(model.info.source)
    denoiser = fresh.modules.get(fresh.info.denoiser.name)
    before = {name: value.clone() for name, value in denoiser.state_dict().items()}

    def latents() -> Tensor:
        return denoise(fresh, encoder(fresh).encode, [request(fresh, 4.0)])

    plain = latents()
    stack = LoraStack(fresh)
    stack.add("a", updates)
    beside = latents()
    stack.merge()
    merged = latents()
    torch.testing.assert_close(merged, beside, atol=1e-3, rtol=1e-3)
    assert float((merged - plain).abs().max()) > 1e-3
    stack.unmerge()
    assert torch.equal(latents(), beside)
    stack.merge()
    assert torch.equal(latents(), merged)
    stack.remove("a")
    after = denoiser.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert torch.equal(latents(), plain)


def test_a_skeleton_has_the_names_and_shapes_of_the_weights(model: DiffusionModel) -> None:
    for part in model.info.parts:
        skeleton = model.modules.skeleton(part.name)
        assert not model.modules.loaded(part.name)
        wanted = {name: value.shape for name, value in model.modules.get(part.name).named_parameters()}
        assert {name: value.shape for name, value in skeleton.named_parameters()} == wanted


def test_adapters_are_read_and_converted_where_the_weights_of_the_model_are_gone(
    model: DiffusionModel, case: Case, tmp_path: Path
) -> None:
    files = export_adapter(
        model, layers_of(shaken(model), model, tmp_path), {"rank": 3}, tmp_path / "exports", "x", "fp32"
    )
    configs = copytree(case.folder, tmp_path / "configs", ignore=ignore_patterns("*.safetensors", "*.bin"))
    bare = open_model(ModelSource(location=str(configs)))
    for file in files:
        layers = read_adapter(file).layers(bare)
        again = export_adapter(bare, layers, {"rank": 3}, tmp_path / file.stem, "x", "fp32")
        for made, first in zip(again, files, strict=True):
            one, other = load_file(made), load_file(first)
            assert one.keys() == other.keys()
            for key, value in one.items():
                if not key.endswith("alpha"):
                    torch.testing.assert_close(value, other[key], atol=1e-6, rtol=1e-5)
    assert not any(bare.modules.loaded(part.name) for part in bare.info.parts)


def test_both_exports_draw_the_same_in_the_reference_pipeline(model: DiffusionModel, tmp_path: Path) -> None:
    adapter = shaken(model)
    files = export_adapter(model, layers_of(adapter, model, tmp_path), {"rank": 3}, tmp_path / "exports", "x", "fp32")
    wanted = request(model, 4.0)
    ours = denoise(model, encoder(model).encode, [wanted], noise_bchw=first_noise(model, wanted))
    checks = verify_exports(model, files, ours, wanted)
    assert len(checks) == len(model.lora_format.programs)
    assert all(check.good and check.effect > 1e-3 for check in checks), checks


def test_every_export_is_read_back_as_the_layers_that_it_was_made_of(model: DiffusionModel, tmp_path: Path) -> None:
    layers = layers_of(shaken(model), model, tmp_path)
    for file in export_adapter(model, layers, {"rank": 3}, tmp_path / "exports", "x", "fp32"):
        back = read_adapter(file).layers(model)
        found = {(layer.part, layer.module): layer for layer in back}
        assert found.keys() == {(layer.part, layer.module) for layer in layers}, file.name
        for layer in layers:
            other = found[layer.part, layer.module]
            change, again = (each.factor * each.up.flatten(1) @ each.down.flatten(1) for each in (layer, other))
            torch.testing.assert_close(again, change, atol=1e-6, rtol=1e-5)


# ----------------------------------------------------------------------------------------------------------- training


@costly
def test_a_run_that_was_stopped_ends_bit_identical_and_its_exports_are_good(
    case: Case, dataset: Path, tmp_path: Path
) -> None:
    lines: list[str] = []
    learns = any(part.lora_targets for part in open_model(ModelSource(location=str(case.folder))).info.text_encoders)
    checked = {"export": {"verify": True, "dtype": "fp32"}, "lora": {"rank": 4, "text_encoder": learns}}
    train(settings(case, dataset, tmp_path / "a", **checked), say=lines.append)
    assert sum("good, largest difference" in line for line in lines) == 2, lines
    config = settings(case, dataset, tmp_path / "b", lora=checked["lora"])
    train(config, say=lambda line: None, deadline=0.0)
    assert not (tmp_path / "b" / "run" / "adapter.safetensors").exists()
    train(config, say=lambda line: None)
    one, other = (load_file(tmp_path / name / "run" / "adapter.safetensors") for name in "ab")
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


def check_learned(run: FinishedRun) -> None:
    """It warned of nothing, drew its samples, and its adapter moved."""
    assert not [line for line in run.lines if line.startswith("warning")], run.lines
    assert len(list((run.folder / "run" / "samples").glob("step_0000004/*.png"))) == 3
    tensors = load_file(run.folder / "run" / "adapter.safetensors")
    assert any(bool(tensor.any()) for key, tensor in tensors.items() if "lora_B" in key)


def test_a_model_learns_and_draws_samples(plain_run: FinishedRun) -> None:
    check_learned(plain_run)


@costly
def test_a_model_learns_and_draws_samples_in_bfloat16(case: Case, dataset: Path, tmp_path: Path) -> None:
    """With gradient checkpointing; a test of block swap has float32 with it."""
    how = {"train": {"mixed_precision": "bf16", "gradient_checkpointing": True}}
    lines: list[str] = []
    train(settings(case, dataset, tmp_path, samples={"enabled": True, "steps": 2}, **how), say=lines.append)
    check_learned(FinishedRun(folder=tmp_path, lines=tuple(lines)))
