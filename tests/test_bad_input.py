"""Bad input to every public function: one clear error that names the argument, what came and what was wanted.

Each line of the table is a call that must not go through. It must end in a ValueError, TypeError or OSError of one line that says
what stands beside it; the last test holds that the table is long enough and leaves out no public function."""

import errno
import gzip
import io
import json
import os
import pickle
import re
import shutil
import struct
import tempfile
import zipfile
import zlib
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nan

import guided_diffusion_edu as gde
from guided_diffusion_edu import cli, data, evaluation, pretrained, schedules, tradeoff, training
from guided_diffusion_edu.cli import main

INF = float("inf")
LINE = gde.linear_schedule(100)
SHORT = gde.respace(LINE, 3)
WORLD = gde.four_corners()
EPS, NAMES = WORLD.denoiser(LINE), WORLD.classifier(LINE)
X, T, Y = torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([0, 1])
PIXELS = torch.zeros(2, 1, 8, 8)
SMALL = dict(
    image_size=8,
    in_channels=1,
    channels=8,
    channel_mult=(1, 1),
    res_blocks=1,
    attention_resolutions=(4,),
    head_channels=8,
    groups=4,
)
PLAN, GUIDE = (
    gde.UNetConfig(**SMALL, learned_variance=False),
    gde.ClassifierConfig(**SMALL, num_classes=3),
)
NET, JUDGE = gde.UNet(PLAN), gde.Classifier(GUIDE)
OF_CLASS = gde.UNet(replace(PLAN, num_classes=3))
ENLARGER = gde.UNet(replace(PLAN, low_res=True))
DATA = gde.Images(
    torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.tensor([0, 1, 2, 2]), ("a", "b", "c")
)
LAW = gde.moments(torch.randn(50, 3, generator=torch.Generator().manual_seed(0)))
SAMPLERS = [
    gde.ddpm_sample,
    gde.ddim_sample,
    gde.dpmpp_2m_sample,
    gde.dpmpp_2m_sde_sample,
    gde.heun_sample,
    gde.sde_sample,
    gde.recurrent_sample,
]


def flat(x, t, y=None):
    return torch.zeros_like(x)


def meta(x):
    return x.to("meta")


def level(x, t):
    return x.sum(1)


