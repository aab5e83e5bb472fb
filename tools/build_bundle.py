"""Make src/sam_age/pretrained/lifespan from finished runs: all that `lifespan` and `lifespan/...` name.

    python tools/build_bundle.py networks     the networks and portraits, from runs/ as the experiments left it
    python tools/build_bundle.py networks --aging runs/more/checkpoints/last.ckpt --portraits rendered
    sam-eval checkpoint=lifespan data=lifespan split=test output=scores
    python tools/score_judges.py runs/lifespan_judges/weights datasets/lifespan > judges.json      (and eval_judges)
    python tools/build_bundle.py card --metrics scores/metrics.json --judges judges.json eval_judges.json

`networks` writes float16, loads every file again, and refuses to go beyond 32 MB, portraits included; what was there
before is replaced only when all is well. `card` fills the tables of README.md, the model card, with what was measured.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from sam_age import pretrained
from sam_age.data.dataset import FacesDataset
from sam_age.data.storing import write_lines
from sam_age.errors import InputError
from sam_age.evaluation import table
from sam_age.evaluation.baselines import LatentBaselines, fit_on_faces
from sam_age.lifespan.folder import PEOPLE as PEOPLE_FILE
from sam_age.lifespan.folder import PORTRAITS, SETTINGS, Settings
from sam_age.lifespan.making import render_split
from sam_age.lifespan.sources import LifespanFaces
from sam_age.models.age import AgeClassifier
from sam_age.models.identity import FaceEmbedder
from sam_age.models.sam import PSP, SAM
from sam_age.models.stylegan2 import Generator
from sam_age.pretrained.portraits import PEOPLE, SPLIT, input_age
from sam_age.sheets import to_tensor
from sam_age.weights import BUNDLE, load, save
from sam_age.weights.files import open_file

MOST_BYTES = 32_000_000
CARD = "README.md"
RENDER = "sam-render split=test people=12"
JUDGES = {"age": AgeClassifier, "identity": FaceEmbedder}
ROUNDING = 0.5  # levels of 255: float16 may move pixels by so much on average; that cannot be seen


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        build_bundle(given) if given.command == "networks" else fill_card(given)
    except InputError as error:
        sys.exit(f"build_bundle: {error}")


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=layout)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    networks = commands.add_parser("networks", help="write networks and portraits")
    runs = Path("runs")
    for name, default, what in (
        ("aging", runs / "lifespan_aging", "a run's folder, its age encoder, or a file with a whole SAM"),
        ("psp", runs / "lifespan_tuning/weights/psp.safetensors", "the inversion encoder that the run started from"),
        ("generator", runs / "lifespan_finishing/weights/generator_ema.safetensors", "the generator"),
        ("judges", runs / "lifespan_judges/weights", "folder with best_age and best_identity: those in the losses"),
        ("eval-judges", runs / "lifespan_eval_judges/weights", "the same of those that evaluate"),
    ):
        networks.add_argument(f"--{name}", type=Path, default=default, help=f"{what}; {default}")
    networks.add_argument("--baselines", type=Path, help="latent baselines already fitted to this SAM; else fitted")
    networks.add_argument(
        "--train", type=Path, default="datasets/lifespan", help="portraits to fit them to; %(default)s"
    )
    networks.add_argument("--portraits", type=Path, help=f"output= of `{RENDER}`; else rendered")
    card = commands.add_parser("card", help="fill the model card's tables")
    card.add_argument("--metrics", type=Path, help="metrics.json of sam-eval")
    card.add_argument("--judges", type=Path, nargs=2, help="what tools/score_judges.py printed of both pairs of judges")
    for command in (networks, card):
        command.add_argument("--output", type=Path, default=pretrained.FOLDER)
    return parser


# ---- networks and portraits ------------------------------------------------------------------------------------------


def build_bundle(given: argparse.Namespace) -> None:
    """Everything into a folder beside the output first; then, if all is well, into the output."""
    output = given.output
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=f".{output.name}.") as name:
        made = Path(name)
        take_portraits(given.portraits, made)
        sam = assemble(given.aging, given.psp, given.generator)
        sources = "; ".join(_short(path) for path in (given.aging, given.psp, given.generator))
        half = save(sam, made / BUNDLE["lifespan"].file, half=True, facts={"made_from": sources})
        for prefix, folder in (("lifespan/", given.judges), ("lifespan/eval_", given.eval_judges)):
            for role, kind in JUDGES.items():
                take(folder / f"best_{role}.safetensors", kind, made / BUNDLE[prefix + role].file)
        baselines = made / BUNDLE["lifespan/baselines"].file
        if given.baselines is not None:
            take(given.baselines, LatentBaselines, baselines)
        else:
            save(
                fitted(sam, given.train, given.judges / "best_age.safetensors"),
                baselines,
                half=True,
                facts={"made_from": f"{sources}; split train"},
            )
            load(baselines)
        print(f"float16: {rounding(sam, load(half), made)}")
        shutil.copy(pretrained.FOLDER / CARD, made / CARD)
        if (output / CARD).is_file():
            shutil.copy(output / CARD, made / CARD)
        weigh(made)
        shutil.rmtree(output / SPLIT, ignore_errors=True)
        for path in sorted(made.iterdir()):
            if path.is_file():
                path.chmod(0o644)  # safetensors writes for its owner alone
            path.replace(output / path.name)
    print(f"{output} is made. Next: sam-eval checkpoint=lifespan, and {Path(__file__).name} card.")


def assemble(aging: Path, psp: Path, generator: Path) -> SAM:
    """SAM from its age encoder and the parts that this was trained with, or from a file that holds all of it.

    aging: a run's folder, of which the averaged encoder is taken where there is one; or a file.
    """
    network = load(_encoder_file(aging))
    if isinstance(network, SAM):
        return network
    inversion, decoder = load(psp), load(generator)
    inversion = {PSP: lambda: inversion.encoder, SAM: lambda: inversion.pretrained_encoder}.get(
        type(inversion), lambda: inversion
    )()
    decoder = decoder.decoder if isinstance(decoder, SAM | PSP) else decoder
    if not isinstance(decoder, Generator):
        raise InputError(f"{generator} holds {type(decoder).__name__}, not a generator.")
    for path, encoder, channels in ((aging, network, 4), (psp, inversion, 3)):
        if getattr(encoder, "config", {}).get("in_channels") != channels:
            raise InputError(f"{path} holds {type(encoder).__name__}, not an encoder with {channels} input channels.")
    try:
        return SAM(network, inversion, decoder).eval()
    except ValueError as error:
        raise InputError(f"{aging}, {psp} and {generator} are not of one size: {error}") from error


def _encoder_file(aging: Path) -> Path:
    if aging.is_file():
        return aging
    names = ("weights/ema_encoder.safetensors", "weights/encoder.safetensors")
    found = next((aging / name for name in names if (aging / name).is_file()), None)
    if found is None:
        raise InputError(f"There is neither {' nor '.join(names)} in {aging}: give a run of lifespan_aging, or a file.")
    return found


def _short(path: Path) -> str:
    """For the metadata: not where it lay on this machine."""
    return Path(*path.parts[-3:]).as_posix() if path.is_absolute() else path.as_posix()


def take(path: Path, kind: type, to: Path) -> Path:
    """A run's network, with what its file says of its training."""
    network = load(path)
    if not isinstance(network, kind):
        raise InputError(f"{path} holds {type(network).__name__}, not {kind.__name__}.")
    facts = {key: value for key, value in open_file(path).metadata.items() if key == "step" or key.startswith("val_")}
    save(network, to, half=True, facts={"made_from": _short(path)} | facts)
    load(to)  # strictly
    return to


