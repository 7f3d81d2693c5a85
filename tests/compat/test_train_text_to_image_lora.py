"""A command line of diffusers' LoRA script does here what it did there, or says in a line why not."""

import ast
import dataclasses
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import loraloom
from loraloom.compat.diffusers_flags import REFUSED, THEIR_WORDS, WITHOUT_EFFECT, Flags, in_their_words, read_flags
from loraloom.compat.train_text_to_image_lora import main, prepare_settings, run_settings
from loraloom.config.prepare import PrepareConfig
from loraloom.config.run import RunConfig
from loraloom.utils.errors import UserError

MODULE = "loraloom.compat.train_text_to_image_lora"
NEEDED = ["--pretrained_model_name_or_path", "owner/name", "--train_data_dir", "images"]


def settings(
    *arguments: str, num_images: int = 100, environ: Mapping[str, str] | None = None, installed: str = ""
) -> tuple[PrepareConfig, RunConfig]:
    """What a command line comes to."""
    flags, _ = read_flags([*NEEDED, *arguments])
    return prepare_settings(flags), run_settings(flags, num_images, environ or {}, lambda package: package in installed)


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(UserError) as caught:
        act()
    return str(caught.value)


# ------------------------------------------------------------------------------------------------------------ mapping


def test_without_flags_their_defaults_hold() -> None:
    prepared, run = settings()
    assert (prepared.format, prepared.size, prepared.crop, prepared.caption_column) == (
        "imagefolder",
        512,
        "random",
        "text",
    )
    assert (prepared.validation_share, prepared.min_size, prepared.resample) == (0.0, 1, "lanczos")
    assert (run.model.source, run.model.revision, run.model.variant) == ("owner/name", None, None)
    assert (run.data.batch_size, run.data.caption_dropout, run.data.random_flip) == (16, 0.0, False)
    assert run.data.dataset == str(Path("sd-model-finetuned-lora") / "dataset")
    assert (run.lora.rank, run.lora.alpha, run.lora.target, run.lora.text_encoder) == (4, None, "attention", False)
    assert (run.optim.optimizer, run.optim.learning_rate, run.optim.betas) == ("adamw", 1e-4, (0.9, 0.999))
    assert (run.optim.eps, run.optim.weight_decay, run.optim.max_grad_norm) == (1e-8, 1e-2, 1.0)
    assert (run.optim.scheduler, run.optim.warmup_steps) == ("constant", 0)
    assert (run.train.max_steps, run.train.seed, run.train.mixed_precision) == (100 * 7, 0, "no")
    assert (run.train.validation_every, run.train.gradient_accumulation) == (0, 1)
    assert (run.checkpoints.every, run.checkpoints.resume) == (500, "never")
    assert run.checkpoints.keep >= 700, "all are kept"
    assert not run.samples.enabled
    assert (run.objective.snr_gamma, run.objective.noise_offset, run.objective.prediction_type) == (None, 0.0, "auto")
    assert run.export.dtype == "fp32"
    assert not run.tracking.tensorboard


EVERY_FLAG = """
    --revision main --variant fp16 --output_dir out --caption_column caption --resolution 256 --center_crop
    --random_flip --image_interpolation_mode nearest --train_batch_size 2 --gradient_accumulation_steps 3
    --gradient_checkpointing --max_train_steps 50 --learning_rate 0.002 --lr_scheduler cosine --lr_warmup_steps 5
    --adam_beta1 0.8 --adam_beta2 0.99 --adam_weight_decay 0.1 --adam_epsilon 1e-6 --use_8bit_adam
    --max_grad_norm 0.5 --mixed_precision bf16 --rank 8 --snr_gamma 5 --noise_offset 0.1
    --prediction_type v_prediction --seed 7 --num_validation_images 2 --checkpointing_steps 10
    --checkpoints_total_limit 2 --report_to all
"""


