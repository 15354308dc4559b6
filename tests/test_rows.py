"""Examples that begin alike share a row: what stands where, what sees what, and that none is lost."""

from collections import Counter

import pytest

from hetero_agents.distill.rows import (
    PAD_TO_MULTIPLE_OF,
    ROW_TOKENS,
    Examples,
    Row,
    Sample,
    micro_batches,
    model_inputs,
    padded_length,
)

TOOLS = list(range(100, 120))
OTHER = list(range(200, 215))
SAMPLES = [
    Sample([*TOOLS, 1, 2, 9], [50, 51]),
    Sample([7, 8, 9], [52]),
    Sample([*TOOLS, 3, 9], [53]),
    Sample([*OTHER, 1, 9], [54, 55]),
    Sample([*OTHER, 2, 9], [56]),
    Sample([*TOOLS, 4, 9], [57]),
]


def test_examples_that_begin_alike_are_one_group() -> None:
    examples = Examples(SAMPLES, share=True)
    assert [(group.shared, sorted(group.members)) for group in examples.groups] == [
        (0, [1]),
        (20, [0, 2, 5]),
        (15, [3, 4]),
    ]
    assert all(group.shared == 0 for group in Examples(SAMPLES, share=False).groups)


def test_a_beginning_that_is_too_short_to_pay_is_not_shared() -> None:
    long = [Sample([1, 2, 3, *range(n, n + 30)], [50]) for n in (100, 200)]
    assert [group.shared for group in Examples(long, share=True).groups] == [0, 0]


def test_equal_prompts_keep_their_last_token_to_themselves() -> None:
    (row,) = Examples([Sample([1, 2, 3], [4]), Sample([1, 2, 3], [5])], share=True).rows([0, 1])
    assert (row.shared, row.tokens, row.labels) == (2, [1, 2, 3, 4, 3, 5], [-100, -100, 4, -100, 5, -100])


def test_a_row_holds_the_beginning_once_and_each_rest_at_its_own_place() -> None:
    (row,) = Examples(SAMPLES, share=True).rows([2, 0])
    assert row.tokens == [*TOOLS, 1, 2, 9, 50, 51, 3, 9, 53]
    assert row.positions == [*range(25), 20, 21, 22]
    assert row.segments == [*[0] * 20, *[1] * 5, *[2] * 3]
    assert row.labels == [*[-100] * 20, -100, -100, 50, 51, -100, -100, 53, -100]


def test_a_token_sees_the_beginning_and_what_stands_before_it_in_its_own_example() -> None:
    rows = [Row(2, [0, 1], [Sample([1, 2, 3], [4]), Sample([1, 2, 5], [6])]), Row(0, [2], [Sample([7], [8])])]
    inputs = model_inputs(rows, 0, "cpu")
    assert inputs["input_ids"].shape == (2, PAD_TO_MULTIPLE_OF)
    assert inputs["input_ids"][:, -6:].tolist() == [[1, 2, 3, 4, 5, 6], [0, 0, 0, 0, 7, 8]]
    assert inputs["position_ids"][:, -6:].tolist() == [[0, 1, 2, 3, 2, 3], [0, 0, 0, 0, 0, 1]]
    sees = (inputs["attention_mask"][:, 0] == 0).int()
    assert sees[0, -6:].tolist() == [
        [*[0] * (PAD_TO_MULTIPLE_OF - 6), *seen]
        for seen in (
            [1, 0, 0, 0, 0, 0],
            [1, 1, 0, 0, 0, 0],
            [1, 1, 1, 0, 0, 0],
            [1, 1, 1, 1, 0, 0],
            [1, 1, 0, 0, 1, 0],
            [1, 1, 0, 0, 1, 1],
        )
    ]
    assert sees[1, -2:, -2:].tolist() == [[1, 0], [1, 1]]
    assert not sees[1, -2:, :-2].any(), "padding is not seen"


@pytest.mark.parametrize("epochs", [0.5, 1.0, 2.4])
def test_every_example_comes_once_in_an_epoch_and_the_seed_repeats(epochs: float) -> None:
    examples = Examples(SAMPLES, share=True)
    batches = examples.batches(2, epochs, seed=1)
    assert batches == examples.batches(2, epochs, seed=1)
    assert len(batches) == round(3 * epochs)
    assert batches != examples.batches(2, epochs, seed=2)
    seen = Counter(i for batch in batches for i in batch)
    assert max(seen.values()) <= -(-epochs // 1)
    if epochs >= 1:
        assert set(seen) == set(range(6))


def test_rows_and_micro_batches_stay_within_their_tokens() -> None:
    long = [Sample([*range(200), n, 9], [50] * 100) for n in range(300, 320)]
    rows = Examples(long, share=True).rows(range(20))
    assert sorted(i for row in rows for i in row.members) == list(range(20))
    assert 600 < max(map(len, rows)) <= ROW_TOKENS
    for part in micro_batches(rows, 2000):
        assert len(part) == 1 or padded_length(part) * len(part) <= 2000


def test_single_examples_get_the_mask_that_every_model_takes() -> None:
    inputs = model_inputs([Row(0, [0], [Sample([1, 2], [3])]), Row(0, [1], [Sample([4], [5])])], 0, "cpu")
    assert inputs["attention_mask"].tolist() == [[0] * 13 + [1] * 3, [0] * 14 + [1] * 2]


def test_an_instruction_before_all_prompts_does_not_hide_what_their_groups_share() -> None:
    instruction = list(range(500, 530))
    samples = [Sample([*instruction, *tools, n, 9], [50]) for tools in (TOOLS, OTHER) for n in range(4)]
    assert [group.shared for group in Examples(samples, share=True).groups] == [50, 45]


def test_an_epoch_has_one_form_of_each_example() -> None:
    examples = Examples(SAMPLES, share=True)
    batches = examples.batches(2, 3.0, seed=1, forms=2)
    first, second, third = (sorted(i for batch in batches[at : at + 2] for i in batch) for at in (0, 2, 4))
    assert (first, second, third) == ([0, 1, 2], [3, 4, 5], [0, 1, 2])
