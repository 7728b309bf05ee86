"""A BitNet model from Hugging Face's kind of folder to C, with its ternary weights as they are.

    python examples/bitnet.py                          # a small one with random weights
    python examples/bitnet.py --model folder           # yours, such as microsoft/bitnet-b1.58-2B-4T

The small one has the layers of BitNet b1.58 2B-4T (squared ReLU, norms before `o_proj` and
`down_proj`, four query heads to a key head) and its proportions, at a tenth of the width.
"""

import argparse
import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import save_file
from transformers.integrations.bitnet import pack_weights

import kaoken
from kaoken.frontend.hugging_face import load_folder_model, read_config

SIZES = {
    "vocab_size": 1024,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def write_random_bitnet(folder: Path) -> Path:
    """A checkpoint whose layers transformers calls `bitlinear`: four weights in a byte, a scale."""
    torch.manual_seed(0)
    config = transformers.BitNetConfig(**SIZES)
    tensors = {}
    for name, tensor in transformers.BitNetForCausalLM(config).state_dict().items():
        if name.endswith("proj.weight"):
            signs = torch.randint(-1, 2, tensor.shape)
            tensors[name] = pack_weights(signs)
            tensors[name.replace("weight", "weight_scale")] = torch.tensor([tensor.shape[1] ** 0.5])
        elif name != "lm_head.weight":
            tensors[name] = torch.randn_like(tensor) if "embed" in name else tensor
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "model.safetensors")
    settings = {"quant_method": "bitnet", "linear_class": "bitlinear"}
    text = config.to_dict() | {
        "architectures": ["BitNetForCausalLM"],
        "quantization_config": settings,
    }
    (folder / "config.json").write_text(json.dumps(text))
    return folder


def compare(model: kaoken.CompiledDecoder, folder: Path, new: int) -> None:
    """Continue a prompt, and ask PyTorch what it would have said after each token."""
    prompt = [5, 17, 3, 42]
    ids = model.generate(prompt, new, eos_token_id=[])
    own = load_folder_model(folder, read_config(folder), "AutoModelForCausalLM")
    with torch.no_grad():
        wanted = own(torch.from_numpy(ids)).logits[0, len(prompt) - 1 : -1].argmax(-1).numpy()
    equal = np.mean(wanted == ids[0, len(prompt) :])
    print(f"tokens that PyTorch would choose: {equal:.0%} of {new}")


def main() -> None:
    parser = argparse.ArgumentParser(description="A BitNet model as C")
    parser.add_argument("--model", type=Path, help="a folder with a BitNet checkpoint")
    parser.add_argument("--out", type=Path, help="where the compiled model goes")
    parser.add_argument("--new", type=int, default=64, help="how many tokens to add")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.model or write_random_bitnet(Path(scratch) / "bitnet")
        out = args.out or Path(scratch) / "compiled"
        kaoken.compile(folder, out=out, max_tokens=256)
        model = kaoken.load_decoder(out)
        size = (out / f"{out.name}.weights").stat().st_size
        stored = sum(f.stat().st_size for f in folder.glob("*.safetensors"))
        print(f"weights: {size / 1e6:.1f} MB, in the folder {stored / 1e6:.1f} MB")
        compare(model, folder, args.new)


if __name__ == "__main__":
    main()
