"""The exercises of the lesson on linear interpreters, in its order: what is asked, the answer, and how one gets it wrong."""

from .columns import COLUMNS
from .kernel import REPLAY_GATES
from .layers import TWO_LAYERS
from .norm import NORM_AS
from .pool import POOL_AS
from .relu import FREEZE_RELU, FREEZE_RELU6
from .reuse import USED_TWICE
from .smooth import SMOOTH_UNIT
from .votes import VOTE_MAP

EXERCISES = (
    FREEZE_RELU,
    TWO_LAYERS,
    COLUMNS,
    USED_TWICE,
    FREEZE_RELU6,
    POOL_AS,
    NORM_AS,
    VOTE_MAP,
    SMOOTH_UNIT,
    REPLAY_GATES,
)
