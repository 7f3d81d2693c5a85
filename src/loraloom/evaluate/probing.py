"""Ask the denoiser about captions on pure noise, with the adapter on and off: what the metric `score_difference` reads.

In: a session with one adapter, captions. Out: for each caption the norm of the guidance vector where there is much noise
and its cosine with the unconditional noise prediction where there is little. Two pairs of forward passes a caption and
adapter state; no image is generated (Asthana & Belagiannis, arXiv 2601.20642).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from loraloom.evaluate.generating import set_scale
from loraloom.generate.session import Session
from loraloom.protocols.evaluation import Sample
from loraloom.protocols.model import ImageGeometry, NoiseSchedule
from loraloom.utils.progress import Progress
from loraloom.utils.rng import normal

MUCH_NOISE, LITTLE_NOISE = 0.98, 0.02
"""Where on the forward process the denoiser is asked, as shares of its steps."""


def probes(
    session: Session,
    captions: Sequence[tuple[str, bool]],
    weight: float,
    seed: int,
    progress: Progress | None = None,
) -> list[Sample]:
    """One sample a caption.

    Args:
        session: With one adapter, opened as `changing`.
        captions: Each with whether it was held out.
        weight: Scale of the adapter where it is on.
        seed: Decides the noise, which is the same with the adapter on and off.
        progress: Called with captions done and all; both states count.
    """
    found: dict[str, list[tuple[float, float]]] = {}
    for number, (state, scale) in enumerate((("on", weight), ("off", 0.0))):
        set_scale(session, scale)
        found[state] = []
        for index, (caption, _) in enumerate(captions):
            found[state].append(_probe(session, caption, seed, index))
            if progress:
                progress(number * len(captions) + index + 1, 2 * len(captions))
    set_scale(session, weight)
    samples: list[Sample] = []
    for index, (caption, held_out) in enumerate(captions):
        (norm_on, cosine_on), (norm_off, cosine_off) = found["on"][index], found["off"][index]
        numbers = {"norm_on": norm_on, "norm_off": norm_off, "cosine_on": cosine_on, "cosine_off": cosine_off}
        samples.append(
            Sample(role="probe", id=f"probe/{index:05d}", prompt=caption, numbers=numbers, held_out=held_out, seed=seed)
        )
    return samples


@torch.inference_mode()
def _probe(session: Session, caption: str, seed: int, index: int) -> tuple[float, float]:
    """Norm of the guidance vector at much noise, over the square root of its size; its cosine at little noise."""
    info = session.model.info
    width, height = session.size
    shape = (info.latent_channels, height // info.vae_scale_factor, width // info.vae_scale_factor)
    noise_bchw = normal(shape, seed, "probe", index)[None].to(session.device)
    schedule = info.schedule
    much, little = (round(share * (schedule.num_timesteps - 1)) for share in (MUCH_NOISE, LITTLE_NOISE))
    empty_bchw, asked_bchw = _answers(session, caption, noise_bchw, much)
    norm = float((asked_bchw - empty_bchw).norm()) / noise_bchw.numel() ** 0.5
    empty_bchw, asked_bchw = _answers(session, caption, noise_bchw, little)
    guidance, unconditional = (asked_bchw - empty_bchw).flatten(), _noise(schedule, empty_bchw, noise_bchw, little)
    return norm, float(torch.nn.functional.cosine_similarity(guidance, unconditional.flatten(), dim=0))


def _answers(session: Session, caption: str, noise_bchw: Tensor, step: int) -> tuple[Tensor, Tensor]:
    """The denoiser's answers without and with the caption, each (1, c, h, w) float32."""
    width, height = session.size
    size = (width, height)
    geometry = [ImageGeometry(original=size, crop=(0, 0), target=size)] * 2
    model = session.model
    scale = session.guidance if model.info.guidance == "embedded" else None
    conditioning = model.condition(session.encode(["", caption]), geometry, scale)
    conditioning = {name: tensor.to(session.device) for name, tensor in conditioning.items()}
    timesteps_b = model.info.schedule.timestep_t[step].float().to(session.device).expand(2)
    with session.autocast():
        empty_bchw, asked_bchw = model.predict(torch.cat([noise_bchw] * 2), timesteps_b, conditioning).float().chunk(2)
    return empty_bchw, asked_bchw


def _noise(schedule: NoiseSchedule, answer_bchw: Tensor, noisy_bchw: Tensor, step: int) -> Tensor:
    """The predicted noise; the score is its negative over sigma, as the guidance's is: cosines agree."""
    if schedule.prediction_type == "epsilon":
        return answer_bchw
    signal, sigma = float(schedule.signal_t[step]), float(schedule.sigma_t[step])
    if schedule.prediction_type == "v_prediction":
        return signal * answer_bchw + sigma * noisy_bchw
    return noisy_bchw + signal * answer_bchw
