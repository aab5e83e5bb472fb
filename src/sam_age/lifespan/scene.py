"""A scene: everything about a portrait that is neither the person nor their age."""

from __future__ import annotations

from dataclasses import dataclass

from sam_age.lifespan.background import BackdropTraits, draw_backdrop
from sam_age.lifespan.camera import PoseTraits, draw_pose
from sam_age.lifespan.clothes import ClothesTraits, draw_clothes
from sam_age.lifespan.dice import Dice
from sam_age.lifespan.glasses import GlassesTraits, draw_glasses
from sam_age.lifespan.head import Expression, draw_expression
from sam_age.lifespan.light import LightTraits, draw_light


@dataclass(frozen=True)
class Scene:
    """How someone is portrayed. `Scene.draw(1, "train", 17, 0)` is the same scene on every machine."""

    seed: int  # of grain and texture
    pose: PoseTraits
    expression: Expression
    light: LightTraits
    backdrop: BackdropTraits
    clothes: ClothesTraits
    glasses: GlassesTraits
    grain: float  # standard deviation of the film's noise, share of white

    @classmethod
    def draw(cls, *key: object) -> Scene:
        """A scene at random; `key` names it."""
        dice = Dice("scene", *key)
        return cls(
            seed=dice.number("seed"),
            pose=draw_pose(dice.of("pose")),
            expression=draw_expression(dice.of("expression")),
            light=draw_light(dice.of("light")),
            backdrop=draw_backdrop(dice.of("backdrop")),
            clothes=draw_clothes(dice.of("clothes")),
            glasses=draw_glasses(dice.of("glasses")),
            grain=dice.uniform("grain", 0.002, 0.008),
        )
