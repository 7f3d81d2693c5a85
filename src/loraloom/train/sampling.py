"""Samples while training, on every rank, inside a fence: nothing that goes wrong here ends a training.

In: a step. Out: `samples/step_0000100/gpu_0_sample.png` with `gpu_0_prompt.txt` beside it (further ones of a rank have
numbers: `gpu_0_sample_2.png`), and `samples/sheet.png` (prompts and ranks x steps). Each rank generates its own part at
the same time without talking to the others, with a deadline; what went wrong is gathered afterwards as text. The prompts
may come from a file that is read again before every round.
"""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from loraloom.config.run import SampleConfig
from loraloom.data.encode import TextStore, Wanted
from loraloom.generate.images import StoppedError, generate
from loraloom.generate.prompt_sets import find_prompts, read_prompts
from loraloom.generate.recipes import Recipe, read_rows, save_image
from loraloom.generate.sheet import contact_sheet
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, Tensors
from loraloom.tracking import Tracker
from loraloom.train.checkpoint import CheckpointFolder
from loraloom.train.distributed import Runtime
from loraloom.train.optim import Ema
from loraloom.train.signals import exit_if_late
from loraloom.utils.atomic_files import sha256_file, write_bytes, write_text
from loraloom.utils.errors import UserError
from loraloom.utils.heartbeat import node_name
from loraloom.utils.image_files import write_png
from loraloom.utils.reporting import log

MAX_ATTEMPTS = 2
"""Times that a rank may die in the samples of a step; then these samples are left out."""

