"""The labelled equations of "plotting", in numbers."""

import torch

import guided_diffusion_edu as gde


def test_eq_pixels():
    levels = torch.arange(256, dtype=torch.uint8)
    assert gde.from_pixels(levels)[[0, 255]].tolist() == [-1, 1]
    assert torch.equal(gde.to_pixels(gde.from_pixels(levels)), levels)
    assert gde.to_pixels(torch.tensor([0.0, 2.0, -2.0])).tolist() == [128, 255, 0]
