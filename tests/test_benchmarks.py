"""The benchmarks run, and measure what they say."""

from __future__ import annotations

import doctest
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from benchmarks import measure, networks
from tests.golden import manifest

ROOT = Path(__file__).resolve().parents[1]


def run(program: list[str], **environment: str) -> subprocess.CompletedProcess:
    """A process of its own, from the root of the repository, on one core."""
    done = subprocess.run(
        [sys.executable, *program],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done


def test_the_examples_in_the_helpers_are_true():
    assert doctest.testmod(measure).failed == 0


def test_peak_memory_counts_what_was_held_and_keeps_it_once_freed():
    program = (
        "from benchmarks.measure import peak_memory\n"
        "before = peak_memory()\n"
        "held = bytearray(b'x') * 300_000_000\n"
        "del held\n"
        "print(before, peak_memory())\n"
    )
    before, after = map(int, run(["-c", program]).stdout.split())
    assert after - before == pytest.approx(300e6, rel=0.02)


def test_a_child_does_not_inherit_the_peak_memory_of_its_parent():
    held = bytearray(b"x") * 600_000_000
    del held
    program = "from benchmarks.measure import peak_memory; print(peak_memory())"
    assert int(run(["-c", program]).stdout) < 300_000_000 < measure.peak_memory()


def test_the_model_that_is_measured_has_the_tensors_of_the_authors_file():
    with torch.device("meta"):
        state = networks.random_sam("1024").state_dict()
    official = {name: shape for name, (shape, _) in manifest("sam1024")["state_dict"].items()}
    ours = {name: list(tensor.shape) for name, tensor in state.items() if name != "latent_avg"}
    assert ours == official


def test_the_objective_that_is_measured_has_the_papers_weights():
    losses = networks.random_losses("tiny")
    # METHOD: L2 0.25, crop 1, LPIPS 0.1, crop 0.6, identity 0.1, age 5, w-norm 0.005
    assert losses.weights == {
        "l2": 0.25,
        "l2_aging": 0.25,
        "l2_crop": 1.0,
        "lpips": 0.1,
        "lpips_aging": 0.1,
        "lpips_crop": 0.6,
        "identity": 0.1,
        "age": 5.0,
        "w_norm": 0.005,
        "code": 0.0,  # not the paper's
    }
    assert losses.weighted_identity


def test_stages_are_timed_while_the_block_runs_and_the_pipeline_is_left_as_it_was():
    from benchmarks.inference_cpu import stage_times
    from sam_age.pipeline import AgingPipeline

    pipeline = AgingPipeline(networks.random_sam("tiny"))
    before = dict(pipeline.steps)
    face = Image.new("RGB", (256, 256))
    with stage_times(pipeline.steps) as stages:
        pipeline.edit([face], [30.0])
    assert {name: len(values) for name, values in stages.items()} == {"encode": 1, "edit": 1, "synthesize": 0}
    assert all(seconds > 0 for values in stages.values() for seconds in values)
    assert pipeline.steps == before


@pytest.mark.slow
def test_the_inference_benchmark_measures_loading_and_ageing():
    arguments = ["--size", "tiny", "--ages", "2", "--repeats", "1", "--load-repeats", "1", "--threads", "1"]
    result = json.loads(run(["-m", "benchmarks.inference_cpu", *arguments]).stdout)
    assert set(result["loading"]) == {"authors", "float32", "float16", "authors, torch.load"}
    # bytes a number: 4 and 2; the JSON metadata and the 1-D tensors left at 4 come on top
    assert 4 < result["loading"]["float32"]["file_bytes"] / result["parameters"] < 4.3
    assert 2 < result["loading"]["float16"]["file_bytes"] / result["parameters"] < 2.3
    aging = result["aging"]["2"]
    assert aging["seconds"]["count"] == 1
    stages = [stage["median"] for stage in aging["stage_seconds"].values()]
    assert 0 < sum(stages) <= aging["seconds"]["median"]  # one call: its parts are within the whole


def test_the_work_that_is_counted_is_that_of_the_published_networks():
    from benchmarks.inference import _empty_faces, _one_output, flop

    sam = networks.random_sam("1024")
    giga = 2e9  # a multiplication and an addition
    assert flop(sam, lambda model: model.encode(_empty_faces(1))) / giga == pytest.approx(72, rel=0.02)
    assert flop(sam, _one_output) / giga == pytest.approx(72 + 74, rel=0.02)  # METHOD: encoder and generator


@pytest.mark.slow
def test_the_loader_benchmark_reads_what_it_says():
    result = json.loads(run(["-m", "benchmarks.loader", "jpeg-256", "--workers", "0", "--seconds", "0.3"]).stdout)
    found = result["kinds"]["jpeg-256"]
    slack = 1e-6
    assert found["rounds"]["min"] - slack <= found["faces_per_second"] <= found["rounds"]["max"] + slack
    assert found["file_bytes"] < 256 * 256  # a JPEG is far from the 3 bytes a pixel of raw pictures
    assert "jpeg-256" in run(["-m", "sam_age.cli.bench", "loader", "--help"]).stdout


def test_sam_bench_knows_every_benchmark_and_says_so():
    from sam_age.cli import bench

    programs = {p.stem for p in bench.FOLDER.glob("*.py") if "def main(" in p.read_text()} - {"reference"}
    assert {program for program, _ in bench.BENCHMARKS.values()} <= programs
    done = subprocess.run([sys.executable, "-m", "sam_age.cli.bench", "nonsense"], capture_output=True, check=False)
    assert done.returncode == 2
    assert b"inference" in done.stderr


def test_peaks_are_those_of_a_known_amount_of_work(monkeypatch):
    from benchmarks import peaks

    monkeypatch.setattr(peaks, "best", lambda work, device, repeats=10: 0.5)
    peaks.measured.cache_clear()
    found = peaks.measured("cpu")
    peaks.measured.cache_clear()
    assert found["float32_flops"] == 2 * 2048**3 / 0.5
    assert found["memory_bytes"] == 2 * 2**27 / 0.5  # read and written


# ---- the authors' code: here, a few lines that answer to the same names ----------------------------------------------

CHECKOUT = {
    "configs/paths_config.py": "model_paths = {}\n",
    "criteria/lpips.py": """
import torch
from PIL import Image
import torchvision
def features():
    network = torchvision.models.alexnet(True)  # the first argument asks for a download
    linear = torch.hub.load_state_dict_from_url("https://nowhere.invalid/alex.pth")
    assert [w.shape[1] for w in linear.values()] == [64, 192, 384, 256, 256]
    return network
""",
    "models/psp.py": """
import time
import torch
from PIL import Image
class pSp(torch.nn.Module):
    def __init__(self, opts):
        super().__init__()
        state = torch.load(opts.checkpoint_path, map_location="cpu")
        assert state["latent_avg"].shape[0] == 2 * opts.output_size.bit_length() - 4
        assert opts.start_from_encoded_w_plus and opts.input_nc == 4
        self.encoder = torch.nn.Conv2d(4, 3, 1)
    def forward(self, x, randomize_noise=True, resize=True):
        time.sleep(0.01)
        return self.encoder(x)
""",
    "training/coach_aging.py": """
import time
import torch
from PIL import Image
from configs.paths_config import model_paths
from criteria.lpips import features
from models.psp import pSp
class Coach:
    def __init__(self, opts):
        self.opts, self.global_step = opts, 0
        self.net, self.lpips = pSp(opts), features()
        assert torch.load(model_paths["ir_se50"])
        assert "state_dict" in torch.load(model_paths["age_predictor"])
        self.optimizer = torch.optim.SGD(self.net.encoder.parameters(), lr=opts.learning_rate)
        self.train_dataset, _ = self.configure_datasets()
    def train(self):
        loader = torch.utils.data.DataLoader(self.train_dataset, batch_size=self.opts.batch_size)
        while self.global_step < self.opts.max_steps:
            for x, y in loader:
                assert len(x) == self.opts.batch_size
                self.optimizer.zero_grad()
                self.net(torch.cat([x, x[:, :1]], 1)).mean().backward()
                self.optimizer.step()
                self.global_step += 1
""",
}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    for name, text in CHECKOUT.items():
        path = tmp_path / "SAM" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "SAM"


@pytest.mark.slow
@pytest.mark.parametrize("what", ["step", "inference"])
def test_a_reference_checkout_is_timed_with_files_it_can_read(checkout, what):
    options = ["--batch", "2", "--ages", "3", "--repeats", "2", "--warmup", "1", "--size", "tiny", "--device", "cpu"]
    found = json.loads(run(["-m", "benchmarks.reference", str(checkout), what, *options]).stdout)
    # each pass of this one takes 10 ms: a step has one, inference one for each of the three ages
    if what == "step":
        assert found["step_seconds"]["min"] >= 0.01
        assert found["images_per_second"] == pytest.approx(2 / found["step_seconds"]["median"], rel=0.5)
    else:
        assert found["seconds"]["min"] >= 0.03
        assert found["outputs_per_second"] == pytest.approx(6 / found["seconds"]["median"], rel=0.5)


@pytest.mark.slow
def test_the_reference_step_is_timed_on_the_same_machine_and_stands_beside_ours(checkout):
    done = run(["-W", "ignore", "-m", "benchmarks.training_step", *STEP, "--no-peaks", "--reference", str(checkout)])
    result = json.loads(done.stdout)
    assert result["reference"]["step_seconds"]["count"] == 2  # as many as ours
    ours, theirs = result["images_per_second"], result["reference"]["images_per_second"]
    heads, _, cells = ([cell.strip() for cell in line.split("|")] for line in done.stderr.splitlines()[-3:])
    told = dict(zip(heads, cells, strict=True))
    assert float(told["reference images/s"]) == pytest.approx(theirs, rel=0.01)
    assert float(told["times as fast"]) == pytest.approx(ours / theirs, rel=0.01)


def test_what_is_no_checkout_is_refused(tmp_path):
    program = ["-m", "benchmarks.reference", str(tmp_path), "step"]
    done = subprocess.run([sys.executable, *program], cwd=ROOT, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode != 0
    assert "models/psp.py" in done.stderr


WITHOUT = (
    "import sys, importlib.abc\n"
    "class Absent(importlib.abc.MetaPathFinder):\n"
    "    names = {'hydra', 'omegaconf', 'kornia', 'lpips', 'facenet_pytorch', 'wandb', 'pytorch_optimizer'}\n"
    "    def find_spec(self, name, path=None, target=None):\n"
    "        if name.partition('.')[0] in self.names:\n"
    "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
    "sys.meta_path.insert(0, Absent())\n"
    "sys.argv = ['training_step', *sys.argv[1:]]\n"
    "from benchmarks.training_step import main\n"
    "main()\n"
)
STEP = ["--size", "tiny", "--device", "cpu", "--batch", "2", "--steps", "2", "--warmup", "1"]


@pytest.mark.slow
def test_the_training_benchmark_runs_with_torch_and_lightning_alone():
    done = run(["-W", "ignore", "-c", WITHOUT, *STEP])
    result = json.loads(done.stdout)
    assert result["optimizer"] == "ranger"
    assert result["step_seconds"]["count"] == 2
    # two steps of two images, and the time between them
    assert result["images_per_second"] == pytest.approx(2 / result["step_seconds"]["median"], rel=0.5)


@pytest.mark.slow
def test_the_host_reads_nothing_back_in_a_step_but_its_own_draw():
    result = json.loads(run(["-W", "ignore", "-m", "benchmarks.training_step", *STEP, "--steps", "1"]).stdout)
    assert result["host_reads"] == ["aging.py: draw"]  # a number of a generator that lives on the host


def test_the_generators_path_is_asked_for_while_a_step_runs(monkeypatch, capsys):
    """Once Lightning has finished, the module is on the CPU, in float32: a GPU's run would be called plain."""
    from benchmarks import training_step

    asked = []

    def reason_against(generator, w_plus, maps):
        asked.append(torch.is_autocast_enabled("cpu"))
        return None

    monkeypatch.setattr(training_step, "reason_against", reason_against)
    options = [*STEP, "--no-peaks", "--precision", "bf16-mixed", "--no-sync-check"]
    result = training_step.measure(training_step._parser().parse_args(options))
    assert asked == [True]
    assert result["generator_path"] == "fused"


def test_memory_is_held_against_the_goal_as_allocated_and_as_reserved():
    from benchmarks import training_step

    result = {"size": "1024", "device": "cuda", "batch": 16, "images_per_second": 90.0}
    found = training_step.goals(result | {"memory_bytes": 10 * 2**30, "memory_reserved_bytes": 18 * 2**30})
    assert [row["measured"] for row in found] == [90.0, 10.0, 18.0]
    assert [row["aim"] for row in found] == ["160", "14", "14"]


EVERYTHING = {  # a program that measures, one that breaks, one that hangs with a child of its own, and one more
    "good": "print('{\"it\": 1}'); import sys; print('a table', file=sys.stderr)",
    "broken": "print('{'); raise ValueError('no engine')",
    "hanging": "import subprocess, sys; print(subprocess.Popen(['sleep', '60']).pid, file=sys.stderr, flush=True);"
    "import time; time.sleep(60)",
    "late": "print('{}')",
}


def test_a_part_that_fails_or_hangs_or_has_no_time_left_is_noted_and_the_others_are_kept(tmp_path, monkeypatch, capsys):
    from benchmarks import everything

    seconds = {"hanging": 1, "late": 1000}  # a hanging one is given twice that
    parts = [everything.Part(name, name, (), seconds.get(name, 10)) for name in EVERYTHING]
    monkeypatch.setattr(everything, "PARTS", (*parts, everything.Part("last", "good", (), 10)))
    in_time = everything.in_time

    def instead(command, *rest):
        assert command[-2:] == ["--size", "tiny"]
        return in_time([sys.executable, "-c", EVERYTHING[command[4]]], *rest)

    monkeypatch.setattr(everything, "in_time", instead)
    options = [str(tmp_path), "--minutes", "1", "--size", "tiny"]
    given = everything._parser().parse_args(options)
    given.parts = [*EVERYTHING, "last"]
    found = {row["part"]: row["outcome"] for row in everything.measure(given)["parts"]}
    assert found["good"] == found["last"] == "measured"
    assert found["broken"] == "failed with exit code 1: ValueError: no engine"
    assert found["hanging"] == "stopped after 2 s"
    assert "1000 are expected" in found["late"]
    assert json.loads((tmp_path / "good.json").read_text()) == {"it": 1}
    assert (tmp_path / "good.txt").read_text() == "a table\n"
    assert {path.name for path in tmp_path.glob("*.*")} == {
        "summary.json", "good.json", "good.txt", "last.json", "last.txt", "broken.txt", "hanging.txt"
    }  # fmt: skip
    assert json.loads((tmp_path / "summary.json").read_text())["parts"][-1]["part"] == "last"
    child = Path("/proc", (tmp_path / "hanging.txt").read_text().strip(), "status")
    assert not child.is_file() or "zombie" in child.read_text()


def test_everything_begins_with_what_is_wanted_most_and_every_part_is_a_program_with_such_options():
    import importlib

    from benchmarks import everything

    assert everything.NAMES[:4] == ["step-16", "step-6", "inference-graphed", "inference"]
    for part in everything.PARTS:
        program = importlib.import_module(f"benchmarks.{part.program}")
        options = [*part.options, *(["--size", "tiny"] if part.sized else [])]
        if part.program == "scaling":  # which hands on what it does not know
            _, options = program._parser().parse_known_args(options)
            program = importlib.import_module("benchmarks.training_step")
        if hasattr(program, "_parser"):
            program._parser().parse_args([*options, *(["--seconds", "9"] if part.limited else [])])


def test_everything_leaves_out_what_needs_more_gpus_and_tells_a_part_how_long_it_has(tmp_path, monkeypatch):
    from benchmarks import everything

    asked = []
    monkeypatch.setattr(everything, "in_time", lambda command, limit, *rest: asked.append(command[4:]) or 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    given = everything._parser().parse_args([str(tmp_path), "--minutes", "5", "--parts", "scaling", "agreement"])
    rows = everything.measure(given)["parts"]
    assert [row["outcome"] for row in rows] == ["left out: it needs 2 GPUs", "measured"]
    assert asked == [["agreement", "--size", "1024", "--seconds", "260"]]  # the five minutes, less 40
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert everything.measure(given)["parts"][0]["outcome"] == "measured"
    assert asked[1][0] == "scaling"


@pytest.mark.slow
def test_everything_measures_the_parts_asked_for(tmp_path):
    folder = tmp_path / "measured"
    run(["-m", "sam_age.cli.bench", "all", str(folder), "--size", "tiny", "--parts", "growth-batch-1"])
    found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
    assert set(found) == {"growth-batch-1", "summary"}
    assert (found["growth-batch-1"]["size"], found["growth-batch-1"]["batch"]) == ("tiny", 1)
    assert "| images/s |" in (folder / "growth-batch-1.txt").read_text()


def test_peaks_of_memory_are_those_of_the_timed_steps(monkeypatch):
    from types import SimpleNamespace

    from benchmarks.training_step import TimedStep

    done = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append(("emptied", step.number)))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda: done.append(("reset", step.number)))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 7)
    step = SimpleNamespace(warmup=12, memory_before=None, number=0)
    for step.number in range(15):
        TimedStep.set_memory_apart(step, step.number)
    assert done == [("emptied", 10), ("reset", 12)]  # one step of each of the two kinds in between
    assert step.memory_before == 7


