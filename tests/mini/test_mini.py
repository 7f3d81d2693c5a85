"""The built-in base can be made again: its parts learn, go on after a stop, and fit together into a model that opens."""

import inspect
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import CLIPModel, CLIPProcessor, CLIPTextModel

from loraloom import cli
from loraloom.contracts import ModelSource
from loraloom.mini import build, grounding, reading
from loraloom.mini import recipe as settings
from loraloom.mini.autoencoder import normalise, to_pixels
from loraloom.mini.build import build_mini
from loraloom.mini.contrast import compare, fit_contrast, halved, make_clip
from loraloom.mini.data import GRID, draw_one, facts_of, grid_of, write_examples
from loraloom.mini.fitting import Fit, Job, fit
from loraloom.mini.layout import make_autoencoder, make_denoiser, make_text_encoder
from loraloom.mini.recipe import Recipe
from loraloom.mini.tokenizer import train_tokenizer
from loraloom.opening import open_model


def quiet(line: str) -> None:
    """Nobody listens."""


def test_a_vocabulary_learned_from_captions_writes_their_words_as_one_token_and_any_text_at_all(tmp_path: Path) -> None:
    texts = ["living room #1 and bedroom #2 are connected."] * 5 + ["a red house on a meadow"] * 5
    tokenizer = train_tokenizer(texts, 900, tmp_path / "tokenizer")
    ids = tokenizer("Living room #1", add_special_tokens=False)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["living</w>", "room</w>", "#</w>", "1</w>"]
    strange = "거실 zyzzyva naïve"
    assert tokenizer.decode(tokenizer(strange, add_special_tokens=False)["input_ids"]).strip() == strange
    again = type(tokenizer).from_pretrained(tmp_path / "tokenizer")
    assert again(texts[0])["input_ids"] == tokenizer(texts[0])["input_ids"]
    assert not (tmp_path / "tokenizer" / ".template").exists()


@pytest.mark.parametrize("muon", [False, True])
def test_a_fit_that_is_cut_ends_where_an_uncut_one_ends(tmp_path: Path, muon: bool) -> None:
    def module() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 5), torch.nn.Linear(5, 2))

    def run(one: torch.nn.Module, state: Path, deadline: float = float("inf")) -> bool:
        def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
            inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            return (one(inputs) - inputs[:, :2]).square().mean(), {}

        return fit(one, loss, Fit(20, 0.1, muon=muon), Job(state, quiet, deadline=deadline))

    whole = module()
    assert run(whole, tmp_path / "whole.safetensors")
    cut, calls = module(), 0
    while not run(cut, tmp_path / "cut.safetensors", deadline=0.0):  # a step a call
        calls += 1
        cut = module()
    assert calls == 19
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))


def test_normalised_latents_have_no_mean_and_unit_variance_and_decode_to_the_same_picture() -> None:
    torch.manual_seed(0)
    vae = make_autoencoder().eval()
    pictures = np.stack([np.asarray(draw_one(number, 1)[0]) for number in range(4)])
    pixels = to_pixels(pictures)
    with torch.inference_mode():
        before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        deviation = vae.encode(pixels).latent_dist.std.mean()
        _, scale = normalise(vae, pictures, "cpu")
        latents = vae.encode(pixels).latent_dist
        after = vae.decode(latents.mean).sample
    assert latents.mean.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.mean.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert torch.allclose(before, after, atol=1e-4)
    assert deviation / scale.max() <= latents.std.mean() * 1.01


def test_pictures_depend_on_seed_and_number_only(tmp_path: Path) -> None:
    write_examples(tmp_path / "few", 3, seed=5)
    write_examples(tmp_path / "more", 5, seed=5)
    for number in range(3):
        name = f"images/{number:06d}.png"
        assert (tmp_path / "few" / name).read_bytes() == (tmp_path / "more" / name).read_bytes()
    assert len((tmp_path / "more" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()) == 5
    assert draw_one(0, 5)[1] != draw_one(0, 6)[1]


def test_the_vision_tower_learns_to_find_the_text_of_a_picture_and_leaves_the_text_encoder_alone(
    tmp_path: Path,
) -> None:
    texts = ["red", "green", "blue", "white"]
    tokenizer = train_tokenizer(texts * 3, 600, tmp_path / "tokenizer")
    torch.manual_seed(0)
    text_encoder = make_text_encoder(tokenizer)
    before = {name: tensor.clone() for name, tensor in text_encoder.state_dict().items()}
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    pictures = np.broadcast_to(colours[:, None, None], (4, 128, 128, 3)).copy()
    windows = [[tokenizer(text, padding="max_length")["input_ids"]] for text in texts]
    clip = make_clip(text_encoder)
    assert fit_contrast(clip, pictures, windows, 60, Job(tmp_path / "contrast.safetensors", quiet))
    with torch.inference_mode():
        scores = compare(clip, to_pixels(pictures), torch.tensor([one[0] for one in windows]))
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]
    after = clip.text_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (halved(np.full((1, 256, 256, 3), 7, np.uint8)) == 7).all()


