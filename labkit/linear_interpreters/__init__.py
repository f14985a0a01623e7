"""Linear interpreters: a convolutional network is an affine map around each image, whose rows and columns can be read.

Paper: Navarrete Michelini, Liu, Lu, Jiang 2019, "A Tour of Convolutional Networks Guided by Linear Interpreters"
(arXiv 1908.05168). `interpret(net, x)` gives an `Interpreter`: A(u) = F u + r. `forms` holds the units it freezes.
"""

from .calls import Refused
from .interpreter import Interpreter, interpret

__all__ = ["Interpreter", "Refused", "interpret"]
