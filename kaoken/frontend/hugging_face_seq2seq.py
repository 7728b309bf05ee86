"""Hugging Face folders of encoders with decoders (T5, BART), as an L0 module of two functions.

transformers builds the model; torch.export exports the encoder, and the decoder for whole texts
over the encoder's output. `add-caches` makes the decoder go on where it left off, and
`split-encoder` moves what depends on the source alone to the encoder's side. Both functions name
the same weights. An architecture needs no code of its own here.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdsl.dialects.builtin import ArrayAttr, DictionaryAttr, ModuleOp, StringAttr
from xdsl.dialects.func import FuncOp
from xdsl.traits import SymbolTable

from kaoken.backend.interface import ENCODER
from kaoken.dialect.attributes import int_attr
from kaoken.dialect.generation import ENCODE, GENERATION, SOURCE
from kaoken.dialect.nn import WeightOp
from kaoken.errors import KaokenError
from kaoken.frontend.generation_config import generation_attribute, record_generation, tokens_of
from kaoken.frontend.hugging_face import (
    errors_name_model,
    folder_head,
    load_folder_model,
    name_of_folder,
    position_limit,
    read_config,
)
from kaoken.frontend.recognise import recognise
from kaoken.frontend.torch_export import import_module
from kaoken.passes.add_caches import add_caches
from kaoken.passes.assume_unpadded import assume_unpadded
from kaoken.passes.split_encoder import split_encoder
from kaoken.weights import store_of

if TYPE_CHECKING:
    import numpy as np
    import torch


def is_seq2seq_folder(path: Path) -> bool:
    """Whether a folder holds a model that makes a text from another one."""
    config = read_config(path)
    return bool(config.get("is_encoder_decoder")) and folder_head(path) == "none"


def import_seq2seq_folder(path: str | Path, max_tokens: int, name: str | None = None) -> ModuleOp:
    """The model in a folder, for sources and for texts of up to `max_tokens` tokens each.

    `max_tokens` is lowered to the positions that the model has. Raises KaokenError when the folder,
    its config or its weights are missing or broken, transformers does not know the architecture,
    or its tokens meet elsewhere than in attention.
    """
    path = Path(path)
    config = read_config(path)
    model = load_folder_model(path, config, "AutoModelForSeq2SeqLM")
    size = min(max_tokens, position_limit(model.config))
    if size < 2:
        raise KaokenError("a source and its text have tokens: max_tokens is at least 2")
    with errors_name_model(path, config):
        module = import_seq2seq(model, size, name or name_of_folder(path))
    record_generation(module, path, model, size)
    return module


def import_seq2seq(model: Any, size: int, name: str) -> ModuleOp:
    """A model of transformers, for sources and texts of up to `size` tokens each."""
    import torch

    encoder, decoder = _halves(model)
    ids = torch.ones((1, min(7, size)), dtype=torch.int64)
    new_ids = torch.ones((1, min(5, size)), dtype=torch.int64)
    with torch.no_grad():
        states = encoder(ids)
    source, tokens = (torch.export.Dim(symbol, max=size) for symbol in (SOURCE, "tokens"))
    reading = import_module(encoder, (ids,), None, ({1: source},), name)
    module = import_module(decoder, (new_ids, states), None, ({1: tokens}, {1: source}), name)
    if assume_unpadded(module, getattr(model.config, "pad_token_id", None)):
        recognise(module)
    add_caches(module)
    _join(module, reading)
    split_encoder(module)
    module.attributes[GENERATION] = generation_attribute(size, tokens_of(model, "eos_token_id"))
    module.attributes[ENCODER] = _encoder_attribute(model)
    module.verify()
    return module


def _halves(model: Any) -> tuple[torch.nn.Module, torch.nn.Module]:
    """The encoder, and the decoder over what it gives; both name the whole model's weights."""
    import torch

    class Half(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

    class Encoder(Half):
        def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
            return self.model.get_encoder()(input_ids=input_ids).last_hidden_state

    class Decoder(Half):
        def forward(
            self, decoder_input_ids: torch.Tensor, encoder_hidden_states: torch.Tensor
        ) -> torch.Tensor:
            read = (encoder_hidden_states,)
            ids = decoder_input_ids
            return self.model(decoder_input_ids=ids, encoder_outputs=read, use_cache=False).logits

    return Encoder().eval(), Decoder().eval()


def _join(module: ModuleOp, encoder: ModuleOp) -> None:
    """Put the encoder's @main before the module's as @encode; equal weights get one name."""
    store, other = store_of(module), store_of(encoder)
    known = {_memory(store[key]): key for key in store.keys()}
    for op in encoder.walk():
        if isinstance(op, WeightOp):
            array = other[op.key.data]
            op.key = StringAttr(known.get(_memory(array)) or store.add(op.key.data, array))
    main, function = (SymbolTable.lookup_symbol(m, "main") for m in (module, encoder))
    assert isinstance(main, FuncOp)
    assert isinstance(function, FuncOp)
    function.detach()
    function.sym_name = StringAttr(ENCODE)
    module.body.block.insert_op_before(function, main)


def _memory(array: np.ndarray) -> tuple[Any, ...]:
    """What tells whether two arrays are the same memory."""
    return (array.ctypes.data, array.shape, array.strides, array.dtype)


def _encoder_attribute(model: Any) -> DictionaryAttr:
    """What the text begins with."""
    starts = tokens_of(model, "decoder_start_token_id") or tokens_of(model, "bos_token_id")
    if not starts:
        raise KaokenError("its config has no decoder_start_token_id, so no text can begin")
    return DictionaryAttr({"start_tokens": ArrayAttr([int_attr(starts[0])])})
