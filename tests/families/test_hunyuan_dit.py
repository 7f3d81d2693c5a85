"""HunyuanDiT answers what diffusers' own pipeline would, learns by Tencent's formula, and refuses what does not fit."""

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from loraloom import plugins
from loraloom.diffusion.objective import make_objective
from loraloom.extensions.families._diffusers import t5
from loraloom.extensions.families.hunyuan_dit import limits
from loraloom.extensions.families.hunyuan_dit.model import crop_region
from loraloom.extensions.families.hunyuan_dit.tiny import build_tiny
from loraloom.generate.images import denoise
from loraloom.lora.export import first_noise
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, ImageGeometry, ModelSource
from loraloom.utils.errors import UserError

PROMPTS = ["", "a red house", "随机生成一张图片", "강아지가 소파 위에 앉아 있다", "a long text of many words " * 20]


@pytest.fixture(scope="module", params=[False, True], ids=["1.2", "1.1"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("hunyuan") / "model", seed=3, old=request.param)


@pytest.fixture(scope="module")
def new(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Version 1.2."""
    return build_tiny(tmp_path_factory.mktemp("new") / "model", seed=3)


@pytest.fixture
def model(folder: Path) -> DiffusionModel:
    return open_model(ModelSource(location=str(folder)))


@pytest.fixture(scope="module")
def pipeline(folder: Path) -> Any:
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import HunyuanDiTPipeline

    kind: Any = HunyuanDiTPipeline
    return kind.from_pretrained(folder, safety_checker=None, requires_safety_checker=False, local_files_only=True)


def encoder(model: DiffusionModel) -> PromptEncoder:
    return PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext"))


def random(*shape: int, seed: int = 3) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def conditioning_of(model: DiffusionModel, prompts: list[str], width: int = 96, height: int = 64) -> Any:
    place = ImageGeometry(original=(width, height), crop=(0, 0), target=(width, height))
    return model.condition(encoder(model).encode(prompts), [place] * len(prompts), None)


# ------------------------------------------------------------------------------------------------------------- parity


@pytest.mark.parametrize("prompt", PROMPTS, ids=["empty", "English", "Chinese", "Korean", "long"])
@torch.inference_mode()
def test_both_encoders_read_a_prompt_as_the_pipeline_does(prompt: str, model: DiffusionModel, pipeline: Any) -> None:
    (ours,) = encoder(model).encode([prompt])
    for index, name in enumerate(("clip", "t5")):
        theirs = pipeline.encode_prompt(prompt, torch.device("cpu"), torch.float32, 1, False, text_encoder_index=index)
        torch.testing.assert_close(ours[name], theirs[0][0], atol=1e-6, rtol=1e-5)
        assert ours[f"{name}_mask"].tolist() == theirs[2][0].bool().tolist()


@torch.inference_mode()
def test_one_prediction_equals_the_transformers_own(model: DiffusionModel, pipeline: Any) -> None:
    """With style, image sizes as (width, height), and the rotary tables of diffusers' pipeline: within 1e-6."""
    from diffusers.models.embeddings import get_2d_rotary_pos_embed
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

    latents, timesteps = random(2, 4, 8, 12), torch.tensor([999.0, 17.0])
    conditioning = conditioning_of(model, ["a red house", "随机生成"])
    extra: dict[str, Tensor] = {}
    if pipeline.transformer.config.use_style_cond_and_image_meta_size:
        extra = {
            "image_meta_size": torch.tensor([[96.0, 64, 96, 64, 0, 0]] * 2),
            "style": torch.tensor([0, 0]),
        }
    region = get_resize_crop_region_for_grid((4, 6), 32)
    assert crop_region(4, 6, 32) == region
    theirs = pipeline.transformer(
        latents,
        timesteps,
        encoder_hidden_states=conditioning["clip"],
        text_embedding_mask=conditioning["clip_mask"],
        encoder_hidden_states_t5=conditioning["t5"],
        text_embedding_mask_t5=conditioning["t5_mask"],
        image_rotary_emb=get_2d_rotary_pos_embed(16, region, (4, 6), output_type="pt"),
        return_dict=False,
        **extra,
    )[0][:, :4]
    torch.testing.assert_close(model.predict(latents, timesteps, conditioning), theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [(64, 64), (96, 64), (64, 128)])
def test_a_short_generation_equals_the_pipelines(size: tuple[int, int], model: DiffusionModel) -> None:
    """Within 2e-4 after four steps with guidance; 64 px stay 64 px, where the pipeline alone would make 1024."""
    wanted = ImageRequest(
        prompt="a red house", negative_prompt="blurred", seed=2, num_steps=4, guidance_scale=5.0, sampler="ddim",
        width=size[0], height=size[1],
    )  # fmt: skip
    noise = first_noise(model, wanted)
    ours = denoise(model, encoder(model).encode, [wanted], noise_bchw=noise)
    assert ours.shape[2:] == (size[1] // 8, size[0] // 8)
    torch.testing.assert_close(ours, model.reference_latents(None, wanted, noise), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("grid", [(64, 64), (48, 80), (80, 48), (33, 7), (1, 128)])
def test_rotary_regions_are_those_of_diffusers(grid: tuple[int, int]) -> None:
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

    assert crop_region(*grid, 32) == get_resize_crop_region_for_grid(grid, 32)


# ----------------------------------------------------------------------------------------------------------- learning


@torch.inference_mode()
def test_the_loss_equals_tencents_formula(model: DiffusionModel, pipeline: Any) -> None:
    """hydit/diffusion/gaussian_diffusion.py, `training_losses` with VELOCITY: mean of (v - answer)^2 over four channels."""
    end = 0.03 if pipeline.transformer.config.use_style_cond_and_image_meta_size else 0.018
    betas = torch.linspace(0.00085**0.5, end**0.5, 1000, dtype=torch.float64) ** 2
    kept = torch.cumprod(1 - betas, 0)
    clean, noise, steps = random(4, 4, 8, 12), random(4, 4, 8, 12, seed=4), torch.tensor([0, 300, 700, 999])
    conditioning = conditioning_of(model, ["a", "b", "c", ""])
    objective = make_objective(model.info.schedule)
    noisy = objective.add_noise(clean, noise, steps)
    answer = model.predict(noisy, objective.timestep_t[steps], conditioning)
    ours = objective.loss(answer, objective.target(clean, noise, steps), steps)
    signal, sigma = (share[steps].float()[:, None, None, None] for share in (kept.sqrt(), (1 - kept).sqrt()))
    given_ = signal * clean + sigma * noise
    theirs = model.predict(given_, steps.float(), conditioning)
    velocity = signal * noise - sigma * clean
    torch.testing.assert_close(ours, ((velocity - theirs) ** 2).mean(dim=(1, 2, 3)), atol=1e-6, rtol=1e-6)


def test_the_variance_loss_equals_tencents_term(folder: Path) -> None:
    """`training_losses` with LEARNED_RANGE, written again in numpy float64 from the paper; its mean half gets no gradient."""
    import numpy as np
    from scipy.stats import norm

    model: Any = open_model(ModelSource(location=str(folder), options=("variance_loss=true",)))
    clean, noise, steps = random(4, 4, 8, 12), random(4, 4, 8, 12, seed=4), torch.tensor([0, 1, 400, 999])
    conditioning = conditioning_of(model, ["a", "b", "c", ""])
    objective = make_objective(model.info.schedule)
    noisy = objective.add_noise(clean, noise, steps)
    answer = model.predict_all(noisy, steps.float(), conditioning).detach().requires_grad_(True)
    ours = model._bound.loss(answer, clean, noisy, steps)
    prediction, added = model.predict_and_loss(noisy, steps.float(), conditioning, clean_bchw=clean, steps_b=steps)
    torch.testing.assert_close(prediction, model.predict(noisy, steps.float(), conditioning))
    torch.testing.assert_close(added, ours)
    ours.sum().backward()
    assert answer.grad is not None
    assert not bool(answer.grad[:, :4].any())
    assert bool(answer.grad[:, 4:].any())

    end = 0.03 if model._has_size else 0.018
    betas = np.linspace(0.00085**0.5, end**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    values = answer.detach().double().numpy()
    for row, step in enumerate(steps.tolist()):
        before = kept[step - 1] if step else 1.0
        x_t, x_0 = noisy[row].double().numpy(), clean[row].double().numpy()
        first = np.sqrt(before) * betas[step] / (1 - kept[step])
        second = np.sqrt(1 - betas[step]) * (1 - before) / (1 - kept[step])
        guess = np.sqrt(kept[step]) * x_t - np.sqrt(1 - kept[step]) * values[row, :4]
        means = [first * x_0 + second * x_t, first * guess + second * x_t]
        at = max(step, 1)
        least = np.log(betas[at] * (1 - kept[at - 1]) / (1 - kept[at]))
        share = (values[row, 4:] + 1) / 2
        log_variance = share * np.log(betas[step]) + (1 - share) * least
        if step:
            kl = 0.5 * (log_variance - least - 1 + np.exp(least - log_variance)
                        + (means[0] - means[1]) ** 2 / np.exp(log_variance))  # fmt: skip
            torch.testing.assert_close(float(ours.detach()[row]), kl.mean() / np.log(2), rtol=1e-4, atol=1e-5)
            continue
        scale = np.exp(0.5 * log_variance)
        upper, lower = (norm.cdf((x_0 - means[1] + side / 255) / scale) for side in (1, -1))
        inside = np.where(x_0 < -0.999, upper, np.where(x_0 > 0.999, 1 - lower, upper - lower))
        wanted = -np.log(np.maximum(inside, 1e-12)).mean() / np.log(2)
        torch.testing.assert_close(
            float(ours.detach()[row]), wanted, rtol=2e-2, atol=2e-2
        )  # the tanh approximation of hydit


def test_checkpointed_blocks_give_the_same_gradients(new: Path) -> None:
    """The library's own gradient checkpointing raises for this model, so each block is computed again by us."""
    found: list[dict[str, Tensor]] = []
    for again in (False, True):
        model = open_model(ModelSource(location=str(new)))
        conditioning = {name: tensor.clone() for name, tensor in conditioning_of(model, ["a red house"]).items()}
        denoiser = model.modules.get("denoiser").requires_grad_(True).train()
        if again:
            model.modules.checkpoint_gradients("denoiser")
        model.predict(random(1, 4, 8, 12), torch.tensor([500.0]), conditioning).square().mean().backward()
        found.append({name: p.grad for name, p in denoiser.named_parameters() if p.grad is not None})
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


@pytest.mark.parametrize("autocast", [True, False])
@torch.inference_mode()
def test_bfloat16_weights_keep_timesteps_apart(autocast: bool, new: Path) -> None:
    """999 is 1000 in bfloat16: cast with the weights, two timesteps would be one."""
    model = open_model(ModelSource(location=str(new)))
    conditioning = conditioning_of(model, ["a red house"])
    model.modules.place("denoiser", torch.device("cpu"), torch.bfloat16)
    latents = random(1, 4, 8, 12)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        one, other = (model.predict(latents, torch.tensor([step]), conditioning) for step in (999.0, 1000.0))
    assert not torch.equal(one, other)


def test_no_lora_target_includes_layers_whose_weights_are_read_without_a_call(new: Path) -> None:
    """The pooler hands the weights of its layers to one function: a LoRA on them would get no gradient."""
    from loraloom.lora.inject import match_modules

    model = open_model(ModelSource(location=str(new)))
    denoiser = model.modules.get("denoiser")
    for preset in model.info.denoiser.lora_targets.values():
        names = match_modules(denoiser, preset)
        assert names
        assert not [name for name in names if "pooler" in name]


# ------------------------------------------------------------------------------------------------------ what is refused


def changed(new: Path, target: Path, file: str, **values: Any) -> Path:
    """The model with some values of a config changed."""
    shutil.copytree(new, target)
    path = target / file
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | values), encoding="utf-8")
    return target


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("scheduler/scheduler_config.json", {"beta_end": 0.03}, r"beta_end is not that of the transformer.* 1\.2"),
        ("scheduler/scheduler_config.json", {"beta_end": 0.02}, r"expected 0\.018"),
        ("scheduler/scheduler_config.json", {"prediction_type": "epsilon"}, "expected v_prediction"),
        ("transformer/config.json", {"use_style_cond_and_image_meta_size": True}, r"1\.1 or older"),
        ("transformer/config.json", {"text_len_t5": 512}, "text_len_t5.*256"),
        ("transformer/config.json", {"num_layers": 5}, "an even number"),
        ("text_encoder/config.json", {"hidden_size": 64}, "text_encoder: hidden_size"),
        ("text_encoder_2/config.json", {"d_model": 64}, "text_encoder_2: d_model"),
        ("text_encoder_2/config.json", {"model_type": "qwen3"}, "expected t5 or mt5"),
        ("vae/config.json", {"latent_channels": 16}, "latent_channels"),
    ],
)  # fmt: skip
def test_parts_that_do_not_fit_are_refused_in_one_line(
    file: str, values: dict[str, Any], said: str, new: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=said) as caught:
        open_model(ModelSource(location=str(changed(new, tmp_path / "model", file, **values))))
    assert len(str(caught.value).splitlines()) <= 2


@pytest.mark.parametrize("part", ["text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "vae", "scheduler"])
def test_a_missing_part_is_named(part: str, new: Path, tmp_path: Path) -> None:
    shutil.copytree(new, tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / part)
    with pytest.raises(UserError, match=f"lacks {part}"):
        open_model(ModelSource(location=str(tmp_path / "model")))


def test_another_familys_model_is_refused_by_name(tiny_model: Path, new: Path) -> None:
    with pytest.raises(UserError, match=r"another family.*got 'stable_diffusion', expected hunyuan_dit"):
        open_model(ModelSource(location=str(tiny_model)), "hunyuan_dit")
    with pytest.raises(UserError, match=r"another family.*got 'hunyuan_dit', expected stable_diffusion"):
        open_model(ModelSource(location=str(new)), "stable_diffusion")


@settings(max_examples=60)
@given(data=st.data())
def test_a_config_of_any_values_is_in_its_limits_or_a_user_error(data: st.DataObject) -> None:
    """Nothing is built here: the check itself must not fail, whatever stands in a field."""
    checks = [
        (limits.check_transformer, limits.TRANSFORMER),
        (limits.check_bert, limits.BERT),
        (partial(t5.check_t5, folder="text_encoder_2"), t5.T5),
    ]
    check, rules = data.draw(st.sampled_from(checks))
    scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
    values = scalars | st.lists(scalars, max_size=3) | st.dictionaries(st.text(max_size=4), scalars, max_size=2)
    config = data.draw(st.dictionaries(st.sampled_from(sorted(rules)), values, max_size=6))
    try:
        check(config)
    except UserError as error:
        assert "config.json" in str(error)


def test_weights_that_lack_a_tensor_are_refused(new: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    shutil.copytree(new, tmp_path / "model")
    file = tmp_path / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    del tensors["text_embedding_padding"]
    save_file(tensors, file)
    model = open_model(ModelSource(location=str(tmp_path / "model")))
    with pytest.raises(UserError, match="text_embedding_padding"):
        model.modules.get("denoiser")


# --------------------------------------------------------------------------------------------------------------- text


def test_text_beyond_both_encoders_is_named(new: Path) -> None:
    """BERT reads 75 tokens, mT5 255: a caption between the two is read in full, one beyond both loses its end aloud."""
    model = open_model(ModelSource(location=str(new)))
    between = "word " * 40
    assert encoder(model).plan(between).lost == ()
    beyond = "word " * 60
    (rest,) = encoder(model).plan(beyond).lost
    assert beyond.endswith(rest)
    assert len(rest) == len(beyond) - len("word " * 51)


@torch.inference_mode()
def test_a_dropped_encoder_has_the_mask_of_the_empty_text(new: Path) -> None:
    """Its embeddings alone would leave the caption's masked positions to the learned padding rows of another length."""
    model = open_model(ModelSource(location=str(new)))
    encoder = PromptEncoder(text=model.text, domain=plugins.load("domains", "freetext"))
    text, empty = encoder.encode(["a plan of two rooms", ""])
    assert int(text["clip_mask"].sum()) > int(empty["clip_mask"].sum()) == 2
    drop: Any = getattr(model.text, "without", None)
    for part, name, other in (("text_encoder", "clip", "t5"), ("text_encoder_2", "t5", "clip")):
        dropped = drop(text, empty, {part})
        assert torch.equal(dropped[f"{name}_mask"], empty[f"{name}_mask"])
        assert torch.equal(dropped[f"{other}_mask"], text[f"{other}_mask"])


def test_a_weight_reaches_both_encoders(new: Path) -> None:
    model = open_model(ModelSource(location=str(new)))
    with torch.inference_mode():
        plain, weighted = (
            encoder(model).encode([text], weighting=True)[0] for text in ("a red house", "a (red:1.4) house")
        )
    for name in ("clip", "t5"):
        assert not torch.equal(plain[name], weighted[name])
        torch.testing.assert_close(plain[name].mean(), weighted[name].mean(), atol=1e-5, rtol=1e-4)


def test_the_tokenizers_fingerprint_changes_with_either_encoder(new: Path, tmp_path: Path) -> None:
    whole = open_model(ModelSource(location=str(new))).text.fingerprint
    for part in ("text_encoder", "text_encoder_2"):
        other = build_tiny(tmp_path / part / "other", seed=9)
        shutil.copytree(new, tmp_path / part / "model")
        shutil.copy(other / part / "model.safetensors", tmp_path / part / "model" / part / "model.safetensors")
        assert open_model(ModelSource(location=str(tmp_path / part / "model"))).text.fingerprint != whole


def test_tokens_counts_what_each_encoder_reads_and_names_what_none_does(new: Path, tmp_path: Path) -> None:
    """Korean is unknown to BERT and read by mT5: no warning. A letter that neither knows is one."""
    from loraloom.data.tokens import tokens_text

    def table(text: str) -> str:
        file = tmp_path / "caption.txt"
        file.write_text(text, encoding="utf-8")
        return tokens_text(file, str(new), "freetext", None)

    korean = table("강아지가 소파")
    rows = [line.split() for line in korean.splitlines() if line.startswith(("CLIP", "mT5"))]
    assert rows == [["CLIP", "(BERT)", "75", "2", "2", "2", "0", "1"], ["mT5", "255", "8", "8", "8", "0", "0"]]
    assert "0 of 1 captions have text that no encoder reads" in korean
    assert "warning" not in korean
    assert "no encoder knows all letters of 1 of 1 captions, such as 'ω'" in table("ω")
    assert "1 of 1 captions have text that no encoder reads" in table("word " * 60)


# ------------------------------------------------------------------------------------------------------------- windows


def windowed(folder: Path, number: int) -> DiffusionModel:
    return open_model(ModelSource(location=str(folder), options=(f"clip_windows={number}",)))


@torch.inference_mode()
def test_windows_give_the_first_encoder_the_whole_text(new: Path) -> None:
    """[CLS], 75 rows of each window, the last row; a window that a prompt does not need is masked."""
    model = windowed(new, 3)
    assert model.text.max_windows == 3
    text = "first words. " * 6 + "second words. " * 4
    plan = encoder(model).plan(text)
    assert len(plan.windows) == 2
    long, short = encoder(model).encode([text, "a red house"])
    assert long["clip"].shape == short["clip"].shape == (3 * 75 + 2, 32)
    assert int(long["clip_mask"].sum()) == sum(len(window.ids) for window in plan.windows) + 1 + 2
    assert not bool(long["clip_mask"][151:].any())
    alone = encoder(open_model(ModelSource(location=str(new)))).encode(["a red house"])[0]
    torch.testing.assert_close(short["clip"][:11], alone["clip"][:11], atol=1e-6, rtol=1e-5)


@torch.inference_mode()
def test_a_windowed_prediction_equals_a_denoiser_with_repeated_padding_rows(new: Path, folder: Path) -> None:
    """kohya's hydit branch: rows [0], 1..75 for every window, [76], then those of mT5; here written into the module."""
    model = windowed(new, 3)
    conditioning = conditioning_of(model, ["word " * 30, "a red house"])
    latents, timesteps = random(2, 4, 8, 12), torch.tensor([999.0, 17.0])
    ours = model.predict(latents, timesteps, conditioning)
    other: Any = open_model(ModelSource(location=str(new)))
    denoiser = other.modules.get("denoiser")
    rows = denoiser.text_embedding_padding.data
    repeated = [rows[0:1], rows[1:76], rows[1:76], rows[1:76], rows[76:77], rows[77:]]
    denoiser.text_embedding_padding = torch.nn.Parameter(torch.cat(repeated))
    theirs = denoiser(
        latents,
        timesteps,
        encoder_hidden_states=conditioning["clip"],
        text_embedding_mask=conditioning["clip_mask"],
        encoder_hidden_states_t5=conditioning["t5"],
        text_embedding_mask_t5=conditioning["t5_mask"],
        image_rotary_emb=other._rotary_tables(4, 6, torch.device("cpu")),
        return_dict=False,
    )[0][:, :4]
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_a_windowed_generation_equals_the_pipelines_with_repeated_padding_rows(new: Path) -> None:
    model = windowed(new, 2)
    wanted = ImageRequest(
        prompt="a red house", negative_prompt="blurred", seed=2, num_steps=3, guidance_scale=5.0, sampler="ddim",
        width=64, height=64,
    )  # fmt: skip
    noise = first_noise(model, wanted)
    ours = denoise(model, encoder(model).encode, [wanted], noise_bchw=noise)
    torch.testing.assert_close(ours, model.reference_latents(None, wanted, noise), atol=2e-4, rtol=1e-4)
    one = open_model(ModelSource(location=str(new)))
    assert float((ours - denoise(one, encoder(one).encode, [wanted], noise_bchw=noise)).abs().max()) > 1e-3


def test_a_wrong_option_is_refused_with_its_limits(new: Path, tiny_model: Path) -> None:
    with pytest.raises(UserError, match=r"(?s)hunyuan_dit.*clip_windows.*9"):
        windowed(new, 9)
    with pytest.raises(UserError, match=r"(?s)hunyuan_dit.*clip_windos.*clip_windows"):
        open_model(ModelSource(location=str(new), options=("clip_windos=2",)))
    with pytest.raises(UserError, match="no options: got 'stable_diffusion, clip_windows=2'"):
        open_model(ModelSource(location=str(tiny_model), options=("clip_windows=2",)))


# ------------------------------------------------------------------------------------------------------------- exports

WHOLE = {
    "attn1.out_proj": "attn1.to_out.0",
    "attn2.q_proj": "attn2.to_q",
    "attn2.out_proj": "attn2.to_out.0",
    "mlp.fc1": "ff.net.0.proj",
    "mlp.fc2": "ff.net.2",
    "default_modulation.1": "norm1.linear",
    "skip_linear": "skip_linear",
}
OUTER = {
    "x_embedder.proj": "pos_embed.proj",
    "mlp_t5.0": "text_embedder.linear_1",
    "mlp_t5.2": "text_embedder.linear_2",
    "t_embedder.mlp.0": "time_extra_emb.timestep_embedder.linear_1",
    "t_embedder.mlp.2": "time_extra_emb.timestep_embedder.linear_2",
    "extra_embedder.0": "time_extra_emb.extra_embedder.linear_1",
    "extra_embedder.2": "time_extra_emb.extra_embedder.linear_2",
    "final_layer.linear": "proj_out",
}


def tencents(changes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Changes of diffusers' layers as changes of the layers in Tencent's code, as its conversion script maps them."""
    found: dict[str, Tensor] = {}
    for block in sorted({name.split(".")[1] for name in changes if name.startswith("blocks.")}):
        at = f"blocks.{block}."
        found[f"{at}attn1.Wqkv"] = torch.cat([changes[f"{at}attn1.to_{one}"] for one in "qkv"])
        found[f"{at}attn2.kv_proj"] = torch.cat([changes[f"{at}attn2.to_{one}"] for one in "kv"])
        found.update({at + theirs: changes[at + ours] for theirs, ours in WHOLE.items() if at + ours in changes})
    found.update({theirs: changes[ours] for theirs, ours in OUTER.items()})
    assert sum(value.numel() for value in found.values()) == sum(value.numel() for value in changes.values())
    return found


class Exported:
    """An adapter on every layer that may carry one, and its exports."""

    def __init__(self, new: Path, folder: Path) -> None:
        from loraloom.config.run import LoraConfig
        from loraloom.lora.export import export_adapter
        from loraloom.lora.files import read_adapter, save_adapter
        from loraloom.lora.inject import attach_new

        self.model = open_model(ModelSource(location=str(new)))
        adapter = attach_new(self.model, LoraConfig(rank=3, alpha=6.0, target="all_linear_conv"), seed=0)
        for index, parameter in enumerate(adapter.parameters.values()):
            parameter.data = random(*parameter.shape, seed=index)
        save_adapter(
            folder / "own.safetensors", adapter.state(), {"format": "loraloom.adapter.1", "alpha": 6, "rank": 3}
        )
        self.model = open_model(ModelSource(location=str(new)))
        self.layers = read_adapter(folder / "own.safetensors").layers(self.model)
        self.changes = {layer.module: 2.0 * layer.up.flatten(1) @ layer.down.flatten(1) for layer in self.layers}
        self.files = export_adapter(self.model, self.layers, {"rank": 3}, folder / "exports", "x", "fp32")


@pytest.fixture(scope="module")
def exported(new: Path, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(new, tmp_path_factory.mktemp("exported"))


def changes_in(file: Path, stems: dict[str, str], down: str, up: str) -> dict[str, Tensor]:
    """The change of every layer of a file whose stems mean these names; every key must be used."""
    from safetensors.torch import load_file

    tensors = load_file(file)
    found: dict[str, Tensor] = {}
    for stem, name in stems.items():
        if stem + down in tensors:
            one, other = tensors.pop(stem + down), tensors.pop(stem + up)
            alpha = float(tensors.pop(f"{stem}.alpha", torch.tensor(float(len(one)))))
            found[name] = alpha / len(one) * other.flatten(1) @ one.flatten(1)
    assert not tensors, sorted(tensors)
    return found


def check_equal(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, change in wanted.items():
        torch.testing.assert_close(found[name], change, atol=1e-6, rtol=1e-6)


def test_the_kohya_export_is_every_layer_by_comfyuis_key_map(exported: Exported) -> None:
    """comfy/lora.py, `model_lora_keys_unet`: `lora_unet_` and the state dict's name with underscores."""
    wanted = tencents(exported.changes)
    stems = {f"lora_unet_{name.replace('.', '_')}": name for name in wanted}
    check_equal(changes_in(exported.files[1], stems, ".lora_down.weight", ".lora_up.weight"), wanted)


def test_the_native_export_is_every_layer_by_comfyuis_key_map(exported: Exported) -> None:
    """comfy/lora.py: `base_model.model.` and the state dict's name, "official hunyuan lora format"; the pooler is zero."""
    wanted = tencents(exported.changes)
    wanted["pooler.q_proj"] = torch.zeros(32, 32)
    stems = {f"base_model.model.{name}": name for name in wanted}
    check_equal(changes_in(exported.files[2], stems, ".lora_A.weight", ".lora_B.weight"), wanted)


def test_the_native_export_is_loaded_by_peft_with_its_config(exported: Exported) -> None:
    """Tencent's code loads it by peft: here into layers of Tencent's names and shapes, every key used."""
    from peft import LoraConfig, PeftModel

    wanted = tencents(
        {name: change for name, change in exported.changes.items() if name != "pos_embed.proj"}
        | {"pos_embed.proj": exported.changes["pos_embed.proj"]}
    )
    root = torch.nn.Module()
    for name, change in {**wanted, "pooler.q_proj": torch.zeros(32, 32)}.items():
        place = root
        *above, last = name.split(".")
        for word in above:
            if not hasattr(place, word):
                place.add_module(word, torch.nn.Module())
            place = place.get_submodule(word)
        layer = torch.nn.Conv2d(4, 32, 2, 2) if name == "x_embedder.proj" else torch.nn.Linear(*reversed(change.shape))
        place.add_module(last, layer)
    folder = exported.files[2].parent
    config: Any = LoraConfig.from_pretrained(folder)
    loaded: Any = PeftModel(root, config)
    outcome = loaded.load_adapter(folder, "default")
    assert not outcome.unexpected_keys
    for name, change in wanted.items():
        delta = root.get_submodule(name).get_delta_weight("default").flatten(1)
        torch.testing.assert_close(delta, change, atol=1e-5, rtol=1e-5)


def test_the_diffusers_export_is_loaded_by_peft_into_the_transformer(exported: Exported, new: Path) -> None:
    """What a user of diffusers does by hand: peft's layers on the transformer, then the file's tensors without the prefix."""
    from peft import LoraConfig, inject_adapter_in_model, set_peft_model_state_dict
    from safetensors.torch import load_file

    transformer: Any = open_model(ModelSource(location=str(new))).modules.get("denoiser")
    inject_adapter_in_model(LoraConfig(r=3, lora_alpha=3, target_modules=sorted(exported.changes)), transformer)
    tensors = {key.removeprefix("transformer."): value for key, value in load_file(exported.files[0]).items()}
    outcome: Any = set_peft_model_state_dict(transformer, tensors)
    assert not outcome.unexpected_keys
    found = {name: transformer.get_submodule(name).get_delta_weight("default").flatten(1) for name in exported.changes}
    for name, change in exported.changes.items():
        torch.testing.assert_close(found[name], change, atol=1e-5, rtol=1e-5)


def test_tencents_own_file_is_read(exported: Exported, new: Path, tmp_path: Path) -> None:
    """Rank 4 and alpha 8 for fused layers as Tencent's trainer writes them, the pooler's dead pair among them."""
    from safetensors.torch import save_file

    from loraloom.lora.files import read_adapter

    tensors: dict[str, Tensor] = {}
    shapes = {"attn1.Wqkv": (96, 32), "attn1.out_proj": (32, 32), "attn2.q_proj": (32, 32), "attn2.kv_proj": (64, 32),
              "attn2.out_proj": (32, 32)}  # fmt: skip
    for block in range(4):
        for seed, (name, (rows, columns)) in enumerate(shapes.items()):
            stem = f"base_model.model.blocks.{block}.{name}"
            tensors[f"{stem}.lora_A.weight"] = random(4, columns, seed=seed + 10 * block)
            tensors[f"{stem}.lora_B.weight"] = random(rows, 4, seed=seed + 10 * block + 5)
    tensors["base_model.model.pooler.q_proj.lora_A.weight"] = random(4, 32)
    tensors["base_model.model.pooler.q_proj.lora_B.weight"] = torch.zeros(32, 4)
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    said = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["Wqkv", "q_proj", "kv_proj", "out_proj"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(said), encoding="utf-8")
    model = open_model(ModelSource(location=str(new)))
    layers = {layer.module: layer for layer in read_adapter(tmp_path).layers(model)}
    assert len(layers) == 4 * 8
    assert not model.modules.loaded("denoiser")
    for block in range(4):
        stem = f"base_model.model.blocks.{block}.attn1.Wqkv"
        whole = 2.0 * tensors[f"{stem}.lora_B.weight"] @ tensors[f"{stem}.lora_A.weight"]
        for rows, one in zip(whole.chunk(3), "qkv", strict=True):
            layer = layers[f"blocks.{block}.attn1.to_{one}"]
            torch.testing.assert_close(layer.factor * layer.up @ layer.down, rows, atol=1e-5, rtol=1e-5)
    tensors["base_model.model.pooler.q_proj.lora_B.weight"] += 1
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(UserError, match=r"pooler\.q_proj, which cannot be loaded"):
        read_adapter(tmp_path).layers(model)


@pytest.mark.parametrize("target", ["q_proj", "pooler", "norm_out"])
def test_a_target_that_matches_a_layer_without_gradient_is_refused_before_training(target: str, new: Path) -> None:
    from loraloom.config.run import LoraConfig
    from loraloom.lora.inject import attach_new

    with pytest.raises(UserError, match="cannot carry LoRA"):
        attach_new(open_model(ModelSource(location=str(new))), LoraConfig(target=target), seed=0)


def test_without_a_place_for_the_text_encoder_the_native_file_is_left_out_aloud(new: Path, tmp_path: Path) -> None:
    from dataclasses import replace

    from loraloom.lora.export import export_adapter, program_lines

    made = Exported(new, tmp_path)
    layer = replace(made.layers[0], part="text_encoder", module="encoder.layer.0.attention.self.query")
    files = export_adapter(made.model, [*made.layers, layer], {"rank": 3}, tmp_path / "both", "x", "fp32")
    assert [file.name for file in files] == ["pytorch_lora_weights.safetensors", "x.safetensors"]
    assert any(
        line.startswith("note: no file in the layout of Tencent") for line in program_lines(made.model, tmp_path, files)
    )


# -------------------------------------------------------------------------------------------------- diffusers' pipeline


def pipeline_of(folder: Path) -> Any:
    from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import HunyuanDiTPipeline

    kind: Any = HunyuanDiTPipeline
    found = kind.from_pretrained(folder, safety_checker=None, requires_safety_checker=False, local_files_only=True)
    found.set_progress_bar_config(disable=True)
    return found


def drawn(pipeline: Any) -> Tensor:
    return pipeline(
        "a red house", num_inference_steps=2, width=64, height=64, use_resolution_binning=False, output_type="latent",
        generator=torch.Generator().manual_seed(0),
    ).images  # fmt: skip


@torch.inference_mode()
def test_load_adapter_gives_a_pipeline_every_export_alike(exported: Exported, new: Path) -> None:
    """diffusers has no LoRA loader for this model. Scales, merging and removal are those of the stack."""
    import loraloom

    pipeline = pipeline_of(new)
    base = drawn(pipeline)
    for layer in exported.layers:
        pipeline.transformer.get_submodule(layer.module).weight.data += layer.change(
            pipeline.transformer.get_submodule(layer.module).weight, 0.1
        )
    wanted = drawn(pipeline)
    assert float((wanted - base).abs().max()) > 1e-3
    pipeline = pipeline_of(new)
    for file in exported.files:
        stack = loraloom.load_adapter(pipeline, file, name="one", scale=0.1)
        torch.testing.assert_close(drawn(pipeline), wanted, atol=1e-3, rtol=1e-3)
        stack.merge()
        torch.testing.assert_close(drawn(pipeline), wanted, atol=1e-3, rtol=1e-3)
        stack.unmerge()
        stack.remove("one")
        assert torch.equal(drawn(pipeline), base)


def test_load_adapter_twice_adds_and_one_name_twice_is_refused(exported: Exported, new: Path) -> None:
    import loraloom

    pipeline = pipeline_of(new)
    first = loraloom.load_adapter(pipeline, exported.files[0], name="a", scale=0.5)
    assert loraloom.load_adapter(pipeline, exported.files[1], name="b", scale=0.5) is first
    assert first.names == ("a", "b")
    with pytest.raises(UserError, match="two adapters of one name"):
        loraloom.load_adapter(pipeline, exported.files[1], name="b")


def test_load_adapter_knows_stable_diffusions_pipeline_and_names_a_stranger(
    exported: Exported, tiny_model: Path
) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    import loraloom

    kind: Any = StableDiffusionPipeline
    pipeline = kind.from_pretrained(tiny_model, safety_checker=None, local_files_only=True)
    with pytest.raises(UserError, match="was trained on HunyuanDiT, this model is stable_diffusion"):
        loraloom.load_adapter(pipeline, exported.files[0])
    with pytest.raises(UserError, match="no family knows this pipeline: got 'object'"):
        loraloom.load_adapter(object(), exported.files[0])


def test_an_adapter_of_another_family_is_refused_with_both_names(
    exported: Exported, new: Path, tiny_model: Path, tmp_path: Path
) -> None:
    from loraloom.config.run import LoraConfig
    from loraloom.lora.export import export_adapter
    from loraloom.lora.files import read_adapter, save_adapter
    from loraloom.lora.inject import attach_new

    other = open_model(ModelSource(location=str(tiny_model)))
    for file in exported.files:
        with pytest.raises(UserError, match="was trained on HunyuanDiT, this model is stable_diffusion"):
            read_adapter(file).updates(other)
    adapter = attach_new(other, LoraConfig(rank=2), seed=0)
    save_adapter(tmp_path / "own.safetensors", adapter.state(), {"format": "loraloom.adapter.1", "alpha": 2, "rank": 2})
    other = open_model(ModelSource(location=str(tiny_model)))
    layers = read_adapter(tmp_path / "own.safetensors").layers(other)
    for file in export_adapter(other, layers, {"rank": 2}, tmp_path / "exports", "x", "fp32"):
        with pytest.raises(UserError, match="was trained on Stable Diffusion 1 or 2, this model is hunyuan_dit"):
            read_adapter(file).updates(open_model(ModelSource(location=str(new))))


@torch.inference_mode()
def test_a_merged_pipeline_is_saved_as_a_model_folder_that_needs_no_adapter(
    exported: Exported, new: Path, tmp_path: Path
) -> None:
    import loraloom

    pipeline = pipeline_of(new)
    loraloom.load_adapter(pipeline, exported.files[1], scale=0.1).merge()
    pipeline.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(drawn(pipeline_of(tmp_path / "merged")), drawn(pipeline), atol=1e-5, rtol=1e-5)
    changed_weight = open_model(ModelSource(location=str(tmp_path / "merged"))).modules.get("denoiser").state_dict()
    name = next(iter(exported.changes))
    own = open_model(ModelSource(location=str(new))).modules.get("denoiser").state_dict()[f"{name}.weight"]
    difference = (changed_weight[f"{name}.weight"] - own).flatten(1)
    torch.testing.assert_close(difference, 0.1 * exported.changes[name], atol=1e-5, rtol=1e-4)


def test_generation_takes_the_options_that_the_adapter_was_trained_with(new: Path, tmp_path: Path) -> None:
    """Another number of windows than in training gives other images; --model-option overrides what is recorded."""
    from loraloom.config.generate import GenerateConfig
    from loraloom.generate.session import open_session
    from loraloom.lora.files import save_adapter

    tensors = {
        "transformer.blocks.0.attn2.to_k.lora_A.weight": random(2, 32),
        "transformer.blocks.0.attn2.to_k.lora_B.weight": random(32, 2),
    }
    base = {"source": str(new), "options": ["clip_windows=2"]}
    record = {"format": "loraloom.adapter.1", "family": "hunyuan_dit", "rank": 2, "alpha": 2, "base": base}
    save_adapter(tmp_path / "a.safetensors", tensors, record)
    for asked, wanted in (((), 2), (("clip_windows=3",), 3)):
        for source in (None, ModelSource(location=str(new))):
            config = GenerateConfig(model_options=asked, width=64, height=64)
            adapters = [(tmp_path / "a.safetensors", 1.0)]
            session = open_session(config, source=source, adapters=adapters, say=lambda line: None)
            assert session.model.text.max_windows == wanted
            (request,) = session.requests(["a house"])
            assert session.recipe(request).model["options"] == [f"clip_windows={wanted}"]
