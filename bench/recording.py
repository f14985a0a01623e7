"""Recording inside a model: lm.run(ids, record=…) against TransformerLens on the same weights and hooks."""

import tempfile
from collections.abc import Iterator
from typing import Any

import torch
import transformers

import labkit
from bench.peers import llama
from labkit.lm import LanguageModel
from labkit.rounds import Row, ratios, rounds

# what is recorded: our names, and the ends of theirs
RECORDED = {
    "nothing": ((), ()),
    "all residuals": (("*.residual",), ("hook_resid_pre",)),
    "all patterns and residuals": (("*.pattern", "*.residual"), ("attn.hook_pattern", "hook_resid_pre")),
}


def lens(lm: LanguageModel) -> Any:
    """TransformerLens around transformers' Llama, with the same weights; it wants a tokenizer, which is not timed."""
    try:
        from transformer_lens.model_bridge import TransformerBridge
    except ImportError:
        raise SystemExit("recording needs TransformerLens: run make bench, which installs it") from None
    special = dict(bos_token="<|im_start|>", eos_token="<|im_end|>", pad_token="<|im_end|>")
    with tempfile.TemporaryDirectory(prefix="labkit-") as folder:
        transformers.PreTrainedTokenizerFast(tokenizer_object=lm.tokenizer, **special).save_pretrained(folder)
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        return TransformerBridge.boot_transformers("SmolLM2", hf_model=llama(), tokenizer=tokenizer, device="cpu")


@torch.no_grad()
def main() -> Iterator[Row]:
    lm = labkit.lm.load()
    peer = lens(lm)
    ids = torch.randint(0, 49152, (1, 256), generator=torch.Generator().manual_seed(0))

    def theirs(ids: torch.Tensor, ends: tuple[str, ...]) -> dict[str, torch.Tensor]:
        return peer.run_with_cache(ids, return_cache_object=False, names_filter=lambda name: name.endswith(ends))[1]

    names, ends = RECORDED["all patterns and residuals"]
    ours, found = lm.run(ids[:, :64], record=names).values, theirs(ids[:, :64], ends)
    for i in range(lm.config.n_layers):
        at = f"blocks.{i}."
        torch.testing.assert_close(ours[f"{i}.pattern"], found[at + "attn.hook_pattern"], rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(ours[f"{i}.residual"], found[at + "hook_resid_pre"], rtol=1e-3, atol=1e-2)
    for t, n in ((32, 7), (256, 5)):
        for what, (names, ends) in RECORDED.items():
            forms = {
                "labkit": lambda t=t, names=names: lm.run(ids[:, :t], record=names),
                "TransformerLens": lambda t=t, ends=ends: theirs(ids[:, :t], ends) if ends else peer(ids[:, :t]),
            }
            yield from ratios(f"{t} tokens, {what} recorded", rounds(forms, n), "labkit")
