"""How far FFHQ's square from MTCNN's five points lies from the one of dlib's 68 landmarks, in pixels at 256.

    pip install dlib-bin face_recognition_models
    python tools/compare_alignment.py FOLDER_OF_PHOTOS

For every face that both detectors find: the distance of the squares' centres, their relative size and the angle
between them, and the mean and largest distance of the four corners, all in pixels of the 256-pixel crop made from the
68 landmarks. Prints a Markdown table.
"""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path

import dlib
import numpy as np

from sam_age.data.align import quad_from_68, quad_side
from sam_age.data.detect import FaceDetector
from sam_age.data.images import IMAGE_SUFFIXES, read_image

CROP = 256  # pixels


def landmark_model() -> str:
    """Where face_recognition_models keeps dlib's file (importing it needs pkg_resources, which is gone)."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("Install the 68-landmark model first: pip install dlib-bin face_recognition_models")
    return str(Path(spec.submodule_search_locations[0]) / "models" / "shape_predictor_68_face_landmarks.dat")


def compare(five: np.ndarray, many: np.ndarray) -> tuple[float, float, float, float, float]:
    """Centre distance, size ratio, angle (degrees), mean and largest corner distance of two quads."""
    unit = CROP / quad_side(many)
    corners = np.hypot(*(five - many).T) * unit
    centre = np.hypot(*(five.mean(0) - many.mean(0))) * unit
    a, b = five[3] - five[0], many[3] - many[0]
    angle = np.degrees(np.arctan2(a[0] * b[1] - a[1] * b[0], a @ b))
    return centre, quad_side(five) / quad_side(many), abs(angle), corners.mean(), corners.max()


def main(folder: str) -> None:
    detector, boxes = FaceDetector(), dlib.get_frontal_face_detector()
    predictor = dlib.shape_predictor(landmark_model())
    print("| photo | faces both found | centre, px | size ratio | angle, degrees | corners, mean px | max px |")
    print("|---|---|---|---|---|---|---|")
    rows = []
    for path in sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in IMAGE_SUFFIXES):
        photo = read_image(path)
        pixels = np.asarray(photo)
        faces, found = detector.detect(photo), []
        for box in boxes(pixels, 1):
            shape = predictor(pixels, box)
            many = quad_from_68(np.array([(shape.part(i).x, shape.part(i).y) for i in range(68)], float))
            near = [f for f in faces if np.hypot(*(f.quad.mean(0) - many.mean(0))) < quad_side(many) / 4]
            found += [compare(near[0].quad, many)] if near else []
        rows += found
        print(line(path.name, found))
    print(line("all, mean", rows))
    print(line("all, median", rows, np.median))


def line(name: str, rows: list[tuple[float, ...]], middle: Callable = np.mean) -> str:
    if not rows:
        return f"| {name} | 0 | | | | | |"
    centre, ratio, angle, mean, _ = middle(rows, axis=0)
    worst = max(r[-1] for r in rows)
    return f"| {name} | {len(rows)} | {centre:.1f} | {ratio:.3f} | {angle:.2f} | {mean:.1f} | {worst:.1f} |"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    main(sys.argv[1])
