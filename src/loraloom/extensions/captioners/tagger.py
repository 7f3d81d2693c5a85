"""Tags by an ONNX tagger through onnxruntime, such as the WD taggers: `1girl, solo, long hair`.

In: images; a folder or hub id with `model.onnx` and `selected_tags.csv` (columns `name` and `category`: 0 general, 4 character,
9 rating). Out: the tags above a threshold, the most probable ones first, as one caption. The image is padded to a white square
and read as the model's first input says: (b, side, side, 3), BGR, 0 .. 255, which is the form of SmilingWolf's WD taggers.
The file is data: no operator library is loaded, and onnxruntime keeps external weights inside the model's folder.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraloom.protocols.contracts import CaptionerContract, CaptionExample
from loraloom.protocols.data import ModelCaptioner, SourceItem
from loraloom.protocols.settings import CaptionModel, setting
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.untrusted import check_range, check_regular_file, library_errors, read_text, shown

if TYPE_CHECKING:
    from PIL import Image

MODEL_FILE, TAGS_FILE = "model.onnx", "selected_tags.csv"
_GENERAL, _CHARACTER, _RATING = "0", "4", "9"
_MAX_TAGS = 200_000
_MAX_MODEL_BYTES = 16 << 30
_FACES = {
    *(
        "0_0",
        "(o)_(o)",
        "+_+",
        "+_-",
        "._.",
        "<o>_<o>",
        "<|>_<|>",
        "=_=",
        ">_<",
        "3_3",
        "6_9",
        ">_o",
        "@_@",
        "^_^",
        "o_o",
    ),
    *("u_u", "x_x", "|_|", "||_||"),
}
"""Tags whose underscore is no blank."""


class TaggerSettings(CaptionModel):
    """Settings of the captioner tagger."""

    tagger_threshold: float = setting(
        0.35, "Smallest probability of a general tag that is written.", flag="--tagger-threshold", gt=0, le=1
    )
    tagger_character_threshold: float = setting(
        0.85,
        "Smallest probability of a character's name that is written.",
        flag="--tagger-character-threshold",
        gt=0,
        le=1,
    )
    tagger_max_tags: int = setting(
        40, "Maximum number of tags of an image; the most probable ones are written.", flag="--tagger-max-tags", ge=1
    )
    tagger_exclude: tuple[str, ...] = setting(
        (), "Tags that are never written, separated by commas; may be repeated.", flag="--tagger-exclude"
    )


@dataclass(frozen=True, slots=True)
class Tag:
    """A name as captions have it, and its category."""

    name: str
    category: str


class Tagger:
    """The `tagger` captioner. It writes one caption an image, whatever number is asked for."""

    name = "tagger"
    settings = TaggerSettings
    default_model = "SmilingWolf/wd-vit-tagger-v3"
    files: tuple[str, ...] = (MODEL_FILE, TAGS_FILE)
    max_side_px = 1024
    requires = (("onnxruntime", "tagger"),)

    def caption(self, image: "Image.Image", item: SourceItem, options: Mapping[str, Any], trigger: str) -> str:
        """The tags, separated by commas.

        Raises:
            RefusedError: No tag reaches its threshold.
        """
        (answers,) = self.caption_many([image], [item], options, trigger, 1, 0)
        if not answers:
            raise RefusedError("no tag reaches its threshold (--tagger-threshold)")
        return answers[0]

    def caption_many(
        self,
        images: "Sequence[Image.Image]",
        items: Sequence[SourceItem],
        options: Mapping[str, Any],
        trigger: str,
        count: int,
        seed: int,
    ) -> list[tuple[str, ...]]:
        """See `ModelCaptioner`; tags are not sampled, so each image has one caption or none."""
        import numpy as np

        session, tags = open_tagger(str(options["caption_model"]), str(options["caption_device"]))
        (first, *others), answer = session.get_inputs(), session.get_outputs()[0]
        side = first.shape[1]
        if others or len(first.shape) != 4 or first.shape[3] != 3 or side != first.shape[2]:
            expected = "one input (b, side, side, 3), as the WD taggers have it"
            raise UserError("this is no tagger that can be read", got=shown(first.shape), expected=expected)
        check_range(side, "the side of the tagger's images, pixels", 8, 4096)
        with library_errors("the tagger", options["caption_model"]):
            # One image at a time where the batch is fixed.
            groups = [list(images)] if not isinstance(first.shape[0], int) else [[image] for image in images]
            rows = [
                session.run([answer.name], {first.name: np.stack([_pixels(image, side) for image in group])})[0]
                for group in groups
            ]
        table = np.concatenate(rows)
        if table.shape != (len(images), len(tags)):
            raise UserError(
                f"the tagger answers by {shown(table.shape)}, and {TAGS_FILE} has {len(tags):,} tags",
                fix="take both files from the same model",
            )
        if not np.isfinite(table).all():
            raise UserError("the tagger gives NaN or infinity", fix="name another --caption-model")
        return [_written(row, tags, options) for row in table.tolist()]


def _written(row: Sequence[float], tags: Sequence[Tag], options: Mapping[str, Any]) -> tuple[str, ...]:
    """The caption of one image as a tuple of at most one text: characters first, then by probability."""
    least = {_GENERAL: options["tagger_threshold"], _CHARACTER: options["tagger_character_threshold"]}
    left_out = {part.strip().casefold() for text in options["tagger_exclude"] for part in text.split(",")}
    found = [
        (tag.category != _CHARACTER, -value, tag.name)
        for value, tag in zip(row, tags, strict=True)
        if tag.category in least and value >= least[tag.category] and tag.name.casefold() not in left_out
    ]
    names = [name for _, _, name in sorted(found)[: int(options["tagger_max_tags"])]]
    return (", ".join(names),) if names else ()


def _pixels(image: "Image.Image", side: int) -> Any:
    """(side, side, 3) float32, BGR, 0 .. 255, of an image on a white square."""
    import numpy as np
    from PIL import Image

    longer = max(image.size)
    square = Image.new("RGB", (longer, longer), (255, 255, 255))
    square.paste(image.convert("RGB"), ((longer - image.width) // 2, (longer - image.height) // 2))
    square = square.resize((side, side), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(square, np.float32)[:, :, ::-1])


@lru_cache(maxsize=1)
def open_tagger(folder: str, device: str) -> tuple[Any, tuple[Tag, ...]]:
    """The session and the tags of a model's folder.

    Raises:
        UserError: onnxruntime is not installed, a file is missing or cannot be read, or the device cannot be used.
    """
    try:
        onnxruntime: Any = import_module("onnxruntime")
    except ImportError:
        raise UserError(
            "the captioner tagger needs onnxruntime", fix="pip install 'loraloom[tagger]' (or pip install onnxruntime)"
        ) from None
    place = Path(folder)
    tags = read_tags(place / TAGS_FILE)
    check_regular_file(place / MODEL_FILE, f"{MODEL_FILE} of the tagger", max_bytes=_MAX_MODEL_BYTES)
    offered = onnxruntime.get_available_providers()
    providers = [name for name in ("CUDAExecutionProvider", "CPUExecutionProvider") if name in offered]
    if device == "cpu" or device == "mps":
        providers = ["CPUExecutionProvider"]
    elif device.startswith("cuda") and "CUDAExecutionProvider" not in offered:
        fix = "install onnxruntime-gpu, or use --caption-device cpu"
        raise UserError("this onnxruntime cannot use a GPU", got=device, fix=fix)
    elif device != "auto" and not device.startswith("cuda"):
        raise UserError("the tagger cannot run there", got=device, expected="auto, cpu or cuda")
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    with library_errors("the tagger", place / MODEL_FILE):
        return onnxruntime.InferenceSession(place / MODEL_FILE, settings, providers=providers), tags


def read_tags(path: Path) -> tuple[Tag, ...]:
    """The tags of `selected_tags.csv`, in the order of the model's answers; underscores become blanks.

    Raises:
        UserError: The file is missing, or a row has no name or no category.
    """
    text = read_text(path, f"{TAGS_FILE} of the tagger", max_bytes=64 << 20)
    with library_errors(f"{TAGS_FILE} of the tagger", path):
        rows = list(csv.DictReader(io.StringIO(text)))
    tags: list[Tag] = []
    for number, row in enumerate(rows[: _MAX_TAGS + 1], start=2):
        name, category = row.get("name"), row.get("category")
        if not name or not category:
            fix = "take the file from the model's own repository"
            raise UserError(f"{TAGS_FILE} line {number} has no name or category", got=shown(row), fix=fix)
        tags.append(Tag(name if name in _FACES else name.replace("_", " "), category.strip()))
    if not tags or len(tags) > _MAX_TAGS:
        raise UserError(f"{TAGS_FILE} of the tagger", got=f"{len(rows):,} tags", expected=f"1 to {_MAX_TAGS:,}")
    return tuple(tags)


TINY_TAGS = (
    ("general", _RATING),
    ("red", _GENERAL),
    ("green_thing", _GENERAL),
    ("blue", _GENERAL),
    ("rex", _CHARACTER),
)


def build_tiny(folder: Path) -> None:
    """A tagger of five tags that answers by the mean brightness of the colour channels, and knows `rex` in no image but a white
    one. It needs the package onnx, which tests have."""
    import numpy as np

    onnx: Any = import_module("onnx")
    helper, number, array = onnx.helper, onnx.TensorProto.FLOAT, import_module("onnx.numpy_helper").from_array

    # mean over height and width -> BGR means in 0 .. 255 -> tags
    weights = np.zeros((3, len(TINY_TAGS)), np.float32)
    weights[2, 1] = weights[1, 2] = weights[0, 3] = 1 / 255
    weights[:, 4] = 1 / (3 * 255)
    bias = np.array([0.9, 0, 0.4, 0, 0], np.float32)  # green thing is in every image: no image is without a tag
    nodes = [
        helper.make_node("ReduceMean", ["image"], ["mean"], axes=[1, 2], keepdims=0),
        helper.make_node("Gemm", ["mean", "weights", "bias"], ["raw"]),
        helper.make_node("Clip", ["raw", "low", "high"], ["tags"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tagger",
        [helper.make_tensor_value_info("image", number, ["batch", 16, 16, 3])],
        [helper.make_tensor_value_info("tags", number, ["batch", len(TINY_TAGS)])],
        [
            array(weights, "weights"),
            array(bias, "bias"),
            array(np.float32(0), "low"),
            array(np.float32(1), "high"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, str(folder / MODEL_FILE))
    lines = [f"{place},{name},{category},1" for place, (name, category) in enumerate(TINY_TAGS)]
    (folder / TAGS_FILE).write_text("tag_id,name,category,count\n" + "\n".join(lines) + "\n", encoding="utf-8")


CAPTIONER: ModelCaptioner = Tagger()
CONTRACT = CaptionerContract(
    examples=(CaptionExample(options={"tagger_threshold": 0.39}, trigger="", item_id="a", caption=None),),
    refused=({"caption_device": "tpu"},),
    build_tiny=build_tiny,
    needs=("onnxruntime", "onnx"),
)
