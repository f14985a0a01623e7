"""The puzzles of the kernel lab, easy to hard: a kernel to write each, judged by its result and by what it moves."""

from .chunk import LINEAR_ATTENTION
from .first import SCALE_ROWS, TRANSPOSE
from .products import MATMUL
from .rows import ONLINE_SOFTMAX, SOFTMAX
from .sums import COLUMN_SUMS

EXERCISES = (SCALE_ROWS, TRANSPOSE, SOFTMAX, COLUMN_SUMS, ONLINE_SOFTMAX, MATMUL, LINEAR_ATTENTION)
