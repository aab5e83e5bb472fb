"""A GPU that is full is recognised, whoever says so."""

from __future__ import annotations

import pytest
import torch

from sam_age.modules.memory import ran_out


@pytest.mark.parametrize("words", [
    "CUDA out of memory. Tried to allocate 2.00 GiB.",
    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
    "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
    "Triton Error [CUDA]: out of memory",
    "CUDA driver error: CUDA_ERROR_OUT_OF_MEMORY",
])  # fmt: skip
def test_libraries_say_it_in_words_of_their_own(words: str) -> None:
    assert ran_out(RuntimeError(words))


def test_an_error_on_the_way_out_does_not_hide_it() -> None:
    def recording() -> None:
        try:
            raise torch.OutOfMemoryError("Tried to allocate 2.00 GiB.")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")

    with pytest.raises(RuntimeError, match="capture") as raised:
        recording()
    assert ran_out(raised.value)


def test_other_errors_are_not_taken_for_it() -> None:
    assert not ran_out(RuntimeError("CUDA error: an illegal memory access was encountered"))
    assert not ran_out(RuntimeError("out of resource: shared memory, Required: 262144, Hardware limit: 232448"))
