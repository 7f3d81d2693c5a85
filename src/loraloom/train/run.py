"""The whole of `train`: settings in, a run folder out.

run/  run.yaml                            the resolved settings
      events.jsonl                        every number of the run
      checkpoints/step_0000100/           whole checkpoints, newest few and the best
      ledger.jsonl                        how often each image is seen, and its share of the loss
      samples/step_0000100/gpu_0_sample.png   images generated during training; samples/sheet.png all of them
      adapter.safetensors                 the finished adapter, float32
      exports/                            for diffusers, and for kohya, A1111 and ComfyUI
      sharpness/                          on a distilled base: few-step images of the base and of the adapter
      model/                              instead of the last two with method full: a diffusers folder
"""

import math
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from loraloom.config.comparing import refuse_unless_resumable
from loraloom.config.reading import flatten, read_settings, to_yaml
from loraloom.config.run import RunConfig
from loraloom.data.manifest import domain_of
from loraloom.lora.export import ExportCheck, export_adapter, program_lines, verify_exports
from loraloom.lora.files import read_adapter, save_adapter
from loraloom.tracking import open_tracker, silent_tracker
from loraloom.train.build import set_up
from loraloom.train.checkpoint import Checkpoint, CheckpointFolder, load_checkpoint
from loraloom.train.distributed import Runtime, make_runtime
from loraloom.train.loop import Finished, hold_on, train_loop
from loraloom.train.notices import batch_lines, report_ledger
from loraloom.train.outcome import refuse_broken, refuse_unmoved, run_trial
from loraloom.train.sharding import gather, shared_out
from loraloom.train.sharpness import measure_sharpness
from loraloom.train.signals import StoppedError, listen_for_stop
from loraloom.train.state import Run
from loraloom.train.swapping import check_block_swap
from loraloom.utils.atomic_files import remove_leftovers, whole_file, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.gpu_figures import GpuFigures
from loraloom.utils.locks import FolderLock, lock_folder
from loraloom.utils.output_paths import check_folder
from loraloom.utils.reporting import Bars, Numbers, Say, log, log_line, muted, reporting


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainResult:
    """What a run made.

    Attributes:
        folder: The run folder.
        finished: How the loop ended.
        adapter: adapter.safetensors (method full: the model folder), or None when the run was stopped early.
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
    say: Say | None = print,
    report: Numbers | None = None,
    progress: Bars | None = None,
    cpu: bool = False,
    deadline: float = math.inf,
) -> TrainResult:
    """Train an adapter, or resume a run that was stopped or killed.

    Lines for the user go through the logger `loraloom` (`utils/reporting.py`), in the main process only.

    Args:
        config: Settings of the run.
        say: Takes these lines too, one at a time; None leaves them to the logger's other handlers.
        report: Takes finished steps and the numbers of each log line.
        progress: Makes a progress callback for a titled piece of work.
        cpu: Train on the CPU even where there is a GPU.
        deadline: `time.monotonic` after which the run stops as if asked to: it is saved, and the same call resumes it.

    Raises:
        UserError: Whatever the user can repair.
    """
    if not config.data.dataset:
        raise UserError(
            "no dataset", fix="make one with `loraloom prepare FOLDER --out DATASET`, then add --dataset DATASET"
        )
    config = with_domain(config)
    folder = Path(config.train.output)
    check_folder(folder)
    runtime = make_runtime(config.train.mixed_precision, cpu=cpu, deadline_s=config.samples.deadline_s)
    check_block_swap(config, runtime.device)
    with ExitStack() as held:
        held.enter_context(reporting(say=say, bar=progress, numbers=report) if runtime.is_main else muted())
        lock = hold_folder(held, runtime, folder)
        return _train(config, runtime, folder, lock, deadline)


def hold_folder(held: ExitStack, runtime: Runtime, folder: Path) -> FolderLock | None:
    """Lock the run folder, by the main process for all of them, and sweep what killed processes left in it.

    Returns the lock in the main process.

    Raises:
        UserError: Another process is at work there; every process raises it.
    """
    fault: UserError | None = None
    lock: FolderLock | None = None
    if runtime.is_main:
        try:
            lock = held.enter_context(lock_folder(folder, log_line))
            remove_leftovers(folder, deep=True)
        except UserError as error:
            fault = error
    texts = [text for text in runtime.gather_texts([str(fault) if fault else ""]) if text]
    if fault or texts:
        raise fault or UserError(texts[0])
    return lock


def _train(config: RunConfig, runtime: Runtime, folder: Path, lock: FolderLock | None, deadline: float) -> TrainResult:
    checkpoint = find_start(config, folder)
    agree_on_start(runtime, checkpoint)
    start = checkpoint.step if checkpoint else 0
    tracker = silent_tracker()
    if runtime.is_main:
        write_text(folder / "run.yaml", to_yaml(config))
        tracker = open_tracker(folder, config.tracking, flatten(config), start)
    try:
        with listen_for_stop(deadline) as stop:
            run = set_up(config, runtime, tracker, stop)
            run.lock, run.gpu = lock, GpuFigures(runtime.gpu_uuid())
            if run.gpu.problem:
                log.info(f"note: utilization, memory and power of the GPU are not recorded: {run.gpu.problem}")
            if checkpoint:
                run.restore(checkpoint)
                run.checkpoints.forget_after(start)
                log.info(f"resuming from step {start}")
            tracker.event("start", start, learning_numbers=run.train_state.adapter.num_parameters)
            plan = run.train_state.epochs.plan
            for line in [*batch_lines(plan, runtime.num_devices), *report_ledger(plan, run, folder)]:
                log_line(line)
            for line in run.notes:
                tracker.event("note", start, text=line)
            finished = train_loop(run, stop)
        if shared_out(run) and not finished.stopped:
            gather(run)
        runtime.barrier()  # what follows is the main process's alone: nobody may wait for it in a collective
        if finished.stopped:
            log.info(f"stopped by {finished.stopped} at step {finished.step}; the same command resumes from here")
            return TrainResult(folder=folder, finished=finished, adapter=None, checks=(), is_main=runtime.is_main)
        adapter, checks = finish(run, finished)
        return TrainResult(folder=folder, finished=finished, adapter=adapter, checks=checks, is_main=runtime.is_main)
    except StoppedError:
        log.info("stopped before the first step; the same command begins again with what is cached")
        return TrainResult(
            folder=folder,
            finished=Finished(step=start, stopped="a signal", best_step=None, seconds=0.0),
            adapter=None,
            checks=(),
            is_main=runtime.is_main,
        )
    finally:
        tracker.close()


def with_domain(config: RunConfig) -> RunConfig:
    """The settings with the dataset's domain where they leave it open."""
    domain = domain_of(Path(config.data.dataset), config.data.domain)
    return config.model_copy(update={"data": config.data.model_copy(update={"domain": domain})})


