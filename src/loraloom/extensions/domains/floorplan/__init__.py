"""Floor plans: structured text to image and back, every sentence checked against the pixels.

In: captions such as "[Connection Between Rooms] living room #1 and bedroom #2 are connected." and images of plans. Out:
what the `Domain` contract asks for. The parts are imported when they are used, so that a caption alone costs little.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from loraloom.protocols.contracts import DomainContract
from loraloom.protocols.domain import DatasetGenerator, Domain, Receipt, Section, Unread, Verifier
from loraloom.utils.errors import UserError, did_you_mean

from .text.sections import sections_of
from .vocabulary import CLASS_NAMES, SIZE_PX, STYLES, style_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image

    from .text.spec import Spec
    from .vision.reading import Reading


class PlanGenerator:
    """Synthesizes plans with texts that are true of them."""

    styles = tuple(STYLES)
    kinds: Mapping[str, str] = {"plans": styles[0]}

    def draw(self, seed: int, style: str) -> "tuple[Image.Image, str]":
        """A plan and its full text in the file form; the empty style means `sjh`."""
        from PIL import Image

        from .render.painting import paint
        from .synthesis import synthesise
        from .text.spec import print_spec, spec_of

        style = style or "sjh"
        if style not in STYLES:
            raise UserError("unknown style of plans", got=style, fix=did_you_mean(style, STYLES))
        plan = synthesise(seed).plan
        return Image.fromarray(paint(plan.labels, style)), print_spec(spec_of(plan, style))

    def paraphrase(self, text: str, seed: int) -> str:
        """One third of the texts stay unchanged. In the others sentences are shuffled and reversed; half of these also
        lose a few sentences."""
        import numpy as np

        from loraloom.utils.rng import derive_seed

        from .augment import drop, shuffle, swap
        from .text.spec import parse_spec, print_spec

        rng = np.random.default_rng(derive_seed("retell", seed))
        way = int(rng.integers(3))
        if way == 0:
            return text
        spec = swap(shuffle(parse_spec(text), rng), rng)
        return print_spec(drop(spec, rng) if way == 2 else spec)

    def turned(self, image: "Image.Image", text: str) -> Sequence[str | None]:
        """Room numbers follow the moved pixels, direction words are turned; see `augment.turned_texts`."""
        import numpy as np

        from .augment import turned_texts
        from .render.painting import labels_of_exact
        from .vocabulary import style_of

        return turned_texts(text, labels_of_exact(np.asarray(image.convert("RGB")), style_of(text)))

    def facts(self, text: str) -> list[tuple[str, str, str]]:
        """Facts about kinds of rooms, without their numbers: (kitchen, left-of, living room), (kitchen, connected to,
        bedroom), (bedroom, count, 2)."""
        from .text.spec import parse_spec
        from .vocabulary import inverse

        try:
            spec = parse_spec(text)
        except UserError:
            return []
        facts = [(kind, "count", str(count)) for kind, count in spec.counts or ()]
        for a, b in spec.connections or ():
            facts += [(a.kind, "connected to", b.kind), (b.kind, "connected to", a.kind)]
        for position in spec.positions or ():
            a, b = position.subject.kind, position.object.kind
            facts += [(a, position.direction, b), (b, inverse(position.direction), a)]
        return facts

    def write_dataset(
        self,
        folder: Path,
        count: int,
        *,
        seed: int = 0,
        style: str = "",
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Write `input_text/`, `label_floorplan/` and `truth/`, with one process for each core."""
        from loraloom.utils.processes import usable_cores

        from .synthesis.dataset import write_dataset

        write_dataset(folder, count, seed, style or "sjh", progress, workers=usable_cores())


