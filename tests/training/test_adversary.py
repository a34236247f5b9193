# SPDX-License-Identifier: Apache-2.0
import pytest
import torch
from accelerate import Accelerator

from genaccel.training.adversary import Adversary


def adversary():
    torch.manual_seed(0)
    return Adversary(Accelerator(cpu=True), learning_rate=2e-4, gradient_clip_norm=1.0)


def test_it_learns_what_is_real_and_its_verdict_points_there():
    judge = adversary()
    torch.manual_seed(1)
    real, made = torch.rand(2, 3, 32, 32), -torch.rand(2, 3, 32, 32)
    losses = [float(judge.update(real, made, learning_rate=2e-4)) for _ in range(12)]
    assert losses[-1] < 0.5 * losses[0]
    image = made.clone().requires_grad_()
    judge.verdict(image).backward()
    assert float(image.grad.abs().sum()) > 0
    assert float(judge.verdict(made)) > float(judge.verdict(real))


def test_a_verdict_leaves_no_gradient_and_the_made_image_gets_none_from_an_update():
    judge = adversary()
    made = torch.rand(1, 3, 32, 32, requires_grad=True)
    judge.verdict(made).backward()
    assert all(p.grad is None for p in judge._network.parameters())
    made.grad = None
    judge.update(torch.rand(1, 3, 32, 32), made, learning_rate=1e-3)
    assert made.grad is None


def test_a_restored_adversary_goes_on_alike():
    first, second = adversary(), adversary()
    real, made = torch.rand(1, 3, 32, 32), torch.rand(1, 3, 32, 32)
    first.update(real, made, learning_rate=1e-3)
    second.load_state_dict(first.state_dict())
    a, b = (float(judge.update(real, made, learning_rate=1e-3)) for judge in (first, second))
    assert a == pytest.approx(b, rel=1e-6)
