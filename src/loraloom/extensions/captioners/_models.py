"""Captioning models of transformers: open a local folder once, write captions in batches, sample further ones by seed.

In: a folder with config, processor files and safetensors weights; RGB images with prompts. Out: texts in one line each.
No code of a model is run: classes are those of the installed transformers, weights are safetensors.
"""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# torch and transformers are not typed.

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from loraloom.extensions.captioners._limits import check_fit, check_folder
from loraloom.extensions.captioners._placeholders import filled
from loraloom.protocols.data import SourceItem
from loraloom.utils.errors import UserError
from loraloom.utils.image_bytes import RefusedError
from loraloom.utils.quiet import quiet
from loraloom.utils.rng import derive_seed
from loraloom.utils.untrusted import library_errors, read_json_object, shown

if TYPE_CHECKING:
    from PIL import Image

FILES: tuple[str, ...] = (
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "chat_template.*",
    "added_tokens.json",
    "special_tokens_map.json",
    "tokenizer*",
    "vocab.*",
    "merges.txt",
    "spiece.model",
    "model.safetensors",
    "model-*-of-*.safetensors",
    "model.safetensors.index.json",
)
"""What is downloaded of a captioning model."""
_TOP_P = 0.9
_SMALLEST_SIDE_PX = 32
"""A smaller image is enlarged first: processors divide an image into patches and refuse one without any."""
_TALLEST = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A kind of captioning model.

    Attributes:
        classes: `model_type` of a config, and the name of the class of transformers that opens it; empty: any.
        prompt: Default prompt; empty: none.
        chat: Whether the prompt is a message in the model's chat template.
        continues: `model_type`s whose caption begins with the prompt.
    """

    classes: tuple[tuple[str, str], ...]
    prompt: str = ""
    chat: bool = False
    continues: frozenset[str] = frozenset()


class TransformersCaptioner:
    """A captioner that is a model of transformers.

    A subclass names itself, its settings, its usual model and its kind, and may choose the prompt.
    """

    kind: Kind
    files: tuple[str, ...] = FILES

    def prompt(self, options: Mapping[str, Any]) -> str:
        """The prompt that the options ask for; empty without one."""
        return str(options["caption_prompt"])

    def caption(self, image: "Image.Image", item: SourceItem, options: Mapping[str, Any], trigger: str) -> str:
        """The most probable caption."""
        return one_caption(self.caption_many([image], [item], options, trigger, 1, 0))

    def caption_many(
        self,
        images: "Sequence[Image.Image]",
        items: Sequence[SourceItem],
        options: Mapping[str, Any],
        trigger: str,
        count: int,
        seed: int,
    ) -> list[tuple[str, ...]]:
        """See `ModelCaptioner`."""
        chosen = {**options, "caption_prompt": self.prompt(options)}
        return captions(self.kind, images, items, chosen, trigger, count, seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """An opened model. `processor`, `model`: of transformers. `kind`: its `model_type`."""

    processor: Any
    model: Any
    kind: str
    device: Any
    dtype: Any = field(repr=False)


def device_and_dtype(options: Mapping[str, Any]) -> tuple[Any, Any]:
    """The torch device and dtype that the options name.

    Raises:
        UserError: There is no such device.
    """
    import torch

    name = str(options["caption_device"])
    if name == "auto":
        mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        fix = "use --caption-device auto, cpu, or a device of this machine"
        raise UserError(f"the captioning model cannot run there ({reason})", got=name, fix=fix) from None
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    wanted = str(options["caption_dtype"])
    if wanted == "auto":
        wanted = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return device, dtypes[wanted]


def captions(
    kind: Kind,
    images: "Sequence[Image.Image]",
    items: Sequence[SourceItem],
    options: Mapping[str, Any],
    trigger: str,
    count: int,
    seed: int,
) -> list[tuple[str, ...]]:
    """See `ModelCaptioner.caption_many`."""
    prompt = str(options["caption_prompt"]) or kind.prompt
    prompts = [filled(prompt, item, trigger, flag="--caption-prompt") for item in items]
    device, dtype = device_and_dtype(options)
    opened = open_model(str(options["caption_model"]), str(device), dtype, kind)
    usable = [_large_enough(image) for image in images]
    first = [""] * len(images)
    for text in dict.fromkeys(prompts):  # equal prompts need no padding between texts
        places = [place for place, other in enumerate(prompts) if other == text]
        made = _generate(opened, kind, [usable[place] for place in places], text, options, sampled=False)
        for place, caption in zip(places, made, strict=True):
            first[place] = caption
    answers: list[tuple[str, ...]] = []
    for image, item, text, caption in zip(usable, items, prompts, first, strict=True):
        more = _sampled(opened, kind, image, item, text, options, count - 1, seed) if count > 1 else []
        answers.append(tuple(one for one in [caption, *more] if one))
    return answers


def one_caption(answers: Sequence[tuple[str, ...]]) -> str:
    """The caption of a single image.

    Raises:
        RefusedError: The model wrote nothing.
    """
    if not answers[0]:
        raise RefusedError("the captioning model writes nothing about it")
    return answers[0][0]


def _sampled(
    opened: Opened,
    kind: Kind,
    image: "Image.Image",
    item: SourceItem,
    text: str,
    options: Mapping[str, Any],
    count: int,
    seed: int,
) -> list[str]:
    """`count` sampled captions of one image; the generators of the process are as they were afterwards."""
    import torch

    with torch.random.fork_rng(devices=[opened.device] if opened.device.type == "cuda" else []):
        torch.manual_seed(derive_seed(seed, item.id, "caption"))
        return _generate(opened, kind, [image] * count, text, options, sampled=True)


def _generate(
    opened: Opened, kind: Kind, images: "Sequence[Image.Image]", text: str, options: Mapping[str, Any], *, sampled: bool
) -> list[str]:
    """One text for each image, all with the same prompt."""
    import torch

    processor, model = opened.processor, opened.model
    if kind.chat:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        messages = [{"role": "user", "content": content}]
        with library_errors("the chat template of the captioning model", opened.model.name_or_path):
            text = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    given = {"images": list(images), "return_tensors": "pt"}
    if text:
        given |= {"text": [text] * len(images), "padding": True}
    with library_errors("the processor of the captioning model", opened.model.name_or_path):
        inputs = processor(**given).to(opened.device, opened.dtype)
    way: dict[str, Any] = {
        "max_new_tokens": int(options["caption_max_tokens"]),
        "do_sample": sampled,
        "num_return_sequences": 1,
    }
    if sampled:
        way |= {"temperature": float(options["caption_temperature"]), "top_p": _TOP_P, "num_beams": 1}
    else:
        way |= {"num_beams": int(options["caption_beams"]), "temperature": None, "top_p": None, "top_k": None}
    with library_errors("the captioning model", model.name_or_path), torch.inference_mode(), quiet():
        with _memory_errors(len(images)):
            ids_bl = model.generate(**inputs, **way)
        # A decoder's answer begins with its prompt.
        begins = "input_ids" in inputs and not model.config.is_encoder_decoder and opened.kind not in kind.continues
        if begins:
            ids_bl = ids_bl[:, inputs["input_ids"].shape[1] :]
        return [clean(one) for one in processor.batch_decode(ids_bl, skip_special_tokens=True)]


def _memory_errors(count: int) -> Any:
    """A full device becomes a `UserError` that names the setting."""
    from contextlib import contextmanager

    @contextmanager
    def watch() -> Any:
        import torch

        try:
            yield
        except torch.OutOfMemoryError as error:
            fix = "use a smaller --batch-size, a smaller model, or --caption-dtype bf16"
            raise UserError(f"the device has too little memory for a batch of {count} images", fix=fix) from error

    return watch()


def clean(text: str) -> str:
    """`text` in one line, without control characters and letters that were lost in decoding."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).replace("\ufffd", " ").split())


