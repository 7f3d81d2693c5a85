"""Train with the flags of diffusers' `train_text_to_image_lora.py`: `python -m loraloom.compat.train_text_to_image_lora`.

In: the command line of that script. Out, in `--output_dir`: `pytorch_lora_weights.safetensors` as that script writes it,
a complete run of ours, and the prepared images in `dataset/`. A flag that is not supported is an error with the reason. Runs
alone or under `accelerate launch`. docs/coming-from-diffusers.md lists all flags.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraloom.compat.diffusers_flags import SCHEDULERS, Flags, in_their_words, read_flags
from loraloom.utils.errors import UserError
from loraloom.utils.progress import lines
from loraloom.utils.untrusted import check_text

if TYPE_CHECKING:  # `--help` imports neither pydantic nor torch
    from loraloom.config.prepare import PrepareConfig
    from loraloom.config.run import RunConfig

WEIGHTS_NAME = "pytorch_lora_weights.safetensors"
SAME_SCHEDULE = {"cosine_with_restarts": "cosine", "polynomial": "linear"}
"""Schedulers that equal another one with their script's fixed settings: one cycle, and power 1."""


# -------------------------------------------------------------------------------------------------------- settings


def prepare_settings(flags: Flags) -> "PrepareConfig":
    """The settings of `prepare`.

    Raises:
        UserError: The resolution is no multiple of 8, or out of range.
    """
    from loraloom.config.prepare import PrepareConfig
    from loraloom.config.reading import read_settings

    if flags.resolution % 8:
        nearest = max(16, round(flags.resolution / 8) * 8)
        raise UserError("--resolution", got=flags.resolution, expected="a multiple of 8", fix=f"use {nearest}")
    values = {
        "format": "imagefolder",
        "caption_column": flags.caption_column,
        "size": flags.resolution,
        "crop": "center" if flags.center_crop else "random",
        "resample": flags.image_interpolation_mode,
        "min_size": 1,
        "validation_share": 0.0,
        "seed": flags.seed or 0,
    }
    return read_settings(PrepareConfig, values=values)


