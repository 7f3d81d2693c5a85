"""Draw, judge, choose, repair: images whose texts are checked against their pixels.

In: a session whose domain has a judge, and requests. Out: for each request the best of N images by receipt, its failed
parts drawn again if that is asked for, and how much either gained.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from loraloom import plugins
from loraloom.generate.images import Contrast, Held, denoise, to_images
from loraloom.generate.session import Session
from loraloom.prompts.notes import Losses
from loraloom.protocols.domain import Receipt, Verifier
from loraloom.protocols.generation import GeneratedImage, ImageRequest
from loraloom.utils.atomic_files import write_json
from loraloom.utils.errors import UserError
from loraloom.utils.image_files import write_png
from loraloom.utils.progress import Progress
from loraloom.utils.rng import derive_seed, normal


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedImage:
    """A chosen image.

    Attributes:
        image: With the request that draws it, repairs apart.
        receipt: Of the image as it is now.
        shares: Share of sentences met: mean over the candidates, of the chosen one, after repair.
        complete: How many candidates of all met every sentence.
        candidates: How many were drawn.
        repairs: Tries of repair that were kept.
    """

    image: GeneratedImage
    receipt: Receipt
    shares: tuple[float, float, float]
    complete: int
    candidates: int
    repairs: int


def _verifying_domains() -> list[str]:
    return [name for name in plugins.names("domains") if plugins.load("domains", name).verifier is not None]


def require_verifier(session: Session) -> Verifier:
    """The domain's judge.

    Raises:
        UserError: The domain cannot judge.
    """
    verifier = session.encoder.domain.verifier
    if verifier is None:
        raise UserError(
            f"the domain {session.encoder.domain.name} cannot judge images",
            fix="choose a --domain that can: " + ", ".join(_verifying_domains()),
        )
    return verifier


def candidate_requests(requests: Sequence[ImageRequest], best_of: int) -> list[list[ImageRequest]]:
    """For each request `best_of` requests; the first is itself, the others have seeds made from its own."""
    return [
        [request, *(replace(request, seed=derive_seed(request.seed, "candidate", n) >> 32) for n in range(1, best_of))]
        for request in requests
    ]


def generate_verified(
    session: Session,
    requests: Sequence[ImageRequest],
    *,
    progress: Progress | None = None,
) -> Iterator[VerifiedImage]:
    """The best image for each request, in order; `session.config` says best of how many, and whether to repair.

    Raises:
        UserError: The domain cannot judge, or a prompt contradicts itself: told before anything is drawn.
    """
    verifier, config = require_verifier(session), session.config
    check_prompts(verifier, [request.prompt for request in requests])
    groups = candidate_requests(requests, config.best_of)
    total = sum(request.num_steps for group in groups for request in group)
    before = 0
    for index, group in enumerate(groups):
        step = (lambda done, _, before=before: progress(before + done, total)) if progress else None
        drawn = list(session.draw(group, step))
        before += sum(request.num_steps for request in group)
        receipts = [verifier.verify(image.image, image.request.prompt) for image in drawn]
        place = min(range(len(drawn)), key=lambda number: receipts[number].rank)
        best, receipt = replace(drawn[place], index=index), receipts[place]
        best = replace(best, seconds=sum(image.seconds for image in drawn))
        mean = sum(each.share_met for each in receipts) / len(receipts)
        chosen, repairs = receipt.share_met, 0
        if config.repair:
            best, receipt, repairs = repair(session, verifier, best, receipt, config.repair_rounds)
        yield VerifiedImage(
            image=best,
            receipt=receipt,
            shares=(mean, chosen, receipt.share_met),
            complete=sum(each.complete for each in receipts),
            candidates=len(drawn),
            repairs=repairs,
        )


def formal_prompts(session: Session, prompts: Sequence[str], losses: Losses) -> list[str]:
    """Prompts in the words that the domain's models are taught; the domain's notes are said.

    Words that are not read as they stand are added to `losses`, which makes an error of them with `strict`.
    """
    verifier = session.encoder.domain.verifier
    if verifier is None:
        return list(prompts)
    formal: list[str] = []
    for prompt in prompts:
        text, notes = verifier.formal(prompt)
        unread = verifier.unread(prompt).lines
        for note in notes:
            (losses.add if note in unread else losses.say)(f"note: {note}")
        formal.append(text)
    return formal


def with_words(requests: Sequence[ImageRequest], words: Sequence[str]) -> list[ImageRequest]:
    """Requests that keep what the user wrote, so that a recipe brings the same receipts again."""
    pairs = zip(requests, words, strict=True)
    return [replace(request, words=words if words != request.prompt else "") for request, words in pairs]


def say_unread(verifier: Verifier, requests: Sequence[ImageRequest], losses: Losses) -> None:
    """Add what is not read of the words behind the requests of a recipe, as when they were written."""
    for words in dict.fromkeys(request.words for request in requests if request.words):
        for line in verifier.unread(words).lines:
            losses.add(f"note: {line}")


def check_prompts(verifier: Verifier, prompts: Sequence[str]) -> None:
    """Raise `UserError` for prompts that no image can meet, all at once."""
    wrong = {prompt: problems for prompt in dict.fromkeys(prompts) if (problems := verifier.check(prompt))}
    if wrong:
        listed = "\n  ".join(
            f"“{' '.join(prompt.split())[:50]}…”: {'; '.join(lines)}" for prompt, lines in wrong.items()
        )
        raise UserError(f"{len(wrong)} of the prompts cannot be met by any image:\n  {listed}", fix="correct them")


def repair(
    session: Session, verifier: Verifier, source_image: GeneratedImage, receipt: Receipt, rounds: int
) -> tuple[GeneratedImage, Receipt, int]:
    """Draw failed parts again, up to `rounds` times with fresh noise; a try is kept when its receipt ranks higher.

    Every step is guided from the text that the image shows towards the prompt, by the session's `repair_guidance`: what
    failed once with the usual guidance mostly fails again (decisions 0020 and 0021).

    Returns:
        The image, its receipt, and how many tries were kept.
    """
    kept = 0
    for number in range(rounds):
        free = verifier.repair_mask(source_image.image, source_image.request.prompt)
        if free is None:
            break
        shown = verifier.shown_text(source_image.image, source_image.request.text)
        image = redraw(session, source_image, free, number, shown)
        again = verifier.verify(image, source_image.request.prompt)
        if again.rank < receipt.rank:
            source_image, receipt, kept = replace(source_image, image=image), again, kept + 1
    return source_image, receipt, kept


def redraw(
    session: Session, image: GeneratedImage, free_hw: NDArray[np.bool_], number: int, shown: str | None = None
) -> Image.Image:
    """The image with its free pixels drawn again; all others stay as they are, bit for bit.

    Args:
        session: Draws.
        image: Its size must be its request's.
        free_hw: (height, width) bool.
        number: Of the try; decides the noise together with the seed.
        shown: The request's text made true of the image; None or that text itself is no guidance away from it.
    """
    toward = session.config.repair_guidance
    contrast = Contrast([shown], toward) if toward and shown is not None and shown != image.request.text else None
    model, request = session.model, image.request
    scale = model.info.vae_scale_factor
    height, width = free_hw.shape
    cells_hw = free_hw.reshape(height // scale, scale, width // scale, scale).any((1, 3))
    pixels_hwc = np.array(image.image.convert("RGB"))
    pixels_chw = torch.from_numpy(np.ascontiguousarray(pixels_hwc.transpose(2, 0, 1))).float() / 127.5 - 1
    with torch.inference_mode():
        mean_bchw, _ = model.encode_images(pixels_chw[None].to(session.device))
        held = Held(model.scale_latents(mean_bchw), torch.from_numpy(cells_hw))
    noise_bchw = normal(tuple(mean_bchw.shape), request.seed, "repair", number)
    latents_bchw = denoise(
        model,
        session.encode,
        [request],
        autocast=session.autocast,
        noise_bchw=noise_bchw,
        held=held,
        contrast=contrast,
        blending=session.blending(request),
    )
    drawn_hwc = np.array(to_images(model, latents_bchw)[0])
    inside_hw = np.kron(cells_hw, np.ones((scale, scale), np.bool_))
    return Image.fromarray(np.where(inside_hw[..., None], drawn_hwc, pixels_hwc))


def save_receipt(folder: Path, name: str, verified: VerifiedImage, verifier: Verifier, words: str = "") -> Path:
    """Write `receipts/NAME.json` and `receipts/NAME.png`, the overlay; returns the JSON's path.

    Args:
        folder: Of the images.
        name: Of the image, without its suffix.
        judged: The image with its receipt.
        judge: Draws the overlay.
        words: The prompt as the user wrote it; empty where it is the request's.
    """
    place = folder / "receipts"
    path = place / f"{name}.json"
    write_json(
        path, {"prompt": verified.image.request.prompt, "repairs": verified.repairs, **verified.receipt.as_json()}
    )
    write_png(place / f"{name}.png", verifier.overlay(verified.image.image, words or verified.image.request.prompt))
    return path


def gains(verified: Sequence[VerifiedImage], say: Callable[[str], None]) -> None:
    """Say how much choosing and repairing gained, over all images."""
    if not verified:
        return
    drawn, chosen, repaired = (float(np.mean([each.shares[part] for each in verified])) for part in range(3))
    best_of = verified[0].candidates
    first = f"sentences met: {drawn:.1%} of an image as drawn"
    if best_of > 1:
        first += f", {chosen:.1%} of the best of {best_of} ({chosen - drawn:+.1%})"
    if any(each.repairs for each in verified) or repaired != chosen:
        first += f", {repaired:.1%} after repair ({repaired - chosen:+.1%})"
    whole = sum(each.receipt.complete for each in verified)
    say(f"{first}; {whole} of {len(verified)} images meet every sentence")