def test_every_flag_arrives() -> None:
    prepared, run = settings(*EVERY_FLAG.split(), "--validation_prompt", "a plan", installed="tensorboard")
    assert (prepared.caption_column, prepared.size, prepared.crop, prepared.resample, prepared.seed) == (
        "caption", 256, "center", "nearest", 7,
    )  # fmt: skip
    assert (run.model.revision, run.model.variant) == ("main", "fp16")
    assert (run.train.output, run.data.dataset) == ("out", str(Path("out") / "dataset"))
    assert (run.data.random_flip, run.data.batch_size) == (True, 2)
    assert (run.train.gradient_accumulation, run.train.gradient_checkpointing, run.train.max_steps) == (3, True, 50)
    assert (run.optim.learning_rate, run.optim.scheduler, run.optim.warmup_steps) == (0.002, "cosine", 5)
    assert (run.optim.betas, run.optim.weight_decay, run.optim.eps) == ((0.8, 0.99), 0.1, 1e-6)
    assert (run.optim.optimizer, run.optim.max_grad_norm) == ("adamw8bit", 0.5)
    assert (run.train.mixed_precision, run.train.seed, run.lora.rank) == ("bf16", 7, 8)
    assert (run.objective.snr_gamma, run.objective.noise_offset) == (5.0, 0.1)
    assert run.objective.prediction_type == "v_prediction"
    assert (run.samples.enabled, run.samples.prompts, run.samples.steps) == (True, ("a plan", "a plan"), 30)
    assert (run.samples.seed, run.checkpoints.every, run.checkpoints.keep) == (7, 10, 2)
    assert (run.tracking.tensorboard, run.tracking.wandb) == (True, False)


@pytest.mark.parametrize(
    ("arguments", "images", "devices", "steps"),
    [
        ("--train_batch_size 4 --num_train_epochs 3", 10, 1, 9),
        ("--train_batch_size 4 --num_train_epochs 3 --gradient_accumulation_steps 2", 10, 1, 6),
        ("--train_batch_size 4 --num_train_epochs 3", 10, 2, 6),
        ("--num_train_epochs 2", 1, 1, 2),
        ("--num_train_epochs 2 --max_train_steps 5", 1000, 1, 5),
    ],
)
def test_the_steps_of_an_epoch_are_counted_as_theirs(arguments: str, images: int, devices: int, steps: int) -> None:
    _, run = settings(*arguments.split(), num_images=images, environ={"WORLD_SIZE": str(devices)})
    assert run.train.max_steps == steps


@pytest.mark.parametrize(
    ("theirs", "ours", "warmup"),
    [
        ("constant", "constant", 0),
        ("constant_with_warmup", "constant", 5),
        ("cosine", "cosine", 5),
        ("linear", "linear", 5),
    ],
)
def test_schedulers_and_their_warmup(theirs: str, ours: str, warmup: int) -> None:
    """`constant` passes over --lr_warmup_steps in diffusers; a default of 500 must not come to life here."""
    _, run = settings("--lr_scheduler", theirs, "--lr_warmup_steps", "5")
    assert (run.optim.scheduler, run.optim.warmup_steps) == (ours, warmup)


@pytest.mark.parametrize("name", ["constant", "constant_with_warmup", "cosine", "linear"])
def test_the_learning_rate_is_theirs_but_for_one_step_of_warmup(name: str) -> None:
    from diffusers.optimization import get_scheduler

    from loraloom.train.optim import learning_rate_factor

    _, run = settings("--lr_scheduler", name, "--lr_warmup_steps", "10", "--max_train_steps", "40")
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    peer = get_scheduler(name, optimizer=optimizer, num_warmup_steps=10, num_training_steps=40)
    for step in range(40):
        shift = 0.1 if step < run.optim.warmup_steps else 0.0  # their first step moves nothing
        assert learning_rate_factor(step, run.optim, 40) == pytest.approx(peer.get_last_lr()[0] + shift, abs=1e-6)
        optimizer.step()
        peer.step()


def test_a_scheduler_that_we_do_not_have_names_those_we_have() -> None:
    text = refusal(lambda: settings("--lr_scheduler", "piecewise_constant"))
    assert "expected one of constant, constant_with_warmup, cosine, linear" in text
    assert "equals --lr_scheduler cosine" in refusal(lambda: settings("--lr_scheduler", "cosine_with_restarts"))


def test_a_warmup_longer_than_the_training_is_refused() -> None:
    text = refusal(lambda: settings("--lr_scheduler", "cosine", "--max_train_steps", "100"))
    assert "--lr_warmup_steps is longer than the training" in text
    assert "got '500 of 100 steps'" in text


