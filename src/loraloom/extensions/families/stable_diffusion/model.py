"""An opened Stable Diffusion 1.x / 2.x model.

In: the files of a model. Out: an implementation of `protocols.model.DiffusionModel`. The weights of each part are read at
first use, frozen, and can be dropped again, so that training from a cache keeps no VAE and no text encoder in memory.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from shutil import copyfile, copytree
from types import MappingProxyType
from typing import Any, Literal, cast

import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor, nn

from loraloom.extensions.families._diffusers.samplers import DiffusersSampler, make_sampler
from loraloom.extensions.families._diffusers.schedule import make_schedule, sampling_defaults
from loraloom.extensions.families._diffusers.windows import collate
from loraloom.extensions.families.stable_diffusion.limits import check_together
from loraloom.extensions.families.stable_diffusion.lora_format import StableDiffusionFormat
from loraloom.extensions.families.stable_diffusion.source import PART_FOLDER, check_configs, is_stable_diffusion
from loraloom.extensions.families.stable_diffusion.text import ClipText
from loraloom.models.headers import check_finite, check_fit
from loraloom.models.module_store import ModuleStore
from loraloom.protocols.generation import ImageRequest
from loraloom.protocols.model import Conditioning, ImageGeometry, LoraPreset, ModelFiles, ModelInfo, Part, Tensors
from loraloom.utils.atomic_files import whole_directory, write_json
from loraloom.utils.dtypes import DTYPES
from loraloom.utils.errors import UserError
from loraloom.utils.quiet import quiet
from loraloom.utils.safetensors_io import TensorInfo, read_header
from loraloom.utils.untrusted import library_errors

_PRESETS = MappingProxyType(
    {
        "cross_attention": LoraPreset(r".*\.attn2\.(to_q|to_k|to_v|to_out\.0)"),
        "attention": LoraPreset(r".*\.attn[12]\.(to_q|to_k|to_v|to_out\.0)"),
        "all_linear": LoraPreset(r".*"),
        "all_linear_conv": LoraPreset(r".*", ("Linear", "Conv2d")),
    }
)


PARTS = (
    Part(name="denoiser", role="denoiser", lora_targets=_PRESETS),
    Part(name="vae", role="vae"),
    Part(
        name="text_encoder",
        role="text_encoder",
        lora_targets={"attention": LoraPreset(r".*\.self_attn\.(q_proj|k_proj|v_proj|out_proj)")},
    ),
)
_SINGLE_FILE_PREFIX = MappingProxyType(
    {"denoiser": "model.diffusion_model.", "vae": "first_stage_model.", "text_encoder": "cond_stage_model."}
)
_TEXT_KEYS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "projection_dim",
    "num_hidden_layers",
    "num_attention_heads",
    "max_position_embeddings",
    "hidden_act",
    "layer_norm_eps",
    "attention_dropout",
    "initializer_range",
    "initializer_factor",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
)


class StableDiffusionModel:
    """See `contracts.DiffusionModel`."""

    def __init__(self, files: ModelFiles) -> None:
        if not is_stable_diffusion(files):
            raise UserError(
                "this model is not a Stable Diffusion 1.x or 2.x",
                got=files.config("unet/config.json").get("_class_name") if files.has("unet") else files.source.location,
                expected="a UNet2DConditionModel with one CLIP text encoder",
            )
        source = files.source
        self._files = files
        self.modules = ModuleStore(
            self._load,
            lambda part: files.fingerprint(PART_FOLDER[part]),
            build=self._build,
            file_sha256=files.file_sha256,
        )
        self._configs = configs = check_configs(files)
        unet, vae = configs["unet"], configs["vae"]
        latent_channels = int(unet.get("in_channels", 4))
        if latent_channels != int(vae.get("latent_channels", 4)):
            raise UserError(
                "this UNet takes more than latents (an inpainting or depth model)",
                got=f"{latent_channels} input channels",
                expected=f"{vae.get('latent_channels', 4)}",
            )
        check_together(unet, vae, configs["text_encoder"])
        scale = 2 ** (len(vae.get("block_out_channels", [0])) - 1)
        self.lora_format = format_of(unet)
        self._vae_scaling = float(vae.get("scaling_factor") or 0.18215)
        self._vae_shift = float(vae.get("shift_factor") or 0.0)
        self._scheduler_config = dict(configs["scheduler"])
        if source.prediction_type != "auto":
            self._scheduler_config["prediction_type"] = source.prediction_type
        schedule = make_schedule(self._scheduler_config)
        self.info = ModelInfo(
            family="stable_diffusion",
            source=source,
            parts=PARTS,
            schedule=schedule,
            latent_channels=latent_channels,
            vae_scale_factor=scale,
            size_multiple=scale,
            guidance="cfg",
            defaults=sampling_defaults(schedule, int(unet.get("sample_size") or 64) * scale),
        )
        self.text = ClipText(
            files.path("tokenizer"),
            lambda: self.modules.get("text_encoder"),
            lambda: self.modules.fingerprint("text_encoder"),
            num_ids=int(configs["text_encoder"].get("vocab_size", 49408)),
            num_positions=int(configs["text_encoder"].get("max_position_embeddings", 77)),
        )

    # ------------------------------------------------------------------------------------------------------ parts

    def save(self, folder: Path, dtype: Literal["fp32", "fp16", "bf16"]) -> None:
        """Write a diffusers folder with the current weights; a part that was not used yet is read first."""
        with whole_directory(folder) as target, quiet():
            for entry in ("model_index.json", "scheduler", "tokenizer", "feature_extractor"):
                found = self._files.path(entry)
                if found.is_dir():
                    copytree(found, target / entry)
                elif found.is_file():
                    copyfile(found, target / entry)
            for part, name in PART_FOLDER.items():
                module: Any = deepcopy(self.modules.get(part)).to("cpu", DTYPES[dtype])
                module.save_pretrained(target / name, safe_serialization=True)
                config = json.loads((target / name / "config.json").read_text(encoding="utf-8"))
                config.pop("_name_or_path", None)  # the path that it was read from, on this machine
                write_json(target / name / "config.json", config)

    def _load(self, part: str) -> nn.Module:
        files = self._files.weight_files(PART_FOLDER[part])  # raises before anything is read
        self._check_fit(part, files)
        try:
            with quiet():
                if self._files.single_file is not None:
                    module = self._load_single_file(part, self._files.single_file)
                    lacking = [name for name, parameter in module.named_parameters() if parameter.is_meta]
                else:
                    module, lacking = self._load_folder(part)
        except UserError:
            raise
        except Exception as error:  # any error of the libraries about a file
            lines = str(error).strip().splitlines()
            raise self._unreadable(part, lines[0][:300] if lines else type(error).__name__) from error
        if lacking:
            # The libraries leave missing weights random, with a warning at most.
            raise self._unreadable(part, f"{len(lacking)} of its weights are missing, the first is {lacking[0]}")
        check_finite(PART_FOLDER[part], module, files)
        return module

    def _check_fit(self, part: str, files: Sequence[Path]) -> None:
        entries: dict[str, TensorInfo] = {}
        for file in files:
            entries.update(read_header(file).tensors)
        single = self._files.single_file is not None
        if single:
            entries = {name: entry for name, entry in entries.items() if name.startswith(_SINGLE_FILE_PREFIX[part])}
        empty = (lambda: self.modules.skeleton(part)) if entries else None
        check_fit(PART_FOLDER[part], entries, empty, same_names=not single)

    def _build(self, part: str) -> nn.Module:
        """The part as its config describes it; its weights are not read."""
        config: Any = dict(self._configs[PART_FOLDER[part]])
        fix = "check that the config belongs to the weights"
        with library_errors(f"{PART_FOLDER[part]}/config.json", self.info.source.location, fix=fix):
            if part == "denoiser":
                return cast("nn.Module", UNet2DConditionModel.from_config(config))
            if part == "vae":
                return cast("nn.Module", AutoencoderKL.from_config(config))
            from transformers import CLIPTextModel

            return CLIPTextModel(self._text_config())

    def _text_config(self) -> Any:
        """The text encoder's config with known keys only; others could name code or kernels to download."""
        from transformers import CLIPTextConfig

        config = self._configs["text_encoder"]
        return CLIPTextConfig(**{key: config[key] for key in _TEXT_KEYS if key in config})

    def _unreadable(self, part: str, why: str) -> UserError:
        return UserError(
            f"the {PART_FOLDER[part]} cannot be read ({why})",
            got=self.info.source.location,
            fix="download it again, or check that its config belongs to its weights",
        )

    def _load_folder(self, part: str) -> tuple[nn.Module, list[str]]:
        """The module, and the names of weights that its files lack."""
        kind: Any = {"denoiser": UNet2DConditionModel, "vae": AutoencoderKL}.get(part)
        extra: dict[str, Any] = {}
        if kind is None:
            from transformers import CLIPTextModel

            kind, extra = CLIPTextModel, {"dtype": torch.float32, "config": self._text_config()}
        module, info = kind.from_pretrained(
            str(self._files.folder),
            subfolder=PART_FOLDER[part],
            use_safetensors=True,
            local_files_only=True,
            variant=self._files.variant,
            output_loading_info=True,
            **extra,
        )
        return module, sorted(info["missing_keys"])

    def _load_single_file(self, part: str, file: Path) -> nn.Module:
        folder = str(self._files.folder)
        common: dict[str, Any] = {"config": folder, "local_files_only": True}
        if part == "denoiser":
            return UNet2DConditionModel.from_single_file(str(file), subfolder="unet", **common)
        if part == "vae":
            return AutoencoderKL.from_single_file(str(file), subfolder="vae", **common)
        return (
            _pipeline_class()
            .from_single_file(str(file), config=folder, local_files_only=True, unet=None, vae=None, safety_checker=None)
            .text_encoder
        )

    # ---------------------------------------------------------------------------------------------------- answers

    def encode_images(self, pixels_bchw: Tensor) -> tuple[Tensor, Tensor]:
        """Encode pixels in [-1, 1] to mean and log-variance, float32, not scaled."""
        vae: Any = self.modules.get("vae")
        weight = next(vae.parameters())
        posterior = vae.encode(pixels_bchw.to(weight), return_dict=False)[0]
        return posterior.mean.float(), posterior.logvar.float()

    def scale_latents(self, raw_bchw: Tensor) -> Tensor:
        """(raw - shift) x scaling factor."""
        return (raw_bchw - self._vae_shift) * self._vae_scaling

    def decode_latents(self, latents_bchw: Tensor) -> Tensor:
        """Decode scaled latents to pixels, float32 in [-1, 1]."""
        vae: Any = self.modules.get("vae")
        raw_bchw = latents_bchw.float() / self._vae_scaling + self._vae_shift
        return vae.decode(raw_bchw.to(next(vae.parameters())), return_dict=False)[0].float().clamp(-1, 1)

    def condition(
        self, texts: Sequence[Tensors], geometry: Sequence[ImageGeometry], guidance_scale: float | None
    ) -> Conditioning:
        """`hidden`: (b, l, d) prompt embeddings; `mask`: (b, l) bool, only if prompts of the batch differ in length."""
        hidden_bld, mask_bl = collate([text["hidden"] for text in texts])
        return {"hidden": hidden_bld} if mask_bl is None else {"hidden": hidden_bld, "mask": mask_bl}

    def predict(self, latents_bchw: Tensor, timesteps_b: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's prediction for noisy latents, (b, c, h, w)."""
        denoiser = self.modules.get("denoiser")
        return denoiser(
            latents_bchw,
            timesteps_b,
            encoder_hidden_states=conditioning["hidden"].to(next(denoiser.parameters()).dtype),
            encoder_attention_mask=conditioning.get("mask"),
            return_dict=False,
        )[0]

    def sampler(self, name: str, num_steps: int, height: int, width: int) -> DiffusersSampler:
        """A solver with the model's schedule, the same for all sizes; its timesteps are on the denoiser's device."""
        device = next(self.modules.get("denoiser").parameters()).device
        return make_sampler(name, self._scheduler_config, num_steps, device)

    # ----------------------------------------------------------------------------------------------------- export

    def _fresh_pipeline(self) -> Any:
        """A diffusers pipeline with its own copy of all weights, float32 on the CPU.

        By default transformers 5 keeps a text encoder in the precision of its file.
        """
        folder, file = str(self._files.folder), self._files.single_file
        common: dict[str, Any] = {"local_files_only": True, "safety_checker": None, "image_encoder": None}
        if file is not None:
            pipeline = _pipeline_class().from_single_file(str(file), config=folder, **common)
        else:
            pipeline = _pipeline_class().from_pretrained(
                folder,
                use_safetensors=True,
                variant=self._files.variant,
                feature_extractor=None,
                requires_safety_checker=False,
                **common,
            )
        return pipeline.to(dtype=torch.float32)

    def reference_latents(self, adapter_file: Path | None, request: ImageRequest, noise_bchw: Tensor) -> Tensor:
        """Latents from a fresh diffusers pipeline, float32 on the CPU; see the protocol."""
        with quiet():
            pipeline = self._fresh_pipeline()
        pipeline.set_progress_bar_config(disable=True)
        pipeline.scheduler = make_sampler(
            request.sampler, self._scheduler_config, request.num_steps, torch.device("cpu")
        ).scheduler
        if adapter_file is not None:
            with quiet():
                pipeline.load_lora_weights(str(adapter_file.parent), weight_name=adapter_file.name)
        with torch.inference_mode(), quiet():
            return pipeline(
                request.prompt,
                negative_prompt=request.negative_prompt,
                num_inference_steps=request.num_steps,
                guidance_scale=request.guidance_scale,
                width=request.width,
                height=request.height,
                latents=noise_bchw.clone(),
                output_type="latent",
            ).images.float()


def _pipeline_class() -> Any:
    """The pipeline class, imported at use: its module imports much that training does not use."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    return StableDiffusionPipeline


def format_of(unet: Mapping[str, Any]) -> StableDiffusionFormat:
    """How adapter files name the layers, by the UNet's config."""
    version = "v2" if int(unet.get("cross_attention_dim", 768)) == 1024 else "v1"
    return StableDiffusionFormat(f"stable-diffusion-{version}", f"sd_{version}")
