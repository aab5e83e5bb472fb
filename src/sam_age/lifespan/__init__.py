"""Lifespan: portraits of people who never lived, at every age of their lives.

    from sam_age.lifespan import Person, Scene, render
    person, scene = Person.draw(1, "somebody"), Scene.draw(1, "studio")
    pictures = render([person] * 3, [5, 30, 80], [scene] * 3)      # uint8 (3, 3, 256, 256)

The same person and scene at another age is the truth that ageing a photograph can only guess at.
"""

from sam_age.lifespan.person import Person
from sam_age.lifespan.portrait import render
from sam_age.lifespan.scene import Scene

__all__ = ["Person", "Scene", "render"]
