"""Images are judged by their texts: the best of many is the best, repair keeps what it was told to keep."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loraloom import plugins
from loraloom.cli.generate_command import GenerateOptions, generate
from loraloom.cli.interactive import Interactive
from loraloom.config.generate import GenerateConfig
from loraloom.generate.session import Session, open_session
from loraloom.protocols.domain import Receipt, Unread, Verdict
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.protocols.model import ModelSource
from loraloom.utils.errors import UserError
from loraloom.verify.best_of import candidate_requests, generate_verified, inpaint, repair, require_verifier

PROMPT = "[Number and Type of Rooms] The floorplan have 1 living room, 1 kitchen"
SETTINGS: dict[str, Any] = {"steps": 2, "width": 64, "height": 64, "guidance_scale": 2.0}


@contextmanager
def no_bars() -> Iterator[Any]:
    yield lambda title: lambda done, total: None


def session(tiny_model: Path, domain: str = "floorplan", **settings: Any) -> Session:
    config = GenerateConfig.model_validate({**SETTINGS, **settings})
    return open_session(config, source=ModelSource(location=str(tiny_model)), domain=domain)


def array(image: Image.Image) -> np.ndarray:
    return np.asarray(image)


@dataclass(frozen=True)
class RednessJudge:
    """A judge by numbers, so that random images differ: the redder, the better; the left half may be drawn again."""

    def check(self, prompt: str) -> list[str]:
        return []

    def formal(self, prompt: str) -> tuple[str, list[str]]:
        return prompt, []

    def unread(self, prompt: str) -> Unread:
        return Unread()

    def expand_prompt(self, prompt: str, seed: int) -> str:
        return prompt

    def verify(self, image: Image.Image, prompt: str) -> Receipt:
        red = float(array(image)[..., 0].mean()) / 255
        return Receipt(
            verdicts=(Verdict(sentence=prompt, section="red", met=None, reason=""),), extras=(), disorder=1 - red
        )

    def repair_mask(self, image: Image.Image, prompt: str) -> np.ndarray:
        free = np.zeros((image.height, image.width), np.bool_)
        free[:, : image.width // 2] = True
        return free

    def shown_text(self, image: Image.Image, prompt: str) -> str:
        return "blue"

    def overlay(self, image: Image.Image, prompt: str) -> Image.Image:
        return image


def test_the_best_receipt_has_the_fewest_faults_and_a_wrong_door_is_one() -> None:
    def receipt(met: int, extras: int, disorder: float = 0.0) -> Receipt:
        verdicts = tuple(Verdict(sentence="", section="count", met=number < met, reason="") for number in range(5))
        return Receipt(verdicts=verdicts, extras=("a door",) * extras, disorder=disorder)

    best_first = [receipt(5, 0), receipt(5, 1), receipt(4, 0), receipt(4, 0, 0.2), receipt(5, 2), receipt(2, 0)]
    ranks = [each.rank for each in best_first]
    assert ranks == sorted(set(ranks))


class RedDomain:
    name = "red"
    dataset_generator = None
    verifier = RednessJudge()
    metrics = ()

    def sections(self, caption: str) -> list[Any]:
        return plugins.load("domains", "freetext").sections(caption)

    def mirrored(self, caption: str) -> str | None:
        return None


def red_session(tiny_model: Path, **settings: Any) -> Session:
    made = session(tiny_model, **settings)
    made.encoder = replace(made.encoder, domain=RedDomain())
    return made


def test_the_best_of_many_is_the_best_of_those_that_their_seeds_draw(tiny_model: Path) -> None:
    made = red_session(tiny_model, best_of=4)
    (verified,) = generate_verified(made, made.requests(["red"]))
    (group,) = candidate_requests(made.requests(["red"]), 4)
    alone = list(made.generate(group))
    best = max(alone, key=lambda image: float(array(image.image)[..., 0].mean()))
    assert verified.image.request == best.request
    assert (array(verified.image.image) == array(best.image)).all()
    assert verified.candidates == 4
    assert len({request.seed for request in group}) == 4
    assert group[0] == made.requests(["red"])[0]


def test_a_redrawn_image_keeps_every_pixel_outside_the_mask(tiny_model: Path) -> None:
    made = red_session(tiny_model)
    (image,) = made.generate(made.requests(["red"]))
    free = made.encoder.domain.verifier.repair_mask(image.image, "")
    first, again, other = (inpaint(made, image, free, number) for number in (0, 0, 1))
    before, after = array(image.image), array(first)
    assert (before[:, 32:] == after[:, 32:]).all()
    assert (before[:, :32] != after[:, :32]).any()
    assert (array(again) == after).all()
    assert (array(other) != after).any()


def test_a_repair_is_guided_away_from_what_is_met_already(tiny_model: Path) -> None:
    made = red_session(tiny_model)
    (image,) = made.generate(made.requests(["red"]))
    free = made.encoder.domain.verifier.repair_mask(image.image, "")
    usual = array(inpaint(made, image, free, 0))
    assert (array(inpaint(made, image, free, 0, "red")) == usual).all()
    assert (array(inpaint(made, image, free, 0, "blue")) != usual).any()
    unguided = red_session(tiny_model, repair_guidance=0.0)
    assert (array(inpaint(unguided, image, free, 0, "blue")) == usual).all()


def test_repair_never_makes_a_receipt_worse(tiny_model: Path) -> None:
    made = red_session(tiny_model)
    verifier = RednessJudge()
    (image,) = made.generate(made.requests(["red"]))
    receipt = verifier.verify(image.image, "red")
    better, again, kept = repair(made, verifier, image, receipt, 3)
    assert again.rank <= receipt.rank
    assert verifier.verify(better.image, "red").rank == again.rank
    assert (kept == 0) == (again.rank == receipt.rank)


def test_a_perfect_plan_needs_no_repair(tiny_model: Path) -> None:
    domain = plugins.load("domains", "floorplan")
    image, text = domain.dataset_generator.draw(5, "sjh")
    receipt = domain.verifier.verify(image, text)
    assert receipt.complete
    assert domain.verifier.repair_mask(image, text) is None
    source_image = GeneratedImage(index=0, request=ImageRequest(prompt=text), image=image, seconds=0.0)
    kept, same, tries = repair(session(tiny_model), domain.verifier, source_image, receipt, 3)
    assert kept is source_image
    assert same is receipt
    assert tries == 0


OPEN = "[Number and Type of Rooms] The floorplan have 1 living room, 1 master room, 1 kitchen, 1 bathroom, 2 bedroom"


def test_what_a_text_leaves_open_is_drawn_as_decided_and_judged_as_asked(tiny_model: Path) -> None:
    made = session(tiny_model)
    (request,) = made.requests([OPEN])
    assert request.prompt == OPEN and "[Positional Relationship" in request.expanded_prompt
    (drawn,) = made.generate([request])
    (same,) = made.generate([replace(request, prompt=request.expanded_prompt, expanded_prompt="")])
    (plain,) = made.generate(session(tiny_model, expand_prompts=False).requests([OPEN]))
    assert (array(drawn.image) == array(same.image)).all()
    assert (array(drawn.image) != array(plain.image)).any()
    assert made.recipe(request).as_row()["expanded_prompt"] == request.expanded_prompt
    (verified,) = generate_verified(made, [request])
    assert {verdict.section for verdict in verified.receipt.verdicts} == {"count"}
    (group,) = candidate_requests([request], 3)
    assert {each.expanded_prompt for each in group} == {request.expanded_prompt}


def test_a_text_that_leaves_nothing_open_is_told_as_it_is(tiny_model: Path) -> None:
    _, text = plugins.load("domains", "floorplan").dataset_generator.draw(5, "sjh")
    (request,) = session(tiny_model).requests([text])
    assert request.expanded_prompt == "" and request.text == text


def test_generate_writes_a_receipt_and_its_overlay_beside_each_image(tiny_model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    given = {"num_images": 2, "best_of": 2, "repair": True}
    config = GenerateConfig.model_validate({**SETTINGS, **given, "repair_rounds": 1})
    options = GenerateOptions(prompts=[PROMPT], model=str(tiny_model), domain="floorplan", out=tmp_path / "out")
    generate(config, options, given, said.append, no_bars)
    receipt = json.loads((tmp_path / "out" / "receipts" / "00001.json").read_text(encoding="utf-8"))
    assert [verdict["sentence"] for verdict in receipt["verdicts"]] == ["1 living room", "1 kitchen"]
    with Image.open(tmp_path / "out" / "receipts" / "00001.png") as overlay:
        assert overlay.width >= 256
    page = (tmp_path / "out" / "receipts" / "report.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 2
    assert "1 kitchen" in page
    assert any("sentences met" in line and "best of 2" in line for line in said)


def test_a_recipe_draws_a_chosen_and_repaired_image_again(tiny_model: Path, tmp_path: Path) -> None:
    """Within 1 of 255: the candidate was drawn in a batch of two and is drawn alone now, by other kernels on some CPUs."""
    given = {"best_of": 2, "repair": True, "repair_rounds": 2}
    config = GenerateConfig.model_validate({**SETTINGS, **given})
    options = GenerateOptions(prompts=[PROMPT], model=str(tiny_model), domain="floorplan", out=tmp_path / "first")
    generate(config, options, given, lambda line: None, no_bars)
    again = GenerateOptions(recipe=tmp_path / "first", out=tmp_path / "second")
    generate(GenerateConfig(), again, {}, lambda line: None, no_bars)
    with Image.open(tmp_path / "first" / "00000.png") as one, Image.open(tmp_path / "second" / "00000.png") as two:
        first, second = (array(image.convert("RGB")).astype(int) for image in (one, two))
        assert abs(first - second).max() <= 1


@pytest.mark.long
def test_a_recipe_of_repairs_before_there_was_guidance_is_drawn_without(tiny_model: Path, tmp_path: Path) -> None:
    given = {"repair": True, "repair_guidance": 0.0}
    config = GenerateConfig.model_validate({**SETTINGS, **given})
    options = GenerateOptions(prompts=[PROMPT], model=str(tiny_model), domain="floorplan", out=tmp_path / "first")
    generate(config, options, given, lambda line: None, no_bars)
    rows = tmp_path / "first" / "prompts.jsonl"
    row = json.loads(rows.read_text(encoding="utf-8"))
    assert row.pop("repair_guidance") == 0.0
    rows.write_text(json.dumps(row) + "\n", encoding="utf-8")
    again = GenerateOptions(recipe=tmp_path / "first", out=tmp_path / "second")
    generate(GenerateConfig(), again, {}, lambda line: None, no_bars)
    new = json.loads((tmp_path / "second" / "prompts.jsonl").read_text(encoding="utf-8"))
    assert (new["repair_rounds"], new["repair_guidance"]) == (3, 0.0)


def test_impossible_prompts_are_refused_before_anything_is_drawn(tiny_model: Path, tmp_path: Path) -> None:
    sentences = "kitchen #1 is left-of living room #1. living room #1 is left-of kitchen #1."
    wrong = f"[Positional Relationship Between Rooms] {sentences}"
    options = GenerateOptions(prompts=[wrong], model=str(tiny_model), domain="floorplan", out=tmp_path / "out")
    with pytest.raises(UserError, match="describe images that cannot exist"):
        generate(GenerateConfig.model_validate(SETTINGS), options, {}, lambda line: None, no_bars)
    assert not (tmp_path / "out").exists()


def test_plain_words_reach_the_model_as_structured_text(tiny_model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    options = GenerateOptions(
        prompts=["two bedrooms and a kitchen, zzyzx"], model=str(tiny_model), domain="floorplan", out=tmp_path
    )
    generate(GenerateConfig.model_validate(SETTINGS), options, {}, said.append, no_bars)
    receipt = json.loads((tmp_path / "receipts" / "00000.json").read_text(encoding="utf-8"))
    assert "[Number and Type of Rooms]" in receipt["prompt"]
    assert "2 bedroom" in [verdict["sentence"] for verdict in receipt["verdicts"]]
    assert said.count("note: not understood: 'zzyzx'") == 1
    assert receipt["not_understood"] == [{"words": "zzyzx", "times": 1}]
    assert "not understood: &#39;zzyzx&#39;" in (tmp_path / "receipts" / "report.html").read_text(encoding="utf-8")


@pytest.mark.long
def test_each_image_has_the_unread_words_of_its_own_prompt(tiny_model: Path, tmp_path: Path) -> None:
    """Both prompts come to the same structured text."""
    prompts = ["a kitchen, zzyzx", "a kitchen and a terrace", "a kitchen and a balcony"]
    options = GenerateOptions(prompts=prompts, model=str(tiny_model), domain="floorplan", out=tmp_path)
    generate(GenerateConfig.model_validate({**SETTINGS, "num_images": 2}), options, {}, lambda line: None, no_bars)
    receipts = [
        json.loads((tmp_path / "receipts" / f"{number:05}.json").read_text(encoding="utf-8")) for number in range(6)
    ]
    lost = [[each["words"] for each in receipt["not_understood"]] for receipt in receipts]
    taken = [[each["words"] for each in receipt["taken"]] for receipt in receipts]
    assert lost == [["zzyzx"], ["zzyzx"], [], [], [], []]
    assert taken == [[], [], ["terrace"], ["terrace"], [], []]


def test_words_that_are_not_understood_or_leave_a_choice_are_an_error_with_strict(
    tiny_model: Path, tmp_path: Path
) -> None:
    config = GenerateConfig.model_validate({**SETTINGS, "strict": True})
    for prompt, line in (("a kitchen, zzyzx", "not understood: 'zzyzx'"), ("a terrace", "taken: 'terrace' as balcony")):
        options = GenerateOptions(prompts=[prompt], model=str(tiny_model), domain="floorplan", out=tmp_path / "out")
        with pytest.raises(UserError, match=line):
            generate(config, options, {}, lambda line: None, no_bars)
    assert not (tmp_path / "out").exists()


def test_the_interactive_prompt_takes_plain_words_and_says_how_much_is_met(tiny_model: Path, tmp_path: Path) -> None:
    said: list[str] = []
    talk = Interactive(session(tiny_model), tmp_path, said.append)
    talk.answer("two bedrooms and a kitchen")
    assert any("sentences met" in line for line in said)
    assert "[Number and Type of Rooms]" in talk.history[0][0].prompt


def test_a_recipe_made_from_plain_words_brings_its_unread_words_again(tiny_model: Path, tmp_path: Path) -> None:
    """The recipe kept only the structured text, so that the second receipt said that all was understood."""
    options = GenerateOptions(
        prompts=["a kitchen, a terrace, zzyzx"], model=str(tiny_model), domain="floorplan", out=tmp_path / "a"
    )
    generate(GenerateConfig.model_validate(SETTINGS), options, {}, lambda line: None, no_bars)
    said: list[str] = []
    again = GenerateOptions(recipe=tmp_path / "a", out=tmp_path / "b")
    generate(GenerateConfig(), again, {}, said.append, no_bars)
    one, two = ((tmp_path / name / "receipts" / "00000.json").read_text(encoding="utf-8") for name in "ab")
    assert one == two
    assert [each["words"] for each in json.loads(two)["not_understood"]] == ["zzyzx"]
    assert said.count("note: not understood: 'zzyzx'") == 1
    with pytest.raises(UserError, match="zzyzx"):
        generate(GenerateConfig(strict=True), again, {"strict": True}, said.append, no_bars)


def test_a_recipe_from_before_the_words_were_kept_still_draws(tiny_model: Path, tmp_path: Path) -> None:
    options = GenerateOptions(
        prompts=["a kitchen, zzyzx"], model=str(tiny_model), domain="floorplan", out=tmp_path / "a"
    )
    generate(GenerateConfig.model_validate(SETTINGS), options, {}, lambda line: None, no_bars)
    recipe = tmp_path / "a" / "prompts.jsonl"
    row = json.loads(recipe.read_text(encoding="utf-8"))
    assert row.pop("words") == "a kitchen, zzyzx"
    recipe.write_text(json.dumps(row) + "\n", encoding="utf-8")
    generate(GenerateConfig(), GenerateOptions(recipe=recipe, out=tmp_path / "b"), {}, lambda line: None, no_bars)
    receipt = json.loads((tmp_path / "b" / "receipts" / "00000.json").read_text(encoding="utf-8"))
    assert receipt["prompt"] == row["prompt"]


def test_a_domain_without_a_judge_says_so(tiny_model: Path) -> None:
    with pytest.raises(UserError, match="cannot verify"):
        require_verifier(session(tiny_model, domain="freetext"))


def test_interactive_refuses_what_it_would_not_do(tiny_model: Path) -> None:
    options = GenerateOptions(model=str(tiny_model), domain="floorplan", interactive=True)
    config = GenerateConfig.model_validate({**SETTINGS, "best_of": 3})
    with pytest.raises(UserError, match="cannot be used with --interactive"):
        generate(config, options, {"best_of": 3}, lambda line: None, no_bars)


def test_a_recipe_of_a_judged_image_brings_its_receipt_again(tiny_model: Path, tmp_path: Path) -> None:
    options = GenerateOptions(prompts=[PROMPT], model=str(tiny_model), domain="floorplan", out=tmp_path / "first")
    generate(GenerateConfig.model_validate(SETTINGS), options, {}, lambda line: None, no_bars)
    generate(
        GenerateConfig(),
        GenerateOptions(recipe=tmp_path / "first", out=tmp_path / "second"),
        {},
        lambda line: None,
        no_bars,
    )
    one, two = (tmp_path / name / "receipts" / "00000.json" for name in ("first", "second"))
    assert one.read_text(encoding="utf-8") == two.read_text(encoding="utf-8")
