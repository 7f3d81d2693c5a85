"""An image's recipe draws the same image again, from the list or from the image itself."""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from loraloom import __version__
from loraloom.config.generate import GenerateConfig
from loraloom.generate.recipes import Recipe, append_rows, parameters_text, read_rows, request_of
from loraloom.generate.saving import generate_into, next_number, recipe_requests
from loraloom.protocols.generation import ImageRequest
from loraloom.utils.atomic_files import sha256_file
from loraloom.utils.errors import UserError
from loraloom.utils.locks import FolderLock, lock_folder

from .conftest import OpenSession

ROW = {
    "prompt": "a", "negative_prompt": "", "seed": 1, "num_steps": 2, "guidance_scale": 3.0, "sampler": "ddim",
    "width": 32, "height": 32,
}  # fmt: skip


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def drawn(session: Any, folder: Path, prompts: list[str]) -> list[Path]:
    with lock_folder(folder) as lock:
        return [path for path, _ in generate_into(session, session.requests(prompts), lock)]


def test_every_image_carries_its_whole_recipe(
    session_of: OpenSession, adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    session = session_of([(adapter, 0.5)], num_images=2, seed=7, negative_prompt="blur")
    paths = drawn(session, tmp_path, ["방 두 개, é 🏠", "a (plan:1.3)"])
    assert [path.name for path in paths] == ["00000.png", "00001.png", "00002.png", "00003.png"]
    rows = read_rows(tmp_path)
    for path, row in zip(paths, rows, strict=True):
        assert read_rows(path) == [row]
        assert row["file"] == path.name
    assert [(row["prompt"], row["seed"]) for row in rows] == [
        ("방 두 개, é 🏠", 7), ("방 두 개, é 🏠", 8), ("a (plan:1.3)", 7), ("a (plan:1.3)", 8)
    ]  # fmt: skip
    file = adapter / "adapter.safetensors"
    assert rows[0]["adapters"] == [{"name": "dog", "path": str(file), "sha256": sha256_file(file), "weight": 0.5}]
    assert rows[0]["model"]["source"] == str(tiny_model)
    assert rows[0]["model"]["sha256"] == session.model.modules.fingerprint("denoiser")
    assert (rows[0]["prompt_method"], rows[0]["weighting"], rows[0]["precision"]) == ("attention", True, "no")
    assert rows[0]["negative_prompt"] == "blur"


@pytest.mark.parametrize("sampler", ["dpmpp_2m_karras", "euler_a"])
def test_a_recipe_draws_the_same_pixels(sampler: str, session_of: OpenSession, adapter: Path, tmp_path: Path) -> None:
    first = drawn(session_of([(adapter, 0.7)], sampler=sampler), tmp_path / "one", ["a plan", "two " * 30])
    requests, shared = recipe_requests(tmp_path / "one", print)
    again = session_of([(Path(shared["adapters"][0]["path"]), shared["adapters"][0]["weight"])], seed=99)
    with lock_folder(tmp_path / "two") as lock:
        second = [path for path, _ in generate_into(again, requests, lock)]
    for one, other in zip(first, second, strict=True):
        assert (pixels(one) == pixels(other)).all()


def test_file_names_go_on_where_the_folder_ends(session_of: OpenSession, tmp_path: Path) -> None:
    (tmp_path / "sheet.png").write_bytes(b"")
    assert next_number(tmp_path) == 0
    session = session_of()
    drawn(session, tmp_path, ["a"])
    drawn(session, tmp_path, ["b"])
    assert [row["prompt"] for row in read_rows(tmp_path)] == ["a", "b"]
    assert next_number(tmp_path) == 2


def test_a_row_of_the_same_file_is_replaced(tmp_path: Path) -> None:
    append_rows(tmp_path, [{"file": "0.png", "a": 1}, {"file": "1.png", "a": 2}])
    append_rows(tmp_path, [{"file": "0.png", "a": 3}])
    assert read_rows(tmp_path) == [{"file": "0.png", "a": 3}, {"file": "1.png", "a": 2}]


@pytest.mark.parametrize("end", ["\u2028", "\x85", "\x0b", "\r", "\n"])
def test_a_prompt_may_hold_any_line_end(end: str, tmp_path: Path) -> None:
    """Rows were once cut at every line end that Unicode knows, and the list could not be read again."""
    append_rows(tmp_path, [{**ROW, "file": "0.png", "prompt": f"one{end}two"}])
    assert request_of(read_rows(tmp_path)[0]).prompt == f"one{end}two"


def test_lines_that_need_another_model_are_left_out_and_counted(tmp_path: Path) -> None:
    rows = [{**ROW, "file": f"{n}.png", "model": {"source": source}} for n, source in enumerate(["a", "b", "a"])]
    said: list[str] = []
    requests, shared = recipe_requests(append_rows(tmp_path, rows), said.append)
    assert len(requests) == 2
    assert shared["model"] == {"source": "a"}
    assert said == ["note: 1 of 3 lines are left out: their model, adapters or settings differ from the first line"]


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{no json", "prompts.jsonl:1 is not JSON"),
        ("[1]", "prompts.jsonl:1 is not a JSON object: got 'list'"),
        ("", "the recipe is empty"),
        (json.dumps({"prompt": "a"}), r"a recipe line has no 'negative_prompt' \(and 6 more\)"),
        (json.dumps({**ROW, "width": "32"}), "a recipe line: width: got '32', expected integer"),
        (json.dumps({**ROW, "seed": None}), "a recipe line: seed: got None"),
        (json.dumps({**ROW, "seed": True}), "a recipe line: seed: got True"),
        (json.dumps({**ROW, "seed": 2**63}), "a recipe line: seed"),
        (json.dumps({**ROW, "seed": -1}), "a recipe line: seed: got -1, expected greater than or equal to 0"),
        (json.dumps({**ROW, "guidance_scale": 0.5}), "guidance_scale: got 0.5, expected greater than or equal to 1"),
        (json.dumps({**ROW, "adapters": [{"path": "a", "sha256": "", "weight": 101}]}), "weight: got 101"),
        (json.dumps({**ROW, "num_steps": 0}), "num_steps: got 0, expected greater than or equal to 1"),
        (json.dumps({**ROW, "width": 10**9}), "width: got 1000000000, expected less than or equal to 16384"),
        (json.dumps({**ROW, "guidance_scale": 1e300}), "guidance_scale"),
        ("{" + json.dumps(ROW)[1:-1] + ', "guidance_scale": NaN}', "NaN is not a JSON number"),
        (json.dumps({**ROW, "prompt": "\ud800"}), "half of a surrogate pair"),
        (json.dumps({**ROW, "model": "sd"}), "a recipe line: model"),
        (json.dumps({**ROW, "model": {"source": 3}}), "a recipe line: model.source"),
        (json.dumps({**ROW, "adapters": [{"path": "a"}]}), "a recipe line has no 'adapters.0.sha256'"),
        (json.dumps({**ROW, "precision": "fp8"}), "precision: got 'fp8', expected 'no', 'fp16' or 'bf16'"),
        (json.dumps({**ROW, "weigthing": False}), "unknown field: got 'weigthing'\n  did you mean 'weighting'"),
    ],
)
def test_a_list_that_is_no_recipe_is_told(text: str, match: str, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=match):
        recipe_requests(tmp_path, print)


