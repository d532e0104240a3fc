"""What the page "gaussian mixtures" refuses, and how it says so."""

import torch
from torch import nan

import guided_diffusion_edu as gde
from bad_input import EPS, NAMES, PIXELS, WORLD, T, X, Y, cases, is_refused

TABLE = [  # (what, said, call)
    (
        "GaussianMixture of a row",
        r"means must have shape \(K, D\), got \(2,\)",
        lambda: gde.GaussianMixture([0.0, 1.0], [1.0, 1.0]),
    ),
    (
        "GaussianMixture of nothing",
        r"means must have shape \(K, D\)",
        lambda: gde.GaussianMixture(torch.zeros(0, 2), torch.zeros(0)),
    ),
    (
        "GaussianMixture with means of nan",
        "means must be finite",
        lambda: gde.GaussianMixture([[nan]], [1.0]),
    ),
    (
        "GaussianMixture with stds of another shape",
        r"stds must be standard deviations \(1,\)",
        lambda: gde.GaussianMixture([[0.0]], [1.0, 1.0]),
    ),
    (
        "GaussianMixture with std 0",
        "stds must be positive",
        lambda: gde.GaussianMixture([[0.0]], [0.0]),
    ),
    (
        "GaussianMixture with std nan",
        "stds must be positive",
        lambda: gde.GaussianMixture([[0.0]], [nan]),
    ),
    (
        "GaussianMixture with std below 0",
        "stds must be positive, got -1",
        lambda: gde.GaussianMixture([[0.0]], [-1.0]),
    ),
    (
        "GaussianMixture with a covariance that is none",
        "stds must be positive",
        lambda: gde.GaussianMixture([[0.0, 0.0]], -torch.eye(2)[None]),
    ),
    (
        "GaussianMixture with a lopsided covariance",
        "stds must be .*symmetric",
        lambda: gde.GaussianMixture([[0.0, 0.0]], [[[1.0, 0.5], [0.0, 1.0]]]),
    ),
    (
        "GaussianMixture with a weight below 0",
        "weights must be positive",
        lambda: gde.GaussianMixture([[0.0], [1.0]], [1.0, 1.0], [1.0, -1.0]),
    ),
    (
        "GaussianMixture with too few weights",
        r"weights must have shape \(2,\)",
        lambda: gde.GaussianMixture([[0.0], [1.0]], [1.0, 1.0], [1.0]),
    ),
    (
        "GaussianMixture with too many labels",
        r"labels must have shape \(1,\)",
        lambda: gde.GaussianMixture([[0.0]], [1.0], labels=[0, 1]),
    ),
    (
        "GaussianMixture with a label below 0",
        "labels must be whole numbers from 0",
        lambda: gde.GaussianMixture([[0.0]], [1.0], labels=[-1]),
    ),
    (
        "GaussianMixture with labels of bool",
        "labels must be whole numbers from 0",
        lambda: gde.GaussianMixture([[0.0]], [1.0], labels=[True]),
    ),
    (
        "GaussianMixture with labels of floats",
        "labels must be whole numbers from 0",
        lambda: gde.GaussianMixture([[0.0]], [1.0], labels=[0.5]),
    ),
    ("GaussianMixture.at beyond 1", r"alpha_bar must be in \(0, 1\], got 2", lambda: WORLD.at(2.0)),
    ("GaussianMixture.at 0", r"alpha_bar must be in \(0, 1\], got 0", lambda: WORLD.at(0.0)),
    ("GaussianMixture.at nan", r"alpha_bar must be in \(0, 1\], got nan", lambda: WORLD.at(nan)),
    (
        "GaussianMixture.log_prob of another dimension",
        r"x must have shape \(B, 2\), got \(2, 3\)",
        lambda: WORLD.log_prob(torch.zeros(2, 3)),
    ),
    (
        "GaussianMixture.log_prob of one point",
        r"x must have shape \(B, 2\), got \(2,\)",
        lambda: WORLD.log_prob(torch.zeros(2)),
    ),
    (
        "GaussianMixture.log_prob with an unknown class",
        r"y must hold classes of \[0, 1\], got \[7\]",
        lambda: WORLD.log_prob(X, torch.tensor([0, 7])),
    ),
    (
        "GaussianMixture.score of pictures",
        r"x must have shape \(B, 2\)",
        lambda: WORLD.score(PIXELS),
    ),
    (
        "GaussianMixture.score with one y for two",
        r"y must have shape \(2,\)",
        lambda: WORLD.score(X, Y[:1]),
    ),
    (
        "GaussianMixture.class_log_probs of another dimension",
        r"x must have shape \(B, 2\)",
        lambda: WORLD.class_log_probs(torch.zeros(2, 1)),
    ),
    (
        "GaussianMixture.sample of fewer than none",
        "n must be a whole number .* got -1",
        lambda: WORLD.sample(-1),
    ),
    (
        "GaussianMixture.sample of half a point",
        "n must be a whole number .* got 0.5",
        lambda: WORLD.sample(0.5),
    ),
    (
        "GaussianMixture.sample of an unknown class",
        r"label must be one of \[0, 1\], got 2",
        lambda: WORLD.sample(1, 2),
    ),
    (
        "denoiser beyond the schedule",
        r"t must hold steps in \[0, 100\)",
        lambda: EPS(X, torch.tensor([0, 100])),
    ),
    ("denoiser with t of another length", r"t must have shape \(2,\)", lambda: EPS(X, T[:1])),
    (
        "denoiser with more classes than points",
        r"y must have shape \(2,\), one class per example, got \(3,\)",
        lambda: EPS(X, T, torch.tensor([0, 1, 1])),
    ),
    (
        "denoiser with y of floats",
        "y must hold class indices, whole numbers .* got torch.float32",
        lambda: EPS(X, T, Y.float()),
    ),
    ("exact classifier with t of floats", "t must hold whole numbers", lambda: NAMES(X, T.float())),
    (
        "two_trees that grow down",
        "depth must be a whole number .* got -1",
        lambda: gde.two_trees(-1),
    ),
]


@cases(TABLE)
def test_it_is_refused_in_one_line(said, call):
    is_refused(said, call)
