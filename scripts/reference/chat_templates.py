"""What Transformers renders of the templates in test/fixtures/chat-templates/families, for test/unit/chat-families.test.ts.

    python scripts/reference/chat_templates.py

writes families-rendered.json beside families.json. Needs transformers and jinja2; no model is loaded.

    python scripts/reference/chat_templates.py --against FOLDER

compares the fixtures with templates of the same names (NAME.jinja) in a folder, such as those from the models' pages.
"""

import argparse
import json
from datetime import datetime
from pathlib import Path

import jinja2
from transformers.utils import chat_template_utils

FOLDER = Path(__file__).resolve().parents[2] / "test/fixtures/chat-templates"
FAMILIES = json.loads((FOLDER / "families.json").read_text())


class Today(datetime):
    @classmethod
    def now(cls, tz=None):
        return cls.fromisoformat(FAMILIES["date"])


def render(source, tokens, messages, add_generation_prompt):
    """The rendering, or what the template refuses with."""
    chat_template_utils.datetime = Today
    compiled = chat_template_utils._compile_jinja_template(source)
    try:
        return {"text": compiled.render(messages=messages, tools=None, documents=None,
                                        add_generation_prompt=add_generation_prompt, **tokens)}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}


def renderings(source, family):
    rows = []
    for name in [*family["trained"], *family.get("refused", {})]:
        for add_generation_prompt in (False, True):
            messages = FAMILIES["conversations"][name]
            rows.append({"conversation": name, "addGenerationPrompt": add_generation_prompt,
                         **render(source, family["tokens"], messages, add_generation_prompt)})
    return rows


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--against")
    against = parser.parse_args().against
    made = {name: renderings((FOLDER / f"families/{name}.jinja").read_text(), family)
            for name, family in FAMILIES["families"].items()}
    if against is None:
        (FOLDER / "families-rendered.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
        return
    for name, family in FAMILIES["families"].items():
        path = Path(against) / f"{name}.jinja"
        if not path.exists():
            continue
        differ = [(a, b) for a, b in zip(made[name], renderings(path.read_text(), family)) if a != b]
        print(f"{name}: {len(made[name]) - len(differ)} of {len(made[name])} renderings are equal")
        for a, b in differ:
            print(f"  {a}\n  {b}")


main()
