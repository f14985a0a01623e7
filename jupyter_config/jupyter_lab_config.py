"""The lab's JupyterLab settings; `labkit lab` loads them through JUPYTER_CONFIG_PATH and leaves the user's alone."""

import sys

from jupyter_core.paths import jupyter_runtime_dir

c = get_config()  # type: ignore[name-defined]

c.LabApp.default_url = "/lab/tree/00_start_here.ipynb"

# Nothing asks for the network: no news, no look for updates, no list of extensions.
c.LabApp.news_url = None
c.LabApp.check_for_updates_class = "jupyterlab.handlers.announcements.NeverCheckForUpdate"
c.LabApp.extension_manager = "readonly"

# Only this machine can reach the server, and it wants a token: being root (a container, a classroom image) is no risk.
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.allow_root = True

# A file removed in the browser is removed, not moved to a trash that a container does not have.
c.FileContentsManager.delete_to_trash = False

# Sockets in a private folder instead of open ports between server and kernel; a socket's path may have 107 characters.
if sys.platform == "linux" and len(jupyter_runtime_dir()) < 50:
    c.KernelManager.transport = "ipc"

# The terminal shows the address and what goes wrong, not every request.
c.Application.log_level = "WARN"

# The browser is given the address itself: one from a sandboxed package cannot read the file that would hold it.
c.ServerApp.use_redirect_file = False
