"""What comes with the package: the lifespan set's networks (`sam_age.weights.known.BUNDLE` names them), and twelve
people at eleven ages (`sam_age.pretrained.portraits`).

lifespan/README.md is the networks' card; tools/build_bundle.py makes the folder.
"""

from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "lifespan"
"""Inside the wheel, and in a checkout."""

HOW_TO_MAKE = (
    "an installed release has it; a checkout from before it was made gets it from finished runs by "
    "`python tools/build_bundle.py`"
)
"""What to do where something is missing, for the ends of messages."""