@pytest.mark.parametrize(
    ("report_to", "installed", "expected"),
    [
        (None, "tensorboard", (True, False)), (None, "wandb", (False, False)), ("none", "tensorboard wandb", (False, False)),
        ("tensorboard", "", (True, False)), ("wandb", "", (False, True)), ("all", "wandb", (False, True)),
        ("all", "", (False, False)),
    ],
)  # fmt: skip
def test_trackers(report_to: str | None, installed: str, expected: tuple[bool, bool]) -> None:
    _, run = settings(*(["--report_to", report_to] if report_to else []), installed=installed)
    assert (run.tracking.tensorboard, run.tracking.wandb) == expected


def test_the_launchers_precision_holds_unless_one_is_named() -> None:
    launched = {"ACCELERATE_MIXED_PRECISION": "bf16"}
    assert settings(environ=launched)[1].train.mixed_precision == "bf16"
    assert settings("--mixed_precision", "no", environ=launched)[1].train.mixed_precision == "no"
    assert "train.mixed_precision: got" in refusal(lambda: settings(environ={"ACCELERATE_MIXED_PRECISION": "fp8"}))


# ------------------------------------------------------------------------------------------------------------ resuming


def used(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / "checkpoints" / name).mkdir(parents=True)
        (folder / "checkpoints" / name / "manifest.json").write_text("{}", encoding="utf-8")
    return folder


def resume(folder: Path, *wish: str) -> str:
    more = ["--resume_from_checkpoint", *wish] if wish else []
    return settings("--output_dir", str(folder), *more)[1].checkpoints.resume


def test_a_used_folder_is_not_started_anew(tmp_path: Path) -> None:
    """Their script would write a second run over the first."""
    text = refusal(lambda: resume(used(tmp_path, "step_0000003")))
    assert text.startswith("this --output_dir already holds a run")
    assert "--resume_from_checkpoint latest" in text


@pytest.mark.parametrize(
    "wish", ["checkpoint-3", "step_0000003", "{folder}/checkpoints/step_0000003", "elsewhere/checkpoint-3"]
)
def test_a_checkpoint_is_named_by_path_or_by_their_name(wish: str, tmp_path: Path) -> None:
    folder = used(tmp_path, "step_0000003", "step_0000006")
    assert resume(folder, wish.format(folder=folder)) == str(folder / "checkpoints" / "step_0000003")
    assert resume(folder, "latest") == "auto"
    assert "no such checkpoint: got 'checkpoint-4', expected step_0000003, step_0000006" in refusal(
        lambda: resume(folder, "checkpoint-4")
    )


def test_latest_in_a_new_folder_starts(tmp_path: Path) -> None:
    assert resume(tmp_path, "latest") == "auto"


@pytest.mark.parametrize("wish", ["latest", "checkpoint-500"])
def test_checkpoints_of_their_script_are_not_passed_over(wish: str, tmp_path: Path) -> None:
    (tmp_path / "checkpoint-500").mkdir()
    assert "their script's checkpoints cannot be resumed" in refusal(lambda: resume(tmp_path, wish))


# ------------------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_a_flag_that_is_not_taken_says_what_to_do_instead(name: str) -> None:
    for value in (["secret"], []):
        text = refusal(lambda value=value: read_flags([*NEEDED, f"--{name}", *value]))
        assert text == f"--{name} is not supported here\n  {REFUSED[name]}"


