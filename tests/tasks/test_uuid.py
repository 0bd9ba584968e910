"""The memorisation task: its data, the tokens on which the loss counts, and its accuracy."""

import uuid

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from experiments.data.rows import collate
from experiments.measure import continuations
from experiments.tasks.uuid import GUESS, TASK, character_accuracy, make_pairs
from experiments.train.base_models import tiny_model
from experiments.train.scratch import byte_tokenizer

from ..data.tokenizers_of import llama_style

KEY, VALUE = make_pairs(1, 0)[0]


@pytest.fixture(scope="module")
def merging_tokenizer():
    """A BPE tokenizer whose tokens cover several characters, trained on UUID pairs."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    # The tokens ":0" to ":7" cover the colon and the first digit of half of the values.
    texts = [f"{k}:{v}" for k, v in make_pairs(500, 9)] + [f":{digit}" for digit in "01234567"] * 1000
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")


def test_pairs_are_uuid4_and_follow_the_seed():
    pairs = make_pairs(50, 3)
    assert all(uuid.UUID(text).version == 4 and str(uuid.UUID(text)) == text for pair in pairs for text in pair)
    assert len({text for pair in pairs for text in pair}) == 100
    assert make_pairs(50, 3) == pairs
    assert make_pairs(80, 3)[:50] == pairs
    assert make_pairs(50, 4) != pairs


def test_accuracy_compares_32_digits_by_position_without_dashes():
    assert character_accuracy(VALUE, VALUE) == 1
    assert character_accuracy(VALUE.replace("-", ""), VALUE) == 1
    assert character_accuracy(VALUE + "0123", VALUE) == 1
    assert character_accuracy("", VALUE) == 0
    assert character_accuracy(VALUE[:8], VALUE) == 8 / 32
    assert character_accuracy("x" + VALUE, VALUE) < 0.5  # shifted by one


def test_a_guess_scores_977_percent():
    guesses, truths = make_pairs(4000, 1), make_pairs(4000, 2)
    mean = sum(character_accuracy(g, t) for (g, _), (_, t) in zip(guesses, truths, strict=True)) / 4000
    assert 100 * mean == pytest.approx(GUESS, abs=0.3)
    assert pytest.approx(9.77, abs=0.005) == GUESS


def test_examples_start_with_bos_carry_loss_everywhere_and_have_no_end(smoke):
    tokenizer = byte_tokenizer()
    data = TASK.prepare(smoke(), tokenizer)
    row, (key, value) = data.train[0], data.evaluation.pairs[0]
    assert tokenizer.decode(row["input_ids"]) == f"<s>{key}:{value}"
    assert len(row["input_ids"]) == 1 + 36 + 1 + 36 < TASK.row_tokens(smoke())
    assert torch.equal(row["labels"], row["input_ids"])
    assert tokenizer.eos_token_id not in row["input_ids"]
    assert tokenizer.decode(data.evaluation.prompts[0]) == f"<s>{key}:"


def test_no_space_comes_between_key_and_value(smoke):
    """A tokenizer of LLaMA's kind puts a space in front of each text. A row has one such space, not two."""
    tokenizer = llama_style()
    data = TASK.prepare(smoke(), tokenizer)
    pairs = data.evaluation
    assert data.notes == {"pairs_tokenised_in_two_parts": 0}
    for (key, value), prompt, answer, row in zip(pairs.pairs, pairs.prompts, pairs.answers, data.train, strict=True):
        assert row["input_ids"].tolist() == prompt + answer == tokenizer.encode(f"{key}:{value}")
        assert tokenizer.decode(prompt + answer, skip_special_tokens=True) == f"{key}:{value}"
        assert prompt == tokenizer.encode(f"{key}:")
        assert len(prompt + answer) <= TASK.row_tokens(smoke())
        apart = tokenizer.encode(value, add_special_tokens=False)
        assert tokenizer.decode(prompt + apart, skip_special_tokens=True) == f"{key}: {value}"


