"""Where the model of a captioner is: a local folder as it is, a hub id in the hub's own cache.

In: a captioner and its options as the user gave them. Out: the options with `caption_model` a local folder whose files were
checked: no code of the model's own, no adapter, no pickle.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from loraloom.protocols.data import Captioner, SourceItem
from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import is_file, read_json_object

if TYPE_CHECKING:
    from PIL import Image

_FLAG = "--caption-model"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def with_model(captioner: Captioner, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options; of a captioner with a model `caption_model` becomes the folder of its files.

    Raises:
        UserError: No such folder, not on the hub, or the model asks to run code.
    """
    if not hasattr(captioner, "caption_many"):
        return dict(options)
    for module, extra in getattr(captioner, "requires", ()):
        if find_spec(module) is None:  # before anything is downloaded
            fix = f"pip install 'loraloom[{extra}]' (or pip install {module})"
            raise UserError(f"the captioner {captioner.name} needs {module}", fix=fix)
    location = str(options["caption_model"]) or str(getattr(captioner, "default_model", ""))
    folder = _folder(location, tuple(getattr(captioner, "files", ("*",))))
    config = folder / "config.json"
    if is_file(config):
        from loraloom.models.files import refuse_foreign
        from loraloom.models.headers import check_files

        what = f"config.json of the captioning model {location}"
        refuse_foreign(read_json_object(config, what), what)
        check_files(folder)
    return {**options, "caption_model": str(folder)}


class Asker:
    """Asks a captioner about one image after another; its model is looked for when the first one needs it."""

    def __init__(self, captioner: Captioner, options: Mapping[str, Any], trigger: str) -> None:
        self.captioner, self.options, self.trigger = captioner, options, trigger
        self._resolved: dict[str, Any] | None = None

    def text(self, image: "Image.Image", item: SourceItem) -> str:
        """The caption of an image.

        Raises:
            UserError: As `with_model` and `Captioner.caption`.
            RefusedError: The captioner cannot caption this image.
        """
        if self._resolved is None:
            self._resolved = with_model(self.captioner, self.options)
        return self.captioner.caption(image, item, self._resolved, self.trigger)


def _folder(location: str, files: tuple[str, ...]) -> Path:
    try:
        path = Path(location).expanduser()
        found = path.is_dir()
    except (OSError, ValueError, RuntimeError):
        path, found = Path("/"), False
    if found:
        return path.resolve()
    if not _HUB_ID.fullmatch(location) or location.startswith("."):
        expected = "a folder, or a hub id such as Salesforce/blip-image-captioning-large"
        raise UserError("no such captioning model", got=location, expected=expected, fix=f"name another with {_FLAG}")
    from loraloom.utils.hub import download_files

    try:
        return download_files(location, None, files, complete=files[0])
    except UserError as error:
        fix = f"on a machine with a network run `hf download {location}`, or give {_FLAG} a folder"
        raise UserError(error.what, got=error.got, expected=error.expected, fix=fix) from None
