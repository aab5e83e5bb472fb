"""Triton kernels of the generator: all that is done between two convolutions, in one pass over memory each way.

Maps are channels-last; arithmetic is float32 whatever they hold. What a layer makes is kept as z, its activations y
already multiplied by the next layer's styles:

    v = gain FIR(convolved) + strength noise + bias,   y = sqrt(2) LeakyReLU(v),   z = style y.

The weights being frozen, z is all that the way back needs: its sign and the style's give the slope, z / style gives y,
and y / slope gives v. Sums over pixels are left in parts, one a program, for `add_parts` to add in a fixed order.

Sides are powers of two and channels are multiples of BLOCK_C, so that few accesses are masked. Offsets within one
picture fit 32 bits; those of pictures are 64 bits wide.

Layouts that stand for a map of (2H, 2W) pixels: plain (2H, 2W, C), and "phases" (H, W, 4 C), the four pixels of a 2 x 2
block beside one another, (row % 2) * 2 + column % 2 first. FIR taps g are those of one axis, flipped: a correlation.
"""

from sam_age.models.fused.kernels.filtering import fir_epilogue, fir_epilogue_backward
from sam_age.models.fused.kernels.learning import (
    activate,
    activate_backward,
    modulate,
    modulate_backward,
    resample,
)
from sam_age.models.fused.kernels.pointwise import add_parts, epilogue, epilogue_backward, skip_backward
from sam_age.models.fused.kernels.shared import RUNTIME

__all__ = [
    "RUNTIME",
    "activate",
    "activate_backward",
    "add_parts",
    "epilogue",
    "epilogue_backward",
    "fir_epilogue",
    "fir_epilogue_backward",
    "modulate",
    "modulate_backward",
    "resample",
    "skip_backward",
]
