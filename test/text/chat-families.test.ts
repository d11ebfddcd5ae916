// text/turns.ts on the chat templates of model families: rendered as Transformers does, and exactly the assistant's turns are trained.
// slow
import assert from "node:assert/strict";
import { test } from "node:test";
import type { LowrankError } from "../../src/errors.ts";
import { encodeSpans, renderWithMask } from "../../src/text/mask.ts";
import { renderChat } from "../../src/text/template.ts";
import { conversations, type Family, families, now, rendered, templateOf } from "../helpers/chat-families.ts";
import { smollm2TokenizerWith } from "../helpers/smollm2.ts";

test("there are templates of at least ten families, each with several conversations", () => {
  assert.ok(families.length >= 10);
  for (const { name, trained } of families) assert.ok(Object.keys(trained).length >= 3, name);
});

/** A tokenizer in which the tokens of every family are tokens of their own. */
const written = Object.values(rendered).flatMap((rows) =>
  rows.flatMap(({ text = "" }) => text.match(/<[^<>\s]+>|\[\/?INST\]/g) ?? []),
);
const tokenizer = smollm2TokenizerWith([...new Set(written)]);

/** Where no token ends a turn, the tokenizer may join its last space and the line break after it into one; that token is trained. */
const withStraddling = ({ name }: Family, turn: string) => (name === "alpaca" ? turn.replace(/ $/, " \n") : turn);

for (const family of families) {
  const template = templateOf(family);

  test(`${family.name}: renders as Transformers does`, () => {
    for (const { conversation, addGenerationPrompt, text, error } of rendered[family.name]!) {
      const render = () => renderChat(template, conversations[conversation]!, { addGenerationPrompt, now });
      if (error === undefined) assert.equal(render(), text, conversation);
      else assert.throws(render, (thrown: LowrankError) => thrown.code === "template/refused" && thrown.message.includes(error));
    }
  });

  for (const [conversation, expected] of Object.entries(family.trained)) {
    test(`${family.name}, ${conversation}: trained are the assistant's turns with their end-of-turn token`, async () => {
      const messages = conversations[conversation]!;
      const turns = (which: "every" | "last") => {
        const { text, spans } = renderWithMask(template, messages, { now, turns: which });
        return spans.map(([start, end]) => text.slice(start, end));
      };
      assert.deepEqual(turns("every"), expected);
      assert.deepEqual(turns("last"), expected.slice(-1));
      // In tokens as well, those of the family being tokens of their own.
      const { text, spans } = renderWithMask(template, messages, { now });
      const { encode, decode } = await tokenizer;
      const { ids, inside } = encodeSpans(await tokenizer, text, spans);
      assert.deepEqual(ids, encode(text, { addSpecialTokens: false }));
      assert.equal(decode(ids.filter((_, i) => inside[i])), expected.map((turn) => withStraddling(family, turn)).join(""));
    });
  }

  for (const [conversation, message] of Object.entries(family.refused ?? {})) {
    test(`${family.name}, ${conversation}: what the template refuses is reported in its words`, () => {
      assert.throws(
        () => renderWithMask(template, conversations[conversation]!, { now }),
        (error: LowrankError) => {
          assert.equal(error.code, "template/refused");
          assert.ok(error.message.endsWith(message), error.message);
          assert.equal(error.subject, template.file);
          assert.match(error.next!, /roles or contents/);
          return true;
        },
      );
    });
  }
}
