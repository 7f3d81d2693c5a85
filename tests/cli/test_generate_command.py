"""`generate` from options to files: what is drawn, what is noted, what is refused."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from loraloom.cli.generate_command import GenerateOptions, generate
from loraloom.config.generate import GenerateConfig
from loraloom.generate.prompt_sets import read_prompts
from loraloom.generate.recipes import read_rows
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.errors import UserError
from loraloom.utils.locks import lock_folder
from tests.generate.conftest import QUICK, MakeAdapter


@contextmanager
def no_bars() -> Iterator[Any]:
    yield lambda title: lambda done, total: None


def run(options: GenerateOptions, **settings: Any) -> list[str]:
    """Draw quickly; what was said."""
    said: list[str] = []
    given = dict(settings)
    generate(GenerateConfig.model_validate({**QUICK, **settings}), options, given, said.append, no_bars)
    return said


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def same(one: Path, other: Path) -> bool:
    return bool((pixels(one) == pixels(other)).all())


def test_prompts_are_drawn_into_the_runs_folder_with_a_sheet(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "run")
    said = run(GenerateOptions(prompts=["a plan", "a house"], adapters=[folder]), num_images=2)
    out = folder / "generated"
    assert sorted(path.name for path in out.iterdir()) == [
        "00000.png", "00001.png", "00002.png", "00003.png", "prompts.jsonl", "sheet.png"
    ]  # fmt: skip
    assert said[-2] == f"contact sheet: {out / 'sheet.png'}"
    assert said[-1].startswith("4 images in ")
    assert str(out / "prompts.jsonl") in said[-1]
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.size == (8 + 2 * 200, 30 + 2 * (30 + 192 + 8))


def test_one_image_needs_no_sheet(adapter: Path, tmp_path: Path) -> None:
    run(GenerateOptions(prompts=["a plan"], adapters=[adapter], out=tmp_path))
    assert not (tmp_path / "sheet.png").exists()


def test_the_adapter_brings_base_size_and_prompt_method(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "run", prompt_method="mean", size="64x32")
    run(GenerateOptions(prompts=["a plan"], adapters=[folder], out=tmp_path), width=None, height=None)
    row = read_rows(tmp_path)[0]
    assert (row["prompt_method"], row["width"], row["height"]) == ("mean", 64, 32)
    run(
        GenerateOptions(prompts=["a plan"], adapters=[folder], out=tmp_path / "own", prompt_method="max"),
        width=32,
        height=None,
    )
    row = read_rows(tmp_path / "own")[0]
    assert (row["prompt_method"], row["width"], row["height"]) == ("max", 32, 32)


def test_the_base_alone_and_weights(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    run(GenerateOptions(prompts=["a plan"], model=str(tiny_model), out=tmp_path / "base"))
    run(GenerateOptions(prompts=["a plan"], adapters=[adapter], weights=[0.0], out=tmp_path / "zero"))
    run(GenerateOptions(prompts=["a plan"], adapters=[adapter], out=tmp_path / "one"))
    run(GenerateOptions(prompts=["a plan"], adapters=[adapter, adapter], weights=[0.5, 0.5], out=tmp_path / "halves"))
    base, zero, one, halves = (tmp_path / name / "00000.png" for name in ("base", "zero", "one", "halves"))
    assert same(base, zero)
    assert not same(base, one)
    assert np.abs(pixels(one).astype(int) - pixels(halves)).max() <= 2
    assert [entry["weight"] for entry in read_rows(halves)[0]["adapters"]] == [0.5, 0.5]


@pytest.mark.parametrize("place", ["list", "folder", "image"])
def test_a_recipe_draws_the_same_again(place: str, adapter: Path, tmp_path: Path) -> None:
    run(
        GenerateOptions(prompts=["a (plan:1.4)"], adapters=[adapter], weights=[0.6], out=tmp_path / "one"),
        seed=5,
        weighting=True,
    )
    recipe = {"list": "one/prompts.jsonl", "folder": "one", "image": "one/00000.png"}[place]
    said = run(GenerateOptions(recipe=tmp_path / recipe, out=tmp_path / "two"))
    assert same(tmp_path / "one" / "00000.png", tmp_path / "two" / "00000.png")
    assert not [line for line in said if line.startswith("note")]
    one, two = read_rows(tmp_path / "one")[0], read_rows(tmp_path / "two")[0]
    assert one == two


def test_what_is_named_goes_before_the_recipe(adapter: Path, tiny_model: Path, tmp_path: Path) -> None:
    run(GenerateOptions(prompts=["a (plan:1.4)"], adapters=[adapter], out=tmp_path / "one"))
    run(GenerateOptions(recipe=tmp_path / "one", prompt_method="smart", out=tmp_path / "two"), weighting=False)
    row = read_rows(tmp_path / "two")[0]
    assert (row["weighting"], row["prompt_method"]) == (False, "smart")
    assert not same(tmp_path / "one" / "00000.png", tmp_path / "two" / "00000.png")


def test_a_recipe_of_adapters_that_differ_has_settled_which_is_used(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    cat = make_adapter(tmp_path / "cat", seed=1, size="48x32", prompt_method="max", domain="scenes")
    adapters = [make_adapter(tmp_path / "dog"), cat]
    free = {"width": None, "height": None}
    said = run(GenerateOptions(prompts=["a plan"], adapters=adapters, out=tmp_path / "one"), **free)
    assert sum("trained with another" in line for line in said) == 3
    with pytest.raises(UserError, match=r"(?s)--strict is on.*image size"):
        run(GenerateOptions(prompts=["a plan"], adapters=adapters, out=tmp_path / "strict"), strict=True, **free)
    assert not (tmp_path / "strict").exists()
    run(GenerateOptions(recipe=tmp_path / "one", out=tmp_path / "two"), strict=True, **free)
    assert same(tmp_path / "one" / "00000.png", tmp_path / "two" / "00000.png")


def test_an_adapter_that_has_changed_since_is_noted(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "run")
    run(GenerateOptions(prompts=["a plan"], adapters=[folder], out=tmp_path / "one"))
    make_adapter(tmp_path / "run", seed=3)
    said = run(GenerateOptions(recipe=tmp_path / "one", out=tmp_path / "two"))
    assert said[0].endswith("is not the file that the recipe was made with; images will differ")


def test_a_model_that_has_changed_since_is_noted(tiny_model: Path, tmp_path: Path) -> None:
    run(GenerateOptions(prompts=["a plan"], model=str(tiny_model), out=tmp_path / "one"))
    lines = (tmp_path / "one" / "prompts.jsonl").read_text(encoding="utf-8")
    row = json.loads(lines)
    row["model"]["sha256"] = "0" * 64
    (tmp_path / "other.jsonl").write_text(json.dumps(row), encoding="utf-8")
    said = run(GenerateOptions(recipe=tmp_path / "other.jsonl", out=tmp_path / "two"))
    assert said[0] == "note: the recipe was made with another model; images will differ"


def test_a_recipe_keeps_the_variant_of_its_model(tiny_model: Path, tmp_path: Path) -> None:
    """Revision, variant and config were once lost: the recipe of such a model could not be drawn."""
    model = Path(shutil.copytree(tiny_model, tmp_path / "half"))
    for part, stem in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        (model / part / f"{stem}.safetensors").rename(model / part / f"{stem}.fp16.safetensors")
    run(GenerateOptions(prompts=["a plan"], model=str(tiny_model), out=tmp_path / "one"))
    row = json.loads((tmp_path / "one" / "prompts.jsonl").read_text(encoding="utf-8"))
    row["model"] |= {"source": str(model), "variant": "fp16"}
    (tmp_path / "half.jsonl").write_text(json.dumps(row), encoding="utf-8")
    run(GenerateOptions(recipe=tmp_path / "half.jsonl", out=tmp_path / "two"))
    assert same(tmp_path / "one" / "00000.png", tmp_path / "two" / "00000.png")


def test_a_recipe_whose_adapter_is_gone_says_so(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "run")
    run(GenerateOptions(prompts=["a plan"], adapters=[folder], out=tmp_path / "one"))
    shutil.rmtree(folder)
    with pytest.raises(UserError, match="no such adapter"):
        run(GenerateOptions(recipe=tmp_path / "one", out=tmp_path / "two"))


def test_an_adapter_of_another_base_is_noted(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "run", base_sha256="0" * 64)
    said = run(GenerateOptions(prompts=["a plan"], adapters=[folder], out=tmp_path))
    assert said[0].startswith("note: adapter.safetensors was trained on another base")


def test_prompts_of_a_file_are_one_a_line(adapter: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_bytes("\ufeffa plan\r\n\r\n  방 두 개  \n".encode())
    assert read_prompts(file) == ["a plan", "방 두 개"]
    run(GenerateOptions(prompts=["first"], prompts_file=file, adapters=[adapter], out=tmp_path / "out"))
    assert [row["prompt"] for row in read_rows(tmp_path / "out")] == ["first", "a plan", "방 두 개"]


@pytest.mark.parametrize(
    ("data", "match"), [(None, "the prompts file is missing"), (b"\n \n", "is empty"), (b"caf\xe9", "is not UTF-8")]
)
def test_a_file_of_prompts_that_cannot_be_read_is_told(data: bytes | None, match: str, tmp_path: Path) -> None:
    if data is not None:
        (tmp_path / "prompts.txt").write_bytes(data)
    with pytest.raises(UserError, match=match):
        read_prompts(tmp_path / "prompts.txt")


def options_of(adapters: Sequence[Path], **more: Any) -> GenerateOptions:
    return GenerateOptions(adapters=adapters, **more)


@pytest.mark.parametrize(
    ("more", "match"),
    [
        ({}, "no prompt\n  add a prompt in quotes"),
        ({"prompts": ["a"], "weights": [1.0, 1.0]}, "more --adapter-weight than --adapter: got 2, expected at most 1"),
        ({"prompts": ["a"], "recipe": Path("x")}, "--recipe contains its own prompts"),
        ({"interactive": True, "recipe": Path("x")}, "--recipe contains its own prompts"),
        ({"recipe": Path("x")}, "the recipe does not exist"),
        ({"prompts": ["a"], "prompt_method": "atention"}, "unknown --prompt-method.*\n.*did you mean 'attention'"),
        ({"prompts": ["a"], "model": "nobody/has-this"}, "not in the cache"),
    ],
)
def test_options_that_exclude_each_other_are_refused(more: dict[str, Any], match: str, adapter: Path) -> None:
    with pytest.raises(UserError, match=match):
        run(options_of([adapter], **more))


def test_a_model_or_an_adapter_is_needed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no model\n  add --adapter RUN"):
        run(GenerateOptions(prompts=["a"]))
    with pytest.raises(UserError, match="no such adapter"):
        run(GenerateOptions(prompts=["a"], adapters=[tmp_path / "gone"]))


def test_an_adapter_that_does_not_know_its_base_asks_for_the_model(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    folder = make_adapter(tmp_path / "run", base={})
    with pytest.raises(UserError, match="does not record its base model\n  add --model"):
        run(GenerateOptions(prompts=["a"], adapters=[folder]))


def test_an_interactive_session_reads_lines_until_the_end(
    adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter(["a plan", ":quit"])
    monkeypatch.setattr("builtins.input", lambda prompt: next(script))
    said = run(GenerateOptions(adapters=[adapter], interactive=True, out=tmp_path))
    assert (tmp_path / "00000.png").is_file()
    assert "seed 0" in said[-1]


LONG = "The dog runs far away. " * 60


def test_a_long_negative_prompt_that_is_cut_is_said_once_however_many_images(adapter: Path, tmp_path: Path) -> None:
    """It was cut without a word; a long prompt of 161 lost sentences was said 161 times."""
    options = GenerateOptions(prompts=["a plan", LONG], adapters=[adapter], out=tmp_path, prompt_method="smart")
    said = run(options, num_images=3, negative_prompt=LONG)
    warnings = [line for line in said if line.startswith("warning:")]
    assert [line.split("'")[0] for line in warnings] == [
        "warning: smart does not read all of ", "warning: smart does not read all of the negative prompt "
    ]  # fmt: skip
    said = run(options, negative_prompt=LONG, guidance_scale=1.0)  # without guidance nothing reads it
    assert not [line for line in said if "the negative prompt" in line]


def test_foreign_syntax_is_one_note_a_run_and_none_without_weighting(adapter: Path, tmp_path: Path) -> None:
    options = GenerateOptions(prompts=["a BREAK b", "a <hypernet:x:1>", "plain"], adapters=[adapter], out=tmp_path)
    said = run(options, num_images=2, negative_prompt="[blurry]")
    (note,) = [line for line in said if "syntax of" in line]
    assert "in 3 of 4 prompts: 'BREAK' (1), '<hypernet:x:1>' (1), '[blurry]' (1)" in note
    assert not any("syntax of" in line for line in run(options, weighting=False))


@pytest.mark.parametrize(
    ("prompts", "settings", "match"),
    [
        ([LONG], {}, "truncate does not read all of 'The dog"),
        (["a plan"], {"negative_prompt": LONG}, "the negative prompt 'The dog"),
        (["a AND b"], {}, "syntax of other programs"),
    ],
)
def test_strict_draws_nothing_when_something_would_not_be_read(
    prompts: list[str], settings: dict[str, Any], match: str, adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=match):
        run(
            GenerateOptions(prompts=prompts, adapters=[adapter], out=tmp_path / "out", prompt_method="truncate"),
            strict=True,
            **settings,
        )
    assert not list(tmp_path.rglob("*.png"))


def test_a_prompt_of_a_file_is_what_editors_call_a_line(tmp_path: Path) -> None:
    """`str.splitlines` cut prompts at U+2028 and form feeds, and drew the halves."""
    path = tmp_path / "prompts.txt"
    path.write_bytes("a\u2028b\r\nc\x0cd\ne\x85f\rg\n\n".encode())
    assert read_prompts(path) == ["a\u2028b", "c\x0cd", "e\x85f", "g"]


def test_strict_refuses_a_recipe_of_which_lines_are_left_out(adapter: Path, tmp_path: Path) -> None:
    run(GenerateOptions(prompts=["a plan"], adapters=[adapter], out=tmp_path))
    run(GenerateOptions(prompts=["a plan"], adapters=[adapter], weights=[0.5], out=tmp_path))
    options = GenerateOptions(recipe=tmp_path / "prompts.jsonl", out=tmp_path / "again")
    with pytest.raises(UserError, match="1 of 2 lines are left out"):
        run(options, strict=True)
    assert any("1 of 2 lines are left out" in line for line in run(options))


@pytest.mark.root
def test_a_full_disk_ends_drawing_and_what_was_drawn_is_whole(adapter: Path, small_disk: Callable[[str], Path]) -> None:
    out = small_disk("32k") / "out"
    with pytest.raises(OSError, match="No space left on device"):
        run(GenerateOptions(prompts=["a plan"], adapters=[adapter], out=out), num_images=20)
    drawn = sorted(out.glob("*.png"))
    assert drawn
    for path in drawn:
        assert read_rows(path)
        pixels(path)
    assert read_rows(out)
    assert not list(out.glob(".*"))


def test_a_second_process_does_not_draw_into_the_same_folder(adapter: Path, tmp_path: Path) -> None:
    """Both counted the images there, wrote the same numbers, and one lost its rows."""
    out = tmp_path / "out"
    with lock_folder(out), pytest.raises(UserError, match=r"(?s)another process is at work in .*choose another --out"):
        (out / "kept").touch()
        run(GenerateOptions(prompts=["a plan"], adapters=[adapter], out=out))
    assert [entry.name for entry in out.iterdir()] == ["kept"]


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_a_link_that_leads_nowhere_is_refused_before_the_model_draws(adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "out").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="out is a link that leads nowhere"):
        run(GenerateOptions(prompts=["a plan"], adapters=[adapter], out=tmp_path / "out"))


# ---------------------------------------------------------------------------------------------- what is looked at first


def test_a_busy_folder_is_refused_before_a_model_is_opened(tmp_path: Path) -> None:
    """The lock of a busy --out was met after half a minute of loading. The model here does not even exist."""
    out = tmp_path / "out"
    for options in (
        GenerateOptions(prompts=["a"], model=str(tmp_path / "no-model"), out=out),
        GenerateOptions(interactive=True, model=str(tmp_path / "no-model"), out=out),
    ):
        with lock_folder(out), pytest.raises(UserError, match="another process is at work"):
            run(options)
        with pytest.raises(UserError, match="no such model"):
            run(options)
        assert not out.exists()


BROKEN = "caf\udce9"
"""What Python makes of the bytes `caf\\xe9` on a UTF-8 command line."""


@pytest.mark.parametrize("options", [{"prompts": ["a", BROKEN]}, {"prompts": ["a"]}])
def test_text_that_is_not_utf_8_is_refused_before_a_model_is_opened(tmp_path: Path, options: dict[str, Any]) -> None:
    settings = {} if BROKEN in options["prompts"] else {"negative_prompt": BROKEN}
    with pytest.raises(UserError, match=r"prompt is not UTF-8 text: got 'caf\\udce9'") as refused:
        run(GenerateOptions(model=str(tmp_path / "no-model"), **options), **settings)
    str(refused.value).encode("utf-8")


def test_a_request_holds_no_text_that_is_not_utf_8_wherever_it_came_from() -> None:
    for fields in ({"prompt": BROKEN}, {"prompt": "a", "negative_prompt": BROKEN}):
        with pytest.raises(UserError, match="prompt is not UTF-8"):
            ImageRequest(**fields)


@pytest.mark.parametrize("weight", [float("nan"), float("inf"), 1e30, -101.0])
def test_an_adapter_weight_out_of_range_is_refused_at_the_flag(adapter: Path, weight: float) -> None:
    with pytest.raises(UserError, match=r"--adapter-weight: got .*expected a number from -100.0 to 100.0"):
        run(GenerateOptions(prompts=["a"], adapters=[adapter], weights=[weight]))


def test_a_seed_whose_successors_have_no_range_is_refused(adapter: Path) -> None:
    with pytest.raises(UserError, match="--seed is too large for --num-images"):
        run(GenerateOptions(prompts=["a"], adapters=[adapter]), seed=2**63 - 1, num_images=2)


@pytest.mark.skipif(os.name == "nt", reason="an open file cannot be removed there")
def test_a_folder_removed_while_drawing_is_made_again_and_said(adapter: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    said: list[str] = []

    def say(line: str) -> None:
        said.append(line)
        if "00000.png" in line:
            shutil.rmtree(out)

    options = GenerateOptions(prompts=["a", "b", "c"], adapters=[adapter], out=out)
    generate(GenerateConfig.model_validate(QUICK), options, {}, say, no_bars)
    assert len([line for line in said if line.startswith("warning: ") and "was removed" in line]) == 1
    assert sorted(path.name for path in out.iterdir()) == ["00001.png", "00002.png", "prompts.jsonl", "sheet.png"]
