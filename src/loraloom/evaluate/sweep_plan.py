"""What a sweep tries: scales as the user wrote them, the checkpoints of a run, and averages of them.

In: texts of settings, a run. Out: numbers and candidates, each an adapter file; or a mistake in a line before any work.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from loraloom.config.evaluate import SweepConfig
from loraloom.config.generate import MAX_ADAPTER_WEIGHT
from loraloom.lora.averaging import LONGEST, average_adapters, average_weights
from loraloom.lora.files import AdapterFile, checkpoints_of, find_adapter, read_adapter
from loraloom.prompts.notes import Losses
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import is_there, read_json_object

AUTO_LENGTHS = (0.1, 0.2)
MIN_FOR_AVERAGE = 3
"""Checkpoints from which on `--ema auto` makes averages."""
MAX_SCALES, MAX_LENGTHS = 100, 10
_NEARLY_ONE = 0.995
"""Weight of the last checkpoint from which on an average is that checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One adapter of a sweep.

    Attributes:
        name: For people and as a folder: `step_0000100`, `ema_0.1`.
        step: Optimizer steps; of an average those of its last checkpoint.
        file: Its file.
        weights: How much each step counts in an average; empty for a checkpoint.
    """

    name: str
    step: int
    file: AdapterFile
    weights: tuple[tuple[int, float], ...] = ()

    @property
    def is_average(self) -> bool:
        """Whether it is an average of checkpoints."""
        return bool(self.weights)

    @property
    def label(self) -> str:
        """For tables: `step 100`, `EMA 0.1`."""
        return f"EMA {self.name.removeprefix('ema_')}" if self.is_average else f"step {self.step:,}"

    @property
    def place(self) -> Path:
        """What a user gives to `--lora`: the folder where it holds no other adapter."""
        return self.file.path.parent if self.file.path.name == "adapter.safetensors" else self.file.path


def read_scales(text: str) -> tuple[float, ...]:
    """Scales of a text such as `0.4,0.8` or `0.4-1.2:0.2`, ascending, each once.

    Raises:
        UserError: A part that is no number or out of range, no part, or too many numbers.
    """
    found: set[float] = set()
    for part in (part.strip() for part in text.split(",") if part.strip()):
        first, dash, rest = part[1:].partition("-")  # a sign is no dash
        if not dash or math.isfinite(_number(part)):  # 1e-3 is a number
            found.add(_scale(part))
            continue
        last, colon, step = rest.partition(":")
        low, high, width = _scale(part[0] + first), _scale(last), _number(step) if colon else math.nan
        if not (width > 0 and high >= low):
            raise UserError("--scales: not a range of scales", got=part, expected="first-last:step such as 0.4-1.2:0.2")
        count = (high - low) / width + 1 + 1e-9
        found |= {round(low + width * index, 10) for index in range(int(min(count, MAX_SCALES + 1)))}
    if len(found) > MAX_SCALES:
        raise UserError("--scales: too many scales", got=text, expected=f"at most {MAX_SCALES}")
    if not found - {0.0}:
        raise UserError(
            "--scales names no scale", got=text, expected="numbers such as 0.4,0.8 or 0.4-1.2:0.2; 0 is the base"
        )
    return tuple(sorted(found))


def read_lengths(text: str, num_checkpoints: int) -> tuple[float, ...]:
    """Lengths of averages of `--ema`.

    Raises:
        UserError: A part that is no number or out of range; or averages of fewer than two checkpoints.
    """
    if text.strip() == "none":
        return ()
    if text.strip() == "auto":
        return AUTO_LENGTHS if num_checkpoints >= MIN_FOR_AVERAGE else ()
    found: set[float] = set()
    for part in (part.strip() for part in text.split(",") if part.strip()):
        value = _number(part)
        if not 0 < value <= LONGEST + 1e-4:
            expected = f"numbers above 0 and up to {LONGEST:.4f}, auto or none"
            raise UserError("--ema: not a length of an average", got=part, expected=expected)
        found.add(min(value, LONGEST))
    if not found or len(found) > MAX_LENGTHS:
        raise UserError(
            "--ema needs lengths", got=text, expected=f"1 to {MAX_LENGTHS} numbers such as 0.1,0.2, auto or none"
        )
    if num_checkpoints < 2:
        fix = "leave --ema out, or train with more checkpoints: --checkpoint-every N --keep-checkpoints M"
        raise UserError("an average needs two checkpoints", got=f"{num_checkpoints} in this sweep", fix=fix)
    return tuple(sorted(found))


def find_checkpoints(run: Path, config: SweepConfig, losses: Losses) -> list[Candidate]:
    """The checkpoints of a run that the user asks for, by step; damaged ones are a line each.

    A run without checkpoints, and an adapter file, are one candidate. A finished adapter of a step of its own is one too.

    Raises:
        UserError: No adapter there, or a step that the run has no checkpoint of.
    """
    there = checkpoints_of(run) if run.is_dir() else []
    found: list[Candidate] = []
    for step, path in there:
        try:
            file = read_adapter(path)
            _check_sum(file)
            found.append(Candidate(name=f"step_{step:07d}", step=step, file=file))
        except UserError as error:
            losses.add(f"warning: {path.parent.name} is left out: {error.what}")
    final = run / "adapter.safetensors" if run.is_dir() else run
    if not there or is_there(final):
        found += _finished(run, found)
    if not found:
        fix = "train again, or name an adapter file in one of its exports"
        raise UserError("no checkpoint of this run is whole", got=str(run), fix=fix)
    found.sort(key=lambda candidate: candidate.step)
    return _wanted(found, config.checkpoints)


def make_averages(
    candidates: Sequence[Candidate], lengths: Sequence[float], folder: Path, losses: Losses
) -> list[Candidate]:
    """Averages of checkpoints, written below `folder`; one that is the last checkpoint is a line.

    Raises:
        UserError: Checkpoints of different layers or ranks.
    """
    steps = [candidate.step for candidate in candidates]
    made: list[Candidate] = []
    for length in lengths:
        name = f"ema_{length:.4g}"
        share = average_weights(steps, length)[-1]
        if share >= _NEARLY_ONE:
            losses.say(f"note: the average of length {length:g} is left out: {share:.1%} of it is the last checkpoint")
            continue
        files = {candidate.step: candidate.file for candidate in candidates}
        path = folder / name / "adapter.safetensors"
        weights = average_adapters(files, length, path)
        made.append(
            Candidate(name=name, step=steps[-1], file=read_adapter(path), weights=tuple(sorted(weights.items())))
        )
    return made


def _finished(run: Path, checkpoints: Sequence[Candidate]) -> list[Candidate]:
    """The finished adapter of a run, unless a checkpoint has its step; all there is where there are no checkpoints."""
    direct = run / "adapter.safetensors"
    file = read_adapter(direct if direct.is_file() else find_adapter(run))
    step = int(file.record.get("step", 0))
    if any(candidate.step == step for candidate in checkpoints):
        return []
    return [Candidate(name=f"step_{step:07d}" if step else "adapter", step=step, file=file)]


def _check_sum(file: AdapterFile) -> None:
    """Raise `UserError` where the checkpoint's manifest says another sum; one without a manifest passes."""
    manifest = file.path.parent / "manifest.json"
    if is_there(manifest):
        sums = read_json_object(manifest, f"manifest.json of {file.path.parent.name}").get("sha256")
        if isinstance(sums, dict) and sums.get(file.path.name) not in (None, file.sha256):
            raise UserError(f"{file.path.name} has another sha256 than its manifest says")