def test_files_that_are_no_recipe_are_told(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG not really")
    (tmp_path / "latin.jsonl").write_bytes(b'{"prompt": "caf\xe9"}')
    for name, match in (
        ("plain.png", "contains no recipe"),
        ("broken.png", "cannot be read"),
        ("latin.jsonl", "not UTF-8"),
        ("gone.jsonl", "the recipe does not exist"),
    ):
        with pytest.raises(UserError, match=match):
            read_rows(tmp_path / name)


def test_a_guidance_written_as_a_whole_number_is_read() -> None:
    assert request_of({**ROW, "guidance_scale": 3}) == ImageRequest(
        prompt="a", negative_prompt="", seed=1, num_steps=2, guidance_scale=3, sampler="ddim", width=32, height=32
    )


def test_a_recipe_without_what_the_model_was_told_is_of_its_prompt() -> None:
    assert "expanded_prompt" not in ROW
    assert request_of(ROW).text == ROW["prompt"]
    assert request_of({**ROW, "expanded_prompt": "more"}).text == "more"
    assert request_of({**ROW, "told": "as earlier versions wrote it"}).text == "as earlier versions wrote it"


def test_a_image_is_there_as_soon_as_it_is_drawn(session_of: OpenSession, tmp_path: Path) -> None:
    session = session_of(batch_size=1)
    drawing: Any = generate_into(session, session.requests(["a", "b"]), FolderLock(tmp_path, None, print))
    path, _ = next(drawing)
    assert path.is_file()
    assert len(read_rows(tmp_path)) == 1
    drawing.close()
    assert [entry.name for entry in sorted(tmp_path.iterdir())] == ["00000.png", "prompts.jsonl"]


def test_an_image_carries_a1111s_parameters(session_of: OpenSession, adapter: Path, tmp_path: Path) -> None:
    session = session_of([(adapter, 0.5)], seed=7, negative_prompt="blur,\nnoise", sampler="euler_a")
    (path,) = drawn(session, tmp_path, ["방 두 개, a (plan:1.3)\nsecond line"])
    with Image.open(path) as image:
        text = image.info["parameters"]
    lines = text.split("\n")
    assert lines[:4] == ["방 두 개, a (plan:1.3)", "second line", "Negative prompt: blur,", "noise"]
    data = (adapter / "adapter.safetensors").read_bytes()
    tensors = hashlib.sha256(data[8 + int.from_bytes(data[:8], "little") :]).hexdigest()[:12]
    model = Path(session.model.info.source.location).name
    assert lines[4] == (
        f'Steps: 2, Sampler: Euler a, CFG scale: 3, Seed: 7, Size: 32x32, Model: {model}, Lora hashes: "dog: {tensors}", '
        f'Lora weights: "dog: 0.5", Version: loraloom {__version__}'
    )


RECIPE = Recipe(
    request=ImageRequest(prompt="a"), model={"source": "C:\\models\\my, model.safetensors"},
    adapters=[{"path": "runs/dog/checkpoints/step_0000100/adapter.safetensors", "sha256": "", "weight": 1.0},
     {"path": "loras/ink.safetensors", "sha256": "0" * 64, "weight": 0.25}],
    prompt_method="attention", domain="freetext", weighting=True, precision="no",
)  # fmt: skip


def test_parameters_name_files_not_folders_and_leave_out_hashes_that_are_not_known() -> None:
    assert parameters_text(RECIPE).split("\n") == [
        "a",
        'Steps: 25, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 0, Size: 512x512, Model: "my, model", '
        f'Lora weights: "dog: 1, ink: 0.25", Version: loraloom {__version__}',
    ]


@example("seed", -1)
@example("seed", 2**63)
@example("steps", 0)
@example("guidance_scale", 0)
@example("width", 1 << 15)
@given(st.sampled_from(["seed", "steps", "guidance_scale", "width"]), st.integers(-(2**64), 2**64))
def test_flags_and_recipes_have_one_range(key: str, value: int) -> None:
    """A recipe with seed -1 was drawn, and the flag refused it."""
    try:
        GenerateConfig.model_validate({key: value})
        flag = True
    except ValueError:
        flag = False
    try:
        request_of({**ROW, {"steps": "num_steps"}.get(key, key): value})
        recipe = True
    except UserError:
        recipe = False
    assert recipe == flag or (key == "width" and 0 < value < 16)  # an adapter may be of smaller images