def fitted(sam: SAM, root: Path, age_net: Path) -> LatentBaselines:
    """Fitted to codes of training portraits, as `sam-eval baselines=fit` does."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    faces = FacesDataset(LifespanFaces(root, "train"), on_error="stop")
    baselines = fit_on_faces(sam, faces, age_net=load(age_net), device=device)
    sam.to("cpu")
    return baselines


def rounding(exact: SAM, half: SAM, folder: Path) -> str:
    """How far float16 moves the pixels of one portrait of each person, each at another age."""
    faces = LifespanFaces(folder, SPLIT)
    chosen = [index for index in range(len(faces)) if faces.age(index) == input_age(faces.row(index)["number"])]
    moved = torch.cat([_levels(exact, faces, index) - _levels(half, faces, index) for index in chosen]).abs()
    text = f"pixels move by {moved.mean():.3f} levels of 255 on average, by {moved.max():.1f} at most"
    if not moved.mean() <= ROUNDING:
        raise InputError(f"float16 changes SAM too much: {text}.")
    return text


@torch.inference_mode()
def _levels(sam: SAM, faces: LifespanFaces, index: int) -> Tensor:
    face = to_tensor([Image.open(BytesIO(faces.read(index)))])
    return (sam(face, torch.tensor([(37.0 * index) % 101])).clamp(-1, 1) + 1) * 127.5


def take_portraits(rendered: Path | None, made: Path) -> None:
    """The first twelve people of the test split, without what rendering them again can tell: their scenes' numbers."""
    settings = Settings(split=SPLIT, people=PEOPLE)
    if rendered is None:
        render_split(made, settings, workers=os.cpu_count())
    else:
        _check_settings(rendered / SPLIT / SETTINGS, settings)
        shutil.copytree(rendered / SPLIT, made / SPLIT)
    source = LifespanFaces(made, SPLIT)
    planned = [(portrait.person, portrait.age) for portrait in settings.plan()]
    if [(row["person"], row["age"]) for row in source.rows] != planned:
        raise InputError(f"{rendered or made} does not hold the portraits of `{RENDER}`.")
    write_lines(
        made / SPLIT / PORTRAITS,
        ({key: value for key, value in row.items() if key != "scene_parameters"} for row in source.rows),
    )
    keep = {made / SPLIT / name for name in (PORTRAITS, PEOPLE_FILE, SETTINGS)}
    keep |= {Path(source.name(index)) for index in range(len(source))}
    for path in [path for path in (made / SPLIT).rglob("*") if path.is_file() and path not in keep]:
        path.unlink()


