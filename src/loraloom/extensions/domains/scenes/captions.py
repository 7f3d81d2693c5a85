"""Captions of scenes: short, medium and long ones, every word computed from the scene.

In: a scene and a number that selects the wording. Out: English in one exact grammar, which `mirrored` converts word by
word.
"""

import numpy as np

from loraloom.extensions.domains.scenes.scene import Group, Scene, in_a_row, relation
from loraloom.extensions.domains.scenes.worlds import SKY_WORD, WORLDS
from loraloom.utils.rng import derive_seed

NUMBERS = ("", "one", "two", "three", "four")
MOST_WORDS = 60
SECOND_PART = {"house": ("roof", "roofs"), "snowman": ("scarf", "scarves")}
_DEPTH = {"far": "far away", "near": "very near"}
_PLACE = {"left": "on the left", "right": "on the right", "middle": "in the middle"}


class _Writer:
    """Words for one scene."""

    def __init__(self, scene: Scene, pick: np.random.Generator) -> None:
        self.scene = scene
        self._pick = pick

    def rng(self, share: float) -> bool:
        return bool(self._pick.random() < share)

    def one(self, *options: str) -> str:
        return options[int(self._pick.integers(len(options)))]

    def order(self, groups: list[Group]) -> list[Group]:
        return [groups[int(index)] for index in self._pick.permutation(len(groups))]

    def noun(self, group: Group, definite: bool = False) -> str:
        """`red car`, `large red cars`, `people in red coats`; definite nouns keep the words that distinguish them."""
        many = len(group.items) > 1
        noun = group.kind.plural if many else group.thing
        only = sum(other.thing == group.thing for other in self.scene.groups) == 1
        bare = only and (self.rng(0.5) if len(set(group.kind.colours)) == 1 else self.rng(0.06))
        if definite and only and self.rng(0.5):
            return noun
        size = group.size if not definite or not only else ""
        if group.thing == "person":
            coat = f"{group.colour} coats" if many else f"{_a(group.colour)} {group.colour} coat"
            return noun if bare else f"{noun} in {'the ' + group.colour + ' coat' if definite and not many else coat}"
        return " ".join(word for word in (size, "" if bare else group.colour, noun) if word)

    def phrase(self, group: Group, rich: bool) -> str:
        """The group at its first mention: `a small red car facing left`."""
        noun = self.noun(group)
        count = len(group.items)
        if group.kind.kin == "light" and noun == group.thing:
            text = f"the {noun}"
        else:
            number = NUMBERS[count] if count > 1 or self.rng(0.06) else _a(noun)
            text = f"{number} {noun}"
        if rich and group.second and self.rng(0.5):
            part = SECOND_PART[group.thing][count > 1]
            text += f" with {_a(group.second) + ' ' if count == 1 else ''}{group.second} {part}"
        if rich and group.facing and self.rng(0.4):
            text += f" facing {group.facing}"
        return text

    def where(self, group: Group) -> str:
        """Its place in the image, or empty."""
        if group.depth and self.rng(0.8):
            return _DEPTH[group.depth]
        if in_a_row(group) and self.rng(0.5):
            return "in a row"
        return _PLACE.get(group.place, "")

    def setting(self) -> str:
        """` in a meadow at night`, ` on a white background`."""
        scene = self.scene
        if scene.background:
            return f" on {_a(scene.background)} {scene.background} background"
        words = " " + self.one(*WORLDS[scene.world].phrases)
        if WORLDS[scene.world].horizon and scene.time != "day":
            words += f" at {scene.time}"
        return words

    def short(self) -> str:
        group = self.order(list(self.scene.groups))[0]
        text = self.phrase(group, rich=False)
        place = self.where(group)
        if place and self.rng(0.25):
            text += f" {place}"
        return text + (self.setting() if self.rng(0.65) else "")

    def medium(self) -> str:
        groups = self.order(list(self.scene.groups))
        lights = [group for group in groups if group.kind.kin == "light"]
        under = bool(lights) and len(groups) > 1 and self.rng(0.7)
        parts: list[str] = []
        for group in groups:
            if under and group in lights:
                continue
            text, place = self.phrase(group, rich=self.rng(0.4)), self.where(group)
            parts.append(f"{text} {place}" if place and self.rng(0.35) else text)
        opening = self.one("", "", "a picture of ", "a scene with ")
        ending = f" under the {lights[0].thing}" if under else ""
        return opening + _joined(parts) + self.setting() + ending

    def sentence(self, group: Group, named: list[Group]) -> str:
        """One sentence about a group and its place, relative to an earlier named group if possible."""
        phrase = self.phrase(group, rich=True)
        verb = "are" if len(group.items) > 1 else "is"
        for anchor in self.order(named):
            joint = relation(group, anchor)
            if joint and self.rng(0.75):
                definite = self.noun(anchor, definite=True)
                return f"{phrase} {verb} {joint} the {definite}"
        place = self.where(group)
        if not place:
            return f"there {verb} {phrase}"
        if "facing" in phrase or self.rng(0.5):
            return f"there {verb} {phrase} {place}" if "facing" not in phrase else f"{place} there {verb} {phrase}"
        return f"{phrase} {verb} {place}"

    def long(self) -> str:
        scene = self.scene
        named: list[Group] = []
        sentences: list[str] = []
        for group in scene.groups:
            sentences.append(self.sentence(group, named))
            named.append(group)
        if scene.background:
            rest = [f"the background is {scene.background}"]
        else:
            where = self.setting().strip()
            rest = [f"the scene is {where}"]
            if scene.time == "day":  # at night grass is not green
                rest.append(WORLDS[scene.world].fact)
            if WORLDS[scene.world].horizon:
                rest.append(f"the sky is {SKY_WORD[scene.time]}")
        if rest[1:] and self.rng(0.5):
            sentences[0] += self.setting() if sentences[0].startswith("there") else ""
            rest = rest[1:] if sentences[0].startswith("there") else rest
        sentences += [text for number, text in enumerate(rest) if not number or self.rng(0.6)]
        while sum(len(text.split()) for text in sentences) > MOST_WORDS:
            sentences.pop()
        return ". ".join(sentences) + "."


def _a(words: str) -> str:
    return "an" if words[0] in "aeiou" else "a"


def _joined(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def caption(scene: Scene) -> str:
    """The scene's caption without its style: about a third each short, medium and long."""
    writer = _Writer(scene, np.random.default_rng(derive_seed("scenes", "caption", scene.seed)))
    kind = writer.one("short", "medium", "long")
    if kind == "short":
        return writer.short()
    return writer.medium() if kind == "medium" else writer.long()


def styled(text: str, style: str, seed: int) -> str:
    """The caption with its style: `, cartoon style` at its end; `a flat drawing of` before some short flat ones."""
    if style != "flat":
        return f"{text.rstrip('.')}, {style} style"
    plain = text.startswith(("a ", "an ", "two ", "three ", "four ", "one ")) and "." not in text
    pick = np.random.default_rng(derive_seed("scenes", "wording", seed))
    if plain and not text.startswith(("a picture of", "a scene with")) and pick.random() < 0.2:
        return f"a flat drawing of {text}"
    return text
