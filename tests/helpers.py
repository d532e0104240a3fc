"""What tests of several chapters share: numbers, exact mixtures, small networks."""

import numpy
import torch

import guided_diffusion_edu as gde

DOUBLE = torch.float64


def randn(*shape, seed=0):
    return torch.randn(*shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed))


WORLD = gde.GaussianMixture(
    randn(4, 2), [0.3, 0.5, 0.4, 0.6], weights=[1, 2, 3, 4], labels=[0, 1, 1, 2]
)

LINEAR = gde.linear_schedule()

LINE = gde.three_modes()


def gaussian_log(points, mean, cov):
    return torch.distributions.MultivariateNormal(mean, cov).log_prob(points)


def bayes_back(x_0, x_t, a, a_prev):
    "Mean and variance of q(x_{t-1} | x_t, x_0) by Bayes' rule on a grid."
    grid, ratio = torch.linspace(-9, 9, 12_001, dtype=DOUBLE), a / a_prev
    p = (
        -((x_t - ratio**0.5 * grid) ** 2) / (2 * (1 - ratio))
        - (grid - a_prev**0.5 * x_0) ** 2 / (2 * (1 - a_prev))
    ).softmax(0)
    mean = (p * grid).sum()
    return mean.item(), (p * (grid - mean) ** 2).sum().item()


def step_back(world, t_from, t_to, x, y=None):
    """Mean and variance of q(x_{t_to} | x_{t_from} = x) in a one-dimensional world by Bayes' rule
    on a grid.
    """
    a, a_prev = LINEAR.alpha_bars[[t_from, t_to]].tolist()
    grid = torch.linspace(-9, 9, 36_001, dtype=DOUBLE)
    log = world.at(a_prev).log_prob(
        grid[:, None], None if y is None else torch.full((len(grid),), y)
    )
    p = (log - (x - (a / a_prev) ** 0.5 * grid) ** 2 / (2 * (1 - a / a_prev))).softmax(0)
    mean = (p * grid).sum()
    return mean.item(), (p * (grid - mean) ** 2).sum().item(), a, a_prev


def pixels(*shape):
    return (
        torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    ).double()


def lab_target(r, y, s):
    "Mean and variance of p(x) p(y | x)^s in the laboratory, by a grid."
    x = torch.linspace(-8, 8, 32_001, dtype=DOUBLE)
    p = (-(x**2) / 2 - s * (y - x) ** 2 / (2 * r**2)).softmax(0)
    mean = (p * x).sum()
    return mean.item(), (p * (x - mean) ** 2).sum().item()


BLUNT = gde.three_modes(stds=(0.4, 0.35, 0.45))


def network(config):
    return (gde.UNet if isinstance(config, gde.UNetConfig) else gde.Classifier)(config)


@torch.no_grad()
def randomise(model, seed=0):
    """Draws every weight anew, so that no layer is left at zero: matrices keep sizes, gains stay
    about 1.
    """
    g = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        if p.ndim > 1:
            p.normal_(0, (1.0 / p[0].numel()) ** 0.5, generator=g)
        else:
            p.normal_(0, 0.2, generator=g).add_(float(name.endswith("weight")))
    return model.eval()


# batches in files


def batch(path, count=150, size=8, channels=3, labels=True, seed=0):
    "A sample batch of noise."
    pixels = numpy.random.default_rng(seed).integers(
        0, 256, (count, size, size, channels), dtype=numpy.uint8
    )
    numpy.savez(path, pixels, *([numpy.arange(count) % 10] if labels else []))
    return path