def find_start(config: RunConfig, folder: Path) -> Checkpoint | None:
    """The checkpoint to resume from, or None for a fresh start.

    A directory named by `checkpoints.resume` is where a run without checkpoints of its own begins; once it has some, it
    resumes from them, so that the same command after a kill loses nothing.

    Raises:
        UserError: The folder belongs to a run with other settings, all its checkpoints are damaged, or resuming was
            forbidden.
    """
    wish, checkpoints = config.checkpoints.resume, CheckpointFolder(folder / "checkpoints")
    if not checkpoints.steps():
        if wish in {"auto", "never"}:
            return None
        log.info(f"beginning from {wish}")
        _refuse_other_settings(Path(wish).resolve().parent.parent, config)
        return load_checkpoint(Path(wish))
    if wish == "never":
        raise UserError(
            "this folder holds a run already",
            got=str(folder),
            fix="choose another --out, or drop --resume never to resume",
        )
    _refuse_other_settings(folder, config)
    if wish != "auto":
        newest = checkpoints.path(checkpoints.steps()[-1])
        if Path(wish).resolve() != newest.resolve() and Path(wish).resolve().parent == checkpoints.folder.resolve():
            raise UserError(
                f"{Path(wish).name} is not the newest checkpoint: what came after it would be lost",
                got=newest.name,
                fix="drop --resume to resume from the newest, name another --out to branch off, or delete the newer ones",
            )
        if Path(wish).resolve().parent != checkpoints.folder.resolve():
            log.info(f"note: {folder} has checkpoints of its own and resumes from them, not from {wish}")
    checkpoint, complaints = checkpoints.load_newest()
    for complaint in complaints:
        log.warning(f"{complaint}")
    if checkpoint is None:
        raise UserError(
            "all checkpoints of this run are damaged",
            got=str(checkpoints.folder),
            fix="start again in another --out, or delete that folder",
        )
    return checkpoint


