"""sam-train on the experiments of stages 3 and 4, small: each takes what the one before leaves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from sam_age.cli.train import train
from sam_age.config import CONF_DIR, build
from sam_age.errors import InputError
from sam_age.models.age import AgeClassifier
from sam_age.models.encoder import GradualStyleEncoder
from sam_age.models.identity import FaceEmbedder
from sam_age.models.sam import PSP, SAM
from sam_age.models.stylegan2 import Generator
from sam_age.weights import load, save
from tests.cli.test_train import assert_identical

SHORT = [
    "data=drawn", "data.num_workers=0", "data.batch_size=4", "data.val.count=2", "trainer.accelerator=cpu",
    "trainer.precision=32-true", "trainer.max_steps=2", "trainer.val_check_interval=2", "trainer.log_every_n_steps=1",
    "callbacks.checkpoint.every_n_train_steps=1", "callbacks.progress.refresh_rate=0", "callbacks.panels.faces=2",
]  # fmt: skip
GENERATOR = {"size": 32, "style_dim": 32, "n_mlp": 2, "channel_multiplier": 0.0625, "channel_max": 32}
ENCODER = {"n_styles": 8, "style_dim": 32, "widths": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "tower_width": 16}
JUDGE = {"widths": [8, 16], "depths": [1, 1], "image_size": 32}


def small(*encoders: str) -> list[str]:
    sizes = {"decoder": GENERATOR} | dict.fromkeys(encoders, ENCODER)
    return [
        f"++model.{part}.{k}={str(v).replace(' ', '')}" for part, numbers in sizes.items() for k, v in numbers.items()
    ]


INVERSION = ["+experiment=lifespan_inversion", *SHORT, *small("encoder")]
NETWORKS = [
    f"losses.{name}.weights=runs/lifespan_judges/weights/best_{name[:-4]}.safetensors"
    for name in ("age_net", "identity_net")
]
AGING = [
    "+experiment=lifespan_aging", *SHORT, *small("encoder", "pretrained_encoder"), *NETWORKS, "judges=none",
    "losses.code=0",  # drawn faces have no ages
    "weights.psp=runs/lifespan_inversion/weights/psp.safetensors",
    "weights.stylegan2=runs/lifespan_gan/weights/generator_ema.safetensors",
]  # fmt: skip


def start(*arguments: str) -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        cfg = compose("train", overrides=list(arguments))
    train(cfg)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in which stages 1 and 2 have run."""
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    generator = Generator(**GENERATOR)
    for layer in (generator.conv1, *generator.convs):
        torch.nn.init.constant_(layer.noise.weight, 0.3)  # so that a resumed run must draw the same noise
    generator.latent_avg.copy_(generator.mean_latent(1000)[0])
    save(generator, "runs/lifespan_gan/weights/generator_ema.safetensors", half=True)
    save(AgeClassifier(**JUDGE), "runs/lifespan_judges/weights/best_age.safetensors")
    save(FaceEmbedder(**JUDGE), "runs/lifespan_judges/weights/best_identity.safetensors")
    return tmp_path


def test_stages_three_and_four_take_what_the_stages_before_left(here):
    start(*INVERSION)
    run = here / "runs/lifespan_inversion"
    assert sorted(p.name for p in (run / "weights").iterdir()) == ["encoder.safetensors", "psp.safetensors"]
    assert Image.open(run / "panels/step_0000002.png").size[0] > 4 * 256
    header = (run / "csv/version_0/metrics.csv").read_text().splitlines()[0]
    for curve in ("train/l2", "train/code", "train/lr", "val/lpips", "val/identity_similarity", "val/ssim", "val/psnr"):
        assert curve in header
    assert OmegaConf.load(run / "config.yaml").module.sampled_share > 0

    start(*AGING, "optimizer.lr=0.0")  # so that the start is still seen at the end
    sam = load("runs/lifespan_aging/checkpoints/last.ckpt")
    assert isinstance(sam, SAM)
    psp = load("runs/lifespan_inversion/weights/psp.safetensors")
    assert isinstance(psp, GradualStyleEncoder)
    generator = load("runs/lifespan_gan/weights/generator_ema.safetensors")
    for want, got in ((psp, sam.pretrained_encoder), (generator, sam.decoder)):
        state = got.state_dict()
        assert all(torch.equal(tensor, state[name]) for name, tensor in want.state_dict().items())
    assert torch.equal(sam.latent_avg, generator.latent_avg.expand(8, -1))
    faces = torch.rand(2, 3, 256, 256) * 2 - 1
    with torch.no_grad():
        assert torch.equal(sam.edit(faces, torch.tensor([5.0, 80.0])), sam.encode(faces))
    assert sorted(p.stem for p in (here / "runs/lifespan_aging/weights").iterdir()) == ["ema_encoder", "encoder"]

    save(sam, "whole.safetensors", half=True)  # and again from one file of all stages, as the package has it
    start(*AGING, "output=again", "model.psp=whole.safetensors", "model.stylegan2=whole.safetensors")
    again = load("again/checkpoints/last.ckpt")
    assert torch.equal(again.latent_avg, sam.latent_avg)
    exact = sam.pretrained_encoder.body[0].res_layer[1].weight  # float16 came from psp.safetensors already
    assert torch.equal(again.pretrained_encoder.body[0].res_layer[1].weight, exact)
    assert not torch.equal(again.encoder.styles[0].linear.weight, torch.zeros(32, 16))


