"""labkit.lm against transformers' Llama: the same weights, the same threads, in one run."""

import torch
import transformers

import labkit
from labkit import assets
from labkit.lm import Cache
from labkit.rounds import report, rounds


def main() -> None:
    lm = labkit.lm.load()
    gguf = assets.path("smollm2")
    peer = transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
    ).eval()
    ids = torch.randint(0, 49152, (1, 1024), generator=torch.Generator().manual_seed(0))

    with torch.no_grad():
        took = rounds({"labkit": lambda: lm(ids), "transformers": lambda: peer(ids, use_cache=False)})
        report("forward of 1,024 tokens", took, "labkit")

        def ours() -> None:
            cache = Cache()
            for i in range(64):
                lm(ids[:, i : i + 1], cache=cache)

        def theirs() -> None:
            cache = transformers.DynamicCache()
            for i in range(64):
                peer(ids[:, i : i + 1], past_key_values=cache, use_cache=True)

        report("decode of 64 tokens", rounds({"labkit": ours, "transformers": theirs}), "labkit")
    took = rounds({"labkit": labkit.lm.load}, 3)
    print(f"{'warm load':44} {min(took['labkit']):.2f} s")


if __name__ == "__main__":
    main()
