import pytest
import torch

from torchsru.models.classifier import KINDS, Classifier, ClassifierConfig, Convolutions

LENGTHS = torch.tensor([7, 1, 4, 2])


def make(kind, **fields):
    torch.manual_seed(0)
    config = ClassifierConfig(
        encoder=kind, width=6, layers=1 if kind == "cnn" else 2, embedding=5, **fields
    )
    return Classifier(config, 3, vocabulary_size=11).double().eval()


@pytest.mark.parametrize("kind", KINDS)
def test_a_sentence_has_the_same_scores_in_any_batch(kind):
    model = make(kind)
    ids = torch.randint(11, (7, 4), generator=torch.manual_seed(1))
    together = model(ids, LENGTHS)
    assert together.shape == (4, 3)
    for b, length in enumerate(LENGTHS.tolist()):
        alone = model(ids[:length, b : b + 1], LENGTHS[b : b + 1])
        torch.testing.assert_close(alone[0], together[b])
    with pytest.raises(AssertionError):  # what is compared does differ between sentences
        torch.testing.assert_close(together[0], together[2])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_learns(kind):
    model = make(kind).train()
    ids = torch.randint(11, (7, 4), generator=torch.manual_seed(1))
    model(ids, LENGTHS).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_vectors_are_not_trained():
    table = torch.randn(11, 4)
    model = Classifier(ClassifierConfig(width=6), 2, table)
    assert torch.equal(model.embedding.weight, table)
    assert not model.embedding.weight.requires_grad
    model(torch.zeros(3, 2, dtype=torch.int64), torch.tensor([3, 2])).sum().backward()
    assert model.embedding.weight.grad is None


def test_convolutions_are_those_of_the_paper():
    """Equation (2) and the maximum over time, window by window."""
    torch.manual_seed(0)
    net = Convolutions(5, 3, (2, 4)).double()
    x = torch.randn(7, 4, 5, dtype=torch.float64)
    got = net(x, LENGTHS)
    for b, length in enumerate(LENGTHS.tolist()):
        at = 0
        for width, convolution in zip((2, 4), net.convolutions, strict=True):
            padded = torch.zeros(max(length, width), 5, dtype=torch.float64)
            padded[:length] = x[:length, b]
            windows = torch.stack(
                [
                    torch.einsum("cew,we->c", convolution.weight, padded[i : i + width])
                    + convolution.bias
                    for i in range(len(padded) - width + 1)
                ]
            )
            torch.testing.assert_close(got[b, at : at + 3], windows.relu().amax(0))
            at += 3


def test_the_ablations_change_the_model():
    ids = torch.randint(11, (7, 4), generator=torch.manual_seed(1))
    full = make("sru")(ids, LENGTHS)
    for fields in ({"state_weights": False}, {"highway": False}, {"rescale": False}):
        assert not torch.allclose(make("sru", **fields)(ids, LENGTHS), full), fields
    names = {name for name, _ in make("qrnn", highway=True).named_parameters()}
    plain, highway = make("qrnn"), make("qrnn", highway=True)
    assert names == {name for name, _ in plain.named_parameters()}
    assert sum(p.numel() for p in highway.parameters()) > sum(p.numel() for p in plain.parameters())


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"encoder": "bert"}, "encoder must be one of sru, .*got 'bert'"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"dropout": 1.0}, r"dropout must lie in \[0, 1\), got 1.0"),
        ({"encoder": "lstm", "state_weights": False}, "state_weights needs encoder='sru', got"),
        ({"encoder": "lstm", "highway": True}, "highway needs encoder='sru' or 'qrnn', got True"),
        ({"encoder": "cnn"}, "layers must be 1 for 'cnn', got 2"),
        ({"encoder": "cnn", "layers": 1, "widths": ()}, "widths must be positive, one at least"),
    ],
)
def test_bad_fields_are_refused(fields, told):
    with pytest.raises(ValueError, match=told):
        ClassifierConfig(**fields)
