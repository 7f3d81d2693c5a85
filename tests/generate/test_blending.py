"""Blends of LoRAs act as they say, on images of the tiny model, and leave nothing behind."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from loraloom.generate.blending import region_mask
from loraloom.generate.session import Session
from loraloom.lora.blend import Term
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.errors import UserError

from .conftest import MakeAdapter, OpenSession


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, make_adapter: MakeAdapter) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("styles")
    first = make_adapter(folder / "anime", seed=1, trigger="anistyle")
    return first, make_adapter(folder / "wc", seed=2)


@pytest.fixture
def session(session_of: OpenSession, runs: tuple[Path, Path]) -> Session:
    return session_of([(runs[0], 1.0), (runs[1], 0.5)], steps=4)  # type: ignore[list-item]


def image(session: Session, loras: str | None, **changes: object) -> np.ndarray:
    request = ImageRequest(
        prompt="a cat",
        num_steps=4,
        guidance_scale=3.0,
        sampler="ddim",
        width=32,
        height=32,
        seed=5,
        loras=loras,
        **changes,
    )  # type: ignore[arg-type]
    (drawn,) = session.generate([request])
    return np.asarray(drawn.image).astype(int)


def close(one: np.ndarray, other: np.ndarray) -> bool:
    """Equal up to rounding: merged weights and weights beside the base round differently."""
    return bool(np.abs(one - other).max() <= 2)


def test_a_request_sets_its_own_scales_and_the_next_one_has_the_sessions_again(session: Session) -> None:
    own = image(session, None)
    base = image(session, "")
    assert not close(own, base)
    assert close(image(session, "anime:1 + wc:0.5"), own)
    assert not close(image(session, "anime:1"), own)
    assert (image(session, None) == own).all()
    assert (image(session, "") == base).all()


def test_a_loaded_lora_leaves_no_trace_in_the_base(session_of: OpenSession, session: Session) -> None:
    plain = session_of(steps=4)
    image(session, "switch: anime:1 + wc:1")
    assert (image(session, "") == image(plain, None)).all()
    session.adapters.remove("anime")
    session.adapters.remove("wc")
    for part in ("denoiser", "text_encoder"):
        before, after = (each.model.modules.get(part).state_dict() for each in (plain, session))
        assert all(torch.equal(before[name], after[name]) for name in before)


def test_steps_without_a_lora_are_steps_of_the_base(session: Session) -> None:
    base = image(session, "")
    assert close(image(session, "anime:0@0-0.5 + wc:0@0.5-1"), base)
    early, late = image(session, "anime:1@0-0.5"), image(session, "anime:1@0.5-1")
    assert not close(early, base)
    assert not close(early, late)
    assert close(image(session, "anime:1@0-0.5 + wc:1@0.01-2e-2"), early)


def test_switch_with_a_long_period_is_the_first_lora_alone(session: Session) -> None:
    assert close(image(session, "switch(4): anime:1 + wc:1"), image(session, "anime:1"))
    switched = image(session, "switch(2): anime:1 + wc:1")
    assert close(switched, image(session, "anime:1@0-0.5 + wc:1@0.5-1"))


def test_composite_of_one_lora_twice_over_is_that_lora(session: Session, runs: tuple[Path, Path]) -> None:
    session.adapters.add("again", runs[0], 0.0)
    assert close(image(session, "composite: anime:1 + again:1"), image(session, "anime:1"))
    assert not close(image(session, "composite: anime:1 + wc:1"), image(session, "anime:1 + wc:1"))


def test_klora_uses_one_lora_in_each_layer_and_step(session: Session) -> None:
    blended = image(session, "klora: anime:1 + wc:1")
    assert not close(blended, image(session, "anime:1 + wc:1"))
    assert (image(session, "klora: anime:1 + wc:1") == blended).all()
    assert close(image(session, "klora: anime:0 + wc:0"), image(session, ""))


def test_a_region_that_is_the_whole_image_is_no_region(session: Session) -> None:
    whole = image(session, "anime:1")
    assert close(image(session, "anime:1[0,0,1,1]"), whole)


def test_a_lora_acts_only_in_its_region_while_one_step_is_drawn(session: Session) -> None:
    """In one step nothing spreads: outside the region the latents are the base's own."""
    from loraloom.generate.images import denoise

    def latents(loras: str) -> torch.Tensor:
        request = ImageRequest(
            prompt="a", num_steps=1, guidance_scale=1.0, sampler="ddim", width=32, height=32, loras=loras
        )
        return denoise(session.model, session.encode, [request], blending=session.blending([request]))

    base, half = latents(""), latents("anime:1[0,0,0.5,1]")
    middle = base.shape[-1] // 2
    assert torch.allclose(half[..., middle:], base[..., middle:], atol=1e-5)
    assert not torch.allclose(half[..., :middle], base[..., :middle], atol=1e-3)


def test_a_mask_of_a_file_and_of_a_box_agree(tmp_path: Path) -> None:
    mask = np.zeros((64, 64), dtype=np.uint8)
    mask[:, :24] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    assert torch.allclose(region_mask(tmp_path / "mask.png", 8, 16), region_mask((0, 0, 0.375, 1), 8, 16), atol=0.01)
    assert float(region_mask((0.25, 0.1, 0.6, 0.9), 7, 9).sum()) == pytest.approx(0.35 * 0.8 * 63, rel=1e-4)
    Image.fromarray(mask * 0).save(tmp_path / "black.png")
    with pytest.raises(UserError, match="black everywhere"):
        region_mask(tmp_path / "black.png", 8, 8)


def test_the_recipe_of_a_blend_draws_the_image_again(session_of: OpenSession, runs: tuple[Path, Path]) -> None:
    terms = [(runs[0], Term(name="a", scale=0.8, end=0.5)), (runs[1], Term(name="b"))]
    session = session_of(terms, steps=4)  # type: ignore[arg-type]
    (request,) = session.requests(["a cat"])
    assert request.loras == "a:0.8@0-0.5 + b:1"
    (first,) = session.generate([request])
    (again,) = session_of(terms, steps=4).generate([request])  # type: ignore[arg-type]
    assert first.image.tobytes() == again.image.tobytes()


def test_a_missing_trigger_is_said_for_the_loras_that_act(session: Session) -> None:
    def lines(prompt: str, loras: str | None) -> list[str]:
        request = ImageRequest(prompt=prompt, sampler="ddim", width=32, height=32, loras=loras)
        return [line for line in session.losses([request]) if "trigger" in line]

    assert lines("a cat", None) == [
        "note: the trigger of anime, 'anistyle', is missing from the prompt; --add-triggers adds it"
    ]
    assert lines("AniStyle, a cat", None) == []
    assert lines("a cat", "wc:1") == []


def test_a_request_that_names_no_loaded_lora_is_refused(session: Session) -> None:
    with pytest.raises(UserError, match="not loaded"):
        image(session, "anima:1")
