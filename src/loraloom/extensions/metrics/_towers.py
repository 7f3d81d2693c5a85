"""Feature extractors: image and text towers of transformers models in a local folder.

In: a folder with config.json, preprocessor_config.json and safetensors weights. Out: one vector an image, and for CLIP one
vector for each window of a text. What was computed for a sample is kept, so that several metrics share one pass.

Weights are safetensors only and no code of a model is run. Images are preprocessed here as the model's
preprocessor_config.json says, with Pillow: `CLIPImageProcessor` needs torchvision in some versions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loraloom.protocols.domain import Section
from loraloom.protocols.evaluation import MetricSetup, Sample
from loraloom.utils.errors import UserError, did_you_mean
from loraloom.utils.quiet import quiet
from loraloom.utils.rng import generator
from loraloom.utils.safetensors_io import check_safetensors
from loraloom.utils.untrusted import check_range, is_file, library_errors, read_json_object, shown

Rows = NDArray[np.float32]

_CLASSES = {
    "clip": "CLIPModel",
    "dinov2": "Dinov2Model",
    "dinov2_with_registers": "Dinov2WithRegistersModel",
    "dinov3_vit": "DINOv3ViTModel",
    "vit": "ViTModel",
}
"""`model_type` of a config to the class of transformers that opens it."""
STYLE_WIDTH = 64
"""Columns that tokens are projected to before their Gram matrix is taken."""
STYLE_DEPTHS = (0.25, 0.5, 0.75)
"""Layers whose Gram matrices describe the style, as shares of the depth."""
_CROPS = ("center", "squash")
_LIMITS = {
    "hidden_size": 16_384,
    "intermediate_size": 1 << 17,
    "num_hidden_layers": 256,
    "num_attention_heads": 256,
    "num_channels": 3,
    "image_size": 4096,
    "patch_size": 1024,
    "vocab_size": 1 << 20,
    "max_position_embeddings": 1 << 14,
    "projection_dim": 16_384,
    "mlp_ratio": 64,
    "num_register_tokens": 1024,
}
"""Largest number of each field of a config: the library would allocate whatever it says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preprocessing:
    """What is done to an image before the tower sees it.

    Attributes:
        side: Side of the square that the tower reads, pixels.
        shortest_edge: The shorter side is resized to this and the middle is cut out.
        resample: Pillow's filter.
        cuts: Whether the middle is cut out; otherwise the whole image is resized to the square.
        mean, std: Mean and deviation of the pixels in 0 .. 1, by channel.
    """

    side: int
    shortest_edge: int
    resample: Image.Resampling
    cuts: bool
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def pixels(self, image: Image.Image, crop: str) -> Rows:
        """(3, side, side) of an image.

        Args:
            image: An image of any mode and size.
            crop: `center` is the model's own preprocessing, which mostly cuts the middle out; `squash` resizes the whole
                image, as CMMD's reference does. They differ for images that are not square.
        """
        assert crop in _CROPS, crop
        image = image.convert("RGB")
        if crop == "center" and self.cuts:
            short, long = min(image.size), max(image.size)
            length = int(self.shortest_edge * long / short)
            wide = image.width >= image.height
            size = (length, self.shortest_edge) if wide else (self.shortest_edge, length)
            image = image.resize(size, self.resample)
            left, top = (image.width - self.side) // 2, (image.height - self.side) // 2
            image = image.crop((left, top, left + self.side, top + self.side))
        else:
            kind = Image.Resampling.BICUBIC if crop == "squash" else self.resample
            image = image.resize((self.side, self.side), kind)
        values = np.asarray(image, np.float32) / 255
        rows = (values - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)
        return rows.transpose(2, 0, 1).astype(np.float32)


def read_preprocessing(folder: Path) -> Preprocessing:
    """What preprocessor_config.json says, every number in its range.

    Raises:
        UserError: Missing, or it says what this version does not do.
    """
    what = f"preprocessor_config.json of {folder.name}"
    config = read_json_object(folder / "preprocessor_config.json", what)
    size, crop = config.get("size"), config.get("crop_size")
    cuts = bool(crop) and config.get("do_center_crop", True) is not False
    side = _side(crop if cuts else size, f"{what}: crop_size")
    edge = _side(size, f"{what}: size")
    resample = check_range(config.get("resample", 3), f"{what}: resample", 0, 5)
    mean, std = (_three(config.get(key), f"{what}: {key}") for key in ("image_mean", "image_std"))
    return Preprocessing(
        side=side, shortest_edge=edge, resample=Image.Resampling(resample), cuts=cuts, mean=mean, std=std
    )


def _side(value: Any, where: str) -> int:
    if isinstance(value, dict):
        value = value.get("shortest_edge", value.get("height"))
    return check_range(value, where, 1, 4096)


