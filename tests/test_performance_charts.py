"""tools/performance_charts.py: what was measured is what is drawn."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.tool import load_tool

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def tool():
    return load_tool("performance_charts")


def layer(name: str, way: str, form: str, ms: float, gflop: float = 100.0, mb: float = 50.0) -> dict:
    return {"layer": name, "way": way, "form": form, "ms": ms, "GFLOP": gflop, "MB": mb}


GENERATOR = {
    "benchmark": "generator",
    "machine": {"gpu": "a GPU", "processor": "a processor"},
    "dtype": "bfloat16",
    "batch": 16,
    "peaks": {"bfloat16_flops": 800e12, "memory_bytes": 4e12},
    "layers": [
        layer("0: 8->8 4->4", "forward", "cudnn", 0.5),
        layer("1: 8->8 4->8", "forward", "transposed", 0.4, gflop=40.0),
        layer("1: 8->8 4->8", "forward", "folded", 0.25),
        layer("0: 8->8 4->4", "back", "cudnn", 1.0),
    ],
}
STEP = {
    "benchmark": "training_step",
    "batch": 16,
    "precision": "bf16-mixed",
    "graphed": True,
    "flops_per_second": 3e14,
    "step_seconds": {"median": 0.1},
}


def inference(pixels: int, seconds: dict[int, float]) -> dict:
    cases = [{"faces": 1, "ages": ages, "seconds_on_device": {"median": value}} for ages, value in seconds.items()]
    return {"benchmark": "inference", "size": "1024", "pixels": pixels, "cases": cases}


def test_layers_stand_where_their_operations_and_bytes_put_them_and_the_roof_where_the_peaks_do(tool) -> None:
    (axes,) = tool.roofline([GENERATOR, STEP]).axes
    forward, all_forward, back, _ = axes.collections
    # 100 GFLOP over 50 MB: 2000 a byte; in 0.5 ms 200 TFLOP/s. Of the second layer the form that took 0.25 ms, but the
    # 40 GFLOP that suffice: 160 TFLOP/s
    np.testing.assert_allclose(forward.get_offsets(), [(2000, 200), (800, 160)])
    np.testing.assert_allclose(back.get_offsets(), [(2000, 100)])
    np.testing.assert_allclose(all_forward.get_offsets(), [(1400, 140 / 0.75)])
    x, roof = axes.lines[0].get_data()
    np.testing.assert_allclose(roof, np.minimum(800, x * 4))
    assert axes.lines[1].get_ydata()[0] == pytest.approx(300)  # the step: a level


def test_growth_tells_what_the_first_costs_and_each_more(tool) -> None:
    steps = [STEP | {"batch": batch, "step_seconds": {"median": 0.02 + 0.005 * batch}} for batch in (16, 1, 4)]
    ages = [inference(pixels, {n: 0.1 + 0.25 * n for n in (1, 4, 11)}) for pixels in (256, 1024)]
    by_batch, by_ages, by_pixels = tool.growth([*steps, *ages]).axes
    assert list(by_batch.lines[0].get_xdata()) == [1, 4, 16]
    assert by_batch.lines[0].get_label().endswith("20 ms and 5 ms each")
    assert by_ages.lines[0].get_label().endswith("100 ms and 250 ms each")
    assert list(by_pixels.lines[0].get_xdata()) == [256, 1024]


def test_the_program_writes_an_svg_and_says_what_it_cannot_read(tool, tmp_path: Path) -> None:
    results = tmp_path / "generator.json"
    results.write_text(json.dumps(GENERATOR))
    tool.main(["roofline", str(results), "--output", str(tmp_path / "img/roof.svg")])
    assert (tmp_path / "img/roof.svg").read_text().count("<svg") == 1
    (tmp_path / "broken.json").write_text("")
    for name, said in (("broken.json", "holds no JSON"), ("missing.json", "No such file")):
        with pytest.raises(SystemExit, match=said):
            tool.main(["growth", str(tmp_path / name), "--output", str(tmp_path / "a.svg")])
    with pytest.raises(SystemExit, match="nothing grows"):
        tool.main(["growth", str(results), "--output", str(tmp_path / "a.svg")])
