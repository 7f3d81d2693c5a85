"""The interactive prompt: type a prompt, get an image, change a setting, generate again.

In: a session and lines of text. Out: saved images and lines for the user. A line that starts with `:` is a command, any
other is a prompt. Every command checks its value before an image is generated.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from loraloom.config.describing import leaves
from loraloom.config.generate import MAX_ADAPTER_WEIGHT
from loraloom.generate.images import check_size
from loraloom.generate.recipes import weight_text
from loraloom.generate.saving import generate_into
from loraloom.generate.session import Session
from loraloom.lora.stack import Scale
from loraloom.prompts.notes import Losses
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.locks import lock_folder
from loraloom.utils.progress import Progress
from loraloom.utils.untrusted import check_range, check_text
from loraloom.verify.best_of import formal_prompts, with_words

HELP = """\
  TEXT                generate images of this prompt; an empty line repeats the last prompt with the same seed
  :next               repeat the last prompt with the next seed
  :seed N             :steps N       :guidance X       :sampler NAME
  :size W H           :images N      :negative TEXT    (without TEXT: no negative prompt)
  :weight X [K]       scale of adapter K (the first is 1); scale 0 is the base model alone
  :show               show the settings
  :history            list the images;  :again K repeats entry K with its settings
  :help               show this list;   :quit ends"""


Bars = Callable[[], AbstractContextManager[Callable[[str], Progress]]]
"""Opens a display; it returns a progress callback for each titled task."""


@contextmanager
def no_bars() -> Iterator[Callable[[str], Progress]]:
    """A display that shows nothing."""
    yield lambda title: lambda done, total: None


@dataclass(slots=True)
class Interactive:
    """The state of one interactive session."""

    session: Session
    folder: Path
    say: Callable[[str], None]
    bars: Bars = no_bars
    prompt: str = ""
    history: list[tuple[ImageRequest, dict[str, Scale], Path]] = field(
        default_factory=list[tuple[ImageRequest, dict[str, Scale], Path]]
    )
    _losses: Losses = field(init=False)

    def __post_init__(self) -> None:
        self._losses = Losses(lambda line: self.say(f"  {line}"), self.session.config.strict)

    def run(self, read: Callable[[], str]) -> None:
        """Answer lines until `:quit` or the end of input (EOFError). An error is shown and the session continues."""
        self.say(HELP)
        while True:
            try:
                line = read().strip()
                if line in {":quit", ":q", ":exit"}:
                    return
                self.answer(line)
            except EOFError:
                return
            except UserError as error:
                self.say(f"error: {error}")
            except KeyboardInterrupt:
                self.say("interrupted; :quit ends")

    def answer(self, line: str) -> None:
        """Carry out one line.

        Raises:
            UserError: An unknown command or an invalid value.
        """
        if not line.startswith(":"):
            self.prompt = check_text(line, "the prompt") or self.prompt
            if not self.prompt:
                raise UserError("there is no prompt yet", fix="type a prompt")
            prompts = formal_prompts(self.session, [self.prompt], self._losses)
            requests = self.session.requests(prompts)
            self._generate(with_words(requests, [self.prompt] * len(requests)))
            return
        name, _, rest = line[1:].partition(" ")
        commands: dict[str, Callable[[str], None]] = {
            "next": self._next,
            "seed": self._number("seed", int),
            "steps": self._number("steps", int),
            "guidance": self._number("guidance_scale", float),
            "images": self._number("num_images", int),
            "sampler": self._sampler,
            "size": self._size,
            "negative": self._negative,
            "weight": self._weight,
            "show": self._show,
            "history": self._history,
            "again": self._again,
            "help": lambda _: self.say(HELP),
        }
        if name not in commands:
            raise UserError("unknown command", got=f":{name}", fix=did_you_mean(name, commands))
        commands[name](rest.strip())

    def _set(self, key: str, value: object) -> None:
        config = self.session.config
        try:
            self.session.config = type(config).model_validate({**config.model_dump(), key: value})
        except ValueError:
            expected = next(leaf.expected for leaf in leaves(type(config)) if leaf.key == key)
            raise UserError(f"{key} is out of range", got=value, expected=expected) from None

    def _number(self, key: str, kind: type[int] | type[float]) -> Callable[[str], None]:
        def act(text: str) -> None:
            try:
                value = kind(text)
                if not math.isfinite(value):
                    raise ValueError(text)
            except (ValueError, OverflowError):
                raise UserError(f"{key} must be a number", got=text) from None
            self._set(key, value)
            self._show("")

        return act

    def _next(self, _: str) -> None:
        self._set("seed", self.session.config.seed + 1)
        self.answer("")

    def _sampler(self, text: str) -> None:
        width, height = self.session.size
        self.session.model.sampler(text, 1, height, width)  # raises for an unknown name
        self._set("sampler", text)
        self._show("")

    def _size(self, text: str) -> None:
        parts = text.replace("x", " ").split()
        if len(parts) not in {1, 2} or not all(part.isdecimal() for part in parts):
            raise UserError("a size is a width and a height in pixels", got=text, expected=":size 512 512")
        size = (int(parts[0]), int(parts[-1]))
        check_size(self.session.model, ImageRequest(prompt="", width=size[0], height=size[1]))
        self.session.size = size
        self._show("")

    def _negative(self, text: str) -> None:
        self._set("negative_prompt", check_text(text, "the negative prompt"))
        self._show("")

    def _weight(self, text: str) -> None:
        parts = text.split()
        try:
            weight, number = float(parts[0]), int(parts[1]) if len(parts) > 1 else 1
        except (ValueError, IndexError):
            raise UserError("an adapter weight is a number", got=text, expected=":weight 0.8") from None
        check_range(weight, "an adapter weight", -MAX_ADAPTER_WEIGHT, MAX_ADAPTER_WEIGHT, whole=False)
        names = self.session.adapters.names
        if not 1 <= number <= len(names):
            raise UserError("no such adapter", got=number, expected=f"1 to {len(names)}")
        self.session.adapters.set_scales({names[number - 1]: weight})
        self._show("")

    def _show(self, _: str) -> None:
        config, size = self.session.config, self.session.size
        weights = _weights_text(self.session.adapters.scales)
        self.say(
            f"  seed {config.seed}  steps {config.steps}  guidance {self.session.guidance:g}  {config.sampler}  "
            f"{size[0]}x{size[1]}  images {config.num_images}  weight {weights}"
            + (f"  negative {config.negative_prompt!r}" if config.negative_prompt else "")
        )

    def _history(self, _: str) -> None:
        for number, (request, weights, path) in enumerate(self.history, 1):
            text = _weights_text(weights)
            self.say(f"  {number:3d}  {path.name}  seed {request.seed}  weight {text}  {request.prompt[:60]}")
        if not self.history:
            self.say("  no images yet")

    def _again(self, text: str) -> None:
        if not text.isdecimal() or not 1 <= int(text) <= len(self.history):
            raise UserError("no such entry", got=text, expected=f"1 to {len(self.history)}", fix=":history lists them")
        request, weights, _ = self.history[int(text) - 1]
        now = self.session.adapters.scales
        try:
            self.session.adapters.set_scales(weights)
            self._generate([request])
        finally:
            self.session.adapters.set_scales(now)

    def _generate(self, requests: list[ImageRequest]) -> None:
        weights = self.session.adapters.scales
        self._losses.add(*self.session.losses(requests))
        self._losses.check()
        for note in self.session.notes(requests):
            self.say(f"  {note}")
        with lock_folder(self.folder, self.say) as lock, self.bars() as bar:
            for path, image in generate_into(self.session, requests, lock, bar("steps")):
                self.history.append((image.request, weights, path))
                self.say(f"  {path}  seed {image.request.seed}  {self._met(image)}{image.seconds:.1f} s")

    def _met(self, image: GeneratedImage) -> str:
        """How many sentences of its prompt an image meets; empty if the domain has no verifier."""
        verifier = self.session.encoder.domain.verifier
        if verifier is None:
            return ""
        receipt = verifier.verify(image.image, image.request.prompt)
        return f"{receipt.count(True)}/{len(receipt.verdicts)} sentences met  "


def _weights_text(weights: Mapping[str, Scale]) -> str:
    return ", ".join(map(weight_text, weights.values())) or "no adapter"
