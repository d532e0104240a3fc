"""The networks that the page `play_digits` runs, before any browser is asked: the packed graph
gives what torch gives.
"""

import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import guided_diffusion_edu as gde


@pytest.fixture(scope="module")
def exporter():
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parents[2] / "book"))
    import export_onnx

    return export_onnx


@pytest.fixture(scope="module")
def packed(exporter):
    return exporter.unpack(exporter.PLAY / "digits-model.js")


def test_the_packed_graph_equals_torch(exporter, packed):
    """Noise prediction, gradient of log p(y | x_t) and log-probabilities, to 2e-5, at noise levels
    from clean to pure noise.
    """
    onnx.checker.check_model(onnx.load_from_string(packed))
    run = onnxruntime.InferenceSession(packed, providers=["CPUExecutionProvider"]).run
    networks = exporter.networks(gde.load_pretrained("digits"))
    generator = torch.Generator().manual_seed(0)
    for level in (0, 40, 300, 999):
        x_t, t = torch.randn(10, 1, 8, 8, generator=generator), torch.full((10,), level)
        y = torch.randint(0, 10, (10,), generator=generator)
        found = run(None, dict(x_t=x_t.numpy(), t=t.numpy(), y=y.numpy()))
        for name, ours, wanted in zip(("eps", "gradient", "log_probs"), found, networks(x_t, t, y)):
            assert np.abs(ours - wanted.numpy()).max() < 2e-5, (name, level)
        assert np.abs(found[1]).max() > 0.01


def test_the_gradient_is_that_of_classifier_guidance(exporter):
    digits, t, y = gde.load_pretrained("digits"), torch.full((10,), 200), torch.arange(10)
    x_t = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    assert torch.equal(
        exporter.networks(digits)(x_t, t, y)[1],
        gde.classifier_guidance(digits.classifier, y)(x_t, t),
    )


def test_what_runs_backwards_and_has_no_name_in_onnx(exporter):
    "The two hand-written gradients, against autograd."
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(2, 3, 6, 6, generator=generator, requires_grad=True)
    weight = torch.randn(5, 3, 3, 3, generator=generator)
    above = torch.nn.functional.conv2d(x, weight, padding=1)
    grad = torch.randn(above.shape, generator=generator)
    ours, *_ = exporter.convolution_backward(
        grad, x, weight, None, [1, 1], [1, 1], [1, 1], False, [0, 0], 1, [True, False, False]
    )
    assert torch.allclose(ours, torch.autograd.grad(above, x, grad)[0], atol=1e-5)
    above = torch.nn.functional.avg_pool2d(x, 2)
    grad = torch.randn(above.shape, generator=generator)
    assert torch.allclose(
        exporter.avg_pool2d_backward(grad, x, [2, 2]), torch.autograd.grad(above, x, grad)[0]
    )
