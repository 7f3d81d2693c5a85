"""A family as third parties write one, for the contract suite: rectified flow, two text encoders, all that may differ.

What it has and Stable Diffusion has not: a pooled embedding and a text of fixed length, embedded guidance, packed latents,
a learned sigma in the answer, sides that are multiples of more than one latent, adapters whose qkv other programs fuse, and
modules without gradient checkpointing of their own. Its weights are random, fewer than a million.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from loraloom.models.module_store import ModuleStore
from loraloom.protocols.family_card import FamilyCard, TextTensor
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import (
    Conditioning,
    EncoderTokens,
    FusedLayer,
    ImageGeometry,
    LoraPreset,
    ModelFiles,
    ModelInfo,
    NoiseSchedule,
    Part,
    Prompt,
    SamplingDefaults,
    Tensors,
)
from loraloom.utils.atomic_files import whole_directory
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.untrusted import library_errors

WIDTH, HEADS, BLOCKS = 32, 4, 2
LATENTS, SCALE, SHIFT, FACTOR = 4, 0.6, 0.1, 4
WINDOW, LONG = 34, 96
"""Tokens of the short encoder's window and bytes that the long encoder reads."""
STEPS = 1000
TRAINING_GUIDANCE = 1.0
FOLDERS = {
    "transformer": "transformer", "vae": "vae", "text_encoder": "text_encoder", "text_encoder_2": "text_encoder_2",
}  # fmt: skip


class Bytes:
    """A token a byte."""

    window_tokens = WINDOW

    def tokenize(self, text: str) -> list[int]:
        return list(text.encode())

    def detokenize(self, ids: Sequence[int]) -> str:
        return bytes(ids).decode(errors="replace")

    def window(self, ids: Sequence[int]) -> list[int]:
        return [256, *ids, 257] + [258] * (WINDOW - 2 - len(ids))


class ShortEncoder(nn.Module):
    """One window to a pooled embedding."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.proj = nn.Embedding(259, 24), nn.Linear(24, 24)

    def forward(self, ids_nk: Tensor) -> Tensor:
        return torch.tanh(self.proj(self.embed(ids_nk))).mean(dim=1)


class LongEncoder(nn.Module):
    """A text of fixed length to one state a byte."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.place, self.proj = nn.Embedding(259, 24), nn.Embedding(LONG, 24), nn.Linear(24, WIDTH)

    def forward(self, ids_bl: Tensor) -> Tensor:
        places = torch.arange(ids_bl.shape[1], device=ids_bl.device)
        return self.proj(torch.tanh(self.embed(ids_bl) + self.place(places)))


