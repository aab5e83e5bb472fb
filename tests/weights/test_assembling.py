"""Where training starts: the authors' initialisation from three files, or a whole SAM."""

import pytest
import torch

from sam_age import weights
from sam_age.errors import InputError
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.stylegan2 import Generator
from tests.golden import Golden, assert_matches
from tests.weights import files


def parts() -> dict[str, torch.nn.Module]:
    return {
        "encoder": files.tiny_encoder(4),
        "pretrained_encoder": files.tiny_encoder(3),
        "decoder": files.tiny_generator(),
    }


@pytest.fixture
def three(tmp_path) -> dict[str, object]:
    """Small files in the three official formats, and what they hold."""
    torch.manual_seed(5)
    face, psp, generator = files.tiny_encoder(3), files.tiny_psp(), files.tiny_generator()
    trunk = {k: v for k, v in face.state_dict().items() if k.startswith(("input_layer.", "body."))}
    torch.save(trunk | {"output_layer.0.weight": torch.ones(3)}, tmp_path / "arcface.pth")
    files.authors_psp(psp, tmp_path / "psp.pt")
    average = torch.randn(32)
    torch.save({"g_ema": generator.state_dict(), "latent_avg": average}, tmp_path / "stylegan2.pt")
    paths = {
        "trunk": tmp_path / "arcface.pth",
        "psp": tmp_path / "psp.pt",
        "stylegan2": tmp_path / "stylegan2.pt",
    }
    return {"face": face, "psp": psp, "generator": generator, "average": average, "paths": paths}


def test_each_part_starts_from_its_own_file(three):
    sam = weights.build_sam(**parts(), **three["paths"])
    for part in ("input_layer", "body"):
        given = getattr(three["face"], part).state_dict()
        for name, tensor in getattr(sam.encoder, part).state_dict().items():
            own = tensor[:, :3] if (part, name) == ("input_layer", "0.weight") else tensor
            assert torch.equal(own, given[name]), (part, name)
    for expected, got in ((three["psp"].encoder, sam.pretrained_encoder), (three["generator"], sam.decoder)):
        for name, tensor in expected.state_dict().items():
            assert torch.equal(tensor, got.state_dict()[name]), name
    assert torch.equal(sam.latent_avg, three["average"].expand(8, -1))
    assert all(parameter.requires_grad for parameter in sam.encoder.parameters())
    assert not any(parameter.requires_grad for parameter in sam.decoder.parameters())


def test_the_towers_stay_as_the_constructor_drew_them(three):
    made = parts()
    before = {name: value.clone() for name, value in made["encoder"].styles.state_dict().items()}
    sam = weights.build_sam(**made, **three["paths"])
    for name, tensor in sam.encoder.styles.state_dict().items():
        assert torch.equal(tensor, before[name])


def test_the_age_channels_filters_are_drawn_with_deviation_one(three):
    draws = torch.stack(
        [weights.build_sam(**parts(), **three["paths"]).encoder.input_layer[0].weight[:, 3] for _ in range(8)]
    )
    assert abs(draws.std().item() - 1) < 0.15  # 576 numbers
    assert abs(draws.mean().item()) < 0.15


def test_random_parts_are_made_on_purpose_with_one_warning_each(caplog):
    sam = weights.build_sam(**parts(), trunk="random", psp="random", stylegan2="random")
    said = [text for text in caplog.messages if "random weights" in text]
    assert [text.split(" has ")[0] for text in said] == [
        "SAM's encoder trunk",
        "SAM's inversion encoder",
        "SAM's generator",
    ]
    with torch.no_grad():
        z = torch.randn(4096, 32, generator=torch.Generator().manual_seed(0))
        centre = sam.decoder.mapping(z).mean(0)
    torch.testing.assert_close(sam.latent_avg, centre.expand(8, -1))


@pytest.mark.parametrize(
    ("missing", "file"),
    [
        ("trunk", "model_ir_se50.pth"),
        ("psp", "psp_ffhq_encode.pt"),
        ("stylegan2", "stylegan2-ffhq-config-f.pt"),
    ],
)
def test_a_file_that_is_not_given_is_asked_for_by_name_and_key(three, missing, file):
    with pytest.raises(InputError, match=rf"model\.{missing}.*{file}.*github\.com/yuval-alaluf/SAM"):
        weights.build_sam(**parts(), **(three["paths"] | {missing: None}))


def test_files_in_each_others_places_are_named(three):
    paths = three["paths"]
    swapped = [
        ({"trunk": paths["stylegan2"]}, "rosinality's StyleGAN2 file; the encoder's trunk starts from ArcFace"),
        ({"psp": paths["stylegan2"]}, "rosinality's StyleGAN2 file; the inversion encoder takes pSp's file, or"),
        ({"stylegan2": paths["trunk"]}, "ArcFace.*; the generator takes StyleGAN2's"),
    ]
    for change, why in swapped:
        with pytest.raises(InputError, match=why):
            weights.build_sam(**parts(), **(paths | change))


