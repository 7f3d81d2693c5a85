"""The built-in base can be made again: its parts learn, go on after a stop, and fit together into a model that opens."""

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from PIL import Image, ImageDraw
from transformers import CLIPModel, CLIPProcessor, CLIPTextModel

import loraloom
from loraloom.extensions.domains.floorplan import DOMAIN
from loraloom.extensions.domains.floorplan.augment import SYMMETRIES
from loraloom.extensions.families._diffusers.windows import collate
from loraloom.models.loading import open_model
from loraloom.prompts.encoder import PromptEncoder
from loraloom.protocols.model import ModelSource
from loraloom.utils.errors import UserError
from loraloom.utils.safetensors_io import read_tensors
from recipes.mini import bank as bank_room
from recipes.mini import blank, curve, data, grounding, reading
from recipes.mini.__main__ import build
from recipes.mini.attention import MaskAsChannel
from recipes.mini.autoencoder import normalise, rarity, reconstruction, to_pixels
from recipes.mini.bank import Bank, fill_bank, windows_of
from recipes.mini.build import build_mini
from recipes.mini.canvas import Canvas, Crops
from recipes.mini.contrast import compare, fit_contrast, halved, make_clip
from recipes.mini.data import GRID, Part, draw_plan, draw_scene, facts_of, grids_of, parts_of, read_part, write_parts
from recipes.mini.denoising import Noise, fit_denoiser
from recipes.mini.fitting import Fit, Job, Way, fit
from recipes.mini.layout import make_autoencoder, make_denoiser, make_text_encoder
from recipes.mini.recipe import Recipe, recipe_for
from recipes.mini.tokenizer import train_tokenizer


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
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_fit_that_is_cut_ends_where_an_uncut_one_ends(
    tmp_path: Path, muon: bool, layout: torch.memory_format
) -> None:
    """On a GPU weights are channels_last: an optimizer's state read back contiguous was refused there, and misread here."""

    def module() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Conv2d(4, 6, 3), torch.nn.Conv2d(6, 2, 3)).to(memory_format=layout)

    def run(one: torch.nn.Module, state: Path, deadline: float = float("inf")) -> bool:
        def loss(step: int) -> tuple[torch.Tensor, dict[str, float]]:
            inputs = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(step))
            return (one(inputs) - inputs[:, :2, 2:-2, 2:-2]).square().mean(), {}

        return fit(one, loss, Fit(20, 0.1, muon=muon), Job(state, quiet, deadline=deadline))

    whole = module()
    assert run(whole, tmp_path / "whole.safetensors")
    cut, calls = module(), 0
    while not run(cut, tmp_path / "cut.safetensors", deadline=0.0):  # a step a call
        calls += 1
        cut = module()
    assert calls == 19
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), cut.parameters(), strict=True))


def test_a_watch_that_was_cut_off_is_called_again_and_none_is_left_out(tmp_path: Path) -> None:
    called: list[int] = []

    def run(cut_at: int = 0, deadline: float = float("inf")) -> bool:
        def watch(done: int) -> None:
            if done == cut_at:
                raise KeyboardInterrupt
            called.append(done)

        one = torch.nn.Linear(2, 2)
        job = Job(tmp_path / "state.safetensors", quiet, deadline=deadline, watch=watch, watch_every=4)
        return fit(one, lambda step: (one(torch.ones(1, 2)).square().mean(), {}), Fit(10, 0.1), job)

    with pytest.raises(KeyboardInterrupt):
        run(cut_at=4)
    assert called == []
    while not run(deadline=0.0):  # a step a call, no time to watch but at a start
        pass
    assert [*dict.fromkeys(called)] == [4, 8]
    assert run() and called[-1] == 10


