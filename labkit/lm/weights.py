"""From the GGUF file to tensors: dequantised once, kept as safetensors, mapped into memory from then on."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor

from labkit import assets

from .model import Config, LanguageModel, Layer

FORMAT = 1  # of the converted file; a change of `convert` raises it
IN_GGUF = {
    "attn_norm": "attn_norm",
    "W_Q": "attn_q",
    "W_K": "attn_k",
    "W_V": "attn_v",
    "W_O": "attn_output",
    "mlp_norm": "ffn_norm",
    "W_gate": "ffn_gate",
    "W_up": "ffn_up",
    "W_down": "ffn_down",
}


def load(name: str = "smollm2") -> LanguageModel:
    """The model of this asset, in float32 on the CPU; the first call fetches and converts, later ones map the file."""
    gguf = assets.path(name)
    file = assets.derived(name, f"float32-v{FORMAT}.safetensors", lambda out: convert(gguf, out))
    with safe_open(file, framework="pt") as f:
        about = f.metadata()
        tensors = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118 (not a dict)
    config = Config(**json.loads(about["config"]))
    layers = [Layer(**{short: tensors[f"{i}.{short}"] for short in IN_GGUF}) for i in range(config.n_layers)]
    tokenizer = Tokenizer.from_str(about["tokenizer"])
    return LanguageModel(config, tokenizer, tensors["W_E"], layers, tensors["final_norm"])


def convert(gguf: Path, out: Path) -> None:
    """Dequantise a Llama-architecture GGUF file to float32; write tensors, sizes and tokenizer to `out`."""
    from gguf import GGUFReader, dequantize  # a second to import: only the conversion needs it

    reader = GGUFReader(gguf)
    field = {name: f.contents() for name, f in reader.fields.items() if not name.startswith("GGUF.")}
    if field["general.architecture"] != "llama":
        raise ValueError(f"{gguf.name}: expected a llama architecture, got {field['general.architecture']!r}")
    config = dict(
        n_layers=field["llama.block_count"],
        n_heads=field["llama.attention.head_count"],
        n_kv_heads=field["llama.attention.head_count_kv"],
        d_model=field["llama.embedding_length"],
        d_mlp=field["llama.feed_forward_length"],
        context=field["llama.context_length"],
        rope_base=field["llama.rope.freq_base"],
        norm_eps=field["llama.attention.layer_norm_rms_epsilon"],
    )
    raw = {t.name: torch.from_numpy(dequantize(t.data, t.tensor_type).copy()) for t in reader.tensors}
    tensors = {"W_E": raw["token_embd.weight"], "final_norm": raw["output_norm.weight"]}
    for i in range(config["n_layers"]):
        for short, long in IN_GGUF.items():
            W = raw[f"blk.{i}.{long}.weight"]
            if short in ("W_Q", "W_K"):
                W = halves(W, config["n_heads"] if short == "W_Q" else config["n_kv_heads"])
            tensors[f"{i}.{short}"] = W.contiguous()
    about = {"config": json.dumps(config), "tokenizer": tokenizer_of(field).to_str()}
    save_file(tensors, out, metadata=about)


def halves(W: Tensor, n_heads: int) -> Tensor:
    """Undo GGUF's interleaving: its rotary pairs are rows (2j, 2j+1) of a head, ours are (j, j + d_head/2)."""
    return W.unflatten(0, (n_heads, -1, 2)).transpose(1, 2).reshape(W.shape)


def tokenizer_of(field: dict) -> Tokenizer:
    """The byte-level BPE tokenizer from the file's own vocabulary and merges; digits are split one by one."""
    from tokenizers import AddedToken, decoders, models, pre_tokenizers

    words, kinds = field["tokenizer.ggml.tokens"], field["tokenizer.ggml.token_type"]
    merges = [tuple(m.split(" ")) for m in field["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={w: i for i, w in enumerate(words)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    control = 3  # GGUF's token type for <|endoftext|> and its like
    tokenizer.add_special_tokens(
        [AddedToken(w, special=True) for w, kind in zip(words, kinds, strict=True) if kind == control]
    )
    return tokenizer
