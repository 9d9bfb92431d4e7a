"""The mean of the sites' weights is the one worked out by hand; FedProx pulls back; nonsense does not count."""

import torch

from finetune.federated.averaging import average, sound, within_bound
from finetune.federated.site import Rounds


def weights(*values: float) -> dict[str, torch.Tensor]:
    return {"bias": torch.tensor(values[:1]).float(), "matrix": torch.tensor([values[1:]]).float()}


def test_each_site_counts_as_often_as_it_has_examples():
    mean = average([(100, weights(1, 2, 3)), (300, weights(5, -2, 0.5))])
    assert mean["bias"].tolist() == [4.0]  # (100 * 1 + 300 * 5) / 400
    assert mean["matrix"].tolist() == [[-1.0, 1.125]]
    assert mean["matrix"].dtype == torch.float32


def test_one_site_gets_its_very_weights_back():
    given = {"matrix": torch.randn(50, 7) * 1e-3}
    assert torch.equal(average([(7, given)])["matrix"], given["matrix"])


def test_weights_of_another_model_and_weights_that_are_no_numbers_do_not_count():
    good, other = weights(1, 2, 3), weights(1, 2, 3, 4)
    updates = {"a": good, "b": other, "c": good, "d": weights(1, float("nan"), 3), "e": {}, "f": {"bias": good["bias"]}}
    kept, out = sound(updates)
    assert list(kept) == ["a", "c"]
    assert out == dict.fromkeys("bef", "its weights are of another model") | {"d": "its weights are no numbers"}


def test_an_update_of_many_times_the_median_length_does_not_count():
    start = weights(1, 1, 1)
    updates = {"a": weights(1, 1, 4), "b": weights(4, 1, 1), "c": weights(1, 61, 1)}
    kept, out, lengths = within_bound(start, updates, 5)
    assert lengths == {"a": 3, "b": 3, "c": 60}
    assert list(kept) == ["a", "b"]
    assert out == {"c": "its update is 20.0 times as long as the median"}
    assert list(within_bound(start, updates, 20)[0]) == ["a", "b", "c"]
    # Of two the shorter one is the median.
    assert list(within_bound(start, {"a": updates["a"], "c": updates["c"]}, 5)[0]) == ["a"]


def test_weights_that_come_back_unchanged_leave_the_others_updates_alone():
    start, made = weights(1, 1, 1), weights(1, 1, 4)
    for updates in ({"same": start, "a": made}, {"same": start, "too": start, "a": made}):
        kept, out, _ = within_bound(start, updates, 5)
        assert list(kept) == ["a"]
        assert out == dict.fromkeys(updates.keys() - {"a"}, "its weights are unchanged")
    kept, out, _ = within_bound(start, {"a": start, "b": start}, 5)  # at a learning rate of 0 nobody has any
    assert (list(kept), out) == (["a", "b"], {})


def descended(proximal: float, steps: int = 50) -> float:
    """How far gradient descent goes from 1 towards the site's own best, which is 3."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    rounds = Rounds(None, 10, proximal, "auroc")
    rounds.begin = [(model.weight, model.weight.detach().clone())]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(steps):
        optimizer.zero_grad()
        (0.5 * (model.weight - 3).square()).sum().backward()
        if step == 3:
            before, at = model.weight.grad.item(), model.weight.item()
            rounds.on_pre_optimizer_step(None, None, None)
            assert abs(model.weight.grad.item() - (before + proximal * (at - 1))) < 1e-6
        else:
            rounds.on_pre_optimizer_step(None, None, None)
        optimizer.step()
    return model.weight.item()


def test_fedprox_pulls_towards_the_shared_weights():
    # The best of (w - 3)^2 / 2 + proximal / 2 (w - 1)^2 is (3 + proximal) / (1 + proximal).
    for proximal, best in ((0, 3), (1, 2), (4, 1.4)):
        assert abs(descended(proximal) - best) < 0.02