def run_settings(
    flags: Flags,
    num_images: int,
    environ: Mapping[str, str],
    installed: Callable[[str], bool] = lambda package: find_spec(package) is not None,
) -> "RunConfig":
    """The settings of `train`.

    Args:
        flags: From the command line.
        num_images: Number of images of the prepared dataset; an epoch has the same length as theirs.
        environ: Environment variables of the launcher: WORLD_SIZE, ACCELERATE_MIXED_PRECISION.
        installed: Whether a tracker's package is installed.

    Raises:
        UserError: An unsupported scheduler, a warm-up longer than the training, or a value out of range.
    """
    from loraloom.config.reading import read_settings
    from loraloom.config.run import RunConfig

    steps = flags.max_train_steps
    if steps is None:
        a_step = flags.train_batch_size * flags.gradient_accumulation_steps * int(environ.get("WORLD_SIZE", "1"))
        steps = flags.num_train_epochs * -(-num_images // max(a_step, 1))
    out = Path(flags.output_dir)
    values: dict[str, Any] = {
        "model.source": flags.pretrained_model_name_or_path, "model.revision": flags.revision,
        "model.variant": flags.variant, "data.dataset": str(out / "dataset"), "data.batch_size": flags.train_batch_size,
        "data.random_flip": flags.random_flip, "data.caption_dropout": 0.0, "lora.target": "attention",
        "lora.rank": flags.rank, "optim.optimizer": "adamw8bit" if flags.use_8bit_adam else "adamw",
        "optim.learning_rate": flags.learning_rate, "optim.betas": (flags.adam_beta1, flags.adam_beta2),
        "optim.eps": flags.adam_epsilon, "optim.weight_decay": flags.adam_weight_decay,
        "optim.max_grad_norm": flags.max_grad_norm, **_schedule(flags, steps), "objective.snr_gamma": flags.snr_gamma,
        "objective.noise_offset": flags.noise_offset, "objective.prediction_type": flags.prediction_type or "auto",
        "train.output": str(out), "train.max_steps": steps, "train.validation_every": 0,
        "train.gradient_accumulation": flags.gradient_accumulation_steps,
        "train.mixed_precision": flags.mixed_precision or environ.get("ACCELERATE_MIXED_PRECISION") or "no",
        "train.gradient_checkpointing": flags.gradient_checkpointing, "train.seed": flags.seed or 0,
        "checkpoints.every": flags.checkpointing_steps, "checkpoints.resume": _resume(flags),
        "checkpoints.keep": steps if flags.checkpoints_total_limit is None else flags.checkpoints_total_limit,
        "samples.enabled": flags.validation_prompt is not None, "samples.steps": 30, "samples.seed": flags.seed or 0,
        "samples.prompts": (flags.validation_prompt,) * flags.num_validation_images if flags.validation_prompt else (),
        **_trackers(flags.report_to, installed), "export.dtype": "fp32",
    }  # fmt: skip
    return read_settings(RunConfig, values=values)


def _schedule(flags: Flags, steps: int) -> dict[str, Any]:
    """Scheduler and warm-up; diffusers' `constant` ignores --lr_warmup_steps."""
    if flags.lr_scheduler not in SCHEDULERS:
        same = SAME_SCHEDULE.get(flags.lr_scheduler)
        fix = f"their script's {flags.lr_scheduler} equals --lr_scheduler {same}" if same else None
        raise UserError("--lr_scheduler", got=flags.lr_scheduler, expected=f"one of {', '.join(SCHEDULERS)}", fix=fix)
    warmup = 0 if flags.lr_scheduler == "constant" else flags.lr_warmup_steps
    if warmup > steps:
        raise UserError(
            "--lr_warmup_steps is longer than the training: the learning rate would never reach its peak",
            got=f"{warmup} of {steps} steps",
            fix="set --lr_warmup_steps, or train longer",
        )
    return {"optim.scheduler": SCHEDULERS[flags.lr_scheduler], "optim.warmup_steps": warmup}


def _trackers(report_to: str | None, installed: Callable[[str], bool]) -> dict[str, Any]:
    """`all` and the default select installed trackers, as in their script; a tracker that is named must be installed."""
    tensorboard = report_to == "tensorboard" or (report_to in (None, "all") and installed("tensorboard"))
    wandb = report_to == "wandb" or (report_to == "all" and installed("wandb"))
    return {
        "tracking.tensorboard": tensorboard,
        "tracking.wandb": wandb,
        "tracking.project": "text2image-fine-tune",
    }


def _resume(flags: Flags) -> str:
    """`never`, `auto`, or the folder of a checkpoint.

    Raises:
        UserError: The output folder holds a run and the flag is absent; no such checkpoint; a checkpoint of their script.
    """
    wish, out = flags.resume_from_checkpoint, Path(flags.output_dir)
    ours = any((out / "checkpoints").glob("step_*"))
    if wish is None:
        if ours or (out / "adapter.safetensors").exists():
            raise UserError(
                "this --output_dir already holds a run",
                got=str(out),
                fix="resume it with --resume_from_checkpoint latest, or choose another --output_dir",
            )
        return "never"
    if wish != "latest":
        name = Path(wish).name
        number = name.rpartition("-")[2]
        own = f"step_{int(number):07d}" if name.startswith("checkpoint-") and number.isdecimal() else name
        for place in (Path(wish), out / "checkpoints" / own):
            if (place / "manifest.json").is_file():
                return str(place)
    theirs = sorted(entry.name for entry in out.glob("checkpoint-*"))
    if wish == "latest" and (ours or not theirs):
        return "auto"
    if theirs:
        what = "their script's checkpoints cannot be resumed: the optimizer's state in them is pickled"
        raise UserError(
            what, got=str(out / theirs[-1]), fix="finish that run there, or start a new run in another --output_dir"
        )
    known = ", ".join(sorted(entry.name for entry in (out / "checkpoints").glob("step_*")))
    raise UserError(
        "no such checkpoint", got=wish, expected=known or "latest", fix="`latest` is the newest complete one"
    )


# --------------------------------------------------------------------------------------------------------- running


def run(flags: Flags, environ: Mapping[str, str], say: Callable[[str], None]) -> None:
    """Prepare and train; every process of a launch calls this, the first one prepares.

    Raises:
        UserError: Any error that the user can fix; those that can be found early are raised before an image is read.
    """
    prepare_config = prepare_settings(flags)
    listed = _look(flags, prepare_config)
    run_settings(flags, listed, environ)
    from loraloom.train.run import train  # torch, from here on

    num_images = _prepare_once(flags, prepare_config, environ, say)
    settings = run_settings(flags, num_images, environ)
    main = int(environ.get("RANK", "0")) == 0

    def report(done: int, numbers: dict[str, float]) -> None:
        say(
            f"step {done}/{settings.train.max_steps}  loss {numbers['loss']:.4f}  lr {numbers['learning_rate']:.2e}  "
            f"{numbers['images_per_second']:.1f} images/s"
        )

    result = train(settings, say=say, report=report, progress=lines)
    if not main:
        return
    if result.adapter is None:
        say("to resume, add --resume_from_checkpoint latest")
        return
    from loraloom.utils.atomic_files import write_bytes

    weights = result.folder / WEIGHTS_NAME
    write_bytes(weights, (result.folder / "exports" / WEIGHTS_NAME).read_bytes())
    say(f"done: {weights}")


def _look(flags: Flags, config: "PrepareConfig") -> int:
    """The number of images that the metadata lists; no image is opened.

    Raises:
        UserError: Not such a folder, or --random_flip with captions that mention left or right.
    """
    from loraloom.config.domains import open_domain
    from loraloom.prepare.detect import choose_format, format_options

    options = format_options(config)
    choice = choose_format(Path(flags.train_data_dir), config.format, options)
    items = [item for item in choice.format.read(Path(flags.train_data_dir), options) if item.problem is None]
    if flags.random_flip:
        domain = open_domain(config.domain, config.model_dump())
        blind = [item for item in items if item.caption and domain.mirrored(item.caption) is None]
        if blind:
            raise UserError(
                f"--random_flip is on, but {len(blind)} of {len(items)} captions mention left or right",
                got=f"{blind[0].id}: {(blind[0].caption or '')[:60]}",
                fix="leave out --random_flip: the caption would be wrong for a mirrored image",
            )
    return max(len(items), 1)


def _prepare_once(flags: Flags, config: "PrepareConfig", environ: Mapping[str, str], say: Callable[[str], None]) -> int:
    """Prepare in the first process; the others wait, and fail if it failed. Returns the number of images."""
    out = Path(flags.output_dir) / "dataset"
    if int(environ.get("WORLD_SIZE", "1")) == 1:
        return _prepare(flags, config, out, say)
    from loraloom.data.manifest import read_manifest
    from loraloom.train.distributed import make_runtime

    runtime = make_runtime("no")
    fault = ""
    if runtime.is_main:
        try:
            _prepare(flags, config, out, say)
        except UserError as error:
            fault = str(error)
    if faults := [text for text in runtime.gather_texts([fault]) if text]:
        raise UserError(faults[0])
    return len(read_manifest(out).examples)


def _prepare(flags: Flags, config: "PrepareConfig", out: Path, say: Callable[[str], None]) -> int:
    from loraloom.models.loading import open_model
    from loraloom.prepare.run import prepare
    from loraloom.protocols.model import ModelSource

    # The model is opened first, so that a wrong name is an error before images are prepared.
    text = open_model(
        ModelSource(location=flags.pretrained_model_name_or_path, revision=flags.revision, variant=flags.variant)
    ).text
    count = text.tokenizer.tokenize
    report = prepare(
        Path(flags.train_data_dir),
        out,
        config,
        count_tokens=lambda caption: len(count(caption)),
        console=say,
        progress=lines("preparing images"),
    )
    return len(report.manifest.examples)


def main(arguments: Sequence[str] | None = None) -> None:
    """The entry point; exit status 0 success, 2 an error that the user can fix, 130 interrupted."""
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    first = os.environ.get("RANK", "0") == "0"

    def say(text: str) -> None:
        if first:
            print(in_their_words(text), flush=True)

    try:
        given = sys.argv[1:] if arguments is None else arguments
        for number, argument in enumerate(given, 1):
            check_text(argument, f"argument {number}")
        flags, notes = read_flags(given)
        for note in notes:
            say(note)
        run(flags, os.environ, say)
    except UserError as error:
        sys.stderr.write(f"error: {in_their_words(str(error))}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        sys.exit(130)


if __name__ == "__main__":
    main()
