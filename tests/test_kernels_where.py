"""Where kernels run, and what is refused there."""

import subprocess
import sys

import pytest
import torch

import kernels

triton, tl = kernels.need()
interpreted = pytest.mark.skipif(kernels.WHERE == "compiled", reason="a GPU computes bfloat16 right")


@triton.jit
def plus(x, y, out):
    tl.store(out, tl.load(x) + tl.load(y))


@interpreted
def test_bfloat16_is_wrong_in_this_interpreter_which_is_why_it_is_refused():
    one, out = torch.ones(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)
    plus[(1,)](one, one, out)
    assert out.item() > 1e38  # 1 + 1; when this is 2, kernels.refuse can let bfloat16 through


@interpreted
def test_bfloat16_is_refused_where_the_interpreter_would_be_wrong():
    q = torch.zeros(1, 1, 3, 16, dtype=torch.bfloat16)
    with pytest.raises(TypeError, match=r"q: bfloat16 is silently wrong .*1 \+ 1"):
        kernels.attention_sinks.sink_attention(q, q, q, n_sink=0, window=1)


PLATFORMS = {
    "where Triton does not exist": (
        "import sys; sys.modules['triton'] = None; import kernels; print(kernels.WHERE); kernels.attention_sinks",
        "nowhere",
        "ImportError: Triton is not available on this platform: use the banded form",
    ),
    "where Triton was imported first": (
        "import os; os.environ['TRITON_INTERPRET'] = '0'; import triton; os.environ['TRITON_INTERPRET'] = '1'; "
        "import kernels; print(kernels.WHERE); kernels.attention_sinks",
        "interpreted",
        "ImportError: triton was imported before kernels, which then run compiled",
    ),
}


@pytest.mark.parametrize("place", PLATFORMS)
def test_a_kernel_that_cannot_run_says_so_and_importing_kernels_still_works(place):
    program, printed, said = PLATFORMS[place]
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == printed
    assert done.stderr.strip().splitlines()[-1].startswith(said)