class PlanVerifier:
    """Reads a plan image and compares it with its text."""

    def check(self, prompt: str) -> list[str]:
        """Mistakes and contradictions in a text, one line each."""
        from .text.check import check_spec
        from .text.texts import spec_from_text

        try:
            spec = spec_from_text(prompt)
        except UserError as error:
            return [str(error).replace("\n ", ";")]
        return [problem.message for problem in check_spec(spec) if problem.kind == "error"]

    def formal(self, prompt: str) -> tuple[str, list[str]]:
        """Plain words become structured text; structured text is not changed."""
        from .text.spec import print_spec
        from .text.texts import spec_from_text

        notes: list[str] = []
        spec = spec_from_text(prompt, notes.append)
        return (prompt if "[" in prompt else print_spec(spec)), notes

    def unread(self, prompt: str) -> Unread:
        """Rooms and phrases that the rules do not understand, and names that may mean another room."""
        from .text.texts import unread_in

        return unread_in(prompt)

    def expand_prompt(self, prompt: str, seed: int) -> str:
        """The text with positions for rooms that have none, taken from a synthesized plan that fits the text."""
        from .text.filling import filled
        from .text.spec import print_spec
        from .text.texts import spec_from_text

        try:
            spec = spec_from_text(prompt)
        except UserError:
            return prompt
        more = filled(spec, seed)
        return prompt if more is spec else print_spec(more)

    def verify(self, image: "Image.Image", prompt: str) -> Receipt:
        """The receipt of an image."""
        return _compared(image, prompt)[2]

    def repair_mask(self, image: "Image.Image", prompt: str) -> "NDArray[np.bool_] | None":
        """The inpaint region, in the image's own size."""
        import numpy as np

        from .verify.repairing import repair_mask

        mask = repair_mask(*_compared(image, prompt))
        if mask is None:
            return None
        rows, columns = (np.arange(size) * SIZE_PX // size for size in (image.height, image.width))
        return mask[rows][:, columns]

    def shown_text(self, image: "Image.Image", prompt: str) -> str:
        """The text without connections and positions that are not met, with the counts and connections of the image."""
        from .verify.repairing import shown_text

        return shown_text(prompt, *_compared(image, prompt))

    def overlay(self, image: "Image.Image", prompt: str) -> "Image.Image":
        """The plan with the verdicts of its text marked on it."""
        from .render.overlay import draw_overlay

        _, reading, receipt = _compared(image, prompt)
        return draw_overlay(image, reading, receipt)


def _compared(image: "Image.Image", prompt: str) -> "tuple[Spec, Reading, Receipt]":
    """What a prompt asks for, what its image shows, and the verdicts."""
    from .text.texts import spec_from_text, unread_in
    from .verify.verifying import verify
    from .vision.reading import read
    from .vocabulary import style_of

    spec, reading = spec_from_text(prompt), read(image, style_of(prompt))
    return spec, reading, replace(verify(spec, reading), unread=unread_in(prompt))


class FloorPlans:
    """The `floorplan` domain."""

    name = "floorplan"
    dataset_generator: DatasetGenerator | None = PlanGenerator()
    verifier: Verifier | None = PlanVerifier()

    def sections(self, caption: str) -> list[Section]:
        """Header, counts, connections, positions, each with its sentences."""
        return sections_of(caption)

    def mirrored(self, caption: str) -> str | None:
        """The text of the mirrored plan; None where room numbers would change and the text alone does not tell how."""
        from .augment import mirrored

        return mirrored(caption)

    def colours(self, caption: str) -> Mapping[str, tuple[int, int, int]]:
        """The colours of `CLASS_NAMES` in the style that the caption's header names."""
        return dict(zip(CLASS_NAMES, style_of(caption).colours, strict=True))

    def describe(self, image: "Image.Image") -> str:
        """The structured text of the plan that the image shows, in the file form; see `DescribingDomain`."""
        from loraloom.utils.image_bytes import RefusedError

        from .cli.inputs import open_decoded
        from .text.spec import print_spec, spec_of

        place = Path("image")
        try:
            opened = open_decoded(place, image.convert("RGB"))
        except UserError as error:
            reason = error.what.removeprefix(f"{place} is no plan image: ").removeprefix(f"{place} ")
            got = f" ({error.got})" if error.got is not None else ""
            raise RefusedError(f"no plan can be read from it: {reason}{got}") from None
        return print_spec(spec_of(opened.plan, opened.style))

    def check_image(self, image: "Image.Image") -> str | None:
        """Whether the image's large flat areas have the colours of a style."""
        from .cli.inputs import foreign_colours

        if not (colours := foreign_colours(image)):
            return None
        return f"in colours of no known style, and `loraloom plan clean --palette FILE` converts them: {colours}"


DOMAIN: Domain = FloorPlans()

CONTRACT = DomainContract(
    captions=("[Number and Type of Rooms] The floorplan have 2 bedroom, 1 bathroom and 1 kitchen.",),
    image_size=(SIZE_PX, SIZE_PX),
    hopeless=("[Number and Type of Rooms] The floorplan have 3 flying saucer",),
)
