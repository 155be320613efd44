"""Chat template goldens: messages rendered as transformers renders them, and tokenizer goldens."""
from pathlib import Path

from transformers.utils.chat_template_utils import render_jinja_template

import tokenizer

QWEN3 = (Path(__file__).parent / "qwen3_chat_template.jinja").read_text()
TEMPLATES = {"qwen3": QWEN3, "chatml": tokenizer.CHATML}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather <now> & later: \"quoted\", it's naïve 你好",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "default": 1, "minimum": 0.5}},
            "required": ["city"],
        },
    },
}
CLOCK = {"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}, "strict": True}}

SYSTEM = {"role": "system", "content": "You are terse."}
HELLO = {"role": "user", "content": "Hello <there> & \"you\"\n"}
TURNS = [SYSTEM, HELLO, {"role": "assistant", "content": "Hi."}, {"role": "user", "content": "你好? 🙂"}]
REASONED = [
    HELLO,
    {"role": "assistant", "content": "<think>\nold thoughts\n</think>\n\nHi."},
    {"role": "user", "content": "And?"},
    {"role": "assistant", "reasoning_content": "\nnew thoughts\n", "content": "\nDone."},
]
CALLS = [
    {"function": {"name": "get_weather", "arguments": {"city": "Zürich", "days": 2, "x": [1.5, None, True, "a/b"]}}},
    {"name": "clock", "arguments": "{\"raw\": 1}"},
]
TOOL_TURNS = [
    SYSTEM,
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "reasoning_content": "look it up", "tool_calls": CALLS},
    {"role": "tool", "content": "{\"t\": 3}"},
    {"role": "tool", "content": "12:00"},
    {"role": "assistant", "content": "3 degrees."},
    {"role": "user", "content": "Thanks"},
]
PENDING = TOOL_TURNS[:5]

CASES = [  # template, name, messages, tools, add_generation_prompt, further variables
    ("qwen3", "one user message", [HELLO], None, True, {}),
    ("qwen3", "no generation prompt", [HELLO], None, False, {}),
    ("qwen3", "thinking off", [SYSTEM, HELLO], None, True, {"enable_thinking": False}),
    ("qwen3", "thinking on", [SYSTEM, HELLO], None, True, {"enable_thinking": True}),
    ("qwen3", "several turns", TURNS, None, True, {}),
    ("qwen3", "reasoning of earlier turns is dropped", REASONED, None, False, {}),
    ("qwen3", "second system message", [SYSTEM, HELLO, {"role": "system", "content": "Now verbose."}], None, True, {}),
    ("qwen3", "tools without system", [HELLO], [WEATHER, CLOCK], True, {}),
    ("qwen3", "tool calls and results", TOOL_TURNS, [WEATHER, CLOCK], True, {}),
    ("qwen3", "tool results pending", PENDING, [WEATHER], True, {}),
    ("qwen3", "assistant last", TOOL_TURNS[:6], [CLOCK], False, {}),
    ("chatml", "several turns", TURNS, None, True, {}),
    ("chatml", "no generation prompt", TURNS[:3], None, False, {}),
]


def render(template, messages, tools, add_generation_prompt, variables):
    rendered, _ = render_jinja_template(
        [messages], tools=tools, chat_template=TEMPLATES[template], add_generation_prompt=add_generation_prompt, **variables
    )
    return rendered[0]


def goldens():
    return {
        "notes": "Rendered by transformers' render_jinja_template: ImmutableSandboxedEnvironment(trim_blocks, lstrip_blocks, loopcontrols); "
        "tojson is json.dumps(ensure_ascii=False), keys in the order given, separators ', ' and ': '.",
        "templates": TEMPLATES,
        "cases": [
            {
                "template": template,
                "name": name,
                "messages": messages,
                "tools": tools,
                "add_generation_prompt": prompt,
                "variables": variables,
                "rendered": render(template, messages, tools, prompt, variables),
            }
            for template, name, messages, tools, prompt, variables in CASES
        ],
    }
