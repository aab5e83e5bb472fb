"""Build the wheel, install it into a fresh environment, and run the commands from another folder.

python tools/check_wheel.py            the wheel
python tools/check_wheel.py --source   `pip install .` instead
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", action="store_true", help="install the source tree instead of a wheel")
    source = parser.parse_args().source
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if source:
            package = ROOT
        else:
            run([sys.executable, "-m", "build", "--wheel", "--outdir", str(folder), str(ROOT)], folder)
            (package,) = folder.glob("*.whl")
        venv.create(folder / "env", with_pip=True)
        scripts = folder / "env" / ("Scripts" if os.name == "nt" else "bin")
        run([str(scripts / "python"), "-m", "pip", "install", "--quiet", str(package)], folder)
        work = folder / "elsewhere"
        work.mkdir()
        run([str(scripts / "sam-train"), "+experiment=smoke"], work)
        checkpoint = "checkpoint=runs/smoke/checkpoints/last.ckpt"
        run([str(scripts / "sam-eval"), checkpoint, "output=scores", "target_ages=[20,70]"], work)
        draw = (
            "from io import BytesIO; from PIL import Image; from sam_age.data.drawn import DrawnFaces; "
            "Image.open(BytesIO(DrawnFaces().read(0))).save('face.png')"
        )
        run([str(scripts / "python"), "-c", draw], work)
        ages = ["align=never", "target_ages=[10,60]"]
        run([str(scripts / "sam-infer"), checkpoint, "input=face.png", "output=aged", *ages], work)
        for made in ("scores/metrics.json", "aged/face_010.png", "aged/face_060.png", "aged/face_sheet.png"):
            if not (work / made).is_file():
                sys.exit(f"{made} was not written.")
        run([str(scripts / "sam-weights"), "list"], work)
        if (ROOT / "src/sam_age/pretrained/lifespan/sam.safetensors").is_file():
            check_bundle(scripts, work)
        else:
            print("The bundled weights have not been made yet: nothing of them to check.")
    print("The package works from a fresh environment.")


def check_bundle(scripts: Path, work: Path) -> None:
    """The weights and portraits that come with the package, from the package alone."""
    use = (
        "from sam_age import AgingPipeline; from sam_age.pretrained.portraits import BundledPortraits, inputs; "
        "from sam_age.weights import BUNDLE, load; [load(name) for name in BUNDLE]; "
        "assert len(BundledPortraits()) == 132; "
        "sam = AgingPipeline.from_pretrained('lifespan'); (face,) = sam(inputs()[0], ages=[80], align='never'); "
        "face.images[0].save('older.png')"
    )
    run([str(scripts / "python"), "-c", use], work)
    run([str(scripts / "sam-infer"), "input=lifespan", "output=lives", "target_ages=[60]"], work)
    evaluation = ["checkpoint=lifespan", "source_ages=[30]", "target_ages=[60]", "max_images=2", "output=judged"]
    run([str(scripts / "sam-eval"), *evaluation], work)
    for made in ("older.png", "lives/sheet.png", "judged/metrics.json"):
        if not (work / made).is_file():
            sys.exit(f"{made} was not written.")


def run(command: list[str], folder: Path) -> None:
    print("$", " ".join(command), flush=True)
    subprocess.run(command, cwd=folder, check=True)


if __name__ == "__main__":
    main()
