"""The way over a real connection: a slow index on this machine shows progress, cut-off transfers and interruptions."""

import http.server
import os
import subprocess
import threading
import time

import pytest
from asset_shop import refused, sha256
from asset_shop import shop_fixture as shop_fixture

from labkit import assets, assets_wheel

NOISE = os.urandom(2_000_000)  # does not compress: the wheel is as large


@pytest.fixture
def index(shop, monkeypatch):
    """An index with one wheel, sent in `parts` pieces, one each `pause` seconds, the first `sent` of them."""
    wheel = shop.offer(files={"tiny/noise.bin": NOISE})

    class Index(http.server.BaseHTTPRequestHandler):
        parts, pause, sent = 10, 0.0, 10

        def do_GET(self) -> None:
            page = f'<a href="/{wheel.name}">{wheel.name}</a>'.encode()
            body = wheel.read_bytes() if self.path.endswith(".whl") else page
            self.send_response(200)
            self.send_header("Content-Type", "text/html" if body == page else "application/octet-stream")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if body == page:
                self.wfile.write(page)
                return
            size = len(body) // self.parts + 1
            for i in range(self.sent):
                self.wfile.write(body[i * size : (i + 1) * size])
                time.sleep(self.pause)

        def log_message(self, *_) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Index)
    server.handle_error = lambda *_: None  # a client that hangs up is what some tests are about
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("PIP_NO_INDEX", "PIP_FIND_LINKS"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    monkeypatch.setenv("PIP_RETRIES", "0")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    yield Index
    server.shutdown()
    server.server_close()


def test_progress_grows_while_the_wheel_comes_in(index, shop, tmp_path):
    index.pause = 0.2
    e, seen = assets.entry("tiny"), []
    folder = tmp_path / "work"
    folder.mkdir()
    assets_wheel.download(e, folder, tmp_path / "none", seen.append)
    between = {size for size in seen if 100_000 < size < e.wheel_size}
    assert seen == sorted(seen) and len(between) >= 3
    assert sha256((folder / e.wheel).read_bytes()) == e.wheel_sha256


def test_a_terminal_shows_a_bar_and_no_line(index, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert assets.path("tiny").read_bytes() == NOISE
    out = capsys.readouterr().out
    assert "tiny: fetching 2.0 MB, once" in out and "2.0/2.0 MB" in out and "labkit:" not in out


def test_a_transfer_that_breaks_off_is_refused_and_the_next_try_succeeds(index, shop):
    index.sent = 6
    message = refused(lambda: assets.path("tiny"), "tiny")
    assert "cut short" in message or "not enough bytes" in message, "older and newer pips differ in who notices"
    assert shop.left() == []
    index.sent = index.parts
    assert assets.path("tiny").read_bytes() == NOISE


def test_an_interrupted_download_takes_its_pip_with_it(index, shop, monkeypatch):
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    started, popen = [], subprocess.Popen
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kw: started.append(popen(*args, **kw)) or started[-1])
    index.pause = 3.0  # half a minute in all
    monkeypatch.setattr("rich.progress.Progress.update", lambda *_, completed: interrupt(completed))
    with pytest.raises(KeyboardInterrupt):
        assets.path("tiny")
    assert [pip.poll() is None for pip in started] == [False] and shop.left() == []
