import gc
import json
import math
import tracemalloc
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from qlab.errors import QlabError
from qlab.evaluate import Tally, evaluate, evaluate_many, predict

FP32 = torch.finfo(torch.float32).eps
VOCAB = 32


class Constant(nn.Module):
    """Predicts the same distribution everywhere: a unigram model. Records the windows it was given."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("row", logits)
        self.seen = []

    def forward(self, input_ids, use_cache):
        self.seen.append(input_ids[0].tolist())
        return SimpleNamespace(logits=self.row.expand(*input_ids.shape, -1))


class NaNAt(Constant):
    """Breaks down on its window number `bad`."""

    def __init__(self, bad):
        super().__init__(torch.zeros(VOCAB))
        self.bad = bad

    def forward(self, input_ids, use_cache):
        output = super().forward(input_ids, use_cache)
        nan = math.nan if len(self.seen) == self.bad + 1 else 0.0
        return SimpleNamespace(logits=output.logits + nan)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def llama(seed=0, **changes):
    """A random two-layer llama whose weights are large enough that its predictions differ by position."""
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=VOCAB, max_position_embeddings=64, **sizes | changes)
    model = LlamaForCausalLM(config)
    for i, p in enumerate(model.parameters()):
        p.data = 0.5 * gaussian(*p.shape, seed=100 * seed + i)
    return model.eval()


def text(tokens, seed=0):
    return torch.randint(VOCAB, (tokens,), generator=torch.Generator().manual_seed(seed))


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    monkeypatch.setenv("QLAB_PROGRESS", "0")


@pytest.fixture(scope="module")
def pair():
    """A model and a slightly disturbed copy: (reference, model)."""
    reference, model = llama(), llama()
    for i, p in enumerate(model.parameters()):
        p.data += 0.02 * gaussian(*p.shape, seed=900 + i)
    return reference, model


@pytest.mark.parametrize("protocol", ["windows", "llama.cpp"])
def test_the_perplexity_of_a_uniform_model_is_its_vocabulary(protocol):
    got = evaluate(Constant(torch.zeros(VOCAB)), text(100), window=16, protocol=protocol)
    # the loss ln 32 = 3.47 is a float32 number, off by 3.47 x 2^-23 at most, as is ln of the perplexity
    assert got.perplexity == pytest.approx(VOCAB, rel=4 * FP32)
    assert got.perplexity_se == 0


@pytest.mark.parametrize("window", [6, 11, 21])
def test_a_unigram_model_does_not_notice_the_window(window):
    # a text of period 5 in windows of 5k+1: whatever the window, it scores whole periods
    model, pattern = Constant(gaussian(VOCAB)), text(5)
    losses = -model.row.double().log_softmax(-1)[pattern]
    got = evaluate(model, pattern.repeat(30), window=window)
    assert got.perplexity == pytest.approx(losses.mean().exp().item(), rel=16 * FP32)
    assert got.perplexity_se < 16 * FP32 * got.perplexity  # every window is alike


def score_by_hand(model, ids, window, first=0, bos_id=None):
    """float64 log-probabilities [windows, scored, vocab] and targets, one prediction at a time."""
    rows, targets = [], []
    for start in range(0, len(ids) - window + 1, window):
        tokens = ids[start : start + window].clone()
        if bos_id is not None:
            tokens[0] = bos_id
        with torch.no_grad():
            logits = model(input_ids=tokens[None]).logits[0].double()
        for position in range(first, window - 1):
            rows.append(logits[position].log_softmax(-1))
            targets.append(int(ids[start + position + 1]))
    count = len(ids) // window
    return torch.stack(rows).view(count, -1, VOCAB), torch.tensor(targets).view(count, -1)


def losses_by_hand(*args, **kwargs):
    log_p, targets = score_by_hand(*args, **kwargs)
    return -log_p.gather(-1, targets[..., None])[..., 0]


def test_windows_protocol_equals_an_independent_loop():
    model, ids = llama(), text(5 * 24 + 7)
    losses = losses_by_hand(model, ids, 24)
    got = evaluate(model, ids, window=24, token_losses=True)
    assert (got.tokens, got.windows, got.window, got.protocol) == (5 * 23, 5, 24, "windows")
    # random logits here stay below 64, so a float32 log-probability is off by 64 units of 2^-23 at most
    assert (got.token_losses - losses).abs().max() < 64 * FP32
    assert got.perplexity == pytest.approx(losses.mean().exp().item(), rel=64 * FP32)


@pytest.mark.parametrize("window", [24, 25])
@pytest.mark.parametrize("bos_id", [None, 1])
def test_llama_cpp_protocol_equals_an_independent_loop(window, bos_id):
    # perplexity.cpp: first = n_ctx/2; predictions of tokens first+1 .. n_ctx-1, n_ctx - first - 1 of them
    model, ids = llama(), text(4 * 25 + 3)
    losses = losses_by_hand(model, ids, window, first=window // 2, bos_id=bos_id)
    got = evaluate(model, ids, window=window, protocol="llama.cpp", bos_id=bos_id, token_losses=True)
    assert got.tokens == 4 * (window - window // 2 - 1)
    assert (got.token_losses - losses).abs().max() < 64 * FP32


def test_bos_replaces_the_first_token_of_every_window_and_spares_the_ids():
    model, ids = Constant(torch.zeros(VOCAB)), torch.arange(2, 14)
    evaluate(model, ids, window=6, bos_id=0)
    assert model.seen == [[0, 3, 4, 5, 6, 7], [0, 9, 10, 11, 12, 13]]
    assert torch.equal(ids, torch.arange(2, 14))


def test_distance_to_a_reference_equals_an_independent_computation(pair):
    reference, model = pair
    ids, window = text(7 * 20), 20
    (log_p, targets), (log_q, _) = score_by_hand(reference, ids, window), score_by_hand(model, ids, window)
    kl = (log_p.exp() * (log_p - log_q)).sum(-1)
    same = log_p.argmax(-1) == log_q.argmax(-1)
    log_ratio = (log_p - log_q).gather(-1, targets[..., None])[..., 0]  # [windows, scored]
    ratio = log_ratio.mean().exp()
    residuals = (log_ratio - log_ratio.mean()).sum(1)
    se = ratio * (7 / 6 * (residuals**2).sum()).sqrt() / log_ratio.numel()

    got = evaluate(model, ids, reference=reference, window=window)
    rounding = 64 * FP32
    assert kl.mean() > 1e-3  # the disturbed model is far enough that rounding does not decide
    assert got.kl_mean == pytest.approx(kl.mean().item(), abs=rounding)
    each = kl.double().reshape(-1, window - 1).mean(1)
    assert got.kl_se == pytest.approx((each.std() / len(each) ** 0.5).item(), rel=1e-3)
    assert got.kl_median == pytest.approx(kl.quantile(0.5).item(), rel=0.005)
    assert got.kl_p999 == pytest.approx(kl.quantile(0.999).item(), rel=0.005)
    assert got.top1_agreement == pytest.approx(same.double().mean().item(), rel=1e-15)
    assert 0 < got.top1_agreement < 1
    assert got.ppl_ratio == pytest.approx(ratio.item(), rel=rounding)
    assert got.ppl_ratio_se == pytest.approx(se.item(), abs=rounding)
    assert got.ppl_ratio_se / ratio < got.perplexity_se / got.perplexity  # what pairing is for


def test_a_model_against_itself_is_at_distance_zero():
    model = llama()
    got = evaluate(model, text(60), reference=llama(), window=20)
    assert (got.kl_mean, got.kl_median, got.kl_p999) == (0, 0, 0)
    assert (got.top1_agreement, got.ppl_ratio, got.ppl_ratio_se) == (1, 1, 0)


def test_two_fixed_distributions_have_their_analytic_kl_and_ratio():
    p, q = torch.tensor([0.5, 0.25, 0.25]), torch.tensor([0.25, 0.25, 0.5])
    got = evaluate(Constant(q.log()), [0] * 8, reference=Constant(p.log()), window=4)
    for kl in (got.kl_mean, got.kl_median, got.kl_p999):
        assert kl == pytest.approx(math.log(2) / 4, rel=0.005)  # the quantiles' resolution
    assert got.perplexity == pytest.approx(4, rel=4 * FP32)
    assert got.ppl_ratio == pytest.approx(2, rel=4 * FP32)
    assert got.top1_agreement == 0


def test_many_models_share_one_pass_of_the_reference(pair):
    reference = Constant(gaussian(VOCAB, seed=1))
    models = {"a": Constant(gaussian(VOCAB, seed=2)), "itself": reference, "b": pair[1]}
    ids = text(65)
    got = evaluate_many(models, ids, reference=reference, window=16)
    assert reference.seen == ids[:64].view(4, 16).tolist()
    assert list(got) == ["a", "itself", "b"]
    assert got["a"] == evaluate(models["a"], ids, reference=reference, window=16)
    assert got["itself"].kl_mean == 0
    assert got["b"] == evaluate(pair[1], ids, reference=reference, window=16)


def test_one_window_has_no_standard_error_and_json_says_null(pair):
    reference, model = pair
    got = evaluate(model, text(20), reference=reference, window=20)
    assert math.isnan(got.perplexity_se)
    record = json.loads(json.dumps(got.to_dict(), allow_nan=False))
    got_back = (record["windows"], record["perplexity"], record["perplexity_se"], record["ppl_ratio_se"])
    assert got_back == (1, got.perplexity, None, None)


def test_to_dict_names_every_field_and_token_losses_only_on_request():
    got = evaluate(Constant(torch.zeros(VOCAB)), text(32), window=16)
    assert list(got.to_dict()) == [
        *("tokens", "windows", "window", "protocol", "perplexity", "perplexity_se"),
        *("kl_mean", "kl_se", "kl_median", "kl_p999", "top1_agreement", "ppl_ratio", "ppl_ratio_se"),
    ]
    kept = evaluate(Constant(torch.zeros(VOCAB)), text(32), window=16, token_losses=True)
    assert torch.equal(torch.tensor(kept.to_dict()["token_losses"]), kept.token_losses)
    assert kept.token_kl is None  # without a reference


def test_token_kl_is_kept_with_the_losses(pair):
    reference, model = pair
    got = evaluate(model, text(60), reference=reference, window=20, token_losses=True)
    p, q = (score_by_hand(m, text(60), 20)[0] for m in (reference, model))
    # log-probabilities of logits below 64, off by 64 units of 2^-23 each
    assert (got.token_kl - (p.exp() * (p - q)).sum(-1)).abs().max() < 2 * 64 * FP32
    assert got.token_kl.mean() == pytest.approx(got.kl_mean, rel=1e-5)
    assert torch.equal(torch.tensor(got.to_dict()["token_kl"]), got.token_kl)
    assert evaluate(model, text(60), reference=reference, window=20).token_kl is None


def test_the_table_shows_what_was_measured_with_its_error(pair):
    got = evaluate(pair[1], text(40), window=20)
    row = got.table()[0]
    assert row == {"measure": "perplexity", "value": got.perplexity, "standard_error": got.perplexity_se}
    assert got.title == "38 predictions in 2 windows of 20 (windows)"
    distance = evaluate(pair[1], text(40), reference=pair[0], window=20).table()
    assert [r["measure"] for r in distance if r["standard_error"] is not None] == ["perplexity", "ppl_ratio", "kl_mean"]
    assert (len(got.table()), len(distance)) == (1, 6)


def test_impossible_text_has_infinite_perplexity_and_null_in_json():
    row = torch.zeros(VOCAB).index_fill(0, torch.tensor(3), -math.inf)
    got = evaluate(Constant(row), [3] * 12, window=4)
    assert got.perplexity == math.inf
    assert got.to_dict()["perplexity"] is None


def test_dropout_is_off_and_the_model_s_modes_come_back():
    model = llama(attention_dropout=0.5).train()
    model.model.layers[0].eval()
    modes = [m.training for m in model.modules()]
    assert evaluate(model, text(64), window=16) == evaluate(llama(), text(64), window=16)
    assert [m.training for m in model.modules()] == modes


def test_ids_may_come_as_a_tokenizer_gives_them():
    model, ids = llama(), text(128)
    expected = evaluate(model, ids, window=64)  # which is all the positions the model has
    assert evaluate(model, ids[None], window=64) == evaluate(model, ids.tolist(), window=64) == expected


def test_memory_does_not_grow_with_the_text():
    tally, tokens = Tally("model", keep_losses=False), text(16)
    prediction, base = (predict("model", Constant(gaussian(VOCAB, seed=i)), tokens, 0, 0) for i in range(2))

    def bytes_held_after(windows):
        for _ in range(windows):
            tally.add(prediction, base)
        tensors = sum(t.nbytes for t in gc.get_objects() if type(t) is torch.Tensor)
        return tracemalloc.get_traced_memory()[0], tensors

    tracemalloc.start()  # Python's objects; the second figure is the tensors, which it does not see
    bytes_held_after(50)
    python, tensors = bytes_held_after(50)
    python_later, tensors_later = bytes_held_after(200)
    tracemalloc.stop()
    assert tensors_later == tensors
    assert python_later - python < 200 * 15  # less than a byte for each token in between


def test_the_bar_names_the_models(capsys, monkeypatch):
    monkeypatch.delenv("QLAB_PROGRESS")
    models = dict.fromkeys(["int4", "int3"], Constant(torch.zeros(VOCAB)))
    evaluate_many(models, text(40), window=16)
    assert "evaluating int4, int3: 100%" in capsys.readouterr().err
    evaluate_many(models, text(40), window=16, progress=False)
    assert capsys.readouterr().err == ""


UNIFORM, WIDER = Constant(torch.zeros(VOCAB)), Constant(torch.zeros(VOCAB + 8))


@pytest.mark.parametrize(
    ("model", "ids", "options", "message"),
    [
        (UNIFORM, text(20), {"window": 32}, "the text has 20 tokens, fewer than one window of 32"),
        (UNIFORM, [], {"window": 32}, "the text has 0 tokens"),
        (UNIFORM, text(20), {"window": 1}, "a window of 1 scores no token under protocol 'windows'"),
        (UNIFORM, text(20), {"window": 2, "protocol": "llama.cpp"}, "a window of 2 scores no token"),
        (UNIFORM, text(20), {"protocol": "ppl"}, "unknown protocol 'ppl': use one of windows, llama.cpp"),
        (UNIFORM, text(20).view(2, 10), {"window": 4}, r"ids are torch.int64 \[2, 10\]"),
        (UNIFORM, torch.rand(20), {"window": 4}, r"ids are torch.float32 \[20\]"),
        (llama(), text(99), {"window": 65}, "'model' takes 64 positions, a window has 65: use window=64"),
        (UNIFORM, text(99), {"window": 65, "reference": llama()}, "'reference' takes 64 positions"),
        (llama(), [0, VOCAB] * 8, {"window": 8}, "'model' knows token ids 0 to 31, the text has 0 to 32"),
        (llama(), text(16), {"window": 8, "bos_id": VOCAB}, "'model' knows token ids 0 to 31"),
        (UNIFORM, text(20), {"window": 4, "reference": WIDER}, "of 32 tokens and the reference one of 40"),
        (NaNAt(2), text(20), {"window": 4}, r"NaN in the logits of 'model' at window 2 \(tokens 8 to 11\)"),
        (UNIFORM, text(20), {"window": 4, "reference": NaNAt(0)}, "logits of 'reference' at window 0"),
    ],
)
def test_bad_input_gets_one_line_that_names_it(model, ids, options, message):
    with pytest.raises(QlabError, match=message) as error:
        evaluate(model, ids, **options)
    assert "\n" not in str(error.value)
