"""What the exercises' probes are drawn from."""

import torch


def tokens(g, t, d_k, d_v, dtype):
    """q, k, v and beta of t tokens; keys of length about 1 and beta in (0, 1.5) keep the memory tame."""
    q, k = (torch.randn(t, d_k, generator=g, dtype=dtype) * d_k**-0.5 for _ in range(2))
    v = torch.randn(t, d_v, generator=g, dtype=dtype)
    return q, k, v, 0.1 + 1.4 * torch.rand(t, generator=g, dtype=dtype)
