"""What the page "validation" refuses, and how it says so."""

from dataclasses import replace

import torch

import guided_diffusion_edu as gde
from bad_input import GUIDE, JUDGE, LINE, NET, PIXELS, PLAN, SAMPLERS, SHORT, T, Y, flat


def test_on_a_device_nothing_is_looked_at():
    """On torch's device `meta`, which has no numbers, a check that waits for them cannot pass; the
    guided chain up to its last line does.
    """
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


def test_empty_in_empty_out():
    "A batch of none is no error: the samplers, the losses and the networks give none."
    nothing, none = PIXELS[:0], T[:0]
    assert LINE.add_noise(nothing, none, nothing).shape == NET(nothing, none).shape == (0, 1, 8, 8)
    assert gde.simple_loss(flat, LINE, nothing, none, nothing).shape == (0,)
    for sampler in SAMPLERS:
        x = sampler(NET, SHORT, (0, 1, 8, 8), guidance=gde.classifier_guidance(JUDGE, none, 2.0))
        assert x.shape == (0, 1, 8, 8)