TABLE = [  # (what, said, call)
    # 1. schedules
    (
        "Schedule of nothing",
        r"betas must have shape \(T,\) with T > 0, got \(0,\)",
        lambda: gde.Schedule([]),
    ),
    (
        "Schedule of a matrix",
        r"betas must have shape .* got \(1, 1\)",
        lambda: gde.Schedule([[0.1]]),
    ),
    ("Schedule of a number", r"betas must have shape .* got \(\)", lambda: gde.Schedule(0.1)),
    (
        "Schedule with beta 0",
        "betas must lie strictly between 0 and 1, got 0 to",
        lambda: gde.Schedule([0.0, 0.1]),
    ),
    (
        "Schedule with beta 1",
        "betas must lie strictly between 0 and 1",
        lambda: gde.Schedule([0.1, 1.0]),
    ),
    (
        "Schedule with beta nan",
        "betas must lie strictly between 0 and 1",
        lambda: gde.Schedule([0.1, nan]),
    ),
    (
        "Schedule with infinite beta",
        "betas must lie strictly between 0 and 1",
        lambda: gde.Schedule([0.1, INF]),
    ),
    (
        "Schedule with too few timesteps",
        r"timesteps must have shape \(2,\)",
        lambda: gde.Schedule([0.1, 0.2], [0]),
    ),
    (
        "Schedule with timesteps of floats",
        "timesteps must be whole numbers",
        lambda: gde.Schedule([0.1, 0.2], [0.0, 1.5]),
    ),
    (
        "Schedule with timesteps of bool",
        "timesteps must be whole numbers",
        lambda: gde.Schedule([0.1, 0.2], [False, True]),
    ),
    (
        "Schedule with timesteps below 0",
        "timesteps must be whole numbers",
        lambda: gde.Schedule([0.1, 0.2], [-1, 0]),
    ),
    (
        "schedule_from_alpha_bar that stays",
        "alpha_bar must be positive and fall",
        lambda: gde.schedule_from_alpha_bar(lambda u: 1 - 0.9 * u.clamp(min=0.5), T=10),
    ),
    (
        "noise_like of a list, with a list",
        "x must be a tensor, got list",
        lambda: gde.noise_like([0, 0], [0, 0]),
    ),
    ("respace to infinity", "steps must be a count", lambda: gde.respace(LINE, [INF])),
    (
        "cosine_schedule without end",
        r"T must be below 2 \*\* 63, got 9223372036854775808",
        lambda: gde.cosine_schedule(2**63),
    ),
    ("linear_schedule of no steps", "T must be .* got 0", lambda: gde.linear_schedule(0)),
    ("linear_schedule of few steps", "T must be .* got 20", lambda: gde.linear_schedule(20)),
    (
        "linear_schedule of a fraction",
        "T must be a whole number .* got 50.5",
        lambda: gde.linear_schedule(50.5),
    ),
    (
        "linear_schedule of a word",
        "T must be a whole number .* got '1000'",
        lambda: gde.linear_schedule("1000"),
    ),
    (
        "linear_schedule of nan",
        "T must be a whole number .* got nan",
        lambda: gde.linear_schedule(nan),
    ),
    ("cosine_schedule of no steps", "T must be .* got 0", lambda: gde.cosine_schedule(0)),
    ("cosine_schedule backwards", "T must be .* got -5", lambda: gde.cosine_schedule(-5)),
    (
        "cosine_schedule of None",
        "T must be a whole number .* got None",
        lambda: gde.cosine_schedule(None),
    ),
    (
        "schedule_from_alpha_bar of a rising curve",
        "alpha_bar must be positive and fall",
        lambda: gde.schedule_from_alpha_bar(lambda u: 1 + u, 10),
    ),
    (
        "schedule_from_alpha_bar of nan",
        "alpha_bar must be positive and fall",
        lambda: gde.schedule_from_alpha_bar(lambda u: u * nan, 10),
    ),
    (
        "schedule_from_alpha_bar of a negative curve",
        "alpha_bar must be positive and fall",
        lambda: gde.schedule_from_alpha_bar(lambda u: -1 - u, 10),
    ),
    (
        "schedule_from_alpha_bar with a cap of 1",
        "max_beta must lie strictly between 0 and 1, got 1",
        lambda: gde.schedule_from_alpha_bar(lambda u: 1 - u, 10, max_beta=1),
    ),
    ("log_snr of numbers", "schedule must be a Schedule, got list", lambda: gde.log_snr([0.1])),
    ("respace to none", "steps must be between 1 and 100", lambda: gde.respace(LINE, 0)),
    (
        "respace to fewer than none",
        "steps must be between 1 and 100",
        lambda: gde.respace(LINE, -3),
    ),
    ("respace to one", "steps must give at least 2 steps", lambda: gde.respace(LINE, 1)),
    ("respace to too many", "steps must be between 1 and 100", lambda: gde.respace(LINE, 101)),
    (
        "respace by no stride",
        "steps must be reachable by a whole stride for 'ddim99'",
        lambda: gde.respace(LINE, "ddim99"),
    ),
    ("respace by ddim0", "steps must be reachable", lambda: gde.respace(LINE, "ddim0")),
    (
        "respace by a word",
        "steps must be a count, .* got 'fast'",
        lambda: gde.respace(LINE, "fast"),
    ),
    ("respace by a gap", "steps must be a count", lambda: gde.respace(LINE, "10,,20")),
    (
        "respace by an empty list",
        r"steps must be a count.* got \[\]",
        lambda: gde.respace(LINE, []),
    ),
    ("respace by a fraction", "steps must be a count.* got 2.5", lambda: gde.respace(LINE, 2.5)),
    ("respace by None", "steps must be a count.* got None", lambda: gde.respace(LINE, None)),
    (
        "respace by more sections than steps",
        "steps must be between 1 and",
        lambda: gde.respace(LINE, [1] * 101),
    ),
    (
        "respace of no schedule",
        "schedule must be a Schedule, got Tensor",
        lambda: gde.respace(LINE.betas, 5),
    ),
    (
        "add_noise with t of another length",
        r"t must have shape \(2,\), one step an example, got \(1,\)",
        lambda: LINE.add_noise(X, T[:1], X),
    ),
    ("add_noise with a number for t", "t must .* got int", lambda: LINE.add_noise(X, 3, X)),
    (
        "add_noise with t of bool",
        "t must hold whole numbers, got torch.bool",
        lambda: LINE.add_noise(X, T.bool(), X),
    ),
    (
        "add_noise with t of floats",
        "t must hold whole numbers, got torch.float32",
        lambda: LINE.add_noise(X, T.float(), X),
    ),
    (
        "add_noise beyond the last step",
        r"t must hold steps in \[0, 100\), got 0 to 100",
        lambda: LINE.add_noise(X, torch.tensor([0, 100]), X),
    ),
    (
        "add_noise before the first step",
        r"t must hold steps in \[0, 100\), got -1 to 0",
        lambda: LINE.add_noise(X, torch.tensor([-1, 0]), X),
    ),
    (
        "add_noise with eps of another shape",
        r"eps must have the shape \(2, 2\) of x_0, got \(2, 3\)",
        lambda: LINE.add_noise(X, T, torch.zeros(2, 3)),
    ),
    # 2. the exact world
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
        r"y must hold classes of \[0, 1\], got 7",
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
    ("exact classifier with t of floats", "t must hold whole numbers", lambda: NAMES(X, T.float())),
    (
        "two_trees that grow down",
        "depth must be a whole number .* got -1",
        lambda: gde.two_trees(-1),
    ),
    # 3. the reverse process
    (
        "learned_variance beyond the schedule",
        r"t must hold steps",
        lambda: gde.learned_variance(X, LINE, T + 99),
    ),
    (
        "simple_loss with t of another length",
        r"t must have shape",
        lambda: gde.simple_loss(flat, LINE, X, T[:1], X),
    ),
    (
        "simple_loss beyond the schedule",
        r"t must hold steps",
        lambda: gde.simple_loss(flat, LINE, X, T + 100, X),
    ),
    (
        "simple_loss with eps of another shape",
        "eps must have the shape",
        lambda: gde.simple_loss(flat, LINE, X, T, X[:, :1]),
    ),
    (
        "simple_loss of a model of another shape",
        r"model must give",
        lambda: gde.simple_loss(lambda x, t, y: x[:, :1], LINE, X, T, X),
    ),
    (
        "hybrid_loss of a model without variance",
        "model must give 4 channels to learn its variance, got 2",
        lambda: gde.hybrid_loss(flat, LINE, X, T, X),
    ),
    (
        "hybrid_loss beyond the schedule",
        "t must hold steps",
        lambda: gde.hybrid_loss(flat, LINE, X, T - 1, X),
    ),
    (
        "bound_term with output of another shape",
        "output must have 2 or 4 channels",
        lambda: gde.bound_term(X[:, :1], LINE, X, X, T),
    ),
    (
        "step_law with output of another shape",
        "output must have 2 or 4 channels",
        lambda: gde.reverse_gaussian(torch.zeros(2, 3), LINE, X, T),
    ),
    (
        "step_law beyond the schedule",
        "t must hold steps",
        lambda: gde.reverse_gaussian(X, LINE, X, T + 99),
    ),
    (
        "bound_loss beyond the schedule",
        "t must hold steps",
        lambda: gde.bound_loss(flat, LINE, X, T + 99, X),
    ),
    (
        "noise_like with generators for others",
        "generator must be one, or a list of 2",
        lambda: gde.noise_like(X, [torch.Generator()]),
    ),
    ("noise_like with a seed", "generator must be .* got int", lambda: gde.noise_like(X, 0)),
    (
        "noise_like of whole numbers",
        "x must be of floating point, got torch.int64",
        lambda: gde.noise_like(T),
    ),
    (
        "bits_per_dim of a model of another shape",
        "output must have 2 or 4 channels",
        lambda: gde.bits_per_dim(lambda x, t, y: x[:, :1], SHORT, X),
    ),
    ("SecondMomentSteps of no steps", "T must be a whole number", lambda: gde.SecondMomentSteps(0)),
    (
        "SecondMomentSteps told nan",
        "losses must be finite",
        lambda: gde.SecondMomentSteps(5).update(T, torch.tensor([1.0, nan])),
    ),
    (
        "SecondMomentSteps told a step beyond",
        r"t must hold steps in \[0, 2\)",
        lambda: gde.SecondMomentSteps(2).update(T + 1, torch.ones(2)),
    ),
    (
        "SecondMomentSteps drawn less than none",
        "batch must be a whole number",
        lambda: gde.SecondMomentSteps(5).draw(-1),
    ),
    (
        "dataset_bits of one image",
        "x_0 must hold at least 2 images, got 1",
        lambda: gde.dataset_bits(flat, SHORT, X[:1]),
    ),
    (
        "dataset_bits in batches of none",
        "batch must be a whole number .* got 0",
        lambda: gde.dataset_bits(flat, SHORT, X, batch=0),
    ),
    # 4. guidance
    (
        "classifier_guidance without classes",
        "y must hold class indices, whole numbers .* got NoneType",
        lambda: gde.classifier_guidance(NAMES, None),
    ),
    (
        "classifier_guidance with classes of floats",
        "y must hold class indices, whole numbers .* got torch.float32",
        lambda: gde.classifier_guidance(NAMES, Y.float()),
    ),
    (
        "classifier_guidance with classes of bool",
        "y must hold class indices, whole numbers .* got torch.bool",
        lambda: gde.classifier_guidance(NAMES, Y.bool()),
    ),
    (
        "classifier_guidance with a class below 0",
        r"y must hold class indices in \[0, 2\), got -1 to 0",
        lambda: gde.classifier_guidance(NAMES, Y - 1)(X, T),
    ),
    (
        "classifier_guidance with an unknown class",
        r"y must hold class indices in \[0, 2\), got 0 to 2",
        lambda: gde.classifier_guidance(NAMES, 2 * Y)(X, T),
    ),
    (
        "classifier_guidance with classes for others",
        r"y must have shape \(2,\), one class an example, got \(1,\)",
        lambda: gde.classifier_guidance(NAMES, Y[:1])(X, T),
    ),
    (
        "classifier_guidance of scale nan",
        "scale must be a finite number, got nan",
        lambda: gde.classifier_guidance(NAMES, Y, nan),
    ),
    (
        "classifier_guidance of infinite scale",
        "scale must be a finite number, got inf",
        lambda: gde.classifier_guidance(NAMES, Y, INF),
    ),
    (
        "classifier_guidance by a classifier of another shape",
        r"classifier must give shape \(2, classes\), got \(2,\)",
        lambda: gde.classifier_guidance(level, Y)(X, T),
    ),
    (
        "log_prob_guidance of a matrix",
        r"log_prob must give shape \(2,\)",
        lambda: gde.log_prob_guidance(lambda x, t: x)(X, T),
    ),
    (
        "log_prob_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.log_prob_guidance(level, nan),
    ),
    (
        "log_prob_guidance of what has no gradient",
        "log_prob must be differentiable",
        lambda: gde.log_prob_guidance(lambda x, t: torch.zeros(len(x)))(X, T),
    ),
    (
        "guided_mean with a gradient of another shape",
        r"gradient must have the shape \(2, 2\) of mean, got \(2, 3\)",
        lambda: gde.guided_mean(X, 1.0, torch.zeros(2, 3)),
    ),
    (
        "guided_eps with a gradient of another shape",
        r"gradient must have the shape \(2, 2\) of eps, got \(2, 3\)",
        lambda: gde.guided_eps(X, 0.5, torch.zeros(2, 3)),
    ),
    (
        "second_order_step with a hessian too large",
        "hessian must be smaller",
        lambda: gde.second_order_step(
            X, torch.eye(2).expand(2, 2, 2), X, 5 * torch.eye(2).expand(2, 2, 2)
        ),
    ),
    (
        "exact_guidance with an unknown class",
        r"y must hold classes of \[0, 1\], got 4",
        lambda: gde.exact_guidance(WORLD, LINE, Y + 4)(X, T),
    ),
    (
        "exact_guidance beyond the schedule",
        "t must hold steps",
        lambda: gde.exact_guidance(WORLD, LINE, Y)(X, T + 99),
    ),
    (
        "martingale_gap on nothing",
        "x_0 must hold at least 2 examples, got 0",
        lambda: gde.martingale_gap(NAMES, LINE, X[:0]),
    ),
    (
        "martingale_gap on one",
        "x_0 must hold at least 2 examples, got 1",
        lambda: gde.martingale_gap(NAMES, LINE, X[:1]),
    ),
    (
        "martingale_gap at one level",
        "steps must give at least 2 steps",
        lambda: gde.martingale_gap(NAMES, LINE, X, levels=1),
    ),
    # 5. samplers of their own
    (
        "ddpm_sample with an unknown place",
        'gradient_at must be "x_t" or "mean", got \'mu\'',
        lambda: gde.ddpm_sample(flat, SHORT, (2, 2), gradient_at="mu"),
    ),
    (
        "ddpm_sample with an unknown variance",
        "variance must be \"auto\", .* got 'huge'",
        lambda: gde.ddpm_sample(flat, SHORT, (2, 2), variance="huge"),
    ),
    (
        "ddpm_sample with a variance never learned",
        'variance can be "learned" only where',
        lambda: gde.ddpm_sample(flat, SHORT, (2, 2), variance="learned"),
    ),
    (
        "ddim_sample with eta beyond 1",
        "eta must be between 0 and 1, got 2",
        lambda: gde.ddim_sample(flat, SHORT, (2, 2), eta=2),
    ),
    (
        "ddim_sample with eta nan",
        "eta must be between 0 and 1, got nan",
        lambda: gde.ddim_sample(flat, SHORT, (2, 2), eta=nan),
    ),
    (
        "ddim_invert of whole numbers",
        "x_0 must be of floating point",
        lambda: gde.ddim_invert(flat, SHORT, T[:, None]),
    ),
    (
        "ddim_invert of a model of another shape",
        "model must give 2 or 4 channels",
        lambda: gde.ddim_invert(lambda x, t, y: x[:, :1], SHORT, X),
    ),
    (
        "recurrent_sample taken no times",
        "repeats must be at least 1, got 0",
        lambda: gde.recurrent_sample(flat, SHORT, (2, 2), repeats=0),
    ),
    (
        "sde_sample with noise below 0",
        "kappa must not be negative, got -1",
        lambda: gde.sde_sample(flat, SHORT, (2, 2), kappa=-1),
    ),
    ("edm_steps of one", "steps must be at least 2, got 1", lambda: gde.edm_steps(LINE, 1)),
    ("edm_steps of too many", "steps must be few enough", lambda: gde.edm_steps(LINE, 1000)),
    ("edm_steps with rho 0", "rho must be .* got 0", lambda: gde.edm_steps(LINE, 5, rho=0)),
    (
        "flow_sample with rising times",
        "times must fall",
        lambda: gde.flow_sample(flat, [0.1, 0.9], X),
    ),
    (
        "flow_sample with no times",
        r"times must have shape \(N,\)",
        lambda: gde.flow_sample(flat, [], X),
    ),
    (
        "flow_sample with times beyond 1",
        "times must fall and lie between 0 and 1, got 2",
        lambda: gde.flow_sample(flat, [2.0, 0.5], X),
    ),
    (
        "particle_sample with a twist of another shape",
        r"twist\(x_t, t\) must have shape \(2,\), got \(2, 2\)",
        lambda: gde.particle_sample(flat, SHORT, (2, 2), lambda x, t: x),
    ),
    (
        "particle_sample of none",
        "shape must be",
        lambda: gde.particle_sample(flat, SHORT, (0, 2), level),
    ),
    (
        "particle_sample from noise of another shape",
        r"x_T must have shape \(2, 2\)",
        lambda: gde.particle_sample(flat, SHORT, (2, 2), level, x_T=torch.zeros(3, 2)),
    ),
    (
        "systematic with weights of nan",
        "log_weights must be",
        lambda: gde.systematic(torch.tensor([0.0, nan])),
    ),
    (
        "effective_sample_size of nothing",
        "log_weights must be",
        lambda: gde.effective_sample_size(torch.zeros(0)),
    ),
    (
        "effective_sample_size of a matrix",
        "log_weights must have shape",
        lambda: gde.effective_sample_size(X),
    ),
    (
        "power_twist to an unknown class",
        r"y must be a class index in \[0, 2\), got 5",
        lambda: gde.power_twist(NAMES, 5, 1.0)(X, T),
    ),
    (
        "annealed_twist to an unknown class",
        r"y must be a class index in \[0, 2\), got -1",
        lambda: gde.annealed_twist(NAMES, -1, 1.0, LINE)(X, T),
    ),
    # 6. to 8. networks
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
        lambda: gde.AddedNorm(8, 16),
    ),
    (
        "AddedNorm with emb of another size",
        "emb must have shape",
        lambda: gde.AddedNorm(8, 16, 4)(torch.zeros(2, 8, 2, 2), torch.zeros(1, 16)),
    ),
    (
        "AttentionBlock with heads that do not divide",
        "channels must be a multiple of head_channels = 64, got 8",
        lambda: gde.AttentionBlock(8),
    ),
    (
        "AttentionBlock of other channels",
        r"h must have shape \(B, 8, \.\.\.\)",
        lambda: gde.AttentionBlock(8, 8, 4)(torch.zeros(2, 4, 2, 2)),
    ),
    (
        "ResBlock with groups that do not divide",
        "channels must be a multiple of groups",
        lambda: gde.ResBlock(8, 16),
    ),
    (
        "ResBlock of other channels",
        r"h must have shape \(B, 8, \.\.\.\)",
        lambda: gde.ResBlock(8, 16, groups=4)(torch.zeros(2, 4, 2, 2), torch.zeros(2, 16)),
    ),
    (
        "UNetConfig of size 0",
        "image_size must be a whole number above 0, got 0",
        lambda: gde.UNetConfig(image_size=0),
    ),
    (
        "UNetConfig of a size that does not halve",
        "image_size must halve 3 times",
        lambda: gde.UNetConfig(image_size=20),
    ),
    (
        "UNetConfig with dropout 1",
        "dropout must be at least 0 and below 1",
        lambda: gde.UNetConfig(dropout=1.0),
    ),
    (
        "UNetConfig with no resolution",
        "channel_mult must have an entry",
        lambda: gde.UNetConfig(channel_mult=()),
    ),
    (
        "UNetConfig with unknown conditioning",
        "conditioning must be one of .* got 'film'",
        lambda: gde.UNetConfig(conditioning="film"),
    ),
    (
        "ClassifierConfig without classes",
        "num_classes must be a whole number",
        lambda: gde.ClassifierConfig(num_classes=None),
    ),
    (
        "ClassifierConfig with classes of floats",
        "num_classes must be a whole number above 0, or None, got 2.5",
        lambda: gde.ClassifierConfig(num_classes=2.5),
    ),
    (
        "UNet with other channels",
        r"x_t must have shape \(B, 1, H, W\), got \(2, 3, 8, 8\)",
        lambda: NET(PIXELS.expand(-1, 3, -1, -1), T),
    ),
    ("UNet with a flat picture", "x_t must have shape", lambda: NET(PIXELS[0], T)),
    (
        "UNet with odd sides",
        "x_t must have sides that halve 1 times",
        lambda: NET(torch.zeros(2, 1, 7, 7), T),
    ),
    ("UNet with t of another length", r"t must have shape \(2,\)", lambda: NET(PIXELS, T[:1])),
    (
        "UNet with pixels that are whole numbers",
        "x_t must be of floating point, got torch.uint8",
        lambda: NET(DATA.pixels[:2], T),
    ),
    (
        "UNet with a class it does not know of",
        "y must be None: this model has no classes",
        lambda: NET(PIXELS, T, Y),
    ),
    (
        "UNet without the class it wants",
        "y must hold a class for each of 2 examples",
        lambda: OF_CLASS(PIXELS, T),
    ),
    (
        "UNet with a class beyond",
        r"y must hold classes in \[0, 3\), got 2 to 3",
        lambda: OF_CLASS(PIXELS, T, Y + 2),
    ),
    (
        "UNet with classes of floats",
        "y must hold a class for each .* torch.float32",
        lambda: OF_CLASS(PIXELS, T, Y.float()),
    ),
    (
        "UNet with pictures to enlarge that it cannot",
        "low_res must be None",
        lambda: NET(PIXELS, T, low_res=PIXELS),
    ),
    (
        "UNet without the pictures to enlarge",
        "low_res must be the pictures to enlarge",
        lambda: ENLARGER(PIXELS, T),
    ),
    (
        "UNet with pictures to enlarge for others",
        r"low_res must have shape \(2, 1\) \+ \(h, w\), got \(1, 1, 8, 8\)",
        lambda: ENLARGER(PIXELS, T, low_res=PIXELS[:1]),
    ),
    (
        "Classifier with another size",
        "x_t must be pictures of 8 x 8",
        lambda: JUDGE(torch.zeros(2, 1, 16, 16), T),
    ),
    (
        "Classifier with whole numbers",
        "x_t must be of floating point",
        lambda: JUDGE(DATA.pixels[:2], T),
    ),
    (
        "Classifier with t of another length",
        r"t must have shape \(2,\)",
        lambda: JUDGE(PIXELS, T[:1]),
    ),
    (
        "classifier_loss with an unknown class",
        r"y must hold classes in \[0, 3\), got 2 to 3",
        lambda: gde.classifier_loss(JUDGE, LINE, PIXELS, Y + 2, T, PIXELS),
    ),
    (
        "classifier_loss with classes for others",
        r"y must have shape \(2,\)",
        lambda: gde.classifier_loss(JUDGE, LINE, PIXELS, Y[:1], T, PIXELS),
    ),
    ("set_torso to whole numbers", "dtype must be", lambda: gde.set_torso(NET, torch.int8)),
    ("survey with other channels", "x_t must have shape", lambda: gde.survey(NET, X, T)),
    # 9. data
    ("load_data of an unknown name", "data must be .* got 'lions'", lambda: gde.load_data("lions")),
    ("load_data of None", "data must be .* got None", lambda: gde.load_data(None)),
    (
        "load_data of a missing folder",
        "data must be a folder",
        lambda: gde.load_data("folder:/nowhere/at/all"),
    ),
    (
        "load_data of missing emoji",
        "data must be emoji that are there",
        lambda: gde.load_data("emoji:/nowhere/at/all"),
    ),
    (
        "load_data at size 0",
        "image_size must be a whole number .* got 0",
        lambda: gde.load_data("folder:tests", image_size=0),
    ),
    (
        "load_data with an unknown rule",
        "unfit must be one of .* got 'guess'",
        lambda: gde.load_data("digits", unfit="guess"),
    ),
    (
        "padded to less",
        "size must be at least that of the pictures, 8 x 8, got 4",
        lambda: gde.pad(DATA, 4),
    ),
    (
        "centre_crop to nothing",
        "size must be a whole number .* got 0",
        lambda: gde.centre_crop(picture(), 0),
    ),
    (
        "from_pixels of floats",
        "pixels must be uint8, got torch.float32",
        lambda: gde.from_pixels(PIXELS),
    ),
    (
        "data_card of an unknown name",
        "name must be .* got 'lions'",
        lambda: gde.data_card("lions", DATA),
    ),
    (
        "some_of_each with too many",
        "n must be at most the pictures of each class, got 2",
        lambda: gde.class_examples(DATA, 2),
    ),
    (
        "some_of_each with none",
        "n must be a whole number .* got 0",
        lambda: gde.class_examples(DATA, 0),
    ),
    (
        "digits_judge of another size",
        r"x must have shape \(B, 1, 8, 8\)",
        lambda: judge()(torch.zeros(2, 1, 9, 9)),
    ),
    (
        "spread_within of nothing",
        r"x must hold at least 1 example",
        lambda: gde.spread_within(PIXELS[:0], Y[:0]),
    ),
    (
        "spread_within with classes for others",
        r"y must have shape \(2,\)",
        lambda: gde.spread_within(PIXELS, Y[:1]),
    ),
    # 10. training
    (
        "Recipe of no steps",
        "steps must be a whole number above 0, got 0",
        lambda: gde.Recipe(steps=0),
    ),
    ("Recipe of half a step", "steps must be .* got 1.5", lambda: gde.Recipe(steps=1.5)),
    ("Recipe with lr nan", "lr must be .* got nan", lambda: gde.Recipe(lr=nan)),
    ("Recipe with infinite lr", "lr must be .* got inf", lambda: gde.Recipe(lr=INF)),
    (
        "Recipe with an average that stands still",
        "ema_decay must be",
        lambda: gde.Recipe(ema_decay=1.0),
    ),
    (
        "Recipe with decay below 0",
        "weight_decay must be .* got -1",
        lambda: gde.Recipe(weight_decay=-1.0),
    ),
    (
        "Recipe with an unknown precision",
        "precision must be one of .* got 'int8'",
        lambda: gde.Recipe(precision="int8"),
    ),
    ("Recipe with a seed below 0", "seed must be .* got -1", lambda: gde.Recipe(seed=-1)),
    (
        "accuracy_by_level beyond the schedule",
        r"t must hold steps|levels must",
        lambda: gde.accuracy_by_level(JUDGE, LINE, DATA, levels=(100,)),
    ),
    (
        "watch_samples of too many steps",
        "steps must be between",
        lambda: gde.watch_samples(".", LINE, (1, 1, 8, 8), steps=1000),
    ),
    (
        "write_half of a missing folder",
        "source must be a folder with trained weights",
        lambda: gde.write_half("/nowhere/at/all", "/nowhere/out"),
    ),
    # 11. weights
    (
        "load_pretrained of an unknown name",
        "weights must be one of .* got 'lion'",
        lambda: gde.load_pretrained("lion"),
    ),
    (
        "load_pretrained of a way out of the folder",
        "weights must be one of",
        lambda: gde.load_pretrained("../weights"),
    ),
    (
        "openai_config of an unknown name",
        "name must be one of .* got '65x65_diffusion'",
        lambda: gde.openai_config("65x65_diffusion"),
    ),
    ("openai_release of None", "name must be one of .* got None", lambda: gde.openai_release(None)),
    (
        "fetch_openai of a way out of the folder",
        "name must be one of",
        lambda: gde.fetch_openai("../../etc/passwd"),
    ),
    (
        "read_weights of a missing file",
        "path must be a file of weights",
        lambda: gde.read_weights("/nowhere/at/all.pt"),
    ),
    (
        "read_weights of a folder",
        "path must be a file of weights",
        lambda: gde.read_weights("tests"),
    ),
    (
        "from_openai with no weights",
        "weights must fit the model, and these do not: missing",
        lambda: gde.from_openai("64x64_classifier", {}),
    ),
    (
        "load_released with weights of words",
        "weights must be tensors by name",
        lambda: gde.load_released(NET, {"time_embed.0.weight": "a"}),
    ),
    (
        "upsample of a flat picture",
        r"low_res must have shape \(B, C, h, w\), got \(1, 8, 8\)",
        lambda: gde.upsample(ENLARGER, SHORT, PIXELS[0]),
    ),
    (
        "upsample by what does not",
        "low_res must be None: this model does not",
        lambda: gde.upsample(NET, SHORT, PIXELS),
    ),
    (
        "draw_guided of no class",
        r"y must be one or more classes in \[0, 10\), got \[\]",
        lambda: gde.draw_guided(gde.load_pretrained("digits"), T[:0]),
    ),
    (
        "draw_guided of an unknown class",
        r"y must be one or more classes in \[0, 10\), got \[10\]",
        lambda: gde.draw_guided(gde.load_pretrained("digits"), T[:1] + 10),
    ),
    (
        "train_classifier in uneven shares",
        "batch must be a multiple",
        lambda: gde.train_classifier(
            GUIDE, DATA, tempfile.mkdtemp(), gde.Recipe(batch=4, accumulate=3)
        ),
    ),
    (
        "nearest_distances to nothing",
        "others must hold at least 1",
        lambda: gde.nearest_distances(PIXELS, PIXELS[:0]),
    ),
    (
        "nearest_distances to others of another size",
        r"others must have shape \(N, 1, 8, 8\)",
        lambda: gde.nearest_distances(PIXELS, torch.zeros(3, 1, 4, 4)),
    ),
    ("loss_on no level", "levels must be", lambda: gde.loss_on(flat, LINE, DATA, levels=0)),
    # 12. evaluation
    (
        "moments of nothing",
        r"features must have shape \(N, D\) with N > 0",
        lambda: gde.moments(torch.zeros(0, 3)),
    ),
    ("moments of nan", "features must be finite", lambda: gde.moments(torch.tensor([[nan]]))),
    (
        "merge_moments of two sizes",
        "a and b must have features of one size, got 3 and 2",
        lambda: gde.merge_moments(LAW, gde.moments(torch.zeros(2, 2))),
    ),
    ("fid of a row", r"features must have shape", lambda: gde.fid(torch.zeros(3), torch.zeros(3))),
    (
        "fid of one sample",
        "covariance needs at least 2 samples",
        lambda: gde.fid(torch.zeros(1, 3), torch.zeros(4, 3)),
    ),
    (
        "fid of two sizes",
        "features of one size, got 3 and 2",
        lambda: gde.fid(torch.zeros(4, 3), torch.zeros(4, 2)),
    ),
    (
        "frechet_distance of infinite features",
        "features must be finite",
        lambda: gde.fid(torch.full((4, 2), INF), torch.zeros(4, 2)),
    ),
    (
        "fid_infinity of few samples",
        "features must be more than 5 samples",
        lambda: gde.fid_infinity(LAW, torch.zeros(4, 3)),
    ),
    (
        "fid_infinity of one subset",
        "subsets must be",
        lambda: gde.fid_infinity(LAW, torch.randn(50, 3), subsets=1),
    ),
    (
        "inception_score of logits",
        "probs must be probabilities",
        lambda: gde.inception_score(torch.tensor([[3.0, 4.0]])),
    ),
    (
        "inception_score of nothing",
        "probs must have shape",
        lambda: gde.inception_score(torch.zeros(0, 3)),
    ),
    (
        "precision_recall of two sizes",
        "must have one size, got 3 and 2",
        lambda: gde.precision_recall(torch.zeros(9, 3), torch.zeros(9, 2)),
    ),
    (
        "precision_recall of too many neighbours",
        "k must be from 1 to the number of samples - 1, got k = 9 for 9",
        lambda: gde.precision_recall(torch.zeros(9, 3), torch.zeros(9, 3), k=9),
    ),
    (
        "density_coverage of no neighbour",
        "k must be from 1",
        lambda: gde.density_coverage(torch.zeros(9, 3), torch.zeros(9, 3), k=0),
    ),
    (
        "bootstrap_interval of nothing",
        "rows must hold at least 1",
        lambda: gde.bootstrap_interval(torch.mean, torch.zeros(0)),
    ),
    (
        "bootstrap_interval redrawn never",
        "repeats must be .* got 0",
        lambda: gde.bootstrap_interval(torch.mean, torch.zeros(5), repeats=0),
    ),
    (
        "bootstrap_interval of level 2",
        "level must be .* got 2",
        lambda: gde.bootstrap_interval(torch.mean, torch.zeros(5), level=2),
    ),
    ("Batch that is not there", "batch must be a file", lambda: gde.Batch("/nowhere/at/all.npz")),
    (
        "trade_off of unknown weights",
        "weights must be one of",
        lambda: gde.trade_off("lion", "/nowhere/out.json"),
    ),
    # 14. to 20. beyond
    (
        "drop_labels by a share of 2",
        r"share must be between 0 and 1, got 2",
        lambda: gde.drop_labels(Y, 2, 9),
    ),
    (
        "drop_labels by a share of nan",
        r"share must be between 0 and 1, got nan",
        lambda: gde.drop_labels(Y, nan, 9),
    ),
    (
        "free_guidance without classes",
        "y must hold class indices",
        lambda: gde.cfg_model(OF_CLASS, None, 2.0),
    ),
    (
        "free_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.cfg_model(OF_CLASS, Y, nan),
    ),
    (
        "autoguidance of infinite scale",
        "scale must be a finite number",
        lambda: gde.autoguided_model(flat, flat, INF),
    ),
    (
        "autoguidance by models of two shapes",
        r"weaker must give 2 or 4 channels",
        lambda: gde.autoguided_model(flat, lambda x, t, y: x[:, :1], 2.0)(X, T),
    ),
    (
        "implicit_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.implicit_guidance(EPS, LINE, Y, nan),
    ),
    (
        "guided_model by guidance of another shape",
        r"gradient must have the shape .* of x_t",
        lambda: gde.guided_model(flat, LINE, lambda x, t: x[:, :1])(X, T),
    ),
    (
        "guidance_between backwards",
        "first must be at most last",
        lambda: gde.interval_guidance(flat, 10, 5),
    ),
    ("guided_cost share", "share must be", lambda: gde.guided_cost(1.0, 1.0, share=1.5)),
    ("speedup share", "share must be", lambda: gde.speedup(-0.1, 2.0)),
    ("speedup times", "times must be above 0", lambda: gde.speedup(0.5, 0.0)),
    ("utilisation seconds", "seconds must be above 0", lambda: gde.utilisation(1.0, 0.0, 1.0)),
    ("matmul_rate rounds", "rounds must be", lambda: gde.matmul_rate(8, rounds=0)),
    ("recorded nothing", "function must be callable", lambda: gde.cuda_graph(None)),
    (
        "fast dtype",
        "dtype must be one of",
        lambda: gde.fast(
            gde.UNet(
                gde.UNetConfig(
                    image_size=8,
                    channels=32,
                    channel_mult=(1,),
                    attention_resolutions=(),
                    head_channels=32,
                )
            ),
            torch.float64,
        ),
    ),
    (
        "interval_guidance backwards",
        "first must be at most last",
        lambda: gde.interval_model(flat, flat, 10, 5),
    ),
    (
        "projected_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.projected_model(flat, flat, LINE, nan),
    ),
    ("tilted_world on one point", "points must", lambda: gde.tilted_mixture(WORLD, 0, 1.0, X[:1])),
    (
        "tilted_world to an unknown class",
        r"y must be a class index in \[0, 2\), got 5",
        lambda: gde.tilted_mixture(WORLD, 5, 1.0, X),
    ),
    (
        "x_0_guidance of scale nan",
        "scale must be a finite number",
        lambda: gde.x_0_guidance(flat, LINE, level, nan),
    ),
    (
        "x_0_guidance by a loss of another shape",
        r"loss must give shape|log_prob must give shape",
        lambda: gde.x_0_guidance(EPS, LINE, lambda x: x)(X, T),
    ),
    (
        "measurement_loss without error",
        "r must be positive, got 0",
        lambda: gde.measurement_loss(lambda x: x, X, 0.0),
    ),
    (
        "measured_guidance without error",
        "r must be positive, got -1",
        lambda: gde.measured_guidance(WORLD, LINE, torch.ones(1, 2), torch.zeros(1), -1.0),
    ),
    (
        "mended without error",
        "r must be positive",
        lambda: gde.corrected_guidance(level, LINE, 0.0),
    ),
    ("low_pass by 0", "factor must be a whole number .* got 0", lambda: gde.low_pass(0)),
    ("colour of a row", r"x_0 must have shape \(B, C, H, W\)", lambda: gde.colour(X)),
    ("edges of a row", r"x_0 must have shape \(B, C, H, W\)", lambda: gde.edges(X)),
    (
        "class_loss with classes of floats",
        "y must hold class indices",
        lambda: gde.class_loss(NAMES, Y.float()),
    ),
    ("all_of nothing", "losses must", lambda: gde.conjunction()),
    ("any_of nothing", "losses must", lambda: gde.disjunction()),
    ("dynamic_threshold beyond 1", "quantile must be .* got 95", lambda: gde.dynamic_threshold(95)),
    (
        "mode_shares of another dimension",
        r"x must have shape \(B, 2\)",
        lambda: gde.mode_shares(WORLD, torch.zeros(2, 3)),
    ),
    (
        "target_shares to an unknown class",
        r"y must be a class index",
        lambda: gde.target_shares(WORLD, 5, 1.0, X),
    ),
    (
        "diffusion_of beyond the schedule",
        "t must hold steps",
        lambda: gde.flow_eps_model(flat, LINE)(X, T + 99),
    ),
    # pictures
    ("image_grid of nothing", r"images must have shape", lambda: gde.image_grid(PIXELS[:0])),
    (
        "image_grid of two channels",
        r"images must have shape",
        lambda: gde.image_grid(torch.zeros(1, 2, 4, 4)),
    ),
    (
        "image_grid of whole numbers",
        "images must be of floating point",
        lambda: gde.image_grid(DATA.pixels),
    ),
    ("image_grid in rows of none", "columns must be", lambda: gde.image_grid(PIXELS, columns=-1)),
    ("show_grid of a row", "images must have shape", lambda: gde.show_grid(X)),
    (
        "to_pixels of whole numbers",
        "images must be of floating point, got torch.uint8",
        lambda: gde.to_pixels(DATA.pixels),
    ),
]