def test_the_generators_arithmetic_is_what_others_count():
    from benchmarks.layers import costs, made_up

    costs = costs(made_up("1024", "meta"), 1, 2, "transposed")
    assert sum(cost.flops for cost in costs) == pytest.approx(2 * 74e9, rel=0.01)


@pytest.mark.slow
def test_the_generator_benchmark_runs_on_a_cpu_where_nothing_is_fused():
    arguments = ["--size", "tiny", "--device", "cpu", "--batch", "1", "--inference-batch", "1", "--repeats", "1"]
    result = json.loads(run(["-m", "benchmarks.generator", *arguments]).stdout)
    assert [row["whole"] for row in result["whole"]] == ["forward", "both ways"]
    assert result["notes"] == []


def test_a_gans_step_is_made_of_its_parts():
    from benchmarks import gan_step

    given = gan_step._parser().parse_args(["--pixels", "8", "--batch", "4", "--device", "cpu", "--repeats", "2"])
    (found,) = gan_step.measure(given)["sizes"]
    assert set(found["parts_seconds"]) == set(gan_step.PARTS)
    parts = {name: part["median"] for name, part in found["parts_seconds"].items()}
    whole = parts["tell_apart"] + parts["deceive"] + parts["regularise_scores"] / 16 + parts["regularise_paths"] / 8
    assert found["step_seconds"] == pytest.approx(whole)
    assert found["faces_per_second"] == pytest.approx(4 / whole)
    assert found["flops_per_second"] == pytest.approx(found["flops_a_step"] / whole)


