"""Generate N candidates per prompt, verify them, keep the best one, and repair it by inpainting.

In: a session whose domain has a verifier, and requests. Out: for each request the best of N images by receipt, repaired if
the settings say so, and how much each of the two gained.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from loraloom import plugins
from loraloom.generate.images import Contrast, InpaintRegion, denoise, to_images
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
    """The image that was kept for a request.

    Attributes:
        image: The image with the request that generates it, before repairs.
        receipt: Receipt of the final image.
        shares: Shares of sentences met, 0 .. 1: mean of the candidates, best candidate, after repair.
        complete: Number of candidates that met every sentence.
        candidates: Number of candidates.
        repairs: Number of repair attempts that were kept.
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
    """The domain's verifier.

    Raises:
        UserError: The domain has no verifier.
    """
    verifier = session.encoder.domain.verifier
    if verifier is None:
        raise UserError(
            f"the domain {session.encoder.domain.name} cannot verify images",
            fix="choose a --domain that can: " + ", ".join(_verifying_domains()),
        )
    return verifier


def candidate_requests(requests: Sequence[ImageRequest], best_of: int) -> list[list[ImageRequest]]:
    """`best_of` requests for each request: itself, then copies with seeds derived from its own."""
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
    """The best image for each request, in order; `session.config` sets the number of candidates and whether to repair.

    Raises:
        UserError: The domain has no verifier, or a prompt contradicts itself; raised before an image is generated.
    """
    verifier, config = require_verifier(session), session.config
    check_prompts(verifier, [request.prompt for request in requests])
    groups = candidate_requests(requests, config.best_of)
    total = sum(request.num_steps for group in groups for request in group)
    before = 0
    for index, group in enumerate(groups):
        step = (lambda done, _, before=before: progress(before + done, total)) if progress else None
        candidates = list(session.generate(group, step))
        before += sum(request.num_steps for request in group)
        receipts = [verifier.verify(image.image, image.request.prompt) for image in candidates]
        place = min(range(len(candidates)), key=lambda number: receipts[number].rank)
        best, receipt = replace(candidates[place], index=index), receipts[place]
        best = replace(best, seconds=sum(image.seconds for image in candidates))
        mean = sum(each.share_met for each in receipts) / len(receipts)
        chosen, repairs = receipt.share_met, 0
        if config.repair:
            best, receipt, repairs = repair(session, verifier, best, receipt, config.repair_rounds)
        yield VerifiedImage(
            image=best,
            receipt=receipt,
            shares=(mean, chosen, receipt.share_met),
            complete=sum(each.complete for each in receipts),
            candidates=len(candidates),
            repairs=repairs,
        )


def formal_prompts(session: Session, prompts: Sequence[str], losses: Losses) -> list[str]:
    """Prompts in the form that the domain's models are trained on; prints the domain's notes.

    Words that are ignored or ambiguous are added to `losses`, an error with `strict`.
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
    """Requests with the user's words, so that a recipe gives the same receipts again."""
    pairs = zip(requests, words, strict=True)
    return [replace(request, words=words if words != request.prompt else "") for request, words in pairs]


def say_unread(verifier: Verifier, requests: Sequence[ImageRequest], losses: Losses) -> None:
    """Add the unread words of the requests of a recipe to `losses`, as when the user typed them."""
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
        raise UserError(
            f"{len(wrong)} of the prompts describe images that cannot exist:\n  {listed}", fix="correct the prompts"
        )


def repair(
    session: Session, verifier: Verifier, source_image: GeneratedImage, receipt: Receipt, rounds: int
) -> tuple[GeneratedImage, Receipt, int]:
    """Inpaint the regions with faults, up to `rounds` times with new noise; an attempt is kept if its receipt ranks higher.

    Every step is guided from the text that describes the image towards the prompt, by the session's `repair_guidance`:
    with the usual guidance alone most attempts repeat the fault (decisions 0020 and 0021).

    Returns:
        The image, its receipt, and the number of attempts that were kept.
    """
    kept = 0
    for number in range(rounds):
        free = verifier.repair_mask(source_image.image, source_image.request.prompt)
        if free is None:
            break
        shown = verifier.shown_text(source_image.image, source_image.request.text)
        image = inpaint(session, source_image, free, number, shown)
        again = verifier.verify(image, source_image.request.prompt)
        if again.rank < receipt.rank:
            source_image, receipt, kept = replace(source_image, image=image), again, kept + 1
    return source_image, receipt, kept


def inpaint(
    session: Session, image: GeneratedImage, free_hw: NDArray[np.bool_], number: int, shown: str | None = None
) -> Image.Image:
    """The image with its free pixels inpainted; all others are unchanged, bit for bit.

    Args:
        session: Session that generated the image.
        image: The image, of the size of its request.
        free_hw: (height, width) bool, True for pixels that are replaced.
        number: Number of the attempt; determines the noise together with the seed.
        shown: The prompt changed to describe the image; None or the prompt itself: no contrast guidance.
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
        region = InpaintRegion(model.scale_latents(mean_bchw), torch.from_numpy(cells_hw))
    noise_bchw = normal(tuple(mean_bchw.shape), request.seed, "repair", number)
    latents_bchw = denoise(
        model,
        session.encode,
        [request],
        autocast=session.autocast,
        noise_bchw=noise_bchw,
        region=region,
        contrast=contrast,
        blending=session.blending([request]),
    )
    new_hwc = np.array(to_images(model, latents_bchw)[0])
    inside_hw = np.kron(cells_hw, np.ones((scale, scale), np.bool_))
    return Image.fromarray(np.where(inside_hw[..., None], new_hwc, pixels_hwc))


def save_receipt(folder: Path, name: str, verified: VerifiedImage, verifier: Verifier, words: str = "") -> Path:
    """Write `receipts/NAME.json` and `receipts/NAME.png`, the overlay; returns the JSON's path.

    Args:
        folder: Folder of the images.
        name: Name of the image file without suffix.
        verified: The image with its receipt.
        verifier: Renders the overlay.
        words: The prompt as the user wrote it; empty: that of the request.
    """
    place = folder / "receipts"
    path = place / f"{name}.json"
    write_json(
        path, {"prompt": verified.image.request.prompt, "repairs": verified.repairs, **verified.receipt.as_json()}
    )
    write_png(place / f"{name}.png", verifier.overlay(verified.image.image, words or verified.image.request.prompt))
    return path


def gains(verified: Sequence[VerifiedImage], say: Callable[[str], None]) -> None:
    """Print how much the choice of the best candidate and the repairs gained, over all images."""
    if not verified:
        return
    first_share, chosen, repaired = (float(np.mean([each.shares[part] for each in verified])) for part in range(3))
    best_of = verified[0].candidates
    first = f"sentences met: {first_share:.1%} of the mean candidate"
    if best_of > 1:
        first += f", {chosen:.1%} of the best of {best_of} ({chosen - first_share:+.1%})"
    if any(each.repairs for each in verified) or repaired != chosen:
        first += f", {repaired:.1%} after repair ({repaired - chosen:+.1%})"
    whole = sum(each.receipt.complete for each in verified)
    say(f"{first}; {whole} of {len(verified)} images meet every sentence")