def test_normalised_latents_have_no_mean_and_unit_variance_and_decode_to_the_same_image() -> None:
    torch.manual_seed(0)
    vae = make_autoencoder().eval()
    images = np.stack([np.asarray(draw_plan(number, 1)[0]) for number in range(4)])
    pixels = to_pixels(images)
    with torch.inference_mode():
        before = vae.decode(vae.encode(pixels).latent_dist.mean).sample
        deviation = vae.encode(pixels).latent_dist.std.mean()
        _, scale = normalise(vae, pixels)
        latents = vae.encode(pixels).latent_dist
        after = vae.decode(latents.mean).sample
    assert latents.mean.mean((0, 2, 3)).abs().max() < 1e-3
    assert (latents.mean.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert torch.allclose(before, after, atol=1e-4)
    assert deviation / scale.max() <= latents.std.mean() * 1.01


def test_images_depend_on_seed_and_number_only_and_come_back_whole(tmp_path: Path) -> None:
    files = [*parts_of(tmp_path, "plans", 24), *parts_of(tmp_path, "scenes", 2)]
    assert not write_parts(files, 5, deadline=0.0)
    assert write_parts(files, 5)
    plans, scenes = (read_part(file) for file in files)
    varied = [number for number, text in enumerate(plans.texts) if text.startswith("Varied")]
    assert 0 < len(varied) < 24
    for number in range(24):
        image, text = draw_plan(number, 5)
        same = np.array_equal(plans.images()[number], np.asarray(image))
        assert same == (number not in varied)
        assert plans.texts[number] == (text.replace("Plain", "Varied", 1) if number in varied else text)
    # In its own colours a plan is the same plan: where two pixels differed they still do.
    number = varied[0]
    before, after = np.asarray(draw_plan(number, 5)[0]).astype(int), plans.images()[number].astype(int)
    assert np.array_equal(np.diff(before, axis=0).any(-1), np.diff(after, axis=0).any(-1))
    image, text = draw_scene(1, 5)
    assert np.array_equal(scenes.images()[1], np.asarray(image)) and scenes.texts[1] == text
    assert draw_plan(0, 5)[1] != draw_plan(0, 6)[1]


def few_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work a few images here: a process takes longer to start than they take."""
    for module in (data, bank_room):
        monkeypatch.setattr(module, "usable_cores", lambda: 1)


def part_of(images: np.ndarray, palette: np.ndarray) -> Part:
    """A flat part: places in one palette."""
    return Part([""] * len(images), images, np.broadcast_to(palette, (len(images), 16, 3)).copy())


def test_crops_hold_the_colours_that_their_palettes_say(tmp_path: Path) -> None:
    marks = np.random.default_rng(0).integers(0, 5, (3, 256, 256)).astype(np.uint8)
    palette = np.arange(48, dtype=np.uint8).reshape(16, 3) * 5
    scene = Part([""], pixels=np.full((1, 256, 256, 3), 7, np.uint8))
    canvas = Canvas([part_of(marks, palette), scene], "cpu")
    crops = canvas.crops(10, 64, "test", 3)
    assert crops.pixels_bchw.shape == (10, 3, 64, 64) and len(crops.palettes_fk3) == 8
    for pixels_chw, palette_k3, places_hw in zip(crops.pixels_bchw, crops.palettes_fk3, crops.places_fhw, strict=False):
        assert torch.equal(pixels_chw.permute(1, 2, 0), palette_k3[places_hw])
    assert crops.used_fk.sum(1).tolist() == [5] * 8
    assert torch.allclose(crops.pixels_bchw[8:], torch.tensor(7 / 127.5 - 1))
    again, other = canvas.crops(10, 64, "test", 3), canvas.crops(10, 64, "test", 4)
    assert torch.equal(crops.pixels_bchw, again.pixels_bchw)
    assert not torch.equal(crops.pixels_bchw, other.pixels_bchw)
    own = torch.from_numpy(palette).float().div(127.5).sub(1)
    kept = sum(torch.equal(one, own) for n in range(20) for one in canvas.crops(10, 8, n).palettes_fk3)
    assert 30 < kept < 100  # of 160, two fifths keep their colours


def test_a_faint_line_that_is_lost_costs_more_than_the_same_error_elsewhere() -> None:
    """A grey wall between dark green rooms was drawn two thirds as dark as it is, and one room was made of two."""
    palette_k3 = torch.zeros(1, 16, 3)
    palette_k3[0, 0], palette_k3[0, 1] = torch.tensor([-0.8, 0.1, -0.6]), torch.tensor([-0.3, -0.3, -0.3])
    places_1hw = torch.zeros(1, 64, 64, dtype=torch.int64)
    places_1hw[:, :, 30:33] = 1
    pixels_bchw = palette_k3[0][places_1hw].permute(0, 3, 1, 2)
    crops = Crops(pixels_bchw, palette_k3, torch.arange(16)[None] < 2, places_1hw)
    good, error = reconstruction(pixels_bchw, crops)
    lost = pixels_bchw.clone()
    lost[:, :, :, 30:33] = pixels_bchw[:, :, :, :3]
    elsewhere = pixels_bchw.clone()
    elsewhere[:, :, :, 3:6] = elsewhere[:, :, :, 3:6] + (lost - pixels_bchw)[:, :, :, 30:33].abs()
    assert float(error) == 0 and float(good) < 1e-3
    assert float(reconstruction(lost, crops)[0]) > 4 * float(reconstruction(elsewhere, crops)[0])
    weights = rarity(pixels_bchw)
    assert float(weights[0, 0, 0, 31]) > 3 * float(weights[0, 0, 0, 3])


@pytest.mark.long
def test_the_vision_tower_learns_to_find_the_text_of_a_image_and_leaves_the_text_encoder_alone(
    tmp_path: Path,
) -> None:
    texts = ["red", "green", "blue", "white"]
    tokenizer = train_tokenizer(texts * 3, 600, tmp_path / "tokenizer")
    torch.manual_seed(0)
    text_encoder = make_text_encoder(tokenizer)
    before = {name: tensor.clone() for name, tensor in text_encoder.state_dict().items()}
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]], np.uint8)
    images = np.broadcast_to(colours[:, None, None], (4, 128, 128, 3)).copy()
    windows = [[tokenizer(text, padding="max_length")["input_ids"]] for text in texts]
    clip = make_clip(text_encoder)
    assert fit_contrast(clip, images, windows, 60, Job(tmp_path / "contrast.safetensors", quiet))
    with torch.inference_mode():
        scores = compare(clip, to_pixels(images), torch.tensor([one[0] for one in windows]))
    assert scores.argmax(1).tolist() == [0, 1, 2, 3]
    after = clip.text_model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert (halved(np.full((1, 256, 256, 3), 7, np.uint8)) == 7).all()


@pytest.mark.long
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
    facts = [facts_of(text, "plans") for text in said] * 20
    assert facts[0] == [("kitchen", "left-of", "living room"), ("living room", "right-of", "kitchen")]
    lines: list[str] = []
    lessons = {"plans": list(zip(windows, facts, strict=True))}
    assert reading.fit_reading(encoder, lessons, 150, Job(tmp_path / "state.safetensors", lines.append))
    numbers = dict(part.rsplit(" ", 1) for part in lines[-1].split("  ")[1:])
    assert float(numbers["plans recall"]) > 0.9
    assert float(numbers["plans precision"]) > 0.9


def test_a_mask_as_a_channel_is_the_same_attention() -> None:
    """With texts of different lengths, of the empty one too, and without a mask."""
    denoiser: Any = make_denoiser().eval()
    noisy, times = torch.randn(3, 4, 32, 32), torch.tensor([5, 500, 999])
    hidden = torch.randn(3, 160, 128)
    mask = torch.arange(160) < torch.tensor([77, 154, 1])[:, None]
    for given in (mask, None):
        with torch.no_grad():
            usual = denoiser(noisy, times, hidden, encoder_attention_mask=given).sample
            before = dict(denoiser.attn_processors)
            denoiser.set_attn_processor(MaskAsChannel())
            ours = denoiser(noisy, times, hidden, encoder_attention_mask=given).sample
            denoiser.set_attn_processor(before)
        torch.testing.assert_close(ours, usual, atol=1e-4, rtol=1e-4)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_recorded_and_compiled_denoiser_learns_what_a_plain_one_does(tmp_path: Path) -> None:
    learned: list[dict[str, torch.Tensor]] = []
    bank = bank_of(["left", "right"] * 50)
    bank = replace(
        bank, latents_nchw=bank.latents_nchw.cuda(), states_mkd=bank.states_mkd.cuda(),
        windows_nw=bank.windows_nw.cuda(), counts_n=bank.counts_n.cuda(),
    )  # fmt: skip
    for name, way in (("plain", Way(8, "bf16")), ("fast", Way(8, "bf16", record=True, compiled=True))):
        denoiser: Any = small_denoiser()
        noise = Noise(open_model(ModelSource(location="builtin:mini")).info.schedule)
        assert fit_denoiser(denoiser, bank, noise, way, Fit(5, 1e-3, muon=True), Job(tmp_path / name, quiet, "cuda"))
        learned.append({key: value.cpu() for key, value in denoiser.state_dict().items()})
    for key, value in learned[0].items():
        torch.testing.assert_close(learned[1][key], value, atol=5e-3, rtol=0.05)


def bank_of(words: list[str]) -> Bank:
    """Images that are white on the side that their word says, black on the other; latents likewise. States are any."""
    states = torch.randn(3, 77, 128, generator=torch.Generator().manual_seed(0))
    grids = np.zeros((len(words), GRID, GRID, 3), np.uint8)
    for grid, word in zip(grids, words, strict=True):
        grid[:, : GRID // 2] = 250 if word == "left" else 0
        grid[:, GRID // 2 :] = 0 if word == "left" else 250
    latents = torch.from_numpy(grids[..., :1].astype(np.float32) / 125 - 1).permute(0, 3, 1, 2)
    return Bank(
        latents.repeat_interleave(2, 2).repeat_interleave(2, 3).expand(-1, 4, -1, -1).half(),
        torch.cat([states, torch.zeros_like(states[:1])]).half(),
        torch.tensor([[("left", "right").index(word)] for word in words] + [[2]]), torch.ones(len(words) + 1).long(),
        grids, np.arange(len(words)), ["plans"] * len(words),
    )  # fmt: skip


@pytest.mark.long
def small_denoiser() -> Any:
    """A model of mini's layout."""
    torch.manual_seed(0)
    return UNet2DConditionModel.from_config({**make_denoiser().config, "block_out_channels": (16, 32, 64)})


@pytest.mark.long
def test_grounded_features_tell_where_a_colour_is(tmp_path: Path) -> None:
    bank = bank_of(["left", "right", "right", "left"] * 25 + ["left"] * 100)
    said: list[str] = []
    job = Job(tmp_path / "state.safetensors", said.append)
    assert grounding.ground(small_denoiser(), bank, Way(4), grounding.how_to_ground(200), job)
    # Without the text a cell is black or white with about equal chance.
    assert float(said[-1].split("plans ")[1]) > 0.8


def test_a_bank_hands_out_the_states_that_the_prompt_encoder_makes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Texts of different lengths in one batch: what only pads to the longest is masked, as in training and generation."""
    few_processes(monkeypatch)
    mini = Path(loraloom.__file__).parent / "assets" / "mini"
    model = open_model(ModelSource(location=str(mini)))
    files = [*parts_of(tmp_path, "plans", 2), *parts_of(tmp_path, "scenes", 1)]
    assert write_parts(files, 1)
    vae: Any = model.modules.get("vae")
    encoder: Any = model.modules.get("text_encoder")
    bank = fill_bank(
        files,
        mini,
        lambda pixels: vae.encode(pixels).latent_dist.mean,
        lambda ids: encoder(ids).last_hidden_state,
        "cpu",
    )
    assert (len(bank), list(bank.worlds)) == (3, ["plans", "plans", "scenes"])
    assert [list(map(int, part)) for part in bank.by_world(np.arange(3))] == [[0, 1], [2]]
    texts = [text for file in files for text in read_part(file).texts]
    told = bank.states(torch.tensor([2, 0, 3, 1]))
    with torch.no_grad():
        made = PromptEncoder(text=model.text, domain=DOMAIN).encode([texts[2], texts[0], "", texts[1]])
        usual, usual_mask = collate([tensors["hidden"] for tensors in made])
    assert told.mask_bl is not None and usual_mask is not None
    length = usual_mask.shape[1]
    assert torch.equal(told.mask_bl[:, :length], usual_mask) and not told.mask_bl[:, length:].any()
    assert told.mask_bl.shape[1] % 8 == 0
    torch.testing.assert_close(told.hidden_bld[:, :length].float(), usual, atol=3e-3, rtol=1e-3)
    pixels = to_pixels(read_part(files[0]).images())
    with torch.no_grad():
        mean, _ = model.encode_images(pixels)
    torch.testing.assert_close(bank.latents_nchw[:2].float(), mean, atol=5e-3, rtol=2e-3)
    assert np.array_equal(bank.grids_ngg3[:2], grids_of(read_part(files[0]).images()))


def test_turned_plans_and_mirrored_scenes_come_with_their_own_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_processes(monkeypatch)
    mini = Path(loraloom.__file__).parent / "assets" / "mini"
    files = [*parts_of(tmp_path, "plans", 2), *parts_of(tmp_path, "scenes", 2)]
    assert write_parts(files, 1)

    def shrunk(pixels_bchw: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.avg_pool2d(pixels_bchw, 8)[:, [0, 1, 2, 0]]

    bank = fill_bank(files, mini, shrunk, lambda ids: ids[..., None].expand(-1, -1, 128).float(), "cpu", orientations=8)
    plans, scenes = (read_part(file) for file in files)
    assert all(None not in told for told in plans.turned)
    learned = [(plans, place, laying) for laying in range(8) for place in range(2)]
    mirrored = [place for place in range(2) if scenes.turned[place][4] is not None]
    learned += [(scenes, place, 0) for place in range(2)] + [(scenes, place, 4) for place in mirrored]
    assert len(bank) == len(learned)
    assert sorted(bank.held_out.tolist()) == [
        n for n, (part, place, _) in enumerate(learned) if part is scenes and place
    ]
    origins = [place + 2 * (part is scenes) for part, place, _ in learned]
    assert bank.origins_n.tolist() == origins
    for number, (part, place, laying) in enumerate(learned):
        move = SYMMETRIES[laying]
        moved = np.stack([move.labels(channel) for channel in part.images()[place].transpose(2, 0, 1)])
        expected = shrunk(torch.from_numpy(moved)[None].float() / 127.5 - 1)
        torch.testing.assert_close(bank.latents_nchw[number].float(), expected[0], atol=1e-3, rtol=1e-3)
        text = part.turned[place][laying]
        assert text is not None
        told = [ids for ids, _ in windows_of(mini, [text])[0]]
        states = bank.states_mkd[bank.windows_nw[number, : int(bank.counts_n[number])]]
        assert states[..., 0].long().tolist() == told


@pytest.mark.long
def test_a_image_drawn_without_turned_texts_is_refused_where_they_are_wanted(tmp_path: Path) -> None:
    (file,) = parts_of(tmp_path, "others", 1)
    assert write_parts([file], 1)
    mini = Path(loraloom.__file__).parent / "assets" / "mini"
    with pytest.raises(UserError, match="earlier loraloom"):
        fill_bank([file], mini, lambda pixels: pixels, lambda ids: ids, "cpu", orientations=2)


@pytest.mark.long
def test_a_denoiser_learns_from_a_bank_what_texts_say(tmp_path: Path) -> None:
    bank = bank_of(["left", "right"] * 100)
    schedule = open_model(ModelSource(location="builtin:mini")).info.schedule
    denoiser, noise = small_denoiser(), Noise(schedule, shift=3.0)
    said: list[str] = []
    job = Job(tmp_path / "state.safetensors", said.append)
    assert fit_denoiser(denoiser, bank, noise, Way(8), Fit(120, 4e-3, muon=True, average=0.9), job)
    assert "held_out" in said[-1]
    # At the last step nothing but noise is to be seen: what the answer says of the image comes from the text.
    states = bank.states(torch.tensor([0, 1]))
    seen = torch.randn(1, 4, 32, 32).expand(2, -1, -1, -1)
    with torch.no_grad():
        answer = denoiser(
            seen, torch.tensor([999, 999]), encoder_hidden_states=states.hidden_bld.float(),
            encoder_attention_mask=states.mask_bl,
        ).sample  # fmt: skip
    sides = -answer.mean((1, 2)).unflatten(1, (2, 16)).mean(2)  # a velocity of pure noise is minus the image
    assert sides.sign().tolist() == [[1, -1], [-1, 1]], sides
    assert bool((sides[:, 0] - sides[:, 1]).abs().min() > 0.2), sides


def test_a_cut_fit_of_a_denoiser_remembers_how_large_the_losses_were_at_each_noise(tmp_path: Path) -> None:
    bank, schedule = bank_of(["left", "right"] * 20), open_model(ModelSource(location="builtin:mini")).info.schedule

    def run(name: str, *, balanced: bool, deadline: float = float("inf")) -> dict[str, torch.Tensor]:
        job = Job(tmp_path / f"{name}.safetensors", quiet, deadline=deadline)
        while not fit_denoiser(small_denoiser(), bank, Noise(schedule, balanced=balanced), Way(4), Fit(4, 1e-3), job):
            pass
        return read_tensors(job.state)[0]

    whole, cut = run("whole", balanced=True), run("cut", balanced=True, deadline=0.0)
    assert float(whole["memory.balance"][1].sum()) == pytest.approx(4 * (1 + 0.98 + 0.98**2 + 0.98**3))
    assert whole.keys() == cut.keys() and all(torch.equal(whole[name], cut[name]) for name in whole)
    plain = run("plain", balanced=False)
    assert any(not torch.equal(whole[name], value) for name, value in plain.items())
    with pytest.raises(UserError, match="another layout"):
        run("plain", balanced=True)


def test_the_middle_of_a_cell_is_not_mixed_with_its_walls() -> None:
    image = Image.new("RGB", (256, 256), "red")
    ImageDraw.Draw(image).line((0, 0, 255, 0), "black")
    assert (grids_of(np.asarray(image)[None]) == (255, 0, 0)).all()


def test_what_the_command_leaves_open_is_what_suits_the_machine() -> None:
    asked = inspect.signature(build).parameters.keys() - {"out", "budget", "begin"}
    assert asked <= {*Recipe.__slots__}
    assert recipe_for("cpu") == Recipe()
    assert recipe_for("cpu", steps=7).steps == 7
    large = recipe_for("cuda", steps=7)
    assert (large.steps, large.precision) == (7, "bf16") and large.batch_size > Recipe().batch_size


@pytest.mark.long
def test_the_whole_recipe_makes_a_model_that_opens_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blank, "VOCABULARY_TEXTS", 40)
    monkeypatch.setattr(curve, "TEXTS", 4)
    few_processes(monkeypatch)
    recipe = Recipe(
        images=12, orientations=2, autoencoder_images=8, autoencoder_steps=2, louder_steps=1, louder_batch=4,
        reading_texts=24, reading_steps=2, first_steps=1, grounding_steps=2, grounding_batch=4, steps=2,
        decoder_steps=2, contrast_images=6, contrast_steps=2, batch_size=4,
        point_images=4,
    )  # fmt: skip

    def bar(title: str):  # type: ignore[no-untyped-def]
        return lambda done, total: None

    said: list[str] = []
    assert build_mini(tmp_path / "state", recipe, 0.0, said.append, bar) == tmp_path / "state"
    assert said.pop() == "not done yet; the same command continues"
    place = build_mini(tmp_path / "state", recipe, 1e9, said.append, bar)
    model = open_model(ModelSource(location=str(place)))
    info = model.info
    assert (info.vae_scale_factor, info.defaults.size_px, info.latent_channels) == (8, 256, 4)
    assert model.info.schedule.prediction_type == "v_prediction"
    assert float(info.schedule.signal_t[-1]) < 1e-3  # no signal is left at the last step
    size = sum(file.stat().st_size for file in place.rglob("*.safetensors"))
    assert size < 40 * 2**20
    assert "2/7 autoencoder" in said
    clip = CLIPModel.from_pretrained(place / "clip")
    told = CLIPTextModel.from_pretrained(place / "text_encoder").state_dict()
    assert all(torch.equal(told[name], tensor) for name, tensor in clip.text_model.state_dict().items())
    image, _ = draw_plan(0, seed=0)
    processor: Any = CLIPProcessor.from_pretrained(place / "clip")
    shown = processor(text=["a red house"], images=image, return_tensors="pt")
    torch.testing.assert_close(shown["pixel_values"], to_pixels(halved(np.asarray(image)[None])), atol=0.008, rtol=0)
    ids = shown["input_ids"][0].tolist()
    assert ids == model.text.tokenizer.window(model.text.tokenizer.tokenize("a red house"))[: len(ids)]
    again: list[str] = []
    build_mini(
        tmp_path / "state",
        replace(recipe, images=14, steps=1),
        1e9,
        again.append,
        bar,
    )
    assert "2/7 autoencoder" not in again
    assert (tmp_path / "state" / "round_02" / "start" / "model_index.json").is_file()
    points = [json.loads(line) for line in (tmp_path / "state" / "round_01" / "curve.jsonl").read_text().splitlines()]
    assert [point["images"] for point in points] == [4, 8]


@pytest.mark.long
def test_begun_from_a_model_its_autoencoder_and_denoiser_go_on_and_its_text_encoder_rests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_processes(monkeypatch)
    monkeypatch.setattr(curve, "TEXTS", 2)
    recipe = Recipe(
        images=6, autoencoder_images=8, louder_steps=1, louder_batch=4, decoder_steps=1, steps=1, contrast_images=6,
        contrast_steps=1, batch_size=4,
    )  # fmt: skip
    shipped, folder, said = ModelSource(location="builtin:mini"), tmp_path / "again", list[str]()

    def bar(title: str):  # type: ignore[no-untyped-def]
        return lambda done, total: None

    place = build_mini(folder, recipe, 1e9, said.append, bar, shipped)
    assert not any("grounding" in line for line in said) and not (folder / "blank").exists()
    assert (place / "clip" / "config.json").is_file()

    def weights(model: Path | ModelSource, part: str) -> dict[str, torch.Tensor]:
        source = model if isinstance(model, ModelSource) else ModelSource(location=str(model))
        return open_model(source).modules.get(part).state_dict()

    for part, stays in (("text_encoder", True), ("vae", False), ("denoiser", False)):
        before, after = weights(shipped, part), weights(place, part)
        assert all(torch.equal(before[name], tensor) for name, tensor in after.items()) == stays
    began = weights(folder / "start", "denoiser")
    assert all(torch.equal(began[name], tensor) for name, tensor in weights(shipped, "denoiser").items())


def test_a_build_begins_from_one_model_of_its_own_layout(tmp_path: Path, tiny_model: Path) -> None:
    def begin(folder: Path, source: str) -> None:
        build_mini(folder, Recipe(), 0.0, quiet, lambda title: lambda done, total: None, ModelSource(location=source))

    with pytest.raises(UserError, match="has another layout"):
        begin(tmp_path / "tiny", str(tiny_model))
    assert not (tmp_path / "tiny" / "begin").exists()
    (tmp_path / "blank" / "blank").mkdir(parents=True)
    with pytest.raises(UserError, match="started from nothing"):
        begin(tmp_path / "blank", "builtin:mini")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "begin.json").write_text('{"model": "another"}', encoding="utf-8")
    with pytest.raises(UserError, match="started from another"):
        begin(tmp_path / "other", "builtin:mini")