_SHEET_COLUMNS = 12


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a rank's samples.

    Attributes:
        fault: What went wrong, or empty.
        seconds: Time that it took.
        files: Images (base64) of a rank on another machine, by file name.
    """

    fault: str
    seconds: float
    files: dict[str, str] = field(default_factory=dict[str, str])


def spread(requests: Sequence[ImageRequest], num_ranks: int, *, equal: bool = False) -> list[ImageRequest]:
    """At least one request for each rank, or `equal` numbers of them: prompts are repeated with further seeds."""
    count = len(requests)
    last = max(request.seed for request in requests)
    wanted = -(-count // num_ranks) * num_ranks if equal else num_ranks
    more = [replace(requests[k % count], seed=last + 1 + k - count) for k in range(count, wanted)]
    return [*requests, *more]


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Generates images of the prompts of a run.

    Attributes:
        requests: One request for each prompt, with seeds that count up, and at least one for each rank.
        texts: Gives the prompt embeddings.
        weighting: Whether `(word:1.3)` in a prompt is a weight: in those of the user, not in captions.
        method: `lora` or `full`; names what a recipe records.
        together: The denoiser's weights are split over the ranks, which gather them together: all generate equally many
            images, none breaks off, and an error of one ends the run.
    """

    folder: Path
    model: DiffusionModel
    texts: TextStore
    runtime: Runtime
    config: SampleConfig
    requests: Sequence[ImageRequest]
    weighting: bool
    method: str = "lora"
    together: bool = False

    def wanted(self) -> list[Wanted]:
        """All texts whose prompt embeddings the samples read."""
        both = {text: None for request in self.requests for text in (request.prompt, request.negative_prompt)}
        return [(text, self.weighting) for text in both]

    def lack(self, step: int) -> bool:
        """Whether an image of this rank's part of a step is missing: a kill or the deadline came before it."""
        return not all(self._image(step, index).is_file() for index in self._mine())

    def attempts(self, step: int) -> int:
        """How often this rank has died in the samples of a step."""
        try:
            return len(self._marker(step).read_bytes())
        except OSError:
            return 0

    def recipe(self, request: ImageRequest, step: int) -> Recipe:
        """All that decides the image of a request after `step` finished steps.

        The adapter is the checkpoint's of that step, named also where none was saved; after no step there is none.
        """
        source, full = self.model.info.source, self.folder.parent / "model"
        model = {
            "source": source.location,
            "revision": source.revision,
            "variant": source.variant,
            "config": source.config,
            "family": self.model.info.family,
            "sha256": self.model.modules.fingerprint(self.model.info.denoiser.name),
        }
        adapters: list[dict[str, Any]] = []
        if step and self.method == "full":
            model |= {"source": str(full), "revision": None, "variant": None, "config": None, "sha256": None}
        elif step:
            file = CheckpointFolder(self.folder.parent / "checkpoints").path(step) / "adapter.safetensors"
            sha256 = sha256_file(file) if file.is_file() else ""
            adapters.append({"path": str(file), "sha256": sha256, "weight": 1.0})
        encoder = self.texts.encoder
        return Recipe(
            request=request,
            model=model,
            adapters=adapters,
            prompt_method=encoder.method,
            domain=encoder.domain.name,
            weighting=self.weighting,
            precision=self.runtime.precision,
        )

    def sample(self, step: int, ema: Ema | None, tracker: Tracker, stop: Callable[[], bool]) -> None:
        """Generate the samples of `step` finished steps. Never raises for what goes wrong in it."""
        began = time.perf_counter()
        if not self._begin(step):
            return
        fault = self._sample_share(step, ema, stop)
        if fault and not self.runtime.on_main_machine:
            fault += f" (on {node_name()})"
        outcome = Outcome(fault=fault, seconds=time.perf_counter() - began, files=self._to_send(step))
        rows = [json.loads(text) for text in self.runtime.gather_texts([json.dumps(asdict(outcome))])]
        if not self.runtime.is_main:
            return
        outcomes = [Outcome(**row) for row in rows]
        for rank, one in enumerate(outcomes):
            if one.fault:
                log.warning(f"samples at step {step}: {self._name(rank)}{one.fault}; training continues")
        try:
            for one in outcomes:
                for name, data in one.files.items():
                    if not (self._folder(step) / name).is_file():
                        write_bytes(self._folder(step) / name, base64.b64decode(data))
            for index, request in enumerate(self.requests):
                path = self._image(step, index)
                if path.is_file():
                    tracker.image(f"samples/{path.stem}", path, step, request.prompt)
            tracker.image("samples/sheet", self._write_sheet(), step, "prompts x steps")
        except (OSError, ValueError, UserError) as error:
            log.warning(f"the contact sheet was not written ({error}); training continues")
        tracker.event(
            "samples",
            step,
            seconds=round(time.perf_counter() - began, 2),
            failed=sum(bool(one.fault) for one in outcomes),
            rank_seconds=[round(one.seconds, 2) for one in outcomes],
        )

    def _begin(self, step: int) -> bool:
        """Before the fence, while all ranks are at the same place: read the prompts again; see who died here before.

        Returns whether to sample.
        """
        texts, fault = self._edited() if self.runtime.is_main else (None, "")
        mine = {"texts": texts, "attempts": self.attempts(step)}
        rows = [json.loads(text) for text in self.runtime.gather_texts([json.dumps(mine)])]
        if fault:
            log.warning(f"sample prompts: {fault}; those before are used, and training continues")
        if rows[0]["texts"]:
            self._use(rows[0]["texts"])
        died = [rank for rank, row in enumerate(rows) if row["attempts"] >= MAX_ATTEMPTS]
        if died:
            log.warning(
                f"samples at step {step} are left out: {self._name(died[0])}the process ended in them {MAX_ATTEMPTS} times"
            )
        return not died

    def _edited(self) -> tuple[list[str] | None, str]:
        """The prompts of the file where they have changed, and what is wrong with it."""
        if self.config.prompt_file is None:
            return None, ""
        try:
            prompts = [*self.config.prompts, *read_prompts(find_prompts(self.config.prompt_file))]
            if prompts == list(dict.fromkeys(request.prompt for request in self.requests)):
                return None, ""
            for prompt in prompts:
                self.texts.encoder.plan(prompt, weighting=self.weighting)
        except UserError as error:
            return None, " ".join(str(error).split())
        except Exception as error:  # a tokenizer's own errors, too, are no reason to stop
            return None, f"{type(error).__name__}: {error}"
        return prompts, ""

    def _use(self, prompts: Sequence[str]) -> None:
        """Sample these prompts from now on."""
        first = self.requests[0]
        requests = [replace(first, prompt=text, seed=self.config.seed + k) for k, text in enumerate(prompts)]
        self.requests = spread(requests, self.runtime.num_devices, equal=self.together)
        log.info(f"sample prompts: {len(prompts)} from {self.config.prompt_file}")

    def _sample_share(self, step: int, ema: Ema | None, stop: Callable[[], bool]) -> str:
        """Generate this rank's prompts; returns what went wrong, or nothing.

        Out of memory, the images that are missing are tried once more with half their sides.
        """
        limit = self.config.deadline_s
        deadline = time.monotonic() + limit
        missing = {index: self.requests[index] for index in self._mine()}
        count = len(missing)

        def ends() -> bool:
            return not self.together and (stop() or time.monotonic() > deadline)

        try:
            # A rank that is stuck holds all others up: it ends, and with it the gang; a run alone may take its time.
            patience = limit + max(5.0, limit / 2) if self.runtime.num_devices > 1 else 0.0
            with self._marked(step), exit_if_late(patience), self._ready(ema):
                try:
                    self._generate(step, missing, ends)
                except torch.OutOfMemoryError:
                    if self.together or not (smaller := self._smaller(missing)):
                        raise
                    torch.cuda.empty_cache()
                    self._generate(step, smaller, ends)
                    sizes = " and ".join(dict.fromkeys(f"{one.width}x{one.height}" for one in missing.values()))
                    return f"out of memory at {sizes}: {len(missing)} of {count} images have half these sides"
        except StoppedError:
            made = sum(self._image(step, index).is_file() for index in self._mine())
            late = f"broken off after {limit:.0f} s (samples.deadline_s) with {made} of {count} images"
            return "" if stop() else late
        except torch.OutOfMemoryError as error:
            if self.together:
                raise
            torch.cuda.empty_cache()
            return f"out of memory: {_first_line(error)}"
        except Exception as error:  # the fence: a full disk, a bug, all alike
            if self.together:
                raise
            return f"{type(error).__name__}: {_first_line(error)}"
        return ""

    def _generate(self, step: int, missing: dict[int, ImageRequest], ends: Callable[[], bool]) -> None:
        """Generate and save requests by their number; each that is saved is taken out of `missing`."""
        numbers = list(missing)
        images = generate(self.model, self._encode, list(missing.values()), autocast=self.runtime.autocast, stop=ends)
        for image in images:
            index = numbers[image.index]
            path = self._image(step, index)
            save_image(path.parent, path.stem, image, self.recipe(image.request, step))
            write_text(self._prompt(path), image.request.prompt + "\n")
            del missing[index]

    def _smaller(self, missing: dict[int, ImageRequest]) -> dict[int, ImageRequest]:
        """The requests with half their sides; none when a side would be too short for the model."""
        unit = self.model.info.size_multiple
        halves = {
            index: replace(one, width=one.width // 2 // unit * unit, height=one.height // 2 // unit * unit)
            for index, one in missing.items()
        }
        return halves if all(min(one.width, one.height) >= unit for one in halves.values()) else {}

    @contextmanager
    def _ready(self, ema: Ema | None) -> Iterator[None]:
        """The modules as sampling requires them, and afterwards as training does."""
        modules, info = self.model.modules, self.model.info
        parts = [info.denoiser, *(info.text_encoders if self.texts.live else ())]
        training = [part.name for part in parts if modules.get(part.name).training]
        if ema:
            ema.swap()
        try:
            modules.place(info.vae.name, self.runtime.device, torch.float32)
            for part in training:
                modules.get(part).eval()
            with torch.compiler.set_stance("force_eager"):  # other shapes than training's: not worth a compilation
                yield
        finally:
            if ema:
                ema.swap()
            for part in training:
                modules.get(part).train()
            modules.drop(info.vae.name)
            if not self.texts.live:  # read again for a prompt that was edited
                for part in info.text_encoders:
                    modules.drop(part.name)

    @contextmanager
    def _marked(self, step: int) -> Iterator[None]:
        """A file as long as the number of attempts stands while this rank is at work: a process that dies leaves it."""
        marker = self._marker(step)
        marker.parent.mkdir(parents=True, exist_ok=True)
        marker.write_bytes(b"x" * (self.attempts(step) + 1))
        try:
            yield
        finally:
            marker.unlink(missing_ok=True)

    def _encode(self, prompts: Sequence[str]) -> list[Tensors]:
        with torch.inference_mode():
            return self.texts.states(prompts, weighting=self.weighting)

    def _mine(self) -> range:
        return range(self.runtime.rank, len(self.requests), self.runtime.num_devices)

    def _name(self, rank: int) -> str:
        return f"rank {rank}: " if self.runtime.num_devices > 1 else ""

    def _folder(self, step: int) -> Path:
        return self.folder / f"step_{step:07d}"

    def _image(self, step: int, index: int) -> Path:
        number, rank = divmod(index, self.runtime.num_devices)
        return self._folder(step) / f"gpu_{rank}_sample{f'_{number + 1}' if number else ''}.png"

    def _prompt(self, image: Path) -> Path:
        return image.with_name(image.stem.replace("sample", "prompt") + ".txt")

    def _marker(self, step: int) -> Path:
        return self._folder(step) / f".gpu_{self.runtime.rank}.attempts"

    def _to_send(self, step: int) -> dict[str, str]:
        """This rank's images where the main process may not see this disk."""
        if self.runtime.on_main_machine:
            return {}
        paths = [self._image(step, index) for index in self._mine()]
        return {path.name: base64.b64encode(path.read_bytes()).decode() for path in paths if path.is_file()}

    def _write_sheet(self) -> Path:
        """All prompts x all steps that have images; with many steps, evenly chosen ones, first and last among them.

        A row is a prompt with a seed, whichever rank sampled it: an edited prompt begins another row.
        """
        steps = sorted(int(m[1]) for p in self.folder.glob("step_*") if (m := re.fullmatch(r"step_(\d+)", p.name)))
        if len(steps) > _SHEET_COLUMNS:
            chosen = {round(i * (len(steps) - 1) / (_SHEET_COLUMNS - 1)) for i in range(_SHEET_COLUMNS)}
            steps = [steps[index] for index in sorted(chosen)]
        rows: dict[tuple[str, int], list[Image.Image | None]] = {}
        ranks: dict[tuple[str, int], str] = {}
        for column, step in enumerate(steps):
            for path in sorted(self._folder(step).glob("gpu_*_sample*.png"), key=_in_order):
                (row,) = read_rows(path)
                key = (str(row.get("prompt", "")), int(row.get("seed", 0)))
                with Image.open(path) as image:
                    rows.setdefault(key, [None] * len(steps))[column] = image.convert("RGB")
                ranks[key] = f"GPU {_in_order(path)[1]}: "
        headings = [f"{ranks[key] if self.runtime.num_devices > 1 else ''}{key[0]}" for key in rows]
        sheet = contact_sheet(list(rows.values()), headings, [f"step {step}" for step in steps])
        path = self.folder / "sheet.png"
        write_png(path, sheet)
        return path


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "")


def _in_order(path: Path) -> tuple[int, int]:
    """Its number on its rank, then its rank."""
    match = re.fullmatch(r"gpu_(\d+)_sample(?:_(\d+))?", path.stem)
    return (int(match[2] or 1), int(match[1])) if match else (0, 0)
