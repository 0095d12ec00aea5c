"""The chat templates that a mergekit file can name, as the prompts that mergekit 0.1.5 makes with them.

The formats are those of Alpaca, ChatML, EXAONE 3 and Llama 3; where mergekit adds line ends or spaces, so do these.
"""

from collections.abc import Mapping

SHORTEST_TEMPLATE = 20
"""A shorter text is not a template for mergekit."""

_ALPACA_PARTS = (("user", "Instruction"), ("user_context", "Input"), ("assistant", "Response"))
_ALPACA_TURNS = "".join(
    f"{{% {'if' if role == 'user' else 'elif'} turn.role == '{role}' %}}### {title}:\n{{{{ turn.content | trim }}}}"
    "{% if not loop.last %}{{ '\\n\\n' }}{% endif %}"
    for role, title in _ALPACA_PARTS
)

MERGEKIT_TEMPLATES: Mapping[str, str] = {
    "alpaca": (
        "{% set system = messages | selectattr('role', 'equalto', 'system') | list %}"
        "{% if system %}{{ system[-1].content | trim }}{% endif %}{{ '\\n\\n' }}"
        f"{{% for turn in messages %}}{_ALPACA_TURNS}{{% endif %}}{{% endfor %}}"
        "{% if add_generation_prompt and messages[-1].role != 'assistant' %}{{ '### Response:\\n' }}{% endif %}"
    ),
    "chatml": (
        "{% for turn in messages %}<|im_start|>{{ turn.role }}{{ '\\n' }}{{ turn.content }}<|im_end|>{{ '\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\\n' }}{% endif %}"
    ),
    "exaone": (
        "{% for turn in messages %}"
        "{% if loop.first and turn.role != 'system' %}{{ '        [|system|][|endofturn|]\\n\\n' }}{% endif %}"
        "{{ '    ' }}[|{{ turn.role }}|]{{ turn.content }}{{ '\\n        ' }}"
        "{% if turn.role != 'user' %}[|endofturn|]{% endif %}{{ '\\n\\n' }}"
        "{% endfor %}{% if add_generation_prompt %}{{ '    [|assistant|]\\n' }}{% endif %}"
    ),
    "llama3": (
        "{% for turn in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "<|start_header_id|>{{ turn.role }}<|end_header_id|>{{ '\\n\\n' }}{{ turn.content | trim }}<|eot_id|>"
        "{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{{ '\\n\\n' }}{% endif %}"
    ),
}
