// A language model that reads images: a small LLaVA learns from nothing to answer English questions about drawings, then, by LoRA, to
// describe them in Spanish. The drawings are made here.
import { rmSync, writeFileSync } from "node:fs";
import { answers, finetune, generateText, initModel, openGenerator } from "lowrank";
import { captionOf, type Drawing, drawings, processor, SIDE, words } from "./common/drawings.ts";

const folder = "example-output/image-questions";
rmSync(folder, { recursive: true, force: true });
const [training, testing] = [await drawings(folder, "train", 12), await drawings(folder, "test", 1)];

type Turn = [question: string, answer: string];
const { shapes, colours, places } = words.English;

/** The three questions, in another order for each drawing. */
const inEnglish = ({ of: [shape, colour, place] }: Drawing, i: number): Turn[] => {
  const turns: Turn[] = [
    ["What shape is it?", shapes[shape]!],
    ["What colour is it?", colours[colour]!],
    ["Where is it?", places[place]!],
  ];
  return turns.map((_, at) => turns[(at + i) % 3]!);
};
const inSpanish = ({ of }: Drawing): Turn[] => [["Describe el dibujo.", captionOf("Spanish", of)]];

/** A conversation about each drawing, which the first question shows. */
function conversations(name: string, of: readonly Drawing[], turnsOf: (drawing: Drawing, i: number) => Turn[]): string {
  const file = `${folder}/${name}.jsonl`;
  const lines = of.map((drawing, i) => {
    const messages = turnsOf(drawing, i).flatMap(([question, answer], at) => {
      const text = { type: "text", text: question };
      return [
        { role: "user", content: at === 0 ? [{ type: "image" }, text] : [text] },
        { role: "assistant", content: [{ type: "text", text: answer }] },
      ];
    });
    return `${JSON.stringify({ messages, images: [drawing.file] })}\n`;
  });
  writeFileSync(file, lines.join(""));
  return file;
}

// Every word is a token, and the template writes one for an image: the model puts the image's features there.
const untrained = `${folder}/untrained`;
const special = ["<pad>", "<unk>", "<image>", "<|im_start|>", "<|im_end|>"];
const [PAD, , IMAGE, , END] = special.keys();
const said = testing.flatMap((drawing, i) => [...inEnglish(drawing, i), ...inSpanish(drawing)].flat());
const vocabulary = [...special, "user", "assistant", ...new Set(said.join(" ").match(/\w+|[^\s\w]/g))];
const tokenizer = {
  version: "1.0",
  added_tokens: special.map((content, id) => ({ id, content, special: true, normalized: false })),
  pre_tokenizer: { type: "BertPreTokenizer" },
  decoder: { type: "WordPiece", prefix: "##", cleanup: true },
  model: {
    type: "WordLevel",
    unk_token: "<unk>",
    vocab: Object.fromEntries(vocabulary.map((token, id) => [token, id])),
  },
};
const template = `{% for message in messages %}<|im_start|>{{ message.role }}
{% for part in message.content %}{{ '<image>' if part.type == 'image' else part.text }}{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}`;
await initModel(
  {
    model_type: "llava",
    architectures: ["LlavaForConditionalGeneration"],
    image_token_index: IMAGE,
    vision_feature_layer: -1,
    initializer_range: 0.1,
    text_config: {
      model_type: "llama",
      vocab_size: vocabulary.length,
      hidden_size: 64,
      intermediate_size: 160,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      max_position_embeddings: 256,
      bos_token_id: null,
      eos_token_id: END,
      pad_token_id: PAD,
    },
    vision_config: {
      model_type: "clip_vision_model",
      hidden_size: 48,
      intermediate_size: 96,
      num_hidden_layers: 2,
      num_attention_heads: 4,
      image_size: SIDE,
      patch_size: 4,
    },
  },
  untrained,
);
const sideFiles = {
  "tokenizer.json": tokenizer,
  "tokenizer_config.json": { pad_token: "<pad>", unk_token: "<unk>", eos_token: "<|im_end|>", chat_template: template },
  "preprocessor_config.json": processor,
};
for (const [name, content] of Object.entries(sideFiles)) writeFileSync(`${untrained}/${name}`, JSON.stringify(content));

/** Trains, and says now and then how far it is. */
async function train(options: Parameters<typeof finetune>[0]): Promise<void> {
  for await (const event of finetune(options)) {
    if (event.type === "step" && event.step % 50 === 0) console.log(`  step ${event.step}: loss ${event.loss.toFixed(3)}`);
  }
}
const common = { batchSize: 32, seed: 1, schedule: "cosine", warmup: 0.1 } as const;
const [base, adapter] = [`${folder}/base`, `${folder}/adapter`];

console.log("Every weight, on questions in English:");
await train({
  ...common,
  base: untrained,
  data: conversations("english-train", training, inEnglish),
  output: base,
  method: "full",
  steps: 200,
  learningRate: 3e-3,
});

console.log("LoRA, on descriptions in Spanish:");
await train({
  ...common,
  base,
  data: conversations("spanish-train", training, inSpanish),
  output: adapter,
  rank: 16,
  steps: 180,
  learningRate: 5e-3,
});

/** The share of the drawings whose answer is the right one to the letter. */
async function exact(options: Parameters<typeof answers>[0]): Promise<{ base: number; adapter: number }> {
  let shares = { base: 0, adapter: 0 };
  for await (const event of answers({ ...options, batchSize: 32 })) {
    if (event.type === "matches") shares = { base: event.base / event.count, adapter: (event.adapter ?? 0) / event.count };
  }
  return shares;
}
const english = conversations("english-test", testing, (drawing, i) => inEnglish(drawing, i).slice(0, 1));
const spanish = conversations("spanish-test", testing, inSpanish);
const first = await exact({ base: untrained, data: english });
const trained = await exact({ base, data: english });
const adapted = await exact({ base, adapter, data: spanish });
const rows = [
  ["English questions, trained in full", first.base, trained.base],
  ["Spanish descriptions, by the adapter", adapted.base, adapted.adapter],
] as const;

const [drawing] = testing;
const generator = await openGenerator(base, { adapter });
const question = { type: "text", text: "Describe el dibujo." } as const;
const answer = await generateText(generator, [
  { role: "user", content: [{ type: "image", image: `${folder}/${drawing!.file}` }, question] },
]);
await generator.close();
console.log(`\n${drawing!.file}: ${answer}`);

console.log(`\nexact answers on ${testing.length} other drawings   before    after`);
for (const [what, before, after] of rows) {
  console.log(`${what.padEnd(37)} ${(100 * before).toFixed(1).padStart(5)}% ${(100 * after).toFixed(1).padStart(7)}%`);
  if (!(after > before + 0.5)) throw new Error(`not learnt: ${what}`);
}
