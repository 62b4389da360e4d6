import torch

from ale_edit.attention.self_injection import rows_with_source


def test_target_rows_read_their_source_rows_and_all_others_themselves():
    pairs = [(slice(0, 2), slice(2, 4)), (slice(4, 6), slice(6, 8))]
    assert rows_with_source(9, pairs).tolist() == [0, 1, 0, 1, 4, 5, 4, 5, 8]


def test_queries_and_keys_of_the_source_give_the_target_the_sources_attention_map():
    x = torch.arange(4.0)[:, None, None].expand(4, 3, 2)
    index = rows_with_source(4, [(slice(0, 2), slice(2, 4))])
    assert torch.equal(x[index][2:], x[:2])


def test_without_pairs_nothing_moves():
    assert rows_with_source(5, []).tolist() == list(range(5))