def _refuse_other_settings(run_folder: Path, config: RunConfig) -> None:
    if (run_folder / "run.yaml").is_file():
        refuse_unless_resumable(read_settings(RunConfig, run_folder / "run.yaml"), config)


def agree_on_start(runtime: Runtime, checkpoint: Checkpoint | None) -> None:
    """Raise `UserError` unless all processes see the same checkpoint: they would wait for each other for ever."""
    steps = set(runtime.gather_texts([str(checkpoint.step if checkpoint else 0)]))
    if len(steps) > 1:
        raise UserError(
            "the machines see different checkpoints",
            got=f"steps {', '.join(sorted(steps))}",
            fix="let train.output point to one shared folder, or copy the newest checkpoint to every machine",
        )


def finish(run: Run, finished: Finished) -> tuple[Path, tuple[ExportCheck, ...]]:
    """Write the adapter and its exports; verify the exports by generating with them. The main process alone works here.

    With method full a model folder is written instead.
    """
    full = run.config.train.method == "full"
    path = run.folder / ("model" if full else "adapter.safetensors")
    if not run.train_state.runtime.is_main:
        return path, ()
    train_state, config = run.train_state, run.config
    hold_on(run)
    refuse_unmoved(run, finished.step)
    if train_state.ema:
        train_state.ema.swap()
    refuse_broken(run, finished.step)
    if full:
        train_state.model.save(path, config.export.dtype)
        measure_sharpness(run, finished.step)
        log.info(f"model written: {path}; generate with --model {path}")
        _say_best(run)
        return path, ()
    measure_sharpness(run, finished.step)
    record = run.record(finished.step)
    with whole_file(path) as draft:  # it gets its name when it has been found to work
        save_adapter(draft, train_state.adapter.state(), record)
        file = read_adapter(draft)
        layers = file.layers(train_state.model)
        trial = run_trial(run, file, finished.step) if config.export.verify else None
    name = run.folder.resolve().name
    files = export_adapter(train_state.model, layers, record, run.folder / "exports", name, config.export.dtype)
    for line in program_lines(train_state.model, path, files):
        log.info(line)
    checks = verify_exports(train_state.model, files, trial.ours_bchw, trial.request, trial.base_bchw) if trial else []
    for check in checks:
        log.info(
            f"export {check.file.name}: {'good' if check.good else 'DIFFERENT'}, largest difference "
            f"{check.difference:.2e} where the adapter changes {check.effect:.2e}"
        )
        numbers = {"difference": check.difference, "effect": check.effect, "good": check.good}
        run.tracker.event("export", finished.step, file=check.file.name, **numbers)
    if not all(check.good for check in checks):
        log.warning("an export does not generate what the adapter generates; use adapter.safetensors and report this")
    _say_best(run)
    return path, tuple(checks)


def _say_best(run: Run) -> None:
    if run.best.step is not None:
        log.info(f"lowest validation loss {run.best.loss:.4f} at step {run.best.step}")
