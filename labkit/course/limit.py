"""A limit on the time that Python code may take in this process, in a script as in a Jupyter kernel."""

import _thread
import signal
import threading
from types import FrameType
from typing import Any

AGAIN = 0.5  # seconds until the next try, for code that swallowed the first


class TimeUp(BaseException):
    """Time ran out. No Exception: `except Exception` in the code that takes too long must not stop it."""


class TimeLimit:
    """`with TimeLimit(10): …` raises TimeUp in the code inside when it takes longer; Ctrl-C stays KeyboardInterrupt.

    An alarm thread sends the main thread the signal of Ctrl-C, and the handler here knows which of the two it is.
    Only the main thread receives signals: in another one there is no limit. Compiled code is stopped when it returns.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.inside = self.expired = False
        self.left = threading.Event()
        self.alarm = threading.Thread(target=self._ring, daemon=True)

    def __enter__(self) -> "TimeLimit":
        if threading.current_thread() is threading.main_thread():
            self.handler = signal.signal(signal.SIGINT, self._interrupted)
            self.alarm.start()
            self.inside = True  # last: an exception from here on reaches __exit__
        return self

    def __exit__(self, *_: Any) -> None:
        if self.inside:
            self.inside = False  # from here on a late alarm does nothing
            self.left.set()
            try:
                self.alarm.join()
            finally:
                signal.signal(signal.SIGINT, signal.SIG_DFL if self.handler is None else self.handler)

    def _ring(self) -> None:
        wait = self.seconds
        while not self.left.wait(wait):
            self.expired, wait = True, AGAIN
            if hasattr(signal, "pthread_kill"):  # wakes a sleeping main thread too
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
            else:
                _thread.interrupt_main()

    def _interrupted(self, signum: int, frame: FrameType | None) -> None:
        if frame is not None and frame.f_code in DOORS:  # raised there, it would leave this handler in place for good
            return
        if not self.expired:
            signal.default_int_handler(signum, frame)
        if self.inside:
            raise TimeUp


DOORS = (TimeLimit.__enter__.__code__, TimeLimit.__exit__.__code__)
