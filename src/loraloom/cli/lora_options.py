"""The LoRAs that a command names: `--adapter`, `--lora`, `<lora:...>` in prompts, and a folder to find these in.

In: what was typed. Out: `NamedLoras`: places with their terms, those that act by themselves and those that only prompts
name, and each prompt with the blend that its own tags ask for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from loraloom.generate.session import terms_of
from loraloom.lora.blend import Scale, Term, make_blend, parse_lora_option, split_tags
from loraloom.utils.errors import UserError, did_you_mean


@dataclass(slots=True, kw_only=True)
class NamedLoras:
    """The LoRAs of one command.

    Attributes:
        loaded: Place and term of those that act in every prompt.
        idle: Place and term of those that act only where a prompt names them.
        method, switch_every: How they are blended, see `lora.blend`.
        folder: Where `<lora:name:1>` is looked for; None for nowhere.
    """

    loaded: list[tuple[Path, Term]]
    method: str = "sum"
    switch_every: int = 1
    folder: Path | None = None
    idle: list[tuple[Path, Term]] = field(default_factory=list[tuple[Path, Term]])

    def __post_init__(self) -> None:
        """Raise `UserError` for terms that cannot be blended."""
        make_blend(tuple(term for _, term in self.loaded), self.method, self.switch_every)

    @property
    def paths(self) -> list[Path]:
        """The places of those that act by themselves."""
        return [place for place, _ in self.loaded]

    def read_prompt(self, prompt: str) -> tuple[str, str | None]:
        """A prompt without its tags, and the blend that they ask for; None where it has none.

        A tag sets the scale of a loaded LoRA for this prompt, or adds one that is found in the folder.

        Raises:
            UserError: A tag names a LoRA that is not known, or its scale is no number.
        """
        text, tags = split_tags(prompt)
        if not tags:
            return prompt, None
        terms = {term.name: term for _, term in self.loaded}
        for tag in tags:
            if tag.name in terms:
                terms[tag.name] = replace(terms[tag.name], scale=tag.scale)
                continue
            if tag.name not in {term.name for _, term in self.idle}:
                self.idle.append((self._find(tag.name), replace(tag, scale=0.0)))
            terms[tag.name] = tag
        return text, str(make_blend(tuple(terms.values()), self.method, self.switch_every))

    def _find(self, name: str) -> Path:
        """The run or file of this name in the folder."""
        places = _places(self.folder) if self.folder else {}
        if name in places:
            return places[name]
        known = [*(term.name for _, term in self.loaded), *places]
        fix = "load it with --lora PLACE, or name the folder that holds it with --lora-dir"
        raise UserError(
            "a prompt names a LoRA that is not loaded",
            got=f"<lora:{name}:...>",
            fix=f"{did_you_mean(name, known)}; {fix}" if known else fix,
        )


def named_loras(
    adapters: Sequence[tuple[Path, Scale | Term]],
    loras: Sequence[str],
    *,
    method: str = "sum",
    switch_every: int = 1,
    folder: Path | None = None,
) -> NamedLoras:
    """The LoRAs that options name.

    Raises:
        UserError: A text that is none, two of one name, or a method that cannot blend them.
    """
    options = [parse_lora_option(text) for text in loras]
    terms = terms_of(adapters)
    loaded = [
        *((place, term) for (place, _), term in zip(adapters, terms, strict=True)),
        *((Path(place), term) for place, term in options),
    ]
    return NamedLoras(loaded=loaded, method=method, switch_every=switch_every, folder=folder)


def with_triggers(prompt: str, triggers: Sequence[str]) -> str:
    """A prompt that begins with the triggers which it lacks."""
    missing = [trigger for trigger in triggers if trigger.lower() not in prompt.lower()]
    return ", ".join([*missing, prompt]) if missing else prompt


def _places(folder: Path) -> dict[str, Path]:
    """The adapters in a folder by name: `name.safetensors`, and the folders of runs."""
    if not folder.is_dir():
        raise UserError("--lora-dir is not a folder", got=str(folder))
    found: dict[str, Path] = {}
    for entry in sorted(folder.iterdir()):
        if entry.suffix == ".safetensors":
            found[entry.stem] = entry
        elif entry.is_dir() and ((entry / "adapter.safetensors").is_file() or (entry / "checkpoints").is_dir()):
            found.setdefault(entry.name, entry)
    return found
