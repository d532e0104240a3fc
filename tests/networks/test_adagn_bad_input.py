"""What the page "adagn" refuses, and how it says so."""

import torch

import guided_diffusion_edu as gde
from bad_input import T, X, cases, is_refused
from guided_diffusion_edu.layers import AddedNorm, AttentionBlock, ResBlock

TABLE = [  # (what, said, call)
    (
        "timestep_embedding of odd size",
        "dim must be even and above 0, got 7",
        lambda: gde.timestep_embedding(T, 7),
    ),
    (
        "timestep_embedding of size 0",
        "dim must be even and above 0, got 0",
        lambda: gde.timestep_embedding(T, 0),
    ),
    (
        "timestep_embedding of a matrix",
        r"t must have shape \(B,\), got \(2, 2\)",
        lambda: gde.timestep_embedding(X, 8),
    ),
    (
        "AdaGN with groups that do not divide",
        "channels must be a multiple of groups = 32, got 8",
        lambda: gde.AdaGN(8, 16),
    ),
    (
        "AdaGN with h of other channels",
        r"h must have shape \(B, 8, \.\.\.\), got \(2, 4, 2, 2\)",
        lambda: gde.AdaGN(8, 16, 4)(torch.zeros(2, 4, 2, 2), torch.zeros(2, 16)),
    ),
    (
        "AdaGN with emb of another size",
        r"emb must have shape \(2, 16\), got \(2, 3\)",
        lambda: gde.AdaGN(8, 16, 4)(torch.zeros(2, 8, 2, 2), torch.zeros(2, 3)),
    ),
    (
        "AddedNorm with groups that do not divide",
        "channels must be a multiple of groups",
        lambda: AddedNorm(8, 16),
    ),
    (
        "AddedNorm with emb of another size",
        "emb must have shape",
        lambda: AddedNorm(8, 16, 4)(torch.zeros(2, 8, 2, 2), torch.zeros(1, 16)),
    ),
    (
        "AttentionBlock with heads that do not divide",
        "channels must be a multiple of head_channels = 64, got 8",
        lambda: AttentionBlock(8),
    ),
    (
        "AttentionBlock of other channels",
        r"h must have shape \(B, 8, \.\.\.\)",
        lambda: AttentionBlock(8, 8, 4)(torch.zeros(2, 4, 2, 2)),
    ),
    (
        "ResBlock with groups that do not divide",
        "channels must be a multiple of groups",
        lambda: ResBlock(8, 16),
    ),
    (
        "ResBlock of other channels",
        r"h must have shape \(B, 8, \.\.\.\)",
        lambda: ResBlock(8, 16, groups=4)(torch.zeros(2, 4, 2, 2), torch.zeros(2, 16)),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
