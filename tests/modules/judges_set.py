"""A tiny set to learn judging on: faces whose brightness is an age and whose pattern is a person."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image

from sam_age.models.age import AgeClassifier
from sam_age.models.identity import FaceEmbedder
from sam_age.modules.age import AgeTask
from sam_age.modules.identity import IdentityTask
from sam_age.modules.judges import JudgesModule

PORTRAITS = 3  # of each person


class Patterns:
    """An image source of people * 3 pictures; `first` numbers other people of the same kind."""

    def __init__(self, people: int = 4, size: int = 32, first: int = 0) -> None:
        self.people, self.size, self.first = people, size, first

    def __len__(self) -> int:
        return self.people * PORTRAITS

    def name(self, index: int) -> str:
        return f"pattern {index}"

    def age(self, index: int) -> float:
        person = self.first + index // PORTRAITS
        return float((37 * person + 30 * (index % PORTRAITS)) % 101)

    def labels(self, index: int) -> dict[str, int]:
        return {"person": index // PORTRAITS, "kin": index // PORTRAITS % 2}

    def read(self, index: int) -> bytes:
        person = self.first + index // PORTRAITS
        pattern = np.random.default_rng([1, person]).uniform(0, 100, (4, 4, 3))
        pattern = pattern.repeat(self.size // 4, 0).repeat(self.size // 4, 1)
        noise = np.random.default_rng([2, person, index]).uniform(0, 20, pattern.shape)
        pixels = pattern + noise + 1.3 * self.age(index)
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="PNG")
        return buffer.getvalue()


SMALL = {"widths": (8, 16), "depths": (1, 1), "image_size": 16}


def tiny_judges(people: int = 4, **settings) -> JudgesModule:
    torch.manual_seed(0)
    tasks = {
        "age": AgeTask(AgeClassifier(**SMALL)),
        "identity": IdentityTask(FaceEmbedder(**SMALL, embedding_dim=8), people, angle=0.2, margin_steps=4),
    }
    settings = {"optimizer": lambda p: torch.optim.AdamW(p, lr=3e-3), "ema_decay": 0.5} | settings
    return JudgesModule(tasks | settings.pop("tasks", {}), settings.pop("optimizer"), **settings)
