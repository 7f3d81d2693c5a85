"""Emphasis as users of A1111 and ComfyUI write it.

In: a prompt such as `a (red:1.3) house`. Out: the plain text and a weight for every character. `(x)` multiplies by 1.1,
`(x:1.3)` by 1.3, pairs nest, `\\(` is a bracket, an unpaired bracket is text. Square brackets are text, as in ComfyUI:
structured prompts write their section headers in them. A weight beyond `MAX_WEIGHT` and brackets nested deeper than
`MAX_DEPTH` are refused: the model would generate noise. Syntax: AUTOMATIC1111 stable-diffusion-webui, "Attention/emphasis".
"""

import re
from dataclasses import dataclass

from loraloom.utils.errors import UserError
from loraloom.utils.untrusted import shown

_TOKEN = re.compile(r"\\[()\\]|[()]|[^\\()]+|\\", re.DOTALL)
_NUMBER = re.compile(r"\s*[+-]?(?:\d+\.?\d*|\.\d+)\s*")
_STEP = 1.1
MAX_WEIGHT = 100.0
"""Largest absolute weight of a word. A1111 and ComfyUI generate noise above 2 or 3."""
MAX_DEPTH = 64


@dataclass(frozen=True, slots=True)
class WeightedText:
    """Plain text and one weight for each of its characters."""

    text: str
    weights: tuple[float, ...]

    @property
    def plain(self) -> bool:
        """Whether every weight is one."""
        return all(weight == 1.0 for weight in self.weights)


def unweighted(text: str) -> WeightedText:
    """The text as it stands, brackets and all, every weight one."""
    return WeightedText(text, (1.0,) * len(text))


def parse(prompt: str) -> WeightedText:
    """Read the emphasis out of a prompt. What is no emphasis is text.

    Raises:
        UserError: Brackets nested deeper than `MAX_DEPTH`, or a weight beyond `MAX_WEIGHT`.
    """
    tokens = _TOKEN.findall(prompt)
    partner = _pairs(tokens)
    characters: list[str] = []
    weights: list[float] = []
    starts: list[int] = []  # where the text inside each open bracket begins
    for index, token in enumerate(tokens):
        if len(token) == 2 and token[0] == "\\":
            characters.append(token[1])
            weights.append(1.0)
        elif token == "(" and index in partner:
            starts.append(len(characters))
            if len(starts) > MAX_DEPTH:
                raise UserError(
                    "the prompt nests brackets too deeply",
                    got=shown(prompt),
                    expected=f"at most {MAX_DEPTH} levels",
                    fix="write a weight as (word:1.3)",
                )
        elif token == ")" and index in partner:
            _close(starts.pop(), characters, weights)
        else:
            characters.extend(token)
            weights.extend([1.0] * len(token))
    extreme = max(weights, key=abs, default=1.0)
    if not abs(extreme) <= MAX_WEIGHT:
        raise UserError(
            "a weight in the prompt is out of range",
            got=f"{extreme:.3g} in {shown(prompt)}",
            expected=f"-{MAX_WEIGHT:g} to {MAX_WEIGHT:g}",
            fix="use fewer brackets or a smaller number, such as (word:1.3)",
        )
    return WeightedText("".join(characters), tuple(weights))


def _pairs(tokens: list[str]) -> set[int]:
    """Indices of brackets that have a partner."""
    paired: set[int] = set()
    open_brackets: list[int] = []
    for index, token in enumerate(tokens):
        if token == "(":
            open_brackets.append(index)
        elif token == ")" and open_brackets:
            paired |= {open_brackets.pop(), index}
    return paired


def _close(start: int, characters: list[str], weights: list[float]) -> None:
    """Apply the bracket that ends here to everything since `start`."""
    text, colon, number = "".join(characters[start:]).rpartition(":")
    factor = _STEP
    if colon and _NUMBER.fullmatch(number):
        factor = float(number)
        keep = start + len(text.rstrip())
        del characters[keep:], weights[keep:]
    for index in range(start, len(weights)):
        weights[index] *= factor
