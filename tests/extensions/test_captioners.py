"""Captioning models beside those of the contract: BLIP-2, and a model whose processor also reads videos."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loraloom import plugins
from loraloom.config.caption import CaptionConfig
from loraloom.config.extending import options_of
from loraloom.config.reading import read_settings
from loraloom.extensions.captioners._models import clean
from loraloom.extensions.captioners._tiny import WORDS, build_blip, build_blip2, build_qwen2_vl
from loraloom.prepare.captioner_files import with_model
from loraloom.prepare.captioning import caption_folder
from loraloom.protocols.data import SourceItem
from loraloom.utils.errors import UserError
from tests.support.images import drawn, save


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny model, built once."""
    builders = {"blip": build_blip, "blip2": build_blip2, "qwen2_vl": build_qwen2_vl}
    root = tmp_path_factory.mktemp("models")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            (root / name).mkdir()
            builders[name](root / name)
        return root / name

    return folder


def options(name: str, **values: Any) -> tuple[Any, dict[str, Any]]:
    captioner = plugins.load("captioners", name)
    config = read_settings(CaptionConfig, values={"captioner": name, "caption_max_tokens": 6, **values})
    return captioner, options_of(config, [captioner])


def items(number: int) -> list[SourceItem]:
    return [SourceItem(id=f"dogs/{k}", image=Path(f"raw/dogs/{k}.png"), caption=None) for k in range(number)]


@pytest.mark.parametrize(("name", "model"), [("blip", "blip2"), ("vlm", "qwen2_vl")])
def test_other_models_of_a_captioner_write_words_for_images_of_every_size(
    name: str, model: str, models: Callable[[str], Path]
) -> None:
    """Qwen2-VL's processor asks for torchvision because of its videos: it is opened without that part."""
    captioner, given = options(name, caption_model=str(models(model)))
    images = [drawn(seed, 40 + 50 * seed, 90) for seed in range(3)]
    answers = captioner.caption_many(images, items(3), given, "", 2, 0)
    for answer in answers:
        assert answer
        assert set(" ".join(answer).split()) <= set(WORDS)


def test_blip_continues_its_prompt_and_blip_2_answers_it(models: Callable[[str], Path]) -> None:
    captioner, given = options("blip", caption_model=str(models("blip")), caption_prompt="a photo of the {folder}")
    assert captioner.caption(drawn(1, 40, 40), items(1)[0], given, "").startswith("a photo of the")
    captioner, given = options("blip", caption_model=str(models("blip2")), caption_prompt="a photo of the {folder}")
    assert not captioner.caption(drawn(1, 40, 40), items(1)[0], given, "").startswith("a photo of the")


def test_a_model_that_asks_to_run_code_or_is_of_another_kind_is_refused(
    models: Callable[[str], Path], tmp_path: Path
) -> None:
    captioner, given = options("florence", caption_model=str(models("blip")))
    with pytest.raises(UserError, match="no model of the captioner's kind"):
        captioner.caption(drawn(1, 40, 40), items(1)[0], given, "")
    config = json.loads((models("blip") / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "x.Y"}}), encoding="utf-8")
    with pytest.raises(UserError, match="asks to run code"):
        with_model(captioner, {**given, "caption_model": str(tmp_path)})
    with pytest.raises(UserError, match="no such captioning model"):
        with_model(captioner, {**given, "caption_model": "../nowhere"})


def test_a_folder_is_captioned_in_batches_and_another_edit_asks_no_model_again(
    models: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for seed in range(5):
        save(drawn(seed, 40, 30), tmp_path / f"raw/{seed}.png")
    captioner = plugins.load("captioners", "blip")
    real, sizes = type(captioner).caption_many, list[int]()

    def counting(self: Any, images: Any, *rest: Any) -> Any:
        sizes.append(len(images))
        return real(self, images, *rest)

    monkeypatch.setattr(type(captioner), "caption_many", counting)
    values = {"captioner": "blip", "caption_model": str(models("blip")), "caption_max_tokens": 6, "batch_size": 2}

    def run(**more: Any) -> Any:
        config = read_settings(CaptionConfig, values={**values, **more})
        return caption_folder(tmp_path / "raw", config, console=lambda line: None)

    first = run(num_captions=2)
    assert sizes == [2, 2, 1]
    again = run(num_captions=2, suffix=", film", batch_size=4, caption_device="cpu")
    assert sizes == [2, 2, 1]
    for item_id, row in again.version.rows.items():
        assert row.captions == tuple(f"{text}, film" for text in first.version.rows[item_id].captions)
    run(num_captions=2, trigger="sks")
    assert len(sizes) == 6  # the trigger may be a part of the prompt


def test_generated_text_becomes_one_line_of_printable_letters() -> None:
    assert clean(" a\tdog\n\n on\x0f grass \ufffd 강아지 ") == "a dog on grass 강아지"