OF_SAMPLERS = [  # what every sampler says, with which arguments
    (
        "no schedule",
        "schedule must be a Schedule, got list",
        lambda sample: sample(flat, [0.1], (2, 2)),
    ),
    ("a shape of no axes", "shape must be", lambda sample: sample(flat, SHORT, ())),
    ("a shape without channels", "shape must be", lambda sample: sample(flat, SHORT, (4,))),
    (
        "a class that the model has not",
        r"y must hold classes in \[0, 3\), got 0 to 3",
        lambda sample: sample(OF_CLASS, SHORT, (2, 1, 8, 8), y=torch.tensor([0, 3])),
    ),
    ("a shape of fractions", "shape must be", lambda sample: sample(flat, SHORT, (2, 2.5))),
    ("a shape below 0", "shape must be", lambda sample: sample(flat, SHORT, (-1, 2))),
    ("a number for a shape", "shape must be", lambda sample: sample(flat, SHORT, 4)),
    (
        "x_T of another shape",
        r"x_T must have the shape \(2, 2\)",
        lambda sample: sample(flat, SHORT, (2, 2), x_T=torch.zeros(3, 2)),
    ),
    (
        "x_T of whole numbers",
        "x_T must be of floating point, got torch.int64",
        lambda sample: sample(flat, SHORT, (2, 1), x_T=T[:, None]),
    ),
    (
        "a start without x_T",
        r"start must be in \[0, 2\] and come with x_T",
        lambda sample: sample(flat, SHORT, (2, 2), start=0),
    ),
    (
        "a start beyond the end",
        r"start must be in \[0, 2\]",
        lambda sample: sample(flat, SHORT, (2, 2), start=3, x_T=X),
    ),
    (
        "classes for others",
        r"y must have shape \(2,\)",
        lambda sample: sample(flat, SHORT, (2, 2), y=Y[:1]),
    ),
    (
        "a class that is no tensor",
        "y must hold class indices, whole numbers .* got int",
        lambda sample: sample(flat, SHORT, (2, 2), y=1),
    ),
    (
        "a class beyond the model",
        r"y must hold classes in \[0, 3\), got 2 to 3",
        lambda sample: sample(OF_CLASS, SHORT, PIXELS.shape, y=Y + 2),
    ),
    (
        "a model of three times the channels",
        "model must give 2 or 4 channels",
        lambda sample: sample(lambda x, t, y: x.repeat(1, 3), SHORT, (2, 2)),
    ),
    (
        "a model of half the pictures",
        "model must give",
        lambda sample: sample(lambda x, t, y: x[:1], SHORT, (2, 2)),
    ),
    (
        "a model that gives no tensor",
        "model must give a tensor, got NoneType",
        lambda sample: sample(lambda x, t, y: None, SHORT, (2, 2)),
    ),
    (
        "guidance of another shape",
        r"guidance must give a gradient of the shape \(2, 2\)",
        lambda sample: sample(flat, SHORT, (2, 2), guidance=lambda x, t: x[:, :1]),
    ),
    (
        "guidance of nan",
        "guidance must give finite gradients",
        lambda sample: sample(flat, SHORT, (2, 2), guidance=lambda x, t: x * nan),
    ),
    (
        "a seed for a generator",
        "generator must be",
        lambda sample: sample(flat, SHORT, (2, 2), generator=0),
    ),
    (
        "too few generators",
        "generator must be one, or a list of 2",
        lambda sample: sample(flat, SHORT, (2, 2), generator=[torch.Generator()]),
    ),
]
TABLE += [
    (f"{sampler.__name__} with {what}", said, partial(call, sampler))
    for sampler in SAMPLERS
    for what, said, call in OF_SAMPLERS
]