def test_a_generator_of_another_size_says_which_key_to_set(three, tmp_path):
    torch.save({"g_ema": Generator(64, 32, 2, 0.0625, 32).state_dict()}, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"holds decoder\.size=64.*set model\.decoder\.size=64"):
        weights.build_sam(**parts(), **(three["paths"] | {"stylegan2": tmp_path / "x.pt"}))


def test_a_whole_checkpoint_takes_the_place_of_the_three(tmp_path):
    model = files.tiny_sam()
    for path in (
        files.authors_sam(model, tmp_path / "x.pt"),
        weights.save(model, tmp_path / "x.safetensors"),
    ):
        sam = weights.build_sam(**parts(), checkpoint=path)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, sam.state_dict()[name]) or name.endswith("num_batches_tracked"), name


def test_a_checkpoint_of_another_size_or_kind_says_so(tmp_path):
    path = files.authors_sam(files.tiny_sam(), tmp_path / "x.pt")
    made = parts() | {"encoder": GradualStyleEncoder(4, **(files.TINY | {"tower_width": 24}))}
    with pytest.raises(InputError, match=r"set model\.encoder\.tower_width=16"):
        weights.build_sam(**made, checkpoint=path)
    path = files.authors_psp(files.tiny_psp(), tmp_path / "psp.pt")
    with pytest.raises(InputError, match=r"a pSp file; model\.checkpoint takes a whole SAM"):
        weights.build_sam(**parts(), checkpoint=path)


# ---- parts out of files that hold more -----------------------------------------------------------------


def same(expected: torch.nn.Module, got: torch.nn.Module) -> None:
    other = got.state_dict()
    for name, tensor in expected.state_dict().items():
        assert torch.equal(tensor, other[name]) or name.endswith("num_batches_tracked"), name


