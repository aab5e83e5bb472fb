"""A file that cannot be used ends in one line that says what was found and what to do."""

import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from sam_age import weights
from sam_age.errors import InputError
from tests.weights import files


def message(path) -> str:
    """What loading says; always one line that names the file."""
    with pytest.raises(InputError) as caught:
        weights.load(path)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 700
    return text


@pytest.fixture
def sam_file(tmp_path):
    return files.authors_sam(files.tiny_sam(), tmp_path / "sam.pt")


def rewritten(path, change):
    tree = torch.load(path, weights_only=True)
    change(tree)
    torch.save(tree, path)
    return path


def test_missing_tensors_are_named_with_the_kind_of_file(sam_file):
    def cut(tree):
        for name in list(tree["state_dict"]):
            if name.startswith("encoder.styles.7."):
                del tree["state_dict"][name]

    text = message(rewritten(sam_file, cut))
    assert "looks like the authors' SAM file" in text
    assert "missing (encoder.styles.7.convs.0.weight, " in text


def test_a_generator_cut_short_is_not_taken_for_a_smaller_one(sam_file):
    def cut(tree):
        for name in list(tree["state_dict"]):
            if name.startswith("decoder.convs.4."):
                del tree["state_dict"][name]

    assert "missing (decoder.convs.4.conv.weight" in message(rewritten(sam_file, cut))


def test_extra_and_misshapen_tensors_are_named(sam_file):
    def change(tree):
        tree["state_dict"]["encoder.head.weight"] = torch.ones(2)
        tree["state_dict"]["encoder.latlayer1.bias"] = torch.ones(5)

    text = message(rewritten(sam_file, change))
    assert "1 unexpected (encoder.head.weight)" in text
    assert "encoder.latlayer1.bias [5] where [32] is expected" in text


def test_a_latent_average_of_another_size_is_named(sam_file):
    assert "latent_avg [18, 32] where [8, 32]" in message(
        rewritten(sam_file, lambda tree: tree.update(latent_avg=torch.zeros(18, 32)))
    )
    torch.save({"g_ema": files.tiny_generator().state_dict(), "latent_avg": torch.zeros(512)}, sam_file)
    assert "latent_avg has the shape [512]" in message(sam_file)


def test_a_whole_model_without_its_latent_average_is_refused_whatever_it_was_saved_by(sam_file, tmp_path):
    assert "without latent_avg" in message(rewritten(sam_file, lambda tree: tree.pop("latent_avg")))
    psp = files.authors_psp(files.tiny_psp(), tmp_path / "psp.pt")
    assert "without latent_avg" in message(rewritten(psp, lambda tree: tree.pop("latent_avg")))
    model = files.tiny_sam()
    state = {f"sam.{name}": value for name, value in model.state_dict().items() if name != "latent_avg"}
    checkpoint = {"pytorch-lightning_version": "2.6.0", "state_dict": state, "network": model.config}
    torch.save(checkpoint, tmp_path / "last.ckpt")
    assert "without latent_avg" in message(tmp_path / "last.ckpt")


def test_a_sam_file_without_its_inversion_encoder_says_why_it_is_not_supported(sam_file):
    def cut(tree):
        for name in list(tree["state_dict"]):
            if name.startswith("pretrained_encoder."):
                del tree["state_dict"][name]

    assert "start_from_encoded_w_plus" in message(rewritten(sam_file, cut))


@pytest.mark.parametrize(
    "tree",
    [{"epoch": 3, "model": {"a": torch.ones(1)}}, {"state_dict": {"fc.weight": torch.ones(1)}}, {}],
)
def test_an_unknown_file_shows_its_keys_and_the_known_kinds(tmp_path, tree):
    torch.save(tree, tmp_path / "x.pt")
    text = message(tmp_path / "x.pt")
    assert "its keys are " + (", ".join(tree) or "none") in text
    assert "Known: the authors' SAM file; a pSp file; rosinality's StyleGAN2" in text


@pytest.mark.parametrize("tree", [[torch.ones(1)], torch.ones(3), {"state_dict": [1]}])
def test_something_other_than_a_dictionary_is_named(tmp_path, tree):
    torch.save(tree, tmp_path / "x.pt")
    assert "list" in message(tmp_path / "x.pt") or "Tensor" in message(tmp_path / "x.pt")


