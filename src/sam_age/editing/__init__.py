"""What can be done to w+ codes and between pictures, with any network: each function takes and gives tensors.

    mixing.py       a reference's or random styles, by layer
    directions.py   an attribute as a straight line, fitted in closed form
    dial.py         between the source's code and the aged one, and what that costs in identity
    calibration.py  the target age at which an age network reads the age asked for
    path.py         a life as a curve in w+, in a file
    patches.py      a change restricted to a part of the face

`AgingPipeline` has a method for each; docs/editing.md shows them.
"""

from sam_age.editing.calibration import Calibrated, calibrate
from sam_age.editing.dial import DialCurve, dial, dial_curve
from sam_age.editing.directions import LatentDirection, fit_direction
from sam_age.editing.mixing import layers_of, mix, random_styles
from sam_age.editing.patches import REGIONS, Box, Ellipse, Region, mask_of, patch, patch_images, synthesize_patch
from sam_age.editing.path import LifespanPath

__all__ = [
    "REGIONS",
    "Box",
    "Calibrated",
    "DialCurve",
    "Ellipse",
    "LatentDirection",
    "LifespanPath",
    "Region",
    "calibrate",
    "dial",
    "dial_curve",
    "fit_direction",
    "layers_of",
    "mask_of",
    "mix",
    "patch",
    "patch_images",
    "random_styles",
    "synthesize_patch",
]