# Files: each is made at `path`, then read.

RAN = []  # what code from a file would leave a trace in


class Payload:
    def __reduce__(self):
        return (RAN.append, ("code from a file has run",))


def lying(header, data=b""):
    "A safetensors file whose header says `header`."
    header = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + data


def weights(path, **lies):
    "A folder with the shipped digits, in which some files have other contents."
    shutil.copytree(pretrained.WEIGHTS / "digits", path)
    for name, lie in lies.items():
        file = path / name.replace("_", ".")
        if callable(lie):
            file.write_text(json.dumps(lie(json.loads(file.read_text()))))
        elif lie is None:
            file.unlink()
        else:
            file.write_bytes(lie)
    return path


def changed(**fields):
    return lambda record: record | fields


def npy(array=None, descr="|u1", shape=(4, 8, 8, 3), data=b""):
    "The bytes of an .npy member that says what it likes of itself."
    header = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header) + 1) + header + b"\n" + data


def archive(path, bomb=0, **members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members.items():
            file.writestr(
                name.replace("__", "/").replace("DOTS", "..") + ".npy", content + bytes(bomb)
            )
    return path


def png(path, width, height):
    "A PNG that says it is `width` x `height`, and is cut off there."
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + chunk
        + struct.pack(">I", zlib.crc32(chunk))
        + b"\x00\x00\x00\x10IDAT"
    )
    return path.parent.parent