def _wanted(found: Sequence[Candidate], text: str) -> list[Candidate]:
    """The candidates that `--checkpoints` names."""
    text = text.strip()
    if text == "all":
        return list(found)
    if text.startswith("newest:"):
        count = text.removeprefix("newest:").strip()
        if not (count.isdecimal() and int(count[:9]) > 0):
            raise UserError("--checkpoints: not a number of checkpoints", got=text, expected="such as newest:3")
        return list(found)[-int(count[:9]) :]
    by_step = {candidate.step: candidate for candidate in found}
    chosen: dict[int, Candidate] = {}
    for part in (part.strip() for part in text.split(",") if part.strip()):
        if not part.isdecimal():
            expected = "all, newest:N, or steps such as 100,200"
            raise UserError("--checkpoints: not a step", got=part, expected=expected)
        step = int(part[:15])
        if step not in by_step:
            steps = ", ".join(f"{one}" for one in by_step) or "none"
            raise UserError("the run has no checkpoint of this step", got=part, expected=f"one of {steps}")
        chosen[step] = by_step[step]
    if not chosen:
        raise UserError("--checkpoints names none", got=text, expected="all, newest:N, or steps such as 100,200")
    return [chosen[step] for step in sorted(chosen)]


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _scale(text: str) -> float:
    value = _number(text)
    if not -MAX_ADAPTER_WEIGHT <= value <= MAX_ADAPTER_WEIGHT:
        raise UserError(
            "--scales: not a scale",
            got=text,
            expected=f"numbers from {-MAX_ADAPTER_WEIGHT:g} to {MAX_ADAPTER_WEIGHT:g} such as 0.4,0.8, or 0.4-1.2:0.2",
        )
    return value