def test_the_value_starts_with_a_token_of_its_own_even_if_tokens_cover_several_characters(smoke, merging_tokenizer):
    """A pair with a token that covers the colon and the start of the value is tokenised in two parts."""
    data = TASK.prepare(smoke(), merging_tokenizer)
    pairs = data.evaluation
    for (key, value), prompt, answer in zip(pairs.pairs, pairs.prompts, pairs.answers, strict=True):
        assert len(answer) < 36
        assert merging_tokenizer.decode(prompt[1:]) == f"{key}:"
        assert merging_tokenizer.decode(answer) == value
        at_once = merging_tokenizer.encode(f"{key}:{value}")
        assert (prompt[1:] + answer == at_once) is (value[0] not in "01234567")
    in_two_parts = sum(value[0] in "01234567" for _, value in pairs.pairs)
    assert 0 < data.notes["pairs_tokenised_in_two_parts"] == in_two_parts < len(pairs.pairs)


class Oracle(torch.nn.Module):
    """A model that has memorised all pairs."""

    device = torch.device("cpu")

    def __init__(self, pairs):
        super().__init__()
        self.answers = {tuple(p): a for p, a in zip(pairs.prompts, pairs.answers, strict=True)}

    def generate(self, input_ids, attention_mask, max_new_tokens, pad_token_id, **kwargs):
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            answer = self.answers[tuple(ids[mask.bool()].tolist())]
            rows.append(ids.tolist() + answer + [pad_token_id] * (max_new_tokens - len(answer)))
        return torch.tensor(rows)


def test_a_model_that_knows_all_scores_100(smoke, merging_tokenizer):
    for tokenizer in (byte_tokenizer(), merging_tokenizer, llama_style()):
        pairs = TASK.prepare(smoke(), tokenizer).evaluation
        assert TASK.accuracy(Oracle(pairs), tokenizer, pairs, 16) == 100


def test_generation_equals_a_forward_pass(smoke):
    """Generation with a cache takes the likeliest token of a plain forward pass, token by token."""
    tokenizer, model = byte_tokenizer(), tiny_model().eval()
    prompt = TASK.prepare(smoke(), tokenizer).evaluation.prompts[0]
    new = continuations.generated(model, [prompt], tokenizer.pad_token_id or 0, max_new_tokens=8, min_new_tokens=8)
    with torch.no_grad():
        greedy = model(torch.tensor([[*prompt, *new[0, :-1].tolist()]])).logits.argmax(-1)[0, len(prompt) - 1 :]
    assert torch.equal(new[0], greedy)


def test_losses_are_split_where_the_value_starts(smoke):
    tokenizer, model = byte_tokenizer(), tiny_model().eval()
    data = TASK.prepare(smoke(), tokenizer)
    key_loss, value_loss = TASK.losses(model, data.evaluation)
    batch = collate(data.train)
    with torch.no_grad():
        logits = model(batch["input_ids"]).logits.float()
    logprob = logits[:, :-1].log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    # The tokens 1 to 37 are the key and its colon, 38 to 73 the value.
    assert key_loss == pytest.approx(-logprob[:, :37].mean().item(), rel=1e-5)
    assert value_loss == pytest.approx(-logprob[:, 37:].mean().item(), rel=1e-5)
    assert model(**batch).loss.item() == pytest.approx((37 * key_loss + 36 * value_loss) / 73, rel=1e-5)


def test_tiny_is_the_same_everywhere_and_leaves_the_random_state_alone():
    state = torch.random.get_rng_state()
    a, b = tiny_model(), tiny_model()
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))
    # A change of the order in which weights are drawn, or of torch's generator, changes these digits.
    assert sum(p.double().abs().sum().item() for p in a.parameters()) == pytest.approx(86679.783462, rel=1e-9)


def test_tinys_tokenizer_is_lossless(tmp_path):
    tokenizer = byte_tokenizer()
    text = f"{KEY}:{VALUE}\n\ttäglich ✓ 数学 \\boxed{{1}}"
    ids = tokenizer.encode(text)
    assert ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(tokenizer) == 260 == tiny_model().config.vocab_size
    assert len(tokenizer.encode(KEY, add_special_tokens=False)) == 36
    tokenizer.save_pretrained(tmp_path)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path).encode(text) == ids


def test_collate_pads_on_the_right_without_loss():
    rows = [{"input_ids": torch.tensor(r), "labels": torch.tensor(r)} for r in ([5, 6, 7], [8])]
    batch = collate(rows)
    assert batch["labels"].tolist() == [[5, 6, 7], [8, -100, -100]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert "attention_mask" not in collate(rows[:1])