def emoji(path, listed):
    png(path / "img" / "any" / "64" / "a.png", 64, 64)
    (path / "emoji.json").write_text(listed)
    return f"emoji:{path}"


def whole(path):
    return path.write_bytes(
        lying({"a": dict(dtype="F32", shape=[1], data_offsets=[0, 4])}, b"\0" * 4)
    )


def written(path, content):
    path.write_bytes(content)
    return path


WHOLE, NOT_NPZ = "path must be a whole file of tensors", "batch must be a whole .npz file"
FILES = [  # (what, what is said, what is done with the path)
    (
        "a pickle that runs code",
        WHOLE,
        lambda p: gde.read_weights(written(p, pickle.dumps(Payload()))),
    ),
    (
        "a PyTorch file that runs code",
        WHOLE,
        lambda p: (torch.save({"a": Payload()}, p), gde.read_weights(p)),
    ),
    (
        "a checkpoint that runs code",
        WHOLE,
        lambda p: (
            torch.save({"time_embed.0.weight": Payload()}, p),
            gde.from_openai("64x64_classifier", p),
        ),
    ),
    (
        "an old PyTorch file that runs code",
        WHOLE,
        lambda p: (
            torch.save([Payload()], p, _use_new_zipfile_serialization=False),
            gde.read_weights(p),
        ),
    ),
    (
        "a PyTorch file of other things",
        "path must be a file of tensors by name",
        lambda p: (torch.save({"a": 3}, p), gde.read_weights(p)),
    ),
    ("an empty file of weights", WHOLE, lambda p: gde.read_weights(written(p, b""))),
    (
        "a cut PyTorch file",
        WHOLE,
        lambda p: (
            torch.save({"a": torch.zeros(99)}, p),
            gde.read_weights(written(p, p.read_bytes()[:300])),
        ),
    ),
    ("a zip that is no PyTorch file", WHOLE, lambda p: gde.read_weights(archive(p, a=b""))),
    ("an empty safetensors file", WHOLE, lambda p: training.read_tensors(written(p, b""))),
    (
        "a safetensors file with an endless header",
        WHOLE,
        lambda p: training.read_tensors(written(p, struct.pack("<Q", 2**63) + b"{}")),
    ),
    (
        "a safetensors file with a header that is no JSON",
        WHOLE,
        lambda p: training.read_tensors(written(p, lying(b"not json"))),
    ),
    (
        "a safetensors file that promises more",
        WHOLE,
        lambda p: training.read_tensors(
            written(p, lying({"a": dict(dtype="F32", shape=[9], data_offsets=[0, 36])}, b"\0" * 4))
        ),
    ),
    (
        "a safetensors file with a shape that is not its data",
        WHOLE,
        lambda p: training.read_tensors(
            written(p, lying({"a": dict(dtype="F32", shape=[9], data_offsets=[0, 4])}, b"\0" * 4))
        ),
    ),
    (
        "a safetensors file with tensors over each other",
        WHOLE,
        lambda p: training.read_tensors(
            written(
                p,
                lying(
                    {n: dict(dtype="F32", shape=[1], data_offsets=[0, 4]) for n in "ab"}, b"\0" * 4
                ),
            )
        ),
    ),
    (
        "a safetensors file of an unknown dtype",
        WHOLE,
        lambda p: training.read_tensors(
            written(p, lying({"a": dict(dtype="X9", shape=[1], data_offsets=[0, 4])}, b"\0" * 4))
        ),
    ),
    (
        "a safetensors file with a note that is no JSON",
        WHOLE,
        lambda p: training.read_tensors(written(p, lying({"__metadata__": {"about": "{"}}))),
    ),
    ("a missing safetensors file", "No such file", lambda p: training.read_tensors(p)),
    (
        "a folder in place of a safetensors file",
        "",
        lambda p: (p.mkdir(), training.read_tensors(p)),
    ),
    (
        "a folder without a classifier",
        r"no classifier.json",
        lambda p: gde.load_pretrained(weights(p, classifier_json=None)),
    ),
    (
        "a record that is no JSON",
        "weights must have the record of their training",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=b'{"config"')),
    ),
    (
        "a record of bytes",
        "weights must have the record of their training",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=b"\xff\xfe\x00")),
    ),
    (
        "a record that is a list",
        "weights must have the record of their training",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=b"[]")),
    ),
    (
        "a record too deep",
        "weights must have the record of their training",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=b"[" * 100_000)),
    ),
    (
        "a record with an unknown schedule",
        "weights must have the record",
        lambda p: gde.load_pretrained(
            weights(p, diffusion_json=changed(schedule=dict(name="steep", T=1000)))
        ),
    ),
    (
        "a record with too many steps",
        "weights must have the record",
        lambda p: gde.load_pretrained(
            weights(p, diffusion_json=changed(schedule=dict(name="linear", T=10**15)))
        ),
    ),
    (
        "a record with steps that are a word",
        "weights must have the record",
        lambda p: gde.load_pretrained(
            weights(p, diffusion_json=changed(schedule=dict(name="linear", T="many")))
        ),
    ),
    (
        "a record with an unknown field",
        "weights must fit their record",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=changed(config=dict(depth=3)))),
    ),
    (
        "a record of another network",
        "weights must fit their record",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=changed(config=asdict(PLAN)))),
    ),
    (
        "a record of an impossible network",
        "channels must be",
        lambda p: gde.load_pretrained(weights(p, diffusion_json=changed(config=dict(channels=-1)))),
    ),
    (
        "cut weights",
        WHOLE,
        lambda p: gde.load_pretrained(
            weights(
                p,
                diffusion_safetensors=(
                    pretrained.WEIGHTS / "digits" / "diffusion.safetensors"
                ).read_bytes()[:5000],
            )
        ),
    ),
    ("no .npz", NOT_NPZ, lambda p: gde.Batch(written(p, b"PK no archive"))),
    ("an .npz that is a folder", "", lambda p: (p.mkdir(), gde.Batch(p))),
    (
        "an .npz with a member that leaves the folder",
        r"batch must hold samples \(arr_0\)",
        lambda p: gde.Batch(archive(p, DOTS__DOTS__evil=npy())),
    ),
    (
        "an .npz with objects",
        "can run code",
        lambda p: gde.Batch(archive(p, arr_0=npy(descr="|O"))),
    ),
    (
        "an .npz with samples of a promised size",
        "arr_0 ends after 0 samples",
        lambda p: list(gde.Batch(archive(p, arr_0=npy(shape=(10**12, 8, 8, 3)))).split(4)),
    ),
    (
        "an .npz with pictures too large",
        "arr_0 must be .* sides up to 2048",
        lambda p: gde.Batch(archive(p, arr_0=npy(shape=(1, 10**6, 10**6, 3)))),
    ),
    (
        "an .npz with sizes below 0",
        "arr_0 must be",
        lambda p: gde.Batch(archive(p, arr_0=npy(shape=(4, -8, -8, 3)))),
    ),
    (
        "an .npz with statistics that are a bomb",
        "array mu must be of at most 1 GiB",
        lambda p: gde.Batch(archive(p, mu=npy(descr="<f8", shape=(10**9,)))).array("mu"),
    ),
    (
        "an .npz with statistics that are cut",
        "",
        lambda p: gde.Batch(archive(p, mu=npy(descr="<f8", shape=(10**4,)))).array("mu"),
    ),
    (
        "an .npz with half of the statistics",
        NOT_NPZ,
        lambda p: gde.Batch(archive(p, mu=npy(descr="<f8", shape=(0,)))).array("sigma"),
    ),
    (
        "an .npz whose header is code",
        "",
        lambda p: gde.Batch(archive(p, arr_0=npy().replace(b"'|u1'", b"RAN+1"))),
    ),
    (
        "an .npz whose header is too deep",
        "",
        lambda p: gde.Batch(
            archive(p, arr_0=b"\x93NUMPY\x01\x00" + struct.pack("<H", 9000) + b"(" * 9000)
        ),
    ),
    ("a pickle for an .npz", NOT_NPZ, lambda p: gde.Batch(written(p, pickle.dumps(Payload())))),
    (
        "an image bomb",
        r"cannot be read \(DecompressionBombError\)",
        lambda p: gde.load_data(f"folder:{png(p / 'a' / 'a.png', 60_000, 60_000)}"),
    ),
    (
        "a cut picture",
        r"cannot be read",
        lambda p: gde.load_data(f"folder:{png(p / 'a' / 'a.png', 64, 64)}"),
    ),
    (
        "a picture of no size",
        r"cannot be read",
        lambda p: gde.load_data(f"folder:{png(p / 'a' / 'a.png', 0, 0)}"),
    ),
    (
        "text named .png",
        r"cannot be read",
        lambda p: (
            png(p / "a" / "b.png", 1, 1),
            written(p / "a" / "b.png", b"text"),
            gde.load_data(f"folder:{p}"),
        ),
    ),
    (
        "an empty folder",
        "data must be a folder with one folder of pictures a class",
        lambda p: (p.mkdir(), gde.load_data(f"folder:{p}")),
    ),
    (
        "a file for a folder",
        "data must be a folder",
        lambda p: gde.load_data(f"folder:{written(p, b'')}"),
    ),
    (
        "emoji with a list that is no JSON",
        "data must be emoji with a list",
        lambda p: gde.load_data(emoji(p, "[")),
    ),
    (
        "emoji with a list of other things",
        "data must be emoji with a list",
        lambda p: gde.load_data(emoji(p, '[{"image": 3, "category": "a"}]')),
    ),
    (
        "emoji that leave their folder",
        "none was found",
        lambda p: gde.load_data(
            emoji(p, json.dumps([dict(image="../../../emoji.json", category="a")]))
        ),
    ),
    ("a font that is none", "", lambda p: gde.load_data(f"emoji:{written(p, b'no font')}")),
    ("an empty IDX file", "whole file of MNIST's format", lambda p: data.read_idx(written(p, b""))),
    (
        "a cut IDX file",
        "whole file of MNIST's format",
        lambda p: data.read_idx(written(p, bytes([0, 0, 8, 1, 0, 0, 0, 9, 1]))),
    ),
    (
        "an IDX file that promises all there is",
        "whole file of MNIST's format",
        lambda p: data.read_idx(written(p, bytes([0, 0, 8, 4]) + b"\xff" * 99)),
    ),
    (
        "a gzipped IDX file that is cut",
        "whole file of MNIST's format",
        lambda p: data.read_idx(written(p.with_suffix(".gz"), gzip.compress(bytes(999))[:20])),
    ),
    (
        "a checkpoint of another run",
        "out must be a new folder or one of the same run",
        lambda p: (p.mkdir(), whole(p / "diffusion.checkpoint"), trained(p)),
    ),
    (
        "a checkpoint that is cut",
        WHOLE,
        lambda p: (p.mkdir(), written(p / "diffusion.checkpoint", b"cut"), trained(p)),
    ),
    (
        "a record of measurements that is none",
        "out must be a new file or a record of such a run",
        lambda p: tradeoff._resumed(written(p, b'{"rows"'), {}),
    ),
    (
        "weights from a host without https",
        "must come by https",
        lambda p: gde.fetch_openai("64x64_classifier", p, answering(b"x", "http://elsewhere")),
    ),
    (
        "weights that end too soon",
        r"must be whole: got 1 of 2 bytes",
        lambda p: gde.fetch_openai("64x64_classifier", p, answering(b"x", length=2)),
    ),
    (
        "weights that were exchanged",
        "must have the SHA-256",
        lambda p: (
            gde.fetch_openai("64x64_classifier", p, answering(b"x")),
            written(p / "64x64_classifier.pt", b"y"),
            gde.fetch_openai("64x64_classifier", p),
        ),
    ),
    (
        "half precision of damaged weights",
        WHOLE,
        lambda p: gde.write_half(weights(p / "a", diffusion_safetensors=b""), p / "b"),
    ),
]


