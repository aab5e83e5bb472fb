"""How well an age and an identity network know the lifespan set's held-out people: scores as JSON.

    sam-render output=datasets/lifespan split=test_scenes
    python tools/score_judges.py runs/lifespan_judges/weights datasets/lifespan

Of the folder's best_age.safetensors and best_identity.safetensors, on test_scenes: people who were in no training, each
at 10, 40 and 70 years in three scenes. A further argument names another split.
"""

import json
import sys
from pathlib import Path

import torch

from sam_age.data.dataset import FacesDataset
from sam_age.evaluation.judges import score_judges
from sam_age.lifespan.sources import LifespanFaces
from sam_age.weights import load


def main(weights: str, root: str, split: str = "test_scenes") -> None:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    age, identity = (load(Path(weights) / f"best_{name}.safetensors", device) for name in ("age", "identity"))
    dataset = FacesDataset(LifespanFaces(root, split), on_error="stop")
    print(json.dumps(score_judges(dataset, age, identity, device=device), indent=2))


if __name__ == "__main__":
    if not 3 <= len(sys.argv) <= 4:
        raise SystemExit(__doc__)
    main(*sys.argv[1:])
