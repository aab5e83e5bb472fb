"""sam-weights: list, inspect, convert, and what it says when it cannot; onnx is test_export.py's."""

import subprocess
import sys

import pytest
import torch

from sam_age import weights
from sam_age.cli.weights import main
from tests.weights import files


@pytest.fixture
def sam_file(tmp_path):
    return files.authors_sam(files.tiny_sam(), tmp_path / "sam.pt", id_lambda=0.1)


def complaint(capsys, *arguments) -> str:
    """The one line on stderr of a command that exits with 2."""
    try:
        code = main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code
    assert code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_convert_writes_a_file_that_gives_the_same_images(sam_file, tmp_path, capsys):
    exact, half = tmp_path / "exact.safetensors", tmp_path / "half.safetensors"
    assert main(["convert", str(sam_file), str(exact), "--no-half"]) == 0
    assert main(["convert", str(sam_file), str(half)]) == 0
    said = capsys.readouterr().out
    assert "SAM, float16" in said
    share = half.stat().st_size / sam_file.stat().st_size
    assert f"{share:.1%} of sam.pt's" in said
    faces, ages = torch.rand(1, 3, 256, 256) * 2 - 1, torch.tensor([70.0])
    with torch.no_grad():
        original, same, close = (weights.load(path)(faces, ages, resize=False) for path in (sam_file, exact, half))
    assert torch.equal(original, same)
    assert (original - close).abs().max() < 0.01 * original.abs().max()


def test_a_converted_file_is_at_most_55_percent_of_the_original(tmp_path):
    """At real proportions: 64 pixels, 512-wide towers would be a gigabyte; half the widths show the same."""
    torch.manual_seed(0)
    from sam_age.models.encoder import GradualStyleEncoder
    from sam_age.models.sam import SAM
    from sam_age.models.stylegan2 import Generator

    small = {"n_styles": 8, "style_dim": 64, "widths": (32, 64, 96, 128), "tower_width": 128}
    model = SAM(GradualStyleEncoder(4, **small), GradualStyleEncoder(3, **small), Generator(32, 64, 4, 0.5, 128))
    path, out = files.authors_sam(model, tmp_path / "sam.pt"), tmp_path / "out.safetensors"
    assert main(["convert", str(path), str(out)]) == 0
    assert out.stat().st_size <= 0.55 * path.stat().st_size


def test_nothing_is_overwritten_unless_asked(sam_file, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    out.write_text("precious")
    assert "add --overwrite" in complaint(capsys, "convert", sam_file, out)
    assert out.read_text() == "precious"
    assert main(["convert", str(sam_file), str(out), "--overwrite"]) == 0
    assert weights.load(out).config["decoder"]["size"] == 32


def test_bad_arguments_and_files_are_one_line_and_leave_nothing(sam_file, tmp_path, capsys):
    assert ".safetensors" in complaint(capsys, "convert", sam_file, tmp_path / "out.pt")
    broken = tmp_path / "broken.pt"
    broken.write_bytes(sam_file.read_bytes()[:-1000])
    assert "damaged" in complaint(capsys, "convert", broken, tmp_path / "out.safetensors")
    assert "damaged" in complaint(capsys, "inspect", broken)
    assert "invalid choice" in complaint(capsys, "covnert")
    assert "required" in complaint(capsys, "inspect")
    assert "No weights called" in complaint(capsys, "inspect", "nothing")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["broken.pt", "sam.pt"]


def test_the_input_itself_is_no_output(tmp_path, capsys):
    path = weights.save(files.tiny_generator(), tmp_path / "x.safetensors")
    before = path.read_bytes()
    assert "is the input itself" in complaint(capsys, "convert", path, path, "--overwrite")
    assert path.read_bytes() == before


def test_inspect_shows_kind_arguments_parts_and_options(sam_file, capsys):
    assert main(["inspect", str(sam_file)]) == 0
    said = capsys.readouterr().out
    assert "the authors' SAM file" in said
    assert "loads       yes" in said
    assert "size=32" in said
    assert "id_lambda = 0.1" in said
    state = files.tiny_sam().encoder.state_dict()
    row = next(line for line in said.splitlines() if line.startswith("encoder ") and "float32" in line)
    assert row.split()[1:3] == [str(len(state)), f"{sum(t.numel() for t in state.values()):,}"]


def test_inspect_says_what_keeps_a_file_from_loading(sam_file, capsys):
    tree = torch.load(sam_file, weights_only=True)
    del tree["state_dict"]["decoder.conv1.noise.weight"]
    torch.save(tree, sam_file)
    assert main(["inspect", str(sam_file)]) == 0
    assert "no: 1 missing (decoder.conv1.noise.weight)" in capsys.readouterr().out


def test_inspect_does_not_call_a_file_without_latent_avg_loadable(sam_file, capsys):
    tree = torch.load(sam_file, weights_only=True)
    del tree["latent_avg"]
    torch.save(tree, sam_file)
    assert main(["inspect", str(sam_file)]) == 0
    assert "no: latent_avg missing" in capsys.readouterr().out


def test_list_marks_the_files_that_are_here(sam_file, tmp_path, capsys, monkeypatch):
    sam_file.rename(tmp_path / "sam_ffhq_aging.pt")
    monkeypatch.setenv("SAM_AGE_WEIGHTS", str(tmp_path))
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert f"here: {tmp_path / 'sam_ffhq_aging.pt'}" in said
    assert said.count("not on this machine") == len(weights.KNOWN) - 1
    assert all(known.file in said for known in weights.KNOWN.values())


@pytest.mark.parametrize("command", [[], ["list"], ["inspect"], ["convert"], ["onnx"]])
def test_every_help_shows_an_example(command):
    run = subprocess.run(
        [sys.executable, "-m", "sam_age.cli.weights", *command, "--help"], capture_output=True, text=True
    )
    assert run.returncode == 0
    assert "example" in run.stdout
    assert "sam-weights" in run.stdout
