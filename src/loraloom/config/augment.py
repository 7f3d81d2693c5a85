"""Settings of augmentation in training: mirrored images, crops around the subject, changes of light."""

from typing import Literal

from loraloom.config.base import Settings, setting


class AugmentConfig(Settings):
    """Augmentation; words stay true of what is shown."""

    flip_unknown: Literal["error", "keep"] = setting(
        "error",
        "Images whose caption cannot be rewritten for the mirror image: error, or keep them as they are, counted.",
        flag="--flip-unknown",
    )
    variants: int = setting(
        0,
        "Number of augmented variants of each image beside the prepared one; each epoch takes one of all; 0: none.",
        flag="--augment-variants",
        ge=0,
        le=32,
    )
    crop: float = setting(
        0.1,
        "Largest fraction of each side that a variant cuts away, around its subject; 0: no crops.",
        flag="--augment-crop",
        ge=0,
        le=0.5,
    )
    light: float = setting(
        0.1,
        "Largest change of brightness, contrast and saturation of a variant, as a fraction; hues stay; 0: none.",
        flag="--augment-light",
        ge=0,
        le=0.5,
    )
