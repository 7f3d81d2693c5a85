"""Trigger words in prompts and captions: take them out, put them first.

In: a text and a trigger word. Out: the text. A trigger counts as whole words only: `anistyle` is not in `anistyles`.
"""

import re


def has_trigger(text: str, trigger: str) -> bool:
    """Whether a text has the trigger as a whole word."""
    return re.search(_word(trigger), text) is not None


def without_trigger(prompt: str, trigger: str) -> str:
    """The prompt without the trigger word and the comma or blank beside it; whole words only."""
    if not trigger:
        return prompt
    word = _word(trigger)
    text = re.sub(rf"{word}\s*,?\s*|(?<!\s)\s*+,\s*{word}", "", prompt)
    return re.sub(r"[ \t]{2,}", " ", text).strip().strip(",").strip()


def with_trigger_first(text: str, trigger: str) -> str:
    """The text after the trigger word and a comma. One that begins with it is unchanged; elsewhere it is taken out."""
    text = text.strip()
    if not trigger or re.match(_word(trigger), text):
        return text
    rest = without_trigger(text, trigger)
    return f"{trigger}, {rest}" if rest else trigger


def _word(trigger: str) -> str:
    return rf"(?<!\w){re.escape(trigger)}(?!\w)"
