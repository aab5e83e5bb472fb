"""What Triton's compiler makes of the fused kernels and of Ranger's, which takes no GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton")

COMPILE = """
import re
from triton import compile
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sam_age.models.fused import kernels
from sam_age.models.fused.launch import tiles
from sam_age.optim.one_pass import BLOCK, _update

def binary(kernel, sixteens=True, **constants):
    maps = {"convolved", "made", "of_made", "of_convolved", "spread", "of_spread"}
    maps |= {"gradient"}
    numbers = {"bits", "channels", "step", "noise_step", "side", "chunk", "programs", "rows", "length"}
    factors = {"g0", "g1", "g2", "g3", "kept", "rate", "to_gradient", "to_square", "eps", "alpha"}
    names, types, facts = kernel.arg_names, {}, {}
    for i, name in enumerate(names):
        if name in constants: types[name] = "constexpr"
        elif name in numbers: types[name] = "i32"
        elif name in factors: types[name] = "fp32"
        else: types[name] = "*bf16" if name in maps else "*fp32"
        if types[name][0] == "*" or name in ("step", "length") or (name == "channels" and sixteens):
            facts[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, types, {(names.index(k),): v for k, v in constants.items()}, facts)
    return compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 4}).asm["ptx"]

def both_ways(width, **given):
    given["BLOCK_C"] = width
    block, back = ({"BLOCK_P": n // width, **given} for n in (tiles.elements, tiles.back_elements))
    walk, walk_back = ({"BLOCK_W": n // width, **given} for n in (tiles.filtered, tiles.back_filtered))
    yield binary(kernels.epilogue, PHASES=False, WRITES=True, STYLED=True, RGB=True, SKIP=True, **block)
    yield binary(kernels.epilogue, PHASES=True, WRITES=True, STYLED=True, RGB=False, SKIP=False, **block)
    back |= {"STAGES": tiles.stages}
    yield binary(kernels.epilogue_backward, PHASES=False, GIVEN=True, STYLED=True, RGB=True, **back)
    for phases in (True, False):
        yield binary(kernels.fir_epilogue, PHASES=phases, **walk)
        yield binary(kernels.fir_epilogue_backward, PHASES=phases, **walk_back)

for text in (
    *both_ways(32),
    # 24 channels, as at the 256 pixels of model=stylegan2_256_small: three blocks of eight
    *both_ways(8, sixteens=False),
    binary(_update, ADAPTS=True, MEETS=True, CENTRED=True, BLOCK=BLOCK),
):
    assert not re.search(r"(ld|st)\\.global\\.b16", text), "maps are not read in 16 bytes"
    assert re.search(r"st\\.global\\.v4\\.b32", text)
print("compiled")
"""


@pytest.mark.slow
def test_the_kernels_compile_for_a_hopper_gpu_and_read_16_bytes_at_a_time(tmp_path: Path) -> None:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TRITON_INTERPRET": "0"}
    script = tmp_path / "program.py"
    script.write_text(COMPILE, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(script)],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.stdout.strip() == "compiled", done.stderr[-2000:]
