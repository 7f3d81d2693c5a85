"""Emphasis as users of A1111 and ComfyUI write it.

In: a prompt such as `a (red:1.3) house`. Out: the plain text and a weight for every character. `(x)` multiplies by 1.1,
`(x:1.3)` by 1.3, pairs nest, `\\(` is a bracket, an unpaired bracket is text. Square brackets are text, as in ComfyUI:
structured prompts write their section headers in them. Syntax: AUTOMATIC1111 stable-diffusion-webui, "Attention/emphasis".
"""

import re
from dataclasses import dataclass

_TOKEN = re.compile(r"\\[()\\]|[()]|[^\\()]+|\\", re.DOTALL)
_EXPLICIT = re.compile(r"^(.*?)\s*:\s*([+-]?(?:\d+\.?\d*|\.\d+))\s*$", re.DOTALL)
_STEP = 1.1


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
    """Read the emphasis out of a prompt. Never fails: what is no emphasis is text."""
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
        elif token == ")" and index in partner:
            _close(starts.pop(), characters, weights)
        else:
            characters.extend(token)
            weights.extend([1.0] * len(token))
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
    explicit = _EXPLICIT.match("".join(characters[start:]))
    factor = _STEP
    if explicit:
        factor = float(explicit.group(2))
        keep = start + len(explicit.group(1))
        del characters[keep:], weights[keep:]
    for index in range(start, len(weights)):
        weights[index] *= factor
