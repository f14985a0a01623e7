"""The exercises of the lesson on flow attention, in its order: what is asked, the answer, and how one gets it wrong."""

from .attention import WEIGH
from .competition import COMPETE, RUNNING_COMPETE
from .flows import CONSERVE, FLOWS
from .kernel import POUR
from .linear import LINEAR_FLOWS
from .stream import STREAM

EXERCISES = (
    FLOWS,
    CONSERVE,
    COMPETE,
    WEIGH,
    LINEAR_FLOWS,
    RUNNING_COMPETE,
    STREAM,
    POUR,
)
