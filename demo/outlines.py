"""Outlines around the origin, and where one lies in a picture. This file knows geometry alone."""

from dataclasses import dataclass

import numpy as np

Outline = np.ndarray  # around the origin and at most 1 away from it: (points, 2)


def circle(radius: float = 1, points: int = 40, start: float = 0) -> Outline:
    """Points on a circle, clockwise from the right."""
    turn = start + np.linspace(0, 2 * np.pi, points, endpoint=False)
    return radius * np.stack([np.cos(turn), np.sin(turn)], axis=1)


def spiked(points: int, inner: float) -> Outline:
    """A star with that many points, the first one up."""
    reach = np.where(np.arange(2 * points) % 2, inner, 1.0)
    return reach[:, None] * circle(points=2 * points, start=-np.pi / 2)


def hollow(outer: Outline, inner: Outline) -> Outline:
    """The outer outline with the inner one cut out, as one line."""
    return np.concatenate([outer, outer[:1], inner[:1], inner[::-1]])


def heart() -> Outline:
    """Two lobes and a point below."""
    turn = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    across = 16 * np.sin(turn) ** 3
    down = 13 * np.cos(turn) - 5 * np.cos(2 * turn) - 2 * np.cos(3 * turn) - np.cos(4 * turn)
    return np.stack([across, -down - 2.5], axis=1) / 16.5


def moon() -> Outline:
    """A crescent, open to the right."""
    outer = circle(points=60)[8:53]
    inner = circle(0.8, points=60)[10:51] + (0.42, 0)
    return np.concatenate([outer, inner[::-1]])


def wavy(bumps: int, depth: float, flat: float = 1) -> Outline:
    """A disc whose border goes out and in."""
    turn = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    reach = 1 - depth + depth * np.cos(bumps * turn)
    return circle(points=96) * reach[:, None] * (1, flat)


@dataclass(frozen=True)
class Place:
    """Where a subject lies; lengths in pixels, the angle in radians."""

    across: float
    down: float
    radius: float
    angle: float

    def points(self, outline: Outline, scale: float = 1) -> list[tuple[float, ...]]:
        """The outline there, as Pillow wants it."""
        cosine, sine = np.cos(self.angle), np.sin(self.angle)
        turned = outline @ np.array([[cosine, sine], [-sine, cosine]])
        return [tuple(p) for p in turned * self.radius * scale + (self.across, self.down)]
