"""What the exercises' probes are drawn from."""

import torch


def features(g, n, d, dtype):
    """φ of n tokens: (n d) numbers between 0 and 1, unlike enough that no sum looks like a mean."""
    return torch.sigmoid(1.5 * torch.randn(n, d, generator=g, dtype=dtype))


def capacities(g, n_sinks, n_sources, dtype):
    """(L S) positive numbers; some are ten times others, so that the flows differ from node to node."""
    return torch.exp(torch.randn(n_sinks, n_sources, generator=g, dtype=dtype))
