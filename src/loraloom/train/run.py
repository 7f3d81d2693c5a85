"""`train`, whole: settings in, a run folder out.

run/  run.yaml                            the resolved settings
      events.jsonl                        every number of the run
      checkpoints/step_0000100/           whole checkpoints, newest few and the best
      samples/step_0000100/00.png, .txt   pictures drawn on the way; samples/sheet.png all of them
      adapter.safetensors                 the finished adapter, float32
      exports/                            for diffusers, and for kohya, A1111 and ComfyUI
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from loraloom.config.comparing import refuse_unless_resumable
from loraloom.config.reading import flatten, read_settings, to_yaml
from loraloom.config.run import RunConfig
from loraloom.contracts import PictureRequest, Progress
from loraloom.errors import UserError
from loraloom.files import write_text
from loraloom.generate.pictures import denoise
from loraloom.lora.export import ExportCheck, export_adapter, first_noise, verify_exports
from loraloom.lora.files import read_adapter, save_adapter
from loraloom.tracking import open_tracker, silent_tracker
from loraloom.train.checkpoint import Checkpoint, CheckpointFolder, load_checkpoint
from loraloom.train.loop import Finished, train_loop
from loraloom.train.runtime import Runtime, make_runtime
from loraloom.train.setup import Run, Say, set_up
from loraloom.train.stop import listen_for_stop


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run made.

    Attributes:
        folder: The run folder.
        finished: How the loop ended.
        adapter: adapter.safetensors, or None when the run was stopped early.
        checks: One for each verified export.
        is_main: Whether this process is the one that speaks.
    """

    folder: Path
    finished: Finished
    adapter: Path | None
    checks: tuple[ExportCheck, ...]
    is_main: bool = True


def train(
    config: RunConfig,
    *,
    say: Say = print,
    report: Callable[[int, dict[str, float]], None] = lambda done, numbers: None,
    progress: Callable[[str], Progress] = lambda title: lambda done, total: None,
    cpu: bool = False,
) -> TrainResult:
    """Train an adapter, or go on where a killed run stopped.

    Args:
        config: Settings.
        say: Told one line at a time; the main process only.
        report: Told (finished steps, numbers) at each log line; the main process only.
        progress: Makes a progress callback for a titled piece of work.
        cpu: Train on the CPU even where there is a GPU.

    Raises:
        UserError: Whatever the user can repair.
    """
    if not config.data.dataset:
        raise UserError(
            "no dataset", fix="make one with `loraloom prepare FOLDER --out DATASET`, then add --dataset DATASET"
        )
    runtime = make_runtime(config.train.mixed_precision, cpu=cpu)
    if not runtime.is_main:
        say, report = (lambda text: None), (lambda done, numbers: None)
    folder = Path(config.train.output)
    checkpoint = find_start(config, folder, say)
    agree_on_start(runtime, checkpoint)
    start = checkpoint.step if checkpoint else 0
    tracker = silent_tracker()
    if runtime.is_main:
        write_text(folder / "run.yaml", to_yaml(config))
        tracker = open_tracker(folder, config.tracking, flatten(config), start, say)
    try:
        with listen_for_stop(say) as stop:
            run = set_up(config, runtime, tracker, say, progress)
            if checkpoint:
                run.restore(checkpoint)
                run.checkpoints.forget_after(start)
                say(f"going on from step {start}")
            finished = train_loop(run, stop, report)
        if finished.stopped:
            say(f"stopped by {finished.stopped} at step {finished.step}; the same command goes on from here")
            return TrainResult(folder, finished, None, (), runtime.is_main)
        adapter, checks = finish(run, finished)
        return TrainResult(folder, finished, adapter, checks, runtime.is_main)
    finally:
        tracker.close()


def find_start(config: RunConfig, folder: Path, say: Say) -> Checkpoint | None:
    """The checkpoint to go on from, or None for a fresh start.

    Raises:
        UserError: The folder belongs to a run with other settings, or resuming was forbidden.
    """
    wish = config.checkpoints.resume
    if wish not in {"auto", "never"}:
        return load_checkpoint(Path(wish))
    checkpoints = CheckpointFolder(folder / "checkpoints")
    if not checkpoints.steps():
        return None
    if wish == "never":
        raise UserError(
            "this folder holds a run already",
            got=str(folder),
            fix="choose another --out, or drop --resume never to go on",
        )
    if (folder / "run.yaml").is_file():
        refuse_unless_resumable(read_settings(RunConfig, folder / "run.yaml"), config)
    checkpoint, complaints = checkpoints.load_newest()
    for complaint in complaints:
        say(f"warning: {complaint}")
    return checkpoint


def agree_on_start(runtime: Runtime, checkpoint: Checkpoint | None) -> None:
    """Raise `UserError` unless all processes see the same checkpoint: they would wait for each other for ever."""
    steps = set(runtime.gather_texts([str(checkpoint.step if checkpoint else 0)]))
    if len(steps) > 1:
        raise UserError(
            "the machines see different checkpoints", got=f"steps {', '.join(sorted(steps))}",
            fix="let train.output point to one shared folder, or copy the newest checkpoint to every machine",
        )  # fmt: skip


def finish(run: Run, finished: Finished) -> tuple[Path, tuple[ExportCheck, ...]]:
    """Write the adapter and its exports; verify the exports by drawing with them."""
    runtime, trainee, config = run.trainee.runtime, run.trainee, run.config
    path = run.folder / "adapter.safetensors"
    checks: list[ExportCheck] = []
    if runtime.is_main:
        if trainee.ema:
            trainee.ema.swap()
        save_adapter(path, trainee.adapter.state(), run.record(finished.step))
        files = export_adapter(
            trainee.model, read_adapter(path).layers(trainee.model), run.record(finished.step), run.folder / "exports",
            run.folder.resolve().name, config.export.dtype,
        )  # fmt: skip
        if config.export.verify:
            checks = verify(run, files)
        for check in checks:
            verdict = "good" if check.good else "DIFFERENT"
            run.say(
                f"export {check.file.name}: {verdict}, largest difference {check.difference:.2e} "
                f"where the adapter changes {check.effect:.2e}"
            )
            run.tracker.event(
                "export", finished.step, file=check.file.name, difference=check.difference, effect=check.effect
            )
        bad = [check.file.name for check in checks if not check.good]
        if bad:
            raise UserError(
                f"exports that do not draw what the adapter draws: {', '.join(bad)}",
                fix="use adapter.safetensors and report this",
            )
        if run.best_step is not None:
            run.say(f"lowest validation loss {run.best_loss:.4f} at step {run.best_step}")
    runtime.barrier()
    return path, tuple(checks)


def verify(run: Run, files: list[Path]) -> list[ExportCheck]:
    """Draw the trigger or the first caption, cut to one window, with our adapter and with each export."""
    model, encoder = run.trainee.model, run.trainee.batches.texts.encoder
    prompt = encoder.text.detokenize(encoder.text.tokenize(run.trainee.batches.examples[0].caption)[:40])
    size = min(model.default_size_px, 256)
    request = PictureRequest(prompt, "", 0, 4, 5.0, "ddim", size, size)
    device = torch.device("cpu")
    for part in ("denoiser", "text_encoder"):
        model.place(part, device, torch.float32).eval()
    ours_bchw = denoise(model, encoder.encode, [request], noise_bchw=first_noise(model, request))
    model.drop("text_encoder")
    return verify_exports(model, files, ours_bchw, request)
