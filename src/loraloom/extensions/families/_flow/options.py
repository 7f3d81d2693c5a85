"""Help of options that the flow families share. No library is imported.

In: what a part is called. Out: the help of the option that names its file.
"""


def part_file(what: str) -> str:
    """Help of an option that names the file of a part's weights."""
    return (
        f"File (.safetensors) with the weights of {what}, as ComfyUI keeps them; empty: those of the checkpoint in one file, "
        "or of the folder."
    )