def _three(value: Any, where: str) -> tuple[float, float, float]:
    if not isinstance(value, list) or len(value) != 3:
        raise UserError(where, got=shown(value), expected="three numbers")
    first, second, third = (float(check_range(one, where, -10, 10, whole=False)) for one in value)
    return first, second, third


def check_numbers(config: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` for a number of a config that no extractor has; parts such as `vision_config` count too."""
    for name, value in config.items():
        if isinstance(value, dict) and name.endswith("_config"):
            check_numbers(value, f"{where}: {name}")
        elif name in _LIMITS and value is not None:
            check_range(value, f"{where}: {name}", 0 if name == "num_register_tokens" else 1, _LIMITS[name])


class Tower:
    """An opened extractor.

    Args:
        folder: Folder of its files.
        device: Where it runs.
    """

    def __init__(self, folder: Path, device: str) -> None:
        import torch
        import transformers

        config = read_json_object(folder / "config.json", f"config.json of {folder.name}")
        kind = str(config.get("model_type"))
        if kind not in _CLASSES or not hasattr(transformers, _CLASSES[kind]):
            raise UserError(
                "no extractor of this kind is known", got=shown(kind), fix=did_you_mean(kind[:80], _CLASSES)
            )
        check_numbers(config, f"config.json of {folder.name}")
        weights = sorted(folder.glob("*.safetensors"))
        if not weights:
            raise UserError(
                "this extractor has no safetensors weights",
                got=str(folder),
                fix="get a version with model.safetensors: pickled weights can run code and are not read",
            )
        for file in weights:
            check_safetensors(file)
        self.name = str(folder)
        self.kind, self.device, self.preprocessing = kind, device, read_preprocessing(folder)
        self.keep_style = False
        with quiet(), library_errors("the extractor", folder):
            made = getattr(transformers, _CLASSES[kind])
            self.model: Any = made.from_pretrained(folder, dtype=torch.float32, use_safetensors=True)
            self.model = self.model.eval().requires_grad_(False).to(device)
            vision = self.model.config.vision_config if kind == "clip" else self.model.config
            side = int(vision.image_size)
            self.tokenizer: Any = None
            if kind == "clip":
                self.tokenizer = transformers.CLIPTokenizer.from_pretrained(folder)
        if kind == "clip":
            text = self.model.config.text_config
            check_range(text.eos_token_id, f"config.json of {folder.name}: eos_token_id", 0, text.vocab_size - 1)
        if kind == "clip" and self.preprocessing.side != side:
            raise UserError(
                f"preprocessor_config.json of {folder.name} makes images of {self.preprocessing.side} pixels, and the "
                f"extractor reads images of {side} pixels",
                fix="download it again",
            )
        self._kept: dict[tuple[str, str], Rows] = {}
        self._styles: dict[str, Rows] = {}
        self._texts: dict[str, Rows] = {}
        self._projections: dict[int, Any] = {}

    def images(self, samples: Sequence[Sample], *, crop: str = "center") -> list[Rows]:
        """(d,) of each image: CLIP's projected embedding, or the class token of a tower for images alone."""
        self._embed(samples, crop)
        return [self._kept[crop, sample.id] for sample in samples]

    def styles(self, samples: Sequence[Sample]) -> list[Rows]:
        """(k,) of each image: Gram matrices of its tokens at three depths (Gatys et al. 2016), one below the other, each of
        length 1. Tokens are projected to 64 columns first, by fixed random orthonormal ones where they are wider."""
        self.keep_style = True
        self._embed([sample for sample in samples if sample.id not in self._styles], "center", again=True)
        return [self._styles[sample.id] for sample in samples]

    def texts(self, text: str, sections: Sequence[Section]) -> Rows:
        """(windows, d) unit vectors: the text in windows of what the encoder reads at once, cut at sentence borders, each
        with its section's header."""
        if text not in self._texts:
            self._texts[text] = self._encode_texts(self.windows(sections))
        return self._texts[text]

    def windows(self, sections: Sequence[Section]) -> list[list[int]]:
        """Token ids of each window, without markers; at least one window."""
        room = int(self.model.config.text_config.max_position_embeddings) - 2
        done: list[list[int]] = []
        for section in sections:
            header = self._ids(section.header) if section.header else []
            header = header if len(header) <= room // 2 else []
            current = list(header)
            for sentence in section.sentences:
                ids = self._ids(sentence)
                if len(current) + len(ids) > room and len(current) > len(header):
                    done.append(current)
                    current = list(header)
                step = room - len(current)
                while len(ids) > step:  # one sentence that is longer than a window
                    done.append(current + ids[:step])
                    current, ids = list(header), ids[step:]
                    step = room - len(current)
                current = current + ids
            if len(current) > len(header):
                done.append(current)
        return _joined(done, room) or [[]]

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False, truncation=False, verbose=False)["input_ids"])

    def _encode_texts(self, windows: Sequence[list[int]]) -> Rows:
        import torch

        tokenizer, config = self.tokenizer, self.model.config.text_config
        first, last, rest = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
        length = int(config.max_position_embeddings)
        filled = [[first, *ids, last] + [rest] * (length - 2 - len(ids)) for ids in windows]
        known = range(int(config.vocab_size))
        if wrong := [id_ for ids in filled for id_ in ids if id_ not in known]:
            raise UserError(
                "the extractor's tokenizer does not belong to its weights",
                got=shown(wrong[0]),
                expected=f"token ids below {len(known):,}",
                fix="download it again",
            )
        with torch.inference_mode():
            seen = self.model.text_model(input_ids=torch.tensor(filled, device=self.device)).pooler_output
            rows = torch.nn.functional.normalize(self.model.text_projection(seen), dim=-1)
        return rows.float().cpu().numpy()

    def _embed(self, samples: Sequence[Sample], crop: str, *, again: bool = False) -> None:
        """Run the tower over the samples that are not known yet."""
        import torch

        missing = {sample.id: sample for sample in samples if again or (crop, sample.id) not in self._kept}
        if not missing:
            return
        arrays: list[Rows] = []
        for sample in missing.values():
            assert sample.open is not None, sample.id
            arrays.append(self.preprocessing.pixels(sample.open(), crop))
        pixels_bchw = torch.from_numpy(np.stack(arrays)).to(self.device)
        with torch.inference_mode():
            vision = self.model.vision_model if self.kind == "clip" else self.model
            answer = vision(pixel_values=pixels_bchw, output_hidden_states=self.keep_style)
            clip = self.kind == "clip"
            rows = self.model.visual_projection(answer.pooler_output) if clip else answer.last_hidden_state[:, 0]
            styles = self._grams(answer.hidden_states) if self.keep_style else [None] * len(missing)
        if not bool(torch.isfinite(rows).all()):
            raise UserError("the extractor gives NaN or infinity", got=self.name, fix="name another extractor")
        for id_, row, style in zip(missing, rows.float().cpu().numpy(), styles, strict=True):
            self._kept.setdefault((crop, id_), row)
            if style is not None and crop == "center":
                self._styles.setdefault(id_, style)

    def _grams(self, hidden: Sequence[Any]) -> list[Rows]:
        import torch

        parts: list[Any] = []
        for depth in STYLE_DEPTHS:
            tokens_bld = hidden[round(depth * (len(hidden) - 1))][:, 1:].float()
            tokens_bld = torch.nn.functional.layer_norm(tokens_bld, tokens_bld.shape[-1:])
            width = tokens_bld.shape[-1]
            if width > STYLE_WIDTH:
                tokens_bld = tokens_bld @ self._projection(width)
            gram_bdd = tokens_bld.transpose(1, 2) @ tokens_bld / tokens_bld.shape[1]
            upper = torch.triu_indices(gram_bdd.shape[1], gram_bdd.shape[1])
            parts.append(torch.nn.functional.normalize(gram_bdd[:, upper[0], upper[1]], dim=-1))
        return list(torch.cat(parts, dim=1).cpu().numpy())

    def _projection(self, width: int) -> Any:
        import torch

        if width not in self._projections:
            random = torch.randn(width, STYLE_WIDTH, generator=generator("style projection", width))
            self._projections[width] = torch.linalg.qr(random).Q.to(self.device)
        return self._projections[width]


def _joined(windows: Sequence[list[int]], room: int) -> list[list[int]]:
    """Short neighbours in one window, so that a text that fits into one is read as one."""
    joined: list[list[int]] = []
    for ids in windows:
        if joined and len(joined[-1]) + len(ids) <= room:
            joined[-1] = joined[-1] + ids
        else:
            joined.append(list(ids))
    return joined


def tower_of(setup: MetricSetup) -> Tower:
    """The extractor of a metric, opened once for all metrics that use it."""
    assert setup.tower is not None
    key = f"tower {setup.tower}"
    if key not in setup.shared:
        if not is_file(setup.tower / "config.json"):
            raise UserError("no extractor here", got=str(setup.tower), expected="a folder with config.json")
        setup.shared[key] = Tower(setup.tower, setup.device)
    return setup.shared[key]


def clip_tower_of(setup: MetricSetup) -> Tower:
    """`tower_of` for metrics that compare with texts or use CLIP's shared space.

    Raises:
        UserError: The extractor reads images alone.
    """
    tower = tower_of(setup)
    if tower.kind != "clip":
        raise UserError("this extractor is no CLIP", got=tower.kind, fix="name a CLIP with --extractor")
    return tower
