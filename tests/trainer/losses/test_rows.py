"""HN-NCE of rows: equal to the textbook, finite everywhere, the identities of the method; eager and
by tiles."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy

from open_diht.trainer.losses.chunked import hn_nce_rows_chunked
from open_diht.trainer.losses.rows import hn_nce_rows

FORMS = {
    "eager": hn_nce_rows,
    **{
        f"tiles of {c}": lambda *a, c=c, **k: hn_nce_rows_chunked(*a, chunk=c, **k)
        for c in (1, 3, 17, 18)
    },
}
Rows = Callable[..., Any]


@pytest.fixture(params=FORMS, scope="module")
def rows(request: pytest.FixtureRequest) -> Rows:
    return FORMS[request.param]


def evaluated(rows: Rows, x: Any, y: Any, scale: float, dtype: Any, **options: Any) -> list[Any]:
    """Loss of each row, and the gradients of their mean with respect to x, y and scale."""
    x, y = (values.to(dtype).clone().requires_grad_() for values in (x, y))
    t = torch.tensor(scale, dtype=dtype, requires_grad=True)
    loss = rows(x, y, t, **options)
    loss = loss.loss if hasattr(loss, "loss") else loss
    loss.mean().backward()
    return [loss.detach(), x.grad, y.grad, t.grad]


@pytest.mark.parametrize("detach", [False, True])
def test_equals_the_textbook(
    rows: Rows, detach: bool, textbook: Rows, features: Any, relative_error: Any
) -> None:
    for n, alpha, beta, scale in itertools.product(
        (2, 3, 17), (0, 0.5, 0.999, 1), (0, 0.25, 1, 4), (1, 14.3, 50, 100)
    ):
        x, y = features(n, seed=n)
        expected = evaluated(
            textbook, x, y, scale, torch.float64, alpha=alpha, beta=beta, detach=detach
        )
        for dtype, tolerance in ((torch.float64, 1e-11), (torch.float32, 2e-4)):
            found = evaluated(
                rows, x, y, scale, dtype, alpha=alpha, beta=beta, detach_weights=detach
            )
            errors = [relative_error(a, b) for a, b in zip(found, expected, strict=True)]
            # Where the scale's gradient is a small difference of large terms, its error is that of
            # the terms.
            small = abs(float(expected[3])) < 1e-3 * float(expected[1].norm())
            assert max(errors[:3]) < tolerance, (n, alpha, beta, scale, dtype, errors)
            assert small or errors[3] < 5 * tolerance, (n, alpha, beta, scale, dtype, errors)


def test_finite_and_precise_at_large_scales(rows: Rows, features: Any, relative_error: Any) -> None:
    """The naive form overflows float32 above scale 88."""
    for scale, beta, noise in itertools.product((100, 1e4), (0.25, 1), (0.1, 3)):
        x, y = features(17, 16, noise)
        x, y = x.float().double(), y.float().double()
        exact = evaluated(rows, x, y, scale, torch.float64, beta=beta)
        found = evaluated(rows, x, y, scale, torch.float32, beta=beta)
        assert all(bool(values.isfinite().all()) for values in found)
        if float(exact[0].mean()) > 1e-30:
            assert relative_error(found[0].mean(), exact[0].mean()) < (
                1e-5 if scale == 100 else 1e-2
            )


def test_easy_pairs_keep_their_gradient(rows: Rows, relative_error: Any) -> None:
    """cross_entropy in float32 gives loss 0 and no gradient here."""
    x = torch.eye(8, dtype=torch.float64)
    y = torch.nn.functional.normalize(
        x + 0.01 * torch.arange(64.0, dtype=torch.float64).reshape(8, 8) / 64, dim=1
    )
    exact, found = (
        evaluated(rows, x, y, 60, dtype, beta=0.25) for dtype in (torch.float64, torch.float32)
    )
    assert 0 < float(exact[0].max()) < 1e-20
    assert all(relative_error(a, b) < 1e-3 for a, b in zip(found[:3], exact[:3], strict=True))


def test_identities(rows: Rows, features: Any) -> None:
    x, y = features(6)
    scale = torch.tensor(5.0, dtype=torch.float64)
    s = scale * x @ y.T
    off = ~torch.eye(6, dtype=torch.bool)
    decoupled = torch.logsumexp(s.masked_fill(~off, -math.inf), dim=1) - s.diagonal()
    torch.testing.assert_close(rows(x, y, scale, alpha=0, beta=0).loss, decoupled)
    hardest = math.log(5) + s.masked_fill(~off, -math.inf).amax(dim=1)
    torch.testing.assert_close(
        rows(x, y, scale, alpha=0, beta=5000).loss, hardest - s.diagonal(), rtol=1e-3, atol=1e-3
    )
    two = rows(x[:2], y[:2], scale, beta=0).loss
    # One negative: its weight is 1.
    torch.testing.assert_close(rows(x[:2], y[:2], scale, beta=3).loss, two)
    equal = torch.ones(6, 3, dtype=torch.float64) / math.sqrt(3)
    for alpha, beta in ((1, 0.25), (0.5, 2), (0, 1)):
        expected = torch.full((6,), math.log(alpha + 5), dtype=torch.float64)
        torch.testing.assert_close(rows(equal, equal, scale, alpha=alpha, beta=beta).loss, expected)


@pytest.mark.parametrize("count", [1, 3])
def test_rows_of_nothing_but_duplicates(rows: Rows, features: Any, count: int) -> None:
    """A batch of one pair, and of several pairs that are the same."""
    x, y = features(count)
    same = dict.fromkeys(("mine", "all_of"), torch.full((count,), 5)) if count > 1 else {}
    for alpha, beta in ((1, 0), (0.5, 0.25)):
        loss, *gradients = evaluated(
            rows, x, y, 14.3, torch.float64, alpha=alpha, beta=beta, **same
        )
        assert loss.tolist() == pytest.approx([math.log(alpha)] * count)
        assert all(not gradient.any() for gradient in gradients)
    with pytest.raises(
        ValueError, match=r"alpha is 0 and a row .* has no negatives.*every row has a negative"
    ):
        rows(x, y, torch.tensor(1.0), alpha=0, **same)


CAPTIONS = torch.tensor([7, 8, 7, 9, 7, 10])
IMAGES = torch.tensor([1, 1, 1, 2, 3, 2])


SAME_CAPTION, SAME_IMAGE = (hashes[:, None] == hashes[None, :] for hashes in (CAPTIONS, IMAGES))


@pytest.mark.parametrize(
    ("hashes", "same"),  # the first and third pair share both
    [(CAPTIONS, SAME_CAPTION), (torch.stack([CAPTIONS, IMAGES], dim=1), SAME_CAPTION | SAME_IMAGE)],
    ids=["captions", "captions and images"],
)
def test_duplicates_are_no_negatives(
    rows: Rows, hashes: Any, same: Any, textbook: Rows, features: Any
) -> None:
    x, y = features(6)
    for alpha, beta in ((1, 0), (1, 0.25), (0.5, 2), (0, 0.5)):
        expected = evaluated(textbook, x, y, 9.0, torch.float64, alpha=alpha, beta=beta, same=same)
        found = evaluated(
            rows, x, y, 9.0, torch.float64, alpha=alpha, beta=beta, mine=hashes, all_of=hashes
        )
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)


def test_offset_rows(rows: Rows, features: Any) -> None:
    """The rows of one rank among the columns of all."""
    x, y = features(9)
    scale = torch.tensor(14.3, dtype=torch.float64)
    hashes = torch.tensor([1, 2, 3, 1, 4, 5, 3, 6, 7])
    whole = rows(x, y, scale, mine=hashes, all_of=hashes)
    part = rows(x[3:6], y, scale, offset=3, mine=hashes[3:6], all_of=hashes)
    for a, b in zip(part, whole, strict=True):
        torch.testing.assert_close(a, b[3:6])


def test_statistics(rows: Rows) -> None:
    x = torch.eye(3)
    # The second is nearer to the third image, the third ties with it.
    y = torch.stack([x[0], x[2], x[2] * 0.5])
    found = rows(x, torch.nn.functional.normalize(y, dim=1), torch.tensor(10.0), beta=0.0)
    assert found.hit.tolist() == [True, False, False]
    s = 10.0 * torch.tensor([0.0, 1.0])
    assert found.hardest[2].item() == pytest.approx(float(s.softmax(0)[1]), rel=1e-5)


def test_gradient_moves_to_the_hardest_negative_as_beta_grows(rows: Rows, features: Any) -> None:
    _, y = features(17, 17, noise=2.0)
    # So that the gradient of y[j, i] is that of s[i, j], times the scale.
    x = torch.eye(17, dtype=torch.float64)
    scale = torch.tensor(10.0, dtype=torch.float64)
    off = ~torch.eye(17, dtype=torch.bool)
    shares = []
    for beta in (0.0, 0.25, 0.5, 1.0, 2.0):
        leaf = y.clone().requires_grad_()
        found = rows(x, leaf, scale, beta=beta, detach_weights=True)
        found.loss.sum().backward()
        mass = leaf.grad.T * off
        share = mass.amax(dim=1) / mass.sum(dim=1)
        torch.testing.assert_close(found.hardest, share)
        shares.append(float(share.mean()))
    assert shares == sorted(shares) and shares[-1] > shares[0] + 0.1


@pytest.mark.parametrize(
    ("name", "value"), [("alpha", -0.1), ("alpha", 1.1), ("beta", -1), ("beta", math.nan)]
)
def test_constants_out_of_range(rows: Rows, name: str, value: float, features: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} is {value}"):
        rows(*features(3), torch.tensor(1.0), **{name: value})


def test_tiles_need_a_row(features: Any) -> None:
    x, y = features(3)
    with pytest.raises(ValueError, match="chunk is 0"):
        hn_nce_rows_chunked(x, y, torch.tensor(1.0), chunk=0)


def test_gradients_of_easy_pairs_are_nearer_to_the_truth_than_those_of_cross_entropy(
    rows, features, relative_error
):
    """The gradient p - 1 of the positive cancels in cross_entropy; the closed form in float64 sums
    the negatives."""
    x, y = (values.float() for values in features(64, 64, noise=0.05))
    scale = 14.3
    s = scale * x.double() @ y.double().T
    p = s.softmax(dim=1).fill_diagonal_(0)
    true = scale * ((p - torch.diag(p.sum(dim=1))) / len(s)) @ y.double()

    def crossed(x: Any, y: Any, t: Any) -> Any:
        return cross_entropy(t * x @ y.T, torch.arange(len(x)), reduction="none")

    ours = relative_error(evaluated(rows, x, y, scale, torch.float32, alpha=1.0, beta=0.0)[1], true)
    theirs = relative_error(evaluated(crossed, x, y, scale, torch.float32)[1], true)
    assert ours < 2e-5 and ours < theirs / 5
