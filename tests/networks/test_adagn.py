"""The blocks of the networks."""

import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.layers import AttentionBlock, attend


def test_attention_is_fused():
    """A kernel that never holds the scores as a whole takes what `attend` hands it, on the way back
    as well.
    """
    qkv = torch.randn(2, 3 * 8, 16, requires_grad=True)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
        fused = attend(qkv, 2)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        plain = attend(qkv, 2)
    assert torch.allclose(fused, plain, atol=1e-6)
    weights = torch.randn_like(fused)
    assert torch.allclose(
        *(torch.autograd.grad((out * weights).sum(), qkv)[0] for out in (fused, plain)), atol=1e-5
    )


X, T = torch.zeros(2, 3, 16, 16), torch.tensor([0, 999])


def test_blocks_refuse_what_does_not_divide():
    with pytest.raises(ValueError, match="channels must be a multiple of groups = 32, got 48"):
        gde.AdaGN(48, 8)
    with pytest.raises(
        ValueError, match="channels must be a multiple of head_channels = 64, got 96"
    ):
        AttentionBlock(96)
    with pytest.raises(ValueError, match="dim must be even"):
        gde.timestep_embedding(T, 7)
