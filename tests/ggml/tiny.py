"""Tiny models of every family with tokenizers of both kinds, as Hugging Face folders."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

TEXT = 9 * [
    "the weights of a model are numbers",
    "every number costs 16 bits, or 4",
    "the theme of these: there, then, 1234",
]
SMALL = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 128, "vocab_size": 384, "max_position_embeddings": 256, "pad_token_id": None,
    "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 500000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}  # fmt: skip
HALF = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
FAMILIES = {
    "llama": ("llama", {"tie_word_embeddings": True}),
    "llama, rope of 3.1": ("llama", {"rope_parameters": LLAMA3, "tie_word_embeddings": False}),
    "llama, linear rope": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0}}),
    "llama, wide heads": ("llama", {"head_dim": 32}),
    "mistral": ("mistral", {"tie_word_embeddings": False, "sliding_window": None}),
    "qwen2": ("qwen2", {"tie_word_embeddings": True}),
    "qwen2, yarn": ("qwen2", {"rope_parameters": YARN, "tie_word_embeddings": False}),
    "qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": False}),
    "gemma": ("gemma", {}),
    "gemma2": ("gemma2", {"query_pre_attn_scalar": 16, "sliding_window": 16}),
    "gemma3": ("gemma3_text", {"query_pre_attn_scalar": 16, "sliding_window": 16, "num_hidden_layers": 7}),
    "phi": ("phi", {"hidden_act": "gelu_new", "rope_parameters": HALF, "tie_word_embeddings": False}),
    "phi3": ("phi3", {"tie_word_embeddings": False, "sliding_window": None}),
}  # fmt: skip


def config_of(family: str) -> object:
    """The transformers config of one of `FAMILIES`."""
    kind, more = FAMILIES[family]
    return AutoConfig.for_model(kind, **SMALL | more)


def folder_of(family: str, folder: Path, tokenizer: PreTrainedTokenizerFast | None = None) -> Path:
    """A Hugging Face folder of a random float32 model: norms and biases random too, so that a lost one shows."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config_of(family), dtype=torch.float32)
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1:
                parameter.data.add_(torch.randn_like(parameter), alpha=0.2)
            elif "embed" not in name:
                parameter.data.mul_(5)  # the usual 0.02 would leave attention without a say
    model.save_pretrained(folder)
    (tokenizer or byte_level()).save_pretrained(folder)
    return folder


def byte_level(pattern: str | None = None) -> PreTrainedTokenizerFast:
    """A byte-level BPE of at most 384 tokens with a chat template; GPT-2's splits, or those of `pattern`."""
    backend = Tokenizer(models.BPE())
    parts = [] if pattern is None else [pre_tokenizers.Split(Regex(pattern), "isolated")]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*parts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), ["<unk>", "<s>", "</s>", "<turn>"]
    options = {"vocab_size": 340, "initial_alphabet": sorted(alphabet), "special_tokens": special}
    backend.train_from_iterator(TEXT, trainers.BpeTrainer(show_progress=False, **options))
    found = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    found.add_tokens(["<tool>"])
    found.chat_template = "{% for m in messages %}<turn>{{ m.content }}{% endfor %}"
    return found


def sentencepiece(space: bool = True) -> PreTrainedTokenizerFast:
    """A BPE over pieces with ▁ for the space, byte fallback and a leading <s>, as Llama 2's; at most 384 tokens."""
    special = ["<unk>", "<s>", "</s>"]
    trained = Tokenizer(models.BPE())
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trained.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=100, show_progress=False))
    learnt = json.loads(trained.to_str())["model"]
    tokens = [*special, *(f"<0x{byte:02X}>" for byte in range(256))]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in learnt["merges"]]
    letters = sorted(t for t in learnt["vocab"] if len(t) == 1)
    tokens += ["".join(merge) for merge in merges if "".join(merge) not in tokens]  # the earlier merged, the higher
    tokens += letters
    vocabulary = {token: number for number, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    prepend = [normalizers.Prepend("▁")] if space else []
    backend.normalizer = normalizers.Sequence([*prepend, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if space else []
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip])
    backend.post_processor = processors.TemplateProcessing("<s> $A", "<s> $A <s> $B", [("<s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
