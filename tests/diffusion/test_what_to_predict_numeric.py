"""The labelled equations of "what to predict", in numbers."""

import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import bits_per_dim, large_variance, posterior_mean
from guided_diffusion_edu.losses import (
    SecondMomentSteps,
    bound_loss,
    dataset_bits,
    eps_from_mean,
    target_weight,
    v_from_eps,
)
from helpers import DOUBLE, LINEAR, pixels, randn


def test_eq_v_to_eps():
    x_0, noise = randn(5, 3), randn(5, 3, seed=1)
    for a in (0.9999, 0.5, 1e-4):
        x_t, v = a**0.5 * x_0 + (1 - a) ** 0.5 * noise, a**0.5 * noise - (1 - a) ** 0.5 * x_0
        assert torch.allclose(gde.eps_from_v(x_t, v, a), noise, atol=1e-12)
        assert torch.allclose(v_from_eps(x_0, noise, a), v, atol=1e-12)


def test_eq_mean_to_eps():
    x_t, noise = randn(5, 3), randn(5, 3, seed=1)
    for a, b in ((0.5, 0.6), (0.01, 0.02), (0.998, 0.999)):
        mean = posterior_mean(gde.x_0_from_eps(x_t, noise, a), x_t, a, b)
        assert torch.allclose(eps_from_mean(x_t, mean, a, b), noise, atol=1e-10)


def test_eq_target_weight():
    # a model of each output, wrong by a constant: the squared error of the output itself is the
    # weighted error of its noise
    x_0, noise, t = randn(4, 2), randn(4, 2, seed=1), torch.tensor([1, 20, 500, 999])
    a, b = LINEAR.alpha_bars[t][:, None], LINEAR.alpha_bars_prev[t][:, None]
    x_t = LINEAR.add_noise(x_0, t, noise)
    right = {
        gde.eps_from_x_0: x_0,
        gde.eps_from_v: a**0.5 * noise - (1 - a) ** 0.5 * x_0,
        eps_from_mean: posterior_mean(x_0, x_t, a, b),
    }
    for eps_from, output in right.items():
        model = gde.eps_model(lambda x, t, y=None: output + 0.3, LINEAR, eps_from)
        loss = gde.simple_loss(model, LINEAR, x_0, t, noise, weight=target_weight(LINEAR, eps_from))
        assert torch.allclose(loss, torch.tensor(0.09, dtype=DOUBLE), rtol=1e-6)


def test_eq_bound_estimate():
    s, x_0 = gde.linear_schedule(40), pixels(2, 1, 2, 2)

    def model(x, t, y):
        return 0.1 * x

    _, terms = bits_per_dim(model, s, x_0, generator=torch.Generator().manual_seed(5))
    g = torch.Generator().manual_seed(5)
    noises = [torch.randn(x_0.shape, dtype=DOUBLE, generator=g) for _ in range(40)]
    losses = torch.stack(
        [bound_loss(model, s, x_0, torch.full((2,), i), noises[i]) for i in range(40)], 1
    )
    clipped = [
        (
            gde.x_0_from_eps(
                s.add_noise(x_0, torch.full((2,), i), noises[i]),
                0.1 * s.add_noise(x_0, torch.full((2,), i), noises[i]),
                s.alpha_bars[i].item(),
            ).abs()
            > 1
        )
        .flatten(1)
        .any(1)
        for i in range(40)
    ]
    free = ~torch.stack(clipped, 1)  # where the bound's clip at 1 did nothing
    assert free.sum() > 10 and torch.allclose(losses[free] / 40, terms[free])


def test_an_eps_model_carries_the_config_and_the_device_of_its_network():
    class Network(torch.nn.Linear):
        config = "the config"

        def forward(self, x_t, t, y=None):
            return super().forward(x_t)

    model = gde.eps_model(Network(2, 2), LINEAR, gde.eps_from_v)
    assert model.config == "the config" and model.device == torch.device("cpu")
    assert gde.eps_model(lambda x_t, t, y=None: x_t, LINEAR, gde.eps_from_v).device is None


def test_the_bound_takes_its_variance_by_name_or_by_number():
    s, x_0, noise, t = (
        gde.linear_schedule(40),
        pixels(3, 1, 2, 2),
        pixels(3, 1, 2, 2),
        torch.arange(3),
    )

    def model(x_t, t, y=None):
        return 0.1 * x_t

    loss = {v: bound_loss(model, s, x_0, t, noise, variance=v) for v in ("auto", "small", "large")}
    assert torch.equal(loss["auto"], loss["small"]) and not torch.equal(loss["auto"], loss["large"])
    by_number = bound_loss(model, s, x_0, t.int(), noise, variance=large_variance(s))
    assert torch.equal(by_number, loss["large"])
    g = [torch.Generator().manual_seed(0) for _ in range(2)]
    bits = [dataset_bits(model, s, x_0, variance=v, generator=g.pop()) for v in ("small", "auto")]
    assert bits[0] == bits[1]


def trained_steps():
    steps, g = SecondMomentSteps(4), torch.Generator().manual_seed(0)
    mean, spread = torch.tensor([1.0, 0.1, 5.0, 0.1]), torch.tensor([0.1, 3.0, 0.5, 0.1])
    history = mean + spread * torch.randn(10, 4, generator=g)
    for row in history:
        steps.update(torch.arange(4), row)
    return steps, history.double()


def test_eq_importance():
    steps, _history = trained_steps()
    t, weight = steps.draw(40_000, torch.Generator().manual_seed(1))
    values = torch.tensor([3.0, -1.0, 0.5, 7.0], dtype=DOUBLE)
    sample = weight * values[t]
    assert abs(sample.mean() - values.mean()) < 5 * sample.std() / 200


def test_eq_second_moment():
    steps, history = trained_steps()
    M = history.square().mean(0)
    p = steps.probabilities()
    assert torch.allclose(p, 0.999 * M.sqrt() / M.sqrt().sum() + 0.001 / 4)

    def second(p):
        return (M / p).sum()

    for other in torch.distributions.Dirichlet(torch.ones(4)).sample((200,)).double():
        assert second(other) >= second(M.sqrt() / M.sqrt().sum())
    assert (
        SecondMomentSteps(4).probabilities().tolist() == [0.25] * 4
    )  # until every step has a history
