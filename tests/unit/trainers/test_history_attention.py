import math

import pytest
import torch
from torch.nn import functional

from trainers.features import History
from trainers.history_attention import (
    HistoryAttention,
    HistoryInputs,
    attend,
    masked_mean,
    newest,
)
from trainers.settings import ModelConfig

LN_2 = math.log(2)


def random_history(rows: int = 6, slots: int = 4, dim: int = 3) -> History:
    """Some sides know everything, some something, some nothing."""
    torch.manual_seed(0)
    masks = [(torch.rand(rows, slots) < 0.6).double() for _ in range(2)]
    masks[0][0], masks[0][1], masks[1][2] = 0.0, 1.0, 0.0
    vectors = [torch.randn(rows, slots, dim, dtype=torch.double) for _ in range(2)]
    return History(*vectors, *masks)


def test_attention_by_hand():
    # D = 4, so scores are halved: (2 ln 2)/2 and 0, that is shares 2/3 and 1/3.
    x_BHD = torch.tensor([[[2.0, 0, 0, 3], [0, 3, 0, 0]]])
    query_BD = torch.tensor([[LN_2, 0.0, 5.0, 0.0]])
    found_BD = attend(query_BD, x_BHD, torch.ones(1, 2))
    torch.testing.assert_close(found_BD, torch.tensor([[4 / 3, 1.0, 0.0, 2.0]]))


def test_what_the_mask_holds_back_has_no_share():
    x_BHD = torch.tensor([[[100.0, 100.0], [1.0, 2.0], [100.0, -100.0]]])
    found_BD = attend(torch.tensor([[9.0, 9.0]]), x_BHD, torch.tensor([[0.0, 1.0, 0.0]]))
    assert found_BD.tolist() == [[1.0, 2.0]]


def test_attention_is_that_of_torch_where_it_has_one():
    history = random_history()
    query_BD = torch.randn(6, 3, dtype=torch.double)
    known_B = history.user_mask_BH.any(1)
    expected_B1D = functional.scaled_dot_product_attention(
        query_BD[:, None],
        history.user_BHD,
        history.user_BHD,
        attn_mask=history.user_mask_BH[:, None].bool(),
    )
    found_BD = attend(query_BD, history.user_BHD, history.user_mask_BH)
    assert 0 < known_B.sum() < 6
    torch.testing.assert_close(found_BD[known_B], expected_B1D[known_B, 0])
    assert (found_BD[~known_B] == 0).all()


def test_scores_however_large_give_finite_shares():
    x_BHD = torch.tensor([[[1e4, 0.0], [0.0, 1e4]]])
    found_BD = attend(torch.tensor([[1e4, 0.0]]), x_BHD, torch.ones(1, 2))
    assert found_BD.tolist() == [[1e4, 0.0]]


def test_gradients_are_right_and_finite_where_nothing_is_known():
    history = random_history()
    attention = HistoryAttention(3).double()
    torch.nn.init.normal_(attention.asks_user_DD)

    def run(*vectors_and_weights: torch.Tensor) -> torch.Tensor:
        user_BHD, item_BHD, asks_user_DD, asks_item_DD = vectors_and_weights
        weights = {"asks_user_DD": asks_user_DD, "asks_item_DD": asks_item_DD}
        shown = History(user_BHD, item_BHD, history.user_mask_BH, history.item_mask_BH)
        return torch.cat(torch.func.functional_call(attention, weights, (shown,)), 1)

    inputs = [history.user_BHD, history.item_BHD, *attention.parameters()]
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    assert torch.autograd.gradcheck(run, inputs)
    run(*inputs).sum().backward()
    assert all(torch.isfinite(tensor.grad).all() for tensor in inputs)
    assert (inputs[0].grad[0] == 0).all(), "user 0 has no history"


def test_each_side_is_asked_by_the_other_sides_newest():
    history = random_history()
    user_BD, item_BD = HistoryAttention(3).double()(history)
    asks_BD = newest(history.item_BHD, history.item_mask_BH)
    torch.testing.assert_close(user_BD, attend(asks_BD, history.user_BHD, history.user_mask_BH))
    asks_BD = newest(history.user_BHD, history.user_mask_BH)
    torch.testing.assert_close(item_BD, attend(asks_BD, history.item_BHD, history.item_mask_BH))


def test_without_a_query_attention_is_the_mean():
    history = random_history()
    unknown = history.item_mask_BH * 0
    shown = History(history.user_BHD, history.item_BHD, history.user_mask_BH, unknown)
    user_BD, item_BD = HistoryAttention(3).double()(shown)
    torch.testing.assert_close(user_BD, masked_mean(history.user_BHD, history.user_mask_BH))
    assert (item_BD == 0).all()


def test_newest_is_the_first_that_is_let_through():
    x_BHD = torch.tensor([[[1.0], [2.0], [3.0]]]).expand(4, 3, 1)
    mask_BH = torch.tensor([[1.0, 1, 1], [0, 1, 1], [0, 0, 1], [0, 0, 0]])
    assert newest(x_BHD, mask_BH).flatten().tolist() == [1.0, 2.0, 3.0, 0.0]


@pytest.mark.parametrize("aggregation", ["mean", "attention"])
def test_one_slot_is_the_vector_itself(aggregation):
    config = ModelConfig(history_slots=1, history_dim=2, history_aggregation=aggregation)
    inputs = HistoryInputs(config)
    history = History(
        torch.tensor([[[1.0, 2.0]], [[7.0, 7.0]]]),
        torch.tensor([[[3.0, 4.0]], [[5.0, 6.0]]]),
        torch.tensor([[1.0], [0.0]]),
        torch.tensor([[1.0], [1.0]]),
    )
    inputs_BK, product_B1 = inputs(history, torch.zeros(2, 0))
    assert inputs_BK.tolist() == [[1, 2, 3, 4, 1, 1], [0, 0, 5, 6, 0, 1]]
    assert product_B1.tolist() == [[11.0], [0.0]]
    assert list(inputs.parameters()) == []


@pytest.mark.parametrize("aggregation", ["mean", "attention"])
def test_no_history_at_all_is_all_zeros(aggregation):
    config = ModelConfig(history_slots=3, history_aggregation=aggregation)
    inputs = HistoryInputs(config)
    inputs_BK, product_B1 = inputs(None, torch.zeros(5, 2))
    assert inputs_BK.shape == (5, inputs.width) == (5, 34)
    assert not inputs_BK.any()
    assert not product_B1.any()


def test_the_share_of_slots_that_hold_something_is_an_input():
    history = random_history()
    config = ModelConfig(history_slots=4, history_dim=3)
    inputs_BK, _ = HistoryInputs(config).double()(history, torch.zeros(6, 0))
    torch.testing.assert_close(inputs_BK[:, -2], history.user_mask_BH.sum(1) / 4)
    torch.testing.assert_close(inputs_BK[:, -1], history.item_mask_BH.sum(1) / 4)
