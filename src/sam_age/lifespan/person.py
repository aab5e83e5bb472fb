"""A person: everything that stays the same from birth to death, and the habits of ageing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sam_age.errors import InputError
from sam_age.lifespan.asset import head_asset
from sam_age.lifespan.beard import BeardTraits, draw_beard
from sam_age.lifespan.brows import BrowTraits, draw_brows
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.eyes import EyeTraits, draw_eyes
from sam_age.lifespan.hair import HairTraits, draw_hair
from sam_age.lifespan.head import HeadTraits, draw_head
from sam_age.lifespan.skin import SkinTraits, draw_skin
from sam_age.lifespan.wrinkles import AgeingTraits, draw_ageing

SEXES = ("female", "male")
ANCESTRIES = ("african", "asian", "european")


@dataclass(frozen=True)
class Person:
    """Who is portrayed. `Person.draw(1, "train", 17)` is the same person on every machine."""

    seed: int  # of what is drawn strand by strand and line by line
    sex: str  # one of SEXES
    ancestry: tuple[float, float, float]  # shares of ANCESTRIES, sum 1
    head: HeadTraits
    skin: SkinTraits
    eyes: EyeTraits
    hair: HairTraits
    brows: BrowTraits
    beard: BeardTraits
    ageing: AgeingTraits

    @classmethod
    def draw(cls, *key: object, sex: str | None = None, ancestry: str | None = None) -> Person:
        """A person at random.

        Args:
            key: names the person; another key is another person.
            sex, ancestry: one of SEXES and the leading one of ANCESTRIES; drawn evenly where not given.
        Raises:
            InputError: an unknown sex or ancestry.
        """
        dice = Dice("person", *key)
        for name, value, known in (("sex", sex, SEXES), ("ancestry", ancestry, ANCESTRIES)):
            if value is not None and value not in known:
                raise InputError(f"{name} is one of {', '.join(known)}, not {value!r}.")
        sex = sex or dice.choice("sex", SEXES)
        female = sex == "female"
        shares = _mixture(dice.of("ancestry"), ancestry or dice.choice("leading", ANCESTRIES))
        return cls(
            seed=dice.number("seed"),
            sex=sex,
            ancestry=shares,
            head=draw_head(dice.of("head"), head_asset().local_names, female=female),
            skin=draw_skin(dice.of("skin"), shares, female=female),
            eyes=draw_eyes(dice.of("eyes"), shares),
            hair=draw_hair(dice.of("hair"), female=female, ancestry=shares),
            brows=draw_brows(dice.of("brows"), female=female),
            beard=draw_beard(dice.of("beard"), female=female),
            ageing=draw_ageing(dice.of("ageing"), shares),
        )


def _mixture(dice: Dice, leading: str) -> tuple[float, float, float]:
    """Two thirds or more of one ancestry, the rest of all (mostly of one: a Dirichlet of small concentration)."""
    weights = [-(math.log(dice.uniform(name)) ** 3) for name in ANCESTRIES]
    total = sum(weights)
    shares = [
        0.35 * weight / total + 0.65 * (name == leading) for name, weight in zip(ANCESTRIES, weights, strict=True)
    ]
    return shares[0], shares[1], shares[2]
