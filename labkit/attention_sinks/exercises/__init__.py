"""The exercises of the lesson on attention sinks, in its order: what is asked, the answer, and how one gets it wrong."""

from .cache import BELIEVED_DISTANCES, KEEP_SLOTS, WINDOW_MASK
from .kernel import BLOCKS_TO_VISIT, ONLINE_SOFTMAX
from .softmax import PERPLEXITY, SOFTMAX_WITH_SINK

EXERCISES = (
    WINDOW_MASK,
    PERPLEXITY,
    KEEP_SLOTS,
    BELIEVED_DISTANCES,
    SOFTMAX_WITH_SINK,
    ONLINE_SOFTMAX,
    BLOCKS_TO_VISIT,
)