LIVES = [
    "~data.train", "+data.train={_target_:tests.data.faces.Lives,count:6}", "+data.truths=true", "data.keep=null",
    "data.batch_size=2", "trainer.max_steps=4",
]  # fmt: skip
FINISHING = [
    "+experiment=lifespan_finishing", *SHORT, *small("encoder", "pretrained_encoder"), NETWORKS[1], *LIVES,
]  # fmt: skip


def test_the_generator_is_finished_after_an_ageing_led_by_true_portraits_and_resumes_to_the_bit(here):
    start(*INVERSION)
    start(*AGING, *LIVES)
    start(*FINISHING, "output=whole")
    start(*FINISHING, "output=again", "resume=whole/checkpoints/step_0000002.ckpt")
    whole, again = (torch.load(here / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "again"))
    assert whole["global_step"] == again["global_step"] == 4
    assert_identical(whole["state_dict"], again["state_dict"], "state_dict")
    assert (here / "whole/panels/step_0000002.png").is_file()

    sam, made = load("whole/checkpoints/last.ckpt"), load("whole/weights/generator_ema.safetensors")
    aged = load("runs/lifespan_aging/checkpoints/last.ckpt")
    name = "conv1.conv.weight"
    assert isinstance(sam, SAM)
    torch.testing.assert_close(sam.decoder.state_dict()[name], made.state_dict()[name], rtol=1e-3, atol=1e-3)  # float16
    assert not torch.equal(whole["state_dict"][f"sam.decoder.{name}"], sam.decoder.state_dict()[name])
    for part in ("encoder", "pretrained_encoder"):  # of ageing the averaged one
        assert_identical(getattr(sam, part).state_dict(), getattr(aged, part).state_dict(), part)
    torch.testing.assert_close(made.latent_avg, aged.latent_avg[0])


def test_a_resumed_inversion_ends_as_the_uninterrupted_one(here):
    start(*INVERSION, "output=whole", "trainer.max_steps=4")
    start(*INVERSION, "output=again", "trainer.max_steps=4", "resume=whole/checkpoints/step_0000002.ckpt")
    whole, again = (torch.load(here / name / "checkpoints/last.ckpt", weights_only=True) for name in ("whole", "again"))
    assert whole["global_step"] == again["global_step"] == 4
    assert_identical(whole["state_dict"], again["state_dict"], "state_dict")
    assert_identical(whole["optimizer_states"], again["optimizer_states"], "optimizer")


def test_a_checkpoint_is_a_whole_psp_with_the_averaged_encoder(here):
    start(*INVERSION, "optimizer.lr=0.1", "module.warmup_steps=0")
    psp = load("runs/lifespan_inversion/checkpoints/last.ckpt")
    assert isinstance(psp, PSP)
    generator = load("runs/lifespan_gan/weights/generator_ema.safetensors")
    assert torch.equal(psp.latent_avg, generator.latent_avg.expand(8, -1))
    averaged = load("runs/lifespan_inversion/weights/psp.safetensors").state_dict()
    raw = load("runs/lifespan_inversion/weights/encoder.safetensors").state_dict()
    name = "styles.0.linear.weight"
    assert not torch.equal(averaged[name], raw[name])
    torch.testing.assert_close(psp.encoder.state_dict()[name], averaged[name], rtol=1e-3, atol=1e-4)  # float16
    start(*INVERSION, "output=further", "model.checkpoint=runs/lifespan_inversion/checkpoints/last.ckpt")
    assert (here / "further/weights/psp.safetensors").is_file()