def answering(body, url="https://there", length=None):
    "What `urlopen` gives, without a network."

    def open_url(address, timeout):
        answer = io.BytesIO(body)
        answer.geturl, answer.headers = lambda: url, {"Content-Length": str(length or len(body))}
        return answer

    return open_url


def trained(path, **more):
    recipe = gde.Recipe(steps=4, batch=4, warmup=1, save_every=2)
    return gde.train_diffusion(PLAN, DATA, path, recipe, progress=False, **more)


@pytest.mark.parametrize(
    "said, use", [pytest.param(said, use, id=what) for what, said, use in FILES]
)
@pytest.mark.filterwarnings("ignore")
def test_a_bad_file_is_refused_in_one_line_and_runs_nothing(tmp_path, said, use):
    path = tmp_path / "inside" / "file.pt"
    path.parent.mkdir()
    with pytest.raises((ValueError, OSError)) as caught:
        use(path)
    assert re.search(said, str(caught.value)) and "\n" not in str(caught.value), caught.value
    assert not RAN and [p.name for p in tmp_path.iterdir()] == ["inside"]
    assert not [p for p in path.parent.rglob(".*")]  # nothing half written


# Commands: one line on standard error, exit code 2, nothing written.

COMMANDS = [
    ("", "the following arguments are required: verb"),
    ("fly", "invalid choice: 'fly'"),
    ("sample", "required: --out"),
    ("sample --out a.png --weights lion", "weights must be one of"),
    ("sample --out a.png --label 10", "--label must be a class in [0, 10) or one of ['0'"),
    ("sample --out a.png --label -1", "--label must be a class"),
    ("sample --out a.png --label 1.5", "got '1.5'"),
    (
        "sample --out a.png --eta 0.5 --sampler ddpm",
        "--eta must be with --sampler ddim only, got ddpm",
    ),
    (
        "sample --out a.png --gradient-at mean",
        "--gradient-at must be with --sampler ddpm only, got ddim",
    ),
    ("sample --out a.png --eta 2", "eta must be between"),
    ("pack a a", "out must be another folder than run_folder"),
    (
        "data --data digits --image-size 16",
        "--image-size must be with folder:PATH or emoji:PATH only, got 16",
    ),
    (
        "train diffusion --data emoji:x --unfit skip --out a",
        "--unfit must be with folder:PATH only, got skip",
    ),
    ("data --data digits --out a.jpg", "--out must be a .png or .npz file, got 'a.jpg'"),
    ("evaluate a.npz b.npz --out no/a.json", "--out must be in a folder that exists"),
    ("evaluate a.npz b.npz --statistics no/a.npz", "--statistics must be in a folder that exists"),
    ("tradeoff --out no/a.json", "--out must be in a folder that exists"),
    ("sample --out a.png --scale nan", "--scale must be a finite number"),
    ("sample --out a.png --scale inf", "--scale must be a finite number"),
    ("sample --out a.png --scale much", "invalid float value: 'much'"),
    ("sample --out a.png --steps 0", "steps must be between"),
    ("sample --out a.png --steps 1001", "steps must be between"),
    ("sample --out a.png --steps ddim999", "'ddim999'"),
    ("sample --out a.png --steps ten", "got 'ten'"),
    ("sample --out a.png --count 0", "--count must be at least 1"),
    ("sample --out a.png --count -5", "--count must be at least 1"),
    ("sample --out a.png --seed x", "invalid seed value: 'x'"),
    ("sample --out a.png --seed 99999999999999999999", "invalid seed value"),
    ("sample --out a.png --seed -1", "invalid seed value"),
    ("sample --out a.png --sampler euler", "invalid choice: 'euler'"),
    ("sample --out a.gif", "--out must be a .png or .npz file"),
    ("sample --out no/a.png", "--out must be in a folder that exists"),
    ("sample --out a.png --weights .", "no diffusion.json"),
    (
        "sample --out a.png --count 2 --scale 1e38 --steps 2",
        "must give finite numbers, and at t = 0 it did not (x_t was up to ",
    ),
    ("train", "required: what"),
    ("train diffusion", "required: --data"),
    ("train both --data digits --out a", "invalid choice: 'both'"),
    ("train diffusion --data lions --out a", "data must be"),
    ("train diffusion --data folder:lions --out a", "data must be a folder"),
    ("train diffusion --data emoji:lions --out a", "data must be emoji"),
    ("train diffusion --data digits --out a --steps 0", "--steps must be at least 1"),
    ("train diffusion --data digits --out a --batch 0", "--batch must be at least 1"),
    ("train diffusion --data digits --out a --lr nan", "lr must be"),
    ("train diffusion --data digits --out a --ema-decay 1", "ema_decay must be"),
    ("train diffusion --data digits --out a --precision int8", "invalid choice: 'int8'"),
    ("train diffusion --data digits --out a --seed -1", "seed must be"),
    ("train diffusion --data digits --out a --small", "--small must be with --data"),
    (
        "train classifier --data digits --out a --accumulate 3 --no-samples",
        "batch must be a multiple",
    ),
    ("train diffusion --data folder:. --image-size 0 --out a", "image_size must be"),
    ("data --data lions", "data must be"),
    ("data --data digits --unfit guess", "invalid choice: 'guess'"),
    ("data --data digits --out no/a.png", "--out must be in a folder that exists, got 'no/a.png'"),
    ("pack no out", "source must be a folder with trained weights"),
    ("pack", "required"),
    ("evaluate a.npz", "required: B"),
    ("evaluate a.npz b.npz", "batch must be a file"),
    ("evaluate a.npz b.npz --repeats x", "invalid int value"),
    ("tradeoff --out a.json --count 5", "--count must be more than 128"),
    ("tradeoff --out a.json --scales 1,x", "invalid list of float value"),
    ("tradeoff --out a.json --steps 5,", "invalid list of int value"),
    ("tradeoff --out a.json --weights lion", "weights must be one of"),
    ("tradeoff", "required: --out"),
    ("info --now", "unrecognized arguments"),
]


