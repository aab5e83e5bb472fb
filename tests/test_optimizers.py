"""The optimizers of conf/optimizer, built from the files as they stand."""

import copy

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import nn

from sam_age.config import CONF_DIR
from tests.golden import Golden, assert_matches

CASE = Golden()["ranger"]
NAMES = sorted(path.stem for path in (CONF_DIR / "optimizer").glob("*.yaml"))


def optimizer(name, parameters, **changes):
    config = OmegaConf.load(CONF_DIR / "optimizer" / f"{name}.yaml")
    return instantiate(OmegaConf.merge(config, changes))(list(parameters))


def golden_problem(dtype=torch.float32):
    """Parameters at their starting points, and the loss 0.5 sum(a (p - t)^2) of the golden case."""
    tensors = {name: x.to(dtype) for name, x in CASE.tensors().items()}
    parameters = {k: nn.Parameter(tensors[f"init_{k}"].clone()) for k in ("p1", "p2", "p4", "p5")}

    def loss():
        squares = (tensors[f"a_{k}"] * (p - tensors[f"t_{k}"]) ** 2 for k, p in parameters.items())
        return sum(square.sum() / 2 for square in squares)

    return parameters, loss


def run(optimizer, loss, steps):
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


@pytest.mark.parametrize(
    ("label", "changes"),
    [("lr1e-3", {"lr": 1e-3}), ("lr1e-4", {}), ("wd", {"lr": 1e-3, "weight_decay": 10.0})],
)
def test_ranger_follows_the_authors_trajectory(label, changes):
    parameters, loss = golden_problem()
    ranger = optimizer("ranger", parameters.values(), **changes)
    seen, done = {k: [] for k in parameters}, 0
    for step in CASE.notes["steps"]:
        run(ranger, loss, step - done)
        done = step
        for name, parameter in parameters.items():
            seen[name].append(parameter.detach().clone())
    got = {f"{label}_{name}": torch.stack(values) for name, values in seen.items()}
    if label == "lr1e-3":
        for state in ("exp_avg", "exp_avg_sq", "slow_buffer"):
            got |= {f"{state}_{name}": ranger.state[p][state] for name, p in parameters.items()}
    assert_matches(CASE, got)


@pytest.mark.parametrize("name", NAMES)
def test_resumed_optimizer_continues_bit_for_bit(name):
    parameters, loss = golden_problem()
    straight = optimizer(name, parameters.values())
    run(straight, loss, 8)  # past Ranger's first lookahead and its first rectified step
    saved = copy.deepcopy([straight.state_dict(), {k: p.detach() for k, p in parameters.items()}])
    run(straight, loss, 9)

    again, loss_again = golden_problem()
    resumed = optimizer(name, again.values())
    resumed.load_state_dict(saved[0])
    with torch.no_grad():
        for k, parameter in again.items():
            parameter.copy_(saved[1][k])
    run(resumed, loss_again, 9)
    assert all(torch.equal(parameters[k], again[k]) for k in parameters)


@pytest.mark.parametrize("name", NAMES)
def test_the_first_five_steps_descend(name):
    """Ranger has no mean square yet; Lookahead, which may climb, first acts at step 6."""
    parameters, loss = golden_problem(torch.float64)
    chosen = optimizer(name, parameters.values(), **({"warmup_steps": 0} if name == "schedule_free" else {}))
    losses = [loss().item()]
    for _ in range(5):
        run(chosen, loss, 1)
        losses.append(loss().item())
    assert losses == sorted(losses, reverse=True)


def test_ranger_in_float64_agrees_with_float32_to_its_precision():
    results = []
    for dtype in (torch.float32, torch.float64):
        parameters, loss = golden_problem(dtype)
        run(optimizer("ranger", parameters.values(), lr=1e-3), loss, 25)
        results.append(torch.cat([p.detach().flatten().double() for p in parameters.values()]))
    assert (results[0] - results[1]).abs().max() < 1e-6 * results[1].abs().max()


def test_schedule_free_is_that_of_its_authors():
    reference = pytest.importorskip("schedulefree")
    weights = []
    for theirs in (False, True):
        torch.manual_seed(0)
        layer, x, y = nn.Linear(8, 4), torch.randn(64, 8), torch.randn(64, 4)
        settings = {"lr": 1e-2, "weight_decay": 0.01, "warmup_steps": 10}
        if theirs:
            chosen = reference.AdamWScheduleFree(layer.parameters(), **settings)
        else:
            chosen = optimizer("schedule_free", layer.parameters(), **settings)
        chosen.train()
        for _ in range(2):
            run(chosen, lambda layer=layer, x=x, y=y: (layer(x) - y).square().mean(), 15)
            chosen.eval()
            weights.append(layer.weight.detach().clone())
            chosen.train()
    for ours, theirs in zip(weights[:2], weights[2:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-7)


def test_ranger_has_the_papers_numbers():
    config = OmegaConf.load(CONF_DIR / "optimizer" / "ranger.yaml")
    assert (config.lr, list(config.betas), config.eps) == (1e-4, [0.95, 0.999], 1e-5)  # METHOD.md
    assert (config.k, config.alpha, config.weight_decay) == (6, 0.5, 0)