def test_an_inversion_goes_on_from_weights_alone(here):
    start(*INVERSION)
    start(
        *INVERSION, "output=further", "start=runs/lifespan_inversion/weights", "trainer.max_steps=1", "optimizer.lr=0.0"
    )
    for name in ("psp", "encoder"):
        before, after = (
            load(folder / f"weights/{name}.safetensors")
            for folder in (here / "runs/lifespan_inversion", here / "further")
        )
        for key, tensor in before.named_parameters():
            torch.testing.assert_close(after.get_parameter(key), tensor, rtol=1e-3, atol=1e-3)


def test_psps_recipe_runs_small_from_the_authors_kinds_of_files(here):
    torch.manual_seed(1)
    trunk = GradualStyleEncoder(3, **ENCODER).state_dict()
    trunk = {name: tensor for name, tensor in trunk.items() if name.startswith(("input_layer.", "body."))}
    torch.save(trunk | {"output_layer.0.weight": torch.ones(3)}, "arcface.pth")
    generator = Generator(**GENERATOR)
    torch.save({"g_ema": generator.state_dict(), "latent_avg": torch.randn(32)}, "stylegan2.pt")
    networks = [
        "losses.identity_net.weights=random", "losses.perceptual_net.weights=random",
        "losses.identity_net.network._target_=sam_age.models.identity.FaceEmbedder",
        *(f"+losses.identity_net.network.{k}={str(v).replace(' ', '')}" for k, v in JUDGE.items()),
        "losses.perceptual_net.network._target_=sam_age.models.perceptual.FeatureDistance",
        "+losses.perceptual_net.network.network=${losses.identity_net.network}",
    ]  # fmt: skip
    files = ["weights.arcface=arcface.pth", "weights.stylegan2=stylegan2.pt", "optimizer.lr=0.0"]
    start("+experiment=ffhq_inversion", *SHORT, *small("encoder"), *networks, *files)
    encoder = load("runs/ffhq_inversion/weights/psp.safetensors").state_dict()
    assert torch.allclose(
        encoder["body.3.res_layer.1.weight"], trunk["body.3.res_layer.1.weight"], rtol=1e-3
    )  # float16


def test_psps_recipe_is_the_papers() -> None:
    with initialize_config_dir(str(CONF_DIR), version_base="1.3"):
        run = OmegaConf.to_container(compose("train", overrides=["+experiment=ffhq_inversion"]), resolve=True)
    assert run["optimizer"]["_target_"].endswith("Ranger")
    assert (run["optimizer"]["lr"], run["data"]["batch_size"], run["data"]["flip"]) == (1e-4, 8, 0.5)
    assert (run["model"]["encoder"]["in_channels"], run["model"]["encoder"]["n_styles"]) == (3, 18)
    assert run["model"]["decoder"]["size"] == 1024
    losses = run["losses"]
    assert (losses["l2"], losses["lpips"], losses["identity"], losses["w_norm"]) == (1.0, 0.8, 0.1, 0.005)
    nets = [losses[name]["network"]["_target_"].rsplit(".", 1)[-1] for name in ("identity_net", "perceptual_net")]
    assert nets == ["ArcFace", "LPIPS"]
    assert (run["module"]["sampled_share"], run["module"]["ema_decay"], run["module"]["cosine"]) == (0.0, None, False)


@pytest.mark.parametrize("name", ["psp_256_small", "sam_256_small"])
def test_the_small_models_fit_the_small_gan_and_have_the_size_that_their_files_say(name) -> None:
    path = CONF_DIR / f"model/{name}.yaml"
    model = OmegaConf.load(path)
    gan = build(OmegaConf.load(CONF_DIR / "model/stylegan2_256_small.yaml").generator)
    assert build(model.decoder).config == gan.config  # so that lifespan_gan's file fits
    said = re.search(r"encoders? of (\d+\.\d) M", path.read_text())
    for part in [model.encoder, *([model.pretrained_encoder] if "pretrained_encoder" in model else [])]:
        encoder = build(part)
        assert encoder.config["n_styles"] == gan.n_latent
        assert sum(p.numel() for p in encoder.parameters()) / 1e6 == pytest.approx(float(said[1]), abs=0.1)


def test_a_missing_stage_is_named_and_nothing_is_written(here):
    (here / "runs/lifespan_gan/weights/generator_ema.safetensors").unlink()
    with pytest.raises(InputError, match=r"no file at runs.lifespan_gan.weights.generator_ema\.safetensors"):
        start(*INVERSION)
    with pytest.raises(InputError, match=r"no file at runs.lifespan_inversion.weights.psp\.safetensors"):
        start(*AGING)
    assert not (here / "runs/lifespan_inversion").exists()