class Vae(nn.Module):
    """Patches of four pixels to the distribution of a latent."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 2 * LATENTS, FACTOR, FACTOR)
        self.up = nn.ConvTranspose2d(LATENTS, 3, FACTOR, FACTOR)


class Attention(nn.Module):
    """Over text and image tokens together."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(WIDTH, WIDTH) for _ in range(4))

    def forward(self, tokens_bld: Tensor, mask_bl: Tensor) -> Tensor:
        q, k, v = (
            layer(tokens_bld).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.to_q, self.to_k, self.to_v)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_bl[:, None, None, :])
        return self.to_out(mixed.transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Attention and a perceptron, scaled by what the image is conditioned on."""

    def __init__(self) -> None:
        super().__init__()
        self.attn, self.ff, self.modulate = Attention(), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 2 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, tokens_bld: Tensor, vector_bd: Tensor, mask_bl: Tensor) -> Tensor:
        scale, gate = self.modulate(vector_bd)[:, None].chunk(2, dim=-1)
        tokens_bld = tokens_bld + gate * self.attn(self.norm(tokens_bld) * (1 + scale), mask_bl)
        return tokens_bld + torch.tanh(self.ff(tokens_bld))


class Transformer(nn.Module):
    """Packed latents to packed velocity and sigma."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4 * LATENTS, WIDTH)
        self.vector = nn.Linear(3 + 24 + 6, WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(BLOCKS))
        self.out = nn.Linear(WIDTH, 2 * 4 * LATENTS)

    def forward(
        self, packed_bld: Tensor, time_b: Tensor, guidance_b: Tensor, pooled_bd: Tensor, size_b6: Tensor,
        text_bld: Tensor, mask_bl: Tensor,
    ) -> Tensor:  # fmt: skip
        waves = torch.stack([time_b, (3 * time_b).sin(), guidance_b / 10], dim=1)
        vector_bd = self.vector(torch.cat([waves, pooled_bd.float(), size_b6], dim=1))
        tokens = torch.cat([text_bld.to(vector_bd.dtype), self.embed(packed_bld)], dim=1)
        mask = nn.functional.pad(mask_bl, (0, packed_bld.shape[1]), value=True)
        for block in self.blocks:
            tokens = block(tokens, vector_bd, mask)
        return self.out(tokens[:, text_bld.shape[1] :])


KINDS: Mapping[str, type[nn.Module]] = {
    "transformer": Transformer, "vae": Vae, "text_encoder": ShortEncoder, "text_encoder_2": LongEncoder,
}  # fmt: skip


def pack(latents_bchw: Tensor) -> Tensor:
    """(b, c, h, w) to (b, h/2 w/2, 4 c)."""
    return nn.functional.pixel_unshuffle(latents_bchw, 2).flatten(2).transpose(1, 2)


def unpack(packed_bld: Tensor, height: int, width: int) -> Tensor:
    """The reverse, for latents of that many rows and columns."""
    return nn.functional.pixel_shuffle(packed_bld.transpose(1, 2).unflatten(2, (height // 2, width // 2)), 2)


def time_shift(height: int, width: int) -> float:
    """Larger images are drawn with more noise: by the number of packed tokens."""
    return 1 + height * width / (2 * FACTOR) ** 2 / 64


class EulerSampler:
    """The plain solver of rectified flow."""

    init_noise_sigma = 1.0

    def __init__(self, num_steps: int, height: int, width: int, device: torch.device) -> None:
        shift = time_shift(height, width)
        times = torch.linspace(1, 0, num_steps + 1, dtype=torch.float64)
        self._sigmas = (shift * times / (1 + (shift - 1) * times)).float().to(device)
        self.timesteps = STEPS * self._sigmas[:-1]

    def scale_input(self, latents_bchw: Tensor, timestep: Tensor) -> Tensor:
        return latents_bchw

    def noised(self, clean_bchw: Tensor, noise_bchw: Tensor, number: int) -> Tensor:
        return torch.lerp(clean_bchw, noise_bchw, self._sigmas[number])

    def step(
        self, prediction_bchw: Tensor, timestep: Tensor, latents_bchw: Tensor, generators: list[torch.Generator]
    ) -> Tensor:
        number = int((self.timesteps - timestep).abs().argmin())
        return latents_bchw + (self._sigmas[number + 1] - self._sigmas[number]) * prediction_bchw


class TwoTexts:
    """The short encoder reads the first window, the long one the plain text."""

    max_windows: int | None = 1
    tokenizer = Bytes()

    def __init__(self, modules: ModuleStore) -> None:
        self._modules = modules

    @property
    def fingerprint(self) -> str:
        return self._modules.fingerprint("text_encoder") + self._modules.fingerprint("text_encoder_2")

    def encode(self, prompts: Sequence[Prompt]) -> list[Tensors]:
        short, long = self._modules.get("text_encoder"), self._modules.get("text_encoder_2")
        device = next(short.parameters()).device
        encoded: list[Tensors] = []
        for prompt in prompts:
            ids = prompt.text.encode()[:LONG]
            windows = torch.tensor([self.tokenizer.window(prompt.windows[0].ids)], device=device)
            bytes_bl = torch.tensor([[*ids, *[258] * (LONG - len(ids))]], device=device)
            mask = torch.arange(LONG, device=device) < len(ids)
            encoded.append({"pooled": short(windows)[0], "text": long(bytes_bl)[0], "mask": mask})
        return encoded

    def without(self, text: Tensors, empty: Tensors, encoders: Collection[str]) -> Tensors:
        names = {"text_encoder": ("pooled",), "text_encoder_2": ("text", "mask")}
        return {**text, **{name: empty[name] for encoder in encoders for name in names[encoder]}}

    def counts(self, text: str) -> Sequence[EncoderTokens]:
        count = len(text.encode())
        return [
            EncoderTokens(name="short", capacity=WINDOW - 2, tokens=count, unknown=0),
            EncoderTokens(name="long", capacity=LONG, tokens=count, unknown=0),
        ]

    def unread(self, prompt: Prompt) -> tuple[str, ...]:
        rest = prompt.text.encode()[LONG:].decode(errors="replace")
        return (rest,) if rest else ()


class TinyFlowFormat:
    """Other programs hold q, k and v of a block in one matrix."""

    architecture, kohya_version = "tiny-flow", "tiny_flow"
    programs: Mapping[str, str] = {"diffusers": "diffusers", "kohya": "ComfyUI"}

    def unlearned(self, part: str) -> Sequence[str]:
        return ()

    def component(self, part: str) -> str:
        return FOLDERS[part]

    def kohya_prefix(self, part: str) -> str:
        return {"transformer": "lora_unet", "text_encoder": "lora_te1", "text_encoder_2": "lora_te2"}[part]

    def diffusers_name(self, part: str, module_name: str) -> str:
        return module_name

    def kohya_name(self, part: str, name: str) -> str:
        return name

    def other_stems(self, part: str, names: Sequence[str]) -> Mapping[str, str]:
        return {}

    def fused(self, part: str, names: Sequence[str]) -> Sequence[FusedLayer]:
        if part != "transformer":
            return ()
        places = [f"blocks.{number}.attn" for number in range(BLOCKS)]
        return [FusedLayer(f"{place}.qkv", tuple(f"{place}.to_{x}" for x in "qkv")) for place in places]


class TinyFlowModel:
    """See `protocols.model.DiffusionModel`."""

    lora_format = TinyFlowFormat()

    def __init__(self, files: ModelFiles) -> None:
        self._files = files
        self.modules = ModuleStore(
            self._load, lambda part: files.fingerprint(FOLDERS[part]), file_sha256=files.file_sha256,
            build=lambda part: KINDS[part](), blocks={"transformer": "blocks"},
        )  # fmt: skip
        self.text = TwoTexts(self.modules)
        sigma_t = (torch.arange(STEPS, dtype=torch.float64) + 1) / STEPS
        attention = {
            "attention": LoraPreset(r".*\.attn\.to_(q|k|v|out)"),
            "cross_attention": LoraPreset(r".*\.attn\.to_(q|k|v)"),
            "all_linear": LoraPreset(r".*"),
        }
        self.info = ModelInfo(
            family="tiny_flow", source=files.source, latent_channels=LATENTS, vae_scale_factor=FACTOR,
            size_multiple=2 * FACTOR, guidance="embedded",
            parts=(
                Part(name="transformer", role="denoiser", lora_targets=attention),
                Part(name="vae", role="vae"),
                Part(name="text_encoder", role="text_encoder", lora_targets={"all_linear": LoraPreset(r".*")}),
                Part(name="text_encoder_2", role="text_encoder"),
            ),
            schedule=NoiseSchedule(
                timestep_t=STEPS * sigma_t, signal_t=1 - sigma_t, sigma_t=sigma_t, prediction_type="flow",
                shift=time_shift,
            ),
            defaults=SamplingDefaults(sampler="euler", num_steps=4, guidance_scale=3.5, size_px=32, exact_sampler="euler"),
        )  # fmt: skip

    def _load(self, part: str) -> nn.Module:
        module = KINDS[part]()
        for file in self._files.weight_files(FOLDERS[part]):
            with library_errors(f"{FOLDERS[part]} of the model", file):
                module.load_state_dict(load_file(file))
        return module

    def encode_images(self, pixels_bchw: Tensor) -> tuple[Tensor, Tensor]:
        vae: Any = self.modules.get("vae")
        mean, logvar = vae.down(pixels_bchw.to(vae.down.weight)).float().chunk(2, dim=1)
        return mean, logvar - 8

    def scale_latents(self, raw_bchw: Tensor) -> Tensor:
        return (raw_bchw - SHIFT) * SCALE

    def decode_latents(self, latents_bchw: Tensor) -> Tensor:
        vae: Any = self.modules.get("vae")
        return vae.up((latents_bchw.float() / SCALE + SHIFT).to(vae.up.weight)).float().clamp(-1, 1)

    def condition(
        self, texts: Sequence[Tensors], geometry: Sequence[ImageGeometry], guidance_scale: float | None
    ) -> Conditioning:
        batch = {name: torch.stack([text[name] for text in texts]) for name in ("pooled", "text", "mask")}
        sizes = [[*place.original, *place.crop, *place.target] for place in geometry]
        scale = TRAINING_GUIDANCE if guidance_scale is None else guidance_scale
        return {
            **batch,
            "size": torch.tensor(sizes, dtype=torch.float32) / 1024,
            "guidance": torch.full((len(texts),), scale),
        }

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        assert timesteps_b.dtype == torch.float32
        given = conditioning
        height, width = latents_bchw.shape[2:]
        answer = self.modules.get("transformer")(
            pack(latents_bchw), timesteps_b / STEPS, given["guidance"], given["pooled"], given["size"],
            given["text"], given["mask"],
        )  # fmt: skip
        return unpack(answer, height, width)[:, :LATENTS]  # the other half is the learned sigma

    def sampler(self, name: str, num_steps: int, height: int, width: int) -> EulerSampler:
        if name != "euler":
            raise UserError("unknown sampler", got=name, fix=did_you_mean(name, ["euler"]))
        device = next(self.modules.get("transformer").parameters()).device
        return EulerSampler(num_steps, height, width, device)

    def save(self, folder: Path, dtype: Literal["fp32", "fp16", "bf16"]) -> None:
        kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
        with whole_directory(folder) as target:
            write(target, {part: self.modules.get(part) for part in KINDS}, kinds[dtype])

    def reference_latents(self, adapter_file: Path | None, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        from tests.contract.families.reference import draw

        assert self._files.folder is not None
        return draw(self._files.folder, request, noise_bchw, adapter_file)


def write(folder: Path, modules: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
    """A model folder."""
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "TinyFlowPipeline"}), encoding="utf-8")
    for part, module in modules.items():
        place = folder / FOLDERS[part]
        place.mkdir()
        (place / "config.json").write_text(json.dumps({"_class_name": KINDS[part].__name__}), encoding="utf-8")
        state = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in module.state_dict().items()}
        save_file(state, place / "model.safetensors")


class TinyFlow:
    """See `protocols.model.Family`."""

    name = "tiny_flow"

    def matches(self, files: ModelFiles) -> bool:
        return (
            files.has("transformer/config.json")
            and files.config("transformer/config.json").get("_class_name") == "Transformer"
        )

    def open(self, files: ModelFiles) -> TinyFlowModel:
        return TinyFlowModel(files)

    def build_tiny(self, folder: Path, seed: int = 0) -> Path:
        folder.mkdir(parents=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            write(folder, {part: kind() for part, kind in KINDS.items()}, torch.float32)
        return folder


FAMILY = TinyFlow()
CARD = FamilyCard(
    takes="models of this test",
    base="nobody/tiny-flow",
    configs={},
    size_px=32,
    text_tokens={"text_encoder": WINDOW, "text_encoder_2": LONG},
    text_tensors={
        "pooled": TextTensor(shape=(24,)),
        "text": TextTensor(shape=(LONG, WIDTH)),
        "mask": TextTensor(shape=(LONG,), dtype="bool"),
    },
    licence="as this repository's",
)
