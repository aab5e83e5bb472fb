"""sam-infer and sam-eval: what they write, what they refuse, and that a refusal costs nothing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig
from PIL import Image
from skimage import data

from sam_age.cli.eval import evaluate
from sam_age.cli.infer import infer
from sam_age.config import CONF_DIR
from sam_age.errors import InputError
from sam_age.inference import running
from sam_age.inference.record import FOLDER
from sam_age.pipeline import AgingPipeline
from sam_age.weights import save
from tests.cli.inside import inside
from tests.cli.test_train import SMALL, run
from tests.modules.test_aging import tiny_sam


def config(name: str, *overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        return compose(name, overrides=list(overrides))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> Path:
    return save(tiny_sam(), tmp_path_factory.mktemp("weights") / "sam.safetensors")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos" / "deep"
    folder.mkdir(parents=True)
    Image.fromarray(data.astronaut()).save(folder / "astronaut.png")
    return folder.parent


def aged(checkpoint: Path, source: Path, output: Path, *more: str) -> list[str]:
    infer(config("infer", f"checkpoint={checkpoint}", f"input={source}", f"output={output}", "device=cpu", *more))
    written = [path.relative_to(output) for path in output.rglob("*") if path.is_file()]
    return sorted(path.as_posix() for path in written if path.parts[0] != FOLDER)


def test_a_folder_is_mirrored_with_one_picture_per_age_and_a_sheet(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    written = aged(checkpoint, photos, tmp_path / "out", "target_ages=[5,62.5]")
    assert written == ["deep/astronaut_005.png", "deep/astronaut_062.5.png", "deep/astronaut_sheet.png"]
    with Image.open(tmp_path / "out/deep/astronaut_005.png") as image:
        assert image.size == (32, 32)  # the generator's own size


@pytest.mark.parametrize("option", ["graphed", "compiled"])
def test_recording_and_compiling_are_the_pipelines_and_are_yes_or_no(
    option: str, checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    make, asked = AgingPipeline.from_pretrained, []

    def from_pretrained(*given, **how):
        asked.append(how[option])
        return make(*given, **how)

    monkeypatch.setattr(AgingPipeline, "from_pretrained", from_pretrained)
    for number, value in enumerate(("false", "true")):
        aged(checkpoint, photos, tmp_path / str(number), "target_ages=[5]", f"{option}={value}")
    assert asked == [False, True]
    with pytest.raises(InputError, match=f"{option} is true or false, not 'cuda'"):
        aged(checkpoint, photos, tmp_path / "2", f"{option}=cuda")


def test_one_bad_photo_does_not_stop_the_rest(checkpoint: Path, photos: Path, tmp_path: Path) -> None:
    (photos / "broken.jpg").write_text("not a picture")
    Image.new("RGB", (300, 300), "grey").save(photos / "empty.png")
    written = aged(checkpoint, photos, tmp_path / "out", "target_ages=[5]", "sheet=false")
    assert written == ["deep/astronaut_005.png"]


def test_what_is_done_is_skipped_and_other_files_are_not_overwritten(
    checkpoint: Path, photos: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    aged(checkpoint, photos, output, "target_ages=[5]")
    marked = output / "deep/astronaut_005.png"
    made = marked.read_bytes()
    marked.write_bytes(b"precious")
    aged(checkpoint, photos, output, "target_ages=[5]")  # done: not looked at again
    with pytest.raises(InputError, match=r"astronaut_005\.png is already there: overwrite=true"):
        aged(checkpoint, photos, output, "target_ages=[5,6]")  # other options: somebody else's, as far as known
    assert marked.read_bytes() == b"precious"
    aged(checkpoint, photos, output, "target_ages=[5]", "overwrite=true")
    assert marked.read_bytes() == made


def test_another_run_does_what_is_missing_changed_or_failed_and_no_more(
    checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    folder, output = tmp_path / "faces", tmp_path / "out"
    folder.mkdir()
    for name in ("a", "b", "c"):
        Image.new("RGB", (256, 256), "red").save(folder / f"{name}.png")
    (folder / "d.png").write_text("not yet a picture")
    seen = []
    find = AgingPipeline.find_faces
    monkeypatch.setattr(
        AgingPipeline, "find_faces", lambda *args, **how: seen.append(Path(how["name"]).stem) or find(*args, **how)
    )
    options = ["target_ages=[5,70]", "align=never"]
    aged(checkpoint, folder, output, *options)
    assert seen == ["a", "b", "c"]
    whole = (output / "c_070.png").read_bytes()
    (output / "c_070.png").unlink()
    Image.new("RGB", (256, 256), "blue").save(folder / "b.png")
    Image.new("RGB", (256, 256), "green").save(folder / "d.png")
    seen.clear()
    written = aged(checkpoint, folder, output, *options)
    assert seen == ["b", "c", "d"]
    assert (output / "c_070.png").read_bytes() == whole
    assert {"d_005.png", "d_sheet.png", "sheet.png"} <= set(written)
    with Image.open(output / "sheet.png") as sheet:
        assert sheet.height // 144 == 4  # with the faces of the first run


def test_a_run_that_was_killed_within_a_picture_makes_it_again(
    checkpoint: Path, photos: Path, tmp_path: Path, monkeypatch
) -> None:
    output = tmp_path / "out"
    write, files = running.write_whole, []

    def dies(path: Path, content: bytes) -> None:
        if len(files) == 1:
            raise KeyboardInterrupt
        files.append(path)
        write(path, content)

    monkeypatch.setattr(running, "write_whole", dies)
    with pytest.raises(KeyboardInterrupt):
        aged(checkpoint, photos, output, "target_ages=[5,70]")
    assert len(files) == 1
    monkeypatch.undo()
    assert len(aged(checkpoint, photos, output, "target_ages=[5,70]")) == 3


def test_a_face_the_networks_fail_on_takes_none_of_its_batch_with_it(
    checkpoint: Path, tmp_path: Path, monkeypatch
) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for colour in ("red", "lime", "blue"):
        Image.new("RGB", (256, 256), colour).save(folder / f"{colour}.png")
    age = AgingPipeline.age_faces

    def age_faces(self, faces, ages):
        if any(face.getpixel((0, 0)) == (0, 255, 0) for face in faces):
            raise RuntimeError("out of memory")
        return age(self, faces, ages)

    monkeypatch.setattr(AgingPipeline, "age_faces", age_faces)
    options = ["target_ages=5", "sheet=false", "align=never", "batch_size=3"]
    assert aged(checkpoint, folder, tmp_path / "out", *options) == ["blue_005.png", "red_005.png"]


def test_several_faces_also_share_a_sheet(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    for colour in ("red", "blue"):
        Image.new("RGB", (256, 256), colour).save(folder / f"{colour}.png")
    written = aged(checkpoint, folder, tmp_path / "out", "target_ages=[5,9,70]", "align=never")
    assert "sheet.png" in written
    with Image.open(tmp_path / "out/sheet.png") as overview:
        columns, rows = (side // 144 for side in overview.size)
        assert (columns, rows) == (4, 2)  # input and three ages; captions and margins are less than a face
        pixels = np.asarray(overview)
    for colour in ((255, 0, 0), (0, 0, 255)):
        assert (pixels == colour).all(-1).sum() == 144 * 144


def test_pictures_that_differ_in_suffix_alone_keep_it(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "twins"
    folder.mkdir()
    for suffix in ("png", "bmp"):
        noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"a.{suffix}")
    written = aged(checkpoint, folder, tmp_path / "out", "target_ages=[5]", "sheet=false", "align=never")
    assert written == ["a.bmp_005.png", "a.png_005.png"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["target_ages=[5,101]"], "Target age 101 is not a number from 0 to 100"),
        (["target_ages=[old]"], "Target age 'old'"),
        (["target_ages=[]"], "No target ages"),
        (["input=nowhere.jpg"], "nothing at nowhere.jpg"),
        (["checkpoint=nowhere.pt"], "no file at nowhere.pt"),
        (["align=maybe"], "align is one of"),
        (["batch_size=0"], "batch_size is a whole number"),
        (["overwrite=maybe"], "overwrite is true or false"),
        (["sheet=5"], "sheet is true or false"),
        (["workers=-1"], "workers is a whole number"),
        (["devices=0"], "devices is a whole number"),
        (["target_ages=[5,5]"], "an age twice"),
        (["mode=reference"], "needs mode.references="),
        (["mode=edit", "mode.kind=direction"], "needs mode.direction="),
        (["mode=animate", "mode.format=exe"], "film"),
        (["mode=animate", "mode.seconds=-1"], "^seconds is a number"),
        (["mode=animate", "mode.seconds=1000"], "25000 frames is too long"),
        (["mode=animate", "mode.loop=round"], "^loop is one of"),
        (["mode=animate", "mode.whole=maybe"], "mode.whole is true or false"),
        (["mode=animate", "target_ages=50"], "^A film goes through"),
        (["mode=sheet", "mode.cell=-3"], "mode.cell is a whole number"),
        (["mode=mix", "mode.alpha=3"], "mode.alpha is a number from 0 to 1"),
        (["mode=mix", "mode.seed=x"], "mode.seed is a whole number"),
        (["mode=mix", "mode.layers=99"], "^A code of this model has the layers"),
        (["mode=reference", "mode.references=nowhere"], r"nothing at nowhere: give mode\.references="),
        (["mode=edit", "mode.where=knee"], "^There is no region 'knee'"),
        (["mode=edit", "mode.kind=dial", "mode.amount=2"], "mode.amount is a number from 0 to 1"),
        (["mode=edit", "mode.kind=direction", "mode.having=a", "mode.lacking=b"], r"nothing at a: give mode\.having="),
        (["mode=photo", "mode.format=bmp"], "mode.format is one of png"),
        (["mode=photo", "mode.region=knee"], "mode.region is one of head, face"),
        (["faces=some"], "^faces is one of"),
        (["faces=[-1]"], "^There is no face -1"),
        (["input=2024"], "nothing at 2024"),
        (["device=tpu9"], "Device 'tpu9'"),
    ],
)
def test_wrong_arguments_write_nothing(
    checkpoint: Path, photos: Path, tmp_path: Path, overrides: list, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        aged(checkpoint, photos, tmp_path / "out", *overrides)
    assert not (tmp_path / "out").exists()


def test_a_photo_that_is_none_writes_nothing(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_text("not a picture")
    with pytest.raises(InputError, match="is not an image"):
        aged(checkpoint, tmp_path / "x.jpg", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_of_another_network_is_named(photos: Path, tmp_path: Path) -> None:
    save(tiny_sam().decoder, tmp_path / "generator.safetensors")
    with pytest.raises(InputError, match="holds Generator"):
        aged(tmp_path / "generator.safetensors", photos, tmp_path / "out")


def test_the_command_leaves_with_code_2_and_one_line(tmp_path: Path) -> None:
    for name, arguments in (("infer", ["input=x.jpg", "output=out"]), ("eval", ["checkpoint=nowhere.ckpt"])):
        done = run(tmp_path, name, *arguments)
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert line.startswith(f"sam-{name}: ")
    assert list(tmp_path.iterdir()) == []


# ---- sam-eval ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    done = inside(folder, "train", *SMALL, "trainer.max_steps=2")
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "runs/smoke/checkpoints/last.ckpt"


def scored(checkpoint: Path, output: Path, *more: str) -> dict:
    evaluate(config("eval", f"checkpoint={checkpoint}", f"output={output}", "trainer.accelerator=cpu", *more))
    return json.loads((output / "metrics.json").read_text(encoding="utf-8"))


def test_a_checkpoint_brings_its_own_data_and_losses(trained: Path, tmp_path: Path, capsys) -> None:
    results = scored(trained, tmp_path, "target_ages=[20,70]", "loss_terms=true")
    assert results["faces"] == 2  # data.val.count of the run
    assert list(results["per_target_age"]) == ["20", "70"]
    maes = [row["age_mae"] for row in results["per_target_age"].values()]
    assert results["age_mae"] == pytest.approx(np.mean(maes), abs=1e-4)
    assert results["losses"]["loss"] > 0
    assert f"{results['age_mae']:.1f}" in capsys.readouterr().out


def test_scores_are_those_of_the_checkpoints_weights(trained: Path, tmp_path: Path) -> None:
    """Against a second path: the converted file, with data and losses named by hand."""
    from sam_age.weights import load

    sam = load(trained)
    save(sam, tmp_path / "sam.safetensors")
    terms = ["loss_terms=true"]
    want = scored(trained, tmp_path / "a", "target_ages=[20]", "losses=smoke", "max_images=1", *terms)
    torch.manual_seed(0)
    got = scored(
        tmp_path / "sam.safetensors",
        tmp_path / "b",
        "target_ages=[20]",
        "losses=smoke",
        "data=drawn",
        "data.val.count=2",
        "max_images=1",
        *terms,
    )
    assert got["losses"]["l2"] == pytest.approx(want["losses"]["l2"], rel=1e-5)
    assert got["faces"] == want["faces"] == 1


def test_scores_are_not_overwritten_unless_asked(trained: Path, tmp_path: Path) -> None:
    scored(trained, tmp_path, "target_ages=[20]")
    with pytest.raises(InputError, match="overwrite=true"):
        scored(trained, tmp_path, "target_ages=[20]")
    scored(trained, tmp_path, "target_ages=[20]", "overwrite=true")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["split=test"], "no faces to score: set data.test"),
        (["max_images=0"], "max_images is a whole number"),
        (["target_ages=[20,20.4]"], "whole years"),
        (["target_ages=[20,20]"], "each once"),
    ],
)
def test_nothing_to_score_is_said_before_scoring(trained: Path, tmp_path: Path, overrides: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scored(trained, tmp_path, *overrides)
    assert list(tmp_path.iterdir()) == []


def test_a_single_age_is_a_list_of_one(trained: Path, tmp_path: Path) -> None:
    assert list(scored(trained, tmp_path, "target_ages=20")["per_target_age"]) == ["20"]


def test_an_output_that_is_a_file_is_said_before_scoring(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match="taken is a file"):
        scored(trained, tmp_path / "taken")


def test_a_file_without_a_run_needs_data(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="add data=folder"):
        scored(checkpoint, tmp_path)
    with pytest.raises(InputError, match="split is val or test"):
        scored(checkpoint, tmp_path, "split=train")
