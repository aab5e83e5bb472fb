"""sam-weights: what files of weights there are, what one holds, smaller files from large ones, and ONNX."""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from sam_age.errors import InputError

EXAMPLES = """examples:
  sam-weights list                                        known weights, and which are on this machine
  sam-weights inspect sam_ffhq_aging.pt                   what a file holds, and whether it would load
  sam-weights convert sam_ffhq_aging.pt sam.safetensors   half the size, and nothing pickled
  sam-weights convert ffhq.pkl ffhq.safetensors --no-half NVlabs' StyleGAN2, full precision
  sam-weights onnx sam_ffhq_aging.pt onnx/                to run without PyTorch
"""


class _Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}. `{self.prog} --help` shows examples.\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code: 0, or 2 for input that cannot be used."""
    given = _parser().parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        given.run(given)
    except InputError as error:
        print(f"sam-weights: {error}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = _Parser("sam-weights", description=__doc__, epilog=EXAMPLES, formatter_class=layout)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    command = commands.add_parser(
        "list", help="known weights, where they come from, and which are here",
        description="Known weights. What does not come with the package is looked for in $SAM_AGE_WEIGHTS "
        "and ./weights.",
        epilog="example:\n  SAM_AGE_WEIGHTS=~/weights sam-weights list\n", formatter_class=layout,
    )  # fmt: skip
    command.set_defaults(run=list_known)

    command = commands.add_parser(
        "inspect", help="what a file holds",
        description="What a file holds, recognised by content; nothing in it is executed.",
        epilog="examples:\n  sam-weights inspect psp_ffhq_encode.pt\n  sam-weights inspect last.ckpt\n",
        formatter_class=layout,
    )  # fmt: skip
    command.add_argument("file", metavar="FILE", help="a file, or a name from `sam-weights list`")
    command.set_defaults(run=inspect)

    command = commands.add_parser(
        "convert", help="write a network as safetensors, with what inference needs and no more",
        description="Write a network as safetensors with its constructor arguments. Training options, "
        "optimizers, discriminators, blur kernels and batch counters are left out.",
        epilog="examples:\n  sam-weights convert sam_ffhq_aging.pt sam.safetensors\n"
        "  sam-weights convert model_ir_se50.pth arcface.safetensors --no-half\n",
        formatter_class=layout,
    )  # fmt: skip
    command.add_argument("file", metavar="FILE", help="a file, or a name from `sam-weights list`")
    command.add_argument("out", metavar="OUT.safetensors", type=Path)
    command.add_argument(
        "--half", action=argparse.BooleanOptionalAction, default=True,
        help="store the large tensors as float16 (default); biases and statistics stay float32",
    )  # fmt: skip
    command.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    command.set_defaults(run=convert)

    command = commands.add_parser(
        "onnx", help="write a SAM as ONNX graphs, checked against PyTorch",
        description="Write encoder.onnx (a face and an age to w+) and generator.onnx (w+ to a picture), which run "
        "without PyTorch; each is kept if onnxruntime agrees with PyTorch. Needs: pip install 'sam-age[onnx]'.",
        epilog="examples:\n  sam-weights onnx lifespan onnx/\n  sam-weights onnx sam.safetensors onnx/ --overwrite\n",
        formatter_class=layout,
    )  # fmt: skip
    command.add_argument("file", metavar="FILE", help="a file, or a name from `sam-weights list`")
    command.add_argument("folder", metavar="FOLDER", type=Path)
    command.add_argument("--overwrite", action="store_true", help="replace graphs that are in FOLDER")
    command.set_defaults(run=onnx)
    return parser


def list_known(given: argparse.Namespace) -> None:
    """Print every known file: what it is, how large, where from, on what terms, and where it lies here."""
    from sam_age.weights.known import BUNDLE, KNOWN, folders

    for name, bundled in BUNDLE.items():
        found = bundled.find()
        print(f"{name:<24}{bundled.what}")
        here = (
            f"comes with the package: {found}, {_size(found.stat().st_size)}"
            if found
            else "not in this copy of the package"
        )
        print(f"{'':<24}{here}")
    for name, known in KNOWN.items():
        found = known.find()
        print(f"{name:<24}{known.what}")
        print(f"{'':<24}{known.file}, {known.megabytes} MB; {known.licence}")
        print(f"{'':<24}from the {known.source}")
        print(f"{'':<24}{f'here: {found}' if found else 'not on this machine'}")
    print(f"\nLooked in: {', '.join(str(folder) for folder in folders())} (SAM_AGE_WEIGHTS sets the first)")


def inspect(given: argparse.Namespace) -> None:
    """Print what a file holds: kind, constructor arguments, tensors by part, training options."""
    from sam_age.weights.fit import build, differences
    from sam_age.weights.known import resolve
    from sam_age.weights.loading import inspect_file

    contents, found = inspect_file(resolve(given.file))
    print(f"file        {contents.path} ({_size(contents.path.stat().st_size)})")
    print(f"holds       {found.looks_like}: sam_age's {found.kind}")
    if contents.container == "safetensors" or not hasattr(kind_class(found.kind), "load_weights_file"):
        expected = build(found.kind, found.config, str(contents.path)).state_dict()
        expected.pop("latent_avg", None)
        wrong = differences(expected, {k: v for k, v in found.state.items() if k != "latent_avg"})
        if found.kind in ("SAM", "PSP") and found.latent_avg is None and "latent_avg" not in found.state:
            wrong.append("latent_avg missing, from which every code starts")
        print(f"loads       {'yes' if not wrong else 'no: ' + '; '.join(wrong)}")
    for note in found.notes:
        print(f"note        {note}")
    parts = {"": found.config} if not _nested(found.config) else found.config
    for part, arguments in parts.items():
        text = ", ".join(f"{name}={json.dumps(value)}" for name, value in arguments.items())
        print(f"{part or 'arguments':<20}{text or 'none'}")
    print(f"\n{'part':<20}{'tensors':>8}{'numbers':>14}{'size':>12}  types")
    for part, tensors in _by_part(found.state).items():
        numbers = sum(tensor.numel() for tensor in tensors)
        stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        types = sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors})
        print(f"{part:<20}{len(tensors):>8}{numbers:>14,}{_size(stored):>12}  {', '.join(types)}")
    if found.latent_avg is not None:
        print(f"{'latent_avg':<20}{1:>8}{found.latent_avg.numel():>14,}")
    if found.opts:
        print("\ntraining options")
        for name, value in sorted(found.opts.items()):
            print(f"  {name} = {value!r}")


def kind_class(kind: str) -> type:
    """The class of a known kind."""
    from importlib import import_module

    from sam_age.weights.fit import CLASSES

    return getattr(import_module(CLASSES[kind]), kind) if kind in CLASSES else object


def convert(given: argparse.Namespace) -> None:
    """Write OUT from FILE."""
    from sam_age.weights.known import resolve
    from sam_age.weights.loading import load
    from sam_age.weights.storing import save

    path, out = resolve(given.file), given.out
    if out.suffix != ".safetensors":
        raise InputError(f"{out}: the output is a .safetensors file; name it so.")
    if out.exists() and out.resolve() == path.resolve():
        raise InputError(f"{out} is the input itself: give the output another name.")
    if out.exists() and not given.overwrite:
        raise InputError(f"{out} exists: add --overwrite to replace it, or give another name.")
    network = load(path)
    save(network, out, half=given.half, facts={"converted_from": path.name})
    before, after = path.stat().st_size, out.stat().st_size
    precision = "float16" if given.half else "float32"
    print(
        f"{out}: {type(network).__name__}, {precision}, {_size(after)}, "
        f"{after / before:.1%} of {path.name}'s {_size(before)}"
    )


def onnx(given: argparse.Namespace) -> None:
    """Write the graphs of FILE to FOLDER."""
    from sam_age.export import PARTS, export_onnx
    from sam_age.models.sam import SAM
    from sam_age.weights.loading import load

    there = [graph for part in PARTS if (graph := given.folder / f"{part}.onnx").exists()]
    if there and not given.overwrite:
        raise InputError(f"{there[0]} exists: add --overwrite to replace it, or give another folder.")
    network = load(given.file)
    if not isinstance(network, SAM):
        raise InputError(f"{given.file} holds {type(network).__name__}, not a whole SAM: give a SAM checkpoint.")
    export_onnx(network, given.folder)  # says what it writes


def _nested(config: dict) -> bool:
    return bool(config) and all(isinstance(value, dict) for value in config.values())


def _by_part(state: dict) -> dict[str, list]:
    """Tensors by the first part of their names; a network without parts counts as one."""
    parts: dict[str, list] = {}
    for name, tensor in state.items():
        parts.setdefault(name.split(".")[0], []).append(tensor)
    return parts if len(parts) <= 12 else {"all": list(state.values())}


def _size(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


if __name__ == "__main__":
    sys.exit(main())
