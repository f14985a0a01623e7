"""Exercises on many tokens without a state between them: a product of reflections as a sum, and all errors at once."""

import torch

from labkit.course import Exercise, Mistake

from .draw import tokens


def householder_weights(k, beta):
    w = torch.zeros_like(k)
    for r in range(len(k)):
        w[r] = beta[r] * (k[r] - (k[:r] @ k[r]) @ w[:r])
    return w


def householder_weights_by_solving(k, beta):
    written = beta[:, None] * k
    overlap = (written @ k.T).tril(-1)
    return torch.linalg.solve_triangular(torch.eye(len(k)).to(k) + overlap, written, upper=False)


def householder_weights_by_products(k, beta):
    product, w = torch.eye(k.shape[1]).to(k), []
    for k_r, beta_r in zip(k, beta, strict=True):
        w.append(beta_r * product.T @ k_r)
        product = product - torch.outer(k_r, w[-1])
    return torch.stack(w)


def householder_weights_backwards(k, beta):
    return householder_weights(k.flip(0), beta.flip(0)).flip(0)


def householder_weights_without_overlap(k, beta):
    return beta[:, None] * k


def householder_weights_of_keys(k, beta):
    return torch.stack([beta[r] * (k[r] - (k[:r] @ k[r]) @ k[:r]) for r in range(len(k))])


def householder_weights_half_scaled(k, beta):
    w = torch.zeros_like(k)
    for r in range(len(k)):
        w[r] = beta[r] * k[r] - (k[:r] @ k[r]) @ w[:r]
    return w


def householder_weights_with_beta_twice(k, beta):
    w = torch.zeros_like(k)
    for r in range(len(k)):
        w[r] = beta[r] * (k[r] - (beta[:r] * (k[:r] @ k[r])) @ w[:r])
    return w


def householder_weights_of_itself(k, beta):
    written = beta[:, None] * k
    return torch.linalg.solve_triangular(torch.eye(len(k)).to(k) + (written @ k.T).tril(), written, upper=False)


def householder_weights_added(k, beta):
    w = torch.zeros_like(k)
    for r in range(len(k)):
        w[r] = beta[r] * (k[r] + (k[:r] @ k[r]) @ w[:r])
    return w


def householder_weights_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 2, torch.float64), (4, 3, torch.float32), (7, 5, torch.float64)]
    drawn = [tokens(g, t, d, 1, dtype) for t, d, dtype in shapes]
    return [(k, beta) for _, k, _, beta in drawn]


HOUSEHOLDER_WEIGHTS = Exercise(
    id="delta_rule.householder_weights",
    reference=householder_weights,
    alternatives=[householder_weights_by_solving, householder_weights_by_products],
    probes=householder_weights_probes,
    mistakes=[
        Mistake(
            "the product the other way round",
            householder_weights_backwards,
            "a later token's factor stands on the left, so that w of a token depends on those before it",
        ),
        Mistake(
            "the product of keys that do not overlap",
            householder_weights_without_overlap,
            "w_r = β_r k_r only where k_r is orthogonal to every key before it",
        ),
        Mistake(
            "the sum over keys in place of weights",
            householder_weights_of_keys,
            "P_{r−1} = I − Σ k_i w_iᵀ, so what is multiplied by k_r · k_i is w_i",
        ),
        Mistake(
            "the weight whose overlap has no beta", householder_weights_half_scaled, "β_r scales all of P_{r−1}ᵀ k_r"
        ),
        Mistake("the sum with beta in it twice", householder_weights_with_beta_twice, "w_i has its β_i in it already"),
        Mistake(
            "the sum that includes the token itself",
            householder_weights_of_itself,
            "only the tokens before r count, i < r",
        ),
        Mistake(
            "the overlap with the wrong sign",
            householder_weights_added,
            "(I − β k kᵀ) P takes away what P already holds",
        ),
    ],
    hints=[
        "Put P_{r−1} = I − Σ_{i<r} k_i w_iᵀ into (I − β_r k_r k_rᵀ) P_{r−1}. Which new term k_r (…)ᵀ appears?",
        "w_r = β_r (k_r − Σ_{i<r} (k_r · k_i) w_i)",
        "for each r: dot products of k_r with the keys before it; these times the rows of w so far; k_r minus that; times β_r",
    ],
    minutes=15,
    difficulty=3,
    lines=4,
)


