"""The exercises of the lesson on factual recall, in its order: what is asked, the answer, and how one gets it wrong."""

from .ablation import KAPPA
from .directions import DIRECTION
from .heads import SWAP_HEAD
from .kernel import LENS_BLOCK
from .lens import LOGIT_LENS
from .pattern import KNOCK_OUT
from .ranks import RANK_OF
from .regression import FIT_MLP
from .shares import ATTRIBUTE
from .variance import R2

EXERCISES = (
    RANK_OF,
    LOGIT_LENS,
    DIRECTION,
    ATTRIBUTE,
    SWAP_HEAD,
    KNOCK_OUT,
    FIT_MLP,
    R2,
    KAPPA,
    LENS_BLOCK,
)
