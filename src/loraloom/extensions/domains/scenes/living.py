"""Render people, animals and things in the sky: one short function each, as in `things`.

In: a pen for the object's box, the colour that the caption names, a second colour, and a number that selects details.
Out: shapes within the box; the named colour covers more of it than any other. Animals and people face right.
"""

import math

from loraloom.extensions.domains.scenes.pen import COLOURS, DARK, RGB, SKIN, Pen, Point, mixed, ring, shade, tint

HAIR: tuple[RGB, ...] = ((60, 42, 34), (120, 78, 44), (226, 180, 88), (36, 34, 40))


def person(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A person in a coat of the colour."""
    tone = variant % 4
    skin, hair = SKIN[tone], HAIR[variant // 4 % 4 if tone < 2 else 3]  # hair must differ from the face
    pen.rect(30, 78, 46, 98, DARK, 2)
    pen.rect(54, 78, 70, 98, DARK, 2)
    pen.rect(28, 95, 48, 100, shade(DARK, 0.3), 2)
    pen.rect(54, 95, 76, 100, shade(DARK, 0.3), 2)
    pen.poly([(24, 38), (6, 62), (18, 66), (34, 50)], shade(colour, 0.2))
    pen.poly([(76, 38), (94, 62), (82, 66), (66, 50)], shade(colour, 0.2))
    pen.oval(4, 60, 20, 68, skin)
    pen.oval(80, 60, 96, 68, skin)
    pen.rect(40, 24, 60, 38, shade(skin, 0.15))
    pen.poly([(24, 36), (32, 32), (68, 32), (76, 36), (82, 84), (18, 84)], colour)
    pen.rect(48.5, 34, 51.5, 84, shade(colour, 0.3))
    pen.oval(25, 1, 75, 30, hair)
    if variant // 16 % 2:
        pen.rect(25, 14, 75, 34, hair, 5)
    pen.oval(30, 6, 72, 31, skin)
    pen.slice(27, 1, 75, 26, (180, 360), hair)
    for x in (48, 62):
        pen.oval(x - 3, 17, x + 3, 20, DARK)


def dog(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A standing dog."""
    pen.line([(12, 48), (3, 26)], colour, 10)
    for left in (18, 56):
        pen.rect(left + 9, 60, left + 18, 98, shade(colour, 0.3), 4)
        pen.rect(left, 60, left + 10, 100, colour, 4)
    pen.rect(8, 38, 74, 74, colour, 17)
    pen.poly([(56, 46), (66, 20), (86, 30), (74, 62)], colour)
    pen.oval(60, 5, 88, 46, colour)
    pen.rect(74, 24, 100, 44, tint(colour, 0.12), 9)
    pen.oval(93, 23, 100, 33, DARK if colour != COLOURS["black"] else (150, 120, 120))
    pen.oval(58, 4, 70, 38, shade(colour, 0.4))
    pen.oval(76, 16, 81, 23, (20, 20, 24))
    pen.oval(77.5, 17, 79.5, 19.5, (255, 255, 255))
    pen.rect(62, 45, 74, 51, COLOURS["red"] if colour != COLOURS["red"] else COLOURS["blue"])


def cat(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A sitting cat."""
    pen.line([(30, 94), (16, 94), (8, 88), (6, 78), (8, 70), (13, 64)], shade(colour, 0.2), 8)
    pen.oval(14, 42, 78, 100, colour)
    pen.rect(50, 58, 64, 100, colour, 5)
    pen.rect(66, 58, 78, 100, shade(colour, 0.18), 5)
    pen.poly([(40, 30), (42, 0), (58, 16)], colour)
    pen.poly([(92, 30), (90, 0), (74, 16)], colour)
    pen.poly([(45, 20), (46, 8), (53, 16)], COLOURS["pink"])
    pen.poly([(87, 20), (86, 8), (79, 16)], COLOURS["pink"])
    pen.oval(36, 10, 96, 54, colour)
    for x in (54, 78):
        pen.oval(x - 6, 25, x + 6, 36, (178, 220, 90))
        pen.oval(x - 2.2, 25, x + 2.2, 36, (20, 20, 24))
    pen.poly([(62, 39), (70, 39), (66, 44)], COLOURS["pink"])


def bird(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A flying bird."""
    pen.poly([(46, 56), (28, 4), (66, 44)], shade(colour, 0.22))
    pen.poly([(26, 62), (0, 44), (4, 62), (0, 76)], shade(colour, 0.1))
    pen.oval(14, 44, 82, 86, colour)
    pen.oval(62, 28, 92, 66, colour)
    pen.poly([(58, 62), (18, 12), (34, 66)], colour)
    pen.poly([(54, 60), (26, 26), (36, 62)], tint(colour, 0.22))
    pen.poly([(89, 42), (100, 50), (88, 56)], COLOURS["orange"] if colour != COLOURS["orange"] else COLOURS["yellow"])
    pen.oval(78, 38, 85, 48, (255, 255, 255))
    pen.oval(80, 40, 84, 47, (20, 20, 24))


def fish(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A fish."""
    pen.poly([(26, 50), (0, 16), (6, 50), (0, 84)], shade(colour, 0.18))
    pen.poly([(40, 22), (56, 0), (74, 20)], shade(colour, 0.18))
    pen.oval(14, 10, 100, 92, colour)
    pen.oval(34, 54, 84, 90, tint(colour, 0.2))
    pen.poly([(46, 50), (30, 70), (54, 68)], shade(colour, 0.25))
    pen.oval(78, 32, 90, 50, (255, 255, 255))
    pen.oval(82, 36, 89, 47, (20, 20, 24))


def cloud(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A cloud with a flat base."""
    under = mixed(colour, (150, 170, 200), 0.28)
    pen.rect(2, 52, 98, 100, under, 24)
    pen.oval(6, 28, 44, 94, colour)
    pen.oval(26 + variant % 3 * 3, 0, 68 + variant % 3 * 3, 86, colour)
    pen.oval(56, 22, 94, 92, colour)
    pen.rect(4, 50, 96, 90, colour, 20)


def sun(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A disc with rays."""
    count = 12
    tips = ring((50, 50), (50, 50), count)
    lefts, rights = ring((50, 50), (34, 34), count, -9), ring((50, 50), (34, 34), count, 9)
    for tip, left, right in zip(tips, lefts, rights, strict=True):
        pen.poly([tip, left, right], colour)
    pen.oval(18, 18, 82, 82, shade(colour, 0.1))
    pen.oval(20, 20, 80, 80, colour)
    pen.oval(28, 26, 56, 54, tint(colour, 0.3))


def moon(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A crescent, or a full moon with craters."""
    if variant % 3 == 0:
        pen.oval(0, 0, 100, 100, colour)
        for left, top, side in ((22, 24, 20), (56, 50, 24), (34, 66, 12), (62, 18, 12)):
            pen.oval(left, top, left + side, top + side, shade(colour, 0.14))
        return
    # A disc less a smaller one: the outer edge where it is outside the small disc, the small disc's edge inside.
    angles = [math.radians(angle) for angle in range(0, 360, 3)]
    rim = [(50 + 50 * math.sin(a), 50 - 50 * math.cos(a)) for a in angles]
    bite = [(27 + 43 * math.sin(a), 40 - 43 * math.cos(a)) for a in angles]
    outer = [point for point in rim if math.dist(point, (27, 40)) > 43]
    inner = [point for point in bite if math.dist(point, (50, 50)) < 50]
    pen.poly([*_unbroken(outer), *reversed(_unbroken(inner))], colour)


def _unbroken(arc: list[Point]) -> list[Point]:
    """The arc's points beginning after its gap."""
    gaps = [math.dist(arc[number - 1], point) for number, point in enumerate(arc)]
    start = gaps.index(max(gaps))
    return arc[start:] + arc[:start]


def star(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A star with five points."""
    tips, notches = ring((50, 53), (50, 53), 5), ring((50, 53), (21, 22), 5, 36)
    pen.poly([point for pair in zip(tips, notches, strict=True) for point in pair], colour)