def _large_enough(image: "Image.Image") -> "Image.Image":
    """The image, enlarged and squeezed where a processor would find no patch in it."""
    width, height = image.size
    scale = max(1.0, _SMALLEST_SIDE_PX / min(width, height))
    size = [round(side * scale) for side in (width, height)]
    size = [min(side, _TALLEST * min(size)) for side in size]
    return image if tuple(size) == image.size else image.resize((size[0], size[1]))


@lru_cache(maxsize=1)
def open_model(folder: str, device: str, dtype: Any, kind: Kind) -> Opened:
    """The model in a folder, ready to caption.

    Raises:
        UserError: It is not of this kind, has no safetensors weights, or cannot be opened.
    """
    import torch
    import transformers

    place = Path(folder)
    found = str(check_folder(place).get("model_type"))
    classes = dict(kind.classes)
    if classes and found not in classes:
        raise UserError(
            "this is no model of the captioner's kind",
            got=shown(found),
            expected=f"model_type {' or '.join(classes)}",
            fix="name another --caption-model, or another --captioner: vlm opens most models",
        )
    weights = sorted(place.glob("*.safetensors"))
    if not weights:
        fix = "get a version with model.safetensors: pickled weights can run code and are not read"
        raise UserError("the captioning model has no safetensors weights", got=folder, fix=fix)
    with quiet(), library_errors("the captioning model", folder):
        made = getattr(transformers, classes.get(found, "AutoModelForImageTextToText"))
        check_fit(made, place, weights)
        processor = _open_processor(place)
        way = {"dtype": dtype, "use_safetensors": True, "local_files_only": True, "output_loading_info": True}
        model, info = cast("tuple[Any, Any]", made.from_pretrained(place, **way))
        model = model.eval().requires_grad_(False).to(torch.device(device))
    if lacking := sorted(info["missing_keys"]):  # the library would make them up
        got = f"{len(lacking)} weights are missing, the first is {lacking[0]}"
        raise UserError("the captioning model is not whole", got=got, fix="download it again")
    if getattr(processor, "tokenizer", None) is None:
        raise UserError("the captioning model has no tokenizer", got=folder, fix="name another --caption-model")
    processor.tokenizer.padding_side = "left"
    if processor.tokenizer.pad_token is None:
        processor.tokenizer.pad_token = processor.tokenizer.eos_token
    return Opened(processor=processor, model=model, kind=found, device=torch.device(device), dtype=dtype)


def _open_processor(folder: Path) -> Any:
    """The processor; without its part for videos where that needs torchvision, which is not a dependency of ours."""
    import transformers

    try:
        return transformers.AutoProcessor.from_pretrained(folder, local_files_only=True)
    except ImportError:
        named = _class_name(folder)
        made: Callable[..., Any] | None = getattr(transformers, named, None)
        if made is None:
            raise
        images = transformers.AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        template = folder / "chat_template.jinja"
        text = template.read_text(encoding="utf-8") if template.is_file() else tokenizer.chat_template
        return _without_videos(made)(images, tokenizer, None, chat_template=text)


def _without_videos(made: Any) -> Any:
    """A class of processors that takes None for its part for videos."""

    class WithoutVideos(made):
        def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
            if argument_name == "video_processor" and argument is None:
                return None
            return super().check_argument_for_proper_class(argument_name, argument)

    return WithoutVideos


def _class_name(folder: Path) -> str:
    """Name of the processor's class, as one of the folder's files says it."""
    for name in ("processor_config.json", "preprocessor_config.json"):
        if (folder / name).is_file():
            value = read_json_object(folder / name, name).get("processor_class")
            if isinstance(value, str) and value.isidentifier() and value.endswith("Processor"):
                return value
    return ""
