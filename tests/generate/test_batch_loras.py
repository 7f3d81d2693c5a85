"""Images of one batch with LoRA scales of their own are the images that each setting gives alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from loraloom.generate.session import Session
from loraloom.lora.blend import Term
from loraloom.protocols.generation import ImageRequest

from .conftest import MakeAdapter, OpenSession
from .test_foreign_adapters import loha

SETTINGS = (None, "", "dog:1", "dog:0.5 + cat:0.5", "cat:-0.7", "dog:denoiser.mid_block=0,*=1")


@pytest.fixture
def open_two(
    session_of: OpenSession, adapter: Path, make_adapter: MakeAdapter, tmp_path: Path
) -> Callable[..., Session]:
    cat = make_adapter(tmp_path / "cat", seed=5)
    pairs = [(adapter, Term(name="dog", scale=0.8)), (cat, Term(name="cat", scale=0.3))]
    return lambda **settings: session_of(pairs, **settings)


def requests(session: Session, loras: tuple[str | None, ...] = SETTINGS) -> list[ImageRequest]:
    first = session.requests(["a house"])[0]
    return [replace(first, loras=blend, seed=seed) for seed, blend in enumerate(loras)]


def images(session: Session, wanted: list[ImageRequest]) -> list[np.ndarray]:
    return [np.asarray(image.image, np.float64) for image in session.generate(wanted)]


def psnr(one: np.ndarray, other: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((one - other) ** 2).mean(), 1e-9)))


def test_each_image_of_a_mixed_batch_is_the_one_that_its_setting_gives_alone(open_two: Callable[..., Session]) -> None:
    apart, together = open_two(), open_two(batch_loras=True, batch_size=4)
    assert together.mixes(requests(together))
    alone = [images(apart, [request])[0] for request in requests(apart)]
    mixed = images(together, requests(together))
    for one, other in zip(alone, mixed, strict=True):
        assert psnr(one, other) > 50
    assert psnr(alone[1], alone[2]) < 30, "the settings give different images"


def test_a_mixed_batch_is_one_call_of_the_denoiser_for_each_step(open_two: Callable[..., Session]) -> None:
    session = open_two(batch_loras=True, batch_size=6)
    calls: list[int] = []
    predict = session.model.predict

    def counted(latents: Any, *more: Any) -> Any:
        calls.append(len(latents))
        return predict(latents, *more)

    session.model.predict = counted  # pyright: ignore[reportAttributeAccessIssue]
    images(session, requests(session))
    assert calls == [12, 12], "six images with and without the prompt, two steps"


def test_after_a_mixed_batch_the_sessions_own_scales_act_again_and_the_base_is_bit_equal(
    open_two: Callable[..., Session],
) -> None:
    session = open_two(batch_loras=True, batch_size=6)
    own, base = requests(session, (None,)), requests(session, ("",))
    before = images(session, own), images(session, base)
    recipe = session.recipe(own[0]).adapters
    images(session, requests(session))
    assert session.recipe(own[0]).adapters == recipe
    after = images(session, own), images(session, base)
    assert np.array_equal(before[0], after[0])
    assert np.array_equal(before[1], after[1])
    for name in ("dog", "cat"):
        session.unload(name)
    assert np.array_equal(images(session, base), before[1])


def test_what_cannot_share_a_batch_is_generated_apart_and_said(
    open_two: Callable[..., Session], session_of: OpenSession, make_adapter: MakeAdapter, adapter: Path, tmp_path: Path
) -> None:
    session = open_two(batch_loras=True)
    changing = requests(session, ("dog:1", "dog:1@0-0.5"))
    assert not session.mixes(changing)
    (line,) = [line for line in session.losses(changing) if "--batch-loras" in line]
    assert line == "note: --batch-loras is not used: a LoRA setting changes from step to step or from region to region"
    assert len(images(session, changing)) == 2
    text = make_adapter(tmp_path / "text", seed=7, text_encoder=True)
    session = session_of([(text, 1.0)], batch_loras=True)
    assert "text changes a text encoder" in str(session.losses(requests(session, ("text:1", ""))))
    assert not open_two().mixes(requests(session)), "off where nobody asks"


def test_an_adapter_that_is_no_plain_lora_is_generated_apart(session_of: OpenSession, tmp_path: Path) -> None:
    file = loha(tmp_path / "loha.safetensors")
    session = session_of([(file, 1.0)], batch_loras=True)
    assert "is no plain LoRA" in str(session.losses(requests(session, ("loha:1", ""))))
