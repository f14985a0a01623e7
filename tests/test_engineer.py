"""Who wants one function: it loads in no time, brings nothing along, and can be copied out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_house import MECHANISMS

from labkit.launch import ROOT

HEAVY = {"plotly", "IPython", "ipywidgets", "anywidget", "ipykernel", "jupyterlab", "jupyter_client", "jupyter_core"}
HEAVY |= {"jupytext", "nbformat", "nbclient", "matplotlib", "pandas", "transformers", "typer", "rich", "playwright"}
IMPORT = """
import sys, time, torch
before = set(sys.modules)
begin = time.perf_counter()
import labkit.{room}
print(time.perf_counter() - begin)
print(*sorted({{name.split(".")[0] for name in set(sys.modules) - before}}))
"""


@pytest.mark.parametrize("room", sorted(MECHANISMS))
def test_a_mechanism_loads_in_no_time_and_brings_no_pictures_or_notebooks(room, record_property):
    seconds = []
    while len(seconds) < 3 and not (seconds and min(seconds) <= 1.5):  # a busy machine gets three tries
        program = [sys.executable, "-c", IMPORT.format(room=room)]
        first, second = subprocess.run(program, capture_output=True, text=True, check=True).stdout.splitlines()
        seconds.append(float(first))
        assert not set(second.split()) & HEAVY
    record_property(f"labkit.{room}, seconds to import after torch", round(min(seconds), 2))
    assert min(seconds) <= 1.5


QKV = "q = k = v = torch.nn.functional.normalize(torch.randn(1, 2, 8, 4, dtype=torch.float64), dim=-1); "
USES = {  # what is copied, and two ways to one answer
    "attention_sinks/forms": QKV + "a, b = (f(q, k, v, n_sink=1, window=3) for f in (m.masked, m.banded))",
    "delta_rule/forms": QKV + "beta = torch.rand(1, 2, 8, dtype=q.dtype); "
    "a, b = (f(q, k, v, beta)[0] for f in (m.recurrent, m.chunkwise))",
    "factual_recall/forms": "a = m.rank(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([2])); b = torch.tensor([1])",
    "flow_attention/forms": QKV + "a, b = (f(q, k, v) for f in (m.pairwise, m.linear))",
    "flow_attention/causal": QKV + "a, b = (f(q, k, v)[0] for f in (m.recurrent, m.chunkwise))",
    "linear_attention/forms": QKV + "a, b = (f(q, k, v)[0] for f in (m.recurrent, m.chunkwise))",
    "linear_interpreters/forms": "z = torch.randn(2, 3); a, b = m.piecewise(z).affine(z), torch.relu(z)",
}


def test_the_forms_run_where_there_is_no_labkit(tmp_path: Path):
    """One process for all rooms: importing torch is what takes long."""
    assert {use.split("/")[0] for use in USES} == MECHANISMS
    (tmp_path / "kernels").mkdir()
    shutil.copy(ROOT / "kernels" / "inputs.py", tmp_path / "kernels")
    program = [
        "import importlib.util, sys, torch",
        # an editable install makes labkit, and the other kernels, importable from everywhere
        "sys.meta_path[:] = [finder for finder in sys.meta_path if 'editable' not in repr(finder)]",
        "assert not importlib.util.find_spec('labkit') and not importlib.util.find_spec('kernels.attention_sinks')",
    ]
    for use, code in USES.items():
        room, module = use.split("/")
        (tmp_path / f"my_{room}").mkdir(exist_ok=True)
        shutil.copy(ROOT / "labkit" / f"{use}.py", tmp_path / f"my_{room}")
        program += [f"import my_{room}.{module} as m", code, "torch.testing.assert_close(a, b)"]
    env = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-P", "-c", "\n".join(program)], env=env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
