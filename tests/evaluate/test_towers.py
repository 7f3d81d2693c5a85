"""Extractors: preprocessing and embeddings are those of transformers and torchmetrics; foreign files are refused in a line."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loraloom import plugins
from loraloom.evaluate.extractors import own_clip, resolve_extractor
from loraloom.extensions.metrics._towers import Tower, read_preprocessing
from loraloom.extensions.metrics.clip_score import clip_cosines
from loraloom.protocols.domain import Section
from loraloom.protocols.evaluation import Sample
from loraloom.utils.errors import UserError
from loraloom.utils.rng import derive_seed
from tests.support.images import drawn

MINI = resolve_extractor("builtin:mini", "--extractor").folder


@pytest.fixture(scope="module")
def tower() -> Tower:
    return Tower(MINI, "cpu")


def sample(name: str, image: Image.Image) -> Sample:
    return Sample(role="generated", id=name, open=lambda: image)


def one_section(text: str) -> list[Section]:
    return [Section("", (text,))]


@pytest.mark.parametrize("size", [(160, 120), (120, 160), (128, 128), (90, 300), (40, 50)])
def test_pixels_are_those_of_the_models_own_preprocessing(tower: Tower, size: tuple[int, int]) -> None:
    from transformers import CLIPImageProcessor

    image = drawn(3, *size)
    theirs = CLIPImageProcessor.from_pretrained(MINI)(images=[image], return_tensors="np")["pixel_values"][0]
    assert np.abs(tower.preprocessing.pixels(image, "center") - theirs).max() < 1e-6


@pytest.mark.parametrize("size", [(160, 120), (90, 300)])
def test_a_model_that_resizes_the_whole_image_gets_the_whole_image(tmp_path: Path, size: tuple[int, int]) -> None:
    """DINO ViT-S/16 has no crop: cutting the middle out would score other pixels than DreamBooth did."""
    from transformers import CLIPImageProcessor

    square = {"height": 128, "width": 128}
    folder = copy_with(tmp_path / "clip", "preprocessor_config.json", do_center_crop=False, crop_size=None, size=square)
    theirs = CLIPImageProcessor.from_pretrained(folder)(images=[drawn(3, *size)], return_tensors="np")["pixel_values"][
        0
    ]
    assert np.abs(read_preprocessing(folder).pixels(drawn(3, *size), "center") - theirs).max() < 1e-6


TORCHMETRICS = {
    (1, "a red house left of a tree"): 25.562868,
    (2, "a blue car"): 36.173431,
    (5, "a green boat below the sun"): 19.971584,
}
"""`_clip_score_update` of torchmetrics 1.9.0 on `builtin:mini`'s CLIP and `drawn(seed, 160, 128)`, 2026-11-29. Its model was
given through a shim: torchmetrics 1.9 reads a tensor where transformers 5 returns an output object."""


@pytest.mark.parametrize(("case", "wanted"), TORCHMETRICS.items())
def test_the_clip_score_is_that_of_torchmetrics(tower: Tower, case: tuple[int, str], wanted: float) -> None:
    seed, text = case
    (image,) = tower.images([sample(f"image {seed}", drawn(seed, 160, 128))])
    assert 100 * clip_cosines(image, tower.texts(text, one_section(text)))[0] == pytest.approx(wanted, abs=0.02)


def test_a_text_of_several_windows_is_read_whole_and_each_window_has_its_header(tower: Tower) -> None:
    header = "[Houses]"
    sentences = tuple(f"house number {number} is left of the tree." for number in range(30))
    windows = tower.windows([Section(header, sentences)])
    assert len(windows) > 2
    assert all(len(ids) <= 75 for ids in windows)
    head = tower._ids(header)
    assert all(ids[: len(head)] == head for ids in windows)
    read = [token for ids in windows for token in ids[len(head) :]]
    assert read == [token for sentence in sentences for token in tower._ids(sentence)]
    assert tower.texts("long", [Section(header, sentences)]).shape[0] == len(windows)


def test_one_sentence_longer_than_a_window_is_cut_and_not_lost(tower: Tower) -> None:
    text = " ".join(["house"] * 200)
    windows = tower.windows(one_section(text))
    assert [token for ids in windows for token in ids] == tower._ids(text)
    assert max(len(ids) for ids in windows) <= 75


def test_the_empty_text_is_one_window(tower: Tower) -> None:
    assert tower.texts("", one_section("")).shape == (1, 128)


def test_minis_own_clip_finds_the_text_of_an_image(tower: Tower) -> None:
    """Chance level 1 of 12; `benchmarks/vision_tower.py` finds 83 of 100."""
    domain = plugins.load("domains", "floorplan")
    made = [domain.dataset_generator.draw(derive_seed("test of towers", n) >> 16, "plain") for n in range(12)]
    images = tower.images([sample(f"plan {n}", image) for n, (image, _) in enumerate(made)])
    texts = [tower.texts(text, domain.sections(text)) for _, text in made]
    cosines = np.array([[clip_cosines(image, windows).mean() for windows in texts] for image in images])
    assert (cosines.argmax(1) == np.arange(12)).mean() >= 0.75


def test_style_forgets_where_things_are_and_knows_their_colours(tower: Tower) -> None:
    """An image is nearer in style to its own mirror image and quarter turn than to one in another manner."""
    images = [drawn(seed, 128, 128) for seed in range(3)]
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (128, 128, 3), dtype=np.uint8))
    mirrored = images[0].transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    shown = [images[0], mirrored, noise]
    rows = np.stack(tower.styles([sample(f"style {n}", image) for n, image in enumerate(shown)]))
    cosines = rows @ rows.T / np.outer(np.linalg.norm(rows, axis=1), np.linalg.norm(rows, axis=1))
    assert cosines[0, 1] > cosines[0, 2]


def test_the_batch_changes_no_embedding(tower: Tower) -> None:
    images = [drawn(seed, 64, 64) for seed in range(5)]
    together = tower.images([sample(f"together {n}", image) for n, image in enumerate(images)])
    alone = [tower.images([sample(f"alone {n}", image)])[0] for n, image in enumerate(images)]
    assert np.abs(np.stack(together) - np.stack(alone)).max() < 1e-4


def test_an_image_is_opened_once_for_all_metrics(tower: Tower) -> None:
    opened: list[int] = []

    def read() -> Image.Image:
        opened.append(1)
        return drawn(9, 32, 32)

    one = Sample(role="generated", id="opened once", open=read)
    tower.images([one])
    tower.images([one], crop="center")
    assert len(opened) == 1


# ------------------------------------------------------------------------------------------------- foreign files


def copy_with(folder: Path, name: str, **changes: Any) -> Path:
    shutil.copytree(MINI, folder)
    values = json.loads((folder / name).read_text(encoding="utf-8"))
    (folder / name).write_text(json.dumps({**values, **changes}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("config.json", {"model_type": "clipp"}, "did you mean 'clip'"),
        ("config.json", {"auto_map": {"AutoModel": "evil.Model"}}, "code"),
        ("config.json", {"projection_dim": 10**9}, "projection_dim"),
        ("config.json", {"vision_config": {"hidden_size": 10**9}}, "vision_config: hidden_size"),
        ("config.json", {"text_config": {"vocab_size": -1}}, "text_config: vocab_size"),
        ("config.json", {"text_config": {"num_hidden_layers": "many"}}, "num_hidden_layers"),
        ("config.json", {"vision_config": {"hidden_size": 256}}, "the extractor cannot be read"),
        ("config.json", {"vision_config": {"num_attention_heads": 7}}, "the extractor cannot be read"),
        ("preprocessor_config.json", {"crop_size": {"height": 10**9}}, "crop_size"),
        ("preprocessor_config.json", {"crop_size": {"height": 64}}, "reads images of 128 pixels"),
        ("preprocessor_config.json", {"image_mean": [0.5]}, "three numbers"),
        ("preprocessor_config.json", {"image_std": ["a", 1, 1]}, "image_std"),
    ],
)
def test_a_config_that_cannot_be_used_is_one_line(
    tmp_path: Path, name: str, changes: dict[str, Any], words: str
) -> None:
    folder = copy_with(tmp_path / "clip", name, **changes)
    with pytest.raises(UserError, match=words):
        Tower(resolve_extractor(str(folder), "--extractor").folder, "cpu")


def test_weights_that_give_nan_are_one_line(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = copy_with(tmp_path / "clip", "config.json")
    tensors = load_file(folder / "model.safetensors")
    tensors["visual_projection.weight"][0, 0] = float("nan")
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="NaN"):
        Tower(folder, "cpu").images([sample("nan", drawn(1, 32, 32))])


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    folder = copy_with(tmp_path / "clip", "config.json")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match="no safetensors weights"):
        resolve_extractor(str(folder), "--extractor")


@pytest.mark.parametrize(
    ("location", "words"),
    [
        ("nowhere", "no such extractor"),
        ("./nowhere/clip", "no such extractor"),
        ("builtin:minni", "did you mean 'mini'"),
        ("a\0b", "no such extractor"),
        ("nobody/no-such-clip", "hf download"),
    ],
)
def test_an_extractor_that_is_not_there_is_one_line_with_a_remedy(location: str, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        resolve_extractor(location, "--extractor")
    assert "--extractor" in str(caught.value) or "did you mean" in str(caught.value)


def test_a_folder_without_an_extractor_says_what_is_expected(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no extractor"):
        resolve_extractor(str(tmp_path), "--extractor")


def test_a_base_with_its_own_clip_scores_by_it() -> None:
    assert own_clip("builtin:mini") == "builtin:mini"
    assert own_clip(str(MINI.parent)) == str(MINI)
    assert own_clip("runwayml/stable-diffusion-v1-5") is None
    assert own_clip(None) is None
