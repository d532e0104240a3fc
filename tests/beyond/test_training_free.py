"""Guidance by a wish, on the shipped digits."""

import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.training_free import corrected_guidance, known_pixels, measurement_loss


def test_a_half_known_digit():
    digits = gde.load_pretrained("digits")
    image, upper = (
        gde.from_pixels(gde.load_data("digits", train=False).pixels[:6]),
        (torch.arange(8) < 4).float()[:, None],
    )
    guidance = gde.x_0_guidance(
        digits.model,
        digits.schedule,
        measurement_loss(known_pixels(upper), upper * image, 0.2),
    )
    guidance = gde.interval_guidance(
        corrected_guidance(guidance, digits.schedule, 0.2, std=0.5), 0, 700
    )
    x = gde.ddim_sample(
        digits.model,
        gde.respace(digits.schedule, 15),
        image.shape,
        guidance=guidance,
        eta=1.0,
        generator=torch.Generator().manual_seed(0),
    )

    def miss(a):
        return (upper * (a - image)).square().mean().sqrt()

    assert miss(x) < 0.4 * miss(image.roll(1, 0)) and x.abs().max() < 1.5
