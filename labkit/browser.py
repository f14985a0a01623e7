"""A real Chromium on a real JupyterLab: what `labkit build` takes pictures with and the browser tests drive."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

WIDTH, HEIGHT = 1280, 720
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
NONE_FOUND = (
    "no Chromium was found: install one (Debian: apt-get install chromium; elsewhere: python -m playwright install "
    "chromium) or name it in LABKIT_CHROMIUM"
)


def chromium() -> str | None:
    """The path of a Chromium or Chrome: LABKIT_CHROMIUM, one on the PATH, or Playwright's own; None without one."""
    if named := os.environ.get("LABKIT_CHROMIUM"):
        return shutil.which(named)
    for name in ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"):
        if found := shutil.which(name):
            return found
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


@contextmanager
def browser() -> Iterator[Any]:
    """A Chromium for the block, as a Playwright browser."""
    from playwright.sync_api import sync_playwright

    if (executable := chromium()) is None:
        raise RuntimeError(NONE_FOUND)
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        yield running
        running.close()


@contextmanager
def server(work: Path) -> Iterator[str]:
    """`labkit lab` itself on the learner's folder `work`, for the block; yields its address.

    Every proxy setting points nowhere, so a lesson that reaches for the network fails instead of quietly passing.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"), "http://127.0.0.1:9")
    env = os.environ | nowhere | {"LABKIT_WORK": str(work), "PIP_NO_INDEX": "1", "NO_PROXY": "127.0.0.1"}
    command = [sys.executable, "-m", "labkit", "lab", "--no-browser", f"--port={port}", "--ServerApp.port_retries=0"]
    command += ["--IdentityProvider.token=", "--expose-app-in-browser"]
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        try:
            _wait_until_up(f"http://127.0.0.1:{port}/api/status", process, log)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(30)


def _wait_until_up(address: str, process: subprocess.Popen, log: Any) -> None:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        try:
            direct.open(address, timeout=2).close()
            return
        except OSError:
            time.sleep(0.1)
    log.seek(0)
    raise RuntimeError(f"`labkit lab` did not come up; the end of its output:\n{log.read()[-3000:]}")


def open_notebook(page: Any, address: str, name: str) -> None:
    """Open `name` in a clean JupyterLab workspace and wait for its kernel."""
    page.goto(f"{address}/lab/tree/{name}?reset")
    page.wait_for_selector("text=/Python 3.* \\| Idle/", timeout=90_000)


def run_all(page: Any) -> None:
    """Run every cell of the open notebook; returns when the last has run or one has failed."""
    page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_selector("text=/Python 3.* \\| Idle/", timeout=120_000)


def notebook(page: Any) -> dict:
    """The open notebook as JupyterLab holds it, outputs included."""
    return page.evaluate("() => window.jupyterapp.shell.currentWidget.content.model.toJSON()")


def run_in_kernel(page: Any, code: str) -> str:
    """Run code in the open notebook's kernel, outside its cells; returns what the code prints."""
    return page.evaluate(_RUN_IN_KERNEL, code)


_RUN_IN_KERNEL = """async code => {
  const kernel = window.jupyterapp.shell.currentWidget.sessionContext.session.kernel;
  const future = kernel.requestExecute({code, store_history: false});
  let printed = '';
  future.onIOPub = message => { if (message.header.msg_type === 'stream') printed += message.content.text; };
  const reply = await future.done;
  if (reply.content.status !== 'ok') throw new Error(reply.content.ename + ': ' + reply.content.evalue);
  return printed;
}"""


def settled(page: Any) -> None:
    """Wait until every plotly figure on the page is drawn and nothing has changed for half a second."""
    drawn = "() => [...document.querySelectorAll('.js-plotly-plot')].every(plot => plot.querySelector('.main-svg'))"
    page.wait_for_function(drawn, timeout=60_000)
    page.evaluate("""() => new Promise(done => {
      let timer = setTimeout(done, 500);
      const seen = new MutationObserver(() => { clearTimeout(timer); timer = setTimeout(done, 500); });
      seen.observe(document.querySelector('.jp-Notebook'), {subtree: true, childList: true, attributes: true});
      setTimeout(done, 15000);
    })""")


if __name__ == "__main__":
    sys.exit(0 if chromium() else NONE_FOUND)
