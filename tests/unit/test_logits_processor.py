"""Personalized generate(): against slow searches that mix explicitly; and that it does no harm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from perslm.blob import Metadata, encode
from perslm.counts import Specials, count
from perslm.errors import ArgumentError, VocabularyMismatchError
from perslm.model import NullModel, PersonalModel
from perslm.store import Store
from perslm.vocabulary import Vocabulary
from tests.neural import (
    END,
    SIZE,
    needs_smollm2,
    needs_torch,
    tiny_lm,
    tiny_vocabulary,
    writer,
)
from tests.support import Seq

pytestmark = needs_torch

Rows = Callable[[list[int]], np.ndarray]  # the mixed row after a history without padding


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory: pytest.TempPathFactory) -> Vocabulary:
    return tiny_vocabulary(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def lm() -> Any:
    return tiny_lm()


def processor(models: Any, vocabulary: Vocabulary, **options: Any) -> Any:
    from perslm.integrations.transformers import PersonalLogitsProcessor

    return PersonalLogitsProcessor(models, vocabulary, **options)


def explicit(lm: Any, model: PersonalModel | NullModel, vocabulary: Vocabulary) -> Rows:
    """Mixed rows computed from scratch: no cache, no batch, float64."""
    import torch

    def row(history: list[int]) -> np.ndarray:
        with torch.inference_mode():
            logits = lm(input_ids=torch.tensor([history]), use_cache=False).logits[0, -1].double()
        base = torch.log_softmax(logits, -1).numpy()
        states = model.states([[vocabulary.bos, *history]])
        weight = float(model.weights(states, [len(history)])[0])
        if weight == 0:
            return base
        personal = np.full(len(base), -np.inf)
        known = model.distribution(states)[0][: len(base)]
        personal[: len(known)] = known
        with np.errstate(divide="ignore"):
            return np.logaddexp(np.log(weight) + personal, np.log1p(-weight) + base)

    return row


def slow_beams(
    row: Rows, prompt: list[int], width: int, steps: int, end: int | None
) -> list[tuple[float, list[int]]]:
    """Beam search as transformers defines it (length penalty 1, never stopping early)."""
    live: list[tuple[float, list[int]]] = [(0.0, [])]
    finished: list[tuple[float, list[int]]] = []
    for step in range(1, steps + 1):
        longer: list[tuple[float, list[int]]] = []
        for total, ids in live:
            logprobs = row([*prompt, *ids])
            best = np.argsort(-logprobs)[: 2 * width]  # more of one row cannot be among the best
            longer += [(total + float(logprobs[w]), [*ids, int(w)]) for w in best]
        longer.sort(key=lambda c: -c[0])
        candidates = longer[: 2 * width]
        finished += [(t / step, ids) for t, ids in candidates[:width] if ids[-1] == end]
        live = [c for c in candidates if c[1][-1] != end][:width]
    finished += [(t / steps, ids) for t, ids in live]
    return sorted(finished, key=lambda c: -c[0])[:width]


def generated(lm: Any, prompts: list[list[int]], pad: int = END, **options: Any) -> Any:
    import torch

    longest = max(map(len, prompts))
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    options = {"pad_token_id": pad, "return_dict_in_generate": True} | options
    return lm.generate(ids, attention_mask=mask, output_scores=True, **options)


def answers(output: Any, begin: int, end: int | None = END) -> list[list[int]]:
    """Ids generated per row, up to and with the first end."""
    rows = output.sequences[:, begin:].tolist()
    return [r[: r.index(end) + 1] if end is not None and end in r else r for r in rows]


@pytest.mark.parametrize("cached", [True, False])
@pytest.mark.parametrize("end", [None, END])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_beam_search_equals_a_slow_one_that_mixes_explicitly(
    kind: str, end: int | None, cached: bool, vocabulary: Vocabulary
) -> None:
    lm = tiny_lm(kind, seed=1)
    lm.generation_config.eos_token_id = end
    users = [writer(vocabulary, 1), writer(vocabulary, 2, order=5), NullModel("unknown_user")]
    prompts = [[5, 9, 2, 7, 11], [3], [8, 1]]
    width, steps = 4, 6
    options = {"max_new_tokens": steps, "early_stopping": "never", "use_cache": cached}
    output = generated(
        lm,
        prompts,
        num_beams=width,
        num_return_sequences=width,
        logits_processor=[processor(users, vocabulary, pad=END)],
        **options,
    )
    found = answers(output, 5, end)
    for i, (user, prompt) in enumerate(zip(users, prompts, strict=True)):
        expected = slow_beams(explicit(lm, user, vocabulary), prompt, width, steps, end)
        assert found[i * width : (i + 1) * width] == [ids for _, ids in expected]
        scores = output.sequences_scores[i * width : (i + 1) * width].tolist()
        assert scores == pytest.approx([score for score, _ in expected], abs=1e-4)


def test_the_models_change_what_is_found(lm: Any, vocabulary: Vocabulary) -> None:
    prompts = [[5, 9, 2], [3, 4, 6]]
    options = {"num_beams": 3, "max_new_tokens": 6}
    plain = generated(lm, prompts, **options)
    users = [writer(vocabulary, 1, weight=0.9), writer(vocabulary, 2, weight=0.9)]
    mixed = generated(lm, prompts, logits_processor=[processor(users, vocabulary)], **options)
    swapped = [processor(users[::-1], vocabulary)]
    other = generated(lm, prompts, logits_processor=swapped, **options)
    assert answers(plain, 3) != answers(mixed, 3) != answers(other, 3)


def test_greedy_search_takes_the_best_of_the_mixture(lm: Any, vocabulary: Vocabulary) -> None:
    users = [writer(vocabulary, 3), NullModel("unknown_user"), writer(vocabulary, 4, order=2)]
    prompts = [[3, 3, 9, 2, 30, 12], [7], [9, 8]]
    output = generated(
        lm, prompts, max_new_tokens=8, logits_processor=[processor(users, vocabulary, pad=END)]
    )
    for user, prompt, found in zip(users, prompts, answers(output, 6), strict=True):
        row = explicit(lm, user, vocabulary)
        ids: list[int] = []
        while len(ids) < 8 and END not in ids:
            ids.append(int(row([*prompt, *ids]).argmax()))
        assert found == ids


def test_samples_are_drawn_from_the_mixture(lm: Any, vocabulary: Vocabulary) -> None:
    users = [writer(vocabulary, 5), writer(vocabulary, 6)]
    prompts = [[4, 9], [7, 8, 9, 10, 11]]
    output = generated(
        lm,
        prompts,
        do_sample=True,
        top_k=0,
        num_return_sequences=3,
        max_new_tokens=4,
        eos_token_id=None,
        logits_processor=[processor(users, vocabulary, pad=END)],
    )
    assert len(output.sequences) == 6
    for i, drawn in enumerate(output.sequences[:, 5:].tolist()):
        row = explicit(lm, users[i // 3], vocabulary)
        for t in range(4):
            expected = row([*prompts[i // 3], *drawn[:t]])
            assert output.scores[t][i].numpy() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("beams", [1, 4])
def test_silence_changes_no_bit(beams: int, lm: Any, vocabulary: Vocabulary) -> None:
    prompts = [[5, 9, 2], [3]]
    options = {"num_beams": beams, "max_new_tokens": 6, "output_logits": True}
    plain = generated(lm, prompts, **options)
    other = tiny_vocabulary_of_other_words(vocabulary)
    for models in (
        [NullModel("unknown_user")] * 2,
        [writer(vocabulary, 1, weight=0)] * 2,
        writer(vocabulary, 1, weight=0),
        writer(other, 1),
    ):
        with_it = generated(
            lm, prompts, logits_processor=[processor(models, vocabulary, pad=END)], **options
        )
        assert with_it.sequences.equal(plain.sequences)
        for a, b in zip(with_it.scores, plain.scores, strict=True):
            assert a.equal(b)


def tiny_vocabulary_of_other_words(vocabulary: Vocabulary) -> Vocabulary:
    return Vocabulary.from_words([f"w{i}" for i in range(vocabulary.size)])


def test_silent_rows_beside_speaking_ones_keep_their_bits(vocabulary: Vocabulary) -> None:
    import torch

    ids = torch.tensor([[5, 9], [9, 4], [3, 7]])
    logits = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(0)) * 4 - 20
    models = [NullModel("unknown_user"), writer(vocabulary, 1), writer(vocabulary, 2, weight=0)]
    for scores in (logits, logits.log_softmax(-1)):
        before = scores.clone()
        mixed = processor(models, vocabulary)(ids, scores)
        assert scores.equal(before)
        assert mixed[0].equal(scores[0])
        assert mixed[2].equal(scores[2])
        assert mixed[1].exp().sum() == pytest.approx(1, abs=1e-5)
        assert not mixed[1].equal(scores[1].log_softmax(-1))


def test_scores_themselves_come_back_if_all_are_silent(vocabulary: Vocabulary) -> None:
    import torch

    ids, scores = torch.tensor([[5, 9]]), torch.randn(1, SIZE)
    for model in (NullModel("unknown_user"), writer(vocabulary, 1, weight=0)):
        assert processor(model, vocabulary)(ids, scores) is scores


@pytest.mark.parametrize("normalized", [True, False])
def test_forbidden_tokens_stay_forbidden(normalized: bool, vocabulary: Vocabulary) -> None:
    import torch

    user = writer(vocabulary, 1)
    forbidden = user.events[:3].tolist()
    scores = torch.randn(2, SIZE).log_softmax(-1)
    ids = torch.tensor([[5, 9], [3, 7]])
    whole = processor(user, vocabulary)(ids, scores)
    scores[:, forbidden] = -torch.inf
    mixed = processor(user, vocabulary, normalized=normalized)(ids, scores)
    assert mixed[:, forbidden].isneginf().all()
    if normalized:  # what is allowed keeps its probability
        whole[:, forbidden] = -torch.inf
        assert mixed.equal(whole)


@pytest.mark.parametrize("columns", [SIZE + 24, SIZE - 3])
def test_columns_beyond_the_vocabulary_or_missing(columns: int, vocabulary: Vocabulary) -> None:
    """Padded LMs have more columns than ids, LMs with tokens added to the tokenizer have fewer."""
    import torch

    user = writer(vocabulary, 1)
    ids, logits = torch.tensor([[5, 9]]), torch.randn(1, columns)
    mixed = processor(user, vocabulary)(ids, logits)[0].numpy()
    base = logits[0].double().log_softmax(-1).numpy()
    states = user.states([[vocabulary.bos, 5, 9]])
    weight = float(user.weights(states)[0])
    known = user.distribution(states)[0].astype(float)
    personal = np.full(columns, -np.inf)
    personal[: min(columns, SIZE)] = known[:columns]
    expected = np.logaddexp(np.log(weight) + personal, np.log1p(-weight) + base)
    assert mixed == pytest.approx(expected, abs=1e-5)


def test_half_precision_comes_back_as_it_was(vocabulary: Vocabulary) -> None:
    import torch

    user = writer(vocabulary, 1)
    ids, scores = torch.tensor([[5, 9]]), torch.randn(1, SIZE).log_softmax(-1)
    mixed = processor(user, vocabulary)(ids, scores.bfloat16())
    assert mixed.dtype == torch.bfloat16
    wide = processor(user, vocabulary)(ids, scores)
    assert mixed.float().numpy() == pytest.approx(wide.numpy(), rel=0.02, abs=0.02)


@pytest.mark.parametrize("order", [1, 2, 3, 5])
@pytest.mark.parametrize("real", [0, 1, 2, 3, 4, 5, 7])
def test_padding_is_no_text(real: int, order: int, vocabulary: Vocabulary) -> None:
    import torch

    pad = 39
    user = writer(vocabulary, 8, order=order)
    text = [int(w) for w in np.random.default_rng(real).choice(user.events[1:], real)]
    scores = torch.randn(1, SIZE).log_softmax(-1)
    states = user.states([[vocabulary.bos, *text]])
    expected = user.mix(states, scores.numpy(), positions=[real])
    for padding in (0, 1, 3, 9) if real else (1, 3, 9):
        ids = torch.tensor([[pad] * padding + text])
        mixed = processor(user, vocabulary, pad=pad)(ids, scores)
        assert np.array_equal(mixed.numpy(), expected)


def test_a_token_like_the_padding_inside_the_text_is_text(vocabulary: Vocabulary) -> None:
    import torch

    user = writer(vocabulary, 8, order=5)
    w = user.events[1:].tolist()
    text = [w[0], w[1], w[2], w[2], w[2], w[2]]
    scores = torch.randn(1, SIZE).log_softmax(-1)
    mixed = processor(user, vocabulary, pad=w[2])(torch.tensor([text]), scores)
    expected = user.mix(user.states([text]), scores.numpy(), positions=[len(text)])
    assert np.array_equal(mixed.numpy(), expected)


@pytest.mark.parametrize("pad", [None, END, 39])
def test_a_position_counts_from_where_the_text_begins(
    pad: int | None, vocabulary: Vocabulary
) -> None:
    import torch

    sequences = [Seq([5, 6, 7, 5, 9, 6], True, True)] * 9
    counts = count(sequences, 3, Specials(vocabulary.size, vocabulary.bos, vocabulary.eos))
    user = PersonalModel.from_counts(counts, Metadata(vocabulary.fingerprint))  # λ by state
    w = [5, 6, 7]
    scores = torch.randn(1, SIZE).log_softmax(-1)
    for ids, position in (
        ([w[0]] * 7, 7),
        ([w[0]] * 300, 300),
        ([END, END, w[0], w[1]], 2),
        ([w[0], w[1], w[2], END, w[0]], 1),
        ([w[0], w[1], END], 0),
    ):
        mixed = processor(user, vocabulary, pad=pad)(torch.tensor([ids]), scores)
        states = user.states([[vocabulary.bos, *ids] if len(ids) < 4 else ids])
        expected = user.mix(states, scores.numpy(), positions=[position])
        assert np.array_equal(mixed.numpy(), expected)
    weights = user.weights(user.states([w[:1]] * 3), [0, 7, 300])
    assert len(set(weights.tolist())) == 3


def test_another_vocabulary_is_a_null_model_or_a_typed_error(vocabulary: Vocabulary) -> None:
    stranger = writer(tiny_vocabulary_of_other_words(vocabulary), 1)
    (model,) = processor(stranger, vocabulary).models
    assert model.reason == "vocabulary_mismatch"
    with pytest.raises(VocabularyMismatchError):
        processor([stranger], vocabulary, strict=True)


def test_rows_that_cannot_be_divided_are_refused(vocabulary: Vocabulary) -> None:
    import torch

    users: Sequence[PersonalModel] = [writer(vocabulary, 1), writer(vocabulary, 2)]
    with pytest.raises(ArgumentError, match="one model for each prompt"):
        processor(users, vocabulary)(torch.tensor([[1]] * 3), torch.zeros(3, SIZE))
    with pytest.raises(ArgumentError, match="one model for each prompt"):
        processor(users[0], vocabulary)(torch.tensor([[1]] * 3), torch.zeros(2, SIZE))
    with pytest.raises(ArgumentError, match="needs a model"):
        processor([], vocabulary)


def test_a_saved_tokenizer_names_the_same_vocabulary(tmp_path: Path) -> None:
    assert tiny_vocabulary(tmp_path).bos == SIZE
    assert tiny_vocabulary(tmp_path).eos == END


# --- with a real LM -----------------------------------------------------------------------------


def wrote(vocabulary: Vocabulary, texts: list[str]) -> bytes:
    specials = Specials(vocabulary.size, vocabulary.bos, vocabulary.eos)
    sequences = [sequence for text in texts for sequence in vocabulary.encode(text)]
    return encode(count(sequences, 3, specials), Metadata(vocabulary.fingerprint))


@pytest.fixture(scope="module")
def smollm2() -> tuple[Any, Any, Vocabulary]:
    import torch
    from transformers import AutoTokenizer

    from perslm.global_lm.huggingface import load_quietly
    from perslm.global_lm.smollm2 import smollm2_directory

    torch.set_num_threads(1)  # tests share the machine with each other
    place = smollm2_directory()
    vocabulary = Vocabulary.from_tokenizer_json(place / "tokenizer.json")
    tokenizer = AutoTokenizer.from_pretrained(place, padding_side="left")
    return load_quietly(place).eval(), tokenizer, vocabulary


@needs_smollm2
def test_smollm2_writes_for_each_user_what_is_theirs(
    smollm2: tuple[Any, Any, Vocabulary], store: Store
) -> None:
    lm, tokenizer, vocabulary = smollm2
    habits = {"ann": "See you at the lobster festival.", "bob": "See you at the harbour tomorrow."}
    for user, habit in habits.items():
        store.publish(user, wrote(vocabulary, [habit] * 20), parent=store.head(user))
    users = [store.load(user, vocabulary=vocabulary, weight=0.6) for user in (*habits, "nobody")]
    drafts = ["I hope all is well. See you at", "See you at", "See you at"]
    prompts = tokenizer(drafts, return_tensors="pt", padding=True)
    mixing = processor(users, vocabulary, pad=tokenizer.pad_token_id)
    options = {"num_beams": 3, "max_new_tokens": 4, "do_sample": False}
    plain = tokenizer.batch_decode(lm.generate(**prompts, **options), skip_special_tokens=True)
    found = lm.generate(**prompts, **options, logits_processor=[mixing])
    ann, bob, nobody = tokenizer.batch_decode(found, skip_special_tokens=True)
    assert "the lobster" in ann
    assert "the harbour" in bob
    assert "lobster" not in plain[0]
    assert nobody == plain[2]


@needs_smollm2
def test_smollm2s_beams_equal_slow_ones_that_mix_explicitly(
    smollm2: tuple[Any, Any, Vocabulary],
) -> None:
    lm, _, vocabulary = smollm2
    texts = ["Please see the attached draft and call me.", "Please call me about the gas deal."]
    user = PersonalModel.from_blob(wrote(vocabulary, texts * 5), weight=0.4)
    prompts = [vocabulary.history(text)[1:] for text in ("Good morning Ann. Please", "Please call")]
    width, steps, longest = 2, 3, max(map(len, prompts))
    output = generated(
        lm,
        prompts,
        pad=2,
        num_beams=width,
        num_return_sequences=width,
        max_new_tokens=steps,
        eos_token_id=None,
        logits_processor=[processor(user, vocabulary, pad=2)],
    )
    for i, prompt in enumerate(prompts):
        expected = slow_beams(explicit(lm, user, vocabulary), prompt, width, steps, None)
        own = slice(i * width, (i + 1) * width)
        assert answers(output, longest, None)[own] == [ids for _, ids in expected]
        scores = output.sequences_scores[own].tolist()
        assert scores == pytest.approx([score for score, _ in expected], abs=1e-3)
