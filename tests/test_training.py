"""The training loop: what it averages, that it can be taken up again, and that networks hear all that they are told."""
import pytest
import torch

import guided_diffusion_edu as gde
from guided_diffusion_edu.diffusion import simple_loss
from guided_diffusion_edu.training import draw_batch, fit

SMALL = gde.UNetConfig(image_size=8, in_channels=1, channels=32, channel_mult=(1, 1), res_blocks=1, attention_resolutions=(), head_channels=32, learned_variance=False)
RECIPE = gde.Recipe(steps=4, batch=8, save_every=2, warmup=1, ema_decay=0.5)


def plain(model, schedule, x_0, y, t, eps): return simple_loss(model, schedule, x_0, t, eps)


def run(folder, loss=plain, recipe=RECIPE):
    torch.manual_seed(0)
    model = gde.UNet(SMALL)
    average, losses = fit(model, loss, gde.load_data('digits'), gde.linear_schedule(), recipe, folder / 'checkpoint', {}, progress=False)
    return model, average, losses


def test_resumed_is_straight_to_the_bit(tmp_path):
    (tmp_path / 'a').mkdir(), (tmp_path / 'b').mkdir()
    _, straight, losses = run(tmp_path / 'a')
    calls = []
    def failing(*args):
        calls.append(1)
        if len(calls) > 3: raise KeyboardInterrupt  # in the fourth step, after the checkpoint of the second
        return plain(*args)
    with pytest.raises(KeyboardInterrupt): run(tmp_path / 'b', failing)
    _, resumed, again = run(tmp_path / 'b')
    assert losses == again
    for a, b in zip(straight.state_dict().values(), resumed.state_dict().values()): assert torch.equal(a, b)


def test_the_average_follows_the_weights(tmp_path):
    "One step at decay 0.5 leaves the average half way between the first weights and the present ones."
    torch.manual_seed(0)
    first = gde.UNet(SMALL).state_dict()
    model, average, _ = run(tmp_path, recipe=gde.Recipe(steps=1, batch=8, warmup=1, ema_decay=0.5))
    moved = model.state_dict()
    assert any(not torch.equal(first[name], moved[name]) for name in first)
    for name, value in average.state_dict().items(): assert torch.allclose(value, (first[name] + moved[name]) / 2, atol=1e-6)


def test_a_batch_is_a_function_of_seed_and_step():
    data, s = gde.load_data('digits'), gde.linear_schedule()
    draw = lambda seed, step: draw_batch(data, s, gde.Recipe(batch=4, seed=seed), step)[3]
    assert torch.equal(draw(1, 5), draw(1, 5))
    assert not torch.equal(draw(1, 5), draw(1, 6)) and not torch.equal(draw(1, 5), draw(2, 5))


def shaken(config):
    "A UNet whose zeroed layers have moved."
    torch.manual_seed(0)
    model = gde.UNet(config)
    for p in model.parameters():
        if p.abs().max() == 0: torch.nn.init.normal_(p, std=0.05)
    return model.eval()


def test_the_class_is_heard_and_asked_for():
    from dataclasses import replace
    model, x, t = shaken(replace(SMALL, classes=3)), torch.randn(2, 1, 8, 8), torch.tensor([5, 5])
    assert not torch.allclose(model(x, t, torch.tensor([0, 0])), model(x, t, torch.tensor([1, 1])))
    with pytest.raises(ValueError, match='y must hold a class'): model(x, t)
    with pytest.raises(ValueError, match='this model has no classes'): shaken(SMALL)(x, t, torch.tensor([0, 0]))
    with pytest.raises(ValueError, match=r't must have shape \(2,\)'): shaken(SMALL)(x, torch.tensor([5]))


def test_low_resolution_input_is_enlarged_bilinearly():
    from dataclasses import replace
    model, x, t, low = shaken(replace(SMALL, low_res=True)), torch.randn(2, 1, 8, 8), torch.tensor([5, 5]), torch.randn(2, 1, 4, 4)
    enlarged = torch.nn.functional.interpolate(low, (8, 8), mode='bilinear')
    assert torch.allclose(model(x, t, low_res=low), model(x, t, low_res=enlarged), atol=1e-5)
