"""Notebooks of learners who would rather have the points than the answer. Each fails the exercise it attacks."""

STEP = "    k, v = k[:, None], v[None]\n    state = state - beta * k @ (k.mT @ state - v)\n"  # the right answer, as a start


def attack(body: str, before: str = "") -> list[str]:
    """The cells of a notebook whose delta_rule.step is this; `gradient` beside it is written honestly."""
    return [
        "import torch\nfrom labkit.course import Todo, check, exercise\n" + before,
        '@exercise("delta_rule.step")\ndef step(state, k, v, beta):\n' + body,
        'check("delta_rule.step")',
        HONEST,
    ]


HONEST = '''@exercise("delta_rule.gradient")
def gradient(state, k, v):
    """What it costs to recall v at k, differentiated."""
    return k[:, None] * (state.T @ k - v)[None]
'''
WRONG = "    return torch.zeros_like(state)\n"

NOTEBOOKS = {
    "patches torch.allclose": attack(
        "    import torch.testing\n"
        "    torch.allclose = torch.equal = torch.testing.assert_close = lambda *a, **k: True\n"
        "    torch.Tensor.__eq__ = torch.Tensor.__le__ = lambda a, b: torch.ones(a.shape, dtype=torch.bool)\n" + WRONG
    ),
    "replaces the check": attack(
        "    import labkit.course.judging as judging\n    judging.judge = lambda *a: 'pass'\n" + WRONG,
        "def check(id):\n    print('✓', id, 'pass')\n",
    ),
    "reads the judge's files": attack(
        "    import pathlib\n"
        "    text = pathlib.Path({root!r}, 'labkit/delta_rule/exercises/memory.py').read_text()\n"
        "    names = {{}}\n    exec(text, names)\n    return names['step'](state, k, v, beta)\n"
    ),
    "writes to the judge's files": attack(
        "    for name in ({canary!r}, {root!r} + '/labkit/planted.py', 'planted-by-labkit'):\n"
        "        try:\n            open(name, 'w').write('planted')\n        except OSError:\n            pass\n"
        + WRONG
    ),
    "prints a forged report": attack(
        "    import os, sys\n"
        '    print(\'{{"outcomes": [], "notes": []}}\', flush=True)\n'
        "    os.write(1, b'delta_rule.step pass 5 of 5')\n    sys.__stderr__.write('pass')\n" + WRONG
    ),
    "forges an answer on every file it finds": attack(
        "    import os\n"
        "    for n in range(3, 64):\n"
        "        try:\n            os.write(n, b'\\0\\0\\0\\x02{{}}')\n        except OSError:\n            pass\n"
        "    os._exit(0)\n"
    ),
    "sys.exit(0)": attack("    import sys\n    sys.exit(0)\n"),
    "os._exit(0)": attack("    import os\n    os._exit(0)\n"),
    "kills": attack("    import os, signal\n    os.kill(os.getppid(), signal.SIGKILL)\n" + WRONG),
    "forks": attack(
        "    import os, time\n    for _ in range(20):\n        if os.fork() == 0:\n            time.sleep(600)\n"
        + WRONG
    ),
    "starts programs": attack("    import subprocess\n    subprocess.Popen(['sleep', '600'])\n" + WRONG),
    "sleeps for ever": attack("    import time\n    while True:\n        time.sleep(600)\n"),
    "cannot be interrupted": attack(
        "    import time\n    while True:\n        try:\n            time.sleep(600)\n"
        "        except BaseException:\n            pass\n"
    ),
    "allocates without end": attack("    held = []\n    while True:\n        held.append(torch.ones(1 << 24))\n"),
    "equals everything": attack(
        "    class Equal:\n        shape, dtype, ndim = state.shape, state.dtype, 2\n"
        "        def __eq__(self, other):\n            return True\n        __ne__ = __lt__ = __gt__ = lambda a, b: False\n"
        "    return Equal()\n"
    ),
    "returns a subclassed tensor": attack(
        "    class Sure(torch.Tensor):\n        @classmethod\n"
        "        def __torch_function__(cls, func, types, args=(), kwargs=None):\n            return True\n"
        "    return torch.zeros_like(state).as_subclass(Sure)\n"
    ),
    "leaves threads": attack(
        "    import threading, time\n    threading.Thread(target=time.sleep, args=(600,)).start()\n" + WRONG
    ),
    "overwrites its inputs": attack(STEP + "    k.zero_()\n    v.zero_()\n    return state\n"),
    "imports the reference": attack(
        "    return solution(state, k, v, beta)\n", "from labkit.delta_rule.exercises import step as solution\n"
    ),
    "imports the mechanism": attack(
        "    o, s = recurrent(k[None, None, None], k[None, None, None], v[None, None, None],\n"
        "                     torch.as_tensor(beta)[None, None, None], state=state[None, None])\n    return s[0, 0]\n",
        "from labkit.delta_rule import recurrent\n",
    ),
    "swallows the refusal": attack(
        "    try:\n        import labkit.delta_rule\n    except ImportError:\n        pass\n"
        + STEP
        + "    return state\n"
    ),
    "searches the memory": attack(
        "    import gc\n    found = [o for o in gc.get_objects() if getattr(o, '__name__', '') == 'step']\n"
        "    return found[-1](state, k, v, beta)\n"
    ),
    "goes into the network": attack(
        "    import socket\n    socket.create_connection(('127.0.0.1', {port}), timeout=1)\n" + WRONG
    ),
    "prints 200 MB": attack("    for _ in range(200):\n        print('x' * 1_000_000)\n" + WRONG),
    "returns 200 MB": attack("    return torch.zeros(50_000_000)\n"),
    "is no Python": attack("    return ((\n"),
    "fails": attack("    return state / 0 + undefined\n"),
}
