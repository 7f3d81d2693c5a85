"""An opened HunyuanDiT model.

In: the files of a model. Out: the answers of `protocols.model.DiffusionModel`. Each part's weights are read at first use,
frozen, and can be dropped again. Li et al. 2024, "Hunyuan-DiT"; layout and conditioning as in diffusers'
`HunyuanDiTPipeline`, where Tencent's code differs this is said.
"""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.embeddings import get_2d_rotary_pos_embed
from diffusers.models.transformers.hunyuan_transformer_2d import HunyuanDiT2DModel
from torch import Tensor, nn
from torch.func import functional_call

from loraloom.extensions.families._diffusers.limits import make_config
from loraloom.extensions.families._diffusers.parts import load_part, save_folder
from loraloom.extensions.families._diffusers.samplers import DiffusersSampler, make_sampler
from loraloom.extensions.families._diffusers.schedule import make_schedule
from loraloom.extensions.families._diffusers.t5 import t5_config
from loraloom.extensions.families.hunyuan_dit.limits import CLIP_TOKENS
from loraloom.extensions.families.hunyuan_dit.lora_format import HunyuanDitFormat
from loraloom.extensions.families.hunyuan_dit.source import PART_FOLDER, check_configs
from loraloom.extensions.families.hunyuan_dit.text import HunyuanText
from loraloom.extensions.families.hunyuan_dit.variance import VarianceBound, variance_bound
from loraloom.models.module_store import ModuleStore
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import (
    Conditioning,
    ImageGeometry,
    LoraPreset,
    ModelFiles,
    ModelInfo,
    Part,
    SamplingDefaults,
    Tensors,
)
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.quiet import quiet

BASE_PX = 512
"""Side of the images whose rotary grid is the unit: larger ones are interpolated to it."""

_EXCLUDED = r"time_extra_emb\.pooler\.|norm_out\.linear"
_WHY_EXCLUDED = MappingProxyType(
    {
        r"time_extra_emb\.pooler\..*": "the model reads its weights without calling it, so that a LoRA gets no gradient",
        r"norm_out\.linear": "other programs hold its two halves in the other order, so that an export would be wrong there",
    }
)
_PRESETS = MappingProxyType(
    {
        "attention": LoraPreset(r"blocks\.\d+\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"),
        "cross_attention": LoraPreset(r"blocks\.\d+\.attn2\.(to_q|to_k|to_v|to_out\.0)"),
        "all_linear": LoraPreset(rf"(?!{_EXCLUDED}).*"),
        "all_linear_conv": LoraPreset(rf"(?!{_EXCLUDED}).*", ("Linear", "Conv2d")),
    }
)
PARTS = (
    Part(name="denoiser", role="denoiser", lora_targets=_PRESETS, excluded=_WHY_EXCLUDED),
    Part(name="vae", role="vae"),
    Part(
        name="text_encoder",
        role="text_encoder",
        lora_targets={"attention": LoraPreset(r".*\.attention\.(self\.(query|key|value)|output\.dense)")},
    ),
    Part(name="text_encoder_2", role="text_encoder"),
)
_COPIED = ("model_index.json", "scheduler", "tokenizer", "tokenizer_2")
_BERT_KEYS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "max_position_embeddings",
    "type_vocab_size",
    "initializer_range",
    "layer_norm_eps",
    "pad_token_id",
)


