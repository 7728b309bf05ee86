"""Chat templates: messages as the text that a model was trained to answer.

A folder's template is `chat_template.jinja`, or `chat_template` in tokenizer_config.json. It is
rendered as transformers' apply_chat_template does it, with jinja2 in its sandbox.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kaoken.errors import KaokenError
from kaoken.json_files import read_json


def chat_text(folder: Path, messages: Sequence[Mapping[str, str]]) -> str:
    """Messages in the words of the model's chat template, up to where the answer begins."""
    path = folder / "tokenizer_config.json"
    config = read_json(path) or {}
    template = _template(folder, config)
    if template is None:
        raise KaokenError(f"{folder} has no chat template: leave out --chat")
    environment = _environment()
    from jinja2.exceptions import TemplateError

    special = _special_tokens((read_json(folder / "special_tokens_map.json") or {}) | config)
    try:
        rendered = environment.from_string(template)
        return rendered.render(messages=messages, add_generation_prompt=True, **special)
    except TemplateError as error:
        raise KaokenError(f"{path}: the chat template fails: {error}") from None


def _template(folder: Path, config: Mapping[str, Any]) -> str | None:
    """The template, the one called `default` where there are several."""
    apart = folder / "chat_template.jinja"
    found = apart.read_text(encoding="utf-8") if apart.exists() else config.get("chat_template")
    if isinstance(found, list):
        found = {one.get("name"): one.get("template") for one in found}.get("default")
    return found if isinstance(found, str) else None


def _special_tokens(config: Mapping[str, Any]) -> dict[str, Any]:
    """`bos_token` and its kind, which are strings or objects with the string as `content`."""
    return {
        key: value["content"] if isinstance(value, dict) else value
        for key, value in config.items()
        if key.endswith("_token")
    }


def _environment() -> Any:
    try:
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise KaokenError("chat templates need jinja2: `pip install jinja2`") from None
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.loopcontrols", _generation_tags()],
    )
    environment.globals |= {"raise_exception": _refuse, "strftime_now": time.strftime}
    environment.filters["tojson"] = _json
    return environment


def _generation_tags() -> Any:
    """{% generation %} marks what the model says, for training; here it changes nothing."""
    from jinja2.ext import Extension

    class Generation(Extension):
        tags = {"generation"}  # noqa: RUF012 - as jinja2 has it

        def parse(self, parser: Any) -> Any:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    return Generation


def _json(value: Any, **options: Any) -> str:
    """As transformers: without the escapes of HTML that jinja2's own filter makes."""
    options.setdefault("ensure_ascii", False)
    return json.dumps(value, **options)


def _refuse(why: str) -> None:
    """What chat templates call where they do not like the messages."""
    raise KaokenError(f"the chat template does not take this: {why}")