def test_arithmetic_is_counted_the_same_whether_it_is_done_or_not():
    """The way back of a convolution is two more of its size, and a gradient of a gradient is done by as many again."""
    from benchmarks import gan_step
    from benchmarks.flops import counted

    layer, x = torch.nn.Conv2d(3, 5, 3, padding=1), torch.rand(2, 3, 8, 8, requires_grad=True)
    once = 2 * 2 * 5 * 3 * 9 * 64
    assert counted(lambda: layer(x)) == once
    assert counted(lambda: layer(x).square().sum().backward()) == 3 * once
    module, faces, not_done = gan_step.made_up(16), torch.rand(4, 3, 16, 16), gan_step.flops_of(16, 4)
    for name in gan_step.PARTS:
        assert not_done[name] == counted(gan_step.part(module, faces, name)) > 0


def test_a_gans_parts_come_as_often_as_in_the_experiment():
    from benchmarks import gan_step
    from benchmarks.networks import config

    module = config("module", "gan") | config("experiment", "lifespan_gan")["module"]
    assert gan_step.PARTS["regularise_scores"] == module["r1_every"]
    assert gan_step.PARTS["regularise_paths"] == module["path_every"]
    assert gan_step.made_up(8).path_share == module["path_share"]


def test_scaling_compares_several_devices_with_the_first_of_them_alone(monkeypatch):
    from benchmarks import scaling

    speeds = {2: 152.0, 4: 280.0}
    asked = []

    def step(count, options):
        asked.append((count, options))
        return {"batch": 16, "memory_reserved_bytes": 20e9, "alone": timed(80.0 / (count / 2), 1)} | timed(
            speeds[count], count
        )

    def timed(rate, devices):
        found = {"step_seconds": {"median": 0.2}, "images_per_second": rate, "flops_per_second": 2e12 * rate}
        return found | {"share_of_peak": 2e12 * rate / devices / 8e14}

    monkeypatch.setattr(scaling, "step", step)
    rows = scaling.measure([4, 1, 2], ["--fast"])["rows"]
    assert asked == [(2, ["--fast"]), (4, ["--fast"])]
    assert [row["devices"] for row in rows] == [1, 2, 4]
    assert [row["times one"] for row in rows] == pytest.approx([1.0, 1.9, 7.0])  # each beside the same run's
    assert [row["TFLOP/s of each"] for row in rows] == pytest.approx([160, 152, 140])
    assert [row["of peak"] for row in rows] == ["20%", "19%", "18%"]  # 17.5 %