class HunyuanDitModel:
    """See `protocols.model.DiffusionModel`."""

    def __init__(self, files: ModelFiles) -> None:
        self._configs = configs = check_configs(files)
        self._files = files
        self.modules = ModuleStore(
            self._load,
            lambda part: files.fingerprint(PART_FOLDER[part]),
            build=self._build,
            file_sha256=files.file_sha256,
            blocks={"denoiser": "blocks"},  # the library's own gradient checkpointing raises
        )
        self.lora_format = HunyuanDitFormat()
        transformer, vae = configs["transformer"], configs["vae"]
        self._has_size = bool(transformer.get("use_style_cond_and_image_meta_size", True))
        self._patch = int(transformer.get("patch_size") or 2)
        self._head_dim = int(transformer.get("attention_head_dim", 88))
        self._channels = int(vae.get("latent_channels", 4))
        self._vae_scaling = float(vae.get("scaling_factor") or 0.13025)
        self._vae_shift = float(vae.get("shift_factor") or 0.0)
        self._factor = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
        self._scheduler_config = dict(configs["scheduler"])
        if files.source.prediction_type != "auto":
            self._scheduler_config["prediction_type"] = files.source.prediction_type
        self._bound = self._variance_bound() if files.options.get("variance_loss") else None
        self._rotary: dict[tuple[int, int, torch.device], tuple[Tensor, Tensor]] = {}
        self.info = ModelInfo(
            family="hunyuan_dit",
            source=files.source,
            parts=PARTS,
            schedule=make_schedule(self._scheduler_config),
            latent_channels=self._channels,
            vae_scale_factor=self._factor,
            size_multiple=self._factor * self._patch,
            guidance="cfg",
            defaults=SamplingDefaults(
                sampler="ddpm",
                num_steps=50,
                guidance_scale=5.0,
                size_px=int(transformer.get("sample_size", 128)) * self._factor,
                exact_sampler="ddim",
            ),
        )
        self.text = HunyuanText(
            files.path("."),
            self.modules.get,
            self.modules.fingerprint,
            {part: int(configs[part].get("vocab_size", 0)) for part in ("text_encoder", "text_encoder_2")},
            num_windows=int(files.options.get("clip_windows", 1)),
        )

    # ------------------------------------------------------------------------------------------------------ parts

    def save(self, folder: Path, dtype: Literal["fp32", "fp16", "bf16"]) -> None:
        """Write a diffusers folder with the weights as they are now, a missing part read first."""
        save_folder(self._files, self.modules, PART_FOLDER, _COPIED, folder, DTYPES[dtype])

    def _load(self, part: str) -> nn.Module:
        extra: dict[str, Any] = {}
        if part in ("text_encoder", "text_encoder_2"):
            extra = {"dtype": torch.float32, "config": self._text_config(part)}
        return load_part(self._files, PART_FOLDER[part], self._kind(part), lambda: self.modules.skeleton(part), **extra)

    def _build(self, part: str) -> nn.Module:
        """The part as its config describes it; called on the meta device."""
        if part in ("text_encoder", "text_encoder_2"):
            return self._kind(part)(self._text_config(part))
        return cast("nn.Module", self._kind(part).from_config(dict(self._configs[PART_FOLDER[part]])))

    def _kind(self, part: str) -> Any:
        from transformers import BertModel, T5EncoderModel

        return {
            "denoiser": HunyuanDiT2DModel,
            "vae": AutoencoderKL,
            "text_encoder": BertModel,
            "text_encoder_2": T5EncoderModel,
        }[part]

    def _text_config(self, part: str) -> Any:
        """A text encoder's config of the keys that are known; others could name code or kernels to fetch."""
        from transformers import BertConfig

        given = self._configs[part]
        if part == "text_encoder":
            return make_config(
                BertConfig, {key: given[key] for key in _BERT_KEYS if key in given}, "text_encoder/config.json"
            )
        return t5_config(given)

    def _variance_bound(self) -> VarianceBound:
        config = self._scheduler_config
        return variance_bound(config["beta_start"], config["beta_end"], int(config.get("num_train_timesteps", 1000)))

    # ---------------------------------------------------------------------------------------------------- answers

    def encode_images(self, pixels_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Pixels in [-1, 1] to mean and log-variance, float32, not scaled."""
        vae: Any = self.modules.get("vae")
        posterior = vae.encode(pixels_bchw.to(next(vae.parameters())), return_dict=False)[0]
        return posterior.mean.float(), posterior.logvar.float()

    def scale_latents(self, raw_bchw: Tensor) -> Tensor:
        """(raw - shift) x scaling factor."""
        return (raw_bchw - self._vae_shift) * self._vae_scaling

    def decode_latents(self, latents_bchw: Tensor) -> Tensor:
        """Scaled latents to pixels, float32 in [-1, 1]."""
        vae: Any = self.modules.get("vae")
        raw_bchw = latents_bchw.float() / self._vae_scaling + self._vae_shift
        return vae.decode(raw_bchw.to(next(vae.parameters())), return_dict=False)[0].float().clamp(-1, 1)

    def condition(
        self, texts: Sequence[Tensors], geometry: Sequence[ImageGeometry], guidance_scale: float | None
    ) -> Conditioning:
        """`clip` (b, 77, d), `t5` (b, 256, d5), their masks, and `size` (b, 6) where the version has it.

        `size` is original (width, height), target (width, height), crop (left, top): the order of Tencent's data loader and
        sampling code. diffusers' pipeline has (height, width): equal for squares.
        """
        batch = {name: torch.stack([text[name] for text in texts]) for name in ("clip", "clip_mask", "t5", "t5_mask")}
        if self._has_size:
            sizes = [[*place.original, *place.target, *place.crop] for place in geometry]
            batch["size"] = torch.tensor(sizes, dtype=torch.float32, device=batch["clip"].device)
        return batch

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """The denoiser's velocity for noisy latents, (b, c, h, w); the learned variance beside it is left out."""
        return self.predict_all(latents_bchw, timesteps_b, conditioning)[:, : self._channels]

    def predict_and_loss(
        self,
        noisy_bchw: Tensor,
        timesteps_b: Tensor,
        conditioning: Conditioning,
        *,
        clean_bchw: Tensor,
        steps_b: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        """`predict`, and with the option `variance_loss` (b,) the bound that the learned variance is trained by."""
        answer_bchw = self.predict_all(noisy_bchw, timesteps_b, conditioning)
        if self._bound is None:
            return answer_bchw[:, : self._channels], None
        return answer_bchw[:, : self._channels], self._bound.loss(answer_bchw, clean_bchw, noisy_bchw, steps_b)

    def predict_all(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """(b, 2c, h, w): velocity, then the share between the least and the largest variance of the step."""
        denoiser = self.modules.get("denoiser")
        weight = next(denoiser.parameters())
        batch, device = latents_bchw.shape[0], latents_bchw.device
        height, width = (side // self._patch for side in latents_bchw.shape[2:])
        given: dict[str, Any] = {
            "encoder_hidden_states": conditioning["clip"].to(weight.dtype),
            "text_embedding_mask": conditioning["clip_mask"],
            "encoder_hidden_states_t5": conditioning["t5"].to(weight.dtype),
            "text_embedding_mask_t5": conditioning["t5_mask"],
            "image_rotary_emb": self._rotary_tables(height, width, device),
            "return_dict": False,
        }
        if self._has_size:
            given["image_meta_size"] = conditioning["size"]
            given["style"] = torch.zeros(batch, dtype=torch.long, device=device)
        # The library casts by the timestep's dtype, which stays float32: bfloat16 rounds 999 to 1000.
        half = weight.dtype != torch.float32 and not torch.is_autocast_enabled(device.type)
        with torch.autocast(device.type, dtype=weight.dtype) if half else nullcontext():
            if conditioning["clip"].shape[1] == CLIP_TOKENS:
                return denoiser(latents_bchw, timesteps_b.float(), **given)[0]
            rows = padding_rows(cast("Any", denoiser).text_embedding_padding, conditioning["clip"].shape[1])
            return functional_call(
                denoiser, {"text_embedding_padding": rows}, (latents_bchw, timesteps_b.float()), given
            )[0]

    def _rotary_tables(self, height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Cosines and sines of an image of that many patches, kept for each size."""
        key = (height, width, device)
        if key not in self._rotary:
            base = BASE_PX // self._factor // self._patch
            with torch.inference_mode(False):  # kept tables serve training too
                tables: Any = get_2d_rotary_pos_embed(
                    self._head_dim, crop_region(height, width, base), (height, width), device=device, output_type="pt"
                )
            self._rotary[key] = tables
        return self._rotary[key]

    def sampler(self, name: str, num_steps: int, height: int, width: int) -> DiffusersSampler:
        """A solver with this model's schedule, the same for all sizes; timesteps on the denoiser's device."""
        device = next(self.modules.get("denoiser").parameters()).device
        return make_sampler(name, self._scheduler_config, num_steps, device)

    # ----------------------------------------------------------------------------------------------------- export

    def reference_latents(self, adapter_file: Path | None, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """Latents from a fresh diffusers pipeline, float32 on the CPU; see the contract.

        diffusers has no LoRA loader for this model: an adapter is added to the fresh pipeline's weights by its own keys.
        """
        from loraloom.extensions.families.hunyuan_dit.reference import add_adapter, sample

        with quiet():
            pipeline = self._fresh_pipeline()
        if adapter_file is not None:
            add_adapter(pipeline, adapter_file)
        pipeline.scheduler = make_sampler(
            request.sampler, self._scheduler_config, request.num_steps, torch.device("cpu")
        ).scheduler
        return sample(pipeline, request, noise_bchw, self.text.max_windows or 1)

    def _fresh_pipeline(self) -> Any:
        """A diffusers pipeline with its own copy of all weights, float32 on the CPU."""
        from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import HunyuanDiTPipeline

        kind: Any = HunyuanDiTPipeline
        pipeline = kind.from_pretrained(
            str(self._files.folder),
            use_safetensors=True,
            variant=self._files.variant,
            local_files_only=True,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        return pipeline.to(dtype=torch.float32)


def padding_rows(rows_ld: Tensor, clip_tokens: int) -> Tensor:
    """The learned rows that stand for masked tokens, repeated for a first encoder that reads several windows.

    The denoiser has one row for each of 77 + 256 positions. As in kohya's hydit branch the rows between the first and the
    last of the 77 serve every window.
    """
    between = rows_ld[1 : CLIP_TOKENS - 1].repeat((clip_tokens - 2) // (CLIP_TOKENS - 2), 1)
    return torch.cat([rows_ld[:1], between, rows_ld[CLIP_TOKENS - 1 :]])


def crop_region(height: int, width: int, base: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Top left and bottom right corner, in patches, of an image's grid that is fitted into a square of `base` patches.

    diffusers' `get_resize_crop_region_for_grid`, which is Tencent's.
    """
    if height > width:
        rows, columns = base, round(base / height * width)
    else:
        rows, columns = round(base / width * height), base
    top, left = round((base - rows) / 2.0), round((base - columns) / 2.0)
    return (top, left), (top + rows, left + columns)