def _check_settings(path: Path, settings: Settings) -> None:
    try:
        found = Settings(**json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise InputError(f"{path} is not there, or not sam-render's.") from None
    if found != settings:
        wrong = [key for key, value in asdict(settings).items() if asdict(found)[key] != value]
        raise InputError(f"{path}: rendered with other settings ({', '.join(wrong)}): `{RENDER}` is wanted.")


def weigh(folder: Path) -> None:
    """Print the sizes and refuse too much."""
    sizes = {path: path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()}
    for path, size in sizes.items():
        if path.parent == folder:
            print(f"{path.name:<28}{size:>12,} bytes")
    print(f"{SPLIT + '/':<28}{sum(size for path, size in sizes.items() if path.parent != folder):>12,} bytes")
    total = sum(sizes.values())
    print(f"{'in all':<28}{total:>12,} bytes of at most {MOST_BYTES:,}")
    if total > MOST_BYTES:
        raise InputError(f"{total:,} bytes are {total - MOST_BYTES:,} too many: smaller networks are wanted.")


# ---- the model card --------------------------------------------------------------------------------------------------


def fill_card(given: argparse.Namespace) -> None:
    """Replace the tables between the card's marks."""
    path = given.output / CARD
    if given.metrics is None and given.judges is None:
        raise InputError("There is nothing to fill in: give --metrics or --judges.")
    card = path.read_text(encoding="utf-8")
    if given.metrics is not None:
        card = between_marks(card, "measured", measured(_read(given.metrics)))
    if given.judges is not None:
        card = between_marks(card, "judges", judged(*map(_read, given.judges)))
    path.write_text(card, encoding="utf-8", newline="\n")
    print(path)


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from error


def between_marks(card: str, name: str, text: str) -> str:
    """`card` with `text` between <!-- name --> and <!-- /name -->."""
    start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    before, found, rest = card.partition(start)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise InputError(f"The card has no place between {start.strip()} and {end}.")
    return f"{before}{start}{text.strip()}\n{end}{after}"


def measured(results: dict[str, Any]) -> str:
    """What sam-eval found: SAM beside its baselines, by target age, and its sentences."""
    try:
        ages = {f"{age} years": row for age, row in results["per_target_age"].items()}
        lines = table.sentences(results)
        judges = [
            f"{what}: {results['judged_by'][key]}" for key, what in table.NAMES.items() if results["judged_by"].get(key)
        ]
        return "\n\n".join(
            [
                f"{results['faces']} portraits at {len(results['target_ages'])} ages; judged by {'; '.join(judges)}.",
                _eval_grid(table.rows_of_methods(results), "method"),
                _eval_grid(ages, "SAM, by target age"),
                *(["\n".join(f"- {line}" for line in lines)] if lines else []),
            ]
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"That is not a metrics.json of sam-eval: {error} is missing.") from error


def _eval_grid(rows: dict[str, dict[str, Any]], corner: str) -> str:
    keys = table.shown(rows)
    cells = {name: [table.cell(row, key) for key in keys] for name, row in rows.items()}
    return _grid(corner, [table.COLUMNS[key][0] for key in keys], cells)


JUDGE_COLUMNS = {
    "age_mae": ("age error, years", ".2f"),
    "age_spearman": ("Spearman", ".4f"),
    "auc": ("ROC area", ".4f"),
    "tar_fmr_0.1": ("accepted at FMR 0.1 %", ".1%"),
}


def judged(inside: dict[str, Any], outside: dict[str, Any]) -> str:
    """The table of both pairs of judges, as tools/score_judges.py scored them."""
    try:
        cells = {
            name: [f"{scores[key]:{shape}}" for key, (_, shape) in JUDGE_COLUMNS.items()]
            for name, scores in (("in the losses", inside), ("for evaluation", outside))
        }
    except (KeyError, TypeError) as error:
        raise InputError(f"That is not what tools/score_judges.py prints: {error} is missing.") from error
    return _grid("judges", [title for title, _ in JUDGE_COLUMNS.values()], cells)


def _grid(corner: str, titles: list[str], rows: dict[str, list[str]]) -> str:
    """A Markdown table, numbers to the right."""
    lines = [[corner, *titles], ["---", *["---:"] * len(titles)], *([name, *cells] for name, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