@pytest.mark.parametrize("name", sorted(WITHOUT_EFFECT))
def test_a_flag_without_effect_is_taken_with_a_note(name: str) -> None:
    flags, notes = read_flags([*NEEDED, f"--{name}", "4", "--rank", "2"])
    assert flags.rank == 2
    assert notes == [f"note: --{name} has no effect here: {WITHOUT_EFFECT[name]}"]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--train_data_dir", "x"], "--pretrained_model_name_or_path is required"),
        (["--pretrained_model_name_or_path", "x"], "--train_data_dir is required"),
        ([*NEEDED, "--rnk", "3"], "unknown flag: got '--rnk'"),
        ([*NEEDED, "--rank", "x"], "argument --rank: invalid int value: 'x'"),
        ([*NEEDED, "--report_to", "comet_ml"], "argument --report_to: invalid choice: 'comet_ml'"),
        ([*NEEDED, "--mixed_precision", "fp8"], "argument --mixed_precision: invalid choice"),
        ([*NEEDED, "--image_interpolation_mode", "bilinear"], "invalid choice: 'bilinear'"),
    ],
)
def test_a_flag_that_is_missing_unknown_or_wrong_is_told(arguments: list[str], match: str) -> None:
    assert match in refusal(lambda: read_flags(arguments))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (["--resolution", "500"], "--resolution: got 500, expected a multiple of 8\n  use 496"),
        (["--rank", "0"], "lora.rank: got 0"),
        (["--train_batch_size", "0"], "data.batch_size: got 0"),
        (["--learning_rate", "nan"], "optim.learning_rate"),
        (["--checkpoints_total_limit", "0"], "checkpoints.keep: got 0"),
    ],
)
def test_a_value_out_of_its_limits_is_told(arguments: list[str], match: str) -> None:
    assert match in refusal(lambda: settings(*arguments))


def test_every_flag_of_ours_is_in_the_documentation() -> None:
    from dataclasses import fields

    page = (Path(__file__).parents[2] / "docs" / "coming-from-diffusers.md").read_text(encoding="utf-8")
    for name in [*(field.name for field in fields(Flags)), *REFUSED, *WITHOUT_EFFECT]:
        assert f"`--{name}`" in page, name


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys\n"
        f"from {MODULE} import main\n"
        "try: main(['--help'])\n"
        "except SystemExit as end: assert not end.code\n"
        "heavy = {'torch', 'numpy', 'diffusers', 'transformers', 'PIL', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True, timeout=60)
    assert "chosen ONCE" in " ".join(ran.stdout.split())


