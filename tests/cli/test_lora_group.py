"""`loraloom lora`: the tools from the command line, and what they say of mistakes."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from loraloom.cli.app import app
from loraloom.lora.files import read_adapter, save_adapter
from loraloom.lora.inject import base_layers
from loraloom.models.module_store import ModuleStore
from loraloom.utils.errors import UserError

from ..families.test_single_file import write_ldm
from ..lora.foreign import ATTENTION, LINEAR, changes, kohya, load, random, weight_of, write
from ..lora.test_exports import RECORD, opened, shaken
from ..lora.test_tools import two_files

Run = Callable[..., str]


@pytest.fixture
def lora(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `loraloom lora` here and returns its stdout."""

    def run(*words: object, code: int = 0) -> str:
        status = app(["lora", *map(str, words)], standalone_mode=False)
        assert (status or 0) == code
        return capsys.readouterr().out

    return run


@pytest.fixture
def files(tiny_model: Path, tmp_path: Path) -> tuple[Path, Path]:
    return two_files(opened(tiny_model), tmp_path)


def test_two_files_are_described_and_their_interference_told(lora: Run, files: tuple[Path, Path]) -> None:
    text = lora("info", *files)
    for line in ("first.safetensors: ", "rank 3, alpha / rank 0.6667", "rank 5, alpha / rank 0.8", "cosine"):
        assert line in text
    said = json.loads(lora("info", *files, "--json"))
    assert said["interference"]["shared"] == 3
    assert [Path(one["path"]).name for one in said["files"]] == ["first.safetensors", "second.safetensors"]


def test_info_and_check_fail_for_a_file_that_cannot_be_used(lora: Run, tiny_model: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "x.safetensors", {f"{kohya(LINEAR)}.lora_down.weight": random(2, 32)})
    assert "half a layer" in lora("info", path, code=1)
    text = lora("check", path, "--model", tiny_model, code=1)
    assert "not used" in text
    assert "refused: x.safetensors holds half a layer" in text


def test_files_that_cannot_be_compared_are_still_described(lora: Run, tmp_path: Path, files: tuple[Path, Path]) -> None:
    stem = kohya(LINEAR)
    names = [(f"hada_w{number}_{half}", (32, 2) if half == "a" else (2, 32)) for number in "12" for half in "ab"]
    loha = write(tmp_path / "loha.safetensors", {f"{stem}.{name}": random(*shape) for name, shape in names})
    text = lora("info", files[0], loha)
    assert "1 layers of LoHa" in text
    assert "no interference is computed: loha.safetensors holds LoHa" in text


def test_every_key_is_listed_in_full(lora: Run, tiny_model: Path, files: tuple[Path, Path]) -> None:
    text = lora("check", files[1], "--model", tiny_model, "--all")
    for key in load_file(files[1]):
        assert f"  used      {key} -> " in text


