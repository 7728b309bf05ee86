"""`kaoken generate`: what it prints, what it keeps, and one sentence for every mistake."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kaoken.errors import KaokenError
from kaoken.tools.chat import chat_text
from kaoken.tools.generate_command import Request
from kaoken.tools.kaoken import main
from tests.available import STORIES, needs_stories

pytest.importorskip("gguf")
tokenizers = pytest.importorskip("tokenizers")
transformers = pytest.importorskip("transformers")

from tests.unit.gguf_files import write_gguf  # noqa: E402

pytestmark = needs_stories
PROMPT = "Once upon a time"
STORY = ", there was a little girl named Lily."


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A GGUF file, and a cache of its own."""
    folder = tmp_path_factory.mktemp("story")
    model = transformers.AutoModelForCausalLM.from_pretrained(STORIES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KAOKEN_CACHE", str(folder / "cache"))
        yield write_gguf(folder / "stories.gguf", model, tokenizer=STORIES)


def kaoken(*args: str | Path) -> int:
    try:
        main([str(arg) for arg in args])
    except SystemExit as done:
        return int(done.code or 0)
    return 0


def failure(capsys: pytest.CaptureFixture[str], *args: str | Path) -> str:
    capsys.readouterr()
    assert kaoken(*args) == 1
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1, shown.err
    return shown.err.strip()


def test_text_and_speed(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The first call compiles; the second finds it in the cache."""
    args = ["generate", story, "--prompt", PROMPT, "--max-new-tokens", "20"]
    assert kaoken(*args) == 0
    first = capsys.readouterr()
    assert first.out.startswith(STORY)
    assert "compiled stories.gguf" in first.err
    assert kaoken(*args) == 0
    second = capsys.readouterr()
    assert second.out == first.out
    assert second.err.startswith("5 + 20 tokens, ")
    assert second.err.endswith(" tokens/s\n")


def test_folder_and_json(story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kaoken("compile", story, "-o", tmp_path / "m", "--max-tokens", "24") == 0
    capsys.readouterr()
    assert kaoken("generate", tmp_path / "m", "-p", PROMPT, "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["text"].startswith(STORY)
    assert (answer["prompt_tokens"], answer["new_tokens"]) == (5, 20)
    for flag, value in (("--dtype", "int8"), ("--kv", "int8"), ("--target", "generic")):
        text = failure(capsys, "generate", tmp_path / "m", "-p", PROMPT, flag, value)
        assert text.endswith(f"m is compiled already: give {flag} to `kaoken compile`")
    prompt = PROMPT * 9
    text = failure(capsys, "generate", tmp_path / "m", "-p", prompt)
    assert "the context holds at most 24 tokens" in text


def test_mistakes(story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = failure(capsys, "generate", tmp_path / "none.gguf", "-p", PROMPT)
    assert "there is no file or folder" in missing
    unknown = failure(capsys, "generate", story, "-p", PROMPT, "--kv", "int4")
    assert "unknown kv int4: choose from f32, bf16, int8" in unknown
    assert "is not a compiled model" in failure(capsys, "generate", tmp_path, "-p", PROMPT)
    (tmp_path / "bad.gguf").write_bytes(story.read_bytes()[:5000])
    assert "truncated" in failure(capsys, "generate", tmp_path / "bad.gguf", "-p", PROMPT)
    encoder = transformers.BertConfig(
        vocab_size=40, hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=24, max_position_embeddings=24,
    )  # fmt: skip
    transformers.BertModel(encoder).save_pretrained(tmp_path / "bert")
    text = failure(capsys, "generate", tmp_path / "bert", "-p", PROMPT)
    assert text.endswith("does not generate text: it is an encoder")
    assert "no chat template" in failure(capsys, "generate", story, "-p", PROMPT, "--chat")
    sizes = transformers.GPT2Config(vocab_size=40, n_positions=24, n_embd=16, n_layer=1, n_head=2)
    transformers.GPT2LMHeadModel(sizes).save_pretrained(tmp_path / "gpt2")
    text = failure(capsys, "generate", tmp_path / "gpt2", "-p", PROMPT)
    assert text.endswith("gpt2 has no tokenizer.json: copy the model's there")


def test_what_is_asked_for_comes_before_what_the_model_records() -> None:
    drawing, beams = {"do_sample": True, "temperature": 0.6}, {"num_beams": 4}
    assert not Request("", sampling={"num_beams": 3}).options(drawing).do_sample
    assert Request("").options(drawing).do_sample
    assert Request("").options(beams).num_beams == 4
    assert Request("", seed=1).options(beams).num_beams == 1
    assert Request("", stop=["x"]).options(beams).num_beams == 4
    assert Request("", sampling={"num_beams": 1}).options(beams).num_beams == 1


def test_chat_templates_may_refuse_and_leave_loops(tmp_path: Path) -> None:
    template = tmp_path / "chat_template.jinja"
    template.write_text(
        "{% for m in messages %}{{ m.content }} {{ strftime_now('%%') }}{% break %}{% endfor %}"
    )
    messages = Request("Hi").messages
    assert chat_text(tmp_path, messages) == "Hi %"
    template.write_text("{{ raise_exception('no users') }}")
    with pytest.raises(KaokenError, match="the chat template does not take this: no users"):
        chat_text(tmp_path, messages)


def test_chat_templates_are_rendered_as_by_transformers(tmp_path: Path) -> None:
    """Of several, the default; {% generation %} marks, JSON, special tokens, a system prompt."""
    template = """{{ bos_token }}{{ [messages[0].content] | tojson }}
    {%- for m in messages %}
        {%- if m.role == 'user' %}<u>{{ m.content }}
        {%- else %}{% generation %}<s>{{ m.content }}{% endgeneration %}{% endif %}
    {%- endfor %}{% if add_generation_prompt %}<a>{% endif %}"""
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": template}]
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"<b>": 0}))
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<b>")
    messages = Request("Grüße <&>", chat=True, system="Be kind.").messages
    wanted = fast.apply_chat_template(
        messages, chat_template=template, add_generation_prompt=True, tokenize=False
    )
    config = {"bos_token": {"content": "<b>"}, "chat_template": named}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert chat_text(tmp_path, messages) == wanted
    assert wanted.startswith('<b>["Be kind."]<s>Be kind.<u>Grüße <&>')
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(KaokenError, match="no chat template"):
        chat_text(tmp_path, messages)


def test_prompts_are_neither_cut_nor_filled_up(tmp_path: Path) -> None:
    """Though a tokenizer.json may ask for it, as those of encoders do."""
    from kaoken.tools.generate_command import decoder_tokenizer

    words = tokenizers.models.WordLevel({"a": 0, "[PAD]": 1}, unk_token="[PAD]")
    tokenizer = tokenizers.Tokenizer(words)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.enable_truncation(3)
    tokenizer.enable_padding(pad_id=1, length=8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert decoder_tokenizer(tmp_path, 2).encode("a a a a a").ids == [0] * 5


def test_a_token_that_was_added_behind_the_models(tmp_path: Path) -> None:
    """Many fine-tuned models have one to pad with: it is no reason to refuse all texts."""
    from kaoken.tools.generate_command import decoder_tokenizer

    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 1}, "b"))
    tokenizer.add_special_tokens(["[PAD]"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    assert decoder_tokenizer(tmp_path, 2).encode("a").ids == [0]
    with pytest.raises(KaokenError, match="has 2 tokens, but the model 1"):
        decoder_tokenizer(tmp_path, 1)


def test_narrow_caches(story: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert kaoken("generate", story, "-p", PROMPT, "--kv", "int8", "--max-new-tokens", "12") == 0
    shown = capsys.readouterr()
    assert shown.out.startswith(STORY[:20])
    assert "compiled stories.gguf" in shown.err


def test_a_tokenizer_of_another_model(
    story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kaoken("compile", story, "-o", tmp_path / "m", "--max-tokens", "24") == 0
    path = tmp_path / "m" / "tokenizer.json"
    data = json.loads(path.read_text())
    data["model"]["vocab"]["far too much"] = 512
    path.write_text(json.dumps(data))
    text = failure(capsys, "generate", tmp_path / "m", "-p", PROMPT)
    assert "has 513 tokens, but the model 512" in text


def test_sampling_stop_strings_and_their_limits(
    story: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["generate", story, "-p", PROMPT, "-n", "40", "--json"]

    def answer(*more: str) -> dict[str, Any]:
        assert kaoken(*args, *more) == 0
        return json.loads(capsys.readouterr().out)

    greedy = answer("--temperature", "0")
    assert greedy["text"].startswith(STORY)
    assert "seed" not in greedy
    drawn = answer("--temperature", "1.5", "--seed", "3")
    assert (drawn["seed"], drawn["text"] != greedy["text"]) == (3, True)
    assert answer("--temperature", "1.5", "--seed", "3")["text"] == drawn["text"]
    filters = ("--top-k", "20", "--top-p", "0.9", "--min-p", "0.05")
    free = answer(*filters)
    assert answer(*filters, "--seed", str(free["seed"]))["text"] == free["text"]
    assert answer("--top-k", "1")["text"] == greedy["text"]
    assert answer("--stop", "named", "--stop", "girl n")["text"] == ", there was a little "
    assert answer("--repetition-penalty", "1.5")["text"] != greedy["text"]
    text = failure(capsys, *args, "--top-p", "2")
    assert "--top-p is 2.0, but must be from 0 to 1" in text
    text = failure(capsys, *args, "--temperature", "-1")
    assert "--temperature is -1.0, but must be above 0: for the likeliest tokens say --temp" in text
    assert "a stop string is empty" in failure(capsys, *args, "--stop", "")
    assert "seed is -1" in failure(capsys, *args, "--seed", "-1")


def test_prefix_cache_and_guesses(
    story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = tmp_path / "prompt.state"
    args = ["generate", story, "-n", "150", "--json", "-p"]

    def answer(prompt: str, *more: str | Path) -> dict[str, Any]:
        assert kaoken(*args, prompt, *more) == 0
        return json.loads(capsys.readouterr().out)

    plain = answer(PROMPT)
    assert (plain["reused_tokens"], plain["text"][: len(STORY)]) == (0, STORY)
    first = answer(PROMPT, "--prefix-cache", kept)
    second = answer(PROMPT, "--prefix-cache", kept, "--speculate", "7")
    assert first["text"] == second["text"] == plain["text"]
    assert (first["reused_tokens"], second["reused_tokens"]) == (0, 4)
    assert second["guessed"] >= second["accepted"] > 0
    longer = answer(PROMPT + ", a cat", "--prefix-cache", kept)
    assert longer["reused_tokens"] == 5
    assert longer["text"] == answer(PROMPT + ", a cat")["text"]
    assert kaoken(*args[:-2], "-p", PROMPT, "--prefix-cache", kept, "--speculate", "3") == 0
    assert "4 of the prompt reused" in (shown := capsys.readouterr().err)
    assert "guesses right" in shown
    kept.write_bytes(b"other")
    text = failure(capsys, *args, PROMPT, "--prefix-cache", kept)
    assert text.endswith("prompt.state is not a saved state: remove it, and it is made anew")
    text = failure(capsys, *args, PROMPT, "--speculate", "8")
    assert "--speculate is 8, but must be from 0 to 7" in text


def test_beams_and_batches(story: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In the sequences of a package made with --batch, and in contexts."""
    folder = tmp_path / "m"
    assert kaoken("compile", story, "-o", folder, "--max-tokens", "64", "--batch", "2") == 0
    capsys.readouterr()
    args = ("-p", PROMPT, "-n", "20", "--num-beams", "2", "--json")
    texts: list[str] = []
    for model in (folder, story):
        assert kaoken("generate", model, *args) == 0
        texts.append(json.loads(capsys.readouterr().out)["text"])
    assert texts[0] == texts[1]
    assert texts[0].startswith(",")
    assert "compile with --batch 3" in failure(
        capsys, "generate", folder, "-p", PROMPT, "--num-beams", "3"
    )
    text = failure(capsys, "generate", folder, *args, "--speculate", "2")
    assert text.endswith("--num-beams does not go with --speculate: leave out one of them")
    stop = texts[0][5:9]
    assert kaoken("generate", folder, *args, "--stop", stop) == 0
    assert json.loads(capsys.readouterr().out)["text"] == texts[0].partition(stop)[0]
    drawn: list[str] = []
    for seed in ("2", "2", "3"):
        assert kaoken("generate", folder, *args, "--seed", seed, "--temperature", "2") == 0
        drawn.append(json.loads(capsys.readouterr().out)["text"])
    assert drawn[0] == drawn[1] != drawn[2]
    text = failure(capsys, "generate", folder, "-p", PROMPT, "--max-tokens", "32")
    assert text.endswith("is compiled already: give --max-tokens to `kaoken compile`")
    text = failure(capsys, "generate", folder, "-p", PROMPT, "--system", "Be kind.")
    assert text.endswith("--system is for chats: give --chat as well, or leave it out")
    text = failure(capsys, "compile", story, "-o", tmp_path / "n", "--batch", "9")
    assert "batch is 9, but must be from 1 to 8" in text


def test_ctrl_c_leaves_the_context_usable(
    story: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kaoken.compiled_decoder import CompiledDecoder
    from kaoken.generation.options import GenerationOptions
    from kaoken.options import CompileOptions
    from kaoken.tools.generate_command import Timing, decoder_tokenizer, generate_text, open_decoder

    decoder = open_decoder(story, CompileOptions(), 1024)
    tokenizer = decoder_tokenizer(decoder.folder, decoder.vocabulary)
    ids = tokenizer.encode(PROMPT).ids
    whole = decoder.generate(ids, 12)
    step = CompiledDecoder.step

    def interrupted(self: CompiledDecoder, token: int) -> Any:
        if len(self) == 8:
            raise KeyboardInterrupt
        return step(self, token)

    monkeypatch.setattr(CompiledDecoder, "step", interrupted)
    options = GenerationOptions(max_new_tokens=12)
    pieces = list(generate_text(decoder, tokenizer, ids, options, Timing(len(ids))))
    monkeypatch.undo()
    assert 0 < len("".join(pieces)) < 40
    assert len(decoder) == 8
    assert (decoder.generate(ids, 12) == whole).all()


def test_ctrl_c_ends_a_long_prompt(story: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between pieces; the context then holds what it held before."""
    from kaoken import compiled_decoder
    from kaoken.options import CompileOptions
    from kaoken.tools.generate_command import open_decoder

    decoder = open_decoder(story, CompileOptions(), 1024)
    before = decoder.begin([5, 6, 7]).copy()
    wanted = decoder.prefill(list(range(40))).copy()
    monkeypatch.setattr(compiled_decoder, "PIECE", 16)
    decoder.rewind(3)
    call, pieces = decoder._call["prefill"], []

    def interrupted(handle: Any, address: int, size: int) -> int:
        pieces.append(size)
        if len(pieces) == 2:
            raise KeyboardInterrupt
        return call(handle, address, size)

    monkeypatch.setitem(decoder._call, "prefill", interrupted)
    with pytest.raises(KeyboardInterrupt):
        decoder.prefill(list(range(40)))
    assert decoder.tokens.tolist() == [5, 6, 7]
    np.testing.assert_array_equal(decoder.prefill(list(range(40))), wanted)
    assert pieces == [16, 16, 16, 16, 8]
    np.testing.assert_array_equal(decoder.begin([5, 6, 7]), before)


def test_settings_that_are_not_json(tmp_path: Path) -> None:
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(KaokenError, match=r"tokenizer_config\.json is not JSON"):
        chat_text(tmp_path, [{"role": "user", "content": "hello"}])
