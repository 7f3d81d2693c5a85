"""Several LoRAs from Python: load them by name, blend them, compare settings side by side.

In: places of LoRAs and prompts. Out: PIL images, each as `loraloom generate` makes it with the same settings.

    generator = MultiLoRAGenerator()
    generator.load_lora("runs/anime", "anime")
    generator.load_lora("runs/watercolor", "watercolor")
    images = generator.generate("a garden", [("anime", 0.6), ("watercolor", 0.4)], num_images=2, seed=7)
    compared = generator.generate_comparison("a garden", [[("anime", 1.0)], "switch: anime + watercolor"])
    generator.create_comparison_grid(compared, "grid.png")
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from loraloom.config.generate import GenerateConfig
from loraloom.config.reading import read_settings
from loraloom.generate.session import Session, open_session
from loraloom.generate.sheet import contact_sheet
from loraloom.lora.blend import Scale, Term, make_blend, name_of_place, parse_blend
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.protocols.model import ModelSource
from loraloom.utils.errors import UserError
from loraloom.utils.image_files import write_png

LoraConfigs = Sequence[tuple[str, Scale]] | str
"""Names with scales, added up; or a blend as text, see `loraloom.lora.blend`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Images of one prompt under several LoRA settings.

    Attributes:
        prompt: The prompt.
        labels: One for each setting; `base` for none.
        images: (settings, images), the same seeds in each row.
        seeds: One for each column.
    """

    prompt: str
    labels: tuple[str, ...]
    images: tuple[tuple[Image.Image, ...], ...]
    seeds: tuple[int, ...]


class MultiLoRAGenerator:
    """A base model with any number of loaded LoRAs.

    Args:
        model: Hub id, diffusers folder, checkpoint file or `builtin:mini`; None for the base that the first LoRA names.
        say: Takes lines for the user, such as that a trigger word is missing.
        settings: Any setting of `loraloom generate`, such as `steps=30` or `width=512`.

    Raises:
        UserError: A setting is unknown or out of its range, or the model cannot be opened.
    """

    def __init__(self, model: str | None = None, *, say: Callable[[str], None] = print, **settings: Any) -> None:
        self._config = read_settings(GenerateConfig, None, (), settings)
        self._say = say
        self._session: Session | None = None
        if model is not None:
            self._session = self._open(ModelSource(location=model), [])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the loaded LoRAs."""
        return self._session.adapters.names if self._session else ()

    def load_lora(self, path: str | Path, name: str | None = None) -> str:
        """Load a LoRA; it acts only where a call names it.

        Args:
            path: A run, a checkpoint or a file of any kind that is read.
            name: Letters, digits, `.`, `_` and `-`; None for the name of the file or run.

        Returns:
            Its name.

        Raises:
            UserError: It cannot be read or does not fit the model, or the name is in use.
        """
        place, name = Path(path), name or name_of_place(str(path))
        (term,) = parse_blend(f"{name}:0").terms
        if self._session is None:
            self._session = self._open(None, [(place, term)])
        else:
            self._session.load(place, term, self._say)
        return name

    def unload_lora(self, name: str) -> None:
        """Remove a LoRA; the base's weights are what they were, bit for bit.

        Raises:
            UserError: No LoRA has this name.
        """
        self._ready().unload(name)

    def generate(
        self,
        prompt: str,
        lora_configs: LoraConfigs = (),
        num_images: int = 1,
        seed: int = 0,
        **settings: Any,
    ) -> list[Image.Image]:
        """Images of a prompt.

        Args:
            prompt: Text.
            lora_configs: Which LoRAs act, and how strongly; empty for the base alone.
            num_images: Images; image k has the seed `seed + k`.
            seed: Seed of the first image.
            settings: Settings for this call alone.

        Raises:
            UserError: A name is not loaded, or a setting is wrong.
        """
        drawn = self._images([prompt], [lora_configs], num_images, seed, settings)
        return [image.image for image in drawn]

    def generate_comparison(
        self,
        prompt: str,
        lora_configs_list: Sequence[LoraConfigs],
        include_base: bool = True,
        num_images: int = 1,
        seed: int = 0,
        **settings: Any,
    ) -> Comparison:
        """The same prompt and seeds under several LoRA settings.

        Args:
            prompt: Text.
            lora_configs_list: One setting for each row.
            include_base: Put the base alone before them.
            num_images, seed, settings: As in `generate`.

        Raises:
            UserError: As in `generate`.
        """
        configs = [*([()] if include_base else []), *lora_configs_list]
        drawn = self._images([prompt], configs, num_images, seed, settings)
        rows = tuple(
            tuple(image.image for image in drawn[start : start + num_images])
            for start in range(0, len(drawn), num_images)
        )
        return Comparison(
            prompt=prompt,
            labels=tuple(_text(one) or "base" for one in configs),
            images=rows,
            seeds=tuple(range(seed, seed + num_images)),
        )

    def create_comparison_grid(self, comparison: Comparison, save_path: str | Path) -> Path:
        """Write a comparison as one PNG with labels; returns its path."""
        path = Path(save_path)
        columns = [f"seed {seed}" for seed in comparison.seeds]
        write_png(path, contact_sheet(comparison.images, comparison.labels, columns, cell_px=256))
        return path

    def _images(
        self,
        prompts: Sequence[str],
        configs: Sequence[LoraConfigs],
        num_images: int,
        seed: int,
        settings: dict[str, Any],
    ) -> list[GeneratedImage]:
        session = self._ready()
        before = session.config
        changed = {**before.model_dump(), **settings, "num_images": num_images, "seed": seed}
        session.config = read_settings(GenerateConfig, None, (), changed)
        try:
            requests: list[ImageRequest] = []
            for text in map(_text, configs):
                requests += [replace(request, loras=text) for request in session.requests(prompts)]
            for line in session.losses(requests):
                self._say(line)
            return list(session.generate(requests))
        finally:
            session.config = before

    def _ready(self) -> Session:
        if self._session is None:
            raise UserError("no model is open", fix="load a LoRA that names its base, or name a model")
        return self._session

    def _open(self, source: ModelSource | None, idle: Sequence[tuple[Path, Term]]) -> Session:
        return open_session(self._config, source=source, idle=idle, changing=True, say=self._say)


def _text(configs: LoraConfigs) -> str:
    """A setting as the text of a blend, checked."""
    if isinstance(configs, str):
        return str(parse_blend(configs))
    return str(make_blend(tuple(Term(name=name, scale=scale) for name, scale in configs)))