def test_a_merge_into_the_base_is_the_base_with_the_changes_of_both(
    lora: Run, tiny_model: Path, tmp_path: Path, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One part at a time is in memory; other programs read the folder."""
    from diffusers import UNet2DConditionModel

    loaded: list[int] = []
    get = ModuleStore.get

    def counted(store: ModuleStore, part: str) -> Any:
        found = get(store, part)
        loaded.append(sum(store.loaded(name) for name in ("denoiser", "vae", "text_encoder")))
        return found

    monkeypatch.setattr(ModuleStore, "get", counted)
    text = lora(
        "merge", f"{files[0]}:0.6", f"{files[1]}:-1", "--into-base", "--model", tiny_model, "--out", tmp_path / "m"
    )
    assert "equal bit by bit" in text
    assert set(loaded) == {1}
    expected = opened(tiny_model)
    stack = load(expected, files[0], 0.6)
    stack.add("second", files[1], -1.0)
    stack.merge()
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "m", subfolder="unet")
    theirs: dict[str, Any] = dict(base_layers(unet))
    for name in ATTENTION:
        torch.testing.assert_close(theirs[name].weight, weight_of(expected, name), atol=1e-6, rtol=1e-5)
    said = json.loads((tmp_path / "m" / "loraloom.json").read_text(encoding="utf-8"))
    assert [one["scale"] for one in said["inputs"]] == [0.6, -1.0]


def test_a_smaller_rank_states_its_error_and_a_dtype_its_rounding(
    lora: Run, tmp_path: Path, files: tuple[Path, Path]
) -> None:
    out = tmp_path / "small.safetensors"
    text = lora("resize", files[1], "--rank", "2", "--dtype", "fp16", "--out", out, "--all")
    assert "error of all 9 layers: " in text
    assert text.count("rank 5 -> 2") == 6
    assert "read back and compared, rounding" in text
    assert {str(tensor.dtype) for key, tensor in load_file(out).items() if "lora_" in key.rsplit(".", 2)[1]} == {
        "torch.float16"
    }


def test_a_file_is_converted_with_the_names_of_the_model(
    lora: Run, tiny_model: Path, tmp_path: Path, files: tuple[Path, Path]
) -> None:
    out = tmp_path / "out.safetensors"
    lora("convert", files[0], "--format", "diffusers", "--model", tiny_model, "--out", out)
    assert f"unet.{LINEAR}.lora_A.weight" in load_file(out)


MISTAKES: list[tuple[str, str, str]] = [
    ("a scale that is no number", "merge {a}:x {b} --out {o}.safetensors", "not a scale"),
    (
        "a scale by block without a model",
        "merge {a}:mid_block=0.5 {b} --out {o}.safetensors",
        "name the base with --model",
    ),
    (
        "a block that is not there",
        "merge {a}:middle=0.5 {b} --model {m} --out {o}.safetensors",
        "no layer in this part",
    ),
    ("one LoRA twice", "merge {a} {a}:0.5 --out {o}.safetensors", "named twice"),
    ("a method that is unknown", "merge {a} {b} --method tise --rank 4 --out {o}.safetensors", "unknown method"),
    ("a rank for an exact sum", "merge {a} {b} --rank 4 --out {o}.safetensors", "takes no rank"),
    ("no rank for an SVD", "merge {a} {b} --method svd --out {o}.safetensors", "requires a rank"),
    ("an error and an energy share", "resize {a} --error 0.1 --energy 0.9 --out {o}.safetensors", "in two ways"),
    ("no rank at all", "resize {a} --out {o}.safetensors", "requires a rank"),
    ("a file that is not there", "resize {o}.x --rank 2 --out {o}.safetensors", "no such adapter"),
    ("an unreadable file", "resize {bad} --rank 2 --out {o}.safetensors", "not a whole safetensors file"),
    ("a key format that is unknown", "convert {a} --format konya --out {o}.safetensors", "unknown key format"),
    ("no model for a conversion", "convert {a} --format diffusers --out {o}.safetensors", "does not say which model"),
    ("a dtype that is unknown", "convert {a} --format kohya --dtype half --out {o}.safetensors", "unknown dtype"),
    ("an output without its ending", "resize {a} --rank 2 --out {o}", "no .safetensors file"),
    ("an output that is there", "resize {a} --rank 2 --out {b}", "there already"),
    ("another family", "resize {xl} --rank 2 --model {m} --out {o}.safetensors", "Stable Diffusion XL"),
    ("one model as base and tuned", "extract {m} --model {m} --rank 2 --out {o}.safetensors", "have the same layers"),
    ("a rank for a whole model", "merge {a} --into-base --rank 2 --model {m} --out {o}", "merges by sum"),
    ("a model that is none", "merge {a} --into-base --model {bad} --out {o}", "not a whole safetensors file"),
]


@pytest.mark.parametrize(("name", "line", "said"), MISTAKES, ids=[name for name, _, _ in MISTAKES])
def test_a_mistake_is_a_sentence_and_nothing_is_written(
    lora: Run, tiny_model: Path, tmp_path: Path, files: tuple[Path, Path], name: str, line: str, said: str
) -> None:
    (tmp_path / "bad.safetensors").write_bytes(b"x" * 100)
    xl = "lora_unet_input_blocks_4_1_transformer_blocks_1_attn2_to_k"
    write(tmp_path / "xl.safetensors", {f"{xl}.lora_down.weight": random(2, 32), f"{xl}.lora_up.weight": random(32, 2)})
    names = {"a": files[0], "b": files[1], "o": tmp_path / "out", "m": tiny_model}
    names |= {"bad": tmp_path / "bad.safetensors", "xl": tmp_path / "xl.safetensors"}
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError) as caught:
        lora(*(word.format(**names) for word in line.split()))
    assert said in str(caught.value)
    assert len(str(caught.value).splitlines()) <= 2
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_strict_makes_what_is_not_stated_an_error(lora: Run, tmp_path: Path) -> None:
    stem = kohya(LINEAR)
    path = write(
        tmp_path / "x.safetensors", {f"{stem}.lora_down.weight": random(4, 32), f"{stem}.lora_up.weight": random(32, 4)}
    )
    words = ("resize", path, "--rank", "2", "--out", tmp_path / "o.safetensors")
    with pytest.raises(UserError, match="no alpha in the file for 1 of 1 layers"):
        lora(*words, "--strict")
    assert not (tmp_path / "o.safetensors").exists()
    assert "note: x.safetensors: no alpha" in lora(*words)


def test_an_output_is_replaced_only_if_asked_for(lora: Run, tmp_path: Path, files: tuple[Path, Path]) -> None:
    lora("resize", files[0], "--rank", "1", "--out", files[1], "--overwrite")
    assert load_file(files[1])[f"{kohya(ATTENTION[0])}.lora_down.weight"].shape[0] == 1


def test_a_run_of_ours_is_converted_by_the_base_that_it_recorded(lora: Run, tiny_model: Path, tmp_path: Path) -> None:
    model = opened(tiny_model)
    adapter = shaken(model, rank=4, alpha=6.0)
    base = {"source": str(tiny_model), "path": "gone/elsewhere"}
    record = {**RECORD, "format": "loraloom.adapter.1", "base": base, "family": "stable_diffusion"}
    save_adapter(tmp_path / "run" / "adapter.safetensors", adapter.state(), record)
    out = tmp_path / "run.safetensors"
    lora("convert", tmp_path / "run", "--format", "kohya", "--out", out)
    names = list(adapter.modules["denoiser"])
    now = changes(lambda: opened(tiny_model), out, names)
    before = changes(lambda: opened(tiny_model), tmp_path / "run", names)
    for name in names:
        torch.testing.assert_close(now[name], before[name], atol=1e-6, rtol=1e-5)
    kept = read_adapter(out).record
    assert kept["trigger"] == "sks"
    assert kept["base"] == {"source": str(tiny_model)}


def test_a_loha_becomes_a_plain_lora_with_its_error_stated(lora: Run, tiny_model: Path, tmp_path: Path) -> None:
    stem = kohya(LINEAR)
    names = [(f"hada_w{number}_{half}", (32, 2) if half == "a" else (2, 32)) for number in "12" for half in "ab"]
    loha = write(
        tmp_path / "loha.safetensors",
        {f"{stem}.{name}": random(*shape, seed=n) for n, (name, shape) in enumerate(names)},
    )
    out = tmp_path / "plain.safetensors"
    text = lora("resize", loha, "--error", "0.001", "--model", tiny_model, "--out", out)
    assert "rank 32 before, rank 4 now" in text  # a product of two rank-2 halves has rank 4
    now = changes(lambda: opened(tiny_model), out, [LINEAR])[LINEAR]
    torch.testing.assert_close(now, changes(lambda: opened(tiny_model), loha, [LINEAR])[LINEAR], atol=1e-4, rtol=1e-3)
    with pytest.raises(UserError, match="not a plain LoRA"):
        lora("convert", loha, "--format", "diffusers", "--model", tiny_model, "--out", tmp_path / "x.safetensors")


def test_merged_loras_of_other_settings_are_noted(lora: Run, tmp_path: Path, files: tuple[Path, Path]) -> None:
    made: list[Path] = []
    for path, method in zip(files, ("attention", "mean"), strict=True):
        record = {"format": "loraloom.adapter.1", "prompt_method": method, "trigger": method[:2], "base_sha256": method}
        made.append(write(tmp_path / f"{method}.safetensors", load_file(path), {"loraloom": json.dumps(record)}))
    words = ("merge", *made, "--out", tmp_path / "o.safetensors")
    with pytest.raises(UserError, match="trained on different bases"):
        lora(*words, "--strict")
    assert not (tmp_path / "o.safetensors").exists()
    text = lora(*words)
    assert "note: attention.safetensors and mean.safetensors were trained on different bases" in text
    assert "differ in prompt_method: 'attention' of attention.safetensors, 'mean' of mean.safetensors" in text
    assert read_adapter(tmp_path / "o.safetensors").record["trigger"] == "at, me"


def test_a_lora_is_extracted_from_a_single_checkpoint_with_the_configs_of_the_base(
    lora: Run, tiny_model: Path, tmp_path: Path
) -> None:
    """Fine-tuned models are shared as one file, without configs and tokenizer."""
    tuned = opened(tiny_model)
    down, up = random(2, 32), random(32, 2)
    layers: dict[str, Any] = dict(base_layers(tuned.modules.get("denoiser")))
    layers[LINEAR].weight.data += up @ down
    tuned.save(tmp_path / "tuned", "fp32")
    file = write_ldm(tmp_path / "tuned", tmp_path / "tuned.safetensors", layers=1, num_levels=2)
    text = lora("extract", file, "--model", tiny_model, "--rank", "2", "--out", tmp_path / "x.safetensors")
    assert "saved" in text
    now = changes(lambda: opened(tiny_model), tmp_path / "x.safetensors", [LINEAR])[LINEAR]
    torch.testing.assert_close(now, up @ down, atol=1e-2, rtol=1e-2)


def test_help_of_the_group_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom loraloom.cli.app import main\ntry: main()\nexcept SystemExit: pass\n"
        "assert not {'torch', 'numpy', 'peft', 'diffusers'} & set(sys.modules)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, "lora", "merge", "--help"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert "--into-base" in found.stdout