def test_scaling_ends_when_a_process_fails_that_the_others_wait_for(monkeypatch, tmp_path):
    from benchmarks import scaling

    program = tmp_path / "benchmarks" / "training_step.py"
    program.parent.mkdir()
    (program.parent / "__init__.py").touch()
    program.write_text("import os, time\nif os.environ['LOCAL_RANK'] == '1': raise SystemExit(3)\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scaling, "PATIENCE", 1)
    with pytest.raises(RuntimeError, match=r"exit codes None, 3"):
        scaling.step(2, [])


@pytest.mark.slow
def test_two_processes_take_steps_together_and_then_the_first_alone():
    done = run(["-W", "ignore", "-m", "benchmarks.scaling", "--devices", "2", *STEP])
    result = json.loads(done.stdout)
    found = result["runs"]["2"]
    assert (found["devices"], found["step_seconds"]["count"], found["alone"]["step_seconds"]["count"]) == (2, 2, 2)
    # each process has a batch of two
    for timed, batch in ((found, 4), (found["alone"], 2)):
        assert timed["images_per_second"] == pytest.approx(batch / timed["step_seconds"]["median"], rel=0.7)
    assert "| times one |" in done.stderr
    assert "the first device alone: " in done.stderr  # told when it is known, whatever comes of the rest


def test_a_step_by_itself_exchanges_nothing(monkeypatch):
    from benchmarks.training_step import TimedStep
    from sam_age.modules.aging import AgingModule

    exchanged = []
    monkeypatch.setattr(AgingModule, "exchange", lambda self, network, cast: exchanged.append(network))
    step = TimedStep.__new__(TimedStep)
    torch.nn.Module.__init__(step)
    for step.is_alone in (False, True):
        step.exchange("the encoder")
    assert exchanged == ["the encoder"]


def test_timed_steps_come_in_the_papers_share_and_warm_ups_of_both_kinds():
    from benchmarks.training_step import TimedStep

    step = TimedStep.__new__(TimedStep)
    torch.nn.Module.__init__(step)
    step.steps_begun, step.warmup = 0, 4
    kinds = [step.is_aging() for _ in range(16)]
    assert sorted(kinds[:4]) == [False, False, True, True]
    assert sum(kinds[4:]) == 8  # of twelve


AGREEMENT = ["-W", "ignore", "-m", "benchmarks.agreement", "--size", "tiny", "--device", "cpu", "--batch", "1"]


@pytest.mark.slow
def test_agreement_compares_three_runs_from_one_start(tmp_path):
    done = run([*AGREEMENT, "--steps", "4", "--svg", str(tmp_path / "curves.svg")])
    result = json.loads(done.stdout)
    plain, chance, fast = (result["losses"][name] for name in ("plain float32", "plain float32, other draws", "fast"))
    assert len(plain) == len(chance) == len(fast) == result["steps"] == 4
    assert plain != chance  # other ages
    assert plain != fast  # bfloat16
    assert fast == pytest.approx(plain, rel=0.02)  # of the same faces and ages, from the same weights
    assert "fast of chance" in done.stderr
    assert (tmp_path / "curves.svg").read_text().count("<polyline") == 3


@pytest.mark.slow
def test_agreement_that_runs_out_of_time_compares_the_steps_that_all_runs_have_taken():
    done = run([*AGREEMENT, "--steps", "3000", "--seconds", "1", "--one-by-one"])
    result = json.loads(done.stdout)
    assert 0 < result["steps"] < 3000
    assert {len(terms["total"]) for terms in result["terms"].values()} == {result["steps"]}
    assert all(seconds < 40 for seconds in result["seconds"].values())
    assert f"{result['steps']} steps, which all runs have taken, of 3000" in done.stderr


SLEEPS = "import time; time.sleep(60)"


def test_agreement_ends_all_runs_when_one_fails():
    from benchmarks import agreement

    sleeping, failing = (subprocess.Popen([sys.executable, "-c", code]) for code in (SLEEPS, "raise SystemExit(3)"))
    try:
        with pytest.raises(RuntimeError, match=r"'fast' failed with exit code 3.*--one-by-one"):
            agreement.wait_for({"plain": sleeping, "fast": failing})
    finally:
        sleeping.kill()
        sleeping.wait()


def test_agreement_spreads_its_runs_over_the_gpus_it_may_use(monkeypatch):
    from benchmarks import agreement

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert agreement.visible_gpus() == ["3", "5"]
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert agreement.visible_gpus() == ["0"]
