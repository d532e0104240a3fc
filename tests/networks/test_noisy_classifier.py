"""What a classifier of noisy images refuses."""

import pytest
import torch

import guided_diffusion_edu as gde

SMALL = dict(
    image_size=16,
    channels=32,
    channel_mult=(1, 2),
    res_blocks=1,
    attention_resolutions=(8,),
    head_channels=16,
)


def test_a_classifier_has_classes():
    with pytest.raises(
        ValueError, match="num_classes must be a whole number of at least 1, got None"
    ):
        gde.ClassifierConfig(num_classes=None)


X, T = torch.zeros(2, 3, 16, 16), torch.tensor([0, 999])


def test_bad_inputs_of_a_classifier():
    classifier = gde.Classifier(gde.ClassifierConfig(**SMALL, num_classes=3))
    for x, message in (
        (X[:, :1], "x_t must have shape"),
        (torch.zeros(2, 3, 32, 32), "x_t must be images of 16 x 16, got"),
    ):
        with pytest.raises(ValueError, match=message):
            classifier(x, T)
    with pytest.raises(ValueError, match="t must have shape"):
        classifier(X, T[:1])
