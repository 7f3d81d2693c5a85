"""Samples while training, inside a fence: nothing that goes wrong here ends a training.

In: a step. Out: `samples/step_0000100/00.png` with `00.txt` (its prompt) beside it, and `samples/sheet.png` (prompts x
steps). Each process generates its own part without talking to the others, with a deadline; what went wrong is gathered
afterwards as text.
"""

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from loraloom.config.run import SampleConfig
from loraloom.data.encode import TextStore, Wanted
from loraloom.generate.images import StoppedError, generate
from loraloom.generate.recipes import Recipe, save_image
from loraloom.generate.sheet import contact_sheet
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import DiffusionModel, Tensors
from loraloom.tracking import Tracker
from loraloom.train.checkpoint import CheckpointFolder
from loraloom.train.distributed import Runtime
from loraloom.train.optim import Ema
from loraloom.utils.atomic_files import sha256_file, write_text
from loraloom.utils.image_files import write_png
from loraloom.utils.reporting import log

_SHEET_COLUMNS = 12


@dataclass(slots=True, kw_only=True)
class Sampler:
    """Generates images of the fixed prompts of a run.

    Attributes:
        requests: One request for each prompt, with seeds that count up.
        texts: Gives the prompt embeddings.
        weighting: Whether `(word:1.3)` in a prompt is a weight: in those of the user, not in captions.
        method: `lora` or `full`; names what a recipe records.
    """

    folder: Path
    model: DiffusionModel
    texts: TextStore
    runtime: Runtime
    config: SampleConfig
    requests: Sequence[ImageRequest]
    weighting: bool
    method: str = "lora"

    def wanted(self) -> list[Wanted]:
        """All texts whose prompt embeddings the samples read."""
        both = {text: None for request in self.requests for text in (request.prompt, request.negative_prompt)}
        return [(text, self.weighting) for text in both]

    def lack(self, step: int) -> bool:
        """Whether an image of a step is missing: a kill or the deadline came before it."""
        return not all(self._path(step, index).is_file() for index in range(len(self.requests)))

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
        outcome = self._sample_share(step, ema, stop)
        faults = [text for text in self.runtime.gather_texts([outcome]) if text]
        if not self.runtime.is_main:
            return
        for fault in faults:
            log.warning(f"samples at step {step}: {fault}; training continues")
        try:
            for index, request in enumerate(self.requests):
                path = self._path(step, index)
                if path.is_file():
                    tracker.image(f"samples/{index:02d}", path, step, request.prompt)
            tracker.image("samples/sheet", self._write_sheet(), step, "prompts x steps")
        except (OSError, ValueError) as error:
            log.warning(f"the contact sheet was not written ({error}); training continues")
        tracker.event("samples", step, seconds=round(time.perf_counter() - began, 2), failed=len(faults))

    def _sample_share(self, step: int, ema: Ema | None, stop: Callable[[], bool]) -> str:
        """Generate this process's prompts; returns what went wrong, or nothing."""
        mine = range(self.runtime.rank, len(self.requests), self.runtime.num_devices)
        deadline = time.monotonic() + self.config.deadline_s
        modules, info = self.model.modules, self.model.info
        parts = [info.denoiser, *(info.text_encoders if self.texts.live else ())]
        training = [part.name for part in parts if modules.get(part.name).training]
        if ema:
            ema.swap()
        try:
            modules.place(info.vae.name, self.runtime.device, torch.float32)
            for part in training:
                modules.get(part).eval()
            images = generate(
                self.model,
                self._encode,
                [self.requests[index] for index in mine],
                autocast=self.runtime.autocast,
                stop=lambda: stop() or time.monotonic() > deadline,
            )
            with torch.compiler.set_stance("force_eager"):  # other shapes than training's: not worth a compilation
                for image in images:
                    path = self._path(step, mine[image.index])
                    save_image(path.parent, path.stem, image, self.recipe(image.request, step))
                    write_text(path.with_suffix(".txt"), image.request.prompt + "\n")
        except StoppedError:
            return "" if stop() else f"broken off after {self.config.deadline_s:.0f} s (samples.deadline_s)"
        except Exception as error:  # the fence: out of memory, a full disk, a bug, all alike
            return f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        finally:
            if ema:
                ema.swap()
            for part in training:
                modules.get(part).train()
            modules.drop(info.vae.name)
        return ""

    def _encode(self, prompts: Sequence[str]) -> list[Tensors]:
        with torch.inference_mode():
            return self.texts.states(prompts, weighting=self.weighting)

    def _path(self, step: int, index: int) -> Path:
        return self.folder / f"step_{step:07d}" / f"{index:02d}.png"

    def _write_sheet(self) -> Path:
        """All prompts x all steps that have images; with many steps, evenly chosen ones, first and last among them."""
        steps = sorted(int(m[1]) for p in self.folder.glob("step_*") if (m := re.fullmatch(r"step_(\d+)", p.name)))
        if len(steps) > _SHEET_COLUMNS:
            chosen = {round(i * (len(steps) - 1) / (_SHEET_COLUMNS - 1)) for i in range(_SHEET_COLUMNS)}
            steps = [steps[index] for index in sorted(chosen)]
        rows: list[list[Image.Image | None]] = []
        for index in range(len(self.requests)):
            row: list[Image.Image | None] = []
            for step in steps:
                path = self._path(step, index)
                if path.is_file():
                    with Image.open(path) as image:
                        row.append(image.convert("RGB"))
                else:
                    row.append(None)
            rows.append(row)
        sheet = contact_sheet(rows, [r.prompt for r in self.requests], [f"step {step}" for step in steps])
        path = self.folder / "sheet.png"
        write_png(path, sheet)
        return path
