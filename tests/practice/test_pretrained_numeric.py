"""The labelled equations of "pretrained", in numbers."""

import pytest
import torch

from guided_diffusion_edu.pretrained import standard_error


def test_eq_share_error():
    shares = (
        (torch.rand(20_000, 300, generator=torch.Generator().manual_seed(0)) < 0.97)
        .double()
        .mean(1)
    )
    assert shares.std().item() == pytest.approx(standard_error(0.97, 300), rel=0.03)
