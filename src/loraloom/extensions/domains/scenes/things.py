"""Render buildings, vehicles, plants and objects outdoors and in rooms: one short function each.

In: a pen for the object's box, the colour that the caption names, a second colour, and a number that selects details.
Out: shapes within the box; the named colour covers more of it than any other.
"""

from loraloom.extensions.domains.scenes.pen import COLOURS, DARK, RGB, WOOD, Pen, Point, mixed, ring, shade, tint

WHITE = COLOURS["white"]
LEAF: RGB = (70, 150, 70)


def _window(pen: Pen, left: float, top: float, right: float, bottom: float) -> None:
    x, y = (right - left) / 2 + left, (bottom - top) / 2 + top
    pen.rect(left - 2, top - 2, right + 2, bottom + 2, WHITE)
    pen.rect(left, top, right, bottom, pen.glass)
    pen.rect(x - 0.8, top, x + 0.8, bottom, WHITE)
    pen.rect(left, y - 0.8, right, y + 0.8, WHITE)


def house(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A house with walls in the colour and a roof in the second colour."""
    pen.rect(68, 6, 79, 36, shade(WOOD, 0.1))
    pen.rect(66, 4, 81, 9, shade(WOOD, 0.3))
    roof: list[Point] = [(0, 41), (50, 1), (100, 41)] if variant % 2 else [(0, 41), (18, 8), (82, 8), (100, 41)]
    pen.poly(roof, second)
    pen.poly([(50, 1) if variant % 2 else (82, 8), (100, 41), (86, 41), (60, 9)], shade(second, 0.14))
    pen.rect(8, 41, 92, 100, colour)
    pen.rect(8, 41, 92, 46, shade(colour, 0.25))
    _window(pen, 17, 55, 34, 72)
    _window(pen, 66, 55, 83, 72)
    pen.rect(41, 64, 59, 100, WHITE)
    pen.rect(43, 66, 57, 100, WOOD)
    pen.oval(53, 81, 56, 84, COLOURS["yellow"])
    pen.rect(8, 96, 41, 100, shade(colour, 0.35))
    pen.rect(59, 96, 92, 100, shade(colour, 0.35))


def tower(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A tall house of many floors."""
    pen.rect(44, 0, 56, 8, shade(colour, 0.4))
    pen.rect(4, 6, 96, 100, colour)
    pen.rect(76, 6, 96, 100, shade(colour, 0.13))
    for row in range(5):
        for column in range(3):
            left, top = 13 + column * 27, 13 + row * 15
            pen.rect(left, top, left + 17, top + 8, pen.glass)
    pen.rect(36, 89, 64, 100, shade(second, 0.3))


def _wheel(pen: Pen, x: float, radius_x: float, radius_y: float) -> None:
    pen.oval(x - radius_x, 100 - 2 * radius_y, x + radius_x, 100, DARK)
    half_x, half_y = radius_x / 2, radius_y / 2
    pen.oval(x - half_x, 100 - radius_y - half_y, x + half_x, 100 - radius_y + half_y, (200, 200, 206))


def car(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A car in side view, with its front on the right."""
    roof = 66 if variant % 2 else 60
    pen.poly([(13, 48), (27, 6), (31, 3), (roof - 3, 3), (roof + 2, 6), (83, 48)], colour)
    pen.poly([(22, 45), (32, 13), (46, 13), (46, 45)], pen.glass)
    pen.poly([(51, 45), (51, 13), (roof - 2, 13), (75, 45)], pen.glass)
    pen.rect(0, 42, 100, 84, colour, 15)
    pen.rect(1, 68, 99, 80, shade(colour, 0.22), 5)
    pen.rect(46, 44, 51, 76, shade(colour, 0.12))
    pen.rect(54, 52, 61, 55, shade(colour, 0.4))
    pen.rect(93, 50, 99, 62, COLOURS["yellow"], 4)
    pen.rect(1, 50, 5, 62, mixed(COLOURS["red"], (0, 0, 0), 0.25), 3)
    _wheel(pen, 23, 11, 21)
    _wheel(pen, 77, 11, 21)


def bus(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A bus in side view, with its front on the right."""
    pen.rect(0, 0, 100, 86, colour, 10)
    pen.rect(0, 62, 100, 68, WHITE if colour != WHITE else DARK)
    for left in (7, 25, 43, 61):
        pen.rect(left, 17, left + 14, 46, pen.glass, 4)
    pen.rect(80, 17, 97, 84, shade(colour, 0.3), 4)
    pen.rect(82, 20, 95, 52, pen.glass, 3)
    pen.rect(95, 70, 100, 78, COLOURS["yellow"])
    _wheel(pen, 22, 9, 18)
    _wheel(pen, 68, 9, 18)


def boat(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A sailing boat: hull and large sail in the colour."""
    pen.rect(47, 0, 50, 76, WOOD)
    pen.poly([(53, 6), (53, 70), (93, 70)], colour)
    pen.poly([(44, 14), (44, 70), (14, 70)], mixed(WHITE, (190, 200, 214), 0.2) if colour != WHITE else tint(WOOD, 0.4))
    pen.poly([(0, 75), (100, 75), (84, 100), (16, 100)], colour)
    pen.rect(2, 75, 98, 79, shade(colour, 0.35))


def tree(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A round crown in the colour."""
    pen.poly([(43, 55), (57, 55), (61, 100), (39, 100)], WOOD)
    pen.poly([(51, 55), (57, 55), (61, 100), (53, 100)], shade(WOOD, 0.25))
    pen.oval(2, 26, 56, 68, colour)
    pen.oval(44, 26, 98, 68, shade(colour, 0.12))
    pen.oval(18, 1, 82, 52, colour)
    pen.oval(26, 30, 74, 72, colour)
    pen.oval(27, 8, 53, 28, tint(colour, 0.16))
    if variant % 3 == 0 and colour == COLOURS["green"]:
        for x, y in ((28, 44), (52, 30), (70, 46), (50, 58)):
            pen.oval(x - 4, y - 3, x + 4, y + 3, COLOURS["red"])


def pine(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """Three triangles, one above the other."""
    pen.rect(43, 84, 57, 100, WOOD)
    for top, bottom, half in ((44, 88, 48), (22, 64, 38), (0, 40, 27)):
        pen.poly([(50, top), (50 + half, bottom), (50 - half, bottom)], colour)
        pen.poly([(50, top), (50 + half, bottom), (50 + half * 0.35, bottom)], shade(colour, 0.18))


def flower(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """Petals in the colour on a stem."""
    pen.line([(50, 46), (50, 100)], shade(LEAF, 0.15), 5)
    pen.poly([(50, 92), (16, 72), (30, 90)], LEAF)
    pen.poly([(50, 84), (84, 64), (70, 82)], LEAF)
    petals = 5 + variant % 3
    for x, y in ring((50, 31), (28, 18), petals):
        pen.oval(x - 20, y - 12.5, x + 20, y + 12.5, colour)
    for x, y in ring((50, 31), (21, 13), petals, 180 / petals):
        pen.oval(x - 4, y - 2.5, x + 4, y + 2.5, shade(colour, 0.14))
    heart = COLOURS["orange"] if colour == COLOURS["yellow"] else COLOURS["yellow"]
    pen.oval(36, 22, 64, 40, heart)


def cactus(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A trunk with two arms."""
    pen.rect(36, 0, 64, 100, colour, 10)
    pen.rect(4, 30, 24, 62, colour, 8)
    pen.rect(4, 50, 50, 64, colour, 7)
    pen.rect(76, 18, 96, 52, colour, 8)
    pen.rect(50, 40, 96, 54, colour, 7)
    for x in (45, 55):
        pen.rect(x - 1, 6, x + 1, 97, shade(colour, 0.3))


def fence(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """Pointed pickets."""
    pen.rect(0, 36, 100, 48, shade(colour, 0.25))
    pen.rect(0, 70, 100, 82, shade(colour, 0.25))
    for number in range(7):
        left = 2 + number * 14
        pen.poly([(left, 100), (left, 16), (left + 5.5, 0), (left + 11, 16), (left + 11, 100)], colour)


def mountain(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A peak with snow."""
    peak = 44 + 4 * (variant % 4)
    pen.poly([(0, 100), (peak, 0), (100, 100)], colour)
    pen.poly([(peak, 0), (100, 100), (peak + 6, 100), (peak + 10, 50)], shade(colour, 0.2))
    left, right = peak - peak * 0.28, peak + (100 - peak) * 0.28
    pen.poly(
        [(peak, 0), (left, 28), (left + 6, 22), (peak - 4, 32), (peak + 2, 24), (right - 6, 33), (right, 28)], WHITE
    )


def ball(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A ball with a light spot."""
    pen.oval(0, 0, 100, 100, shade(colour, 0.2))
    pen.oval(2, 0, 94, 92, colour)
    if variant % 2:
        pen.poly([(3, 38), (97, 52), (96, 64), (2, 52)], WHITE if colour != WHITE else DARK)
    pen.oval(24, 14, 44, 32, tint(colour, 0.6))


def balloon(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A toy balloon on its string."""
    pen.line([(50, 68), (44, 80), (55, 90), (48, 100)], (110, 110, 116), 1.6)
    pen.poly([(42, 72), (58, 72), (50, 64)], shade(colour, 0.25))
    pen.oval(2, 0, 98, 68, colour)
    pen.oval(22, 10, 40, 26, tint(colour, 0.55))


def umbrella(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A sunshade."""
    pen.rect(48.5, 4, 51.5, 100, (122, 120, 126))
    pen.slice(0, 0, 100, 110, (180, 360), colour)
    pen.poly([(50, 0), (36, 55), (64, 55)], tint(colour, 0.3) if colour != WHITE else shade(colour, 0.2))


def tent(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A ridge tent with an open door."""
    pen.poly([(0, 100), (50, 0), (100, 100)], colour)
    pen.poly([(50, 0), (100, 100), (82, 100)], shade(colour, 0.22))
    pen.poly([(50, 38), (66, 100), (34, 100)], shade(colour, 0.6))


def snowman(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """Two snowballs, a hat, a scarf in the second colour."""
    pen.oval(4, 46, 96, 100, colour)
    pen.oval(60, 52, 94, 98, mixed(colour, (180, 200, 220), 0.35))
    pen.oval(4, 46, 88, 100, colour)
    pen.oval(20, 14, 80, 54, colour)
    pen.rect(22, 46, 78, 54, second, 3)
    pen.rect(60, 50, 72, 70, second, 2)
    pen.rect(18, 14, 82, 19, DARK)
    pen.rect(30, 0, 70, 16, DARK)
    for x in (38, 56):
        pen.oval(x, 26, x + 6, 31, DARK)
    pen.poly([(50, 33), (74, 37), (50, 39)], COLOURS["orange"])
    for y in (64, 76, 88):
        pen.oval(47, y, 53, y + 4, DARK)


def chair(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A chair in side view, with its back on the left."""
    for left in (8, 78):
        pen.rect(left, 56, left + 12, 100, shade(colour, 0.3))
    pen.rect(4, 0, 24, 62, colour, 4)
    pen.rect(4, 48, 96, 64, colour, 4)
    pen.rect(24, 48, 94, 53, tint(colour, 0.25))


def table(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A table top on two legs."""
    for left in (10, 80):
        pen.rect(left, 18, left + 10, 100, shade(colour, 0.22))
    pen.rect(10, 24, 90, 38, shade(colour, 0.12))
    pen.rect(0, 4, 100, 26, colour, 8)


def sofa(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A sofa for two."""
    pen.rect(9, 0, 91, 70, colour, 16)
    pen.rect(49.3, 10, 50.7, 60, shade(colour, 0.3))
    pen.rect(14, 48, 86, 82, tint(colour, 0.15), 8)
    pen.rect(0, 32, 18, 90, colour, 14)
    pen.rect(82, 32, 100, 90, colour, 14)
    pen.rect(18, 76, 82, 90, shade(colour, 0.2))
    for left in (8, 84):
        pen.rect(left, 90, left + 8, 100, WOOD)


def lamp(pen: Pen, colour: RGB, second: RGB, variant: int) -> None:
    """A standing lamp with a shade in the colour."""
    pen.rect(46, 30, 54, 96, shade(WOOD, 0.2))
    pen.oval(22, 92, 78, 100, shade(WOOD, 0.3))
    pen.poly([(24, 0), (76, 0), (100, 40), (0, 40)], colour)
    pen.poly([(0, 36), (2, 32), (98, 32), (100, 40), (0, 40)], tint(colour, 0.35))