@pytest.mark.parametrize("line, said", COMMANDS, ids=[line for line, _ in COMMANDS])
def test_a_bad_command_is_one_line_and_exit_code_2(tmp_path, monkeypatch, capsys, line, said):
    monkeypatch.chdir(tmp_path)
    try:
        code = main(line.split())
    except SystemExit as stop:
        code = stop.code
    out, err = capsys.readouterr()
    assert (
        code == 2
        and said in err
        and err.count("\n") == 1
        and "Traceback" not in err
        and (out == "" or line.startswith("data"))
    ), (code, out, err)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


# A disk that is full, a folder that cannot be written in, an interrupt: an earlier result stays as it was, and nothing half written is left.

DIGITS = pretrained.WEIGHTS / "digits"
RANDOM = torch.rand(130, 1, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
WRITERS = [  # (what, name of the file, how it is written)
    ("write_text", "a.txt", lambda p: training.write_text(p, "new")),
    (
        "write_tensors",
        "a.safetensors",
        lambda p: training.write_tensors(p, {"a": torch.zeros(3)}, {}),
    ),
    ("write_png", "a.png", lambda p: cli.write_png(p, RANDOM)),
    ("write_npz", "a.npz", lambda p: cli.write_npz(p, RANDOM, torch.zeros(130).long(), "0")),
    ("write_half", "diffusion.safetensors", lambda p: gde.write_half(DIGITS, p.parent)),
    (
        "write_reference",
        "a.npz",
        lambda p: evaluation.write_reference(
            p,
            evaluation.Extracted(*[evaluation.Gaussian(torch.zeros(2), torch.eye(2))] * 2),
            "none",
        ),
    ),
    (
        "watch_samples",
        "samples-000003.png",
        lambda p: gde.watch_samples(p.parent, LINE, (1, 1, 8, 8), steps=2)(NET, range(3)),
    ),
    ("train_diffusion", "diffusion.json", lambda p: trained(p.parent)),
    ("gde sample to .png", "a.png", lambda p: ended(f"sample --count 2 --steps 2 --out {p}")),
    ("gde sample to .npz", "a.npz", lambda p: ended(f"sample --count 2 --steps 2 --out {p}")),
    ("gde data", "a.png", lambda p: ended(f"data --data digits --out {p}")),
    ("gde pack", "diffusion.json", lambda p: ended(f"pack {DIGITS} {p.parent}")),
]


def ended(line):
    if main(line.split()):
        raise OSError("exit code")


def full(*_):
    raise OSError(errno.ENOSPC, "No space left on device")


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    "name, write", [pytest.param(name, write, id=what) for what, name, write in WRITERS]
)
@pytest.mark.parametrize(
    "fault", ["full when it is forced", "full at the move", "interrupted", "no folder"]
)
def test_a_fault_while_writing_leaves_what_was_there(
    tmp_path, monkeypatch, capsys, name, write, fault
):
    folder = tmp_path / "out"
    if fault == "no folder":  # a path under a file cannot be written, by nobody
        folder.write_text("a file")
        with pytest.raises((OSError, ValueError)):
            write(folder / name)
        assert folder.read_text() == "a file" and [p.name for p in tmp_path.iterdir()] == ["out"]
        return
    folder.mkdir()
    (folder / name).write_text("earlier")
    monkeypatch.setattr(
        os,
        *dict(
            zip(
                ["full when it is forced", "full at the move", "interrupted"],
                [("fsync", full), ("replace", full), ("fsync", interrupted)],
            )
        )[fault],
    )
    with pytest.raises((OSError, KeyboardInterrupt)):
        write(folder / name)
    assert "Traceback" not in capsys.readouterr().err
    assert (folder / name).read_text() == "earlier" and not [
        p for p in folder.iterdir() if p.name.startswith(".")
    ]