def test_the_text_encoder_learns_who_stands_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BATCH", 8)
    said = [
        f"[Positional Relationship Between Rooms] {room} #1 is {direction} living room #1."
        for room in ("kitchen", "bedroom")
        for direction in ("left-of", "above")
    ]
    tokenizer = train_tokenizer(said, 600, tmp_path / "tokenizer")
    torch.manual_seed(0)
    encoder = make_text_encoder(tokenizer)
    windows = [tokenizer(text, padding="max_length")["input_ids"] for text in said] * 20
    facts = [facts_of(text) for text in said] * 20
    assert facts[0] == [("kitchen", "left-of", "living room"), ("living room", "right-of", "kitchen")]
    lines: list[str] = []
    assert reading.teach_reading(encoder, windows, facts, 150, Job(tmp_path / "state.safetensors", lines.append))
    numbers = dict(part.rsplit(" ", 1) for part in lines[-1].split("  ")[1:])
    assert float(numbers["recall"]) > 0.9
    assert float(numbers["precision"]) > 0.9


def test_grounded_features_tell_where_a_colour_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grounding, "BATCH", 4)
    tokenizer = train_tokenizer(["left", "right"] * 3, 600, tmp_path / "tokenizer")
    torch.manual_seed(0)
    encoder: Any = make_text_encoder(tokenizer)
    denoiser: Any = UNet2DConditionModel.from_config({**make_denoiser().config, "block_out_channels": (16, 32, 64)})
    ids = {word: tokenizer(word, padding="max_length")["input_ids"] for word in ("left", "right")}
    grids = np.zeros((40, GRID, GRID, 3), np.uint8)
    words = ["left", "right", "right", "left", "right"] * 8  # every twentieth is held out: a left each time
    for grid, word in zip(grids, words, strict=True):
        grid[:, : GRID // 2] = 250 if word == "left" else 0
        grid[:, GRID // 2 :] = 0 if word == "left" else 250
    said: list[str] = []
    assert grounding.ground(
        encoder,
        denoiser,
        grids,
        [[ids[word]] for word in words],
        ["half"] * 40,
        grounding.how_to_ground(200),
        Job(tmp_path / "state.safetensors", said.append),
    )
    # Without the text a cell is black or white with equal chance.
    assert float(said[-1].split("half ")[1]) > 0.8


def test_the_middle_of_a_cell_is_not_mixed_with_its_walls() -> None:
    picture = Image.new("RGB", (256, 256), "red")
    ImageDraw.Draw(picture).line((0, 0, 255, 0), "black")
    assert (grid_of(picture) == (255, 0, 0)).all()


def test_the_command_and_the_recipe_agree_on_what_is_usual() -> None:
    usual = {name: given.default for name, given in inspect.signature(cli.build_mini).parameters.items()}
    del usual["out"], usual["budget"]
    recipe = asdict(Recipe())
    assert {name.removesuffix("_denoiser"): value for name, value in usual.items()}.items() <= recipe.items()


@pytest.mark.slow
def test_the_whole_recipe_makes_a_model_that_opens_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(build, "VOCABULARY_TEXTS", 40)
    monkeypatch.setattr(settings, "SAMPLE_PROMPTS", ("a red house",))
    recipe = Recipe(
        pictures=12,
        autoencoder_pictures=8,
        autoencoder_steps=2,
        lesson_texts=24,
        reading_steps=2,
        first_steps=1,
        grounding_steps=2,
        steps=2,
        decoder_steps=2,
        contrast_steps=2,
        batch_size=4,
    )

    def bar(title: str):  # type: ignore[no-untyped-def]
        return lambda done, total: None

    said: list[str] = []
    assert build_mini(tmp_path / "state", recipe, 0.0, said.append, bar) == tmp_path / "state"
    assert said.pop() == "not done yet; the same command goes on"
    place = build_mini(tmp_path / "state", recipe, 1e9, said.append, bar)
    model = open_model(ModelSource(str(place)))
    assert (model.latent_scale, model.default_size_px, model.latent_channels) == (8, 256, 4)
    assert model.schedule.prediction_type == "v_prediction"
    assert float(model.schedule.alphas_cumprod_t[-1]) < 1e-6  # no signal is left at the last step
    size = sum(file.stat().st_size for file in place.rglob("*.safetensors"))
    assert size < 40 * 2**20
    assert "1/9 autoencoder" in said
    clip = CLIPModel.from_pretrained(place / "clip")
    told = CLIPTextModel.from_pretrained(place / "text_encoder").state_dict()
    assert all(torch.equal(told[name], tensor) for name, tensor in clip.text_model.state_dict().items())
    picture, _ = draw_one(0, seed=0)
    processor: Any = CLIPProcessor.from_pretrained(place / "clip")
    shown = processor(text=["a red house"], images=picture, return_tensors="pt")
    torch.testing.assert_close(shown["pixel_values"], to_pixels(halved(np.asarray(picture)[None])), atol=0.008, rtol=0)
    ids = shown["input_ids"][0].tolist()
    assert ids == model.text.window(model.text.tokenize("a red house"))[: len(ids)]
    again: list[str] = []
    build_mini(
        tmp_path / "state",
        Recipe(pictures=14, steps=1, decoder_steps=2, contrast_steps=1, batch_size=4),
        1e9,
        again.append,
        bar,
    )
    assert "1/9 autoencoder" not in again
    assert (tmp_path / "state" / "round_02" / "start" / "model_index.json").is_file()
