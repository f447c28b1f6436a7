import torch

from torchsru.nn.state import detach, reorder, reset


def make_state(B=4):
    leaf = torch.arange(2.0 * B * 3).view(2, B, 3)
    return {"rnn": (leaf, -leaf), "history": torch.arange(2 * B).view(2, B), "memory": None}


def test_detach_cuts_the_graph_and_keeps_the_values():
    state = make_state()
    state["rnn"] = tuple(leaf.requires_grad_() * 2 for leaf in state["rnn"])
    cut = detach(state)
    assert state["rnn"][0].requires_grad
    assert not any(leaf.requires_grad for leaf in cut["rnn"])
    assert torch.equal(cut["rnn"][1], state["rnn"][1])
    assert cut["memory"] is None


def test_reorder_repeats_and_drops_rows():
    state = make_state()
    got = reorder(state, torch.tensor([3, 3, 0]))
    assert torch.equal(got["rnn"][0], state["rnn"][0][:, [3, 3, 0]])
    assert torch.equal(got["history"], state["history"][:, [3, 3, 0]])


def test_reset_changes_marked_rows_alone():
    state = make_state()
    got = reset(state, torch.tensor([False, True, False, False]))
    assert torch.equal(got["rnn"][1][:, 1], torch.zeros(2, 3))
    assert torch.equal(got["history"][:, 1], torch.zeros(2, dtype=torch.int64))
    kept = torch.tensor([0, 2, 3])
    assert torch.equal(got["rnn"][0][:, kept], state["rnn"][0][:, kept])


def test_reset_to_a_given_start_passes_gradients():
    state = (torch.ones(1, 2, 3),)
    start = (torch.full((1, 2, 3), 7.0, requires_grad=True),)
    (got,) = reset(state, torch.tensor([True, False]), start)
    assert got[0, 0].eq(7).all() and got[0, 1].eq(1).all()
    got.sum().backward()
    assert start[0].grad[0].sum(dim=1).tolist() == [3, 0]
