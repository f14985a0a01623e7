"""The exercises of the lesson on the delta rule, in its order: what is asked, the answer, and how one gets it wrong."""

from .chunks import CHUNK_STEP, CONTINUED
from .kernel import READ_CHUNK
from .memory import GRADIENT, LARGEST_BETA, STEP
from .wy import ERRORS, HOUSEHOLDER_WEIGHTS

EXERCISES = (
    STEP,
    GRADIENT,
    LARGEST_BETA,
    HOUSEHOLDER_WEIGHTS,
    ERRORS,
    CHUNK_STEP,
    CONTINUED,
    READ_CHUNK,
)