def test_a_full_device_says_so():
    with pytest.raises(OSError, match="No space left"):
        training.write_whole(
            "/dev/shm/never", lambda p: open("/dev/full", "wb", buffering=0).write(b"x")
        )


def test_an_interrupted_training_goes_on_from_its_checkpoint(tmp_path):
    "Stopped at the first checkpoint's watch, as by Ctrl-C, and taken up again: the weights of a run that was not stopped."
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "a", watch=[interrupted])
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["diffusion.checkpoint"]
    torch.manual_seed(5)
    again, straight = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert all(
        torch.equal(a, b)
        for a, b in zip(again.state_dict().values(), straight.state_dict().values())
    )


def test_an_interrupted_command_ends_with_130(tmp_path, monkeypatch, capsys):
    (tmp_path / "a.npz").write_text("earlier")
    monkeypatch.setattr(cli, "draw_guided", interrupted)
    assert main(["sample", "--out", str(tmp_path / "a.npz")]) == 130
    assert (
        capsys.readouterr().err == "gde sample: interrupted; what was written before is whole\n"
        and (tmp_path / "a.npz").read_text() == "earlier"
    )


def test_a_download_that_fails_is_one_line(tmp_path, monkeypatch):
    from torchvision import datasets

    def fails(*_, **__):
        raise RuntimeError("Error downloading train-images\nand more")

    monkeypatch.setattr(datasets, "MNIST", fails)
    with pytest.raises(
        OSError, match=r"^data 'mnist' must be in .* Error downloading train-images$"
    ):
        gde.load_data("mnist", root=tmp_path)


def test_on_a_device_nothing_is_looked_at():
    "On torch's device `meta`, which has no numbers, a check that waits for them cannot pass; the guided chain up to its last line does."
    x, t, y = (v.to("meta") for v in (PIXELS, T, Y))
    assert LINE.add_noise(x, t, x).is_meta
    net, judge = gde.UNet(replace(PLAN, num_classes=3)).to("meta"), gde.Classifier(GUIDE).to("meta")
    assert net(x, t, y).is_meta and gde.classifier_loss(judge, LINE, x, y, t, x).is_meta
    guidance = gde.classifier_guidance(JUDGE, Y)  # the classes are looked at here, once
    looked = []

    class Watched(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func._overloadpacket in (
                torch.ops.aten._local_scalar_dense,
                torch.ops.aten.is_nonzero,
            ):
                looked.append(func)
            return func(*args, **(kwargs or {}))

    with Watched():
        guidance(PIXELS, T)
    assert not looked


def test_a_step_outside_is_nan_where_nobody_looks():
    "What `per_example` does on a GPU, by its own formula on the CPU."

    class Elsewhere(torch.Tensor):
        is_cpu = False

    t = torch.tensor([0, -1, 100, 99]).as_subclass(Elsewhere)
    found = schedules.per_example(LINE.betas, t, torch.zeros(4)).as_subclass(torch.Tensor)
    assert (
        found.isnan().tolist() == [False, True, True, False] and found[3] == LINE.betas[99].float()
    )


def test_empty_in_empty_out():
    "A batch of none is no error: the samplers, the losses and the networks give none."
    nothing, none = PIXELS[:0], T[:0]
    assert LINE.add_noise(nothing, none, nothing).shape == NET(nothing, none).shape == (0, 1, 8, 8)
    assert gde.simple_loss(flat, LINE, nothing, none, nothing).shape == (0,)
    for sampler in SAMPLERS:
        x = sampler(NET, SHORT, (0, 1, 8, 8), guidance=gde.classifier_guidance(JUDGE, none, 2.0))
        assert x.shape == (0, 1, 8, 8)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_unknown_class_is_refused_before_the_network_runs(sampler):
    class Silent(torch.nn.Module):
        config = SimpleNamespace(num_classes=3)

        def forward(self, x_t, t, y=None):
            pytest.fail("the network was asked")

    for options in ({}, dict(x_T=X)):
        with pytest.raises(ValueError, match=r"y must hold classes in \[0, 3\), got 2 to 3"):
            sampler(Silent().double(), SHORT, (2, 2), y=Y + 2, **options)


def test_extreme_scales_give_finite_samples_or_say_so():
    for scale in (1e-30, 1e-3, 1e3, 1e6, -5.0):
        x = gde.ddim_sample(
            EPS, SHORT, (2, 2), guidance=gde.classifier_guidance(NAMES, Y, scale), x_T=X + 0.1
        )
        assert x.isfinite().all(), scale


def picture():
    from PIL import Image

    return Image.new("RGB", (8, 8))


def judge():
    return gde.digits_judge()


@pytest.mark.parametrize(
    "said, call", [pytest.param(said, call, id=what) for what, said, call in TABLE]
)
def test_it_is_refused_in_one_line(said, call):
    with pytest.raises((ValueError, TypeError, OSError)) as caught:
        call()
    message = str(caught.value)
    assert re.search(said, message) and "\n" not in message, message


def test_the_table_is_long_enough():
    assert len(TABLE) >= 150 and len(TABLE) + len(FILES) + len(COMMANDS) + 4 * len(WRITERS) >= 400
    assert len({what for what, _, _ in TABLE}) == len(TABLE)


# Public names without a case of their own. Arithmetic on what they are given, numbers or tensors: their only errors are torch's.
FORMULAS = set(
    """bound_weight decoder_log_prob eps_from_flow eps_from_mean eps_from_v eps_from_x0 error_law flow_time gaussian_kl
    guided_velocity large_variance mean_from_eps posterior_mean posterior_variance score_from_eps small_variance step_variance target_weight
    guided_x_0 to_flow x0_from_eps masked replace_known""".split()
)
# What they are made of is tried above, or they take nothing that could be wrong.
FORMULAS |= set(
    """Bits compile_stages Particles Pretrained Release as_eps available_weights draw_unet fit frechet_distance guidance_on_flow model_card moving_average
    of_class processes quick_precision recompute_stages rescaled_guidance score_table steps_an_hour tilted_law training_cost transfer_gap
    velocity_of waiting watch_tensorboard""".split()
)


def test_no_public_function_is_left_out():
    used = " ".join(what for what, _, _ in TABLE) + Path(__file__).read_text()
    public = {
        name for name in vars(gde) if not name.startswith("_") and callable(getattr(gde, name))
    }
    left_out = {name for name in public if not re.search(rf"\bgde\.{name}\b", used)}
    assert left_out == FORMULAS, left_out ^ FORMULAS