def test_alexnet_alone_is_told_its_place(tmp_path):
    torch.save({"features.0.weight": torch.ones(1), "classifier.6.weight": torch.ones(1)}, tmp_path / "x.pth")
    assert "only a part of LPIPS" in message(tmp_path / "x.pth")


def test_the_names_of_2019_are_recognised_and_refused(tmp_path):
    torch.save({"g_ema": {"conv1.conv.weight_orig": torch.ones(1)}}, tmp_path / "x.pt")
    assert "layout of before 2019-12-19" in message(tmp_path / "x.pt")


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("share", [0.001, 0.2, 0.9, 0.9999])
def test_a_truncated_file_is_called_damaged(tmp_path, zipped, share):
    path = tmp_path / "x.pt"
    torch.save({"g_ema": files.tiny_generator().state_dict()}, path, _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    text = message(path)
    assert "damaged" in text
    assert "Download it again" in text


def test_a_truncated_safetensors_file_is_called_damaged(tmp_path):
    path = weights.save(files.tiny_generator(), tmp_path / "x.safetensors")
    whole = path.read_bytes()
    for length in (100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert "damaged safetensors" in message(path)


def test_safetensors_of_others_are_told_apart(tmp_path):
    save_file({"weight": torch.ones(2)}, tmp_path / "x.safetensors")
    assert "without sam-age's metadata" in message(tmp_path / "x.safetensors")
    save_file({"weight": torch.ones(2)}, tmp_path / "x.safetensors", {"format": "sam-age/9"})
    assert "'sam-age/9'" in message(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("kind", "config", "why"),
    [
        ("Generator", "{", "damaged metadata"),
        ("Generator", "[1]", "damaged metadata"),
        ("Generator", '{"size": 33}', "no Generator can be built"),
        ("Generator", '{"colour": 3}', "no Generator can be built"),
        ("SAM", "{}", "no SAM can be built"),
        ("Trainer", "{}", "no network of sam-age"),
        ("os.system", "{}", "no network of sam-age"),
    ],
)
def test_damaged_or_foreign_metadata_build_nothing(tmp_path, kind, config, why):
    facts = {"format": "sam-age/1", "kind": kind, "config": config}
    save_file({"weight": torch.ones(2)}, tmp_path / "x.safetensors", facts)
    assert why in message(tmp_path / "x.safetensors")


class Attack:
    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_torch_file_is_refused_and_not_run(tmp_path, zipped):
    target = tmp_path / "made-by-the-file"
    path = tmp_path / "x.pt"
    torch.save({"state_dict": {}, "hook": Attack(str(target))}, path, _use_new_zipfile_serialization=zipped)
    text = message(path)
    assert "mkdir" in text
    assert "would run code" in text
    assert not target.exists()


def test_a_whole_pickled_network_is_refused_with_the_way_out(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "x.pt")
    text = message(tmp_path / "x.pt")
    assert "torch.nn.modules.linear.Linear" in text
    assert "save only its state_dict" in text


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Google Drive - Virus scan warning", "web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\xff\xd8\xff\xe0 a photograph", "not a checkpoint"),
        (b"hello", "not a checkpoint"),
        (pickle.dumps({"a": 1}), "without a G_ema"),
    ],
)
def test_files_of_another_sort_are_named(tmp_path, content, why):
    (tmp_path / "x.pt").write_bytes(content)
    assert why in message(tmp_path / "x.pt")


def test_zip_archives_and_programs_are_not_checkpoints(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("photo.txt", "hello")
    assert "zip archive" in message(tmp_path / "x.zip")


def test_a_folder_and_a_missing_file_say_what_to_do(tmp_path):
    assert "is a folder" in message(tmp_path)
    assert "sam-weights list" in message(tmp_path / "nothing.pt")
    text = message(tmp_path / "psp_ffhq_encode.pt")
    assert "There is no file at" in text
    assert "github.com/yuval-alaluf/SAM" in text


def test_an_unknown_name_lists_the_known_ones(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    text = message("lifespam")
    assert "No weights called 'lifespam'" in text
    assert all(name in text for name in weights.KNOWN)


def test_a_lightning_checkpoint_of_something_else_is_told_apart(tmp_path):
    torch.save(
        {"pytorch-lightning_version": "2.6.0", "state_dict": {"net.weight": torch.ones(1)}},
        tmp_path / "x.ckpt",
    )
    assert "holds no SAM" in message(tmp_path / "x.ckpt")