def errors(k, v, beta):
    overlap = (k @ k.T * beta).tril(-1)
    eye = torch.eye(len(k)).to(k)
    return torch.linalg.solve_triangular(eye + overlap, v, upper=False)


def errors_by_loop(k, v, beta):
    state, found = k.new_zeros(k.shape[1], v.shape[1]), []
    for k_t, v_t, beta_t in zip(k, v, beta, strict=True):
        found.append(v_t - state.T @ k_t)
        state = state + beta_t * torch.outer(k_t, found[-1])
    return torch.stack(found)


def errors_by_inverse(k, v, beta):
    overlap = torch.einsum("id,jd,j->ij", k, k, beta).tril(-1)
    return torch.linalg.inv(torch.eye(len(k)).to(k) + overlap) @ v


def errors_of_itself(k, v, beta):
    return torch.linalg.solve_triangular(torch.eye(len(k)).to(k) + (k @ k.T * beta).tril(), v, upper=False)


def errors_with_beta_of_the_reader(k, v, beta):
    overlap = (beta[:, None] * k @ k.T).tril(-1)
    return torch.linalg.solve_triangular(torch.eye(len(k)).to(k) + overlap, v, upper=False)


def errors_without_beta(k, v, beta):
    return torch.linalg.solve_triangular(torch.eye(len(k)).to(k) + (k @ k.T).tril(-1), v, upper=False)


def errors_of_the_future(k, v, beta):
    return torch.linalg.solve_triangular(torch.eye(len(k)).to(k) + (k @ k.T * beta).triu(1), v, upper=True)


def errors_written(k, v, beta):
    return beta[:, None] * errors(k, v, beta)


def errors_added(k, v, beta):
    return torch.linalg.solve_triangular(torch.eye(len(k)).to(k) - (k @ k.T * beta).tril(-1), v, upper=False)


def errors_of_a_memory_that_adds(k, v, beta):
    return v - (k @ k.T * beta).tril(-1) @ v


def errors_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 2, 4, torch.float64), (5, 4, 3, torch.float32), (8, 5, 2, torch.float64)]
    return [tokens(g, *shape)[1:] for shape in shapes]


ERRORS = Exercise(
    id="delta_rule.errors",
    reference=errors,
    alternatives=[errors_by_loop, errors_by_inverse],
    probes=errors_probes,
    mistakes=[
        Mistake(
            "the system with the diagonal left in",
            errors_of_itself,
            "a token's error is measured before it is written, so only j < i",
        ),
        Mistake(
            "the system with beta on its rows",
            errors_with_beta_of_the_reader,
            "row i reads and column j has written, so it is column j that carries β_j",
        ),
        Mistake("the system without beta", errors_without_beta, "token j has written β_j k_j e_jᵀ"),
        Mistake(
            "the system of the future", errors_of_the_future, "a token's error depends on the tokens before it, j < i"
        ),
        Mistake(
            "what is written, not the error",
            errors_written,
            "β e goes into the memory; asked for is e",
        ),
        Mistake(
            "the system with the wrong sign",
            errors_added,
            "e_i + Σ_{j<i} … e_j = v_i, so the sum is on the side of e_i",
        ),
        Mistake(
            "the error of a memory that only adds",
            errors_of_a_memory_that_adds,
            "token j has written β_j e_j and not β_j v_j, so the errors stand on both sides",
        ),
    ],
    hints=[
        "What does the memory hold under k_i just before token i, written as a sum over the tokens j < i?",
        "e_i = v_i − Σ_{j<i} (k_i · k_j) β_j e_j,  so  (I + tril(K Kᵀ diag β, −1)) E = V",
        "all dot products of keys; column j times beta[j]; keep what is below the diagonal; add I; solve_triangular with v",
    ],
    minutes=15,
    difficulty=3,
    lines=3,
)
