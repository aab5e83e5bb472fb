"""Portraits of a plan -> the people and scenes they name, their pixels, and what is written about them."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from sam_age.lifespan.splits import Portrait

RENDERER = "sam_age.lifespan"
"""The module that has Person, Scene and render."""


class Studio:
    """Renders portraits at one size on one device.

    Args:
        size: side, pixels.
        device: of torch.
        renderer: a module that has `Person`, `Scene` and `render` as `sam_age.lifespan` has them.
    """

    def __init__(self, size: int = 256, device: str | torch.device = "cpu", renderer: str = RENDERER) -> None:
        self.size, self.device, self.renderer = size, device, renderer

    def person(self, portrait: Portrait) -> Any:
        draw = self._module().Person.draw
        return draw(*portrait.person_key, sex=portrait.sex, ancestry=portrait.ancestry)

    def scene(self, portrait: Portrait) -> Any:
        return self._module().Scene.draw(*portrait.scene_key)

    def shoot(self, portraits: Sequence[Portrait]) -> Tensor:
        """Their pixels: uint8 (N, 3, size, size), RGB, on the device."""
        people: dict[str, Any] = {}  # one object for all portraits of a person: the renderer prepares each once
        for portrait in portraits:
            if portrait.person not in people:
                people[portrait.person] = self.person(portrait)
        with torch.no_grad():
            return self._module().render(
                [people[portrait.person] for portrait in portraits],
                [portrait.age for portrait in portraits],
                [self.scene(portrait) for portrait in portraits],
                size=self.size,
                device=self.device,
            )

    def person_row(self, portrait: Portrait) -> dict[str, Any]:
        """The line of people.jsonl."""
        who = {"person": portrait.person, "split": portrait.whose, "seed": portrait.seed, "number": portrait.number}
        return who | {"sex": portrait.sex, "ancestry": portrait.ancestry, "parameters": asdict(self.person(portrait))}

    def portrait_row(self, portrait: Portrait, file: str) -> dict[str, Any]:
        """The line of portraits.jsonl."""
        return {
            "file": file,
            "person": portrait.person,
            "age": portrait.age,
            "sex": portrait.sex,
            "split": portrait.split,
            "ancestry": portrait.ancestry,
            "seed": portrait.seed,
            "number": portrait.number,
            "scene": portrait.scene,
            "scene_parameters": asdict(self.scene(portrait)),
        }

    def _module(self) -> Any:
        return importlib.import_module(self.renderer)  # by name: a Studio travels to other processes