def colours_of(trunk: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A trunk without its age channel, towers and counters."""
    trunk = {name: tensor for name, tensor in trunk.items() if name.startswith(("input_layer.", "body."))}
    trunk["input_layer.0.weight"] = trunk["input_layer.0.weight"][:, :3]
    return {name: tensor for name, tensor in trunk.items() if not name.endswith("num_batches_tracked")}


@pytest.mark.parametrize("form", ["authors", "ours"])
def test_every_part_comes_out_of_a_whole_sam(tmp_path, form):
    model = files.tiny_sam()
    path = (
        files.authors_sam(model, tmp_path / "x.pt")
        if form == "authors"
        else weights.save(model, tmp_path / "x.safetensors")
    )
    sam = weights.build_sam(**parts(), trunk=path, psp=path, stylegan2=path)
    same(model.pretrained_encoder, sam.pretrained_encoder)
    same(model.decoder, sam.decoder)
    assert torch.equal(sam.latent_avg, model.latent_avg)  # a row for each style
    torch.testing.assert_close(sam.decoder.latent_avg, model.latent_avg.mean(0))
    want, got = colours_of(model.pretrained_encoder.state_dict()), colours_of(sam.encoder.state_dict())
    assert want.keys() == got.keys()
    assert all(torch.equal(tensor, got[name]) for name, tensor in want.items())


def test_every_part_comes_out_of_a_whole_psp(tmp_path):
    model = files.tiny_psp()
    for path in (files.authors_psp(model, tmp_path / "x.pt"), weights.save(model, tmp_path / "x.safetensors")):
        sam = weights.build_sam(**parts(), trunk=path, psp=path, stylegan2=path)
        same(model.encoder, sam.pretrained_encoder)
        same(model.decoder, sam.decoder)
        assert torch.equal(sam.latent_avg, model.latent_avg)
        psp = weights.build_psp(files.tiny_encoder(3), files.tiny_generator(), trunk=path, stylegan2=path)
        same(model.decoder, psp.decoder)
        assert torch.equal(psp.latent_avg, model.latent_avg)
        want, got = colours_of(model.encoder.state_dict()), colours_of(psp.encoder.state_dict())
        assert all(torch.equal(tensor, got[name]) for name, tensor in want.items())
        whole = weights.build_psp(files.tiny_encoder(3), files.tiny_generator(), checkpoint=path)
        same(model, whole)
        assert not any(parameter.requires_grad for parameter in whole.decoder.parameters())
        assert all(parameter.requires_grad for parameter in whole.encoder.parameters())


def test_an_inversion_encoder_may_come_alone(three, tmp_path):
    path = weights.save(three["psp"].encoder, tmp_path / "psp.safetensors")
    sam = weights.build_sam(**parts(), **(three["paths"] | {"psp": path, "trunk": path}))
    same(three["psp"].encoder, sam.pretrained_encoder)


def test_zero_towers_start_as_the_plain_inversion_whatever_the_age(tmp_path):
    model = files.tiny_psp()
    path = weights.save(model, tmp_path / "psp.safetensors")
    sources = {"trunk": path, "psp": path, "stylegan2": path}
    sam = weights.build_sam(**parts(), **sources, towers="zero").eval()
    faces = torch.rand(2, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        images, w_plus = model(faces)
        aged, edited = sam(faces, torch.tensor([3.0, 90.0]), return_latents=True)
        moved = weights.build_sam(**parts(), **sources).eval().edit(faces, torch.tensor([3.0, 90.0]))
    assert torch.equal(edited, w_plus)
    assert torch.equal(aged, images)
    assert (moved - w_plus).abs().max() > 0.01
    sam.train().edit(faces, torch.tensor([3.0, 90.0])).square().sum().backward()
    assert all(tower.linear.weight.grad.abs().max() > 0 for tower in sam.encoder.styles)  # and can leave it


def test_the_age_channels_deviation_is_an_argument(three):
    torch.manual_seed(0)
    one = weights.build_sam(**parts(), **three["paths"]).encoder.input_layer[0].weight[:, 3]
    draws = [
        weights.build_sam(**parts(), **three["paths"], age_channel_std=0.05).encoder.input_layer[0].weight[:, 3]
        for _ in range(8)
    ]
    assert torch.stack(draws).std().item() == pytest.approx(0.05, rel=0.15)  # 576 numbers
    assert one.std().item() > 0.7


def test_what_does_not_fit_is_one_line(three, tmp_path):
    model = files.tiny_sam()
    path = files.authors_sam(model, tmp_path / "x.pt")
    with pytest.raises(InputError, match=r"one of random, zero, not 'none'"):
        weights.build_sam(**parts(), **three["paths"], towers="none")
    with pytest.raises(InputError, match=r"the authors' SAM file; model\.checkpoint takes a whole pSp"):
        weights.build_psp(files.tiny_encoder(3), files.tiny_generator(), checkpoint=path)
    with pytest.raises(
        InputError, match=r"holds decoder\.size=32, the config asks for 64: set model\.decoder\.size=32"
    ):
        weights.build_sam(
            **(parts() | {"decoder": Generator(64, 32, 2, 0.0625, 32)}), **(three["paths"] | {"stylegan2": path})
        )
    age_encoder = weights.save(model.encoder, tmp_path / "encoder.safetensors")
    with pytest.raises(InputError, match=r"input_layer\.0\.weight \[8, 4, 3, 3\] where \[8, 3, 3, 3\]"):
        weights.build_sam(**parts(), **(three["paths"] | {"psp": age_encoder}))
    generator = weights.save(model.decoder, tmp_path / "generator.safetensors")
    with pytest.raises(InputError, match=r"Generator; the inversion encoder takes pSp's file, or a whole SAM's"):
        weights.build_sam(**parts(), **(three["paths"] | {"psp": generator}))


@pytest.mark.slow
@pytest.mark.authors
def test_the_start_from_scratch_is_the_authors_loaders(tmp_path):
    torch.save(files.filled("model_ir_se50"), tmp_path / "trunk.pth")
    average = files.filled_latent_avg(512)
    torch.save({"g_ema": files.filled("small", "generator64"), "latent_avg": average}, tmp_path / "stylegan2.pt")
    # the case hashes the pSp file's names as psp.encoder.*; its decoder plays no part
    whole = files.manifest("sam64")["state_dict"]
    encoder = {k.removeprefix("pretrained_"): v for k, v in whole.items() if k.startswith("pretrained_encoder.")}
    psp = files.state_dict(encoder, "psp.") | {
        f"decoder.{name}": value for name, value in files.empty("small", "generator64").items()
    }
    torch.save({"state_dict": psp, "latent_avg": torch.zeros(10, 512)}, tmp_path / "psp.pt")
    sam = weights.build_sam(
        GradualStyleEncoder(4, 10),
        GradualStyleEncoder(3, 10),
        Generator(64),
        trunk=tmp_path / "trunk.pth",
        psp=tmp_path / "psp.pt",
        stylegan2=tmp_path / "stylegan2.pt",
    )
    (tmp_path / "psp.pt").unlink()  # most of a gigabyte that pytest would keep
    case = Golden()["load_from_scratch"]
    state = sam.state_dict()
    sums = []
    for name in case.notes["names"]:
        tensor = state[name.split("[")[0]]
        tensor = (tensor[:, :3] if "[" in name else tensor).double()
        sums.append(torch.stack([tensor.sum(), tensor.square().sum()]))
    assert_matches(case, {"sums": torch.stack(sums), "latent_avg": sam.latent_avg})