# ------------------------------------------------------------------------------------------------------------- runs


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An imagefolder of six drawn images."""
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    rows: list[dict[str, Any]] = []
    for number in range(6):
        drawing = np.full((70, 90, 3), rng.integers(0, 255, 3), np.uint8)
        drawing[10:40, 10 + 8 * number : 40 + 8 * number] = rng.integers(0, 255, 3)
        Image.fromarray(drawing).save(folder / f"{number}.png")
        rows.append({"file_name": f"{number}.png", "text": f"a drawn image, number {number}"})
    (folder / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return folder


def command(model: Path, images: Path, out: Path, *more: str) -> list[str]:
    return [
        "--pretrained_model_name_or_path", str(model), "--train_data_dir", str(images), "--output_dir", str(out),
        "--resolution", "64", "--train_batch_size", "2", "--rank", "4", "--learning_rate", "0.02", "--report_to", "none",
        *more,
    ]  # fmt: skip


def error_of(arguments: list[str], capsys: pytest.CaptureFixture[str], code: int = 2) -> str:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == code
    return capsys.readouterr().err


def test_a_run_gives_weights_that_diffusers_loads_and_draws_with(
    tiny_model: Path, images: Path, tmp_path: Path
) -> None:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from safetensors.torch import load_file

    out = tmp_path / "out"
    more = [
        "--num_train_epochs",
        "2",
        "--checkpointing_steps",
        "3",
        "--validation_prompt",
        "a",
        "--num_validation_images",
        "2",
    ]
    main(command(tiny_model, images, out, *more))
    weights = load_file(out / "pytorch_lora_weights.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}, "as their script saves them"
    assert {key.split(".")[0] for key in weights} == {"unet"}
    layers = {key.rsplit(".lora", 1)[0].rsplit("attn", 1)[1] for key in weights}
    assert layers == {f"{which}.{name}" for which in "12" for name in ("to_q", "to_k", "to_v", "to_out.0")}
    assert sorted(entry.name for entry in (out / "checkpoints").iterdir()) == ["step_0000003", "step_0000006"]
    assert len(list((out / "samples" / "step_0000006").glob("*.png"))) == 2
    assert len(list((out / "dataset" / "images").glob("*.png"))) == 6

    kind: Any = StableDiffusionPipeline
    pipeline = kind.from_pretrained(tiny_model, local_files_only=True, safety_checker=None)
    pipeline.set_progress_bar_config(disable=True)

    def draw() -> np.ndarray:
        torch.manual_seed(0)
        return pipeline("a drawn image", num_inference_steps=3, width=64, height=64, output_type="np").images

    before = draw()
    pipeline.load_lora_weights(out)
    assert np.abs(draw() - before).max() > 0.01


def test_a_run_goes_on_from_its_checkpoint_to_the_same_weights(
    tiny_model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    once, twice = tmp_path / "once", tmp_path / "twice"
    main(command(tiny_model, images, once, "--max_train_steps", "4", "--checkpointing_steps", "2"))
    main(command(tiny_model, images, twice, "--max_train_steps", "2", "--checkpointing_steps", "2"))
    longer = command(tiny_model, images, twice, "--max_train_steps", "4", "--checkpointing_steps", "2")
    assert "already holds a run" in error_of(longer, capsys)
    main([*longer, "--resume_from_checkpoint", "latest"])
    assert "resuming from step 2" in capsys.readouterr().out
    name = "pytorch_lora_weights.safetensors"
    from safetensors.torch import load_file

    one, other = load_file(once / name), load_file(twice / name)
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_blind_flips_are_refused_before_anything_is_made(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metadata = images / "metadata.jsonl"
    metadata.write_text(metadata.read_text().replace("number 3", "a dog with its left paw up"), encoding="utf-8")
    out = tmp_path / "out"
    text = error_of(command(tmp_path / "no model is opened", images, out, "--random_flip"), capsys)
    assert text.startswith("error: --random_flip is on, but 1 of 6 captions mention left or right: got '3: ")
    assert "leave out --random_flip" in text
    assert not out.exists()


@pytest.mark.parametrize("fault", ["no folder", "no metadata", "no column", "no model"])
def test_what_is_missing_is_told_before_any_image_is_prepared(
    fault: str, tiny_model: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = command(tiny_model, images, tmp_path / "out")
    match fault:
        case "no folder":
            expected, arguments = "the source is not a folder", command(tiny_model, tmp_path / "gone", tmp_path / "out")
        case "no metadata":
            (images / "metadata.jsonl").unlink()
            expected = "has no metadata file"
        case "no column":
            arguments += ["--caption_column", "caption"]
            expected = "has no column 'caption'"
        case _:
            expected, arguments = "no such model", command(tmp_path / "gone", images, tmp_path / "out")
    text = error_of(arguments, capsys)
    assert expected in text
    assert not (tmp_path / "out").exists()


LAUNCHERS = {
    "accelerate": "accelerate.commands.launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no",
    "torchrun": "torch.distributed.run --standalone --nproc-per-node=2",
}


@pytest.mark.long
@pytest.mark.parametrize(("launcher", "num_steps"), [("accelerate", 3), ("torchrun", 2)])
def test_it_works_under_a_launcher(
    launcher: str, num_steps: int, tiny_model: Path, images: Path, tmp_path: Path
) -> None:
    """Six images by two are three steps on one device and two on two; the first process alone prepares and speaks."""
    arguments = command(tiny_model, images, tmp_path / "out", "--num_train_epochs", "1")
    ran = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher].split(), "-m", MODULE, *arguments],
        capture_output=True, text=True, timeout=240, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    assert ran.stdout.count("done: ") == ran.stdout.count("6 images in ") == 1
    last = max(entry.name for entry in (tmp_path / "out" / "checkpoints").iterdir())
    assert last == f"step_{num_steps:07d}"
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


@pytest.mark.long
def test_a_fault_of_the_first_process_ends_all_of_them(images: Path, tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS["torchrun"].split(), "-m", MODULE,
         *command(tmp_path / "gone", images, tmp_path / "out", "--num_train_epochs", "1")],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
    )  # fmt: skip
    assert ran.returncode != 0
    assert "error: no such model" in ran.stderr


# ------------------------------------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("choose another --out, or drop --resume never to resume",
         "choose another --output_dir, or add --resume_from_checkpoint latest to resume"),
        ("lower optim.learning_rate, use bf16", "lower --learning_rate, use bf16"),
        ("set train.mixed_precision=bf16", "set --mixed_precision=bf16"),
        ("add --max-steps: it comes down, and the same command resumes; or use bf16",
         "add --max_train_steps: it comes down, and --resume_from_checkpoint latest resumes; or use bf16"),
        ("--batch-size 1 has fewer", "--train_batch_size 1 has fewer"),
        ("got '/data/--out/x', --outer, a--out, my.train.output.x", "got '/data/--out/x', --outer, a--out, my.train.output.x"),
        ("--resume_from_checkpoint latest", "--resume_from_checkpoint latest"),
    ],
)  # fmt: skip
def test_lines_name_the_flags_of_their_script(ours: str, theirs: str) -> None:
    assert in_their_words(ours) == theirs


def test_every_flag_named_in_their_words_is_one_of_theirs() -> None:
    known = {f"--{name}" for name in (field.name for field in dataclasses.fields(Flags))}
    for words in THEIR_WORDS.values():
        assert {word.strip(",") for word in words.split() if word.startswith("--")} <= known


REACHED = (
    "config", "data", "diffusion", "extensions/captioners", "extensions/domains/freetext", "extensions/families",
    "extensions/formats", "lora", "models", "plugins.py", "prepare", "prompts", "protocols", "tracking.py", "train", "utils",
)  # fmt: skip
"""What that script may say something from."""
NOT_REACHED = {
    "tokens.py", "report.py",  # the verb `tokens`; style sheets
    "cluster.py", "evaluate.py", "extending.py", "caption.py", "inspect.py",  # settings of other verbs
    "captioning.py", "caption_edits.py", "caption_versions.py", "fetching.py", "exporting.py",  # `caption`, `dataset`
    "base_merge.py", "merging.py", "tool_input.py", "tool_output.py", "averaging.py", "hub.py",  # the verbs `lora`, LoRAs by id
    "inspection", "styles.py", "joining.py", "parts.py",  # `inspect`; `prepare --style`; `--part` and its join
}  # fmt: skip
OF_OTHER_PROGRAMS = {"--extra", "--nproc-per-node", "--num_processes", "--help"}


def test_every_flag_that_any_line_names_is_one_of_theirs_or_is_said_to_be_ours() -> None:
    """An error named `--caption`, which does not exist there."""
    root = Path(loraloom.__file__).parent
    files = [
        file for name in REACHED for file in ([root / name] if name.endswith(".py") else (root / name).rglob("*.py"))
    ]
    known = {f"--{name}" for name in (*(field.name for field in dataclasses.fields(Flags)), *WITHOUT_EFFECT, *REFUSED)}
    lost: list[str] = []
    seen = 0
    for file in files:
        if NOT_REACHED & {file.name, file.parent.name}:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if not (isinstance(node, ast.Constant) and isinstance(node.value, str)):
                continue
            line, _, note = in_their_words(node.value).partition("\n  (--")
            for flag in re.findall(r"(?<![\w.`'/-])--[a-z][\w-]*\w", line):
                seen += 1
                if not (flag in known | OF_OTHER_PROGRAMS or flag in f"--{note}"):
                    lost.append(f"{file.name}:{node.lineno}: {line}")
    assert not lost
    assert seen > 50


def test_images_without_captions_get_advice_that_this_script_can_follow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "0.png")
    (tmp_path / "metadata.jsonl").write_text('{"file_name": "0.png", "text": ""}\n', encoding="utf-8")
    with pytest.raises(SystemExit):
        main(command("builtin:mini", tmp_path, tmp_path / "out"))  # pyright: ignore[reportArgumentType]
    text = capsys.readouterr().err
    assert "--caption" not in text.replace("--caption_column", "")
    assert "--trigger" not in text


def test_errors_of_training_name_their_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--resume` and `--out` were named, which that script does not know."""
    (tmp_path / "out").symlink_to(tmp_path / "nowhere", target_is_directory=True)
    folder = tmp_path / "data"
    folder.mkdir()
    Image.new("RGB", (64, 64)).save(folder / "0.png")
    (folder / "metadata.jsonl").write_text('{"file_name": "0.png", "text": "a"}\n', encoding="utf-8")
    arguments = ["--pretrained_model_name_or_path", "builtin:mini", "--train_data_dir", str(folder)]
    with pytest.raises(SystemExit) as ended:
        main([*arguments, "--output_dir", str(tmp_path / "out")])
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert "is a link that leads nowhere" in text
    assert "Traceback" not in text
